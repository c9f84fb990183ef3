//! Numbers of system calls, on each kind of processor that the kernel may meet.

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64"))]
use std::str::FromStr;

use oci_spec::runtime::Arch;

/// A kind of system call numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Table {
    X86_64,
    X86,
    Aarch64,
    Arm,
    Riscv64,
}

/// Calls that 32-bit x86 also has behind `socketcall`, by its first argument from 1 on (linux/net.h).
const SOCKET_CALLS: [&str; 20] = [
    "socket",
    "bind",
    "connect",
    "listen",
    "accept",
    "getsockname",
    "getpeername",
    "socketpair",
    "send",
    "recv",
    "sendto",
    "recvfrom",
    "shutdown",
    "setsockopt",
    "getsockopt",
    "sendmsg",
    "recvmsg",
    "accept4",
    "recvmmsg",
    "sendmmsg",
];
/// Likewise behind `ipc` (linux/ipc.h).
const IPC_CALLS: [(&str, u64); 11] = [
    ("semop", 1),
    ("semget", 2),
    ("semctl", 3),
    ("semtimedop", 4),
    ("msgsnd", 11),
    ("msgrcv", 12),
    ("msgget", 13),
    ("msgctl", 14),
    ("shmat", 21),
    ("shmdt", 22),
    ("shmget", 23),
];

impl Table {
    /// This program's own, and the others that its kernel may run programs of.
    pub(super) const fn here() -> Option<(Self, Option<Self>)> {
        if cfg!(target_arch = "x86_64") {
            Some((Self::X86_64, Some(Self::X86)))
        } else if cfg!(target_arch = "aarch64") {
            Some((Self::Aarch64, Some(Self::Arm)))
        } else if cfg!(target_arch = "riscv64") {
            Some((Self::Riscv64, None))
        } else {
            None
        }
    }

    /// `AUDIT_ARCH_…` of linux/audit.h.
    pub(super) const fn audit(self) -> u32 {
        match self {
            Self::X86_64 => 0xc000_003e,
            Self::X86 => 0x4000_0003,
            Self::Aarch64 => 0xc000_00b7,
            Self::Arm => 0x4000_0028,
            Self::Riscv64 => 0xc000_00f3,
        }
    }

    /// The specification's name.
    pub(super) const fn arch(self) -> Arch {
        match self {
            Self::X86_64 => Arch::ScmpArchX86_64,
            Self::X86 => Arch::ScmpArchX86,
            Self::Aarch64 => Arch::ScmpArchAarch64,
            Self::Arm => Arch::ScmpArchArm,
            Self::Riscv64 => Arch::ScmpArchRiscv64,
        }
    }

    /// What Docker's profiles call it, which is what Go does.
    pub(super) const fn go(self) -> &'static str {
        match self {
            Self::X86_64 => "amd64",
            Self::X86 => "386",
            Self::Aarch64 => "arm64",
            Self::Arm => "arm",
            Self::Riscv64 => "riscv64",
        }
    }

    /// The number of a call; `None` if these processors have none of this name.
    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64"))]
    pub(super) fn number(self, name: &str) -> Option<u32> {
        use syscalls::{aarch64, arm, riscv64, x86, x86_64};
        match self {
            Self::X86_64 => x86_64::Sysno::from_str(name).ok().map(|call| call as u32),
            Self::X86 => x86::Sysno::from_str(name).ok().map(|call| call as u32),
            Self::Aarch64 => aarch64::Sysno::from_str(name).ok().map(|call| call as u32),
            Self::Arm => arm::Sysno::from_str(name).ok().map(|call| call as u32),
            Self::Riscv64 => riscv64::Sysno::from_str(name).ok().map(|call| call as u32),
        }
    }

    /// Never asked.
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64")))]
    pub(super) fn number(self, _name: &str) -> Option<u32> {
        None
    }

    /// Another number of the same call, with what its first argument then is.
    pub(super) fn behind(self, name: &str) -> Option<(u32, u64)> {
        if self != Self::X86 {
            return None;
        }
        if let Some(index) = SOCKET_CALLS.iter().position(|call| *call == name) {
            return Some((self.number("socketcall")?, index as u64 + 1));
        }
        let (_, argument) = IPC_CALLS.iter().find(|(call, _)| *call == name)?;
        Some((self.number("ipc")?, *argument))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_this_machine() {
        let (own, _) = Table::here().unwrap();
        for (name, number) in
            [("openat", libc::SYS_openat), ("fchownat", libc::SYS_fchownat), ("clone3", libc::SYS_clone3)]
        {
            assert_eq!(own.number(name).map(i64::from), Some(number), "{name}");
        }
        assert_eq!(own.number("no_such_call"), None);
        assert_eq!((Table::X86.number("chown32"), Table::X86.number("setuid")), (Some(212), Some(23)));
        assert_eq!(Table::X86.behind("socket"), Some((102, 1)));
        assert_eq!(Table::X86_64.behind("socket"), None);
    }
}
