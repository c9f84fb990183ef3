//! The whole conversion: source in, one squashfs file out.

use crate::arrange::{Arranger, Placed};
use crate::artifact::pull_artifact;
use crate::build;
use crate::digest::Digest;
use crate::directory;
use crate::error::Error;
use crate::flatten::tree::FileTree;
use crate::image_info::{self, INFO, ImageInfo};
use crate::layers;
use crate::options::{Event, Options, Progress, Report};
use crate::output::Output;
use crate::profile::ProfileFile;
use crate::repack::Packed;
use crate::source::{Found, Image, Source, resolve};
use coracle_squashfs::writer::{Writer, WriterOptions};
use std::path::Path;

/// Converts `source` into a squashfs file at `output`, which appears there complete or not at all.
///
/// The bytes depend on the image, [`Options::compression`], [`Options::block_size`] and [`Options::profile`] alone.
///
/// # Errors
/// When the source is damaged, or the output cannot be written.
pub fn convert(source: &Source, output: &Path, options: &Options, progress: &dyn Progress) -> Result<Report, Error> {
    if let Source::Artifact { reference } = source {
        let artifact = options.registry.artifact(reference)?;
        return pull_artifact(&artifact, output, options, progress);
    }
    // A source that is not there should be said before an output that is.
    let input = Input::open(source, options)?;
    let output = Output::create(output, options.force)?;
    let path = output.path().to_path_buf();
    write(&input, &output, options, progress)
        .map_err(|error| match error {
            Error::Sink(source) => Error::Write { path, source },
            other => other,
        })
        .and_then(|report| output.publish().map(|()| report))
}

/// A source that is there.
enum Input<'s> {
    Layers(&'s Source, Image),
    Directory(&'s Path),
    /// With its own profile.
    Squashfs(Box<Packed>, Option<ProfileFile>),
}

impl<'s> Input<'s> {
    fn open(source: &'s Source, options: &Options) -> Result<Self, Error> {
        Ok(match resolve(source, options)? {
            Found::Image(image) => Self::Layers(source, image),
            Found::Directory(dir) => Self::Directory(dir),
            Found::Squashfs(file, offset) => {
                let packed = Packed::open(file, offset)?;
                // One that is to be replaced may be as wrong as it likes.
                let profile = if options.profile.is_some() { None } else { ProfileFile::of_image(&packed.image)? };
                Self::Squashfs(Box::new(packed), profile)
            }
        })
    }
}

fn write(input: &Input<'_>, output: &Output, options: &Options, progress: &dyn Progress) -> Result<Report, Error> {
    let writer_options = WriterOptions {
        compression: options.compression,
        block_size: options.block_size,
        threads: options.threads,
        ..WriterOptions::default()
    };
    let own = if let Input::Squashfs(_, own) = input { own.as_ref() } else { None };
    let profile = options.profile.as_ref().or(own);
    let touched = profile.map(ProfileFile::profile);
    let mut sink = Arranger::new(Writer::new(output.writer()?, writer_options)?, output.path(), touched);
    let (mut tree, counts) = match input {
        Input::Layers(_, image) => {
            let mut flatten = || layers::flatten(&image.layers, image.whiteouts, &mut sink, options, progress);
            match &image.downloads {
                Some(downloads) => downloads.watch(progress, flatten)?,
                None => flatten()?,
            }
        }
        Input::Directory(dir) => directory::walk(dir, &output.writer()?, &mut sink, options, progress)?,
        Input::Squashfs(packed, _) => packed.walk(touched, &mut sink, options, progress)?,
    };
    let mut report = Report { counts, ..Report::default() };
    if let Input::Layers(_, image) = input {
        report.layers = image.layers.len();
    }
    // An image that exists stays as it is.
    if !matches!(input, Input::Squashfs(..)) {
        build::add_mount_points(&mut tree, &mut sink)?;
    }
    report.laid_out = sink.lay_out(&tree)?;
    add_own_files(&mut tree, &mut sink, input, options, profile, &mut report)?;
    progress.event(Event::Finishing);
    let lowered = build::lower(tree, &sink)?;
    let summary = sink.finish(&lowered)?;
    report.bytes = summary.file.metadata().map_err(Error::file("examine", output.path()))?.len();
    report.inodes = summary.inodes;
    report.data_in = summary.data_in;
    report.data_out = summary.data_out;
    report.duplicates = summary.duplicates;
    Ok(report)
}

fn add_own_files(
    tree: &mut FileTree<Placed>,
    sink: &mut Arranger<'_>,
    input: &Input<'_>,
    options: &Options,
    profile: Option<&ProfileFile>,
    report: &mut Report,
) -> Result<(), Error> {
    let (mut manifest, mut config) = (None, None);
    let mut info = ImageInfo::new(options);
    match input {
        Input::Layers(source, image) => {
            (manifest, config) = (image.manifest.as_deref(), image.config.as_deref());
            report.manifest_digest = manifest.map(Digest::of);
            report.config_digest = config.map(Digest::of);
            info.source = match source {
                Source::Tar { .. } => Some("tar".into()),
                _ => image.reference.clone(),
            };
            info.architecture.clone_from(&image.architecture);
        }
        Input::Directory(_) => info.source = Some("dir".into()),
        // Its documents are in the tree.
        Input::Squashfs(packed, _) => {
            let image = &packed.image;
            report.manifest_digest = image_info::manifest_bytes(image)?.as_deref().map(Digest::of);
            report.config_digest = image_info::config_bytes(image)?.as_deref().map(Digest::of);
            let before = ImageInfo::read(image)?;
            info.architecture = before.as_ref().and_then(|before| before.architecture.clone());
            info.source = before.map_or_else(|| Some("squashfs".into()), |before| before.source);
        }
    }
    info.manifest_digest = report.manifest_digest.map(|digest| digest.to_string());
    info.config_digest = report.config_digest.map(|digest| digest.to_string());
    let info = serde_json::to_vec(&info).map_err(|source| Error::Json { document: INFO.to_owned(), source })?;
    let files = [
        ("config.json", config),
        ("image.json", Some(&info)),
        ("manifest.json", manifest),
        ("profile.json", profile.map(ProfileFile::bytes)),
    ];
    let files = files.into_iter().filter_map(|(name, content)| Some((name, content?))).collect::<Vec<_>>();
    build::add_own_files(tree, sink, &files)
}
