//! Blobs kept on disk: `blobs/sha256/HEX` once verified, until then `HEX.HOST.PID.part`.
//!
//! No locks, which shared file systems may not have. A part that nobody has written to for a while is taken over by
//! renaming it, which one process alone succeeds in. Should its writer live after all, both write the same bytes.

use super::error::Error;
use crate::digest::Digest;
use std::fs::{self, File, FileTimes, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// After so long without a write, a part is an orphan.
const ORPHAN: Duration = Duration::from_secs(60);
/// Ends the name of a part.
pub const PART: &str = ".part";
/// Ends the name of the file that says how far a part is complete, when that is not its length.
pub const PREFIX: &str = ".prefix";
/// Parts of one blob by one process at most.
const NAMES_MAX: u32 = 100;

/// A directory of blobs.
#[derive(Clone, Debug)]
pub struct Cache {
    blobs: PathBuf,
}

/// A blob that is not complete.
#[derive(Debug)]
pub struct Part {
    /// To read and write.
    pub file: File,
    /// Its name.
    pub path: PathBuf,
    /// Bytes from its start that are there.
    pub prefix: u64,
}

impl Cache {
    /// Makes the directory if need be.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn open(directory: &Path) -> Result<Self, Error> {
        let blobs = directory.join("blobs/sha256");
        fs::create_dir_all(&blobs).map_err(failed("create", &blobs))?;
        Ok(Self { blobs })
    }

    /// Where a blob is once it is complete.
    pub fn path(&self, digest: &Digest) -> PathBuf {
        self.blobs.join(digest.hex())
    }

    /// A complete blob. One of another size is none, and is removed.
    ///
    /// # Errors
    /// When it is there and cannot be read.
    pub fn find(&self, digest: &Digest, size: u64) -> Result<Option<File>, Error> {
        let path = self.path(digest);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed("open", &path)(error)),
        };
        if file.metadata().map_err(failed("examine", &path))?.len() == size {
            return Ok(Some(file));
        }
        // Another manifest may have lied about the size; if this is damaged, a download will replace it.
        Ok(None)
    }

    /// Removes a blob that turned out to be damaged. Whoever reads it at the moment finds that out as well.
    pub fn remove(&self, digest: &Digest) {
        let _ = fs::remove_file(self.path(digest));
    }

    /// A part to go on with, or a new one. With `scattered` it will not be written from start to end.
    ///
    /// # Errors
    /// When there can be none.
    pub fn part(&self, digest: &Digest, size: u64, scattered: bool) -> Result<Part, Error> {
        if let Some(part) = self.adopt(digest, size, scattered)? {
            return Ok(part);
        }
        for number in 0..NAMES_MAX {
            let path = self.own_name(digest, number);
            if scattered {
                note(&path, 0).map_err(failed("write", &path))?;
            }
            match OpenOptions::new().read(true).write(true).create_new(true).open(&path) {
                Ok(file) => return Ok(Part { file, path, prefix: 0 }),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => {
                    let _ = fs::remove_file(note_of(&path));
                    return Err(failed("create", &path)(error));
                }
            }
        }
        let path = self.own_name(digest, 0);
        Err(failed("create", &path)(io::ErrorKind::AlreadyExists.into()))
    }

    fn own_name(&self, digest: &Digest, number: u32) -> PathBuf {
        let name = rustix::system::uname();
        let host = name.nodename().to_string_lossy();
        let host = host.chars().filter(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_')).collect::<String>();
        let more = if number == 0 { String::new() } else { format!("-{number}") };
        self.blobs.join(format!("{}.{host}.{}{more}{PART}", digest.hex(), std::process::id()))
    }

    /// Takes an orphan over; of several the longest.
    fn adopt(&self, digest: &Digest, size: u64, scattered: bool) -> Result<Option<Part>, Error> {
        let start = format!("{}.", digest.hex());
        let mut orphans = Vec::new();
        for entry in fs::read_dir(&self.blobs).map_err(failed("list", &self.blobs))? {
            let entry = entry.map_err(failed("list", &self.blobs))?;
            let name = entry.file_name();
            let fits = name.to_str().is_some_and(|name| name.starts_with(&start) && name.ends_with(PART));
            // What is gone meanwhile, somebody else has taken.
            let Some(metadata) = fits.then(|| entry.metadata().ok()).flatten() else { continue };
            let age = metadata.modified().ok().and_then(|time| SystemTime::now().duration_since(time).ok());
            if age.is_some_and(|age| age >= ORPHAN) {
                let path = entry.path();
                orphans.push((noted(&path).unwrap_or(metadata.len()).min(metadata.len()), path));
            }
        }
        orphans.sort();
        while let Some((prefix, old)) = orphans.pop() {
            for number in 0..NAMES_MAX {
                let new = self.own_name(digest, number);
                if new.exists() && new != old {
                    continue;
                }
                // The note comes first: without one, the length would be believed.
                note(&new, prefix.min(size)).map_err(failed("write", &new))?;
                if fs::rename(&old, &new).is_err() {
                    let _ = fs::remove_file(note_of(&new));
                    break;
                }
                if new != old {
                    let _ = fs::remove_file(note_of(&old));
                }
                let file = OpenOptions::new().read(true).write(true).open(&new).map_err(failed("open", &new))?;
                let prefix = prefix.min(size);
                if !scattered {
                    file.set_len(prefix).map_err(failed("shorten", &new))?;
                    let _ = fs::remove_file(note_of(&new));
                }
                // Others must see at once that it is in use.
                let _ = file.set_modified(SystemTime::now());
                return Ok(Some(Part { file, path: new, prefix }));
            }
        }
        Ok(None)
    }

    /// Gives a part that is verified its name. Somebody else may have done so already.
    ///
    /// # Errors
    /// When that is not possible.
    pub fn publish(&self, part: &Path, digest: &Digest) -> Result<(), Error> {
        let path = self.path(digest);
        // Not synced: who reads a blob verifies it, and removes one that a crash has damaged.
        let renamed = fs::rename(part, &path);
        let _ = fs::remove_file(note_of(part));
        match renamed {
            Err(_) if path.exists() => Ok(()),
            other => other.map_err(failed("create", &path)),
        }
    }
}

