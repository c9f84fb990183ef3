//! What the caller asked for, as types; nothing here has looked at the host.

use crate::capabilities::{CapabilitySet, PTRACE};
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::net::IpAddr;
use std::path::PathBuf;

use crate::cdi::Name;
use crate::gpu::table::Vendor;

/// What to execute in the image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verb {
    /// The image's entrypoint; arguments replace the image's default arguments.
    Run(Vec<OsString>),
    /// This command.
    Exec(Vec<OsString>),
    /// An interactive shell, with these arguments.
    Shell(Vec<OsString>),
    /// Nothing: the container's init stays until it is told to end.
    Stay,
}

/// Something to show in the container besides the image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bind {
    /// What.
    pub source: BindSource,
    /// In the container, absolute; the absolute source when `None`.
    pub destination: Option<PathBuf>,
    /// Mount options, by the runtime specification's words (`ro`, `nosuid`, `bind`, `rslave`), the last of opposites counts.
    pub options: Vec<String>,
    /// Left out, without a word, where the source is not there: what a site binds by default.
    pub optional: bool,
    /// On top of everything else, and nothing may be put over it: what a site forces.
    pub forced: bool,
}

/// What a [`Bind`] shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BindSource {
    /// A file, directory or device of the host, perhaps relative to the working directory.
    Host(PathBuf),
    /// What a squashfs or SIF file holds.
    Image {
        /// The file, perhaps relative to the working directory.
        file: PathBuf,
        /// Absolute, in it; a directory or a file.
        inside: PathBuf,
    },
    /// A new, empty `tmpfs`.
    Empty {
        /// Most bytes that it takes; half of the memory when `None`.
        size: Option<u64>,
    },
}

impl Bind {
    /// Of what the host has at `source`.
    #[must_use]
    pub fn of_host(source: impl Into<PathBuf>, destination: Option<PathBuf>) -> Self {
        Self {
            source: BindSource::Host(source.into()),
            destination,
            options: Vec::new(),
            optional: false,
            forced: false,
        }
    }
}

/// A layer over the image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Layer {
    /// In memory, gone with the program.
    Memory {
        /// Most bytes that it takes; half of the memory when `None`.
        size: Option<u64>,
    },
    /// A directory, or a squashfs file that can only be read, perhaps relative to the working directory.
    At {
        /// On the host. What a writable one keeps is in `upper` in it.
        path: PathBuf,
        /// Whether nothing is written to it.
        read_only: bool,
    },
}

/// Namespaces of the container's own, besides those for users and mounts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Namespaces {
    /// Processes: an init is process 1.
    pub pid: bool,
    /// System V IPC and POSIX message queues.
    pub ipc: bool,
    /// Host name.
    pub uts: bool,
    /// Network: nothing but a loopback device.
    pub net: bool,
}

/// Capabilities within the container's user namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Capabilities {
    /// Names such as `CAP_SYS_ADMIN`, in capitals and with `CAP_`; `ALL` for all.
    pub add: BTreeSet<String>,
    /// As in `add`; counts after it.
    pub drop: BTreeSet<String>,
}

/// What to do when a driver that was asked for is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Missing {
    /// Go on.
    Silent,
    /// Say so, and go on.
    Warn,
    /// Do not start.
    Fail,
}

/// Whose GPUs the container gets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Gpu {
    /// By vendor.
    pub asked: BTreeMap<Vendor, Missing>,
    /// What a profile or the site asks for does not count.
    pub alone: bool,
}

impl Gpu {
    /// Asks for a driver. What is stricter counts.
    pub fn ask(&mut self, vendor: Vendor, missing: Missing) {
        let asked = self.asked.entry(vendor).or_insert(missing);
        *asked = missing.max(*asked);
    }

    /// Whatever is there.
    #[must_use]
    pub fn auto() -> Self {
        let asked = Vendor::ALL.into_iter().map(|vendor| (vendor, Missing::Silent)).collect();
        Self { asked, alone: false }
    }

    /// This, and what it does not decide of `under`.
    #[must_use]
    pub fn over(mut self, under: Self) -> Self {
        if !self.alone {
            for (vendor, missing) in under.asked {
                self.asked.entry(vendor).or_insert(missing);
            }
            self.alone = under.alone;
        }
        self
    }
}

/// One change to the environment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EnvSetting {
    /// Set the variable to the value.
    Set(OsString, OsString),
    /// Take the host's value, if the host has the variable.
    Inherit(OsString),
    /// Put the value before what the variable has, with a colon between them.
    Prepend(OsString, OsString),
    /// Put the value after what the variable has, with a colon between them.
    Append(OsString, OsString),
    /// Unset all variables of this name, in which `*` stands for any letters.
    Unset(OsString),
    /// Set the variable to a text in which variables of the image, or else of the host, are filled in.
    Expand {
        /// Of the variable.
        name: OsString,
        /// As [`expand`](crate::config::expand) takes it.
        text: String,
        /// Where that was written, for what has to be said of it.
        origin: String,
    },
}

/// Where the home directory comes from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Home {
    /// The caller's own, at its own path.
    #[default]
    Own,
    /// None.
    Without,
    /// Another directory.
    At {
        /// On the host.
        source: PathBuf,
        /// In the container, and the value of `HOME`; the source's path when `None`.
        destination: Option<PathBuf>,
    },
}

