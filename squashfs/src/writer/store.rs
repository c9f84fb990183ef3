//! The in-order stage: writes blocks behind one another, remembers where they are, and takes the blocks of a file
//! back when it turns out to be a copy of an earlier one.

use super::Error;
use super::pipeline::{Buffer, Digest, Message, Packed, Place, Shared};
use crate::compress::CodecError;
use crate::format::{DATA_SIZE_MASK, FragmentEntry};
use blake3::Hasher;
use crossbeam_channel::{Receiver, Sender};
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use zerocopy::IntoBytes;

/// Marks an element of a block list as that many blocks of nothing. Sizes never use this bit.
const HOLES: u32 = 1 << 31;
/// Blocks of one file that are kept for being found again.
const REMEMBERED: usize = 1 << 16;

/// A file's data blocks.
#[derive(Clone, Copy, Debug)]
pub(super) struct BlockFile {
    /// Position of the first block; 0 when all are holes.
    pub(super) start: u64,
    pub(super) size: u64,
    /// Bytes in holes.
    pub(super) sparse: u64,
    /// Where its list is in [`Stored::blocks`].
    list: (usize, usize),
}

/// All that is known about the data area when it is complete.
#[derive(Debug, Default)]
pub(super) struct Stored {
    /// Position behind the last block.
    pub(super) position: u64,
    /// In the order of [`Message::EndFile`].
    pub(super) files: Vec<BlockFile>,
    pub(super) fragments: Vec<FragmentEntry>,
    /// Block lists of all files, runs of holes as one element.
    blocks: Vec<u32>,
    /// Data blocks in the image, holes not counted.
    pub(super) data_blocks: u64,
    /// Files found to be copies, and their bytes.
    pub(super) duplicates: u64,
    pub(super) duplicate_bytes: u64,
    /// Blocks that needed no compression, because an equal one was in the image already.
    pub(super) blocks_reused: u64,
}

impl Stored {
    /// A file's block list as pairs of a size and how often it is repeated, which only 0 is.
    pub(super) fn blocks(&self, file: &BlockFile) -> impl Iterator<Item = (u32, u32)> {
        let list = self.blocks.get(file.list.0..file.list.1).unwrap_or_default();
        list.iter().map(|&size| if size & HOLES == 0 { (size, 1) } else { (0, size & !HOLES) })
    }
}

/// The file whose blocks are arriving.
#[derive(Default)]
struct Current {
    /// Position of the first block; fragments may come before it.
    start: Option<u64>,
    /// Length of [`Stored::blocks`] before this file.
    list: usize,
    data_blocks: u64,
    hole_blocks: u64,
    digests: Hasher,
    /// Digest, position and stored size of the first blocks.
    seen: Vec<(Digest, u64, u32)>,
}

/// The in-order stage's state.
pub(super) struct Store {
    file: Arc<File>,
    block_size: u64,
    shared: Arc<Shared>,
    free: Sender<Buffer>,
    stored: Stored,
    current: Current,
    by_content: HashMap<Digest, BlockFile>,
    /// Whether blocks can be read back to be repeated.
    readable: bool,
    copy: Vec<u8>,
}

impl Store {
    pub(super) fn new(
        file: Arc<File>,
        position: u64,
        block_size: u32,
        shared: Arc<Shared>,
        free: Sender<Buffer>,
    ) -> Self {
        let readable = file.read_at(&mut [0], 0).is_ok();
        Self {
            file,
            block_size: block_size.into(),
            shared,
            free,
            stored: Stored { position, ..Stored::default() },
            current: Current::default(),
            by_content: HashMap::new(),
            readable,
            copy: Vec::new(),
        }
    }

    /// Runs until the producer has hung up.
    pub(super) fn run(mut self, messages: &Receiver<Message>) -> Result<Stored, Error> {
        for message in messages {
            match message {
                Message::Block(result) => self.block(wait(&result)?)?,
                Message::Fragment(result) => self.fragment(wait(&result)?)?,
                Message::Holes(count) => self.holes(count),
                Message::EndFile(size) => self.end_file(size),
                Message::Abandon => self.take_back(),
            }
        }
        Ok(self.stored)
    }

