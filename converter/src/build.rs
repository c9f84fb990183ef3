//! From the flattened tree to the writer's: usual mount points, our own files, hard links with their counts.

use crate::arrange::{Arranger, Placed};
use crate::error::Error;
use crate::flatten::tree::{FileTree, InodeId, Kind, Meta, NodeId, Time};
use crate::flatten::{OWN_DIRECTORY, Problem};
use crate::sink::DataSink;
use coracle_squashfs::writer::{self, Metadata, Node, NodeKind, Tree};

/// Directories that every image has, so that they can be mounted on where nothing can be made: path and mode.
const DIRECTORIES: [(&[u8], u16); 8] = [
    (b"dev", 0o755),
    (b"etc", 0o755),
    (b"proc", 0o755),
    (b"run", 0o755),
    (b"sys", 0o755),
    (b"tmp", 0o1777),
    (b"var", 0o755),
    (b"var/tmp", 0o1777),
];
/// Files that every image has, for the same reason.
const FILES: [&[u8]; 4] = [b"etc/group", b"etc/hosts", b"etc/passwd", b"etc/resolv.conf"];

/// Adds the mount points that are missing. What is there stays, a symbolic link that leads nowhere included.
///
/// # Errors
/// When the tree is full or the sink fails.
pub fn add_mount_points<S: DataSink>(tree: &mut FileTree<S::Id>, sink: &mut S) -> Result<(), Error> {
    for (path, mode) in DIRECTORIES {
        add(tree, path, Meta { mode, ..Meta::default() }, Kind::Directory)?;
    }
    for path in FILES {
        if missing_parent(tree, path).is_some() {
            let empty = sink.file(path, 0, &mut |_| Ok(()))?;
            add(tree, path, Meta { mode: 0o644, ..Meta::default() }, Kind::File(empty))?;
        }
    }
    Ok(())
}

/// Adds our own directory with these files.
///
/// # Errors
/// When the tree is full or the sink fails.
pub fn add_own_files<S: DataSink>(
    tree: &mut FileTree<S::Id>,
    sink: &mut S,
    files: &[(&str, &[u8])],
) -> Result<(), Error> {
    add(tree, OWN_DIRECTORY, Meta::implied_directory(), Kind::Directory)?;
    for (name, content) in files {
        let path = [OWN_DIRECTORY, b"/", name.as_bytes()].concat();
        let id = sink.file(&path, content.len() as u64, &mut |file| file.data(content))?;
        add(tree, &path, Meta { mode: 0o644, ..Meta::default() }, Kind::File(id))?;
    }
    Ok(())
}

/// Adds something unless its path is taken or leads through anything but directories.
fn add<Id>(tree: &mut FileTree<Id>, path: &[u8], meta: Meta, kind: Kind<Id>) -> Result<(), Error> {
    let Some((parent, name)) = missing_parent(tree, path) else { return Ok(()) };
    let full = |_| Error::Limit { directory: "/".into(), entry: path.to_vec(), source: Problem::TooManyEntries };
    let node = tree.child_or_new(parent, name).map_err(full)?;
    let inode = tree.add_inode(meta, kind).map_err(full)?;
    tree.node_mut(node).entry = Some((Time::layer_end(0), inode));
    Ok(())
}

/// The directory in which `path` is missing, and the name that it lacks; `None` when it does not lack it.
fn missing_parent<'p, Id>(tree: &FileTree<Id>, path: &'p [u8]) -> Option<(NodeId, &'p [u8])> {
    let mut directory = FileTree::<Id>::ROOT;
    let mut parts = path.split(|&byte| byte == b'/').peekable();
    while let Some(name) = parts.next() {
        let child = tree.child(directory, name).filter(|&child| tree.is_live(child));
        match (child, parts.peek()) {
            (None, None) => return Some((directory, name)),
            (Some(child), Some(_)) if is_directory(tree, child) => directory = child,
            _ => return None,
        }
    }
    None
}

fn is_directory<Id>(tree: &FileTree<Id>, id: NodeId) -> bool {
    tree.node(id).entry.is_none_or(|(_, inode)| tree.inode(inode).is_directory())
}

/// Turns the tree into the writer's.
/// `arranger` says where the content of its files is.
///
/// # Errors
/// When the writer refuses an entry.
pub fn lower(mut tree: FileTree<Placed>, arranger: &Arranger<'_>) -> Result<Tree, writer::Error> {
    let root = match tree.node(FileTree::<Placed>::ROOT).entry {
        Some((_, inode)) => tree.take_inode(inode).meta,
        None => Meta::implied_directory(),
    };
    let mut lowering = Lowering { tree: &mut tree, arranger, out: Tree::new(metadata(root)), placed: Vec::new() };
    lowering.children(FileTree::<Placed>::ROOT, Tree::ROOT)?;
    Ok(lowering.out)
}

struct Lowering<'a> {
    tree: &'a mut FileTree<Placed>,
    arranger: &'a Arranger<'a>,
    out: Tree,
    /// The writer's node of an inode that has been added.
    placed: Vec<Option<writer::NodeId>>,
}

impl Lowering<'_> {
    fn children(&mut self, from: NodeId, into: writer::NodeId) -> Result<(), writer::Error> {
        for (name, child) in std::mem::take(&mut self.tree.node_mut(from).children) {
            let entry = self.tree.node(child).entry.map(|(_, inode)| self.tree.resolve(inode));
            match entry {
                None if !self.tree.is_live(child) => {}
                None => {
                    let node = Node { metadata: metadata(Meta::implied_directory()), kind: NodeKind::Directory };
                    let node = self.out.add(into, &name, node)?;
                    self.children(child, node)?;
                }
                Some(inode) => match self.placed.get(inode.index()).copied().flatten() {
                    Some(target) => self.out.link(into, &name, target)?,
                    None => {
                        let node = self.inode(inode, into, &name)?;
                        self.children(child, node)?;
                    }
                },
            }
        }
        Ok(())
    }

    fn inode(&mut self, id: InodeId, parent: writer::NodeId, name: &[u8]) -> Result<writer::NodeId, writer::Error> {
        let inode = self.tree.take_inode(id);
        let kind = match inode.kind {
            Kind::Directory => NodeKind::Directory,
            Kind::File(content) => NodeKind::File(self.arranger.stored(content)?),
            Kind::Symlink(target) => NodeKind::Symlink(target.into_vec()),
            Kind::BlockDevice { major, minor } => NodeKind::BlockDevice { major, minor },
            Kind::CharDevice { major, minor } => NodeKind::CharDevice { major, minor },
            Kind::Fifo => NodeKind::Fifo,
            Kind::Socket => NodeKind::Socket,
            // Aliases are resolved, and a link still awaited would have failed the flattening.
            Kind::Alias(_) | Kind::Awaited => return Err(writer::Error::UnknownNode(id.index() as u32)),
        };
        let node = self.out.add(parent, name, Node { metadata: metadata(inode.meta), kind })?;
        if self.placed.len() <= id.index() {
            self.placed.resize(id.index() + 1, None);
        }
        if let Some(slot) = self.placed.get_mut(id.index()) {
            *slot = Some(node);
        }
        Ok(node)
    }
}

fn metadata(meta: Meta) -> Metadata {
    Metadata { mode: meta.mode, uid: meta.uid, gid: meta.gid, mtime: meta.mtime, xattrs: meta.xattrs }
}
