//! A file tree as plain data, whatever it was read from, and the differences between two of them.

use coracle_squashfs::reader::{FileType, Image, Inode, Kind as ImageKind, OpenOptions, ReadAt, WalkEntry};
use sha2::{Digest, Sha256};
use squashfs_ng::read::{Archive, Data, Node, XattrType};
use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::fmt::{self, Write as _};
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

/// What a name stands for.
#[derive(Clone, PartialEq, Eq)]
pub enum Kind {
    /// A directory.
    Directory,
    /// A regular file: its size and the SHA-256 of its content.
    File(u64, [u8; 32]),
    /// A symbolic link's target.
    Symlink(Vec<u8>),
    /// A block device's major and minor number.
    Block(u32, u32),
    /// A character device's major and minor number.
    Char(u32, u32),
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
}

impl fmt::Debug for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Directory => f.write_str("directory"),
            Self::File(size, hash) => write!(f, "file of {size} bytes, {}", &hex(hash)[..12]),
            Self::Symlink(target) => write!(f, "link to {}", target.escape_ascii()),
            Self::Block(major, minor) => write!(f, "block device {major}:{minor}"),
            Self::Char(major, minor) => write!(f, "character device {major}:{minor}"),
            Self::Fifo => f.write_str("fifo"),
            Self::Socket => f.write_str("socket"),
        }
    }
}

/// One name of a tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// What it is, and its content.
    pub kind: Kind,
    /// Permission bits, `07777`.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Modification time in seconds.
    pub mtime: i64,
    /// Number of links. `None` where the source does not tell.
    pub nlink: Option<u64>,
    /// First of the names that share this inode, in order, when there are several in the tree.
    pub same_as: Option<Vec<u8>>,
    /// Extended attributes with full names. `None` where the source does not tell.
    pub xattrs: Option<BTreeMap<Vec<u8>, Vec<u8>>>,
}

/// All entries by path; the root is `/`.
#[derive(Clone, Debug, Default)]
pub struct Tree {
    /// Absolute path to entry.
    pub entries: BTreeMap<Vec<u8>, Entry>,
}

impl Tree {
    /// A directory on disk, a mounted image included. Extended attributes that squashfs has no place for
    /// (all but `user.`, `trusted.` and `security.`, POSIX ACLs therefore) are left out.
    ///
    /// # Panics
    /// When it cannot be read.
    #[must_use]
    pub fn of_directory(root: &Path) -> Self {
        let mut tree = Self::default();
        let mut inodes = HashMap::new();
        tree.add_directory(root, b"/", &mut inodes);
        tree.link_up(&inodes);
        tree
    }

    fn add_directory(&mut self, at: &Path, path: &[u8], inodes: &mut HashMap<Vec<u8>, (u64, u64)>) {
        let meta = fs::symlink_metadata(at).unwrap_or_else(|error| panic!("{}: {error}", at.display()));
        let kind = kind_on_disk(at, &meta);
        let is_directory = kind == Kind::Directory;
        if !is_directory && meta.nlink() > 1 {
            inodes.insert(path.to_vec(), (meta.dev(), meta.ino()));
        }
        let entry = Entry {
            kind,
            mode: meta.mode() & 0o7777,
            uid: meta.uid(),
            gid: meta.gid(),
            mtime: meta.mtime(),
            nlink: Some(meta.nlink()),
            same_as: None,
            xattrs: Some(xattrs_on_disk(at)),
        };
        self.entries.insert(path.to_vec(), entry);
        if is_directory {
            for child in fs::read_dir(at).unwrap_or_else(|error| panic!("{}: {error}", at.display())) {
                let name = child.unwrap().file_name();
                self.add_directory(&at.join(&name), &joined(path, name.as_bytes()), inodes);
            }
        }
    }

    /// A squashfs image as our own reader sees it.
    ///
    /// # Panics
    /// When it cannot be read.
    #[must_use]
    pub fn of_image(path: &Path) -> Self {
        Self::of_image_at(path, 0)
    }

