//! Settings of the site and of the user: `/etc/coracle/coracle.toml`, `/etc/coracle/conf.d/*.toml` by name, then
//! `~/.config/coracle/coracle.toml`. Later ones count; the environment and options come after all of them.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Deserializer};

mod registry;

pub use registry::Registry;

/// The site's directory.
const SITE: &str = "/etc/coracle";
/// In the site's directory and in the user's.
const FILE: &str = "coracle.toml";

/// Why the settings cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// It is there and cannot be read.
    #[error("cannot read {}: {cause}{}", path.display(), denied(cause))]
    Read {
        /// The file or directory.
        path: PathBuf,
        /// The system's reason.
        cause: io::Error,
    },
    /// Not TOML, an unknown key, or a value of another kind.
    #[error("cannot use {}: {cause}", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// With the line.
        cause: Box<toml::de::Error>,
    },
}

/// All settings, as far as they are set.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// `[session]`
    pub session: Session,
    /// `[store]`
    pub store: Store,
    /// `[registry]`
    pub registry: Registry,
}

/// Where images are kept.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Store {
    /// The store's directory; `~/` and variables are expanded where it is used.
    pub dir: Option<String>,
    /// Stores of others, in which images are looked for first.
    pub dirs: Option<Vec<String>>,
    /// Bytes that the store may have.
    #[serde(deserialize_with = "size")]
    pub max_size: Option<u64>,
    /// How long a process that converts may give no sign of life before another does it.
    pub lease_seconds: Option<u32>,
}

fn size<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u64>, D::Error> {
    let text = String::deserialize(from)?;
    crate::cli::units::size(&text).map(Some).map_err(serde::de::Error::custom)
}

/// How launches share mounts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Session {
    /// Whether they do.
    pub enabled: Option<bool>,
    /// Seconds that a session waits for another launch.
    idle_seconds: Option<u32>,
}

impl Session {
    /// How long a session waits for another launch.
    #[must_use]
    pub fn idle(&self) -> Option<Duration> {
        self.idle_seconds.map(|seconds| Duration::from_secs(seconds.into()))
    }
}

impl Config {
    /// Reads the settings for a user with this home directory.
    ///
    /// # Errors
    /// When a file is there that cannot be used: what it asks for may not be passed over.
    pub fn read(home: Option<&Path>) -> Result<Self, Error> {
        Self::from(Path::new(SITE), home)
    }

    fn from(site: &Path, home: Option<&Path>) -> Result<Self, Error> {
        let mut config = Self::default();
        let mut files = vec![site.join(FILE)];
        files.extend(drop_ins(&site.join("conf.d"))?);
        let of_site = files.len();
        files.extend(home.map(|home| home.join(".config/coracle").join(FILE)));
        for (number, path) in files.into_iter().enumerate() {
            let text = match fs::read_to_string(&path) {
                Ok(text) => text,
                Err(cause) if is_absent(&cause) => continue,
                Err(cause) => return Err(Error::Read { path, cause }),
            };
            let later: Self = toml::from_str(&text).map_err(|cause| Error::Parse { path, cause: Box::new(cause) })?;
            config.session.enabled = later.session.enabled.or(config.session.enabled);
            config.session.idle_seconds = later.session.idle_seconds.or(config.session.idle_seconds);
            config.store = Store {
                dir: later.store.dir.or(config.store.dir),
                dirs: later.store.dirs.or(config.store.dirs),
                max_size: later.store.max_size.or(config.store.max_size),
                lease_seconds: later.store.lease_seconds.or(config.store.lease_seconds),
            };
            config.registry.merge(later.registry, number >= of_site);
        }
        Ok(config)
    }
}

/// The `*.toml` files of a directory, by name.
fn drop_ins(directory: &Path) -> Result<Vec<PathBuf>, Error> {
    let failed = |cause| Error::Read { path: directory.to_path_buf(), cause };
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(cause) if is_absent(&cause) => return Ok(Vec::new()),
        Err(cause) => return Err(failed(cause)),
    };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.map_err(failed)?.path();
        if path.extension().is_some_and(|extension| extension == "toml") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// A home directory may be a file, or out of reach on this node.
/// What is likely wrong where a file of settings cannot be reached.
fn denied(cause: &io::Error) -> &'static str {
    match cause.kind() {
        io::ErrorKind::PermissionDenied => "; is HOME a directory of yours? After su or sudo it may not be",
        _ => "",
    }
}

fn is_absent(cause: &io::Error) -> bool {
    matches!(cause.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn later_files_count_and_unknown_keys_are_errors() {
        let dir = tempfile::tempdir().unwrap();
        let (site, home) = (dir.path().join("site"), dir.path().join("home"));
        let read = || Config::from(&site, Some(&home));
        assert_eq!(read().unwrap(), Config::default());
        fs::create_dir_all(site.join("conf.d")).unwrap();
        fs::create_dir_all(home.join(".config/coracle")).unwrap();
        fs::write(site.join(FILE), "[session]\nenabled = false\nidle-seconds = 1\n").unwrap();
        fs::write(site.join("conf.d/20.toml"), "[session]\nidle-seconds = 3\n").unwrap();
        fs::write(site.join("conf.d/10.toml"), "[session]\nidle-seconds = 2\n").unwrap();
        fs::write(site.join("conf.d/note.txt"), "no settings").unwrap();
        let config = read().unwrap();
        assert_eq!((config.session.enabled, config.session.idle()), (Some(false), Some(Duration::from_secs(3))));
        fs::write(home.join(".config/coracle").join(FILE), "[session]\nenabled = true\n").unwrap();
        assert_eq!(read().unwrap().session.enabled, Some(true));
        fs::write(site.join("conf.d/25.toml"), "[store]\ndir = \"/s\"\nmax-size = \"50G\"\n").unwrap();
        fs::write(home.join(".config/coracle").join(FILE), "[store]\ndir = \"~/s\"\ndirs = [\"/t\"]\n").unwrap();
        let store = read().unwrap().store;
        assert_eq!((store.dir.as_deref(), store.max_size), (Some("~/s"), Some(50 << 30)));
        assert_eq!(store.dirs, Some(vec!["/t".to_owned()]));
        fs::write(site.join("conf.d/30.toml"), "\n[store]\nmax-size = \"lots\"\n").unwrap();
        let text = read().unwrap_err().to_string();
        assert!(text.contains("line 3") && text.contains("like 50G"), "{text}");
        fs::write(site.join("conf.d/30.toml"), "\n[session]\nidle = 3\n").unwrap();
        let text = read().unwrap_err().to_string();
        assert!(text.contains("30.toml") && text.contains("line 3") && text.contains("idle"), "{text}");
    }
}
