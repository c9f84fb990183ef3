//! Makes tars, valid and otherwise, in memory.
#![allow(dead_code, missing_docs, reason = "each test crate uses a part of it")]

/// A tar being made.
#[derive(Clone, Default)]
pub struct TarBuilder {
    bytes: Vec<u8>,
    pax: Vec<u8>,
    pub mode: u32,
    pub uid: u64,
    pub gid: u64,
    pub mtime: u64,
}

/// The header fields that matter; the rest is filled in.
pub fn header(name: &[u8], kind: u8, size: u64, link: &[u8]) -> [u8; 512] {
    let mut block = [0u8; 512];
    block[..name.len().min(100)].copy_from_slice(&name[..name.len().min(100)]);
    octal(&mut block[100..108], 0o644);
    octal(&mut block[108..116], 0);
    octal(&mut block[116..124], 0);
    octal(&mut block[124..136], size);
    octal(&mut block[136..148], 0);
    block[156] = kind;
    block[157..157 + link.len().min(100)].copy_from_slice(&link[..link.len().min(100)]);
    block[257..265].copy_from_slice(b"ustar\x0000");
    octal(&mut block[329..337], 0);
    octal(&mut block[337..345], 0);
    seal(&mut block);
    block
}

/// Octal digits, zero-filled, and a NUL.
pub fn octal(field: &mut [u8], value: u64) {
    let digits = field.len() - 1;
    let text = format!("{value:0digits$o}");
    assert_eq!(text.len(), digits, "{value} fits no octal field");
    field[..digits].copy_from_slice(text.as_bytes());
    field[digits] = 0;
}

/// Sets the checksum.
pub fn seal(block: &mut [u8; 512]) {
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|&byte| u32::from(byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

impl TarBuilder {
    pub fn new() -> Self {
        Self { mode: 0o644, mtime: 1_000_000, ..Self::default() }
    }

    /// Metadata of the entries that follow.
    pub fn meta(mut self, mode: u32, uid: u64, gid: u64, mtime: u64) -> Self {
        (self.mode, self.uid, self.gid, self.mtime) = (mode, uid, gid, mtime);
        self
    }

    /// A PAX record for the next entry.
    pub fn pax(mut self, keyword: &str, value: impl AsRef<[u8]>) -> Self {
        let value = value.as_ref();
        let rest = keyword.len() + value.len() + 3;
        let length = (1..).find(|length: &usize| length.to_string().len() + rest == *length).unwrap();
        self.pax.extend_from_slice(format!("{length} {keyword}=").as_bytes());
        self.pax.extend_from_slice(value);
        self.pax.push(b'\n');
        self
    }

    /// Any entry.
    pub fn entry(mut self, name: &str, kind: u8, link: &str, content: &[u8]) -> Self {
        if name.len() > 100 {
            self = self.pax("path", name);
        }
        if link.len() > 100 {
            self = self.pax("linkpath", link);
        }
        let pax = std::mem::take(&mut self.pax);
        if !pax.is_empty() {
            self.bytes.extend_from_slice(&header(b"PaxHeaders/x", b'x', pax.len() as u64, b""));
            self.content(&pax);
        }
        let mut block = header(name.as_bytes(), kind, content.len() as u64, link.as_bytes());
        octal(&mut block[100..108], u64::from(self.mode));
        octal(&mut block[108..116], self.uid);
        octal(&mut block[116..124], self.gid);
        octal(&mut block[136..148], self.mtime);
        seal(&mut block);
        self.bytes.extend_from_slice(&block);
        self.content(content);
        self
    }

    fn content(&mut self, content: &[u8]) {
        self.bytes.extend_from_slice(content);
        self.bytes.resize(self.bytes.len().next_multiple_of(512), 0);
    }

    pub fn file(self, name: &str, content: impl AsRef<[u8]>) -> Self {
        self.entry(name, b'0', "", content.as_ref())
    }

    pub fn dir(mut self, name: &str) -> Self {
        let mode = self.mode;
        self.mode = if mode == 0o644 { 0o755 } else { mode };
        self = self.entry(name, b'5', "", b"");
        self.mode = mode;
        self
    }

    pub fn symlink(self, name: &str, target: &str) -> Self {
        self.entry(name, b'2', target, b"")
    }

    pub fn link(self, name: &str, target: &str) -> Self {
        self.entry(name, b'1', target, b"")
    }

    pub fn device(mut self, name: &str, kind: u8, major: u64, minor: u64) -> Self {
        let start = self.bytes.len();
        self = self.entry(name, kind, "", b"");
        let block: &mut [u8; 512] = (&mut self.bytes[start..start + 512]).try_into().unwrap();
        octal(&mut block[329..337], major);
        octal(&mut block[337..345], minor);
        seal(block);
        self
    }

    /// Anything, as it is.
    pub fn raw(mut self, bytes: &[u8]) -> Self {
        self.bytes.extend_from_slice(bytes);
        self
    }

    /// The tar with its end marker.
    pub fn finish(self) -> Vec<u8> {
        self.raw(&[0; 1024]).bytes
    }

    /// The tar without one.
    pub fn unfinished(self) -> Vec<u8> {
        self.bytes
    }
}
