//! Directory listings: streaming, resumable, and lookup through the directory index.

use super::Image;
use super::error::{Error, Problem, Table};
use super::inode::{FileType, Inode, Kind, Listing};
use super::metadata::Cursor;
use super::source::ReadAt;
use crate::format::{self, DIR_COUNT_MAX, DirHeader, DirIndex, InodeRef, METADATA_SIZE, NAME_LEN};
use std::cmp::Ordering;

/// One name in a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirEntry {
    /// Its name: 1 to 256 bytes, without slash and NUL, neither `.` nor `..`.
    pub name: Vec<u8>,
    /// Where its inode lies.
    pub inode: InodeRef,
    /// Its inode number.
    pub number: u32,
    /// Its type.
    pub file_type: FileType,
    /// Position of the entry behind this one, for [`Image::read_dir_from`].
    pub next_position: u32,
}

/// An entry without its name, which is in the listing's buffer.
#[derive(Clone, Copy)]
struct Entry {
    inode: InodeRef,
    number: u32,
    file_type: FileType,
}

/// A directory's entries in the order of their names' bytes.
///
/// After an error it ends.
pub struct Directory<'a, S> {
    /// `None` when nothing is left.
    cursor: Option<Cursor<'a, S>>,
    number: u32,
    /// Bytes of the listing read so far, and in all.
    position: u32,
    size: u32,
    header: DirHeader,
    /// Entries left under `header`.
    left: u32,
    /// The current name and the one before it, which change places with each entry.
    names: [Name; 2],
    current: usize,
}

struct Name {
    bytes: [u8; NAME_LEN],
    len: usize,
}

impl Name {
    const EMPTY: Self = Self { bytes: [0; NAME_LEN], len: 0 };

    fn get(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    /// Reads a name of `size` + 1 bytes.
    fn read<S: ReadAt>(&mut self, cursor: &mut Cursor<'_, S>, size: u32) -> Result<(), Error> {
        let len = u64::from(size) + 1;
        let buf = usize::try_from(len).ok().and_then(|len| self.bytes.get_mut(..len));
        let Some(buf) = buf else { return Err(cursor.corrupt(Problem::NameLength(len))) };
        cursor.fill(buf)?;
        self.len = len as usize;
        Ok(())
    }
}

/// A place in a listing where a header starts.
#[derive(Clone, Copy)]
struct Start {
    /// Metadata block, from the directory table's start, and offset in it.
    block: u32,
    offset: u16,
    /// Byte of the listing.
    position: u32,
}

impl<S: ReadAt> Image<S> {
    /// Lists a directory.
    ///
    /// # Errors
    /// [`Error::WrongType`] for another type; when the image is damaged.
    pub fn read_dir(&self, dir: &Inode) -> Result<Directory<'_, S>, Error> {
        let listing = listing(dir)?;
        self.listing_at(dir.number, listing, listing.start())
    }

    /// Lists a directory from a [`DirEntry::next_position`] on; 0 is its first entry.
    ///
    /// # Errors
    /// [`Error::Position`] when no entry starts there, and those of [`read_dir`](Self::read_dir).
    pub fn read_dir_from(&self, dir: &Inode, position: u32) -> Result<Directory<'_, S>, Error> {
        let listing = listing(dir)?;
        if position > listing.size {
            return Err(Error::Position { number: dir.number, position });
        }
        let start = self.find_start(dir.number, listing, |at, _| at <= position)?;
        let mut directory = self.listing_at(dir.number, listing, start)?;
        while directory.position < position {
            if directory.next_entry()?.is_none() {
                break;
            }
        }
        if directory.position != position {
            return Err(Error::Position { number: dir.number, position });
        }
        Ok(directory)
    }

    /// Finds a name in a directory.
    ///
    /// # Errors
    /// [`Error::WrongType`] for another type; when the image is damaged.
    pub fn lookup(&self, dir: &Inode, name: &[u8]) -> Result<Option<DirEntry>, Error> {
        let listing = listing(dir)?;
        if name.is_empty() || name.len() > NAME_LEN {
            return Ok(None);
        }
        let start = self.find_start(dir.number, listing, |_, first| first <= name)?;
        let mut directory = self.listing_at(dir.number, listing, start)?;
        while let Some(entry) = directory.next_entry()? {
            match directory.name().cmp(name) {
                Ordering::Less => {}
                Ordering::Equal => return Ok(Some(directory.owned(entry))),
                Ordering::Greater => break,
            }
        }
        Ok(None)
    }

    /// Finds an inode by an absolute path in the image. Symbolic links are not followed, `..` is not resolved: a path
    /// that needs either leads to nothing.
    ///
    /// # Errors
    /// When the image is damaged.
    pub fn resolve(&self, path: &[u8]) -> Result<Option<Inode>, Error> {
        let mut inode = self.inode(self.root())?;
        for name in path.split(|byte| *byte == b'/').filter(|name| !name.is_empty() && *name != b".") {
            if inode.file_type() != FileType::Directory {
                return Ok(None);
            }
            match self.lookup(&inode, name)? {
                Some(entry) => inode = self.inode(entry.inode)?,
                None => return Ok(None),
            }
        }
        Ok(Some(inode))
    }

    fn listing_at(&self, number: u32, listing: &Listing, start: Start) -> Result<Directory<'_, S>, Error> {
        let cursor = if start.position >= listing.size {
            // An empty listing may have a position behind the table's end.
            None
        } else {
            let (block, offset) = (start.block.into(), start.offset.into());
            Some(Cursor::relative(self, Table::Directories, &self.geometry.directories, block, offset)?)
        };
        Ok(Directory {
            cursor,
            number,
            position: start.position,
            size: listing.size,
            header: DirHeader { count: 0.into(), start_block: 0.into(), inode_number: 0.into() },
            left: 0,
            names: [Name::EMPTY; 2],
            current: 0,
        })
    }

    /// The last place the directory index knows for which `before` holds, given its position and first name.
    fn find_start(&self, number: u32, listing: &Listing, before: impl Fn(u32, &[u8]) -> bool) -> Result<Start, Error> {
        let mut start = listing.start();
        if listing.index_count == 0 {
            return Ok(start);
        }
        let mut cursor = self.inode_table_cursor(listing.index)?;
        let mut name = Name::EMPTY;
        for _ in 0..listing.index_count {
            let raw: DirIndex = cursor.read()?;
            name.read(&mut cursor, raw.size.get())?;
            let index = raw.index.get();
            if index >= listing.size {
                return Err(cursor.corrupt(Problem::DirectoryIndex { number, index, size: listing.size }));
            }
            if !before(index, name.get()) {
                break;
            }
            // All blocks of a listing but its last are full.
            let offset = (u64::from(listing.offset) + u64::from(index)) % METADATA_SIZE as u64;
            start = Start { block: raw.start_block.get(), offset: offset as u16, position: index };
        }
        Ok(start)
    }
}

