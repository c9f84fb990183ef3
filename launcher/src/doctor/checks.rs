//! The checks, in the order in which a launch needs what they check.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use nix::sys::resource::{Resource, getrlimit};
use nix::unistd::{getegid, geteuid};
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat2};
use rustix::io::Errno;

use super::Check;
use crate::engine::{Error, namespace};
use crate::host::mount_point;
use crate::sys::descriptors::has_close_range;
use crate::sys::process::in_child;

/// Oldest kernel with FUSE in user namespaces.
const KERNEL_MIN: (u32, u32) = (4, 18);
/// Descriptors and processes below which real programs run into limits.
const LIMIT_LOW: u64 = 1024;

pub(super) fn all() -> Vec<Check> {
    let mut checks = vec![kernel(), user_namespaces()];
    checks.extend(switches());
    checks.extend([fuse_device(), fuse_mount()]);
    checks.extend([openat2_call(), close_range_call(), descriptors(), processes()]);
    checks
}

fn kernel() -> Check {
    let name = "kernel";
    let release =
        nix::sys::utsname::uname().map(|uts| uts.release().to_string_lossy().into_owned()).unwrap_or_default();
    match version(&release) {
        Some(version) if version < KERNEL_MIN => {
            Check::broken(name, release, "FUSE in user namespaces needs Linux 4.18 (RHEL 8) or later")
        }
        _ => Check::ok(name, release),
    }
}

/// The first two numbers of a release.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

fn user_namespaces() -> Check {
    let name = "user namespaces";
    let (uid, gid) = (geteuid().as_raw(), getegid().as_raw());
    match in_child(|| namespace::enter_user(uid, gid).map_err(io_error)) {
        Ok(()) => Check::ok(name, "can be created, with the caller's ids"),
        Err(error) => Check::broken(name, error.to_string(), "the settings below say why, where they can"),
    }
}

/// A launch error keeps its words but must pass through a pipe.
fn io_error(error: Error) -> io::Error {
    io::Error::other(error.to_string())
}

fn number(path: &str) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// What distributions use to switch user namespaces off. Reported only where it exists.
fn switches() -> Vec<Check> {
    let mut checks = Vec::new();
    for (name, path) in [
        ("max_user_namespaces", "/proc/sys/user/max_user_namespaces"),
        ("max_mnt_namespaces", "/proc/sys/user/max_mnt_namespaces"),
    ] {
        checks.extend(number(path).map(|value| {
            if value == 0 {
                Check::broken(
                    name,
                    "0",
                    format!("as root: sysctl -w user.{name}=15000, and in /etc/sysctl.d to keep it"),
                )
            } else {
                Check::ok(name, value.to_string())
            }
        }));
    }
    let name = "unprivileged_userns_clone";
    checks.extend(number("/proc/sys/kernel/unprivileged_userns_clone").map(|value| match value {
        0 if !geteuid().is_root() => Check::broken(
            name,
            "0",
            "as root: sysctl -w kernel.unprivileged_userns_clone=1, and in /etc/sysctl.d to keep it",
        ),
        value => Check::ok(name, value.to_string()),
    }));
    let name = "AppArmor";
    checks.extend(number("/proc/sys/kernel/apparmor_restrict_unprivileged_userns").map(|value| match value {
        0 => Check::ok(name, "does not restrict user namespaces"),
        // A profile may except coracle, so the mount below decides.
        _ => Check::degraded(
            name,
            "restricts user namespaces to programs with a profile",
            "if the mount fails, as root: install a profile for coracle with `userns,`, or sysctl -w kernel.apparmor_restrict_unprivileged_userns=0",
        ),
    }));
    checks
}

