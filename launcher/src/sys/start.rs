//! What has to be done before the first line of `main`, and no more.
//!
//! Rust's own start-up looks up the stack's bounds in `/proc/self/maps` and puts up a signal stack, to say "stack overflow" when
//! there is one. A launch has better things to do with a tenth of a millisecond: the kernel's guard page is there anyway.
#![allow(unsafe_code, reason = "signal dispositions and standard descriptors have no owner")]

use std::panic::catch_unwind;

use nix::sys::signal::{SigHandler, Signal, signal};

use super::signals;
use crate::exit::Exit;

/// Runs `program` as `main`, and returns the process's exit status.
///
/// As under Rust's own start-up the standard descriptors are open afterwards, so that no file can be taken for one of them,
/// and `SIGPIPE` is ignored, so that a closed pipe is an error like others. A panic has been reported when this returns.
pub fn enter(program: fn() -> u8) -> i32 {
    if !occupy_standard() {
        return (Exit::Failure as u8).into();
    }
    // SAFETY: no handler of ours is installed.
    let _ = unsafe { signal(Signal::SIGPIPE, SigHandler::SigIgn) };
    signals::count_children();
    let status = catch_unwind(program).unwrap_or(Exit::Failure as u8);
    // What standard output still holds is written by this.
    std::process::exit(status.into())
}

/// Opens `/dev/null` for standard descriptors that are closed.
fn occupy_standard() -> bool {
    let mut polled = [0, 1, 2].map(|fd| libc::pollfd { fd, events: 0, revents: 0 });
    // SAFETY: the array is valid for the call, and as long as is said.
    let polled_all = unsafe { libc::poll(polled.as_mut_ptr(), 3, 0) } >= 0;
    // Each open takes the lowest number that is free.
    !polled_all
        || polled.iter().filter(|one| one.revents & libc::POLLNVAL != 0).all(|_| {
            // SAFETY: the path is a C string. The descriptor is never closed: it is a standard one.
            unsafe { libc::open(c"/dev/null".as_ptr(), libc::O_RDWR) >= 0 }
        })
}
