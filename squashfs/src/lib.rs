//! SquashFS 4.0 reader and writer.
//!
//! [`mod@format`] is the disk format and nothing else, [`compress`] the codecs, [`reader`] reads an image that
//! may be hostile, [`writer`] makes one whose bytes depend on its input alone, [`dump`] shows one as text.
//! No policy lives here: no paths to open, no FUSE, no OCI.
//!
//! Format: <https://www.kernel.org/doc/html/latest/filesystems/squashfs.html> and the kernel's `fs/squashfs`.

pub mod compress;
pub mod dump;
pub mod format;
pub mod reader;
pub mod writer;
