//! What a container needs and a directory image lacks, as a layer: mount points, and files that are the caller's.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, chmodat, mkdirat, openat, symlinkat};
use rustix::io::Errno;

use super::{DIRECTORY, Error, LaunchError};
use crate::fuse::{self, Synthetic, SyntheticFile};
use crate::image::{Directory, Entry, Located, Tree, locate};

/// Where it is on the helpers' file system.
const NAME: &str = "generated";

/// Makes the layer for an image with this tree. What the tree has is left alone, except for files with a content.
pub(super) fn prepare(tree: &Directory, memory: &OwnedFd, content: &Synthetic) -> Result<OwnedFd, LaunchError> {
    let layer =
        Layer { tree, at: make_directory(memory, Path::new(NAME)).map_err(|cause| failed(Path::new("/"), cause))? };
    layer.dress(Path::new("."), Path::new("/"))?;
    for path in &content.directories {
        let Located { path: resolved, entry } = locate(tree, path)?;
        match entry {
            Some(Entry::Directory) => {}
            None => layer.directory(&resolved, path)?,
            Some(_) => return Err(not_a_directory(path, resolved).into()),
        }
    }
    for (path, file) in &content.files {
        let place = match file {
            SyntheticFile::Empty => locate(tree, path)?,
            // The link itself is replaced, as by the file system server.
            SyntheticFile::Content(..) | SyntheticFile::Link(_) => parent_followed(tree, path)?,
        };
        match (place.entry, file) {
            (Some(Entry::Directory), _) => {
                return Err(LaunchError::Serve(fuse::Error::IsADirectory { path: path.clone() }));
            }
            (Some(_), SyntheticFile::Empty) => {}
            (Some(Entry::Link(there)), SyntheticFile::Link(target)) if there == *target => {}
            (_, file) => layer.file(&place.path, path, file)?,
        }
    }
    Ok(layer.at)
}

/// A generated file by itself; `None` for a mere mount point.
pub(super) fn single_file(
    memory: &OwnedFd,
    index: usize,
    file: &SyntheticFile,
) -> Result<Option<OwnedFd>, LaunchError> {
    let name = PathBuf::from(format!("file-{index}"));
    let SyntheticFile::Content(..) = file else { return Ok(None) };
    write(memory, &name, file).map_err(|cause| failed(&name, cause))?;
    let opened = openat(memory, &name, OFlags::PATH | OFlags::CLOEXEC, Mode::empty());
    Ok(Some(opened.map_err(|cause| failed(&name, cause.into()))?))
}

/// Where a path leads if its last component is taken as it is.
fn parent_followed(tree: &Directory, path: &Path) -> Result<Located, LaunchError> {
    let parent = locate(tree, path.parent().unwrap_or(Path::new("/")))?;
    let path = parent.path.join(path.file_name().unwrap_or_default());
    let entry = if parent.entry == Some(Entry::Directory) { tree.entry(&path)? } else { None };
    Ok(Located { path, entry })
}

struct Layer<'a> {
    tree: &'a Directory,
    at: OwnedFd,
}

impl Layer<'_> {
    /// Makes a directory and those above it; `asked` is what was asked for.
    fn directory(&self, path: &Path, asked: &Path) -> Result<(), LaunchError> {
        let above: Vec<&Path> = path.ancestors().collect();
        for path in above.into_iter().rev().skip(1) {
            let name = path.strip_prefix("/").unwrap_or(path);
            match self.tree.entry(path)? {
                None | Some(Entry::Directory) => {}
                Some(_) => return Err(not_a_directory(asked, path.to_path_buf()).into()),
            }
            match mkdirat(&self.at, name, Mode::from_raw_mode(0o755)) {
                Ok(()) => self.dress(name, path)?,
                Err(Errno::EXIST) => {}
                Err(cause) => return Err(failed(asked, cause.into()).into()),
            }
        }
        Ok(())
    }

    /// A directory shows the mode of the top layer that has it.
    fn dress(&self, name: &Path, path: &Path) -> Result<(), LaunchError> {
        if let Some(stat) = self.tree.stat(path)? {
            let mode = Mode::from_raw_mode(stat.st_mode & 0o7777);
            let set = chmodat(&self.at, name, mode, rustix::fs::AtFlags::empty());
            set.map_err(|cause| failed(path, cause.into()))?;
        }
        Ok(())
    }

    fn file(&self, path: &Path, asked: &Path, file: &SyntheticFile) -> Result<(), LaunchError> {
        self.directory(path.parent().unwrap_or(Path::new("/")), asked)?;
        write(&self.at, path.strip_prefix("/").unwrap_or(path), file).map_err(|cause| failed(asked, cause).into())
    }
}

fn write(at: &OwnedFd, name: &Path, file: &SyntheticFile) -> io::Result<()> {
    let (content, mode): (&[u8], u32) = match file {
        SyntheticFile::Empty => (&[], 0o644),
        SyntheticFile::Content(content, mode) => (content, u32::from(*mode)),
        SyntheticFile::Link(target) => return Ok(symlinkat(target, at, name)?),
    };
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut file = File::from(openat(at, name, flags, Mode::from_raw_mode(mode))?);
    file.write_all(content)?;
    // Whatever the umask.
    Ok(rustix::fs::fchmod(&file, Mode::from_raw_mode(mode))?)
}

fn make_directory(at: &OwnedFd, name: &Path) -> io::Result<OwnedFd> {
    mkdirat(at, name, Mode::from_raw_mode(0o755))?;
    Ok(openat(at, name, DIRECTORY, Mode::empty())?)
}

pub(super) fn failed(path: &Path, cause: io::Error) -> Error {
    Error::Generate { path: path.to_path_buf(), cause }
}

fn not_a_directory(path: &Path, component: PathBuf) -> fuse::Error {
    fuse::Error::NotADirectory { path: path.to_path_buf(), component }
}
