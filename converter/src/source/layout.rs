//! An OCI image layout directory as a store of documents and blobs.

use super::{FileBlob, Store, StoredBlob, read_document};
use crate::error::Error;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

/// The directory of a layout.
#[derive(Debug)]
pub struct Directory(PathBuf);

impl Directory {
    /// The directory must exist; what is in it is looked at later.
    pub fn open(dir: &Path) -> Result<Self, Error> {
        let metadata = dir.metadata().map_err(Error::file("open", dir))?;
        if !metadata.is_dir() {
            return Err(Error::Form {
                path: dir.into(),
                form: "image layout directory",
                missing: "entries: it is a file, which oci-archive: or docker-archive: may read".into(),
            });
        }
        Ok(Self(dir.into()))
    }

    fn file(&self, name: &str) -> Result<Option<(PathBuf, File, u64)>, Error> {
        let path = self.0.join(name);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(Error::File { action: "open", path, source }),
        };
        let size = file.metadata().map_err(Error::file("examine", &path))?.len();
        Ok(Some((path, file, size)))
    }
}

impl Store for Directory {
    fn place(&self) -> &Path {
        &self.0
    }

    fn document(&self, name: &str) -> Result<Option<Vec<u8>>, Error> {
        let Some((path, file, size)) = self.file(name)? else { return Ok(None) };
        read_document(file, size, &path.display().to_string(), Error::file("read", &path)).map(Some)
    }

    fn blob(&self, name: &str) -> Result<Option<StoredBlob>, Error> {
        Ok(self.file(name)?.map(|(path, _, size)| StoredBlob { blob: Box::new(FileBlob(path)), size }))
    }
}
