//! A launch's side: finding the session of an image, or the right to found it.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use rustix::net::sockopt::{Timeout, set_socket_timeout, socket_peercred};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, connect, listen, socket_with};

use super::memo::Memo;
use super::message::{Answer, ContainerKey, Request, Wanted, receive, send};
use super::place::{Identity, Place};
use crate::fuse::Synthetic;
use crate::host::Identification;

/// Launches that may wait to be heard. More wait in connect(2).
const BACKLOG: i32 = 1024;
/// How long a server may take to answer. It is busy for milliseconds, unless it was stopped.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often a server may vanish while it is being asked before a launch does without.
const ATTEMPTS: usize = 8;

/// Why a session is of no use to a launch.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Its server does not answer as it should.
    #[error("the image's session does not answer: {0}")]
    Silent(#[source] io::Error),
    /// The server could not show what this launch needs besides the image's own files.
    #[error("the image's session is of no use here: {0}")]
    Refused(String),
}

/// What became of looking for a session.
#[derive(Debug)]
pub enum Meeting {
    /// There is one.
    Joined(Box<Joined>),
    /// There is none, and this launch is the one that makes it.
    Founding(Founding),
}

/// A session that this launch may use.
#[derive(Debug)]
pub struct Joined {
    socket: OwnedFd,
    /// The user namespace.
    pub user: OwnedFd,
    /// The mount namespace with the host's tree and the image.
    pub base: OwnedFd,
    /// Mount namespaces that are ready to be used.
    pub containers: Vec<(ContainerKey, OwnedFd)>,
    /// What is known about the image.
    pub memo: Memo,
    /// Who the caller is.
    pub who: Identification,
}

/// The place where others look for this launch's session. Dropped before it is handed over to the server, it is taken away, and
/// those who wait there make a session of their own.
#[derive(Debug)]
pub struct Founding {
    pub(super) sign: Arc<Sign>,
    pub(super) listener: OwnedFd,
    mine: bool,
}

/// A socket's name.
#[derive(Debug)]
pub(crate) struct Sign {
    place: Place,
    /// The directory once more, to be locked: the server will not be able to open it.
    lock: OwnedFd,
    name: String,
    inode: u64,
}

impl Founding {
    /// Leaves the place to the server, which is another process.
    pub(crate) fn hand_over(mut self) {
        self.mine = false;
    }
}

impl Drop for Founding {
    fn drop(&mut self) {
        if self.mine {
            self.sign.take_down();
        }
    }
}

impl Sign {
    /// Takes the name away, so that the next launch makes a new session.
    pub(crate) fn take_down(&self) {
        if flock(&self.lock, FlockOperation::LockExclusive).is_ok() {
            // Another server may have the name by now.
            if self.place.inode(&self.name).is_ok_and(|inode| inode == self.inode) {
                let _ = self.place.remove(&self.name);
            }
            let _ = flock(&self.lock, FlockOperation::Unlock);
        }
    }

    pub(super) fn descriptors(&self) -> [RawFd; 2] {
        [self.place.as_fd().as_raw_fd(), self.lock.as_raw_fd()]
    }
}

impl AsFd for Sign {
    /// The directory of the socket.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.place.as_fd()
    }
}

/// Joins the session of `identity`, or begins to found it.
///
/// Whoever binds the socket's name is the founder; the others wait in its queue. The lock is held for that moment only,
/// and is the kernel's to release, so a launch that dies leaves nothing behind.
///
/// `meanwhile` is called once, while the server thinks or before this launch does the rest.
///
/// # Errors
/// When there is neither: the launch then goes without.
pub fn meet(place: Place, identity: &Identity, meanwhile: impl FnOnce()) -> io::Result<Meeting> {
    let mut meanwhile = Some(meanwhile);
    let result = look(place, identity, &mut || {
        if let Some(meanwhile) = meanwhile.take() {
            meanwhile();
        }
    });
    if let Some(meanwhile) = meanwhile {
        meanwhile();
    }
    result
}

fn look(place: Place, identity: &Identity, meanwhile: &mut dyn FnMut()) -> io::Result<Meeting> {
    let name = identity.socket();
    for _ in 0..ATTEMPTS {
        let mut dialled = dial(&place, &name)?;
        if dialled.is_none() {
            let lock = place.lock()?;
            dialled = dial(&place, &name)?;
            if dialled.is_none() {
                let (listener, inode) = listen_at(&place, &name)?;
                flock(&lock, FlockOperation::Unlock)?;
                let sign = Arc::new(Sign { place, lock, name, inode });
                return Ok(Meeting::Founding(Founding { sign, listener, mine: true }));
            }
        }
        let Some(socket) = dialled else { continue };
        match join(socket, meanwhile) {
            // It ended between two words, or its founder did not get to mount the image.
            Err(error) if is_gone(&error) => {}
            Err(error) => return Err(error),
            Ok(joined) => return Ok(Meeting::Joined(Box::new(joined))),
        }
    }
    Err(io::Error::other("its server ended again and again"))
}

