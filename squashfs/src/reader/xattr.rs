//! Extended attributes.

use super::Image;
use super::error::{Error, Problem, Table, corrupt};
use super::inode::Inode;
use super::metadata::Cursor;
use super::source::ReadAt;
use super::superblock::IndexedTable;
use crate::format::{INVALID_TABLE, InodeRef, SuperBlock, XattrEntry, XattrId, XattrTable, XattrValue, xattr_prefix};
use std::ops::Range;
use zerocopy::IntoBytes;
use zerocopy::little_endian::U64;

/// `XATTR_NAME_MAX`: bytes of a name with its prefix.
const NAME_MAX: usize = 255;
/// `XATTR_SIZE_MAX`: bytes of a value.
const VALUE_MAX: usize = 65_536;
/// `XATTR_LIST_MAX`: bytes of all names with their NULs.
const LIST_MAX: usize = 65_536;
/// Bytes of all values of one inode. Values are stored once however many lists name them, so that without a bound a
/// small image could ask for half a gigabyte.
const TOTAL_MAX: usize = 8 << 20;

/// One extended attribute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Xattr {
    /// Its name with the prefix, such as `user.mime_type`.
    pub name: Vec<u8>,
    /// Its value, at most 65536 bytes.
    pub value: Vec<u8>,
}

/// Where the two xattr tables are.
pub(super) struct XattrTables {
    ids: IndexedTable,
    values: Range<u64>,
}

impl<S: ReadAt> Image<S> {
    /// Whether the image has an extended attribute table; without one, no inode has attributes.
    pub const fn has_xattrs(&self) -> bool {
        self.geometry.superblock.xattr_id_table_start.get() != INVALID_TABLE
    }

    /// An inode's extended attributes, in the image's order.
    ///
    /// # Errors
    /// When the image is damaged, and when the attributes take more than Linux can list (64 KiB of names) or more than
    /// 8 MiB of values.
    pub fn xattrs(&self, inode: &Inode) -> Result<Vec<Xattr>, Error> {
        if !inode.has_xattrs() || !self.has_xattrs() {
            return Ok(Vec::new());
        }
        let tables = match self.xattr_tables.get() {
            Some(tables) => tables,
            None => {
                let tables = self.load_xattr_tables()?;
                self.xattr_tables.get_or_init(|| tables)
            }
        };
        let id: XattrId = self.entry(&tables.ids, inode.xattr.into())?;
        let mut cursor = self.value_cursor(tables, id.xattr.get())?;
        let mut xattrs = Vec::new();
        let (mut names, mut values) = (0, 0);
        for _ in 0..id.count.get() {
            let xattr = self.read_xattr(tables, &mut cursor)?;
            names += xattr.name.len() + 1;
            values += xattr.value.len();
            // Bounds the number of attributes as well, which is not to be trusted.
            for (total, max) in [(names, LIST_MAX), (values, TOTAL_MAX)] {
                if total > max {
                    return Err(cursor.corrupt(Problem::XattrTotal(max)));
                }
            }
            xattrs.push(xattr);
        }
        Ok(xattrs)
    }

    fn load_xattr_tables(&self) -> Result<XattrTables, Error> {
        let at = self.geometry.superblock.xattr_id_table_start.get();
        let (table, bytes_used) = (Table::XattrIds, self.geometry.bytes_used);
        let mut header = XattrTable { xattr_table_start: 0.into(), xattr_ids: 0.into(), unused: 0.into() };
        self.read_source(table, header.as_mut_bytes(), at)?;
        let index = at + size_of::<XattrTable>() as u64;
        let ids = IndexedTable { table, index, count: header.xattr_ids.get().into(), entry_size: size_of::<XattrId>() };
        if ids.blocks() * 8 > bytes_used.saturating_sub(index) {
            let problem = Problem::BlockBehindEnd { bytes: ids.blocks() * 8, end: bytes_used };
            return Err(corrupt(table, index, problem));
        }
        let start = header.xattr_table_start.get();
        if start < size_of::<SuperBlock>() as u64 || start > at {
            let problem = Problem::OutOfTable { start: size_of::<SuperBlock>() as u64, end: at };
            return Err(corrupt(Table::Xattrs, start, problem));
        }
        Ok(XattrTables { ids, values: start..at })
    }

    fn value_cursor(&self, tables: &XattrTables, reference: u64) -> Result<Cursor<'_, S>, Error> {
        let at = InodeRef(reference);
        Cursor::relative(self, Table::Xattrs, &tables.values, at.block(), at.offset().into())
    }

    fn read_xattr(&self, tables: &XattrTables, cursor: &mut Cursor<'_, S>) -> Result<Xattr, Error> {
        let entry: XattrEntry = cursor.read()?;
        let kind = entry.r#type.get();
        let prefix: &[u8] = match kind & xattr_prefix::MASK {
            xattr_prefix::USER => b"user.",
            xattr_prefix::TRUSTED => b"trusted.",
            xattr_prefix::SECURITY => b"security.",
            unknown => return Err(cursor.corrupt(Problem::XattrPrefix(unknown))),
        };
        let len = usize::from(entry.size.get());
        if len == 0 || prefix.len() + len > NAME_MAX {
            return Err(cursor.corrupt(Problem::XattrName((prefix.len() + len) as u64)));
        }
        let mut name = vec![0; prefix.len() + len];
        let (front, rest) = name.split_at_mut(prefix.len());
        front.copy_from_slice(prefix);
        cursor.fill(rest)?;
        if rest.contains(&0) {
            return Err(cursor.corrupt(Problem::XattrName(name.len() as u64)));
        }
        let value = if kind & xattr_prefix::OUT_OF_LINE == 0 {
            read_value(cursor)?
        } else {
            let size = cursor.read::<XattrValue>()?.vsize.get();
            if size as usize != size_of::<U64>() {
                return Err(cursor.corrupt(Problem::XattrValue(size.into())));
            }
            let reference = cursor.read::<U64>()?.get();
            read_value(&mut self.value_cursor(tables, reference)?)?
        };
        Ok(Xattr { name, value })
    }
}

fn read_value<S: ReadAt>(cursor: &mut Cursor<'_, S>) -> Result<Vec<u8>, Error> {
    let size = cursor.read::<XattrValue>()?.vsize.get();
    if size as usize > VALUE_MAX {
        return Err(cursor.corrupt(Problem::XattrValue(size.into())));
    }
    cursor.bytes(size as usize)
}
