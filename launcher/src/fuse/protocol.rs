//! The kernel's messages, as its `include/uapi/linux/fuse.h` has them: major version 7, minor 27 (Linux 4.18) and up.
//!
//! Fields keep the header's names and are in the machine's byte order. Constants are those in use here.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// `FUSE_KERNEL_VERSION`
pub(super) const MAJOR: u32 = 7;
/// Newest minor version whose messages are known here; the kernel adapts to it.
pub(super) const MINOR: u32 = 38;
/// Oldest minor version of a kernel that is served: the one that RHEL 8 has (Linux 4.18).
pub(super) const MINOR_MIN: u32 = 26;

/// `fuse_opcode`
pub(super) mod opcode {
    pub(crate) const LOOKUP: u32 = 1;
    pub(crate) const FORGET: u32 = 2;
    pub(crate) const GETATTR: u32 = 3;
    pub(crate) const READLINK: u32 = 5;
    pub(crate) const OPEN: u32 = 14;
    pub(crate) const READ: u32 = 15;
    pub(crate) const STATFS: u32 = 17;
    pub(crate) const RELEASE: u32 = 18;
    pub(crate) const GETXATTR: u32 = 22;
    pub(crate) const LISTXATTR: u32 = 23;
    pub(crate) const FLUSH: u32 = 25;
    pub(crate) const INIT: u32 = 26;
    pub(crate) const OPENDIR: u32 = 27;
    pub(crate) const READDIR: u32 = 28;
    pub(crate) const RELEASEDIR: u32 = 29;
    pub(crate) const INTERRUPT: u32 = 36;
    pub(crate) const DESTROY: u32 = 38;
    pub(crate) const IOCTL: u32 = 39;
    pub(crate) const BATCH_FORGET: u32 = 42;
    pub(crate) const READDIRPLUS: u32 = 44;
}

/// `fuse_notify_code`
pub(super) mod notify {
    pub(crate) const INVAL_INODE: i32 = 2;
    pub(crate) const INVAL_ENTRY: i32 = 3;
    pub(crate) const STORE: i32 = 4;
}

/// Flags of `fuse_init_in` and `fuse_init_out`.
pub(super) mod init {
    pub(crate) const ASYNC_READ: u32 = 1 << 0;
    pub(crate) const DO_READDIRPLUS: u32 = 1 << 13;
    pub(crate) const NO_OPEN_SUPPORT: u32 = 1 << 17;
    pub(crate) const PARALLEL_DIROPS: u32 = 1 << 18;
    pub(crate) const MAX_PAGES: u32 = 1 << 22;
    pub(crate) const CACHE_SYMLINKS: u32 = 1 << 23;
    pub(crate) const NO_OPENDIR_SUPPORT: u32 = 1 << 24;
}

/// Flags of `fuse_open_out`.
pub(super) mod open {
    pub(crate) const KEEP_CACHE: u32 = 1 << 1;
    pub(crate) const CACHE_DIR: u32 = 1 << 3;
    pub(crate) const NOFLUSH: u32 = 1 << 5;
}

/// What a message of the kernel starts with.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(super) struct InHeader {
    /// Bytes of the message, this header included.
    pub(super) len: u32,
    pub(super) opcode: u32,
    /// Names the request in its answer.
    pub(super) unique: u64,
    pub(super) nodeid: u64,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) pid: u32,
    /// Length of extensions, in units of 8 bytes.
    pub(super) total_extlen: u16,
    pub(super) padding: u16,
}

/// What an answer and a notification start with.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(super) struct OutHeader {
    /// Bytes of the message, this header included.
    pub(super) len: u32,
    /// 0 or a negative errno; a notification's code.
    pub(super) error: i32,
    /// The request's, or 0 for a notification.
    pub(super) unique: u64,
}

/// The kernel's offer, the first message of a mount.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(super) struct InitIn {
    pub(super) major: u32,
    pub(super) minor: u32,
    /// Bytes.
    pub(super) max_readahead: u32,
    pub(super) flags: u32,
    // Newer kernels add more flags, of which none is wanted.
}

