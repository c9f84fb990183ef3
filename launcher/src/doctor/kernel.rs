//! The kernel itself, and what of it has a slower substitute.

use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat2};
use rustix::io::Errno;

use super::Check;
use super::attempt::{Outcome, attempt};
use super::checks::in_words;
use crate::engine::confine::confine;
use crate::sys::descriptors::has_close_range;
use crate::sys::process::in_child;

/// Oldest kernel with FUSE in user namespaces.
const KERNEL_MIN: (u32, u32) = (4, 18);

pub(super) fn check() -> Vec<Check> {
    let mut checks = vec![release(), openat2_call(), close_range_call()];
    checks.extend(confinement());
    checks
}

fn release() -> Check {
    let name = "kernel";
    let release =
        nix::sys::utsname::uname().map(|uts| uts.release().to_string_lossy().into_owned()).unwrap_or_default();
    match version(&release) {
        Some(version) if version < KERNEL_MIN => {
            let remedy = "FUSE in user namespaces came with Linux 4.18 (RHEL 8): what is tried below decides";
            Check::degraded(name, release, remedy)
        }
        _ => Check::ok(name, release),
    }
}

/// The first two numbers of a release.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
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

/// The file system server confines itself as in a launch.
fn confinement() -> Vec<Check> {
    let confined = attempt(std::time::Duration::from_secs(5), || {
        // A filter's refusals are errors only once this is set, as it is for every program.
        nix::sys::prctl::set_no_new_privs().map_err(in_words)?;
        confine(None, None).map(|confinement| (confinement.seccomp, confinement.landlock)).map_err(in_words)
    });
    let names = ["seccomp", "Landlock"];
    let (seccomp, landlock) = match confined {
        Outcome::Done(Ok(confined)) => confined,
        Outcome::Done(Err(text)) | Outcome::Lost(text) => {
            let remedy = "launches fail at this: report it with the kernel's release";
            return names.map(|name| Check::broken(name, text.clone(), remedy)).into();
        }
        Outcome::Late => (false, false),
    };
    let line = |name, there, without: &str, remedy: &str| match there {
        true => Check::ok(name, "confines the file system server"),
        false => Check::degraded(name, without, remedy),
    };
    vec![
        line(
            "seccomp",
            seccomp,
            "not available: the file system server is not kept from system calls, and seccomp profiles are refused",
            "a kernel with CONFIG_SECCOMP_FILTER",
        ),
        line(
            "Landlock",
            landlock,
            "not available: the file system server is confined by seccomp alone",
            "Linux 5.13 or later with landlock among the security modules (lsm=landlock,… on the kernel's command line)",
        ),
    ]
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
}
