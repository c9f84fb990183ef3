//! The process that answers for the image: how it starts, what it gives up, and how the launcher hears of its troubles.
//!
//! It lives in the user namespace of the mount and in the host's mount namespace, and ends when the kernel drops the
//! mount. A socket pair joins it to the launcher. It hears what to show besides the image, in pieces, then `m` when the
//! mount is there, and ends if the launcher ends before; it says `r` when it is ready, `x` and a text when it cannot
//! show that, `e` and a text when it fails.

use std::ffi::CStr;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use coracle_squashfs::format::InodeRef;
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use rustix::io::{Errno, fcntl_dupfd_cloexec};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socketpair};

use super::{Error, Guess, confine};
use crate::fuse::{self, ServeOptions, Synthetic};
use crate::image;
use crate::session::{self, Keeper};
use crate::sys::{descriptors, privileges, process};

/// What `ps` and `top` show.
const NAME: &CStr = c"coracle-server";
/// Most threads wait for requests, and those that work allocate little. For more than one, glibc would look into `/proc`
/// before it gives memory back.
const ARENAS: i32 = 1;
const READY: u8 = b'r';
const REFUSED: u8 = b'x';
const FAILED: u8 = b'e';
const MOUNTED: u8 = b'm';
/// Longest report, in bytes.
const REPORT_MAX: usize = 4096;
/// Bytes of a piece of what is to be shown.
const PIECE: usize = 64 << 10;
/// Begins a piece that others follow.
const MORE: u8 = b'+';
/// Begins the last piece.
const LAST: u8 = b'.';
/// Most pieces: several times what a user database of a large site has.
const PIECES_MAX: usize = 1024;

/// The launcher's end.
pub(super) struct Handle {
    channel: OwnedFd,
}

/// What the process works with.
pub(super) struct Equipment {
    pub(super) image: image::Handle,
    pub(super) options: ServeOptions,
    /// Which program will be started first.
    pub(super) program: Option<Guess>,
    pub(super) fuse: OwnedFd,
    /// Keeps the session, when there is one.
    pub(super) keeper: Option<Keeper>,
    pub(super) log: Option<File>,
    /// Where to write what was read.
    pub(super) record: Option<OwnedFd>,
}

/// Inodes and blocks in files, in the order in which they were first read.
pub type Touches = Vec<(InodeRef, u64)>;

/// What a server has written to a [`Ground::record`](super::Ground::record).
#[must_use]
pub fn touches(text: &str) -> Touches {
    let pair = |line: &str| {
        let (inode, block) = line.split_once(' ')?;
        Some((InodeRef(inode.parse().ok()?), block.parse().ok()?))
    };
    text.lines().filter_map(pair).collect()
}

/// Starts the process. It goes on when [`Handle::mounted`] tells it to.
pub(super) fn start(equipment: Equipment) -> Result<Handle, Error> {
    let failed = |cause| Error::StartServer { cause };
    let pair = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None);
    let (channel, theirs) = pair.map_err(|error| failed(error.into()))?;
    let launcher = std::process::id();
    process::spawn_detached(move || run(equipment, &theirs, launcher)).map_err(failed)?;
    Ok(Handle { channel })
}

impl Handle {
    /// Tells the server what to show besides the image. What it thinks of that is heard by [`mounted`](Self::mounted).
    pub(super) fn show(&self, synthetic: &Synthetic) -> Result<(), Error> {
        let bytes = session::bytes_of(synthetic).map_err(|cause| Error::StartServer { cause })?;
        let mut pieces = bytes.chunks(PIECE).peekable();
        while let Some(piece) = pieces.next() {
            let kind = if pieces.peek().is_some() { MORE } else { LAST };
            let sent = send(&self.channel, &[&[kind], piece].concat(), SendFlags::NOSIGNAL);
            // What it has said before it ended is heard later.
            if sent.is_err() {
                return Err(self.hear(RecvFlags::empty()).map_or(Error::ServerEnded, |message| failure(&message)));
            }
        }
        Ok(())
    }

    /// Tells the server that the mount is there, and waits until it is ready.
    pub(super) fn mounted(&mut self) -> Result<(), Error> {
        // If it is gone, it may have said why.
        let _ = send(&self.channel, &[MOUNTED], SendFlags::NOSIGNAL);
        match self.hear(RecvFlags::empty()) {
            Some(message) if message == [READY] => Ok(()),
            Some(message) => Err(failure(&message)),
            // It ended without a word: killed, most likely.
            None => Err(Error::ServerEnded),
        }
    }

    /// What it has said since; `None` if it is silent and alive.
    pub(super) fn report(&mut self) -> Option<Error> {
        let silent = matches!(
            recv(&self.channel, &mut [0][..], RecvFlags::DONTWAIT | RecvFlags::PEEK),
            Err(rustix::io::Errno::AGAIN)
        );
        if silent {
            return None;
        }
        Some(self.hear(RecvFlags::DONTWAIT).map_or(Error::ServerEnded, |message| failure(&message)))
    }

    /// The connection, for the session's messages.
    pub(super) fn channel(&self) -> &OwnedFd {
        &self.channel
    }

    fn hear(&self, flags: RecvFlags) -> Option<Vec<u8>> {
        let mut message = vec![0; REPORT_MAX];
        let mut received = recv(&self.channel, message.as_mut_slice(), flags);
        // That it ended without hearing all comes before its last word (unix_seqpacket_recvmsg), once.
        if received == Err(Errno::CONNRESET) {
            received = recv(&self.channel, message.as_mut_slice(), flags);
        }
        let (length, _) = received.ok().filter(|(length, _)| *length > 0)?;
        message.truncate(length);
        Some(message)
    }
}

