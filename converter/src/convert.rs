//! The whole conversion: source in, one squashfs file out.

use crate::build;
use crate::digest::Digest;
use crate::directory;
use crate::error::Error;
use crate::flatten::Counts;
use crate::flatten::tree::FileTree;
use crate::image_info::ImageInfo;
use crate::layers;
use crate::options::{Event, Options, Progress, Report};
use crate::output::Output;
use crate::source::{Image, Source, resolve};
use coracle_squashfs::writer::{FileId, Writer, WriterOptions};
use std::path::Path;

/// Converts `source` into a squashfs file at `output`, which appears there complete or not at all.
///
/// The bytes depend on the image, [`Options::compression`] and [`Options::block_size`] alone.
///
/// # Errors
/// When the source is damaged, or the output cannot be written.
pub fn convert(source: &Source, output: &Path, options: &Options, progress: &dyn Progress) -> Result<Report, Error> {
    // A source that is not there should be said before an output that is.
    let image = resolve(source, &options.architecture)?;
    let output = Output::create(output, options.force)?;
    let path = output.path().to_path_buf();
    write(source, image.as_ref(), &output, options, progress)
        .map_err(|error| match error {
            Error::Sink(source) => Error::Write { path, source },
            other => other,
        })
        .and_then(|report| output.publish().map(|()| report))
}

fn write(
    source: &Source,
    image: Option<&Image>,
    output: &Output,
    options: &Options,
    progress: &dyn Progress,
) -> Result<Report, Error> {
    let writer_options = WriterOptions {
        compression: options.compression,
        block_size: options.block_size,
        threads: options.threads,
        ..WriterOptions::default()
    };
    let mut writer = Writer::new(output.writer()?, writer_options)?;
    let (mut tree, counts) = match (image, source) {
        (Some(image), _) => layers::flatten(&image.layers, image.whiteouts, &mut writer, options, progress)?,
        (None, Source::Directory { dir }) => directory::walk(dir, &output.writer()?, &mut writer, options, progress)?,
        // Every other source was resolved to an image.
        (None, _) => (FileTree::new(options.max_entries), Counts::default()),
    };
    let mut report = Report { counts, layers: image.map_or(0, |image| image.layers.len()), ..Report::default() };
    build::add_mount_points(&mut tree, &mut writer)?;
    add_own_files(&mut tree, &mut writer, source, image, options, &mut report)?;
    progress.event(Event::Finishing);
    let summary = writer.finish(&build::lower(tree)?)?;
    report.bytes = summary.file.metadata().map_err(Error::file("examine", output.path()))?.len();
    report.inodes = summary.inodes;
    report.data_in = summary.data_in;
    report.data_out = summary.data_out;
    report.duplicates = summary.duplicates;
    Ok(report)
}

fn add_own_files(
    tree: &mut FileTree<FileId>,
    writer: &mut Writer,
    source: &Source,
    image: Option<&Image>,
    options: &Options,
    report: &mut Report,
) -> Result<(), Error> {
    let manifest = image.and_then(|image| image.manifest.as_deref());
    let config = image.and_then(|image| image.config.as_deref());
    report.manifest_digest = manifest.map(Digest::of);
    report.config_digest = config.map(Digest::of);
    let info = ImageInfo {
        source: match source {
            Source::Tar { .. } => Some("tar".into()),
            Source::Directory { .. } => Some("dir".into()),
            _ => image.and_then(|image| image.reference.clone()),
        },
        manifest_digest: report.manifest_digest.map(|digest| digest.to_string()),
        config_digest: report.config_digest.map(|digest| digest.to_string()),
        architecture: image.and_then(|image| image.architecture.clone()),
        ..ImageInfo::new(options)
    };
    let info = serde_json::to_vec(&info)
        .map_err(|source| Error::Json { document: crate::image_info::INFO.to_owned(), source })?;
    let files = [("config.json", config), ("image.json", Some(&info)), ("manifest.json", manifest)];
    let files = files.into_iter().filter_map(|(name, content)| Some((name, content?))).collect::<Vec<_>>();
    build::add_own_files(tree, writer, &files)
}
