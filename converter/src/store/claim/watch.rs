//! A process that waits for another: whether the other still lives, and when to look again.

use super::{Claims, Error, Seen};
use std::thread;
use std::time::{Duration, Instant};

/// Between two looks at first, and at most.
const PAUSE: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(2));

/// What a waiting process has seen of the claims on one image.
#[derive(Debug, Default)]
pub struct Watch {
    /// The claim's content and id, and when it was first seen like that.
    seen: Option<(Vec<u8>, String, Instant)>,
    /// Since when another has been removing a dead claim.
    retiring: Option<Instant>,
    begun: Option<Instant>,
}

impl Watch {
    /// Id of the claim that was seen last.
    pub fn id(&self) -> Option<&str> {
        self.seen.as_ref().map(|(_, id, _)| id.as_str())
    }

    /// Takes a look into account, and removes the claim of an owner that is dead. True when it pays to look again at
    /// once.
    ///
    /// # Errors
    /// When the claim is dead and cannot be removed.
    pub fn look(&mut self, claims: &Claims, key: &str, seen: &Seen) -> Result<bool, Error> {
        let now = Instant::now();
        let since = match &self.seen {
            Some((content, _, since)) if *content == seen.content => *since,
            _ => {
                self.retiring = None;
                self.seen = Some((seen.content.clone(), seen.id.clone(), now));
                now
            }
        };
        let lease = seen.lease(claims.lease);
        if now.duration_since(since) <= lease && !seen.is_gone(claims.own()) {
            return Ok(false);
        }
        if claims.retire(key, &seen.id)? {
            return Ok(true);
        }
        // Removing takes no time. One who takes a lease for it died over it.
        let retiring = *self.retiring.get_or_insert(now);
        if now.duration_since(retiring) > lease {
            claims.unmark(key, &seen.id);
            self.retiring = None;
        }
        Ok(false)
    }

    /// Waits a tenth of what has been waited before, more or less: a long wait is worth few requests to a file server,
    /// and those who began together shall not ask together.
    pub fn pause(&mut self) {
        let begun = *self.begun.get_or_insert_with(Instant::now);
        let (least, most) = PAUSE;
        let pause = (begun.elapsed() / 10).clamp(least, most);
        let jitter = u64::from(std::process::id()).wrapping_mul(0x9E37_79B9) ^ begun.elapsed().as_micros() as u64;
        thread::sleep(pause * (75 + (jitter % 50) as u32) / 100);
    }
}
