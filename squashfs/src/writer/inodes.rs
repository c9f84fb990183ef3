//! Inodes and directories.
//!
//! A listing needs the places of its entries' inodes, and a directory's inode the place of its listing, so directories
//! are written from the leaves up, all of one height at once: that leaves enough metadata blocks without an order among
//! them to compress on all threads. The inodes of one directory's entries lie together, which keeps listings short and
//! `ls -l` local; the root's comes last.

use super::listing::{Entry, Listing};
use super::metadata::{MetadataStream, Output, Packing};
use super::store::Stored;
use super::xattrs::Xattrs;
use super::{Content, Error, FileId, Metadata, NodeId, NodeKind, Tree};
use crate::format::{
    BaseInode, DevInode, DirInode, INVALID_FRAGMENT, INVALID_XATTR, InodeRef, IpcInode, LDirInode, LRegInode, RegInode,
    SymlinkInode, inode_type,
};
use std::collections::HashMap;
use zerocopy::IntoBytes;
use zerocopy::little_endian::{U32, U64};

/// An extended inode type is its basic type plus this.
const EXTENDED: u16 = inode_type::LDIR - inode_type::DIR;
/// Most ids: the superblock counts them in 16 bits.
const IDS_MAX: usize = u16::MAX as usize;
/// Inode table bytes that are gathered before they are written.
const GATHER: usize = 1 << 20;
/// Not written yet.
const NOWHERE: u64 = u64::MAX;

/// The tables that come after the directory table, and what the superblock says of those that are written.
pub(super) struct Inodes<'t> {
    pub(super) inode_table: u64,
    pub(super) directory_table: u64,
    pub(super) root: InodeRef,
    /// References by inode number less 1.
    pub(super) references: Vec<U64>,
    pub(super) ids: Vec<U32>,
    pub(super) xattrs: Xattrs<'t>,
}

struct Builder<'t> {
    tree: &'t Tree,
    files: &'t [Content],
    stored: &'t Stored,
    inodes: MetadataStream,
    directories: MetadataStream,
    xattrs: Xattrs<'t>,
    ids: Vec<U32>,
    id_index: HashMap<u32, u16>,
    /// By node, 0 for those not reached.
    numbers: Vec<u32>,
    /// Raw offsets in the inode table by number less 1.
    places: Vec<u64>,
    /// Of directories whose inode is not written yet.
    listings: HashMap<NodeId, Listing<'t>>,
    /// The inode that is being put together.
    bytes: Vec<u8>,
}

impl<'t> Inodes<'t> {
    /// Writes the inode table and the directory table.
    pub(super) fn write(
        tree: &'t Tree,
        files: &'t [Content],
        stored: &'t Stored,
        packing: Packing,
        output: &mut Output<'_>,
    ) -> Result<Self, Error> {
        let heights = directories_by_height(tree);
        let (numbers, count) = number(tree, heights.iter().flatten());
        let mut builder = Builder {
            tree,
            files,
            stored,
            inodes: MetadataStream::new(packing),
            directories: MetadataStream::new(packing),
            xattrs: Xattrs::new(packing),
            ids: Vec::new(),
            id_index: HashMap::new(),
            numbers,
            places: vec![NOWHERE; count as usize],
            listings: HashMap::new(),
            bytes: Vec::new(),
        };
        let inode_table = output.position;
        for directories in heights {
            for &directory in &directories {
                builder.inodes_of(directory)?;
                if builder.inodes.undrained() >= GATHER {
                    builder.inodes.drain(output)?;
                }
            }
            for directory in directories {
                builder.listing(directory)?;
            }
        }
        // The root's parent is a number that no inode has, as `mksquashfs` has it.
        builder.inode(Tree::ROOT, count.saturating_add(1))?;
        builder.inodes.finish()?;
        builder.inodes.drain(output)?;
        let directory_table = output.position;
        builder.directories.finish()?;
        builder.directories.drain(output)?;
        let Builder { mut inodes, places, ids, xattrs, .. } = builder;
        let references =
            places.iter().map(|&raw| inodes.place(raw).map(|at| U64::new(at.0))).collect::<Result<Vec<_>, _>>()?;
        // The root has the last number.
        let root = InodeRef(references.last().map_or(0, |root| root.get()));
        Ok(Self { inode_table, directory_table, root, references, ids, xattrs })
    }
}

/// All directories by height: first those without subdirectories, the root last.
fn directories_by_height(tree: &Tree) -> Vec<Vec<NodeId>> {
    let is_directory = |id: &NodeId| tree.entries(*id).is_some();
    let mut order = Vec::new();
    // Without recursion: nesting is the input's choice. Parents first, last child first, then turned around.
    let mut stack = vec![Tree::ROOT];
    while let Some(directory) = stack.pop() {
        order.push(directory);
        stack.extend(tree.children(directory).map(|(_, id)| id).filter(is_directory));
    }
    let mut heights = vec![0usize; tree.len()];
    let mut result: Vec<Vec<NodeId>> = Vec::new();
    for directory in order.into_iter().rev() {
        let below = tree.children(directory).map(|(_, id)| id).filter(is_directory);
        let height = below.filter_map(|id| heights.get(id.index())).max().map_or(0, |height| height + 1);
        if let Some(slot) = heights.get_mut(directory.index()) {
            *slot = height;
        }
        if height >= result.len() {
            result.resize_with(height + 1, Vec::new);
        }
        if let Some(same) = result.get_mut(height) {
            same.push(directory);
        }
    }
    result
}

