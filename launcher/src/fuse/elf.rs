//! What the kernel and the dynamic loader read of an ELF file before its program runs.
//!
//! Only 64-bit little-endian files are understood, of which nearly all images are made. The result is a guess about
//! what will be read, so a file that is damaged, or made to mislead, costs some reading and nothing else.

use std::ops::Range;

use zerocopy::{FromBytes, IntoBytes};

use crate::libraries::{Dyn64 as Dyn, Ehdr64 as Ehdr, Phdr64 as Phdr, d_tag, p_type};

/// Program headers that are looked at; usual files have a dozen.
const HEADERS_MAX: u16 = 64;
/// Bytes of the dynamic section that are looked at.
const DYNAMIC_MAX: usize = 4096;
/// Libraries of one file that are followed.
const NEEDED_MAX: usize = 64;
/// Bytes of a path or name.
const NAME_MAX: usize = 4096;
/// Bytes of one table that are expected to be read.
const TABLE_MAX: u64 = 1 << 20;
/// Around places of which only the start is known.
const AROUND: u64 = 4096;

/// `PF_W`
const WRITABLE: u32 = 2;

/// What a file says of its start.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Elf {
    /// `e_machine`
    pub(super) machine: u16,
    /// Path of the dynamic loader.
    pub(super) interpreter: Option<Vec<u8>>,
    /// Names of libraries.
    pub(super) needed: Vec<Vec<u8>>,
    /// Where those are looked for first, separated by colons.
    pub(super) runpath: Option<Vec<u8>>,
    /// Parts of the file that are read before the program runs.
    pub(super) touched: Vec<Range<u64>>,
}

/// Fills a buffer from a place in the file; `None` when it ends before or cannot be read.
pub(super) type Read<'a> = &'a dyn Fn(u64, &mut [u8]) -> Option<()>;

fn get<T: FromBytes + IntoBytes>(read: Read<'_>, at: u64) -> Option<T> {
    let mut value = T::new_zeroed();
    read(at, value.as_mut_bytes())?;
    Some(value)
}

impl Elf {
    /// Reads what matters of a file; `None` if it is no ELF file, or not one of this kind.
    pub(super) fn read(read: Read<'_>) -> Option<Self> {
        let header: Ehdr = get(read, 0)?;
        // 64 bits, little-endian.
        if !header.e_ident.starts_with(b"\x7fELF\x02\x01") || header.e_phentsize.get() as usize != size_of::<Phdr>() {
            return None;
        }
        let mut elf = Self { machine: header.e_machine.get(), ..Self::default() };
        elf.touched.push(0..AROUND);
        let segments: Vec<Phdr> = (0..header.e_phnum.get().min(HEADERS_MAX))
            .map_while(|index| get(read, header.e_phoff.get().checked_add(u64::from(index) * 56)?))
            .collect();
        let entry = offset_of(&segments, header.e_entry.get());
        elf.touched.extend(entry.and_then(|entry| range(entry, AROUND)));
        for segment in &segments {
            match segment.p_type.get() {
                p_type::INTERP => elf.interpreter = string(read, segment.p_offset.get()),
                p_type::DYNAMIC => elf.read_dynamic(read, &segments, segment),
                // Relocations are made here.
                p_type::LOAD if segment.p_flags.get() & WRITABLE != 0 => {
                    elf.touched.extend(range(segment.p_offset.get(), segment.p_filesz.get()));
                }
                _ => {}
            }
        }
        Some(elf)
    }

