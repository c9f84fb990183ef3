//! Reads SquashFS 4.0 images that may be hostile, from many threads at once.
//!
//! Opening costs two reads; tables, inodes and blocks are read when they are asked for and kept in bounded caches.
//! Whatever an image claims, memory stays within [`OpenOptions::cache_bytes`], 2 MiB for ids and layouts and two blocks
//! per thread, and nothing loops for longer than the image has bytes for.

use crate::format::SuperBlock;
use cache::Cache;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use zerocopy::little_endian::U64;

mod cache;
mod directory;
mod error;
mod file;
mod inode;
mod layout;
mod metadata;
mod pool;
mod source;
mod superblock;
mod tables;
mod walk;
mod xattr;

#[cfg(test)]
pub(crate) mod tests;

pub use crate::format::InodeRef;
pub use directory::{DirEntry, Directory};
pub use error::{Error, Problem, Table};
pub use file::{Block, Stored};
pub use inode::{FileData, FileType, Inode, Kind, LinkTarget, Listing, major, minor};
pub use source::ReadAt;
pub use walk::{Walk, WalkEntry, WalkError};
pub use xattr::Xattr;

/// Files whose layouts are kept; each takes 48 KiB at most.
const LAYOUTS: usize = 32;
/// What a small cache weight like 1 becomes in the cache.
const LAYOUT_WEIGHT: usize = 129;

/// How an image is opened.
#[derive(Clone, Copy, Debug)]
pub struct OpenOptions {
    /// First byte of the image in its source, for images inside other files.
    pub offset: u64,
    /// Bytes that unpacked blocks may take in memory, metadata included. A quarter is for metadata.
    pub cache_bytes: usize,
}

impl Default for OpenOptions {
    fn default() -> Self {
        Self { offset: 0, cache_bytes: 64 << 20 }
    }
}

/// What an image's reader has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Data and fragment blocks unpacked.
    pub blocks: u64,
    /// Data and fragment blocks found in the cache.
    pub block_hits: u64,
    /// Metadata blocks unpacked.
    pub metadata_blocks: u64,
    /// Metadata blocks found in the cache.
    pub metadata_hits: u64,
    /// Bytes read from the source.
    pub bytes_read: u64,
}

#[derive(Default)]
struct Counters {
    blocks: AtomicU64,
    block_hits: AtomicU64,
    metadata_blocks: AtomicU64,
    metadata_hits: AtomicU64,
    bytes_read: AtomicU64,
}

/// An open image. All methods may be called from many threads at once.
pub struct Image<S> {
    source: S,
    base: u64,
    geometry: superblock::Geometry,
    /// By position.
    metadata: Cache<u64, metadata::MetadataBlock>,
    /// Parts of table indexes, by position.
    positions: Cache<u64, Box<[U64]>>,
    /// By position and stored size.
    data: Cache<(u64, u32), pool::Buffer>,
    pool: std::sync::Arc<pool::Pool>,
    layouts: Cache<InodeRef, layout::Layout>,
    ids: OnceLock<Box<[u32]>>,
    xattr_tables: OnceLock<xattr::XattrTables>,
    counters: Counters,
}

impl<S: ReadAt> Image<S> {
    /// Opens an image: reads the superblock and checks it against itself and the source's size.
    ///
    /// # Errors
    /// When the source cannot be read, or is no sound SquashFS 4.0 image.
    pub fn open(source: S, options: OpenOptions) -> Result<Self, Error> {
        let geometry = superblock::read(&source, options.offset)?;
        let metadata = options.cache_bytes / 4;
        let positions = metadata / 8;
        Ok(Self {
            source,
            base: options.offset,
            metadata: Cache::new(metadata - positions, crate::format::METADATA_SIZE),
            positions: Cache::new(positions, 4096),
            data: Cache::new(options.cache_bytes - metadata, geometry.block_size as usize),
            pool: pool::Pool::new(geometry.block_size as usize),
            layouts: Cache::new(LAYOUTS * LAYOUT_WEIGHT, LAYOUT_WEIGHT),
            geometry,
            ids: OnceLock::new(),
            xattr_tables: OnceLock::new(),
            counters: Counters::default(),
        })
    }

    /// The same image, read through `wrap` of its source from now on and with other bounds, in bytes, for unpacked blocks
    /// and metadata. Blocks that are in memory are dropped, metadata stays.
    pub fn rewrap<T: ReadAt>(mut self, blocks: usize, metadata: usize, wrap: impl FnOnce(S) -> T) -> Image<T> {
        let positions = metadata / 8;
        self.metadata.set_limit(metadata - positions);
        self.positions.set_limit(positions);
        Image {
            source: wrap(self.source),
            base: self.base,
            data: Cache::new(blocks, self.geometry.block_size as usize),
            geometry: self.geometry,
            metadata: self.metadata,
            positions: self.positions,
            pool: self.pool,
            layouts: self.layouts,
            ids: self.ids,
            xattr_tables: self.xattr_tables,
            counters: self.counters,
        }
    }

    /// What the image is read from.
    pub const fn source(&self) -> &S {
        &self.source
    }

    /// The superblock, validated.
    pub const fn superblock(&self) -> &SuperBlock {
        &self.geometry.superblock
    }

    /// The compressor's options as they are stored, when the image has some.
    pub fn compressor_options(&self) -> Option<&[u8]> {
        self.geometry.options.as_deref()
    }

    /// The root directory's inode.
    pub const fn root(&self) -> InodeRef {
        InodeRef(self.geometry.superblock.root_inode.get())
    }

    /// Counters since the image was opened.
    pub fn stats(&self) -> Stats {
        let counters = &self.counters;
        Stats {
            blocks: counters.blocks.load(Relaxed),
            block_hits: counters.block_hits.load(Relaxed),
            metadata_blocks: counters.metadata_blocks.load(Relaxed),
            metadata_hits: counters.metadata_hits.load(Relaxed),
            bytes_read: counters.bytes_read.load(Relaxed),
        }
    }
}
