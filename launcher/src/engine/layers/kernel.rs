//! The kernel's own overlay file system, which users may mount since Linux 5.11.

use std::os::fd::OwnedFd;
use std::time::Instant;

use nix::mount::{MntFlags, mount, umount2};
use rustix::fs::{Mode, mkdirat, openat};
use rustix::io::Errno;

use super::writable::{Kept, LOOK, PATIENCE, Writable};
use super::{DIRECTORY, Error, Parts, RESTRICT, ROOT, magic_link};

/// Mounts it on the helpers' file system.
pub(super) fn mount_overlay(parts: &Parts) -> Result<(), Error> {
    if let Some(upper) = &parts.upper {
        if let Some(kept) = &upper.kept {
            refuse_unfit(kept)?;
        }
        wait_until_free(parts)?;
        if !upper.has_attributes() {
            return Err(Error::Attributes);
        }
    }
    mount_anyway(parts)
}

/// The same, whatever may come of it.
pub(super) fn mount_anyway(parts: &Parts) -> Result<(), Error> {
    // Descriptors: a path may have the colons and commas that separate these options.
    let lower: Vec<String> = parts.lower.iter().rev().map(magic_link).collect();
    let mut data = format!("userxattr,lowerdir={}", lower.join(":"));
    if let Some(Writable { upper, work, .. }) = &parts.upper {
        data.push_str(&format!(",upperdir={},workdir={}", magic_link(upper), magic_link(work)));
    }
    let root = place(parts).map_err(|cause| Error::Memory { cause: cause.into() })?;
    mount(Some("coracle"), magic_link(&root).as_str(), Some("overlay"), parts.flags(), Some(data.as_str()))
        .map_err(|cause| explain(parts, cause))
}

fn place(parts: &Parts) -> Result<OwnedFd, Errno> {
    openat(&parts.memory, ROOT, DIRECTORY, Mode::empty())
}

fn refuse_unfit(kept: &Kept) -> Result<(), Error> {
    match kept.unfit {
        Some(kind) => Err(Error::FileSystem { path: kept.path.clone(), kind: kind.to_owned() }),
        None => Ok(()),
    }
}

fn explain(parts: &Parts, cause: nix::Error) -> Error {
    let kept = parts.upper.as_ref().and_then(|upper| upper.kept.as_ref());
    match (cause, kept) {
        // Linux before 5.11; a kernel without the module; a security module.
        (nix::Error::EPERM | nix::Error::ENODEV | nix::Error::EACCES, _) => Error::Refused { cause: cause.into() },
        (nix::Error::EINVAL, Some(kept)) => {
            Error::FileSystem { path: kept.path.clone(), kind: "the file system that it is on".to_owned() }
        }
        (nix::Error::EBUSY, Some(kept)) => Error::Busy { path: kept.path.clone() },
        _ => Error::Mount { cause: cause.into() },
    }
}

/// Waits until no other container writes to the directory, if one is written to.
///
/// The kernel marks a directory to which an overlay writes, and the mark goes with that overlay, whatever becomes of the
/// programs: no lock of ours could be held as exactly. Without `index` a second overlay is mounted all the same, with no more
/// than a line in the kernel's log. With it the mark is an error, `EBUSY`, and comes before what is wrong with the
/// directory for work here, `EINVAL`: it is on another file system. So nothing is ever mounted by this.
pub(super) fn wait_until_free(parts: &Parts) -> Result<(), Error> {
    let Some(Writable { upper, kept: Some(kept), .. }) = &parts.upper else { return Ok(()) };
    let failed = |cause: Errno| Error::Memory { cause: cause.into() };
    let empty = |name: &str| {
        match mkdirat(&parts.memory, name, Mode::RWXU) {
            // The other way was tried before.
            Ok(()) | Err(Errno::EXIST) => {}
            Err(cause) => return Err(cause),
        }
        openat(&parts.memory, name, DIRECTORY, Mode::empty())
    };
    let (lower, work) = (empty("empty").map_err(failed)?, empty("elsewhere").map_err(failed)?);
    let root = place(parts).map_err(failed)?;
    let data = format!(
        "userxattr,index=on,lowerdir={},upperdir={},workdir={}",
        magic_link(&lower),
        magic_link(upper),
        magic_link(&work)
    );
    let start = Instant::now();
    loop {
        match mount(Some("coracle"), magic_link(&root).as_str(), Some("overlay"), RESTRICT, Some(data.as_str())) {
            Err(nix::Error::EBUSY) if start.elapsed() < PATIENCE => std::thread::sleep(LOOK),
            Err(nix::Error::EBUSY) => return Err(Error::Busy { path: kept.path.clone() }),
            Err(_) => return Ok(()),
            // No kernel does this; it would be in the way.
            Ok(()) => {
                let mounted = place(parts).map_err(failed)?;
                let _ = umount2(magic_link(&mounted).as_str(), MntFlags::MNT_DETACH);
                return Ok(());
            }
        }
    }
}