/// What is accepted of the offer.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(super) struct InitOut {
    pub(super) major: u32,
    pub(super) minor: u32,
    pub(super) max_readahead: u32,
    pub(super) flags: u32,
    /// Requests that nobody waits for (readahead) which may be under way.
    pub(super) max_background: u16,
    /// How many of those make the file system count as busy.
    pub(super) congestion_threshold: u16,
    /// Bytes of one WRITE; the size of the read buffer must allow for it.
    pub(super) max_write: u32,
    /// Unit of times in nanoseconds.
    pub(super) time_gran: u32,
    /// Pages of one READ.
    pub(super) max_pages: u16,
    pub(super) map_alignment: u16,
    pub(super) flags2: u32,
    pub(super) unused: [u32; 7],
}

/// Attributes of a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(super) struct Attr {
    pub(super) ino: u64,
    pub(super) size: u64,
    /// Units of 512 bytes.
    pub(super) blocks: u64,
    pub(super) atime: u64,
    pub(super) mtime: u64,
    pub(super) ctime: u64,
    pub(super) atimensec: u32,
    pub(super) mtimensec: u32,
    pub(super) ctimensec: u32,
    /// Type and permissions.
    pub(super) mode: u32,
    pub(super) nlink: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// As `new_encode_dev` packs it, which is how SquashFS stores it.
    pub(super) rdev: u32,
    pub(super) blksize: u32,
    pub(super) flags: u32,
}

/// Answer to LOOKUP, and the front of an entry of READDIRPLUS.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(super) struct EntryOut {
    /// 0: there is none, and that may be remembered.
    pub(super) nodeid: u64,
    pub(super) generation: u64,
    /// Seconds for which the name may be kept.
    pub(super) entry_valid: u64,
    /// Seconds for which the attributes may be kept.
    pub(super) attr_valid: u64,
    pub(super) entry_valid_nsec: u32,
    pub(super) attr_valid_nsec: u32,
    pub(super) attr: Attr,
}

/// Answer to GETATTR.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(super) struct AttrOut {
    /// Seconds for which the attributes may be kept.
    pub(super) attr_valid: u64,
    pub(super) attr_valid_nsec: u32,
    pub(super) dummy: u32,
    pub(super) attr: Attr,
}

/// Answer to OPEN and OPENDIR.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(super) struct OpenOut {
    pub(super) fh: u64,
    pub(super) open_flags: u32,
    pub(super) padding: u32,
}

/// READ, READDIR and READDIRPLUS.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(super) struct ReadIn {
    pub(super) fh: u64,
    /// Byte of the file, or the cookie where a listing goes on.
    pub(super) offset: u64,
    /// Bytes that the answer may have.
    pub(super) size: u32,
    pub(super) read_flags: u32,
    pub(super) lock_owner: u64,
    pub(super) flags: u32,
    pub(super) padding: u32,
}

/// An entry of a listing; its name follows, filled up to a multiple of 8 bytes.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(super) struct Dirent {
    pub(super) ino: u64,
    /// Cookie where the listing goes on after it.
    pub(super) off: u64,
    pub(super) namelen: u32,
    /// `S_IFMT` bits, shifted down by 12.
    pub(super) r#type: u32,
}

/// GETXATTR and LISTXATTR.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(super) struct GetXattrIn {
    /// Bytes that the answer may have; 0 asks how many it has.
    pub(super) size: u32,
    pub(super) padding: u32,
}

/// Answer to those with size 0.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(super) struct GetXattrOut {
    pub(super) size: u32,
    pub(super) padding: u32,
}

/// Answer to STATFS.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(super) struct KStatFs {
    pub(super) blocks: u64,
    pub(super) bfree: u64,
    pub(super) bavail: u64,
    pub(super) files: u64,
    pub(super) ffree: u64,
    pub(super) bsize: u32,
    pub(super) namelen: u32,
    pub(super) frsize: u32,
    pub(super) padding: u32,
    pub(super) spare: [u32; 6],
}

/// Puts data into the page cache. The data follows.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(super) struct NotifyStoreOut {
    pub(super) nodeid: u64,
    pub(super) offset: u64,
    pub(super) size: u32,
    pub(super) padding: u32,
}

