//! Installing filters of system calls.
#![allow(unsafe_code, reason = "seccomp(2) takes a program by address")]

use std::io;

use crate::seccomp::Instruction;

/// `struct sock_fprog`
#[repr(C)]
struct Program {
    length: libc::c_ushort,
    instructions: *const Instruction,
}

/// Installs a filter for this thread, the only one, and for all that it will execute. `no_new_privs` must be set.
///
/// # Errors
/// What the kernel says: `EINVAL` for a program that it does not understand, or if it has no filters.
pub fn install(instructions: &[Instruction], flags: u32) -> io::Result<()> {
    let length = instructions.len().try_into().map_err(|_| io::ErrorKind::InvalidInput)?;
    let program = Program { length, instructions: instructions.as_ptr() };
    let set = |flags: u32| {
        // SAFETY: the structure and the instructions have the kernel's layout and outlive the call, which only reads them.
        let status =
            unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const program) };
        if status == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    };
    match set(flags) {
        // The flag is of Linux 4.17, and was carried over to some older kernels only.
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) && flags & SPEC_ALLOW != 0 => set(flags & !SPEC_ALLOW),
        result => result,
    }
}

const SPEC_ALLOW: u32 = libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW as u32;
