//! Reads and validates what every image starts with.
//!
//! Checks are the kernel's (`squashfs_fill_super` and the `*_table` functions it calls), save that table contents are
//! looked at on first use.

use super::error::{Error, Problem, Table, corrupt};
use super::source::ReadAt;
use crate::compress::Decompressor;
use crate::format::{self, INVALID_TABLE, METADATA_SIZE, METADATA_UNCOMPRESSED, SuperBlock, flags};
use std::io;
use std::ops::Range;
use zerocopy::{FromZeros, IntoBytes};

/// More than any codec's options take; the largest are 8 bytes.
const OPTIONS_MAX: usize = 512;

/// The superblock, and what follows from it once it is known to be sound.
pub(super) struct Geometry {
    pub(super) superblock: SuperBlock,
    pub(super) decompressor: Decompressor,
    pub(super) options: Option<Box<[u8]>>,
    pub(super) block_size: u32,
    pub(super) bytes_used: u64,
    pub(super) inodes: Range<u64>,
    pub(super) directories: Range<u64>,
    pub(super) fragments: Option<IndexedTable>,
    pub(super) export: Option<IndexedTable>,
    pub(super) ids: IndexedTable,
}

/// A table of fixed-size entries in metadata blocks, whose positions an index lists.
#[derive(Clone, Copy)]
pub(super) struct IndexedTable {
    pub(super) table: Table,
    /// Position of the index; the metadata blocks are before it.
    pub(super) index: u64,
    pub(super) count: u64,
    pub(super) entry_size: usize,
}

impl IndexedTable {
    pub(super) const fn blocks(&self) -> u64 {
        (self.count * self.entry_size as u64).div_ceil(METADATA_SIZE as u64)
    }

    /// First byte behind the index; `None` when that is beyond what a number holds.
    fn end(&self) -> Option<u64> {
        self.index.checked_add(self.blocks() * 8)
    }
}

pub(super) fn read<S: ReadAt>(source: &S, base: u64) -> Result<Geometry, Error> {
    let has = source.size().map_err(Error::Size)?.saturating_sub(base);
    let mut superblock = SuperBlock::new_zeroed();
    match source.read_exact_at(superblock.as_mut_bytes(), base) {
        Ok(()) => {}
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Err(Error::NotSquashfs { offset: base }),
        Err(cause) => return Err(Error::Io { table: Table::Superblock, offset: 0, cause }),
    }
    if superblock.s_magic != format::MAGIC {
        return Err(Error::NotSquashfs { offset: base });
    }
    let (major, minor) = (superblock.s_major.get(), superblock.s_minor.get());
    if (major, minor) != (format::VERSION_MAJOR, format::VERSION_MINOR) {
        return Err(Error::Version { major, minor });
    }
    let mut geometry = check_fields(superblock)?;
    if geometry.bytes_used > has {
        return Err(Error::Truncated { needs: geometry.bytes_used, has });
    }
    check_order(&mut geometry)?;
    if superblock.flags.get() & flags::COMP_OPT != 0 {
        geometry.options = Some(read_options(source, base, &geometry)?);
    }
    Ok(geometry)
}

fn wrong<T>(field: &'static str, value: u64, reason: &'static str) -> Result<T, Error> {
    Err(Error::Superblock { field, value, reason })
}

