//! Metadata blocks and a cursor that reads structures across them.

use super::Image;
use super::error::{Error, Problem, Table, corrupt};
use super::source::ReadAt;
use crate::format::{METADATA_SIZE, METADATA_UNCOMPRESSED};
use std::cell::Cell;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use zerocopy::{FromBytes, IntoBytes};

/// An unpacked metadata block: 1 to 8192 bytes.
pub(super) struct MetadataBlock {
    data: Box<[u8]>,
    /// Position of the block behind it.
    next: u64,
}

thread_local! {
    /// Room for a stored block, kept so that reading one allocates nothing. Taken out while in use: a source may
    /// itself be a file in an image.
    static SCRATCH: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// Runs `work` with `len` bytes of this thread's scratch room. `len` is at most a data block's size plus a header.
pub(super) fn with_scratch<T>(len: usize, work: impl FnOnce(&mut [u8]) -> T) -> T {
    let mut scratch = SCRATCH.take();
    if scratch.len() < len {
        scratch.resize(len, 0);
    }
    let result = work(&mut scratch[..len]);
    SCRATCH.set(scratch);
    result
}

impl<S: ReadAt> Image<S> {
    /// Fills `buf` from the image's byte `offset`; the caller has checked that it lies within `bytes_used`.
    pub(super) fn read_source(&self, table: Table, buf: &mut [u8], offset: u64) -> Result<(), Error> {
        self.counters.bytes_read.fetch_add(buf.len() as u64, Relaxed);
        let end = Problem::BlockBehindEnd { bytes: buf.len() as u64, end: self.geometry.bytes_used };
        let position = self.base.checked_add(offset).ok_or_else(|| corrupt(table, offset, end))?;
        self.source.read_exact_at(buf, position).map_err(|cause| Error::Io { table, offset, cause })
    }

    /// The metadata block at byte `at`, which must end by `end`.
    pub(super) fn metadata_block(&self, table: Table, at: u64, end: u64) -> Result<Arc<MetadataBlock>, Error> {
        let weigh = |block: &MetadataBlock| block.data.len();
        let (block, hit) = self.metadata.get(at, weigh, || self.load_metadata(table, at, end))?;
        if hit {
            self.counters.metadata_hits.fetch_add(1, Relaxed);
        }
        // Tables of a hostile image may overlap, so the block may have been loaded as part of a larger one.
        if block.next > end {
            return Err(corrupt(table, at, Problem::BlockBehindEnd { bytes: block.next - at, end }));
        }
        Ok(block)
    }

    fn load_metadata(&self, table: Table, at: u64, end: u64) -> Result<MetadataBlock, Error> {
        let available = end.saturating_sub(at).min(2 + METADATA_SIZE as u64) as usize;
        with_scratch(available, |stored| {
            // Header and block in one read: the page cache makes the bytes that are not needed cheaper than a call.
            let Some(header) = stored.len().checked_sub(2) else {
                return Err(corrupt(table, at, Problem::BlockBehindEnd { bytes: 2, end }));
            };
            self.read_source(table, stored, at)?;
            let available = header;
            let header = u16::from_le_bytes([stored[0], stored[1]]);
            let len = usize::from(header & !METADATA_UNCOMPRESSED);
            if len == 0 {
                return Err(corrupt(table, at, Problem::EmptyBlock));
            }
            if len > METADATA_SIZE {
                let problem = Problem::BlockTooLarge { claims: len as u64, max: METADATA_SIZE as u64 };
                return Err(corrupt(table, at, problem));
            }
            if len > available {
                return Err(corrupt(table, at, Problem::BlockBehindEnd { bytes: len as u64, end }));
            }
            let (stored, next) = (&stored[2..2 + len], at + 2 + len as u64);
            if header & METADATA_UNCOMPRESSED != 0 {
                return Ok(MetadataBlock { data: stored.into(), next });
            }
            self.counters.metadata_blocks.fetch_add(1, Relaxed);
            let mut data = [0; METADATA_SIZE];
            let len = self.geometry.decompressor.decompress(stored, &mut data).map_err(|cause| Error::Codec {
                table,
                offset: at,
                cause,
            })?;
            match data.get(..len) {
                // A block of nothing would let a cursor go on for ever.
                None | Some([]) => Err(corrupt(table, at, Problem::EmptyBlock)),
                Some(data) => Ok(MetadataBlock { data: data.into(), next }),
            }
        })
    }
}

/// Reads a table as one stream of bytes.
pub(super) struct Cursor<'a, S> {
    image: &'a Image<S>,
    table: Table,
    block: Arc<MetadataBlock>,
    /// Position of `block`.
    at: u64,
    /// Offset in `block` of the next byte, at most its length.
    offset: usize,
    end: u64,
}

