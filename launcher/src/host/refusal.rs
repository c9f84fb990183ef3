//! What keeps an ordinary user from a user namespace, where the kernel's error alone does not say.

use std::fs;

/// The switches and circumstances that can be read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Circumstances {
    /// `user.max_user_namespaces` is 0.
    pub none_allowed: bool,
    /// `kernel.unprivileged_userns_clone` is 0.
    pub clone_off: bool,
    /// AppArmor's restriction of Ubuntu 23.10 and later.
    pub apparmor: bool,
    /// The SELinux boolean `deny_user_namespace`.
    pub selinux: bool,
    /// The root directory is no mount point, as in a chroot.
    pub chroot: bool,
    /// The caller's own ids have no mapping in this user namespace.
    pub unmapped: bool,
    /// A seccomp filter is in force, as in most containers.
    pub seccomp: bool,
}

impl Circumstances {
    /// Of this process.
    pub(crate) fn read() -> Self {
        let is = |path: &str, value: &str| fs::read_to_string(path).is_ok_and(|text| text.trim() == value);
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        Self {
            none_allowed: is("/proc/sys/user/max_user_namespaces", "0"),
            clone_off: is("/proc/sys/kernel/unprivileged_userns_clone", "0"),
            apparmor: is("/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1"),
            // The value in force, and the pending one.
            selinux: fs::read_to_string("/sys/fs/selinux/booleans/deny_user_namespace")
                .is_ok_and(|text| text.starts_with('1')),
            unmapped: fs::read_to_string("/proc/self/uid_map")
                .is_ok_and(|map| !maps(&map, nix::unistd::geteuid().as_raw())),
            chroot: !mounts.is_empty() && !has_root(&mounts),
            seccomp: status.lines().any(|line| line.split_whitespace().eq(["Seccomp:", "2"])),
        }
    }

    /// The likeliest reason for `EPERM`, and what to do.
    pub(crate) const fn explain(self) -> &'static str {
        if self.unmapped {
            "this process is in a user namespace in which its user id is not mapped: make that with a map, for instance by unshare -Ur"
        } else if self.chroot {
            "this is a chroot, in which the kernel makes none: run coracle outside of it, or have it made with pivot_root, as bwrap and container runtimes do"
        } else if self.clone_off {
            "they are switched off: an administrator can run sysctl -w kernel.unprivileged_userns_clone=1"
        } else if self.none_allowed {
            "they are switched off: an administrator can run sysctl -w user.max_user_namespaces=15000"
        } else if self.selinux {
            "SELinux denies them: an administrator can run setsebool -P deny_user_namespace off"
        } else if self.apparmor {
            "AppArmor restricts them: an administrator can install a profile for coracle with `userns,`, or run sysctl -w kernel.apparmor_restrict_unprivileged_userns=0"
        } else if self.seccomp {
            "a seccomp filter is in force, as containers have: with Docker, run the outer container with --security-opt seccomp=unconfined or a profile that allows unshare, mount and pivot_root"
        } else {
            "they are switched off here, or this is a chroot: see coracle doctor"
        }
    }
}

/// Whether something is mounted on `/` as this process sees it: without, the root is a directory within a mount.
fn has_root(mountinfo: &str) -> bool {
    mountinfo.lines().any(|line| line.split(' ').nth(4) == Some("/"))
}

/// Whether an id is in a map: lines of the first id inside, the first outside, and their number.
fn maps(map: &str, id: u32) -> bool {
    map.lines().any(|line| {
        let numbers: Vec<u64> = line.split_whitespace().filter_map(|number| number.parse().ok()).collect();
        matches!(numbers[..], [inside, _, count] if (inside..inside.saturating_add(count)).contains(&id.into()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chroot_has_no_mount_on_its_root() {
        assert!(has_root("22 1 254:0 / / rw,relatime - ext4 /dev/vda rw\n23 22 0:5 / /dev rw - devtmpfs d rw"));
        assert!(!has_root("23 22 0:5 / /dev rw - devtmpfs d rw"));
    }

    #[test]
    fn ids_are_found_in_maps() {
        assert!(maps("         0          0 4294967295\n", 1000));
        assert!(maps("0 1000 1\n1 100000 65536\n", 65536));
        assert!(!maps("0 1000 1\n", 65534) && !maps("", 0));
    }

    #[test]
    fn the_reason_that_decides_is_named() {
        let none = Circumstances::default();
        assert!(none.explain().contains("see coracle doctor"));
        let chroot = Circumstances { chroot: true, seccomp: true, ..none };
        assert!(chroot.explain().contains("chroot") && chroot.explain().contains("pivot_root"));
        assert!(Circumstances { apparmor: true, ..none }.explain().contains("profile for coracle"));
        assert!(Circumstances { seccomp: true, ..none }.explain().contains("--security-opt"));
    }
}
