//! The pull parser.

use super::error::{Error, Problem};
use super::header::{BLOCK, GnuSparse, GnuSparseBlock, Header, number, unsigned, until_nul};
use super::input::Input;
use super::pax::{Pax, decimal};
use super::sparse::{Run, SEGMENTS_MAX, Segment, SparseMap, pairs};
use super::{EXTENSION_MAX, Entry, EntryKind};
use zerocopy::{FromZeros, IntoBytes};

/// Most extension headers before one entry: global, PAX, long name and long link, with room to spare.
const EXTENSIONS_PER_ENTRY: u32 = 64;

/// A run of a file's content, in order.
#[derive(Debug, PartialEq, Eq)]
pub enum Piece<'a> {
    /// Bytes.
    Data(&'a [u8]),
    /// That many zeros.
    Hole(u64),
}

/// How an archive ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// With the blocks of zeros that mark an end.
    Marked,
    /// With the stream, between two entries.
    Unmarked,
}

/// Reads entries one after another.
#[derive(Debug)]
pub struct Reader<I> {
    input: I,
    /// Bytes used of the stream.
    position: u64,
    /// Bytes lent by the last [`Self::data`], not yet used.
    lent: usize,
    /// Stored bytes of the current entry that are still in the stream.
    stored: u64,
    /// Padding behind them.
    padding: u64,
    sparse: Option<SparseMap>,
    /// Stored bytes left in the current run of a sparse file.
    run: u64,
    end: Option<End>,
    name: Vec<u8>,
}

/// Extension headers seen before an entry.
#[derive(Default)]
struct Extensions {
    pax: Option<Pax>,
    long_name: Option<Vec<u8>>,
    long_link: Option<Vec<u8>>,
    count: u32,
}

impl<I: Input> Reader<I> {
    /// Reads from the start of an archive.
    pub fn new(input: I) -> Self {
        Self { input, position: 0, lent: 0, stored: 0, padding: 0, sparse: None, run: 0, end: None, name: Vec::new() }
    }

    /// How the archive ended, once [`Self::next`] has said that it did.
    pub fn end(&self) -> Option<End> {
        self.end
    }

    /// Moves to the next entry and describes it in `entry`; `false` at the archive's end. What is left of the current
    /// entry's content is skipped.
    ///
    /// # Errors
    /// When the stream is no valid archive, or cannot be read.
    pub fn next(&mut self, entry: &mut Entry) -> Result<bool, Error> {
        self.finish_entry()?;
        self.name.clear();
        if self.end.is_some() {
            return Ok(false);
        }
        entry.clear();
        entry.offset = self.position;
        let mut extensions = Extensions::default();
        loop {
            let mut header = Header::new_zeroed();
            if !self.read_block(header.as_mut_bytes())? {
                return self.at_end(End::Unmarked, &extensions);
            }
            if header.as_bytes().iter().all(|&byte| byte == 0) {
                if self.read_block(header.as_mut_bytes())? && header.as_bytes().iter().any(|&byte| byte != 0) {
                    return Err(self.fail(Problem::LoneZeroBlock));
                }
                return self.at_end(End::Marked, &extensions);
            }
            header.verify().map_err(|problem| self.fail_at(problem, self.position - BLOCK as u64))?;
            if self.extension(&header, &mut extensions)? {
                continue;
            }
            self.describe(&header, extensions, entry)?;
            return Ok(true);
        }
    }

