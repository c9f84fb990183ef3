//! Where no terminal is: one line for each phase, for the logs of jobs.

use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use coracle::inspect::bytes;
use coracle_converter::{Event, Progress};

use super::{Shown, short};
use crate::say;

/// What the phase at hand has done.
#[derive(Default)]
pub struct Lines(Mutex<Phase>);

#[derive(Default)]
struct Phase {
    begun: Option<Instant>,
    what: String,
    bytes: u64,
}

impl Lines {
    fn begin(&self, what: String) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Phase { begun: Some(Instant::now()), what, bytes: 0 };
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
                self.0.lock().unwrap_or_else(PoisonError::into_inner).bytes += bytes;
                return;
            }
            Event::LayerFinished { .. } => {
                let phase = self.0.lock().unwrap_or_else(PoisonError::into_inner);
                let seconds = phase.begun.map(|begun| begun.elapsed().as_secs_f64()).unwrap_or_default();
                format!("{}: {} in {seconds:.1} s", phase.what, bytes(phase.bytes))
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
