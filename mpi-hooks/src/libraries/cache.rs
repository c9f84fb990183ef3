//! The dynamic loader's cache, `/etc/ld.so.cache`: which file it loads for a library's name.
//!
//! Both formats are read, alone or one behind the other: that of 1996 (`ld.so-1.7.0`), and that which glibc has had since
//! 2.2 (`glibc-ld.so.cache1.1`), with the libraries for certain processors (`glibc-hwcaps`) that came with 2.33. The second is
//! written; every glibc since 2.2 reads it alone.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use zerocopy::little_endian::{I32, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::{Abi, Class};

/// Where the loader has it.
pub const PATH: &str = "/etc/ld.so.cache";

/// Of the old format. Three bytes of padding follow it.
const OLD_MAGIC: &[u8] = b"ld.so-1.7.0";
/// Of the new format, with its version.
const MAGIC: &[u8; 20] = b"glibc-ld.so.cache1.1";
/// Of the extension of the new format.
const EXTENSION_MAGIC: u32 = 0xeaa4_2174;
/// Set in an entry's `hwcap` whose low half is an index into the list of processors' names.
const HWCAP_EXTENSION: u64 = 1 << 62;
/// Kinds of extension.
mod tag {
    pub(super) const GENERATOR: u32 = 0;
    pub(super) const HWCAPS: u32 = 1;
}
/// `cache_file_new_flags_endian_little`
const LITTLE_ENDIAN: u8 = 2;
/// Bits of the header's flags that say the order of bytes. 0 is what writers before 2.33 left: unknown.
const ENDIAN_MASK: u8 = 3;
/// Names in an extension that are looked at.
const HWCAPS_MAX: usize = 1024;

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct OldHeader {
    magic: [u8; 11],
    padding: u8,
    nlibs: U32,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct OldEntry {
    flags: I32,
    key: U32,
    value: U32,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Header {
    magic: [u8; 20],
    nlibs: U32,
    len_strings: U32,
    flags: u8,
    padding_unused: [u8; 3],
    extension_offset: U32,
    unused: [U32; 3],
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct NewEntry {
    flags: I32,
    key: U32,
    value: U32,
    osversion: U32,
    hwcap: U64,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Extension {
    magic: U32,
    count: U32,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Section {
    tag: U32,
    flags: U32,
    offset: U32,
    size: U32,
}

const _: () = assert!(size_of::<OldHeader>() == 16 && size_of::<OldEntry>() == 12);
const _: () = assert!(size_of::<Header>() == 48 && size_of::<NewEntry>() == 24);
const _: () = assert!(size_of::<Extension>() == 8 && size_of::<Section>() == 16);

/// Why a cache is not understood.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    /// It is something else.
    #[error("not a cache of the dynamic loader")]
    NotACache,
    /// It is of a machine with the other order of bytes.
    #[error("a cache of a big-endian machine")]
    BigEndian,
    /// It contradicts itself, or ends too early.
    #[error("damaged: {0}")]
    Damaged(&'static str),
}

/// One library.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The name by which programs need it.
    pub soname: OsString,
    /// The file.
    pub path: PathBuf,
    /// Its kind: which C library, which machine.
    pub flags: i32,
    /// Lowest version of the kernel, which only old loaders look at.
    pub os_version: u32,
    /// What the processor must have.
    pub needs: Processor,
}

/// On which processors a library is used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Processor {
    /// By the kernel's bits, which loaders before 2.33 look at; 0 is any.
    Bits(u64),
    /// On those of this name, a subdirectory of `glibc-hwcaps`.
    Named(OsString),
}

impl Entry {
    /// For all processors.
    #[must_use]
    pub fn new(soname: impl Into<OsString>, path: impl Into<PathBuf>, abi: Abi) -> Self {
        let flags = flags(abi).unwrap_or_default();
        Self { soname: soname.into(), path: path.into(), flags, os_version: 0, needs: Processor::Bits(0) }
    }

    /// Whether a program of this kind can use it, as far as the cache knows.
    #[must_use]
    pub fn is_for(&self, abi: Abi) -> bool {
        // A 32-bit library that needs no C library is of no known one, and entries of 32-bit Arm could once be of either
        // convention for floating-point arguments.
        let narrow = abi.class == Class::Elf32 && matches!(self.flags, ELF | ELF_LIBC6);
        narrow || flags(abi).is_some_and(|flags| self.flags == flags)
    }
}

/// `FLAG_ELF`
const ELF: i32 = 1;
/// `FLAG_ELF_LIBC6`
const ELF_LIBC6: i32 = 3;

/// What a cache says of libraries of a kind (`FLAG_*` in glibc's ldconfig.h).
fn flags(abi: Abi) -> Option<i32> {
    let required = match abi {
        Abi::I386 => 0,
        Abi::X86_64 => 0x0300,
        Abi::ARM => 0x0900,
        Abi::AARCH64 => 0x0a00,
        Abi { machine: 21, class: Class::Elf64 } => 0x0500,
        Abi { machine: 243, class: Class::Elf64 } => 0x1000,
        _ => return None,
    };
    Some(required | ELF_LIBC6)
}

/// What the loader finds without looking into directories.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cache {
    /// In the order in which the loader searches them.
    entries: Vec<Entry>,
}

fn get<T: FromBytes>(bytes: &[u8], at: usize, what: &'static str) -> Result<T, Error> {
    let end = at.checked_add(size_of::<T>());
    let part = end.and_then(|end| bytes.get(at..end)).ok_or(Error::Damaged(what))?;
    T::read_from_bytes(part).map_err(|_| Error::Damaged(what))
}

/// A table of `count` entries; there is no more of it than the file has bytes.
fn table<T: FromBytes>(bytes: &[u8], at: usize, count: u32, what: &'static str) -> Result<Vec<T>, Error> {
    let size = usize::try_from(count).ok().and_then(|count| count.checked_mul(size_of::<T>()));
    let end = size.and_then(|size| at.checked_add(size));
    let part = end.and_then(|end| bytes.get(at..end)).ok_or(Error::Damaged(what))?;
    part.chunks_exact(size_of::<T>()).map(|one| T::read_from_bytes(one).map_err(|_| Error::Damaged(what))).collect()
}

fn string(bytes: &[u8], at: u32) -> Result<OsString, Error> {
    let rest = usize::try_from(at).ok().and_then(|at| bytes.get(at..)).ok_or(Error::Damaged("a name lies outside"))?;
    let end = rest.iter().position(|byte| *byte == 0).ok_or(Error::Damaged("a name has no end"))?;
    Ok(OsString::from_vec(rest.get(..end).unwrap_or_default().to_vec()))
}

impl Cache {
    /// Reads a cache. Where both formats are there the new one counts, as it does to the loader.
    ///
    /// # Errors
    /// When it is none, or its parts do not fit together.
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        if bytes.starts_with(MAGIC) {
            return Self::parse_new(bytes, bytes);
        }
        if !bytes.starts_with(OLD_MAGIC) {
            return Err(Error::NotACache);
        }
        let header: OldHeader = get(bytes, 0, "its header is cut off")?;
        let entries: Vec<OldEntry> = table(bytes, size_of::<OldHeader>(), header.nlibs.get(), "its table is cut off")?;
        let end = size_of::<OldHeader>() + entries.len() * size_of::<OldEntry>();
        // The new part begins at a multiple of its 8-byte numbers' size, or of 4 where those are aligned so.
        for align in [8, 4] {
            if let Some(new) = bytes.get(end.next_multiple_of(align)..).filter(|new| new.starts_with(MAGIC)) {
                return Self::parse_new(bytes, new);
            }
        }
        let strings = bytes.get(end..).unwrap_or_default();
        let entry = |raw: &OldEntry| {
            Ok(Entry {
                soname: string(strings, raw.key.get())?,
                path: string(strings, raw.value.get())?.into(),
                flags: raw.flags.get(),
                os_version: 0,
                needs: Processor::Bits(0),
            })
        };
        Ok(Self { entries: entries.iter().map(entry).collect::<Result<_, _>>()? })
    }

    /// Names are at offsets from the header, the extension from the start of the file.
    fn parse_new(file: &[u8], bytes: &[u8]) -> Result<Self, Error> {
        let header: Header = get(bytes, 0, "its header is cut off")?;
        if !matches!(header.flags & ENDIAN_MASK, 0 | LITTLE_ENDIAN) {
            return Err(Error::BigEndian);
        }
        let entries: Vec<NewEntry> = table(bytes, size_of::<Header>(), header.nlibs.get(), "its table is cut off")?;
        let processors = processors(file, bytes, header.extension_offset.get())?;
        let entry = |raw: &NewEntry| {
            let hwcap = raw.hwcap.get();
            let needs = if hwcap & HWCAP_EXTENSION == 0 {
                Processor::Bits(hwcap)
            } else {
                let index = (hwcap & u64::from(u32::MAX)) as usize;
                let name = processors.get(index).ok_or(Error::Damaged("a processor's name is missing"))?;
                Processor::Named(name.clone())
            };
            Ok(Entry {
                soname: string(bytes, raw.key.get())?,
                path: string(bytes, raw.value.get())?.into(),
                flags: raw.flags.get(),
                os_version: raw.osversion.get(),
                needs,
            })
        };
        Ok(Self { entries: entries.iter().map(entry).collect::<Result<_, _>>()? })
    }

    /// All entries, in the order in which the loader searches them.
    #[must_use]
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The files that programs of this kind may get for a name, the preferred one for any processor first.
    pub fn find<'a>(&'a self, soname: &OsStr, abi: Abi) -> impl Iterator<Item = &'a Path> + use<'a> {
        let start = self.entries.partition_point(|entry| compare(&entry.soname, soname) == Ordering::Greater);
        let wanted = soname.to_owned();
        let same = self.entries.get(start..).unwrap_or_default().iter().take_while(move |entry| entry.soname == wanted);
        same.filter(move |entry| entry.is_for(abi)).map(|entry| entry.path.as_path())
    }

    /// Takes out all that `unwanted` chooses.
    pub fn remove(&mut self, unwanted: impl Fn(&Entry) -> bool) {
        self.entries.retain(|entry| !unwanted(entry));
    }

    /// Adds a library behind others of its name.
    pub fn add(&mut self, entry: Entry) {
        let at = self.entries.partition_point(|other| compare(&other.soname, &entry.soname) != Ordering::Less);
        self.entries.insert(at, entry);
    }

    /// As a file. The order is kept.
    #[must_use]
    pub fn write(&self) -> Vec<u8> {
        let mut processors: Vec<&OsStr> = Vec::new();
        for entry in &self.entries {
            if let Processor::Named(name) = &entry.needs
                && !processors.contains(&name.as_os_str())
            {
                processors.push(name);
            }
        }
        // The loader goes through them in this order.
        processors.sort();
        let strings_at = size_of::<Header>() + self.entries.len() * size_of::<NewEntry>();
        let mut strings = Strings { start: strings_at, bytes: Vec::new(), known: HashMap::new() };
        let mut table = Vec::with_capacity(strings_at);
        for entry in &self.entries {
            let (key, value) = strings.entry(entry);
            let hwcap = match &entry.needs {
                Processor::Bits(bits) => *bits,
                Processor::Named(name) => {
                    let index = processors.binary_search(&name.as_os_str()).unwrap_or_default();
                    HWCAP_EXTENSION | index as u64
                }
            };
            let raw = NewEntry {
                flags: entry.flags.into(),
                key: key.into(),
                value: value.into(),
                osversion: entry.os_version.into(),
                hwcap: hwcap.into(),
            };
            table.extend_from_slice(raw.as_bytes());
        }
        let names: Vec<u32> = processors.iter().map(|name| strings.add(name.as_bytes())).collect();
        let generator = strings.add(GENERATOR);
        let extension_at = (strings_at + strings.bytes.len()).next_multiple_of(4);
        let header = Header {
            magic: *MAGIC,
            nlibs: number(self.entries.len()).into(),
            len_strings: number(strings.bytes.len()).into(),
            flags: LITTLE_ENDIAN,
            padding_unused: [0; 3],
            extension_offset: number(extension_at).into(),
            unused: [U32::ZERO; 3],
        };
        let mut file = header.as_bytes().to_vec();
        file.extend_from_slice(&table);
        file.extend_from_slice(&strings.bytes);
        file.resize(extension_at, 0);
        file.extend_from_slice(&extension(extension_at, generator, &names));
        file
    }
}

