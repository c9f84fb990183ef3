//! A process that stays the same when its number is used again.

use std::io::{self, Read};
use std::os::fd::OwnedFd;

use rustix::fs::{Mode, OFlags, open, openat};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde::{Deserialize, Serialize};

use crate::sys::signals;

/// A process id, and when the process was started: together they name one process since the host was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// As the host counts.
    pub pid: i32,
    /// In clock ticks since the host was started.
    pub start: u64,
}

/// Of `/proc/PID/stat` (proc(5)), counted after the name, which may have spaces.
const STATE: usize = 0;
const START: usize = 19;

impl Process {
    /// The process of this id, as the `/proc` that `proc` is sees it.
    ///
    /// # Errors
    /// When there is none.
    pub fn find(proc: &OwnedFd, pid: i32) -> io::Result<Self> {
        let directory = openat(proc, pid.to_string(), directory_flags(), Mode::empty())?;
        let (start, _) = status(&directory)?;
        Ok(Self { pid, start })
    }

    /// This process.
    ///
    /// # Errors
    /// When `/proc` is not there.
    pub fn own() -> io::Result<Self> {
        Self::find(&proc()?, std::process::id().cast_signed())
    }

    /// Its directory in `/proc`, which leads nowhere when the process has ended, whatever becomes of its number. `None` when it
    /// has ended.
    #[must_use]
    pub fn open(&self) -> Option<OwnedFd> {
        let directory = open(format!("/proc/{}", self.pid), directory_flags(), Mode::empty()).ok()?;
        let (start, ended) = status(&directory).ok()?;
        (start == self.start && !ended).then_some(directory)
    }

    /// Sends a signal, to this process alone. One that has ended needs none.
    pub fn send(&self, signal: i32) {
        let descriptor = Pid::from_raw(self.pid).and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
        // Looked at after it is held: it is still the same.
        if self.open().is_none() {
            return;
        }
        let sent = descriptor.map(|descriptor| signals::send_to(&descriptor, signal));
        // Before Linux 5.3 there is a moment in which the number could be another's.
        if !matches!(sent, Some(Ok(()))) {
            signals::send(self.pid, signal);
        }
    }
}

/// The host's `/proc`.
///
/// # Errors
/// When it is not there.
pub(super) fn proc() -> io::Result<OwnedFd> {
    Ok(open("/proc", directory_flags(), Mode::empty())?)
}

const fn directory_flags() -> OFlags {
    OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC)
}

/// When it was started, and whether it has ended and only waits to be asked how.
fn status(directory: &OwnedFd) -> io::Result<(u64, bool)> {
    let mut text = String::new();
    let file = openat(directory, "stat", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    std::fs::File::from(file).read_to_string(&mut text)?;
    let fields: Vec<&str> = text.rsplit_once(") ").map(|(_, rest)| rest.split(' ').collect()).unwrap_or_default();
    let start = fields.get(START).and_then(|field| field.parse().ok());
    let start = start.ok_or_else(|| io::Error::other("/proc says something else than expected"))?;
    Ok((start, fields.get(STATE).is_some_and(|state| ["Z", "X"].contains(state))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_known_by_its_start() {
        let own = Process::own().unwrap();
        assert!(own.open().is_some());
        assert!(Process { start: own.start + 1, ..own }.open().is_none());
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let process = Process::find(&proc().unwrap(), child.id().cast_signed()).unwrap();
        assert!(process.open().is_some());
        process.send(libc::SIGKILL);
        // Not waited for yet, it has ended all the same.
        while process.open().is_some() {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        child.wait().unwrap();
        assert!(process.open().is_none());
    }
}
