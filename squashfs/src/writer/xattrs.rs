//! Extended attributes: which can be stored, and the table of lists, each distinct list stored once.

use super::metadata::{MetadataStream, Output, Packing, write_table};
use super::{Error, Metadata};
use crate::format::{INVALID_TABLE, INVALID_XATTR, XattrEntry, XattrId, XattrTable, XattrValue, xattr_prefix};
use std::collections::HashMap;
use zerocopy::IntoBytes;

/// Longest full name (`XATTR_NAME_MAX`) and value (`XATTR_SIZE_MAX`) in Linux, in bytes.
const NAME_MAX: usize = 255;
const VALUE_MAX: usize = 65_536;
/// Shortest repeated value that is stored once and pointed to. A pointer costs its 8 bytes and, for the reader,
/// another metadata block; short values compress away by themselves.
const OUT_OF_LINE_MIN: usize = 64;

const PREFIXES: [(u16, &[u8]); 3] =
    [(xattr_prefix::USER, b"user."), (xattr_prefix::TRUSTED, b"trusted."), (xattr_prefix::SECURITY, b"security.")];

/// Whether the format has a place for an extended attribute of this full name. POSIX ACLs (`system.posix_acl_*`)
/// have none: neither the kernel nor `mksquashfs` knows their prefix.
pub fn xattr_supported(name: &[u8]) -> bool {
    split(name).is_some()
}

fn split(name: &[u8]) -> Option<(u16, &[u8])> {
    PREFIXES.iter().find_map(|&(id, prefix)| Some((id, name.strip_prefix(prefix).filter(|rest| !rest.is_empty())?)))
}

/// Whether a list can be stored.
pub(super) fn check(xattrs: &[(Vec<u8>, Vec<u8>)]) -> Result<(), Error> {
    for (name, value) in xattrs {
        let invalid = |reason| Err(Error::InvalidXattr { name: name.clone(), reason });
        if !xattr_supported(name) {
            return Err(Error::UnsupportedXattr { name: name.clone() });
        } else if name.len() > NAME_MAX {
            return invalid("its name is longer than 255 bytes");
        } else if name.contains(&0) {
            return invalid("its name has a zero byte");
        } else if value.len() > VALUE_MAX {
            return invalid("its value is longer than 65536 bytes");
        }
    }
    let mut names: Vec<&[u8]> = xattrs.iter().map(|(name, _)| &name[..]).collect();
    names.sort_unstable();
    match names.windows(2).find(|pair| matches!(pair, [a, b] if a == b)).and_then(|pair| pair.first()) {
        Some(name) => Err(Error::InvalidXattr { name: name.to_vec(), reason: "it is there twice" }),
        None => Ok(()),
    }
}

type List<'t> = Vec<(&'t [u8], &'t [u8])>;

/// The xattr table while it grows.
pub(super) struct Xattrs<'t> {
    stream: MetadataStream,
    lists: HashMap<List<'t>, u32>,
    /// Raw offsets of values that may be pointed to.
    values: HashMap<&'t [u8], u64>,
    /// With raw offsets until the table is written.
    ids: Vec<XattrId>,
}

impl<'t> Xattrs<'t> {
    pub(super) fn new(packing: Packing) -> Self {
        let stream = MetadataStream::new(packing);
        Self { stream, lists: HashMap::new(), values: HashMap::new(), ids: Vec::new() }
    }

    /// Number of distinct lists.
    pub(super) fn len(&self) -> usize {
        self.ids.len()
    }

    /// The index of a node's list, for its inode.
    pub(super) fn id(&mut self, metadata: &'t Metadata) -> Result<u32, Error> {
        if metadata.xattrs.is_empty() {
            return Ok(INVALID_XATTR);
        }
        let mut list: List<'t> = metadata.xattrs.iter().map(|(name, value)| (&name[..], &value[..])).collect();
        list.sort_unstable();
        if let Some(&id) = self.lists.get(&list) {
            return Ok(id);
        }
        let id = u32::try_from(self.ids.len())
            .ok()
            .filter(|&id| id != INVALID_XATTR)
            .ok_or(Error::TooMany { what: "distinct lists of extended attributes", max: INVALID_XATTR.into() })?;
        let start = self.stream.raw_len();
        let mut size = 0usize;
        for &(name, value) in &list {
            self.append(name, value)?;
            size = size.saturating_add(name.len() + 1 + value.len());
        }
        // `stat` alone uses the size, for st_blocks.
        let size = u32::try_from(size).unwrap_or(u32::MAX).into();
        let count = (list.len() as u32).into();
        self.ids.push(XattrId { xattr: start.into(), count, size });
        self.lists.insert(list, id);
        Ok(id)
    }

    fn append(&mut self, name: &'t [u8], value: &'t [u8]) -> Result<(), Error> {
        let (prefix, rest) = split(name).ok_or_else(|| Error::UnsupportedXattr { name: name.to_vec() })?;
        let stored = self.values.get(value).copied();
        let kind = prefix | if stored.is_some() { xattr_prefix::OUT_OF_LINE } else { 0 };
        let size = (rest.len() as u16).into();
        self.stream.append(XattrEntry { r#type: kind.into(), size }.as_bytes())?;
        self.stream.append(rest)?;
        match stored {
            Some(raw) => {
                let reference = self.stream.place(raw)?.0;
                self.stream.append(XattrValue { vsize: 8.into() }.as_bytes())?;
                self.stream.append(&reference.to_le_bytes())
            }
            None => {
                if value.len() >= OUT_OF_LINE_MIN {
                    self.values.insert(value, self.stream.raw_len());
                }
                self.stream.append(XattrValue { vsize: (value.len() as u32).into() }.as_bytes())?;
                self.stream.append(value)
            }
        }
    }

    /// Writes the table. Returns the position for the superblock.
    pub(super) fn write(mut self, output: &mut Output<'_>, packing: Packing) -> Result<u64, Error> {
        if self.ids.is_empty() {
            return Ok(INVALID_TABLE);
        }
        let start = output.position;
        self.stream.finish()?;
        for id in &mut self.ids {
            id.xattr = self.stream.place(id.xattr.get())?.0.into();
        }
        self.stream.drain(output)?;
        let header =
            XattrTable { xattr_table_start: start.into(), xattr_ids: (self.ids.len() as u32).into(), unused: 0.into() };
        write_table(output, packing, &self.ids, header.as_bytes())
    }
}
