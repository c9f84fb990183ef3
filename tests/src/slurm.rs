//! A Slurm of several nodes on this machine, ended when dropped. `scripts/slurm.sh` does the work.

use crate::process::{self, TEST_USER};
use std::ffi::OsStr;
use std::path::Path;
use std::process::Command;

/// A running Slurm.
#[derive(Debug)]
pub struct Slurm {
    dir: tempfile::TempDir,
}

impl Slurm {
    /// Brings one up with this many nodes, each of which claims this many CPUs.
    ///
    /// # Panics
    /// When it does not come up.
    #[must_use]
    pub fn new(nodes: u32, cpus: u32) -> Self {
        let slurm = Self { dir: crate::fixtures::temp_dir() };
        let mut command = script("up", slurm.dir.path());
        process::run(command.env("NODES", nodes.to_string()).env("CPUS", cpus.to_string())).success();
        slurm
    }

    /// `srun` with these arguments, by the unprivileged user on the login node, who works in `/`.
    #[must_use]
    pub fn srun<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Command {
        let mut command = script("as", self.dir.path());
        command.args([TEST_USER, "srun", "-D", "/"]).args(arguments).current_dir("/");
        command
    }
}

impl Drop for Slurm {
    fn drop(&mut self) {
        let _ = script("down", self.dir.path()).status();
    }
}

fn script(verb: &str, dir: &Path) -> Command {
    let mut command = Command::new(process::workspace().join("scripts/slurm.sh"));
    command.arg(verb).arg(dir);
    command
}
