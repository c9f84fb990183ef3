//! The layer that is written to: two directories, `upper` for what is kept and `work` for overlayfs itself.

use std::ffi::{OsStr, OsString};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{
    Dir, FlockOperation, Mode, OFlags, XattrFlags, flock, fremovexattr, fsetxattr, fstat, fstatfs, mkdirat, openat,
};
use rustix::io::Errno;

use super::{DIRECTORY, Error};

/// As Apptainer calls them.
const UPPER: &str = "upper";
const WORK: &str = "work";
/// How long a container that has just ended may take to let go of its layer.
pub(super) const PATIENCE: Duration = Duration::from_secs(3);
/// How often that is looked at.
pub(super) const LOOK: Duration = Duration::from_millis(20);
/// File systems that overlayfs does not write to: they check names anew at each use, being elsewhere or someone else's
/// (`ovl_dentry_remote`, `DCACHE_OP_REAL`).
const UNFIT: [(u32, &str); 17] = [
    (0x6969, "NFS"),
    (0x0BD0_0BD0, "Lustre"),
    (0x4750_4653, "GPFS"),
    (0x1983_0326, "BeeGFS"),
    (0x00C3_6400, "CephFS"),
    (0xFF53_4D42, "CIFS"),
    (0xFE53_4D42, "SMB"),
    (0x5346_414F, "AFS"),
    (0x2003_0528, "OrangeFS"),
    (0x0102_1997, "9P"),
    (0x6573_5546, "FUSE"),
    (0x0000_F15F, "eCryptfs"),
    (0x794C_7630, "an overlay file system"),
    (0x0000_4D44, "FAT"),
    (0x2011_BAB0, "exFAT"),
    (0x7371_7368, "squashfs"),
    (0x0000_9660, "ISO 9660"),
];

/// Open directories of a layer that is written to.
pub(super) struct Writable {
    pub(super) upper: OwnedFd,
    pub(super) work: OwnedFd,
    /// The caller's directory, when it is one.
    pub(super) kept: Option<Kept>,
}

/// A layer that outlives the container.
pub(super) struct Kept {
    /// On the host.
    pub(super) path: PathBuf,
    /// The directory, locked against other launches.
    pub(super) lock: OwnedFd,
    /// The directory, to be found by `mount(2)`.
    pub(super) directory: OwnedFd,
    /// The name of a file system on which overlayfs writes nothing.
    pub(super) unfit: Option<&'static str>,
}

impl Writable {
    pub(super) fn in_memory(memory: &OwnedFd) -> Result<Self, Error> {
        let make = |name: &str| {
            mkdirat(memory, name, Mode::from_raw_mode(0o755))?;
            openat(memory, name, DIRECTORY, Mode::empty())
        };
        let made = || Ok(Self { upper: make(UPPER)?, work: make(WORK)?, kept: None });
        made().map_err(|cause: Errno| Error::Memory { cause: cause.into() })
    }

    /// In the caller's directory.
    pub(super) fn at(directory: &OwnedFd, path: &Path) -> Result<Self, Error> {
        let failed = |cause: Errno| Error::Open { path: path.to_path_buf(), cause: cause.into() };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let lock = openat(directory, c".", flags, Mode::empty()).map_err(failed)?;
        if fstat(&lock).map_err(failed)?.st_uid != nix::unistd::geteuid().as_raw() {
            return Err(Error::Owner { path: path.to_path_buf() });
        }
        check(&lock, path)?;
        let kind = fstatfs(&lock).map_err(failed)?.f_type;
        let unfit =
            UNFIT.iter().find(|(magic, _)| i64::from(*magic) == kind as i64 & 0xFFFF_FFFF).map(|(_, name)| *name);
        take(&lock, path)?;
        let make = |name: &'static str| {
            let failed = |cause: Errno| Error::Make { path: path.to_path_buf(), name, cause: cause.into() };
            match mkdirat(&lock, name, Mode::from_raw_mode(0o755)) {
                Ok(()) | Err(Errno::EXIST) => openat(directory, name, DIRECTORY, Mode::empty()).map_err(failed),
                Err(cause) => Err(failed(cause)),
            }
        };
        let (upper, work) = (make(UPPER)?, make(WORK)?);
        let directory = directory.try_clone().map_err(|cause| Error::Open { path: path.to_path_buf(), cause })?;
        Ok(Self { upper, work, kept: Some(Kept { path: path.to_path_buf(), lock, directory, unfit }) })
    }

    /// Whether overlayfs can note there what it has to: that a directory hides one below it.
    pub(super) fn has_attributes(&self) -> bool {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let Ok(upper) = openat(&self.upper, c".", flags, Mode::empty()) else { return true };
        match fsetxattr(&upper, c"user.coracle", b"", XattrFlags::empty()) {
            Err(Errno::OPNOTSUPP) => false,
            _ => {
                let _ = fremovexattr(&upper, c"user.coracle");
                true
            }
        }
    }
}

/// Only what is empty, or was a layer before, becomes one.
fn check(directory: &OwnedFd, path: &Path) -> Result<(), Error> {
    let failed = |cause: Errno| Error::Open { path: path.to_path_buf(), cause: cause.into() };
    let mut names = Vec::new();
    for entry in Dir::read_from(directory).map_err(failed)? {
        names.push(OsStr::from_bytes(entry.map_err(failed)?.file_name().to_bytes()).to_owned());
    }
    let is_layer = names.iter().any(|name| name == UPPER) && is_directory(directory, UPPER);
    let ours = |name: &OsString| [".", "..", UPPER, WORK, "lost+found"].iter().any(|known| name == *known);
    match names.into_iter().find(|name| !ours(name)) {
        Some(found) if !is_layer => Err(Error::Foreign { path: path.to_path_buf(), found }),
        _ => Ok(()),
    }
}

fn is_directory(at: &OwnedFd, name: &str) -> bool {
    openat(at, name, DIRECTORY, Mode::empty()).is_ok()
}

/// Locks the directory against other launches until the overlay is mounted, or for as long as fuse-overlayfs has it open.
fn take(directory: &OwnedFd, path: &Path) -> Result<(), Error> {
    let start = Instant::now();
    loop {
        match flock(directory, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(()),
            Err(Errno::AGAIN) if start.elapsed() < PATIENCE => std::thread::sleep(LOOK),
            Err(Errno::AGAIN) => return Err(Error::Busy { path: path.to_path_buf() }),
            // A file system without locks: one who writes there twice at once has to know.
            Err(_) => return Ok(()),
        }
    }
}

/// What is kept in the root of a layer that is only read: `upper`, if it was written to before, or all.
pub(super) fn kept_in(root: OwnedFd) -> OwnedFd {
    match openat(&root, UPPER, DIRECTORY, Mode::empty()) {
        Ok(upper) if is_directory(&root, WORK) => upper,
        _ => root,
    }
}
