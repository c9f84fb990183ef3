//! What a caller chooses, hears during, and gets after a conversion.

use crate::digest::Digest;
use crate::flatten::Counts;
use crate::profile::ProfileFile;
use crate::registry::Client;
use coracle_squashfs::compress::Compression;
use coracle_squashfs::writer::WriterOptions;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;

/// How an image is converted.
#[derive(Clone, Debug)]
pub struct Options {
    /// For data and metadata of the image.
    pub compression: Compression,
    /// Bytes in a data block: a power of two, 4 KiB to 1 MiB.
    pub block_size: u32,
    /// Threads that compress. The result does not depend on it.
    pub threads: NonZeroUsize,
    /// Replace an output file that exists.
    pub force: bool,
    /// Architecture to take from an index of several, in Go's spelling (`amd64`, `arm64`), perhaps with a
    /// variant (`arm/v7`).
    pub architecture: String,
    /// Most paths of the image; bounds the memory of the tree.
    pub max_entries: u64,
    /// Most bytes that a layer may hold unpacked, holes included.
    pub max_layer_bytes: u64,
    /// Lays the files that it names out together, in its order, and becomes a part of the image. Without one, a
    /// squashfs image as the source keeps its own.
    pub profile: Option<ProfileFile>,
    /// Fetches from registries.
    pub registry: Arc<Client>,
    /// Directory in which blobs of registries are kept, and found. Without one a blob comes over one connection while
    /// it is read, and nothing of it is written to disk.
    pub blob_cache: Option<PathBuf>,
    /// Whether an image in a registry may be had as the finished file that somebody made of it, if its repository has one.
    /// The settings above are then those of whoever made it.
    pub take_finished: bool,
}

impl Default for Options {
    fn default() -> Self {
        let writer = WriterOptions::default();
        Self {
            compression: writer.compression,
            block_size: writer.block_size,
            threads: writer.threads,
            force: false,
            architecture: host_architecture().to_owned(),
            max_entries: 8 << 20,
            max_layer_bytes: 2 << 40,
            profile: None,
            registry: Arc::default(),
            blob_cache: None,
            take_finished: false,
        }
    }
}

/// This machine's architecture as image indexes spell it.
pub fn host_architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "x86" => "386",
        "aarch64" => "arm64",
        "powerpc64" if cfg!(target_endian = "little") => "ppc64le",
        "powerpc64" => "ppc64",
        "loongarch64" => "loong64",
        other => other,
    }
}

/// What happens during a conversion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event<'a> {
    /// A layer is being read. Layers come from the top down.
    LayerStarted {
        /// Number of layers read before.
        index: usize,
        /// Number of layers.
        total: usize,
        /// For display.
        name: &'a str,
        /// Bytes that [`Event::Advanced`] will add up to, when known.
        bytes: Option<u64>,
    },
    /// So many more bytes of the layer at hand have been read.
    Advanced {
        /// Bytes as stored in the source.
        bytes: u64,
    },
    /// A layer has been read and verified.
    LayerFinished {
        /// As in [`Event::LayerStarted`].
        index: usize,
    },
    /// A blob is being downloaded into the cache of blobs, or was found there. Several come at the same time, in the order
    /// in which layers are read, each blob once.
    DownloadStarted {
        /// Number of blobs begun before.
        index: usize,
        /// Number of blobs.
        total: usize,
        /// Its digest.
        digest: Digest,
        /// Its size.
        bytes: u64,
        /// Found in the cache, complete.
        present: bool,
    },
    /// So many more bytes of a blob are there; at first those that an earlier download has left.
    Downloaded {
        /// As in [`Event::DownloadStarted`].
        index: usize,
        /// More than before.
        bytes: u64,
    },
    /// All bytes of a blob are there.
    DownloadFinished {
        /// As in [`Event::DownloadStarted`].
        index: usize,
    },
    /// A directory is being walked.
    DirectoryStarted,
    /// An image is being walked.
    ImageStarted {
        /// Inodes in it, as it says.
        inodes: u32,
    },
    /// So many entries of the directory or image have been taken in.
    Entries {
        /// Since the start.
        count: u64,
    },
    /// All content is stored; the image's tables are being written.
    Finishing,
    /// The store has the image; nothing is to be done.
    Stored,
    /// The store does not have the image, and this process makes it.
    Converting,
    /// Another process makes the image; it is waited for.
    Waiting {
        /// Its host.
        host: &'a str,
        /// Its id there.
        pid: u32,
    },
}

/// Hears what happens. Events come from several threads.
pub trait Progress: Sync {
    /// Something happened; must return soon.
    fn event(&self, event: Event<'_>);
}

/// Hears nothing.
impl Progress for () {
    fn event(&self, _: Event<'_>) {}
}

/// What became of a profile's files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct LaidOut {
    /// Files laid out in the profile's order.
    pub files: u64,
    /// Their bytes, before compression.
    pub bytes: u64,
    /// Paths at which the image has no regular file.
    pub missing: u64,
    /// Files that were written where the source has them, because it showed only then that the path is one of
    /// theirs: hard links in layers. The finished image as the source lays them out, too.
    pub elsewhere: u64,
}

/// What a directory of the caller's own, or a tar, has no place for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Unpacked {
    /// Names of devices that were left out; of sockets, in a tar.
    pub devices: u64,
    /// Files and directories that lost their setuid or setgid bit.
    pub set_ids: u64,
    /// Extended attributes that were left out.
    pub xattrs: u64,
}

/// What a conversion made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Report {
    /// Bytes in the image file.
    pub bytes: u64,
    /// Inodes in the image.
    pub inodes: u32,
    /// Layers read.
    pub layers: usize,
    /// What the layers held.
    pub counts: Counts,
    /// Bytes of content stored, before compression.
    pub data_in: u64,
    /// The same, after.
    pub data_out: u64,
    /// Files that have the same content as another.
    pub duplicates: u64,
    /// Digest of the manifest.
    pub manifest_digest: Option<Digest>,
    /// Digest of the image config.
    pub config_digest: Option<Digest>,
    /// When there was a profile.
    pub laid_out: Option<LaidOut>,
    /// What the form of the output has no place for.
    pub left_out: Unpacked,
}
