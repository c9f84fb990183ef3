//! The files of our own that an image holds under `/.coracle`: what it was made from, and how.

use crate::error::Error;
use crate::options::Options;
use coracle_squashfs::compress::Compression;
use coracle_squashfs::reader::{Image, Kind, ReadAt};
use oci_spec::image::ImageConfiguration;
use serde::{Deserialize, Serialize};

/// Directory of these files in the image.
pub const DIRECTORY: &str = "/.coracle";
/// The image config, verbatim.
pub const CONFIG: &str = "/.coracle/config.json";
/// The image manifest, verbatim.
pub const MANIFEST: &str = "/.coracle/manifest.json";
/// [`ImageInfo`].
pub const INFO: &str = "/.coracle/image.json";

/// Version of [`ImageInfo`] that is written, and the newest that is read. Version 2 added platform and layers.
pub const VERSION: u32 = 2;
/// Largest of the documents that is read, in bytes.
const FILE_MAX: u64 = 8 << 20;

/// Contents of `image.json`. Depends on the image and the settings alone, never on host or time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageInfo {
    /// [`VERSION`].
    pub version: u32,
    /// Name of the image where it came from; for a plain root file system its form (`tar`, `dir`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// Digest of `manifest.json`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manifest_digest: Option<String>,
    /// Digest of `config.json`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_digest: Option<String>,
    /// Operating system in Go's spelling, when the source says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub os: Option<String>,
    /// Architecture in Go's spelling, when the source says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub architecture: Option<String>,
    /// Of the architecture, when the source says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
    /// What the image was flattened from, from the bottom up.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub layers: Vec<LayerInfo>,
    /// The program that made the image.
    pub created_by: CreatedBy,
    /// How it was made.
    pub settings: Settings,
}

/// A layer that was verified and read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerInfo {
    /// Digest of the layer as it is stored, when the source says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// Digest of its uncompressed tar, when the source says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub diff_id: Option<String>,
}

/// What an image config says of where the image runs.
#[derive(Default, Deserialize)]
pub(crate) struct Platform {
    pub os: Option<String>,
    pub architecture: Option<String>,
    pub variant: Option<String>,
}

/// A program and its version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CreatedBy {
    /// Program.
    pub name: String,
    /// Version.
    pub version: String,
}

/// What influences an image's bytes besides its source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// Compressor as `mksquashfs -comp` spells it.
    pub compression: String,
    /// Its level, when it has levels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub level: Option<u32>,
    /// Bytes in a data block.
    pub block_size: u32,
}

impl ImageInfo {
    /// For an image that this version makes.
    pub(crate) fn new(options: &Options) -> Self {
        Self {
            version: VERSION,
            source: None,
            manifest_digest: None,
            config_digest: None,
            os: None,
            architecture: None,
            variant: None,
            layers: Vec::new(),
            created_by: CreatedBy { name: "coracle".into(), version: env!("CARGO_PKG_VERSION").into() },
            settings: Settings::of(options),
        }
    }

    /// Reads an image's `image.json`; `None` when the image has none, being made by another tool.
    ///
    /// # Errors
    /// When the file is damaged or of a newer version.
    pub fn read<S: ReadAt>(image: &Image<S>) -> Result<Option<Self>, Error> {
        let Some(content) = read(image, INFO, FILE_MAX)? else { return Ok(None) };
        let info: Self = parse(&content, INFO)?;
        if info.version > VERSION {
            let reason = format!("it has version {}, this program knows {VERSION}: use a newer one", info.version);
            return Err(Error::ImageFile { file: INFO, reason });
        }
        Ok(Some(info))
    }
}

impl Settings {
    pub(crate) fn of(options: &Options) -> Self {
        let (compression, level) = match options.compression {
            Compression::Gzip { level } => ("gzip", Some(level)),
            Compression::Zstd { level } => ("zstd", Some(level)),
            Compression::Lz4 => ("lz4", None),
            Compression::Xz => ("xz", None),
            other => (coracle_squashfs::compress::codec_name(other.id()), None),
        };
        Self { compression: compression.into(), level, block_size: options.block_size }
    }
}

/// Reads an image's config; `None` when the image has none.
///
/// # Errors
/// When the file is damaged.
pub fn config<S: ReadAt>(image: &Image<S>) -> Result<Option<ImageConfiguration>, Error> {
    match config_bytes(image)? {
        Some(content) => parse(&content, CONFIG).map(Some),
        None => Ok(None),
    }
}

/// An image's config, verbatim.
///
/// # Errors
/// When the file cannot be read.
pub fn config_bytes<S: ReadAt>(image: &Image<S>) -> Result<Option<Vec<u8>>, Error> {
    read(image, CONFIG, FILE_MAX)
}

/// An image's manifest, verbatim.
///
/// # Errors
/// When the file cannot be read.
pub fn manifest_bytes<S: ReadAt>(image: &Image<S>) -> Result<Option<Vec<u8>>, Error> {
    read(image, MANIFEST, FILE_MAX)
}

fn parse<T: serde::de::DeserializeOwned>(content: &[u8], file: &'static str) -> Result<T, Error> {
    serde_json::from_slice(content).map_err(|error| Error::ImageFile { file, reason: error.to_string() })
}

/// A file of at most `max` bytes; `None` when the image has none of that name.
pub(crate) fn read<S: ReadAt>(image: &Image<S>, file: &'static str, max: u64) -> Result<Option<Vec<u8>>, Error> {
    let failed = |reason: String| Error::ImageFile { file, reason };
    let Some(inode) = image.resolve(file.as_bytes()).map_err(|error| failed(error.to_string()))? else {
        return Ok(None);
    };
    if !matches!(inode.kind, Kind::File { .. }) || inode.size() > max {
        return Err(failed("it is no file of reasonable size".into()));
    }
    let mut content = vec![0; inode.size() as usize];
    let mut filled = 0;
    while let Some(room) = content.get_mut(filled..).filter(|room| !room.is_empty()) {
        match image.read(&inode, filled as u64, room).map_err(|error| failed(error.to_string()))? {
            0 => return Err(failed("it ends early".into())),
            count => filled += count,
        }
    }
    Ok(Some(content))
}
