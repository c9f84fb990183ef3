//! For programs: one JSON object on each line of standard output. The names are an interface.

use std::io::{self, Write};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use coracle_converter::{Event, Progress};
use serde_json::{Value, json};

use super::Shown;

/// Between two lines that only say how far it is.
const EVERY: Duration = Duration::from_millis(250);

/// Bytes or entries of the phase at hand, and when that was last said.
#[derive(Default)]
pub struct Json(Mutex<(u64, Option<Instant>)>);

impl Json {
    /// What a count has come to, if it is time to say it.
    fn count(&self, count: impl FnOnce(u64) -> u64) -> Option<u64> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.0 = count(state.0);
        let now = Instant::now();
        if state.1.is_some_and(|last| now.duration_since(last) < EVERY) {
            return None;
        }
        state.1 = Some(now);
        Some(state.0)
    }

    fn restart(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = (0, Some(Instant::now()));
    }
}

impl Progress for Json {
    fn event(&self, event: Event<'_>) {
        let value = match event {
            Event::Stored => json!({"event": "stored"}),
            Event::Converting => json!({"event": "converting"}),
            Event::Waiting { host, pid } => json!({"event": "waiting", "host": host, "pid": pid}),
            Event::LayerStarted { index, total, name, bytes } => {
                self.restart();
                json!({"event": "layer", "index": index, "total": total, "name": name, "bytes": bytes})
            }
            Event::Advanced { bytes } => match self.count(|all| all + bytes) {
                Some(bytes) => json!({"event": "progress", "bytes": bytes}),
                None => return,
            },
            Event::DownloadStarted { index, total, digest, bytes, present } => json!({
                "event": "download", "index": index, "total": total, "digest": digest.to_string(), "bytes": bytes,
                "present": present,
            }),
            Event::Downloaded { index, bytes } => json!({"event": "downloaded", "index": index, "bytes": bytes}),
            Event::DownloadFinished { index } => json!({"event": "download-done", "index": index}),
            Event::LayerFinished { index } => json!({"event": "layer-done", "index": index}),
            Event::DirectoryStarted => json!({"event": "directory"}),
            Event::ImageStarted { inodes } => json!({"event": "image", "inodes": inodes}),
            Event::Entries { count } => match self.count(|_| count) {
                Some(entries) => json!({"event": "progress", "entries": entries}),
                None => return,
            },
            Event::Finishing => json!({"event": "finishing"}),
            _ => return,
        };
        write(&value);
    }
}

impl Shown for Json {}

/// Writes one line. The image counts, whether or not somebody still listens.
pub fn write(value: &Value) {
    let mut out = io::stdout().lock();
    let _ = writeln!(out, "{value}").and_then(|()| out.flush());
}
