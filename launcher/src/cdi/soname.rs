//! The SONAME of a library: the name by which programs ask the loader for it.

use std::path::Path;

use crate::libraries::elf::Elf;

/// Reads it; `None` when the file is no library, has none, or cannot be read.
pub(super) fn of_file(path: &Path) -> Option<String> {
    // A path would lead elsewhere.
    Elf::open(path).ok()?.soname.filter(|name| !name.is_empty() && !name.contains('/'))
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
