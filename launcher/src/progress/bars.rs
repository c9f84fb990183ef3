//! On a terminal: a bar for each layer, which stays until the end.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use coracle_converter::{Event, Progress};
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::{Shown, short};

/// Between redraws while nothing happens.
const TICK: Duration = Duration::from_millis(200);
/// Bars of finished layers that stay: an image may have more layers than a terminal has lines.
const FINISHED_MAX: usize = 8;
const BYTES: &str =
    "{spinner} {msg:30!} [{bar:25}] {binary_bytes:>10}/{binary_total_bytes:10} {binary_bytes_per_sec:>12} {eta:>4}";
const OPEN_END: &str = "{spinner} {msg:30!} {binary_bytes:>10} {binary_bytes_per_sec:>12} {elapsed:>4}";
const DONE: &str = "  {msg:30!} {binary_bytes:>10} in {elapsed}";
const IMAGE: &str = "{spinner} {msg:30!} [{bar:25}] {human_pos}/{human_len} entries {eta}";
const ENTRIES: &str = "{spinner} {msg:30!} {human_pos} entries {elapsed}";
const PHASE: &str = "{spinner} {msg} {elapsed}";

/// The bars.
pub struct Bars {
    all: MultiProgress,
    /// The one that moves, and those that are done.
    shown: Mutex<(Option<ProgressBar>, VecDeque<ProgressBar>)>,
    /// Of downloads under way, by number.
    downloads: Mutex<HashMap<usize, ProgressBar>>,
}

impl Bars {
    /// None yet.
    pub fn new() -> Self {
        Self { all: MultiProgress::new(), shown: Mutex::default(), downloads: Mutex::default() }
    }

    /// A new bar, in place of the last one unless that was a layer's.
    fn begin(&self, template: &str, length: Option<u64>, message: String) {
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(old) = shown.0.take() {
            old.finish_and_clear();
            self.all.remove(&old);
        }
        let bar = match length {
            Some(length) => ProgressBar::new(length),
            None => ProgressBar::no_length(),
        };
        let bar = self.all.add(bar.with_style(style(template)).with_message(message));
        // Shown now, not when the ticking begins: what follows may be over before.
        bar.tick();
        bar.enable_steady_tick(TICK);
        shown.0 = Some(bar);
    }

    /// The layer's bar stays, as a line.
    fn finish(&self) {
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(bar) = shown.0.take() else { return };
        bar.set_style(style(DONE));
        bar.abandon();
        shown.1.push_back(bar);
        if shown.1.len() > FINISHED_MAX
            && let Some(oldest) = shown.1.pop_front()
        {
            self.all.remove(&oldest);
        }
    }

    fn downloads(&self) -> MutexGuard<'_, HashMap<usize, ProgressBar>> {
        self.downloads.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn with(&self, change: impl FnOnce(&ProgressBar)) {
        let shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bar) = &shown.0 {
            change(bar);
        }
    }
}

impl Progress for Bars {
    fn event(&self, event: Event<'_>) {
        match event {
            Event::Waiting { host, pid } => {
                let host: String = host.chars().filter(|c| !c.is_control()).collect();
                self.begin(PHASE, None, format!("waiting for process {pid} on {host}, which makes this image"));
            }
            Event::LayerStarted { index, total, name, bytes } => {
                let template = if bytes.is_some() { BYTES } else { OPEN_END };
                self.begin(template, bytes, format!("layer {}/{total} {}", index + 1, short(name)));
            }
            Event::Advanced { bytes } => self.with(|bar| bar.inc(bytes)),
            Event::LayerFinished { .. } => self.finish(),
            Event::DownloadStarted { present: true, .. } => {}
            Event::DownloadStarted { index, total, digest, bytes, .. } => {
                let message = format!("fetch {}/{total} {}", index + 1, short(&digest.to_string()));
                let bar = ProgressBar::new(bytes).with_style(style(BYTES)).with_message(message);
                self.downloads().insert(index, self.all.insert(0, bar));
            }
            Event::Downloaded { index, bytes } => {
                if let Some(bar) = self.downloads().get(&index) {
                    bar.inc(bytes);
                }
            }
            Event::DownloadFinished { index } => {
                if let Some(bar) = self.downloads().remove(&index) {
                    bar.finish_and_clear();
                    self.all.remove(&bar);
                }
            }
            Event::ImageStarted { inodes } => self.begin(IMAGE, Some(inodes.into()), "image".to_owned()),
            Event::DirectoryStarted => self.begin(ENTRIES, None, "directory".to_owned()),
            Event::Entries { count } => self.with(|bar| bar.set_position(count)),
            Event::Finishing => self.begin(PHASE, None, "writing tables".to_owned()),
            _ => {}
        }
    }
}

impl Shown for Bars {
    fn end(&self) {
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bar) = shown.0.take() {
            bar.finish_and_clear();
        }
        shown.1.clear();
        // A clear that fails leaves a few lines on the terminal. Nothing may be drawn below what is printed next.
        let _ = self.all.clear();
        self.all.set_draw_target(ProgressDrawTarget::hidden());
    }
}

fn style(template: &str) -> ProgressStyle {
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    style.progress_chars("=> ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_are_valid() {
        for template in [BYTES, OPEN_END, DONE, IMAGE, ENTRIES, PHASE] {
            assert!(ProgressStyle::with_template(template).is_ok(), "{template}");
        }
    }

    #[test]
    fn as_many_layers_as_there_can_be_end_in_few_bars() {
        let bars = Bars::new();
        for index in 0..200 {
            bars.event(Event::LayerStarted { index, total: 200, name: "layer", bytes: Some(3) });
            bars.event(Event::Advanced { bytes: 3 });
            bars.event(Event::LayerFinished { index });
        }
        bars.event(Event::Finishing);
        assert_eq!(bars.shown.lock().unwrap().1.len(), FINISHED_MAX);
        bars.end();
    }
}
