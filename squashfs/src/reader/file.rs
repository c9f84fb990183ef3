//! File data: blocks, holes and tails in fragment blocks.

use super::Image;
use super::error::{Error, Problem, Table, corrupt};
use super::inode::{FileData, Inode, Kind};
use super::layout::Extent;
use super::metadata::with_scratch;
use super::pool::Buffer;
use super::source::ReadAt;
use crate::format::{DATA_SIZE_MASK, DATA_UNCOMPRESSED, INVALID_FRAGMENT, SuperBlock};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

/// An unpacked block of a file; cloning it copies no data.
#[derive(Clone, Debug)]
pub struct Block {
    bytes: Option<Arc<Buffer>>,
    offset: usize,
    len: usize,
    stored: Stored,
    /// Under which the cache has it.
    key: (u64, u32),
}

/// Where the stored block that a file's block comes from lies in the image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stored {
    /// First byte, from the image's start.
    pub position: u64,
    /// Bytes; 0 for a hole.
    pub size: u32,
    /// Index of the fragment block, when it is one, which holds tails of several files.
    pub fragment: Option<u32>,
}

impl Block {
    /// The data; `None` for a hole, which reads as zeros.
    pub fn bytes(&self) -> Option<&[u8]> {
        self.bytes.as_ref().map(|bytes| &bytes.bytes()[self.offset..self.offset + self.len])
    }

    /// The whole unpacked block: for a tail, the fragment block with other files' tails. `None` for a hole.
    pub fn whole(&self) -> Option<&[u8]> {
        self.bytes.as_ref().map(|bytes| bytes.bytes())
    }

    /// Where it comes from.
    pub const fn stored(&self) -> Stored {
        self.stored
    }

    /// Bytes in it, 1 to the image's block size.
    #[expect(clippy::len_without_is_empty, reason = "no block is empty")]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether it is a hole.
    pub const fn is_hole(&self) -> bool {
        self.bytes.is_none()
    }
}

/// Where a block of a file is in the block it is unpacked from.
struct Place {
    fragment: Option<u32>,
    offset: usize,
    len: usize,
}

impl Place {
    const fn stored(&self, extent: Extent) -> Stored {
        Stored { position: extent.position, size: extent.size & DATA_SIZE_MASK, fragment: self.fragment }
    }

    fn fill(&self, number: u32, extent: Extent, bytes: Option<Arc<Buffer>>) -> Result<Block, Error> {
        if let Some(bytes) = &bytes {
            match self.fragment {
                Some(_) => check_tail(number, extent, self.offset, self.len, bytes.len())?,
                // Another file of a hostile image may have put it there with another length.
                None => check_len(extent, bytes.len(), self.len)?,
            }
        }
        Ok(Block { bytes, offset: self.offset, len: self.len, stored: self.stored(extent), key: key(extent) })
    }
}

/// A regular file, as reading needs it.
struct Shape<'a> {
    size: u64,
    data: &'a FileData,
    /// Blocks in the inode's list.
    listed: u64,
    /// Those and the tail.
    blocks: u64,
}

impl<S: ReadAt> Image<S> {
    /// Fills `buf` with a file's bytes from `offset` and returns how many there were: fewer than `buf` holds only at the
    /// file's end.
    ///
    /// # Errors
    /// [`Error::WrongType`] for another type; when the image is damaged. `buf` is then unspecified.
    pub fn read(&self, file: &Inode, offset: u64, buf: &mut [u8]) -> Result<usize, Error> {
        let shape = self.shape(file)?;
        let Some(left) = shape.size.checked_sub(offset).filter(|left| *left > 0) else { return Ok(0) };
        let len = buf.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let mut rest = &mut buf[..len];
        let block_size = u64::from(self.geometry.block_size);
        let mut index = offset / block_size;
        let mut within = (offset % block_size) as usize;
        let mut list = None;
        while !rest.is_empty() {
            let block_len = self.block_len(&shape, index);
            let (out, later) = rest.split_at_mut(rest.len().min(block_len - within));
            if index < shape.listed {
                let list = match &mut list {
                    Some(list) => list,
                    None => list.insert(self.block_list(file.reference, shape.data, index)?),
                };
                self.read_extent(list.next()?, block_len, within, out)?;
            } else {
                self.read_tail(file.number, shape.data, block_len, within, out)?;
            }
            (rest, index, within) = (later, index + 1, 0);
        }
        Ok(len)
    }

