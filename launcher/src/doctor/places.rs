//! Directories: home, `/tmp`, and where sessions and images are kept.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use nix::unistd::{getegid, geteuid};
use rustix::fs::{Access, StatVfsMountFlags, access, statfs, statvfs};

use super::Check;
use super::checks::is_absent;
use crate::config::Config;
use crate::ids::Ids;
use crate::session::{Identity, Place};
use crate::{inspect, stored};

/// Bytes below which images hardly fit.
const SPACE_LOW: u64 = 1 << 30;

/// What a directory is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Kind {
    pub(super) name: &'static str,
    /// Several nodes see the same.
    pub(super) shared: bool,
}

/// Of file systems that matter here, by the number that statfs(2) gives.
const KINDS: [(i64, &str, bool); 18] = [
    (0x6969, "NFS", true),
    (0x0187, "autofs", true),
    (0x0BD0_0BD0, "Lustre", true),
    (0x4750_4653, "GPFS", true),
    (0x1983_0326, "BeeGFS", true),
    (0x00C3_6400, "CephFS", true),
    (0xFF53_4D42, "CIFS", true),
    (0xFE53_4D42, "SMB", true),
    (0x5346_414F, "AFS", true),
    (0x0102_1997, "9p", true),
    (0xEF53, "ext4", false),
    (0x5846_5342, "XFS", false),
    (0x9123_683E, "Btrfs", false),
    (0x0102_1994, "tmpfs", false),
    (0x794C_7630, "overlay", false),
    (0x6573_5546, "FUSE", false),
    (0x2FC1_2FC1, "ZFS", false),
    (0x7371_7368, "squashfs", false),
];

pub(super) fn kind(path: &Path) -> io::Result<Kind> {
    #[allow(clippy::cast_lossless, clippy::unnecessary_cast, reason = "its width differs between architectures")]
    let number = statfs(path)?.f_type as i64 & 0xFFFF_FFFF;
    let known = KINDS.iter().find(|(magic, ..)| *magic == number);
    Ok(known.map_or(Kind { name: "another file system", shared: false }, |(_, name, shared)| Kind {
        name,
        shared: *shared,
    }))
}

/// A path's nearest directory that exists.
fn existing(path: &Path) -> Option<&Path> {
    path.ancestors().find(|path| path.is_dir())
}

fn home_path() -> Option<PathBuf> {
    std::env::var_os("HOME").map(PathBuf::from).filter(|path| path.is_absolute())
}

/// Each part of it may wait for a file server.
pub(super) fn home() -> Vec<Check> {
    let name = "home";
    let Some(home) = home_path() else {
        let remedy = "export HOME, and CORACLE_STORE to keep images elsewhere";
        return vec![Check::degraded(
            name,
            "HOME is not set: the user database is asked, and images are not stored",
            remedy,
        )];
    };
    vec![match look(&home) {
        Ok(found) => Check::ok(name, format!("{}{found}", home.display())),
        Err(error) if is_absent(&error) => Check::degraded(
            name,
            format!("{} is not there: containers show no home", home.display()),
            "set HOME to a directory, or use --no-home; set CORACLE_STORE for images",
        ),
        Err(error) => Check::degraded(
            name,
            format!("{}: {error}: containers show no home", home.display()),
            "set HOME to a directory that you can read, or use --no-home",
        ),
    }]
}

fn look(home: &Path) -> io::Result<String> {
    let status = fs::metadata(home)?;
    if !status.is_dir() {
        return Err(io::Error::from(io::ErrorKind::NotADirectory));
    }
    access(home, Access::READ_OK | Access::EXEC_OK)?;
    let kind = kind(home)?;
    let mut found = format!(" on {}", kind.name);
    let real = fs::canonicalize(home)?;
    if real != home {
        found += &format!(", by a symbolic link to {}: containers show it as {}", real.display(), home.display());
    }
    if status.permissions().mode() & 0o077 == 0 {
        found += ", closed to others";
    }
    if access(home, Access::WRITE_OK).is_err() {
        found += ", not writable";
    }
    Ok(found)
}

pub(super) fn check() -> Vec<Check> {
    vec![temporary(), sessions(), store()]
}

