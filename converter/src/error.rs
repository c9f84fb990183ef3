//! What can go wrong in a conversion. As usual, an error's text leaves its `source()` to whoever prints the chain.

use crate::digest::Digest;
use crate::{flatten, profile, registry, sif, tar, text::Name};
use coracle_squashfs::{reader, writer};
use std::fmt;
use std::io;
use std::path::PathBuf;
use thiserror::Error;

/// Why an image could not be converted. Nothing is left at the output path.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// A source that follows none of the known forms.
    #[error(
        "cannot tell what {given:?} is: use docker://NAME[:TAG], oras://NAME[:TAG], oci:DIR[:TAG], oci-archive:FILE[:TAG], \
         docker-archive:FILE[:NAME:TAG], docker-daemon:NAME[:TAG], containers-storage:NAME, tar:FILE, dir:DIR, squashfs:FILE, \
         sif:FILE, or a path alone"
    )]
    SourceForm {
        /// As given.
        given: String,
    },
    /// A registry did not give or take what it should.
    #[error(transparent)]
    Registry(#[from] registry::Error),
    /// A finished image where layers or files are needed.
    #[error("cannot unpack {given} from its registry: fetch the file first: coracle pull -o FILE {given}")]
    Finished {
        /// The source.
        given: String,
    },
    /// A file of the source or output could not be used.
    #[error("cannot {action} {}", path.display())]
    File {
        /// Verb.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A directory or archive without the files that its form requires.
    #[error("{} is no {form}: it has no {missing}", path.display())]
    Form {
        /// The directory or archive.
        path: PathBuf,
        /// What it was taken for.
        form: &'static str,
        /// What is not there.
        missing: String,
    },
    /// An archive that is compressed in a way that no image tool uses.
    #[error("cannot read {}: it is compressed with {compression}: decompress it first; gzip and zstd are read as they are", path.display())]
    CompressedArchive {
        /// The archive.
        path: PathBuf,
        /// How it is compressed.
        compression: &'static str,
    },
    /// No program that could export an image from where it is.
    #[error("cannot read {form} there is no {} on PATH: install it, or have the image saved as a docker-archive elsewhere", programs.join(", "))]
    NoExporter {
        /// The form of the source.
        form: &'static str,
        /// Any of them would do.
        programs: Vec<&'static str>,
    },
    /// A SIF file that cannot be used.
    #[error("cannot use SIF file {}", path.display())]
    Sif {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: sif::Problem,
    },
    /// A file in none of the forms.
    #[error("cannot tell what {} is: it is no squashfs, SIF or tar file: name its form, as in tar:{}", path.display(), path.display())]
    UnknownFile {
        /// The file.
        path: PathBuf,
    },
    /// An archive file that is no valid tar.
    #[error("cannot read {}", path.display())]
    Archive {
        /// The archive.
        path: PathBuf,
        /// Where and why.
        source: tar::Error,
    },
    /// An archive member that is linked in a circle, sparse, or too large for what it should be.
    #[error("cannot use {member} of {}: {reason}", path.display())]
    Member {
        /// The archive.
        path: PathBuf,
        /// Its member.
        member: String,
        /// Why not.
        reason: &'static str,
    },
    /// A document that is no valid JSON, or lacks fields.
    #[error("{document} is not valid")]
    Json {
        /// Which document.
        document: String,
        /// Where and why.
        source: serde_json::Error,
    },
    /// A document larger than any real one.
    #[error("{document} has {size} bytes; more than {max} are not read")]
    DocumentTooLarge {
        /// Which document.
        document: String,
        /// Its size.
        size: u64,
        /// The bound.
        max: u64,
    },
    /// A document that contradicts the specification.
    #[error("{document} is not valid: {reason}")]
    Document {
        /// Which document.
        document: String,
        /// What is wrong.
        reason: String,
    },
    /// No image of that name.
    #[error("no image {wanted:?} in {}; there {}", path.display(), names(.available))]
    NoSuchImage {
        /// As asked for.
        wanted: String,
        /// Where it was looked for.
        path: PathBuf,
        /// What there is.
        available: Vec<String>,
    },
    /// Several images, and none was asked for.
    #[error("{} has several images; name one: there {}", path.display(), names(.available))]
    SeveralImages {
        /// Where they are.
        path: PathBuf,
        /// What there is.
        available: Vec<String>,
    },
    /// An index without the wanted platform.
    #[error("no image for linux/{wanted}; there {}", names(.available))]
    NoPlatform {
        /// Architecture, in Go's spelling.
        wanted: String,
        /// What there is.
        available: Vec<String>,
    },
    /// Content of a type that cannot be converted.
    #[error("{what} has media type {found:?}, which cannot be converted{remedy}")]
    MediaType {
        /// What has it.
        what: String,
        /// The type.
        found: String,
        /// What to do, if anything, with punctuation.
        remedy: &'static str,
    },
    /// A digest by another algorithm than SHA-256.
    #[error("digest {0:?} is not supported: only sha256 is")]
    DigestForm(String),
    /// A blob that is not there.
    #[error("{what} {digest} is missing: {} does not exist; the image is incomplete", place)]
    BlobMissing {
        /// What the blob is.
        what: &'static str,
        /// Its digest.
        digest: Digest,
        /// Where it should be.
        place: String,
    },
    /// A layer that images may leave to be fetched from elsewhere.
    #[error(
        "non-distributable layer {digest} is not there: copy the image again with its foreign layers, or fetch it from {}",
        quoted(urls)
    )]
    ForeignLayer {
        /// Its digest.
        digest: Digest,
        /// Where the manifest says that it can be had.
        urls: Vec<String>,
    },
    /// A blob whose size is not what refers to it says.
    #[error("{what} has {} bytes instead of {expected}: the source is damaged or cut short", at_least(*.found, *.expected))]
    BlobSize {
        /// Which blob.
        what: String,
        /// Size as announced.
        expected: u64,
        /// Size as found; reading stops one byte behind the announced size.
        found: u64,
    },
    /// A blob whose content is not what its digest promises.
    #[error("{what} is damaged: its content has digest {found}{}", first_sign(.noticed))]
    BlobDigest {
        /// Which blob.
        what: String,
        /// Digest of its content.
        found: Digest,
        /// What made no sense in it, if that was noticed first.
        noticed: Option<Box<Error>>,
    },
    /// A layer that unpacks to something else than the image config says.
    #[error("{layer} does not belong to this image: unpacked, it has digest {found}, the image config says {expected}")]
    DiffId {
        /// Which layer.
        layer: String,
        /// As in the image config.
        expected: Digest,
        /// As unpacked.
        found: Digest,
    },
    /// A layer that cannot be read.
    #[error("cannot read {layer}")]
    LayerRead {
        /// Which layer.
        layer: String,
        /// What the system said.
        source: io::Error,
    },
    /// A layer whose compressed data is not valid.
    #[error("cannot decompress {layer} ({compression}) at about byte {offset}")]
    Decompress {
        /// Which layer.
        layer: String,
        /// gzip or zstd.
        compression: &'static str,
        /// How far the compressed data had been read.
        offset: u64,
        /// What the decompressor said.
        source: io::Error,
    },
    /// A layer packed in a way that layers are not.
    #[error("{layer} is compressed with {compression}; gzip, zstd and none are supported")]
    Compression {
        /// Which layer.
        layer: String,
        /// What its first bytes say.
        compression: &'static str,
    },
    /// A layer that unpacks to more than allowed.
    #[error("{layer} holds more than {limit} bytes unpacked, the limit set against decompression bombs")]
    LayerTooLarge {
        /// Which layer.
        layer: String,
        /// The limit.
        limit: u64,
    },
    /// A layer that is no valid tar.
    #[error("{layer}")]
    Tar {
        /// Which layer.
        layer: String,
        /// Where and why.
        source: tar::Error,
    },
    /// An entry that has no place in an image.
    #[error("{layer}, entry {} at byte {offset} of the uncompressed tar", Name(entry))]
    Entry {
        /// Which layer.
        layer: String,
        /// Name as in the archive.
        entry: Vec<u8>,
        /// Where its header starts.
        offset: u64,
        /// What is wrong.
        source: flatten::Problem,
    },
    /// A hard link whose target turned out to be missing in lower layers.
    #[error("{layer}, entry {}", Name(entry))]
    Link {
        /// The layer with the link.
        layer: String,
        /// The link.
        entry: Vec<u8>,
        /// What is wrong, with the target's name.
        source: flatten::Problem,
    },
    /// A file of a source directory could not be read.
    #[error("cannot {action} {} in {}", Name(entry), directory.display())]
    Walk {
        /// Verb.
        action: &'static str,
        /// The source directory.
        directory: PathBuf,
        /// Path below it.
        entry: Vec<u8>,
        /// What the system said.
        source: io::Error,
    },
    /// A file of a source directory that became shorter while being read.
    #[error("{} in {} became shorter while it was read: convert when nothing writes there", Name(entry), directory.display())]
    Changed {
        /// The source directory.
        directory: PathBuf,
        /// Path below it.
        entry: Vec<u8>,
    },
    /// A directory or image with more than allowed, or deeper than can be opened.
    #[error("{} in {}", Name(entry), directory.display())]
    Limit {
        /// The source.
        directory: PathBuf,
        /// Path in it.
        entry: Vec<u8>,
        /// Which limit.
        source: flatten::Problem,
    },
    /// The output is there already.
    #[error("{} exists already: remove it, or ask for it to be replaced", path.display())]
    OutputExists {
        /// The output.
        path: PathBuf,
    },
    /// A directory, or something else, that was not unpacked by this program.
    #[error("{} is no directory that coracle unpacked, so it is not replaced: remove it", path.display())]
    NotReplaced {
        /// The output.
        path: PathBuf,
    },
    /// The squashfs file could not be made.
    #[error("cannot write {}", path.display())]
    Write {
        /// The output.
        path: PathBuf,
        /// What went wrong.
        source: writer::Error,
    },
    /// The squashfs writer refused content; the caller knows the output's name.
    #[error(transparent)]
    Sink(#[from] writer::Error),
    /// The temporary file for what a profile holds back cannot be used.
    #[error("cannot {action} a temporary file beside {}", output.display())]
    Spool {
        /// Verb.
        action: &'static str,
        /// The output.
        output: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A profile that cannot be used.
    #[error("cannot use profile {what}")]
    Profile {
        /// Which one.
        what: String,
        /// What is wrong with it.
        source: profile::Problem,
    },
    /// A source image that is damaged, or in a format that cannot be read.
    #[error("cannot use image {}", path.display())]
    Image {
        /// The image.
        path: PathBuf,
        /// What the reader found.
        source: reader::Error,
    },
    /// A file of a source image that cannot be read.
    #[error("cannot read {} in {}", Name(entry), path.display())]
    ImageEntry {
        /// The image.
        path: PathBuf,
        /// Path in it.
        entry: Vec<u8>,
        /// What the reader found.
        source: reader::Error,
    },
    /// An image's own files cannot be read back.
    #[error("cannot read {file} of the image: {reason}")]
    ImageFile {
        /// Path in the image.
        file: &'static str,
        /// What is wrong.
        reason: String,
    },
}

impl Error {
    /// For `map_err` on what concerns one file.
    pub(crate) fn file(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { action, path, source }
    }
}

fn names(available: &[String]) -> String {
    match available {
        [] => "is none".to_owned(),
        [one] => format!("is only {one}"),
        many => format!("are {}", many.join(", ")),
    }
}

fn quoted(urls: &[String]) -> String {
    urls.iter().map(|url| Name(url.as_bytes()).to_string()).collect::<Vec<_>>().join(" or ")
}

fn at_least(found: u64, expected: u64) -> String {
    if found > expected { "more".to_owned() } else { found.to_string() }
}

fn first_sign(noticed: &Option<Box<Error>>) -> String {
    noticed.as_ref().map(|error| format!("; first sign: {}", Chain(error))).unwrap_or_default()
}

/// An error with its sources, in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    Chain(error).to_string()
}

/// An error with its sources, for a message inside another.
struct Chain<'a>(&'a dyn std::error::Error);

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        self.0.source().map_or(Ok(()), |source| write!(f, ": {}", Chain(source)))
    }
}
