//! A directory as a source: walked by descriptors, in the order of names, no symbolic link followed.
//!
//! Other file systems mounted below are part of it. What the host adds of its own accord – SELinux labels – is not.

use crate::arrange::relative;
use crate::error::Error;
use crate::flatten::tree::{FileTree, InodeId, Kind, Meta, NodeId, Time, Xattrs};
use crate::flatten::{Counts, DEPTH_MAX, OWN_DIRECTORY, Problem};
use crate::image_info::CONFIG;
use crate::options::{Event, Options, Progress};
use crate::profile::ProfileFile;
use crate::sink::{Content, DataSink};
use crate::source::read_document;
use coracle_squashfs::writer::xattr_supported;
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, SeekFrom, Stat, fstat, openat, readlinkat, statat};
use rustix::io::Errno;
use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Bytes read from a file at a time.
const READ: usize = 256 << 10;
/// Entries between two progress events.
const EVENT_EVERY: u64 = 256;

/// Takes a whole directory in, `output` (which may lie in it) left out.
///
/// # Errors
/// When something below `directory` cannot be read, or changes meanwhile.
pub fn walk<S: DataSink>(
    directory: &Path,
    output: &File,
    sink: &mut S,
    options: &Options,
    progress: &dyn Progress,
) -> Result<(FileTree<S::Id>, Counts), Error> {
    progress.event(Event::DirectoryStarted);
    let output = fstat(output).map_err(|error| Error::file("examine", directory)(error.into()))?;
    let mut walker = Walker {
        directory,
        output: (output.st_dev, output.st_ino),
        tree: FileTree::new(options.max_entries),
        sink,
        progress,
        linked: HashMap::new(),
        aliases: HashMap::new(),
        counts: Counts::default(),
        path: Vec::new(),
        buffer: vec![0; READ],
    };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(directory, flags, Mode::empty()).map_err(|error| walker.error("open")(error))?;
    let stat = fstat(&root).map_err(|error| walker.error("examine")(error))?;
    walker.aliases = aliases(&root, options.profile.as_ref());
    walker.enter(root, &stat, FileTree::<S::Id>::ROOT, 0)?;
    Ok((walker.tree, walker.counts))
}

/// The image config that a directory has kept from the image that it was unpacked from.
///
/// # Errors
/// When it cannot be read, or is larger than any real one.
pub fn config(directory: &Path) -> Result<Option<Vec<u8>>, Error> {
    let path = directory.join(CONFIG.trim_start_matches('/'));
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = match rustix::fs::open(&path, flags, Mode::empty()) {
        Ok(file) => File::from(file),
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
        Err(error) => return Err(Error::file("open", path)(error.into())),
    };
    let size = file.metadata().map_err(Error::file("examine", &path))?.len();
    read_document(file, size, &path.display().to_string(), Error::file("read", &path)).map(Some)
}

struct Walker<'a, S: DataSink> {
    directory: &'a Path,
    output: (u64, u64),
    tree: FileTree<S::Id>,
    sink: &'a mut S,
    progress: &'a dyn Progress,
    /// Files that have several names, by device and inode number.
    linked: HashMap<(u64, u64), InodeId>,
    /// Files with several names of which the profile has one, by device and inode number: that name.
    aliases: HashMap<(u64, u64), Vec<u8>>,
    counts: Counts,
    /// Path of the entry at hand, for messages.
    path: Vec<u8>,
    buffer: Vec<u8>,
}

