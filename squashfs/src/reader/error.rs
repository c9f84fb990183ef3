//! What can be wrong with an image, by table and byte offset.

use crate::compress::CodecError;
use crate::format::InodeRef;
use std::fmt;
use std::io;
use thiserror::Error;

/// The part of an image that an error speaks of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Table {
    /// The first 96 bytes.
    Superblock,
    /// The block after the superblock.
    CompressorOptions,
    /// File data.
    Data,
    /// A block of file tails.
    Fragment,
    /// Inodes and block lists.
    Inodes,
    /// Directory listings.
    Directories,
    /// Positions of fragment blocks.
    Fragments,
    /// Inode references by inode number.
    Export,
    /// Owner and group ids.
    Ids,
    /// Positions of extended attribute lists.
    XattrIds,
    /// Extended attribute names and values.
    Xattrs,
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Superblock => "superblock",
            Self::CompressorOptions => "compressor options",
            Self::Data => "data block",
            Self::Fragment => "fragment block",
            Self::Inodes => "inode table",
            Self::Directories => "directory table",
            Self::Fragments => "fragment table",
            Self::Export => "export table",
            Self::Ids => "id table",
            Self::XattrIds => "xattr id table",
            Self::Xattrs => "xattr table",
        })
    }
}

/// Why a file could not be read as a SquashFS image.
///
/// Byte offsets count from the image's first byte, which is [`OpenOptions::offset`](super::OpenOptions::offset) in the
/// source; those of tables are the positions of metadata blocks.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// The source failed.
    #[error("read {table} at byte {offset}: {cause}")]
    Io {
        /// What was read.
        table: Table,
        /// Where in the image.
        offset: u64,
        /// What the source said.
        cause: io::Error,
    },
    /// The source does not tell its size.
    #[error("find the image's size: {0}")]
    Size(io::Error),
    /// The first bytes are those of something else.
    #[error("open image at byte {offset}: no squashfs superblock there: give a squashfs file or the right offset")]
    NotSquashfs {
        /// Where in the source.
        offset: u64,
    },
    /// Another version of the format.
    #[error("open image: squashfs version {major}.{minor} is not supported: make it again with a version 4.0 tool")]
    Version {
        /// Major version.
        major: u16,
        /// Minor version.
        minor: u16,
    },
    /// The image is compressed with a codec that cannot be read.
    #[error("open image: {0}: make it again with zstd, gzip, lz4, lzo or xz")]
    Compressor(CodecError),
    /// The file is shorter than its superblock says.
    #[error("open image: {needs} bytes are in use, but the file has {has} from there: it is truncated, copy it again")]
    Truncated {
        /// `bytes_used`.
        needs: u64,
        /// Bytes that the source has from the image's start.
        has: u64,
    },
    /// The superblock contradicts itself.
    #[error("read superblock: {field} is {value}: {reason}")]
    Superblock {
        /// Field name as in `struct squashfs_super_block`.
        field: &'static str,
        /// Its value.
        value: u64,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A block could not be unpacked.
    #[error("read {table} at byte {offset}: {cause}")]
    Codec {
        /// What was unpacked.
        table: Table,
        /// Where in the image.
        offset: u64,
        /// What the codec said.
        cause: CodecError,
    },
    /// Bytes that no image writer makes.
    #[error("read {table} at byte {offset}: {problem}")]
    Corrupt {
        /// What was read.
        table: Table,
        /// Where in the image.
        offset: u64,
        /// What is wrong.
        problem: Problem,
    },
    /// The operation needs an inode of another type.
    #[error("inode {number} is not a {wanted}")]
    WrongType {
        /// Inode number.
        number: u32,
        /// What it should be.
        wanted: &'static str,
    },
    /// [`read_dir_from`](super::Image::read_dir_from) was given a position that no entry ends at.
    #[error("inode {number}: no directory entry starts at position {position}")]
    Position {
        /// Inode number of the directory.
        number: u32,
        /// The position.
        position: u32,
    },
    /// The image cannot find inodes by number.
    #[error("find inode {0} by number: the image has no export table: make it again without -no-exports")]
    NoExportTable(u32),
    /// An inode number that is not in use.
    #[error("find inode {number} by number: the image has inodes 1 to {inodes}")]
    NoSuchInode {
        /// The number asked for.
        number: u32,
        /// Number of inodes.
        inodes: u32,
    },
    /// A block index behind the file's end.
    #[error("inode {number}: no block {index}: it has {blocks}")]
    NoSuchBlock {
        /// Inode number of the file.
        number: u32,
        /// The index asked for.
        index: u64,
        /// Number of blocks, its fragment included.
        blocks: u64,
    },
}

