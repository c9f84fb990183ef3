//! Where trouble is reported: requests fail with EIO, and the first one's cause is written down.

use std::fs::File;
use std::io::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock};

use coracle_squashfs::reader;

use super::stats::RequestKind;

/// Counts failures and writes the first. A server has no terminal, and a damaged image can fail a million times.
#[derive(Debug, Default)]
pub(super) struct Log {
    sink: OnceLock<Mutex<File>>,
    failures: AtomicU64,
    /// Messages that the kernel should not send.
    oddities: AtomicU64,
}

impl Log {
    /// Writes to `sink` from now on, if it is the first.
    pub(super) fn open(&self, sink: File) {
        // A second one is ignored: what has been said so far stays in one place.
        let _ = self.sink.set(Mutex::new(sink));
    }

    /// Requests that failed because of the image.
    pub(super) fn failures(&self) -> u64 {
        self.failures.load(Ordering::Relaxed)
    }

    /// Takes note of what else is wrong, once.
    pub(super) fn oddity(&self, text: &str) {
        if self.oddities.fetch_add(1, Ordering::Relaxed) == 0 {
            self.write(&format!("{text}\n"));
        }
    }

    /// Takes note that `request` on node `id` could not be answered.
    pub(super) fn failure(&self, request: RequestKind, id: u64, error: &reader::Error) {
        if self.failures.fetch_add(1, Ordering::Relaxed) == 0 {
            self.write(&format!("cannot answer {request} of node {id:#x}: {}\n", chain(error)));
        }
    }

    /// Says how many requests failed, if any did.
    pub(super) fn close(&self) {
        match self.failures() {
            0 => {}
            failures => self.write(&format!("{failures} requests failed because the image could not be read\n")),
        }
    }

    fn write(&self, line: &str) {
        if let Some(Ok(mut sink)) = self.sink.get().map(Mutex::lock) {
            // A log that cannot be written is no reason to stop serving.
            let _ = sink.write_all(line.as_bytes());
        }
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
