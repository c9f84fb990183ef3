//! A directory of the host that is an image. What its symbolic links say never leads out of it.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::FileExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat, open, openat, readlinkat, statat};
use rustix::io::{Errno, fcntl_dupfd_cloexec};

use super::tree::READ_MAX;
use super::{Entry, Error, Tree};

/// An open directory.
pub struct Directory {
    path: PathBuf,
    root: OwnedFd,
}

/// A root file system has one of these at least; `.coracle` is in what was converted, however small.
const EXPECTED: [&str; 7] = ["bin", "usr", "etc", "lib", "sbin", "opt", ".coracle"];
/// Of what is opened on the way.
const WALK: OFlags = OFlags::PATH.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

impl Directory {
    /// Opens the directory at `path`.
    ///
    /// # Errors
    /// When it cannot be opened, or is none.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = open(path, flags, Mode::empty());
        let root = root.map_err(|cause| Error::Open { path: path.to_path_buf(), cause: cause.into() })?;
        Ok(Self { path: path.to_path_buf(), root })
    }

    /// The same for a directory that is to be run.
    ///
    /// # Errors
    /// As for [`open`](Self::open), and when it looks like none that could be.
    pub fn open_root(path: &Path) -> Result<Self, Error> {
        let directory = Self::open(path)?;
        let has = |name: &str| Ok(directory.entry(&Path::new("/").join(name))?.is_some());
        let found: Result<Vec<bool>, Error> = EXPECTED.iter().map(|name| has(name)).collect();
        if found?.contains(&true) { Ok(directory) } else { Err(Error::NoRoot { path: path.to_path_buf() }) }
    }

    /// The same of a directory that is open.
    ///
    /// # Errors
    /// When this process may have no descriptor more.
    pub fn of(root: BorrowedFd<'_>, path: &Path) -> io::Result<Self> {
        Ok(Self { path: path.to_path_buf(), root: fcntl_dupfd_cloexec(root, 3)? })
    }

    /// What is at `path`, which has no symbolic links before its last component.
    ///
    /// # Errors
    /// When it cannot be looked at.
    pub fn stat(&self, path: &Path) -> Result<Option<Stat>, Error> {
        self.look(path, |parent, name| statat(parent, name, AtFlags::SYMLINK_NOFOLLOW | AtFlags::EMPTY_PATH))
    }

    /// Calls `look` with the directory that holds `path`, and its name there (empty for the root); `None` if it is not there.
    fn look<T>(
        &self,
        path: &Path,
        look: impl FnOnce(BorrowedFd<'_>, &OsStr) -> Result<T, Errno>,
    ) -> Result<Option<T>, Error> {
        let walk = || {
            let mut names = path.components().filter_map(|component| match component {
                Component::Normal(name) => Some(name),
                _ => None,
            });
            let last = names.next_back().unwrap_or_default();
            let mut at = None;
            for name in names {
                let from = at.as_ref().map_or(self.root.as_fd(), OwnedFd::as_fd);
                at = Some(openat(from, name, WALK | OFlags::DIRECTORY, Mode::empty())?);
            }
            look(at.as_ref().map_or(self.root.as_fd(), OwnedFd::as_fd), last)
        };
        match walk() {
            Ok(found) => Ok(Some(found)),
            // LOOP, NOTDIR: something else than a directory is on the way.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
            Err(cause) => {
                let path = self.path.join(path.strip_prefix("/").unwrap_or(path));
                Err(Error::Open { path, cause: cause.into() })
            }
        }
    }
}

impl AsFd for Directory {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }
}

impl Directory {
    /// The regular file at a path.
    fn file(&self, path: &Path) -> Result<Option<File>, Error> {
        if !matches!(self.entry(path)?, Some(Entry::File { .. })) {
            return Ok(None);
        }
        // NONBLOCK: what was a file a moment ago may be a pipe now.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = self.look(path, |parent, name| openat(parent, name, flags, Mode::empty()))?;
        Ok(file.map(File::from))
    }
}

