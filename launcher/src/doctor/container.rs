//! In which kind of container this process runs, if in one, and what that means.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::Check;

/// Inodes of the namespaces that a host starts with (`PROC_USER_INIT_INO` and `PROC_PID_INIT_INO` of the kernel's
/// `proc_ns.h`).
const INITIAL: [(&str, u64); 2] = [("/proc/self/ns/user", 0xEFFF_FFFD), ("/proc/self/ns/pid", 0xEFFF_FFFC)];

/// What tells containers.
#[derive(Debug, Default)]
struct Signs {
    /// `/proc/self/mountinfo`
    mounts: String,
    /// Paths that were looked for and are there.
    paths: Vec<&'static str>,
    /// The environment.
    variables: HashMap<OsString, OsString>,
    /// In another user namespace than the host's.
    nested: bool,
    /// In another namespace of processes than the host's.
    processes: bool,
}

/// Left by programs that make containers.
const PATHS: [&str; 6] = [
    "/run/.containerenv",
    "/.dockerenv",
    "/var/run/secrets/kubernetes.io",
    "/.singularity.d",
    "/run/systemd/container",
    "/ch/environment",
];

impl Signs {
    fn read() -> Self {
        let [nested, processes] =
            INITIAL.map(|(path, inode)| fs::metadata(path).is_ok_and(|namespace| namespace.ino() != inode));
        Self {
            mounts: fs::read_to_string("/proc/self/mountinfo").unwrap_or_default(),
            paths: PATHS.into_iter().filter(|path| Path::new(path).exists()).collect(),
            variables: std::env::vars_os().collect(),
            nested,
            processes,
        }
    }

    fn has(&self, path: &str) -> bool {
        self.paths.contains(&path)
    }

    fn set(&self, name: &str) -> bool {
        self.variables.get(std::ffi::OsStr::new(name)).is_some_and(|value| !value.is_empty())
    }

    /// The root is a mount of ours.
    fn is_coracle(&self) -> bool {
        let own = |line: &str| {
            let mut halves = line.splitn(2, " - ");
            let at_root = halves.next().is_some_and(|mount| mount.split(' ').nth(4) == Some("/"));
            let kind = halves.next().unwrap_or_default();
            // FUSE, or an overlay over it.
            at_root && kind.split(' ').nth(1) == Some("coracle")
        };
        self.mounts.lines().any(own)
    }

    /// A machine whose disk was made of a container image has such a file as well, but no namespaces.
    fn is_contained(&self, path: &str) -> bool {
        self.has(path) && (self.nested || self.processes)
    }

    /// The innermost first: what an outer one left in the environment reaches into inner ones.
    fn kind(&self) -> Option<(&'static str, &'static str)> {
        if self.is_coracle() || (self.set("CORACLE_IMAGE") && self.nested) {
            Some(("Coracle", "images run in it; an outer one with --contain also needs --device /dev/fuse"))
        } else if self.set("KUBERNETES_SERVICE_HOST") || self.has("/var/run/secrets/kubernetes.io") {
            Some((
                "Kubernetes",
                "images run if the pod's seccomp profile lets namespaces be made and /dev/fuse is among its devices (a device plugin, or privileged)",
            ))
        } else if self.is_contained("/run/.containerenv") {
            Some((
                "Podman",
                "images run with --device /dev/fuse; --pid also needs an unmasked /proc (--security-opt unmask=ALL)",
            ))
        } else if self.is_contained("/.dockerenv") {
            Some((
                "Docker",
                "images run with --device /dev/fuse, --security-opt seccomp=unconfined and, where it is used, --security-opt apparmor=unconfined; --pid also needs --security-opt systempaths=unconfined",
            ))
        } else if self.has("/.singularity.d") || self.set("APPTAINER_CONTAINER") || self.set("SINGULARITY_CONTAINER") {
            Some((
                "Apptainer",
                "images run unless it was started by a setuid installation without --userns, which forbids namespaces within",
            ))
        } else if self.set("SLURM_CONTAINER") {
            Some((
                "Slurm (--container)",
                "the bundle's config.json decides: images run if it gives /dev/fuse and no seccomp filter against namespaces",
            ))
        } else if self.has("/ch/environment") {
            Some(("Charliecloud", "images run in it"))
        } else if self.has("/run/systemd/container") || self.set("container") {
            Some(("another container manager", "the checks below say what it lets through"))
        } else if self.nested {
            Some(("a user namespace", "images run in it"))
        } else {
            None
        }
    }
}

pub(super) fn check() -> Vec<Check> {
    vec![line(&Signs::read())]
}

fn line(signs: &Signs) -> Check {
    let name = "container";
    match signs.kind() {
        None => Check::ok(name, "none: this is the host"),
        Some((kind, meaning)) => Check::ok(name, format!("this is inside {kind}: {meaning}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(paths: &[&'static str], variables: &[&str], mounts: &str, nested: bool) -> &'static str {
        let variables = variables.iter().map(|name| (OsString::from(name), OsString::from("x"))).collect();
        let (mounts, paths) = (mounts.to_owned(), paths.to_vec());
        let signs = Signs { mounts, paths, variables, nested, processes: nested };
        signs.kind().map_or("none", |(kind, _)| kind)
    }

    #[test]
    fn containers_are_told_by_what_they_leave() {
        assert_eq!(kind(&[], &[], "", false), "none");
        assert_eq!(kind(&[], &[], "", true), "a user namespace");
        assert_eq!(kind(&["/.dockerenv"], &[], "", true), "Docker");
        assert_eq!(kind(&["/.dockerenv"], &[], "", false), "none", "a machine made of an image");
        assert_eq!(kind(&["/.dockerenv"], &["KUBERNETES_SERVICE_HOST"], "", false), "Kubernetes");
        assert_eq!(kind(&["/run/.containerenv"], &["container"], "", true), "Podman");
        assert_eq!(kind(&["/.singularity.d"], &[], "", true), "Apptainer");
        assert_eq!(kind(&[], &["SLURM_CONTAINER"], "", false), "Slurm (--container)");
        let ours = "60 50 0:40 / / ro,nosuid - fuse coracle ro,user_id=1\n";
        assert_eq!(kind(&["/.dockerenv"], &[], ours, true), "Coracle");
        assert_eq!(kind(&[], &[], "60 50 0:40 / / rw - overlay coracle rw,lowerdir=/x\n", true), "Coracle");
        let elsewhere = "60 50 0:40 / /mnt ro,nosuid - fuse coracle ro,user_id=1\n";
        assert_eq!(kind(&["/.dockerenv"], &[], elsewhere, true), "Docker");
    }
}
