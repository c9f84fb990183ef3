//! The codecs of SquashFS behind two small traits.
//!
//! A [`Decompressor`] is shared between threads; a [`Compress`] holds a thread's own working memory. Both work
//! on whole blocks of at most 1 MiB, the format's largest, so nothing here streams.

use crate::format::{self, compression};
use thiserror::Error;

mod codecs;

/// Why a block could not be packed or unpacked, or a codec not be had.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum CodecError {
    /// The id in the superblock names no codec that can be read.
    #[error("compressor {0} is not supported")]
    Unsupported(u16),
    /// A compressor cannot be used for writing.
    #[error("{0} images can be read, but not written")]
    ReadOnly(&'static str),
    /// Bytes that are no valid compressed block.
    #[error("invalid {codec} data: {reason}")]
    Corrupt {
        /// Codec name.
        codec: &'static str,
        /// What the codec said.
        reason: String,
    },
    /// The codec's library failed while compressing.
    #[error("{codec} compressor failed: {reason}")]
    Failed {
        /// Codec name.
        codec: &'static str,
        /// What the codec said.
        reason: String,
    },
    /// A level outside the codec's range.
    #[error("{codec} has no level {level}: use {min} to {max}")]
    Level {
        /// Codec name.
        codec: &'static str,
        /// The level asked for.
        level: u32,
        /// Lowest level.
        min: u32,
        /// Highest level.
        max: u32,
    },
}

/// A compression algorithm and its settings, as the writer is asked for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Compression {
    /// zlib streams, level 1 to 9.
    Gzip {
        /// 1 to 9.
        level: u32,
    },
    /// Zstandard, level 1 to 22.
    Zstd {
        /// 1 to 22.
        level: u32,
    },
    /// LZ4 blocks.
    Lz4,
    /// XZ, preset 6, dictionary as large as the block.
    Xz,
}

impl Default for Compression {
    /// zstd at the level where the size/time curve bends (`docs/decisions/0002-default-compression.md`).
    fn default() -> Self {
        Self::Zstd { level: 6 }
    }
}

impl Compression {
    /// The superblock's compressor id.
    pub const fn id(self) -> u16 {
        match self {
            Self::Gzip { .. } => compression::ZLIB,
            Self::Zstd { .. } => compression::ZSTD,
            Self::Lz4 => compression::LZ4,
            Self::Xz => compression::XZ,
        }
    }

    /// The options block that follows the superblock, when this setting needs one for the kernel or differs from
    /// the codec's default.
    pub fn options(self) -> Option<Vec<u8>> {
        use zerocopy::IntoBytes;
        match self {
            Self::Gzip { level: 9 } => None,
            Self::Gzip { level } => Some(
                format::GzipOptions { compression_level: level.into(), window_size: 15.into(), strategies: 1.into() }
                    .as_bytes()
                    .to_vec(),
            ),
            Self::Zstd { level: 15 } => None,
            Self::Zstd { level } => Some(format::ZstdOptions { compression_level: level.into() }.as_bytes().to_vec()),
            // The kernel refuses an lz4 image without options.
            Self::Lz4 => Some(format::Lz4Options { version: 1.into(), flags: 0.into() }.as_bytes().to_vec()),
            Self::Xz => None,
        }
    }

    /// A compressor with working memory of its own, for blocks of at most `block_size` bytes.
    ///
    /// # Errors
    /// [`CodecError::Level`] when the level is outside the codec's range.
    pub fn compressor(self, block_size: u32) -> Result<Box<dyn Compress>, CodecError> {
        codecs::compressor(self, block_size)
    }
}

/// Packs one block at a time.
pub trait Compress: Send {
    /// Compresses `input` into `output`, which is cleared first. `Ok(false)` when the result would not be smaller than
    /// the input; `output` is then unspecified.
    ///
    /// # Errors
    /// [`CodecError::Failed`] when the codec's library fails.
    fn compress(&mut self, input: &[u8], output: &mut Vec<u8>) -> Result<bool, CodecError>;
}

/// Unpacks blocks of one codec; safe to use from many threads at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decompressor(codecs::Codec);

impl Decompressor {
    /// The decompressor for a superblock's compressor id.
    ///
    /// # Errors
    /// [`CodecError::Unsupported`] for an unknown id and for legacy LZMA.
    pub fn new(id: u16) -> Result<Self, CodecError> {
        codecs::Codec::from_id(id).map(Self)
    }

    /// The codec's name as `mksquashfs -comp` spells it.
    pub const fn name(self) -> &'static str {
        self.0.name()
    }

    /// Unpacks `input` into the front of `output` and returns the number of bytes written.
    ///
    /// # Errors
    /// [`CodecError::Corrupt`] when `input` is not valid or would not fit into `output`; `output` is then unspecified.
    pub fn decompress(self, input: &[u8], output: &mut [u8]) -> Result<usize, CodecError> {
        self.0.decompress(input, output)
    }
}

/// Codec name for a superblock's compressor id, for messages and dumps.
pub const fn codec_name(id: u16) -> &'static str {
    match id {
        compression::ZLIB => "gzip",
        compression::LZMA => "lzma",
        compression::LZO => "lzo",
        compression::XZ => "xz",
        compression::LZ4 => "lz4",
        compression::ZSTD => "zstd",
        _ => "unknown",
    }
}
