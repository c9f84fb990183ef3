//! Where a [`super::Reader`] gets its bytes: a buffer it lends from, with a cheap way to skip.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};

/// A byte stream that lends its buffer. Like `BufRead`, but able to skip without reading.
pub trait Input {
    /// The bytes at hand, at least one unless the stream has ended.
    ///
    /// # Errors
    /// What the source says.
    fn fill(&mut self) -> io::Result<&[u8]>;

    /// Marks `count` of the bytes last lent as used.
    fn consume(&mut self, count: usize);

    /// Skips up to `count` bytes and returns how many were there.
    ///
    /// # Errors
    /// What the source says.
    fn skip(&mut self, count: u64) -> io::Result<u64> {
        let mut left = count;
        while left > 0 {
            let at_hand = self.fill()?.len();
            if at_hand == 0 {
                break;
            }
            let step = usize::try_from(left).unwrap_or(usize::MAX).min(at_hand);
            self.consume(step);
            left -= step as u64;
        }
        Ok(count - left)
    }
}

/// Bytes in memory.
#[cfg(test)]
#[derive(Debug)]
pub struct SliceInput<'a>(pub &'a [u8]);

#[cfg(test)]
impl Input for SliceInput<'_> {
    fn fill(&mut self) -> io::Result<&[u8]> {
        Ok(self.0)
    }

    fn consume(&mut self, count: usize) {
        self.0 = self.0.get(count..).unwrap_or_default();
    }
}

/// A file that skips by seeking; used to index an archive without reading its members.
#[derive(Debug)]
pub struct FileInput {
    file: File,
    size: u64,
    position: u64,
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
}

impl FileInput {
    const BUFFER: usize = 16 << 10;

    /// Reads `file` from its start.
    ///
    /// # Errors
    /// When the file cannot be examined or positioned.
    pub fn new(mut file: File) -> io::Result<Self> {
        let size = file.seek(SeekFrom::End(0))?;
        file.rewind()?;
        Ok(Self { file, size, position: 0, buffer: vec![0; Self::BUFFER].into(), start: 0, end: 0 })
    }
}

impl Input for FileInput {
    fn fill(&mut self) -> io::Result<&[u8]> {
        if self.start == self.end {
            self.start = 0;
            self.end = 0;
            self.end = loop {
                match self.file.read(&mut self.buffer) {
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    other => break other?,
                }
            };
            self.position += self.end as u64;
        }
        Ok(&self.buffer[self.start..self.end])
    }

    fn consume(&mut self, count: usize) {
        self.start = (self.start + count).min(self.end);
    }

    fn skip(&mut self, count: u64) -> io::Result<u64> {
        let buffered = (self.end - self.start) as u64;
        if count <= buffered {
            self.start += count as usize;
            return Ok(count);
        }
        let here = self.position - buffered;
        let target = here.saturating_add(count).min(self.size.max(here));
        self.file.seek(SeekFrom::Start(target))?;
        self.position = target;
        self.start = 0;
        self.end = 0;
        Ok(target - here)
    }
}
