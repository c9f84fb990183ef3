//! What a path without a form is, by what it holds.

use super::Source;
use crate::error::Error;
use crate::layer::Packing;
use crate::sif;
use crate::source::stream::{Origin, Stream, StreamInput};
use crate::tar::{Entry, FileInput, Input, Reader};
use coracle_squashfs::format::MAGIC;
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// Bytes looked at first; a tar header's magic is at 257.
const HEAD: u64 = 512;

impl Source {
    /// A path alone: an image layout or any other directory; a squashfs, SIF or tar file. A tar is told by its members'
    /// names, so of a compressed one as much is read as its form takes.
    ///
    /// # Errors
    /// When it cannot be read, or is none of these.
    pub fn detect(path: &Path) -> Result<Self, Error> {
        let file = File::open(path).map_err(Error::file("open", path))?;
        let metadata = file.metadata().map_err(Error::file("examine", path))?;
        if metadata.is_dir() {
            let layout = path.join("oci-layout").exists();
            let (dir, reference) = (path.into(), None);
            return Ok(if layout { Self::OciLayout { dir, reference } } else { Self::Directory { dir } });
        }
        let unknown = || Error::UnknownFile { path: path.into() };
        if !metadata.is_file() {
            return Err(unknown());
        }
        let mut head = Vec::new();
        (&file).take(HEAD).read_to_end(&mut head).map_err(Error::file("read", path))?;
        if head.starts_with(&MAGIC.to_le_bytes()) {
            return Ok(Self::Squashfs { file: path.into(), offset: 0 });
        }
        if sif::is_sif(&head) {
            return Ok(Self::Sif { file: path.into() });
        }
        match Packing::of(&head) {
            Packing::Plain if head.get(257..262) == Some(b"ustar") => {
                tar(path, FileInput::new(file).map_err(Error::file("read", path))?)
            }
            packing @ (Packing::Gzip | Packing::Zstd) => {
                let pass = Stream::new(Origin::Packed(path.into(), packing)).start();
                tar(path, StreamInput::new(pass.map_err(Error::file("read", path))?))
            }
            Packing::Other(compression) => Err(Error::CompressedArchive { path: path.into(), compression }),
            Packing::Plain => Err(unknown()),
        }
    }
}

/// An image archive has nothing but certain names in it; one that has another, or none that decides, holds plain files.
fn tar(path: &Path, input: impl Input) -> Result<Source, Error> {
    let (file, reference) = (path.to_path_buf(), None);
    let mut reader = Reader::new(input);
    let mut entry = Entry::default();
    while reader.next(&mut entry).map_err(|source| Error::Archive { path: path.into(), source })? {
        let name = entry.path.strip_prefix(b"./").unwrap_or(&entry.path);
        match name {
            b"manifest.json" => return Ok(Source::DockerArchive { file, reference }),
            b"oci-layout" => return Ok(Source::OciArchive { file, reference }),
            b"" | b"." | b"index.json" | b"repositories" | b"version" => {}
            _ if name.starts_with(b"blobs/") || name == b"blobs" => {}
            // Of `docker save`: `HEX.json`, `HEX.tar`, `HEX/layer.tar`.
            _ if name.get(..64).is_some_and(|hex| hex.iter().all(u8::is_ascii_hexdigit)) => {}
            _ => break,
        }
    }
    Ok(Source::Tar { file })
}
