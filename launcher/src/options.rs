//! What the caller asked for, as types; nothing here has looked at the host.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::PathBuf;

/// What to execute in the image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verb {
    /// The image's entrypoint; arguments replace the image's default arguments.
    Run(Vec<OsString>),
    /// This command.
    Exec(Vec<OsString>),
    /// An interactive shell, with these arguments.
    Shell(Vec<OsString>),
}

/// A file or directory of the host to show in the container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bind {
    /// On the host, perhaps relative to the working directory.
    pub source: PathBuf,
    /// In the container, absolute; the absolute source when `None`.
    pub destination: Option<PathBuf>,
    /// Whether the container may only read it.
    pub read_only: bool,
}

/// One change to the environment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EnvSetting {
    /// Set the variable to the value.
    Set(OsString, OsString),
    /// Take the host's value, if the host has the variable.
    Inherit(OsString),
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

/// Options of everything that runs a program in an image.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// In the order given.
    pub binds: Vec<Bind>,
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
    /// Minimal `/dev`, private `/tmp` and home, no working directory of the host.
    pub contain: bool,
    /// Default mounts to leave out.
    pub no_mount: BTreeSet<DefaultMount>,
}
