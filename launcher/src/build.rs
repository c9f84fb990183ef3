//! `coracle build`: hands the arguments to the converter, shows its progress on a terminal, and sums up.

use std::io::IsTerminal;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::bail;
use coracle::cli::{Build, Format};
use coracle::inspect::bytes;
use coracle_converter::profile::ProfileFile;
use coracle_converter::{
    Event, LaidOut, LayerPacking, Options, Progress, Report, Source, Unpacked, convert, to_oci_archive, to_sandbox,
};
use coracle_squashfs::compress::Compression;
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
    let mut options = Options { force: arguments.force, ..Options::default() };
    options.compression = arguments.compression.unwrap_or(options.compression);
    options.block_size = arguments.block_size.unwrap_or(options.block_size);
    options.threads = arguments.threads.unwrap_or(options.threads);
    options.profile = arguments.profile.as_deref().map(ProfileFile::load).transpose()?;
    let start = Instant::now();
    let bar = Bar::new(!arguments.quiet && std::io::stderr().is_terminal());
    let output = &arguments.output;
    let format = if arguments.sandbox { Format::Sandbox } else { arguments.format };
    let report = match format {
        Format::Squashfs => convert(&source, output, &options, &bar),
        Format::Sandbox | Format::OciArchive if options.profile.is_some() => {
            bail!("cannot use --profile for another format than squashfs: nothing else is laid out")
        }
        Format::Sandbox => to_sandbox(&source, output, &options, &bar),
        Format::OciArchive => to_oci_archive(&source, output, packing(arguments.compression)?, &options, &bar),
    };
    bar.0.finish_and_clear();
    Ok(summary(arguments, format, &report?, start.elapsed()))
}

/// How an OCI archive's layer is compressed.
fn packing(compression: Option<Compression>) -> anyhow::Result<LayerPacking> {
    match compression {
        None => Ok(LayerPacking::default()),
        Some(Compression::Gzip { level }) => Ok(LayerPacking::Gzip(level)),
        Some(Compression::Zstd { level }) => Ok(LayerPacking::Zstd(level)),
        Some(_) => bail!("cannot compress an OCI archive's layer so: OCI has gzip and zstd layers"),
    }
}

/// What is in none of the forms, and is there or can only be a path, is told by what it holds.
fn source(given: &str) -> anyhow::Result<Source> {
    match given.parse() {
        Err(form) if given.contains(':') && !Path::new(given).exists() => Err(form)?,
        Err(_) => Ok(Source::detect(Path::new(given))?),
        Ok(source) => Ok(source),
    }
}

fn summary(arguments: &Build, format: Format, report: &Report, elapsed: Duration) -> String {
    let layers = match report.layers {
        0 => String::new(),
        1 => ", 1 layer".to_owned(),
        layers => format!(", {layers} layers"),
    };
    let (size, inodes, seconds) = (bytes(report.bytes), report.inodes, elapsed.as_secs_f64());
    let output = arguments.output.display();
    let profile = report.laid_out.as_ref().map(profile).unwrap_or_default();
    let size = if format == Format::Sandbox { String::new() } else { format!("{size}, ") };
    let left_out = left_out(&report.left_out);
    format!("{output}: {size}{inodes} inodes{layers}, {seconds:.1} s{profile}{left_out}")
}

/// What the form of the output has no place for.
fn left_out(counts: &Unpacked) -> String {
    let parts = [
        (counts.devices, "device nodes or sockets"),
        (counts.set_ids, "setuid or setgid bits"),
        (counts.xattrs, "extended attributes"),
    ];
    let parts: Vec<_> =
        parts.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} {what}")).collect();
    if parts.is_empty() { String::new() } else { format!("\nleft out: {}", parts.join(", ")) }
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
struct Bar(ProgressBar);

impl Bar {
    fn new(visible: bool) -> Self {
        let target = if visible { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target(None, target);
        if visible {
            bar.enable_steady_tick(TICK);
        }
        Self(bar)
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
