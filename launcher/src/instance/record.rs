//! What is kept of an instance.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{Process, Rights};

/// How an instance is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Its container is being made.
    Starting,
    /// It runs.
    Running,
    /// It has ended, by itself or by force, and nobody has stopped it.
    Dead,
}

/// An instance. Other programs may read this: fields are added, not changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Its name.
    pub name: String,
    /// Absolute path of the image file.
    pub image: PathBuf,
    /// Process 1 of the container; while that is being made, the process that makes it.
    pub process: Process,
    /// The process that waits for the container's end.
    pub supervisor: Process,
    /// The container is being made.
    pub starting: bool,
    /// Namespaces of process 1, by the names that `/proc` has for them.
    pub namespaces: BTreeMap<String, u64>,
    /// The program and its arguments; of the image's own program the arguments alone. Empty, too, when there is nothing but the init.
    pub command: Vec<String>,
    /// All that was on the command line after `coracle instance`.
    pub words: Vec<String>,
    /// Where it was started.
    pub cwd: PathBuf,
    /// Who started it.
    pub user: String,
    /// When, in seconds since 1970.
    pub started: u64,
    /// Where standard output goes.
    pub output: PathBuf,
    /// Where standard error goes.
    pub errors: PathBuf,
    /// Which start of the host it belongs to.
    pub boot: String,
    /// What its programs may do. One that was started by a version without this cannot be joined any more.
    #[serde(default)]
    pub rights: Option<Rights>,
}

impl Record {
    /// How it is now.
    #[must_use]
    pub fn state(&self) -> State {
        if boot() != self.boot || self.process.open().is_none() {
            State::Dead
        } else if self.starting {
            State::Starting
        } else {
            State::Running
        }
    }

    /// Whether a part of it is left.
    #[must_use]
    pub fn is_there(&self) -> bool {
        boot() == self.boot && (self.process.open().is_some() || self.supervisor.open().is_some())
    }
}

/// Tells this start of the host from others.
#[must_use]
pub fn boot() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}
