//! The server's side: keeps the namespaces of a mount for launches to come, and lets go of them in time.
//!
//! The kernel keeps a mount as long as a process or a descriptor holds its namespace. The keeper holds descriptors while
//! a launched program runs and for the idle time after it; then it lets go, and the mount ends with the last process in
//! it, which may be one that a program left behind.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{SocketFlags, accept_with, sockopt::socket_peercred};
use rustix::process::{Pid, PidfdFlags, pidfd_open, test_kill_process};

use super::client::{Founding, Sign};
use super::memo::Memo;
use super::message::{Answer, CONTAINERS_MAX, ContainerKey, Request, receive, send};
use super::report::Report;
use crate::fuse::{Control, Synthetic};
use crate::host::Identification;

/// How often programs are looked at that the kernel cannot report the end of (before Linux 5.3).
const LOOK: Duration = Duration::from_millis(500);
/// Pause when there is no descriptor left for a launch that waits.
const BREATH: Duration = Duration::from_millis(50);
/// Programs at which those that have ended are sorted out, at least.
const MANY: usize = 64;

/// Keeps one session.
pub struct Keeper {
    sign: Arc<Sign>,
    listener: OwnedFd,
    image: PathBuf,
    idle: Duration,
    started: Instant,
    clients: Vec<Client>,
    /// All that may still run. Only the end of the first is waited for: the others' matters when that one has ended. A
    /// server that woke at the end of each program would take its time from whoever waits for the program.
    programs: Vec<Program>,
    /// At how many programs those are looked for that have ended.
    many: usize,
    kept: Option<Kept>,
}

/// What joining takes.
struct Kept {
    user: OwnedFd,
    base: OwnedFd,
    /// The one that was used last comes first.
    containers: VecDeque<(ContainerKey, OwnedFd)>,
    memo: Memo,
    who: Identification,
}

struct Client {
    socket: OwnedFd,
    pid: Option<Pid>,
    /// It asked to join before there was anything to join.
    waits: bool,
}

/// A launched program.
struct Program {
    pid: Pid,
    /// Readable when the program has ended; `None` where the kernel has no such descriptors.
    end: Option<OwnedFd>,
}

impl Program {
    fn new(pid: Pid) -> Self {
        Self { pid, end: pidfd_open(pid, PidfdFlags::empty()).ok() }
    }

    fn has_ended(&self) -> bool {
        match &self.end {
            Some(end) => {
                let mut polled = [PollFd::new(end, PollFlags::IN)];
                matches!(poll(&mut polled, Some(&Timespec::default())), Ok(ready) if ready > 0)
            }
            None => test_kill_process(self.pid).is_err(),
        }
    }
}

/// Whether the keeper goes on.
#[derive(PartialEq, Eq)]
enum Next {
    GoOn,
    End,
}

impl Keeper {
    /// Of the session that `founding` announced, for the image at `image`.
    ///
    /// # Errors
    /// When the process may have no descriptor more.
    pub fn new(founding: &Founding, image: PathBuf, idle: Duration) -> io::Result<Self> {
        Ok(Self {
            sign: Arc::clone(&founding.sign),
            listener: founding.listener.try_clone()?,
            image,
            idle,
            started: Instant::now(),
            clients: Vec::new(),
            programs: Vec::new(),
            many: MANY,
            kept: None,
        })
    }

    /// What shows launches the way here.
    pub(crate) fn sign(&self) -> Arc<Sign> {
        Arc::clone(&self.sign)
    }

    /// Descriptors that it needs.
    #[must_use]
    pub fn descriptors(&self) -> Vec<RawFd> {
        self.sign.descriptors().into_iter().chain([self.listener.as_raw_fd()]).collect()
    }

    /// Keeps the session of the server behind `control` until it is over. `founder` is the connection to the launch that
    /// started it, of process `pid`.
    pub fn run(mut self, control: &Control, founder: OwnedFd, pid: u32) {
        let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
        self.clients.push(Client { socket: founder, pid, waits: false });
        let mut quiet_since = None;
        loop {
            let busy = !self.programs.is_empty() || !self.clients.is_empty();
            if busy {
                quiet_since = None;
            }
            let quiet = if busy { None } else { Some(quiet_since.get_or_insert_with(Instant::now).elapsed()) };
            let left = quiet.map(|quiet| self.idle.saturating_sub(quiet));
            if left.is_some_and(|left| left.is_zero()) || !matches!(self.wait(control, left), Ok(Next::GoOn)) {
                // Nobody joins any more: those in the queue are turned away, and make a session of their own.
                return self.sign.take_down();
            }
        }
    }

