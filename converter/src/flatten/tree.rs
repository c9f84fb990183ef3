//! The image's tree while layers are read from the top down.
//!
//! Every claim on a path – an entry, a white-out, an opaque mark – has a [`Time`]: its place in the order in which
//! unpacking from the bottom up would have reached it. A path's state is then the latest entry, and the latest time
//! at which what was there before went away. As both are maxima, layers may be read in any order.

use std::collections::BTreeMap;

/// A place in the bottom-up order of unpacking; larger is later and so wins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Time(u64);

impl Time {
    /// Before everything: no claim at all.
    pub const NEVER: Self = Self(0);
    const ENTRY_BITS: u32 = 40;

    /// Start of a layer, counted from 0 at the bottom: white-outs hide what lies below the layer, not what is in it.
    pub fn layer_start(rank: u32) -> Self {
        Self((u64::from(rank) + 1) << Self::ENTRY_BITS)
    }

    /// The entry with this number, from 1, of a layer.
    pub fn entry(rank: u32, number: u64) -> Self {
        Self(Self::layer_start(rank).0 | number.min((1 << Self::ENTRY_BITS) - 1))
    }

    /// After the last entry of a layer.
    pub fn layer_end(rank: u32) -> Self {
        Self::entry(rank, u64::MAX)
    }

    /// Whether this lies in the layer of that rank.
    pub fn is_in(self, rank: u32) -> bool {
        self.0 >> Self::ENTRY_BITS == u64::from(rank) + 1
    }
}

/// A path of the image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(u32);

/// What a path names; several paths may name the same (hard links).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InodeId(u32);

impl InodeId {
    /// For tables beside the tree.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// State of one path.
#[derive(Debug, Default)]
pub struct Node {
    /// Sorted by name, as the image wants them.
    pub children: BTreeMap<Box<[u8]>, NodeId>,
    /// The latest entry that is not hidden, with its time.
    pub entry: Option<(Time, InodeId)>,
    /// The latest time at which something below needed a directory here, and it is not gone since. Unpacking leaves that
    /// directory, even when what needed it goes.
    pub implied: Time,
    /// Everything claimed here or below before this time is gone.
    pub hides_self: Time,
    /// Everything claimed below before this time is gone; at least `hides_self`.
    pub hides_children: Time,
}

impl Node {
    /// Whether an entry says what is here, or one below needed a directory.
    fn is_claimed(&self) -> bool {
        self.entry.is_some() || self.implied > Time::NEVER
    }

    /// Drops what was claimed here before `floor`.
    fn forget(&mut self, floor: Time) {
        self.entry = self.entry.filter(|(time, _)| *time >= floor);
        if self.implied < floor {
            self.implied = Time::NEVER;
        }
    }
}

/// Full names and values of extended attributes.
pub type Xattrs = Vec<(Vec<u8>, Vec<u8>)>;

/// Owner, mode, time and extended attributes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Meta {
    /// Permission bits (07777).
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Seconds since 1970.
    pub mtime: u32,
    /// Sorted by name.
    pub xattrs: Xattrs,
}

impl Meta {
    /// A directory that no entry describes, only paths below it.
    pub fn implied_directory() -> Self {
        Self { mode: 0o755, ..Self::default() }
    }
}

