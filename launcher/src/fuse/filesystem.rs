//! The answers to the kernel's requests.
//!
//! All are made from the image and the overlay alone: no handle or look-up count is kept, so FORGET and RELEASE have
//! nothing to do, and a request costs no lock of our own.

use std::cell::RefCell;
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::time::Duration;

use coracle_squashfs::format::NAME_LEN;
use coracle_squashfs::reader::{self, Image, Inode, Kind};
use fuser::{
    Errno, FileAttr, FileHandle, Filesystem, FopenFlags, Generation, INodeNo, InitFlags, IoctlFlags, KernelConfig,
    LockOwner, OpenFlags, ReplyAttr, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyIoctl,
    ReplyOpen, ReplyStatfs, ReplyXattr, Request,
};

use super::listing::{Listed, Target};
use super::log::Log;
use super::node::{Common, Node};
use super::overlay::{Made, Overlay};
use super::requests::{RequestKind, Requests};
use super::{Error, READ_MAX, ServeOptions};

/// How long the kernel may keep what it is told: for ever, in effect. Some kernels lose larger numbers to overflow.
const TTL: Duration = Duration::from_secs(u32::MAX as u64);
/// Readahead requests that the kernel may have under way. Its own limit for unprivileged mounts is larger.
const MAX_BACKGROUND: u16 = 64;
/// The kernel has one page for a link's target, which it ends with a NUL byte.
const LINK_MAX: usize = 4095;
const SELINUX: &[u8] = b"security.selinux";
const GENERATION: Generation = Generation(0);

/// Why a request gets an error.
#[derive(Debug)]
pub(super) enum Failure {
    /// The request asks for what is not there.
    Errno(Errno),
    /// The image is damaged.
    Image(reader::Error),
}

impl From<reader::Error> for Failure {
    fn from(error: reader::Error) -> Self {
        match error {
            // Anyone can seek a directory to where no entry starts; the image is not to blame.
            reader::Error::Position { .. } => Self::Errno(Errno::EINVAL),
            reader::Error::WrongType { .. } => Self::Errno(Errno::EINVAL),
            error => Self::Image(error),
        }
    }
}

impl From<Errno> for Failure {
    fn from(errno: Errno) -> Self {
        Self::Errno(errno)
    }
}

/// The tree that is served.
pub(super) struct Tree {
    pub(super) image: Image<File>,
    pub(super) overlay: Overlay,
    pub(super) common: Common,
    pub(super) log: Log,
    pub(super) requests: Arc<Requests>,
    /// Features not to use though the kernel offers them.
    pub(super) withheld: InitFlags,
    /// Kernel features in use; those not offered have a fallback.
    features: InitFlags,
    /// What holes are made of. Fresh zeroed memory that is only read stays one page.
    zeros: Box<[u8]>,
}

impl Tree {
    pub(super) fn new(image: Image<File>, options: ServeOptions) -> Result<Self, Error> {
        let overlay = Overlay::build(&image, options.synthetic)?;
        let superblock = image.superblock();
        let common = Common {
            uid: options.uid,
            gid: options.gid,
            block_size: superblock.block_size.get(),
            root: image.root(),
            time: superblock.mkfs_time.get(),
        };
        Ok(Self {
            image,
            overlay,
            common,
            log: Log::default(),
            requests: Arc::default(),
            withheld: InitFlags::empty(),
            features: InitFlags::empty(),
            zeros: vec![0; READ_MAX as usize].into_boxed_slice(),
        })
    }

    pub(super) fn id(&self, node: Node) -> u64 {
        node.id(self.common.root)
    }

    fn node(&self, id: INodeNo) -> Result<Node, Failure> {
        Node::from_id(id.0, self.common.root).ok_or(Failure::Errno(Errno::ESTALE))
    }

    /// The inode of a node that has to be the image's.
    fn inode(&self, node: Node) -> Result<Option<Inode>, Failure> {
        match node {
            Node::Image(reference) => Ok(Some(self.image.inode(reference)?)),
            Node::Synthetic(_) => Ok(None),
        }
    }

    pub(super) fn attributes(&self, node: Node) -> Result<FileAttr, Failure> {
        match node {
            Node::Image(reference) => {
                let inode = self.image.inode(reference)?;
                Ok(self.common.of_image(&inode, self.overlay.subdirectories(node)))
            }
            Node::Synthetic(index) => match self.overlay.made(index) {
                Some(Made::Directory { .. }) => Ok(self.common.of_directory(index, self.overlay.subdirectories(node))),
                Some(Made::File { content, mode }) => Ok(self.common.of_file(index, *mode, content.len() as u64)),
                None => Err(Errno::ESTALE.into()),
            },
        }
    }

