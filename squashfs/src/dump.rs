//! Shows an image as text: its superblock field by field, its tree like `ls -l`.
//!
//! The text is for people and for comparing images; what an image can choose is escaped, so that it cannot
//! control the terminal.

use crate::compress::codec_name;
use crate::format::{
    GzipOptions, INVALID_TABLE, Lz4Options, LzoOptions, SuperBlock, XzOptions, ZstdOptions, compression, flags,
};
use crate::reader::{Error as ReadError, Image, Inode, Kind, ReadAt, WalkEntry, WalkError, major, minor};
use std::fmt;
use std::io::{self, Write};
use thiserror::Error;
use zerocopy::FromBytes;

#[cfg(test)]
mod tests;

/// Why an image could not be shown.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// The text could not be written.
    #[error("write listing")]
    Write(#[from] io::Error),
    /// The image is damaged at a path.
    #[error(transparent)]
    Walk(#[from] WalkError),
}

/// Names of [`flags`], as they are shown.
const FLAGS: [(u16, &str); 11] = [
    (flags::NOI, "uncompressed-inodes"),
    (flags::NOD, "uncompressed-data"),
    (flags::NOF, "uncompressed-fragments"),
    (flags::NO_FRAG, "no-fragments"),
    (flags::ALWAYS_FRAG, "always-fragments"),
    (flags::DUPLICATE, "duplicates-removed"),
    (flags::EXPORT, "exportable"),
    (flags::NOX, "uncompressed-xattrs"),
    (flags::NO_XATTR, "no-xattrs"),
    (flags::COMP_OPT, "compressor-options"),
    (flags::NOID, "uncompressed-ids"),
];

/// Writes every field of the superblock, a line each, flags by name and the compressor with its options.
///
/// # Errors
/// When `out` cannot be written.
pub fn superblock<S: ReadAt>(image: &Image<S>, out: &mut dyn Write) -> io::Result<()> {
    let raw: &SuperBlock = image.superblock();
    let mut line = |name: &str, value: &dyn fmt::Display| writeln!(out, "{name:<22} {value}");
    line("magic", &format_args!("{:#010x}", raw.s_magic.get()))?;
    line("version", &format_args!("{}.{}", raw.s_major, raw.s_minor))?;
    line("created", &Time(raw.mkfs_time.get()))?;
    line("bytes_used", &raw.bytes_used)?;
    line("block_size", &raw.block_size)?;
    line("block_log", &raw.block_log)?;
    let compressor = Compressor { id: raw.compression.get(), options: image.compressor_options() };
    line("compression", &compressor)?;
    line("flags", &Flags(raw.flags.get()))?;
    line("inodes", &raw.inodes)?;
    line("fragments", &raw.fragments)?;
    line("ids", &raw.no_ids)?;
    let root = image.root();
    line("root_inode", &format_args!("block {}, offset {}", root.block(), root.offset()))?;
    line("inode_table_start", &raw.inode_table_start)?;
    line("directory_table_start", &raw.directory_table_start)?;
    line("fragment_table_start", &Position(raw.fragment_table_start.get()))?;
    line("lookup_table_start", &Position(raw.lookup_table_start.get()))?;
    line("id_table_start", &raw.id_table_start)?;
    line("xattr_id_table_start", &Position(raw.xattr_id_table_start.get()))
}

/// Writes a line for each file: type and mode, links, owner, size or device number, time, path, link target and names
/// of extended attributes.
///
/// # Errors
/// When `out` cannot be written, or the image is damaged; all lines before the damage are written.
pub fn tree<S: ReadAt>(image: &Image<S>, out: &mut dyn Write) -> Result<(), Error> {
    for entry in image.walk() {
        let WalkEntry { path, inode } = entry?;
        let fail = |error: ReadError| WalkError { path: path.clone(), error };
        let size = match &inode.kind {
            Kind::BlockDevice { rdev } | Kind::CharDevice { rdev } => format!("{},{}", major(*rdev), minor(*rdev)),
            _ => inode.size().to_string(),
        };
        let owner = format!("{}/{}", inode.uid, inode.gid);
        write!(
            out,
            "{} {:>3} {owner:<11} {size:>10} {} {}",
            Mode(&inode),
            inode.nlink,
            Time(inode.mtime),
            path.escape_ascii()
        )?;
        if let Kind::Symlink { .. } = inode.kind {
            write!(out, " -> {}", image.read_link(&inode).map_err(fail)?.escape_ascii())?;
        }
        for (index, xattr) in image.xattrs(&inode).map_err(fail)?.iter().enumerate() {
            write!(out, "{}{}", if index == 0 { " [" } else { " " }, xattr.name.escape_ascii())?;
        }
        writeln!(out, "{}", if inode.has_xattrs() { "]" } else { "" })?;
    }
    Ok(())
}

/// `drwxr-xr-x`
struct Mode<'a>(&'a Inode);

