//! Opens what the caller calls an image: a squashfs file, or a SIF file with one inside.
//!
//! A directory runs as well, but is no file: see [`Directory`]. Other things that people try (archives, references) get an error that says what to do with them.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use coracle_converter::sif;
use coracle_squashfs::format::MAGIC;
use coracle_squashfs::reader::{self, Image, OpenOptions};

mod directory;
mod tree;

pub use directory::Directory;

pub use coracle_converter::sif::Problem as SifProblem;
pub(crate) use tree::is_executable;
pub use tree::{Entry, Located, Tree, locate};

#[cfg(test)]
pub(crate) use tree::Fake;

/// Bytes of unpacked blocks that the server of one mount keeps.
const CACHE_BYTES: usize = 32 << 20;
/// Bytes looked at to tell what a file is: a tar header's magic is at 257.
const HEAD: usize = 512;
/// `s_magic` of an ext2, ext3 or ext4 file system, and where it is.
const EXT_MAGIC: [u8; 2] = [0x53, 0xef];
const EXT_MAGIC_AT: u64 = 1024 + 56;

/// Why an image cannot be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The path cannot be opened at all.
    #[error("cannot open image {}: {cause}", path.display())]
    Open {
        /// As given.
        path: PathBuf,
        /// The system's reason.
        cause: io::Error,
    },
    /// The path does not exist and looks like a reference to an image elsewhere.
    #[error(
        "cannot open image {reference}: no such file; an image from elsewhere is converted first: coracle build IMAGE.sqfs SOURCE"
    )]
    Reference {
        /// As given.
        reference: String,
    },
    /// An OCI layout directory.
    #[error("{} is an OCI layout, not an image file: convert it first: coracle build IMAGE.sqfs oci:{}", path.display(), path.display())]
    OciLayout {
        /// As given.
        path: PathBuf,
    },
    /// Any other directory, for which the caller may have another way.
    #[error("{} is a directory, not an image file, which is what this takes: pack it first: coracle build IMAGE.sqfs dir:{}", path.display(), path.display())]
    Directory {
        /// As given.
        path: PathBuf,
    },
    /// A directory in which nothing can run.
    #[error(
        "{} is a directory, but no image: it has neither bin nor usr nor etc. An image as a directory is made by: coracle build --sandbox DIR SOURCE",
        path.display()
    )]
    NoRoot {
        /// As given.
        path: PathBuf,
    },
    /// An archive that the converter reads.
    #[error(
        "{} is an archive, not an image file: convert it first: coracle build IMAGE.sqfs oci-archive:{} (or docker-archive:, or tar: for a plain file tree)",
        path.display(), path.display()
    )]
    Archive {
        /// As given.
        path: PathBuf,
    },
    /// A file system of another kind.
    #[error(
        "cannot use {}: it is an ext2, ext3 or ext4 file system, which only root can mount: unpack it into a directory \
         (debugfs -R \"rdump / DIR\" {}) and use that; to write beside an image: --overlay DIR or --writable-tmpfs",
        path.display(), path.display()
    )]
    Ext {
        /// As given.
        path: PathBuf,
    },
    /// Nothing that is known.
    #[error("{} is not an image: neither a squashfs nor a SIF file", path.display())]
    Unknown {
        /// As given.
        path: PathBuf,
    },
    /// A SIF file that cannot be used.
    #[error("cannot use SIF file {}: {problem}", path.display())]
    Sif {
        /// As given.
        path: PathBuf,
        /// What is wrong with it.
        problem: sif::Problem,
    },
    /// The squashfs inside is damaged, or its format is not supported.
    #[error("cannot use image {}: {cause}", path.display())]
    Squashfs {
        /// As given.
        path: PathBuf,
        /// What the reader found.
        cause: reader::Error,
    },
    /// A file inside is larger than anything of its kind should be.
    #[error("cannot read {file} of the image: {size} bytes are more than the {limit} allowed")]
    TooLarge {
        /// In the image.
        file: PathBuf,
        /// In bytes.
        size: u64,
        /// In bytes.
        limit: u64,
    },
    /// Symbolic links in the image go round in circles.
    #[error("cannot follow {} in the image: too many symbolic links", path.display())]
    Links {
        /// In the image.
        path: PathBuf,
    },
}

/// An open image file.
pub struct ImageFile {
    /// Absolute, on the host.
    pub path: PathBuf,
    /// First byte of the squashfs in it.
    pub offset: u64,
    /// The file system.
    pub image: Image<File>,
}

/// The same file for another process, which opens the image in it anew.
pub struct Handle {
    file: File,
    /// As in [`ImageFile`].
    pub path: PathBuf,
    offset: u64,
}

impl Handle {
    /// Of the file, which must stay open in the other process.
    #[must_use]
    pub fn descriptor(&self) -> RawFd {
        self.file.as_raw_fd()
    }

    /// Opens the image.
    ///
    /// # Errors
    /// Those of [`ImageFile::open`] that are due to what the file holds.
    pub fn open(self) -> Result<ImageFile, Error> {
        let Self { file, path, offset } = self;
        match Image::open(file, OpenOptions { offset, cache_bytes: CACHE_BYTES }) {
            Ok(image) => Ok(ImageFile { path, offset, image }),
            Err(cause) => Err(Error::Squashfs { path, cause }),
        }
    }
}

