//! Trying something in a child process, for a limited time: what it does to itself ends with it, and a file server that
//! does not answer holds up nobody but the child.

use std::io::{PipeReader, PipeWriter, Read, Write, pipe};
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::sys::process::{redirect_standard, spawn_child};

/// What became of an attempt.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Outcome<T> {
    /// It came to its end, with this.
    Done(T),
    /// It did not within its time.
    Late,
    /// It could not be made, or the child died.
    Lost(String),
}

/// Lets a child do `body`. The process must have one thread.
pub(super) fn attempt<T: Serialize + DeserializeOwned>(limit: Duration, body: impl FnOnce() -> T) -> Outcome<T> {
    let (read, write) = match pipe() {
        Ok(ends) => ends,
        Err(error) => return Outcome::Lost(error.to_string()),
    };
    let child = spawn_child(|| {
        // Whoever reads this process's output must not have to wait for a child that cannot be ended.
        if let Ok(null) = std::fs::File::options().read(true).write(true).open("/dev/null") {
            let _ = redirect_standard(&OwnedFd::from(null));
        }
        send(&write, &body())
    });
    drop(write);
    match child {
        Ok(child) => {
            let outcome = receive(read, Instant::now() + limit);
            end(child);
            outcome
        }
        Err(error) => Outcome::Lost(error.to_string()),
    }
}

/// One line, since descendants may hold the pipe's other end open for longer.
fn send(mut to: &PipeWriter, value: &impl Serialize) -> u8 {
    let Ok(mut text) = serde_json::to_vec(value) else { return 1 };
    text.push(b'\n');
    u8::from(to.write_all(&text).is_err())
}

fn receive<T: DeserializeOwned>(mut from: PipeReader, until: Instant) -> Outcome<T> {
    let mut text = Vec::new();
    let mut part = [0; 4096];
    while text.last() != Some(&b'\n') {
        let left = until.saturating_duration_since(Instant::now());
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        let mut polled = [PollFd::new(from.as_fd(), PollFlags::POLLIN)];
        match poll(&mut polled, timeout) {
            Ok(0) => return Outcome::Late,
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(error) => return Outcome::Lost(error.to_string()),
        }
        match from.read(&mut part) {
            Ok(0) => return Outcome::Lost("the process that tried it died".to_owned()),
            Ok(count) => text.extend_from_slice(part.get(..count).unwrap_or_default()),
            Err(error) => return Outcome::Lost(error.to_string()),
        }
    }
    serde_json::from_slice(&text).map_or_else(|error| Outcome::Lost(error.to_string()), Outcome::Done)
}

/// A process that waits for a file server may not take the signal before that answers. It is left to itself then.
fn end(child: Pid) {
    let _ = kill(child, Signal::SIGKILL);
    for _ in 0..50 {
        match waitpid(child, Some(WaitPidFlag::WNOHANG)) {
            Ok(nix::sys::wait::WaitStatus::StillAlive) => std::thread::sleep(Duration::from_millis(2)),
            _ => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn outcomes_come_back_and_the_late_are_left() {
        let long = "x".repeat(100_000);
        assert_eq!(attempt(LONG, || Ok::<_, String>(long.clone())), Outcome::Done(Ok(long.clone())));
        assert!(matches!(attempt::<u8>(LONG, || crate::sys::process::exit_now(3)), Outcome::Lost(_)));
        let begun = Instant::now();
        let late = attempt(Duration::from_millis(50), || std::thread::sleep(LONG));
        assert_eq!(late, Outcome::Late);
        assert!(begun.elapsed() < LONG / 2);
    }
}