    fn block(&mut self, packed: Packed) -> Result<(), Error> {
        let position = self.stored.position;
        match packed.place {
            Place::Hole => {
                self.holes(1);
                self.give_back(packed.buffer);
                return Ok(());
            }
            Place::Here => self.write(packed.buffer.filled())?,
            Place::Image(from) => self.repeat(from, packed.size & DATA_SIZE_MASK)?,
        }
        self.give_back(packed.buffer);
        self.stored.blocks.push(packed.size);
        let current = &mut self.current;
        current.start.get_or_insert(position);
        current.data_blocks += 1;
        current.digests.update(&packed.digest);
        if self.readable && current.seen.len() < REMEMBERED {
            current.seen.push((packed.digest, position, packed.size));
        }
        Ok(())
    }

    fn fragment(&mut self, packed: Packed) -> Result<(), Error> {
        let (start_block, size) = (self.stored.position.into(), packed.size.into());
        self.write(packed.buffer.filled())?;
        self.stored.fragments.push(FragmentEntry { start_block, size, unused: 0.into() });
        self.give_back(packed.buffer);
        Ok(())
    }

    fn holes(&mut self, count: u32) {
        self.current.hole_blocks += u64::from(count);
        match self.stored.blocks.get_mut(self.current.list..).and_then(<[u32]>::last_mut) {
            // Runs are joined, so that a list does not depend on how its holes came. A file's blocks fit the rest of
            // the bits.
            Some(last) if *last & HOLES != 0 => *last += count,
            _ => self.stored.blocks.push(HOLES | count),
        }
    }

    fn end_file(&mut self, size: u64) {
        let current = std::mem::take(&mut self.current);
        let list = (current.list, self.stored.blocks.len());
        let blocks = self.stored.blocks.get(list.0..).unwrap_or_default();
        let mut content = Hasher::new();
        content.update(current.digests.finalize().as_bytes());
        content.update(&size.to_le_bytes());
        content.update(blocks.as_bytes());
        // Only a file's last block can be shorter than a block.
        let sparse = match blocks.last() {
            Some(last) if last & HOLES != 0 => size.saturating_sub(current.data_blocks * self.block_size),
            _ => current.hole_blocks * self.block_size,
        };
        let file = BlockFile { start: current.start.unwrap_or(0), size, sparse, list };
        match self.by_content.entry(content.finalize().into()) {
            Entry::Vacant(vacant) => {
                vacant.insert(file);
                self.stored.files.push(file);
                self.stored.data_blocks += current.data_blocks;
                self.shared.known.add(current.seen.into_iter());
            }
            Entry::Occupied(original) => {
                self.stored.files.push(*original.get());
                self.stored.duplicates += 1;
                self.stored.duplicate_bytes += size;
                self.current = Current { start: current.start, list: current.list, ..Current::default() };
                self.take_back();
            }
        }
        self.current.list = self.stored.blocks.len();
    }

    /// Forgets the current file: what comes next overwrites its blocks.
    fn take_back(&mut self) {
        if let Some(start) = self.current.start {
            self.stored.position = start;
        }
        self.stored.blocks.truncate(self.current.list);
        self.current = Current { list: self.current.list, ..Current::default() };
    }

    fn repeat(&mut self, from: u64, length: u32) -> Result<(), Error> {
        let mut copy = std::mem::take(&mut self.copy);
        copy.resize(length as usize, 0);
        self.file.read_exact_at(&mut copy, from).map_err(Error::output("read back"))?;
        self.write(&copy)?;
        self.copy = copy;
        self.stored.blocks_reused += 1;
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.file.write_all_at(bytes, self.stored.position).map_err(Error::output("write"))?;
        self.stored.position += bytes.len() as u64;
        Ok(())
    }

    fn give_back(&self, buffer: Buffer) {
        // Fails only when the producer is gone.
        let _ = self.free.send(buffer);
    }
}

fn wait(result: &Receiver<Result<Packed, CodecError>>) -> Result<Packed, Error> {
    Ok(result.recv().map_err(|_| Error::ThreadDied("compressor"))??)
}
