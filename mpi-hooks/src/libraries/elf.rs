//! What an ELF file says to the dynamic loader: for which machine it is, its name, which libraries and which versions of
//! their symbols it needs, and which it defines.
//!
//! Little-endian files of 32 and 64 bits are read, through their program headers, as the loader does: section headers
//! may have been stripped.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use zerocopy::{FromBytes, IntoBytes};

use super::format::{
    Dyn32, Dyn64, Ehdr32, Ehdr64, Phdr32, Phdr64, VERSION_BASE, VERSION_WEAK, Verdaux, Verdef, Vernaux, Verneed, d_tag,
    p_type,
};
use super::{Abi, Class};

/// Program headers that are looked at; usual files have a dozen.
const HEADERS_MAX: u16 = 128;
/// Entries of the dynamic section that are looked at; usual files have thirty, and one for each library.
const DYNAMIC_MAX: usize = 4096;
/// Versions, needed or defined, that are looked at. The C library defines a hundred.
const VERSIONS_MAX: usize = 8192;
/// Bytes of a name or path.
const NAME_MAX: usize = 4096;
/// What is read at once.
const PAGE: u64 = 4096;
/// Pages that are kept.
const PAGES_MAX: usize = 64;

/// Why a file is not understood.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// It is something else.
    #[error("not an ELF file")]
    NotElf,
    /// It is one of those that are not read.
    #[error("an ELF file of another kind: {0}")]
    Unsupported(&'static str),
    /// It contradicts itself, or ends too early.
    #[error("damaged: its {0} cannot be read")]
    Damaged(&'static str),
    /// The file cannot be read.
    #[error(transparent)]
    Read(#[from] io::Error),
}

/// Where the bytes of a file come from.
pub trait Source {
    /// Fills as much of `buffer` as there is from `offset` on; how much that was. Less than asked for is the end.
    ///
    /// # Errors
    /// When the file cannot be read.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<usize, Error>;
}

impl Source for [u8] {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<usize, Error> {
        let rest = usize::try_from(offset).ok().and_then(|offset| self.get(offset..)).unwrap_or_default();
        let count = rest.len().min(buffer.len());
        for (to, from) in buffer.iter_mut().zip(rest) {
            *to = *from;
        }
        Ok(count)
    }
}

impl Source for File {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<usize, Error> {
        let mut filled = 0;
        while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match FileExt::read_at(self, rest, offset.saturating_add(filled as u64)) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(filled)
    }
}

/// What a file says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Elf {
    /// For what it is built.
    pub abi: Abi,
    /// Path of the dynamic loader, of a program.
    pub interpreter: Option<String>,
    /// The name by which others need it.
    pub soname: Option<String>,
    /// Names of the libraries that it needs, in order.
    pub needed: Vec<String>,
    /// `DT_RPATH`: where those are looked for before all other places, separated by colons.
    pub rpath: Option<String>,
    /// `DT_RUNPATH`: where those are looked for after `LD_LIBRARY_PATH`.
    pub runpath: Option<String>,
    /// The versions that it needs, by library. Those that the loader does not insist on are left out.
    pub needs: BTreeMap<String, Vec<String>>,
    /// The versions that it defines, in order, without its own name.
    pub defines: Vec<String>,
}

impl Elf {
    /// Reads a file of the host.
    ///
    /// # Errors
    /// When it cannot be read or understood.
    pub fn open(path: &Path) -> Result<Self, Error> {
        Self::read(&File::open(path)?)
    }

    /// Reads what matters of a file.
    ///
    /// # Errors
    /// When it is no ELF file of a kind that is known, or is damaged.
    pub fn read(source: &(impl Source + ?Sized)) -> Result<Self, Error> {
        let file = Pages { source, kept: RefCell::default() };
        let head = Head::read(&file)?;
        let mut elf = Self {
            abi: head.abi,
            interpreter: None,
            soname: None,
            needed: Vec::new(),
            rpath: None,
            runpath: None,
            needs: BTreeMap::new(),
            defines: Vec::new(),
        };
        let segment = |kind| head.segments.iter().find(|segment| segment.kind == kind);
        if let Some(segment) = segment(p_type::INTERP) {
            elf.interpreter = Some(file.string(segment.offset)?);
        }
        if let Some(segment) = segment(p_type::DYNAMIC) {
            elf.read_dynamic(&file, &head, &dynamic(&file, head.abi.class, segment)?)?;
        }
        Ok(elf)
    }

    fn read_dynamic<S: Source + ?Sized>(
        &mut self,
        file: &Pages<'_, S>,
        head: &Head,
        entries: &[(u64, u64)],
    ) -> Result<(), Error> {
        let value = |tag| entries.iter().find(|(of, _)| *of == tag).map(|(_, value)| *value);
        let place = |tag| value(tag).map(|address| head.offset_of(address).ok_or(Error::Damaged("dynamic section")));
        let Some(strings) = place(d_tag::STRTAB).transpose()? else { return Ok(()) };
        let size = value(d_tag::STRSZ).unwrap_or(u64::MAX);
        let string = |at: u64| {
            let at = Some(at).filter(|at| *at < size).and_then(|at| strings.checked_add(at));
            file.string(at.ok_or(Error::Damaged("string table"))?)
        };
        self.soname = value(d_tag::SONAME).map(string).transpose()?;
        self.rpath = value(d_tag::RPATH).map(string).transpose()?;
        self.runpath = value(d_tag::RUNPATH).map(string).transpose()?;
        let needed = entries.iter().filter(|(tag, _)| *tag == d_tag::NEEDED);
        self.needed = needed.map(|(_, at)| string(*at)).collect::<Result<_, _>>()?;
        if let Some(at) = place(d_tag::VERNEED).transpose()? {
            self.needs = needs(file, at, value(d_tag::VERNEEDNUM).unwrap_or_default(), &string)?;
        }
        if let Some(at) = place(d_tag::VERDEF).transpose()? {
            self.defines = defines(file, at, value(d_tag::VERDEFNUM).unwrap_or_default(), &string)?;
        }
        Ok(())
    }
}

/// Steps along a list in which each entry says how far off the next is; 0 is the end.
fn step(at: u64, next: u32) -> Option<u64> {
    (next != 0).then(|| at.checked_add(next.into())).flatten()
}

fn needs<S: Source + ?Sized>(
    file: &Pages<'_, S>,
    at: u64,
    count: u64,
    string: &dyn Fn(u64) -> Result<String, Error>,
) -> Result<BTreeMap<String, Vec<String>>, Error> {
    const WHAT: &str = "list of needed versions";
    let mut needs: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let (mut library, mut left, mut seen) = (Some(at), count, 0);
    while let Some(at) = library.filter(|_| left > 0) {
        let entry: Verneed = file.get(at, WHAT)?;
        let mut version = step(at, entry.vn_aux.get());
        let versions = needs.entry(string(entry.vn_file.get().into())?).or_default();
        for _ in 0..entry.vn_cnt.get() {
            let Some(at) = version else { break };
            seen += 1;
            if seen > VERSIONS_MAX {
                return Err(Error::Damaged(WHAT));
            }
            let entry: Vernaux = file.get(at, WHAT)?;
            if entry.vna_flags.get() & VERSION_WEAK == 0 {
                versions.push(string(entry.vna_name.get().into())?);
            }
            version = step(at, entry.vna_next.get());
        }
        left -= 1;
        seen += 1;
        if seen > VERSIONS_MAX {
            return Err(Error::Damaged(WHAT));
        }
        library = step(at, entry.vn_next.get());
    }
    Ok(needs)
}

fn defines<S: Source + ?Sized>(
    file: &Pages<'_, S>,
    at: u64,
    count: u64,
    string: &dyn Fn(u64) -> Result<String, Error>,
) -> Result<Vec<String>, Error> {
    const WHAT: &str = "list of defined versions";
    let mut defines = Vec::new();
    let mut version = Some(at);
    for _ in 0..count {
        let Some(at) = version else { break };
        if defines.len() >= VERSIONS_MAX {
            return Err(Error::Damaged(WHAT));
        }
        let entry: Verdef = file.get(at, WHAT)?;
        // The first name is the version's own; others are those that it builds on.
        if let Some(at) = step(at, entry.vd_aux.get()) {
            let name: Verdaux = file.get(at, WHAT)?;
            // The base counts against the limit too, else a list of nothing else would never end.
            let name = string(name.vda_name.get().into())?;
            defines.push((entry.vd_flags.get() & VERSION_BASE != 0, name));
        }
        version = step(at, entry.vd_next.get());
    }
    Ok(defines.into_iter().filter(|(base, _)| !base).map(|(_, name)| name).collect())
}

/// A part of the file, and where it is in memory.
struct Segment {
    kind: u32,
    flags: u32,
    offset: u64,
    address: u64,
    size: u64,
}

/// What the loader reads first.
struct Head {
    abi: Abi,
    segments: Vec<Segment>,
}

impl Head {
    fn read<S: Source + ?Sized>(file: &Pages<'_, S>) -> Result<Self, Error> {
        const WHAT: &str = "header";
        let ident: [u8; 16] = file.get(0, WHAT).map_err(|error| match error {
            Error::Damaged(_) => Error::NotElf,
            other => other,
        })?;
        if !ident.starts_with(b"\x7fELF") {
            return Err(Error::NotElf);
        }
        let [_, _, _, _, class, order, ..] = ident;
        if order != 1 {
            return Err(Error::Unsupported("not little-endian"));
        }
        let (class, machine, offset, count, size) = match class {
            1 => {
                let header: Ehdr32 = file.get(0, WHAT)?;
                let (machine, at) = (header.e_machine.get(), header.e_phoff.get().into());
                (Class::Elf32, machine, at, header.e_phnum.get(), header.e_phentsize.get())
            }
            2 => {
                let header: Ehdr64 = file.get(0, WHAT)?;
                let (machine, at) = (header.e_machine.get(), header.e_phoff.get());
                (Class::Elf64, machine, at, header.e_phnum.get(), header.e_phentsize.get())
            }
            _ => return Err(Error::Unsupported("neither 32 nor 64 bits")),
        };
        let abi = Abi { class, machine };
        let expected = if class == Class::Elf32 { size_of::<Phdr32>() } else { size_of::<Phdr64>() };
        if count > HEADERS_MAX || (count > 0 && usize::from(size) != expected) {
            return Err(Error::Damaged("program headers"));
        }
        let segment = |index: u16| {
            let at = u64::from(index) * u64::from(size);
            let at = offset.checked_add(at).ok_or(Error::Damaged("program headers"))?;
            Segment::read(file, class, at)
        };
        let segments = (0..count).map(segment).collect::<Result<_, _>>()?;
        Ok(Self { abi, segments })
    }

    /// Where in the file an address is.
    fn offset_of(&self, address: u64) -> Option<u64> {
        let loaded = self.segments.iter().filter(|segment| segment.kind == p_type::LOAD);
        loaded
            .filter_map(|segment| Some((address.checked_sub(segment.address)?, segment)))
            .find(|(within, segment)| *within < segment.size)
            .and_then(|(within, segment)| segment.offset.checked_add(within))
    }
}

impl Segment {
    fn read<S: Source + ?Sized>(file: &Pages<'_, S>, class: Class, at: u64) -> Result<Self, Error> {
        const WHAT: &str = "program headers";
        Ok(match class {
            Class::Elf32 => {
                let header: Phdr32 = file.get(at, WHAT)?;
                Self {
                    kind: header.p_type.get(),
                    flags: header.p_flags.get(),
                    offset: header.p_offset.get().into(),
                    address: header.p_vaddr.get().into(),
                    size: header.p_filesz.get().into(),
                }
            }
            Class::Elf64 => {
                let header: Phdr64 = file.get(at, WHAT)?;
                Self {
                    kind: header.p_type.get(),
                    flags: header.p_flags.get(),
                    offset: header.p_offset.get(),
                    address: header.p_vaddr.get(),
                    size: header.p_filesz.get(),
                }
            }
        })
    }
}

/// Tags and values of the dynamic section.
fn dynamic<S: Source + ?Sized>(file: &Pages<'_, S>, class: Class, segment: &Segment) -> Result<Vec<(u64, u64)>, Error> {
    const WHAT: &str = "dynamic section";
    let width = if class == Class::Elf32 { size_of::<Dyn32>() } else { size_of::<Dyn64>() } as u64;
    let mut entries = Vec::new();
    for index in 0..segment.size / width {
        let at = segment.offset.checked_add(index * width).ok_or(Error::Damaged(WHAT))?;
        let (tag, value) = match class {
            Class::Elf32 => {
                let entry: Dyn32 = file.get(at, WHAT)?;
                (entry.d_tag.get().into(), entry.d_val.get().into())
            }
            Class::Elf64 => {
                let entry: Dyn64 = file.get(at, WHAT)?;
                (entry.d_tag.get(), entry.d_val.get())
            }
        };
        if tag == d_tag::NULL {
            break;
        }
        if entries.len() >= DYNAMIC_MAX {
            return Err(Error::Damaged(WHAT));
        }
        entries.push((tag, value));
    }
    Ok(entries)
}

/// A file of which a few pages are kept: tables and names lie close together.
struct Pages<'a, S: ?Sized> {
    source: &'a S,
    kept: RefCell<BTreeMap<u64, Vec<u8>>>,
}