/// Leaves a part for the next who wants it, who need not wait.
pub fn release(part: &Path, file: &File, prefix: u64, scattered: bool) {
    if scattered {
        let _ = note(part, prefix);
    }
    // With nothing in it there is nothing to go on with.
    if prefix == 0 {
        discard(part);
        return;
    }
    // Old enough to be taken over at once, and not so old as what nobody wants any more.
    let _ = file.set_times(FileTimes::new().set_modified(SystemTime::now() - 2 * ORPHAN));
}

/// Removes a part.
pub fn discard(part: &Path) {
    let _ = fs::remove_file(part);
    let _ = fs::remove_file(note_of(part));
}

fn note_of(part: &Path) -> PathBuf {
    let mut name = part.as_os_str().to_owned();
    name.push(PREFIX);
    name.into()
}

/// Writes down how far a part is complete.
///
/// # Errors
/// When the note cannot be written.
pub fn note(part: &Path, prefix: u64) -> io::Result<()> {
    // Of one length, so that a reader sees either number.
    fs::write(note_of(part), format!("{prefix:020}\n"))
}

fn noted(part: &Path) -> Option<u64> {
    // A note that cannot be read means nothing of the part is known.
    match fs::read_to_string(note_of(part)) {
        Ok(text) => Some(text.trim().parse().unwrap_or(0)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(_) => Some(0),
    }
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_path_buf();
    move |source| Error::File { action, path, source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn names(cache: &Cache) -> Vec<String> {
        let mut names = fs::read_dir(&cache.blobs)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect::<Vec<_>>();
        names.sort();
        names
    }

    #[test]
    fn orphans_are_adopted_by_one_and_live_parts_by_none() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(dir.path()).unwrap();
        let digest = Digest::of(b"0123456789");
        let mut part = cache.part(&digest, 10, false).unwrap();
        part.file.write_all(b"01234").unwrap();
        let other = cache.part(&digest, 10, false).unwrap();
        assert_ne!((other.path.clone(), other.prefix), (part.path.clone(), 5), "a live part was taken");
        release(&other.path, &other.file, 0, false);
        release(&part.path, &part.file, 5, false);
        let adopted = cache.part(&digest, 10, false).unwrap();
        assert_eq!(adopted.prefix, 5);
        let third = cache.part(&digest, 10, false).unwrap();
        assert_eq!(third.prefix, 0);
        discard(&third.path);
        cache.publish(&adopted.path, &digest).unwrap();
        assert_eq!(names(&cache), [digest.hex()]);
    }

    #[test]
    fn of_a_scattered_part_only_what_is_noted_counts() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(dir.path()).unwrap();
        let digest = Digest::of(b"x");
        let part = cache.part(&digest, 100, true).unwrap();
        part.file.set_len(90).unwrap();
        note(&part.path, 40).unwrap();
        part.file.set_modified(SystemTime::UNIX_EPOCH).unwrap();
        let adopted = cache.part(&digest, 100, false).unwrap();
        assert_eq!((adopted.prefix, adopted.file.metadata().unwrap().len()), (40, 40));
        discard(&adopted.path);
        assert_eq!(names(&cache), Vec::<String>::new());
    }

    #[test]
    fn a_blob_of_another_size_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(dir.path()).unwrap();
        let digest = Digest::of(b"abc");
        fs::write(cache.path(&digest), "ab").unwrap();
        assert!(cache.find(&digest, 3).unwrap().is_none());
        fs::write(cache.path(&digest), "abc").unwrap();
        assert!(cache.find(&digest, 3).unwrap().is_some());
    }
}
