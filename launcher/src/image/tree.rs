//! The image's file tree as those need it who decide how to run it: what is at a path, and small files' content.
//!
//! A trait, so that the deciding code is tested on trees in memory.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};

use coracle_squashfs::reader::Kind;

use super::{Error, ImageFile};

/// Largest file that is read whole. Image configurations and passwd files are far smaller.
pub(super) const READ_MAX: u64 = 4 << 20;
/// As many as the kernel follows.
const LINKS_MAX: usize = 40;

/// What is at a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// A directory.
    Directory,
    /// A regular file.
    File {
        /// Whether any execute bit is set.
        executable: bool,
    },
    /// A symbolic link and its target.
    Link(PathBuf),
    /// A device, socket or pipe.
    Special,
}

/// A read-only file tree.
pub trait Tree {
    /// What is at `path`, which is absolute and without symbolic links before its last component.
    ///
    /// # Errors
    /// When the image is damaged there.
    fn entry(&self, path: &Path) -> Result<Option<Entry>, Error>;

    /// The content of the regular file at such a path.
    ///
    /// # Errors
    /// When the image is damaged there, or the file is unreasonably large.
    fn content(&self, path: &Path) -> Result<Option<Vec<u8>>, Error>;

    /// Fills as much of `buffer` as the regular file at such a path has from `offset` on; how much that was. Nothing when
    /// there is no such file.
    ///
    /// # Errors
    /// When the image is damaged there.
    fn read_at(&self, path: &Path, offset: u64, buffer: &mut [u8]) -> Result<usize, Error> {
        let content = self.content(path)?.unwrap_or_default();
        let rest = usize::try_from(offset).ok().and_then(|offset| content.get(offset..)).unwrap_or_default();
        buffer.iter_mut().zip(rest).for_each(|(to, from)| *to = *from);
        Ok(rest.len().min(buffer.len()))
    }

    /// Names in the directory at such a path, sorted; none when there is no such directory.
    ///
    /// # Errors
    /// When the image is damaged there.
    fn names(&self, path: &Path) -> Result<Vec<OsString>, Error>;

    /// What an earlier launch concluded about `subject` from this tree and the host, in whatever form it chose.
    fn note(&self, _subject: &str) -> Option<&[u8]> {
        None
    }

    /// Leaves a conclusion to later launches, where there is a session to keep it.
    fn keep_note(&self, _subject: &str, _note: Vec<u8>) {}

    /// The content of a file, symbolic links followed.
    ///
    /// # Errors
    /// As for [`Tree::content`].
    fn read(&self, path: &Path) -> Result<Option<Vec<u8>>, Error>
    where
        Self: Sized,
    {
        self.content(&locate(self, path)?.path)
    }
}

/// Where a path leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Located {
    /// Absolute, without symbolic links as far as the tree has it.
    pub path: PathBuf,
    /// What is there; never [`Entry::Link`].
    pub entry: Option<Entry>,
}

/// Follows `path` from the tree's root; `..` does not leave it. What the tree lacks is kept as written.
///
/// # Errors
/// [`Error::Links`] after 40 symbolic links, and when the image is damaged.
pub fn locate(tree: &dyn Tree, path: &Path) -> Result<Located, Error> {
    let mut pending: Vec<PathBuf> = parts(path);
    let mut at = PathBuf::from("/");
    let mut entry = Some(Entry::Directory);
    let mut links = 0;
    while let Some(part) = pending.pop() {
        if part.as_os_str() == ".." {
            at.pop();
            entry = tree.entry(&at)?;
            continue;
        }
        at.push(&part);
        entry = match entry {
            Some(Entry::Directory) => tree.entry(&at)?,
            _ => None,
        };
        if let Some(Entry::Link(target)) = &entry {
            links += 1;
            if links > LINKS_MAX {
                return Err(Error::Links { path: path.to_path_buf() });
            }
            at.pop();
            if target.is_absolute() {
                at = PathBuf::from("/");
            }
            pending.extend(parts(target));
            entry = Some(Entry::Directory);
        }
    }
    Ok(Located { path: at, entry })
}

/// Components, the last first.
fn parts(path: &Path) -> Vec<PathBuf> {
    let named = |part: Component<'_>| match part {
        Component::Normal(name) => Some(PathBuf::from(name)),
        Component::ParentDir => Some(PathBuf::from("..")),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    };
    path.components().rev().filter_map(named).collect()
}

impl Tree for ImageFile {
    fn entry(&self, path: &Path) -> Result<Option<Entry>, Error> {
        let damaged = |cause| Error::Squashfs { path: self.path.clone(), cause };
        let Some(inode) = self.image.resolve(path.as_os_str().as_bytes()).map_err(damaged)? else { return Ok(None) };
        Ok(Some(match &inode.kind {
            Kind::Directory { .. } => Entry::Directory,
            Kind::File { .. } => Entry::File { executable: inode.mode & 0o111 != 0 },
            Kind::Symlink { .. } => {
                let target = self.image.read_link(&inode).map_err(damaged)?;
                Entry::Link(PathBuf::from(OsString::from_vec(target)))
            }
            _ => Entry::Special,
        }))
    }

