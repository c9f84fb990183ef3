//! The output file: complete under its name, or not there at all.
//!
//! Where the file system can, the file has no name until it is finished, so that not even SIGKILL leaves anything
//! behind. Elsewhere (NFS, Lustre) it has a temporary name beside the output, removed when the conversion fails.

use crate::error::Error;
use rustix::fs::{AtFlags, CWD, Mode, OFlags, linkat, open, renameat};
use rustix::io::Errno;
use std::fs::{File, Permissions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use tempfile::NamedTempFile;

/// New files are 0666 less the umask, as if made by a plain `open`.
const MODE: u32 = 0o666;

/// A file that is not published yet.
#[derive(Debug)]
pub struct Output {
    path: PathBuf,
    directory: PathBuf,
    force: bool,
    /// Tells this process's temporary names from others'.
    tag: String,
    file: Unpublished,
}

#[derive(Debug)]
enum Unpublished {
    Nameless(File),
    Named(NamedTempFile),
}

impl Output {
    /// Makes the file in the directory of `path`.
    ///
    /// # Errors
    /// When `path` exists and `force` is not set, or the directory cannot be written.
    pub fn create(path: &Path, force: bool) -> Result<Self, Error> {
        Self::create_tagged(path, force, &std::process::id().to_string())
    }

    /// The same, with `tag` in any temporary name: `.NAME.TAG.` and something random.
    ///
    /// # Errors
    /// As [`Self::create`].
    pub(crate) fn create_tagged(path: &Path, force: bool, tag: &str) -> Result<Self, Error> {
        let (path, directory) = Self::check(path, force)?;
        let file = match nameless(&directory) {
            Some(file) => Unpublished::Nameless(file),
            None => Unpublished::Named(named(&path, &directory, tag)?),
        };
        Ok(Self { path, directory, force, tag: tag.to_owned(), file })
    }

    /// Has the file appear under another name in the same directory.
    pub(crate) fn rename(&mut self, name: &str) {
        self.path = self.directory.join(name);
    }

    fn check(path: &Path, force: bool) -> Result<(PathBuf, PathBuf), Error> {
        let (Some(parent), Some(_)) = (path.parent(), path.file_name()) else {
            let source = std::io::Error::new(std::io::ErrorKind::InvalidInput, "the path names no file");
            return Err(Error::File { action: "create", path: path.into(), source });
        };
        let directory = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
        match path.symlink_metadata() {
            Ok(_) if !force => Err(Error::OutputExists { path: path.into() }),
            Ok(metadata) if metadata.is_dir() => {
                Err(Error::file("replace", path)(std::io::ErrorKind::IsADirectory.into()))
            }
            _ => Ok((path.into(), directory.into())),
        }
    }

    /// The output's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A descriptor to write through.
    ///
    /// # Errors
    /// When there are no more descriptors.
    pub fn writer(&self) -> Result<File, Error> {
        let file = match &self.file {
            Unpublished::Nameless(file) => file,
            Unpublished::Named(file) => file.as_file(),
        };
        file.try_clone().map_err(Error::file("create", &self.path))
    }

    /// Makes the file durable and gives it its name.
    ///
    /// # Errors
    /// When either is not possible; the file is gone then.
    pub fn publish(self) -> Result<(), Error> {
        let Self { path, directory, force, tag, file } = self;
        let failed = |action| Error::file(action, path.as_path());
        let exists = |error: std::io::Error| match error.kind() {
            std::io::ErrorKind::AlreadyExists => Error::OutputExists { path: path.clone() },
            _ => Error::file("create", path.as_path())(error),
        };
        match file {
            Unpublished::Nameless(file) => {
                file.sync_all().map_err(failed("write"))?;
                if force { replace(&file, &path, &tag) } else { link(&file, &path) }
                    .map_err(|error| exists(error.into()))?;
            }
            Unpublished::Named(file) => {
                file.as_file().sync_all().map_err(failed("write"))?;
                let published = if force { file.persist(&path) } else { file.persist_noclobber(&path) };
                published.map_err(|error| exists(error.error))?;
            }
        }
        // The name must be durable, too.
        File::open(&directory).and_then(|directory| directory.sync_all()).map_err(failed("write the directory of"))
    }
}

/// A file without a name, if the file system has such and it can be named later.
fn nameless(directory: &Path) -> Option<File> {
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    let file = File::from(open(directory, flags, Mode::from_raw_mode(MODE)).ok()?);
    // Naming an open file without privilege goes through /proc.
    Path::new(&magic_link(&file)).exists().then_some(file)
}

fn magic_link(file: &File) -> String {
    format!("/proc/self/fd/{}", file.as_raw_fd())
}

fn link(file: &File, path: &Path) -> Result<(), Errno> {
    linkat(CWD, magic_link(file), CWD, path, AtFlags::SYMLINK_FOLLOW)
}

/// Links never replace, so the file gets a passing name first.
fn replace(file: &File, path: &Path, tag: &str) -> Result<(), Errno> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    for attempt in 0u32.. {
        let passing = path.with_file_name(format!(".{name}.{tag}.{attempt}"));
        match link(file, &passing) {
            Err(Errno::EXIST) if attempt < 1000 => {}
            Err(error) => return Err(error),
            Ok(()) => {
                return renameat(CWD, &passing, CWD, path).inspect_err(|_| {
                    // The rename's error is what matters.
                    let _ = std::fs::remove_file(&passing);
                });
            }
        }
    }
    Err(Errno::EXIST)
}

