//! The 512-byte header block and its number fields.

use super::error::Problem;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Bytes in a header block; content is padded to a multiple of it.
pub const BLOCK: usize = 512;

/// A header block, fields named as in POSIX `pax`. `prefix` belongs to ustar alone; [`GnuTail`] lies there otherwise.
#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Header {
    pub name: [u8; 100],
    pub mode: [u8; 8],
    pub uid: [u8; 8],
    pub gid: [u8; 8],
    pub size: [u8; 12],
    pub mtime: [u8; 12],
    pub chksum: [u8; 8],
    pub typeflag: u8,
    pub linkname: [u8; 100],
    pub magic: [u8; 6],
    pub version: [u8; 2],
    pub uname: [u8; 32],
    pub gname: [u8; 32],
    pub devmajor: [u8; 8],
    pub devminor: [u8; 8],
    pub tail: [u8; 167],
}
const _: () = assert!(size_of::<Header>() == BLOCK);

/// What GNU tar keeps in place of ustar's prefix.
#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct GnuTail {
    pub atime: [u8; 12],
    pub ctime: [u8; 12],
    pub offset: [u8; 12],
    pub longnames: [u8; 4],
    pub unused: u8,
    pub sparse: [GnuSparse; 4],
    pub isextended: u8,
    pub realsize: [u8; 12],
    pub pad: [u8; 17],
}
const _: () = assert!(size_of::<GnuTail>() == 167);

/// A segment of an old GNU sparse map.
#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct GnuSparse {
    pub offset: [u8; 12],
    pub numbytes: [u8; 12],
}

/// A continuation block of an old GNU sparse map.
#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct GnuSparseBlock {
    pub sparse: [GnuSparse; 21],
    pub isextended: u8,
    pub pad: [u8; 7],
}
const _: () = assert!(size_of::<GnuSparseBlock>() == BLOCK);

impl Header {
    /// Checks the checksum, which some old writers computed over signed bytes.
    pub fn verify(&self) -> Result<(), Problem> {
        let stored = number(&self.chksum).and_then(|sum| u64::try_from(sum).ok()).ok_or(Problem::Number("chksum"))?;
        let bytes = self.as_bytes();
        let (mut unsigned, mut signed) = (0u64, 0i64);
        for (at, &byte) in bytes.iter().enumerate() {
            let byte = if (148..156).contains(&at) { b' ' } else { byte };
            unsigned += u64::from(byte);
            signed += i64::from(byte as i8);
        }
        if stored == unsigned || i64::try_from(stored) == Ok(signed) {
            return Ok(());
        }
        Err(Problem::Checksum { stored, computed: unsigned })
    }

    /// GNU tar's own magic, with which `tail` is a [`GnuTail`].
    pub fn is_gnu(&self) -> bool {
        &self.magic == b"ustar " && self.version[0] == b' '
    }

    /// The GNU part; only meaningful when [`Self::is_gnu`].
    pub fn gnu(&self) -> GnuTail {
        zerocopy::transmute!(self.tail)
    }

    /// Name with ustar's prefix (shorter in the format of `star`), written to `path`.
    pub fn path(&self, path: &mut Vec<u8>) {
        path.clear();
        if &self.magic == b"ustar\0" {
            let length = if self.tail.get(163..) == Some(b"tar\0") { 131 } else { 155 };
            let prefix = until_nul(self.tail.get(..length).unwrap_or_default());
            if !prefix.is_empty() {
                path.extend_from_slice(prefix);
                path.push(b'/');
            }
        }
        path.extend_from_slice(until_nul(&self.name));
    }
}

/// A field up to its first NUL.
pub fn until_nul(field: &[u8]) -> &[u8] {
    let end = field.iter().position(|&byte| byte == 0).unwrap_or(field.len());
    field.get(..end).unwrap_or_default()
}

/// A number field: octal text, or GNU's base 256 when the first bit is set. An empty field is 0.
pub fn number(field: &[u8]) -> Option<i64> {
    match field.first() {
        Some(first) if first & 0x80 != 0 => base256(field),
        _ => octal(field),
    }
}

fn base256(field: &[u8]) -> Option<i64> {
    let first = *field.first()?;
    // Two's complement of which the first bit is the marker and the second the sign.
    let invert = if first & 0x40 != 0 { 0xff } else { 0 };
    let mut value = 0u64;
    for (at, byte) in field.iter().enumerate() {
        let byte = byte ^ invert;
        let byte = if at == 0 { byte & 0x7f } else { byte };
        if value >> 56 != 0 {
            return None;
        }
        value = value << 8 | u64::from(byte);
    }
    let value = i64::try_from(value).ok()?;
    Some(if invert != 0 { !value } else { value })
}

fn octal(field: &[u8]) -> Option<i64> {
    let padding = |byte: &u8| *byte == b' ' || *byte == 0;
    let start = field.iter().position(|byte| !padding(byte)).unwrap_or(field.len());
    let digits = field.get(start..)?;
    let end = digits.iter().position(padding).unwrap_or(digits.len());
    let mut value = 0i64;
    for &digit in digits.get(..end)? {
        if !(b'0'..=b'7').contains(&digit) {
            return None;
        }
        value = value.checked_mul(8)?.checked_add(i64::from(digit - b'0'))?;
    }
    Some(value)
}

/// A number field that must not be negative.
pub fn unsigned(field: &[u8], name: &'static str) -> Result<u64, Problem> {
    number(field).and_then(|value| u64::try_from(value).ok()).ok_or(Problem::Number(name))
}
