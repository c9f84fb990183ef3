//! Facts about the host and the caller, collected once before anything is decided.
//!
//! No name service module is loaded into the process: a static build could not, and at scale a directory server would
//! feel it. Users that the files do not know are asked for with one `getent` each.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde::{Deserialize, Serialize};

use crate::cli::parse;
use crate::ids::Ids;
use crate::image::{self, Entry, ImageFile};
use crate::options::{EnvSetting, Options};

pub mod accounts;
pub(crate) mod programs;
pub(crate) mod refusal;
pub mod subordinate;

use accounts::Account;

/// Directories of which at least one exists everywhere; the image is mounted over the first, in a namespace of its own.
const MOUNT_POINTS: [&str; 6] = ["/tmp", "/mnt", "/run", "/usr", "/etc", "/dev"];

/// Why the facts could not be collected.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file of `--env-file` cannot be read.
    #[error("cannot read environment file {}: {cause}", path.display())]
    EnvFile {
        /// As given.
        path: PathBuf,
        /// The system's reason.
        cause: io::Error,
    },
    /// A file of `--env-file` has a line that is no setting.
    #[error("cannot use line {line} of environment file {}: write NAME=VALUE", path.display())]
    EnvLine {
        /// As given.
        path: PathBuf,
        /// From 1.
        line: usize,
    },
    /// The file of `--security seccomp:`.
    #[error("cannot read seccomp profile {}: {cause}", path.display())]
    SeccompFile {
        /// As given.
        path: PathBuf,
        /// The system's reason.
        cause: io::Error,
    },
    /// None of the directories over which the image could be mounted exists.
    #[error("cannot mount the image: this host has none of {}", MOUNT_POINTS.join(", "))]
    NoMountPoint,
}

/// What is at a path of the host, symbolic links followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A directory.
    Directory,
    /// Anything else that exists.
    File,
}

/// Looks at paths of the host. A trait, so that the deciding code is tested without one.
pub trait Probe {
    /// What is there; `None` when it does not exist or cannot be reached.
    fn kind(&self, path: &Path) -> Option<Kind>;

    /// What the image file at `file` has at `inside`, symbolic links followed.
    ///
    /// # Errors
    /// When it is no image, or damaged.
    fn kind_in_image(&self, file: &Path, inside: &Path) -> Result<Option<Kind>, image::Error> {
        let _ = (file, inside);
        Ok(Some(Kind::Directory))
    }
}

/// The caller's entries in the user databases.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identification {
    /// The caller's account.
    pub account: Account,
    /// Name of the caller's group.
    pub group: String,
    /// Names of other groups that the container knows.
    pub groups: Vec<(u32, String)>,
    /// What a session's containers know, where that is less than what was asked for.
    pub ids: Option<Ids>,
}

/// The facts.
#[derive(Clone, Debug)]
pub struct Host {
    /// Effective user id.
    pub uid: u32,
    /// Effective group id.
    pub gid: u32,
    /// The ids that the container knows.
    pub ids: Ids,
    /// The caller, as the databases know them.
    pub who: Identification,
    /// Absolute path of the working directory, as the shell calls it when that is right; `None` when it is gone.
    pub cwd: Option<PathBuf>,
    /// The home directory, from `HOME` or else the user database, if it is a directory.
    pub home: Option<PathBuf>,
    /// The environment, in the order in which it is.
    pub env: Vec<(OsString, OsString)>,
    /// Settings from `--env-file`, in order.
    pub file_settings: Vec<EnvSetting>,
    /// The seccomp profile that was asked for.
    pub seccomp: Option<SeccompFile>,
    /// Over which the image can be mounted.
    pub mount_point: PathBuf,
    /// The content of `/etc/hosts`, when the container's own has to have another name in it.
    pub hosts: Option<Vec<u8>>,
}

/// A seccomp profile, not yet understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeccompFile {
    /// As given.
    pub path: PathBuf,
    /// JSON.
    pub content: Vec<u8>,
    /// The kernel's release, on which profiles may depend.
    pub kernel: String,
}

/// All that can be known without asking who the caller is.
#[derive(Clone, Debug)]
pub struct Surroundings {
    env: Vec<(OsString, OsString)>,
    cwd: Option<PathBuf>,
    home: Option<PathBuf>,
    file_settings: Vec<EnvSetting>,
    /// The seccomp profile that was asked for.
    pub seccomp: Option<SeccompFile>,
    mount_point: PathBuf,
    hosts: Option<Vec<u8>>,
}

impl Surroundings {
    /// Looks around.
    ///
    /// # Errors
    /// When a file that `options` name cannot be used.
    pub fn collect(options: &Options) -> Result<Self, Error> {
        Self::of(std::env::vars_os().collect(), options)
    }

