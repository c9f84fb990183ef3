//! Puts the files that a profile names together, in its order, at the end of the image's data.
//!
//! That is beside the tables, which every mount reads. Sources give files in their own order, so files that the profile
//! names are held back in a [`Spool`] until all others are written. What a path means is only known when the tree is
//! complete, and then the profile's order is settled.

use crate::error::Error;
use crate::flatten::tree::{FileTree, Kind};
use crate::options::LaidOut;
use crate::profile::Profile;
use crate::sink::{Content, DataSink, Fill};
use crate::spool::{Spool, Spooled};
use coracle_squashfs::writer::{self, FileId, Summary, Tree, Writer};
use std::collections::HashSet;
use std::path::{Path, PathBuf};

/// Content that an [`Arranger`] has taken in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placed {
    /// In the image.
    Stored(FileId),
    /// Held back: index in [`Arranger::held`].
    Held(u32),
}

#[derive(Debug)]
struct Held {
    size: u64,
    spooled: Spooled,
    /// Set when it is in the image.
    stored: Option<FileId>,
}

/// The sink of all conversions.
pub struct Arranger<'p> {
    writer: Writer,
    output: PathBuf,
    profile: Option<&'p Profile>,
    /// The profile's paths, relative to the root.
    wanted: HashSet<&'p [u8]>,
    spool: Option<Spool>,
    held: Vec<Held>,
}

impl<'p> Arranger<'p> {
    /// Puts files into `writer`, whose file will be at `output`.
    pub fn new(writer: Writer, output: &Path, profile: Option<&'p Profile>) -> Self {
        let touched = profile.map(|profile| profile.touched.as_slice()).unwrap_or_default();
        let wanted = touched.iter().map(|file| relative(&file.path)).collect();
        Self { writer, output: output.into(), profile, wanted, spool: None, held: Vec::new() }
    }

    /// Writes what was held back, in the profile's order. Files that come later are behind it.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn lay_out(&mut self, tree: &FileTree<Placed>) -> Result<Option<LaidOut>, Error> {
        let Some(profile) = self.profile else {
            // What comes now is read by every launch: alone in a fragment block, it is unpacked in no time.
            self.writer.begin_group()?;
            return Ok(None);
        };
        if let Some(spool) = &mut self.spool {
            spool.flush()?;
        }
        self.wanted.clear();
        self.writer.begin_group()?;
        let mut done = LaidOut::default();
        for file in &profile.touched {
            match find(tree, relative(&file.path)) {
                None => done.missing += 1,
                Some(Placed::Stored(_)) => done.elsewhere += 1,
                Some(Placed::Held(index)) => {
                    done.files += 1;
                    done.bytes += self.release(index)?;
                }
            }
        }
        // Such as a path that led through what turned out to be a symbolic link.
        for index in 0..self.held.len() as u32 {
            self.release(index)?;
        }
        self.spool = None;
        Ok(Some(done))
    }

    /// Where content is in the image.
    ///
    /// # Errors
    /// When it is still held back.
    pub fn stored(&self, placed: Placed) -> Result<FileId, writer::Error> {
        match placed {
            Placed::Stored(id) => Ok(id),
            Placed::Held(index) => {
                let held = self.held.get(index as usize).and_then(|held| held.stored);
                held.ok_or(writer::Error::UnknownFile(index))
            }
        }
    }

    /// Completes the image.
    ///
    /// # Errors
    /// As [`Writer::finish`].
    pub fn finish(self, tree: &Tree) -> Result<Summary, writer::Error> {
        self.writer.finish(tree)
    }

    /// Writes a file that was held back, and returns its size; 0 when it was written before.
    fn release(&mut self, index: u32) -> Result<u64, Error> {
        let (Some(held), Some(spool)) = (self.held.get_mut(index as usize), &self.spool) else { return Ok(0) };
        if held.stored.is_some() {
            return Ok(0);
        }
        held.stored = Some(store(&mut self.writer, held.size, &mut |content| spool.read(held.spooled, content))?);
        Ok(held.size)
    }
}

impl DataSink for Arranger<'_> {
    type Id = Placed;

    fn file(&mut self, path: &[u8], size: u64, fill: &mut Fill<'_>) -> Result<Placed, Error> {
        if !self.wanted.contains(path) {
            return Ok(Placed::Stored(store(&mut self.writer, size, fill)?));
        }
        let spool = match &mut self.spool {
            Some(spool) => spool,
            none => none.insert(Spool::beside(&self.output)?),
        };
        let begun = spool.begin();
        fill(spool)?;
        let index = self.held.len() as u32;
        self.held.push(Held { size, spooled: spool.end(begun), stored: None });
        Ok(Placed::Held(index))
    }
}

fn store(writer: &mut Writer, size: u64, fill: &mut Fill<'_>) -> Result<FileId, Error> {
    let mut file = writer.begin_file(size)?;
    fill(&mut file as &mut dyn Content)?;
    Ok(file.finish()?)
}

/// A profile's path as trees have it.
pub fn relative(path: &[u8]) -> &[u8] {
    path.strip_prefix(b"/").unwrap_or(path)
}

/// The regular file at a path; symbolic links are not followed.
fn find(tree: &FileTree<Placed>, path: &[u8]) -> Option<Placed> {
    let mut names = path.split(|&byte| byte == b'/');
    let node = names.try_fold(FileTree::<Placed>::ROOT, |node, name| tree.child(node, name))?;
    let (_, inode) = tree.node(node).entry?;
    match tree.inode(inode).kind {
        Kind::File(placed) => Some(placed),
        _ => None,
    }
}
