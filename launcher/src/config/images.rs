//! `[images]`: which images a site lets its users run and pull, and whether they may be written to.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Component, Path, PathBuf};

use coracle_converter::Source;
use coracle_converter::registry::{self, Reference};
use serde::{Deserialize, Deserializer, de};

use crate::options::{Layer, Options};

/// The variable that replaces the host's certificates.
const CERTIFICATES: &str = "SSL_CERT_FILE";

/// As in one file, and in force.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Images {
    /// Images that are run lie here.
    #[serde(deserialize_with = "absolute")]
    allowed_paths: Option<Vec<PathBuf>>,
    /// Images come from here: hosts, or beginnings of names in them.
    #[serde(deserialize_with = "scopes")]
    allowed_registries: Option<Vec<String>>,
    /// Nothing is written over them.
    read_only: Option<bool>,
}

/// Why a site refuses something.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Refused {
    /// An image that lies elsewhere.
    #[error(
        "cannot run image {}: it lies at {}, and this site's [images] allowed-paths lets run only what lies in {allowed}",
        image.display(), real.display()
    )]
    Path {
        /// As given.
        image: PathBuf,
        /// The file that was opened.
        real: PathBuf,
        /// Those that may.
        allowed: String,
    },
    /// It cannot be told where it lies.
    #[error("cannot open image {}: {cause}", image.display())]
    Open {
        /// As given.
        image: PathBuf,
        /// The system's reason.
        cause: io::Error,
    },
    /// An image that comes from elsewhere.
    #[error("cannot fetch {name}: this site's [images] allowed-registries lets fetch only from {allowed}")]
    Registry {
        /// Host and name.
        name: String,
        /// Those that may.
        allowed: String,
    },
    /// Certificates of the user's.
    #[error(
        "cannot fetch with {CERTIFICATES} set: it decides which servers are believed, which this site's [images] allowed-registries leaves to the site; unset it (a site names certificates in ca-files of [registry.hosts])"
    )]
    Certificates,
    /// Something writable.
    #[error(
        "cannot have {what}: this site's [images] read-only = true forbids --writable, --writable-tmpfs and a writable --overlay"
    )]
    Write {
        /// What was asked for.
        what: &'static str,
    },
}

/// Whether the system's administrator decides what this path leads to.
fn is_of_system(path: &OsStr) -> bool {
    let path = Path::new(path);
    path.starts_with("/etc") && !path.components().any(|part| part == Component::ParentDir)
}

fn absolute<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Vec<PathBuf>>, D::Error> {
    let paths = Vec::<PathBuf>::deserialize(from)?;
    match paths.iter().find(|path| !path.is_absolute()) {
        Some(path) => Err(de::Error::custom(format!("{} is relative: write an absolute path", path.display()))),
        None => Ok(Some(paths)),
    }
}

fn scopes<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Vec<String>>, D::Error> {
    let scope = |text: &String| {
        let problem = || de::Error::custom(format!("{text:?} is no registry: write HOST or HOST/NAME"));
        registry::scope(text).ok_or_else(problem)
    };
    Vec::<String>::deserialize(from)?.iter().map(scope).collect::<Result<_, _>>().map(Some)
}

impl Images {
    /// Takes in a file that counts more.
    pub(super) fn merge(&mut self, later: Self) {
        self.allowed_paths = later.allowed_paths.or(self.allowed_paths.take());
        self.allowed_registries = later.allowed_registries.or(self.allowed_registries.take());
        self.read_only = later.read_only.or(self.read_only);
    }

    pub(super) fn is_set(&self) -> bool {
        *self != Self::default()
    }

    pub(super) fn chooses_registries(&self) -> bool {
        self.allowed_registries.is_some()
    }

    /// Whether nothing may be written over an image.
    #[must_use]
    pub fn read_only(&self) -> bool {
        self.read_only.unwrap_or_default()
    }

