//! The session with the kernel: what is agreed at the start, and the threads that answer.
//!
//! One thread leads: it alone waits for requests, so that the kernel wakes nobody in vain, and answers what is
//! quickly answered itself. Before it unpacks a block it lets another one lead, if requests have lately come while one
//! was being unpacked; else the waking would be for nothing, too. The lead is a lock: to wait for it is to follow.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use rustix::io::Errno;

use super::answer::{Lead, Worker};
use super::control::Control;
use super::device::{BUFFER, Device, Received};
use super::load::Load;
use super::protocol::{InitIn, InitOut, MAJOR, MINOR, MINOR_MIN, Malformed, Request, init, opcode};
use super::spin::Poller;
use super::{Error, READ_MAX};

/// Readahead requests that the kernel may have under way. Its own limit for unprivileged mounts is larger.
const MAX_BACKGROUND: u16 = 64;
/// For how many blocks the lead is given away after a request came while one was unpacked.
const CROWD: u32 = 8;
/// Least that the kernel allows for; nothing is ever written.
const MAX_WRITE: u32 = 4096;

/// What serving threads share.
pub(super) struct Session<'a> {
    control: &'a Control,
    device: &'a Device,
    lead: Mutex<Poller>,
    is_over: AtomicBool,
    threads: usize,
    /// How many more blocks are to be unpacked with another thread leading.
    crowd: AtomicU32,
    /// Threads that unpack and do not lead.
    at_work: AtomicU32,
}

impl<'a> Session<'a> {
    /// Agrees with the kernel on the features to use. `None` if the mount is gone before that.
    pub(super) fn open(
        control: &'a Control,
        device: &'a Device,
        threads: usize,
        cpus: usize,
    ) -> Result<Option<Self>, Error> {
        let mut buffer = vec![0; BUFFER];
        loop {
            let message = match device.receive(&mut buffer).map_err(Error::Session)? {
                Received::Message(length) => buffer.get(..length).unwrap_or_default(),
                Received::Unmounted => return Ok(None),
            };
            let Ok(request) = Request::parse(message) else { continue };
            if request.header.opcode != opcode::INIT {
                device.reply_error(request.header.unique, Errno::IO).map_err(Error::Session)?;
                continue;
            }
            let Some(offer) = request.argument::<InitIn>() else {
                return Err(Error::Session(io::Error::other("the kernel's first message is too short")));
            };
            if offer.major > MAJOR {
                // It asks again, in this version.
                let answer = InitOut { major: MAJOR, minor: MINOR, ..InitOut::default() };
                device.reply_with(request.header.unique, &answer).map_err(Error::Session)?;
                continue;
            }
            if offer.major < MAJOR || offer.minor < MINOR_MIN {
                // The mount then fails; nobody waits for the answer.
                let _ = device.reply_error(request.header.unique, Errno::PROTO);
                let text = format!("the kernel speaks FUSE {}.{}, which is too old", offer.major, offer.minor);
                return Err(Error::Session(io::Error::other(text)));
            }
            let features = features(control) & offer.flags;
            control.features.store(features, Relaxed);
            match device.reply_with(request.header.unique, &accept(&offer, features)) {
                Ok(()) => {}
                // It went while it was answered.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(Error::Session(error)),
            }
            let now = Instant::now();
            let load = control.load.lock().unwrap_or_else(PoisonError::into_inner).take();
            let poller = Poller::new(control.switches.spin && cpus > 1, now, load.unwrap_or_else(Load::open));
            return Ok(Some(Self {
                control,
                device,
                lead: Mutex::new(poller),
                is_over: AtomicBool::new(false),
                threads,
                crowd: AtomicU32::new(0),
                at_work: AtomicU32::new(0),
            }));
        }
    }

