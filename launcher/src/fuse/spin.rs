//! Looking for the next request for a while before sleeping, in the manner of KVM's halt polling.
//!
//! Waking a thread takes longer than most answers. So a thread that has answered looks whether the next request comes
//! soon. How long it looks grows while requests come soon and falls to nothing when they do not, so that an idle
//! server uses no time at all. Nor does it look while others wait for a processor: the next request may be theirs to make.

use std::time::{Duration, Instant};

use nix::sys::resource::{UsageWho, getrusage};

use super::device::Device;
use super::load::Load;

/// Longest time to look.
const LONGEST: Duration = Duration::from_micros(300);
/// What it grows from.
const SHORTEST: Duration = Duration::from_micros(20);
/// How long a new mount counts as busy: what is mounted is about to be used.
const START: Duration = Duration::from_millis(20);
/// How long the processor is left to others when they want it, at first and at last.
const PAUSE: Duration = Duration::from_millis(2);
const PAUSE_LONGEST: Duration = Duration::from_millis(64);

/// When to look, and for how long.
#[derive(Debug)]
pub(super) struct Poller {
    window: Window,
    load: Load,
    /// Time spent looking since it was last asked for.
    pub(super) spent: Duration,
}

impl Poller {
    /// `is_on` is whether to look at all: on a single processor it keeps the request from being made.
    pub(super) fn new(is_on: bool, now: Instant, load: Load) -> Self {
        Self { window: Window::new(is_on, now), load, spent: Duration::ZERO }
    }

    /// Looks for a request as long as that is worth while; the caller then sleeps until there is one.
    pub(super) fn look(&mut self, device: &Device, start: Instant) {
        let window = self.window.length(start);
        if window.is_zero() || !self.load.has_room(start) {
            return;
        }
        let before = preemptions();
        let mut now = start;
        while now - start < window && !device.is_ready() {
            std::hint::spin_loop();
            now = Instant::now();
        }
        self.spent += now - start;
        self.window.preempted(preemptions() != before, now);
    }

    /// Learns from the time that passed until a request came.
    pub(super) fn learn(&mut self, start: Instant, now: Instant) {
        self.window.learn(now - start, now);
    }
}

/// The rule for how long to look.
#[derive(Debug)]
struct Window {
    is_on: bool,
    length: Duration,
    started: Instant,
    resume: Instant,
    pause: Duration,
}

impl Window {
    const fn new(is_on: bool, now: Instant) -> Self {
        Self { is_on, length: LONGEST, started: now, resume: now, pause: PAUSE }
    }

    fn length(&self, now: Instant) -> Duration {
        if self.is_on && now >= self.resume { self.length } else { Duration::ZERO }
    }

    fn learn(&mut self, waited: Duration, now: Instant) {
        if waited <= LONGEST {
            self.length = (self.length * 2).clamp(SHORTEST, LONGEST);
        } else if now - self.started > START {
            self.length = Duration::ZERO;
        }
    }

    /// Takes note whether somebody else took the processor meanwhile: mostly the one who is to make the next request,
    /// and must wait for this processor because the others are taken.
    fn preempted(&mut self, was: bool, now: Instant) {
        if was {
            self.resume = now + self.pause;
            self.pause = (self.pause * 2).min(PAUSE_LONGEST);
        } else {
            self.pause = (self.pause - self.pause / 16).max(PAUSE);
        }
    }
}

/// How often this thread has lost the processor without asking.
fn preemptions() -> i64 {
    #[expect(clippy::useless_conversion, reason = "the type differs between architectures")]
    getrusage(UsageWho::RUSAGE_THREAD).map_or(0, |usage| usage.involuntary_context_switches().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_micros(50);

    #[test]
    fn the_window_follows_the_requests() {
        let start = Instant::now();
        let mut window = Window::new(true, start);
        assert_eq!(window.length(start), LONGEST);
        window.learn(Duration::from_millis(2), start + START / 2);
        assert_eq!(window.length(start), LONGEST, "a new mount counts as busy");
        let later = start + START * 2;
        window.learn(Duration::from_millis(2), later);
        assert_eq!(window.length(later), Duration::ZERO);
        window.learn(SOON, later);
        assert_eq!(window.length(later), SHORTEST);
        (0..10).for_each(|_| window.learn(SOON, later));
        assert_eq!(window.length(later), LONGEST);
    }

    #[test]
    fn others_get_the_processor() {
        let start = Instant::now();
        let mut window = Window::new(true, start);
        window.preempted(false, start);
        assert_eq!(window.length(start), LONGEST);
        window.preempted(true, start);
        assert_eq!(window.length(start + PAUSE / 2), Duration::ZERO);
        assert_eq!(window.length(start + PAUSE), LONGEST);
        window.preempted(true, start);
        assert_eq!(window.length(start + PAUSE), Duration::ZERO, "it is left alone for longer each time");
        (0..20).for_each(|_| window.preempted(true, start));
        assert_eq!(window.length(start + PAUSE_LONGEST), LONGEST);
        assert_eq!(Window::new(false, start).length(start), Duration::ZERO);
    }
}
