//! Whether the machine has a processor to spare.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

/// The kernel's count of what is running, in a file that costs a few microseconds to read.
const PATH: &str = "/proc/loadavg";
/// For how long a count is believed.
const VALID: Duration = Duration::from_millis(1);

/// How busy the machine is. Opened before the server's process confines itself: it may open nothing later.
#[derive(Debug)]
pub struct Load {
    /// Without it, the machine counts as idle.
    file: Option<File>,
    processors: u64,
    /// Until when the last answer holds.
    until: Instant,
    has_room: bool,
}

impl Load {
    /// Opens what tells.
    #[must_use]
    pub fn open() -> Self {
        let processors = nix::unistd::sysconf(nix::unistd::SysconfVar::_NPROCESSORS_ONLN).ok().flatten();
        let processors = processors.and_then(|count| u64::try_from(count).ok()).unwrap_or(1);
        Self { file: File::open(PATH).ok(), processors, until: Instant::now(), has_room: true }
    }

    /// Whether fewer threads want a processor, this one included, than there are processors.
    pub(super) fn has_room(&mut self, now: Instant) -> bool {
        if now >= self.until {
            self.until = now + VALID;
            let mut text = [0; 64];
            let length = self.file.as_ref().and_then(|file| file.read_at(&mut text, 0).ok());
            let running = length.and_then(|length| running(text.get(..length)?));
            self.has_room = running.is_none_or(|running| running < self.processors);
        }
        self.has_room
    }
}

/// The running threads in a line such as `0.20 0.18 0.12 1/80 11206`.
fn running(line: &[u8]) -> Option<u64> {
    let counts = std::str::from_utf8(line).ok()?.split(' ').nth(3)?;
    counts.split_once('/')?.0.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_count_is_read() {
        assert_eq!(running(b"0.20 0.18 0.12 3/80 11206\n"), Some(3));
        assert_eq!(running(b"0.20 0.18"), None);
        assert!(running(&std::fs::read(PATH).unwrap()).unwrap() >= 1);
    }

    #[test]
    fn a_count_is_believed_for_a_while() {
        let now = Instant::now();
        let mut load = Load { file: File::open(PATH).ok(), processors: 0, until: now + VALID, has_room: true };
        assert!(load.has_room(now));
        // Somebody is running: this test.
        assert!(!load.has_room(now + VALID));
        load = Load { file: None, ..load };
        assert!(load.has_room(now + VALID * 3));
    }
}
