//! Where file content goes: towards the squashfs writer, or memory in tests.

use crate::error::Error;
use coracle_squashfs::writer::FileWriter;

/// Provides a file's content from the first byte to the last.
pub type Fill<'f> = dyn FnMut(&mut dyn Content) -> Result<(), Error> + 'f;

/// Stores the content of files.
pub trait DataSink {
    /// Names stored content.
    type Id: Copy;

    /// Stores a file of `size` bytes. `path`, relative to the root, is where it will be, or any of its names.
    ///
    /// # Errors
    /// What `fill` returns, or when it provides more or less than `size` bytes, or when they cannot be stored.
    fn file(&mut self, path: &[u8], size: u64, fill: &mut Fill<'_>) -> Result<Self::Id, Error>;
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

impl Content for FileWriter<'_> {
    fn data(&mut self, bytes: &[u8]) -> Result<(), Error> {
        Ok(self.write(bytes)?)
    }

    fn hole(&mut self, length: u64) -> Result<(), Error> {
        Ok(self.write_hole(length)?)
    }
}