    /// Like [`Tree::of_image`], for an image that begins at `offset` of the file.
    ///
    /// # Panics
    /// When it cannot be read.
    #[must_use]
    pub fn of_image_at(path: &Path, offset: u64) -> Self {
        let file = File::open(path).unwrap();
        let image = Image::open(file, OpenOptions { offset, ..OpenOptions::default() })
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let mut tree = Self::default();
        let mut inodes = HashMap::new();
        for found in image.walk() {
            let WalkEntry { path: name, inode } = found.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            if inode.nlink > 1 && inode.file_type() != FileType::Directory {
                inodes.insert(name.clone(), (0, u64::from(inode.number)));
            }
            let entry = entry_in_image(&image, &inode)
                .unwrap_or_else(|error| panic!("{}: \"{}\": {error}", path.display(), name.escape_ascii()));
            tree.entries.insert(name, entry);
        }
        tree.link_up(&inodes);
        tree
    }

    /// A squashfs image as libsquashfs sees it. Names that are not UTF-8 are left out: its binding has no way to them.
    /// Extended attributes are read for the paths in `with_xattrs` alone, as each costs it a scan of the tables.
    ///
    /// # Panics
    /// When it cannot be read.
    #[must_use]
    pub fn of_squashfs_ng(path: &Path, with_xattrs: &dyn Fn(&[u8]) -> bool) -> Self {
        let archive = Archive::open(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let mut tree = Self::default();
        let mut inodes = HashMap::new();
        let root = archive.get("/").unwrap().expect("a root");
        tree.add_node(&root, b"/", with_xattrs, &mut inodes);
        // It tells no link counts: whoever shares an inode has more than one.
        let mut uses = HashMap::<_, usize>::new();
        inodes.values().for_each(|inode| *uses.entry(*inode).or_default() += 1);
        inodes.retain(|_, inode| uses[inode] > 1);
        tree.link_up(&inodes);
        tree
    }

    fn add_node(
        &mut self,
        node: &Node<'_>,
        path: &[u8],
        with_xattrs: &dyn Fn(&[u8]) -> bool,
        inodes: &mut HashMap<Vec<u8>, (u64, u64)>,
    ) {
        let data = node.data().unwrap_or_else(|error| panic!("\"{}\": {error}", path.escape_ascii()));
        let kind = match data {
            Data::Dir(_) => Kind::Directory,
            Data::File(mut file) => {
                let size = file.size();
                Kind::File(size, hash_of(&mut file))
            }
            Data::Symlink(target) => Kind::Symlink(target.into_os_string().as_bytes().to_vec()),
            Data::BlockDev(major, minor) => Kind::Block(major, minor),
            Data::CharDev(major, minor) => Kind::Char(major, minor),
            Data::Fifo => Kind::Fifo,
            Data::Socket => Kind::Socket,
        };
        if kind != Kind::Directory {
            inodes.insert(path.to_vec(), (0, u64::from(node.id())));
        }
        let xattrs = with_xattrs(path).then(|| {
            let mut all = BTreeMap::new();
            for (class, prefix) in
                [(XattrType::User, "user."), (XattrType::Trusted, "trusted."), (XattrType::Security, "security.")]
            {
                for (name, value) in node.xattrs(class).unwrap() {
                    all.insert([prefix.as_bytes(), &name].concat(), value);
                }
            }
            all
        });
        let entry = Entry {
            kind,
            mode: u32::from(node.mode()) & 0o7777,
            uid: node.uid().unwrap(),
            gid: node.gid().unwrap(),
            mtime: i64::from(node.mtime()),
            nlink: None,
            same_as: None,
            xattrs,
        };
        self.entries.insert(path.to_vec(), entry);
        if let Ok(Data::Dir(children)) = node.data() {
            // A name that is not UTF-8 comes as an error; the next one is read all the same.
            for child in children.flatten() {
                let name = child.name().expect("a name");
                self.add_node(&child, &joined(path, name.as_bytes()), with_xattrs, inodes);
            }
        }
    }

    /// Notes for each of several names of one inode the first of them.
    fn link_up(&mut self, inodes: &HashMap<Vec<u8>, (u64, u64)>) {
        let mut first = HashMap::<(u64, u64), &[u8]>::new();
        for (path, inode) in inodes {
            let least = first.entry(*inode).or_insert(path);
            *least = (*least).min(path);
        }
        for (path, inode) in inodes {
            if let (Some(entry), Some(least)) = (self.entries.get_mut(path), first.get(inode)) {
                entry.same_as = (*least != path.as_slice()).then(|| least.to_vec());
            }
        }
    }

    /// Without these paths and what is below them.
    #[must_use]
    pub fn without(mut self, paths: &[&str]) -> Self {
        self.entries.retain(|path, _| {
            !paths.iter().any(|gone| {
                path.strip_prefix(gone.as_bytes()).is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
            })
        });
        self
    }

    /// Paths that have extended attributes.
    #[must_use]
    pub fn paths_with_xattrs(&self) -> std::collections::BTreeSet<Vec<u8>> {
        let has = |entry: &Entry| entry.xattrs.as_ref().is_some_and(|xattrs| !xattrs.is_empty());
        self.entries.iter().filter(|(_, entry)| has(entry)).map(|(path, _)| path.clone()).collect()
    }
}

fn joined(path: &[u8], name: &[u8]) -> Vec<u8> {
    [path.strip_suffix(b"/").unwrap_or(path), name].join(&b'/')
}

fn kind_on_disk(at: &Path, meta: &fs::Metadata) -> Kind {
    let file_type = meta.file_type();
    let rdev = meta.rdev();
    if file_type.is_dir() {
        Kind::Directory
    } else if file_type.is_symlink() {
        Kind::Symlink(fs::read_link(at).unwrap().into_os_string().as_bytes().to_vec())
    } else if file_type.is_file() {
        let mut file = File::open(at).unwrap_or_else(|error| panic!("{}: {error}", at.display()));
        Kind::File(meta.len(), hash_of(&mut file))
    } else if file_type.is_block_device() {
        Kind::Block(rustix::fs::major(rdev), rustix::fs::minor(rdev))
    } else if file_type.is_char_device() {
        Kind::Char(rustix::fs::major(rdev), rustix::fs::minor(rdev))
    } else if file_type.is_fifo() {
        Kind::Fifo
    } else {
        Kind::Socket
    }
}

fn xattrs_on_disk(at: &Path) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let storable = |name: &&OsStr| {
        [&b"user."[..], b"trusted.", b"security."].iter().any(|prefix| name.as_bytes().starts_with(prefix))
    };
    let names: Vec<_> = xattr::list(at).map(Iterator::collect).unwrap_or_default();
    let value = |name: &OsStr| xattr::get(at, name).unwrap().unwrap_or_default();
    names
        .iter()
        .map(|name| name.as_os_str())
        .filter(storable)
        .map(|name| (name.as_bytes().to_vec(), value(name)))
        .collect()
}

