//! Where file content goes: the squashfs writer, or memory in tests.

use crate::error::Error;
use coracle_squashfs::writer::{FileId, FileWriter, Writer};

/// Stores the content of files.
pub trait DataSink {
    /// Names stored content.
    type Id: Copy;

    /// Stores a file of `size` bytes, which `fill` provides from the first to the last.
    ///
    /// # Errors
    /// What `fill` returns, or when it provides more or less than `size` bytes, or when they cannot be stored.
    fn file(
        &mut self,
        size: u64,
        fill: &mut dyn FnMut(&mut dyn Content) -> Result<(), Error>,
    ) -> Result<Self::Id, Error>;
}

/// A file being stored.
pub trait Content {
    /// The next bytes.
    ///
    /// # Errors
    /// When they are too many, or cannot be stored.
    fn data(&mut self, bytes: &[u8]) -> Result<(), Error>;

    /// The next `length` bytes are zeros.
    ///
    /// # Errors
    /// When they are too many, or cannot be stored.
    fn hole(&mut self, length: u64) -> Result<(), Error>;
}

impl DataSink for Writer {
    type Id = FileId;

    fn file(
        &mut self,
        size: u64,
        fill: &mut dyn FnMut(&mut dyn Content) -> Result<(), Error>,
    ) -> Result<FileId, Error> {
        let mut file = self.begin_file(size)?;
        fill(&mut file)?;
        Ok(file.finish()?)
    }
}

impl Content for FileWriter<'_> {
    fn data(&mut self, bytes: &[u8]) -> Result<(), Error> {
        Ok(self.write(bytes)?)
    }

    fn hole(&mut self, length: u64) -> Result<(), Error> {
        Ok(self.write_hole(length)?)
    }
}
