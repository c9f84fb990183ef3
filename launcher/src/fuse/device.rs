//! The `/dev/fuse` descriptor: one message per call, in both directions.

use std::io::{self, IoSlice};
use std::os::fd::OwnedFd;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustix::io::Errno;
use std::os::fd::AsFd;
use zerocopy::{Immutable, IntoBytes};

use super::protocol::OutHeader;

/// Bytes of a buffer for requests. The kernel insists on 8192 (`FUSE_MIN_READ_BUFFER`); the largest request that a
/// read-only file system gets is an ioctl with 16 KiB.
pub(super) const BUFFER: usize = 20 << 10;

/// A mount's end in user space.
#[derive(Debug)]
pub(super) struct Device(OwnedFd);

/// What reading a request ended with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Received {
    /// Bytes of the message.
    Message(usize),
    /// The mount is gone.
    Unmounted,
}

impl Device {
    pub(super) const fn new(descriptor: OwnedFd) -> Self {
        Self(descriptor)
    }

    /// Waits for a request.
    pub(super) fn receive(&self, buffer: &mut [u8]) -> io::Result<Received> {
        loop {
            match rustix::io::read(&self.0, &mut *buffer) {
                Ok(length) => return Ok(Received::Message(length)),
                // Nobody reads it: the mount is gone, or was aborted, which it does not survive either.
                Err(Errno::NODEV | Errno::CONNABORTED) => return Ok(Received::Unmounted),
                // A signal; another thread was faster; the request was taken back while it was on its way.
                Err(Errno::INTR | Errno::AGAIN | Errno::NOENT) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Whether a request waits, or the mount is gone.
    pub(super) fn is_ready(&self) -> bool {
        let mut descriptors = [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
        matches!(poll(&mut descriptors, PollTimeout::ZERO), Ok(1..))
    }

    /// Answers request `unique` with the bytes of `parts`, one after the other.
    pub(super) fn reply(&self, unique: u64, parts: &[&[u8]]) -> io::Result<()> {
        self.send(0, unique, parts)
    }

    /// Answers with a structure.
    pub(super) fn reply_with<T: IntoBytes + Immutable>(&self, unique: u64, answer: &T) -> io::Result<()> {
        self.send(0, unique, &[answer.as_bytes()])
    }

    /// Answers with an error.
    pub(super) fn reply_error(&self, unique: u64, error: Errno) -> io::Result<()> {
        self.send(-error.raw_os_error(), unique, &[])
    }

    /// Tells the kernel something unasked. May wait for locks of the kernel's that only answers to requests release, so
    /// a thread that answers must not call it.
    pub(super) fn notify<T: IntoBytes + Immutable>(&self, code: i32, argument: &T, data: &[&[u8]]) -> io::Result<()> {
        let mut parts = vec![argument.as_bytes()];
        parts.extend_from_slice(data);
        self.send(code, 0, &parts)
    }

    fn send(&self, error: i32, unique: u64, parts: &[&[u8]]) -> io::Result<()> {
        let length = size_of::<OutHeader>() + parts.iter().map(|part| part.len()).sum::<usize>();
        let header = OutHeader { len: u32::try_from(length).unwrap_or(u32::MAX), error, unique };
        let header = header.as_bytes();
        // Two parts are nearly all answers: no allocation for those.
        let result = match parts {
            [] => rustix::io::write(&self.0, header),
            [one] => rustix::io::writev(&self.0, &[IoSlice::new(header), IoSlice::new(one)]),
            [one, two] => rustix::io::writev(&self.0, &[IoSlice::new(header), IoSlice::new(one), IoSlice::new(two)]),
            parts => {
                let slices: Vec<IoSlice<'_>> =
                    std::iter::once(header).chain(parts.iter().copied()).map(IoSlice::new).collect();
                rustix::io::writev(&self.0, &slices)
            }
        };
        result.map(drop).map_err(Into::into)
    }
}