/// Numbers inodes in the order in which they will be written. Returns the numbers by node and how many there are.
fn number<'a>(tree: &Tree, directories: impl Iterator<Item = &'a NodeId>) -> (Vec<u32>, u32) {
    let mut numbers = vec![0; tree.len()];
    let mut last = 0;
    let entries = directories.flat_map(|&directory| tree.children(directory).map(|(_, id)| id));
    for id in entries.chain([Tree::ROOT]) {
        if let Some(number @ 0) = numbers.get_mut(id.index()) {
            last += 1;
            *number = last;
        }
    }
    (numbers, last)
}

impl<'t> Builder<'t> {
    /// Writes the inodes of a directory's entries, except those that another directory has had written.
    fn inodes_of(&mut self, directory: NodeId) -> Result<(), Error> {
        let tree = self.tree;
        let parent = self.number(directory);
        for (_, child) in tree.children(directory) {
            if self.place(child) == NOWHERE {
                self.inode(child, parent)?;
            }
        }
        Ok(())
    }

    /// Writes a directory's listing.
    fn listing(&mut self, directory: NodeId) -> Result<(), Error> {
        let tree = self.tree;
        let mut entries = Vec::with_capacity(tree.entries(directory).map_or(0, |entries| entries.len()));
        for (name, child) in tree.children(directory) {
            let inode = self.inodes.place(self.place(child))?;
            let kind = tree.get(child).map_or(0, |node| basic_type(&node.kind));
            entries.push(Entry { name, inode, number: self.number(child), kind });
        }
        let listing = Listing::write(&entries, &mut self.directories)?;
        self.listings.insert(directory, listing);
        Ok(())
    }

    /// Raw offset of a node's inode.
    fn place(&self, id: NodeId) -> u64 {
        self.places.get(self.number(id) as usize - 1).copied().unwrap_or(NOWHERE)
    }

    fn number(&self, id: NodeId) -> u32 {
        self.numbers.get(id.index()).copied().unwrap_or(0)
    }

    /// Writes one inode; `parent` is its directory's number.
    fn inode(&mut self, id: NodeId, parent: u32) -> Result<(), Error> {
        let tree = self.tree;
        let node = tree.get(id).ok_or(Error::UnknownNode(id.0))?;
        let number = self.number(id);
        let nlink = tree.nlink(id);
        let xattr = self.xattrs.id(&node.metadata)?;
        if let Some(place) = self.places.get_mut(number as usize - 1) {
            *place = self.inodes.raw_len();
        }
        self.bytes.clear();
        match &node.kind {
            NodeKind::Directory => self.directory_inode(id, &node.metadata, number, parent, xattr),
            &NodeKind::File(file) => self.file_inode(file, &node.metadata, number, nlink, xattr),
            other => self.plain_inode(other, &node.metadata, number, nlink, xattr),
        }
    }

    fn base(&mut self, kind: u16, metadata: &Metadata, number: u32) -> Result<(), Error> {
        let base = BaseInode {
            inode_type: kind.into(),
            mode: (metadata.mode & 0o7777).into(),
            uid: self.id(metadata.uid)?.into(),
            guid: self.id(metadata.gid)?.into(),
            mtime: metadata.mtime.into(),
            inode_number: number.into(),
        };
        self.bytes.extend_from_slice(base.as_bytes());
        Ok(())
    }

    fn id(&mut self, id: u32) -> Result<u16, Error> {
        if let Some(&index) = self.id_index.get(&id) {
            return Ok(index);
        }
        let index = self.ids.len();
        if index >= IDS_MAX {
            return Err(Error::TooMany { what: "distinct owner and group ids", max: IDS_MAX as u64 });
        }
        self.ids.push(id.into());
        self.id_index.insert(id, index as u16);
        Ok(index as u16)
    }

