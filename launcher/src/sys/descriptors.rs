//! Closing every descriptor but a few.
#![allow(unsafe_code, reason = "neither nix nor rustix has close_range(2), and closing by number is unsafe")]

use std::fs;
use std::io;
use std::os::fd::RawFd;

/// Closes all descriptors from 3 on, except those in `keep`.
///
/// Descriptors inherited from whoever started `coracle` lead out of the container (CVE-2024-21626 was one).
///
/// # Errors
/// When the kernel has no `close_range`, and the descriptors cannot be listed either.
pub fn close_all_but(keep: &[RawFd]) -> io::Result<()> {
    let mut keep: Vec<RawFd> = keep.iter().copied().filter(|fd| *fd > 2).collect();
    keep.sort_unstable();
    let mut first = 3;
    for fd in keep.iter().copied().chain([RawFd::MAX]) {
        if first < fd {
            match close_range(first, fd - 1) {
                Err(error) if error.raw_os_error() == Some(libc::ENOSYS) => return close_listed(&keep),
                result => result?,
            }
        }
        first = fd.saturating_add(1);
    }
    Ok(())
}

/// `close_range(2)`, Linux 5.9. Called by number: glibc has had a function for it only since 2.34, and a program that
/// needs that does not start on RHEL 8.
fn close_range(first: RawFd, last: RawFd) -> io::Result<()> {
    // SAFETY: closing descriptors touches no memory. The callers are about to execve, or are a new process that has
    // named all descriptors it will use, so no live object of theirs owns one of the closed numbers.
    let result = unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Whether the kernel has `close_range(2)`; tried on numbers that nobody has.
///
/// # Errors
/// What the kernel says if not.
pub fn has_close_range() -> io::Result<()> {
    close_range(RawFd::MAX - 1, RawFd::MAX)
}

/// Whether the number is that of a socket or a pipe that stays open at `execve(2)`, as only inherited ones do.
///
/// A directory is none, so that what stays open never leads out of the container.
#[must_use]
pub fn is_inherited_channel(fd: RawFd) -> bool {
    // SAFETY: asks for the flags of a number, whoever has it.
    let flags = unsafe { libc::fcntl(fd, libc::F_GETFD) };
    if flags < 0 || flags & libc::FD_CLOEXEC != 0 {
        return false;
    }
    // SAFETY: the number is open, and this thread, the only one, closes nothing before it is looked at.
    let kind = rustix::fs::fstat(unsafe { std::os::fd::BorrowedFd::borrow_raw(fd) });
    kind.is_ok_and(|status| {
        let kind = rustix::fs::FileType::from_raw_mode(status.st_mode);
        kind.is_socket() || kind.is_fifo()
    })
}

/// The same before Linux 5.9, from the list that the kernel keeps.
fn close_listed(keep: &[RawFd]) -> io::Result<()> {
    let number = |entry: io::Result<fs::DirEntry>| entry.ok()?.file_name().to_str()?.parse::<RawFd>().ok();
    let open: Vec<RawFd> = fs::read_dir("/proc/self/fd")?.filter_map(number).collect();
    for fd in open.into_iter().filter(|fd| *fd > 2 && !keep.contains(fd)) {
        // SAFETY: as in `close_range`. The number that listed the directory is closed already; closing it again fails
        // harmlessly, since nothing is opened in between.
        unsafe { libc::close(fd) };
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::process::{exit_now, in_child};
    use std::os::fd::AsRawFd;

    fn is_open(fd: RawFd) -> bool {
        fs::symlink_metadata(format!("/proc/self/fd/{fd}")).is_ok()
    }

    fn leaves_only_what_is_kept(close: fn(&[RawFd]) -> io::Result<()>) {
        let outcome = in_child(|| {
            let files: Vec<fs::File> = (0..6).map(|_| fs::File::open("/dev/null").unwrap()).collect();
            let fds: Vec<RawFd> = files.iter().map(AsRawFd::as_raw_fd).collect();
            std::mem::forget(files);
            close(&[fds[3], 1, fds[1]])?;
            let open: Vec<bool> = fds.iter().map(|fd| is_open(*fd)).collect();
            let right = open == [false, true, false, true, false, false] && (0..3).all(is_open);
            // The pipe on which the child would report is closed, too.
            exit_now(if right { 42 } else { 1 })
        });
        let text = outcome.unwrap_err().to_string();
        assert!(text.ends_with(", 42))"), "{text}");
    }

    #[test]
    fn only_inherited_sockets_and_pipes_are_channels() {
        use rustix::io::{FdFlags, fcntl_setfd};
        let (reader, _writer) = io::pipe().unwrap();
        let (socket, _other) = std::os::unix::net::UnixStream::pair().unwrap();
        let directory = fs::File::open("/").unwrap();
        let all = [reader.as_raw_fd(), socket.as_raw_fd(), directory.as_raw_fd()];
        assert_eq!(all.map(is_inherited_channel), [false; 3], "closed at execve");
        fcntl_setfd(&reader, FdFlags::empty()).unwrap();
        fcntl_setfd(&socket, FdFlags::empty()).unwrap();
        fcntl_setfd(&directory, FdFlags::empty()).unwrap();
        assert_eq!(all.map(is_inherited_channel), [true, true, false]);
        assert!(!is_inherited_channel(RawFd::MAX) && !is_inherited_channel(-1));
    }

    #[test]
    fn close_range_leaves_only_what_is_kept() {
        leaves_only_what_is_kept(close_all_but);
    }

    #[test]
    fn the_listing_leaves_only_what_is_kept() {
        leaves_only_what_is_kept(close_listed);
    }
}
