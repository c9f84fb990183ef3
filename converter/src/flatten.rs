//! Layers from the top down into one tree, each layer read once.
//!
//! [`Flattener`] decides for every entry whether it is visible before its content is read, so hidden content is
//! skipped and visible content stored once. [`tree`] has the order that makes this right, [`place`] follows symbolic
//! links, [`links`] finds the targets of hard links that lie in lower layers.

mod links;
mod path;
mod place;
pub mod tree;

use crate::tar::{Entry, EntryKind};
use coracle_squashfs::writer::xattr_supported;
use links::{Links, Skipped};
use path::Mark;
use place::Missing;
use thiserror::Error;
use tree::{FileTree, Full, InodeId, Kind, Meta, NodeId, Time};

pub use path::{DEPTH_MAX, NAME_MAX};

/// Longest symbolic link target that Linux takes, in bytes.
const TARGET_MAX: usize = 4095;

/// Where the converter keeps its own files in an image; entries of a layer there are ignored.
pub const OWN_DIRECTORY: &[u8] = b".coracle";

/// What an eStargz layer has at its root besides the image's files.
/// Format: <https://github.com/containerd/stargz-snapshotter/blob/main/docs/estargz.md>
const ESTARGZ_FILES: [&[u8]; 3] = [b"stargz.index.json", b".prefetch.landmark", b".no.prefetch.landmark"];

/// Why an entry cannot be placed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Problem {
    /// A name that no Linux file system could hold.
    #[error("a name is longer than {NAME_MAX} bytes")]
    NameTooLong,
    /// A path too long or deep.
    #[error("the path is too long, or deeper than {DEPTH_MAX} directories")]
    PathTooLong,
    /// Following symbolic links does not end.
    #[error("the path leads through too many symbolic links")]
    SymlinkLoop,
    /// A symbolic link without a target, or with one that is too long.
    #[error("the symbolic link's target has {0} bytes; 1 to {TARGET_MAX} are possible")]
    SymlinkTarget(usize),
    /// A white-out that names nothing, `.` or `..`.
    #[error("the white-out hides no valid name")]
    Whiteout,
    /// Something other than a directory at the root.
    #[error("the root can only be a directory")]
    Root,
    /// A hard link to a path that this layer and those below do not have.
    #[error("hard link to {}, which neither this layer nor one below it has", crate::text::Name(.0))]
    MissingTarget(Vec<u8>),
    /// A hard link to a directory.
    #[error("hard link to {}, which is a directory", crate::text::Name(.0))]
    DirectoryTarget(Vec<u8>),
    /// More paths than allowed.
    #[error("the image has more entries, or more metadata, than the limit allows")]
    TooManyEntries,
}

impl From<Full> for Problem {
    fn from(_: Full) -> Self {
        Self::TooManyEntries
    }
}

/// What to do about an entry's content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing to read: hidden, or no regular file.
    Skip,
    /// Store the content, then tell [`Flattener::stored`].
    Store(InodeId),
}

/// What the layers held, for the report.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Entries read.
    pub entries: u64,
    /// Entries that higher layers hide or replace.
    pub hidden: u64,
    /// White-outs and opaque marks.
    pub whiteouts: u64,
    /// Entries in places that are not for layers to fill.
    pub ignored: u64,
    /// Extended attributes that a squashfs image cannot hold.
    pub dropped_xattrs: u64,
}

/// A hard link whose target is missing when all layers have been read.
#[derive(Debug)]
pub struct Dangling {
    /// Rank of the layer with the link.
    pub rank: u32,
    /// The link.
    pub path: Vec<u8>,
    /// What is wrong.
    pub problem: Problem,
}

/// Builds the tree.
#[derive(Debug)]
pub struct Flattener<Id> {
    tree: FileTree<Id>,
    links: Links,
    rank: u32,
    number: u64,
    whiteouts: bool,
    estargz: bool,
    counts: Counts,
    /// The path of the entry at hand, symbolic links followed.
    path: Vec<u8>,
    clean: Vec<u8>,
}

