//! What can go wrong while an image is made.

use crate::compress::CodecError;
use std::io;
use thiserror::Error;

/// Why an image could not be written, or a tree not be built.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// The output could not be written, read back or resized.
    #[error("{action} the image: {cause}")]
    Output {
        /// Verb for what was being done.
        action: &'static str,
        /// What the system said.
        cause: io::Error,
    },
    /// A file's content could not be read.
    #[error("read the content of a file of {size} bytes: {cause}")]
    Content {
        /// Announced size in bytes.
        size: u64,
        /// What the reader said.
        cause: io::Error,
    },
    /// A codec refused its settings or failed.
    #[error(transparent)]
    Codec(#[from] CodecError),
    /// Block size that the format does not have.
    #[error("block size {0} is not a power of two from 4096 to 1048576")]
    BlockSize(u32),
    /// Content ended before the announced size.
    #[error("file content ends after {got} of {size} bytes")]
    ContentShort {
        /// Announced size in bytes.
        size: u64,
        /// Bytes that came.
        got: u64,
    },
    /// Content goes on after the announced size.
    #[error("file content is longer than the {size} bytes announced")]
    ContentLong {
        /// Announced size in bytes.
        size: u64,
    },
    /// A file has more blocks than an inode may list.
    #[error("file of {size} bytes is too large: at most {max} bytes fit with this block size, use a larger one")]
    FileTooLarge {
        /// File size in bytes.
        size: u64,
        /// Largest size in bytes.
        max: u64,
    },
    /// A metadata table outgrew its 32-bit positions.
    #[error("{table} table exceeds 4 GiB: the image has too many files")]
    TableTooLarge {
        /// Which table.
        table: &'static str,
    },
    /// A directory listing outgrew its 32-bit size.
    #[error("directory listing exceeds 4 GiB: spread its {entries} entries over several directories")]
    DirectoryTooLarge {
        /// Number of entries.
        entries: usize,
    },
    /// More inodes, files or fragments than 32 bits count.
    #[error("too many {what}: the format counts at most {max}")]
    TooMany {
        /// What there is too much of.
        what: &'static str,
        /// Largest number.
        max: u64,
    },
    /// A background thread ended without a result, which only a panic does.
    #[error("image writer's {0} thread died")]
    ThreadDied(&'static str),
    /// A background thread could not be started.
    #[error("start the image writer's {thread} thread: {cause}; check the limit on processes")]
    Thread {
        /// Which thread.
        thread: &'static str,
        /// What the system said.
        cause: io::Error,
    },
    /// An earlier failure made the writer unusable.
    #[error("image cannot be continued after an earlier write failed")]
    Failed,
    /// A file id that this writer did not give out.
    #[error("file id {0} is not of this image")]
    UnknownFile(u32),
    /// A node id that this tree did not give out.
    #[error("node id {0} is not of this tree")]
    UnknownNode(u32),
    /// The directory has an entry of that name.
    #[error("entry {} exists already", name.escape_ascii())]
    AlreadyExists {
        /// Entry name.
        name: Vec<u8>,
    },
    /// A parent is no directory.
    #[error("cannot add {}: its parent is not a directory", name.escape_ascii())]
    NotADirectory {
        /// Name of the entry that was to be added.
        name: Vec<u8>,
    },
    /// A name over 255 bytes.
    #[error("name of {} bytes is too long: Linux takes at most 255", name.len())]
    NameTooLong {
        /// Entry name.
        name: Vec<u8>,
    },
    /// An empty name, `.`, `..`, or one with a slash or a zero byte.
    #[error("name \"{}\" cannot be a directory entry", name.escape_ascii())]
    InvalidName {
        /// Entry name.
        name: Vec<u8>,
    },
    /// Hard link to a directory.
    #[error("cannot link {}: a directory has no hard links", name.escape_ascii())]
    LinkToDirectory {
        /// Name of the link.
        name: Vec<u8>,
    },
    /// Symbolic link target that no Linux system can hold.
    #[error("symbolic link target of {len} bytes: it must have 1 to 4095, without zero bytes")]
    LinkTarget {
        /// Bytes in the target.
        len: usize,
    },
    /// Device number outside Linux's 12 and 20 bits.
    #[error("device {major}:{minor} does not exist: major is at most 4095, minor at most 1048575")]
    DeviceNumber {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// Extended attribute that the format cannot name.
    #[error("extended attribute {} cannot be stored: only user., trusted. and security. can", name.escape_ascii())]
    UnsupportedXattr {
        /// Attribute name.
        name: Vec<u8>,
    },
    /// Extended attribute beyond Linux's limits, or named twice.
    #[error("extended attribute {} cannot be stored: {reason}", name.escape_ascii())]
    InvalidXattr {
        /// Attribute name.
        name: Vec<u8>,
        /// Which limit.
        reason: &'static str,
    },
}

impl Error {
    pub(super) fn output(action: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |cause| Self::Output { action, cause }
    }
}