    /// Where the image at `path` lies, links followed, if it may be run; `path` itself where all may.
    ///
    /// # Errors
    /// When it may not, or cannot be opened.
    pub fn resolve(&self, path: PathBuf) -> Result<PathBuf, Refused> {
        if self.allowed_paths.is_none() {
            return Ok(path);
        }
        match File::open(&path) {
            Ok(file) => self.check(&file, &path),
            Err(cause) => Err(Refused::Open { image: path, cause }),
        }
    }

    /// The same for a file that is open: that is the one that is going to be used, wherever its name leads by now.
    ///
    /// # Errors
    /// As for [`Self::resolve`].
    pub fn check(&self, file: impl AsFd, path: &Path) -> Result<PathBuf, Refused> {
        let Some(allowed) = &self.allowed_paths else { return Ok(path.to_path_buf()) };
        let failed = |cause| Refused::Open { image: path.to_path_buf(), cause };
        let real = fs::read_link(format!("/proc/self/fd/{}", file.as_fd().as_raw_fd())).map_err(failed)?;
        // One that is missing on this node holds nothing.
        let holds = |dir: &PathBuf| dir.canonicalize().is_ok_and(|dir| real.starts_with(dir));
        if allowed.iter().any(holds) {
            return Ok(real);
        }
        let allowed: Vec<_> = allowed.iter().map(|dir| dir.display().to_string()).collect();
        let allowed = if allowed.is_empty() { "no directory at all".to_owned() } else { allowed.join(", ") };
        Err(Refused::Path { image: path.to_path_buf(), real, allowed })
    }

    /// Whether something may be fetched.
    ///
    /// # Errors
    /// When it may not.
    pub fn check_source(&self, source: &Source) -> Result<(), Refused> {
        match source {
            Source::Registry { reference } | Source::Artifact { reference } => {
                self.check_reference(reference)?;
                self.check_certificates(std::env::var_os(CERTIFICATES).as_deref())
            }
            _ => Ok(()),
        }
    }

    /// With certificates and a proxy of the user's own, any server could pass for an allowed one.
    fn check_certificates(&self, variable: Option<&OsStr>) -> Result<(), Refused> {
        match variable {
            Some(value) if self.chooses_registries() && !value.is_empty() && !is_of_system(value) => {
                Err(Refused::Certificates)
            }
            _ => Ok(()),
        }
    }

