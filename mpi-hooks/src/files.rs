//! A file tree as a dynamic loader sees it: that of a host, or of an image.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::path::{Component, Path, PathBuf};

use crate::libraries::elf::{self, Elf, Source};

/// As many symbolic links as the kernel follows.
const LINKS_MAX: usize = 40;

/// What is at a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A directory.
    Directory,
    /// A regular file.
    File,
    /// A device, socket or pipe.
    Special,
}

/// Where a path leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Absolute, symbolic links followed.
    pub path: PathBuf,
    /// What is there.
    pub kind: Kind,
}

/// A read-only file tree.
pub trait Files {
    /// What is at an absolute path, symbolic links followed as far as the tree's root; `None` if nothing is.
    ///
    /// # Errors
    /// When the tree cannot be read there.
    fn find(&self, path: &Path) -> io::Result<Option<Found>>;

    /// Fills as much of `buffer` as the regular file at a path that [`Files::find`] gave has from `offset` on; how much.
    ///
    /// # Errors
    /// When the tree cannot be read there.
    fn read_at(&self, path: &Path, offset: u64, buffer: &mut [u8]) -> io::Result<usize>;

    /// Names in the directory at such a path, sorted; none if there is no such directory.
    ///
    /// # Errors
    /// When the tree cannot be read there.
    fn list(&self, path: &Path) -> io::Result<Vec<OsString>>;
}

/// The regular file at a path, symbolic links followed.
///
/// # Errors
/// When the tree cannot be read there.
pub fn file(files: &dyn Files, path: &Path) -> io::Result<Option<PathBuf>> {
    Ok(files.find(path)?.filter(|found| found.kind == Kind::File).map(|found| found.path))
}

/// A file's content, as far as it is no longer than `limit` bytes.
///
/// # Errors
/// When the tree cannot be read there.
pub fn content(files: &dyn Files, path: &Path, limit: usize) -> io::Result<Option<Vec<u8>>> {
    const PART: usize = 64 << 10;
    let Some(path) = file(files, path)? else { return Ok(None) };
    let mut content = Vec::new();
    while content.len() < limit {
        let start = content.len();
        content.resize(start + PART.min(limit - start), 0);
        let wanted = content.len() - start;
        let count = files.read_at(&path, start as u64, content.get_mut(start..).unwrap_or_default())?;
        content.truncate(start + count);
        if count < wanted {
            break;
        }
    }
    Ok(Some(content))
}

/// Reads an ELF file, whose path has no symbolic links.
///
/// # Errors
/// When it cannot be read or understood.
pub fn elf(files: &dyn Files, path: &Path) -> Result<Elf, elf::Error> {
    Elf::read(&InFiles { files, path })
}

/// A regular file, whose path has no symbolic links.
#[derive(Clone, Copy)]
pub struct InFiles<'a> {
    /// Of this tree.
    pub files: &'a dyn Files,
    /// Absolute.
    pub path: &'a Path,
}

impl Source for InFiles<'_> {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<usize, elf::Error> {
        Ok(self.files.read_at(self.path, offset, buffer)?)
    }
}

/// The files below a directory of the host: `/`, or what stands for it in tests.
#[derive(Clone, Debug)]
pub struct HostFiles {
    root: PathBuf,
}

impl HostFiles {
    /// The files below `root`.
    #[must_use]
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    fn at(&self, path: &Path) -> PathBuf {
        self.root.join(path.strip_prefix("/").unwrap_or(path))
    }
}

impl Files for HostFiles {
    fn find(&self, path: &Path) -> io::Result<Option<Found>> {
        let mut pending: Vec<OsString> = parts(path);
        let (mut at, mut kind, mut links) = (PathBuf::from("/"), Kind::Directory, 0);
        while let Some(part) = pending.pop() {
            if part == ".." {
                at.pop();
                kind = Kind::Directory;
                continue;
            }
            if kind != Kind::Directory {
                return Ok(None);
            }
            at.push(&part);
            let metadata = match fs::symlink_metadata(self.at(&at)) {
                Ok(metadata) => metadata,
                // What may not be looked at is not there for the caller's programs either.
                Err(error) if is_absence(&error) => return Ok(None),
                Err(error) => return Err(error),
            };
            if metadata.is_symlink() {
                links += 1;
                if links > LINKS_MAX {
                    return Ok(None);
                }
                let target = fs::read_link(self.at(&at))?;
                at.pop();
                if target.is_absolute() {
                    at = PathBuf::from("/");
                }
                pending.extend(parts(&target));
                continue;
            }
            kind = match () {
                () if metadata.is_dir() => Kind::Directory,
                () if metadata.is_file() => Kind::File,
                () => Kind::Special,
            };
        }
        Ok(Some(Found { path: at, kind }))
    }

    fn read_at(&self, path: &Path, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let file = File::open(self.at(path))?;
        Source::read_at(&file, offset, buffer).map_err(|error| match error {
            elf::Error::Read(error) => error,
            other => io::Error::other(other),
        })
    }

    fn list(&self, path: &Path) -> io::Result<Vec<OsString>> {
        let entries = match fs::read_dir(self.at(path)) {
            Ok(entries) => entries,
            Err(error) if is_absence(&error) => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut names = entries.map(|entry| Ok(entry?.file_name())).collect::<io::Result<Vec<_>>>()?;
        names.sort();
        Ok(names)
    }
}

fn is_absence(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory | io::ErrorKind::PermissionDenied)
}

/// Components, the last first.
fn parts(path: &Path) -> Vec<OsString> {
    let named = |part: Component<'_>| match part {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    };
    path.components().rev().filter_map(named).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn links_do_not_leave_the_root() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("usr/lib")).unwrap();
        fs::write(root.path().join("usr/lib/a.so.1.2"), b"content").unwrap();
        symlink("a.so.1.2", root.path().join("usr/lib/a.so.1")).unwrap();
        symlink("/usr/lib", root.path().join("lib")).unwrap();
        symlink("../../../../usr/lib", root.path().join("usr/out")).unwrap();
        symlink("round", root.path().join("round")).unwrap();
        let files = HostFiles::new(root.path());
        let find = |path: &str| files.find(Path::new(path)).unwrap().map(|found| found.path);
        assert_eq!(find("/lib/a.so.1"), Some("/usr/lib/a.so.1.2".into()));
        assert_eq!(find("/usr/out/a.so.1"), Some("/usr/lib/a.so.1.2".into()));
        assert_eq!(find("/round"), None);
        assert_eq!(find("/usr/lib/a.so.1/below"), None);
        assert_eq!(files.list(Path::new("/usr/lib")).unwrap(), ["a.so.1", "a.so.1.2"]);
        assert_eq!(content(&files, Path::new("/lib/a.so.1"), 3).unwrap().unwrap(), b"con");
        assert_eq!(content(&files, Path::new("/lib"), 3).unwrap(), None);
    }
}