    /// The next run of the current entry's content, or `None` at its end.
    ///
    /// # Errors
    /// When the stream ends early or cannot be read.
    pub fn data(&mut self) -> Result<Option<Piece<'_>>, Error> {
        self.give_back();
        if let Some(map) = &mut self.sparse
            && self.run == 0
        {
            match map.next_run() {
                None => return Ok(None),
                Some(Run::Hole(length)) => return Ok(Some(Piece::Hole(length))),
                Some(Run::Data(length)) => self.run = length,
            }
        }
        if self.stored == 0 {
            return Ok(None);
        }
        let limit = if self.sparse.is_some() { self.run.min(self.stored) } else { self.stored };
        let at_hand = match self.input.fill() {
            Ok(buffer) => buffer.len(),
            Err(error) => return Err(self.fail(Problem::Io(error))),
        };
        if at_hand == 0 {
            return Err(self.fail(Problem::Truncated));
        }
        let count = usize::try_from(limit).unwrap_or(usize::MAX).min(at_hand);
        self.lent = count;
        let (position, name) = (self.position, &self.name);
        match self.input.fill() {
            Ok(buffer) => Ok(Some(Piece::Data(buffer.get(..count).unwrap_or(buffer)))),
            Err(error) => Err(Error { offset: position, entry: Some(name.clone()), problem: Problem::Io(error) }),
        }
    }

    /// An error at the current place, for a caller that rejects an entry or its content.
    pub fn fail(&self, problem: Problem) -> Error {
        self.fail_at(problem, self.position)
    }

    fn fail_at(&self, problem: Problem, offset: u64) -> Error {
        Error { offset, entry: (!self.name.is_empty()).then(|| self.name.clone()), problem }
    }

    fn at_end(&mut self, end: End, extensions: &Extensions) -> Result<bool, Error> {
        if extensions.count > 0 && end == End::Unmarked {
            return Err(self.fail(Problem::Truncated));
        }
        self.end = Some(end);
        Ok(false)
    }

    /// Marks what [`Self::data`] lent as used.
    fn give_back(&mut self) {
        let count = std::mem::take(&mut self.lent);
        self.input.consume(count);
        self.position += count as u64;
        self.stored -= count as u64;
        self.run = self.run.saturating_sub(count as u64);
    }

    fn finish_entry(&mut self) -> Result<(), Error> {
        self.give_back();
        self.sparse = None;
        self.run = 0;
        let left = std::mem::take(&mut self.stored).saturating_add(std::mem::take(&mut self.padding));
        self.skip(left)
    }

    fn skip(&mut self, count: u64) -> Result<(), Error> {
        if count == 0 {
            return Ok(());
        }
        match self.input.skip(count) {
            Ok(skipped) => {
                self.position += skipped;
                if skipped < count { Err(self.fail(Problem::Truncated)) } else { Ok(()) }
            }
            Err(error) => Err(self.fail(Problem::Io(error))),
        }
    }

    /// Fills `block`; `false` when the stream ended before its first byte.
    fn read_block(&mut self, block: &mut [u8]) -> Result<bool, Error> {
        let mut filled = 0;
        while filled < block.len() {
            let step = match self.input.fill() {
                Ok(buffer) => {
                    let step = buffer.len().min(block.len() - filled);
                    block[filled..filled + step].copy_from_slice(&buffer[..step]);
                    step
                }
                Err(error) => return Err(self.fail(Problem::Io(error))),
            };
            if step == 0 {
                if filled == 0 {
                    return Ok(false);
                }
                return Err(self.fail(Problem::Truncated));
            }
            self.input.consume(step);
            self.position += step as u64;
            filled += step;
        }
        Ok(true)
    }

    /// Takes an extension header in; `false` when `header` is an entry's own.
    fn extension(&mut self, header: &Header, extensions: &mut Extensions) -> Result<bool, Error> {
        if !matches!(header.typeflag, b'x' | b'X' | b'g' | b'L' | b'K' | b'V') {
            return Ok(false);
        }
        extensions.count += 1;
        if extensions.count > EXTENSIONS_PER_ENTRY {
            return Err(self.fail(Problem::DanglingExtension));
        }
        let size = unsigned(&header.size, "size").map_err(|problem| self.fail(problem))?;
        if header.typeflag == b'V' {
            // A volume label has no content that matters.
            self.skip_padded(size)?;
            return Ok(true);
        }
        let content = self.read_extension(size)?;
        match header.typeflag {
            b'x' | b'X' => extensions.pax = Some(Pax::parse(&content).map_err(|problem| self.fail(problem))?),
            // Global records are checked and otherwise ignored, as other container tools do: in practice they hold a
            // comment (git archive), and names or owners for all entries would be an attack.
            b'g' => drop(Pax::parse(&content).map_err(|problem| self.fail(problem))?),
            b'L' => extensions.long_name = Some(until_nul(&content).to_vec()),
            _ => extensions.long_link = Some(until_nul(&content).to_vec()),
        }
        Ok(true)
    }

    fn skip_padded(&mut self, size: u64) -> Result<(), Error> {
        self.skip(size)?;
        self.skip(padding(size))
    }

    fn read_extension(&mut self, size: u64) -> Result<Vec<u8>, Error> {
        if size > EXTENSION_MAX {
            return Err(self.fail(Problem::ExtensionTooLarge(size)));
        }
        let mut content = vec![0; size as usize];
        if size > 0 && !self.read_block(&mut content)? {
            return Err(self.fail(Problem::Truncated));
        }
        self.skip(padding(size))?;
        Ok(content)
    }

    /// Merges header and extensions into `entry` and gets ready for its content.
    fn describe(&mut self, header: &Header, extensions: Extensions, entry: &mut Entry) -> Result<(), Error> {
        let pax = extensions.pax.unwrap_or_default();
        header.path(&mut entry.path);
        entry.link.extend_from_slice(until_nul(&header.linkname));
        // The later in this order, the more it counts.
        for path in [pax.path, extensions.long_name, pax.sparse.name.clone()].into_iter().flatten() {
            entry.path = path;
        }
        for link in [pax.link, extensions.long_link].into_iter().flatten() {
            entry.link = link;
        }
        self.name.clone_from(&entry.path);
        let fields = Fields { size: pax.size, uid: pax.uid, gid: pax.gid, mtime: pax.mtime };
        let stored = describe_fields(header, &fields, entry).map_err(|problem| self.fail(problem))?;
        entry.xattrs = pax.xattrs;
        self.stored = stored;
        self.padding = padding(stored);
        if entry.kind == EntryKind::File {
            entry.size = stored;
            if header.typeflag == b'S' {
                self.gnu_sparse(header, entry)?;
            } else if let Some(inline) = pax.sparse.version().map_err(|problem| self.fail(problem))? {
                let size = pax.sparse.real_size.ok_or_else(|| self.fail(Problem::Sparse("size is missing")))?;
                let segments = if inline {
                    self.inline_map()?
                } else {
                    pairs(&pax.sparse.map.unwrap_or_default()).map_err(|problem| self.fail(problem))?
                };
                self.set_sparse(segments, size, entry)?;
            }
        }
        entry.content = self.position;
        Ok(())
    }

    fn set_sparse(&mut self, segments: Vec<Segment>, size: u64, entry: &mut Entry) -> Result<(), Error> {
        let map = SparseMap::new(segments, size, self.stored).map_err(|problem| self.fail(problem))?;
        entry.size = size;
        entry.sparse = true;
        self.sparse = Some(map);
        Ok(())
    }

    /// Old GNU format: four segments in the header, more in blocks behind it, which `size` does not count.
    fn gnu_sparse(&mut self, header: &Header, entry: &mut Entry) -> Result<(), Error> {
        if !header.is_gnu() {
            return Err(self.fail(Problem::Type('S')));
        }
        let gnu = header.gnu();
        let size = unsigned(&gnu.realsize, "realsize").map_err(|problem| self.fail(problem))?;
        let mut segments = Vec::new();
        let mut more =
            gnu_segments(&gnu.sparse, &mut segments).map_err(|problem| self.fail(problem))? && gnu.isextended != 0;
        while more {
            let mut block = GnuSparseBlock::new_zeroed();
            if !self.read_block(block.as_mut_bytes())? {
                return Err(self.fail(Problem::Truncated));
            }
            gnu_segments(&block.sparse, &mut segments).map_err(|problem| self.fail(problem))?;
            more = block.isextended != 0;
        }
        self.set_sparse(segments, size, entry)
    }

    /// PAX format 1.0: the map is decimal text at the front of the content, padded to a block.
    fn inline_map(&mut self) -> Result<Vec<Segment>, Error> {
        let mut numbers = Vec::new();
        let (mut count, mut digits) = (None, Vec::new());
        let mut block = [0; BLOCK];
        while count.is_none_or(|count| numbers.len() < count) {
            if self.stored < BLOCK as u64 || !self.read_block(&mut block)? {
                return Err(self.fail(Problem::Sparse("map is cut short")));
            }
            self.stored -= BLOCK as u64;
            for &byte in &block {
                if count.is_some_and(|count| numbers.len() >= count) {
                    break;
                }
                if byte != b'\n' {
                    digits.push(byte);
                    if digits.len() > 20 {
                        return Err(self.fail(Problem::Sparse("not a number")));
                    }
                    continue;
                }
                let value = decimal(&digits).ok_or_else(|| self.fail(Problem::Sparse("not a number")))?;
                digits.clear();
                match count {
                    None if value > SEGMENTS_MAX as u64 => return Err(self.fail(Problem::Sparse("too many segments"))),
                    None => count = Some(value as usize * 2),
                    Some(_) => numbers.push(value),
                }
            }
        }
        pairs(&numbers).map_err(|problem| self.fail(problem))
    }
}

