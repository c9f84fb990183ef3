//! Writes tars that every reader takes: ustar headers, PAX records for long names and extended attributes, base 256 for
//! numbers that octal digits have no room for.

use super::header::BLOCK;
pub use super::header::Header as Block;
use std::io::{self, Write};
use zerocopy::{FromZeros, IntoBytes};

/// What an entry's header says.
#[derive(Clone, Debug, Default)]
pub struct Head<'a> {
    /// Name.
    pub path: &'a [u8],
    /// `0` file, `1` hard link, `2` symbolic link, `3` character device, `4` block device, `5` directory, `6` pipe.
    pub kind: u8,
    /// Target of a link.
    pub link: &'a [u8],
    /// Permission bits (07777).
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Seconds since 1970.
    pub mtime: u32,
    /// Bytes of content that follow.
    pub size: u64,
    /// Device number, major and minor.
    pub device: (u32, u32),
    /// Extended attributes by full name, which has no `=` in it.
    pub xattrs: &'a [(Vec<u8>, Vec<u8>)],
}

impl Head<'_> {
    /// The header block alone, for an entry whose name fits into it.
    pub fn block(&self) -> Block {
        let mut header = Block::new_zeroed();
        text(&mut header.name, self.path);
        text(&mut header.linkname, self.link);
        number(&mut header.mode, self.mode.into());
        number(&mut header.uid, self.uid.into());
        number(&mut header.gid, self.gid.into());
        number(&mut header.size, self.size);
        number(&mut header.mtime, self.mtime.into());
        number(&mut header.devmajor, self.device.0.into());
        number(&mut header.devminor, self.device.1.into());
        header.typeflag = self.kind;
        header.magic = *b"ustar\0";
        header.version = *b"00";
        header.chksum = [b' '; 8];
        let sum = header.as_bytes().iter().map(|&byte| u64::from(byte)).sum();
        // Six digits, NUL, and the blank that is there.
        let [digits @ .., _] = &mut header.chksum;
        number(digits, sum);
        header
    }

    /// Writes the header, behind an extended one where it takes that.
    ///
    /// # Errors
    /// What the writer says.
    pub fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        let mut records = Vec::new();
        if self.path.len() > 100 {
            record(&mut records, b"path", self.path);
        }
        if self.link.len() > 100 {
            record(&mut records, b"linkpath", self.link);
        }
        for (name, value) in self.xattrs {
            record(&mut records, &[b"SCHILY.xattr.", name.as_slice()].concat(), value);
        }
        if !records.is_empty() {
            let size = records.len() as u64;
            let extended = Head { path: b"PaxHeaders/0", kind: b'x', mode: 0o644, size, ..Head::default() };
            out.write_all(extended.block().as_bytes())?;
            out.write_all(&records)?;
            pad(out, size)?;
        }
        out.write_all(self.block().as_bytes())
    }
}

/// Fills the last block of an entry's content.
///
/// # Errors
/// What the writer says.
pub fn pad(out: &mut dyn Write, size: u64) -> io::Result<()> {
    let missing = (size.wrapping_neg() % BLOCK as u64) as usize;
    out.write_all([0; BLOCK].get(..missing).unwrap_or_default())
}

/// Marks the end of a tar.
///
/// # Errors
/// What the writer says.
pub fn end(out: &mut dyn Write) -> io::Result<()> {
    out.write_all(&[0; 2 * BLOCK])
}

/// As much as fits; longer names are in the extended header.
fn text(field: &mut [u8; 100], value: &[u8]) {
    field.iter_mut().zip(value).for_each(|(to, from)| *to = *from);
}

fn number(field: &mut [u8], value: u64) {
    let digits = field.len() - 1;
    let octal = format!("{value:0digits$o}");
    if octal.len() <= digits {
        field.iter_mut().zip(octal.bytes()).for_each(|(to, from)| *to = from);
        return;
    }
    field.fill(0);
    field.iter_mut().rev().zip(value.to_le_bytes()).for_each(|(to, from)| *to = from);
    if let Some(first) = field.first_mut() {
        *first |= 0x80;
    }
}

/// `length keyword=value\n`, the length counting itself.
fn record(records: &mut Vec<u8>, keyword: &[u8], value: &[u8]) {
    let rest = keyword.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    records.extend_from_slice(format!("{length} ").as_bytes());
    records.extend_from_slice(keyword);
    records.push(b'=');
    records.extend_from_slice(value);
    records.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tar::{Entry, EntryKind, Piece, Reader, SliceInput};

    #[test]
    fn what_is_written_is_read_again() {
        let (long, link) = (b"d/".repeat(90), vec![b'l'; 4000]);
        let xattrs = [(b"user.a".to_vec(), vec![0, b'\n', 255]), (b"user.b".to_vec(), vec![b'x'; 90])];
        let heads = [
            Head {
                path: b"f",
                kind: b'0',
                mode: 0o4755,
                uid: 4_000_000_000,
                gid: 7,
                mtime: u32::MAX,
                size: 3,
                ..Head::default()
            },
            Head { path: &long, kind: b'2', link: &link, xattrs: &xattrs, ..Head::default() },
            Head { path: &[b'n'; 100], kind: b'4', device: (4095, 0xf_ffff), ..Head::default() },
        ];
        let mut tar = Vec::new();
        for head in &heads {
            head.write(&mut tar).unwrap();
            if head.size > 0 {
                tar.extend(b"abc");
                pad(&mut tar, 3).unwrap();
            }
        }
        end(&mut tar).unwrap();
        let mut reader = Reader::new(SliceInput(&tar));
        let mut entry = Entry::default();
        assert!(reader.next(&mut entry).unwrap());
        assert_eq!((entry.mode, entry.uid, entry.gid, entry.mtime), (0o4755, 4_000_000_000, 7, u32::MAX));
        assert_eq!(reader.data().unwrap(), Some(Piece::Data(b"abc")));
        assert!(reader.next(&mut entry).unwrap());
        assert!(entry.path == long && entry.link == link && entry.xattrs == xattrs);
        assert!(reader.next(&mut entry).unwrap());
        assert_eq!((entry.kind, entry.major, entry.minor), (EntryKind::BlockDevice, 4095, 0xf_ffff));
        assert_eq!(entry.path, [b'n'; 100]);
        assert!(!reader.next(&mut entry).unwrap());
    }

    #[test]
    fn sizes_beyond_octal_and_record_lengths_at_their_borders() {
        let head = Head { path: b"big", kind: b'0', size: 1 << 40, ..Head::default() };
        let block = head.block();
        assert!(block.verify().is_ok());
        assert_eq!(crate::tar::header::number(&block.size), Some(1 << 40));
        for length in [1, 80, 81, 82, 83, 84, 85, 86, 87, 88, 89, 90, 975, 976, 977, 978, 979, 980, 981, 985] {
            let mut records = Vec::new();
            record(&mut records, b"path", &vec![b'p'; length]);
            let pax = crate::tar::pax::Pax::parse(&records).unwrap();
            assert_eq!(pax.path.map(|path| path.len()), Some(length));
        }
    }
}
