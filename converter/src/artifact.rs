//! Finished images from and to registries: nothing is converted, everything is verified.

use crate::digest::{Digest, HashingReader};
use crate::error::Error;
use crate::image_info::{self, ImageInfo};
use crate::layer::Blob;
use crate::options::{Event, Options, Progress, Report};
use crate::output::Output;
use crate::registry::{self, Artifact, Finished, Pushed, Reference, RemoteBlob};
use crate::source;
use coracle_squashfs::format::MAGIC;
use coracle_squashfs::reader::{Image, OpenOptions};
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Bytes moved at a time.
const BUFFER: usize = 1 << 20;
/// Bytes that tell what a file is.
const HEAD: usize = 64;
/// A SIF file's magic, behind its launch script.
const SIF: (usize, &[u8]) = (32, b"SIF_MAGIC\0");

/// Looks for a finished image of a container image in its repository.
///
/// # Errors
/// When the registry does not answer, or has no such container image.
pub fn find_squashfs(reference: &Reference, options: &Options) -> Result<Option<Artifact>, Error> {
    let picked = source::pick(reference, options)?;
    // What would be refused in one form must not come in by the other.
    options.registry.check_policy(reference, &picked.digests())?;
    Ok(options.registry.squashfs_referrers(reference, picked.manifest)?.into_iter().next())
}

/// Fetches a finished image into `output`, verified, for the caller to publish.
///
/// # Errors
/// When it is damaged, or not what it should be.
pub fn fetch(
    artifact: &Artifact,
    output: &Output,
    options: &Options,
    progress: &dyn Progress,
) -> Result<Report, Error> {
    let name = format!("file {}", artifact.blob);
    progress.event(Event::LayerStarted { index: 0, total: 1, name: &name, bytes: Some(artifact.size) });
    copy(artifact, &name, output, options, progress)?;
    progress.event(Event::LayerFinished { index: 0 });
    judge(artifact, output)
}

fn copy(
    artifact: &Artifact,
    name: &str,
    output: &Output,
    options: &Options,
    progress: &dyn Progress,
) -> Result<(), Error> {
    let Artifact { reference, blob: expected, size, .. } = artifact;
    let blob = RemoteBlob::new(&options.registry, reference, *expected, *size, Vec::new());
    let failed = |source| Error::LayerRead { layer: name.to_owned(), source };
    let mut input = HashingReader::new(blob.open().map_err(failed)?, true, size.saturating_add(1));
    let mut file = output.writer()?;
    let mut buffer = vec![0; BUFFER];
    loop {
        let count = match input.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(failed(error)),
        };
        file.write_all(buffer.get(..count).unwrap_or_default()).map_err(Error::file("write", output.path()))?;
        progress.event(Event::Advanced { bytes: count as u64 });
    }
    match input.finish() {
        (found, _) if found != *size => Err(Error::BlobSize { what: name.to_owned(), expected: *size, found }),
        (_, Some(found)) if found != *expected => {
            Err(Error::BlobDigest { what: name.to_owned(), found, noticed: None })
        }
        _ => Ok(()),
    }
}

/// Whether the file can be run, and is made of what its registry says.
fn judge(artifact: &Artifact, output: &Output) -> Result<Report, Error> {
    let wrong = |reason: &str| {
        Error::from(registry::Error::Artifact { reference: artifact.reference.to_string(), reason: reason.to_owned() })
    };
    let file = output.writer()?;
    let mut report = Report { bytes: artifact.size, ..Report::default() };
    match kind(&file).map_err(Error::file("read", output.path()))? {
        Some(Kind::Squashfs) => {}
        Some(Kind::Sif) if artifact.subject.is_none() => return Ok(report),
        _ => return Err(wrong("its file is neither squashfs nor SIF")),
    }
    let image = Image::open(file, OpenOptions::default())
        .map_err(|source| Error::Image { path: output.path().into(), source })?;
    report.inodes = image.superblock().inodes.get();
    report.manifest_digest = image_info::manifest_bytes(&image)?.as_deref().map(Digest::of);
    report.config_digest = image_info::config_bytes(&image)?.as_deref().map(Digest::of);
    if let Some(subject) = artifact.subject {
        let recorded = ImageInfo::read(&image)?.and_then(|info| info.manifest_digest);
        if recorded != Some(subject.to_string()) || report.manifest_digest != Some(subject) {
            return Err(wrong("its registry says that it was made of another image than it says itself"));
        }
    }
    Ok(report)
}

/// Stores a squashfs or SIF file in a registry.
///
/// # Errors
/// When the file is no image, or the registry does not take it.
pub fn push(
    path: &Path,
    reference: &Reference,
    client: &registry::Client,
    progress: &dyn Progress,
) -> Result<Pushed, Error> {
    let file = File::open(path).map_err(Error::file("open", path))?;
    let kind = kind(&file).map_err(Error::file("read", path))?;
    let not_image = "content of an image: it is neither squashfs nor SIF";
    let kind = kind.ok_or_else(|| Error::Form { path: path.into(), form: "image file", missing: not_image.into() })?;
    let mut reader = HashingReader::new(&file, true, u64::MAX);
    reader.drain().map_err(Error::file("read", path))?;
    let (size, digest) = reader.finish();
    let digest = digest.unwrap_or_else(|| Digest::of(b""));
    let (mut made_of, mut source) = (None, None);
    if kind == Kind::Squashfs {
        let again = file.try_clone().map_err(Error::file("open", path))?;
        let image =
            Image::open(again, OpenOptions::default()).map_err(|source| Error::Image { path: path.into(), source })?;
        if let Some(info) = ImageInfo::read(&image)? {
            made_of = info.manifest_digest.and_then(|digest| digest.parse().ok());
            source = info.source.and_then(|source| source.parse().ok());
        }
    }
    let finished = Finished { file: &file, digest, size, made_of, source };
    let name = format!("file {digest}");
    progress.event(Event::LayerStarted { index: 0, total: 1, name: &name, bytes: Some(size) });
    let pushed = client.push(&finished, reference, &|bytes| progress.event(Event::Advanced { bytes }))?;
    progress.event(Event::LayerFinished { index: 0 });
    Ok(pushed)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Squashfs,
    Sif,
}

fn kind(file: &File) -> std::io::Result<Option<Kind>> {
    let mut head = [0; HEAD];
    let length = file.read_at(&mut head, 0)?;
    let head = head.get(..length).unwrap_or_default();
    Ok(if head.starts_with(&MAGIC.to_le_bytes()) {
        Some(Kind::Squashfs)
    } else if head.get(SIF.0..).is_some_and(|rest| rest.starts_with(SIF.1)) {
        Some(Kind::Sif)
    } else {
        None
    })
}
