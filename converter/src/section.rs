//! A part of a file as a reader that leaves the file's own position alone.

use std::fs::File;
use std::io::{self, Read};
use std::ops::Deref;
use std::os::unix::fs::FileExt;

/// `length` bytes from `start` on; fewer when the file ends before.
#[derive(Clone, Debug)]
pub struct Section<F> {
    file: F,
    start: u64,
    length: u64,
}

impl<F> Section<F> {
    /// Of a file.
    pub const fn new(file: F, start: u64, length: u64) -> Self {
        Self { file, start, length }
    }
}

impl<F: Deref<Target = File>> Read for Section<F> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let room = buffer.len().min(usize::try_from(self.length).unwrap_or(usize::MAX));
        let count = self.file.read_at(buffer.get_mut(..room).unwrap_or_default(), self.start)?;
        self.start += count as u64;
        self.length -= count as u64;
        Ok(count)
    }
}
