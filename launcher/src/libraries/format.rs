//! The parts of an ELF file that lead to its dynamic section, as the specification lays them out, little-endian.

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct Ehdr64 {
    pub(crate) e_ident: [u8; 16],
    pub(crate) e_type: U16,
    pub(crate) e_machine: U16,
    pub(crate) e_version: U32,
    pub(crate) e_entry: U64,
    pub(crate) e_phoff: U64,
    pub(crate) e_shoff: U64,
    pub(crate) e_flags: U32,
    pub(crate) e_ehsize: U16,
    pub(crate) e_phentsize: U16,
    pub(crate) e_phnum: U16,
    pub(crate) e_shentsize: U16,
    pub(crate) e_shnum: U16,
    pub(crate) e_shstrndx: U16,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(super) struct Ehdr32 {
    pub(super) e_ident: [u8; 16],
    pub(super) e_type: U16,
    pub(super) e_machine: U16,
    pub(super) e_version: U32,
    pub(super) e_entry: U32,
    pub(super) e_phoff: U32,
    pub(super) e_shoff: U32,
    pub(super) e_flags: U32,
    pub(super) e_ehsize: U16,
    pub(super) e_phentsize: U16,
    pub(super) e_phnum: U16,
    pub(super) e_shentsize: U16,
    pub(super) e_shnum: U16,
    pub(super) e_shstrndx: U16,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct Phdr64 {
    pub(crate) p_type: U32,
    pub(crate) p_flags: U32,
    pub(crate) p_offset: U64,
    pub(crate) p_vaddr: U64,
    pub(crate) p_paddr: U64,
    pub(crate) p_filesz: U64,
    pub(crate) p_memsz: U64,
    pub(crate) p_align: U64,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(super) struct Phdr32 {
    pub(super) p_type: U32,
    pub(super) p_offset: U32,
    pub(super) p_vaddr: U32,
    pub(super) p_paddr: U32,
    pub(super) p_filesz: U32,
    pub(super) p_memsz: U32,
    pub(super) p_flags: U32,
    pub(super) p_align: U32,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct Dyn64 {
    pub(crate) d_tag: U64,
    pub(crate) d_val: U64,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(super) struct Dyn32 {
    pub(super) d_tag: U32,
    pub(super) d_val: U32,
}

/// A library whose versions are needed.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(super) struct Verneed {
    pub(super) vn_version: U16,
    pub(super) vn_cnt: U16,
    pub(super) vn_file: U32,
    pub(super) vn_aux: U32,
    pub(super) vn_next: U32,
}

/// A version of it.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(super) struct Vernaux {
    pub(super) vna_hash: U32,
    pub(super) vna_flags: U16,
    pub(super) vna_other: U16,
    pub(super) vna_name: U32,
    pub(super) vna_next: U32,
}

/// A version that is defined.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(super) struct Verdef {
    pub(super) vd_version: U16,
    pub(super) vd_flags: U16,
    pub(super) vd_ndx: U16,
    pub(super) vd_cnt: U16,
    pub(super) vd_hash: U32,
    pub(super) vd_aux: U32,
    pub(super) vd_next: U32,
}

/// Its name.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(super) struct Verdaux {
    pub(super) vda_name: U32,
    pub(super) vda_next: U32,
}

const _: () = assert!(size_of::<Ehdr64>() == 64 && size_of::<Phdr64>() == 56 && size_of::<Dyn64>() == 16);
const _: () = assert!(size_of::<Ehdr32>() == 52 && size_of::<Phdr32>() == 32 && size_of::<Dyn32>() == 8);
const _: () = assert!(size_of::<Verneed>() == 16 && size_of::<Vernaux>() == 16);
const _: () = assert!(size_of::<Verdef>() == 20 && size_of::<Verdaux>() == 8);

/// Kinds of segments.
pub(crate) mod p_type {
    pub(crate) const LOAD: u32 = 1;
    pub(crate) const DYNAMIC: u32 = 2;
    pub(crate) const INTERP: u32 = 3;
}

/// Entries of the dynamic section.
pub(crate) mod d_tag {
    pub(crate) const NULL: u64 = 0;
    pub(crate) const NEEDED: u64 = 1;
    pub(crate) const PLTRELSZ: u64 = 2;
    pub(crate) const STRTAB: u64 = 5;
    pub(crate) const SYMTAB: u64 = 6;
    pub(crate) const RELA: u64 = 7;
    pub(crate) const RELASZ: u64 = 8;
    pub(crate) const STRSZ: u64 = 10;
    pub(crate) const INIT: u64 = 12;
    pub(crate) const SONAME: u64 = 14;
    pub(crate) const RPATH: u64 = 15;
    pub(crate) const JMPREL: u64 = 23;
    pub(crate) const RUNPATH: u64 = 29;
    pub(crate) const GNU_HASH: u64 = 0x6fff_fef5;
    pub(crate) const VERSYM: u64 = 0x6fff_fff0;
    pub(crate) const VERDEF: u64 = 0x6fff_fffc;
    pub(crate) const VERDEFNUM: u64 = 0x6fff_fffd;
    pub(crate) const VERNEED: u64 = 0x6fff_fffe;
    pub(crate) const VERNEEDNUM: u64 = 0x6fff_ffff;
}

/// `VER_FLG_BASE`: the version is the file's own name.
pub(super) const VERSION_BASE: u16 = 1;
/// `VER_FLG_WEAK`: the loader does not insist on it.
pub(super) const VERSION_WEAK: u16 = 2;
