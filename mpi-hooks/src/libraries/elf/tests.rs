use std::path::PathBuf;
use std::process::Command;

use super::*;
use crate::repeatable::numbers;

#[test]
fn this_program_is_understood() {
    let elf = Elf::open(Path::new("/proc/self/exe")).unwrap();
    assert_eq!(elf.abi, Abi::OWN);
    assert!(elf.needed.iter().any(|name| name.starts_with("libc.")), "{elf:?}");
    assert!(elf.needs.values().flatten().any(|version| version.starts_with("GLIBC_2.")), "{elf:?}");
    assert!(elf.interpreter.unwrap().starts_with("/lib"));
    assert_eq!((elf.soname, elf.defines), (None, Vec::new()));
}

/// A library with all that is looked for; `None` where there is no compiler.
fn library(directory: &Path, more: &[&str]) -> Option<PathBuf> {
    std::fs::write(directory.join("v.map"), "ONE_1.0 { global: one; local: *; };\nONE_2.0 { global: two; } ONE_1.0;\n")
        .unwrap();
    let source = "#include <stdio.h>\nint one(void) { return 1; }\nint two(void) { return printf(\"2\"); }\n";
    std::fs::write(directory.join("one.c"), source).unwrap();
    let file = directory.join("libone.so.1.2");
    let mut command = Command::new("gcc");
    command.current_dir(directory).args(["-shared", "-fPIC", "-Wl,-soname,libone.so.1", "-Wl,--version-script,v.map"]);
    command.args(["-Wl,-rpath,/opt/one:$ORIGIN"]).args(more).args(["-o", "libone.so.1.2", "one.c"]);
    command.output().is_ok_and(|output| output.status.success()).then_some(file)
}

#[test]
fn a_library_says_what_it_is() {
    let directory = tempfile::tempdir().unwrap();
    let Some(file) = library(directory.path(), &["-Wl,--enable-new-dtags"]) else { return };
    let elf = Elf::open(&file).unwrap();
    assert_eq!(elf.soname.as_deref(), Some("libone.so.1"));
    assert_eq!(elf.defines, ["ONE_1.0", "ONE_2.0"]);
    assert_eq!((elf.rpath.as_deref(), elf.runpath.as_deref()), (None, Some("/opt/one:$ORIGIN")));
    assert_eq!(elf.needed, ["libc.so.6"]);
    assert_eq!(elf.needs.keys().collect::<Vec<_>>(), ["libc.so.6"]);
    let file = library(directory.path(), &["-Wl,--disable-new-dtags"]).unwrap();
    let elf = Elf::open(&file).unwrap();
    assert_eq!((elf.rpath.as_deref(), elf.runpath), (Some("/opt/one:$ORIGIN"), None));
}

#[test]
fn the_c_library_defines_what_it_should() {
    let cache = std::fs::read(crate::libraries::cache::PATH).unwrap_or_default();
    let Ok(cache) = crate::libraries::cache::Cache::parse(&cache) else { return };
    let Some(path) = cache.find(std::ffi::OsStr::new("libc.so.6"), Abi::OWN).next() else { return };
    let elf = Elf::open(path).unwrap();
    assert_eq!(elf.soname.as_deref(), Some("libc.so.6"));
    for version in ["GLIBC_2.17", "GLIBC_PRIVATE"] {
        assert!(elf.defines.iter().any(|defined| defined == version), "{version}: {:?}", elf.defines);
    }
}

#[test]
fn other_files_are_refused() {
    let read = |bytes: &[u8]| Elf::read(bytes);
    assert!(matches!(read(b""), Err(Error::NotElf)));
    assert!(matches!(read(b"#!/bin/sh\nexit 0\n"), Err(Error::NotElf)));
    assert!(matches!(read(b"\x7fELF\x02\x02\x01\0\0\0\0\0\0\0\0\0"), Err(Error::Unsupported(_))));
    assert!(matches!(read(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0"), Err(Error::Damaged("header"))));
}

#[test]
fn damage_is_survived() {
    let directory = tempfile::tempdir().unwrap();
    let file = library(directory.path(), &[]).unwrap_or_else(|| "/proc/self/exe".into());
    let mut whole = std::fs::read(file).unwrap();
    whole.truncate(1 << 16);
    for length in (0..whole.len()).step_by(29) {
        let _ = Elf::read(&whole[..length]);
    }
    let mut number = numbers();
    let mut understood = 0;
    for round in 0..20_000 {
        let mut bytes = whole.clone();
        // The first kilobyte has the headers; the tables follow soon.
        let until = if round % 2 == 0 { 1024.min(bytes.len()) } else { bytes.len() };
        for _ in 0..=number(8) {
            let at = number(until);
            bytes[at] = [0, 1, 0xff, number(256) as u8][number(4)];
        }
        understood += usize::from(Elf::read(&bytes[..]).is_ok());
    }
    assert!(understood > 100, "{understood}");
    for _ in 0..2000 {
        let mut bytes: Vec<u8> = (0..number(4096)).map(|_| number(256) as u8).collect();
        let head = b"\x7fELF\x02\x01";
        let count = head.len().min(bytes.len());
        bytes[..count].copy_from_slice(&head[..count]);
        let _ = Elf::read(&bytes[..]);
    }
}

#[test]
fn lists_that_go_round_in_circles_end() {
    let directory = tempfile::tempdir().unwrap();
    let Some(file) = library(directory.path(), &[]) else { return };
    let whole = std::fs::read(file).unwrap();
    // Each version's "next" is where a 20 (size of an entry and its name, 28) stands: make all small numbers go nowhere.
    for value in [20_u32, 28, 16, 32] {
        let mut bytes = whole.clone();
        for at in (0..bytes.len() - 4).step_by(4) {
            if bytes[at..at + 4] == value.to_le_bytes() {
                bytes[at..at + 4].copy_from_slice(&0_u32.to_le_bytes());
            }
        }
        let _ = Elf::read(&bytes[..]);
    }
}
