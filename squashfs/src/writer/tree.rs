//! The tree of names that an image is made of, held in memory until all content is written.
//!
//! Nodes are inodes, entries are names: a hard link is a second entry for a node.

use super::{Error, FileId, xattrs};
use std::collections::BTreeMap;

/// Longest entry name that Linux looks up, in bytes (`NAME_MAX`).
const NAME_MAX: usize = 255;
/// Longest symbolic link target that Linux makes or follows, in bytes (`PATH_MAX` less its zero byte).
const TARGET_MAX: usize = 4095;
/// Largest device numbers of the kernel's `dev_t`.
const MAJOR_MAX: u32 = (1 << 12) - 1;
const MINOR_MAX: u32 = (1 << 20) - 1;

/// A node of a [`Tree`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(pub(super) u32);

impl NodeId {
    pub(super) const fn index(self) -> usize {
        self.0 as usize
    }
}

/// What every inode has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Metadata {
    /// Permission bits (07777); others are dropped.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Seconds since 1970; see [`clamp_time`].
    pub mtime: u32,
    /// Full name and value, in any order, no name twice; see [`xattr_supported`](super::xattr_supported).
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// The nearest time that the format can hold: 1970 to 2106.
pub fn clamp_time(seconds: i64) -> u32 {
    seconds.clamp(0, u32::MAX.into()) as u32
}

/// An inode to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Owner, mode, time, attributes.
    pub metadata: Metadata,
    /// Type and what the type needs.
    pub kind: NodeKind,
}

/// Type of an inode.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NodeKind {
    /// Directory; its entries are added to the tree.
    Directory,
    /// Regular file with content that the writer has taken in.
    File(FileId),
    /// Symbolic link to this target.
    Symlink(Vec<u8>),
    /// Block device.
    BlockDevice {
        /// At most 4095.
        major: u32,
        /// At most 1048575.
        minor: u32,
    },
    /// Character device.
    CharDevice {
        /// At most 4095.
        major: u32,
        /// At most 1048575.
        minor: u32,
    },
    /// Named pipe.
    Fifo,
    /// Socket.
    Socket,
}

/// Entries of one directory, in the format's order: by bytes of the name.
pub(super) type Entries = BTreeMap<Box<[u8]>, NodeId>;

#[derive(Debug)]
struct Slot {
    node: Node,
    /// Entries that name this node.
    names: u32,
    /// For directories: subdirectories, each of which links back with `..`.
    subdirectories: u32,
    entries: Option<Box<Entries>>,
}

/// A whole directory tree.
#[derive(Debug)]
pub struct Tree {
    slots: Vec<Slot>,
}

impl Tree {
    /// The root directory.
    pub const ROOT: NodeId = NodeId(0);

    /// A tree of nothing but a root directory.
    pub fn new(root: Metadata) -> Self {
        let node = Node { metadata: root, kind: NodeKind::Directory };
        Self { slots: vec![Slot { node, names: 1, subdirectories: 0, entries: Some(Box::default()) }] }
    }

    /// Adds an entry and its node.
    ///
    /// # Errors
    /// [`Error::AlreadyExists`], [`Error::NameTooLong`], [`Error::InvalidName`], [`Error::NotADirectory`], or what is
    /// wrong with the node: [`Error::LinkTarget`], [`Error::DeviceNumber`], [`Error::UnsupportedXattr`],
    /// [`Error::InvalidXattr`]. The tree is unchanged then.
    pub fn add(&mut self, parent: NodeId, name: &[u8], node: Node) -> Result<NodeId, Error> {
        check_node(&node)?;
        let id = u32::try_from(self.slots.len()).ok().filter(|&id| id < u32::MAX - 1);
        let id = NodeId(id.ok_or(Error::TooMany { what: "inodes", max: u64::from(u32::MAX) - 1 })?);
        self.insert(parent, name, id)?;
        let is_directory = node.kind == NodeKind::Directory;
        let entries = is_directory.then(Box::default);
        self.slots.push(Slot { node, names: 1, subdirectories: 0, entries });
        if is_directory && let Some(parent) = self.slots.get_mut(parent.index()) {
            parent.subdirectories += 1;
        }
        Ok(id)
    }

