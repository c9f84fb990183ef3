//! Settings of the site and of the user: `/etc/coracle/coracle.toml`, `/etc/coracle/conf.d/*.toml` by name, then
//! `~/.config/coracle/coracle.toml`. Later ones count; the environment and options come after all of them.
//!
//! What the site forces ([`Images`], `force-bind`) stands in the site's files alone.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

mod apply;
mod check;
mod expand;
mod file;
mod images;
mod layering;
mod profile;
mod registry;
mod show;
mod trust;
mod variables;

pub use apply::{Asked, Error as ApplyError, Settled, apply};
pub use check::problems;
pub use expand::{Unexpandable, expand};
pub use file::{Session, Store};
pub use images::{Images, Refused};
pub use profile::{Error as ProfileError, NONE};
pub use registry::Registry;
pub use show::{ACCUMULATING, Entry, KEYS, Origin, show};
pub use variables::{APPTAINER, Error as VariableError, OTHERS, OWN, VARIABLES, Variable};

pub(crate) use expand::expand_part;
pub(crate) use show::line_at;

use file::{Environment, File, Mounts};
use profile::{Profile, Profiles};
use trust::Owner;

use crate::options::Gpu;

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
    /// A user's file with what is the site's to say.
    #[error("cannot use {}: line {line}: {key} can be set by the site alone, in {SITE}/{FILE}", path.display())]
    SiteOnly {
        /// The file.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// The key.
        key: &'static str,
    },
    /// A user's choice of servers where the site chooses registries.
    #[error(
        "cannot use {}: line {line}: registry.hosts.\"{host}\".{key} decides which server answers for a registry: where the site has [images] allowed-registries, it can be set by the site alone, in {SITE}/{FILE}",
        path.display()
    )]
    Server {
        /// The file.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// Of the registry.
        host: String,
        /// Below the host.
        key: &'static str,
    },
    /// A file of the site that is somebody's.
    #[error(
        "cannot trust {}: it belongs to user {owner} and not to root, so that others decide what users run: chown root {}",
        path.display(), path.display()
    )]
    SiteOwner {
        /// The file or directory.
        path: PathBuf,
        /// Whose it is.
        owner: u32,
    },
    /// A file of the user that is somebody else's.
    #[error(
        "cannot trust {}: it belongs to user {owner}, neither to you nor to root: use a file of your own, or set HOME to your home directory",
        path.display()
    )]
    UserOwner {
        /// The file.
        path: PathBuf,
        /// Whose it is.
        owner: u32,
    },
    /// Others can write to it.
    #[error("cannot trust {}: others than its owner can write to it (mode {mode:04o}): chmod go-w {}", path.display(), path.display())]
    Writable {
        /// The file or directory.
        path: PathBuf,
        /// Permissions.
        mode: u32,
    },
    /// Of `[defaults]`, or of a profile's bases.
    #[error(transparent)]
    Profile(#[from] ProfileError),
}

/// All settings, as far as they are set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// `[session]`
    pub session: Session,
    /// `[store]`
    pub store: Store,
    /// `[registry]`
    pub registry: Registry,
    /// `[images]`
    pub images: Images,
    /// Those of the files that say something about mounts or the environment, in order.
    parts: Vec<Part>,
    force_bind: bool,
    apptainer_variables: bool,
    default_profile: Option<String>,
    profiles: Profiles,
    cdi_dirs: Vec<PathBuf>,
    mpi: Option<crate::options::Mpi>,
    /// Drivers of launches that say nothing about any.
    gpu: Gpu,
}

/// What one file adds to every launch.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Part {
    path: PathBuf,
    of_site: bool,
    mounts: Mounts,
    environment: Environment,
}

impl Config {
    /// Reads the settings for a user with this home directory.
    ///
    /// # Errors
    /// When a file is there that cannot be used: what it asks for may not be passed over.
    pub fn read(home: Option<&Path>) -> Result<Self, Error> {
        Self::from(Path::new(SITE), Owner::Site(0), home)
    }

