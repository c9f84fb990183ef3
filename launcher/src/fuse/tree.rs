//! The tree that is served: the image and what is added to it.
//!
//! Answers are made from these two alone: no handle or look-up count is kept, so FORGET and RELEASE have nothing to do.

use std::fs::File;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use coracle_squashfs::reader::{self, Image, Inode, Kind};
use rustix::io::Errno;

use super::log::Log;
use super::node::{Common, Node};
use super::overlay::{Made, Overlay};
use super::protocol::Attr;
use super::source::Source;
use super::{Error, ServeOptions, Synthetic};

const SELINUX: &[u8] = b"security.selinux";
const CAPABILITY: &[u8] = b"security.capability";

/// Why a request gets an error.
#[derive(Debug)]
pub(super) enum Failure {
    /// The request asks for what is not there.
    Errno(Errno),
    /// The image cannot be read.
    Image(reader::Error),
}

impl From<reader::Error> for Failure {
    fn from(error: reader::Error) -> Self {
        match error {
            // Anyone can seek a directory to where no entry starts; the image is not to blame.
            reader::Error::Position { .. } | reader::Error::WrongType { .. } => Self::Errno(Errno::INVAL),
            error => Self::Image(error),
        }
    }
}

impl From<Errno> for Failure {
    fn from(errno: Errno) -> Self {
        Self::Errno(errno)
    }
}

/// The tree that is served.
pub(super) struct Tree {
    pub(super) image: Image<Source>,
    /// Replaced as a whole, so that a request sees one state of it.
    overlay: RwLock<Arc<Overlay>>,
    /// Held while an addition is made, so that none is lost.
    adding: Mutex<()>,
    pub(super) common: Common,
    pub(super) log: Log,
}

/// What a regular file's bytes come from.
pub(super) enum FileBytes {
    Image(Inode),
    Made(Arc<[u8]>),
}

impl Tree {
    pub(super) fn new(image: Image<File>, options: &ServeOptions, cache_bytes: usize) -> Result<Self, Error> {
        // Metadata is small and used again and again; a block is hardly ever, once the kernel has it.
        let image = image.rewrap(cache_bytes / 2, cache_bytes / 2, Source::new);
        let mut overlay = Overlay::default();
        overlay.add(&image, &options.synthetic)?;
        let superblock = image.superblock();
        let common = Common {
            uid: options.uid,
            gid: options.gid,
            owners: options.owners.clone(),
            block_size: superblock.block_size.get(),
            root: image.root(),
            time: superblock.mkfs_time.get(),
        };
        let overlay = RwLock::new(Arc::new(overlay));
        Ok(Self { image, overlay, adding: Mutex::default(), common, log: Log::default() })
    }

