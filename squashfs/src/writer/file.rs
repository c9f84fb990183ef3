//! A file's content on its way in: cut into blocks, or gathered in a fragment block when it is shorter than one.

use super::pipeline::{Buffer, Message};
use super::{Error, FileId, Writer};
use std::io::{ErrorKind, Read};

/// Where the content that arrives is put.
enum Target {
    /// Nothing will come.
    Nothing,
    /// A fragment block.
    Fragment,
    /// Blocks of its own; the buffer is taken when there is something to put into it.
    Blocks(Option<Buffer>),
}

/// Takes in one file's content. Dropped without [`FileWriter::finish`], the file leaves no trace.
pub struct FileWriter<'w> {
    writer: &'w mut Writer,
    size: u64,
    taken: u64,
    target: Target,
    open: bool,
}

impl<'w> FileWriter<'w> {
    pub(super) fn new(writer: &'w mut Writer, size: u64) -> Result<Self, Error> {
        let block_size = u64::from(writer.options.block_size);
        let max = u64::from(super::FILE_BLOCKS_MAX) * block_size;
        if size > max {
            return Err(Error::FileTooLarge { size, max });
        }
        let target = if size == 0 {
            Target::Nothing
        } else if size < block_size {
            writer.fragments.begin(size as usize, &mut writer.pipeline)?;
            Target::Fragment
        } else {
            Target::Blocks(None)
        };
        Ok(Self { writer, size, taken: 0, target, open: true })
    }

    /// Bytes that still have to come.
    pub fn remaining(&self) -> u64 {
        self.size - self.taken
    }

    /// Appends bytes.
    ///
    /// # Errors
    /// [`Error::ContentLong`], or what stopped the image's making.
    pub fn write(&mut self, mut bytes: &[u8]) -> Result<(), Error> {
        self.expect(bytes.len() as u64)?;
        while !bytes.is_empty() {
            let taken = self.buffer()?.push(bytes);
            bytes = bytes.get(taken..).unwrap_or_default();
            self.advance(taken as u64)?;
        }
        Ok(())
    }

    /// Appends zeros; whole blocks of them cost next to nothing.
    ///
    /// # Errors
    /// As [`FileWriter::write`].
    pub fn write_hole(&mut self, len: u64) -> Result<(), Error> {
        self.expect(len)?;
        let block_size = u64::from(self.writer.options.block_size);
        let mut left = len;
        while left > 0 {
            // A hole that runs to the end of the file takes the last block, however short, with it.
            let to_end = left == self.remaining();
            let blocks = if to_end { left.div_ceil(block_size) } else { left / block_size };
            if matches!(self.target, Target::Blocks(None)) && blocks > 0 {
                self.writer.pipeline.message(Message::Holes(blocks as u32))?;
                let bytes = left.min(blocks * block_size);
                self.taken += bytes;
                left -= bytes;
            } else {
                let taken = self.buffer()?.push_zeros(left) as u64;
                left -= taken;
                self.advance(taken)?;
            }
        }
        Ok(())
    }

    /// Appends exactly `len` bytes from a reader, without a copy in between.
    ///
    /// # Errors
    /// [`Error::Content`] when reading fails, [`Error::ContentShort`] when the reader ends early, and as
    /// [`FileWriter::write`].
    pub fn copy_from(&mut self, content: &mut dyn Read, len: u64) -> Result<(), Error> {
        self.expect(len)?;
        let mut left = len;
        while left > 0 {
            let (size, got) = (self.size, self.taken);
            let buffer = self.buffer()?;
            let room = buffer.data.get_mut(buffer.len..).unwrap_or_default();
            let wanted = usize::try_from(left).unwrap_or(usize::MAX).min(room.len());
            match content.read(room.get_mut(..wanted).unwrap_or_default()) {
                Ok(0) => return Err(Error::ContentShort { size, got }),
                Ok(n) => {
                    buffer.len += n.min(wanted);
                    left -= n.min(wanted) as u64;
                    self.advance(n.min(wanted) as u64)?;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(cause) => return Err(Error::Content { size, cause }),
            }
        }
        Ok(())
    }

    /// Ends the file. Equal content may get an equal id.
    ///
    /// # Errors
    /// [`Error::ContentShort`], or what stopped the image's making.
    pub fn finish(mut self) -> Result<FileId, Error> {
        if self.taken < self.size {
            return Err(Error::ContentShort { size: self.size, got: self.taken });
        }
        self.open = false;
        self.writer.bytes_in += self.size;
        match self.target {
            Target::Nothing => Ok(super::EMPTY),
            Target::Blocks(_) => self.writer.end_blocks(self.size),
            Target::Fragment => self.writer.end_fragment(self.size as usize),
        }
    }

    fn expect(&self, more: u64) -> Result<(), Error> {
        if more > self.remaining() { Err(Error::ContentLong { size: self.size }) } else { Ok(()) }
    }

    /// The buffer that takes the next bytes; it has room for one at least as long as bytes are expected.
    fn buffer(&mut self) -> Result<&mut Buffer, Error> {
        match &mut self.target {
            Target::Nothing => Err(Error::ContentLong { size: self.size }),
            Target::Fragment => self.writer.fragments.buffer(),
            Target::Blocks(Some(buffer)) => Ok(buffer),
            Target::Blocks(slot) => Ok(slot.insert(self.writer.pipeline.buffer()?)),
        }
    }

    /// Counts bytes that are in the buffer, and sends it off when it is full or the last.
    fn advance(&mut self, bytes: u64) -> Result<(), Error> {
        self.taken += bytes;
        let end = self.taken == self.size;
        if let Target::Blocks(slot) = &mut self.target
            && let Some(buffer) = slot.take_if(|buffer| end || buffer.len == buffer.data.len())
        {
            self.writer.pipeline.block(buffer)?;
        }
        Ok(())
    }
}

impl Drop for FileWriter<'_> {
    fn drop(&mut self) {
        if !self.open {
            return;
        }
        // Errors show at the next use of the writer.
        match &mut self.target {
            Target::Nothing => {}
            Target::Fragment => self.writer.fragments.forget(),
            Target::Blocks(slot) => self.writer.pipeline.abandon(slot.take()),
        }
    }
}
