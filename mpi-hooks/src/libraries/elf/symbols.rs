//! The dynamic symbols of an ELF file: what it offers to others and what it wants of them.

use super::{Error, Head, Pages, Segment, Source, dynamic};
use crate::libraries::Class;
use crate::libraries::format::{d_tag, p_type};

/// Symbols that are looked at. The largest library of MPI has nine thousand.
const SYMBOLS_MAX: u64 = 1 << 20;
/// Bytes of names.
const NAMES_MAX: u64 = 64 << 20;
/// Longest text that a symbol stands for.
const TEXT_MAX: usize = 4096;

/// A symbol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Symbol {
    /// Its name, without version.
    pub name: String,
    /// Whether the file has it; else it wants it.
    pub defined: bool,
    /// Whether the loader goes on where nobody has it.
    pub weak: bool,
    address: u64,
}

/// The dynamic symbols of a file.
pub struct Symbols<'a, S: ?Sized> {
    pub(super) file: Pages<'a, S>,
    pub(super) head: Head,
    /// In the file's order.
    pub all: Vec<Symbol>,
}

impl<'a, S: Source + ?Sized> Symbols<'a, S> {
    /// Reads them all.
    ///
    /// # Errors
    /// As for [`Elf::read`](super::Elf::read).
    pub fn read(source: &'a S) -> Result<Self, Error> {
        let file = Pages { source, kept: std::cell::RefCell::default() };
        let head = Head::read(&file)?;
        let mut symbols = Self { file, head, all: Vec::new() };
        let segment = symbols.head.segments.iter().find(|segment| segment.kind == p_type::DYNAMIC);
        if let Some(segment) = segment {
            symbols.all = symbols.table(segment)?;
        }
        Ok(symbols)
    }

    fn table(&self, segment: &Segment) -> Result<Vec<Symbol>, Error> {
        const WHAT: &str = "symbol table";
        let class = self.head.abi.class;
        let entries = dynamic(&self.file, class, segment)?;
        let value = |tag| entries.iter().find(|(of, _)| *of == tag).map(|(_, value)| *value);
        let place = |tag| value(tag).and_then(|address| self.head.offset_of(address));
        let (Some(table), Some(strings)) = (place(d_tag::SYMTAB), place(d_tag::STRTAB)) else { return Ok(Vec::new()) };
        let count = match (place(d_tag::HASH), place(d_tag::GNU_HASH)) {
            (Some(hash), _) => u64::from(self.word(hash.saturating_add(4))?),
            (None, Some(hash)) => self.counted(hash)?,
            (None, None) => 0,
        };
        let size = value(d_tag::STRSZ).unwrap_or_default();
        if count > SYMBOLS_MAX || size > NAMES_MAX {
            return Err(Error::Damaged(WHAT));
        }
        let width = if class == Class::Elf32 { 16 } else { 24 };
        let bytes = self.whole(table, count * width)?;
        let names = self.whole(strings, size)?;
        let symbol = |entry: &[u8]| parse(entry, class, &names);
        bytes.chunks_exact(width as usize).map(|entry| symbol(entry).ok_or(Error::Damaged(WHAT))).collect()
    }

    /// As many as the newer hash table has: it does not say, but its chains end somewhere.
    fn counted(&self, hash: u64) -> Result<u64, Error> {
        const WHAT: &str = "hash table";
        let damaged = || Error::Damaged(WHAT);
        let (buckets, first, filters) =
            (self.word(hash)?, self.word(hash.saturating_add(4))?, self.word(hash.saturating_add(8))?);
        let width = if self.head.abi.class == Class::Elf32 { 4 } else { 8 };
        let start = hash.saturating_add(16 + u64::from(filters) * width);
        if u64::from(buckets) > SYMBOLS_MAX {
            return Err(damaged());
        }
        let bytes = self.whole(start, u64::from(buckets) * 4)?;
        let last = bytes.chunks_exact(4).filter_map(number).max().unwrap_or_default();
        if last < first {
            return Ok(first.into());
        }
        let chains = start.saturating_add(u64::from(buckets) * 4);
        let mut at = u64::from(last);
        while self.word(chains.saturating_add((at - u64::from(first)) * 4))? & 1 == 0 {
            at += 1;
            if at > SYMBOLS_MAX {
                return Err(damaged());
            }
        }
        Ok(at + 1)
    }

    fn word(&self, at: u64) -> Result<u32, Error> {
        let mut bytes = [0; 4];
        if self.file.fill(at, &mut bytes)? < bytes.len() {
            return Err(Error::Damaged("hash table"));
        }
        Ok(u32::from_le_bytes(bytes))
    }