    fn directory_inode(
        &mut self,
        id: NodeId,
        metadata: &Metadata,
        number: u32,
        parent: u32,
        xattr: u32,
    ) -> Result<(), Error> {
        let listing = self.listings.remove(&id).unwrap_or_default();
        let nlink = self.tree.nlink(id).into();
        let (start_block, offset) = listing.start(&mut self.directories)?;
        let (start_block, offset, parent_inode) = (start_block.into(), offset.into(), parent.into());
        match u16::try_from(listing.size) {
            Ok(size) if listing.index.is_empty() && xattr == INVALID_XATTR => {
                self.base(inode_type::DIR, metadata, number)?;
                let rest = DirInode { start_block, nlink, file_size: size.into(), offset, parent_inode };
                self.bytes.extend_from_slice(rest.as_bytes());
            }
            _ => {
                self.base(inode_type::LDIR, metadata, number)?;
                let (i_count, xattr) = ((listing.index.len() as u16).into(), xattr.into());
                let file_size = listing.size.into();
                let rest = LDirInode { nlink, file_size, start_block, parent_inode, i_count, offset, xattr };
                self.bytes.extend_from_slice(rest.as_bytes());
                listing.append_index(&mut self.directories, &mut self.bytes)?;
            }
        }
        self.inodes.append(&self.bytes)
    }

    fn file_inode(
        &mut self,
        file: FileId,
        metadata: &Metadata,
        number: u32,
        nlink: u32,
        xattr: u32,
    ) -> Result<(), Error> {
        let content = self.files.get(file.0 as usize).copied().ok_or(Error::UnknownFile(file.0))?;
        let (mut start, mut size, mut sparse, mut blocks) = (0, 0, 0, None);
        let (mut fragment, mut offset) = (INVALID_FRAGMENT, 0);
        match content {
            Content::Empty => {}
            Content::Fragment { index, offset: at, size: length } => {
                (fragment, offset, size) = (index, at, u64::from(length));
            }
            Content::Blocks(index) => {
                let file = self.stored.files.get(index as usize).ok_or(Error::UnknownFile(file.0))?;
                (start, size, sparse, blocks) = (file.start, file.size, file.sparse, Some(file));
            }
        }
        match (u32::try_from(start), u32::try_from(size)) {
            (Ok(start), Ok(size)) if nlink == 1 && sparse == 0 && xattr == INVALID_XATTR => {
                self.base(inode_type::REG, metadata, number)?;
                let (fragment, offset) = (fragment.into(), offset.into());
                let rest = RegInode { start_block: start.into(), fragment, offset, file_size: size.into() };
                self.bytes.extend_from_slice(rest.as_bytes());
            }
            _ => {
                self.base(inode_type::LREG, metadata, number)?;
                let rest = LRegInode {
                    start_block: start.into(),
                    file_size: size.into(),
                    // A file without any block at all made old kernels compute st_blocks from -1.
                    sparse: sparse.min(size.saturating_sub(1)).into(),
                    nlink: nlink.into(),
                    fragment: fragment.into(),
                    offset: offset.into(),
                    xattr: xattr.into(),
                };
                self.bytes.extend_from_slice(rest.as_bytes());
            }
        }
        for (size, repeat) in blocks.into_iter().flat_map(|file| self.stored.blocks(file)) {
            for _ in 0..repeat {
                self.bytes.extend_from_slice(&size.to_le_bytes());
                if self.bytes.len() >= GATHER {
                    self.inodes.append(&self.bytes)?;
                    self.bytes.clear();
                }
            }
        }
        self.inodes.append(&self.bytes)
    }

    /// Symbolic links, devices, pipes and sockets.
    fn plain_inode(
        &mut self,
        kind: &NodeKind,
        metadata: &Metadata,
        number: u32,
        nlink: u32,
        xattr: u32,
    ) -> Result<(), Error> {
        let extended = if xattr == INVALID_XATTR { 0 } else { EXTENDED };
        self.base(basic_type(kind) + extended, metadata, number)?;
        let nlink = nlink.into();
        match kind {
            NodeKind::Symlink(target) => {
                let rest = SymlinkInode { nlink, symlink_size: (target.len() as u32).into() };
                self.bytes.extend_from_slice(rest.as_bytes());
                self.bytes.extend_from_slice(target);
            }
            &NodeKind::BlockDevice { major, minor } | &NodeKind::CharDevice { major, minor } => {
                let rest = DevInode { nlink, rdev: encode_device(major, minor).into() };
                self.bytes.extend_from_slice(rest.as_bytes());
            }
            _ => self.bytes.extend_from_slice(IpcInode { nlink }.as_bytes()),
        }
        if extended != 0 {
            self.bytes.extend_from_slice(&xattr.to_le_bytes());
        }
        self.inodes.append(&self.bytes)
    }
}

fn basic_type(kind: &NodeKind) -> u16 {
    match kind {
        NodeKind::Directory => inode_type::DIR,
        NodeKind::File(_) => inode_type::REG,
        NodeKind::Symlink(_) => inode_type::SYMLINK,
        NodeKind::BlockDevice { .. } => inode_type::BLKDEV,
        NodeKind::CharDevice { .. } => inode_type::CHRDEV,
        NodeKind::Fifo => inode_type::FIFO,
        NodeKind::Socket => inode_type::SOCKET,
    }
}

/// The kernel's `new_encode_dev`.
const fn encode_device(major: u32, minor: u32) -> u32 {
    (minor & 0xff) | (major << 8) | ((minor & !0xff) << 12)
}