/// A mount that every container has unless told otherwise.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum DefaultMount {
    /// `/proc`
    Proc,
    /// `/sys`
    Sys,
    /// `/dev`
    Dev,
    /// `/dev/pts` of a minimal `/dev`
    Devpts,
    /// `/tmp` and `/var/tmp`
    Tmp,
    /// The home directory.
    Home,
    /// The working directory.
    Cwd,
    /// Files such as `/etc/hosts` and `/etc/resolv.conf`.
    BindPaths,
    /// The one with this destination.
    Path(PathBuf),
}

/// What is done for ranks of MPI programs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mpi {
    /// Where several ranks are started, they reach their starter, and those that would not find each other are not started.
    #[default]
    Auto,
    /// The same, for a program that is known to use the image's MPI.
    Container,
    /// Nothing is looked at.
    Off,
}

/// Options of everything that runs a program in an image.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// In the order given.
    pub binds: Vec<Bind>,
    /// What configuration, profile and variables set, applied before the files.
    pub early_env: Vec<EnvSetting>,
    /// `--env`, applied after the files.
    pub env: Vec<EnvSetting>,
    /// Files of `NAME=value` lines.
    pub env_files: Vec<PathBuf>,
    /// Start from the image's environment alone.
    pub clean_env: bool,
    /// Working directory in the container.
    pub working_dir: Option<PathBuf>,
    /// Home directory.
    pub home: Home,
    /// Names of variables, with `*` for any letters, that are not taken from the host.
    pub no_env: Vec<OsString>,
    /// Minimal `/dev`, private `/tmp` and home, no working directory of the host.
    pub contain: bool,
    /// Default mounts to leave out.
    pub no_mount: BTreeSet<DefaultMount>,
    /// Where on the host a private `/tmp`, `/var/tmp`, home and [`scratch`](Self::scratch) are, instead of in memory.
    pub work_dir: Option<PathBuf>,
    /// Absolute directories of the container that are empty and writable.
    pub scratch: Vec<PathBuf>,
    /// Over the image, from the bottom up. One at most is written to, and is on top then.
    pub layers: Vec<Layer>,
    /// Write to the image itself, which must be a directory.
    pub writable: bool,
    /// Namespaces of its own.
    pub namespaces: Namespaces,
    /// The program itself is process 1 of its namespace.
    pub no_init: bool,
    /// The container's host name, which takes a UTS namespace.
    pub hostname: Option<String>,
    /// Name servers, instead of the host's.
    pub dns: Vec<IpAddr>,
    /// Be root in the container.
    pub fakeroot: bool,
    /// Map the caller's supplementary groups, as far as `/etc/subgid` lets it.
    pub map_groups: bool,
    /// Capabilities.
    pub capabilities: Capabilities,
    /// A seccomp profile, as Docker and the runtime specification have them.
    pub seccomp: Option<PathBuf>,
    /// GPU drivers of the host.
    pub gpu: Gpu,
    /// What is done for ranks of MPI programs, if anyone said.
    pub mpi: Option<Mpi>,
    /// Devices by their CDI names.
    pub devices: Vec<Name>,
    /// Directories of CDI files besides the standard ones; what is in later ones counts.
    pub cdi_dirs: Vec<PathBuf>,
    /// Shell to start instead of the image's.
    pub shell: Option<PathBuf>,
    /// Of the caller's, for the runtime specification.
    pub annotations: BTreeMap<String, String>,
}

impl Options {
    /// What tells launches that have the image shown in another way from plain ones, for which it is empty: devices
    /// bring links and files that take the place of the image's.
    #[must_use]
    pub fn shown_as(&self) -> String {
        let mut shown = String::new();
        let asking = self.annotations.iter().filter(|(name, _)| name.starts_with(crate::cdi::ANNOTATION));
        let annotated = asking.map(|(_, value)| value.clone());
        for device in self.devices.iter().map(ToString::to_string).chain(annotated) {
            shown.push_str(&device);
            shown.push('\n');
        }
        // Drivers bring files at places where programs of others would trip over empty ones.
        for vendor in self.gpu.asked.keys() {
            shown.push_str(vendor.name());
            shown.push('\n');
        }
        if !self.devices.is_empty() || !self.annotations.is_empty() {
            self.cdi_dirs.iter().for_each(|directory| shown.push_str(&directory.to_string_lossy()));
        }
        shown
    }

    /// The capabilities that a launch asks for: none for an ordinary user, all of the container's for its root.
    #[must_use]
    pub fn wanted_capabilities(&self) -> CapabilitySet {
        let given = if self.fakeroot { CapabilitySet::ALL } else { CapabilitySet::NONE };
        CapabilitySet::asked_for(given, &self.capabilities)
    }

    /// Whether the program will be able to look into the other processes of its user namespace.
    #[must_use]
    pub fn traces(&self) -> bool {
        self.wanted_capabilities().has(PTRACE)
    }

    /// What tells launches whose programs may do more or less than plain ones, for which it is empty: programs of one user
    /// namespace reach each other, so all of a session are to have the same rights. `filter`: the seccomp profile.
    #[must_use]
    pub fn rights(&self, filter: Option<&[u8]>) -> String {
        let mut rights = String::new();
        let set = self.wanted_capabilities();
        if !set.is_empty() {
            rights.push_str(&format!("\0capabilities {:x}", set.0));
        }
        if let Some(content) = filter {
            rights.push_str("\0seccomp ");
            rights.push_str(&String::from_utf8_lossy(content));
        }
        rights
    }
}