fn failure(message: &[u8]) -> Error {
    let text = String::from_utf8_lossy(message.get(1..).unwrap_or_default()).into_owned();
    if message.starts_with(&[REFUSED]) { Error::Show(text) } else { Error::Server { report: text } }
}

/// Why the process does not serve.
enum End {
    /// The launcher is gone, and nobody needs to know.
    Alone,
    Refused(String),
    Failed(String),
}

/// The process's whole life.
fn run(equipment: Equipment, channel: &OwnedFd, launcher: u32) {
    let sign = equipment.keeper.as_ref().map(Keeper::sign);
    let outcome = serve(equipment, sign.as_deref().map(AsFd::as_fd), channel, launcher);
    if let Some(sign) = sign {
        sign.take_down();
    }
    let (kind, text) = match outcome {
        Ok(()) | Err(End::Alone) => return,
        Err(End::Refused(text)) => (REFUSED, text),
        Err(End::Failed(text)) => (FAILED, text),
    };
    let mut message = vec![kind];
    message.extend(text.into_bytes());
    message.truncate(REPORT_MAX);
    // The launcher may be gone; then nobody needs to know.
    let _ = send(channel, &message, SendFlags::NOSIGNAL);
}

fn serve(equipment: Equipment, sockets: Option<BorrowedFd<'_>>, channel: &OwnedFd, launcher: u32) -> Result<(), End> {
    let Equipment { image, options, program, fuse, keeper, log, record } = equipment;
    let failed = |error: &dyn std::fmt::Display| End::Failed(error.to_string());
    let log_descriptor = log.as_ref().map(AsRawFd::as_raw_fd);
    let mut keep = vec![fuse.as_raw_fd(), channel.as_raw_fd(), image.descriptor()];
    keep.extend(log_descriptor);
    keep.extend(record.iter().map(AsRawFd::as_raw_fd));
    keep.extend(keeper.iter().flat_map(Keeper::descriptors));
    settle(&keep).map_err(|error| End::Failed(format!("prepare its process: {error}")))?;
    let load = fuse::Load::open();
    let confinement = confine::confine(sockets, log_descriptor);
    let confinement = confinement.map_err(|error| End::Failed(format!("confine itself: {error}")))?;
    if let (Some(missing), Some(log)) = (confinement.missing(), log_descriptor) {
        process::write_to(log, format!("{missing}\n").as_bytes());
    }

    // The launcher decides what to do meanwhile, and mounts.
    let image = image.open().map_err(|error| failed(&error))?;
    let program = program.and_then(|guess| guess(&image));
    let mut server = fuse::Server::new(image.image, options, load).map_err(|error| failed(&error))?;
    if let Some(log) = log {
        server = server.log_to(log);
    }
    if let Some(program) = program {
        server.expect(&program);
    }
    server.prepare();
    let control = server.control();
    let shown = hear_what_to_show(channel).ok_or(End::Alone)?;
    server.show(&shown).map_err(|error| End::Refused(text_of(&error)))?;
    let mut word = [0];
    let told =
        send(channel, &[READY], SendFlags::NOSIGNAL).and_then(|_| recv(channel, &mut word[..], RecvFlags::empty()));
    if told.is_err() || word != [MOUNTED] {
        return Err(End::Alone);
    }
    if let Some(keeper) = keeper {
        let founder = fcntl_dupfd_cloexec(channel, 3).map_err(|error| failed(&error))?;
        let control = server.control();
        let keep = move || keeper.run(&control, founder, launcher);
        std::thread::Builder::new().name("session".into()).spawn(keep).map_err(|error| failed(&error))?;
    }
    let outcome = server.run(fuse).map_err(|error| End::Failed(text_of(&error)));
    if let Some(record) = record {
        let touched = control.touched();
        let text: String = touched.iter().map(|touch| format!("{} {}\n", touch.inode, touch.block)).collect();
        // Whoever wanted to know may be gone.
        let _ = File::from(record).write_all(text.as_bytes());
    }
    outcome
}

/// An error with what caused it.
fn text_of(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |error| error.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

/// `None` when the launcher is gone.
fn hear_what_to_show(channel: &OwnedFd) -> Option<Synthetic> {
    let mut bytes = Vec::new();
    let mut piece = vec![0; PIECE + 1];
    for _ in 0..PIECES_MAX {
        let (length, _) = recv(channel, piece.as_mut_slice(), RecvFlags::empty()).ok()?;
        let (kind, content) = piece.get(..length)?.split_first()?;
        bytes.extend_from_slice(content);
        if *kind == LAST {
            return session::synthetic(&bytes).ok();
        }
    }
    None
}

/// Leaves behind everything that the process has from the launcher but does not need.
fn settle(keep: &[RawFd]) -> io::Result<()> {
    // Its life is the mount's. Schedulers signal every process of a job, the terminal every one of its group, and
    // programs are meant to survive that (SIGTERM before the time limit); their files must, too.
    // But not SIGSYS: the kernel ends a process that blocks it and makes a refused system call.
    let mut signals = SigSet::all();
    signals.remove(Signal::SIGSYS);
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&signals), None)?;
    nix::unistd::setsid()?;
    // Not to keep a file system of the host busy, nor a pipe's reader waiting.
    nix::unistd::chdir("/")?;
    let null = OwnedFd::from(File::options().read(true).write(true).open("/dev/null")?);
    process::redirect_standard(&null)?;
    drop(null);
    descriptors::close_all_but(keep)?;
    nix::sys::prctl::set_name(NAME)?;
    process::limit_arenas(ARENAS);
    // Reading and answering requests needs no privilege.
    nix::sys::prctl::set_no_new_privs()?;
    privileges::drop_held()?;
    // Its root is the host's: without this, the program could reach it through /proc/PID/root, having the same user id.
    nix::sys::prctl::set_dumpable(false)?;
    Ok(())
}
