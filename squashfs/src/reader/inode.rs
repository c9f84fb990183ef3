//! Inodes of all types.

use super::Image;
use super::error::{Error, Problem, Table, corrupt};
use super::metadata::Cursor;
use super::source::ReadAt;
use crate::format::{
    self, BaseInode, DevInode, DirInode, INVALID_FRAGMENT, INVALID_XATTR, InodeRef, IpcInode, LDirInode, LRegInode,
    METADATA_SIZE, RegInode, SYMLINK_MAX, SymlinkInode, inode_type,
};
use zerocopy::little_endian::U32;

/// What an inode is, without its contents.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FileType {
    /// Directory.
    Directory,
    /// Regular file.
    File,
    /// Symbolic link.
    Symlink,
    /// Block device.
    BlockDevice,
    /// Character device.
    CharDevice,
    /// Named pipe.
    Fifo,
    /// Socket.
    Socket,
}

impl FileType {
    /// From a directory entry's `type`.
    pub(super) const fn from_basic(kind: u16) -> Option<Self> {
        Some(match kind {
            inode_type::DIR => Self::Directory,
            inode_type::REG => Self::File,
            inode_type::SYMLINK => Self::Symlink,
            inode_type::BLKDEV => Self::BlockDevice,
            inode_type::CHRDEV => Self::CharDevice,
            inode_type::FIFO => Self::Fifo,
            inode_type::SOCKET => Self::Socket,
            _ => return None,
        })
    }

    /// The letter that `ls -l` shows.
    pub const fn letter(self) -> char {
        match self {
            Self::Directory => 'd',
            Self::File => '-',
            Self::Symlink => 'l',
            Self::BlockDevice => 'b',
            Self::CharDevice => 'c',
            Self::Fifo => 'p',
            Self::Socket => 's',
        }
    }

    /// The `S_IFMT` bits of `st_mode`.
    pub const fn mode_bits(self) -> u32 {
        match self {
            Self::Directory => 0o040_000,
            Self::File => 0o100_000,
            Self::Symlink => 0o120_000,
            Self::BlockDevice => 0o060_000,
            Self::CharDevice => 0o020_000,
            Self::Fifo => 0o010_000,
            Self::Socket => 0o140_000,
        }
    }
}

/// An inode.
#[derive(Clone, Debug)]
pub struct Inode {
    /// Where it lies.
    pub reference: InodeRef,
    /// From 1 to the superblock's `inodes`.
    pub number: u32,
    /// Its type, and what only this type has.
    pub kind: Kind,
    /// Permission bits (07777).
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Last modification, seconds since 1970.
    pub mtime: u32,
    /// Link count.
    pub nlink: u32,
    pub(super) xattr: u32,
}

/// What only one type of inode has.
#[derive(Clone, Debug)]
pub enum Kind {
    /// Directory.
    Directory {
        /// Inode number of the parent.
        parent: u32,
        /// Where its listing is.
        listing: Listing,
    },
    /// Regular file.
    File {
        /// Bytes.
        size: u64,
        /// Bytes in holes.
        sparse: u64,
        /// Where its data is.
        data: FileData,
    },
    /// Symbolic link.
    Symlink {
        /// Bytes in the target, at most 65536.
        size: u32,
        /// Where the target is.
        target: LinkTarget,
    },
    /// Block device.
    BlockDevice {
        /// Device number; see [`major`] and [`minor`].
        rdev: u32,
    },
    /// Character device.
    CharDevice {
        /// Device number; see [`major`] and [`minor`].
        rdev: u32,
    },
    /// Named pipe.
    Fifo,
    /// Socket.
    Socket,
}

/// Where a directory's listing is.
#[derive(Clone, Copy, Debug)]
pub struct Listing {
    /// Metadata block, from the directory table's start.
    pub(super) block: u32,
    pub(super) offset: u16,
    pub(super) size: u32,
    /// Number of index entries and where they start.
    pub(super) index_count: u16,
    pub(super) index: (u64, u16),
}

/// Where a file's data is.
#[derive(Clone, Copy, Debug)]
pub struct FileData {
    pub(super) start: u64,
    pub(super) fragment: u32,
    pub(super) fragment_offset: u32,
    /// Where the block list starts.
    pub(super) list: (u64, u16),
}

