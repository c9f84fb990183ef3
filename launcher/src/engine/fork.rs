//! PID namespaces take a process more: one enters the namespace and becomes the program, the one that was started waits for it.
//!
//! To whoever started `coracle` the one that waits has to look like the program: it passes signals on, is stopped when the
//! program is stopped, and ends as the program ends. The program stays in the process group that it would have had, so the
//! terminal knows it, and its signals reach it by themselves. Between the two is the container's init, unless the program is
//! process 1 itself: it reaps what others leave behind, and is in a session of its own, so that signals to the group reach the
//! program once.
//!
//! The init tells the one that waits what becomes of the program, over a socket, since process 1 cannot be ended by a signal of
//! its own. When it ends, the kernel ends everything in its namespace.

use std::cell::OnceCell;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::sched::{CloneFlags, unshare};
use nix::sys::signalfd::SignalFd;
use nix::unistd::{getpgrp, tcgetpgrp, tcsetpgrp};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags, open, openat};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socketpair};

use super::{Engine, Error};
use crate::exit::Exit;
use crate::sys::signals::{self, Change, Held, Sent};
use crate::sys::{descriptors, privileges, process};

/// What `ps` and `top` show of process 1.
const NAME: &std::ffi::CStr = c"coracle-init";
/// Begins a message to the one that waits.
const EXITED: u8 = b'x';
const KILLED: u8 = b'k';
const STOPPED: u8 = b's';
/// Tells the one that goes on that it may.
const GO_ON: [u8; 1] = [b'g'];
/// What an instance says to its starter, before and instead of executing the program.
const READY: u8 = b'r';
const FAILED: u8 = b'f';

/// What a launch in the background does besides.
pub struct Detached {
    /// Standard output of the program.
    output: OwnedFd,
    /// Standard error of the program.
    errors: OwnedFd,
    /// Told that the program is about to be executed, and that it could not be: see [`runs`]. Its end is the program's beginning.
    starter: OwnedFd,
    /// Called with the id of the container's process 1, before that goes on.
    started: Started,
    /// Standard error as it was.
    own: OnceCell<OwnedFd>,
}

type Started = Box<dyn Fn(i32) -> io::Result<()>>;

/// Whether what a starter was told means that the program runs.
#[must_use]
pub fn runs(told: &[u8]) -> bool {
    told.last() == Some(&READY)
}

/// What the one that goes on keeps until it becomes the program.
pub(super) struct Forked {
    held: Held,
    /// To the one that waits.
    channel: OwnedFd,
    /// Of the host; where `/dev` is the container's already and lacks it, there is none.
    null: Option<OwnedFd>,
}

