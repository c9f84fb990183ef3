//! An image as a directory that belongs to the caller.
//!
//! Content is stored, in whatever order it comes, in files with numbers beside the tree; they move to their places when the
//! tree is known. All of it is made in a directory that nobody else may enter, by descriptors and single names, so no
//! symbolic link is ever followed. The tree gets its name at the end.

use crate::error::Error;
use crate::flatten::tree::{FileTree, Inode, InodeId, Kind, Meta, NodeId, Xattrs};
use crate::image_info::INFO;
use crate::options::{Report, Unpacked};
use crate::sink::{Content, DataSink, Fill};
use crate::text::Name;
use rustix::fs::{
    AtFlags, CWD, Dev, FileType, Mode, OFlags, RenameFlags, Timespec, Timestamps, XattrFlags, fchmod, fsetxattr,
    futimens, linkat, mkdirat, mknodat, openat, renameat, renameat_with, symlinkat, utimensat,
};
use rustix::io::Errno;
use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// The tree, in the temporary directory.
const ROOT: &str = "root";
/// What has no place yet.
const STORE: &str = "store";
const OPEN_DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// A directory that is not published yet.
pub struct Sandbox {
    path: PathBuf,
    force: bool,
    temporary: TempDir,
    root: OwnedFd,
    store: OwnedFd,
    stored: u32,
}

impl Sandbox {
    /// Makes a temporary directory beside `path`.
    pub fn create(path: &Path, force: bool) -> Result<Self, Error> {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(Error::file("create", path)(io::ErrorKind::InvalidInput.into()));
        };
        replaceable(path, force)?;
        let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
        let prefix = format!(".{}.", name.to_string_lossy());
        let failed = || Error::file("create", path);
        let temporary = tempfile::Builder::new().prefix(&prefix).tempdir_in(parent).map_err(failed())?;
        let inside = rustix::fs::open(temporary.path(), OPEN_DIRECTORY, Mode::empty());
        let made = inside.and_then(|inside| Ok((subdirectory(&inside, ROOT)?, subdirectory(&inside, STORE)?)));
        let (root, store) = made.map_err(|error| failed()(error.into()))?;
        Ok(Self { path: path.into(), force, temporary, root, store, stored: 0 })
    }

    /// The temporary directory.
    pub fn directory(&self) -> Result<File, Error> {
        File::open(self.temporary.path()).map_err(Error::file("open", self.temporary.path()))
    }

    /// Puts everything in its place.
    pub fn fill(&mut self, tree: &FileTree<u32>, report: &mut Report) -> Result<(), Error> {
        let root = self.root.try_clone().map_err(Error::file("open", &self.path))?;
        let mut filler = Filler {
            sandbox: self,
            tree,
            here: root,
            path: Vec::new(),
            names_left: names(tree),
            made: HashMap::new(),
            left_out: Unpacked::default(),
            inodes: 0,
        };
        filler.run()?;
        report.left_out = filler.left_out;
        report.inodes = filler.inodes;
        Ok(())
    }

    /// Gives the tree its name.
    pub fn publish(self) -> Result<(), Error> {
        let (from, old) = (self.temporary.path().join(ROOT), self.temporary.path().join("old"));
        let failed = |error: Errno| match error {
            Errno::EXIST | Errno::NOTEMPTY => Error::OutputExists { path: self.path.clone() },
            other => Error::file("create", &self.path)(other.into()),
        };
        replaceable(&self.path, self.force)?;
        let displaced = self.force && renameat(CWD, &self.path, CWD, &old).is_ok();
        let renamed = match renameat_with(CWD, &from, CWD, &self.path, RenameFlags::NOREPLACE) {
            // Not every file system can promise that; a plain rename replaces nothing but an empty directory.
            Err(Errno::INVAL | Errno::NOSYS) => renameat(CWD, &from, CWD, &self.path),
            other => other,
        };
        renamed.map_err(|error| {
            if displaced {
                // The error of the other rename is the one to tell.
                let _ = renameat(CWD, &old, CWD, &self.path);
            }
            failed(error)
        })?;
        // The sandbox is there; what it replaced may have directories that even their owner cannot empty.
        let _ = self.temporary.close();
        Ok(())
    }
}

/// Nothing may be there, or with `force` only what was unpacked before: a slip must not cost a home directory.
fn replaceable(path: &Path, force: bool) -> Result<(), Error> {
    let Ok(metadata) = path.symlink_metadata() else { return Ok(()) };
    if !force {
        return Err(Error::OutputExists { path: path.into() });
    }
    let ours = path.join(INFO.trim_start_matches('/')).is_file();
    let empty = || path.read_dir().is_ok_and(|mut entries| entries.next().is_none());
    if metadata.is_dir() && (ours || empty()) { Ok(()) } else { Err(Error::NotReplaced { path: path.into() }) }
}

