//! An image archive: a tar whose members are found by position, so that nothing is unpacked.

use super::{RangeBlob, Store, StoredBlob, read_document};
use crate::error::Error;
use crate::layer::Packing;
use crate::tar::{Entry, EntryKind, FileInput, Reader};
use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Most members of an archive. Real ones have a few per layer.
const MEMBERS_MAX: usize = 1 << 17;
/// Longest chain of links between members.
const LINKS_MAX: usize = 16;

/// An indexed archive.
#[derive(Debug)]
pub struct Archive {
    path: PathBuf,
    file: Arc<File>,
    members: HashMap<String, Member>,
}

#[derive(Debug)]
enum Member {
    File {
        start: u64,
        size: u64,
    },
    /// Of old `docker save`: a layer that two images share is a link.
    Link(String),
    Unusable(&'static str),
}

impl Archive {
    /// Reads the headers of all members.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let file = File::open(path).map_err(Error::file("open", path))?;
        if file.metadata().map_err(Error::file("examine", path))?.is_dir() {
            return Err(Error::Form {
                path: path.into(),
                form: "image archive",
                missing: "content: it is a directory, which oci: or dir: may read".into(),
            });
        }
        let mut start = [0; 10];
        let length = file.read_at(&mut start, 0).map_err(Error::file("read", path))?;
        match Packing::of(start.get(..length).unwrap_or_default()) {
            Packing::Plain => {}
            packed => return Err(Error::CompressedArchive { path: path.into(), compression: packed.name() }),
        }
        let index = file.try_clone().and_then(FileInput::new).map_err(Error::file("read", path))?;
        let members = members(&mut Reader::new(index), path)?;
        Ok(Self { path: path.into(), file: Arc::new(file), members })
    }

    fn range(&self, name: &str) -> Result<Option<RangeBlob>, Error> {
        let mut name = name;
        let unusable = |reason| Error::Member { path: self.path.clone(), member: name.to_owned(), reason };
        for _ in 0..LINKS_MAX {
            match self.members.get(name) {
                None => return Ok(None),
                Some(Member::File { start, size }) => {
                    return Ok(Some(RangeBlob { file: Arc::clone(&self.file), start: *start, length: *size }));
                }
                Some(Member::Link(target)) => name = target,
                Some(Member::Unusable(reason)) => return Err(unusable(reason)),
            }
        }
        Err(unusable("links between members go round in a circle"))
    }
}

fn members(reader: &mut Reader<FileInput>, path: &Path) -> Result<HashMap<String, Member>, Error> {
    let mut members = HashMap::new();
    let mut entry = Entry::default();
    while reader.next(&mut entry).map_err(|source| Error::Archive { path: path.into(), source })? {
        // Members that matter have plain names; others cannot be asked for.
        let Some(name) = member_name("", &entry.path) else { continue };
        let member = match entry.kind {
            EntryKind::File if entry.sparse => Member::Unusable("it is stored as a sparse file"),
            EntryKind::File => Member::File { start: entry.content, size: entry.size },
            EntryKind::Symlink => {
                let directory = name.rsplit_once('/').map_or("", |(directory, _)| directory);
                member_name(directory, &entry.link).map_or(Member::Unusable("its link leads nowhere"), Member::Link)
            }
            EntryKind::HardLink => {
                member_name("", &entry.link).map_or(Member::Unusable("its link leads nowhere"), Member::Link)
            }
            _ => continue,
        };
        if members.len() >= MEMBERS_MAX {
            let reason = "the archive has too many members to be an image archive";
            return Err(Error::Member { path: path.into(), member: name, reason });
        }
        members.insert(name, member);
    }
    Ok(members)
}

/// A member's name, cleaned of `.` and `..`; relative names start at `directory`.
fn member_name(directory: &str, raw: &[u8]) -> Option<String> {
    let raw = std::str::from_utf8(raw).ok()?;
    let mut parts = Vec::new();
    let base = if raw.starts_with('/') { "" } else { directory };
    for part in base.split('/').chain(raw.split('/')) {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            _ => parts.push(part),
        }
    }
    (!parts.is_empty()).then(|| parts.join("/"))
}

impl Store for Archive {
    fn place(&self) -> &Path {
        &self.path
    }

    fn document(&self, name: &str) -> Result<Option<Vec<u8>>, Error> {
        let Some(range) = self.range(name)? else { return Ok(None) };
        let size = range.length;
        let content =
            read_document(range, size, &format!("{name} in {}", self.path.display()), Error::file("read", &self.path))?;
        if (content.len() as u64) < size {
            let what = format!("{name} in {}", self.path.display());
            return Err(Error::BlobSize { what, expected: size, found: content.len() as u64 });
        }
        Ok(Some(content))
    }

    fn blob(&self, name: &str) -> Result<Option<StoredBlob>, Error> {
        Ok(self.range(name)?.map(|range| StoredBlob { size: range.length, blob: Box::new(range) }))
    }
}
