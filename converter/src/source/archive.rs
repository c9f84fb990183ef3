//! An image archive: a tar whose members are found by position, so that nothing is unpacked.

use super::export::Export;
use super::stream::{Origin, PartBlob, Stream, StreamInput};
use super::{Store, StoredBlob, read_document};
use crate::error::Error;
use crate::layer::{Blob, Packing};
use crate::section::Section;
use crate::tar::{Entry, EntryKind, FileInput, Input, Piece, Reader};
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Most members of an archive. Real ones have a few per layer.
const MEMBERS_MAX: usize = 1 << 17;
/// Longest name of a member, in bytes.
const NAME_MAX: usize = 1024;
/// Longest chain of links between members.
const LINKS_MAX: usize = 16;
/// Largest member that is kept from a tar that cannot be sought in, and all of them together, in bytes.
const KEEP_EACH: u64 = 8 << 20;
const KEEP_ALL: u64 = 64 << 20;

/// An indexed archive.
#[derive(Debug)]
pub struct Archive {
    path: PathBuf,
    content: Content,
    members: HashMap<String, Member>,
}

#[derive(Debug)]
enum Content {
    /// Can be read anywhere.
    File(Arc<File>),
    /// Can be read from its start.
    Stream(Arc<Stream>),
}

#[derive(Debug)]
enum Member {
    File {
        start: u64,
        size: u64,
    },
    /// In memory.
    Kept(Arc<[u8]>),
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
            packing @ (Packing::Gzip | Packing::Zstd) => {
                return Self::streamed(path, Origin::Packed(path.into(), packing));
            }
            Packing::Other(compression) => return Err(Error::CompressedArchive { path: path.into(), compression }),
        }
        let index = file.try_clone().and_then(FileInput::new).map_err(Error::file("read", path))?;
        let members = members(&mut Reader::new(index), path, 0)?;
        Ok(Self { path: path.into(), content: Content::File(Arc::new(file)), members })
    }

    /// Has a command write the archive, once now and then whenever more of it is needed; `name` is for messages.
    pub fn exported(name: &str, export: Export) -> Result<Self, Error> {
        Self::streamed(Path::new(name), Origin::Export(export))
    }

    fn streamed(path: &Path, origin: Origin) -> Result<Self, Error> {
        let stream = Stream::new(origin);
        let mut input = StreamInput::new(stream.start().map_err(Error::file("read", path))?);
        let members = members(&mut Reader::new(&mut input), path, KEEP_ALL)?;
        input.drain().map_err(Error::file("read", path))?;
        Ok(Self { path: path.into(), content: Content::Stream(Arc::new(stream)), members })
    }

    /// What it is read from, when that cannot be sought in.
    #[cfg(test)]
    pub fn stream(&self) -> Option<&Stream> {
        match &self.content {
            Content::Stream(stream) => Some(stream),
            Content::File(_) => None,
        }
    }

    fn member(&self, name: &str) -> Result<Option<StoredBlob>, Error> {
        let mut name = name;
        let unusable = |reason| Error::Member { path: self.path.clone(), member: name.to_owned(), reason };
        for _ in 0..LINKS_MAX {
            match self.members.get(name) {
                None => return Ok(None),
                Some(&Member::File { start, size }) => {
                    let blob: Box<dyn Blob> = match &self.content {
                        Content::File(file) => Box::new(Section::new(Arc::clone(file), start, size)),
                        Content::Stream(stream) => {
                            Box::new(PartBlob { stream: Arc::clone(stream), start, length: size })
                        }
                    };
                    return Ok(Some(StoredBlob { blob, size }));
                }
                Some(Member::Kept(bytes)) => {
                    let size = bytes.len() as u64;
                    return Ok(Some(StoredBlob { blob: Box::new(KeptBlob(Arc::clone(bytes))), size }));
                }
                Some(Member::Link(target)) => name = target,
                Some(Member::Unusable(reason)) => return Err(unusable(reason)),
            }
        }
        Err(unusable("links between members go round in a circle"))
    }
}

/// A member that was kept.
#[derive(Debug)]
struct KeptBlob(Arc<[u8]>);

impl Blob for KeptBlob {
    fn open(&self) -> io::Result<Box<dyn Read + Send + '_>> {
        Ok(Box::new(&self.0[..]))
    }
}

/// The index, with up to `keep` bytes of small members.
fn members<I: Input>(reader: &mut Reader<I>, path: &Path, mut keep: u64) -> Result<HashMap<String, Member>, Error> {
    let mut members = HashMap::new();
    let mut entry = Entry::default();
    let failed = |source| Error::Archive { path: path.into(), source };
    while reader.next(&mut entry).map_err(failed)? {
        // Members that matter have plain names; others cannot be asked for.
        let Some(name) = member_name("", &entry.path) else { continue };
        let member = match entry.kind {
            EntryKind::File if entry.sparse => Member::Unusable("it is stored as a sparse file"),
            EntryKind::File if entry.size <= keep.min(KEEP_EACH) => {
                keep -= entry.size;
                let mut bytes = Vec::new();
                while let Some(Piece::Data(piece)) = reader.data().map_err(failed)? {
                    bytes.extend_from_slice(piece);
                }
                Member::Kept(bytes.into())
            }
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
    // Members of image archives have short names, and all are kept in memory.
    let raw = std::str::from_utf8(raw).ok().filter(|raw| raw.len() <= NAME_MAX)?;
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
        let Some(StoredBlob { blob, size }) = self.member(name)? else { return Ok(None) };
        let failed = || Error::file("read", &self.path);
        let reader = blob.open().map_err(failed())?;
        let content = read_document(reader, size, &format!("{name} in {}", self.path.display()), failed())?;
        if (content.len() as u64) < size {
            let what = format!("{name} in {}", self.path.display());
            return Err(Error::BlobSize { what, expected: size, found: content.len() as u64 });
        }
        Ok(Some(content))
    }

    fn blob(&self, name: &str) -> Result<Option<StoredBlob>, Error> {
        self.member(name)
    }
}
