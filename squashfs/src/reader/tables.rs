//! Tables of fixed-size entries, read as far as they are asked for.

use super::Image;
use super::error::{Error, Problem, Table, corrupt};
use super::metadata::Cursor;
use super::source::ReadAt;
use super::superblock::IndexedTable;
use crate::format::{FragmentEntry, InodeRef, METADATA_SIZE};
use std::ops::Range;
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, IntoBytes};

/// Positions of blocks that are read and kept together.
const POSITIONS: u64 = 512;

impl<S: ReadAt> Image<S> {
    /// Entry `index` of a table.
    pub(super) fn entry<T: FromBytes + IntoBytes>(&self, table: &IndexedTable, index: u64) -> Result<T, Error> {
        if index >= table.count {
            return Err(corrupt(table.table, table.index, Problem::Index { index, count: table.count }));
        }
        // Entry sizes divide the block size, so no entry crosses blocks.
        let at = index * table.entry_size as u64;
        let (block, offset) = (at / METADATA_SIZE as u64, at % METADATA_SIZE as u64);
        self.table_cursor(table, block, offset as usize)?.read()
    }

    fn table_cursor(&self, table: &IndexedTable, block: u64, offset: usize) -> Result<Cursor<'_, S>, Error> {
        let at = self.block_position(table, block)?;
        let range = size_of::<crate::format::SuperBlock>() as u64..table.index;
        let cursor = Cursor::new(self, table.table, &range, at, offset)?;
        Ok(cursor)
    }

    /// Position of metadata block `block` of a table; the superblock's check put the index within the image.
    fn block_position(&self, table: &IndexedTable, block: u64) -> Result<u64, Error> {
        let (group, within) = (block / POSITIONS, (block % POSITIONS) as usize);
        let at = table.index + group * POSITIONS * 8;
        let count = (table.blocks() - group * POSITIONS).min(POSITIONS) as usize;
        let (positions, _) = self.positions.get(
            at,
            |positions| positions.len() * 8,
            || {
                let mut positions = vec![U64::ZERO; count];
                self.read_source(table.table, positions.as_mut_bytes(), at)?;
                Ok::<_, Error>(positions.into_boxed_slice())
            },
        )?;
        // Positions loaded for an overlapping table may be fewer.
        let problem = Problem::Index { index: within as u64, count: positions.len() as u64 };
        positions.get(within).map(|at| at.get()).ok_or_else(|| corrupt(table.table, at, problem))
    }

    /// Owner or group id by its index.
    pub(super) fn id(&self, index: u16) -> Result<u32, Error> {
        let ids = match self.ids.get() {
            Some(ids) => ids,
            None => {
                let ids = self.load_ids()?;
                self.ids.get_or_init(|| ids)
            }
        };
        ids.get(usize::from(index)).copied().ok_or_else(|| {
            let problem = Problem::Index { index: index.into(), count: ids.len() as u64 };
            corrupt(Table::Ids, self.geometry.ids.index, problem)
        })
    }

    /// All ids, 256 KiB at most. The list grows block by block: what is not in the file is not allocated.
    fn load_ids(&self) -> Result<Box<[u32]>, Error> {
        let table = &self.geometry.ids;
        let per_block = (METADATA_SIZE / table.entry_size) as u64;
        let mut ids = Vec::new();
        for block in 0..table.blocks() {
            let mut cursor = self.table_cursor(table, block, 0)?;
            for _ in 0..per_block.min(table.count - block * per_block) {
                ids.push(cursor.read::<U32>()?.get());
            }
        }
        Ok(ids.into())
    }

    /// Fragment block by its index.
    pub(super) fn fragment(&self, index: u32) -> Result<FragmentEntry, Error> {
        match &self.geometry.fragments {
            Some(table) => self.entry(table, index.into()),
            None => {
                let problem = Problem::Index { index: index.into(), count: 0 };
                Err(corrupt(Table::Fragments, self.geometry.superblock.fragment_table_start.get(), problem))
            }
        }
    }

    pub(super) fn inode_ref(&self, number: u32) -> Result<InodeRef, Error> {
        let table = self.geometry.export.as_ref().ok_or(Error::NoExportTable(number))?;
        let inodes = self.geometry.superblock.inodes.get();
        let index = number.checked_sub(1).filter(|index| *index < inodes);
        let index = index.ok_or(Error::NoSuchInode { number, inodes })?;
        Ok(InodeRef(self.entry::<U64>(table, index.into())?.get()))
    }

    /// Where inodes lie.
    pub(super) const fn inode_range(&self) -> &Range<u64> {
        &self.geometry.inodes
    }
}