    pub(super) fn overlay(&self) -> Arc<Overlay> {
        Arc::clone(&self.overlay.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Adds to the overlay before anybody sees it, all or nothing.
    pub(super) fn prepare(&self, synthetic: &Synthetic) -> Result<(), Error> {
        let _adding: MutexGuard<'_, ()> = self.adding.lock().unwrap_or_else(PoisonError::into_inner);
        let mut overlay = Overlay::clone(&self.overlay());
        overlay.add(&self.image, synthetic)?;
        *self.overlay.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(overlay);
        Ok(())
    }

    /// Adds to the overlay that is in use, all or nothing. `announce` is then told the directories and names that are new.
    pub(super) fn add<T>(
        &self,
        synthetic: &Synthetic,
        announce: impl FnOnce(Vec<(u64, Vec<u8>)>) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let _adding: MutexGuard<'_, ()> = self.adding.lock().unwrap_or_else(PoisonError::into_inner);
        let mut overlay = Overlay::clone(&self.overlay());
        overlay.seal();
        overlay.add(&self.image, synthetic)?;
        let news = overlay.news().map(|(node, name)| (self.id(node), name.to_vec())).collect();
        *self.overlay.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(overlay);
        announce(news)
    }

    pub(super) fn id(&self, node: Node) -> u64 {
        node.id(self.common.root)
    }

    pub(super) fn node(&self, id: u64) -> Result<Node, Failure> {
        Node::from_id(id, self.common.root).ok_or(Failure::Errno(Errno::STALE))
    }

    /// The inode of a node, if that is the image's.
    fn inode(&self, node: Node) -> Result<Option<Inode>, Failure> {
        match node {
            Node::Image(reference) => Ok(Some(self.image.inode(reference)?)),
            Node::Synthetic(_) => Ok(None),
        }
    }

    /// Attributes of a node, and its inode if the image has one.
    pub(super) fn attributes(&self, node: Node) -> Result<(Attr, Option<Inode>), Failure> {
        match node {
            Node::Image(reference) => {
                let inode = self.image.inode(reference)?;
                let subdirectories = match inode.kind {
                    Kind::Directory { .. } => self.overlay().subdirectories(node),
                    _ => 0,
                };
                Ok((self.common.of_image(&inode, subdirectories), Some(inode)))
            }
            Node::Synthetic(index) => {
                let overlay = self.overlay();
                let attr = match overlay.made(index) {
                    Some(Made::Directory { .. }) => self.common.of_directory(index, overlay.subdirectories(node)),
                    Some(Made::File { content, mode }) => self.common.of_file(index, *mode, content.len() as u64),
                    Some(Made::Link { target }) => self.common.of_link(index, target.len() as u64),
                    None => return Err(Errno::STALE.into()),
                };
                Ok((attr, None))
            }
        }
    }

    pub(super) fn find(&self, parent: u64, name: &[u8]) -> Result<Option<Node>, Failure> {
        let directory = self.node(parent)?;
        if let Some(child) = self.overlay().additions(directory).and_then(|additions| additions.get(name)) {
            return Ok(Some(Node::Synthetic(child.index)));
        }
        let Some(inode) = self.inode(directory)? else { return Ok(None) };
        Ok(self.image.lookup(&inode, name)?.map(|entry| Node::Image(entry.inode)))
    }

    /// The target of a symbolic link.
    pub(super) fn link(&self, id: u64) -> Result<Vec<u8>, Failure> {
        let node = self.node(id)?;
        match (self.inode(node)?, node) {
            (Some(inode), _) => Ok(self.image.read_link(&inode)?),
            (None, Node::Synthetic(index)) => match self.overlay().made(index) {
                Some(Made::Link { target }) => Ok(target.to_vec()),
                _ => Err(Errno::INVAL.into()),
            },
            (None, Node::Image(_)) => Err(Errno::INVAL.into()),
        }
    }

    /// What to read a file from.
    pub(super) fn file(&self, id: u64) -> Result<FileBytes, Failure> {
        match self.node(id)? {
            Node::Image(reference) => {
                let inode = self.image.inode(reference)?;
                let Kind::File { .. } = inode.kind else { return Err(Errno::INVAL.into()) };
                Ok(FileBytes::Image(inode))
            }
            Node::Synthetic(index) => match self.overlay().made(index) {
                Some(Made::File { content, .. }) => Ok(FileBytes::Made(Arc::clone(content))),
                Some(Made::Link { .. }) => Err(Errno::INVAL.into()),
                _ => Err(Errno::ISDIR.into()),
            },
        }
    }

    /// The value of one extended attribute.
    pub(super) fn xattr(&self, id: u64, name: &[u8]) -> Result<Vec<u8>, Failure> {
        let inode = self.inode(self.node(id)?)?.filter(Inode::has_xattrs);
        let xattrs = inode.map(|inode| self.image.xattrs(&inode)).transpose()?.unwrap_or_default();
        match xattrs.into_iter().find(|xattr| xattr.name == name) {
            Some(xattr) => Ok(xattr.value),
            // `ls -l` asks for this of every file, until it is told that there are none here. The kernel remembers no
            // answer to a request for an attribute.
            None if name == SELINUX => Err(Errno::OPNOTSUPP.into()),
            None => Err(Errno::NODATA.into()),
        }
    }

    /// The names of all extended attributes, each with a NUL byte.
    pub(super) fn xattr_names(&self, id: u64) -> Result<Vec<u8>, Failure> {
        let mut names = Vec::new();
        let Some(inode) = self.inode(self.node(id)?)? else { return Ok(names) };
        if inode.has_xattrs() {
            for xattr in self.image.xattrs(&inode)? {
                // Only the administrator of the host may read these; the kernel's squashfs does not list them, either.
                // A capability is one of root, whom this mount does not know: its value is an error to those who read it
                // (cap_inode_getsecurity), and an overlay over this mount would copy no file that lists it.
                let foreign = xattr.name == CAPABILITY && self.common.uid != 0;
                if !xattr.name.starts_with(b"trusted.") && !foreign {
                    names.extend_from_slice(&xattr.name);
                    names.push(0);
                }
            }
        }
        Ok(names)
    }
}
