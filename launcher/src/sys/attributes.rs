//! Restrictions on a mount and on everything mounted below it.
#![allow(unsafe_code, reason = "neither nix nor rustix has mount_setattr(2)")]

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount};
use rustix::fs::{StatVfsMountFlags, statvfs};

/// Flags of `mount(2)` and what `mount_setattr(2)` calls them.
const ATTRIBUTES: [(MsFlags, u64); 4] = [
    (MsFlags::MS_RDONLY, libc::MOUNT_ATTR_RDONLY),
    (MsFlags::MS_NOSUID, libc::MOUNT_ATTR_NOSUID),
    (MsFlags::MS_NODEV, libc::MOUNT_ATTR_NODEV),
    (MsFlags::MS_NOEXEC, libc::MOUNT_ATTR_NOEXEC),
];

/// Adds `restrict` to the mount at `target` and to those below it. `proc` is where a `/proc` is to be found.
///
/// # Errors
/// When the kernel refuses; nothing may be assumed to be restricted then.
pub fn restrict(target: impl AsFd, restrict: MsFlags, proc: &Path) -> io::Result<()> {
    match set_attributes(&target, restrict) {
        // EPERM is what some container runtimes' seccomp filters give for calls that they do not know.
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::EPERM)) => {
            remount(&target, restrict, proc)
        }
        result => result,
    }
}

/// `mount_setattr(2)`, Linux 5.12: the whole tree at once.
fn set_attributes(target: impl AsFd, restrict: MsFlags) -> io::Result<()> {
    let set = ATTRIBUTES.iter().filter(|(flag, _)| restrict.contains(*flag));
    let attributes = libc::mount_attr {
        attr_set: set.fold(0, |set, (_, attribute)| set | attribute),
        attr_clr: 0,
        propagation: 0,
        userns_fd: 0,
    };
    let flags = libc::AT_EMPTY_PATH | libc::AT_RECURSIVE;
    // SAFETY: the path is a constant C string and the structure lives across the call; its size is given.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            target.as_fd().as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const attributes,
            size_of::<libc::mount_attr>(),
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The same before Linux 5.12: each mount by itself.
fn remount(target: impl AsFd, restrict: MsFlags, proc: &Path) -> io::Result<()> {
    let base = fs::read_link(proc.join(format!("self/fd/{}", target.as_fd().as_raw_fd())))?;
    let table = fs::read(proc.join("self/mountinfo"))?;
    for point in points_below(&table, &base) {
        // A user namespace may not lift the flags that a mount came with, and a remount that does not repeat them
        // would; so they are read first. Linux clears what is not given.
        let flags = restrict | kept(statvfs(&point)?.f_flag);
        mount(None::<&str>, &point, None::<&str>, MsFlags::MS_REMOUNT | MsFlags::MS_BIND | flags, None::<&str>)?;
    }
    Ok(())
}

fn kept(flags: StatVfsMountFlags) -> MsFlags {
    let pairs = [
        (StatVfsMountFlags::RDONLY, MsFlags::MS_RDONLY),
        (StatVfsMountFlags::NOSUID, MsFlags::MS_NOSUID),
        (StatVfsMountFlags::NODEV, MsFlags::MS_NODEV),
        (StatVfsMountFlags::NOEXEC, MsFlags::MS_NOEXEC),
        (StatVfsMountFlags::NOATIME, MsFlags::MS_NOATIME),
        (StatVfsMountFlags::NODIRATIME, MsFlags::MS_NODIRATIME),
        (StatVfsMountFlags::RELATIME, MsFlags::MS_RELATIME),
    ];
    pairs.iter().filter(|(flag, _)| flags.contains(*flag)).fold(MsFlags::empty(), |all, (_, flag)| all | *flag)
}

/// Mount points at and below `base` in the text of a `mountinfo` file, parents first.
fn points_below(table: &[u8], base: &Path) -> Vec<PathBuf> {
    let point = |line: &[u8]| Some(unescape(line.split(|byte| *byte == b' ').nth(4)?));
    let mut points: Vec<PathBuf> =
        table.split(|byte| *byte == b'\n').filter_map(point).filter(|point| point.starts_with(base)).collect();
    points.sort();
    points.dedup();
    points
}

/// The kernel writes space, tab, line feed and backslash as three octal digits.
fn unescape(field: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, tail)) = rest.split_first() {
        let digits = tail.get(..3).and_then(|digits| std::str::from_utf8(digits).ok());
        let code = digits.and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match (first, code) {
            (b'\\', Some(code)) => {
                bytes.push(code);
                rest = tail.get(3..).unwrap_or_default();
            }
            _ => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    PathBuf::from(std::ffi::OsString::from_vec(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::namespace;
    use crate::sys::process::in_child;

    #[test]
    fn mount_points_are_found_by_component_and_unescaped() {
        let table = b"22 1 0:20 / / rw - ext4 x rw\n23 22 0:21 / /a\\040b rw - tmpfs t rw\n\
                      24 22 0:22 / /a\\040b/c ro - tmpfs t rw\n25 22 0:23 / /a\\040bc rw - tmpfs t rw\n";
        assert_eq!(points_below(table, Path::new("/a b")), [Path::new("/a b"), Path::new("/a b/c")]);
        assert_eq!(unescape(b"a\\134\\01"), Path::new("a\\\\01"));
    }

    /// A tree of two mounts, made in a namespace of its own.
    fn userns_restricts_the_whole_tree(restrict: fn(fs::File, MsFlags, &Path) -> io::Result<()>) {
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path().to_path_buf();
        let ids = (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw());
        let outcome = in_child(move || {
            namespace::enter_user(ids.0, ids.1).map_err(io::Error::other)?;
            namespace::enter_mount().map_err(io::Error::other)?;
            let tmpfs = |at: &Path| mount(Some("t"), at, Some("tmpfs"), MsFlags::MS_NOSUID, None::<&str>);
            tmpfs(&base)?;
            fs::create_dir(base.join("below"))?;
            tmpfs(&base.join("below"))?;
            restrict(fs::File::open(&base)?, MsFlags::MS_RDONLY, Path::new("/proc"))?;
            for path in [base.join("x"), base.join("below/x")] {
                let refused = fs::write(path, "").is_err_and(|error| error.kind() == io::ErrorKind::ReadOnlyFilesystem);
                if !refused || !statvfs(&base)?.f_flag.contains(StatVfsMountFlags::NOSUID) {
                    return Err(io::Error::other("not restricted"));
                }
            }
            Ok(())
        });
        outcome.unwrap();
    }

    #[test]
    fn userns_restrict_by_attributes() {
        userns_restricts_the_whole_tree(|target, flags, _| set_attributes(target, flags));
    }

    #[test]
    fn userns_restrict_by_remounts() {
        userns_restricts_the_whole_tree(remount);
    }
}