/// Where a symbolic link's target is.
#[derive(Clone, Copy, Debug)]
pub struct LinkTarget {
    pub(super) at: (u64, u16),
}

/// Major number of a device number as inodes hold it.
pub const fn major(rdev: u32) -> u32 {
    (rdev >> 8) & 0xfff
}

/// Minor number of a device number as inodes hold it.
pub const fn minor(rdev: u32) -> u32 {
    (rdev & 0xff) | ((rdev >> 12) & 0xf_ff00)
}

impl Inode {
    /// `st_size`: bytes of a file, of a link's target or of a directory's listing, else 0.
    pub const fn size(&self) -> u64 {
        match &self.kind {
            Kind::File { size, .. } => *size,
            Kind::Symlink { size, .. } => *size as u64,
            Kind::Directory { listing, .. } => listing.size as u64,
            _ => 0,
        }
    }

    /// `st_blocks`: units of 512 bytes that a file takes, holes left out; 0 for other types.
    pub const fn blocks_512(&self) -> u64 {
        match &self.kind {
            Kind::File { size, sparse, .. } => size.saturating_sub(*sparse).div_ceil(512),
            _ => 0,
        }
    }

    /// Its type.
    pub const fn file_type(&self) -> FileType {
        match &self.kind {
            Kind::Directory { .. } => FileType::Directory,
            Kind::File { .. } => FileType::File,
            Kind::Symlink { .. } => FileType::Symlink,
            Kind::BlockDevice { .. } => FileType::BlockDevice,
            Kind::CharDevice { .. } => FileType::CharDevice,
            Kind::Fifo => FileType::Fifo,
            Kind::Socket => FileType::Socket,
        }
    }

    /// Whether it has extended attributes.
    pub const fn has_xattrs(&self) -> bool {
        self.xattr != INVALID_XATTR
    }

    /// Where the image has the file's first data block, in bytes from its start; `None` when all data is in the tail.
    pub const fn data_start(&self, block_size: u32) -> Option<u64> {
        match &self.kind {
            Kind::File { size, data, .. } if data.fragment == INVALID_FRAGMENT && *size > 0 => Some(data.start),
            Kind::File { size, data, .. } if *size >= block_size as u64 => Some(data.start),
            _ => None,
        }
    }

    /// Index of the fragment block that holds the file's tail and the tail's offset in it; `None` without a tail.
    pub const fn fragment(&self) -> Option<(u32, u32)> {
        match &self.kind {
            Kind::File { data, .. } if data.fragment != INVALID_FRAGMENT => Some((data.fragment, data.fragment_offset)),
            _ => None,
        }
    }
}

/// What each type's own part gives.
struct Parts {
    kind: Kind,
    nlink: u32,
    xattr: u32,
}

impl<S: ReadAt> Image<S> {
    /// Reads an inode.
    ///
    /// # Errors
    /// When the reference is outside of the inode table, or the inode is not valid.
    pub fn inode(&self, at: InodeRef) -> Result<Inode, Error> {
        let mut cursor = self.inode_cursor(at)?;
        let base: BaseInode = cursor.read()?;
        let (number, inodes) = (base.inode_number.get(), self.geometry.superblock.inodes.get());
        if number == 0 || number > inodes {
            return Err(cursor.corrupt(Problem::InodeNumber { number, inodes }));
        }
        let parts = match base.inode_type.get() {
            inode_type::DIR => read_directory(&mut cursor)?,
            inode_type::LDIR => read_long_directory(&mut cursor)?,
            inode_type::REG => self.read_file(&mut cursor, number)?,
            inode_type::LREG => self.read_long_file(&mut cursor, number)?,
            inode_type::SYMLINK => read_symlink(&mut cursor, number, false)?,
            inode_type::LSYMLINK => read_symlink(&mut cursor, number, true)?,
            kind @ (inode_type::BLKDEV | inode_type::CHRDEV | inode_type::LBLKDEV | inode_type::LCHRDEV) => {
                read_device(&mut cursor, kind)?
            }
            kind @ (inode_type::FIFO | inode_type::SOCKET | inode_type::LFIFO | inode_type::LSOCKET) => {
                read_ipc(&mut cursor, kind)?
            }
            kind => return Err(cursor.corrupt(Problem::InodeType { at, kind })),
        };
        Ok(Inode {
            reference: at,
            number,
            kind: parts.kind,
            mode: base.mode.get() & 0o7777,
            uid: self.id(base.uid.get())?,
            gid: self.id(base.guid.get())?,
            mtime: base.mtime.get(),
            nlink: parts.nlink,
            xattr: parts.xattr,
        })
    }

