//! Steps that set the container apart from the host's processes, names and networks.

use std::fmt;
use std::path::PathBuf;

use nix::mount::MsFlags;
use oci_spec::runtime::{LinuxNamespaceType, Spec};

use super::{Error, Step, options};
use crate::options::Namespaces;
use crate::spec;

/// One step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Isolation {
    /// Enter new namespaces, of those that a process enters by itself: IPC, UTS, network.
    Unshare(Namespaces),
    /// Set the host name.
    Hostname(String),
    /// Bring the loopback device up.
    Loopback,
    /// Enter the namespaces of a running instance: of this process, which the launch has looked at.
    Join {
        /// Its process 1, as this process sees it.
        pid: i32,
    },
    /// Go on as the first process of a new PID namespace, or in the one that was joined. This process waits for its end.
    Fork {
        /// Of a new one.
        new: bool,
    },
    /// Show a file with this content, in memory, to be read only.
    File {
        /// In the new root.
        destination: PathBuf,
        /// What is in it.
        content: Vec<u8>,
    },
    /// Mount the `/sys` of the network namespace, or else show the host's.
    Sysfs {
        /// In the new root.
        destination: PathBuf,
        /// Flags.
        flags: MsFlags,
    },
    /// Stay as the container's init, while a child goes on.
    Init,
    /// Stay as the container's init, and start nothing.
    Stay,
}

/// The steps before anything is mounted.
pub(super) fn first(spec: &Spec) -> Vec<Step> {
    let has = |kind| namespaces(spec).any(|one| one == kind);
    let others = Namespaces {
        pid: false,
        ipc: has(LinuxNamespaceType::Ipc),
        uts: has(LinuxNamespaceType::Uts),
        net: has(LinuxNamespaceType::Network),
    };
    let mut steps = Vec::new();
    if others != Namespaces::default() {
        steps.push(Isolation::Unshare(others));
    }
    steps.extend(spec.hostname().clone().map(Isolation::Hostname));
    if others.net {
        steps.push(Isolation::Loopback);
    }
    if has(LinuxNamespaceType::Pid) {
        steps.push(Isolation::Fork { new: true });
    }
    steps.into_iter().map(Step::Isolate).collect()
}

/// The last steps, of which those of `program` are the program's alone: an init is under no filter.
pub(super) fn last(spec: &Spec, program: Vec<Step>) -> Vec<Step> {
    let says = |name| spec.annotations().as_ref().is_some_and(|all| all.get(name).is_some_and(|value| value == "true"));
    if says(spec::STAY) {
        vec![Step::Isolate(Isolation::Stay)]
    } else if says(spec::INIT) && namespaces(spec).any(|kind| kind == LinuxNamespaceType::Pid) {
        [Step::Isolate(Isolation::Init)].into_iter().chain(program).collect()
    } else {
        program
    }
}

/// Refuses names without a namespace to have them in, and an init that would be anything but process 1.
pub(super) fn check(spec: &Spec) -> Result<(), Error> {
    let has = |kind| namespaces(spec).any(|one| one == kind);
    if spec.hostname().is_some() && !has(LinuxNamespaceType::Uts) {
        return Err(Error::Unsupported("a host name without a uts namespace".to_owned()));
    }
    let stays = spec.annotations().as_ref().is_some_and(|all| all.contains_key(spec::STAY));
    if stays && !has(LinuxNamespaceType::Pid) {
        return Err(Error::Unsupported("a container without a program and without a pid namespace".to_owned()));
    }
    Ok(())
}

fn namespaces(spec: &Spec) -> impl Iterator<Item = LinuxNamespaceType> + '_ {
    let all = spec.linux().as_ref().and_then(|linux| linux.namespaces().as_ref());
    all.into_iter().flatten().map(oci_spec::runtime::LinuxNamespace::typ)
}

