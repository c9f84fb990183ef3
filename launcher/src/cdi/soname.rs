//! The SONAME of a library: the name by which programs ask the loader for it.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Bytes of the dynamic section, and of all that is read at once.
const PART_MAX: u64 = 64 << 10;
/// Program headers that are looked at.
const HEADERS_MAX: u64 = 128;
const PT_LOAD: u64 = 1;
const PT_DYNAMIC: u64 = 2;
const DT_NULL: u64 = 0;
const DT_STRTAB: u64 = 5;
const DT_SONAME: u64 = 14;

/// Reads it; `None` when the file is no library, has none, or cannot be read.
pub(super) fn of_file(path: &Path) -> Option<String> {
    Elf { file: File::open(path).ok()?, wide: true }.soname()
}

/// A little-endian file; `wide` when it is of 64 bits.
struct Elf {
    file: File,
    wide: bool,
}

impl Elf {
    fn bytes(&self, at: u64, length: u64) -> Option<Vec<u8>> {
        let mut bytes = vec![0; usize::try_from(length.min(PART_MAX)).ok()?];
        let mut read = 0;
        while let Some(rest) = bytes.get_mut(read..).filter(|rest| !rest.is_empty()) {
            match self.file.read_at(rest, at.checked_add(read as u64)?) {
                Ok(0) => break,
                Ok(more) => read += more,
                Err(_) => return None,
            }
        }
        bytes.truncate(read);
        Some(bytes)
    }

    /// The number of `size` bytes at `at`.
    fn number(bytes: &[u8], at: u64, size: u64) -> Option<u64> {
        let at = usize::try_from(at).ok()?;
        let part = bytes.get(at..at.checked_add(usize::try_from(size).ok()?)?)?;
        Some(part.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte)))
    }

    fn soname(&mut self) -> Option<String> {
        let header = self.bytes(0, 64)?;
        let (class, data) = (*header.get(4)?, *header.get(5)?);
        if !header.starts_with(b"\x7fELF") || data != 1 || !matches!(class, 1 | 2) {
            return None;
        }
        self.wide = class == 2;
        let word = if self.wide { 8 } else { 4 };
        let (offset, size, count) = if self.wide { (32, 54, 56) } else { (28, 42, 44) };
        let table = Self::number(&header, offset, word)?;
        let size = Self::number(&header, size, 2)?;
        let count = Self::number(&header, count, 2)?.min(HEADERS_MAX);
        let table = self.bytes(table, size.checked_mul(count)?)?;
        // Type, offset in the file, address, bytes in the file.
        let segments: Vec<[u64; 4]> = (0..count)
            .filter_map(|index| {
                let places = if self.wide { [8, 16, 32] } else { [4, 8, 16] };
                let [at, address, length] = places.map(|place| Self::number(&table, index * size + place, word));
                Some([Self::number(&table, index * size, 4)?, at?, address?, length?])
            })
            .collect();
        let [_, at, _, length] = *segments.iter().find(|segment| segment[0] == PT_DYNAMIC)?;
        let dynamic = self.bytes(at, length)?;
        let entries = (0..).map_while(|index: u64| {
            let tag = Self::number(&dynamic, index * 2 * word, word)?;
            Some((tag, Self::number(&dynamic, (index * 2 + 1) * word, word)?))
        });
        let entries: Vec<(u64, u64)> = entries.take_while(|(tag, _)| *tag != DT_NULL).collect();
        let value = |wanted| entries.iter().find(|(tag, _)| *tag == wanted).map(|(_, value)| *value);
        let (strings, name) = (value(DT_STRTAB)?, value(DT_SONAME)?);
        let holds =
            |segment: &&[u64; 4]| segment[0] == PT_LOAD && segment[2] <= strings && strings - segment[2] < segment[3];
        let [_, at, address, _] = *segments.iter().find(holds)?;
        let name = self.bytes(at.checked_add(strings - address)?.checked_add(name)?, 256)?;
        let name = name.split(|byte| *byte == 0).next()?;
        let name = String::from_utf8(name.to_vec()).ok()?;
        // A path would lead elsewhere.
        (!name.is_empty() && !name.contains('/')).then_some(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_library_of_this_host_has_its_name() {
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let libc = maps.lines().filter_map(|line| line.split_whitespace().nth(5)).find(|path| path.contains("/libc."));
        let Some(libc) = libc else { return };
        assert!(of_file(Path::new(libc)).unwrap().starts_with("libc."));
        assert_eq!(of_file(Path::new("/proc/self/maps")), None);
        let dir = tempfile::tempdir().unwrap();
        let whole = std::fs::read(libc).unwrap();
        for length in [0, 5, 63, 64, 100, 500, 4000] {
            let file = dir.path().join("cut");
            std::fs::write(&file, &whole[..length]).unwrap();
            assert_eq!(of_file(&file), None, "{length}");
        }
    }
}
