//! Where no terminal is: one line for each phase, for the logs of jobs.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use coracle::inspect::bytes;
use coracle_converter::{Event, Progress};

use super::{Shown, short};
use crate::say;

/// What the phase at hand has done.
#[derive(Default)]
pub struct Lines {
    phase: Mutex<Phase>,
    /// By number.
    downloads: Mutex<HashMap<usize, Phase>>,
}

#[derive(Default)]
struct Phase {
    begun: Option<Instant>,
    what: String,
    bytes: u64,
}

impl Phase {
    fn new(what: String) -> Self {
        Self { begun: Some(Instant::now()), what, bytes: 0 }
    }

    fn done(&self) -> String {
        let seconds = self.begun.map(|begun| begun.elapsed().as_secs_f64()).unwrap_or_default();
        format!("{}: {} in {seconds:.1} s", self.what, bytes(self.bytes))
    }
}

impl Lines {
    fn begin(&self, what: String) {
        *self.phase.lock().unwrap_or_else(PoisonError::into_inner) = Phase::new(what);
    }
}

impl Progress for Lines {
    fn event(&self, event: Event<'_>) {
        let line = match event {
            Event::Waiting { host, pid } => {
                let host: String = host.chars().filter(|c| !c.is_control()).collect();
                format!("waiting for process {pid} on {host}, which makes this image")
            }
            Event::LayerStarted { index, total, name, .. } => {
                return self.begin(format!("layer {}/{total} {}", index + 1, short(name)));
            }
            Event::Advanced { bytes } => {
                self.phase.lock().unwrap_or_else(PoisonError::into_inner).bytes += bytes;
                return;
            }
            Event::LayerFinished { .. } => self.phase.lock().unwrap_or_else(PoisonError::into_inner).done(),
            Event::DownloadStarted { index, digest, bytes, present, .. } => {
                let what = if present { "found" } else { "fetched" };
                let phase = Phase { bytes, ..Phase::new(format!("{what} {}", short(&digest.to_string()))) };
                self.downloads.lock().unwrap_or_else(PoisonError::into_inner).insert(index, phase);
                return;
            }
            Event::DownloadFinished { index } => {
                match self.downloads.lock().unwrap_or_else(PoisonError::into_inner).remove(&index) {
                    Some(phase) => phase.done(),
                    None => return,
                }
            }
            Event::ImageStarted { inodes } => format!("packing an image of {inodes} inodes"),
            Event::DirectoryStarted => "packing a directory".to_owned(),
            Event::Finishing => "writing tables".to_owned(),
            _ => return,
        };
        say(&format!("coracle: {line}"));
    }
}

impl Shown for Lines {}
