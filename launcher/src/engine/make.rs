//! Makes mount points on a file system that the engine itself has just mounted in the new root.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Write;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, Mode, OFlags, chmodat, mkdirat, openat, symlinkat};
use rustix::io::Errno;

use super::Error;
use crate::sys::resolve;

/// Makes a directory and its parents, as far as they are missing.
pub(super) fn directory(root: BorrowedFd<'_>, path: &Path) -> Result<(), Error> {
    // From the top down; the first ancestors exist.
    let mut missing: Vec<&Path> = Vec::new();
    for ancestor in path.ancestors() {
        match resolve::in_root(root, ancestor) {
            Ok(_) => break,
            Err(Errno::NOENT) => missing.push(ancestor),
            Err(cause) => return Err(failed(path, cause)),
        }
    }
    for ancestor in missing.into_iter().rev() {
        let (parent, name) = split(root, ancestor)?;
        mkdirat(&parent, name, Mode::from_raw_mode(0o755)).map_err(|cause| failed(ancestor, cause))?;
    }
    Ok(())
}

/// Makes an empty file unless something is there.
pub(super) fn file(root: BorrowedFd<'_>, path: &Path) -> Result<(), Error> {
    written(root, path, &[])
}

/// Makes a file with this content unless something is there.
pub(super) fn written(root: BorrowedFd<'_>, path: &Path, content: &[u8]) -> Result<(), Error> {
    let (parent, name) = prepare(root, path)?;
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC | OFlags::WRONLY;
    match openat(&parent, name, flags, Mode::from_raw_mode(0o644)) {
        Ok(file) => {
            File::from(file).write_all(content).map_err(|cause| Error::Make { path: path.to_path_buf(), cause })
        }
        Err(Errno::EXIST) => Ok(()),
        Err(cause) => Err(failed(path, cause)),
    }
}

/// Makes a symbolic link unless something is there.
pub(super) fn link(root: BorrowedFd<'_>, path: &Path, target: &Path) -> Result<(), Error> {
    let (parent, name) = prepare(root, path)?;
    match symlinkat(target, &parent, name) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(cause) => Err(failed(path, cause)),
    }
}

/// Sets permission bits; a symbolic link in the last place is not followed, and has none.
pub(super) fn mode(root: BorrowedFd<'_>, path: &Path, mode: u32) -> Result<(), Error> {
    let (parent, name) = split(root, path)?;
    let opened = openat(&parent, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty());
    let opened = opened.map_err(|cause| failed(path, cause))?;
    let stat = rustix::fs::fstat(&opened).map_err(|cause| failed(path, cause))?;
    if rustix::fs::FileType::from_raw_mode(stat.st_mode).is_symlink() {
        return Ok(());
    }
    chmodat(&parent, name, Mode::from_raw_mode(mode), AtFlags::empty()).map_err(|cause| failed(path, cause))
}

fn prepare<'p>(root: BorrowedFd<'_>, path: &'p Path) -> Result<(OwnedFd, &'p OsStr), Error> {
    directory(root, path.parent().unwrap_or(Path::new("/")))?;
    split(root, path)
}

/// The open parent, and the name in it.
fn split<'p>(root: BorrowedFd<'_>, path: &'p Path) -> Result<(OwnedFd, &'p OsStr), Error> {
    let name = path.file_name().ok_or_else(|| failed(path, Errno::INVAL))?;
    let parent = path.parent().unwrap_or(Path::new("/"));
    let parent = resolve::in_root(root, parent).map_err(|cause| failed(path, cause))?;
    Ok((parent, name))
}

fn failed(path: &Path, cause: Errno) -> Error {
    Error::Make { path: path.to_path_buf(), cause: cause.into() }
}
