//! Under which key an image is stored: what decides its bytes, and nothing else.

use crate::convert::Opened;
use crate::digest::Digest;
use crate::image_info::Settings;
use crate::options::Options;
use crate::profile::ProfileFile;
use std::fmt::Write;

/// Counts the changes of this program after which the same image and settings give other bytes that are worth a new
/// conversion.
const FORMAT: u32 = 1;

/// Of an image that says what it is; `None` of a plain file tree.
pub fn of_image(opened: &Opened<'_>, options: &Options) -> Option<String> {
    if let Some(content) = opened.content_digest() {
        return Some(of_content(&content));
    }
    let what = match (opened.manifest_digest(), opened.config_digest()) {
        (Some(manifest), _) => format!("manifest {manifest}"),
        // As in old archives of `docker save`. The config pins the layers' content.
        (None, Some(config)) => format!("config {config}"),
        (None, None) => return None,
    };
    let architecture = opened.architecture().unwrap_or_default();
    Some(hash(&format!("{what}\narchitecture {architecture}\n{}", settings(options))))
}

/// Of a finished image file.
pub fn of_content(digest: &Digest) -> String {
    hash(&format!("content {digest}\n"))
}

/// Of what somebody is about to make of a source that does not say what it is, but has this stamp. Only claims have it.
pub fn of_attempt(reference: &str, stamp: &str, options: &Options) -> String {
    hash(&format!("attempt {reference}\nstamp {stamp}\n{}", settings(options)))
}

fn settings(options: &Options) -> String {
    let Settings { compression, level, block_size } = Settings::of(options);
    let level = level.map(|level| format!(":{level}")).unwrap_or_default();
    let mut text = format!("compression {compression}{level}\nblock-size {block_size}\n");
    if let Some(profile) = options.profile.as_ref().map(ProfileFile::bytes).map(Digest::of) {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "profile {profile}");
    }
    text
}

fn hash(what: &str) -> String {
    Digest::of(format!("coracle image, format {FORMAT}\n{what}").as_bytes()).hex()
}

/// Whether a file may be named by this.
pub fn is_key(text: &str) -> bool {
    Digest::from_hex(text).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use coracle_squashfs::compress::Compression;

    #[test]
    fn keys_depend_on_settings_and_stay_what_they_are() {
        let options = Options::default();
        let key = of_attempt("x", "1", &options);
        assert!(is_key(&key) && !is_key("x") && !is_key(&key.to_uppercase()));
        assert_ne!(key, of_attempt("y", "1", &options));
        assert_ne!(key, of_attempt("x", "2", &options));
        assert_ne!(key, of_attempt("x", "1", &Options { block_size: 4096, ..options.clone() }));
        assert_ne!(
            key,
            of_attempt("x", "1", &Options { compression: Compression::Gzip { level: 9 }, ..options.clone() })
        );
        let profile = ProfileFile::new(br#"{"version":1,"touched":[]}"#.to_vec()).unwrap();
        assert_ne!(key, of_attempt("x", "1", &Options { profile: Some(profile), ..options.clone() }));
        assert_eq!(key, of_attempt("x", "1", &Options { threads: std::num::NonZeroUsize::MIN, ..options }));
        // An image that was stored by an earlier version is found again.
        let known = "2cd59bfd0ac0e0765783d6940ec729d837f3e9509c13b713c1edea51adcdb19b";
        assert_eq!(of_content(&Digest::of(b"image")), known);
    }
}