impl fmt::Display for Isolation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unshare(Namespaces { ipc, uts, net, .. }) => {
                f.write_str("enter new namespaces for")?;
                let kinds = [(ipc, "IPC"), (uts, "the host name"), (net, "the network")];
                let names: Vec<&str> = kinds.into_iter().filter(|(asked, _)| **asked).map(|(_, name)| name).collect();
                write!(f, " {}", names.join(", "))
            }
            Self::Hostname(name) => write!(f, "set the host name to {name}"),
            Self::Loopback => f.write_str("bring the loopback device up"),
            Self::Join { pid } => write!(f, "enter the namespaces of process {pid}"),
            Self::Fork { new: true } => {
                f.write_str("go on as process 1 of a new PID namespace; wait for its end, passing signals on")
            }
            Self::Fork { new: false } => {
                f.write_str("go on as a process of the PID namespace; wait for its end, passing signals on")
            }
            Self::File { destination, content } => {
                write!(f, "show a file of {} bytes on {}, ro", content.len(), destination.display())
            }
            Self::Sysfs { destination, flags } => {
                let names = options::Names(*flags);
                write!(f, "mount sysfs on {}{names}, or else bind the host's /sys", destination.display())
            }
            Self::Init => f.write_str("stay as the container's init; go on in a child"),
            Self::Stay => f.write_str("stay as the container's init until told to end"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::tests::{Everything, spec as plain};
    use super::super::{Wanted, Way};
    use super::*;
    use oci_spec::runtime::{LinuxNamespaceBuilder, LinuxNamespaceType};

    fn isolated(kinds: &[LinuxNamespaceType], annotations: &[(&str, &str)]) -> Spec {
        let mut spec = plain(Vec::new(), annotations);
        let namespace = |kind: &LinuxNamespaceType| LinuxNamespaceBuilder::default().typ(*kind).build().unwrap();
        spec.linux_mut().as_mut().unwrap().set_namespaces(Some(kinds.iter().map(namespace).collect()));
        spec
    }

    fn steps(spec: &Spec, way: Way) -> Vec<Step> {
        let wanted = Wanted::new(spec, Path::new("/mnt"), &Everything).unwrap();
        assert!(wanted.is_common(), "no mount is this launch's own");
        wanted.plan(way).steps
    }

    #[test]
    fn namespaces_come_before_what_shows_them_and_the_init_last() {
        let kinds = [LinuxNamespaceType::Pid, LinuxNamespaceType::Network, LinuxNamespaceType::Uts];
        let mut spec = isolated(&kinds, &[(spec::INIT, "true"), ("org.coracle.mounted-file./etc/x", "y")]);
        spec.set_hostname(Some("a".into()));
        let steps = steps(&spec, Way::Found);
        let position = |step: &Step| steps.iter().position(|one| one == step).unwrap_or_else(|| panic!("{step}"));
        let others = Namespaces { uts: true, net: true, ..Namespaces::default() };
        let file = Isolation::File { destination: "/etc/x".into(), content: b"y".to_vec() };
        let order = [
            Step::KeepNamespaces,
            Step::CopyMount,
            Step::Isolate(Isolation::Unshare(others)),
            Step::Isolate(Isolation::Hostname("a".into())),
            Step::Isolate(Isolation::Loopback),
            Step::Isolate(Isolation::Fork { new: true }),
            Step::PivotRoot { from: "/mnt".into() },
            Step::Isolate(file),
            Step::DetachHost,
            Step::Capabilities(Default::default()),
            Step::CloseDescriptors(vec![]),
            Step::Isolate(Isolation::Init),
        ];
        let places: Vec<usize> = order.iter().map(position).collect();
        assert!(places.is_sorted(), "{steps:?}");
        assert_eq!(places.last(), Some(&(steps.len() - 2)));
    }

    #[test]
    fn a_launch_that_joins_a_container_or_an_instance_forks_there() {
        let spec = isolated(&[LinuxNamespaceType::Pid], &[]);
        let joined = steps(&spec, Way::JoinContainer);
        let fork = Step::Isolate(Isolation::Fork { new: true });
        assert_eq!(joined[..2], [Step::JoinContainer, fork]);
        assert!(!joined.contains(&Step::Isolate(Isolation::Init)), "the program is process 1");
        let wanted = Wanted::new(&spec, Path::new("/mnt"), &Everything).unwrap();
        let inside = wanted.plan_in_instance(7).steps;
        let enter = [Isolation::Join { pid: 7 }, Isolation::Fork { new: false }].map(Step::Isolate);
        assert_eq!(inside[..2], enter);
        assert!(
            matches!(inside.last(), Some(Step::Execute { .. }))
                && inside.contains(&Step::Capabilities(Default::default()))
        );
    }

    #[test]
    fn without_a_program_the_init_stays() {
        let spec = isolated(&[LinuxNamespaceType::Pid], &[(spec::INIT, "true"), (spec::STAY, "true")]);
        assert_eq!(steps(&spec, Way::Alone).last(), Some(&Step::Isolate(Isolation::Stay)));
    }
}
