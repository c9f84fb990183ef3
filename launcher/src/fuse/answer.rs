//! The answers to the kernel's requests, but for READ and the listings.

use std::io;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use coracle_squashfs::format::NAME_LEN;
use coracle_squashfs::reader::{Block, Inode};
use rustix::io::Errno;

use super::control::Control;
use super::device::Device;
use super::protocol::{
    AttrOut, EntryOut, GetXattrIn, GetXattrOut, InHeader, KStatFs, OpenOut, Request, init, opcode, open,
};
use super::push::Job;
use super::stats::RequestKind;
use super::tree::Failure;

/// How long the kernel may keep what it is told, in seconds: for ever, in effect. Some kernels lose larger numbers to
/// overflow.
const FOREVER: u64 = u32::MAX as u64;
/// The kernel has one page for a link's target, which it ends with a NUL byte.
const LINK_MAX: usize = 4095;

/// A request that was answered, or needs no answer.
pub(super) type Answered = Result<(), Failure>;

/// Lets another thread take the next request before this one starts to unpack.
pub(super) trait Lead {
    /// Called before work that takes long.
    fn before_work(&mut self);
}

/// Answers requests, one at a time, with buffers that are used again.
pub(super) struct Worker<'a> {
    pub(super) control: &'a Control,
    pub(super) device: &'a Device,
    /// Of a listing.
    pub(super) listing: Vec<u8>,
    /// Regular files of a listing, which the kernel knows once it has the answer.
    pub(super) listed: Vec<(u64, Inode)>,
    /// Of a READ.
    pub(super) blocks: Vec<Option<Block>>,
}

impl<'a> Worker<'a> {
    pub(super) const fn new(control: &'a Control, device: &'a Device) -> Self {
        Self { control, device, listing: Vec::new(), listed: Vec::new(), blocks: Vec::new() }
    }

    /// Answers one request.
    pub(super) fn answer(&mut self, request: &Request<'_>, start: Instant, lead: &mut dyn Lead) {
        let (kind, answered) = self.dispatch(request, lead);
        if let Err(failure) = answered {
            let errno = match failure {
                Failure::Errno(errno) => errno,
                Failure::Image(error) => {
                    self.control.tree.log.failure(kind, request.header.nodeid, &error);
                    Errno::IO
                }
            };
            self.sent(self.device.reply_error(request.header.unique, errno));
        }
        self.control.counters.answered(kind, start.elapsed());
    }

    fn dispatch(&mut self, request: &Request<'_>, lead: &mut dyn Lead) -> (RequestKind, Answered) {
        let header = &request.header;
        match header.opcode {
            opcode::LOOKUP => (RequestKind::Lookup, self.lookup(request)),
            opcode::GETATTR => (RequestKind::GetAttr, self.getattr(header)),
            opcode::READLINK => (RequestKind::ReadLink, self.readlink(header)),
            opcode::READ => (RequestKind::Read, self.read(request, lead)),
            opcode::READDIR => (RequestKind::ReadDir, self.readdir(request, false)),
            opcode::READDIRPLUS => (RequestKind::ReadDirPlus, self.readdir(request, true)),
            // ENOSYS: the kernel then opens all by itself, with the flags that the answers have here.
            opcode::OPEN => {
                let flags = open::KEEP_CACHE | open::NOFLUSH;
                (RequestKind::Open, self.open(header, init::NO_OPEN_SUPPORT, flags))
            }
            opcode::OPENDIR => {
                let flags = open::KEEP_CACHE | open::CACHE_DIR;
                (RequestKind::OpenDir, self.open(header, init::NO_OPENDIR_SUPPORT, flags))
            }
            opcode::RELEASE | opcode::RELEASEDIR | opcode::DESTROY => (RequestKind::Other, self.done(header)),
            opcode::FLUSH => (RequestKind::Flush, Err(Errno::NOSYS.into())),
            opcode::STATFS => (RequestKind::StatFs, self.statfs(header)),
            opcode::GETXATTR => (RequestKind::GetXattr, self.getxattr(request)),
            opcode::LISTXATTR => (RequestKind::ListXattr, self.listxattr(request)),
            // Every isatty(3) of a program comes here: the kernel has no way to be told that there are none.
            opcode::IOCTL => (RequestKind::Ioctl, Err(Errno::NOTTY.into())),
            // These have no answer.
            opcode::FORGET | opcode::BATCH_FORGET => (RequestKind::Forget, Ok(())),
            // ENOSYS says to send no more of these: what is under way is answered soon in any case.
            opcode::INTERRUPT => (RequestKind::Other, Err(Errno::NOSYS.into())),
            _ => (RequestKind::Other, Err(Errno::NOSYS.into())),
        }
    }