impl<S: DataSink> Walker<'_, S> {
    fn error(&self, action: &'static str) -> impl FnOnce(Errno) -> Error {
        let (directory, entry) = (self.directory.to_path_buf(), self.path.clone());
        move |error| Error::Walk { action, directory, entry, source: error.into() }
    }

    fn limit(&self, source: Problem) -> Error {
        Error::Limit { directory: self.directory.into(), entry: self.path.clone(), source }
    }

    /// Takes a directory in that is open as `fd`.
    fn enter(&mut self, fd: OwnedFd, stat: &Stat, node: NodeId, depth: usize) -> Result<(), Error> {
        if depth > DEPTH_MAX {
            return Err(self.limit(Problem::PathTooLong));
        }
        let names = self.names(&fd)?;
        // With the dot it is the directory, not the magic link, whose attributes are read.
        let magic = format!("/proc/self/fd/{}/.", fd.as_raw_fd());
        let xattrs = self.xattrs(magic.as_str())?;
        self.put(node, meta(stat, xattrs), Kind::Directory)?;
        let length = self.path.len();
        for name in names {
            if depth == 0 && name.to_bytes() == OWN_DIRECTORY {
                self.counts.ignored += 1;
                continue;
            }
            if !self.path.is_empty() {
                self.path.push(b'/');
            }
            self.path.extend_from_slice(name.to_bytes());
            self.entry(&fd, &name, node, depth)?;
            self.path.truncate(length);
        }
        Ok(())
    }

    fn names(&self, fd: &OwnedFd) -> Result<Vec<CString>, Error> {
        let mut names = Vec::new();
        for entry in Dir::read_from(fd).map_err(self.error("list"))? {
            let name = entry.map_err(self.error("list"))?.file_name().to_owned();
            if !matches!(name.to_bytes(), b"." | b"..") {
                names.push(name);
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    fn entry(&mut self, parent: &OwnedFd, name: &CStr, into: NodeId, depth: usize) -> Result<(), Error> {
        let stat = statat(parent, name, AtFlags::SYMLINK_NOFOLLOW).map_err(self.error("examine"))?;
        let identity = (stat.st_dev, stat.st_ino);
        if identity == self.output {
            return Ok(());
        }
        self.counts.entries += 1;
        if self.counts.entries.is_multiple_of(EVENT_EVERY) {
            self.progress.event(Event::Entries { count: self.counts.entries });
        }
        let node = self.tree.child_or_new(into, name.to_bytes()).map_err(|full| self.limit(full.into()))?;
        let file_type = FileType::from_raw_mode(stat.st_mode);
        if file_type == FileType::Directory {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let fd = openat(parent, name, flags, Mode::empty()).map_err(self.error("open"))?;
            return self.enter(fd, &stat, node, depth + 1);
        }
        if stat.st_nlink > 1
            && let Some(&inode) = self.linked.get(&identity)
        {
            self.tree.node_mut(node).entry = Some((Time::layer_end(0), inode));
            return Ok(());
        }
        // A name in an open directory reaches symbolic links and devices, which cannot be opened for this.
        let magic = format!("/proc/self/fd/{}/", parent.as_raw_fd());
        let magic = [magic.as_bytes(), name.to_bytes()].concat();
        let xattrs = self.xattrs(magic.as_slice())?;
        let (major, minor) = (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev));
        let kind = match file_type {
            FileType::RegularFile => Kind::File(self.file(parent, name)?),
            FileType::Symlink => {
                let target = readlinkat(parent, name, Vec::new()).map_err(self.error("read the symbolic link"))?;
                Kind::Symlink(target.into_bytes().into())
            }
            FileType::BlockDevice => Kind::BlockDevice { major, minor },
            FileType::CharacterDevice => Kind::CharDevice { major, minor },
            FileType::Fifo => Kind::Fifo,
            FileType::Socket => Kind::Socket,
            _ => return Err(self.error("take in")(Errno::INVAL)),
        };
        let inode = self.put(node, meta(&stat, xattrs), kind)?;
        if stat.st_nlink > 1 {
            self.linked.insert(identity, inode);
        }
        Ok(())
    }

    fn put(&mut self, node: NodeId, meta: Meta, kind: Kind<S::Id>) -> Result<InodeId, Error> {
        let inode = self.tree.add_inode(meta, kind).map_err(|full| self.limit(full.into()))?;
        self.tree.node_mut(node).entry = Some((Time::layer_end(0), inode));
        Ok(inode)
    }

    fn file(&mut self, parent: &OwnedFd, name: &CStr) -> Result<S::Id, Error> {
        // Not blocking: should the file have become a pipe meanwhile, nobody may ever write to it.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = File::from(openat(parent, name, flags, Mode::empty()).map_err(self.error("open"))?);
        let stat = fstat(&file).map_err(self.error("examine"))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(self.error("read")(Errno::INVAL));
        }
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        let sparse = u64::try_from(stat.st_blocks).unwrap_or(0).saturating_mul(512) < size;
        let read = FileRead {
            file: &file,
            size,
            failed: &|error| Error::Walk {
                action: "read",
                directory: self.directory.into(),
                entry: self.path.clone(),
                source: error,
            },
            short: &|| Error::Changed { directory: self.directory.into(), entry: self.path.clone() },
        };
        let buffer = &mut self.buffer;
        let identity = (stat.st_dev, stat.st_ino);
        let path = self.aliases.get(&identity).unwrap_or(&self.path);
        self.sink.file(path, size, &mut |content| {
            if sparse { read.segments(content, buffer) } else { read.range(content, buffer, 0, size) }
        })
    }

    fn xattrs(&mut self, path: impl rustix::path::Arg + Copy) -> Result<Xattrs, Error> {
        let names = match list_xattrs(path) {
            Ok(names) => names,
            // No xattrs on this file system, or no /proc to reach them by.
            Err(Errno::OPNOTSUPP | Errno::NOENT | Errno::NOSYS) => return Ok(Vec::new()),
            Err(error) => return Err(self.error("list the extended attributes of")(error)),
        };
        let mut xattrs = Vec::new();
        for name in names.split(|&byte| byte == 0).filter(|name| !name.is_empty()) {
            if !xattr_supported(name) || name == b"security.selinux" {
                self.counts.dropped_xattrs += 1;
                continue;
            }
            match get_xattr(path, name) {
                Ok(value) => xattrs.push((name.to_vec(), value)),
                Err(Errno::NODATA) => {}
                Err(error) => return Err(self.error("read the extended attributes of")(error)),
            }
        }
        xattrs.sort();
        Ok(xattrs)
    }
}

