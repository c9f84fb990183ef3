//! A tree that is described once, written, and compared with what others read from the image.

use crate::reader::{FileType, Image, Inode, Kind, OpenOptions};
use crate::writer::{Metadata, Node, NodeId, NodeKind, Summary, Tree, Writer, WriterOptions, clamp_time};
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;

/// xorshift64*: small, and the same everywhere.
pub(super) struct Rng(u64);

impl Rng {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub(super) fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    /// Bytes that do not shrink.
    pub(super) fn noise(&mut self, len: usize) -> Vec<u8> {
        (0..len.div_ceil(8)).flat_map(|_| self.next().to_le_bytes()).take(len).collect()
    }

    /// Bytes that shrink to about a third.
    pub(super) fn text(&mut self, len: usize) -> Vec<u8> {
        let words: Vec<Vec<u8>> = (0..64).map(|_| (0..5).map(|_| b'a' + self.below(26) as u8).collect()).collect();
        (0..len / 5 + 1).flat_map(|_| words[self.below(64) as usize].clone()).take(len).collect()
    }
}

/// What an entry should look like to whoever reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) mode: u16,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) mtime: u32,
    pub(super) nlink: u32,
    pub(super) xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    pub(super) what: What,
}

#[derive(Clone, PartialEq, Eq)]
pub(super) enum What {
    Directory,
    File(Vec<u8>),
    Symlink(Vec<u8>),
    Block(u32, u32),
    Char(u32, u32),
    Fifo,
    Socket,
}

impl std::fmt::Debug for What {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Directory => write!(f, "directory"),
            Self::File(content) => write!(f, "file({} bytes, {:x?})", content.len(), &content[..content.len().min(8)]),
            Self::Symlink(target) => write!(f, "symlink({})", target.escape_ascii()),
            Self::Block(major, minor) => write!(f, "block({major}:{minor})"),
            Self::Char(major, minor) => write!(f, "char({major}:{minor})"),
            Self::Fifo => write!(f, "fifo"),
            Self::Socket => write!(f, "socket"),
        }
    }
}

/// Entries by path, `/`-separated and without a leading slash; the root is the empty path.
pub(super) type Listing = BTreeMap<Vec<u8>, Seen>;

/// An image in the making, and what it should look like.
pub(super) struct Build {
    pub(super) writer: Writer,
    pub(super) tree: Tree,
    pub(super) expected: Listing,
    pub(super) directory: tempfile::TempDir,
    nodes: BTreeMap<Vec<u8>, NodeId>,
}

/// A finished image.
pub(super) struct Made {
    pub(super) path: PathBuf,
    pub(super) summary: Summary,
    pub(super) expected: Listing,
    pub(super) directory: tempfile::TempDir,
}

pub(super) fn meta(mode: u16) -> Metadata {
    Metadata { mode, uid: 0, gid: 0, mtime: clamp_time(1_700_000_000), xattrs: Vec::new() }
}

fn seen(metadata: &Metadata, nlink: u32, what: What) -> Seen {
    let &Metadata { mode, uid, gid, mtime, ref xattrs } = metadata;
    Seen { mode, uid, gid, mtime, nlink, xattrs: xattrs.iter().cloned().collect(), what }
}