impl Listing {
    const fn start(&self) -> Start {
        Start { block: self.block, offset: self.offset, position: 0 }
    }
}

const fn listing(dir: &Inode) -> Result<&Listing, Error> {
    match &dir.kind {
        Kind::Directory { listing, .. } => Ok(listing),
        _ => Err(Error::WrongType { number: dir.number, wanted: "directory" }),
    }
}

impl<S: ReadAt> Directory<'_, S> {
    /// Position of the next entry, for [`Image::read_dir_from`].
    pub const fn position(&self) -> u32 {
        self.position
    }

    /// Reads the next entry; its name is then [`name`](Self::name).
    fn next_entry(&mut self) -> Result<Option<Entry>, Error> {
        let result = self.advance();
        if !matches!(result, Ok(Some(_))) {
            self.cursor = None;
        }
        result
    }

    fn name(&self) -> &[u8] {
        self.names[self.current].get()
    }

    fn advance(&mut self) -> Result<Option<Entry>, Error> {
        let Some(cursor) = &mut self.cursor else { return Ok(None) };
        let mut left = self.size - self.position;
        if self.left == 0 {
            if left == 0 {
                return Ok(None);
            }
            left = take(cursor, self.number, left, size_of::<DirHeader>())?;
            self.header = cursor.read()?;
            let count = u64::from(self.header.count.get()) + 1;
            if count > DIR_COUNT_MAX as u64 {
                return Err(cursor.corrupt(Problem::HeaderCount { count }));
            }
            self.left = count as u32;
        }
        left = take(cursor, self.number, left, size_of::<format::DirEntry>())?;
        let raw: format::DirEntry = cursor.read()?;
        left = take(cursor, self.number, left, usize::from(raw.size.get()) + 1)?;
        self.current ^= 1;
        let [first, second] = &mut self.names;
        let (name, previous) = if self.current == 0 { (first, second) } else { (second, first) };
        name.read(cursor, raw.size.get().into())?;
        check_name(cursor, name.get(), previous.get())?;
        let kind = raw.r#type.get();
        let Some(file_type) = FileType::from_basic(kind) else {
            return Err(cursor.corrupt(Problem::EntryType(kind)));
        };
        self.left -= 1;
        self.position = self.size - left;
        Ok(Some(Entry {
            inode: InodeRef::new(self.header.start_block.get().into(), raw.offset.get()),
            number: self.header.inode_number.get().wrapping_add_signed(raw.inode_number.get().into()),
            file_type,
        }))
    }

    fn owned(&self, entry: Entry) -> DirEntry {
        DirEntry {
            name: self.name().to_vec(),
            inode: entry.inode,
            number: entry.number,
            file_type: entry.file_type,
            next_position: self.position,
        }
    }
}

/// Takes `bytes` from what is left of a listing.
fn take<S: ReadAt>(cursor: &Cursor<'_, S>, number: u32, left: u32, bytes: usize) -> Result<u32, Error> {
    u32::try_from(bytes)
        .ok()
        .and_then(|bytes| left.checked_sub(bytes))
        .ok_or_else(|| cursor.corrupt(Problem::ListingEnd { number }))
}

/// Refuses names that could lead out of the directory, and an order that would make lookup and listing disagree.
fn check_name<S: ReadAt>(cursor: &Cursor<'_, S>, name: &[u8], previous: &[u8]) -> Result<(), Error> {
    if matches!(name, b"" | b"." | b"..") || name.contains(&b'/') || name.contains(&0) {
        return Err(cursor.corrupt(Problem::Name(name.to_vec())));
    }
    if name <= previous {
        return Err(cursor.corrupt(Problem::NameOrder(name.to_vec())));
    }
    Ok(())
}

impl<S: ReadAt> Iterator for Directory<'_, S> {
    type Item = Result<DirEntry, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        match self.next_entry() {
            Ok(Some(entry)) => Some(Ok(self.owned(entry))),
            Ok(None) => None,
            Err(error) => Some(Err(error)),
        }
    }
}