/// Finds the files with several names among those of a profile. A path that leads out of the directory, through a
/// symbolic link, finds nothing that the walk will meet.
fn aliases(root: &OwnedFd, profile: Option<&ProfileFile>) -> HashMap<(u64, u64), Vec<u8>> {
    let touched = profile.map(|file| file.profile().touched.as_slice()).unwrap_or_default();
    let linked = touched.iter().filter_map(|file| {
        let path = relative(&file.path);
        let stat = statat(root, path, AtFlags::SYMLINK_NOFOLLOW).ok()?;
        (stat.st_nlink > 1).then(|| ((stat.st_dev, stat.st_ino), path.to_vec()))
    });
    linked.collect()
}

fn meta(stat: &Stat, xattrs: Xattrs) -> Meta {
    Meta {
        mode: (stat.st_mode & 0o7777) as u16,
        uid: stat.st_uid,
        gid: stat.st_gid,
        mtime: stat.st_mtime.clamp(0, i64::from(u32::MAX)) as u32,
        xattrs,
    }
}

/// Content of an open file.
struct FileRead<'a> {
    file: &'a File,
    size: u64,
    failed: &'a dyn Fn(std::io::Error) -> Error,
    short: &'a dyn Fn() -> Error,
}

impl FileRead<'_> {
    /// Holes as the file system knows them.
    fn segments(&self, content: &mut dyn Content, buffer: &mut [u8]) -> Result<(), Error> {
        let seek = |to| match rustix::fs::seek(self.file.as_fd(), to) {
            Ok(position) => Ok(position.min(self.size)),
            // Nothing but a hole up to the end.
            Err(Errno::NXIO) => Ok(self.size),
            Err(error) => Err((self.failed)(error.into())),
        };
        let mut position = 0;
        while position < self.size {
            let data = seek(SeekFrom::Data(position))?.max(position);
            if data > position {
                content.hole(data - position)?;
            }
            if data == self.size {
                break;
            }
            let hole = seek(SeekFrom::Hole(data))?;
            if hole <= data {
                return Err((self.short)());
            }
            self.range(content, buffer, data, hole)?;
            position = hole;
        }
        Ok(())
    }

    fn range(&self, content: &mut dyn Content, buffer: &mut [u8], start: u64, end: u64) -> Result<(), Error> {
        let mut position = start;
        while position < end {
            let room = usize::try_from(end - position).unwrap_or(usize::MAX).min(buffer.len());
            let count = match self.file.read_at(buffer.get_mut(..room).unwrap_or_default(), position) {
                Ok(0) => return Err((self.short)()),
                Ok(count) => count,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(error) => return Err((self.failed)(error)),
            };
            content.data(buffer.get(..count).unwrap_or_default())?;
            position += count as u64;
        }
        Ok(())
    }
}

fn list_xattrs(path: impl rustix::path::Arg + Copy) -> Result<Vec<u8>, Errno> {
    // Linux's own limit on the list is 64 KiB.
    let mut names = vec![0; 64 << 10];
    let length = rustix::fs::llistxattr(path, &mut names[..])?;
    names.truncate(length);
    Ok(names)
}

fn get_xattr(path: impl rustix::path::Arg + Copy, name: &[u8]) -> Result<Vec<u8>, Errno> {
    let mut value = vec![0; 64 << 10];
    let length = rustix::fs::lgetxattr(path, name, &mut value[..])?;
    value.truncate(length);
    Ok(value)
}