    /// Looks around, with an environment that was read before.
    ///
    /// # Errors
    /// As for [`Self::collect`].
    pub fn of(env: Vec<(OsString, OsString)>, options: &Options) -> Result<Self, Error> {
        let mut file_settings = Vec::new();
        for path in &options.env_files {
            let content = fs::read(path).map_err(|cause| Error::EnvFile { path: path.clone(), cause })?;
            let settings = parse::env_file(&content).map_err(|line| Error::EnvLine { path: path.clone(), line })?;
            file_settings.extend(settings);
        }
        let home = value(&env, "HOME").map(PathBuf::from).filter(|path| path.is_absolute() && path.is_dir());
        let (cwd, mount_point) = (cwd(value(&env, "PWD")), mount_point().ok_or(Error::NoMountPoint)?);
        let seccomp = options.seccomp.as_deref().map(seccomp_file).transpose()?;
        let hosts = options.hostname.as_ref().and_then(|_| fs::read("/etc/hosts").ok());
        Ok(Self { env, cwd, home, file_settings, seccomp, mount_point, hosts })
    }
}

impl Surroundings {
    /// The working directory, unless it is gone.
    #[must_use]
    pub fn cwd(&self) -> Option<PathBuf> {
        self.cwd.clone()
    }

    /// The same, seen from another working directory.
    #[must_use]
    pub fn at(self, cwd: PathBuf) -> Self {
        Self { cwd: Some(cwd), ..self }
    }

    /// The same, with a profile that was read before.
    #[must_use]
    pub fn filtered(self, path: PathBuf, content: Vec<u8>) -> Self {
        Self { seccomp: Some(SeccompFile { path, content, kernel: kernel() }), ..self }
    }
}

fn seccomp_file(path: &Path) -> Result<SeccompFile, Error> {
    let content = fs::read(path).map_err(|cause| Error::SeccompFile { path: path.to_path_buf(), cause })?;
    Ok(SeccompFile { path: path.to_path_buf(), content, kernel: kernel() })
}

fn kernel() -> String {
    rustix::system::uname().release().to_string_lossy().into_owned()
}

fn value(env: &[(OsString, OsString)], name: &str) -> Option<OsString> {
    env.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone())
}

impl Host {
    /// Puts the facts together; `known` spares looking the caller up, which may be a trip to a directory server.
    #[must_use]
    pub fn new(surroundings: Surroundings, ids: Ids, known: Option<Identification>) -> Self {
        let (uid, gid) = (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw());
        let Surroundings { env, cwd, home, file_settings, seccomp, mount_point, hosts } = surroundings;
        let who = known.unwrap_or_else(|| identify(uid, gid, value(&env, "USER"), value(&env, "HOME")));
        let home = home.or_else(|| Some(who.account.home.clone()).filter(|path| path.is_absolute() && path.is_dir()));
        Self { uid, gid, ids, who, cwd, home, env, file_settings, seccomp, mount_point, hosts }
    }

    /// A variable of the environment.
    #[must_use]
    pub fn var(&self, name: &OsStr) -> Option<&OsStr> {
        self.env.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_os_str())
    }
}

/// The first usable place to mount over.
pub(crate) fn mount_point() -> Option<PathBuf> {
    MOUNT_POINTS.iter().map(PathBuf::from).find(|path| path.is_dir())
}

/// The host itself. Looks at each path once.
#[derive(Debug, Default)]
pub struct Disk {
    found: RefCell<HashMap<PathBuf, Option<Found>>>,
    inside: RefCell<HashMap<(PathBuf, PathBuf), Option<Kind>>>,
}

/// What a path of the host led to.
#[derive(Clone, Copy, Debug)]
struct Found {
    kind: Kind,
    device: u64,
    inode: u64,
}

impl Disk {
    /// Device and inode of what is at `path`, symbolic links followed.
    pub fn identity(&self, path: &Path) -> Option<(u64, u64)> {
        self.find(path).map(|found| (found.device, found.inode))
    }

    fn find(&self, path: &Path) -> Option<Found> {
        if let Some(known) = self.found.borrow().get(path) {
            return *known;
        }
        let found = fs::metadata(path).ok().map(|metadata| Found {
            kind: if metadata.is_dir() { Kind::Directory } else { Kind::File },
            device: metadata.dev(),
            inode: metadata.ino(),
        });
        self.found.borrow_mut().insert(path.to_path_buf(), found);
        found
    }
}

impl Probe for Disk {
    fn kind(&self, path: &Path) -> Option<Kind> {
        self.find(path).map(|found| found.kind)
    }

    fn kind_in_image(&self, file: &Path, inside: &Path) -> Result<Option<Kind>, image::Error> {
        let key = (file.to_path_buf(), inside.to_path_buf());
        if let Some(known) = self.inside.borrow().get(&key) {
            return Ok(*known);
        }
        let kind = match image::locate(&ImageFile::open(file)?, inside)?.entry {
            Some(Entry::Directory) => Some(Kind::Directory),
            Some(_) => Some(Kind::File),
            None => None,
        };
        self.inside.borrow_mut().insert(key, kind);
        Ok(kind)
    }
}