/// What a cache says of who wrote it.
const GENERATOR: &[u8] = b"coracle";

fn extension(at: usize, generator: u32, names: &[u32]) -> Vec<u8> {
    let sections = if names.is_empty() { 1 } else { 2 };
    let mut bytes = Extension { magic: EXTENSION_MAGIC.into(), count: number(sections).into() }.as_bytes().to_vec();
    let section = |tag: u32, offset: u32, size: usize| Section {
        tag: tag.into(),
        flags: U32::ZERO,
        offset: offset.into(),
        size: number(size).into(),
    };
    bytes.extend_from_slice(section(tag::GENERATOR, generator, GENERATOR.len()).as_bytes());
    if !names.is_empty() {
        let list = at + size_of::<Extension>() + sections * size_of::<Section>();
        bytes.extend_from_slice(section(tag::HWCAPS, number(list), names.len() * 4).as_bytes());
        names.iter().for_each(|name| bytes.extend_from_slice(&name.to_le_bytes()));
    }
    bytes
}

/// The processors' names of the extension, if there is one.
fn processors(file: &[u8], names_from: &[u8], at: u32) -> Result<Vec<OsString>, Error> {
    const WHAT: &str = "its extension is cut off";
    let Some(at) = usize::try_from(at).ok().filter(|at| *at != 0) else { return Ok(Vec::new()) };
    let extension: Extension = get(file, at, WHAT)?;
    if extension.magic.get() != EXTENSION_MAGIC {
        return Err(Error::Damaged("its extension has another magic number"));
    }
    let sections: Vec<Section> = table(file, at + size_of::<Extension>(), extension.count.get(), WHAT)?;
    let Some(section) = sections.iter().find(|section| section.tag.get() == tag::HWCAPS) else { return Ok(Vec::new()) };
    let names: Vec<U32> = table(file, section.offset.get() as usize, section.size.get() / 4, WHAT)?;
    if names.len() > HWCAPS_MAX {
        return Err(Error::Damaged("it names too many processors"));
    }
    names.iter().map(|name| string(names_from, name.get())).collect()
}

