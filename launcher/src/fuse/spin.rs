//! Looking for the next request for a while before sleeping, in the manner of KVM's halt polling.
//!
//! Waking a thread takes longer than most answers. So a thread that has answered looks whether the next request comes
//! soon. How long it looks grows while requests come soon and falls to nothing when they do not, so that an idle
//! server uses no time at all.

use std::time::{Duration, Instant};

use super::device::Device;

/// Longest time to look.
const LONGEST: Duration = Duration::from_micros(300);
/// What it grows from.
const SHORTEST: Duration = Duration::from_micros(20);
/// How long a new mount counts as busy: what is mounted is about to be used.
const START: Duration = Duration::from_millis(20);
/// One look takes a microsecond. One that took this long was interrupted: somebody else wants the processor.
const INTERRUPTED: Duration = Duration::from_micros(60);
/// How long the processor is left to them.
const PAUSE: Duration = Duration::from_millis(5);

/// When to look, and for how long.
#[derive(Debug)]
pub(super) struct Poller {
    window: Window,
    /// Time spent looking since it was last asked for.
    pub(super) spent: Duration,
}

impl Poller {
    /// `is_on` is whether to look at all: on a single processor it keeps the request from being made.
    pub(super) fn new(is_on: bool, now: Instant) -> Self {
        Self { window: Window::new(is_on, now), spent: Duration::ZERO }
    }

    /// Looks for a request as long as that is worth while; the caller then sleeps until there is one.
    pub(super) fn look(&mut self, device: &Device, start: Instant) {
        let window = self.window.length(start);
        if window.is_zero() {
            return;
        }
        let mut last = start;
        loop {
            if device.is_ready() {
                break;
            }
            let now = Instant::now();
            if now - last > INTERRUPTED {
                self.window.interrupted(now);
            }
            if now - start >= window || now - last > INTERRUPTED {
                self.spent += now - start;
                return;
            }
            last = now;
            std::hint::spin_loop();
        }
        self.spent += last - start;
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
}

impl Window {
    const fn new(is_on: bool, now: Instant) -> Self {
        Self { is_on, length: LONGEST, started: now, resume: now }
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

    fn interrupted(&mut self, now: Instant) {
        self.resume = now + PAUSE;
    }
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
        window.interrupted(start);
        assert_eq!(window.length(start + PAUSE / 2), Duration::ZERO);
        assert_eq!(window.length(start + PAUSE), LONGEST);
        assert_eq!(Window::new(false, start).length(start), Duration::ZERO);
    }
}