impl Engine<'_> {
    /// Goes on in a child, in a `new` PID namespace or in the one that this process's children are in by now.
    pub(super) fn fork(&mut self, new: bool) -> Result<(), Error> {
        let failed = |cause: io::Error| Error::Fork { cause };
        if new {
            let entered = unshare(CloneFlags::CLONE_NEWPID);
            entered.map_err(|cause| Error::Namespace { kind: "pid", cause: cause.into() })?;
        }
        let pair = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None);
        let (ours, theirs) = pair.map_err(|cause| failed(cause.into()))?;
        let mut around = self.around.take().unwrap_or_else(Around::look);
        let null = around.null.take();
        let held = Held::hold().map_err(failed)?;
        let Some(child) = process::go_on_in_two().map_err(failed)? else {
            drop((ours, around));
            let forked = Forked { held, channel: theirs, null };
            forked.bind_to_parent(self.ground.detached.is_some());
            self.forked = Some(forked);
            return Ok(());
        };
        drop(theirs);
        if let Some(detached) = &self.ground.detached {
            if let Err(cause) = (detached.started)(child) {
                signals::send(child, libc::SIGKILL);
                let _ = signals::end_of(child);
                let _ = held.release();
                return Err(Error::Started { cause });
            }
            let _ = send(&ours, &GO_ON, SendFlags::NOSIGNAL);
        }
        Waiter { child, channel: Some(ours), around, told: None }.stay(null)
    }

    /// Goes on in a child; this process stays.
    pub(super) fn stay_and_go_on(&mut self) -> Result<(), Error> {
        let failed = |cause: io::Error| Error::Fork { cause };
        let signals = signals::descriptor().map_err(failed)?;
        // What has come so far was meant for the program.
        let early: Vec<i32> = std::iter::from_fn(|| signals::next(&signals)).map(|sent| sent.signal).collect();
        let (mut begin, apart) = io::pipe().map_err(failed)?;
        let Some(program) = process::go_on_in_two().map_err(failed)? else {
            drop(apart);
            self.unguard()?;
            // The other one has left the group before the program can signal it.
            return begin.read(&mut [0]).map(drop).map_err(failed);
        };
        // Signals of the terminal and to the group are the program's, which is in the group that this process leaves.
        let _ = nix::unistd::setsid();
        self.hide()?;
        drop((begin, apart));
        early.into_iter().filter(|signal| *signal != libc::SIGCHLD).for_each(|signal| signals::send(program, signal));
        self.init(signals, Some(program))
    }

    /// This process stays.
    pub(super) fn stay(&mut self) -> Result<(), Error> {
        let signals = signals::descriptor().map_err(|cause| Error::Fork { cause })?;
        if let Some(detached) = &self.ground.detached {
            say(&detached.starter, READY);
        }
        let _ = nix::unistd::setsid();
        self.hide()?;
        self.init(signals, None)
    }

    /// Nobody but who owns the container may look into its init, which is under no filter: programs that are under one could write
    /// to its memory. Joining an instance takes a look, so there a capability that the programs do not have does it.
    fn hide(&self) -> Result<(), Error> {
        if self.ground.detached.is_some() || !self.filtered {
            return Ok(());
        }
        nix::sys::prctl::set_dumpable(false).map_err(|cause| Error::Fork { cause: cause.into() })
    }

    /// In the process that becomes the program, and has no right more by then. The kernel forgets the rest at execve(2).
    fn unguard(&mut self) -> Result<(), Error> {
        let Some(sets) = self.guarded.take() else { return Ok(()) };
        privileges::give_up_guard(&sets)
            .map_err(|cause| Error::Privileges { what: "the capability sets", cause: cause.into() })?;
        nix::sys::prctl::set_dumpable(false).map_err(|cause| Error::Fork { cause: cause.into() })
    }

    fn init(&mut self, signals: SignalFd, program: Option<i32>) -> Result<(), Error> {
        let forked = self.forked.take().ok_or(Error::OutOfOrder("stay as the container's init"))?;
        let kept = [forked.channel.as_raw_fd(), signals.as_fd().as_raw_fd()].into_iter();
        let kept: Vec<i32> = kept.chain(forked.null.iter().map(AsRawFd::as_raw_fd)).collect();
        // The program's beginning is seen by the end of what it holds besides.
        descriptors::close_all_but(&kept).map_err(Error::Descriptors)?;
        let _ = nix::sys::prctl::set_name(NAME);
        if let Some(null) = &forked.null {
            let _ = process::redirect_standard(null);
        }
        Init { signals, program, channel: forked.channel }.stay()
    }

    /// The last thing before the program is executed, or before a filter that may not allow it.
    pub(super) fn let_go(&mut self) -> Result<(), Error> {
        let failed = |cause: io::Error| Error::Fork { cause };
        if let Some(detached) = &self.ground.detached {
            detached.attach().map_err(failed)?;
        }
        if let Some(forked) = self.forked.take() {
            forked.held.release().map_err(failed)?;
            // Once more: a change of credentials may have ended it.
            signals::end_with_parent().map_err(failed)?;
        }
        signals::uncount_children();
        Ok(())
    }

    /// The program could not be executed, which the starter has to hear in its own terminal.
    pub(super) fn take_back(&mut self) {
        if let Some(detached) = &self.ground.detached {
            say(&detached.starter, FAILED);
            if let Some(own) = detached.own.get() {
                let _ = process::redirect_output(own, own);
            }
        }
    }
}

/// The reader may be gone.
fn say(starter: &OwnedFd, word: u8) {
    let _ = rustix::io::write(starter, &[word]);
}

impl Detached {
    /// For a program that writes to these.
    #[must_use]
    pub fn new(
        output: OwnedFd,
        errors: OwnedFd,
        starter: OwnedFd,
        started: impl Fn(i32) -> io::Result<()> + 'static,
    ) -> Self {
        Self { output, errors, starter, started: Box::new(started), own: OnceCell::new() }
    }

