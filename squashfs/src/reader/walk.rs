//! Walks a whole image.

use super::directory::Directory;
use super::error::{Error, Problem, Table, corrupt};
use super::inode::{FileType, Inode};
use super::source::ReadAt;
use super::{Image, InodeRef};
use std::collections::HashSet;

/// Bytes of a path, at most: 16 times what a program can pass to the kernel. Bounds the depth as well.
const PATH_MAX: usize = 65_536;

/// One file of an image.
#[derive(Clone, Debug)]
pub struct WalkEntry {
    /// Absolute path; `/` for the root.
    pub path: Vec<u8>,
    /// Its inode.
    pub inode: Inode,
}

/// What [`Walk`] could not read, and where.
#[derive(Debug, thiserror::Error)]
#[error("\"{}\": {error}", .path.escape_ascii())]
pub struct WalkError {
    /// The file or directory that is damaged.
    pub path: Vec<u8>,
    /// How.
    pub error: Error,
}

/// All files of an image, a directory before what is in it, names in the order of their bytes.
///
/// A directory that is reached twice is an error, so a walk ends whatever the image claims. After an error in a
/// directory, the walk goes on behind it.
pub struct Walk<'a, S> {
    image: &'a Image<S>,
    root: Option<InodeRef>,
    /// Directories from the root to the current one, and the length of each one's path.
    stack: Vec<(Directory<'a, S>, usize)>,
    path: Vec<u8>,
    seen: HashSet<u32>,
}

impl<S: ReadAt> Image<S> {
    /// Walks the whole image.
    pub fn walk(&self) -> Walk<'_, S> {
        Walk { image: self, root: Some(self.root()), stack: Vec::new(), path: Vec::new(), seen: HashSet::new() }
    }
}

impl<'a, S: ReadAt> Walk<'a, S> {
    fn fail<T>(&self, error: Error) -> Result<T, WalkError> {
        Err(WalkError { path: if self.path.is_empty() { b"/".to_vec() } else { self.path.clone() }, error })
    }

    /// Reads the inode that `self.path` names and, for a directory, goes into it.
    fn visit(&mut self, at: InodeRef, expected: Option<(u32, FileType)>) -> Result<WalkEntry, WalkError> {
        let inode = self.image.inode(at).or_else(|error| self.fail(error))?;
        let corrupt = |problem| corrupt(Table::Inodes, self.image.inode_range().start + at.block(), problem);
        if let Some((number, file_type)) = expected {
            if inode.number != number {
                let inodes = self.image.superblock().inodes.get();
                return self.fail(corrupt(Problem::InodeNumber { number: inode.number, inodes }));
            }
            if inode.file_type() != file_type {
                return self.fail(corrupt(Problem::EntryTypeDiffers { number }));
            }
        }
        if inode.file_type() == FileType::Directory {
            if self.path.len() > PATH_MAX {
                return self.fail(corrupt(Problem::PathLength(PATH_MAX)));
            }
            if !self.seen.insert(inode.number) {
                return self.fail(corrupt(Problem::DirectoryTwice(inode.number)));
            }
            let directory = self.image.read_dir(&inode).or_else(|error| self.fail(error))?;
            self.stack.push((directory, self.path.len()));
        }
        let path = if self.path.is_empty() { b"/".to_vec() } else { self.path.clone() };
        Ok(WalkEntry { path, inode })
    }
}

impl<S: ReadAt> Iterator for Walk<'_, S> {
    type Item = Result<WalkEntry, WalkError>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(root) = self.root.take() {
            return Some(self.visit(root, None));
        }
        loop {
            let (directory, len) = self.stack.last_mut()?;
            self.path.truncate(*len);
            match directory.next() {
                None => {
                    self.stack.pop();
                }
                Some(Err(error)) => return Some(self.fail(error)),
                Some(Ok(entry)) => {
                    self.path.push(b'/');
                    self.path.extend_from_slice(&entry.name);
                    return Some(self.visit(entry.inode, Some((entry.number, entry.file_type))));
                }
            }
        }
    }
}