impl<'a, S: ReadAt> Cursor<'a, S> {
    /// A cursor at `offset` of the block at byte `at`, which must be in `range`.
    pub(super) fn new(
        image: &'a Image<S>,
        table: Table,
        range: &Range<u64>,
        at: u64,
        offset: usize,
    ) -> Result<Self, Error> {
        if !range.contains(&at) {
            return Err(corrupt(table, at, Problem::OutOfTable { start: range.start, end: range.end }));
        }
        let block = image.metadata_block(table, at, range.end)?;
        if offset > block.data.len() {
            let problem = Problem::OffsetInBlock { offset: offset as u64, len: block.data.len() as u64 };
            return Err(corrupt(table, at, problem));
        }
        Ok(Self { image, table, block, at, offset, end: range.end })
    }

    /// As [`new`](Self::new), with a block position that counts from the table's start.
    pub(super) fn relative(
        image: &'a Image<S>,
        table: Table,
        range: &Range<u64>,
        block: u64,
        offset: usize,
    ) -> Result<Self, Error> {
        let at = range.start.saturating_add(block);
        Self::new(image, table, range, at, offset)
    }

    /// Position of the current block and the offset in it.
    pub(super) const fn position(&self) -> (u64, usize) {
        (self.at, self.offset)
    }

    /// An error at the current block.
    pub(super) const fn corrupt(&self, problem: Problem) -> Error {
        corrupt(self.table, self.at, problem)
    }

    /// The bytes of the current block that come next, at least one.
    pub(super) fn rest(&mut self) -> Result<&[u8], Error> {
        if self.offset == self.block.data.len() {
            let next = self.block.next;
            if next >= self.end {
                let (bytes, end) = (1, self.end);
                return Err(corrupt(self.table, next, Problem::BlockBehindEnd { bytes, end }));
            }
            self.block = self.image.metadata_block(self.table, next, self.end)?;
            self.at = next;
            self.offset = 0;
        }
        Ok(&self.block.data[self.offset..])
    }

    /// Goes `count` bytes on, at most what [`rest`](Self::rest) returned.
    pub(super) fn advance(&mut self, count: usize) {
        self.offset = self.offset.saturating_add(count).min(self.block.data.len());
    }

    pub(super) fn fill(&mut self, mut buf: &mut [u8]) -> Result<(), Error> {
        while !buf.is_empty() {
            let rest = self.rest()?;
            let count = rest.len().min(buf.len());
            let (now, later) = buf.split_at_mut(count);
            now.copy_from_slice(&rest[..count]);
            buf = later;
            self.advance(count);
        }
        Ok(())
    }

    pub(super) fn skip(&mut self, mut count: u64) -> Result<(), Error> {
        while count > 0 {
            let step = count.min(self.rest()?.len() as u64);
            self.advance(step as usize);
            count -= step;
        }
        Ok(())
    }

    pub(super) fn read<T: FromBytes + IntoBytes>(&mut self) -> Result<T, Error> {
        if let Ok((value, _)) = T::read_from_prefix(&self.block.data[self.offset..]) {
            self.offset += size_of::<T>();
            return Ok(value);
        }
        let mut value = T::new_zeroed();
        self.fill(value.as_mut_bytes())?;
        Ok(value)
    }

    /// Reads `len` bytes; the caller has bounded `len` by what the format allows.
    pub(super) fn bytes(&mut self, len: usize) -> Result<Vec<u8>, Error> {
        let mut bytes = vec![0; len];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }
}
