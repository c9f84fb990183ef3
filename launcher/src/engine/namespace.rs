//! Entering namespaces and mounting FUSE in them, each with what the kernel wants in which order.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};

use super::Error;
use crate::fuse;
use crate::ids::Range;

/// Enters a user namespace in which the caller is itself and nobody else exists.
pub(crate) fn enter_user(uid: u32, gid: u32) -> Result<(), Error> {
    unshare_user()?;
    map_own((Range::one(uid, uid), OwnId::Write), (Range::one(gid, gid), OwnId::Write))
}

/// Enters a user namespace that has no maps yet.
pub(super) fn unshare_user() -> Result<(), Error> {
    unshare(CloneFlags::CLONE_NEWUSER).map_err(|cause| Error::UserNamespace { cause: cause.into() })
}

/// Who writes a map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OwnId {
    /// The process itself, which may write its own id alone.
    Write,
    /// Another has done it.
    Written,
}

/// Writes the maps that have not been written, of users and of groups.
pub(super) fn map_own(user: (Range, OwnId), group: (Range, OwnId)) -> Result<(), Error> {
    let line = |range: Range| format!("{} {} {}", range.inside, range.outside, range.length);
    if group.1 == OwnId::Write {
        // A process without privileges outside may map its group only after it has given up setgroups(2), with which it
        // could leave a group that denies it access (CVE-2014-8989). Missing before Linux 3.19, where nothing is lost.
        match write_proc("/proc/self/setgroups", "deny") {
            Err(Error::MapIds { cause, .. }) if cause.kind() == io::ErrorKind::NotFound => {}
            result => result?,
        }
    }
    if user.1 == OwnId::Write {
        write_proc("/proc/self/uid_map", &line(user.0)).map_err(|error| match error {
            Error::MapIds { cause, .. } if user.0.outside == 0 && cause.raw_os_error() == Some(libc::EPERM) => {
                Error::MapRoot { cause }
            }
            error => error,
        })?;
    }
    if group.1 == OwnId::Write {
        write_proc("/proc/self/gid_map", &line(group.0))?;
    }
    Ok(())
}

/// The kernel takes a map in one write, once.
fn write_proc(file: &'static str, content: &str) -> Result<(), Error> {
    let write = || OpenOptions::new().write(true).open(file)?.write_all(content.as_bytes());
    write().map_err(|cause| Error::MapIds { file, cause })
}

/// Opens `/dev/fuse`.
pub(crate) fn open_fuse() -> Result<OwnedFd, Error> {
    let open = fs::File::options().read(true).write(true).open("/dev/fuse");
    open.map(OwnedFd::from).map_err(|cause| Error::OpenFuse { cause })
}

/// Enters a mount namespace that receives the host's later mounts and passes none on.
pub(crate) fn enter_mount() -> Result<(), Error> {
    let failed = |cause: nix::Error| Error::MountNamespace { cause: cause.into() };
    unshare(CloneFlags::CLONE_NEWNS).map_err(failed)?;
    // Slave, not private: an autofs directory that is mounted on the host later must appear here, too. The kernel
    // does the same for a namespace of a new user namespace; saying it keeps the pivot from depending on that.
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_SLAVE, None::<&str>).map_err(failed)
}

/// Goes on in a copy of the mount namespace, whose mounts are related to the host's as the original's are.
pub(super) fn copy_mount() -> Result<(), Error> {
    unshare(CloneFlags::CLONE_NEWNS).map_err(|cause| Error::MountNamespace { cause: cause.into() })
}

/// Enters an existing user namespace.
pub(super) fn join_user(user: &OwnedFd) -> Result<(), Error> {
    setns(user, CloneFlags::CLONE_NEWUSER).map_err(|cause| Error::Join { cause: cause.into() })
}

/// Enters an existing mount namespace of the user namespace.
pub(super) fn join_mounts(mounts: &OwnedFd) -> Result<(), Error> {
    setns(mounts, CloneFlags::CLONE_NEWNS).map_err(|cause| Error::Join { cause: cause.into() })
}

/// Mounts the file system that is served on `fuse`.
pub(crate) fn mount_fuse(fuse: BorrowedFd<'_>, at: &Path, (uid, gid): (u32, u32)) -> Result<(), Error> {
    let data = fuse::mount_data(fuse.as_raw_fd(), uid, gid);
    let flags = MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(Some("coracle"), at, Some("fuse"), flags, Some(data.as_str()))
        .map_err(|cause| Error::MountImage { at: at.to_path_buf(), cause: cause.into() })
}