fn subdirectory(parent: &OwnedFd, name: &str) -> Result<OwnedFd, Errno> {
    mkdirat(parent, name, Mode::RWXU)?;
    openat(parent, name, OPEN_DIRECTORY, Mode::empty())
}

/// How many names each inode has.
fn names(tree: &FileTree<u32>) -> HashMap<InodeId, u32> {
    let mut names = HashMap::new();
    let mut waiting = vec![FileTree::<u32>::ROOT];
    while let Some(id) = waiting.pop() {
        let node = tree.node(id);
        if let Some((_, inode)) = node.entry {
            *names.entry(tree.resolve(inode)).or_insert(0) += 1;
        }
        waiting.extend(node.children.values());
    }
    names
}

impl DataSink for Sandbox {
    type Id = u32;

    fn file(&mut self, path: &[u8], size: u64, fill: &mut Fill<'_>) -> Result<u32, Error> {
        let at = || self.path.join(OsStr::from_bytes(path));
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let number = self.stored;
        let file = openat(&self.store, number.to_string(), flags, Mode::RUSR | Mode::WUSR);
        let file = File::from(file.map_err(|error| Error::file("create", at())(error.into()))?);
        self.stored = self.stored.checked_add(1).ok_or_else(|| Error::file("create", at())(Errno::NOSPC.into()))?;
        let mut stored = Stored { file, at: &at };
        fill(&mut stored)?;
        // A hole at the end.
        stored.file.set_len(size).map_err(Error::file("write", at()))?;
        Ok(number)
    }
}

/// A file being stored.
struct Stored<'a> {
    file: File,
    at: &'a dyn Fn() -> PathBuf,
}

impl Content for Stored<'_> {
    fn data(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.file.write_all(bytes).map_err(|error| Error::file("write", (self.at)())(error))
    }

    fn hole(&mut self, length: u64) -> Result<(), Error> {
        let by = i64::try_from(length).unwrap_or(i64::MAX);
        self.file.seek(SeekFrom::Current(by)).map(drop).map_err(|error| Error::file("write", (self.at)())(error))
    }
}

/// Walks the tree with one open directory, however deep it is.
struct Filler<'a> {
    sandbox: &'a Sandbox,
    tree: &'a FileTree<u32>,
    here: OwnedFd,
    /// Of the entry at hand, for messages.
    path: Vec<u8>,
    names_left: HashMap<InodeId, u32>,
    /// Names in the store of inodes that have more names to come.
    made: HashMap<InodeId, String>,
    left_out: Unpacked,
    inodes: u32,
}

enum Visit<'a> {
    Entry(&'a [u8], NodeId),
    Leave(NodeId, usize),
}

impl<'a> Filler<'a> {
    fn run(&mut self) -> Result<(), Error> {
        let root = FileTree::<u32>::ROOT;
        let mut waiting = vec![Visit::Leave(root, 0)];
        self.children(root, &mut waiting);
        while let Some(visit) = waiting.pop() {
            match visit {
                Visit::Entry(name, id) => {
                    let before = self.path.len();
                    self.path.push(b'/');
                    self.path.extend_from_slice(name);
                    // Names were checked when they came in; should one have slipped through, it must not lead out.
                    if matches!(name, b"" | b"." | b"..") || name.contains(&b'/') {
                        return Err(self.failed("create")(Errno::INVAL));
                    }
                    let inode = self.tree.node(id).entry.map(|(_, inode)| self.tree.resolve(inode));
                    match inode.filter(|&inode| !self.tree.inode(inode).is_directory()) {
                        Some(inode) => {
                            self.object(name, inode)?;
                            self.path.truncate(before);
                        }
                        None if inode.is_some() || self.tree.is_live(id) => {
                            mkdirat(&self.here, name, Mode::RWXU).map_err(self.failed("create"))?;
                            self.here =
                                openat(&self.here, name, OPEN_DIRECTORY, Mode::empty()).map_err(self.failed("open"))?;
                            waiting.push(Visit::Leave(id, before));
                            self.children(id, &mut waiting);
                        }
                        None => self.path.truncate(before),
                    }
                }
                Visit::Leave(id, before) => {
                    let meta = match self.tree.node(id).entry {
                        Some((_, inode)) => self.tree.inode(inode).meta.clone(),
                        None => Meta::implied_directory(),
                    };
                    self.inodes += 1;
                    self.describe(&self.here.try_clone().map_err(|error| self.error("open")(error))?, &meta, 0o700)?;
                    if id != FileTree::<u32>::ROOT {
                        self.here =
                            openat(&self.here, "..", OPEN_DIRECTORY, Mode::empty()).map_err(self.failed("open"))?;
                    }
                    self.path.truncate(before);
                }
            }
        }
        Ok(())
    }

