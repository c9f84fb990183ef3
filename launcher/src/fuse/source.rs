//! The image file, which must stay what it was when it was opened.
//!
//! A file written over in place would be served as a mixture of two images. The kernel changes a file's times before
//! the first byte of a write, so a look at them after each read tells whether what was read is still the old image. The
//! time of the last change of status (ctime) is no sign: it changes as well when a new image takes the old one's
//! name, which is how images are meant to be replaced.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use coracle_squashfs::reader::ReadAt;
use rustix::fs::fstat;

/// What the log says of it.
pub(super) const CHANGED: &str = "the image file was changed while in use";

/// An image file under watch.
pub(super) struct Source {
    file: File,
    /// What it was at first; `None` if that could not be found out, and is not watched then.
    identity: Option<Identity>,
    changed: AtomicBool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct Identity {
    size: i64,
    mtime: (i64, i64),
}

impl Identity {
    fn of(file: &File) -> io::Result<Self> {
        let stat = fstat(file.as_fd())?;
        Ok(Self { size: stat.st_size as i64, mtime: (stat.st_mtime as i64, stat.st_mtime_nsec as i64) })
    }
}

impl Source {
    pub(super) fn new(file: File) -> Self {
        let identity = Identity::of(&file).ok();
        Self { file, identity, changed: AtomicBool::new(false) }
    }

    fn check(&self) -> io::Result<()> {
        if let Some(identity) = self.identity
            && Identity::of(&self.file)? != identity
        {
            self.changed.store(true, Relaxed);
        }
        // Once changed is changed for good: who writes a file may set its times back.
        if self.changed.load(Relaxed) { Err(io::Error::other(CHANGED)) } else { Ok(()) }
    }
}

impl ReadAt for Source {
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let read = FileExt::read_exact_at(&self.file, buf, offset);
        // First, since a file that was cut short fails to be read for this reason.
        self.check()?;
        read
    }

    fn size(&self) -> io::Result<u64> {
        ReadAt::size(&self.file)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::SystemTime;

    #[test]
    fn a_file_that_changes_is_read_no_more() {
        let path = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&path, "one image").unwrap();
        let old = SystemTime::UNIX_EPOCH;
        path.as_file().set_modified(old).unwrap();
        let source = Source::new(File::open(&path).unwrap());
        let mut byte = [0];
        source.read_exact_at(&mut byte, 4).unwrap();
        assert_eq!(&byte, b"i");
        std::fs::hard_link(&path, path.path().with_extension("link")).unwrap();
        std::fs::remove_file(path.path().with_extension("link")).unwrap();
        source.read_exact_at(&mut byte, 4).unwrap();
        std::fs::write(&path, "another 1").unwrap();
        assert_eq!(source.read_exact_at(&mut byte, 4).unwrap_err().to_string(), CHANGED);
        std::fs::write(&path, "one image").unwrap();
        path.as_file().set_modified(old).unwrap();
        assert_eq!(source.read_exact_at(&mut byte, 4).unwrap_err().to_string(), CHANGED);
    }
}
