//! A squashfs image as a source: everything in it as it is, only packed anew.
//!
//! Nothing is added to its tree but what `/.coracle` needs. Inodes with several names stay one.

use crate::arrange::relative;
use crate::error::Error;
use crate::flatten::tree::{FileTree, InodeId, Kind, Meta, NodeId, Time};
use crate::flatten::{Counts, DEPTH_MAX, Problem};
use crate::image_info::INFO;
use crate::options::{Event, Options, Progress};
use crate::profile::{self, Profile};
use crate::sink::{Content, DataSink};
use coracle_squashfs::reader::{self, Image, Inode, InodeRef, Kind as ImageKind, OpenOptions, WalkEntry, major, minor};
use std::collections::HashMap;
use std::fs::File;
use std::path::{Path, PathBuf};

/// Bytes of unpacked blocks that are kept: files' tails come in another order than the blocks that they share.
const CACHE_BYTES: usize = 64 << 20;
/// Bytes read from a file at a time: whole blocks of any size, which are unpacked in place.
const READ: u64 = 1 << 20;
/// Entries between two progress events.
const EVENT_EVERY: u64 = 256;

/// A source image.
pub struct Packed {
    path: PathBuf,
    /// Its content.
    pub image: Image<File>,
}

impl Packed {
    /// Opens the image at byte `offset` of a file.
    ///
    /// # Errors
    /// When there is none, or of a kind that cannot be read.
    pub fn open(path: &Path, offset: u64) -> Result<Self, Error> {
        let file = File::open(path).map_err(Error::file("open", path))?;
        Self::at(path, file, offset)
    }

    /// Opens the image that an open file is; `path` is for messages.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn of(path: &Path, file: File) -> Result<Self, Error> {
        Self::at(path, file, 0)
    }

    fn at(path: &Path, file: File, offset: u64) -> Result<Self, Error> {
        let image = Image::open(file, OpenOptions { offset, cache_bytes: CACHE_BYTES })
            .map_err(|source| Error::Image { path: path.into(), source })?;
        Ok(Self { path: path.into(), image })
    }

    /// Takes the whole image in, but for the two files in `/.coracle` that depend on how an image is packed.
    ///
    /// # Errors
    /// When anything in it is damaged, or beyond the limits.
    pub fn walk<S: DataSink>(
        &self,
        profile: Option<&Profile>,
        sink: &mut S,
        options: &Options,
        progress: &dyn Progress,
    ) -> Result<(FileTree<S::Id>, Counts), Error> {
        progress.event(Event::ImageStarted { inodes: self.image.superblock().inodes.get() });
        let mut repacker = Repacker {
            source: self,
            tree: FileTree::new(options.max_entries),
            sink,
            aliases: self.aliases(profile)?,
            linked: HashMap::new(),
            logical: 0,
            limit: options.max_layer_bytes,
        };
        let mut counts = Counts::default();
        for entry in self.image.walk() {
            let entry = entry.map_err(|error| self.failed(&error.path)(error.error))?;
            if entry.path == INFO.as_bytes() || entry.path == profile::PATH.as_bytes() {
                continue;
            }
            repacker.entry(&entry)?;
            counts.entries += 1;
            if counts.entries.is_multiple_of(EVENT_EVERY) {
                progress.event(Event::Entries { count: counts.entries });
            }
        }
        Ok((repacker.tree, counts))
    }

    /// The files with several names among those of a profile, with the name that it has.
    fn aliases<'p>(&self, profile: Option<&'p Profile>) -> Result<HashMap<InodeRef, &'p [u8]>, Error> {
        let mut aliases = HashMap::new();
        for file in profile.map(|profile| profile.touched.as_slice()).unwrap_or_default() {
            let found = self.image.resolve(&file.path).map_err(self.failed(&file.path))?;
            if let Some(inode) = found.filter(|inode| inode.nlink > 1) {
                aliases.insert(inode.reference, relative(&file.path));
            }
        }
        Ok(aliases)
    }

    /// A file's content; holes stay holes.
    ///
    /// # Errors
    /// When it is damaged, or `content` refuses it.
    pub fn content(&self, path: &[u8], inode: &Inode, content: &mut dyn Content) -> Result<(), Error> {
        match inode.kind {
            ImageKind::File { sparse: 0, size, .. } => self.dense(path, inode, size, content),
            _ => self.sparse(path, inode, content),
        }
    }

    fn dense(&self, path: &[u8], inode: &Inode, size: u64, content: &mut dyn Content) -> Result<(), Error> {
        let mut buffer = vec![0; size.min(READ) as usize];
        let mut position = 0;
        while position < size {
            let count = self.image.read(inode, position, &mut buffer).map_err(self.failed(path))?;
            content.data(buffer.get(..count).unwrap_or_default())?;
            position += count as u64;
        }
        Ok(())
    }

    fn sparse(&self, path: &[u8], inode: &Inode, content: &mut dyn Content) -> Result<(), Error> {
        let mut hole = 0;
        for index in 0..self.image.block_count(inode) {
            let block = self.image.block(inode, index).map_err(self.failed(path))?;
            match block.bytes() {
                None => hole += block.len() as u64,
                Some(bytes) => {
                    if hole > 0 {
                        content.hole(std::mem::take(&mut hole))?;
                    }
                    content.data(bytes)?;
                }
            }
        }
        if hole > 0 { content.hole(hole) } else { Ok(()) }
    }

    /// The file that it is in.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// For `map_err` on what concerns one entry.
    pub fn failed<'e>(&'e self, entry: &'e [u8]) -> impl Fn(reader::Error) -> Error + use<'e> {
        move |source| Error::ImageEntry { path: self.path.clone(), entry: entry.to_vec(), source }
    }

    fn limit(&self, entry: &[u8], source: Problem) -> Error {
        Error::Limit { directory: self.path.clone(), entry: entry.to_vec(), source }
    }
}