    /// Waits for something to happen, for `limit` at most, and deals with it.
    fn wait(&mut self, control: &Control, limit: Option<Duration>) -> io::Result<Next> {
        let unseen = self.programs.first().is_some_and(|program| program.end.is_none());
        let limit = if unseen { Some(limit.map_or(LOOK, |limit| limit.min(LOOK))) } else { limit };
        let limit = limit.map(|limit| Timespec {
            tv_sec: i64::try_from(limit.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: limit.subsec_nanos().into(),
        });
        let end = self.programs.first().and_then(|program| program.end.as_ref());
        let sockets = self.clients.iter().map(|client| &client.socket).chain([&self.listener]);
        let mut polled: Vec<PollFd<'_>> =
            sockets.chain(end).map(|descriptor| PollFd::new(descriptor, PollFlags::IN)).collect();
        match poll(&mut polled, limit.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let ready: Vec<bool> = polled.iter().map(|polled| !polled.revents().is_empty()).collect();
        drop(polled);
        let clients = self.clients.len();
        if unseen || ready.get(clients + 1) == Some(&true) {
            self.forget_ended();
        }
        // From the last, so that the numbers of those to come stay what they are.
        for index in (0..clients).rev() {
            if ready.get(index) == Some(&true) && self.hear(control, index)? == Next::End {
                return Ok(Next::End);
            }
        }
        if ready.get(clients) == Some(&true) && self.accept() {
            // It speaks first, and has done so by now.
            return self.hear(control, self.clients.len() - 1);
        }
        Ok(Next::GoOn)
    }

    /// Watches over the program of a client from now on.
    fn watch(&mut self, pid: Option<Pid>) {
        self.programs.extend(pid.map(Program::new));
        if self.programs.len() >= self.many {
            self.forget_ended();
            self.many = MANY.max(2 * self.programs.len());
        }
    }

    fn forget_ended(&mut self) {
        self.programs.retain(|program| !program.has_ended());
    }

    /// Lets a client in; true if it has said something already.
    fn accept(&mut self) -> bool {
        // A launch that gave up meanwhile, or no descriptor left: the one in the queue is tried again.
        let socket = match accept_with(&self.listener, SocketFlags::CLOEXEC) {
            Ok(socket) => socket,
            Err(Errno::MFILE | Errno::NFILE) => {
                self.forget_ended();
                std::thread::sleep(BREATH);
                return false;
            }
            Err(_) => return false,
        };
        // The directory admits nobody else; this does not depend on it.
        let Ok(peer) = socket_peercred(&socket) else { return false };
        if peer.uid.as_raw() != nix::unistd::geteuid().as_raw() {
            return false;
        }
        let mut polled = [PollFd::new(&socket, PollFlags::IN)];
        let speaks = matches!(poll(&mut polled, Some(&Timespec::default())), Ok(ready) if ready > 0);
        self.clients.push(Client { socket, pid: Some(peer.pid), waits: false });
        speaks
    }

    /// Deals with one message of a client, or with its end.
    fn hear(&mut self, control: &Control, index: usize) -> io::Result<Next> {
        let Some(client) = self.clients.get_mut(index) else { return Ok(Next::GoOn) };
        let Ok((request, descriptors)) = receive::<Request>(&client.socket) else {
            // Its end: the program is being executed, or the launch failed.
            self.clients.swap_remove(index);
            // Without a founder nobody will bring what the others wait for.
            return Ok(if self.kept.is_none() && index == 0 { Next::End } else { Next::GoOn });
        };
        match request {
            Request::Join => client.waits = true,
            Request::Keep { memo, who } => {
                let Ok([user, base]) = <[OwnedFd; 2]>::try_from(descriptors) else { return Ok(Next::End) };
                let pid = client.pid;
                self.watch(pid);
                self.kept = Some(Kept { user, base, containers: VecDeque::new(), memo, who });
            }
            Request::KeepContainer(key) => {
                if let (Some(kept), Some(container)) = (&mut self.kept, descriptors.into_iter().next()) {
                    kept.containers.retain(|(other, _)| *other != key);
                    kept.containers.push_front((key, container));
                    kept.containers.truncate(CONTAINERS_MAX);
                }
            }
            Request::Remember(memo) => {
                if let Some(kept) = &mut self.kept {
                    kept.memo.merge(memo);
                }
            }
            Request::Add(wanted) => {
                let answer = match control.add(&Synthetic::from(wanted)) {
                    Ok(()) => Answer::Added,
                    Err(error) => Answer::Refused(error.to_string()),
                };
                self.answer(index, &answer, &[]);
            }
            Request::Report => {
                self.forget_ended();
                let report = Answer::Report(Box::new(self.report(control)));
                self.answer(index, &report, &[]);
            }
            Request::Stop => return Ok(Next::End),
        }
        self.welcome();
        Ok(Next::GoOn)
    }

    fn answer(&self, index: usize, answer: &Answer, descriptors: &[BorrowedFd<'_>]) {
        // Who does not take the answer is gone, which its socket will tell.
        if let Some(client) = self.clients.get(index) {
            let _ = send(&client.socket, answer, descriptors);
        }
    }

    /// Lets those in who wait, once there is something to join.
    fn welcome(&mut self) {
        let Some(kept) = &self.kept else { return };
        let waiting: Vec<usize> = (0..self.clients.len()).filter(|index| self.clients[*index].waits).collect();
        if waiting.is_empty() {
            return;
        }
        let answer = Answer::Welcome {
            memo: kept.memo.clone(),
            who: Box::new(kept.who.clone()),
            containers: kept.containers.iter().map(|(key, _)| *key).collect(),
        };
        let descriptors: Vec<BorrowedFd<'_>> = [&kept.user, &kept.base]
            .into_iter()
            .chain(kept.containers.iter().map(|(_, fd)| fd))
            .map(AsFd::as_fd)
            .collect();
        for index in &waiting {
            self.answer(*index, &answer, &descriptors);
        }
        for index in waiting {
            if let Some(client) = self.clients.get_mut(index) {
                client.waits = false;
                let pid = client.pid;
                self.watch(pid);
            }
        }
    }

    fn report(&self, control: &Control) -> Report {
        Report {
            image: self.image.clone(),
            server: std::process::id(),
            programs: self.programs.iter().map(|program| program.pid.as_raw_nonzero().get()).collect(),
            containers: self.kept.as_ref().map_or(0, |kept| kept.containers.len()),
            age: self.started.elapsed().as_secs(),
            idle: self.idle.as_secs(),
            stats: serde_json::to_string(&control.stats()).unwrap_or_default(),
        }
    }
}
