//! What is at paths of the host, as far as CDI files depend on it. A trait, so that the deciding code is tested without
//! devices.

use std::fs;
use std::io::Read;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

/// Most bytes that are read of a file below `/proc`.
const TEXT_MAX: u64 = 1 << 20;

/// What is at a path, symbolic links followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Its type.
    pub kind: Kind,
    /// Numbers of a device.
    pub device: (u64, u64),
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// A type of file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A directory.
    Directory,
    /// A character device.
    Char,
    /// A block device.
    Block,
    /// A named pipe.
    Fifo,
    /// Anything else.
    File,
}

/// Looks at the host.
pub trait Look {
    /// What is at `path`; `None` when nothing is, or it is out of reach.
    fn facts(&self, path: &Path) -> Option<Facts>;
    /// Whether there is anything at `path`, be it a link that leads nowhere.
    fn is_there(&self, path: &Path) -> bool;
    /// The names in a directory.
    fn names(&self, directory: &Path) -> Vec<String>;
    /// The content of a small file.
    fn text(&self, path: &Path) -> Option<String>;
    /// The SONAME of a library.
    fn soname(&self, path: &Path) -> Option<String>;
    /// All groups of the caller.
    fn groups(&self) -> Vec<u32>;
}

/// The host itself.
#[derive(Clone, Copy, Debug, Default)]
pub struct OfHost;

impl Look for OfHost {
    fn facts(&self, path: &Path) -> Option<Facts> {
        let metadata = fs::metadata(path).ok()?;
        let of = metadata.file_type();
        let kind = match () {
            () if of.is_dir() => Kind::Directory,
            () if of.is_char_device() => Kind::Char,
            () if of.is_block_device() => Kind::Block,
            () if of.is_fifo() => Kind::Fifo,
            () => Kind::File,
        };
        let device = (nix::sys::stat::major(metadata.rdev()), nix::sys::stat::minor(metadata.rdev()));
        Some(Facts { kind, device, mode: metadata.mode() & 0o7777, uid: metadata.uid(), gid: metadata.gid() })
    }

    fn is_there(&self, path: &Path) -> bool {
        fs::symlink_metadata(path).is_ok()
    }

    fn names(&self, directory: &Path) -> Vec<String> {
        let entries = fs::read_dir(directory).into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
    }

    fn text(&self, path: &Path) -> Option<String> {
        let mut text = String::new();
        fs::File::open(path).ok()?.take(TEXT_MAX).read_to_string(&mut text).ok()?;
        Some(text)
    }

    fn soname(&self, path: &Path) -> Option<String> {
        super::soname::of_file(path)
    }

    fn groups(&self) -> Vec<u32> {
        let others = nix::unistd::getgroups().unwrap_or_default();
        others.into_iter().chain([nix::unistd::getegid()]).map(nix::unistd::Gid::as_raw).collect()
    }
}

/// A path's directories and files in memory, for tests.
#[cfg(test)]
#[derive(Default)]
pub(super) struct Imagined {
    pub(super) facts: std::collections::BTreeMap<std::path::PathBuf, Facts>,
    pub(super) texts: std::collections::BTreeMap<std::path::PathBuf, String>,
    pub(super) sonames: std::collections::BTreeMap<std::path::PathBuf, String>,
    pub(super) groups: Vec<u32>,
}

#[cfg(test)]
impl Imagined {
    pub(super) fn with(mut self, path: &str, kind: Kind, minor: u64) -> Self {
        let facts = Facts { kind, device: (195, minor), mode: 0o666, uid: 0, gid: 0 };
        self.facts.insert(path.into(), facts);
        self
    }
}

#[cfg(test)]
impl Look for Imagined {
    fn facts(&self, path: &Path) -> Option<Facts> {
        self.facts.get(path).copied()
    }
    fn is_there(&self, path: &Path) -> bool {
        self.facts.contains_key(path)
    }
    fn names(&self, directory: &Path) -> Vec<String> {
        let inside = self.facts.keys().filter(|path| path.parent() == Some(directory));
        inside.filter_map(|path| path.file_name()?.to_str().map(str::to_owned)).collect()
    }
    fn text(&self, path: &Path) -> Option<String> {
        self.texts.get(path).cloned()
    }
    fn soname(&self, path: &Path) -> Option<String> {
        self.sonames.get(path).cloned()
    }
    fn groups(&self) -> Vec<u32> {
        self.groups.clone()
    }
}
