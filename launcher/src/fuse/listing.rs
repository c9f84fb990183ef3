//! Directory listings: the image's entries with the overlay's merged in, resumable at any entry.
//!
//! A cookie tells where to go on: 1 after `.`, 2 after `..`, then 2 plus the position in the image's listing, then
//! [`ADDED`] plus the number of additions passed. Cookies are stable as long as image and overlay are.

use coracle_squashfs::reader::{FileType, Kind};
use rustix::io::Errno;

use super::node::{Node, ROOT_ID, UNKNOWN_ID};
use super::overlay::{Made, Overlay};
use super::tree::{Failure, Tree};

/// Above any position in an image's listing, which is a 32-bit number.
const ADDED: u64 = 1 << 33;
/// The cookies of `.` and `..`.
const DOTS: u64 = 2;

/// One entry of a listing.
#[derive(Clone, Copy, Debug)]
pub(super) struct Listed<'a> {
    pub(super) name: &'a [u8],
    pub(super) target: Target,
    pub(super) kind: FileType,
    /// Where to go on after this entry.
    pub(super) cookie: u64,
}

/// What an entry leads to.
#[derive(Clone, Copy, Debug)]
pub(super) enum Target {
    /// `.` or `..`, with its node id; the kernel asks for no attributes of these.
    Dot(u64),
    Node(Node),
}

impl Tree {
    /// Hands the entries of `directory` from `cookie` on to `emit`, until it returns true: no more room.
    pub(super) fn list(
        &self,
        directory: Node,
        cookie: u64,
        emit: &mut dyn FnMut(Listed<'_>) -> Result<bool, Failure>,
    ) -> Result<(), Failure> {
        let overlay = self.overlay();
        let mut dot =
            |name, id, cookie| emit(Listed { name, target: Target::Dot(id), kind: FileType::Directory, cookie });
        if cookie < 1 && dot(b".".as_slice(), self.id(directory), 1)? {
            return Ok(());
        }
        if cookie < DOTS && dot(b"..".as_slice(), self.parent_id(&overlay, directory), DOTS)? {
            return Ok(());
        }
        if cookie < ADDED && self.list_image(&overlay, directory, cookie.saturating_sub(DOTS), emit)? {
            return Ok(());
        }
        list_added(&overlay, directory, cookie.saturating_sub(ADDED), emit)
    }

    /// The image's part. Returns whether `emit` had no more room.
    fn list_image(
        &self,
        overlay: &Overlay,
        directory: Node,
        position: u64,
        emit: &mut dyn FnMut(Listed<'_>) -> Result<bool, Failure>,
    ) -> Result<bool, Failure> {
        let Node::Image(reference) = directory else { return Ok(false) };
        let inode = self.image.inode(reference)?;
        let additions = overlay.additions(directory);
        let position = u32::try_from(position).map_err(|_| Failure::Errno(Errno::INVAL))?;
        for entry in self.image.read_dir_from(&inode, position)? {
            let entry = entry?;
            let hidden_by = additions.and_then(|additions| additions.get(&entry.name));
            let (node, kind) = match hidden_by {
                Some(child) => (Node::Synthetic(child.index), overlay.made_type(child.index)),
                None => (Node::Image(entry.inode), entry.file_type),
            };
            let cookie = DOTS + u64::from(entry.next_position);
            if emit(Listed { name: &entry.name, target: Target::Node(node), kind, cookie })? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// `d_ino` of `..`. The image names a parent by number; without an export table nothing leads from there to its
    /// node, and no one but a curious user will see.
    fn parent_id(&self, overlay: &Overlay, directory: Node) -> u64 {
        match directory {
            Node::Synthetic(index) => match overlay.made(index) {
                Some(Made::Directory { parent }) => self.id(*parent),
                _ => UNKNOWN_ID,
            },
            Node::Image(reference) if reference == self.common.root => ROOT_ID,
            Node::Image(reference) => {
                let parent = self.image.inode(reference).and_then(|inode| match inode.kind {
                    Kind::Directory { parent, .. } => self.image.inode_by_number(parent),
                    _ => Ok(inode),
                });
                parent.map_or(UNKNOWN_ID, |parent| self.id(Node::Image(parent.reference)))
            }
        }
    }
}

/// What the overlay adds, after `passed` of its children.
fn list_added(
    overlay: &Overlay,
    directory: Node,
    passed: u64,
    emit: &mut dyn FnMut(Listed<'_>) -> Result<bool, Failure>,
) -> Result<(), Failure> {
    let Some(additions) = overlay.additions(directory) else { return Ok(()) };
    for (number, child) in (1..).zip(additions.children()) {
        if number <= passed || child.replaces {
            continue;
        }
        let target = Target::Node(Node::Synthetic(child.index));
        let kind = overlay.made_type(child.index);
        if emit(Listed { name: &child.name, target, kind, cookie: ADDED + number })? {
            break;
        }
    }
    Ok(())
}
