use std::process::Command;

use super::*;
use crate::repeatable::numbers;

fn names(cache: &Cache) -> Vec<&str> {
    cache.entries().iter().map(|entry| entry.soname.to_str().unwrap()).collect()
}

fn sample() -> Cache {
    let mut cache = Cache::default();
    for (soname, path, abi) in [
        ("libc.so.6", "/lib64/libc.so.6", Abi::X86_64),
        ("libz.so.1", "/lib64/libz.so.1", Abi::X86_64),
        ("libz.so.1", "/lib/libz.so.1", Abi::I386),
        ("libfoo.so.9", "/opt/libfoo.so.9.1", Abi::X86_64),
        ("libfoo.so.10", "/opt/libfoo.so.10", Abi::X86_64),
    ] {
        cache.add(Entry::new(soname, path, abi));
    }
    let named = |name: &str| Processor::Named(name.into());
    cache.add(Entry { needs: named("x86-64-v3"), ..Entry::new("libz.so.1", "/lib64/v3/libz.so.1", Abi::X86_64) });
    cache.add(Entry { needs: named("x86-64-v2"), ..Entry::new("libz.so.1", "/lib64/v2/libz.so.1", Abi::X86_64) });
    cache.add(Entry { needs: Processor::Bits(7), os_version: 3, ..Entry::new("liba.so", "/a", Abi::AARCH64) });
    cache
}

#[test]
fn what_is_written_is_read() {
    let cache = sample();
    assert_eq!(Cache::parse(&cache.write()), Ok(cache));
    assert_eq!(Cache::parse(&Cache::default().write()), Ok(Cache::default()));
}

#[test]
fn names_are_in_the_loaders_order_and_found() {
    let mut cache = sample();
    let order =
        ["libz.so.1", "libz.so.1", "libz.so.1", "libz.so.1", "libfoo.so.10", "libfoo.so.9", "libc.so.6", "liba.so"];
    assert_eq!(names(&cache), order);
    let find = |cache: &Cache, name: &str, abi| {
        cache.find(OsStr::new(name), abi).map(|path| path.to_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(
        find(&cache, "libz.so.1", Abi::X86_64),
        ["/lib64/libz.so.1", "/lib64/v3/libz.so.1", "/lib64/v2/libz.so.1"]
    );
    assert_eq!(find(&cache, "libz.so.1", Abi::I386), ["/lib/libz.so.1"]);
    assert_eq!(find(&cache, "libfoo.so.9", Abi::X86_64), ["/opt/libfoo.so.9.1"]);
    assert!(find(&cache, "libfoo.so", Abi::X86_64).is_empty());
    cache.remove(|entry| entry.soname == "libz.so.1" && entry.is_for(Abi::X86_64));
    assert_eq!(find(&cache, "libz.so.1", Abi::X86_64), Vec::<String>::new());
    assert_eq!(find(&cache, "libz.so.1", Abi::I386).len(), 1);
}

#[test]
fn the_order_is_that_of_the_loader() {
    let cmp = |a: &str, b: &str| compare(OsStr::new(a), OsStr::new(b));
    assert_eq!(cmp("libfoo.so.10", "libfoo.so.9"), Ordering::Greater);
    assert_eq!(cmp("liba.so.1", "liba.so"), Ordering::Greater);
    assert_eq!(cmp("lib2.so", "liba.so"), Ordering::Greater, "digits come after letters");
    assert_eq!(cmp("lib01", "lib1"), Ordering::Equal);
    assert_eq!(cmp("x", "x"), Ordering::Equal);
    assert_eq!(cmp("x1", "x"), Ordering::Greater);
}

#[test]
fn the_old_format_is_read() {
    let strings = b"libold.so.1\0/lib/libold.so.1\0";
    let mut bytes =
        OldHeader { magic: OLD_MAGIC.try_into().unwrap(), padding: 0, nlibs: U32::new(1) }.as_bytes().to_vec();
    bytes.extend(OldEntry { flags: I32::new(3), key: U32::ZERO, value: U32::new(12) }.as_bytes());
    let mut alone = bytes.clone();
    alone.extend_from_slice(strings);
    let cache = Cache::parse(&alone).unwrap();
    assert_eq!(cache.entries(), [Entry::new("libold.so.1", "/lib/libold.so.1", Abi::I386)]);
    // With the new format behind it, which counts. The table ends at 28.
    for padding in [0, 4] {
        let mut both = bytes.clone();
        both.resize(both.len() + padding, 0);
        // The extension's places are counted from the start of the file.
        let shift = u32::try_from(both.len()).unwrap();
        let mut new = sample().write();
        let number = |bytes: &[u8], at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
        let extension = number(&new, 32) as usize;
        for at in [32, extension + 8 + 8, extension + 8 + 16 + 8] {
            let moved = number(&new, at) + shift;
            new[at..at + 4].copy_from_slice(&moved.to_le_bytes());
        }
        both.extend(new);
        assert_eq!(Cache::parse(&both), Ok(sample()));
    }
}

#[test]
fn this_hosts_cache_survives() {
    let Ok(bytes) = std::fs::read(PATH) else { return };
    let cache = Cache::parse(&bytes).unwrap();
    assert!(cache.find(OsStr::new("libc.so.6"), Abi::OWN).next().is_some());
    let written = cache.write();
    assert_eq!(Cache::parse(&written).unwrap(), cache);
    // What the real reader says of both.
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), &written).unwrap();
    let list = |path: &Path| {
        let output = ["/sbin/ldconfig", "/usr/sbin/ldconfig"]
            .iter()
            .find_map(|program| Command::new(program).arg("-p").arg("-C").arg(path).output().ok())?;
        let text = String::from_utf8(output.stdout).unwrap();
        Some(text.lines().filter(|line| line.contains("=>")).map(str::to_owned).collect::<Vec<_>>())
    };
    let Some(listed) = list(file.path()) else { return };
    assert!(!listed.is_empty());
    assert_eq!(Some(listed), list(Path::new(PATH)));
}

#[test]
fn damage_is_survived() {
    let whole = sample().write();
    for length in 0..whole.len() {
        let _ = Cache::parse(&whole[..length]);
    }
    assert_eq!(Cache::parse(b"#!/bin/sh"), Err(Error::NotACache));
    assert!(matches!(Cache::parse(&whole[..60]), Err(Error::Damaged(_))));
    let mut number = numbers();
    for _ in 0..20_000 {
        let mut bytes = whole.clone();
        for _ in 0..=number(4) {
            let at = number(bytes.len());
            bytes[at] = number(256) as u8;
        }
        if let Ok(cache) = Cache::parse(&bytes) {
            let _ = cache.find(OsStr::new("libz.so.1"), Abi::X86_64).count();
            assert_eq!(Cache::parse(&cache.write()).unwrap().entries().len(), cache.entries().len());
        }
    }
    // A table that claims to be larger than any file.
    let mut bytes = whole;
    bytes[20..24].copy_from_slice(&u32::MAX.to_le_bytes());
    assert_eq!(Cache::parse(&bytes), Err(Error::Damaged("its table is cut off")));
}