    fn from(site: &Path, root: Owner, home: Option<&Path>) -> Result<Self, Error> {
        let mut config = Self::default();
        let drop_in_dir = site.join(DROP_INS);
        config.take(site.join(FILE), root, &[site])?;
        for path in drop_ins(&drop_in_dir)? {
            config.take(path, root, &[site, &drop_in_dir])?;
        }
        if let Some(home) = home {
            config.take(user_file(home), Owner::User, &[])?;
        }
        Ok(config)
    }

    fn take(&mut self, path: PathBuf, owner: Owner, directories: &[&Path]) -> Result<(), Error> {
        let Some(text) = text(&path, owner, directories)? else { return Ok(()) };
        match toml::from_str(&text) {
            Ok(file) => self.merge(path, matches!(owner, Owner::Site(_)), &text, file),
            Err(cause) => Err(Error::Parse { path, cause: Box::new(cause) }),
        }
    }

    /// Takes in a file that counts more.
    fn merge(&mut self, path: PathBuf, of_site: bool, text: &str, file: File) -> Result<(), Error> {
        let File { session, store, registry, images, mounts, environment, gpu, mpi, compatibility, defaults, profiles } =
            file;
        for (key, set) in [("images", images.is_set()), ("mounts.force-bind", mounts.force_bind.is_some())] {
            if set && !of_site {
                return Err(Error::SiteOnly { line: show::line_of_key(text, key), path, key });
            }
        }
        // The names alone would be the site's choice, and the user's server would answer to them.
        let server = registry.server().filter(|_| !of_site && self.images.chooses_registries());
        if let Some((host, key)) = server {
            let line = show::line_of(text, &["registry", "hosts", host, key]);
            return Err(Error::Server { line, path, host: host.to_owned(), key });
        }
        self.session.merge(session);
        self.store.merge(store);
        self.registry.merge(registry, !of_site);
        self.images.merge(images);
        self.mpi = mpi.default.or(self.mpi);
        self.gpu = gpu.default.unwrap_or_else(|| std::mem::take(&mut self.gpu));
        self.cdi_dirs = gpu.cdi_dirs.unwrap_or_else(|| std::mem::take(&mut self.cdi_dirs));
        self.force_bind = mounts.force_bind.unwrap_or(self.force_bind);
        self.apptainer_variables = compatibility.apptainer_variables.unwrap_or(self.apptainer_variables);
        self.default_profile = defaults.profile.or(self.default_profile.take());
        self.profiles.0.extend(profiles.into_iter().map(|(name, profile)| (name, (path.clone(), profile))));
        if !(mounts.bind.is_empty() && mounts.no_mount.is_empty() && environment.is_empty()) {
            self.parts.push(Part { path, of_site, mounts, environment });
        }
        Ok(())
    }

    /// Directories of CDI files besides the standard ones.
    #[must_use]
    pub fn cdi_dirs(&self) -> &[PathBuf] {
        &self.cdi_dirs
    }

    /// What no single file shows to be wrong.
    fn check(&self) -> Vec<Error> {
        let names = self.profiles.0.keys().chain(self.default_profile.iter().filter(|name| *name != NONE));
        names.filter_map(|name| self.profiles.check(name).err()).map(Error::from).collect()
    }
}

/// In the site's directory.
const DROP_INS: &str = "conf.d";

fn user_file(home: &Path) -> PathBuf {
    home.join(".config/coracle").join(FILE)
}