fn named(path: &Path, directory: &Path, tag: &str) -> Result<NamedTempFile, Error> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    tempfile::Builder::new()
        .prefix(&format!(".{name}.{tag}."))
        .permissions(Permissions::from_mode(MODE))
        .tempfile_in(directory)
        .map_err(Error::file("create", path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn create_named(path: &Path, force: bool) -> Result<Output, Error> {
        let (path, directory) = Output::check(path, force)?;
        let file = Unpublished::Named(named(&path, &directory, "tag")?);
        Ok(Output { path, directory, force, tag: "tag".into(), file })
    }

    type Create = fn(&Path, bool) -> Result<Output, Error>;

    const BOTH: [Create; 2] = [Output::create, create_named];

    #[test]
    fn a_dropped_output_leaves_nothing_and_a_published_one_only_itself() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out");
        for create in BOTH {
            let output = create(&path, false).unwrap();
            output.writer().unwrap().write_all(b"x").unwrap();
            drop(output);
            assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 0);

            let output = create(&path, false).unwrap();
            output.writer().unwrap().write_all(b"new").unwrap();
            output.publish().unwrap();
            assert_eq!(std::fs::read(&path).unwrap(), b"new");
            assert_eq!(path.metadata().unwrap().permissions().mode() & 0o600, 0o600);
            assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 1);
            std::fs::remove_file(&path).unwrap();
        }
    }

    #[test]
    fn an_existing_file_is_replaced_only_by_force_even_if_it_appears_late() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out");
        let unforced = BOTH.map(|create| create(&path, false).unwrap());
        std::fs::write(&path, "old").unwrap();
        assert!(matches!(Output::create(&path, false), Err(Error::OutputExists { .. })));
        for output in unforced {
            assert!(matches!(output.publish(), Err(Error::OutputExists { .. })));
            assert_eq!(std::fs::read(&path).unwrap(), b"old");
        }
        for create in BOTH {
            let output = create(&path, true).unwrap();
            output.writer().unwrap().write_all(b"new").unwrap();
            output.publish().unwrap();
            assert_eq!(std::fs::read(&path).unwrap(), b"new");
            std::fs::write(&path, "old").unwrap();
        }
        assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 1);
    }

    #[test]
    fn impossible_paths_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        assert!(Output::create(Path::new("/"), true).is_err());
        assert!(Output::create(dir.path(), true).is_err());
        assert!(Output::create(&dir.path().join("missing/out"), false).is_err());
    }
}
