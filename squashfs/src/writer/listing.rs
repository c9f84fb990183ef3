//! One directory's listing: headers, entries, and the index that lets a reader skip most of a long one.

use super::Error;
use super::metadata::MetadataStream;
use crate::format::{DIR_COUNT_MAX, DirEntry, DirHeader, DirIndex, InodeRef, METADATA_SIZE};
use zerocopy::IntoBytes;

/// `.` and `..`, which no listing stores, count as three bytes of it.
const DOTS: u64 = 3;
/// Most index entries: an inode counts them in 16 bits. The rest of the listing is found from the last one.
const INDEX_MAX: usize = u16::MAX as usize;

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
pub(super) struct Listing<'t> {
    /// Raw offset in the directory table; `None` when there are no entries.
    raw: Option<u64>,
    /// Bytes, `.` and `..` included.
    pub(super) size: u32,
    /// Headers that begin a metadata block, or nearly: offset in the listing and first name.
    pub(super) index: Vec<(u32, &'t [u8])>,
}

impl<'t> Listing<'t> {
    /// Appends the entries, which are in order, to the directory table.
    pub(super) fn write(entries: &[Entry<'t>], stream: &mut MetadataStream) -> Result<Self, Error> {
        if entries.is_empty() {
            return Ok(Self { size: DOTS as u32, ..Self::default() });
        }
        let from = stream.raw_len();
        let offset = |raw| u32::try_from(raw - from).map_err(|_| Error::DirectoryTooLarge { entries: entries.len() });
        let length: usize = entries.iter().map(|entry| size_of::<DirEntry>() + entry.name.len()).sum();
        let indexed = length > METADATA_SIZE;
        let (mut rest, mut indexed_block) = (entries, from / METADATA_SIZE as u64);
        let mut index = Vec::new();
        while let Some(first) = rest.first() {
            let at = stream.raw_len();
            let (run, later) = rest.split_at(run_length(rest, at, indexed));
            if indexed && at / METADATA_SIZE as u64 != indexed_block && index.len() < INDEX_MAX {
                indexed_block = at / METADATA_SIZE as u64;
                index.push((offset(at)?, first.name));
            }
            write_run(run, first, stream)?;
            rest = later;
        }
        Ok(Self { raw: Some(from), size: offset(stream.raw_len() + DOTS)?, index })
    }

    /// Where it starts: metadata block and offset there.
    pub(super) fn start(&self, stream: &mut MetadataStream) -> Result<(u32, u16), Error> {
        // Nobody looks for an empty listing.
        let Some(raw) = self.raw else { return Ok((0, 0)) };
        Ok((block_position(stream, raw)?, (raw % METADATA_SIZE as u64) as u16))
    }

    /// Appends the index as it follows the directory's inode.
    pub(super) fn append_index(&self, stream: &mut MetadataStream, bytes: &mut Vec<u8>) -> Result<(), Error> {
        for &(offset, name) in &self.index {
            let start_block = block_position(stream, self.raw.unwrap_or_default() + u64::from(offset))?.into();
            let entry = DirIndex { index: offset.into(), start_block, size: (name.len() as u32 - 1).into() };
            bytes.extend_from_slice(entry.as_bytes());
            bytes.extend_from_slice(name);
        }
        Ok(())
    }
}

fn block_position(stream: &mut MetadataStream, raw: u64) -> Result<u32, Error> {
    u32::try_from(stream.place(raw)?.block()).map_err(|_| Error::TableTooLarge { table: "directory" })
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
