//! Where the sockets of sessions are, and what makes two launches meet at the same one.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags, flock, fstat, open, openat, statat, unlinkat};
use rustix::io::Errno;

use super::fingerprint::Fingerprint;
use crate::fuse::Switches;
use crate::ids::Ids;

/// What the name of a session's socket ends in.
pub(super) const SUFFIX: &str = ".sock";
/// The caller may choose the directory, for instance where `/tmp` is shared between nodes.
const DIRECTORY: &str = "CORACLE_SESSION_DIR";
/// Variables that tell one part of a job from another. A scheduler ends all processes of a part at once, the server
/// among them, so programs of another part must not depend on it.
const SCOPES: [&str; 7] =
    ["CORACLE_SESSION_SCOPE", "SLURM_JOB_ID", "SLURM_STEP_ID", "PBS_JOBID", "LSB_JOBID", "JOB_ID", "FLUX_JOB_ID"];
/// A session's programs share this with whoever starts it.
const USER_NAMESPACE: &str = "/proc/self/ns/user";
/// And these.
const OTHER_NAMESPACES: [&str; 2] = ["/proc/self/ns/mnt", "/proc/self/ns/pid"];
/// Inode of the namespace that a host starts with (`PROC_USER_INIT_INO` of the kernel's `proc_ns.h`).
const INITIAL_USER_NAMESPACE: u64 = 0xEFFF_FFFD;

/// What two launches must have in common to share a mount, as a name.
///
/// The image counts by what it is, not by its path: device, inode, size, modification and change time. A file that was
/// replaced or changed is another image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    name: String,
    user_namespace: u64,
}

impl Identity {
    /// Of a launch of the image file at `path` by this process, whose container knows these ids and takes the caller for root
    /// or not. Files are made for the one or the other.
    ///
    /// # Errors
    /// When the file cannot be looked at or is a directory, or `/proc` is not there.
    pub fn of(path: &Path, ids: &Ids, root: bool) -> io::Result<Self> {
        let image = fs::metadata(path)?;
        if image.is_dir() {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        let (user, group) = (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw());
        let mut print = Fingerprint::new();
        // Another version may serve or speak in another way.
        print.bytes(env!("CARGO_PKG_VERSION").as_bytes());
        for part in [image.dev(), image.ino(), image.len(), user.into(), group.into()] {
            print.number(part);
        }
        for time in [image.mtime(), image.mtime_nsec(), image.ctime(), image.ctime_nsec()] {
            print.number(time.cast_unsigned());
        }
        let user_namespace = fs::metadata(USER_NAMESPACE)?.ino();
        print.number(user_namespace);
        for namespace in OTHER_NAMESPACES {
            print.number(fs::metadata(namespace)?.ino());
        }
        // Where a founder mounts the image, a joiner has to look for it.
        let mut words = vec![crate::host::mount_point().unwrap_or_default().into_os_string()];
        let variables = SCOPES.into_iter().chain([Switches::VARIABLE]);
        words.extend(variables.map(|name| std::env::var_os(name).unwrap_or_default()));
        words.iter().for_each(|word| print.bytes(word.as_bytes()));
        ids.numbers().chain([root.into()]).for_each(|number| print.number(number));
        let name = print.finish().iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(Self { name, user_namespace })
    }

    /// Of launches that have the image shown in a way of their own, which is called `variant`: what one has the server
    /// show in place of the image's files, others would see. Without a name nothing is special.
    #[must_use]
    pub fn shown_as(self, variant: &str) -> Self {
        if variant.is_empty() {
            return self;
        }
        let mut print = Fingerprint::new();
        print.bytes(self.name.as_bytes());
        print.bytes(variant.as_bytes());
        Self { name: print.finish().iter().map(|byte| format!("{byte:02x}")).collect(), ..self }
    }

    pub(super) fn socket(&self) -> String {
        format!("{}{SUFFIX}", self.name)
    }
}

/// The caller's directory of sockets, which nobody else can enter.
#[derive(Debug)]
pub struct Place {
    directory: OwnedFd,
    path: PathBuf,
}

impl Place {
    /// Opens the directory for a session of `identity`, made if it is not there; `None` where there is no place for one.
    ///
    /// # Errors
    /// When no directory can be had that is the caller's alone.
    pub fn open(identity: &Identity) -> io::Result<Option<Self>> {
        Self::first_of(candidates(Some(identity.user_namespace)))
    }

    /// The caller's own directory, made if it is not there; `None` where there is no place for one.
    ///
    /// # Errors
    /// When no directory can be had that is the caller's alone.
    pub fn own() -> io::Result<Option<Self>> {
        let user_namespace = fs::metadata(USER_NAMESPACE)?.ino();
        Self::first_of(candidates(Some(user_namespace)))
    }

    fn first_of(candidates: Vec<PathBuf>) -> io::Result<Option<Self>> {
        let mut result = Ok(None);
        for path in candidates {
            result = Self::make(path).map(Some);
            if result.is_ok() {
                break;
            }
        }
        result
    }

