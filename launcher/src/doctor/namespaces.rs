//! Namespaces: that of users, without which nothing works, and those that options ask for.

use nix::sched::{CloneFlags, unshare};
use nix::unistd::{getegid, geteuid};

use super::Check;
use super::checks::{in_words, number, split_remedy, trial};
use crate::engine::namespace;
use crate::host::refusal::Circumstances;

/// The caller's ids.
pub(super) fn ids() -> (u32, u32) {
    (geteuid().as_raw(), getegid().as_raw())
}

/// Enters a user namespace as a launch does.
pub(super) fn enter() -> Result<(), String> {
    let (uid, gid) = ids();
    namespace::enter_user(uid, gid).map_err(in_words)
}

/// And a mount namespace.
pub(super) fn enter_mount() -> Result<(), String> {
    enter()?;
    namespace::enter_mount().map_err(in_words)
}

pub(super) fn user() -> Vec<Check> {
    let outcome = trial(enter_mount);
    let works = outcome.is_ok();
    let mut checks = vec![match outcome {
        Ok(()) => Check::ok("user namespaces", "can be created, with the caller's ids"),
        Err(error) => {
            let (error, remedy) = split_remedy(&error);
            Check::broken("user namespaces", error, remedy)
        }
    }];
    checks.extend(limits());
    checks.extend(switches(works));
    checks
}

/// How many there may be. Reported only where the kernel says.
fn limits() -> Vec<Check> {
    let limits = [
        ("max_user_namespaces", "/proc/sys/user/max_user_namespaces"),
        ("max_mnt_namespaces", "/proc/sys/user/max_mnt_namespaces"),
    ];
    let line = |(name, path)| {
        number(path).map(|value| match value {
            0 => Check::broken(
                name,
                "0",
                format!("as root: sysctl -w user.{name}=15000, and in /etc/sysctl.d to keep it"),
            ),
            value => Check::ok(name, value.to_string()),
        })
    };
    limits.into_iter().filter_map(line).collect()
}

/// What distributions use to switch user namespaces off: to blame only if there are none.
fn switches(works: bool) -> Vec<Check> {
    let found = Circumstances::read();
    let mut checks = Vec::new();
    let mut switch = |name, on: bool, what: &str| {
        if on && works {
            checks.push(Check::ok(name, format!("{what}, but not for this program")));
        } else if on {
            checks.push(Check::broken(name, what, found.explain()));
        }
    };
    switch("unprivileged_userns_clone", found.clone_off, "switches user namespaces off");
    switch("AppArmor", found.apparmor, "restricts user namespaces to programs with a profile");
    switch("SELinux", found.selinux, "denies user namespaces");
    switch("chroot", found.chroot, "the root directory is not that of a mount");
    checks
}

/// Those that options ask for.
pub(super) fn others() -> Vec<Check> {
    let make = |name, option: &str, flags: CloneFlags| {
        let made = trial(|| {
            enter()?;
            unshare(flags).map_err(in_words)
        });
        match made {
            Ok(()) => Check::ok(name, "can be created"),
            Err(error) => Check::degraded(name, format!("{error}: {option} fails"), limit_of(name)),
        }
    };
    vec![
        make("pid namespace", "--pid", CloneFlags::CLONE_NEWPID),
        fresh_proc(),
        make("ipc namespace", "--ipc", CloneFlags::CLONE_NEWIPC),
        make("uts namespace", "--hostname", CloneFlags::CLONE_NEWUTS),
        make("net namespace", "--net", CloneFlags::CLONE_NEWNET),
    ]
}

fn limit_of(name: &str) -> String {
    let kind = name.split(' ').next().unwrap_or(name);
    format!("as root: sysctl -w user.max_{kind}_namespaces=15000; the kernel may also lack them (CONFIG_NAMESPACES)")
}

/// The kernel gives a new `/proc` only to those who see all of an old one (`mount_too_revealing`).
fn fresh_proc() -> Check {
    let name = "fresh /proc";
    let mounted = trial(|| {
        enter_mount()?;
        unshare(CloneFlags::CLONE_NEWPID).map_err(in_words)?;
        trial(|| {
            let flags = nix::mount::MsFlags::MS_NOSUID | nix::mount::MsFlags::MS_NODEV | nix::mount::MsFlags::MS_NOEXEC;
            nix::mount::mount(Some("proc"), "/proc", Some("proc"), flags, None::<&str>).map_err(in_words)
        })
    });
    match mounted {
        Ok(()) => Check::ok(name, "can be mounted"),
        Err(error) => {
            let remedy = "parts of /proc are covered, as in containers: give the outer container an unmasked /proc (docker --security-opt systempaths=unconfined, podman --security-opt unmask=ALL), or do without --pid";
            Check::degraded(name, format!("{error}: processes of its own cannot have their /proc"), remedy)
        }
    }
}
