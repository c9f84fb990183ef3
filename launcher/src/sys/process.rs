//! New processes: one that outlives the launcher unseen, and one for work that must not touch the caller.
#![allow(unsafe_code, reason = "creating processes and setting signal dispositions is unsafe in libc and nix")]

use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};

use nix::sched::{CloneFlags, clone};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::{ForkResult, fork};
use rustix::mm::{MapFlags, MprotectFlags, ProtFlags, mmap_anonymous, mprotect};

/// Bytes of stack of a detached process's first thread. Pages are taken when they are touched.
const STACK: usize = 1 << 20;
/// Bytes that fault below the stack.
const GUARD: usize = 1 << 16;

/// Starts a process that runs `body` and is nobody's child: the program that the launcher becomes never sees it in
/// `wait(2)`, nor as a zombie.
///
/// A child that exits right after starting the process would do, but a second copy of the launcher's page tables is a
/// quarter of a millisecond. So the child in between shares the launcher's memory while the launcher waits for it
/// (as `vfork` does), and only the process that stays is a copy. Its exit signal is 0, so no `SIGCHLD` is left pending for
/// the program either.
///
/// # Errors
/// When no process can be created (`RLIMIT_NPROC`, the cgroup's `pids.max`, memory).
pub fn spawn_detached(body: impl FnOnce()) -> io::Result<()> {
    let mut body = Some(body);
    let mut outcome: Result<(), i32> = Err(libc::ECHILD);
    let stack = stack()?;
    let between = Box::new(|| {
        // SAFETY: there is one thread, so no lock of the allocator or of libc is held by another; the copy may use
        // everything.
        match unsafe { libc::fork() } {
            0 => {
                if let Some(body) = body.take() {
                    let _ = catch_unwind(AssertUnwindSafe(body));
                }
                exit_now(0)
            }
            // The memory is shared, so this is how the launcher learns of it, even when SIGCHLD is ignored and exit
            // statuses are lost.
            -1 => outcome = Err(io::Error::last_os_error().raw_os_error().unwrap_or(libc::EAGAIN)),
            _ => outcome = Ok(()),
        }
        0
    });
    let flags = CloneFlags::CLONE_VM | CloneFlags::CLONE_VFORK;
    // SAFETY: CLONE_VFORK suspends this thread, the only one, until the child has ended, so the closure, what it borrows
    // and the stack are used by one process at a time and outlive the child. The mapping is never unmapped: its copy is
    // the stack of the process that stays. The stack is far larger than one call of fork needs.
    let child = unsafe { clone(between, std::slice::from_raw_parts_mut(stack, STACK), flags, None) }?;
    // A child without exit signal is waited for only when asked for explicitly.
    match waitpid(child, Some(WaitPidFlag::__WALL)) {
        Ok(_) | Err(nix::errno::Errno::ECHILD) => {}
        Err(error) => return Err(error.into()),
    }
    outcome.map_err(io::Error::from_raw_os_error)
}

/// A mapping for a stack, with a guard below it, since clone(2) has no idea of where a stack ends.
fn stack() -> io::Result<*mut u8> {
    let (access, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE | MapFlags::NORESERVE);
    // SAFETY: a new anonymous mapping at an address of the kernel's choice aliases nothing, and its lowest part is made
    // inaccessible before anyone has a pointer to it.
    unsafe {
        let base = mmap_anonymous(std::ptr::null_mut(), GUARD + STACK, access, flags)?;
        mprotect(base, GUARD, MprotectFlags::empty())?;
        Ok(base.cast::<u8>().add(GUARD))
    }
}

/// Runs `body` in a child process and returns its outcome; what it does to itself ends with it.
///
/// # Errors
/// What `body` returned, by system error number or by text, or that the child could not be run.
pub fn in_child(body: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
    let (mut read, write) = io::pipe()?;
    let child = spawn_child(|| {
        let result = catch_unwind(AssertUnwindSafe(body));
        let result = result.unwrap_or_else(|_| Err(io::Error::other("the check panicked")));
        let message = match &result {
            Ok(()) => "ok".to_owned(),
            Err(error) => error.raw_os_error().map_or_else(|| format!("text {error}"), |code| format!("errno {code}")),
        };
        let _ = (&write).write_all(message.as_bytes());
        0
    })?;
    drop(write);
    let mut message = String::new();
    read.read_to_string(&mut message)?;
    let status = waitpid(child, None);
    match message.split_once(' ') {
        None if message == "ok" => Ok(()),
        Some(("errno", code)) => Err(io::Error::from_raw_os_error(code.parse().unwrap_or(libc::EIO))),
        Some((_, text)) => Err(io::Error::other(text.to_owned())),
        None => Err(io::Error::other(format!("the child ended early: {status:?}"))),
    }
}