struct Repacker<'a, S: DataSink> {
    source: &'a Packed,
    tree: FileTree<S::Id>,
    sink: &'a mut S,
    aliases: HashMap<InodeRef, &'a [u8]>,
    /// What has several names.
    linked: HashMap<InodeRef, InodeId>,
    /// Bytes of files so far, holes included.
    logical: u64,
    limit: u64,
}

impl<S: DataSink> Repacker<'_, S> {
    fn entry(&mut self, entry: &WalkEntry) -> Result<(), Error> {
        let WalkEntry { path, inode } = entry;
        let failed = self.source.failed(path);
        let node = self.node(path)?;
        let linked = inode.nlink > 1 && !matches!(inode.kind, ImageKind::Directory { .. });
        if linked && let Some(&known) = self.linked.get(&inode.reference) {
            self.tree.node_mut(node).entry = Some((Time::layer_end(0), known));
            return Ok(());
        }
        let device = |rdev| (major(rdev), minor(rdev));
        let kind = match inode.kind {
            ImageKind::Directory { .. } => Kind::Directory,
            ImageKind::File { size, .. } => Kind::File(self.file(path, inode, size)?),
            ImageKind::Symlink { .. } => Kind::Symlink(self.source.image.read_link(inode).map_err(&failed)?.into()),
            ImageKind::BlockDevice { rdev } => {
                let (major, minor) = device(rdev);
                Kind::BlockDevice { major, minor }
            }
            ImageKind::CharDevice { rdev } => {
                let (major, minor) = device(rdev);
                Kind::CharDevice { major, minor }
            }
            ImageKind::Fifo => Kind::Fifo,
            ImageKind::Socket => Kind::Socket,
        };
        let xattrs = self.source.image.xattrs(inode).map_err(&failed)?;
        let mut xattrs = xattrs.into_iter().map(|one| (one.name, one.value)).collect::<Vec<_>>();
        xattrs.sort();
        let meta = Meta { mode: inode.mode, uid: inode.uid, gid: inode.gid, mtime: inode.mtime, xattrs };
        let id = self.tree.add_inode(meta, kind).map_err(|full| self.source.limit(path, full.into()))?;
        self.tree.node_mut(node).entry = Some((Time::layer_end(0), id));
        if linked {
            self.linked.insert(inode.reference, id);
        }
        Ok(())
    }

    /// The path's node.
    fn node(&mut self, path: &[u8]) -> Result<NodeId, Error> {
        let mut node = FileTree::<S::Id>::ROOT;
        for (depth, name) in path.split(|&byte| byte == b'/').filter(|name| !name.is_empty()).enumerate() {
            if depth >= DEPTH_MAX {
                return Err(self.source.limit(path, Problem::PathTooLong));
            }
            node = self.tree.child_or_new(node, name).map_err(|full| self.source.limit(path, full.into()))?;
        }
        Ok(node)
    }

    fn file(&mut self, path: &[u8], inode: &Inode, size: u64) -> Result<S::Id, Error> {
        self.logical = self.logical.saturating_add(size);
        if self.logical > self.limit {
            let layer = format!("image {}", self.source.path.display());
            return Err(Error::LayerTooLarge { layer, limit: self.limit });
        }
        let source = self.source;
        let name = self.aliases.get(&inode.reference).copied().unwrap_or(relative(path));
        self.sink.file(name, size, &mut |content| source.content(path, inode, content))
    }
}