/// Type and content of an inode; `Id` is the data sink's name for stored content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind<Id> {
    /// Directory.
    Directory,
    /// Regular file.
    File(Id),
    /// Symbolic link with its target.
    Symlink(Box<[u8]>),
    /// Block device.
    BlockDevice {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// Character device.
    CharDevice {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// Named pipe.
    Fifo,
    /// Socket.
    Socket,
    /// Stands for another inode: a hard link whose target was found later.
    Alias(InodeId),
    /// Not known yet: a file whose content is being read, or a hard link whose target lies in a lower layer.
    Awaited,
}

/// An inode.
#[derive(Clone, Debug)]
pub struct Inode<Id> {
    /// Owner, mode, time and extended attributes.
    pub meta: Meta,
    /// Type and content.
    pub kind: Kind<Id>,
}

impl<Id> Inode<Id> {
    /// Whether this is a directory.
    pub fn is_directory(&self) -> bool {
        matches!(self.kind, Kind::Directory)
    }
}

/// The tree. Node 0 is the root.
#[derive(Debug)]
pub struct FileTree<Id> {
    nodes: Vec<Node>,
    inodes: Vec<Inode<Id>>,
    max_entries: u64,
    /// Bytes of names, link targets and extended attributes so far.
    metadata: u64,
}

/// The tree has as many paths, or as much metadata, as it may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

/// Most bytes of names, symbolic link targets and extended attributes. Real images have a few dozen MiB.
pub const METADATA_MAX: u64 = 1 << 30;

impl<Id> FileTree<Id> {
    /// The root directory.
    pub const ROOT: NodeId = NodeId(0);

    /// A tree of a root alone, which may grow to `max_entries` paths.
    pub fn new(max_entries: u64) -> Self {
        Self {
            nodes: vec![Node::default()],
            inodes: Vec::new(),
            max_entries: max_entries.min(u64::from(u32::MAX)),
            metadata: 0,
        }
    }

    /// A path's state.
    pub fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id.0 as usize]
    }

    /// A path's state, to be changed.
    pub fn node_mut(&mut self, id: NodeId) -> &mut Node {
        &mut self.nodes[id.0 as usize]
    }

    /// The inode, aliases resolved.
    pub fn inode(&self, id: InodeId) -> &Inode<Id> {
        &self.inodes[self.resolve(id).index()]
    }

    /// Follows aliases.
    pub fn resolve(&self, mut id: InodeId) -> InodeId {
        while let Kind::Alias(next) = self.inodes[id.index()].kind {
            id = next;
        }
        id
    }

    /// Makes two inodes one: `id`, which must be awaited, becomes an alias of `target`.
    pub fn alias(&mut self, id: InodeId, target: InodeId) {
        let (id, target) = (self.resolve(id), self.resolve(target));
        if id != target {
            self.inodes[id.index()].kind = Kind::Alias(target);
        }
    }

    /// Adds an inode without a path.
    pub fn add_inode(&mut self, meta: Meta, kind: Kind<Id>) -> Result<InodeId, Full> {
        let xattrs = meta.xattrs.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>();
        let target = if let Kind::Symlink(target) = &kind { target.len() } else { 0 };
        self.metadata += (xattrs + target) as u64;
        if self.inodes.len() as u64 >= self.max_entries || self.metadata > METADATA_MAX {
            return Err(Full);
        }
        self.inodes.push(Inode { meta, kind });
        Ok(InodeId(self.inodes.len() as u32 - 1))
    }

    /// Completes a file whose content has been stored.
    pub fn set_kind(&mut self, id: InodeId, kind: Kind<Id>) {
        let id = self.resolve(id);
        self.inodes[id.index()].kind = kind;
    }

    /// Takes an inode's metadata and content out, for lowering.
    pub fn take_inode(&mut self, id: InodeId) -> Inode<Id> {
        let id = self.resolve(id);
        std::mem::replace(&mut self.inodes[id.index()], Inode { meta: Meta::default(), kind: Kind::Awaited })
    }

    /// The child of that name.
    pub fn child(&self, parent: NodeId, name: &[u8]) -> Option<NodeId> {
        self.node(parent).children.get(name).copied()
    }

    /// The child of that name, made without any claim when it is missing.
    pub fn child_or_new(&mut self, parent: NodeId, name: &[u8]) -> Result<NodeId, Full> {
        if let Some(child) = self.child(parent, name) {
            return Ok(child);
        }
        self.metadata += name.len() as u64;
        if self.nodes.len() as u64 >= self.max_entries || self.metadata > METADATA_MAX {
            return Err(Full);
        }
        let id = NodeId(self.nodes.len() as u32);
        self.nodes.push(Node::default());
        self.node_mut(parent).children.insert(name.into(), id);
        Ok(id)
    }

    /// Whether anything lives at this path: a directory by its entry, or by what lies or lay below it.
    pub fn is_live(&self, id: NodeId) -> bool {
        self.node(id).is_claimed() || self.has_live_children(id)
    }

    /// Whether anything lives below this path.
    pub fn has_live_children(&self, id: NodeId) -> bool {
        let mut waiting = vec![id];
        while let Some(id) = waiting.pop() {
            for &child in self.node(id).children.values() {
                if self.node(child).is_claimed() {
                    return true;
                }
                waiting.push(child);
            }
        }
        false
    }

    /// `id` and all paths below it, each before what is below it. No recursion: layers decide how deep it would be.
    fn subtree(&self, id: NodeId) -> Vec<NodeId> {
        let mut all = vec![id];
        let mut next = 0;
        while let Some(&id) = all.get(next) {
            all.extend(self.node(id).children.values());
            next += 1;
        }
        all
    }

    /// Removes everything below `id` that was claimed before `floor`.
    pub fn prune_children(&mut self, id: NodeId, floor: Time) {
        for id in self.subtree(id).into_iter().rev() {
            // Taken out meanwhile, so that what is gone is not visited by the next call.
            let mut children = std::mem::take(&mut self.node_mut(id).children);
            children.retain(|_, &mut child| {
                let node = self.node_mut(child);
                node.forget(floor);
                node.is_claimed() || !node.children.is_empty() || node.hides_children > floor
            });
            self.node_mut(id).children = children;
        }
    }

    /// Removes everything at and below `id` that was claimed before `floor`.
    pub fn prune(&mut self, id: NodeId, floor: Time) {
        self.node_mut(id).forget(floor);
        self.prune_children(id, floor);
    }

    /// The latest claim at or below `id`.
    pub fn newest(&self, id: NodeId) -> Time {
        let claims = |id: NodeId| {
            let node = self.node(id);
            node.entry.map_or(Time::NEVER, |(time, _)| time).max(node.hides_children).max(node.implied)
        };
        self.subtree(id).into_iter().map(claims).max().unwrap_or(Time::NEVER)
    }
}
