//! Reads profiles: the runtime specification's, and Docker's and Podman's, whose rules depend on capabilities, the
//! processor and the kernel.

use std::path::{Path, PathBuf};

use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompFilterFlag, LinuxSyscall,
};
use serde::Deserialize;

use super::Error;
use super::calls::Table;
use crate::capabilities::CapabilitySet;

/// What rules of a profile may depend on.
#[derive(Clone, Copy, Debug)]
pub struct Circumstances<'a> {
    /// What the program may have.
    pub capabilities: CapabilitySet,
    /// The kernel's release.
    pub kernel: &'a str,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Profile {
    default_action: LinuxSeccompAction,
    default_errno_ret: Option<u32>,
    architectures: Option<Vec<String>>,
    #[serde(default)]
    arch_map: Vec<Architecture>,
    flags: Option<Vec<LinuxSeccompFilterFlag>>,
    listener_path: Option<PathBuf>,
    #[serde(default)]
    syscalls: Option<Vec<Call>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Architecture {
    architecture: String,
    #[serde(default)]
    sub_architectures: Option<Vec<String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Call {
    #[serde(default)]
    names: Vec<String>,
    name: Option<String>,
    action: LinuxSeccompAction,
    errno_ret: Option<u32>,
    #[serde(default)]
    args: Option<Vec<LinuxSeccompArg>>,
    #[serde(default)]
    includes: Option<Conditions>,
    #[serde(default)]
    excludes: Option<Conditions>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Conditions {
    #[serde(default)]
    caps: Option<Vec<String>>,
    #[serde(default)]
    arches: Option<Vec<String>>,
    min_kernel: Option<String>,
}

/// Understands a profile, for a program under these circumstances.
///
/// # Errors
/// [`Error::Profile`]
pub fn parse(path: &Path, content: &[u8], around: Circumstances<'_>) -> Result<LinuxSeccomp, Error> {
    let failed = |reason: String| Error::Profile { path: path.to_path_buf(), reason };
    let profile: Profile = serde_json::from_slice(content).map_err(|error| failed(error.to_string()))?;
    if profile.architectures.is_some() && !profile.arch_map.is_empty() {
        return Err(failed("it has both architectures and archMap".to_owned()));
    }
    let mut seccomp = LinuxSeccomp::default();
    seccomp.set_default_action(profile.default_action).set_default_errno_ret(profile.default_errno_ret);
    let architectures = match profile.architectures {
        Some(names) => Some(arches(names)),
        None if profile.arch_map.is_empty() => None,
        None => Some(mapped(profile.arch_map)),
    };
    seccomp.set_architectures(architectures).set_flags(profile.flags).set_listener_path(profile.listener_path);
    let mut calls = Vec::new();
    for call in profile.syscalls.unwrap_or_default() {
        let included = call.includes.as_ref().map_or(Ok(true), |conditions| conditions.hold(around, true));
        let excluded = call.excludes.as_ref().map_or(Ok(false), |conditions| conditions.hold(around, false));
        if included.map_err(failed)? && !excluded.map_err(failed)? {
            calls.push(call.rule());
        }
    }
    seccomp.set_syscalls(Some(calls));
    Ok(seccomp)
}

/// Those that the specification knows; others are of no machine that this runs on.
fn arches(names: Vec<String>) -> Vec<Arch> {
    names.into_iter().filter_map(|name| serde_json::from_value(serde_json::Value::String(name)).ok()).collect()
}

/// This machine's, and what else it runs.
fn mapped(map: Vec<Architecture>) -> Vec<Arch> {
    let own = Table::here().map(|(own, _)| own.arch());
    for one in map {
        let names = std::iter::once(one.architecture).chain(one.sub_architectures.unwrap_or_default()).collect();
        let list = arches(names);
        if list.first().copied() == own {
            return list;
        }
    }
    vec![Arch::ScmpArchNative]
}

impl Call {
    fn rule(self) -> LinuxSyscall {
        let mut rule = LinuxSyscall::default();
        rule.set_names(self.names.into_iter().chain(self.name).collect());
        rule.set_action(self.action).set_errno_ret(self.errno_ret);
        rule.set_args(self.args.filter(|conditions| !conditions.is_empty()));
        rule
    }
}

impl Conditions {
    /// Whether all hold; or, when they are to keep a rule out, any.
    fn hold(&self, around: Circumstances<'_>, all: bool) -> Result<bool, String> {
        let mut results = Vec::new();
        if let Some(arches) = self.arches.as_ref().filter(|arches| !arches.is_empty()) {
            let own = Table::here().map(|(own, _)| own.go()).unwrap_or_default();
            results.push(arches.iter().any(|arch| arch == own));
        }
        results.extend(self.caps.iter().flatten().map(|name| around.capabilities.has(name)));
        if let Some(least) = &self.min_kernel {
            let least_version = version(least).ok_or_else(|| format!("minKernel {least:?} is no version"))?;
            results.push(version(around.kernel).is_none_or(|version| version >= least_version));
        }
        Ok(if all { results.into_iter().all(|holds| holds) } else { results.into_iter().any(|holds| holds) })
    }
}

/// Major and minor number of a release such as `5.14.0-427.el9`.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|letter: char| !letter.is_ascii_digit()).map(str::parse::<u32>);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOCKER: &str = r#"{"defaultAction":"SCMP_ACT_ERRNO","defaultErrnoRet":1,
        "archMap":[{"architecture":"SCMP_ARCH_X86_64","subArchitectures":["SCMP_ARCH_X86","SCMP_ARCH_X32"]},
            {"architecture":"SCMP_ARCH_AARCH64","subArchitectures":["SCMP_ARCH_ARM"]},
            {"architecture":"SCMP_ARCH_OF_2099","subArchitectures":null}],
        "syscalls":[{"names":["read","write"],"action":"SCMP_ACT_ALLOW","args":[],"comment":"","includes":{},"excludes":{}},
            {"names":["ptrace"],"action":"SCMP_ACT_ALLOW","includes":{"minKernel":"4.8"}},
            {"names":["future"],"action":"SCMP_ACT_ALLOW","includes":{"minKernel":"9.1"}},
            {"names":["mount"],"action":"SCMP_ACT_ALLOW","includes":{"caps":["CAP_SYS_ADMIN"]}},
            {"names":["clone3"],"action":"SCMP_ACT_ERRNO","errnoRet":38,"excludes":{"caps":["CAP_SYS_ADMIN"]}},
            {"names":["arch_prctl"],"action":"SCMP_ACT_ALLOW","includes":{"arches":["amd64","x32"]}},
            {"name":"getpid","action":"SCMP_ACT_ALLOW","excludes":{"arches":["s390x"]}}]}"#;

    fn names(capabilities: CapabilitySet) -> Vec<String> {
        let around = Circumstances { capabilities, kernel: "5.14.0-427.el9.x86_64" };
        let profile = parse(Path::new("p.json"), DOCKER.as_bytes(), around).unwrap();
        profile.syscalls().iter().flatten().flat_map(LinuxSyscall::names).cloned().collect()
    }

    #[test]
    fn dockers_rules_depend_on_circumstances() {
        let mut expected = vec!["read", "write", "ptrace", "clone3"];
        if cfg!(target_arch = "x86_64") {
            expected.push("arch_prctl");
        }
        expected.push("getpid");
        assert_eq!(names(CapabilitySet::NONE), expected);
        let all = names(CapabilitySet::ALL);
        assert!(all.contains(&"mount".to_owned()) && !all.contains(&"clone3".to_owned()), "{all:?}");
    }

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn processors_are_this_machines() {
        let around = Circumstances { capabilities: CapabilitySet::NONE, kernel: "6.1.0" };
        let profile = parse(Path::new("p.json"), DOCKER.as_bytes(), around).unwrap();
        let expected = [Arch::ScmpArchX86_64, Arch::ScmpArchX86, Arch::ScmpArchX32];
        assert_eq!(profile.architectures().as_deref(), Some(expected.as_slice()));
    }

    #[test]
    fn what_is_no_profile_is_refused_by_name() {
        let around = Circumstances { capabilities: CapabilitySet::NONE, kernel: "6.1.0" };
        for json in
            ["", "{}", r#"{"defaultAction":"SCMP_ACT_PERHAPS"}"#, r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":3}"#]
        {
            let error = parse(Path::new("p.json"), json.as_bytes(), around).unwrap_err().to_string();
            assert!(error.starts_with("cannot understand seccomp profile p.json"), "{error}");
        }
        assert_eq!((version("6.1"), version("4.18.0-553"), version("x")), (Some((6, 1)), Some((4, 18)), None));
    }
}