/// Names and paths of a file in the making, each once.
struct Strings {
    /// Where they begin in the file.
    start: usize,
    bytes: Vec<u8>,
    known: HashMap<Vec<u8>, u32>,
}

impl Strings {
    fn add(&mut self, string: &[u8]) -> u32 {
        if let Some(known) = self.known.get(string) {
            return *known;
        }
        let at = number(self.start + self.bytes.len());
        self.bytes.extend_from_slice(string);
        self.bytes.push(0);
        self.known.insert(string.to_vec(), at);
        at
    }

    /// Name and path; the name is mostly the end of the path.
    fn entry(&mut self, entry: &Entry) -> (u32, u32) {
        let (soname, path) = (entry.soname.as_bytes(), entry.path.as_os_str().as_bytes());
        let value = self.add(path);
        let tail = path.strip_suffix(soname).map(<[u8]>::len);
        (tail.map_or_else(|| self.add(soname), |tail| value + number(tail)), value)
    }
}

/// A size of what is in memory anyway, and was made of files of a few megabytes at most.
fn number(size: usize) -> u32 {
    u32::try_from(size).unwrap_or(u32::MAX)
}

/// The loader's order of names, in which it searches a cache from the greatest down: digits count as numbers, and come
/// after all else.
pub fn compare(one: &OsStr, other: &OsStr) -> Ordering {
    let (mut one, mut other) = (one.as_bytes(), other.as_bytes());
    loop {
        let digits = |text: &[u8]| text.iter().take_while(|byte| byte.is_ascii_digit()).count();
        let (ones, others) = (digits(one), digits(other));
        let order = match (ones, others) {
            (0, 0) => match (one.split_first(), other.split_first()) {
                (Some((a, rest)), Some((b, rest_of_other))) if a == b => {
                    (one, other) = (rest, rest_of_other);
                    continue;
                }
                (a, b) => a.map(|(byte, _)| *byte).cmp(&b.map(|(byte, _)| *byte)),
            },
            (0, _) => Ordering::Less,
            (_, 0) => Ordering::Greater,
            _ => {
                let (a, rest) = one.split_at(ones);
                let (b, rest_of_other) = other.split_at(others);
                (one, other) = (rest, rest_of_other);
                match value(a).cmp(&value(b)) {
                    Ordering::Equal => continue,
                    order => order,
                }
            }
        };
        return order;
    }
}

/// As the loader computes it, in 32 bits.
fn value(digits: &[u8]) -> i32 {
    digits.iter().fold(0, |value: i32, digit| value.wrapping_mul(10).wrapping_add(i32::from(digit - b'0')))
}

#[cfg(test)]
mod tests;