impl Tree for Directory {
    fn entry(&self, path: &Path) -> Result<Option<Entry>, Error> {
        let Some(stat) = self.stat(path)? else { return Ok(None) };
        Ok(match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => Some(Entry::Directory),
            FileType::RegularFile => Some(Entry::File { executable: stat.st_mode & 0o111 != 0 }),
            FileType::Symlink => {
                let target = self.look(path, |parent, name| readlinkat(parent, name, Vec::new()))?;
                target.map(|target| Entry::Link(PathBuf::from(OsString::from_vec(target.into_bytes()))))
            }
            _ => Some(Entry::Special),
        })
    }

    fn content(&self, path: &Path) -> Result<Option<Vec<u8>>, Error> {
        let Some(file) = self.file(path)? else { return Ok(None) };
        let failed = |cause| Error::Open { path: self.path.join(path.strip_prefix("/").unwrap_or(path)), cause };
        let size = file.metadata().map_err(failed)?.len();
        if size > READ_MAX {
            return Err(Error::TooLarge { file: path.to_path_buf(), size, limit: READ_MAX });
        }
        let mut content = Vec::new();
        file.take(READ_MAX).read_to_end(&mut content).map_err(failed)?;
        Ok(Some(content))
    }

    fn read_at(&self, path: &Path, offset: u64, buffer: &mut [u8]) -> Result<usize, Error> {
        let Some(file) = self.file(path)? else { return Ok(0) };
        let failed = |cause| Error::Open { path: self.path.join(path.strip_prefix("/").unwrap_or(path)), cause };
        let mut filled = 0;
        while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match file.read_at(rest, offset.saturating_add(filled as u64)).map_err(failed)? {
                0 => break,
                count => filled += count,
            }
        }
        Ok(filled)
    }

    fn names(&self, path: &Path) -> Result<Vec<OsString>, Error> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let open = |parent: BorrowedFd<'_>, name: &OsStr| {
            let name = if name.is_empty() { OsStr::new(".") } else { name };
            openat(parent, name, flags, Mode::empty())
        };
        let Some(directory) = self.look(path, open)? else { return Ok(Vec::new()) };
        let failed = |cause: Errno| Error::Open { path: self.path.clone(), cause: cause.into() };
        let mut names = Vec::new();
        for entry in Dir::new(directory).map_err(failed)? {
            let name = OsString::from_vec(entry.map_err(failed)?.file_name().to_bytes().to_vec());
            if name != "." && name != ".." {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::locate;
    use std::fs;
    use std::os::unix::fs::symlink;

    #[test]
    fn links_do_not_lead_out_of_it() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        fs::create_dir_all(root.join("etc")).unwrap();
        fs::create_dir(root.join("usr")).unwrap();
        fs::write(root.join("etc/passwd"), "inside").unwrap();
        fs::write(dir.path().join("secret"), "outside").unwrap();
        symlink("../../secret", root.join("etc/up")).unwrap();
        symlink("/etc/passwd", root.join("usr/abs")).unwrap();
        symlink(dir.path(), root.join("out")).unwrap();
        let tree = Directory::open(&root).unwrap();
        assert_eq!(tree.read(Path::new("/usr/abs")).unwrap().unwrap(), b"inside");
        assert_eq!(tree.read(Path::new("/etc/up")).unwrap(), None);
        assert_eq!(tree.entry(Path::new("/out/secret")).unwrap(), None, "a link on the way is not followed");
        assert_eq!(locate(&tree, Path::new("/out/secret")).unwrap().entry, None);
        assert_eq!(tree.entry(Path::new("/")).unwrap(), Some(Entry::Directory));
        assert_eq!(tree.entry(Path::new("/etc/passwd/x")).unwrap(), None);
        assert_eq!(tree.entry(Path::new("/etc/passwd")).unwrap(), Some(Entry::File { executable: false }));
        assert!(Directory::open(&root.join("etc/passwd")).is_err());
        assert!(Directory::open_root(&root).is_ok());
        assert!(matches!(Directory::open_root(dir.path()), Err(Error::NoRoot { .. })));
    }
}
