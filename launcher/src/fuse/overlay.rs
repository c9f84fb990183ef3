//! Directories, files and links that the image lacks but a container needs: bind targets, the caller's passwd entry.
//!
//! Paths are resolved once, at start, as a process inside the image would resolve them. What is added is kept in a
//! map from a directory's node to its additions, so that serving an untouched directory costs one failed look-up.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use coracle_squashfs::format::InodeRef;
use coracle_squashfs::reader::{FileType, Image, Inode, Kind, ReadAt};

use super::node::Node;
use super::{Error, Synthetic, SyntheticFile};

/// As many symbolic links as the kernel follows in one path (`MAXSYMLINKS`).
const LINKS_MAX: usize = 40;
/// Longest name that a Linux file system call takes, in bytes (`NAME_MAX`).
const NAME_MAX: usize = 255;
/// Permission bits of an empty file made to be bound over.
const EMPTY_MODE: u16 = 0o644;

/// A synthesised node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Made {
    Directory { parent: Node },
    File { content: Arc<[u8]>, mode: u16 },
    Link { target: Arc<[u8]> },
}

/// One name added to a directory.
#[derive(Clone, Debug)]
pub(super) struct Child {
    pub(super) name: Vec<u8>,
    /// Index in [`Overlay::made`].
    pub(super) index: usize,
    /// The image has an entry of this name, which this one hides.
    pub(super) replaces: bool,
}

/// What is added to one directory.
#[derive(Clone, Debug, Default)]
pub(super) struct Additions {
    /// Sorted by name.
    children: Vec<Child>,
    /// How many of them are directories, which count in the directory's `st_nlink`.
    pub(super) subdirectories: u32,
}

impl Additions {
    pub(super) fn get(&self, name: &[u8]) -> Option<&Child> {
        let position = self.children.binary_search_by(|child| child.name.as_slice().cmp(name)).ok()?;
        self.children.get(position)
    }

    pub(super) fn children(&self) -> &[Child] {
        &self.children
    }

    fn insert(&mut self, child: Child) {
        if let Err(position) = self.children.binary_search_by(|other| other.name.cmp(&child.name)) {
            self.children.insert(position, child);
        }
    }
}

/// All that is synthesised in a mount.
#[derive(Clone, Debug, Default)]
pub(super) struct Overlay {
    directories: HashMap<Node, Additions>,
    made: Vec<Made>,
    /// How many of those made are no longer to be changed.
    sealed: usize,
    /// Whether the image's own files are no longer to be replaced, either.
    live: bool,
}

impl Overlay {
    /// Adds what is asked for, resolved against the image and what has been added before. On an error, what was
    /// added until then stays: work on a copy.
    pub(super) fn add<S: ReadAt>(&mut self, image: &Image<S>, synthetic: &Synthetic) -> Result<(), Error> {
        for path in &synthetic.directories {
            self.add_directory(image, path)?;
        }
        for (path, file) in &synthetic.files {
            match file {
                SyntheticFile::Empty => self.add_empty(image, path)?,
                SyntheticFile::Content(content, mode) => {
                    self.put(image, path, Made::File { content: content.as_slice().into(), mode: *mode })?;
                }
                SyntheticFile::Link(target) => {
                    self.put(image, path, Made::Link { target: target.as_os_str().as_bytes().into() })?;
                }
            }
        }
        Ok(())
    }

    /// The image's own file at the end of a path, links followed; `None` if there is none.
    pub(super) fn resolve<S: ReadAt>(&self, image: &Image<S>, path: &Path) -> Option<InodeRef> {
        // On a copy, since a walk adds the directories that it misses.
        match Walk::new(&mut self.clone(), image, path).ok()?.run(Last::Follow).ok()? {
            Place::Other { node: Node::Image(inode), .. } => Some(inode),
            _ => None,
        }
    }

    /// Keeps what is there as it is from now on: it has been seen.
    pub(super) fn seal(&mut self) {
        self.sealed = self.made.len();
        self.live = true;
    }

    /// Names that have been added since [`seal`](Self::seal) to directories that were there then.
    pub(super) fn news(&self) -> impl Iterator<Item = (Node, &[u8])> {
        let is_old = |node: &Node| !matches!(node, Node::Synthetic(index) if *index >= self.sealed);
        self.directories.iter().filter(move |(node, _)| is_old(node)).flat_map(|(node, additions)| {
            let new = additions.children.iter().filter(|child| child.index >= self.sealed);
            new.map(|child| (*node, child.name.as_slice()))
        })
    }

    pub(super) fn made_type(&self, index: usize) -> FileType {
        match self.made(index) {
            Some(Made::Directory { .. }) => FileType::Directory,
            Some(Made::Link { .. }) => FileType::Symlink,
            _ => FileType::File,
        }
    }