    /// All of a range; how long that is was checked.
    fn whole(&self, at: u64, size: u64) -> Result<Vec<u8>, Error> {
        let mut bytes = Vec::new();
        // A length that the file only claims costs no memory.
        while (bytes.len() as u64) < size {
            let start = bytes.len();
            let step = (size - start as u64).min(1 << 20) as usize;
            bytes.resize(start + step, 0);
            let from = at.checked_add(start as u64).ok_or(Error::Damaged("symbol table"))?;
            let count = self.file.source.read_at(from, bytes.get_mut(start..).unwrap_or_default())?;
            if count < step {
                return Err(Error::Damaged("symbol table"));
            }
        }
        Ok(bytes)
    }

    /// Whether the file has a symbol of this name.
    #[must_use]
    pub fn defines(&self, name: &str) -> bool {
        self.all.iter().any(|symbol| symbol.defined && symbol.name == name)
    }

    /// Whether the file has or wants one.
    #[must_use]
    pub fn mentions(&self, name: &str) -> bool {
        self.all.iter().any(|symbol| symbol.name == name)
    }

    /// The text that a symbol of the file stands for, if it is one: an array of characters, or where its bytes lead.
    #[must_use]
    pub fn text(&self, name: &str) -> Option<String> {
        let symbol = self.all.iter().find(|symbol| symbol.defined && symbol.name == name)?;
        let text = self.file.string(self.head.offset_of(symbol.address)?).ok()?;
        Some(text).filter(|text| !text.is_empty() && text.len() < TEXT_MAX)
    }
}

fn number(bytes: &[u8]) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.try_into().ok()?))
}

fn parse(entry: &[u8], class: Class, names: &[u8]) -> Option<Symbol> {
    let name = number(entry.get(..4)?)? as usize;
    let (info, section, address) = match class {
        Class::Elf32 => (*entry.get(12)?, entry.get(14..16)?, number(entry.get(4..8)?)?.into()),
        Class::Elf64 => (*entry.get(4)?, entry.get(6..8)?, u64::from_le_bytes(entry.get(8..16)?.try_into().ok()?)),
    };
    let name = names.get(name..)?;
    let name = name.get(..name.iter().position(|byte| *byte == 0)?)?;
    let name = String::from_utf8_lossy(name).into_owned();
    Some(Symbol { name, defined: section != [0, 0], weak: info >> 4 == 2, address })
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::process::Command;

    use super::*;

    /// `None` where there is no compiler.
    fn library(options: &[&str]) -> Option<(tempfile::TempDir, File)> {
        let place = tempfile::tempdir().unwrap();
        let (source, out) = (place.path().join("a.c"), place.path().join("liba.so"));
        let code = "extern int wanted(void); __attribute__((weak)) int maybe(void);\n\
                    char version[] = \"1.2.3\"; int offered(void) { return wanted() + (maybe ? maybe() : 0); }\n";
        std::fs::write(&source, code).unwrap();
        let mut cc = Command::new("cc");
        cc.args(["-shared", "-fPIC", "-nostdlib"]).args(options).arg("-o").arg(&out).arg(&source);
        cc.status().ok().filter(std::process::ExitStatus::success)?;
        let file = File::open(&out).unwrap();
        Some((place, file))
    }

    #[test]
    fn symbols_are_read_through_either_hash_table() {
        for options in [["-Wl,--hash-style=gnu"], ["-Wl,--hash-style=sysv"], ["-Wl,--hash-style=both"]] {
            let Some((_place, file)) = library(&options) else { return };
            let symbols = Symbols::read(&file).unwrap();
            let of =
                |name: &str| symbols.all.iter().find(|symbol| symbol.name == name).map(|one| (one.defined, one.weak));
            assert_eq!(of("offered"), Some((true, false)), "{options:?}");
            assert_eq!(of("wanted"), Some((false, false)));
            assert_eq!(of("maybe"), Some((false, true)));
            assert_eq!(of("absent"), None);
            assert_eq!(symbols.text("version").as_deref(), Some("1.2.3"));
            assert!(symbols.defines("version") && !symbols.defines("wanted") && symbols.mentions("wanted"));
        }
    }

    #[test]
    fn damage_is_an_error_and_no_panic() {
        let Some((place, _)) = library(&[]) else { return };
        let whole = std::fs::read(place.path().join("liba.so")).unwrap();
        let mut number = crate::repeatable::numbers();
        for _ in 0..3000 {
            let mut bytes = whole.clone();
            for _ in 0..8 {
                let at = number(4096.min(bytes.len()));
                bytes[at] = number(256) as u8;
            }
            let _ = Symbols::read(bytes.as_slice()).map(|symbols| symbols.text("version"));
        }
        for length in (0..whole.len()).step_by(97) {
            let _ = Symbols::read(&whole[..length]);
        }
    }
}
