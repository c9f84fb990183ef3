//! A tar reader for hostile streams: ustar, PAX, GNU and V7 headers, GNU and PAX sparse files.
//!
//! [`Reader`] is a pull parser over an [`Input`] that lends its buffer, so file content is never copied here. Every
//! error names the byte offset in the (uncompressed) stream and the entry. Nothing is allocated by a size that the
//! stream merely claims.

mod error;
mod header;
mod input;
mod pax;
mod reader;
mod sparse;
pub mod writer;

pub use error::{Error, Problem};
#[cfg(test)]
pub use input::SliceInput;
pub use input::{FileInput, Input};
pub use reader::{End, Piece, Reader};

/// Largest PAX header or GNU long name, in bytes. GNU tar and Go's reader have the same bound.
pub const EXTENSION_MAX: u64 = 1 << 20;

/// What an entry makes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EntryKind {
    /// Regular file with content.
    #[default]
    File,
    /// Another name for an earlier entry.
    HardLink,
    /// Symbolic link.
    Symlink,
    /// Character device.
    CharDevice,
    /// Block device.
    BlockDevice,
    /// Directory.
    Directory,
    /// Named pipe.
    Fifo,
}

/// One entry's header, extensions merged in.
#[derive(Clone, Debug, Default)]
pub struct Entry {
    /// What the entry makes.
    pub kind: EntryKind,
    /// Name as in the archive; never holds NUL.
    pub path: Vec<u8>,
    /// Target of a hard or symbolic link as in the archive; never holds NUL.
    pub link: Vec<u8>,
    /// Permission bits (07777).
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Seconds since 1970, clamped to what 32 bits hold; fractions are dropped.
    pub mtime: u32,
    /// Major device number.
    pub major: u32,
    /// Minor device number.
    pub minor: u32,
    /// Bytes of a file's content, holes included.
    pub size: u64,
    /// Extended attributes by full name.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// Where the entry's first header starts in the stream.
    pub offset: u64,
    /// Where its content starts in the stream.
    pub content: u64,
    /// Whether the content is stored with a sparse map.
    pub sparse: bool,
}

impl Entry {
    fn clear(&mut self) {
        let (mut path, mut link, mut xattrs) =
            (std::mem::take(&mut self.path), std::mem::take(&mut self.link), std::mem::take(&mut self.xattrs));
        path.clear();
        link.clear();
        xattrs.clear();
        *self = Self { path, link, xattrs, ..Self::default() };
    }
}

#[cfg(test)]
mod tests;
