//! What the server may still do once it serves: it parses images that anyone may have made.
//!
//! It reads requests and the image from descriptors that it has, answers, and starts threads. It opens no file, makes no
//! socket and executes nothing; the one name that it may remove is its session's socket. Landlock and seccomp each see to
//! that as far as the kernel has them.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{BorrowedFd, RawFd};

use landlock::{
    ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, PathBeneath, Ruleset, RulesetAttr, RulesetCreatedAttr,
    Scope,
};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch, apply_filter,
};

use crate::sys::refusal;

/// The newest Landlock that this was written for; older kernels do what they can.
const LANDLOCK: ABI = ABI::V6;

/// System calls that are allowed whatever their arguments.
const ALLOWED: &[libc::c_long] = &[
    // Requests, answers and the image.
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_write,
    libc::SYS_writev,
    libc::SYS_pread64,
    libc::SYS_preadv,
    libc::SYS_fstat,
    libc::SYS_newfstatat,
    libc::SYS_statx,
    libc::SYS_lseek,
    libc::SYS_ppoll,
    libc::SYS_close,
    libc::SYS_fcntl,
    // The session: its socket, its launches and their ends.
    libc::SYS_accept4,
    libc::SYS_recvmsg,
    libc::SYS_recvfrom,
    libc::SYS_sendmsg,
    libc::SYS_sendto,
    libc::SYS_getsockopt,
    libc::SYS_pidfd_open,
    libc::SYS_flock,
    libc::SYS_unlinkat,
    libc::SYS_geteuid,
    // Memory.
    libc::SYS_brk,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    // Threads and time.
    libc::SYS_futex,
    libc::SYS_sched_yield,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_setscheduler,
    libc::SYS_setpriority,
    libc::SYS_set_robust_list,
    libc::SYS_rseq,
    libc::SYS_sigaltstack,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_gettid,
    libc::SYS_getpid,
    libc::SYS_getrandom,
    libc::SYS_clock_gettime,
    libc::SYS_getrusage,
    libc::SYS_clock_nanosleep,
    libc::SYS_nanosleep,
    libc::SYS_restart_syscall,
    libc::SYS_exit,
    libc::SYS_exit_group,
];
/// Calls of some architectures only.
#[cfg(target_arch = "x86_64")]
const ALLOWED_HERE: &[libc::c_long] = &[libc::SYS_poll];
#[cfg(not(target_arch = "x86_64"))]
const ALLOWED_HERE: &[libc::c_long] = &[];

/// How far a process is confined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Confinement {
    pub(crate) landlock: bool,
    pub(crate) seccomp: bool,
}

impl Confinement {
    /// For the log, when something is missing.
    pub(super) fn missing(self) -> Option<&'static str> {
        match (self.landlock, self.seccomp) {
            (true, true) => None,
            (false, true) => Some("this kernel has no Landlock: the server is confined by seccomp alone"),
            (true, false) => Some("no seccomp filter here: the server is confined by Landlock alone"),
            (false, false) => Some("neither Landlock nor seccomp here: the server is not confined"),
        }
    }
}

/// Confines this process, which has one thread so far; `sockets` is the directory from which a socket may be removed.
/// Refused system calls go to `log`.
///
/// # Errors
/// When what the kernel offers cannot be applied.
pub(crate) fn confine(sockets: Option<BorrowedFd<'_>>, log: Option<RawFd>) -> io::Result<Confinement> {
    let landlock = landlock(sockets)?;
    refusal::report_to(log)?;
    let seccomp = seccomp()?;
    Ok(Confinement { landlock, seccomp })
}

fn landlock(sockets: Option<BorrowedFd<'_>>) -> io::Result<bool> {
    let ruleset = || {
        let mut ruleset = Ruleset::default()
            .set_compatibility(CompatLevel::BestEffort)
            .handle_access(AccessFs::from_all(LANDLOCK))?
            .handle_access(AccessNet::from_all(LANDLOCK))?
            .scope(Scope::from_all(LANDLOCK))?
            .create()?;
        if let Some(sockets) = sockets {
            ruleset = ruleset.add_rule(PathBeneath::new(sockets, AccessFs::RemoveFile))?;
        }
        ruleset.restrict_self()
    };
    let status = ruleset().map_err(io::Error::other)?;
    Ok(status.ruleset != landlock::RulesetStatus::NotEnforced)
}

fn seccomp() -> io::Result<bool> {
    let Ok(arch) = TargetArch::try_from(std::env::consts::ARCH) else { return Ok(false) };
    // In this order: the second refuses to take another one.
    for filter in [clone3_is_unknown(arch), filter(arch)] {
        match apply_filter(&filter.map_err(io::Error::other)?) {
            Ok(()) => {}
            // A kernel without filters.
            Err(seccompiler::Error::Seccomp(error))
                if matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::EINVAL)) =>
            {
                return Ok(false);
            }
            Err(error) => return Err(io::Error::other(error)),
        }
    }
    Ok(true)
}