fn fuse_device() -> Check {
    let name = "/dev/fuse";
    match File::options().read(true).write(true).open(name) {
        Ok(_) => Check::ok(name, "can be opened"),
        Err(error) if error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ENODEV) => {
            Check::broken(name, error.to_string(), "as root: modprobe fuse, and in /etc/modules-load.d to keep it")
        }
        Err(error) => {
            let mode = fs::metadata(name)
                .map(|metadata| format!("{:o}, owner {}", metadata.permissions().mode() & 0o7777, metadata.uid()));
            let found = format!("{error}; its mode is {}", mode.unwrap_or_default());
            Check::broken(name, found, "as root: chmod 0666 /dev/fuse; udev's rule for it keeps that on most systems")
        }
    }
}

/// The steps of a launch up to the mount; nobody answers, and the mount goes with the child.
fn fuse_mount() -> Check {
    let name = "FUSE mount";
    let ids = (geteuid().as_raw(), getegid().as_raw());
    let Some(at) = mount_point() else {
        return Check::broken(name, "there is no directory to mount over", "make /tmp or /mnt");
    };
    let attempt = in_child(|| {
        namespace::enter_user(ids.0, ids.1).map_err(io_error)?;
        let fuse = namespace::open_fuse().map_err(io_error)?;
        namespace::enter_mount().map_err(io_error)?;
        namespace::mount_fuse(fuse.as_fd(), &at, ids).map_err(io_error)
    });
    match attempt {
        Ok(()) => Check::ok(name, "works in a user namespace"),
        Err(error) => {
            let (error, remedy) = split_remedy(error.to_string());
            Check::broken(name, error, remedy)
        }
    }
}

/// Launch errors carry their remedy after a semicolon.
fn split_remedy(text: String) -> (String, String) {
    match text.split_once("; ") {
        Some((error, remedy)) => (error.to_owned(), remedy.to_owned()),
        None => (text, "look for the security module that forbids it: dmesg, or journalctl -k".to_owned()),
    }
}

fn openat2_call() -> Check {
    let name = "openat2";
    match openat2(CWD, Path::new("/"), OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), ResolveFlags::IN_ROOT) {
        Ok(_) => Check::ok(name, "works"),
        Err(error) => fallback(name, error),
    }
}

fn close_range_call() -> Check {
    let name = "close_range";
    match in_child(has_close_range) {
        Ok(()) => Check::ok(name, "works"),
        Err(error) => fallback(name, Errno::from_io_error(&error).unwrap_or(Errno::NOSYS)),
    }
}

/// Slower ways exist, so a missing call is no fault.
fn fallback(name: &'static str, error: Errno) -> Check {
    Check::ok(name, format!("not available ({error}); a slower way is used"))
}

fn limit(name: &'static str, resource: Resource, remedy: &str) -> Check {
    match getrlimit(resource) {
        Ok((soft, hard)) if soft < LIMIT_LOW => {
            Check::degraded(name, format!("{soft}, at most {}", Limit(hard)), remedy)
        }
        Ok((soft, _)) => Check::ok(name, Limit(soft).to_string()),
        Err(error) => Check::ok(name, format!("unknown ({error})")),
    }
}

struct Limit(u64);

impl std::fmt::Display for Limit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.0 == nix::libc::RLIM_INFINITY { f.write_str("unlimited") } else { write!(f, "{}", self.0) }
    }
}

fn descriptors() -> Check {
    limit("open files", Resource::RLIMIT_NOFILE, "raise it: ulimit -n, or LimitNOFILE of slurmd")
}

fn processes() -> Check {
    limit("processes", Resource::RLIMIT_NPROC, "raise it: ulimit -u, or /etc/security/limits.d")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_compare_as_numbers() {
        assert_eq!(version("4.18.0-553.el8_10.x86_64"), Some((4, 18)));
        assert!(version("3.10.0").unwrap() < KERNEL_MIN && version("5.4").unwrap() > KERNEL_MIN);
        assert_eq!(version("odd"), None);
    }

    #[test]
    fn remedies_are_told_from_errors() {
        let (error, remedy) = split_remedy("cannot x: y; do z".to_owned());
        assert_eq!((error.as_str(), remedy.as_str()), ("cannot x: y", "do z"));
        assert!(split_remedy("cannot x".to_owned()).1.contains("dmesg"));
    }
}
