//! Signals as a process sees them that lives for another's sake: held back, read one by one, passed on; and ends of processes as
//! they were, which such a process repeats.
//!
//! By number throughout, since `nix` has no names for the real-time signals.
#![allow(unsafe_code, reason = "signal dispositions, and waiting and sending by number, are unsafe in libc and nix")]

use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, SigmaskHow, Signal, sigaction, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::process::{Resource, Rlimit, setrlimit};

/// What became of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It ended by itself, with this status.
    Exited(u8),
    /// A signal ended it.
    Killed(u8),
    /// A signal stopped it.
    Stopped(u8),
    /// It goes on.
    Continued,
}

/// A signal that was sent to this process.
#[derive(Clone, Copy, Debug)]
pub struct Sent {
    /// Which.
    pub signal: i32,
    /// By the kernel, for instance on behalf of a terminal, to the whole process group.
    pub by_kernel: bool,
    /// By which process, by the number that it has in its own namespace; 0 when this process cannot see it.
    pub sender: i32,
    /// Whose that process is.
    pub user: u32,
}

/// What a process did with signals before all were held back.
pub struct Held {
    mask: SigSet,
    child: SigAction,
}

impl Held {
    /// Holds back all signals, so that none is lost until someone asks for it. Ends of children are no longer ignored.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn hold() -> io::Result<Self> {
        let mut mask = SigSet::empty();
        sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::all()), Some(&mut mask))?;
        let default = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
        // SAFETY: the default disposition runs no code of ours.
        let child = unsafe { sigaction(Signal::SIGCHLD, &default) }?;
        Ok(Self { mask, child })
    }

    /// Puts everything back, for a program that is to be executed.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn release(&self) -> io::Result<()> {
        // SAFETY: what is put back was there when the process was executed, so it is no handler.
        unsafe { sigaction(Signal::SIGCHLD, &self.child) }?;
        Ok(sigprocmask(SigmaskHow::SIG_SETMASK, Some(&self.mask), None)?)
    }
}

/// Whether this process was started with ends of children ignored.
static IGNORED: AtomicBool = AtomicBool::new(false);

/// Ends of children can be waited for from now on, also where the one that started this process ignores those of its own, which
/// is inherited.
pub(super) fn count_children() {
    // SAFETY: the default disposition runs no code of ours.
    let before = unsafe { libc::signal(libc::SIGCHLD, libc::SIG_DFL) };
    IGNORED.store(before == libc::SIG_IGN, Ordering::Relaxed);
}

/// Ignores ends of children again, for a program that is to be executed, if this process was started so.
pub fn uncount_children() {
    if IGNORED.load(Ordering::Relaxed) {
        // SAFETY: ignoring runs no code of ours.
        unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) };
    }
}

