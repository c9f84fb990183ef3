//! Node ids: how the kernel names what is served.
//!
//! An image's node id is its inode reference plus a constant, so that it is stable over mounts, needs no table and
//! is the same for all hard links of a file. It is shown as `st_ino`, too. Synthesised nodes have the top bit set,
//! which no reference in a directory reaches: it has a 32-bit block and a 16-bit offset.

use coracle_squashfs::format::InodeRef;
use coracle_squashfs::reader::{FileType, Inode, Kind};

use super::protocol::Attr;
use crate::ids::Owners;

/// The kernel's fixed name for the root of the mount.
pub(super) const ROOT_ID: u64 = 1;
/// What `d_ino` says when a directory's parent is not known (libfuse's `FUSE_UNKNOWN_INO`).
pub(super) const UNKNOWN_ID: u64 = u32::MAX as u64;

const SYNTHETIC: u64 = 1 << 63;
/// 0 means "no node" to the kernel and 1 is the root.
const REFERENCE_BASE: u64 = 2;

/// What a node id stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Node {
    Image(InodeRef),
    /// Index in the overlay's nodes.
    Synthetic(usize),
}

impl Node {
    /// The id by which the kernel knows this node, in an image whose root directory is `root`.
    pub(super) fn id(self, root: InodeRef) -> u64 {
        match self {
            Self::Image(reference) if reference == root => ROOT_ID,
            Self::Image(reference) => reference.0.wrapping_add(REFERENCE_BASE) & !SYNTHETIC,
            Self::Synthetic(index) => SYNTHETIC | index as u64,
        }
    }

    /// The node that `id` stands for; the kernel only asks for ids that it was given.
    pub(super) fn from_id(id: u64, root: InodeRef) -> Option<Self> {
        if id & SYNTHETIC != 0 {
            return usize::try_from(id & !SYNTHETIC).ok().map(Self::Synthetic);
        }
        match id {
            ROOT_ID => Some(Self::Image(root)),
            _ => id.checked_sub(REFERENCE_BASE).map(|reference| Self::Image(InodeRef(reference))),
        }
    }
}

/// What all nodes of a mount have in common.
#[derive(Clone, Debug)]
pub(super) struct Common {
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) owners: Owners,
    pub(super) block_size: u32,
    pub(super) root: InodeRef,
    /// Time shown for what is synthesised, in seconds since 1970: the image's own, so that a listing does not depend
    /// on when it was mounted.
    pub(super) time: u32,
}

impl Common {
    /// Attributes of an inode of the image, which has `subdirectories` more than the image knows.
    pub(super) fn of_image(&self, inode: &Inode, subdirectories: u32) -> Attr {
        let rdev = match inode.kind {
            Kind::BlockDevice { rdev } | Kind::CharDevice { rdev } => rdev,
            _ => 0,
        };
        Attr {
            size: inode.size(),
            blocks: inode.blocks_512(),
            nlink: inode.nlink.saturating_add(subdirectories),
            rdev,
            uid: self.owners.user(inode.uid, self.uid),
            gid: self.owners.group(inode.gid, self.gid),
            ..self.attributes(Node::Image(inode.reference), inode.file_type(), inode.mode, inode.mtime)
        }
    }

    /// Attributes of a synthesised directory with this many subdirectories.
    pub(super) fn of_directory(&self, index: usize, subdirectories: u32) -> Attr {
        let nlink = subdirectories.saturating_add(2);
        Attr { nlink, ..self.attributes(Node::Synthetic(index), FileType::Directory, 0o755, self.time) }
    }

    /// Attributes of a synthesised file.
    pub(super) fn of_file(&self, index: usize, mode: u16, size: u64) -> Attr {
        let attr = self.attributes(Node::Synthetic(index), FileType::File, mode, self.time);
        Attr { size, blocks: size.div_ceil(512), ..attr }
    }

    /// Attributes of a synthesised symbolic link.
    pub(super) fn of_link(&self, index: usize, size: u64) -> Attr {
        Attr { size, ..self.attributes(Node::Synthetic(index), FileType::Symlink, 0o777, self.time) }
    }

    fn attributes(&self, node: Node, kind: FileType, mode: u16, mtime: u32) -> Attr {
        Attr {
            ino: node.id(self.root),
            atime: mtime.into(),
            mtime: mtime.into(),
            ctime: mtime.into(),
            mode: kind.mode_bits() | u32::from(mode & 0o7777),
            nlink: 1,
            uid: self.uid,
            gid: self.gid,
            blksize: self.block_size,
            ..Attr::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_and_nodes_are_a_bijection() {
        let root = InodeRef::new(7, 96);
        let nodes = [
            Node::Image(root),
            Node::Image(InodeRef(0)),
            Node::Image(InodeRef(1)),
            Node::Image(InodeRef::new(u32::MAX.into(), u16::MAX)),
            Node::Synthetic(0),
            Node::Synthetic(1 << 20),
        ];
        let mut ids: Vec<u64> = nodes.iter().map(|node| node.id(root)).collect();
        for (node, id) in nodes.iter().zip(&ids) {
            assert_eq!(Node::from_id(*id, root), Some(*node));
        }
        assert_eq!(ids.first(), Some(&ROOT_ID));
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), nodes.len());
        assert_eq!(Node::from_id(0, root), None);
    }
}