    /// Finds an inode through the export table.
    ///
    /// # Errors
    /// [`Error::NoExportTable`], [`Error::NoSuchInode`], and those of [`inode`](Self::inode).
    pub fn inode_by_number(&self, number: u32) -> Result<Inode, Error> {
        let inode = self.inode(self.inode_ref(number)?)?;
        if inode.number != number {
            let problem = Problem::InodeNumber { number: inode.number, inodes: self.geometry.superblock.inodes.get() };
            return Err(corrupt(Table::Inodes, self.geometry.inodes.start + inode.reference.block(), problem));
        }
        Ok(inode)
    }

    /// The target of a symbolic link.
    ///
    /// # Errors
    /// [`Error::WrongType`] for another type; when the image is damaged.
    pub fn read_link(&self, link: &Inode) -> Result<Vec<u8>, Error> {
        let Kind::Symlink { size, target } = &link.kind else {
            return Err(Error::WrongType { number: link.number, wanted: "symbolic link" });
        };
        let mut cursor = self.inode_table_cursor(target.at)?;
        let target = cursor.bytes((*size as usize).min(SYMLINK_MAX))?;
        if target.contains(&0) {
            return Err(cursor.corrupt(Problem::LinkTarget { number: link.number, len: target.len() as u64 }));
        }
        Ok(target)
    }

    fn inode_cursor(&self, at: InodeRef) -> Result<Cursor<'_, S>, Error> {
        let offset = usize::from(at.offset());
        if offset >= METADATA_SIZE {
            let problem = Problem::OffsetInBlock { offset: offset as u64, len: METADATA_SIZE as u64 };
            return Err(corrupt(Table::Inodes, self.geometry.inodes.start.saturating_add(at.block()), problem));
        }
        Cursor::relative(self, Table::Inodes, &self.geometry.inodes, at.block(), offset)
    }

    /// A cursor at a place that an inode's own cursor told.
    pub(super) fn inode_table_cursor(&self, (at, offset): (u64, u16)) -> Result<Cursor<'_, S>, Error> {
        Cursor::new(self, Table::Inodes, &self.geometry.inodes, at, offset.into())
    }

    fn read_file(&self, cursor: &mut Cursor<'_, S>, number: u32) -> Result<Parts, Error> {
        let raw: RegInode = cursor.read()?;
        let data = FileData {
            start: raw.start_block.get().into(),
            fragment: raw.fragment.get(),
            fragment_offset: raw.offset.get(),
            list: place(cursor),
        };
        let kind = self.file(cursor, number, raw.file_size.get().into(), 0, data)?;
        Ok(Parts { kind, nlink: 1, xattr: INVALID_XATTR })
    }

    fn read_long_file(&self, cursor: &mut Cursor<'_, S>, number: u32) -> Result<Parts, Error> {
        let raw: LRegInode = cursor.read()?;
        let data = FileData {
            start: raw.start_block.get(),
            fragment: raw.fragment.get(),
            fragment_offset: raw.offset.get(),
            list: place(cursor),
        };
        let kind = self.file(cursor, number, raw.file_size.get(), raw.sparse.get(), data)?;
        Ok(Parts { kind, nlink: raw.nlink.get(), xattr: raw.xattr.get() })
    }

    fn file(&self, cursor: &Cursor<'_, S>, number: u32, size: u64, sparse: u64, data: FileData) -> Result<Kind, Error> {
        if i64::try_from(size).is_err() {
            return Err(cursor.corrupt(Problem::FileSize { number, size }));
        }
        if data.fragment != INVALID_FRAGMENT {
            let (index, count) = (data.fragment.into(), self.geometry.superblock.fragments.get().into());
            if index >= count {
                return Err(corrupt(Table::Fragments, cursor.position().0, Problem::Index { index, count }));
            }
            let (offset, len) = (u64::from(data.fragment_offset), u64::from(self.geometry.block_size));
            let end = offset + size % len;
            if end > len {
                return Err(cursor.corrupt(Problem::Tail { number, offset, end, len }));
            }
        }
        Ok(Kind::File { size, sparse, data })
    }
}