/// Directories that will have been made when the plan is carried out, on a host as it is.
pub struct Foreseen<'a> {
    /// As it is.
    pub disk: &'a Disk,
    /// What will be there, too.
    pub directories: Vec<PathBuf>,
}

impl Probe for Foreseen<'_> {
    fn kind(&self, path: &Path) -> Option<Kind> {
        if self.directories.iter().any(|made| made == path) { Some(Kind::Directory) } else { self.disk.kind(path) }
    }

    fn kind_in_image(&self, file: &Path, inside: &Path) -> Result<Option<Kind>, image::Error> {
        self.disk.kind_in_image(file, inside)
    }
}

/// `PWD` names the working directory with the symbolic links that the user knows (`/home/me` rather than
/// `/lustre/u7/me`); it is believed only if it leads to the same directory.
fn cwd(pwd: Option<OsString>) -> Option<PathBuf> {
    let real = fs::metadata(".").ok()?;
    if let Some(pwd) = pwd.map(PathBuf::from).filter(|path| path.is_absolute()) {
        let same = |named: fs::Metadata| (named.dev(), named.ino()) == (real.dev(), real.ino());
        if fs::metadata(&pwd).is_ok_and(same) {
            return Some(pwd);
        }
    }
    std::env::current_dir().ok()
}

/// A database entry: found in the file, or being asked for.
enum Lookup<T> {
    Found(T),
    Asked(Option<Child>),
}

impl<T> Lookup<T> {
    /// Looks into the file first. A missing `getent` or entry is no error: names are a convenience.
    fn start(database: &str, id: u32, find: impl Fn(&[u8]) -> Option<T>) -> Self {
        if let Some(found) = fs::read(format!("/etc/{database}")).ok().and_then(|content| find(&content)) {
            return Self::Found(found);
        }
        let mut command = Command::new("getent");
        command.args([database, &id.to_string()]);
        Self::Asked(command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().ok())
    }

    fn finish(self, find: impl Fn(&[u8]) -> Option<T>) -> Option<T> {
        match self {
            Self::Found(found) => Some(found),
            Self::Asked(child) => child?.wait_with_output().ok().and_then(|output| find(&output.stdout)),
        }
    }
}

/// The caller's account and group name. Both are asked for at the same time, since each may be a trip to a directory
/// server.
fn identify(uid: u32, gid: u32, user: Option<OsString>, home: Option<OsString>) -> Identification {
    let (by_uid, by_gid) =
        (|file: &[u8]| accounts::passwd_by_uid(file, uid), |file: &[u8]| accounts::group_by_gid(file, gid));
    let (account, group) = (Lookup::start("passwd", uid, by_uid), Lookup::start("group", gid, by_gid));
    let account = account.finish(by_uid).unwrap_or_else(|| unknown(uid, gid, user, home));
    let group = group.finish(by_gid).unwrap_or_else(|| format!("group{gid}"));
    Identification { account, group, groups: Vec::new(), ids: None }
}

/// Names of groups: from the file, and those that it lacks by one question for all, since each may be a trip to a directory
/// server. What nobody knows is left out.
fn group_names(wanted: &[u32]) -> Vec<(u32, String)> {
    let find = |content: &[u8]| -> Vec<(u32, String)> {
        wanted.iter().filter_map(|gid| Some((*gid, accounts::group_by_gid(content, *gid)?))).collect()
    };
    let mut names = fs::read("/etc/group").map(|content| find(&content)).unwrap_or_default();
    let missing: Vec<String> =
        wanted.iter().filter(|gid| !names.iter().any(|(known, _)| known == *gid)).map(u32::to_string).collect();
    if !missing.is_empty() {
        let output =
            Command::new("getent").arg("group").args(&missing).stdin(Stdio::null()).stderr(Stdio::null()).output();
        let found = output.map(|output| find(&output.stdout)).unwrap_or_default();
        names.extend(found.into_iter().filter(|(gid, _)| missing.contains(&gid.to_string())));
    }
    names
}

/// No database knows the caller: what the environment says is all there is.
fn unknown(uid: u32, gid: u32, user: Option<OsString>, home: Option<OsString>) -> Account {
    let plain = |name: &OsString| {
        let bytes = name.as_bytes();
        !bytes.is_empty() && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || b"_-.".contains(byte))
    };
    let name = user.filter(plain).and_then(|name| name.into_string().ok());
    Account {
        name: name.unwrap_or_else(|| format!("user{uid}")),
        uid,
        gid,
        gecos: OsString::new(),
        home: home.map(PathBuf::from).filter(|path| path.is_absolute()).unwrap_or_else(|| PathBuf::from("/")),
        shell: PathBuf::from("/bin/sh"),
    }
}

/// A path from bytes of a file.
fn path_from(bytes: &[u8]) -> PathBuf {
    PathBuf::from(OsString::from_vec(bytes.to_vec()))
}
