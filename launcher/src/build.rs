//! `coracle build` and `coracle pull`: hand the arguments to the converter or the store, show progress, and sum up.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::bail;
use coracle::cli::{Build, Conversion, Format, PullArguments, Showing};
use coracle::inspect::bytes;
use coracle::stored;
use coracle_converter::profile::ProfileFile;
use coracle_converter::{
    LaidOut, LayerPacking, Options, Report, Source, Unpacked, convert, to_oci_archive, to_sandbox,
};
use coracle_squashfs::compress::Compression;
use serde_json::json;

use super::{print, progress, settings};

/// Converts into a file.
pub(super) fn build(arguments: &Build) -> anyhow::Result<()> {
    let Build { output, source, force, sandbox, format, conversion, showing } = arguments;
    let format = if *sandbox { Format::Sandbox } else { *format };
    told(showing, || to_file(output, source, false, *force, format, conversion, showing))
}

/// Converts into the store, or into a file when there is one to make.
pub(super) fn pull(arguments: &PullArguments) -> anyhow::Result<()> {
    let PullArguments { source, name, output, force, convert, conversion, showing } = arguments;
    // What was made elsewhere follows none of these.
    let Conversion { compression, block_size, profile, .. } = conversion;
    let take_finished = !convert && compression.is_none() && block_size.is_none() && profile.is_none();
    told(showing, || match output {
        Some(output) => to_file(output, source, take_finished, *force, Format::Squashfs, conversion, showing),
        None => to_store(source, name.as_deref(), take_finished, conversion, showing),
    })
}

/// Programs hear of failures where they listen.
pub(super) fn told(showing: &Showing, work: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<()> {
    work().inspect_err(|error| {
        if showing.json {
            progress::write_json(&json!({"event": "failed", "message": format!("{error:#}")}));
        }
    })
}

fn to_file(
    output: &Path,
    given: &str,
    take_finished: bool,
    force: bool,
    format: Format,
    conversion: &Conversion,
    showing: &Showing,
) -> anyhow::Result<()> {
    let source = source(given)?;
    refuse_unused(conversion, &source)?;
    let options = Options { force, take_finished, ..options(conversion, &source)? };
    let start = Instant::now();
    let shown = progress::start(showing);
    let report = match format {
        Format::Squashfs => convert(&source, output, &options, &*shown),
        Format::Sandbox | Format::OciArchive if options.profile.is_some() => {
            bail!("cannot use --profile for another format than squashfs: nothing else is laid out")
        }
        Format::Sandbox => to_sandbox(&source, output, &options, &*shown),
        Format::OciArchive => to_oci_archive(&source, output, packing(conversion.compression)?, &options, &*shown),
    };
    shown.end();
    let (report, elapsed) = (report?, start.elapsed());
    if showing.json {
        let digest = |digest: Option<coracle_converter::Digest>| digest.map(|digest| digest.to_string());
        progress::write_json(&json!({
            "event": "done", "path": output, "size": report.bytes, "inodes": report.inodes, "layers": report.layers,
            "converted": true, "seconds": elapsed.as_secs_f64(),
            "manifest_digest": digest(report.manifest_digest), "config_digest": digest(report.config_digest),
        }));
    } else if !showing.quiet {
        let summary = format!("{}: {}", output.display(), summary(format, &report, elapsed));
        print(|out| Ok(writeln!(out, "{summary}")?))?;
    }
    Ok(())
}

fn to_store(
    given: &str,
    name: Option<&str>,
    take_finished: bool,
    conversion: &Conversion,
    showing: &Showing,
) -> anyhow::Result<()> {
    let store = stored::open(&settings()?.store)?;
    let source = source(given)?;
    refuse_unused(conversion, &source)?;
    let mut options = Options { take_finished, ..options(conversion, &source)? };
    options.blob_cache.get_or_insert_with(|| store.dir().to_path_buf());
    let start = Instant::now();
    let shown = progress::start(showing);
    let pulled = store.pull(&source, name, &options, &*shown);
    shown.end();
    let (pulled, elapsed) = (pulled?, start.elapsed());
    if showing.json {
        let size = pulled.path.metadata().map(|file| file.len()).ok();
        progress::write_json(&json!({
            "event": "done", "path": pulled.path, "size": size, "name": pulled.name, "key": pulled.key,
            "converted": pulled.report.is_some(), "seconds": elapsed.as_secs_f64(),
        }));
    } else if !showing.quiet {
        let summary = match &pulled.report {
            Some(report) => summary(Format::Squashfs, report, elapsed),
            None => "stored already".to_owned(),
        };
        print(|out| Ok(writeln!(out, "{}: {summary}", pulled.name)?))?;
    }
    Ok(())
}

fn options(conversion: &Conversion, source: &Source) -> anyhow::Result<Options> {
    settings()?.images.check_source(source)?;
    let mut options = Options::default();
    options.compression = conversion.compression.unwrap_or(options.compression);
    options.block_size = conversion.block_size.unwrap_or(options.block_size);
    options.threads = conversion.threads.unwrap_or(options.threads);
    options.profile = conversion.profile.as_deref().map(ProfileFile::load).transpose()?;
    if let Some(architecture) = conversion.fetch.arch.as_ref().or(conversion.fetch.platform.as_ref()) {
        options.architecture.clone_from(architecture);
    }
    options.blob_cache.clone_from(&conversion.fetch.blob_cache);
    if matches!(source, Source::Registry { .. } | Source::Artifact { .. }) {
        options.registry = super::registry::client()?;
    }
    Ok(options)
}

/// A finished image comes as it is, so settings for packing would be without effect.
fn refuse_unused(conversion: &Conversion, source: &Source) -> anyhow::Result<()> {
    let packing = [
        ("--compression", conversion.compression.is_some()),
        ("--block-size", conversion.block_size.is_some()),
        ("--profile", conversion.profile.is_some()),
    ];
    match packing.iter().find(|(_, given)| *given) {
        Some((option, _)) if matches!(source, Source::Artifact { .. }) => bail!(
            "cannot use {option} for {source}, which is fetched as it is: fetch it, then build another from the file"
        ),
        _ => Ok(()),
    }
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

fn summary(format: Format, report: &Report, elapsed: Duration) -> String {
    let layers = match report.layers {
        0 => String::new(),
        1 => ", 1 layer".to_owned(),
        layers => format!(", {layers} layers"),
    };
    let (size, inodes, seconds) = (bytes(report.bytes), report.inodes, elapsed.as_secs_f64());
    let profile = report.laid_out.as_ref().map(profile).unwrap_or_default();
    let size = if format == Format::Sandbox { String::new() } else { format!("{size}, ") };
    let left_out = left_out(&report.left_out);
    format!("{size}{inodes} inodes{layers}, {seconds:.1} s{profile}{left_out}")
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