/// A descriptor that can be read when a signal is held back, and [`next`] tells which.
///
/// # Errors
/// When the process may have no descriptor more.
pub fn descriptor() -> io::Result<SignalFd> {
    Ok(SignalFd::with_flags(&SigSet::all(), SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?)
}

/// The next signal that is held back, if there is one.
#[must_use]
pub fn next(signals: &SignalFd) -> Option<Sent> {
    let info = signals.read_signal().ok()??;
    Some(Sent {
        signal: info.ssi_signo.cast_signed(),
        by_kernel: info.ssi_code == libc::SI_KERNEL,
        sender: info.ssi_pid.cast_signed(),
        user: info.ssi_uid,
    })
}

/// Sends a signal. A process that is gone needs none.
pub fn send(pid: i32, signal: i32) {
    // SAFETY: kill(2) touches no memory. The callers name a child that they have not waited for.
    unsafe { libc::kill(pid, signal) };
}

/// Sends a signal to a process, which is held by a descriptor (`pidfd_open(2)`).
///
/// # Errors
/// What the kernel says: before Linux 5.1 there is no such call.
pub fn send_to(process: &OwnedFd, signal: i32) -> io::Result<()> {
    use std::os::fd::AsRawFd;
    let nothing = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: without a siginfo nothing is read; by number because glibc has no function for it before 2.36.
    let result = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, process.as_raw_fd(), signal, nothing, 0) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// What has become of `child`, or of any child for -1, and of which; `None` when nothing has, or nobody is left.
#[must_use]
pub fn change_of(child: i32) -> Option<(i32, Change)> {
    loop {
        let mut status = 0;
        // SAFETY: the status is this function's own.
        let pid = unsafe { libc::waitpid(child, &raw mut status, libc::WNOHANG | libc::WUNTRACED | libc::WCONTINUED) };
        if pid > 0 {
            return decode(status).map(|change| (pid, change));
        }
        if pid == 0 || io::Error::last_os_error().kind() != io::ErrorKind::Interrupted {
            return None;
        }
    }
}

/// Waits for the end of `child`.
#[must_use]
pub fn end_of(child: i32) -> Change {
    loop {
        let mut status = 0;
        // SAFETY: as above.
        let pid = unsafe { libc::waitpid(child, &raw mut status, 0) };
        if pid > 0 {
            return decode(status).unwrap_or(Change::Continued);
        }
        if io::Error::last_os_error().kind() != io::ErrorKind::Interrupted {
            return Change::Continued;
        }
    }
}

fn decode(status: i32) -> Option<Change> {
    let small = |number: i32| u8::try_from(number).ok();
    if libc::WIFEXITED(status) {
        small(libc::WEXITSTATUS(status)).map(Change::Exited)
    } else if libc::WIFSIGNALED(status) {
        small(libc::WTERMSIG(status)).map(Change::Killed)
    } else if libc::WIFSTOPPED(status) {
        small(libc::WSTOPSIG(status)).map(Change::Stopped)
    } else {
        Some(Change::Continued)
    }
}

/// Gives every signal back its default disposition.
pub fn reset() {
    for signal in 1..=libc::SIGRTMAX() {
        // SAFETY: the default disposition runs no code of ours. SIGKILL and SIGSTOP are refused, which is no harm.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
}

fn let_through(signal: i32) {
    // SAFETY: the set is this function's own, and initialised before it is used.
    unsafe {
        let mut set = std::mem::zeroed::<libc::sigset_t>();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, signal);
        libc::sigprocmask(libc::SIG_UNBLOCK, &raw const set, std::ptr::null_mut());
    }
}

fn hold_back(signal: i32) {
    // SAFETY: as above.
    unsafe {
        let mut set = std::mem::zeroed::<libc::sigset_t>();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, signal);
        libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut());
    }
}

/// Ends this process as another one ended: by the same signal, without a core file of its own, or with the same status.
pub fn end_as(end: Change) -> ! {
    match end {
        Change::Exited(status) => super::process::exit_now(status.into()),
        Change::Killed(signal) => {
            let _ = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) });
            // The limit does not count where the kernel hands core files to a program (core(5)).
            let _ = nix::sys::prctl::set_dumpable(false);
            let_through(signal.into());
            send(std::process::id().cast_signed(), signal.into());
            // A shell would say the same.
            super::process::exit_now(128 + i32::from(signal))
        }
        Change::Stopped(_) | Change::Continued => super::process::exit_now(crate::exit::Exit::Failure as i32),
    }
}

/// Stops this process as another one was stopped, until it is told to go on.
pub fn stop_as(signal: u8) {
    // Sent while it is held back, it is one with the one that the terminal has sent to this process, too: one stop, not two.
    send(std::process::id().cast_signed(), signal.into());
    let_through(signal.into());
    hold_back(signal.into());
}

/// Has the kernel end this process when its parent ends. The parent may have ended before.
///
/// # Errors
/// Never, for a signal that exists.
pub fn end_with_parent() -> io::Result<()> {
    Ok(nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::process::{in_child, spawn_child};

    #[test]
    fn ends_are_repeated() {
        for end in [Change::Exited(0), Change::Exited(255), Change::Killed(9), Change::Killed(11), Change::Killed(40)] {
            let child = spawn_child(|| {
                let _held = Held::hold();
                reset();
                end_as(end)
            });
            assert_eq!(end_of(child.unwrap().as_raw()), end);
        }
    }

    #[test]
    fn signals_are_held_and_read() {
        let outcome = in_child(|| {
            let held = Held::hold()?;
            let signals = descriptor()?;
            send(std::process::id().cast_signed(), libc::SIGTERM);
            send(std::process::id().cast_signed(), libc::SIGRTMIN() + 3);
            let read: Vec<(i32, bool)> =
                std::iter::from_fn(|| next(&signals)).map(|sent| (sent.signal, sent.by_kernel)).collect();
            held.release()?;
            if read == [(libc::SIGTERM, false), (libc::SIGRTMIN() + 3, false)] {
                return Ok(());
            }
            Err(io::Error::other(format!("{read:?}")))
        });
        outcome.unwrap();
    }
}
