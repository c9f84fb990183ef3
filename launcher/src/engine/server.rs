//! The process that answers for the image: how it starts, what it gives up, and how the launcher hears of its troubles.
//!
//! It lives in the user namespace of the mount and in the host's mount namespace, and ends when the kernel drops the
//! mount. A socket pair joins it to the launcher: it says `r` when it is ready, `e` and a text when it fails; it hears `m`
//! when the mount is there, and ends if the launcher ends before.

use std::ffi::CStr;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};

use coracle_squashfs::format::InodeRef;
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use rustix::io::fcntl_dupfd_cloexec;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socketpair};

use super::{Error, confine};
use crate::fuse;
use crate::session::Keeper;
use crate::sys::{descriptors, privileges, process};

/// What `ps` and `top` show.
const NAME: &CStr = c"coracle-server";
/// Most threads wait for requests, and those that work allocate little. For more than one, glibc would look into `/proc`
/// before it gives memory back.
const ARENAS: i32 = 1;
const READY: u8 = b'r';
const FAILED: u8 = b'e';
const MOUNTED: u8 = b'm';
/// Longest report, in bytes.
const REPORT_MAX: usize = 4096;

/// The launcher's end.
pub(super) struct Handle {
    channel: OwnedFd,
}

/// What the process works with.
pub(super) struct Equipment {
    pub(super) server: fuse::Server,
    pub(super) fuse: OwnedFd,
    /// Keeps the session, when there is one.
    pub(super) keeper: Option<Keeper>,
    /// Of the files that the server reads and writes.
    pub(super) files: Vec<RawFd>,
    /// One of them: the log.
    pub(super) log: Option<RawFd>,
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
    /// Tells the server that the mount is there, and waits until it is ready.
    pub(super) fn mounted(&mut self) -> Result<(), Error> {
        let told = send(&self.channel, &[MOUNTED], SendFlags::NOSIGNAL);
        match told.ok().and_then(|_| self.hear(RecvFlags::empty())) {
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
        let (length, _) = recv(&self.channel, message.as_mut_slice(), flags).ok().filter(|(length, _)| *length > 0)?;
        message.truncate(length);
        Some(message)
    }
}

fn failure(message: &[u8]) -> Error {
    Error::Server { report: String::from_utf8_lossy(message.get(1..).unwrap_or_default()).into_owned() }
}

/// The process's whole life.
fn run(equipment: Equipment, channel: &OwnedFd, launcher: u32) {
    let Equipment { mut server, fuse, keeper, files, log, record } = equipment;
    let fail = |text: String| {
        let mut message = vec![FAILED];
        message.extend(text.into_bytes());
        message.truncate(REPORT_MAX);
        // The launcher may be gone; then nobody needs to know.
        let _ = send(channel, &message, SendFlags::NOSIGNAL);
    };
    let mut keep = vec![fuse.as_raw_fd(), channel.as_raw_fd()];
    keep.extend(files);
    keep.extend(record.iter().map(AsRawFd::as_raw_fd));
    let control = server.control();
    keep.extend(keeper.iter().flat_map(Keeper::descriptors));
    let sign = keeper.as_ref().map(Keeper::sign);
    let serve = || {
        settle(&keep).map_err(|error| format!("prepare its process: {error}"))?;
        server.open_files();
        let confinement = confine::confine(sign.as_deref().map(AsFd::as_fd), log);
        let confinement = confinement.map_err(|error| format!("confine itself: {error}"))?;
        if let (Some(missing), Some(log)) = (confinement.missing(), log) {
            process::write_to(log, format!("{missing}\n").as_bytes());
        }
        // The launcher mounts meanwhile.
        server.prepare();
        let mut word = [0];
        let told =
            send(channel, &[READY], SendFlags::NOSIGNAL).and_then(|_| recv(channel, &mut word[..], RecvFlags::empty()));
        if told.is_err() || word != [MOUNTED] {
            return Ok(());
        }
        if let Some(keeper) = keeper {
            let founder = fcntl_dupfd_cloexec(channel, 3).map_err(|error| error.to_string())?;
            let keep = move || keeper.run(founder, launcher);
            std::thread::Builder::new().name("session".into()).spawn(keep).map_err(|error| error.to_string())?;
        }
        server.run(fuse).map_err(|error| error.to_string())
    };
    let outcome: Result<(), String> = serve();
    if let Some(sign) = sign {
        sign.take_down();
    }
    if let Some(record) = record {
        let touched = control.touched();
        let text: String = touched.iter().map(|touch| format!("{} {}\n", touch.inode, touch.block)).collect();
        // Whoever wanted to know may be gone.
        let _ = File::from(record).write_all(text.as_bytes());
    }
    if let Err(text) = outcome {
        fail(text);
    }
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