impl<Id> Flattener<Id> {
    /// A flattener for at most `max_entries` paths. With `whiteouts` unset their names mean nothing special: a plain
    /// root file system has no layers below it.
    pub fn new(max_entries: u64, whiteouts: bool) -> Self {
        Self {
            tree: FileTree::new(max_entries),
            links: Links::default(),
            rank: 0,
            number: 0,
            whiteouts,
            estargz: false,
            counts: Counts::default(),
            path: Vec::new(),
            clean: Vec::new(),
        }
    }

    /// Begins a layer, counted from 0 at the bottom. Layers come in descending order. An eStargz layer's table of
    /// contents and landmark are none of the image's files.
    pub fn begin_layer(&mut self, rank: u32, estargz: bool) {
        self.rank = rank;
        self.estargz = estargz;
        self.number = 0;
    }

    /// Takes the layer's next entry.
    ///
    /// # Errors
    /// When the entry's name, link target or type has no place in a tree.
    pub fn entry(&mut self, entry: &mut Entry) -> Result<Verdict, Problem> {
        self.number += 1;
        self.counts.entries += 1;
        let mut clean = std::mem::take(&mut self.clean);
        let result = path::clean(&entry.path, &mut clean).and_then(|()| self.dispatch(&clean, entry));
        self.clean = clean;
        result
    }

    fn dispatch(&mut self, clean: &[u8], entry: &mut Entry) -> Result<Verdict, Problem> {
        if clean.is_empty() {
            return self.root(entry);
        }
        let own = clean.split(|&byte| byte == b'/').next() == Some(OWN_DIRECTORY);
        if own || (self.estargz && ESTARGZ_FILES.contains(&clean)) {
            self.counts.ignored += 1;
            return Ok(Verdict::Skip);
        }
        if self.whiteouts {
            match path::mark(clean)? {
                Mark::None => {}
                Mark::Ignored => {
                    self.counts.ignored += 1;
                    return Ok(Verdict::Skip);
                }
                Mark::Opaque => return self.opaque(path::split(clean).0),
                Mark::Whiteout(name) => {
                    let (parent, _) = path::split(clean);
                    let hidden = if parent.is_empty() { name.to_vec() } else { [parent, b"/", name].concat() };
                    return self.whiteout(&hidden);
                }
            }
        }
        match entry.kind {
            EntryKind::HardLink => self.hard_link(clean, entry),
            EntryKind::Symlink if entry.link.is_empty() || entry.link.len() > TARGET_MAX => {
                Err(Problem::SymlinkTarget(entry.link.len()))
            }
            EntryKind::Directory => self.directory(clean, entry),
            _ => self.object(clean, entry),
        }
    }

    /// Says where the content of the last entry to be stored has gone.
    pub fn stored(&mut self, inode: InodeId, id: Id) {
        self.tree.set_kind(inode, Kind::File(id));
    }

    /// Where the last entry to be stored has its place, as far as the layers read so far tell.
    pub fn path(&self) -> &[u8] {
        &self.path
    }

