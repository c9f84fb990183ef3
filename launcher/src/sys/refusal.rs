//! What happens when a process makes a system call that its filter refuses: a line in its log, and `EPERM`.
#![allow(unsafe_code, reason = "a signal handler has to change the registers of what it interrupted")]

use std::io;
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicI32, Ordering};

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

/// Where refusals are written; -1 for nowhere.
static LOG: AtomicI32 = AtomicI32::new(-1);

/// Has refused system calls written to `log` (if it is a descriptor) and answered with `EPERM`.
///
/// # Errors
/// What the kernel says about the handler of `SIGSYS`.
pub fn report_to(log: Option<RawFd>) -> io::Result<()> {
    LOG.store(log.unwrap_or(-1), Ordering::Relaxed);
    let action = SigAction::new(SigHandler::SigAction(refused), SaFlags::SA_NODEFER, SigSet::empty());
    // SAFETY: the handler calls nothing but write(2) and touches nothing but the interrupted thread's registers.
    unsafe { sigaction(Signal::SIGSYS, &action) }?;
    Ok(())
}

/// Whether this build can make a refused call return; else the refusal ends the process.
pub const CAN_RETURN: bool = cfg!(any(target_arch = "x86_64", target_arch = "aarch64"));

extern "C" fn refused(_signal: i32, _info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    let number = number_and_refuse(context.cast());
    let log = LOG.load(Ordering::Relaxed);
    if log >= 0 {
        let mut line = *b"refused system call ......\n";
        let mut rest = number;
        // No formatting here, which may allocate.
        for digit in line[20..26].iter_mut().rev() {
            *digit = if rest == 0 && number != 0 { b' ' } else { b'0' + (rest % 10) as u8 };
            rest /= 10;
        }
        // SAFETY: the buffer is this function's own. A log that cannot be written is not worth an error here.
        unsafe { libc::write(log, line.as_ptr().cast(), line.len()) };
    }
}

/// The refused call's number; its result becomes `EPERM`.
fn number_and_refuse(context: *mut libc::ucontext_t) -> u64 {
    // SAFETY: the kernel hands a valid context to a handler with SA_SIGINFO, which belongs to the interrupted thread, and
    // that thread is in this handler.
    let Some(context) = (unsafe { context.as_mut() }) else { return 0 };
    #[cfg(target_arch = "x86_64")]
    {
        // The kernel has put the number back where the call had it (syscall_rollback).
        let result = &mut context.uc_mcontext.gregs[libc::REG_RAX as usize];
        let number = (*result).cast_unsigned();
        *result = i64::from(-libc::EPERM);
        number
    }
    #[cfg(target_arch = "aarch64")]
    {
        let number = context.uc_mcontext.regs[8];
        context.uc_mcontext.regs[0] = i64::from(-libc::EPERM).cast_unsigned();
        number
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    {
        let _ = context;
        0
    }
}