    pub(super) fn find(&self, parent: INodeNo, name: &[u8]) -> Result<Option<Node>, Failure> {
        let directory = self.node(parent)?;
        if let Some(child) = self.overlay.additions(directory).and_then(|additions| additions.get(name)) {
            return Ok(Some(Node::Synthetic(child.index)));
        }
        let Some(inode) = self.inode(directory)? else { return Ok(None) };
        Ok(self.image.lookup(&inode, name)?.map(|entry| Node::Image(entry.inode)))
    }

    /// Calls `send` with the bytes of a file from `offset` on, at most `size` of them and fewer only at its end.
    pub(super) fn read_at(&self, id: INodeNo, offset: u64, size: u32, send: impl FnOnce(&[u8])) -> Result<(), Failure> {
        let inode = match self.node(id)? {
            Node::Image(reference) => self.image.inode(reference)?,
            Node::Synthetic(index) => {
                let Some(Made::File { content, .. }) = self.overlay.made(index) else {
                    return Err(Errno::EISDIR.into());
                };
                let start = usize::try_from(offset).unwrap_or(usize::MAX).min(content.len());
                let end = start.saturating_add(size as usize).min(content.len());
                send(content.get(start..end).unwrap_or_default());
                return Ok(());
            }
        };
        let Kind::File { size: file_size, .. } = inode.kind else { return Err(Errno::EINVAL.into()) };
        let length = u64::from(size.min(READ_MAX)).min(file_size.saturating_sub(offset));
        if length == 0 {
            send(&[]);
            return Ok(());
        }
        self.read_image(&inode, offset, length as usize, send)
    }

    /// The same for a range that the file has.
    fn read_image(&self, inode: &Inode, offset: u64, length: usize, send: impl FnOnce(&[u8])) -> Result<(), Failure> {
        let block_size = u64::from(self.common.block_size);
        let start = (offset % block_size) as usize;
        let left_in_file = inode.size().saturating_sub(offset);
        let is_whole_block = start == 0 && length as u64 >= block_size.min(left_in_file);
        // A part of a block is sent from the reader's cache, where the rest of it waits for the next request. A whole
        // block is not asked for again: the kernel keeps it, and no other copy is made than the one to send.
        if !is_whole_block && start + length <= block_size as usize {
            let block = self.image.block(inode, offset / block_size)?;
            let data = match block.bytes() {
                Some(bytes) => bytes.get(start..start + length),
                None => self.zeros.get(..length),
            };
            if let Some(data) = data {
                send(data);
                return Ok(());
            }
        }
        SCRATCH.with_borrow_mut(|scratch| {
            if scratch.len() < length {
                scratch.resize(length, 0);
            }
            let buffer = scratch.get_mut(..length).unwrap_or_default();
            let count = self.image.read(inode, offset, buffer)?;
            send(buffer.get(..count).unwrap_or_default());
            Ok(())
        })
    }

    /// The errno for a failure, which is written down if the image is to blame.
    fn errno(&self, request: RequestKind, id: INodeNo, failure: Failure) -> Errno {
        match failure {
            Failure::Errno(errno) => errno,
            Failure::Image(error) => {
                self.log.failure(request, id.0, &error);
                Errno::EIO
            }
        }
    }

    fn open_with(&self, feature: InitFlags, flags: FopenFlags, reply: ReplyOpen) {
        if self.features.contains(feature) {
            // The kernel then opens all by itself, and keeps its caches as the flags below say.
            reply.error(Errno::ENOSYS);
        } else {
            reply.opened(FileHandle(0), flags);
        }
    }

    fn xattr(&self, id: INodeNo, name: &[u8]) -> Result<Vec<u8>, Failure> {
        let inode = self.inode(self.node(id)?)?.filter(Inode::has_xattrs);
        let xattrs = inode.map(|inode| self.image.xattrs(&inode)).transpose()?.unwrap_or_default();
        match xattrs.into_iter().find(|xattr| xattr.name == name) {
            Some(xattr) => Ok(xattr.value),
            // `ls -l` asks for this of every file, until it is told that there are none here. The kernel remembers no
            // answer to a request for an attribute.
            None if name == SELINUX => Err(Errno::EOPNOTSUPP.into()),
            None => Err(Errno::ENODATA.into()),
        }
    }