impl Build {
    pub(super) fn new(options: WriterOptions) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("image.sqfs");
        let file = File::options().read(true).write(true).create_new(true).open(path).unwrap();
        let root = meta(0o755);
        let expected = Listing::from([(Vec::new(), seen(&root, 2, What::Directory))]);
        let nodes = BTreeMap::from([(Vec::new(), Tree::ROOT)]);
        Self { writer: Writer::new(file, options).unwrap(), tree: Tree::new(root), expected, directory, nodes }
    }

    fn place(&mut self, path: &[u8]) -> (NodeId, Vec<u8>, Vec<u8>) {
        let cut = path.iter().rposition(|&byte| byte == b'/');
        let (parent, name) = match cut {
            Some(at) => (&path[..at], &path[at + 1..]),
            None => (&path[..0], path),
        };
        (self.nodes[parent], parent.to_vec(), name.to_vec())
    }

    pub(super) fn add(&mut self, path: impl AsRef<[u8]>, metadata: Metadata, what: What) -> NodeId {
        let path = path.as_ref();
        let (parent, parent_path, name) = self.place(path);
        let kind = match &what {
            What::Directory => {
                self.expected.get_mut(&parent_path).unwrap().nlink += 1;
                NodeKind::Directory
            }
            What::File(content) => {
                NodeKind::File(self.writer.add_file(content.len() as u64, &mut &content[..]).unwrap())
            }
            What::Symlink(target) => NodeKind::Symlink(target.clone()),
            &What::Block(major, minor) => NodeKind::BlockDevice { major, minor },
            &What::Char(major, minor) => NodeKind::CharDevice { major, minor },
            What::Fifo => NodeKind::Fifo,
            What::Socket => NodeKind::Socket,
        };
        let nlink = if what == What::Directory { 2 } else { 1 };
        self.expected.insert(path.to_vec(), seen(&metadata, nlink, what));
        let id = self.tree.add(parent, &name, Node { metadata, kind }).unwrap();
        self.nodes.insert(path.to_vec(), id);
        id
    }

    pub(super) fn file(&mut self, path: impl AsRef<[u8]>, content: Vec<u8>) -> NodeId {
        self.add(path, meta(0o644), What::File(content))
    }

    pub(super) fn dir(&mut self, path: impl AsRef<[u8]>) -> NodeId {
        self.add(path, meta(0o755), What::Directory)
    }

    /// Makes `path` one more name of what `target` names.
    pub(super) fn link(&mut self, path: impl AsRef<[u8]>, target: impl AsRef<[u8]>) {
        let (parent, _, name) = self.place(path.as_ref());
        let id = self.nodes[target.as_ref()];
        self.tree.link(parent, &name, id).unwrap();
        self.nodes.insert(path.as_ref().to_vec(), id);
        let linked = self.expected[target.as_ref()].clone();
        self.expected.insert(path.as_ref().to_vec(), linked);
        for (path, node) in &self.nodes {
            if *node == id {
                self.expected.get_mut(path).unwrap().nlink += 1;
            }
        }
    }

    pub(super) fn finish(self) -> Made {
        let summary = self.writer.finish(&self.tree).unwrap();
        let path = self.directory.path().join("image.sqfs");
        Made { path, summary, expected: self.expected, directory: self.directory }
    }
}

impl Made {
    /// Has every oracle that is there read the image.
    pub(super) fn check(&self) {
        same("our reader", &read_image(&self.path), &self.expected);
        if let Some(mount) = Mount::new(self) {
            same("the kernel", &read_tree(&mount.0), &self.expected);
        }
        let out = self.directory.path().join("unsquashfs");
        if run("unsquashfs", &[&"-no-progress", &"-quiet", &"-d", &out, &self.path]) {
            same("unsquashfs", &read_tree(&out), &self.expected);
            remove(&out);
        }
        let out = self.directory.path().join("rdsquashfs");
        fs::create_dir(&out).unwrap();
        if run("rdsquashfs", &[&"-q", &"-u", &"/", &"-p", &out, &"-C", &"-O", &"-T", &"-X", &self.path]) {
            let mut found = read_tree(&out);
            // It unpacks hard links as files of their own and leaves the root's metadata alone.
            let mut expected = self.expected.clone();
            expected.values_mut().chain(found.values_mut()).for_each(|seen| seen.nlink = 0);
            found.insert(Vec::new(), expected[&Vec::new()].clone());
            same("rdsquashfs", &found, &expected);
        }
        remove(&out);
    }

    pub(super) fn bytes(&self) -> Vec<u8> {
        fs::read(&self.path).unwrap()
    }
}

fn same(who: &str, found: &Listing, expected: &Listing) {
    for (path, seen) in expected {
        assert_eq!(found.get(path), Some(seen), "{who}: {}", path.escape_ascii());
    }
    let extra: Vec<_> = found.keys().filter(|path| !expected.contains_key(*path)).collect();
    assert!(extra.is_empty(), "{who} finds more: {extra:?}");
}

fn remove(path: &Path) {
    fs::remove_dir_all(path).unwrap();
}

/// Says why a check is left out; fails where everything should be there.
pub(super) fn skip(reason: &str) {
    assert!(std::env::var_os("CI").is_none(), "cannot check: {reason}");
    println!("skipped: {reason}");
}

fn run(program: &str, args: &[&dyn AsRef<OsStr>]) -> bool {
    match Command::new(program).args(args.iter().map(|arg| arg.as_ref())).output() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            skip(&format!("{program} is not installed"));
            false
        }
        Err(error) => panic!("{program}: {error}"),
        Ok(output) => {
            assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
            true
        }
    }
}

/// An image mounted by the kernel.
pub(super) struct Mount(pub(super) PathBuf);

impl Mount {
    pub(super) fn new(made: &Made) -> Option<Self> {
        let at = made.directory.path().join("mount");
        fs::create_dir(&at).unwrap();
        if fs::metadata("/proc/self").unwrap().uid() != 0 {
            skip("mounting takes root");
            return None;
        }
        run("mount", &[&"-t", &"squashfs", &"-o", &"loop,ro", &made.path, &at]).then_some(Self(at))
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        run("umount", &[&self.0]);
        fs::remove_dir(&self.0).unwrap();
    }
}

