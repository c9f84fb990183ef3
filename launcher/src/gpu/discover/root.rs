//! A directory that is looked at as if it were the root, so that all of discovery runs on made-up trees.

use std::ffi::OsString;
use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};

use crate::image::{Entry, Error, Tree, locate};

/// The host's tree, or a directory that is taken for it.
#[derive(Clone, Debug)]
pub struct Root(PathBuf);

impl Root {
    /// The host's own.
    #[must_use]
    pub fn host() -> Self {
        Self(PathBuf::from("/"))
    }

    /// A directory that is taken for the root; its symbolic links are followed within it.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// The path by which this process reaches what is at `path`, whose directories are no symbolic links.
    #[must_use]
    pub fn at(&self, path: &Path) -> PathBuf {
        self.0.join(path.strip_prefix("/").unwrap_or(path))
    }

    /// Where `path` leads; `None` if nowhere.
    #[must_use]
    pub fn real(&self, path: &Path) -> Option<PathBuf> {
        if self.0 == Path::new("/") {
            return kernels_name(path).or_else(|| fs::canonicalize(path).ok());
        }
        locate(self, path).ok().filter(|located| located.entry.is_some()).map(|located| located.path)
    }

    /// Whether anything is there.
    #[must_use]
    pub fn has(&self, path: &Path) -> bool {
        self.real(path).is_some()
    }

    /// A small file's content.
    #[must_use]
    pub fn read(&self, path: &Path) -> Option<Vec<u8>> {
        fs::read(self.at(&self.real(path)?)).ok()
    }

    /// The same as text, without the white space around it.
    #[must_use]
    pub fn text(&self, path: &Path) -> Option<String> {
        let bytes = self.read(path)?;
        Some(String::from_utf8_lossy(&bytes).trim().to_owned())
    }

    /// Names in a directory, sorted, numbers by their value; none if there is no such directory.
    #[must_use]
    pub fn list(&self, path: &Path) -> Vec<String> {
        let Some(entries) = self.real(path).and_then(|real| fs::read_dir(self.at(&real)).ok()) else {
            return Vec::new();
        };
        let mut names: Vec<String> =
            entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect();
        names.sort_by(|one, other| crate::libraries::cache::compare(one.as_ref(), other.as_ref()));
        names
    }
}

/// The name that the kernel has for what is at `path`: two system calls, where `realpath` takes one for each component. `None` where it
/// cannot be asked.
fn kernels_name(path: &Path) -> Option<PathBuf> {
    let file = rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).ok()?;
    let name = fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd())).ok()?;
    name.is_absolute().then_some(name)
}

impl Tree for Root {
    fn entry(&self, path: &Path) -> Result<Option<Entry>, Error> {
        let at = self.at(path);
        let Ok(metadata) = fs::symlink_metadata(&at) else { return Ok(None) };
        let kind = metadata.file_type();
        Ok(Some(if kind.is_dir() {
            Entry::Directory
        } else if kind.is_symlink() {
            Entry::Link(fs::read_link(&at).unwrap_or_default())
        } else if kind.is_file() {
            Entry::File { executable: metadata.permissions().mode() & 0o111 != 0 }
        } else {
            Entry::Special
        }))
    }

    fn content(&self, path: &Path) -> Result<Option<Vec<u8>>, Error> {
        Ok(fs::read(self.at(path)).ok())
    }

    fn names(&self, path: &Path) -> Result<Vec<OsString>, Error> {
        Ok(self.list(path).into_iter().map(OsString::from).collect())
    }
}