    fn xattr_names(&self, id: INodeNo) -> Result<Vec<u8>, Failure> {
        let mut names = Vec::new();
        let Some(inode) = self.inode(self.node(id)?)? else { return Ok(names) };
        if inode.has_xattrs() {
            for xattr in self.image.xattrs(&inode)? {
                // Only the administrator of the host may read these; the kernel's squashfs does not list them, either.
                if !xattr.name.starts_with(b"trusted.") {
                    names.extend_from_slice(&xattr.name);
                    names.push(0);
                }
            }
        }
        Ok(names)
    }

    /// Answers as `getxattr(2)` does: the size alone if none is offered, ERANGE if too little is.
    fn reply_xattr(
        &self,
        request: RequestKind,
        id: INodeNo,
        value: Result<Vec<u8>, Failure>,
        size: u32,
        reply: ReplyXattr,
    ) {
        match value {
            Ok(value) if size == 0 => reply.size(u32::try_from(value.len()).unwrap_or(u32::MAX)),
            Ok(value) if value.len() > size as usize => reply.error(Errno::ERANGE),
            Ok(value) => reply.data(&value),
            Err(failure) => reply.error(self.errno(request, id, failure)),
        }
    }
}

thread_local! {
    /// For reads that span blocks. At most [`READ_MAX`] for each serving thread.
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

impl Filesystem for Tree {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> io::Result<()> {
        let wanted = InitFlags::FUSE_PARALLEL_DIROPS
            | InitFlags::FUSE_DO_READDIRPLUS
            | InitFlags::FUSE_CACHE_SYMLINKS
            | InitFlags::FUSE_NO_OPEN_SUPPORT
            | InitFlags::FUSE_NO_OPENDIR_SUPPORT;
        self.features = wanted & config.capabilities() & !self.withheld;
        let unsupported = |flags| io::Error::other(format!("the kernel took back features: {flags:?}"));
        config.add_capabilities(self.features).map_err(unsupported)?;
        // Refused by no kernel: the one constraint is that it is not 0.
        let _ = config.set_max_background(MAX_BACKGROUND);
        Ok(())
    }

    fn destroy(&mut self) {
        self.log.close();
    }

    fn lookup(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        self.requests.add(RequestKind::Lookup);
        let found = self.find(parent, name.as_bytes());
        match found.and_then(|found| found.map(|node| self.attributes(node)).transpose()) {
            Ok(Some(attributes)) => reply.entry(&TTL, &attributes, GENERATION),
            // Node 0 says that there is no such entry and that this may be remembered, which ENOENT does not.
            Ok(None) => reply.entry(&TTL, &FileAttr { ino: INodeNo(0), ..self.common.nothing() }, GENERATION),
            Err(failure) => reply.error(self.errno(RequestKind::Lookup, parent, failure)),
        }
    }

    fn forget(&self, _request: &Request, _id: INodeNo, _lookups: u64) {}

    fn getattr(&self, _request: &Request, id: INodeNo, _handle: Option<FileHandle>, reply: ReplyAttr) {
        self.requests.add(RequestKind::GetAttr);
        match self.node(id).and_then(|node| self.attributes(node)) {
            Ok(attributes) => reply.attr(&TTL, &attributes),
            Err(failure) => reply.error(self.errno(RequestKind::GetAttr, id, failure)),
        }
    }

    fn readlink(&self, _request: &Request, id: INodeNo, reply: ReplyData) {
        self.requests.add(RequestKind::ReadLink);
        let target = self.node(id).and_then(|node| self.inode(node)).and_then(|inode| match inode {
            Some(inode) => Ok(self.image.read_link(&inode)?),
            None => Err(Errno::EINVAL.into()),
        });
        match target {
            Ok(target) if target.len() > LINK_MAX => reply.error(Errno::ENAMETOOLONG),
            Ok(target) => reply.data(&target),
            Err(failure) => reply.error(self.errno(RequestKind::ReadLink, id, failure)),
        }
    }

    fn open(&self, _request: &Request, _id: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        self.requests.add(RequestKind::Open);
        let flags = FopenFlags::FOPEN_KEEP_CACHE | FopenFlags::FOPEN_NOFLUSH;
        self.open_with(InitFlags::FUSE_NO_OPEN_SUPPORT, flags, reply);
    }

    fn opendir(&self, _request: &Request, _id: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        self.requests.add(RequestKind::OpenDir);
        let flags = FopenFlags::FOPEN_KEEP_CACHE | FopenFlags::FOPEN_CACHE_DIR;
        self.open_with(InitFlags::FUSE_NO_OPENDIR_SUPPORT, flags, reply);
    }

    fn read(
        &self,
        _request: &Request,
        id: INodeNo,
        _handle: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        self.requests.add(RequestKind::Read);
        let mut reply = Some(reply);
        let sent = self.read_at(id, offset, size, |data| {
            if let Some(reply) = reply.take() {
                reply.data(data);
            }
        });
        if let (Err(failure), Some(reply)) = (sent, reply) {
            reply.error(self.errno(RequestKind::Read, id, failure));
        }
    }

    fn readdir(&self, _request: &Request, id: INodeNo, _handle: FileHandle, cookie: u64, mut reply: ReplyDirectory) {
        self.requests.add(RequestKind::ReadDir);
        let mut added = false;
        let listed = self.node(id).and_then(|directory| {
            self.list(directory, cookie, &mut |entry: Listed<'_>| {
                let target = match entry.target {
                    Target::Dot(id) => id,
                    Target::Node(node) => self.id(node),
                };
                let full = reply.add(INodeNo(target), entry.cookie, entry.kind, OsStr::from_bytes(entry.name));
                added |= !full;
                Ok(full)
            })
        });
        match listed {
            Err(failure) if !added => reply.error(self.errno(RequestKind::ReadDir, id, failure)),
            // What precedes the damage is shown; the kernel then asks for the rest and gets the error.
            _ => reply.ok(),
        }
    }

    fn readdirplus(
        &self,
        _request: &Request,
        id: INodeNo,
        _handle: FileHandle,
        cookie: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        self.requests.add(RequestKind::ReadDirPlus);
        let mut added = false;
        let listed = self.node(id).and_then(|directory| {
            self.list(directory, cookie, &mut |entry: Listed<'_>| {
                let attributes = match entry.target {
                    // Node ids of dots are for `d_ino` only: the kernel takes no reference to them.
                    Target::Dot(id) => FileAttr { ino: INodeNo(id), kind: entry.kind, ..self.common.nothing() },
                    Target::Node(node) => self.attributes(node)?,
                };
                let name = OsStr::from_bytes(entry.name);
                let full = reply.add(attributes.ino, entry.cookie, name, &TTL, &attributes, GENERATION);
                added |= !full;
                Ok(full)
            })
        });
        match listed {
            Err(failure) if !added => reply.error(self.errno(RequestKind::ReadDirPlus, id, failure)),
            _ => reply.ok(),
        }
    }

    fn statfs(&self, _request: &Request, _id: INodeNo, reply: ReplyStatfs) {
        self.requests.add(RequestKind::StatFs);
        let superblock = self.image.superblock();
        let blocks = superblock.bytes_used.get().div_ceil(u64::from(self.common.block_size));
        let files = u64::from(superblock.inodes.get());
        reply.statfs(blocks, 0, 0, files, 0, self.common.block_size, NAME_LEN as u32, self.common.block_size);
    }

    fn getxattr(&self, _request: &Request, id: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        self.requests.add(RequestKind::GetXattr);
        if !self.image.has_xattrs() {
            // The kernel remembers this and does not ask again.
            return reply.error(Errno::ENOSYS);
        }
        self.reply_xattr(RequestKind::GetXattr, id, self.xattr(id, name.as_bytes()), size, reply);
    }

    fn listxattr(&self, _request: &Request, id: INodeNo, size: u32, reply: ReplyXattr) {
        self.requests.add(RequestKind::ListXattr);
        if !self.image.has_xattrs() {
            return reply.error(Errno::ENOSYS);
        }
        self.reply_xattr(RequestKind::ListXattr, id, self.xattr_names(id), size, reply);
    }

    fn flush(&self, _request: &Request, _id: INodeNo, _handle: FileHandle, _owner: LockOwner, reply: ReplyEmpty) {
        self.requests.add(RequestKind::Flush);
        reply.error(Errno::ENOSYS);
    }

    /// Every `isatty` of a program comes here: the kernel has no way to be told that there are none.
    fn ioctl(
        &self,
        _request: &Request,
        _id: INodeNo,
        _handle: FileHandle,
        _flags: IoctlFlags,
        _command: u32,
        _input: &[u8],
        _output_size: u32,
        reply: ReplyIoctl,
    ) {
        self.requests.add(RequestKind::Ioctl);
        reply.error(Errno::ENOTTY);
    }
}