    /// Block `index` of a file, its tail in a fragment block being the last one. It stays in the cache.
    ///
    /// # Errors
    /// [`Error::WrongType`] for another type, [`Error::NoSuchBlock`] behind the file's end; when the image is damaged.
    pub fn block(&self, file: &Inode, index: u64) -> Result<Block, Error> {
        let (place, extent) = self.locate(file, index)?;
        let bytes = match place.fragment {
            Some(_) => Some(self.cached_fragment(extent)?),
            None if extent.size == 0 => None,
            None => Some(self.cached_block(extent, place.len)?),
        };
        place.fill(file.number, extent, bytes)
    }

    /// The same when nothing has to be read and unpacked for it: a hole, or a block that the cache has. `None` else.
    ///
    /// # Errors
    /// Those of [`block`](Self::block).
    pub fn ready_block(&self, file: &Inode, index: u64) -> Result<Option<Block>, Error> {
        let (place, extent) = self.locate(file, index)?;
        let bytes = if extent.size == 0 { None } else { self.data.ready(key(extent)) };
        if bytes.is_none() && extent.size != 0 {
            return Ok(None);
        }
        if bytes.is_some() {
            self.counters.block_hits.fetch_add(1, Relaxed);
        }
        place.fill(file.number, extent, bytes).map(Some)
    }

    /// The same as [`block`](Self::block), but a data block that the cache lacks is not put there: for one that will not
    /// be asked for again. Blocks that others wait for, and fragment blocks, are.
    ///
    /// # Errors
    /// Those of [`block`](Self::block).
    pub fn passing_block(&self, file: &Inode, index: u64) -> Result<Block, Error> {
        let (place, extent) = self.locate(file, index)?;
        if place.fragment.is_some() || extent.size == 0 {
            return self.block(file, index);
        }
        let bytes = match self.data.peek(key(extent)) {
            Some(bytes) => {
                self.counters.block_hits.fetch_add(1, Relaxed);
                check_len(extent, bytes.len(), place.len)?;
                bytes
            }
            None => Arc::new(self.unpack_block(extent, place.len)?),
        };
        place.fill(file.number, extent, Some(bytes))
    }

    /// Takes a block out of the cache, for when all of it is kept elsewhere.
    pub fn release(&self, block: &Block) {
        self.data.remove(block.key);
    }

    /// Fragment block `index`, whole, as a block without a file. It stays in the cache.
    ///
    /// # Errors
    /// When there is no such block; when the image is damaged.
    pub fn fragment_block(&self, index: u32) -> Result<Block, Error> {
        let extent = self.fragment_extent(index)?;
        let bytes = self.cached_fragment(extent)?;
        let stored = Stored { position: extent.position, size: extent.size & DATA_SIZE_MASK, fragment: Some(index) };
        Ok(Block { offset: 0, len: bytes.len(), bytes: Some(bytes), stored, key: key(extent) })
    }

    /// Where block `index` of a file lies in the image. Unpacks no data.
    ///
    /// # Errors
    /// Those of [`block`](Self::block).
    pub fn stored(&self, file: &Inode, index: u64) -> Result<Stored, Error> {
        let (place, extent) = self.locate(file, index)?;
        Ok(place.stored(extent))
    }

    /// Finds block `index` of a file.
    fn locate(&self, file: &Inode, index: u64) -> Result<(Place, Extent), Error> {
        let shape = self.shape(file)?;
        if index >= shape.blocks {
            return Err(Error::NoSuchBlock { number: file.number, index, blocks: shape.blocks });
        }
        let len = self.block_len(&shape, index);
        if index < shape.listed {
            let extent = self.block_list(file.reference, shape.data, index)?.next()?;
            return Ok((Place { fragment: None, offset: 0, len }, extent));
        }
        let (extent, offset) = self.tail(shape.data)?;
        Ok((Place { fragment: Some(shape.data.fragment), offset, len }, extent))
    }