/// Has the kernel forget what it knows of a node.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(super) struct NotifyInvalInodeOut {
    pub(super) ino: u64,
    /// First byte of data to forget; below 0 none is.
    pub(super) off: i64,
    /// Bytes of data to forget; 0 is all.
    pub(super) len: i64,
}

/// Has the kernel forget a name. The name and a NUL byte follow.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(super) struct NotifyInvalEntryOut {
    pub(super) parent: u64,
    /// Without the NUL byte.
    pub(super) namelen: u32,
    pub(super) flags: u32,
}

const _: () = {
    assert!(size_of::<InHeader>() == 40 && size_of::<OutHeader>() == 16);
    assert!(size_of::<InitIn>() == 16 && size_of::<InitOut>() == 64);
    assert!(size_of::<Attr>() == 88 && size_of::<EntryOut>() == 128 && size_of::<AttrOut>() == 104);
    assert!(size_of::<OpenOut>() == 16 && size_of::<ReadIn>() == 40 && size_of::<Dirent>() == 24);
    assert!(size_of::<GetXattrIn>() == 8 && size_of::<GetXattrOut>() == 8 && size_of::<KStatFs>() == 80);
    assert!(size_of::<NotifyStoreOut>() == 24 && size_of::<NotifyInvalInodeOut>() == 24);
    assert!(size_of::<NotifyInvalEntryOut>() == 16);
};

/// One message of the kernel.
#[derive(Clone, Copy, Debug)]
pub(super) struct Request<'a> {
    pub(super) header: InHeader,
    body: &'a [u8],
}

/// Why bytes from the kernel are no request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Malformed {
    /// There is no whole header: nothing can be answered.
    Header,
    /// The length is not what the header says; the request of this number gets EINVAL.
    Length(u64),
}

impl<'a> Request<'a> {
    /// Splits one message. The kernel sends a message whole, so anything else is none.
    pub(super) fn parse(message: &'a [u8]) -> Result<Self, Malformed> {
        let (header, body) = InHeader::read_from_prefix(message).map_err(|_| Malformed::Header)?;
        if header.len as usize != message.len() {
            return Err(Malformed::Length(header.unique));
        }
        Ok(Self { header, body })
    }

    /// The structure that the body starts with.
    pub(super) fn argument<T: FromBytes>(&self) -> Option<T> {
        T::read_from_prefix(self.body).ok().map(|(argument, _)| argument)
    }

    /// The name that follows a structure of `skip` bytes: up to its NUL byte, which must be there.
    pub(super) fn name(&self, skip: usize) -> Option<&'a [u8]> {
        let rest = self.body.get(skip..)?;
        let end = rest.iter().position(|byte| *byte == 0)?;
        rest.get(..end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(len: u32, body: &[u8]) -> Vec<u8> {
        let header =
            InHeader { len, opcode: 1, unique: 9, nodeid: 1, uid: 0, gid: 0, pid: 0, total_extlen: 0, padding: 0 };
        [header.as_bytes(), body].concat()
    }

    #[test]
    fn a_message_is_taken_apart() {
        let bytes = message(44, b"abc\0");
        let request = Request::parse(&bytes).unwrap();
        assert_eq!(request.name(0), Some(b"abc".as_slice()));
        assert_eq!(request.name(2), Some(b"c".as_slice()));
        assert!(request.name(5).is_none());
        assert!(request.argument::<ReadIn>().is_none());
        assert_eq!(request.argument::<u32>(), Some(u32::from_ne_bytes(*b"abc\0")));
    }

    #[test]
    fn what_is_no_message_is_refused() {
        assert_eq!(Request::parse(&[0; 39]).unwrap_err(), Malformed::Header);
        assert_eq!(Request::parse(&message(43, b"abc\0")).unwrap_err(), Malformed::Length(9));
        assert_eq!(Request::parse(&message(45, b"abc\0")).unwrap_err(), Malformed::Length(9));
        let unended = message(43, b"abc");
        assert!(Request::parse(&unended).unwrap().name(0).is_none());
    }
}
