//! The whole conversion: source in, one squashfs file out.

use crate::arrange::{Arranger, Placed};
use crate::build;
use crate::digest::Digest;
use crate::directory;
use crate::error::Error;
use crate::flatten::tree::FileTree;
use crate::image_info::{self, INFO, ImageInfo};
use crate::layer::Layer;
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
    // A source that is not there should be said before an output that is.
    let opened = Opened::open(source, options)?;
    let output = Output::create(output, options.force)?;
    let report = opened.write(&output, options, progress)?;
    output.publish().map(|()| report)
}

/// A source that is there: the first half of a conversion, after which it is known what would be converted.
pub struct Opened<'s> {
    input: Input<'s>,
}

enum Input<'s> {
    Layers(&'s Source, Image),
    Directory(&'s Path),
    /// With its own profile.
    Squashfs(Box<Packed>, Option<ProfileFile>),
}

impl<'s> Opened<'s> {
    /// Finds the image that the source has for [`Options::architecture`]. No layer is read yet.
    ///
    /// # Errors
    /// When the source is not of its form, or has no such image.
    pub fn open(source: &'s Source, options: &Options) -> Result<Self, Error> {
        let input = match resolve(source, &options.architecture)? {
            Found::Image(image) => Input::Layers(source, image),
            Found::Directory(dir) => Input::Directory(dir),
            Found::Squashfs(file, offset) => {
                let packed = Packed::open(file, offset)?;
                // One that is to be replaced may be as wrong as it likes.
                let profile = if options.profile.is_some() { None } else { ProfileFile::of_image(&packed.image)? };
                Input::Squashfs(Box::new(packed), profile)
            }
        };
        Ok(Self { input })
    }

    /// Digest of the manifest; none for what is no OCI image, and for archives that do not hold one.
    pub fn manifest_digest(&self) -> Option<Digest> {
        self.image()?.manifest.as_deref().map(Digest::of)
    }

    /// Digest of the image config.
    pub fn config_digest(&self) -> Option<Digest> {
        self.image()?.config.as_deref().map(Digest::of)
    }

    /// Architecture in Go's spelling, when the image says.
    pub fn architecture(&self) -> Option<&str> {
        self.image()?.architecture.as_deref()
    }

    /// Bytes that the converted image will hardly stay below; 0 when nothing can be said.
    pub fn least_bytes(&self) -> u64 {
        self.image().map_or(0, |image| image.layers.iter().map(Layer::least_bytes).sum())
    }

    /// Converts into `output`, which the caller publishes.
    ///
    /// # Errors
    /// When the source is damaged, or the output cannot be written.
    pub fn write(&self, output: &Output, options: &Options, progress: &dyn Progress) -> Result<Report, Error> {
        write(&self.input, output, options, progress).map_err(|error| match error {
            Error::Sink(source) => Error::Write { path: output.path().into(), source },
            other => other,
        })
    }

    fn image(&self) -> Option<&Image> {
        match &self.input {
            Input::Layers(_, image) => Some(image),
            Input::Directory(_) | Input::Squashfs(..) => None,
        }
    }
}

impl std::fmt::Debug for Opened<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Opened").field("manifest_digest", &self.manifest_digest()).finish_non_exhaustive()
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
        Input::Layers(_, image) => layers::flatten(&image.layers, image.whiteouts, &mut sink, options, progress)?,
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
