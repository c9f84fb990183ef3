//! Fragment blocks: files shorter than a block, packed together in the order in which they came.

use super::Error;
use super::pipeline::{Buffer, Pipeline};

/// The fragment block that is being filled.
#[derive(Default)]
pub(super) struct Fragments {
    current: Option<Buffer>,
    /// Bytes of `current` that belong to finished files.
    committed: usize,
    /// Takes a file that does not fit `current`, and replaces it if the file turns out to be new.
    next: Option<Buffer>,
    /// Whether the file that arrives is in `next`.
    in_next: bool,
    /// Blocks sent off: the index of `current`.
    sent: u32,
}

impl Fragments {
    /// Finds room for a file of `size` bytes, less than a block.
    pub(super) fn begin(&mut self, size: usize, pipeline: &mut Pipeline) -> Result<(), Error> {
        self.in_next = self.current.as_ref().is_some_and(|buffer| self.committed + size > buffer.data.len());
        let slot = if self.in_next { &mut self.next } else { &mut self.current };
        if slot.is_none() {
            *slot = Some(pipeline.buffer()?);
        }
        self.forget();
        Ok(())
    }

    /// The buffer that takes the file's bytes.
    pub(super) fn buffer(&mut self) -> Result<&mut Buffer, Error> {
        let slot = if self.in_next { &mut self.next } else { &mut self.current };
        slot.as_mut().ok_or(Error::Failed)
    }

    /// The file's bytes so far.
    pub(super) fn content(&self) -> &[u8] {
        let (slot, from) = if self.in_next { (&self.next, 0) } else { (&self.current, self.committed) };
        slot.as_ref().and_then(|buffer| buffer.filled().get(from..)).unwrap_or_default()
    }

    /// Drops the file's bytes.
    pub(super) fn forget(&mut self) {
        if let Some(current) = &mut self.current {
            current.len = self.committed;
        }
        if let Some(next) = &mut self.next {
            next.len = 0;
        }
    }

    /// Keeps the file's bytes. Returns the index of its fragment block and its offset there.
    pub(super) fn keep(&mut self, pipeline: &mut Pipeline) -> Result<(u32, u32), Error> {
        if self.in_next {
            self.flush(pipeline)?;
            self.current = self.next.take();
            self.in_next = false;
        }
        let offset = self.committed as u32;
        self.committed = self.current.as_ref().map_or(0, |buffer| buffer.len);
        Ok((self.sent, offset))
    }

    /// Sends the current block off, unless it is empty.
    pub(super) fn flush(&mut self, pipeline: &mut Pipeline) -> Result<(), Error> {
        if let Some(buffer) = self.current.take_if(|_| self.committed > 0) {
            pipeline.fragment(buffer)?;
            self.committed = 0;
            self.sent = self.sent.checked_add(1).ok_or(Error::TooMany { what: "fragments", max: u32::MAX.into() })?;
        }
        Ok(())
    }
}