    pub(super) fn additions(&self, directory: Node) -> Option<&Additions> {
        self.directories.get(&directory)
    }

    pub(super) fn subdirectories(&self, directory: Node) -> u32 {
        self.additions(directory).map_or(0, |additions| additions.subdirectories)
    }

    pub(super) fn made(&self, index: usize) -> Option<&Made> {
        self.made.get(index)
    }

    fn add_directory<S: ReadAt>(&mut self, image: &Image<S>, path: &Path) -> Result<(), Error> {
        match Walk::new(self, image, path)?.run(Last::Follow)? {
            Place::Directory => Ok(()),
            Place::Missing { parent, name } => {
                self.make_directory(parent, name);
                Ok(())
            }
            Place::Other { shown, .. } => Err(Error::NotADirectory { path: path.to_path_buf(), component: shown }),
        }
    }

    fn add_empty<S: ReadAt>(&mut self, image: &Image<S>, path: &Path) -> Result<(), Error> {
        match Walk::new(self, image, path)?.run(Last::Follow)? {
            Place::Directory => Err(Error::IsADirectory { path: path.to_path_buf() }),
            Place::Missing { parent, name } => {
                self.make(parent, name, Made::File { content: Arc::default(), mode: EMPTY_MODE }, false);
                Ok(())
            }
            Place::Other { .. } => Ok(()),
        }
    }

    /// A symbolic link in the last place is itself replaced: the content is then seen at the path that was asked for
    /// whatever is mounted over the link's target later (`/etc/resolv.conf` is often a link into `/run`).
    fn put<S: ReadAt>(&mut self, image: &Image<S>, path: &Path, file: Made) -> Result<(), Error> {
        let conflict = || Err(Error::Conflict { path: path.to_path_buf() });
        match Walk::new(self, image, path)?.run(Last::Keep)? {
            Place::Directory => Err(Error::IsADirectory { path: path.to_path_buf() }),
            Place::Missing { parent, name } => {
                self.make(parent, name, file, false);
                Ok(())
            }
            Place::Other { node: Node::Synthetic(index), .. } if index < self.sealed => match self.made.get(index) {
                Some(there) if *there == file => Ok(()),
                _ => conflict(),
            },
            Place::Other { node: Node::Image(reference), .. } if is_link(image, reference, &file) => Ok(()),
            // A program may have the file open, or something may be mounted there, which the kernel would take away.
            Place::Other { node: Node::Image(_), .. } if self.live => conflict(),
            Place::Other { node: Node::Synthetic(index), .. } => {
                if let Some(made) = self.made.get_mut(index) {
                    *made = file;
                }
                Ok(())
            }
            Place::Other { node: Node::Image(_), parent, name, .. } => {
                self.make(parent, name, file, true);
                Ok(())
            }
        }
    }

    fn make_directory(&mut self, parent: Node, name: Vec<u8>) -> Node {
        let node = self.make(parent, name, Made::Directory { parent }, false);
        self.directories.entry(parent).or_default().subdirectories += 1;
        node
    }

    fn make(&mut self, parent: Node, name: Vec<u8>, made: Made, replaces: bool) -> Node {
        let index = self.made.len();
        self.made.push(made);
        self.directories.entry(parent).or_default().insert(Child { name, index, replaces });
        Node::Synthetic(index)
    }
}

/// Whether what the image has there is the link that is wanted.
fn is_link<S: ReadAt>(image: &Image<S>, reference: InodeRef, wanted: &Made) -> bool {
    let Made::Link { target } = wanted else { return false };
    let there = image.inode(reference).and_then(|inode| image.read_link(&inode));
    there.is_ok_and(|there| there == **target)
}

/// What to do with a symbolic link in a path's last place.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Last {
    Follow,
    Keep,
}

/// Where a path leads.
enum Place {
    Directory,
    /// Everything but the last name is there.
    Missing {
        parent: Node,
        name: Vec<u8>,
    },
    /// Something that is not a directory.
    Other {
        parent: Node,
        name: Vec<u8>,
        node: Node,
        shown: PathBuf,
    },
}

/// What a name in a directory leads to.
enum Found {
    Directory(At),
    Link(Node, Vec<u8>),
    Other(Node),
}

/// A directory on the way.
enum At {
    Image(Inode),
    Synthetic(usize),
}

impl At {
    fn node(&self) -> Node {
        match self {
            Self::Image(inode) => Node::Image(inode.reference),
            Self::Synthetic(index) => Node::Synthetic(*index),
        }
    }
}

/// The resolution of one path, which makes the parents that are missing.
struct Walk<'a, S: ReadAt> {
    overlay: &'a mut Overlay,
    image: &'a Image<S>,
    path: &'a Path,
    /// Names still to be walked, the next one last.
    pending: Vec<Vec<u8>>,
    /// Where the walk stands, by name below the root. `..` goes back along it and stops at the root.
    stack: Vec<(Vec<u8>, At)>,
    root: Inode,
    links: usize,
}