    fn children(&self, id: NodeId, waiting: &mut Vec<Visit<'a>>) {
        let tree = self.tree;
        waiting.extend(tree.node(id).children.iter().rev().map(|(name, &child)| Visit::Entry(name, child)));
    }

    /// What is no directory: made in the store, and linked or moved to its name.
    fn object(&mut self, name: &[u8], id: InodeId) -> Result<(), Error> {
        let made = match self.made.get(&id) {
            Some(made) => made.clone(),
            None => match self.make(id)? {
                Some(made) => made,
                None => return Ok(()),
            },
        };
        let left = self.names_left.get_mut(&id);
        let last = left.is_none_or(|left| {
            *left -= 1;
            *left == 0
        });
        let store = &self.sandbox.store;
        if last {
            return renameat(store, made.as_str(), &self.here, name).map_err(self.failed("create"));
        }
        linkat(store, made.as_str(), &self.here, name, AtFlags::empty()).map_err(self.failed("create"))?;
        self.made.insert(id, made);
        Ok(())
    }

    /// Its name in the store; nothing for a device.
    fn make(&mut self, id: InodeId) -> Result<Option<String>, Error> {
        let Inode { meta, kind } = self.tree.inode(id);
        let store = &self.sandbox.store;
        // Files have their number.
        let special = format!("i{}", id.index());
        let made = match kind {
            Kind::File(number) => {
                let name = number.to_string();
                let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let file = openat(store, name.as_str(), flags, Mode::empty()).map_err(self.failed("open"))?;
                self.inodes += 1;
                self.describe(&file, meta, 0o600)?;
                return Ok(Some(name));
            }
            Kind::Symlink(target) => symlinkat(OsStr::from_bytes(target), store, special.as_str()),
            Kind::Fifo => self.node(&special, FileType::Fifo, meta),
            Kind::Socket => self.node(&special, FileType::Socket, meta),
            _ => {
                self.left_out.devices += 1;
                return Ok(None);
            }
        };
        made.and_then(|()| utimensat(store, special.as_str(), &times(meta), AtFlags::SYMLINK_NOFOLLOW))
            .map_err(self.failed("create"))?;
        // Linux has user attributes on files and directories alone.
        self.left_out.xattrs += meta.xattrs.len() as u64;
        self.inodes += 1;
        Ok(Some(special))
    }

    fn node(&self, name: &str, kind: FileType, meta: &Meta) -> Result<(), Errno> {
        let mode = u32::from(meta.mode & 0o777) | 0o600;
        mknodat(&self.sandbox.store, name, kind, Mode::from_raw_mode(mode), 0 as Dev)?;
        // Past the umask.
        rustix::fs::chmodat(&self.sandbox.store, name, Mode::from_raw_mode(mode), AtFlags::empty())
    }

    /// Attributes, mode and time, in this order: each but the last would change or need the next.
    fn describe(&mut self, file: &OwnedFd, meta: &Meta, needed: u16) -> Result<(), Error> {
        self.xattrs(file, &meta.xattrs)?;
        self.left_out.set_ids += u64::from(meta.mode & 0o6000 != 0);
        let mode = Mode::from_raw_mode(u32::from((meta.mode & 0o1777) | needed));
        fchmod(file, mode).and_then(|()| futimens(file, &times(meta))).map_err(self.failed("set mode and time of"))
    }

    fn xattrs(&mut self, file: &OwnedFd, xattrs: &Xattrs) -> Result<(), Error> {
        for (name, value) in xattrs {
            if !name.starts_with(b"user.") {
                self.left_out.xattrs += 1;
                continue;
            }
            match fsetxattr(file, OsStr::from_bytes(name), value, XattrFlags::empty()) {
                Ok(()) => {}
                // Not on this file system, or not so many.
                Err(Errno::NOTSUP | Errno::NOSPC | Errno::RANGE | Errno::TOOBIG) => self.left_out.xattrs += 1,
                Err(error) => return Err(self.failed("set an extended attribute of")(error)),
            }
        }
        Ok(())
    }

    fn failed(&self, action: &'static str) -> impl FnOnce(Errno) -> Error + use<> {
        let failed = self.error(action);
        move |error| failed(error.into())
    }

    fn error(&self, action: &'static str) -> impl FnOnce(io::Error) -> Error + use<> {
        let path = format!("{}{}", self.sandbox.path.display(), Name(&self.path).to_string().trim_matches('"'));
        Error::file(action, path)
    }
}

fn times(meta: &Meta) -> Timestamps {
    let time = Timespec { tv_sec: meta.mtime.into(), tv_nsec: 0 };
    Timestamps { last_access: time, last_modification: time }
}