    pub(super) fn descriptors(&self) -> [i32; 3] {
        [&self.output, &self.errors, &self.starter].map(AsRawFd::as_raw_fd)
    }

    fn attach(&self) -> io::Result<()> {
        if self.own.set(rustix::io::fcntl_dupfd_cloexec(io::stderr(), 3)?).is_err() {
            return Ok(());
        }
        say(&self.starter, READY);
        process::redirect_output(&self.output, &self.errors)
    }
}

impl Forked {
    pub(super) fn descriptors(&self) -> impl Iterator<Item = i32> + '_ {
        [&self.channel].into_iter().chain(&self.null).map(AsRawFd::as_raw_fd)
    }

    /// Sees to it that this process does not outlive its parent. Where that must say so, it is waited for.
    fn bind_to_parent(&self, wait: bool) {
        let bound = signals::end_with_parent().is_ok();
        // The parent may have ended before; its end of the socket tells.
        let mut polled = [PollFd::new(&self.channel, PollFlags::empty())];
        let alone = matches!(poll(&mut polled, Some(&Timespec::default())), Ok(ready) if ready > 0);
        let told = !wait || matches!(recv(&self.channel, &mut [0][..], RecvFlags::empty()), Ok((1, _)));
        if alone || !bound || !told {
            process::exit_now(Exit::Failure as i32);
        }
    }
}

/// What the one that waits has to know of the world that it came from, which the one that goes on leaves.
pub(super) struct Around {
    /// The controlling terminal, and whether this process's group was in its foreground.
    terminal: Option<(OwnedFd, bool)>,
    /// The host's `/proc`.
    proc: Option<OwnedFd>,
    null: Option<OwnedFd>,
}

impl Around {
    pub(super) fn look() -> Self {
        let null = open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).ok();
        let terminal = open("/dev/tty", OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty()).ok();
        let in_front = |terminal: &OwnedFd| tcgetpgrp(terminal) == Ok(getpgrp());
        let proc = open("/proc", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).ok();
        let terminal = terminal.map(|terminal| {
            let front = in_front(&terminal);
            (terminal, front)
        });
        Self { terminal, proc, null }
    }

    /// Whose the process is that the host's `/proc` has there.
    fn owner(&self, path: String) -> Option<u32> {
        let directory = openat(self.proc.as_ref()?, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).ok()?;
        rustix::fs::fstat(&directory).ok().map(|status| status.st_uid)
    }
}

/// The process that was started.
struct Waiter {
    child: i32,
    /// From the init, if there is one; closed by a program that is process 1 itself.
    channel: Option<OwnedFd>,
    around: Around,
    /// How the program ended, as the init says.
    told: Option<Change>,
}

impl Waiter {
    /// Waits, and ends as the program ends.
    fn stay(mut self, null: Option<OwnedFd>) -> Result<(), Error> {
        let signals = match self.settle(null) {
            Ok(signals) => signals,
            Err(cause) => {
                signals::send(self.child, libc::SIGKILL);
                let _ = signals::end_of(self.child);
                return Err(Error::Fork { cause });
            }
        };
        let end = self.wait(&signals);
        // A shell in the container may have taken the terminal for a group that is gone.
        if let Some((terminal, true)) = &self.around.terminal
            && tcgetpgrp(terminal).is_ok_and(|group| group != getpgrp())
        {
            let _ = tcsetpgrp(terminal, getpgrp());
        }
        signals::end_as(end)
    }

    /// Gives up what only the one that goes on needs.
    fn settle(&self, null: Option<OwnedFd>) -> io::Result<SignalFd> {
        signals::reset();
        let signals = signals::descriptor()?;
        // Else pipes that the program has closed would stay open.
        if let Some(null) = null {
            process::redirect_standard(&null)?;
        }
        let terminal = self.around.terminal.iter().map(|(terminal, _)| terminal);
        let owned = self.channel.iter().chain(terminal).chain(&self.around.proc).map(AsRawFd::as_raw_fd);
        let keep: Vec<i32> = owned.chain([signals.as_fd().as_raw_fd()]).collect();
        descriptors::close_all_but(&keep)?;
        nix::unistd::chdir("/")?;
        nix::sys::prctl::set_no_new_privs()?;
        privileges::drop_held()?;
        // Other programs of the user must not come by way of it to what it sees of the host.
        nix::sys::prctl::set_dumpable(false)?;
        Ok(signals)
    }

