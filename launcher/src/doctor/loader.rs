//! The dynamic loader's cache, `/etc/ld.so.cache` (glibc's `sysdeps/generic/dl-cache.h`): which libraries there are, by
//! `SONAME`, without searching directories.

use std::path::PathBuf;

use zerocopy::FromBytes;
use zerocopy::little_endian::{U32, U64};

const MAGIC: &[u8] = b"glibc-ld.so.cache1.1";

#[derive(FromBytes, zerocopy::KnownLayout, zerocopy::Immutable)]
#[repr(C)]
struct Header {
    magic: [u8; 20],
    libraries: U32,
    string_bytes: U32,
    flags: [u8; 4],
    extension: U32,
    unused: [U32; 3],
}

const _: () = assert!(size_of::<Header>() == 48);

#[derive(FromBytes, zerocopy::KnownLayout, zerocopy::Immutable)]
#[repr(C)]
struct Entry {
    flags: U32,
    name: U32,
    path: U32,
    os_version: U32,
    hardware: U64,
}

const _: () = assert!(size_of::<Entry>() == 24);

/// Names and paths of all libraries, in the cache's order; empty when it is none.
pub(super) fn libraries(cache: &[u8]) -> Vec<(String, PathBuf)> {
    // Older glibc puts a table of another form in front. Offsets count from the newer header.
    let Some(start) = cache.windows(MAGIC.len()).position(|bytes| bytes == MAGIC) else { return Vec::new() };
    let cache = cache.get(start..).unwrap_or_default();
    let Ok((header, mut rest)) = Header::read_from_prefix(cache) else { return Vec::new() };
    let text = |offset: U32| {
        let bytes = cache.get(usize::try_from(offset.get()).ok()?..)?;
        let end = bytes.iter().position(|byte| *byte == 0)?;
        std::str::from_utf8(bytes.get(..end)?).ok().map(str::to_owned)
    };
    let mut found = Vec::new();
    for _ in 0..header.libraries.get() {
        let Ok((entry, after)) = Entry::read_from_prefix(rest) else { break };
        rest = after;
        found.extend(text(entry.name).zip(text(entry.path).map(PathBuf::from)));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cache(entries: &[(&str, &str)]) -> Vec<u8> {
        let mut strings = Vec::new();
        let mut table = Vec::new();
        let base = size_of::<Header>() + entries.len() * size_of::<Entry>();
        let mut put = |text: &str| {
            let at = u32::try_from(base + strings.len()).unwrap();
            strings.extend(text.as_bytes());
            strings.push(0);
            at.to_le_bytes()
        };
        for (name, path) in entries {
            table.extend([3, 3, 0, 0]);
            table.extend(put(name));
            table.extend(put(path));
            table.extend([0; 12]);
        }
        let mut cache = MAGIC.to_vec();
        cache.extend(u32::try_from(entries.len()).unwrap().to_le_bytes());
        cache.extend([0; 24]);
        [cache, table, strings].concat()
    }

    #[test]
    fn libraries_are_read_by_name() {
        let entries = [("libmpi.so.40", "/usr/lib/libmpi.so.40"), ("libc.so.6", "/lib/libc.so.6")];
        let bytes = cache(&entries);
        let expected = entries.map(|(name, path)| (name.to_owned(), PathBuf::from(path)));
        assert_eq!(libraries(&bytes), expected);
        assert_eq!(libraries(&[b"ld.so-1.7.0....".as_slice(), &bytes].concat()), expected, "behind an old table");
    }

    #[test]
    fn damage_is_no_panic() {
        let bytes = cache(&[("libmpi.so.40", "/usr/lib/libmpi.so.40")]);
        for length in 0..bytes.len() {
            assert!(libraries(&bytes[..length]).is_empty(), "{length}");
        }
        for at in 20..bytes.len() {
            let mut bytes = bytes.clone();
            bytes[at] = 0xff;
            let _ = libraries(&bytes);
        }
        assert!(libraries(b"").is_empty());
    }
}