impl<S: Source + ?Sized> Pages<'_, S> {
    fn get<T: FromBytes + IntoBytes>(&self, at: u64, what: &'static str) -> Result<T, Error> {
        let mut value = T::new_zeroed();
        let buffer = value.as_mut_bytes();
        if self.fill(at, buffer)? < buffer.len() {
            return Err(Error::Damaged(what));
        }
        Ok(value)
    }

    /// As much of `buffer` as there is.
    fn fill(&self, at: u64, buffer: &mut [u8]) -> Result<usize, Error> {
        let mut filled = 0;
        while filled < buffer.len() {
            let Some(at) = at.checked_add(filled as u64) else { break };
            let rest = buffer.get_mut(filled..).unwrap_or_default();
            let count = self.with_page(at, |bytes| {
                rest.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
                rest.len().min(bytes.len())
            })?;
            if count == 0 {
                break;
            }
            filled += count;
        }
        Ok(filled)
    }

    /// Shows `look` what the page has from `at` on.
    fn with_page<T>(&self, at: u64, look: impl FnOnce(&[u8]) -> T) -> Result<T, Error> {
        let start = at - at % PAGE;
        let mut kept = self.kept.borrow_mut();
        if !kept.contains_key(&start) {
            if kept.len() >= PAGES_MAX {
                kept.clear();
            }
            let mut page = vec![0; PAGE as usize];
            let count = self.source.read_at(start, &mut page)?;
            page.truncate(count);
            kept.insert(start, page);
        }
        let page = kept.get(&start).map(Vec::as_slice).unwrap_or_default();
        Ok(look(page.get((at - start) as usize..).unwrap_or_default()))
    }

    /// The string at a place, up to its NUL byte. Names are ASCII in practice; what is no UTF-8 is replaced.
    fn string(&self, at: u64) -> Result<String, Error> {
        let damaged = || Error::Damaged("string table");
        let mut string = Vec::new();
        while string.len() < NAME_MAX {
            let at = at.checked_add(string.len() as u64).ok_or_else(damaged)?;
            let (ended, ends) = self.with_page(at, |bytes| {
                let end = bytes.iter().position(|byte| *byte == 0);
                string.extend_from_slice(bytes.get(..end.unwrap_or(bytes.len())).unwrap_or_default());
                (end.is_some(), bytes.is_empty())
            })?;
            if ended {
                return Ok(String::from_utf8_lossy(&string).into_owned());
            }
            if ends {
                break;
            }
        }
        Err(damaged())
    }
}

mod symbols;
#[cfg(test)]
mod tests;
mod texts;

pub use symbols::{Symbol, Symbols};