/// What a file says, if there is one and it may be believed. Whoever can write to its directories can put another there.
fn text(path: &Path, owner: Owner, directories: &[&Path]) -> Result<Option<String>, Error> {
    let failed = |cause| Error::Read { path: path.to_path_buf(), cause };
    let mut file = match fs::File::open(path) {
        Ok(file) => file,
        Err(cause) if is_absent(&cause) => return Ok(None),
        Err(cause) => return Err(failed(cause)),
    };
    owner.check(path, &file.metadata().map_err(failed)?)?;
    for directory in directories {
        owner.check(directory, &fs::metadata(directory).map_err(failed)?)?;
    }
    let mut text = String::new();
    file.read_to_string(&mut text).map_err(failed)?;
    Ok(Some(text))
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
        let root = Owner::Site(nix::unistd::geteuid().as_raw());
        let read = || Config::from(&site, root, Some(&home));
        assert_eq!(read().unwrap(), Config::default());
        fs::create_dir_all(site.join("conf.d")).unwrap();
        fs::create_dir_all(home.join(".config/coracle")).unwrap();
        fs::write(site.join(FILE), "[session]\nenabled = false\nidle-seconds = 1\n").unwrap();
        fs::write(site.join("conf.d/20.toml"), "[session]\nidle-seconds = 3\n").unwrap();
        fs::write(site.join("conf.d/10.toml"), "[session]\nidle-seconds = 2\n").unwrap();
        fs::write(site.join("conf.d/note.txt"), "no settings").unwrap();
        let config = read().unwrap();
        assert_eq!(
            (config.session.enabled, config.session.idle()),
            (Some(false), Some(std::time::Duration::from_secs(3)))
        );
        fs::write(home.join(".config/coracle").join(FILE), "[session]\nenabled = true\n").unwrap();
        assert_eq!(read().unwrap().session.enabled, Some(true));
        fs::write(site.join("conf.d/25.toml"), "[store]\ndir = \"/s\"\nmax-size = \"50G\"\n").unwrap();
        fs::write(home.join(".config/coracle").join(FILE), "[store]\ndir = \"~/s\"\ndirs = [\"/t\"]\n").unwrap();
        let store = read().unwrap().store;
        assert_eq!((store.dir.as_deref(), store.max_size), (Some("~/s"), Some(50 << 30)));
        assert_eq!(store.dirs, Some(vec!["/t".to_owned()]));
        fs::write(site.join("conf.d/27.toml"), "[gpu]\ncdi-dirs = [\"/c\"]\n").unwrap();
        assert_eq!(read().unwrap().cdi_dirs(), [PathBuf::from("/c")]);
        fs::write(site.join("conf.d/30.toml"), "\n[store]\nmax-size = \"lots\"\n").unwrap();
        let text = read().unwrap_err().to_string();
        assert!(text.contains("line 3") && text.contains("like 50G"), "{text}");
        fs::write(site.join("conf.d/30.toml"), "\n[session]\nidle = 3\n").unwrap();
        let text = read().unwrap_err().to_string();
        assert!(text.contains("30.toml") && text.contains("line 3") && text.contains("idle"), "{text}");
    }

    struct Place {
        dir: tempfile::TempDir,
    }

    impl Place {
        fn new() -> Self {
            let place = Self { dir: tempfile::tempdir().unwrap() };
            fs::create_dir_all(place.site().join(DROP_INS)).unwrap();
            fs::create_dir_all(place.home().join(".config/coracle")).unwrap();
            place
        }

        fn site(&self) -> PathBuf {
            self.dir.path().join("site")
        }

        fn home(&self) -> PathBuf {
            self.dir.path().join("home")
        }

        fn read(&self, site: &str, user: &str) -> Result<Config, String> {
            fs::write(self.site().join(FILE), site).unwrap();
            fs::write(user_file(&self.home()), user).unwrap();
            let root = Owner::Site(nix::unistd::geteuid().as_raw());
            Config::from(&self.site(), root, Some(&self.home())).map_err(|error| error.to_string())
        }
    }

    #[test]
    fn what_the_site_forces_no_user_sets() {
        let place = Place::new();
        for (text, key) in [
            ("\n[images]\nallowed-paths = [\"/\"]\n", "images"),
            ("[images]\nread-only = false\n", "images"),
            ("\n\n[mounts]\nforce-bind = true\n", "mounts.force-bind"),
        ] {
            let error = place.read("", text).unwrap_err();
            let line = text.lines().position(|line| line.contains(" = ") || line == "[images]").unwrap() + 1;
            assert!(error.contains(&format!("line {line}: {key} can be set by the site alone")), "{error}");
        }
        assert!(place.read("[images]\nread-only = true\n", "").unwrap().images.read_only());
    }

    #[test]
    fn who_may_choose_registries_chooses_their_servers() {
        let place = Place::new();
        let site = "[images]\nallowed-registries = [\"docker.io/library\"]\n[registry.hosts.\"docker.io\"]\nmirrors = [\"m.example\"]\n";
        for (text, key) in [
            ("mirrors = [\"127.0.0.1:5999\"]", "mirrors"),
            ("insecure = true", "insecure"),
            ("ca-files = [\"/c.pem\"]", "ca-files"),
        ] {
            let user = format!("[registry]\nconnections = 3\n[registry.hosts.\"docker.io\"]\n\n{text}\n");
            let error = place.read(site, &user).unwrap_err();
            let wanted = format!("line 5: registry.hosts.\"docker.io\".{key} decides");
            assert!(error.contains(&wanted) && error.contains("[images] allowed-registries"), "{error}");
            place.read("[images]\nread-only = true\n", &user).unwrap();
        }
        place.read(site, "[registry]\nauth-files = [\"/a\"]\n").unwrap();
    }

    #[test]
    fn mistakes_of_all_sections_have_their_line() {
        let place = Place::new();
        for (text, part) in [
            ("[mounts]\nbind = [\"/a:b\"]\n", "absolute path"),
            ("[mounts]\nbind = [\"${A\"]\n", "begins no variable"),
            ("[mounts]\nno-mount = [\"homes\"]\n", "no default mount"),
            ("[environment]\nset = { \"A B\" = \"x\" }\n", "no name of a variable"),
            ("[environment]\nunset = [\"A=1\"]\n", "no name of a variable"),
            ("[gpu]\ndefault = \"all\"\n", "auto, off, nvidia"),
            ("[mpi]\ndefault = \"host\"\n", "use auto, container or off"),
            ("[compatibility]\napptainer = true\n", "apptainer-variables"),
            ("[profile.x]\nseccomp = \"f\"\n", "unknown field"),
            ("[profile.x]\nsecurity = \"selinux:f\"\n", "seccomp:FILE"),
            ("[profile.x]\nwritable-tmpfs = \"lots\"\n", "no size"),
            ("[profile.x]\nwritable-tmpfs = 3\n", "true, false or a size"),
            ("[profile.x]\npwd = \"work\"\n", "absolute path"),
            ("[profile.x]\ndevice = [\"nvidia.com/gpu\"]\n", "CDI"),
            ("[profile.x]\ndevice = [\"gpu=0\"]\n", "vendor.com/class=name"),
            ("[gpu]\ncdi-dirs = \"/a\"\n", "sequence"),
        ] {
            let error = place.read(text, "").unwrap_err();
            assert!(error.contains("line 2") && error.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn files_of_others_are_not_believed() {
        use std::os::unix::fs::PermissionsExt;
        let place = Place::new();
        let mode = |path: PathBuf, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        place.read("", "").unwrap();
        for (path, usual) in
            [(place.site(), 0o755), (place.site().join(FILE), 0o644), (user_file(&place.home()), 0o644)]
        {
            mode(path.clone(), usual | 0o020);
            let error = place.read("", "").unwrap_err();
            assert!(error.contains("cannot trust") && error.contains("chmod go-w"), "{error}");
            mode(path, usual);
        }
        fs::write(place.site().join("conf.d/x.toml"), "").unwrap();
        mode(place.site().join(DROP_INS), 0o777);
        assert!(place.read("", "").unwrap_err().contains("conf.d: others"));
    }
}
