//! Metadata blocks: byte streams cut every 8 KiB and compressed, and the tables made of them.

use super::Error;
use crate::compress::{Compress, Compression};
use crate::format::{InodeRef, METADATA_SIZE, METADATA_UNCOMPRESSED};
use std::fs::File;
use std::os::unix::fs::FileExt;
use zerocopy::{Immutable, IntoBytes, little_endian::U64};

/// The image file and where the next byte goes.
#[derive(Debug)]
pub(super) struct Output<'f> {
    pub(super) file: &'f File,
    pub(super) position: u64,
}

impl Output<'_> {
    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.file.write_all_at(bytes, self.position).map_err(Error::output("write"))?;
        self.position += bytes.len() as u64;
        Ok(())
    }
}

/// Blocks that are gathered for each thread before they are compressed.
const BATCH: usize = 64;
/// More threads than this bring nothing: batches would only get larger.
const THREADS_MAX: usize = 16;
/// Fewer blocks than this are not worth a thread.
const SHARE_MIN: usize = 4;

/// How metadata is compressed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Packing {
    pub(super) compression: Compression,
    pub(super) threads: usize,
}

/// A stream of metadata blocks. Bytes are known by their raw offset, counted before compression, until the blocks ahead
/// of them have been compressed, which is done many at a time.
pub(super) struct MetadataStream {
    packing: Packing,
    compressors: Vec<Box<dyn Compress>>,
    /// What is not compressed yet, from a block's first byte on.
    raw: Vec<u8>,
    /// Positions of all compressed blocks and of the one after them, from the stream's start.
    starts: Vec<u64>,
    /// Compressed blocks that still are in memory.
    done: Vec<u8>,
}

impl MetadataStream {
    pub(super) fn new(packing: Packing) -> Self {
        Self { packing, compressors: Vec::new(), raw: Vec::new(), starts: vec![0], done: Vec::new() }
    }

    /// Raw offset of the next byte.
    pub(super) fn raw_len(&self) -> u64 {
        (self.blocks() * METADATA_SIZE + self.raw.len()) as u64
    }

    /// Number of compressed blocks.
    fn blocks(&self) -> usize {
        self.starts.len() - 1
    }

    /// Positions of the compressed blocks, from the stream's start.
    pub(super) fn block_positions(&self) -> &[u64] {
        self.starts.get(..self.blocks()).unwrap_or_default()
    }

    pub(super) fn append(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.raw.extend_from_slice(bytes);
        if self.raw.len() >= BATCH * METADATA_SIZE * self.packing.threads.min(THREADS_MAX) {
            self.settle()?;
        }
        Ok(())
    }

    /// Where the byte at a raw offset is: position of its block from the stream's start, offset in the unpacked block.
    pub(super) fn place(&mut self, raw: u64) -> Result<InodeRef, Error> {
        let (block, offset) = ((raw / METADATA_SIZE as u64) as usize, (raw % METADATA_SIZE as u64) as u16);
        if block >= self.starts.len() {
            self.settle()?;
        }
        let start = self.starts.get(block).copied().unwrap_or_default();
        Ok(InodeRef::new(start, offset))
    }

    /// Compresses all full blocks.
    fn settle(&mut self) -> Result<(), Error> {
        let full = self.raw.len() / METADATA_SIZE * METADATA_SIZE;
        let rest = self.raw.split_off(full);
        let full = std::mem::replace(&mut self.raw, rest);
        self.compress(&full)
    }

    /// Compresses everything, the last block as short as it is.
    pub(super) fn finish(&mut self) -> Result<(), Error> {
        let raw = std::mem::take(&mut self.raw);
        self.compress(&raw)
    }

    /// Writes the compressed blocks out and forgets them.
    pub(super) fn drain(&mut self, output: &mut Output<'_>) -> Result<(), Error> {
        output.write(&self.done)?;
        self.done.clear();
        Ok(())
    }

    /// Bytes that [`MetadataStream::drain`] would write.
    pub(super) fn undrained(&self) -> usize {
        self.done.len()
    }

    fn compress(&mut self, raw: &[u8]) -> Result<(), Error> {
        let count = raw.len().div_ceil(METADATA_SIZE);
        let threads = (count / SHARE_MIN).clamp(1, self.packing.threads.min(THREADS_MAX));
        while self.compressors.len() < threads {
            self.compressors.push(self.packing.compression.compressor(METADATA_SIZE as u32)?);
        }
        let share = count.div_ceil(threads).max(1) * METADATA_SIZE;
        let mut parts = raw.chunks(share).zip(&mut self.compressors);
        let packed = std::thread::scope(|scope| {
            let first = parts.next();
            let others: Vec<_> =
                parts.map(|(raw, compressor)| scope.spawn(move || pack_blocks(raw, &mut **compressor))).collect();
            // This thread does its share, too.
            let first = first.map(|(raw, compressor)| pack_blocks(raw, &mut **compressor));
            let others = others.into_iter().map(|thread| thread.join().unwrap_or(Err(Error::ThreadDied("metadata"))));
            first.into_iter().chain(others).collect::<Result<Vec<_>, _>>()
        })?;
        for (bytes, lengths) in packed {
            self.done.extend_from_slice(&bytes);
            for length in lengths {
                let start = self.starts.last().copied().unwrap_or_default();
                self.starts.push(start + u64::from(length));
            }
        }
        Ok(())
    }
}

/// Compresses bytes block by block. Returns the blocks with their headers, and the length of each.
fn pack_blocks(raw: &[u8], compressor: &mut dyn Compress) -> Result<(Vec<u8>, Vec<u32>), Error> {
    let (mut bytes, mut lengths, mut packed) = (Vec::new(), Vec::new(), Vec::new());
    for block in raw.chunks(METADATA_SIZE) {
        let shrinks = compressor.compress(block, &mut packed)?;
        let (stored, flag) = if shrinks { (&packed[..], 0) } else { (block, METADATA_UNCOMPRESSED) };
        bytes.extend_from_slice(&(stored.len() as u16 | flag).to_le_bytes());
        bytes.extend_from_slice(stored);
        lengths.push(stored.len() as u32 + 2);
    }
    Ok((bytes, lengths))
}

/// Writes a table of fixed-size items in metadata blocks, then `header` and the blocks' positions. Returns where the
/// header starts, which is what the superblock holds.
pub(super) fn write_table<T: IntoBytes + Immutable>(
    output: &mut Output<'_>,
    packing: Packing,
    items: &[T],
    header: &[u8],
) -> Result<u64, Error> {
    let first = output.position;
    let mut stream = MetadataStream::new(packing);
    stream.append(items.as_bytes())?;
    stream.finish()?;
    stream.drain(output)?;
    let index: Vec<U64> = stream.block_positions().iter().map(|position| U64::new(first + position)).collect();
    let start = output.position;
    output.write(header)?;
    output.write(index.as_bytes())?;
    Ok(start)
}