    fn content(&self, path: &Path) -> Result<Option<Vec<u8>>, Error> {
        let damaged = |cause| Error::Squashfs { path: self.path.clone(), cause };
        let Some(inode) = self.image.resolve(path.as_os_str().as_bytes()).map_err(damaged)? else { return Ok(None) };
        let Kind::File { size, .. } = inode.kind else { return Ok(None) };
        if size > READ_MAX {
            return Err(Error::TooLarge { file: path.to_path_buf(), size, limit: READ_MAX });
        }
        let mut content = vec![0; usize::try_from(size).unwrap_or_default()];
        let count = self.image.read(&inode, 0, &mut content).map_err(damaged)?;
        content.truncate(count);
        Ok(Some(content))
    }

    fn read_at(&self, path: &Path, offset: u64, buffer: &mut [u8]) -> Result<usize, Error> {
        let damaged = |cause| Error::Squashfs { path: self.path.clone(), cause };
        let Some(inode) = self.image.resolve(path.as_os_str().as_bytes()).map_err(damaged)? else { return Ok(0) };
        let Kind::File { size, .. } = inode.kind else { return Ok(0) };
        if offset >= size {
            return Ok(0);
        }
        self.image.read(&inode, offset, buffer).map_err(damaged)
    }

    fn names(&self, path: &Path) -> Result<Vec<OsString>, Error> {
        let damaged = |cause| Error::Squashfs { path: self.path.clone(), cause };
        let inode = self.image.resolve(path.as_os_str().as_bytes()).map_err(damaged)?;
        let Some(inode) = inode.filter(|inode| matches!(inode.kind, Kind::Directory { .. })) else {
            return Ok(Vec::new());
        };
        let entries = self.image.read_dir(&inode).map_err(damaged)?;
        entries.map(|entry| Ok(OsString::from_vec(entry.map_err(damaged)?.name.to_vec()))).collect()
    }
}

/// A tree in memory.
#[cfg(test)]
#[derive(Default)]
pub(crate) struct Fake(pub(crate) std::collections::BTreeMap<PathBuf, (Entry, Vec<u8>)>);

#[cfg(test)]
impl Fake {
    /// Each name ends in `/` for a directory, has ` -> target` for a link, or is an executable file.
    pub(crate) fn new(names: &[&str]) -> Self {
        let mut fake = Self::default();
        for name in names {
            let (path, entry) = match (name.split_once(" -> "), name.strip_suffix('/')) {
                (Some((path, target)), _) => (path, Entry::Link(target.into())),
                (None, Some(path)) => (path, Entry::Directory),
                (None, None) => (*name, Entry::File { executable: true }),
            };
            fake.add(Path::new(path), entry, b"");
        }
        fake
    }

    pub(crate) fn with(mut self, path: &str, content: &str) -> Self {
        self.add(Path::new(path), Entry::File { executable: false }, content.as_bytes());
        self
    }

    fn add(&mut self, path: &Path, entry: Entry, content: &[u8]) {
        for parent in path.ancestors().skip(1) {
            self.0.entry(parent.to_path_buf()).or_insert((Entry::Directory, Vec::new()));
        }
        self.0.insert(path.to_path_buf(), (entry, content.to_vec()));
    }
}

#[cfg(test)]
impl Tree for Fake {
    fn entry(&self, path: &Path) -> Result<Option<Entry>, Error> {
        Ok(self.0.get(path).map(|(entry, _)| entry.clone()))
    }

    fn content(&self, path: &Path) -> Result<Option<Vec<u8>>, Error> {
        Ok(self.0.get(path).map(|(_, content)| content.clone()))
    }

    fn names(&self, path: &Path) -> Result<Vec<OsString>, Error> {
        let below = self.0.keys().filter(|other| other.parent() == Some(path));
        Ok(below.filter_map(|other| other.file_name()).map(OsStr::to_owned).collect())
    }
}

/// Whether `path`, links followed, is a file that can be executed.
///
/// # Errors
/// When the image is damaged there.
pub(crate) fn is_executable(tree: &dyn Tree, path: &OsStr) -> Result<bool, Error> {
    Ok(matches!(locate(tree, Path::new(path))?.entry, Some(Entry::File { executable: true })))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_followed_inside_the_root() {
        let tree = Fake::new(&["/usr/bin/", "/usr/bin/sh", "/bin -> usr/bin", "/up -> ../../usr", "/loop -> loop"]);
        let at = |path: &str| locate(&tree, Path::new(path)).unwrap();
        assert_eq!(at("/bin/sh").path, Path::new("/usr/bin/sh"));
        assert_eq!(at("/up/./bin/../bin//sh").path, Path::new("/usr/bin/sh"));
        assert_eq!(at("/../../bin").entry, Some(Entry::Directory));
        assert_eq!(at("/bin/x/y"), Located { path: "/usr/bin/x/y".into(), entry: None });
        assert_eq!(at("/bin/sh/y").entry, None, "a file has nothing below it");
        assert!(matches!(locate(&tree, Path::new("/loop")), Err(Error::Links { .. })));
        assert!(is_executable(&tree, OsStr::new("/bin/sh")).unwrap());
    }
}