    /// Number of blocks of a file, its tail included; 0 for other types.
    pub fn block_count(&self, file: &Inode) -> u64 {
        self.shape(file).map_or(0, |shape| shape.blocks)
    }

    fn shape<'f>(&self, file: &'f Inode) -> Result<Shape<'f>, Error> {
        let Kind::File { size, data, .. } = &file.kind else {
            return Err(Error::WrongType { number: file.number, wanted: "regular file" });
        };
        let (block_size, size) = (u64::from(self.geometry.block_size), *size);
        let blocks = size.div_ceil(block_size);
        let listed = if data.fragment == INVALID_FRAGMENT { blocks } else { size / block_size };
        Ok(Shape { size, data, listed, blocks })
    }

    /// Bytes of the file in block `index`, which is not behind its end.
    fn block_len(&self, shape: &Shape<'_>, index: u64) -> usize {
        let block_size = u64::from(self.geometry.block_size);
        (shape.size - index * block_size).min(block_size) as usize
    }

    fn read_extent(&self, extent: Extent, len: usize, within: usize, out: &mut [u8]) -> Result<(), Error> {
        if extent.size == 0 {
            out.fill(0);
            return Ok(());
        }
        if extent.size & DATA_UNCOMPRESSED != 0 {
            let stored = self.check_extent(Table::Data, extent)?;
            check_len(extent, stored, len)?;
            return self.read_source(Table::Data, out, extent.position + within as u64);
        }
        if out.len() == len {
            // The whole block is wanted: unpack it to where it shall go. The page cache above keeps it from being
            // asked for again.
            if let Some(block) = self.data.peek(key(extent)) {
                self.counters.block_hits.fetch_add(1, Relaxed);
                check_len(extent, block.len(), len)?;
                out.copy_from_slice(block.bytes());
                return Ok(());
            }
            return check_len(extent, self.unpack(Table::Data, extent, out)?, len);
        }
        let block = self.cached_block(extent, len)?;
        out.copy_from_slice(&block.bytes()[within..within + out.len()]);
        Ok(())
    }

    fn read_tail(&self, number: u32, data: &FileData, len: usize, within: usize, out: &mut [u8]) -> Result<(), Error> {
        let (extent, offset) = self.tail(data)?;
        if extent.size & DATA_UNCOMPRESSED != 0 {
            let stored = self.check_extent(Table::Fragment, extent)?;
            check_tail(number, extent, offset, len, stored)?;
            return self.read_source(Table::Fragment, out, extent.position + (offset + within) as u64);
        }
        let block = self.cached_fragment(extent)?;
        check_tail(number, extent, offset, len, block.len())?;
        let start = offset + within;
        out.copy_from_slice(&block.bytes()[start..start + out.len()]);
        Ok(())
    }

    /// The fragment block of a file's tail, and where in it the tail starts.
    fn tail(&self, data: &FileData) -> Result<(Extent, usize), Error> {
        Ok((self.fragment_extent(data.fragment)?, data.fragment_offset as usize))
    }

    fn fragment_extent(&self, index: u32) -> Result<Extent, Error> {
        let entry = self.fragment(index)?;
        let extent = Extent { position: entry.start_block.get(), size: entry.size.get() };
        if extent.size & !(DATA_SIZE_MASK | DATA_UNCOMPRESSED) != 0 {
            return Err(corrupt(Table::Fragments, extent.position, Problem::BlockSizeBits(extent.size)));
        }
        if extent.size == 0 {
            // Would read as a hole.
            return Err(corrupt(Table::Fragment, extent.position, Problem::EmptyBlock));
        }
        Ok(extent)
    }

    fn cached_block(&self, extent: Extent, len: usize) -> Result<Arc<Buffer>, Error> {
        let block = self.cached(extent, || self.unpack_block(extent, len))?;
        // Another file of a hostile image may have put it there with another length.
        check_len(extent, block.len(), len)?;
        Ok(block)
    }

    fn unpack_block(&self, extent: Extent, len: usize) -> Result<Buffer, Error> {
        let mut block = self.pool.take(len);
        let got = self.unpack(Table::Data, extent, block.bytes_mut())?;
        check_len(extent, got, len)?;
        Ok(block)
    }

    fn cached_fragment(&self, extent: Extent) -> Result<Arc<Buffer>, Error> {
        self.cached(extent, || {
            let mut block = self.pool.take(self.geometry.block_size as usize);
            let len = self.unpack(Table::Fragment, extent, block.bytes_mut())?;
            block.truncate(len);
            Ok(block)
        })
    }

    fn cached(&self, extent: Extent, load: impl FnOnce() -> Result<Buffer, Error>) -> Result<Arc<Buffer>, Error> {
        // A buffer is as large as a block can be, whatever is in it.
        let weight = self.geometry.block_size as usize;
        let (block, hit) = self.data.get(key(extent), |_| weight, load)?;
        if hit {
            self.counters.block_hits.fetch_add(1, Relaxed);
        }
        Ok(block)
    }

    /// Checks that a stored block is within the image, and returns its stored size.
    fn check_extent(&self, table: Table, extent: Extent) -> Result<usize, Error> {
        let (at, stored) = (extent.position, extent.size & DATA_SIZE_MASK);
        let bytes_used = self.geometry.bytes_used;
        if stored == 0 {
            return Err(corrupt(table, at, Problem::EmptyBlock));
        }
        if stored > self.geometry.block_size {
            let (claims, max) = (stored.into(), self.geometry.block_size.into());
            return Err(corrupt(table, at, Problem::BlockTooLarge { claims, max }));
        }
        if at < size_of::<SuperBlock>() as u64 {
            let (start, end) = (size_of::<SuperBlock>() as u64, bytes_used);
            return Err(corrupt(table, at, Problem::OutOfTable { start, end }));
        }
        if at.checked_add(stored.into()).is_none_or(|end| end > bytes_used) {
            return Err(corrupt(table, at, Problem::BlockBehindEnd { bytes: stored.into(), end: bytes_used }));
        }
        Ok(stored as usize)
    }

    /// Reads a stored block and unpacks it to the front of `out`.
    fn unpack(&self, table: Table, extent: Extent, out: &mut [u8]) -> Result<usize, Error> {
        let stored = self.check_extent(table, extent)?;
        let at = extent.position;
        if extent.size & DATA_UNCOMPRESSED != 0 {
            let max = out.len() as u64;
            let Some(out) = out.get_mut(..stored) else {
                return Err(corrupt(table, at, Problem::BlockTooLarge { claims: stored as u64, max }));
            };
            self.read_source(table, out, at)?;
            return Ok(stored);
        }
        self.counters.blocks.fetch_add(1, Relaxed);
        with_scratch(stored, |input| {
            self.read_source(table, input, at)?;
            self.geometry.decompressor.decompress(input, out).map_err(|cause| Error::Codec { table, offset: at, cause })
        })
    }
}

/// A position may be read with several sizes in a hostile image.
const fn key(extent: Extent) -> (u64, u32) {
    (extent.position, extent.size)
}

fn check_len(extent: Extent, got: usize, want: usize) -> Result<(), Error> {
    if got == want {
        return Ok(());
    }
    Err(corrupt(Table::Data, extent.position, Problem::BlockLength { got: got as u64, want: want as u64 }))
}

fn check_tail(number: u32, extent: Extent, offset: usize, len: usize, block: usize) -> Result<(), Error> {
    if offset.checked_add(len).is_some_and(|end| end <= block) {
        return Ok(());
    }
    let (offset, len) = (offset as u64, len as u64);
    let problem = Problem::Tail { number, offset, end: offset.saturating_add(len), len: block as u64 };
    Err(corrupt(Table::Fragment, extent.position, problem))
}
