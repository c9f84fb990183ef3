//! The SquashFS 4.0 disk format: plain little-endian structures and constants.
//!
//! Field names are those of the kernel's `fs/squashfs/squashfs_fs.h`. Nothing here reads or allocates.

use zerocopy::little_endian::{I16, U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// `hsqs` as a little-endian number.
pub const MAGIC: u32 = 0x7371_7368;
/// The only supported major version.
pub const VERSION_MAJOR: u16 = 4;
/// The only supported minor version.
pub const VERSION_MINOR: u16 = 0;
/// Uncompressed size of a full metadata block, in bytes.
pub const METADATA_SIZE: usize = 8192;
/// Set in a metadata block's 16-bit header when the block is stored uncompressed.
pub const METADATA_UNCOMPRESSED: u16 = 1 << 15;
/// Set in a data block's or fragment's 32-bit size when it is stored uncompressed.
pub const DATA_UNCOMPRESSED: u32 = 1 << 24;
/// Mask of the stored size in a data block's or fragment's 32-bit size.
pub const DATA_SIZE_MASK: u32 = DATA_UNCOMPRESSED - 1;
/// Smallest block size the kernel accepts, in bytes.
pub const BLOCK_SIZE_MIN: u32 = 4096;
/// Largest block size the kernel accepts, in bytes.
pub const BLOCK_SIZE_MAX: u32 = 1 << 20;
/// A table that is not there.
pub const INVALID_TABLE: u64 = u64::MAX;
/// `fragment` of a file without a fragment.
pub const INVALID_FRAGMENT: u32 = u32::MAX;
/// `xattr` of an inode without extended attributes.
pub const INVALID_XATTR: u32 = u32::MAX;
/// Longest file name, in bytes.
pub const NAME_LEN: usize = 256;
/// Most entries under one directory header.
pub const DIR_COUNT_MAX: usize = 256;
/// Longest symbolic link target that Linux can follow, in bytes (`PATH_MAX`).
pub const SYMLINK_MAX: usize = 65_536;
/// The finished image is padded to a multiple of this, so that it can sit on a block device.
pub const IMAGE_ALIGN: u64 = 4096;

/// Superblock flag bits (`flags`).
pub mod flags {
    /// Inode metadata is stored uncompressed.
    pub const NOI: u16 = 1 << 0;
    /// Data blocks are stored uncompressed.
    pub const NOD: u16 = 1 << 1;
    /// Fragment blocks are stored uncompressed.
    pub const NOF: u16 = 1 << 3;
    /// There are no fragments.
    pub const NO_FRAG: u16 = 1 << 4;
    /// Fragments are made for files larger than a block, too.
    pub const ALWAYS_FRAG: u16 = 1 << 5;
    /// Duplicate files are stored once.
    pub const DUPLICATE: u16 = 1 << 6;
    /// There is an export table.
    pub const EXPORT: u16 = 1 << 7;
    /// Extended attributes are stored uncompressed.
    pub const NOX: u16 = 1 << 8;
    /// There are no extended attributes.
    pub const NO_XATTR: u16 = 1 << 9;
    /// A compressor options block follows the superblock.
    pub const COMP_OPT: u16 = 1 << 10;
    /// The id table is stored uncompressed.
    pub const NOID: u16 = 1 << 11;
}

/// Compressor ids (`compression`).
pub mod compression {
    /// zlib stream (the tools call it gzip).
    pub const ZLIB: u16 = 1;
    /// Legacy LZMA, which no kernel reads.
    pub const LZMA: u16 = 2;
    /// LZO1X.
    pub const LZO: u16 = 3;
    /// XZ stream with CRC-32.
    pub const XZ: u16 = 4;
    /// LZ4 block.
    pub const LZ4: u16 = 5;
    /// Zstandard frame.
    pub const ZSTD: u16 = 6;
}

/// Inode types (`inode_type`); an extended type is its basic type plus 7.
pub mod inode_type {
    /// Basic directory.
    pub const DIR: u16 = 1;
    /// Basic regular file.
    pub const REG: u16 = 2;
    /// Basic symbolic link.
    pub const SYMLINK: u16 = 3;
    /// Basic block device.
    pub const BLKDEV: u16 = 4;
    /// Basic character device.
    pub const CHRDEV: u16 = 5;
    /// Basic named pipe.
    pub const FIFO: u16 = 6;
    /// Basic socket.
    pub const SOCKET: u16 = 7;
    /// Extended directory.
    pub const LDIR: u16 = 8;
    /// Extended regular file.
    pub const LREG: u16 = 9;
    /// Extended symbolic link.
    pub const LSYMLINK: u16 = 10;
    /// Extended block device.
    pub const LBLKDEV: u16 = 11;
    /// Extended character device.
    pub const LCHRDEV: u16 = 12;
    /// Extended named pipe.
    pub const LFIFO: u16 = 13;
    /// Extended socket.
    pub const LSOCKET: u16 = 14;
}

/// Extended attribute name prefixes (`type` of an entry).
pub mod xattr_prefix {
    /// `user.`
    pub const USER: u16 = 0;
    /// `trusted.`
    pub const TRUSTED: u16 = 1;
    /// `security.`
    pub const SECURITY: u16 = 2;
    /// The prefix part of `type`.
    pub const MASK: u16 = 0xff;
    /// Set in `type` when the value is stored out of line.
    pub const OUT_OF_LINE: u16 = 0x100;
}

macro_rules! on_disk {
    ($(#[$meta:meta])* $name:ident, $size:literal { $($(#[$fmeta:meta])* $field:ident: $ty:ty,)* }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
        #[repr(C)]
        pub struct $name { $($(#[$fmeta])* pub $field: $ty,)* }
        const _: () = assert!(size_of::<$name>() == $size);
    };
}

on_disk! {
    /// `struct squashfs_super_block`, at the image's first byte.
    SuperBlock, 96 {
        /// [`MAGIC`].
        s_magic: U32,
        /// Number of inodes.
        inodes: U32,
        /// Time of last modification, seconds since 1970.
        mkfs_time: U32,
        /// Bytes in a data block.
        block_size: U32,
        /// Number of fragment blocks.
        fragments: U32,
        /// One of [`compression`].
        compression: U16,
        /// Base-2 logarithm of `block_size`.
        block_log: U16,
        /// Bits of [`flags`].
        flags: U16,
        /// Number of distinct owner and group ids.
        no_ids: U16,
        /// [`VERSION_MAJOR`].
        s_major: U16,
        /// [`VERSION_MINOR`].
        s_minor: U16,
        /// Reference of the root directory's inode.
        root_inode: U64,
        /// Bytes of the image that are in use, padding left out.
        bytes_used: U64,
        /// Position of the id table's index.
        id_table_start: U64,
        /// Position of the xattr id table's header, or [`INVALID_TABLE`].
        xattr_id_table_start: U64,
        /// Position of the first inode metadata block.
        inode_table_start: U64,
        /// Position of the first directory metadata block.
        directory_table_start: U64,
        /// Position of the fragment table's index, or [`INVALID_TABLE`].
        fragment_table_start: U64,
        /// Position of the export table's index, or [`INVALID_TABLE`].
        lookup_table_start: U64,
    }
}

on_disk! {
    /// What every inode starts with (`struct squashfs_base_inode`).
    BaseInode, 16 {
        /// One of [`inode_type`].
        inode_type: U16,
        /// Permission bits (07777).
        mode: U16,
        /// Index of the owner in the id table.
        uid: U16,
        /// Index of the group in the id table.
        guid: U16,
        /// Seconds since 1970.
        mtime: U32,
        /// From 1 to `inodes`.
        inode_number: U32,
    }
}

on_disk! {
    /// Rest of a basic directory inode.
    DirInode, 16 {
        /// Metadata block of the listing, from the directory table's start.
        start_block: U32,
        /// Link count.
        nlink: U32,
        /// Listing size plus 3.
        file_size: U16,
        /// Offset of the listing in its metadata block.
        offset: U16,
        /// Inode number of the parent.
        parent_inode: U32,
    }
}

on_disk! {
    /// Rest of an extended directory inode; `i_count` [`DirIndex`] follow.
    LDirInode, 24 {
        /// Link count.
        nlink: U32,
        /// Listing size plus 3.
        file_size: U32,
        /// Metadata block of the listing, from the directory table's start.
        start_block: U32,
        /// Inode number of the parent.
        parent_inode: U32,
        /// Number of directory index entries.
        i_count: U16,
        /// Offset of the listing in its metadata block.
        offset: U16,
        /// Index in the xattr id table, or [`INVALID_XATTR`].
        xattr: U32,
    }
}

on_disk! {
    /// Directory index entry; `size` + 1 bytes of name follow.
    DirIndex, 12 {
        /// Byte offset in the listing of the header that this entry names.
        index: U32,
        /// Metadata block of that header, from the directory table's start.
        start_block: U32,
        /// Length of the name that follows, minus 1.
        size: U32,
    }
}

on_disk! {
    /// Rest of a basic file inode; the block sizes (`u32` each) follow.
    RegInode, 16 {
        /// Position of the first data block in the image.
        start_block: U32,
        /// Fragment index, or [`INVALID_FRAGMENT`].
        fragment: U32,
        /// Offset in the decompressed fragment block.
        offset: U32,
        /// File size in bytes.
        file_size: U32,
    }
}

on_disk! {
    /// Rest of an extended file inode; the block sizes (`u32` each) follow.
    LRegInode, 40 {
        /// Position of the first data block in the image.
        start_block: U64,
        /// File size in bytes.
        file_size: U64,
        /// Bytes in holes, for `st_blocks`.
        sparse: U64,
        /// Link count.
        nlink: U32,
        /// Fragment index, or [`INVALID_FRAGMENT`].
        fragment: U32,
        /// Offset in the decompressed fragment block.
        offset: U32,
        /// Index in the xattr id table, or [`INVALID_XATTR`].
        xattr: U32,
    }
}

on_disk! {
    /// Rest of a symbolic link inode; the target follows, then a `u32` xattr index for the extended type.
    SymlinkInode, 8 {
        /// Link count.
        nlink: U32,
        /// Bytes in the target.
        symlink_size: U32,
    }
}

on_disk! {
    /// Rest of a device inode; a `u32` xattr index follows for the extended type.
    DevInode, 8 {
        /// Link count.
        nlink: U32,
        /// Device number in the kernel's `new_encode_dev` form.
        rdev: U32,
    }
}

on_disk! {
    /// Rest of a pipe or socket inode; a `u32` xattr index follows for the extended type.
    IpcInode, 4 {
        /// Link count.
        nlink: U32,
    }
}

on_disk! {
    /// Directory header; `count` + 1 [`DirEntry`] follow.
    DirHeader, 12 {
        /// Number of entries minus 1.
        count: U32,
        /// Metadata block of the entries' inodes, from the inode table's start.
        start_block: U32,
        /// Inode number that the entries' differences refer to.
        inode_number: U32,
    }
}

on_disk! {
    /// Directory entry; `size` + 1 bytes of name follow.
    DirEntry, 8 {
        /// Offset of the inode in its metadata block.
        offset: U16,
        /// Inode number minus the header's.
        inode_number: I16,
        /// Basic inode type.
        r#type: U16,
        /// Length of the name that follows, minus 1.
        size: U16,
    }
}

on_disk! {
    /// Fragment table entry.
    FragmentEntry, 16 {
        /// Position of the fragment block in the image.
        start_block: U64,
        /// Stored size, with [`DATA_UNCOMPRESSED`].
        size: U32,
        /// Zero.
        unused: U32,
    }
}

on_disk! {
    /// Header of the xattr id table; positions (`u64`) of its metadata blocks follow.
    XattrTable, 16 {
        /// Position of the first xattr metadata block.
        xattr_table_start: U64,
        /// Number of xattr ids.
        xattr_ids: U32,
        /// Zero.
        unused: U32,
    }
}

on_disk! {
    /// Xattr id table entry: one inode's list.
    XattrId, 16 {
        /// Reference of the list in the xattr table (`block << 16 | offset`).
        xattr: U64,
        /// Number of attributes.
        count: U32,
        /// Bytes that names and values take, for `listxattr`.
        size: U32,
    }
}

on_disk! {
    /// Xattr entry; `size` bytes of name (prefix left out) follow, then [`XattrValue`].
    XattrEntry, 4 {
        /// One of [`xattr_prefix`], with its out-of-line bit.
        r#type: U16,
        /// Bytes of name.
        size: U16,
    }
}

on_disk! {
    /// Xattr value; `vsize` bytes follow (a `u64` reference when out of line).
    XattrValue, 4 {
        /// Bytes of value.
        vsize: U32,
    }
}

on_disk! {
    /// gzip compressor options.
    GzipOptions, 8 {
        /// 1 to 9.
        compression_level: U32,
        /// Base-2 logarithm of the window, 8 to 15.
        window_size: U16,
        /// Bits of the strategies tried.
        strategies: U16,
    }
}

on_disk! {
    /// xz compressor options.
    XzOptions, 8 {
        /// Bytes in the dictionary.
        dictionary_size: U32,
        /// Bits of the executable filters tried.
        flags: U32,
    }
}

on_disk! {
    /// lz4 compressor options.
    Lz4Options, 8 {
        /// 1: the legacy block format, the only one.
        version: U32,
        /// 1: high-compression mode.
        flags: U32,
    }
}

on_disk! {
    /// zstd compressor options.
    ZstdOptions, 4 {
        /// 1 to 22.
        compression_level: U32,
    }
}

on_disk! {
    /// lzo compressor options.
    LzoOptions, 8 {
        /// 0 to 4: which LZO1X compressor.
        algorithm: U32,
        /// 1 to 9, used by algorithm 4 (lzo1x_999).
        compression_level: U32,
    }
}

/// Where an inode lies: metadata block position in the inode table (upper 48 bits) and offset in it (lower 16).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct InodeRef(pub u64);

impl InodeRef {
    /// Joins a block position, relative to its table, and an offset in the decompressed block.
    pub const fn new(block: u64, offset: u16) -> Self {
        Self((block << 16) | offset as u64)
    }

    /// Position of the metadata block, relative to the table's start.
    pub const fn block(self) -> u64 {
        self.0 >> 16
    }

    /// Offset in the decompressed metadata block.
    pub const fn offset(self) -> u16 {
        (self.0 & 0xffff) as u16
    }
}