fn temporary() -> Check {
    let (name, path) = ("/tmp", Path::new("/tmp"));
    let flags = match statvfs(path) {
        Ok(status) => status.f_flag,
        Err(error) => {
            return Check::degraded(name, format!("{error}: containers show none"), "make it: mkdir -m 1777 /tmp");
        }
    };
    let kind = kind(path).unwrap_or(Kind { name: "another file system", shared: false });
    if flags.contains(StatVfsMountFlags::RDONLY) {
        let found = format!("read-only, on {}: programs cannot write there", kind.name);
        Check::degraded(name, found, "--contain gives containers one in memory")
    } else if kind.shared {
        let found = format!("on {}, which nodes share", kind.name);
        Check::degraded(
            name,
            found,
            "set CORACLE_SESSION_DIR to a directory of your own on a local file system; --contain gives containers a /tmp in memory",
        )
    } else if flags.contains(StatVfsMountFlags::NOEXEC) {
        let found = format!("noexec, on {}: programs that execute what they write there fail", kind.name);
        Check::degraded(name, found, "--env TMPDIR= another directory; --contain gives containers one in memory")
    } else {
        Check::ok(name, format!("on {}", kind.name))
    }
}

/// As a launch would make one.
fn sessions() -> Check {
    let name = "sessions";
    let remedy = "set CORACLE_SESSION_DIR to a directory of yours alone (mode 0700) on a local file system";
    let lost = "each launch mounts its image for itself, without sharing memory";
    let ids = Ids::own(geteuid().as_raw(), getegid().as_raw());
    let identity = Identity::of(Path::new("/proc/self/exe"), &ids, false);
    let place = identity.and_then(|identity| Place::open(&identity));
    match place {
        Ok(Some(place)) => match listen(&place) {
            Ok(()) if kind(place.path()).is_ok_and(|kind| kind.shared) => {
                let found = format!("{} is shared between nodes: {lost} with other nodes", place.path().display());
                Check::degraded(name, found, remedy)
            }
            Ok(()) => Check::ok(name, format!("in {}", place.path().display())),
            Err(error) => {
                let found = format!("no sockets in {}: {error}: {lost}", place.path().display());
                Check::degraded(name, found, remedy)
            }
        },
        Ok(None) => Check::degraded(name, format!("none in a user namespace other than the host's: {lost}"), remedy),
        Err(error) => Check::degraded(name, format!("{error}: {lost}"), remedy),
    }
}

/// Not every file system has sockets.
fn listen(place: &Place) -> io::Result<()> {
    let path = format!("/proc/self/fd/{}/doctor-{}", place.as_fd().as_raw_fd(), std::process::id());
    let listener = UnixListener::bind(&path)?;
    fs::remove_file(&path)?;
    drop(listener);
    Ok(())
}

fn store() -> Check {
    let name = "store";
    let remedy =
        "set CORACLE_STORE, or [store] dir of ~/.config/coracle/coracle.toml, to a directory that you can write";
    let found = Config::read(home_path().as_deref()).map_err(|error| error.to_string()).and_then(|config| {
        let store = stored::open(&config.store).map_err(|error| error.to_string())?;
        space(store.dir()).map_err(|error| format!("{}: {error}", store.dir().display()))
    });
    match found {
        Ok((found, space)) if space < SPACE_LOW => Check::degraded(
            name,
            format!("{found}: images may not fit"),
            "coracle prune; or set CORACLE_STORE elsewhere",
        ),
        Ok((found, _)) => Check::ok(name, found),
        Err(error) => Check::degraded(name, format!("{error}: images cannot be kept, but files run"), remedy),
    }
}

/// Where it is and on what, and how much is free.
fn space(directory: &Path) -> io::Result<(String, u64)> {
    let there = existing(directory).ok_or(io::ErrorKind::NotFound)?;
    access(there, Access::WRITE_OK | Access::EXEC_OK)?;
    let (kind, status) = (kind(there)?, statvfs(there)?);
    let free = status.f_bavail.saturating_mul(status.f_frsize);
    let shared = if kind.shared { ", which nodes share" } else { "" };
    Ok((format!("{} on {}{shared}, {} free", directory.display(), kind.name, inspect::bytes(free)), free))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn homes_are_described() {
        let dir = tempfile::tempdir().unwrap();
        let (real, link) = (dir.path().join("real"), dir.path().join("link"));
        fs::create_dir(&real).unwrap();
        fs::set_permissions(&real, PermissionsExt::from_mode(0o700)).unwrap();
        std::os::unix::fs::symlink(&real, &link).unwrap();
        let found = look(&link).unwrap();
        assert!(
            found.contains(&format!("link to {}", real.display())) && found.contains("closed to others"),
            "{found}"
        );
        assert!(look(&dir.path().join("absent")).is_err());
        fs::write(dir.path().join("file"), "").unwrap();
        assert!(look(&dir.path().join("file")).is_err());
        assert_eq!(existing(&dir.path().join("a/b")), Some(dir.path()));
    }

    #[test]
    fn file_systems_are_known_by_name() {
        assert_eq!(kind(Path::new("/proc")).unwrap().name, "another file system");
        assert!(KINDS.iter().all(|(magic, ..)| KINDS.iter().filter(|(other, ..)| other == magic).count() == 1));
    }
}