    /// Answers until the mount is gone. Run by each thread that serves.
    pub(super) fn serve(&self) -> io::Result<()> {
        let mut buffer = vec![0; BUFFER];
        let mut worker = Worker::new(self.control, self.device);
        let mut seat = Seat { session: self, lead: None, keeps_lead: false };
        loop {
            let Some((message, start)) = seat.next(&mut buffer)? else { return Ok(()) };
            let request = match Request::parse(message) {
                Ok(request) => request,
                Err(malformed) => {
                    self.control.tree.log.oddity("the kernel sent a message of the wrong length");
                    if let Malformed::Length(unique) = malformed {
                        worker.sent(self.device.reply_error(unique, Errno::INVAL));
                    }
                    continue;
                }
            };
            // A request that is never answered would hang its program for good.
            let answered = catch_unwind(AssertUnwindSafe(|| worker.answer(&request, start, &mut seat)));
            if answered.is_err() {
                self.control.tree.log.oddity("a request made the server panic");
                worker = Worker::new(self.control, self.device);
                worker.sent(self.device.reply_error(request.header.unique, Errno::IO));
            }
            seat.worked();
        }
    }

    /// Has all threads end after the request that they are at.
    fn end(&self) {
        self.is_over.store(true, Relaxed);
    }
}

/// Features to ask the kernel for. Each that it does not offer has a fallback.
fn features(control: &Control) -> u32 {
    let switches = &control.switches;
    let optional = [
        (switches.readdirplus, init::DO_READDIRPLUS),
        (switches.no_open, init::NO_OPEN_SUPPORT | init::NO_OPENDIR_SUPPORT),
        (switches.cache_symlinks, init::CACHE_SYMLINKS),
    ];
    let always = init::ASYNC_READ | init::PARALLEL_DIROPS | init::MAX_PAGES;
    optional.into_iter().filter(|(is_on, _)| *is_on).fold(always, |all, (_, flag)| all | flag)
}

fn accept(offer: &InitIn, features: u32) -> InitOut {
    InitOut {
        major: MAJOR,
        minor: MINOR.min(offer.minor),
        max_readahead: offer.max_readahead,
        flags: features,
        max_background: MAX_BACKGROUND,
        congestion_threshold: MAX_BACKGROUND / 4 * 3,
        max_write: MAX_WRITE,
        time_gran: 1,
        max_pages: (READ_MAX / 4096) as u16,
        ..InitOut::default()
    }
}

/// One thread's place in the session.
struct Seat<'a> {
    session: &'a Session<'a>,
    /// While it leads.
    lead: Option<MutexGuard<'a, Poller>>,
    /// Whether it unpacks with the lead in hand.
    keeps_lead: bool,
}

impl Seat<'_> {
    /// Waits for the lead and for a request. `None` when the session is over.
    fn next<'b>(&mut self, buffer: &'b mut [u8]) -> io::Result<Option<(&'b [u8], Instant)>> {
        let session = self.session;
        let poller = self.lead.get_or_insert_with(|| session.lead.lock().unwrap_or_else(PoisonError::into_inner));
        if session.is_over.load(Relaxed) {
            self.lead = None;
            return Ok(None);
        }
        let start = Instant::now();
        poller.look(session.device, start);
        let length = match session.device.receive(buffer) {
            Ok(Received::Message(length)) => length,
            ended => {
                session.end();
                self.lead = None;
                return ended.map(|_| None);
            }
        };
        let now = Instant::now();
        poller.learn(start, now);
        session.control.counters.polled(std::mem::take(&mut poller.spent));
        if session.at_work.load(Relaxed) > 0 {
            session.crowd.store(CROWD, Relaxed);
        }
        Ok(buffer.get(..length).map(|message| (message, now)))
    }

    /// Ends a request.
    fn worked(&mut self) {
        if self.lead.is_none() {
            self.session.at_work.fetch_sub(1, Relaxed);
        } else if self.keeps_lead {
            // It worked with the lead in hand. Had another one led, it would have been of use now.
            if self.session.threads > 1 && self.session.device.is_ready() {
                self.session.crowd.store(CROWD, Relaxed);
            }
        }
        self.keeps_lead = false;
    }
}

impl Lead for Seat<'_> {
    fn before_work(&mut self) {
        let session = self.session;
        if session.threads < 2 || self.lead.is_none() {
            return;
        }
        let crowd = session.crowd.load(Relaxed);
        if crowd == 0 && !session.device.is_ready() {
            self.keeps_lead = true;
            return;
        }
        session.crowd.store(crowd.saturating_sub(1), Relaxed);
        session.at_work.fetch_add(1, Relaxed);
        self.lead = None;
    }
}