    /// What became of an answer. An error means that nobody waits for it any more (ENOENT: interrupted before it was
    /// read; ENODEV: unmounted), or that the kernel refuses its form, which is a mistake here.
    pub(super) fn sent(&self, result: io::Result<()>) {
        match result {
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                self.control.tree.log.oddity("the kernel refused the form of an answer");
            }
            _ => {}
        }
    }

    pub(super) fn valid(&self) -> u64 {
        if self.control.switches.ttl { FOREVER } else { 0 }
    }

    fn done(&self, header: &InHeader) -> Answered {
        self.sent(self.device.reply(header.unique, &[]));
        Ok(())
    }

    fn lookup(&mut self, request: &Request<'_>) -> Answered {
        let name = request.name(0).ok_or(Errno::INVAL)?;
        let tree = &self.control.tree;
        // Node 0 says that there is no such entry and that this may be remembered, which ENOENT does not.
        let mut entry = EntryOut { entry_valid: self.valid(), attr_valid: self.valid(), ..EntryOut::default() };
        let mut inode = None;
        if let Some(node) = tree.find(request.header.nodeid, name)? {
            entry.nodeid = tree.id(node);
            (entry.attr, inode) = tree.attributes(node)?;
        }
        self.sent(self.device.reply_with(request.header.unique, &entry));
        if let Some(inode) = inode {
            self.known(entry.nodeid, &inode);
        }
        Ok(())
    }

    fn getattr(&self, header: &InHeader) -> Answered {
        let tree = &self.control.tree;
        let (attr, _) = tree.attributes(tree.node(header.nodeid)?)?;
        let answer = AttrOut { attr_valid: self.valid(), attr_valid_nsec: 0, dummy: 0, attr };
        self.sent(self.device.reply_with(header.unique, &answer));
        Ok(())
    }

    fn readlink(&self, header: &InHeader) -> Answered {
        let target = self.control.tree.link(header.nodeid)?;
        if target.len() > LINK_MAX {
            return Err(Errno::NAMETOOLONG.into());
        }
        self.sent(self.device.reply(header.unique, &[&target]));
        Ok(())
    }

    fn open(&self, header: &InHeader, feature: u32, open_flags: u32) -> Answered {
        if self.control.uses(feature) {
            return Err(Errno::NOSYS.into());
        }
        self.sent(self.device.reply_with(header.unique, &OpenOut { fh: 0, open_flags, padding: 0 }));
        Ok(())
    }

    fn statfs(&self, header: &InHeader) -> Answered {
        let tree = &self.control.tree;
        let (superblock, block_size) = (tree.image.superblock(), tree.common.block_size);
        let answer = KStatFs {
            blocks: superblock.bytes_used.get().div_ceil(block_size.into()),
            files: superblock.inodes.get().into(),
            bsize: block_size,
            namelen: NAME_LEN as u32,
            frsize: block_size,
            ..KStatFs::default()
        };
        self.sent(self.device.reply_with(header.unique, &answer));
        Ok(())
    }

    fn getxattr(&self, request: &Request<'_>) -> Answered {
        let tree = &self.control.tree;
        if !tree.image.has_xattrs() {
            // The kernel remembers this and does not ask again.
            return Err(Errno::NOSYS.into());
        }
        let name = request.name(size_of::<GetXattrIn>()).ok_or(Errno::INVAL)?;
        self.reply_xattr(request, &tree.xattr(request.header.nodeid, name)?)
    }

    fn listxattr(&self, request: &Request<'_>) -> Answered {
        let tree = &self.control.tree;
        if !tree.image.has_xattrs() {
            return Err(Errno::NOSYS.into());
        }
        self.reply_xattr(request, &tree.xattr_names(request.header.nodeid)?)
    }

    /// Answers as `getxattr(2)` does: the size alone if no room is offered, ERANGE if too little is.
    fn reply_xattr(&self, request: &Request<'_>, value: &[u8]) -> Answered {
        let GetXattrIn { size: room, .. } = request.argument().ok_or(Errno::INVAL)?;
        let unique = request.header.unique;
        match room as usize {
            0 => {
                let size = u32::try_from(value.len()).unwrap_or(u32::MAX);
                self.sent(self.device.reply_with(unique, &GetXattrOut { size, padding: 0 }));
            }
            room if room < value.len() => return Err(Errno::RANGE.into()),
            _ => self.sent(self.device.reply(unique, &[value])),
        }
        Ok(())
    }

    /// Takes note of a node that the kernel has just been told of.
    pub(super) fn known(&self, id: u64, inode: &Inode) {
        let switches = &self.control.switches;
        for index in self.control.waiting.known(inode.reference) {
            self.push(Job::Ahead { inode: inode.reference, index });
        }
        if switches.push_fragments || switches.readahead {
            self.control.known.add(id, inode, self.control.tree.common.block_size);
        }
    }

    pub(super) fn push(&self, job: Job) {
        if !self.control.queue.put(job, self.control.tree.common.block_size) {
            self.control.counters.dropped();
        }
    }

    pub(super) fn count_read(&self, bytes: u64) {
        self.control.counters.read_bytes.fetch_add(bytes, Relaxed);
    }
}
