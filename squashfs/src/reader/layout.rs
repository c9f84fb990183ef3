//! Finds where a file's data blocks are.
//!
//! An inode lists the blocks' sizes, not their positions, so a position is the sum of all sizes before it. For large
//! files checkpoints of that sum are kept, which makes a random read cost one metadata block's worth of adding.

use super::Image;
use super::error::{Error, Problem};
use super::inode::FileData;
use super::metadata::Cursor;
use super::source::ReadAt;
use crate::format::{DATA_SIZE_MASK, DATA_UNCOMPRESSED, InodeRef};
use std::convert::Infallible;
use std::sync::{Mutex, PoisonError};
use zerocopy::FromBytes;
use zerocopy::little_endian::U32;

/// Blocks between checkpoints at first: as many as one metadata block lists.
const STRIDE: u64 = 2048;
/// Checkpoints of one file, at most. With 128 KiB blocks the stride doubles at 512 GiB.
const CHECKPOINTS: usize = 2048;

/// A stored data block: its position and its size with the format's flag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Extent {
    pub(super) position: u64,
    pub(super) size: u32,
}

#[derive(Clone, Copy)]
struct Checkpoint {
    list: (u64, u16),
    position: u64,
}

/// Checkpoints of one file: number `i` is for block `i * stride`. They reach as far as the file has been read.
pub(super) struct Layout(Mutex<Checkpoints>);

struct Checkpoints {
    stride: u64,
    points: Vec<Checkpoint>,
}

impl Layout {
    fn new(data: &FileData) -> Self {
        let first = Checkpoint { list: data.list, position: data.start };
        Self(Mutex::new(Checkpoints { stride: STRIDE, points: vec![first] }))
    }

    /// The last checkpoint at or before `block`, the block it is for, and the stride.
    fn before(&self, block: u64) -> (Checkpoint, u64, u64) {
        let state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let index = usize::try_from(block / state.stride).unwrap_or(usize::MAX).min(state.points.len() - 1);
        (state.points[index], index as u64 * state.stride, state.stride)
    }

    /// Adds a checkpoint for `block` if it is the next one that is missing.
    fn add(&self, block: u64, point: Checkpoint) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if block != state.points.len() as u64 * state.stride {
            return;
        }
        if state.points.len() == CHECKPOINTS {
            let mut index = 0;
            state.points.retain(|_| {
                index += 1;
                index % 2 == 1
            });
            state.stride *= 2;
            // 2048 checkpoints are even in number, so this block is on the new stride as well.
        }
        state.points.push(point);
    }
}

/// Walks a block list.
pub(super) struct BlockList<'a, S> {
    cursor: Cursor<'a, S>,
    position: u64,
}

impl<S: ReadAt> Image<S> {
    /// The list of a file's blocks from block `index` on.
    pub(super) fn block_list(&self, key: InodeRef, data: &FileData, index: u64) -> Result<BlockList<'_, S>, Error> {
        if index < STRIDE {
            let mut list = BlockList { cursor: self.inode_table_cursor(data.list)?, position: data.start };
            list.skip(index)?;
            return Ok(list);
        }
        let Ok((layout, _)) = self.layouts.get(key, |_| 1, || Ok::<_, Infallible>(Layout::new(data)));
        let (point, mut block, stride) = layout.before(index);
        let mut list = BlockList { cursor: self.inode_table_cursor(point.list)?, position: point.position };
        while block + stride <= index {
            list.skip(stride)?;
            block += stride;
            let (at, offset) = list.cursor.position();
            layout.add(block, Checkpoint { list: (at, offset as u16), position: list.position });
        }
        list.skip(index - block)?;
        Ok(list)
    }
}

impl<S: ReadAt> BlockList<'_, S> {
    pub(super) fn next(&mut self) -> Result<Extent, Error> {
        let size = self.cursor.read::<U32>()?.get();
        if size & !(DATA_SIZE_MASK | DATA_UNCOMPRESSED) != 0 {
            return Err(self.cursor.corrupt(Problem::BlockSizeBits(size)));
        }
        let extent = Extent { position: self.position, size };
        self.add((size & DATA_SIZE_MASK).into())?;
        Ok(extent)
    }

    fn skip(&mut self, mut count: u64) -> Result<(), Error> {
        while count > 0 {
            let rest = self.cursor.rest()?;
            let whole = (rest.len() / 4).min(usize::try_from(count).unwrap_or(usize::MAX));
            if whole == 0 {
                // A size that two blocks share.
                self.next()?;
                count -= 1;
                continue;
            }
            let sizes = <[U32]>::ref_from_bytes(&rest[..whole * 4]).unwrap_or_default();
            let sum = sizes.iter().map(|size| u64::from(size.get() & DATA_SIZE_MASK)).sum();
            self.cursor.advance(whole * 4);
            self.add(sum)?;
            count -= whole as u64;
        }
        Ok(())
    }

    fn add(&mut self, bytes: u64) -> Result<(), Error> {
        let overflow = Problem::BlockBehindEnd { bytes, end: u64::MAX };
        self.position = self.position.checked_add(bytes).ok_or_else(|| self.cursor.corrupt(overflow))?;
        Ok(())
    }
}