pub(super) fn is_gone(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof)
}

pub(super) fn packet_socket() -> io::Result<OwnedFd> {
    Ok(socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?)
}

/// A connection to the server behind a name; `None` when there is none.
pub(super) fn dial(place: &Place, name: &str) -> io::Result<Option<OwnedFd>> {
    use rustix::io::Errno;
    let socket = packet_socket()?;
    match connect(&socket, &SocketAddrUnix::new(place.address(name))?) {
        Ok(()) => {}
        Err(Errno::NOENT | Errno::CONNREFUSED) => return Ok(None),
        Err(error) => return Err(error.into()),
    }
    if socket_peercred(&socket)?.uid.as_raw() != nix::unistd::geteuid().as_raw() {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, "its server is another user's"));
    }
    set_socket_timeout(&socket, Timeout::Recv, Some(PATIENCE))?;
    Ok(Some(socket))
}

/// Binds the name, on which nobody listens. Called with the lock held.
fn listen_at(place: &Place, name: &str) -> io::Result<(OwnedFd, u64)> {
    place.remove(name)?;
    let listener = packet_socket()?;
    bind(&listener, &SocketAddrUnix::new(place.address(name))?)?;
    let inode = place.inode(name)?;
    rustix::fs::chmod(place.address(name), rustix::fs::Mode::from_raw_mode(0o600))?;
    listen(&listener, BACKLOG)?;
    Ok((listener, inode))
}

fn join(socket: OwnedFd, meanwhile: &mut dyn FnMut()) -> io::Result<Joined> {
    send(&socket, &Request::Join, &[])?;
    // The server has to be woken up first.
    meanwhile();
    let (answer, mut descriptors) = receive(&socket)?;
    let Answer::Welcome { memo, who, containers } = answer else { return Err(misunderstood()) };
    if descriptors.len() != containers.len() + 2 {
        return Err(misunderstood());
    }
    let rest = descriptors.split_off(2);
    let [user, base] = <[OwnedFd; 2]>::try_from(descriptors).map_err(|_| misunderstood())?;
    Ok(Joined { socket, user, base, containers: containers.into_iter().zip(rest).collect(), memo, who: *who })
}

pub(super) fn misunderstood() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "its server says something else than was asked")
}

impl Joined {
    /// The container of this key, if the session has one.
    pub fn container(&mut self, key: &ContainerKey) -> Option<OwnedFd> {
        let index = self.containers.iter().position(|(other, _)| other == key)?;
        Some(self.containers.swap_remove(index).1)
    }

    /// Has the server show these, too.
    ///
    /// # Errors
    /// When it cannot: another launch may have asked for something else at the same path.
    pub fn add(&self, synthetic: &Synthetic) -> Result<(), Error> {
        send(&self.socket, &Request::Add(Wanted::from(synthetic)), &[]).map_err(Error::Silent)?;
        match receive(&self.socket).map_err(Error::Silent)?.0 {
            Answer::Added => Ok(()),
            Answer::Refused(why) => Err(Error::Refused(why)),
            _ => Err(Error::Silent(misunderstood())),
        }
    }

    /// The connection, for what needs no answer.
    #[must_use]
    pub fn into_channel(self) -> OwnedFd {
        self.socket
    }
}

/// Leaves the namespaces of a mount to its server: `user`, and `base` with the host's tree and the image in it.
pub(crate) fn keep(
    channel: impl AsFd,
    memo: Memo,
    who: Identification,
    user: &OwnedFd,
    base: &OwnedFd,
) -> io::Result<()> {
    send(channel, &Request::Keep { memo, who }, &[user.as_fd(), base.as_fd()])
}

/// Leaves a container to the server. A server that is gone will be noticed elsewhere.
pub(crate) fn keep_container(channel: impl AsFd, key: ContainerKey, container: &OwnedFd) {
    let _ = send(channel, &Request::KeepContainer(key), &[container.as_fd()]);
}

/// Tells the server more about the image, for launches to come.
pub(crate) fn remember(channel: impl AsFd, memo: Memo) {
    let _ = send(channel, &Request::Remember(memo), &[]);
}
