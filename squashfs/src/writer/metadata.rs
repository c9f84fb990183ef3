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

/// A stream of metadata blocks, compressed as it grows.
pub(super) struct MetadataStream {
    compressor: Box<dyn Compress>,
    packed: Vec<u8>,
    raw: Vec<u8>,
    raw_done: u64,
    /// Finished blocks that still are in memory.
    done: Vec<u8>,
    /// Length of the finished blocks that [`MetadataStream::drain`] has moved out.
    drained: u64,
}

impl MetadataStream {
    pub(super) fn new(compression: Compression) -> Result<Self, Error> {
        Ok(Self {
            compressor: compression.compressor(METADATA_SIZE as u32)?,
            packed: Vec::new(),
            raw: Vec::with_capacity(METADATA_SIZE),
            raw_done: 0,
            done: Vec::new(),
            drained: 0,
        })
    }

    /// Where the next byte will be: position of its block in the stream and offset in the unpacked block.
    pub(super) fn position(&self) -> InodeRef {
        InodeRef::new(self.packed_len(), self.raw.len() as u16)
    }

    /// Unpacked bytes so far.
    pub(super) fn raw_len(&self) -> u64 {
        self.raw_done + self.raw.len() as u64
    }

    /// Length of the finished blocks.
    pub(super) fn packed_len(&self) -> u64 {
        self.drained + self.done.len() as u64
    }

    pub(super) fn append(&mut self, mut bytes: &[u8]) -> Result<(), Error> {
        // A block is closed as soon as it is full, so that `position` never points behind a block's last byte.
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min(METADATA_SIZE - self.raw.len()));
            self.raw.extend_from_slice(now);
            bytes = later;
            if self.raw.len() == METADATA_SIZE {
                self.close_block()?;
            }
        }
        Ok(())
    }

    /// Closes the last block.
    pub(super) fn finish(&mut self) -> Result<(), Error> {
        if self.raw.is_empty() { Ok(()) } else { self.close_block() }
    }

    /// Writes the finished blocks out and forgets them.
    pub(super) fn drain(&mut self, output: &mut Output<'_>) -> Result<(), Error> {
        output.write(&self.done)?;
        self.drained += self.done.len() as u64;
        self.done.clear();
        Ok(())
    }

    /// Bytes that [`MetadataStream::drain`] would write.
    pub(super) fn undrained(&self) -> usize {
        self.done.len()
    }

    fn close_block(&mut self) -> Result<(), Error> {
        let shrinks = self.compressor.compress(&self.raw, &mut self.packed)?;
        let (stored, flag) = if shrinks { (&self.packed, 0) } else { (&self.raw, METADATA_UNCOMPRESSED) };
        self.done.extend_from_slice(&(stored.len() as u16 | flag).to_le_bytes());
        self.done.extend_from_slice(stored);
        self.raw_done += self.raw.len() as u64;
        self.raw.clear();
        Ok(())
    }
}

/// Writes a table of fixed-size items in metadata blocks, then `header` and the blocks' positions. Returns where the
/// header starts, which is what the superblock holds.
pub(super) fn write_table<T: IntoBytes + Immutable>(
    output: &mut Output<'_>,
    compression: Compression,
    items: &[T],
    header: &[u8],
) -> Result<u64, Error> {
    let mut stream = MetadataStream::new(compression)?;
    let mut index = Vec::new();
    for block in items.as_bytes().chunks(METADATA_SIZE) {
        index.push(U64::new(output.position));
        stream.append(block)?;
        stream.finish()?;
        stream.drain(output)?;
    }
    let start = output.position;
    output.write(header)?;
    output.write(index.as_bytes())?;
    Ok(start)
}