/// `clone3` has its flags in memory, where a filter does not see them. Told that there is none, glibc uses `clone`.
fn clone3_is_unknown(arch: TargetArch) -> Result<BpfProgram, seccompiler::BackendError> {
    let rules = BTreeMap::from([(libc::SYS_clone3, Vec::new())]);
    SeccompFilter::new(rules, SeccompAction::Allow, SeccompAction::Errno(libc::ENOSYS as u32), arch)?.try_into()
}

/// Everything but what the server needs is refused.
fn filter(arch: TargetArch) -> Result<BpfProgram, seccompiler::BackendError> {
    let when = |argument, length, operator, value| {
        SeccompRule::new(vec![SeccompCondition::new(argument, length, operator, value)?])
    };
    let no_code = |argument| when(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::MaskedEq(libc::PROT_EXEC as u64), 0);
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> =
        ALLOWED.iter().chain(ALLOWED_HERE).map(|number| (*number, Vec::new())).collect();
    rules.insert(libc::SYS_mmap, vec![no_code(2)?]);
    rules.insert(libc::SYS_mprotect, vec![no_code(2)?]);
    // Whether a process is there, where the kernel cannot report its end.
    rules.insert(libc::SYS_kill, vec![when(1, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, 0)?]);
    // A thread's name, and giving names to memory.
    let name = when(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, libc::PR_SET_NAME as u64)?;
    let memory = when(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, 0x5356_4d41)?;
    rules.insert(libc::SYS_prctl, vec![name, memory]);
    // Threads, not processes. The other filter has the last word on clone3.
    rules.insert(libc::SYS_clone3, Vec::new());
    let thread = libc::CLONE_THREAD as u64;
    rules.insert(libc::SYS_clone, vec![when(0, SeccompCmpArgLen::Qword, SeccompCmpOp::MaskedEq(thread), thread)?]);
    let refuse = if refusal::CAN_RETURN { SeccompAction::Trap } else { SeccompAction::Errno(libc::EPERM as u32) };
    SeccompFilter::new(rules, refuse, SeccompAction::Allow, arch)?.try_into()
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::net::UdpSocket;
    use std::os::fd::{AsFd, AsRawFd};

    use super::*;
    use crate::sys::process::in_child;

    fn confined(test: impl FnOnce(Confinement) -> bool) -> String {
        let log = tempfile::NamedTempFile::new().unwrap();
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("socket"), "").unwrap();
        let sockets = File::open(dir.path()).unwrap();
        let outcome = in_child(|| {
            std::env::set_current_dir(dir.path())?;
            let confinement = confine(Some(sockets.as_fd()), Some(log.as_file().as_raw_fd()))?;
            if test(confinement) { Ok(()) } else { Err(io::Error::other("the test says no")) }
        });
        outcome.unwrap();
        fs::read_to_string(log.path()).unwrap()
    }

    #[test]
    fn files_sockets_and_programs_are_out_of_reach() {
        let denied = |error: io::Error| error.kind() == io::ErrorKind::PermissionDenied;
        let log = confined(|confinement| {
            confinement.seccomp
                && File::open("/etc/passwd").is_err_and(denied)
                && UdpSocket::bind("127.0.0.1:0").is_err_and(denied)
                && nix::unistd::execv(c"/bin/true", &[c"true"]) == Err(nix::Error::EPERM)
                && nix::sys::signal::kill(nix::unistd::getppid(), nix::sys::signal::Signal::SIGTERM).is_err()
        });
        let opened = format!("refused system call {:>6}\n", libc::SYS_openat);
        let socket = format!("refused system call {:>6}\n", libc::SYS_socket);
        assert!(log.contains(&opened) && log.contains(&socket), "{log}");
    }

    #[test]
    fn threads_and_the_sockets_end_are_not() {
        let log = confined(|_| {
            let sum = std::thread::spawn(|| vec![1_u8; 1 << 20].iter().map(|one| u64::from(*one)).sum::<u64>());
            sum.join().is_ok_and(|sum| sum == 1 << 20)
                && nix::unistd::unlinkat(nix::fcntl::AT_FDCWD, "socket", nix::unistd::UnlinkatFlags::NoRemoveDir)
                    .is_ok()
        });
        assert_eq!(log, "");
    }

    #[test]
    fn what_is_missing_is_said() {
        let missing = |landlock, seccomp| Confinement { landlock, seccomp }.missing();
        assert_eq!(missing(true, true), None);
        assert!(missing(false, false).unwrap().contains("not confined"));
    }
}
