//! The parts of an ELF file that lead to its dynamic section, as the specification lays them out, little-endian.

#![allow(missing_docs, reason = "the names are the specification's, and so is what they mean")]

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Ehdr64 {
    pub e_ident: [u8; 16],
    pub e_type: U16,
    pub e_machine: U16,
    pub e_version: U32,
    pub e_entry: U64,
    pub e_phoff: U64,
    pub e_shoff: U64,
    pub e_flags: U32,
    pub e_ehsize: U16,
    pub e_phentsize: U16,
    pub e_phnum: U16,
    pub e_shentsize: U16,
    pub e_shnum: U16,
    pub e_shstrndx: U16,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Ehdr32 {
    pub e_ident: [u8; 16],
    pub e_type: U16,
    pub e_machine: U16,
    pub e_version: U32,
    pub e_entry: U32,
    pub e_phoff: U32,
    pub e_shoff: U32,
    pub e_flags: U32,
    pub e_ehsize: U16,
    pub e_phentsize: U16,
    pub e_phnum: U16,
    pub e_shentsize: U16,
    pub e_shnum: U16,
    pub e_shstrndx: U16,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Phdr64 {
    pub p_type: U32,
    pub p_flags: U32,
    pub p_offset: U64,
    pub p_vaddr: U64,
    pub p_paddr: U64,
    pub p_filesz: U64,
    pub p_memsz: U64,
    pub p_align: U64,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Phdr32 {
    pub p_type: U32,
    pub p_offset: U32,
    pub p_vaddr: U32,
    pub p_paddr: U32,
    pub p_filesz: U32,
    pub p_memsz: U32,
    pub p_flags: U32,
    pub p_align: U32,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Dyn64 {
    pub d_tag: U64,
    pub d_val: U64,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Dyn32 {
    pub d_tag: U32,
    pub d_val: U32,
}

/// A library whose versions are needed.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Verneed {
    pub vn_version: U16,
    pub vn_cnt: U16,
    pub vn_file: U32,
    pub vn_aux: U32,
    pub vn_next: U32,
}

/// A version of it.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Vernaux {
    pub vna_hash: U32,
    pub vna_flags: U16,
    pub vna_other: U16,
    pub vna_name: U32,
    pub vna_next: U32,
}

/// A version that is defined.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Verdef {
    pub vd_version: U16,
    pub vd_flags: U16,
    pub vd_ndx: U16,
    pub vd_cnt: U16,
    pub vd_hash: U32,
    pub vd_aux: U32,
    pub vd_next: U32,
}

/// Its name.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Verdaux {
    pub vda_name: U32,
    pub vda_next: U32,
}

const _: () = assert!(size_of::<Ehdr64>() == 64 && size_of::<Phdr64>() == 56 && size_of::<Dyn64>() == 16);
const _: () = assert!(size_of::<Ehdr32>() == 52 && size_of::<Phdr32>() == 32 && size_of::<Dyn32>() == 8);
const _: () = assert!(size_of::<Verneed>() == 16 && size_of::<Vernaux>() == 16);
const _: () = assert!(size_of::<Verdef>() == 20 && size_of::<Verdaux>() == 8);

/// Kinds of segments.
pub mod p_type {
    pub const LOAD: u32 = 1;
    pub const DYNAMIC: u32 = 2;
    pub const INTERP: u32 = 3;
}

/// `PF_X`: a segment's bytes are instructions.
pub const EXECUTABLE: u32 = 1;

/// Entries of the dynamic section.
pub mod d_tag {
    pub const NULL: u64 = 0;
    pub const NEEDED: u64 = 1;
    pub const PLTRELSZ: u64 = 2;
    pub const HASH: u64 = 4;
    pub const STRTAB: u64 = 5;
    pub const SYMTAB: u64 = 6;
    pub const RELA: u64 = 7;
    pub const RELASZ: u64 = 8;
    pub const STRSZ: u64 = 10;
    pub const INIT: u64 = 12;
    pub const SONAME: u64 = 14;
    pub const RPATH: u64 = 15;
    pub const JMPREL: u64 = 23;
    pub const RUNPATH: u64 = 29;
    pub const GNU_HASH: u64 = 0x6fff_fef5;
    pub const VERSYM: u64 = 0x6fff_fff0;
    pub const VERDEF: u64 = 0x6fff_fffc;
    pub const VERDEFNUM: u64 = 0x6fff_fffd;
    pub const VERNEED: u64 = 0x6fff_fffe;
    pub const VERNEEDNUM: u64 = 0x6fff_ffff;
}

/// `VER_FLG_BASE`: the version is the file's own name.
pub const VERSION_BASE: u16 = 1;
/// `VER_FLG_WEAK`: the loader does not insist on it.
pub const VERSION_WEAK: u16 = 2;