fn entry_in_image<S: ReadAt>(image: &Image<S>, inode: &Inode) -> Result<Entry, coracle_squashfs::reader::Error> {
    use coracle_squashfs::reader::{major, minor};
    let kind = match &inode.kind {
        ImageKind::Directory { .. } => Kind::Directory,
        ImageKind::File { .. } => Kind::File(inode.size(), hash_in_image(image, inode)?),
        ImageKind::Symlink { .. } => Kind::Symlink(image.read_link(inode)?),
        ImageKind::BlockDevice { rdev } => Kind::Block(major(*rdev), minor(*rdev)),
        ImageKind::CharDevice { rdev } => Kind::Char(major(*rdev), minor(*rdev)),
        ImageKind::Fifo => Kind::Fifo,
        ImageKind::Socket => Kind::Socket,
    };
    let xattrs = image.xattrs(inode)?.into_iter().map(|xattr| (xattr.name, xattr.value)).collect();
    Ok(Entry {
        kind,
        mode: u32::from(inode.mode),
        uid: inode.uid,
        gid: inode.gid,
        mtime: i64::from(inode.mtime),
        nlink: Some(u64::from(inode.nlink)),
        same_as: None,
        xattrs: Some(xattrs),
    })
}

fn hash_in_image<S: ReadAt>(image: &Image<S>, inode: &Inode) -> Result<[u8; 32], coracle_squashfs::reader::Error> {
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    let mut offset = 0;
    loop {
        let count = image.read(inode, offset, &mut buffer)?;
        if count == 0 {
            return Ok(hash.finalize().into());
        }
        hash.update(&buffer[..count]);
        offset += count as u64;
    }
}