/// Starts a child process that runs `body` and exits with what it returns.
///
/// # Errors
/// When no process can be created.
pub fn spawn_child(body: impl FnOnce() -> u8) -> io::Result<nix::unistd::Pid> {
    // SAFETY: the callers have one thread, or (tests) the child takes no lock that another thread may have held except
    // the allocator's, which glibc's fork keeps consistent.
    match unsafe { fork() }? {
        ForkResult::Child => exit_now(catch_unwind(AssertUnwindSafe(body)).unwrap_or(u8::MAX).into()),
        ForkResult::Parent { child } => Ok(child),
    }
}

/// Goes on in two processes: the child gets `None`, the parent the child's id.
///
/// # Errors
/// When no process can be created.
pub fn go_on_in_two() -> io::Result<Option<i32>> {
    // SAFETY: the callers have one thread, so no lock is held by another, and the child may use everything.
    match unsafe { fork() }? {
        ForkResult::Child => Ok(None),
        ForkResult::Parent { child } => Ok(Some(child.as_raw())),
    }
}

/// Ends the process without running what the launcher registered for its own end.
pub(crate) fn exit_now(status: i32) -> ! {
    // SAFETY: _exit does not return and touches no memory.
    unsafe { libc::_exit(status) }
}

/// Lets the allocator keep at most this many arenas. A process with more threads wastes less memory so, and glibc does not
/// look up the number of processors in `/sys` to decide on its own.
pub fn limit_arenas(count: i32) {
    #[cfg(target_env = "gnu")]
    // SAFETY: the caller has one thread, and the setting only bounds what the allocator will do.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, count);
    }
    #[cfg(not(target_env = "gnu"))]
    let _ = count;
}

/// Writes to a descriptor that another owns. A log that cannot be written is not worth an error.
pub fn write_to(descriptor: std::os::fd::RawFd, text: &[u8]) {
    // SAFETY: the kernel only reads the buffer, and a number that is no descriptor is an error to it.
    unsafe { libc::write(descriptor, text.as_ptr().cast(), text.len()) };
}

/// Undoes what Rust's runtime did to `SIGPIPE`, which `execve` would pass on to the program.
///
/// # Errors
/// Never on Linux, for this signal.
pub fn default_sigpipe() -> io::Result<()> {
    let action = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
    // SAFETY: the default disposition runs no code of ours.
    unsafe { sigaction(Signal::SIGPIPE, &action) }?;
    Ok(())
}

/// Points standard output and standard error at `output` and `errors`.
///
/// # Errors
/// When the process may have no descriptor more.
pub fn redirect_output(output: &OwnedFd, errors: &OwnedFd) -> io::Result<()> {
    for (target, standard) in [(output, 1), (errors, 2)] {
        // SAFETY: dup2 touches no memory; nobody owns the standard descriptors.
        if unsafe { libc::dup2(target.as_raw_fd(), standard) } < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// Points standard input at `target`.
///
/// # Errors
/// When the process may have no descriptor more.
pub fn redirect_input(target: &OwnedFd) -> io::Result<()> {
    // SAFETY: as above.
    if unsafe { libc::dup2(target.as_raw_fd(), 0) } < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Points the standard descriptors at `target`.
///
/// # Errors
/// When the process may have no descriptor more.
pub fn redirect_standard(target: &OwnedFd) -> io::Result<()> {
    for standard in 0..3 {
        // SAFETY: dup2 touches no memory; nobody owns the standard descriptors.
        if unsafe { libc::dup2(target.as_raw_fd(), standard) } < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_reports_errors_as_they_are() {
        assert!(in_child(|| Ok(())).is_ok());
        let failed = in_child(|| Err(io::Error::from_raw_os_error(libc::EPERM))).unwrap_err();
        assert_eq!(failed.raw_os_error(), Some(libc::EPERM));
        assert_eq!(in_child(|| Err(io::Error::other("two words"))).unwrap_err().to_string(), "two words");
        assert!(in_child(|| exit_now(3)).unwrap_err().to_string().contains("ended early"));
    }

    #[test]
    fn a_detached_process_is_no_child() {
        let outcome = in_child(|| {
            let (mut read, write) = io::pipe()?;
            let launcher = std::process::id();
            spawn_detached(|| {
                // Reparented as soon as the process in between has ended, which was before the launcher went on.
                let parent = std::os::unix::process::parent_id();
                let deep = [1_u8; 1 << 19];
                let text = format!("{} {}", parent != launcher, deep.iter().map(|byte| u32::from(*byte)).sum::<u32>());
                let _ = (&write).write_all(text.as_bytes());
            })?;
            drop(write);
            let mut text = String::new();
            read.read_to_string(&mut text)?;
            let children = waitpid(None, Some(WaitPidFlag::__WALL | WaitPidFlag::WNOHANG));
            match (text.as_str(), children) {
                ("true 524288", Err(nix::errno::Errno::ECHILD)) => Ok(()),
                other => Err(io::Error::other(format!("{other:?}"))),
            }
        });
        outcome.unwrap();
    }
}
