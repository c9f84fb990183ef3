//! What launches and servers say to each other: one message a packet, descriptors beside it.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::bytes::Bytes;
use super::fingerprint;
use super::memo::Memo;
use super::report::Report;
use crate::fuse::{Synthetic, SyntheticFile};
use crate::host::Identification;

/// Longest packet, in bytes. The kernel's own limit on what waits in a socket is a little higher by default.
const PACKET_MAX: usize = 192 << 10;
/// Most descriptors in a packet: two namespaces, and the containers that a server keeps.
const DESCRIPTORS_MAX: usize = 2 + CONTAINERS_MAX;
/// Most containers that a server keeps ready.
pub(super) const CONTAINERS_MAX: usize = 8;
/// What tells a set of mounts from another: a [fingerprint](super::Fingerprint) of the steps that make it and of what they find.
pub type ContainerKey = [u8; fingerprint::BYTES];

/// What a launch says.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Request {
    /// It wants to join, and waits for the answer.
    Join,
    /// It mounted the image; its user and mount namespaces come along.
    Keep { memo: Memo, who: Identification },
    /// It wants these to be there.
    Add(Wanted),
    /// The mount namespace that comes along is the container of this key.
    KeepContainer(ContainerKey),
    /// More about the image.
    Remember(Memo),
    /// Someone wants to know how it is.
    Report,
    /// No more launches shall join.
    Stop,
}

/// What a server says.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Answer {
    /// The user and mount namespaces come along, then those of the containers.
    Welcome { memo: Memo, who: Box<Identification>, containers: Vec<ContainerKey> },
    /// What was wanted is there.
    Added,
    /// It cannot be.
    Refused(String),
    /// How it is.
    Report(Box<Report>),
}

/// [`Synthetic`] with paths as they are, which need not be UTF-8.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Wanted {
    directories: Vec<Vec<u8>>,
    files: Vec<(Vec<u8>, FileContent)>,
}

/// [`SyntheticFile`], likewise.
#[derive(Debug, Serialize, Deserialize)]
enum FileContent {
    Empty,
    Content(Bytes, u16),
    Link(Vec<u8>),
}

impl From<&Synthetic> for Wanted {
    fn from(synthetic: &Synthetic) -> Self {
        let bytes = |path: &std::path::PathBuf| path.as_os_str().as_encoded_bytes().to_vec();
        let file = |file: &SyntheticFile| match file {
            SyntheticFile::Empty => FileContent::Empty,
            SyntheticFile::Content(content, mode) => FileContent::Content(Bytes(content.clone()), *mode),
            SyntheticFile::Link(target) => FileContent::Link(bytes(target)),
        };
        Self {
            directories: synthetic.directories.iter().map(bytes).collect(),
            files: synthetic.files.iter().map(|(path, content)| (bytes(path), file(content))).collect(),
        }
    }
}

impl From<Wanted> for Synthetic {
    fn from(wanted: Wanted) -> Self {
        use std::os::unix::ffi::OsStringExt;
        let path = |bytes| std::path::PathBuf::from(std::ffi::OsString::from_vec(bytes));
        let file = |file: FileContent| match file {
            FileContent::Empty => SyntheticFile::Empty,
            FileContent::Content(content, mode) => SyntheticFile::Content(content.0, mode),
            FileContent::Link(target) => SyntheticFile::Link(path(target)),
        };
        Self {
            directories: wanted.directories.into_iter().map(path).collect(),
            files: wanted.files.into_iter().map(|(name, content)| (path(name), file(content))).collect(),
        }
    }
}

/// As bytes, for [`synthetic`].
pub(crate) fn bytes_of(wanted: &Synthetic) -> io::Result<Vec<u8>> {
    postcard::to_stdvec(&Wanted::from(wanted)).map_err(io::Error::other)
}

/// Reverses [`bytes_of`].
pub(crate) fn synthetic(bytes: &[u8]) -> io::Result<Synthetic> {
    let wanted: Wanted =
        postcard::from_bytes(bytes).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
    Ok(wanted.into())
}

/// Sends one packet.
pub(super) fn send(socket: impl AsFd, message: &impl Serialize, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    let packet = postcard::to_stdvec(message).map_err(io::Error::other)?;
    if packet.len() > PACKET_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "a message is too long for a packet"));
    }
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "too many descriptors for a packet"));
    }
    // Who does not listen any more is noticed by the error.
    sendmsg(socket, &[IoSlice::new(&packet)], &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// Receives one packet; an error of kind `UnexpectedEof` when the other side is gone.
pub(super) fn receive<T: DeserializeOwned>(socket: impl AsFd) -> io::Result<(T, Vec<OwnedFd>)> {
    let mut packet = vec![0; PACKET_MAX];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = recvmsg(socket, &mut [IoSliceMut::new(&mut packet)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let descriptors: Vec<OwnedFd> = control
        .drain()
        .flat_map(|message| match message {
            RecvAncillaryMessage::ScmRights(descriptors) => descriptors.collect(),
            _ => Vec::new(),
        })
        .collect();
    if received.bytes == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    if received.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a packet came incomplete"));
    }
    let message = packet.get(..received.bytes).unwrap_or_default();
    let message = postcard::from_bytes(message).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
    Ok((message, descriptors))
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

    use super::*;

    #[test]
    fn packets_carry_messages_and_descriptors() {
        let (one, other) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
        let synthetic = Synthetic {
            directories: vec![PathBuf::from("/a")],
            files: vec![
                ("/b".into(), SyntheticFile::Empty),
                ("/c".into(), SyntheticFile::Content(b"\xff".to_vec(), 0o600)),
                ("/d".into(), SyntheticFile::Link("../c".into())),
            ],
        };
        send(&one, &Request::Add(Wanted::from(&synthetic)), &[one.as_fd(), other.as_fd()]).unwrap();
        let (request, descriptors) = receive::<Request>(&other).unwrap();
        assert_eq!(descriptors.len(), 2);
        let Request::Add(wanted) = request else { panic!("{request:?}") };
        assert_eq!(Synthetic::from(wanted).files, synthetic.files);
        send(&one, &vec![0_u8; PACKET_MAX], &[]).unwrap_err();
        send(&one, &vec![255_u8; 9], &[]).unwrap();
        assert_eq!(receive::<Answer>(&other).unwrap_err().kind(), io::ErrorKind::InvalidData);
        drop((one, descriptors));
        assert_eq!(receive::<Answer>(&other).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }
}