/// Reads a directory tree through the system.
pub(super) fn read_tree(root: &Path) -> Listing {
    let mut listing = Listing::new();
    let mut stack = vec![(root.to_path_buf(), Vec::new())];
    while let Some((path, name)) = stack.pop() {
        let stat = fs::symlink_metadata(&path).unwrap();
        let (kind, rdev) = (stat.file_type(), stat.rdev());
        let device = ((rdev >> 8 & 0xfff) as u32, (rdev & 0xff | rdev >> 12 & 0xfff00) as u32);
        let what = if kind.is_dir() {
            for entry in fs::read_dir(&path).unwrap() {
                let entry = entry.unwrap();
                stack.push((entry.path(), join(&name, entry.file_name().as_bytes())));
            }
            What::Directory
        } else if kind.is_file() {
            What::File(fs::read(&path).unwrap())
        } else if kind.is_symlink() {
            What::Symlink(fs::read_link(&path).unwrap().as_os_str().as_bytes().to_vec())
        } else if kind.is_block_device() {
            What::Block(device.0, device.1)
        } else if kind.is_char_device() {
            What::Char(device.0, device.1)
        } else if kind.is_fifo() {
            What::Fifo
        } else {
            What::Socket
        };
        let xattrs = match xattr::list(&path) {
            // The kernel's answer for an image without a single attribute.
            Err(error) if error.raw_os_error() == Some(95) => Vec::new(),
            names => names.unwrap().collect(),
        };
        let xattrs = xattrs.into_iter().map(|name| {
            let value = xattr::get(&path, &name).unwrap().unwrap();
            (name.as_bytes().to_vec(), value)
        });
        let seen = Seen {
            mode: (stat.mode() & 0o7777) as u16,
            uid: stat.uid(),
            gid: stat.gid(),
            mtime: clamp_time(stat.mtime()),
            nlink: stat.nlink() as u32,
            xattrs: xattrs.collect(),
            what,
        };
        listing.insert(name, seen);
    }
    listing
}

fn join(parent: &[u8], name: &[u8]) -> Vec<u8> {
    if parent.is_empty() { name.to_vec() } else { [parent, b"/", name].concat() }
}

/// Reads an image with our own reader.
pub(super) fn read_image(path: &Path) -> Listing {
    let image = Image::open(File::open(path).unwrap(), OpenOptions::default()).unwrap();
    let mut listing = Listing::new();
    let mut stack = vec![(image.inode(image.root()).unwrap(), Vec::new())];
    while let Some((inode, name)) = stack.pop() {
        if inode.file_type() == FileType::Directory {
            for entry in image.read_dir(&inode).unwrap() {
                let entry = entry.unwrap();
                let child = image.inode(entry.inode).unwrap();
                assert_eq!(child.number, entry.number);
                assert_eq!(child.file_type(), entry.file_type);
                // Every name of a large directory would take minutes.
                if entry.number % 16 < 2 {
                    let found = image.lookup(&inode, &entry.name).unwrap().unwrap();
                    assert_eq!(found.inode, entry.inode, "{}", entry.name.escape_ascii());
                }
                stack.push((child, join(&name, &entry.name)));
            }
        }
        let what = read_what(&image, &inode);
        let xattrs = image.xattrs(&inode).unwrap().into_iter().map(|xattr| (xattr.name, xattr.value)).collect();
        let Inode { mode, uid, gid, mtime, nlink, .. } = inode;
        listing.insert(name, Seen { mode, uid, gid, mtime, nlink, xattrs, what });
    }
    listing
}

fn read_what(image: &Image<File>, inode: &Inode) -> What {
    match &inode.kind {
        Kind::Directory { .. } => What::Directory,
        Kind::File { .. } => {
            let mut content = vec![0xaa; inode.size() as usize];
            let mut done = 0;
            while done < content.len() {
                let n = image.read(inode, done as u64, &mut content[done..]).unwrap();
                assert_ne!(n, 0);
                done += n;
            }
            What::File(content)
        }
        Kind::Symlink { .. } => What::Symlink(image.read_link(inode).unwrap()),
        Kind::BlockDevice { rdev } => What::Block(crate::reader::major(*rdev), crate::reader::minor(*rdev)),
        Kind::CharDevice { rdev } => What::Char(crate::reader::major(*rdev), crate::reader::minor(*rdev)),
        Kind::Fifo => What::Fifo,
        Kind::Socket => What::Socket,
    }
}