impl fmt::Display for Mode<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mode = self.0.mode;
        let mut text = [b'-'; 9];
        for (index, letter) in b"rwxrwxrwx".iter().enumerate() {
            if mode & (0o400 >> index) != 0 {
                text[index] = *letter;
            }
        }
        for (bit, index, letter) in [(0o4000, 2, b's'), (0o2000, 5, b's'), (0o1000, 8, b't')] {
            if mode & bit != 0 {
                text[index] = if text[index] == b'x' { letter } else { letter.to_ascii_uppercase() };
            }
        }
        write!(f, "{}{}", self.0.file_type().letter(), text.escape_ascii())
    }
}

/// Seconds since 1970 as ISO 8601 in UTC.
struct Time(u32);

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (mut days, seconds) = (self.0 / 86_400, self.0 % 86_400);
        let mut year = 1970;
        let is_leap = |year: u32| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
        while days >= 365 + u32::from(is_leap(year)) {
            days -= 365 + u32::from(is_leap(year));
            year += 1;
        }
        let mut month = 1;
        for length in [31, 28 + u32::from(is_leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30] {
            if days < length {
                break;
            }
            days -= length;
            month += 1;
        }
        let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
        write!(f, "{year:04}-{month:02}-{:02}T{hour:02}:{minute:02}:{second:02}Z", days + 1)
    }
}

struct Flags(u16);

impl fmt::Display for Flags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#06x}", self.0)?;
        let mut unknown = self.0;
        for (bit, name) in FLAGS {
            if self.0 & bit != 0 {
                write!(f, " {name}")?;
                unknown &= !bit;
            }
        }
        if unknown != 0 { write!(f, " unknown:{unknown:#x}") } else { Ok(()) }
    }
}

struct Position(u64);

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == INVALID_TABLE { f.write_str("none") } else { self.0.fmt(f) }
    }
}

struct Compressor<'a> {
    id: u16,
    options: Option<&'a [u8]>,
}

impl fmt::Display for Compressor<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(codec_name(self.id))?;
        let Some(options) = self.options else { return Ok(()) };
        match self.known_options(f, options) {
            Some(result) => result,
            None => write!(f, " options \"{}\"", options.escape_ascii()),
        }
    }
}

impl Compressor<'_> {
    /// Shows options of the format's size; `None` for others.
    fn known_options(&self, f: &mut fmt::Formatter<'_>, bytes: &[u8]) -> Option<fmt::Result> {
        Some(match self.id {
            compression::ZLIB => {
                let options = GzipOptions::read_from_bytes(bytes).ok()?;
                write!(
                    f,
                    " level {} window {} strategies {:#x}",
                    options.compression_level, options.window_size, options.strategies
                )
            }
            compression::XZ => {
                let options = XzOptions::read_from_bytes(bytes).ok()?;
                write!(f, " dictionary {} filters {:#x}", options.dictionary_size, options.flags)
            }
            compression::LZ4 => {
                let options = Lz4Options::read_from_bytes(bytes).ok()?;
                let high = if options.flags.get() & 1 != 0 { " high-compression" } else { "" };
                write!(f, " version {}{high}", options.version)
            }
            compression::ZSTD => {
                let options = ZstdOptions::read_from_bytes(bytes).ok()?;
                write!(f, " level {}", options.compression_level)
            }
            compression::LZO => {
                const ALGORITHMS: [&str; 5] = ["lzo1x_1", "lzo1x_1_11", "lzo1x_1_12", "lzo1x_1_15", "lzo1x_999"];
                let options = LzoOptions::read_from_bytes(bytes).ok()?;
                let algorithm = ALGORITHMS.get(options.algorithm.get() as usize).unwrap_or(&"unknown");
                write!(f, " algorithm {algorithm} level {}", options.compression_level)
            }
            _ => return None,
        })
    }
}