impl<'a, S: ReadAt> Walk<'a, S> {
    fn new(overlay: &'a mut Overlay, image: &'a Image<S>, path: &'a Path) -> Result<Self, Error> {
        if !path.is_absolute() {
            return Err(Error::NotAbsolute { path: path.to_path_buf() });
        }
        let root = image.inode(image.root()).map_err(|source| Error::Image { path: path.to_path_buf(), source })?;
        let mut walk = Self { overlay, image, path, pending: Vec::new(), stack: Vec::new(), root, links: 0 };
        walk.push_names(path.as_os_str().as_bytes());
        Ok(walk)
    }

    fn push_names(&mut self, path: &[u8]) {
        let names = path.rsplit(|byte| *byte == b'/').filter(|name| !name.is_empty() && *name != b".");
        self.pending.extend(names.map(<[u8]>::to_vec));
    }

    fn run(mut self, last: Last) -> Result<Place, Error> {
        while let Some(name) = self.pending.pop() {
            if name == b".." {
                self.stack.pop();
                continue;
            }
            if name.len() > NAME_MAX || name.contains(&0) {
                return Err(Error::BadName { path: self.owned_path(), component: self.shown(&name) });
            }
            let is_last = self.pending.is_empty();
            let parent = self.here();
            match self.find(&name)? {
                None if is_last => return Ok(Place::Missing { parent, name }),
                None => {
                    let Node::Synthetic(index) = self.overlay.make_directory(parent, name.clone()) else { continue };
                    self.stack.push((name, At::Synthetic(index)));
                }
                Some(Found::Directory(at)) => self.stack.push((name, at)),
                Some(Found::Link(node, _)) if is_last && last == Last::Keep => {
                    return Ok(self.other(parent, name, node));
                }
                Some(Found::Link(_, target)) => self.follow(&target)?,
                Some(Found::Other(node)) if is_last => return Ok(self.other(parent, name, node)),
                Some(Found::Other(_)) => {
                    return Err(Error::NotADirectory { path: self.owned_path(), component: self.shown(&name) });
                }
            }
        }
        Ok(Place::Directory)
    }

    fn follow(&mut self, target: &[u8]) -> Result<(), Error> {
        self.links += 1;
        if self.links > LINKS_MAX {
            return Err(Error::TooManyLinks { path: self.owned_path() });
        }
        if target.first() == Some(&b'/') {
            self.stack.clear();
        }
        self.push_names(target);
        Ok(())
    }

    fn here(&self) -> Node {
        self.stack.last().map_or(Node::Image(self.root.reference), |(_, at)| at.node())
    }

    fn find(&self, name: &[u8]) -> Result<Option<Found>, Error> {
        if let Some(child) = self.overlay.additions(self.here()).and_then(|additions| additions.get(name)) {
            return Ok(Some(match self.overlay.made(child.index) {
                Some(Made::Directory { .. }) => Found::Directory(At::Synthetic(child.index)),
                Some(Made::Link { target }) => Found::Link(Node::Synthetic(child.index), target.to_vec()),
                _ => Found::Other(Node::Synthetic(child.index)),
            }));
        }
        let directory = match self.stack.last() {
            None => &self.root,
            Some((_, At::Image(inode))) => inode,
            Some((_, At::Synthetic(_))) => return Ok(None),
        };
        let found = self.image.lookup(directory, name).map_err(|source| self.unreadable(source))?;
        let Some(entry) = found else { return Ok(None) };
        let inode = self.image.inode(entry.inode).map_err(|source| self.unreadable(source))?;
        Ok(Some(match inode.kind {
            Kind::Directory { .. } => Found::Directory(At::Image(inode)),
            Kind::Symlink { .. } => {
                let target = self.image.read_link(&inode).map_err(|source| self.unreadable(source))?;
                Found::Link(Node::Image(inode.reference), target)
            }
            _ => Found::Other(Node::Image(inode.reference)),
        }))
    }

    fn other(&self, parent: Node, name: Vec<u8>, node: Node) -> Place {
        let shown = self.shown(&name);
        Place::Other { parent, name, node, shown }
    }

    fn unreadable(&self, source: coracle_squashfs::reader::Error) -> Error {
        Error::Image { path: self.owned_path(), source }
    }

    fn owned_path(&self) -> PathBuf {
        self.path.to_path_buf()
    }

    /// The path, links resolved, of `name` where the walk stands.
    fn shown(&self, name: &[u8]) -> PathBuf {
        let mut path = PathBuf::from("/");
        path.extend(self.stack.iter().map(|(name, _)| OsStr::from_bytes(name)));
        path.push(OsStr::from_bytes(name));
        path
    }
}

#[cfg(test)]
mod tests;