/// Where a cursor is, in the form that inodes keep.
fn place<S: ReadAt>(cursor: &Cursor<'_, S>) -> (u64, u16) {
    let (at, offset) = cursor.position();
    // At most 8192.
    (at, offset as u16)
}

fn read_directory<S: ReadAt>(cursor: &mut Cursor<'_, S>) -> Result<Parts, Error> {
    let raw: DirInode = cursor.read()?;
    let listing = Listing {
        block: raw.start_block.get(),
        offset: raw.offset.get(),
        size: listing_size(raw.file_size.get().into()),
        index_count: 0,
        index: place(cursor),
    };
    let kind = Kind::Directory { parent: raw.parent_inode.get(), listing };
    Ok(Parts { kind, nlink: raw.nlink.get(), xattr: INVALID_XATTR })
}

fn read_long_directory<S: ReadAt>(cursor: &mut Cursor<'_, S>) -> Result<Parts, Error> {
    let raw: LDirInode = cursor.read()?;
    let listing = Listing {
        block: raw.start_block.get(),
        offset: raw.offset.get(),
        size: listing_size(raw.file_size.get()),
        index_count: raw.i_count.get(),
        index: place(cursor),
    };
    let kind = Kind::Directory { parent: raw.parent_inode.get(), listing };
    Ok(Parts { kind, nlink: raw.nlink.get(), xattr: raw.xattr.get() })
}

/// The stored size counts 3 bytes for `.` and `..`, which are not stored.
const fn listing_size(stored: u32) -> u32 {
    stored.saturating_sub(3)
}

fn read_symlink<S: ReadAt>(cursor: &mut Cursor<'_, S>, number: u32, long: bool) -> Result<Parts, Error> {
    let raw: SymlinkInode = cursor.read()?;
    let size = raw.symlink_size.get();
    if size == 0 || size as usize > SYMLINK_MAX {
        return Err(cursor.corrupt(Problem::LinkTarget { number, len: size.into() }));
    }
    let target = LinkTarget { at: place(cursor) };
    let mut xattr = INVALID_XATTR;
    if long {
        cursor.skip(size.into())?;
        xattr = cursor.read::<U32>()?.get();
    }
    Ok(Parts { kind: Kind::Symlink { size, target }, nlink: raw.nlink.get(), xattr })
}

fn read_device<S: ReadAt>(cursor: &mut Cursor<'_, S>, kind: u16) -> Result<Parts, Error> {
    let raw: DevInode = cursor.read()?;
    let xattr = trailing_xattr(cursor, kind)?;
    let rdev = raw.rdev.get();
    let kind = match kind {
        inode_type::BLKDEV | inode_type::LBLKDEV => Kind::BlockDevice { rdev },
        _ => Kind::CharDevice { rdev },
    };
    Ok(Parts { kind, nlink: raw.nlink.get(), xattr })
}

fn read_ipc<S: ReadAt>(cursor: &mut Cursor<'_, S>, kind: u16) -> Result<Parts, Error> {
    let raw: IpcInode = cursor.read()?;
    let xattr = trailing_xattr(cursor, kind)?;
    let kind = match kind {
        inode_type::FIFO | inode_type::LFIFO => Kind::Fifo,
        _ => Kind::Socket,
    };
    Ok(Parts { kind, nlink: raw.nlink.get(), xattr })
}

fn trailing_xattr<S: ReadAt>(cursor: &mut Cursor<'_, S>, kind: u16) -> Result<u32, Error> {
    if kind >= format::inode_type::LDIR { Ok(cursor.read::<U32>()?.get()) } else { Ok(INVALID_XATTR) }
}