fn hash_of(content: &mut dyn Read) -> [u8; 32] {
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 18];
    loop {
        let count = content.read(&mut buffer).unwrap();
        if count == 0 {
            return hash.finalize().into();
        }
        hash.update(&buffer[..count]);
    }
}

/// SHA-256 of some bytes, in hexadecimal.
#[must_use]
pub fn sha256_hex(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// SHA-256 of a file, in hexadecimal.
///
/// # Panics
/// When it cannot be read.
#[must_use]
pub fn sha256_of(path: &Path) -> String {
    hex(&hash_of(&mut File::open(path).unwrap()))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// A difference that is meant to be, and why.
#[derive(Clone, Copy)]
pub struct Expected {
    /// Why the two may differ here.
    pub reason: &'static str,
    /// Path and the name of what differs (`missing`, `extra`, `mode`, `owner`, `mtime`, `nlink`, `link`, `kind`, `xattrs`).
    pub covers: fn(&[u8], &str) -> bool,
}

/// Every difference between two trees that no expectation covers, as text; and the expectations that covered none.
#[must_use]
pub fn differences(left: &Tree, right: &Tree, expected: &[Expected]) -> Vec<String> {
    let mut found = Vec::new();
    let mut used = vec![false; expected.len()];
    let mut report = |path: &[u8], what: &str, text: String| match expected.iter().position(|e| (e.covers)(path, what))
    {
        Some(index) => used[index] = true,
        None => found.push(format!("{} {what}: {text}", path.escape_ascii())),
    };
    for (path, a) in &left.entries {
        let Some(b) = right.entries.get(path) else {
            report(path, "missing", format!("{:?}", a.kind));
            continue;
        };
        let mut field = |what: &str, differs: bool, text: &dyn Fn() -> String| {
            if differs {
                report(path, what, text());
            }
        };
        field("kind", a.kind != b.kind, &|| format!("{:?} / {:?}", a.kind, b.kind));
        field("mode", a.mode != b.mode, &|| format!("{:o} / {:o}", a.mode, b.mode));
        field("owner", (a.uid, a.gid) != (b.uid, b.gid), &|| format!("{}:{} / {}:{}", a.uid, a.gid, b.uid, b.gid));
        field("mtime", a.mtime != b.mtime, &|| format!("{} / {}", a.mtime, b.mtime));
        let counts = a.nlink.zip(b.nlink);
        field("nlink", counts.is_some_and(|(a, b)| a != b), &|| format!("{counts:?}"));
        field("link", a.same_as != b.same_as, &|| format!("{} / {}", name(a), name(b)));
        let sets = a.xattrs.as_ref().zip(b.xattrs.as_ref());
        field("xattrs", sets.is_some_and(|(a, b)| a != b), &|| {
            sets.map(|(a, b)| format!("{} / {}", keys(a), keys(b))).unwrap_or_default()
        });
    }
    for (path, entry) in right.entries.iter().filter(|(path, _)| !left.entries.contains_key(*path)) {
        report(path, "extra", format!("{:?}", entry.kind));
    }
    let idle = expected
        .iter()
        .zip(used)
        .filter(|(_, used)| !used)
        .map(|(e, _)| format!("expected, but not seen: {}", e.reason));
    found.extend(idle);
    found
}

fn name(entry: &Entry) -> String {
    entry.same_as.as_ref().map_or("alone".into(), |path| path.escape_ascii().to_string())
}

fn keys(xattrs: &BTreeMap<Vec<u8>, Vec<u8>>) -> String {
    let list: Vec<_> = xattrs.iter().map(|(name, value)| format!("{}={}b", name.escape_ascii(), value.len())).collect();
    format!("[{}]", list.join(" "))
}

/// Panics with the differences, at most 40 of them, unless there is none.
///
/// # Panics
/// When the trees differ.
#[track_caller]
pub fn assert_same(what: &str, left: &Tree, right: &Tree, expected: &[Expected]) {
    assert!(left.entries.len() > 1, "{what}: nothing to compare");
    let found = differences(left, right, expected);
    let shown: Vec<_> = found.iter().take(40).map(String::as_str).collect();
    assert!(found.is_empty(), "{what}: {} differences:\n{}", found.len(), shown.join("\n"));
}