    fn read_dynamic(&mut self, read: Read<'_>, segments: &[Phdr], dynamic: &Phdr) {
        let (start, size) = (dynamic.p_offset.get(), (dynamic.p_filesz.get() as usize).min(DYNAMIC_MAX));
        let mut entries = vec![0; size];
        if read(start, &mut entries).is_none() {
            return;
        }
        let entries: Vec<(u64, u64)> = entries
            .chunks_exact(size_of::<Dyn>())
            .filter_map(|entry| Dyn::read_from_bytes(entry).ok())
            .map(|entry| (entry.d_tag.get(), entry.d_val.get()))
            .take_while(|(tag, _)| *tag != d_tag::NULL)
            .collect();
        let value = |tag| entries.iter().find(|(of, _)| *of == tag).map(|(_, value)| *value);
        let place = |tag| value(tag).and_then(|address| offset_of(segments, address));
        self.touched.extend(range(start, size as u64));
        if let Some(strings) = place(d_tag::STRTAB) {
            let name = |value: u64| string(read, strings.checked_add(value)?);
            let needed = entries.iter().filter(|(tag, _)| *tag == d_tag::NEEDED).take(NEEDED_MAX);
            self.needed = needed.filter_map(|(_, value)| name(*value)).collect();
            self.runpath = value(d_tag::RUNPATH).or_else(|| value(d_tag::RPATH)).and_then(name);
        }
        for (table, size) in [
            (d_tag::GNU_HASH, None),
            (d_tag::SYMTAB, None),
            (d_tag::VERSYM, None),
            (d_tag::INIT, None),
            (d_tag::STRTAB, value(d_tag::STRSZ)),
            (d_tag::RELA, value(d_tag::RELASZ)),
            (d_tag::JMPREL, value(d_tag::PLTRELSZ)),
        ] {
            self.touched.extend(place(table).and_then(|start| range(start, size.unwrap_or(AROUND))));
        }
    }
}

fn range(start: u64, size: u64) -> Option<Range<u64>> {
    Some(start..start.checked_add(size.min(TABLE_MAX))?)
}

/// Where in the file an address is.
fn offset_of(segments: &[Phdr], address: u64) -> Option<u64> {
    let loaded = segments.iter().filter(|segment| segment.p_type.get() == p_type::LOAD);
    loaded
        .filter_map(|segment| Some((address.checked_sub(segment.p_vaddr.get())?, segment)))
        .find(|(within, segment)| *within < segment.p_filesz.get())
        .and_then(|(within, segment)| segment.p_offset.get().checked_add(within))
}

/// The string at a place of the file, up to its NUL byte.
fn string(read: Read<'_>, at: u64) -> Option<Vec<u8>> {
    let mut string = Vec::new();
    while string.len() < NAME_MAX {
        let at = at.checked_add(string.len() as u64)?;
        // By one where the file ends soon.
        let mut part = [0; 32];
        let part = if read(at, &mut part).is_some() { &part[..] } else { &[get::<u8>(read, at)?] };
        match part.iter().position(|byte| *byte == 0) {
            Some(end) => {
                string.extend_from_slice(part.get(..end)?);
                return Some(string);
            }
            None => string.extend_from_slice(part),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_bytes(bytes: &[u8]) -> Option<Elf> {
        Elf::read(&|at, buffer| {
            let start = usize::try_from(at).ok()?;
            buffer.copy_from_slice(bytes.get(start..start.checked_add(buffer.len())?)?);
            Some(())
        })
    }

    #[test]
    fn this_program_is_understood() {
        let elf = read_bytes(&std::fs::read("/proc/self/exe").unwrap()).unwrap();
        assert!(elf.needed.iter().any(|name| name.starts_with(b"libc.")), "{:?}", elf.needed);
        assert!(elf.interpreter.unwrap().starts_with(b"/lib"));
        assert!(elf.touched.len() > 5);
    }

    #[test]
    fn damage_is_survived() {
        let mut whole = std::fs::read("/proc/self/exe").unwrap();
        whole.truncate(1 << 16);
        for length in (0..whole.len()).step_by(97) {
            let _ = read_bytes(&whole[..length]);
        }
        for at in 0..1000 {
            let mut bytes = whole.clone();
            bytes[at] ^= 0xff;
            let _ = read_bytes(&bytes);
        }
        assert_eq!(read_bytes(b"#!/bin/sh\n"), None);
    }
}