    /// All that exist, for those who look for sessions.
    pub fn existing() -> Vec<Self> {
        let user_namespace = fs::metadata(USER_NAMESPACE).map(|user| user.ino()).ok();
        candidates(user_namespace).into_iter().filter_map(|path| Self::at(path).ok()).collect()
    }

    fn make(path: PathBuf) -> io::Result<Self> {
        match Self::at(path.clone()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            result => return result,
        }
        match DirBuilder::new().mode(0o700).create(&path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                Err(io::Error::new(error.kind(), format!("cannot make {}: {error}", path.display())))
            }
            _ => Self::at(path),
        }
    }

    /// What is checked is the open directory, so nobody can put another in its place afterwards.
    fn at(path: PathBuf) -> io::Result<Self> {
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::RDONLY | OFlags::CLOEXEC;
        let directory = open(&path, flags, Mode::empty())?;
        let status = fstat(&directory)?;
        if status.st_uid != nix::unistd::geteuid().as_raw() || status.st_mode & 0o077 != 0 {
            let text = format!("{} is not a directory of yours alone (mode 0700)", path.display());
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, text));
        }
        Ok(Self { directory, path })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Waits until nobody else makes or removes sockets, until the result is closed or unlocked, or its process dead.
    pub(crate) fn lock(&self) -> io::Result<OwnedFd> {
        // A lock belongs to the open file, so each holder opens its own.
        let own = openat(&self.directory, ".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        flock(&own, FlockOperation::LockExclusive)?;
        Ok(own)
    }

    /// A path for `bind(2)` and `connect(2)`, which take 107 bytes at most, however long the directory's own is.
    pub(super) fn address(&self, name: &str) -> String {
        format!("/proc/self/fd/{}/{name}", self.directory.as_raw_fd())
    }

    pub(super) fn inode(&self, name: &str) -> io::Result<u64> {
        Ok(statat(&self.directory, name, AtFlags::SYMLINK_NOFOLLOW)?.st_ino)
    }

    pub(crate) fn remove(&self, name: &str) -> io::Result<()> {
        match unlinkat(&self.directory, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// The names of sockets.
    pub(super) fn names(&self) -> io::Result<Vec<String>> {
        self.names_with(SUFFIX)
    }

    /// The names that end in `suffix`, sorted.
    pub(crate) fn names_with(&self, suffix: &str) -> io::Result<Vec<String>> {
        let mut names: Vec<String> = fs::read_dir(format!("/proc/self/fd/{}", self.directory.as_raw_fd()))?
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .filter(|name| name.ends_with(suffix))
            .collect();
        names.sort_unstable();
        Ok(names)
    }
}

impl AsFd for Place {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }
}

/// `XDG_RUNTIME_DIR` is not among them: it is set in some of a user's processes on a node and not in others, and what is
/// passed along from a login node is not there on a compute node.
fn candidates(user_namespace: Option<u64>) -> Vec<PathBuf> {
    if let Some(chosen) = std::env::var_os(DIRECTORY).map(PathBuf::from).filter(|path| path.is_absolute()) {
        return vec![chosen];
    }
    // In another user namespace the caller's id is not what it seems to those outside, who see the same `/tmp`.
    if user_namespace != Some(INITIAL_USER_NAMESPACE) {
        return Vec::new();
    }
    let uid = nix::unistd::geteuid();
    let mut candidates = vec![PathBuf::from(format!("/tmp/coracle-{uid}"))];
    let runtime = PathBuf::from(format!("/run/user/{uid}"));
    if runtime.is_dir() {
        candidates.insert(0, runtime.join("coracle"));
    }
    candidates
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn an_image_that_changes_is_another() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("image");
        fs::write(&path, "one").unwrap();
        let of = |path: &Path| Identity::of(path, &Ids::own(7, 8), false);
        let first = of(&path).unwrap();
        assert_eq!(of(&path).unwrap(), first);
        assert_ne!(Identity::of(&path, &Ids::root(7, 8), false).unwrap(), first, "another map of ids");
        assert_ne!(Identity::of(&path, &Ids::own(7, 8), true).unwrap(), first, "root");
        assert_eq!(first.clone().shown_as(""), first);
        let shown = first.clone().shown_as("gpu");
        assert!(shown != first && shown == first.clone().shown_as("gpu") && shown != first.clone().shown_as("gpus"));
        fs::write(&path, "two!").unwrap();
        assert_ne!(of(&path).unwrap(), first);
        assert!(of(&dir.path().join("absent")).is_err());
    }

    #[test]
    fn a_directory_that_others_can_enter_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sessions");
        let place = Place::make(path.clone()).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
        assert!(place.names().unwrap().is_empty());
        fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
        assert!(Place::make(path.clone()).unwrap_err().to_string().contains("0700"));
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert!(Place::make(link).is_err());
    }
}
