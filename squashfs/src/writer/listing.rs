//! One directory's listing: headers, entries, and the index that lets a reader skip most of a long one.

use super::Error;
use super::metadata::MetadataStream;
use crate::format::{DIR_COUNT_MAX, DirEntry, DirHeader, DirIndex, InodeRef, METADATA_SIZE};
use zerocopy::IntoBytes;

/// `.` and `..`, which no listing stores, count as three bytes of it.
const DOTS: u64 = 3;

/// An entry to be written.
pub(super) struct Entry<'t> {
    pub(super) name: &'t [u8],
    pub(super) inode: InodeRef,
    pub(super) number: u32,
    /// Basic inode type.
    pub(super) kind: u16,
}

/// Where a listing is, for its directory's inode.
#[derive(Debug, Default)]
pub(super) struct Listing {
    pub(super) start_block: u32,
    pub(super) offset: u16,
    /// Bytes, `.` and `..` included.
    pub(super) size: u32,
    /// [`DirIndex`] entries with their names, ready to follow the inode.
    pub(super) index: Vec<u8>,
    pub(super) index_count: u16,
}

impl Listing {
    /// Appends the entries, which are in order, to the directory table.
    pub(super) fn write(entries: &[Entry<'_>], stream: &mut MetadataStream) -> Result<Self, Error> {
        let mut listing = Self { size: DOTS as u32, ..Self::default() };
        if entries.is_empty() {
            return Ok(listing);
        }
        let start = stream.position();
        (listing.start_block, listing.offset) = (block_position(start)?, start.offset());
        let from = stream.raw_len();
        let length: usize = entries.iter().map(|entry| size_of::<DirEntry>() + entry.name.len()).sum();
        let indexed = length > METADATA_SIZE;
        let (mut rest, mut indexed_block) = (entries, from / METADATA_SIZE as u64);
        while let Some(first) = rest.first() {
            let at = stream.raw_len();
            let (run, later) = rest.split_at(run_length(rest, at, indexed));
            if indexed && at / METADATA_SIZE as u64 != indexed_block && listing.index_count < u16::MAX {
                indexed_block = at / METADATA_SIZE as u64;
                let position = block_position(stream.position())?;
                listing.add_index(at - from, position, first.name, entries.len())?;
            }
            write_run(run, first, stream)?;
            rest = later;
        }
        let size = stream.raw_len() - from + DOTS;
        listing.size = u32::try_from(size).map_err(|_| Error::DirectoryTooLarge { entries: entries.len() })?;
        Ok(listing)
    }

    fn add_index(&mut self, at: u64, start_block: u32, name: &[u8], entries: usize) -> Result<(), Error> {
        let index = u32::try_from(at).map_err(|_| Error::DirectoryTooLarge { entries })?;
        let entry =
            DirIndex { index: index.into(), start_block: start_block.into(), size: (name.len() as u32 - 1).into() };
        self.index.extend_from_slice(entry.as_bytes());
        self.index.extend_from_slice(name);
        self.index_count += 1;
        Ok(())
    }
}

fn block_position(at: InodeRef) -> Result<u32, Error> {
    u32::try_from(at.block()).map_err(|_| Error::TableTooLarge { table: "directory" })
}

/// How many entries can share one header at raw position `at`: at most 256, inodes in one metadata block, numbers within
/// 16 bits of the first. In an indexed listing no run reaches into the next metadata block with more than its last
/// entry, so that the next block soon has a header to point at.
fn run_length(entries: &[Entry<'_>], at: u64, indexed: bool) -> usize {
    let Some(first) = entries.first() else { return 0 };
    let end = (at / METADATA_SIZE as u64 + 1) * METADATA_SIZE as u64;
    let mut position = at + size_of::<DirHeader>() as u64;
    let fits = |entry: &&Entry<'_>| {
        let here = position;
        position += (size_of::<DirEntry>() + entry.name.len()) as u64;
        let difference = i64::from(entry.number) - i64::from(first.number);
        entry.inode.block() == first.inode.block()
            && i16::try_from(difference).is_ok()
            && (!indexed || here < end || std::ptr::eq(*entry, first))
    };
    entries.iter().take(DIR_COUNT_MAX).take_while(fits).count()
}

fn write_run(run: &[Entry<'_>], first: &Entry<'_>, stream: &mut MetadataStream) -> Result<(), Error> {
    let start_block = u32::try_from(first.inode.block()).map_err(|_| Error::TableTooLarge { table: "inode" })?;
    let header = DirHeader {
        count: (run.len() as u32 - 1).into(),
        start_block: start_block.into(),
        inode_number: first.number.into(),
    };
    stream.append(header.as_bytes())?;
    for entry in run {
        let head = DirEntry {
            offset: entry.inode.offset().into(),
            inode_number: (i64::from(entry.number) - i64::from(first.number))
                .try_into()
                .map(i16::into)
                .unwrap_or_default(),
            r#type: entry.kind.into(),
            size: (entry.name.len() as u16 - 1).into(),
        };
        stream.append(head.as_bytes())?;
        stream.append(entry.name)?;
    }
    Ok(())
}
