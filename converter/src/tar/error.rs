//! What can be wrong with a tar stream.

use crate::text::Name;
use std::io;
use thiserror::Error;

/// A defect of the stream, with its place.
#[derive(Debug, Error)]
#[error("{problem} (at byte {offset} of the uncompressed tar{})", entry_text(.entry))]
pub struct Error {
    /// Byte offset in the uncompressed stream.
    pub offset: u64,
    /// The entry that was being read, as far as its name was known.
    pub entry: Option<Vec<u8>>,
    /// What is wrong.
    pub problem: Problem,
}

fn entry_text(entry: &Option<Vec<u8>>) -> String {
    entry.as_ref().map(|name| format!(", entry {}", Name(name))).unwrap_or_default()
}

/// What is wrong with a tar stream.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Problem {
    /// The stream ends inside an entry.
    #[error("the archive ends in the middle of an entry")]
    Truncated,
    /// A plain archive without the blocks that mark its end.
    #[error("the archive has no end marker: it is probably cut short")]
    NoEndMarker,
    /// A block of zeros that something follows.
    #[error("a block of zeros, half an end marker, lies between entries")]
    LoneZeroBlock,
    /// The stream could not be read.
    #[error("cannot read the archive: {0}")]
    Io(#[from] io::Error),
    /// The header's checksum does not fit its bytes.
    #[error("header checksum is {stored}, but its bytes sum up to {computed}")]
    Checksum {
        /// As stored.
        stored: u64,
        /// As computed over unsigned bytes.
        computed: u64,
    },
    /// A number field holds no number, or one out of range.
    #[error("header field {0} holds no valid number")]
    Number(&'static str),
    /// A PAX header or GNU long name above the bound.
    #[error("extended header of {0} bytes is larger than 1 MiB")]
    ExtensionTooLarge(u64),
    /// A PAX record that does not follow the format.
    #[error("extended header has an invalid {0} record")]
    Pax(&'static str),
    /// A name with a NUL byte.
    #[error("name or link target has a NUL byte")]
    Nul,
    /// An entry type that no layer may have.
    #[error("entry type {0:?} is not supported")]
    Type(char),
    /// A sparse map that contradicts itself or the entry's size.
    #[error("sparse map is invalid: {0}")]
    Sparse(&'static str),
    /// Extension headers that no entry follows.
    #[error("extended headers without an entry, or too many of them for one entry")]
    DanglingExtension,
}
