//! `coracle build`: hands the arguments to the converter, shows its progress on a terminal, and sums up.

use std::io::IsTerminal;
use std::path::Path;
use std::time::{Duration, Instant};

use coracle::cli::Build;
use coracle::image::ImageFile;
use coracle::inspect::bytes;
use coracle_converter::profile::ProfileFile;
use coracle_converter::{Event, LaidOut, Options, Progress, Report, Source, convert};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Between redraws while nothing happens.
const TICK: Duration = Duration::from_millis(200);
const BYTES: &str = "{spinner} {msg} [{bar:30}] {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} {eta}";
const OPEN_END: &str = "{spinner} {msg} {binary_bytes} {elapsed}";
const IMAGE: &str = "{spinner} {msg} [{bar:30}] {human_pos}/{human_len} entries {eta}";
const ENTRIES: &str = "{spinner} {msg} {human_pos} entries {elapsed}";

/// Converts, and describes the result in a line.
pub fn build(arguments: &Build) -> anyhow::Result<String> {
    let source = source(&arguments.source)?;
    refuse_unused(arguments, &source)?;
    let mut options = Options { force: arguments.force, ..Options::default() };
    options.compression = arguments.compression.unwrap_or(options.compression);
    options.block_size = arguments.block_size.unwrap_or(options.block_size);
    options.threads = arguments.threads.unwrap_or(options.threads);
    options.profile = arguments.profile.as_deref().map(ProfileFile::load).transpose()?;
    if let Some(architecture) = arguments.fetch.arch.as_ref().or(arguments.fetch.platform.as_ref()) {
        options.architecture.clone_from(architecture);
    }
    options.blob_cache.clone_from(&arguments.fetch.blob_cache);
    if matches!(source, Source::Registry { .. } | Source::Artifact { .. }) {
        options.registry = crate::registry::client()?;
    }
    let start = Instant::now();
    let bar = Bar::new(!arguments.quiet && std::io::stderr().is_terminal());
    let report = convert(&source, &arguments.output, &options, &bar);
    bar.finish();
    Ok(summary(arguments, &report?, start.elapsed()))
}

/// What is in none of the forms, and is there or can only be a path, is an image file.
fn source(given: &str) -> anyhow::Result<Source> {
    match given.parse() {
        Err(form) if given.contains(':') && !Path::new(given).exists() => Err(form)?,
        Err(_) => {
            let image = ImageFile::open(Path::new(given))?;
            Ok(Source::Squashfs { file: image.path, offset: image.offset })
        }
        Ok(source) => Ok(source),
    }
}

/// A finished image comes as it is, so settings for packing would be without effect.
fn refuse_unused(arguments: &Build, source: &Source) -> anyhow::Result<()> {
    let packing = [
        ("--compression", arguments.compression.is_some()),
        ("--block-size", arguments.block_size.is_some()),
        ("--profile", arguments.profile.is_some()),
    ];
    match packing.iter().find(|(_, given)| *given) {
        Some((option, _)) if matches!(source, Source::Artifact { .. }) => anyhow::bail!(
            "cannot use {option} for {source}, which is fetched as it is: fetch it, then build another from the file"
        ),
        _ => Ok(()),
    }
}

fn summary(arguments: &Build, report: &Report, elapsed: Duration) -> String {
    let layers = match report.layers {
        0 => String::new(),
        1 => ", 1 layer".to_owned(),
        layers => format!(", {layers} layers"),
    };
    let (size, inodes, seconds) = (bytes(report.bytes), report.inodes, elapsed.as_secs_f64());
    let output = arguments.output.display();
    let profile = report.laid_out.as_ref().map(profile).unwrap_or_default();
    format!("{output}: {size}, {inodes} inodes{layers}, {seconds:.1} s{profile}")
}

/// What became of a profile.
fn profile(laid_out: &LaidOut) -> String {
    let mut text = format!("\nprofile: {} files, {} laid out together", laid_out.files, bytes(laid_out.bytes));
    if laid_out.missing > 0 {
        text.push_str(&format!("; {} are not in this image", laid_out.missing));
    }
    if laid_out.elsewhere > 0 {
        let count = laid_out.elsewhere;
        text.push_str(&format!("; {count} are hard links that were seen too late: build again from the new image"));
    }
    text
}

/// One line that follows the conversion.
pub struct Bar(ProgressBar);

impl Bar {
    /// Hidden unless `visible`.
    pub fn new(visible: bool) -> Self {
        let target = if visible { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target(None, target);
        if visible {
            bar.enable_steady_tick(TICK);
        }
        Self(bar)
    }

    /// Leaves nothing on the terminal.
    pub fn finish(&self) {
        self.0.finish_and_clear();
    }

    fn restart(&self, template: &str, length: Option<u64>, message: String) {
        if let Ok(style) = ProgressStyle::with_template(template) {
            self.0.set_style(style.progress_chars("=> "));
        }
        match length {
            Some(length) => self.0.set_length(length),
            None => self.0.unset_length(),
        }
        self.0.set_message(message);
        self.0.reset();
    }
}

impl Progress for Bar {
    fn event(&self, event: Event<'_>) {
        match event {
            Event::LayerStarted { index, total, bytes, .. } => {
                let template = if bytes.is_some() { BYTES } else { OPEN_END };
                self.restart(template, bytes, format!("layer {}/{total}", index + 1));
            }
            Event::Advanced { bytes } => self.0.inc(bytes),
            Event::ImageStarted { inodes } => self.restart(IMAGE, Some(inodes.into()), "image".to_owned()),
            Event::DirectoryStarted => self.restart(ENTRIES, None, "directory".to_owned()),
            Event::Entries { count } => self.0.set_position(count),
            Event::Finishing => self.restart("{spinner} {msg} {elapsed}", None, "writing tables".to_owned()),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_are_valid() {
        for template in [BYTES, OPEN_END, IMAGE, ENTRIES] {
            assert!(ProgressStyle::with_template(template).is_ok(), "{template}");
        }
    }
}