    /// Adds one more entry for a node that is no directory: a hard link.
    ///
    /// # Errors
    /// As [`Tree::add`], and [`Error::LinkToDirectory`].
    pub fn link(&mut self, parent: NodeId, name: &[u8], target: NodeId) -> Result<(), Error> {
        if self.slot(target)?.entries.is_some() {
            return Err(Error::LinkToDirectory { name: name.to_vec() });
        }
        self.insert(parent, name, target)?;
        if let Some(slot) = self.slots.get_mut(target.index()) {
            slot.names += 1;
        }
        Ok(())
    }

    /// The node of an id.
    pub fn get(&self, id: NodeId) -> Option<&Node> {
        self.slots.get(id.index()).map(|slot| &slot.node)
    }

    /// The entry of that name in a directory.
    pub fn lookup(&self, parent: NodeId, name: &[u8]) -> Option<NodeId> {
        self.slots.get(parent.index())?.entries.as_ref()?.get(name).copied()
    }

    /// Replaces a node's metadata.
    ///
    /// # Errors
    /// [`Error::UnknownNode`], [`Error::UnsupportedXattr`], [`Error::InvalidXattr`].
    pub fn set_metadata(&mut self, id: NodeId, metadata: Metadata) -> Result<(), Error> {
        xattrs::check(&metadata.xattrs)?;
        let slot = self.slots.get_mut(id.index()).ok_or(Error::UnknownNode(id.0))?;
        slot.node.metadata = metadata;
        Ok(())
    }

    /// Entries of a directory by bytes of the name; none for anything else.
    pub fn children(&self, id: NodeId) -> impl Iterator<Item = (&[u8], NodeId)> {
        let entries = self.slots.get(id.index()).and_then(|slot| slot.entries.as_deref());
        entries.into_iter().flatten().map(|(name, &id)| (&**name, id))
    }

    /// Number of nodes, the root included.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether the root has no entries.
    pub fn is_empty(&self) -> bool {
        self.slots.len() == 1
    }

    /// Link count as `stat` shows it.
    pub fn nlink(&self, id: NodeId) -> u32 {
        match self.slots.get(id.index()) {
            Some(slot) if slot.entries.is_some() => slot.subdirectories.saturating_add(2),
            Some(slot) => slot.names,
            None => 0,
        }
    }

    pub(super) fn entries(&self, id: NodeId) -> Option<&Entries> {
        self.slots.get(id.index())?.entries.as_deref()
    }

    fn slot(&self, id: NodeId) -> Result<&Slot, Error> {
        self.slots.get(id.index()).ok_or(Error::UnknownNode(id.0))
    }

    fn insert(&mut self, parent: NodeId, name: &[u8], id: NodeId) -> Result<(), Error> {
        if name.len() > NAME_MAX {
            return Err(Error::NameTooLong { name: name.to_vec() });
        }
        if matches!(name, b"" | b"." | b"..") || name.iter().any(|&byte| matches!(byte, b'/' | 0)) {
            return Err(Error::InvalidName { name: name.to_vec() });
        }
        let slot = self.slots.get_mut(parent.index()).ok_or(Error::UnknownNode(parent.0))?;
        let entries = slot.entries.as_mut().ok_or_else(|| Error::NotADirectory { name: name.to_vec() })?;
        match entries.entry(name.into()) {
            std::collections::btree_map::Entry::Occupied(_) => Err(Error::AlreadyExists { name: name.to_vec() }),
            std::collections::btree_map::Entry::Vacant(vacant) => {
                vacant.insert(id);
                Ok(())
            }
        }
    }
}

fn check_node(node: &Node) -> Result<(), Error> {
    match &node.kind {
        NodeKind::Symlink(target) if target.is_empty() || target.len() > TARGET_MAX || target.contains(&0) => {
            return Err(Error::LinkTarget { len: target.len() });
        }
        &NodeKind::BlockDevice { major, minor } | &NodeKind::CharDevice { major, minor }
            if major > MAJOR_MAX || minor > MINOR_MAX =>
        {
            return Err(Error::DeviceNumber { major, minor });
        }
        _ => {}
    }
    xattrs::check(&node.metadata.xattrs)
}