impl ImageFile {
    /// Opens the image at `path`, which reads only its superblock.
    ///
    /// # Errors
    /// Whatever keeps it from being used, with the way out.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let given = path.to_path_buf();
        let file = match File::open(path) {
            Ok(file) => file,
            Err(cause) if cause.kind() == io::ErrorKind::NotFound && looks_like_reference(path) => {
                return Err(Error::Reference { reference: path.display().to_string() });
            }
            Err(cause) => return Err(Error::Open { path: given, cause }),
        };
        let open = |cause| Error::Open { path: given.clone(), cause };
        if file.metadata().map_err(open)?.is_dir() {
            return Err(if path.join("oci-layout").exists() {
                Error::OciLayout { path: given }
            } else {
                Error::Directory { path: given }
            });
        }
        let offset = squashfs_offset(&file, path)?;
        let path = std::path::absolute(path).map_err(open)?;
        Handle { file, path, offset }.open().map_err(|error| match error {
            Error::Squashfs { cause, .. } => Error::Squashfs { path: given.clone(), cause },
            other => other,
        })
    }

    /// The same file, for another process.
    ///
    /// # Errors
    /// When this process may have no descriptor more.
    pub fn handle(&self) -> io::Result<Handle> {
        Ok(Handle { file: self.image.source().try_clone()?, path: self.path.clone(), offset: self.offset })
    }
}

/// Finds where the squashfs begins, or says what the file is instead.
fn squashfs_offset(file: &File, path: &Path) -> Result<u64, Error> {
    let mut head = Vec::with_capacity(HEAD);
    let read = positioned(file, 0).take(HEAD as u64).read_to_end(&mut head);
    read.map_err(|cause| Error::Open { path: path.to_path_buf(), cause })?;
    if head.starts_with(&MAGIC.to_le_bytes()) {
        return Ok(0);
    }
    if sif::is_sif(&head) {
        return sif::squashfs_offset(file).map_err(|problem| Error::Sif { path: path.to_path_buf(), problem });
    }
    let gzip = head.starts_with(&[0x1f, 0x8b]);
    let zstd = head.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]);
    let tar = head.get(257..262).is_some_and(|magic| magic == b"ustar");
    if gzip || zstd || tar {
        return Err(Error::Archive { path: path.to_path_buf() });
    }
    let mut magic = [0; EXT_MAGIC.len()];
    if matches!(file.read_exact_at(&mut magic, EXT_MAGIC_AT), Ok(()) if magic == EXT_MAGIC) {
        return Err(Error::Ext { path: path.to_path_buf() });
    }
    Err(Error::Unknown { path: path.to_path_buf() })
}

/// Reads from `offset` on without moving the file's own position.
fn positioned(file: &File, offset: u64) -> impl Read + '_ {
    struct At<'a>(&'a File, u64);
    impl Read for At<'_> {
        fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
            let count = self.0.read_at(buf, self.1)?;
            self.1 += count as u64;
            Ok(count)
        }
    }
    At(file, offset)
}

/// `docker://debian`, `debian:12`, `oci:dir` – but not `dir/file.sqfs`.
fn looks_like_reference(path: &Path) -> bool {
    path.to_str().is_some_and(|text| text.contains(':') && !text.starts_with('/') && !text.starts_with('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(path: &Path) -> String {
        match ImageFile::open(path) {
            Ok(_) => panic!("{} was opened", path.display()),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn what_is_no_image_file_is_told_from_what_can_become_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        assert!(refusal(Path::new("docker://debian:12")).contains("coracle build"));
        assert!(refusal(&path("absent.sqfs")).contains("No such file"));
        assert!(refusal(dir.path()).contains("dir:"));
        std::fs::write(path("oci-layout"), "{}").unwrap();
        assert!(refusal(dir.path()).contains("oci:"));
        let mut tar = vec![0; 512];
        tar[257..262].copy_from_slice(b"ustar");
        std::fs::write(path("x.tar"), tar).unwrap();
        assert!(refusal(&path("x.tar")).contains("docker-archive:"));
        std::fs::write(path("x.gz"), [0x1f, 0x8b, 8]).unwrap();
        assert!(refusal(&path("x.gz")).contains("archive"));
        let mut ext = vec![0; 2048];
        ext[1080..1082].copy_from_slice(&EXT_MAGIC);
        std::fs::write(path("x.img"), ext).unwrap();
        assert!(refusal(&path("x.img")).contains("--overlay DIR"));
        std::fs::write(path("text"), "#!/bin/sh\n").unwrap();
        assert!(refusal(&path("text")).contains("neither a squashfs nor a SIF"));
        std::fs::write(path("empty"), "").unwrap();
        assert!(refusal(&path("empty")).contains("neither a squashfs nor a SIF"));
        std::fs::write(path("short.sqfs"), "hsqs").unwrap();
        assert!(refusal(&path("short.sqfs")).contains("short.sqfs"));
    }
}