    /// What was seen so far.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    fn now(&self) -> Time {
        Time::entry(self.rank, self.number)
    }

    fn root(&mut self, entry: &mut Entry) -> Result<Verdict, Problem> {
        if entry.kind != EntryKind::Directory {
            return Err(Problem::Root);
        }
        let meta = self.meta(entry);
        self.claim_directory(FileTree::<Id>::ROOT, meta)?;
        Ok(Verdict::Skip)
    }

    fn directory(&mut self, clean: &[u8], entry: &mut Entry) -> Result<Verdict, Problem> {
        let place = self.locate(clean, self.now(), Missing::Replace)?;
        self.links.seen_directory(&self.path);
        match place.parent {
            Some(parent) => {
                let node = self.tree.child_or_new(parent, place.name(&self.path))?;
                let meta = self.meta(entry);
                self.claim_directory(node, meta)?;
            }
            None => self.counts.hidden += 1,
        }
        Ok(Verdict::Skip)
    }

    /// Gives a directory its metadata, unless a later entry has.
    fn claim_directory(&mut self, id: NodeId, meta: Meta) -> Result<(), Problem> {
        let now = self.now();
        let node = self.tree.node(id);
        if node.hides_self > now || node.entry.is_some_and(|(time, _)| time > now) {
            self.counts.hidden += 1;
            return Ok(());
        }
        let inode = self.tree.add_inode(meta, Kind::Directory)?;
        self.tree.node_mut(id).entry = Some((now, inode));
        Ok(())
    }

    /// Anything that has an inode of its own and nothing below it.
    fn object(&mut self, clean: &[u8], entry: &mut Entry) -> Result<Verdict, Problem> {
        let target = (entry.kind == EntryKind::Symlink).then(|| std::mem::take(&mut entry.link));
        let target = target.as_deref();
        let (node, visible) = self.claim(clean, target.is_some())?;
        self.links.seen_object(&self.path, target.is_some());
        let wanted = self.links.is_wanted(&self.path);
        if !visible {
            self.counts.hidden += 1;
            self.links.skip(&self.path, Skipped::object(self.number, target))?;
        }
        if !visible && !wanted {
            return Ok(Verdict::Skip);
        }
        let inode = self.make_inode(entry, target)?;
        if wanted {
            self.links.candidate(&self.path, inode);
        }
        if let (Some(node), true) = (node, visible) {
            self.place(node, inode);
            if let Some(target) = target {
                let path = std::mem::take(&mut self.path);
                self.relocate(node, &path, target, self.now())?;
            }
        }
        Ok(if entry.kind == EntryKind::File { Verdict::Store(inode) } else { Verdict::Skip })
    }

    /// The inode that an entry describes; a file's content is awaited.
    fn make_inode(&mut self, entry: &mut Entry, target: Option<&[u8]>) -> Result<InodeId, Problem> {
        let kind = match entry.kind {
            EntryKind::File | EntryKind::HardLink => Kind::Awaited,
            EntryKind::Directory => Kind::Directory,
            EntryKind::Symlink => Kind::Symlink(target.unwrap_or_default().into()),
            EntryKind::CharDevice => Kind::CharDevice { major: entry.major, minor: entry.minor },
            EntryKind::BlockDevice => Kind::BlockDevice { major: entry.major, minor: entry.minor },
            EntryKind::Fifo => Kind::Fifo,
        };
        let meta = self.meta(entry);
        Ok(self.tree.add_inode(meta, kind)?)
    }

    fn meta(&mut self, entry: &mut Entry) -> Meta {
        let mut xattrs = std::mem::take(&mut entry.xattrs);
        let before = xattrs.len();
        xattrs.retain(|(name, _)| xattr_supported(name));
        xattrs.sort();
        self.counts.dropped_xattrs += (before - xattrs.len()) as u64;
        // A symbolic link's permission bits mean nothing; writers disagree about them.
        let mode = if entry.kind == EntryKind::Symlink { 0o777 } else { entry.mode };
        Meta { mode, uid: entry.uid, gid: entry.gid, mtime: entry.mtime, xattrs }
    }

    /// Hides what lower layers have at `hidden`, a clean path.
    fn whiteout(&mut self, hidden: &[u8]) -> Result<Verdict, Problem> {
        self.counts.whiteouts += 1;
        let place = self.locate(hidden, self.now(), Missing::Make)?;
        self.links.hidden_at(&self.path);
        if let Some(parent) = place.parent {
            let node = self.tree.child_or_new(parent, place.name(&self.path))?;
            let start = Time::layer_start(self.rank);
            let node = self.tree.node_mut(node);
            node.hides_self = node.hides_self.max(start);
            node.hides_children = node.hides_children.max(start);
        }
        Ok(Verdict::Skip)
    }

    /// Hides what lower layers have below `directory`, a clean path.
    fn opaque(&mut self, directory: &[u8]) -> Result<Verdict, Problem> {
        self.counts.whiteouts += 1;
        let node = if directory.is_empty() {
            self.path.clear();
            Some(FileTree::<Id>::ROOT)
        } else {
            // The mark lies in the directory, so a symbolic link there is followed.
            self.locate_directory(directory, self.now(), Missing::Make)?.parent
        };
        self.links.hidden_below(&self.path);
        if let Some(node) = node {
            let start = Time::layer_start(self.rank);
            let node = self.tree.node_mut(node);
            node.hides_children = node.hides_children.max(start);
        }
        Ok(Verdict::Skip)
    }

    /// The finished tree, with what is wrong with it.
    pub fn finish(self) -> Result<FileTree<Id>, Dangling> {
        match self.links.into_unresolved() {
            Some(dangling) => Err(dangling),
            None => Ok(self.tree),
        }
    }
}
