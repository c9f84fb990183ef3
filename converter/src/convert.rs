//! The whole conversion: source in, one squashfs file out.

use crate::arrange::Arranger;
use crate::artifact;
use crate::build;
use crate::digest::Digest;
use crate::directory;
use crate::error::Error;
use crate::flatten::tree::FileTree;
use crate::image_info::{self, INFO, ImageInfo, LayerInfo, Platform};
use crate::layer::Layer;
use crate::layers;
use crate::options::{Event, Options, Progress, Report};
use crate::output::Output;
use crate::profile::ProfileFile;
use crate::registry::Artifact;
use crate::repack::Packed;
use crate::sink::DataSink;
use crate::source::{Found, Image, Source, resolve};
use coracle_squashfs::writer::{Writer, WriterOptions};
use std::fs::File;
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
    what: What<'s>,
}

/// What a source was found to be.
pub enum Input<'s> {
    /// Of a source that has them.
    Layers(&'s Source, Image),
    /// A plain directory.
    Directory(&'s Path),
    /// With its own profile.
    Squashfs(Box<Packed>, Option<ProfileFile>),
}

enum What<'s> {
    /// It is converted.
    Input(Input<'s>),
    /// A finished image in a registry, which is fetched as it is.
    Finished(Box<Artifact>),
}

impl<'s> Input<'s> {
    /// Finds the source.
    ///
    /// # Errors
    /// When it is not of its form, or not there.
    pub fn open(source: &'s Source, options: &Options) -> Result<Self, Error> {
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

impl<'s> Opened<'s> {
    /// Finds the image that the source has for [`Options::architecture`]. No layer is read yet.
    ///
    /// # Errors
    /// When the source is not of its form, or has no such image.
    pub fn open(source: &'s Source, options: &Options) -> Result<Self, Error> {
        let finished = match source {
            Source::Artifact { reference } => Some(options.registry.artifact(reference)?),
            // When there is none, or the question fails, there is still the image itself, which the same policy judges.
            Source::Registry { reference } if options.take_finished => {
                artifact::find_squashfs(reference, options).ok().flatten()
            }
            _ => None,
        };
        let what = match finished {
            Some(artifact) => What::Finished(Box::new(artifact)),
            None => What::Input(Input::open(source, options)?),
        };
        Ok(Self { what })
    }

    /// Digest of the manifest; none for what is no OCI image, and for archives that do not hold one.
    pub fn manifest_digest(&self) -> Option<Digest> {
        match &self.what {
            What::Finished(artifact) => artifact.subject,
            What::Input(_) => self.image()?.manifest.as_deref().map(Digest::of),
        }
    }

    /// Digest of the image file itself, when it is there already and only has to be fetched.
    pub fn content_digest(&self) -> Option<Digest> {
        match &self.what {
            What::Finished(artifact) => Some(artifact.blob),
            What::Input(_) => None,
        }
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
        match &self.what {
            What::Finished(artifact) => artifact.size,
            What::Input(_) => self.image().map_or(0, |image| image.layers.iter().map(Layer::least_bytes).sum()),
        }
    }

    /// Converts into `output`, which the caller publishes.
    ///
    /// # Errors
    /// When the source is damaged, or the output cannot be written.
    pub fn write(&self, output: &Output, options: &Options, progress: &dyn Progress) -> Result<Report, Error> {
        match &self.what {
            What::Finished(artifact) => artifact::fetch(artifact, output, options, progress),
            What::Input(input) => write(input, output, options, progress).map_err(|error| match error {
                Error::Sink(source) => Error::Write { path: output.path().into(), source },
                other => other,
            }),
        }
    }

    fn image(&self) -> Option<&Image> {
        match &self.what {
            What::Input(Input::Layers(_, image)) => Some(image),
            _ => None,
        }
    }
}

impl std::fmt::Debug for Opened<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Opened").field("manifest_digest", &self.manifest_digest()).finish_non_exhaustive()
    }
}

/// Writes the whole squashfs file, without publishing it.
///
/// # Errors
/// As [`convert`].
pub fn write(input: &Input<'_>, output: &Output, options: &Options, progress: &dyn Progress) -> Result<Report, Error> {
    let writer_options = WriterOptions {
        compression: options.compression,
        block_size: options.block_size,
        threads: options.threads,
        ..WriterOptions::default()
    };
    let profile = input.profile(options);
    let touched = profile.map(ProfileFile::profile);
    let mut sink = Arranger::new(Writer::new(output.writer()?, writer_options)?, output.path(), touched);
    let (mut tree, mut report) = input.gather(&output.writer()?, &mut sink, options, progress)?;
    report.laid_out = sink.lay_out(&tree)?;
    input.add_own_files(&mut tree, &mut sink, options, &mut report)?;
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

impl Input<'_> {
    fn profile<'p>(&'p self, options: &'p Options) -> Option<&'p ProfileFile> {
        let own = if let Input::Squashfs(_, own) = self { own.as_ref() } else { None };
        options.profile.as_ref().or(own)
    }

    /// The image's tree, its content in `sink`. `output`, should it lie in a source directory, is no part of it.
    ///
    /// # Errors
    /// When the source is damaged, or the sink fails.
    pub fn gather<S: DataSink>(
        &self,
        output: &File,
        sink: &mut S,
        options: &Options,
        progress: &dyn Progress,
    ) -> Result<(FileTree<S::Id>, Report), Error> {
        let touched = self.profile(options).map(ProfileFile::profile);
        let (mut tree, counts) = match self {
            Input::Layers(_, image) => {
                let mut flatten = || layers::flatten(&image.layers, image.whiteouts, sink, options, progress);
                match &image.downloads {
                    Some(downloads) => downloads.watch(progress, flatten)??,
                    None => flatten()?,
                }
            }
            Input::Directory(dir) => directory::walk(dir, output, sink, options, progress)?,
            Input::Squashfs(packed, _) => packed.walk(touched, sink, options, progress)?,
        };
        let mut report = Report { counts, ..Report::default() };
        if let Input::Layers(_, image) = self {
            report.layers = image.layers.len();
        }
        // An image that exists stays as it is.
        if !matches!(self, Input::Squashfs(..)) {
            build::add_mount_points(&mut tree, sink)?;
        }
        Ok((tree, report))
    }

    /// Adds what the image says of itself, and tells the report.
    ///
    /// # Errors
    /// When the source's own documents cannot be read, or the sink fails.
    pub fn add_own_files<S: DataSink>(
        &self,
        tree: &mut FileTree<S::Id>,
        sink: &mut S,
        options: &Options,
        report: &mut Report,
    ) -> Result<(), Error> {
        let profile = self.profile(options);
        let (mut manifest, mut config) = (None, None);
        let kept;
        let mut info = ImageInfo::new(options);
        match self {
            Input::Layers(source, image) => {
                (manifest, config) = (image.manifest.as_deref(), image.config.as_deref());
                report.manifest_digest = manifest.map(Digest::of);
                report.config_digest = config.map(Digest::of);
                info.source = match source {
                    Source::Tar { .. } => Some("tar".into()),
                    _ => image.reference.clone(),
                };
                info.architecture.clone_from(&image.architecture);
                // It was parsed before, for what cannot be done without.
                let platform = config.and_then(|config| serde_json::from_slice(config).ok());
                let Platform { os, variant, .. } = platform.unwrap_or_default();
                (info.os, info.variant) = (os, variant);
                let text = |digest: &Option<Digest>| digest.map(|digest| digest.to_string());
                let layers = image.layers.iter();
                info.layers = layers
                    .map(|layer| LayerInfo { digest: text(&layer.digest), diff_id: text(&layer.diff_id) })
                    .filter(|layer| layer.digest.is_some() || layer.diff_id.is_some())
                    .collect();
            }
            Input::Directory(dir) => {
                info.source = Some("dir".into());
                // One that was unpacked from an image runs as that did.
                kept = directory::config(dir)?;
                config = kept.as_deref();
                report.config_digest = config.map(Digest::of);
                if let Some(config) = config {
                    let document = || dir.join(image_info::CONFIG.trim_start_matches('/')).display().to_string();
                    let platform = serde_json::from_slice(config);
                    let platform = platform.map_err(|source| Error::Json { document: document(), source })?;
                    let Platform { os, architecture, variant } = platform;
                    (info.os, info.architecture, info.variant) = (os, architecture, variant);
                }
            }
            // Its documents are in the tree.
            Input::Squashfs(packed, _) => {
                let image = &packed.image;
                report.manifest_digest = image_info::manifest_bytes(image)?.as_deref().map(Digest::of);
                report.config_digest = image_info::config_bytes(image)?.as_deref().map(Digest::of);
                let before = ImageInfo::read(image)?;
                info.source = Some("squashfs".into());
                if let Some(before) = before {
                    let ImageInfo { source, os, architecture, variant, layers, .. } = before;
                    info = ImageInfo { source, os, architecture, variant, layers, ..info };
                }
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
}