    fn check_reference(&self, reference: &Reference) -> Result<(), Refused> {
        let Some(allowed) = &self.allowed_registries else { return Ok(()) };
        let name = reference.name();
        // Names end at `/`: `host/a` does not hold `host/ab`.
        let holds = |scope: &String| {
            scope == "*"
                || name.strip_prefix(scope.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        if allowed.iter().any(holds) {
            return Ok(());
        }
        let allowed = if allowed.is_empty() { "nowhere".to_owned() } else { allowed.join(", ") };
        Err(Refused::Registry { name, allowed })
    }

    /// Whether what the options say may be written to may be.
    ///
    /// # Errors
    /// When it may not.
    pub fn check_options(&self, options: &Options) -> Result<(), Refused> {
        if !self.read_only() {
            return Ok(());
        }
        let layer = |layer: &Layer| match layer {
            Layer::Memory { .. } => Some("a writable layer in memory"),
            Layer::At { read_only: false, .. } => Some("a writable overlay"),
            Layer::At { read_only: true, .. } => None,
        };
        let image = options.writable.then_some("a writable image");
        match image.or_else(|| options.layers.iter().find_map(layer)) {
            Some(what) => Err(Refused::Write { what }),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn images_count_by_where_they_lie() {
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path().canonicalize().unwrap();
        let at = |name: &str| base.join(name);
        for name in ["shared/images/sub", "shared/images2", "home"] {
            fs::create_dir_all(at(name)).unwrap();
        }
        for name in ["shared/images/a", "shared/images/sub/b", "shared/images2/c", "home/d"] {
            fs::write(at(name), "").unwrap();
        }
        symlink(at("home/d"), at("shared/images/out")).unwrap();
        symlink(at("shared/images/a"), at("home/in")).unwrap();
        symlink(at("shared"), at("link")).unwrap();
        let images = Images { allowed_paths: Some(vec![at("link/images"), at("absent")]), ..Images::default() };
        let lies =
            |name: &str| images.resolve(at(name)).map(|real| real.strip_prefix(&base).unwrap().display().to_string());
        assert_eq!(lies("shared/images/a").unwrap(), "shared/images/a");
        assert_eq!(lies("home/in").unwrap(), "shared/images/a");
        assert_eq!(lies("link/images/sub/../a").unwrap(), "shared/images/a");
        assert_eq!(lies("shared/images/sub/b").unwrap(), "shared/images/sub/b");
        for bad in ["shared/images2/c", "home/d", "shared/images/out", "shared/images/../../home/d"] {
            assert!(matches!(lies(bad), Err(Refused::Path { .. })), "{bad}");
        }
        assert!(matches!(lies("shared/images/absent"), Err(Refused::Open { .. })));
        // Opened before its name came to lead elsewhere.
        let file = File::open(at("home/d")).unwrap();
        assert!(images.check(&file, &at("shared/images/a")).is_err());
        assert_eq!(Images::default().resolve("/absent".into()).unwrap(), Path::new("/absent"));
    }

    #[test]
    fn registries_count_by_parts_of_names() {
        let images: Images = toml::from_str(
            "allowed-registries = [\"docker.io/library\", \"registry.example:5000\", \"r.example/team\"]",
        )
        .unwrap();
        let may = |text: &str| match text.parse().unwrap() {
            Source::Registry { reference } => images.check_reference(&reference),
            other => images.check_source(&other),
        };
        let may = |text: &str| may(text).map_err(|error| error.to_string());
        for good in [
            "debian",
            "index.docker.io/library/debian:12",
            "registry.example:5000/a/b",
            "r.example/team/x",
            "r.example#team",
        ] {
            assert_eq!(may(&format!("docker://{good}")), Ok(()), "{good}");
        }
        for bad in
            ["someone/debian", "registry.example/a", "r.example/team2/x", "r.example/tea", "registry.example:50001/a"]
        {
            let text = may(&format!("docker://{bad}")).unwrap_err();
            assert!(text.contains("allowed-registries") && text.contains("docker.io/library"), "{text}");
        }
        assert_eq!(may("oci:/some/where"), Ok(()));
        let says = |value: &str| images.check_certificates(Some(value.as_ref())).unwrap_err().to_string();
        let text = says("/etc/../c.pem");
        assert_eq!(text, says("/c.pem"));
        assert!(text.contains("SSL_CERT_FILE") && text.contains("allowed-registries"), "{text}");
        for (images, value) in [
            (&images, None),
            (&images, Some("/etc/ssl/cert.pem")),
            (&images, Some("")),
            (&Images::default(), Some("/c.pem")),
        ] {
            assert!(images.check_certificates(value.map(OsStr::new)).is_ok());
        }
        assert!(toml::from_str::<Images>("allowed-registries = [\"https://x\"]").is_err());
        assert!(toml::from_str::<Images>("allowed-paths = [\"images\"]").is_err());
    }

    #[test]
    fn nothing_writable_where_all_is_only_read() {
        let images = Images { read_only: Some(true), ..Images::default() };
        let over = |layer| Options { layers: vec![layer], ..Options::default() };
        let at = |read_only| over(Layer::At { path: "l".into(), read_only });
        assert!(images.check_options(&Options::default()).is_ok() && images.check_options(&at(true)).is_ok());
        for options in [at(false), over(Layer::Memory { size: None }), Options { writable: true, ..Options::default() }]
        {
            let text = images.check_options(&options).unwrap_err().to_string();
            assert!(text.contains("[images] read-only = true"), "{text}");
        }
    }
}