/// Checks what one field alone can tell.
fn check_fields(superblock: SuperBlock) -> Result<Geometry, Error> {
    let block_size = superblock.block_size.get();
    if !block_size.is_power_of_two() || !(format::BLOCK_SIZE_MIN..=format::BLOCK_SIZE_MAX).contains(&block_size) {
        return wrong("block_size", block_size.into(), "it must be a power of two from 4096 to 1048576");
    }
    let block_log = superblock.block_log.get();
    if u32::from(block_log) != block_size.trailing_zeros() {
        return wrong("block_log", block_log.into(), "it is not the logarithm of block_size");
    }
    let decompressor = Decompressor::new(superblock.compression.get()).map_err(Error::Compressor)?;
    if superblock.inodes == 0 {
        return wrong("inodes", 0, "there is a root directory at least");
    }
    if superblock.no_ids == 0 {
        return wrong("no_ids", 0, "the root directory has an owner");
    }
    let indexed = |table, index, count, entry_size| IndexedTable { table, index, count, entry_size };
    let fragments = superblock.fragments.get();
    let export = superblock.lookup_table_start.get();
    Ok(Geometry {
        superblock,
        decompressor,
        options: None,
        block_size,
        bytes_used: superblock.bytes_used.get(),
        inodes: superblock.inode_table_start.get()..superblock.directory_table_start.get(),
        directories: superblock.directory_table_start.get()..superblock.id_table_start.get(),
        // Writers give a fragment table that is not there a position, too.
        fragments: (fragments != 0)
            .then(|| indexed(Table::Fragments, superblock.fragment_table_start.get(), fragments.into(), 16)),
        export: (export != INVALID_TABLE).then(|| indexed(Table::Export, export, superblock.inodes.get().into(), 8)),
        ids: indexed(Table::Ids, superblock.id_table_start.get(), superblock.no_ids.get().into(), 4),
    })
}

/// Checks that the tables are in the format's order, within the image and not in each other.
fn check_order(geometry: &mut Geometry) -> Result<(), Error> {
    let superblock = &geometry.superblock;
    if geometry.inodes.start < size_of::<SuperBlock>() as u64 {
        return wrong("inode_table_start", geometry.inodes.start, "the superblock is there");
    }
    if geometry.inodes.is_empty() {
        return wrong("directory_table_start", geometry.inodes.end, "it must be behind the inode table");
    }
    let mut end = geometry.inodes.end;
    let tables = [
        ("fragment_table_start", geometry.fragments),
        ("lookup_table_start", geometry.export),
        ("id_table_start", Some(geometry.ids)),
    ];
    for (field, table) in tables {
        let Some(table) = table else { continue };
        if table.index < end {
            return wrong(field, table.index, "another table is there");
        }
        geometry.directories.end = geometry.directories.end.min(table.index);
        end = match table.end() {
            Some(end) if end <= geometry.bytes_used => end,
            _ => return wrong(field, table.index, "the table's index reaches behind bytes_used"),
        };
    }
    let xattrs = superblock.xattr_id_table_start.get();
    if xattrs != INVALID_TABLE {
        if xattrs < end {
            return wrong("xattr_id_table_start", xattrs, "another table is there");
        }
        if xattrs.checked_add(size_of::<format::XattrTable>() as u64).is_none_or(|end| end > geometry.bytes_used) {
            return wrong("xattr_id_table_start", xattrs, "the table reaches behind bytes_used");
        }
    }
    let root = format::InodeRef(superblock.root_inode.get());
    if root.block() >= geometry.inodes.end - geometry.inodes.start || usize::from(root.offset()) >= METADATA_SIZE {
        return wrong("root_inode", root.0, "it is outside of the inode table");
    }
    Ok(())
}

fn read_options<S: ReadAt>(source: &S, base: u64, geometry: &Geometry) -> Result<Box<[u8]>, Error> {
    let table = Table::CompressorOptions;
    let offset = size_of::<SuperBlock>() as u64;
    let read = |buf: &mut [u8], at: u64| {
        let end = geometry.inodes.start;
        if at + buf.len() as u64 > end {
            return Err(corrupt(table, offset, Problem::BlockBehindEnd { bytes: buf.len() as u64, end }));
        }
        let position = base.checked_add(at).ok_or(Error::NotSquashfs { offset: base })?;
        source.read_exact_at(buf, position).map_err(|cause| Error::Io { table, offset, cause })
    };
    let mut header = [0; 2];
    read(&mut header, offset)?;
    let header = u16::from_le_bytes(header);
    let len = usize::from(header & !METADATA_UNCOMPRESSED);
    // No codec can be set up before its options are known, so these are never compressed.
    if len == 0 || header & METADATA_UNCOMPRESSED == 0 {
        return Err(corrupt(table, offset, Problem::EmptyBlock));
    }
    if len > OPTIONS_MAX {
        return Err(corrupt(table, offset, Problem::BlockTooLarge { claims: len as u64, max: OPTIONS_MAX as u64 }));
    }
    let mut options = vec![0; len];
    read(&mut options, offset + 2)?;
    Ok(options.into())
}