/// Number fields that a PAX header replaced.
struct Fields {
    size: Option<u64>,
    uid: Option<u64>,
    gid: Option<u64>,
    mtime: Option<i64>,
}

/// Fills in kind and numbers, and returns how many bytes of content are stored.
fn describe_fields(header: &Header, pax: &Fields, entry: &mut Entry) -> Result<u64, Problem> {
    let id = |pax: Option<u64>, field: &[u8], name| {
        let value = match pax {
            Some(value) => value,
            None => unsigned(field, name)?,
        };
        u32::try_from(value).map_err(|_| Problem::Number(name))
    };
    entry.mode = (number(&header.mode).ok_or(Problem::Number("mode"))? & 0o7777) as u16;
    entry.uid = id(pax.uid, &header.uid, "uid")?;
    entry.gid = id(pax.gid, &header.gid, "gid")?;
    let mtime = match pax.mtime {
        Some(mtime) => mtime,
        None => number(&header.mtime).ok_or(Problem::Number("mtime"))?,
    };
    entry.mtime = mtime.clamp(0, i64::from(u32::MAX)) as u32;
    let size = match pax.size {
        Some(size) => size,
        None => unsigned(&header.size, "size")?,
    };
    if i64::try_from(size).is_err() {
        return Err(Problem::Number("size"));
    }
    if entry.path.contains(&0) || entry.link.contains(&0) {
        return Err(Problem::Nul);
    }
    entry.kind = match header.typeflag {
        // Before ustar a directory was a file whose name ends in a slash.
        b'\0' if entry.path.ends_with(b"/") => EntryKind::Directory,
        b'0' | b'\0' | b'7' | b'S' => EntryKind::File,
        b'1' => EntryKind::HardLink,
        b'2' => EntryKind::Symlink,
        b'3' => EntryKind::CharDevice,
        b'4' => EntryKind::BlockDevice,
        b'5' | b'D' => EntryKind::Directory,
        b'6' => EntryKind::Fifo,
        other => return Err(Problem::Type(char::from(other))),
    };
    if matches!(entry.kind, EntryKind::CharDevice | EntryKind::BlockDevice) {
        // Linux has 12 bits of major and 20 of minor number.
        entry.major = unsigned(&header.devmajor, "devmajor")?.try_into().map_err(|_| Problem::Number("devmajor"))?;
        entry.minor = unsigned(&header.devminor, "devminor")?.try_into().map_err(|_| Problem::Number("devminor"))?;
        if entry.major > 0xfff || entry.minor > 0xf_ffff {
            return Err(Problem::Number("device"));
        }
    }
    // Links and such may state a size, yet nothing is stored for them; GNU's directory listings are.
    Ok(if entry.kind == EntryKind::File || header.typeflag == b'D' { size } else { 0 })
}

/// Takes segments up to the first unused slot; `false` when there was one.
fn gnu_segments(slots: &[GnuSparse], segments: &mut Vec<Segment>) -> Result<bool, Problem> {
    for slot in slots {
        if slot.offset[0] == 0 && slot.numbytes[0] == 0 {
            return Ok(false);
        }
        if segments.len() >= SEGMENTS_MAX {
            return Err(Problem::Sparse("too many segments"));
        }
        let offset = unsigned(&slot.offset, "sparse offset")?;
        let length = unsigned(&slot.numbytes, "sparse length")?;
        segments.push(Segment { offset, length });
    }
    Ok(true)
}

fn padding(size: u64) -> u64 {
    size.wrapping_neg() % BLOCK as u64
}
