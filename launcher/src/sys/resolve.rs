//! Opens paths inside a directory that is to become the root, whatever its symbolic links say.
//!
//! The image is not trusted: `/dev -> /host/dev` in it must never lead a mount out of the new root (CVE-2026-47766 in crun).

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path};

use rustix::fs::{Mode, OFlags, ResolveFlags, openat, openat2, readlinkat};
use rustix::io::{Errno, fcntl_dupfd_cloexec};

/// As many as the kernel follows.
const LINKS_MAX: usize = 40;

/// Opens `path` with `O_PATH`, absolute paths and links starting at `root`, `..` not leaving it.
///
/// While the host's root is stacked on `root`, the kernel itself would go astray: from a directory of `root`, `..` leads
/// to what is mounted on top, even with `RESOLVE_IN_ROOT`. So the kernel gets only paths without `..`, and links, whose
/// targets may have some, are followed here.
///
/// # Errors
/// As for `open(2)`.
pub fn in_root(root: impl AsFd, path: &Path) -> Result<OwnedFd, Errno> {
    if path.components().any(|component| component == Component::ParentDir) {
        return by_walk(root.as_fd(), path);
    }
    match by_kernel(root.as_fd(), path) {
        // LOOP: there is a link. PERM is what some container runtimes' seccomp filters give for calls that they do not
        // know.
        Err(Errno::LOOP | Errno::NOSYS | Errno::PERM) => by_walk(root.as_fd(), path),
        result => result,
    }
}

/// `openat2(2)`, Linux 5.6: one call for a path without links.
fn by_kernel(root: BorrowedFd<'_>, path: &Path) -> Result<OwnedFd, Errno> {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS;
    loop {
        match openat2(root, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), resolve) {
            // The kernel could not rule out that a rename elsewhere interfered.
            Err(Errno::AGAIN) => {}
            result => return result,
        }
    }
}

/// For every kernel and every path: component by component, with `..` and links resolved here.
fn by_walk(root: BorrowedFd<'_>, path: &Path) -> Result<OwnedFd, Errno> {
    let mut above: Vec<OwnedFd> = Vec::new();
    let mut at = fcntl_dupfd_cloexec(root, 3)?;
    let mut pending = components(path);
    let mut links = 0;
    while let Some(name) = pending.pop() {
        if name == ".." {
            // Only a directory has a parent.
            openat(&at, c".", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
            if let Some(parent) = above.pop() {
                at = parent;
            }
            continue;
        }
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let next = openat(&at, &name, flags, Mode::empty())?;
        // An empty path means the descriptor's own link; what is no link gives ENOENT, or EINVAL.
        match readlinkat(&next, c"", Vec::new()) {
            Ok(target) => {
                links += 1;
                if links > LINKS_MAX {
                    return Err(Errno::LOOP);
                }
                let target = OsString::from_vec(target.into_bytes());
                let target = Path::new(&target);
                if target.is_absolute() {
                    above.clear();
                    at = fcntl_dupfd_cloexec(root, 3)?;
                }
                pending.extend(components(target));
            }
            Err(Errno::NOENT | Errno::INVAL) => above.push(std::mem::replace(&mut at, next)),
            Err(error) => return Err(error),
        }
    }
    Ok(at)
}

/// Names, the last first.
fn components(path: &Path) -> Vec<OsString> {
    let name = |component: Component<'_>| match component {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some(OsStr::from_bytes(b"..").to_owned()),
        _ => None,
    };
    path.components().rev().filter_map(name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::fd::AsRawFd;
    use std::os::unix::fs::symlink;

    fn stays_inside(open: fn(BorrowedFd<'_>, &Path) -> Result<OwnedFd, Errno>) {
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path().canonicalize().unwrap();
        let root = base.join("root");
        fs::create_dir_all(root.join("usr/bin")).unwrap();
        fs::create_dir(base.join("outside")).unwrap();
        fs::write(root.join("usr/bin/sh"), "").unwrap();
        symlink("usr/bin", root.join("bin")).unwrap();
        symlink("/usr/bin/sh", root.join("abs")).unwrap();
        symlink("../../../outside", root.join("usr/escape")).unwrap();
        symlink("/usr/../../../usr", root.join("up")).unwrap();
        symlink("loop", root.join("loop")).unwrap();
        let root_fd = fs::File::open(&root).unwrap();
        let at = |path: &str| {
            let fd = open(root_fd.as_fd(), Path::new(path))?;
            let path = fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd())).unwrap();
            Ok(path.strip_prefix(&base).unwrap().to_str().unwrap().to_owned())
        };
        assert_eq!(at("/bin/sh"), Ok("root/usr/bin/sh".to_owned()));
        assert_eq!(at("abs"), Ok("root/usr/bin/sh".to_owned()));
        assert_eq!(at("/../../up/bin/.."), Ok("root/usr".to_owned()));
        assert_eq!(at("/"), Ok("root".to_owned()));
        assert_eq!(at("/usr/escape"), Err(Errno::NOENT), "the link leads into the root, where nothing is");
        assert_eq!(at("/usr/escape/../usr"), Err(Errno::NOENT));
        assert_eq!(at("/loop"), Err(Errno::LOOP));
        assert_eq!(at("/usr/bin/sh/x"), Err(Errno::NOTDIR));
        assert_eq!(at("/usr/bin/sh/.."), Err(Errno::NOTDIR));
    }

    #[test]
    fn paths_stay_inside() {
        stays_inside(|root, path| in_root(root, path));
    }

    #[test]
    fn the_walk_alone_stays_inside() {
        stays_inside(by_walk);
    }
}