    fn wait(&mut self, signals: &SignalFd) -> Change {
        // It may have ended already, and giving SIGCHLD its disposition back discards one that waits.
        if let Some(end) = self.look() {
            return end;
        }
        loop {
            let mut polled = vec![PollFd::new(signals, PollFlags::IN)];
            polled.extend(self.channel.as_ref().map(|channel| PollFd::new(channel, PollFlags::IN)));
            let _ = poll(&mut polled, None);
            self.hear();
            while let Some(sent) = signals::next(signals) {
                if sent.signal == libc::SIGCHLD {
                    if let Some(end) = self.look() {
                        return end;
                    }
                } else if !sent.by_kernel && !self.is_inside(sent) {
                    signals::send(self.child, sent.signal);
                }
            }
        }
    }

    /// Whether a signal's sender is in the container: it meant the whole group, and the program has got it, too. The kernel does not
    /// translate the sender's number, so it is the container's if that has such a process and the sender has none on the host.
    fn is_inside(&self, sent: Sent) -> bool {
        let Sent { sender, user, .. } = sent;
        let inside = || self.around.owner(format!("{}/root/proc/{sender}", self.child));
        sender != 0 && self.around.owner(sender.to_string()) != Some(user) && inside() == Some(user)
    }

    /// What the init says.
    fn hear(&mut self) {
        let mut message = [0_u8; 2];
        while let Some(channel) = &self.channel {
            match recv(channel, &mut message[..], RecvFlags::DONTWAIT) {
                Ok((2, _)) => match message {
                    [EXITED, status] => self.told = Some(Change::Exited(status)),
                    [KILLED, signal] => self.told = Some(Change::Killed(signal)),
                    [STOPPED, signal] => self.stop(signal),
                    _ => {}
                },
                Err(rustix::io::Errno::AGAIN) => return,
                _ => self.channel = None,
            }
        }
    }

    /// What became of the child itself.
    fn look(&mut self) -> Option<Change> {
        while let Some((_, change)) = signals::change_of(self.child) {
            match change {
                Change::Exited(_) | Change::Killed(_) => {
                    self.hear();
                    return Some(self.told.unwrap_or(change));
                }
                Change::Stopped(signal) => self.stop(signal),
                Change::Continued => {}
            }
        }
        None
    }

    /// Where there is a terminal, its shell has to see that the program was stopped, and will tell both to go on. Elsewhere nobody
    /// would tell this process.
    fn stop(&self, signal: u8) {
        if self.around.terminal.is_some() {
            signals::stop_as(signal);
        }
    }
}

/// Process 1.
struct Init {
    signals: SignalFd,
    program: Option<i32>,
    channel: OwnedFd,
}

impl Init {
    fn stay(self) -> ! {
        let ending = [libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGQUIT];
        loop {
            let mut polled = [PollFd::new(&self.signals, PollFlags::IN)];
            let _ = poll(&mut polled, None);
            while let Some(sent) = signals::next(&self.signals) {
                match self.program {
                    _ if sent.signal == libc::SIGCHLD => self.reap(),
                    _ if sent.by_kernel => {}
                    Some(program) => signals::send(program, sent.signal),
                    None if ending.contains(&sent.signal) => self.end(Change::Exited(0)),
                    None => {}
                }
            }
        }
    }

    fn reap(&self) {
        while let Some((pid, change)) = signals::change_of(-1) {
            if Some(pid) == self.program {
                match change {
                    Change::Exited(_) | Change::Killed(_) => self.end(change),
                    Change::Stopped(signal) => self.tell(STOPPED, signal),
                    Change::Continued => {}
                }
            }
        }
    }

    fn tell(&self, what: u8, value: u8) {
        let _ = send(&self.channel, &[what, value], SendFlags::NOSIGNAL);
    }

    fn end(&self, change: Change) -> ! {
        match change {
            Change::Killed(signal) => self.tell(KILLED, signal),
            Change::Exited(status) => self.tell(EXITED, status),
            Change::Stopped(_) | Change::Continued => {}
        }
        process::exit_now(0)
    }
}
