//! The image's side: which C library its programs have, what its loader finds, and which versions its libraries define.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};

use crate::image::{Entry, Error, Located, Tree, locate};
use crate::libraries::Abi;
use crate::libraries::cache::{self, Cache};
use crate::libraries::elf::{self, Elf, Source};

/// glibc's library, by which an image that has it is known.
const GLIBC: &str = "libc.so.6";

/// Longest cache that is read, in bytes; those of large distributions have a tenth of it.
const CACHE_MAX: usize = 4 << 20;
/// What is read at once.
const PART: usize = 64 << 10;

/// Which C library an image's programs have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Libc {
    /// glibc.
    Glibc,
    /// musl, perhaps with a library that makes it look like glibc (`gcompat`).
    Musl {
        /// Whether that library is there.
        compatible: bool,
    },
    /// None where it would be looked for: only static programs, or a loader in a place of its own.
    Unknown,
}

/// A regular file of an image. Its path has no symbolic links.
struct InImage<'a> {
    tree: &'a dyn Tree,
    path: PathBuf,
}

impl Source for InImage<'_> {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<usize, elf::Error> {
        Ok(self.tree.read_at(&self.path, offset, buffer).map_err(io::Error::other)?)
    }
}

/// An image as its loader sees it.
pub struct ImageLibraries<'a> {
    tree: &'a dyn Tree,
    abi: Abi,
    /// Which C library it has.
    pub libc: Libc,
    /// The loader's cache, empty if there is none.
    pub cache: Cache,
    /// The cache is there, but of no use.
    pub cache_problem: Option<cache::Error>,
    defined: RefCell<BTreeMap<String, Option<Vec<String>>>>,
}

impl<'a> ImageLibraries<'a> {
    /// Looks at an image.
    ///
    /// # Errors
    /// When the image is damaged.
    pub fn read(tree: &'a dyn Tree, abi: Abi) -> Result<Self, Error> {
        // Not by way of what is remembered of an image: it is large, and of no use once there is a decision.
        let content = read_whole(tree, &locate(tree, Path::new(cache::PATH))?)?;
        let (cache, cache_problem) = match content.map(|bytes| Cache::parse(&bytes)) {
            None => (Cache::default(), None),
            Some(Ok(cache)) => (cache, None),
            Some(Err(error)) => (Cache::default(), Some(error)),
        };
        let mut image = Self { tree, abi, libc: Libc::Unknown, cache, cache_problem, defined: RefCell::default() };
        image.libc = image.libc()?;
        Ok(image)
    }

    fn libc(&self) -> Result<Libc, Error> {
        let has = |path: &str| Ok::<_, Error>(locate(self.tree, Path::new(path))?.entry.is_some());
        let musl = has(&format!("/lib/ld-musl-{}.so.1", self.abi.name()))?;
        // A library that makes musl look like glibc may be there under this name, but defines no versions.
        let glibc = self.defines(GLIBC)?.is_some_and(|versions| !versions.is_empty());
        Ok(match (glibc, musl) {
            (true, _) => Libc::Glibc,
            (false, true) => {
                Libc::Musl { compatible: has("/lib/libgcompat.so.0")? || has("/usr/lib/libgcompat.so.0")? }
            }
            (false, false) => Libc::Unknown,
        })
    }

    /// The file that the loader would take for a name, symbolic links followed; `None` if there is none.
    ///
    /// # Errors
    /// When the image is damaged.
    pub fn find(&self, soname: &str) -> Result<Option<PathBuf>, Error> {
        let cached = self.cache.find(OsStr::new(soname), self.abi).map(Path::to_path_buf);
        let usual = self.abi.directories().iter().map(|directory| Path::new(directory).join(soname));
        for path in cached.chain(usual) {
            let located = locate(self.tree, &path)?;
            if matches!(located.entry, Some(Entry::File { .. })) {
                return Ok(Some(located.path));
            }
        }
        Ok(None)
    }

    /// The versions that the image's library of this name defines; `None` if there is no such library.
    ///
    /// # Errors
    /// When the image is damaged.
    pub fn defines(&self, soname: &str) -> Result<Option<Vec<String>>, Error> {
        if let Some(known) = self.defined.borrow().get(soname) {
            return Ok(known.clone());
        }
        let versions = match self.find(soname)? {
            // A damaged library defines nothing, which is found out when something needs it.
            Some(path) => {
                let elf = Elf::read(&InImage { tree: self.tree, path });
                Some(elf.map(|elf| elf.defines).unwrap_or_default())
            }
            None => None,
        };
        self.defined.borrow_mut().insert(soname.to_owned(), versions.clone());
        Ok(versions)
    }

    /// What is at a path of the image, symbolic links followed.
    ///
    /// # Errors
    /// When the image is damaged.
    pub fn real(&self, path: &Path) -> Result<Option<PathBuf>, Error> {
        let located = locate(self.tree, path)?;
        Ok(located.entry.is_some().then_some(located.path))
    }

    /// A small file's content.
    ///
    /// # Errors
    /// When the image is damaged.
    pub fn content(&self, path: &Path) -> Result<Option<Vec<u8>>, Error> {
        self.tree.content(&locate(self.tree, path)?.path)
    }
}

/// A file's content, as far as it is not unreasonably long.
fn read_whole(tree: &dyn Tree, file: &Located) -> Result<Option<Vec<u8>>, Error> {
    if !matches!(file.entry, Some(Entry::File { .. })) {
        return Ok(None);
    }
    let mut content = Vec::new();
    while content.len() < CACHE_MAX {
        let start = content.len();
        content.resize(start + PART, 0);
        let count = tree.read_at(&file.path, start as u64, content.get_mut(start..).unwrap_or_default())?;
        content.truncate(start + count);
        if count < PART {
            break;
        }
    }
    Ok(Some(content))
}

/// The greatest of versions of one kind, `GLIBC_2.36` for `GLIBC_2.38`, to be shown beside what is missing.
#[must_use]
pub fn greatest<'v>(versions: &'v [String], like: &str) -> Option<&'v str> {
    let kind = |version: &str| version.split_once('_').map(|(kind, _)| kind.to_owned());
    let numbered = |version: &&String| {
        kind(version) == kind(like)
            && version.rsplit('_').next().is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
    };
    let order = |one: &&String, other: &&String| cache::compare(one.as_ref(), other.as_ref());
    versions.iter().filter(numbered).max_by(order).map(String::as_str)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::Fake;

    #[test]
    fn the_c_library_is_told_apart() {
        let libc = |names: &[&str]| {
            let tree = Fake::new(names);
            ImageLibraries::read(&tree, Abi::X86_64).unwrap().libc
        };
        assert_eq!(libc(&["/bin/busybox"]), Libc::Unknown);
        assert_eq!(libc(&["/lib/ld-musl-x86_64.so.1"]), Libc::Musl { compatible: false });
        let gcompat = ["/lib/ld-musl-x86_64.so.1", "/lib/libgcompat.so.0", "/lib/libc.so.6 -> libgcompat.so.0"];
        assert_eq!(libc(&gcompat), Libc::Musl { compatible: true });
    }

    #[test]
    fn the_greatest_version_is_the_last() {
        let versions =
            ["GLIBC_2.9", "GLIBC_2.36", "GLIBC_2.4", "GLIBC_PRIVATE", "GLIBC_ABI_DT_RELR"].map(str::to_owned);
        assert_eq!(greatest(&versions, "GLIBC_2.38"), Some("GLIBC_2.36"));
        assert_eq!(greatest(&versions, "GLIBCXX_3.4"), None);
    }
}
