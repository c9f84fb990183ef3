//! The process that answers for the image: how it starts, what it gives up, and how the launcher hears of its troubles.
//!
//! It lives in the user namespace of the mount and in the host's mount namespace, and ends when the kernel drops the
//! mount. A socket pair joins it to the launcher: it says `r` when it is ready, `e` and a text when it fails; it hears `m`
//! when the mount is there, and ends if the launcher ends before.

use std::ffi::CStr;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;

use nix::sys::signal::{SigSet, SigmaskHow, sigprocmask};

use super::Error;
use crate::fuse;
use crate::sys::{descriptors, privileges, process};

/// What `ps` and `top` show.
const NAME: &CStr = c"coracle-server";
const READY: u8 = b'r';
const FAILED: u8 = b'e';
const MOUNTED: u8 = b'm';
/// Longest report that is read, in bytes.
const REPORT_MAX: u64 = 4096;

/// The launcher's end.
pub(super) struct Handle {
    channel: UnixStream,
}

/// Starts the process. It goes on when [`Handle::mounted`] tells it to.
pub(super) fn start(server: fuse::Server, fuse: &OwnedFd, image: RawFd) -> Result<Handle, Error> {
    let failed = |cause| Error::StartServer { cause };
    let (channel, theirs) = UnixStream::pair().map_err(failed)?;
    let fuse = fuse.try_clone().map_err(failed)?;
    process::spawn_detached(move || run(server, fuse, &theirs, image)).map_err(failed)?;
    Ok(Handle { channel })
}

impl Handle {
    /// Tells the server that the mount is there, and waits until it is ready.
    pub(super) fn mounted(&mut self) -> Result<(), Error> {
        let mut answer = [0];
        let told = self.channel.write_all(&[MOUNTED]).and_then(|()| self.channel.read_exact(&mut answer));
        match (told, answer) {
            (Ok(()), [READY]) => Ok(()),
            (Ok(()), [FAILED]) => Err(Error::Server { report: self.text() }),
            // It ended without a word: killed, most likely.
            (Ok(()) | Err(_), _) => Err(Error::ServerEnded),
        }
    }

    /// What it has said since; `None` if it is silent and alive.
    pub(super) fn report(&mut self) -> Option<Error> {
        self.channel.set_nonblocking(true).ok()?;
        let mut kind = [0];
        match self.channel.read(&mut kind) {
            Ok(0) => Some(Error::ServerEnded),
            Ok(_) => {
                self.channel.set_nonblocking(false).ok()?;
                Some(Error::Server { report: self.text() })
            }
            Err(_) => None,
        }
    }

    fn text(&mut self) -> String {
        let mut text = String::new();
        // What could not be read is missing from a message that is an error already.
        let _ = (&self.channel).take(REPORT_MAX).read_to_string(&mut text);
        text
    }
}

/// The process's whole life.
fn run(mut server: fuse::Server, fuse: OwnedFd, channel: &UnixStream, image: RawFd) {
    let fail = |text: String| {
        let mut message = vec![FAILED];
        message.extend(text.into_bytes());
        // The launcher may be gone; then nobody needs to know.
        let _ = (&*channel).write_all(&message);
    };
    if let Err(error) = settle(&[fuse.as_raw_fd(), channel.as_raw_fd(), image]) {
        return fail(format!("prepare its process: {error}"));
    }
    // The launcher mounts meanwhile.
    server.prepare();
    let mut word = [0];
    let told = (&*channel).write_all(&[READY]).and_then(|()| (&*channel).read_exact(&mut word));
    if told.is_err() || word != [MOUNTED] {
        return;
    }
    if let Err(error) = server.run(fuse) {
        fail(error.to_string());
    }
}

/// Leaves behind everything that the process has from the launcher but does not need.
fn settle(keep: &[RawFd]) -> io::Result<()> {
    // Its life is the mount's. Schedulers signal every process of a job, the terminal every one of its group, and
    // programs are meant to survive that (SIGTERM before the time limit); their files must, too.
    sigprocmask(SigmaskHow::SIG_BLOCK, Some(&SigSet::all()), None)?;
    nix::unistd::setsid()?;
    // Not to keep a file system of the host busy, nor a pipe's reader waiting.
    nix::unistd::chdir("/")?;
    let null = OwnedFd::from(File::options().read(true).write(true).open("/dev/null")?);
    process::redirect_standard(&null)?;
    drop(null);
    descriptors::close_all_but(keep)?;
    nix::sys::prctl::set_name(NAME)?;
    // Reading and answering requests needs no privilege.
    nix::sys::prctl::set_no_new_privs()?;
    privileges::drop_held()?;
    // Its root is the host's: without this, the program could reach it through /proc/PID/root, having the same user id.
    nix::sys::prctl::set_dumpable(false)?;
    Ok(())
}