/// What is wrong with the bytes that [`Error::Corrupt`] points to.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum Problem {
    /// A stored size of nothing.
    #[error("block is empty")]
    EmptyBlock,
    /// A stored size that no block can have.
    #[error("block claims {claims} bytes, at most {max} fit")]
    BlockTooLarge {
        /// The stored size.
        claims: u64,
        /// The most there can be.
        max: u64,
    },
    /// A block that reaches into what follows.
    #[error("block of {bytes} bytes reaches behind byte {end}, where it must end")]
    BlockBehindEnd {
        /// Stored size.
        bytes: u64,
        /// Where the table or image ends.
        end: u64,
    },
    /// A position outside of the table that it belongs to.
    #[error("position is outside of bytes {start} to {end}")]
    OutOfTable {
        /// First byte of the table.
        start: u64,
        /// First byte behind it.
        end: u64,
    },
    /// An offset behind the end of its block.
    #[error("offset {offset} is behind the end of a block of {len} bytes")]
    OffsetInBlock {
        /// Offset in the unpacked block.
        offset: u64,
        /// Bytes in the unpacked block.
        len: u64,
    },
    /// A block of an unexpected size.
    #[error("block unpacks to {got} bytes, {want} are needed")]
    BlockLength {
        /// Bytes that came out.
        got: u64,
        /// Bytes needed.
        want: u64,
    },
    /// A data block size with unknown bits.
    #[error("block size {0:#x} has unknown bits set")]
    BlockSizeBits(u32),
    /// An index into a table that is too short.
    #[error("index {index} into a table of {count}")]
    Index {
        /// The index.
        index: u64,
        /// Entries in the table.
        count: u64,
    },
    /// An unknown inode type.
    #[error("inode at offset {} of the block has unknown type {kind}", at.offset())]
    InodeType {
        /// The inode.
        at: InodeRef,
        /// Its type.
        kind: u16,
    },
    /// An inode number that is 0 or larger than the number of inodes.
    #[error("inode number {number} is not in 1 to {inodes}")]
    InodeNumber {
        /// The number.
        number: u32,
        /// Number of inodes.
        inodes: u32,
    },
    /// A file larger than Linux can address.
    #[error("inode {number} claims a file of {size} bytes")]
    FileSize {
        /// Inode number.
        number: u32,
        /// Claimed size.
        size: u64,
    },
    /// A file tail that reaches out of its fragment block.
    #[error("inode {number} has bytes {offset} to {end} of a fragment block of {len}")]
    Tail {
        /// Inode number.
        number: u32,
        /// First byte.
        offset: u64,
        /// First byte behind the tail.
        end: u64,
        /// Bytes in the fragment block.
        len: u64,
    },
    /// A symbolic link that is empty, too long or has a NUL in it.
    #[error("inode {number} has an impossible link target of {len} bytes")]
    LinkTarget {
        /// Inode number.
        number: u32,
        /// Bytes in the target.
        len: u64,
    },
    /// A listing that ends within a header or an entry.
    #[error("listing of inode {number} ends within an entry")]
    ListingEnd {
        /// Inode number of the directory.
        number: u32,
    },
    /// A directory header with more entries than the format allows.
    #[error("directory header claims {count} entries, at most 256 fit")]
    HeaderCount {
        /// Claimed number.
        count: u64,
    },
    /// A directory index entry that points out of the listing.
    #[error("directory index of inode {number} points to byte {index} of a listing of {size}")]
    DirectoryIndex {
        /// Inode number of the directory.
        number: u32,
        /// Where it points.
        index: u32,
        /// Bytes in the listing.
        size: u32,
    },
    /// A name longer than the format allows.
    #[error("name of {0} bytes, at most 256 fit")]
    NameLength(u64),
    /// A name that no directory may have: empty, `.`, `..`, or with a slash or NUL.
    #[error("directory entry has the forbidden name \"{}\"", .0.escape_ascii())]
    Name(Vec<u8>),
    /// Names that are not in ascending order, or one twice.
    #[error("directory entry \"{}\" is out of order", .0.escape_ascii())]
    NameOrder(Vec<u8>),
    /// An unknown type in a directory entry.
    #[error("directory entry has unknown type {0}")]
    EntryType(u16),
    /// A directory entry whose inode is of another type.
    #[error("inode {number} is not of the type that its directory entry tells")]
    EntryTypeDiffers {
        /// Inode number.
        number: u32,
    },
    /// A directory that is reached twice: a loop or a hard link.
    #[error("directory inode {0} is reached a second time")]
    DirectoryTwice(u32),
    /// A path longer than anything can use.
    #[error("path is longer than {0} bytes")]
    PathLength(usize),
    /// An unknown extended attribute prefix.
    #[error("extended attribute has unknown prefix {0}")]
    XattrPrefix(u16),
    /// An extended attribute name that is empty, too long or has a NUL in it.
    #[error("impossible extended attribute name of {0} bytes")]
    XattrName(u64),
    /// An extended attribute value larger than Linux allows.
    #[error("extended attribute value of {0} bytes, at most 65536 fit")]
    XattrValue(u64),
    /// More names or values than Linux can list or an image can sensibly have.
    #[error("extended attributes of one inode take more than {0} bytes")]
    XattrTotal(usize),
}

/// Shorthand for [`Error::Corrupt`].
pub(super) const fn corrupt(table: Table, offset: u64, problem: Problem) -> Error {
    Error::Corrupt { table, offset, problem }
}
