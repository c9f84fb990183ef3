//! Where a damaged image is reported: requests fail with EIO, and the first one's cause is written down.

use std::fs::File;
use std::io::Write;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use coracle_squashfs::reader;

use super::requests::RequestKind;

/// Counts failures and writes the first. A server has no terminal, and a damaged image can fail a million times.
#[derive(Debug, Default)]
pub(super) struct Log {
    sink: Option<Mutex<File>>,
    failures: AtomicU64,
}

impl Log {
    pub(super) fn new(sink: Option<File>) -> Self {
        Self { sink: sink.map(Mutex::new), failures: AtomicU64::new(0) }
    }

    /// Takes note that `request` on node `id` could not be answered.
    pub(super) fn failure(&self, request: RequestKind, id: u64, error: &reader::Error) {
        if self.failures.fetch_add(1, Ordering::Relaxed) == 0 {
            self.write(&format!("cannot answer {request} of node {id:#x}: {}\n", chain(error)));
        }
    }

    /// Says how many requests failed, if any did.
    pub(super) fn close(&self) {
        match self.failures.load(Ordering::Relaxed) {
            0 => {}
            failures => self.write(&format!("{failures} requests failed because the image is damaged\n")),
        }
    }

    fn write(&self, line: &str) {
        if let Some(Ok(mut sink)) = self.sink.as_ref().map(Mutex::lock) {
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
