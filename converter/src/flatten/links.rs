//! Hard links: their targets as of the layer that has the link.
//!
//! A target may lie in a lower layer, or be hidden by a higher one, and is then needed all the same. What a lower
//! layer is wanted for is known before it is read; only a target that precedes its link in the same layer and was
//! skipped as hidden takes a second read of that layer.

use super::place::Missing;
use super::tree::{Full, InodeId, Kind, METADATA_MAX, Meta, Time};
use super::{Dangling, Flattener, Problem, Verdict, path};
use crate::tar::{Entry, EntryKind};
use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;

/// An entry of the layer at hand that is not in the tree, because a higher layer hides it.
#[derive(Debug)]
pub enum Skipped {
    /// Number of an entry with an inode of its own.
    Object(u64),
    /// The same, for a symbolic link, with its target.
    Symlink(u64, Box<[u8]>),
    /// A hard link to this.
    Link(Target),
}

impl Skipped {
    /// A hidden entry; `target` for a symbolic link.
    pub fn object(number: u64, target: Option<&[u8]>) -> Self {
        target.map_or(Self::Object(number), |target| Self::Symlink(number, target.into()))
    }
}

/// A path that hard links of higher layers need from a lower one.
#[derive(Debug)]
struct Wanted {
    inode: InodeId,
    /// What the layer at hand has at the path.
    found: Option<Found>,
    /// The layer at hand removes the path from what is below it.
    gone: bool,
    /// The layer at hand has a symbolic link on the way.
    redirected: bool,
    rank: u32,
    link: Vec<u8>,
}

#[derive(Clone, Copy, Debug)]
enum Found {
    Inode(InodeId),
    Directory,
}

/// Where a hard link's target is.
#[derive(Clone, Debug)]
pub enum Target {
    /// In the tree.
    Inode(InodeId),
    /// An entry of the layer at hand that was skipped, by number.
    Again(u64),
    /// At this path, below the layer at hand, if anywhere.
    Below(Vec<u8>),
}

/// Books about hard links.
#[derive(Debug, Default)]
pub struct Links {
    skipped: HashMap<Box<[u8]>, Skipped>,
    skipped_symlinks: usize,
    skipped_bytes: u64,
    wanted: BTreeMap<Vec<u8>, Wanted>,
    /// Wanted by links of the layer at hand, so from layers below it.
    wanted_below: Vec<(Vec<u8>, Wanted)>,
    /// Entries of the layer at hand to read once more, by number.
    again: HashMap<u64, InodeId>,
}

impl Links {
    /// Notes a hidden entry of the layer at hand.
    pub fn skip(&mut self, path: &[u8], skipped: Skipped) -> Result<(), Full> {
        self.forget(path);
        let target = match &skipped {
            Skipped::Symlink(_, target) => target.len(),
            Skipped::Link(Target::Below(target)) => target.len(),
            Skipped::Object(_) | Skipped::Link(_) => 0,
        };
        self.skipped_bytes += (path.len() + target + size_of::<Skipped>()) as u64;
        if self.skipped_bytes > METADATA_MAX {
            return Err(Full);
        }
        self.skipped_symlinks += usize::from(matches!(skipped, Skipped::Symlink(..)));
        self.skipped.insert(path.into(), skipped);
        Ok(())
    }

    fn forget(&mut self, path: &[u8]) {
        if !self.skipped.is_empty()
            && let Some(Skipped::Symlink(..)) = self.skipped.remove(path)
        {
            self.skipped_symlinks -= 1;
        }
    }

    /// Target of a hidden symbolic link of the layer at hand.
    pub fn skipped_symlink(&self, path: &[u8]) -> Option<&[u8]> {
        match (self.skipped_symlinks > 0).then(|| self.skipped.get(path))?? {
            Skipped::Symlink(_, target) => Some(target),
            _ => None,
        }
    }

    /// Whether a higher layer's link needs what is at `path`.
    pub fn is_wanted(&self, path: &[u8]) -> bool {
        !self.wanted.is_empty() && self.wanted.contains_key(path)
    }

    /// Offers an inode for a wanted path.
    pub fn candidate(&mut self, path: &[u8], inode: InodeId) {
        if let Some(wanted) = self.wanted.get_mut(path) {
            wanted.found = Some(Found::Inode(inode));
        }
    }

    /// The layer at hand has a directory at `path`.
    pub fn seen_directory(&mut self, path: &[u8]) {
        self.forget(path);
        if let Some(wanted) = self.wanted.get_mut(path) {
            wanted.found = Some(Found::Directory);
        }
    }

    /// The layer at hand has something at `path` that is no directory, so nothing of lower layers is left below it.
    pub fn seen_object(&mut self, path: &[u8], symlink: bool) {
        self.forget(path);
        self.below(path, |wanted| {
            wanted.found = None;
            wanted.redirected |= symlink;
            wanted.gone |= !symlink;
        });
    }

    /// The layer at hand has a white-out for `path`.
    pub fn hidden_at(&mut self, path: &[u8]) {
        if let Some(wanted) = self.wanted.get_mut(path) {
            wanted.gone = true;
        }
        self.hidden_below(path);
    }

    /// The layer at hand hides all lower content below `path`.
    pub fn hidden_below(&mut self, path: &[u8]) {
        self.below(path, |wanted| wanted.gone = true);
    }

    fn below(&mut self, path: &[u8], mut each: impl FnMut(&mut Wanted)) {
        if self.wanted.is_empty() {
            return;
        }
        let prefix = if path.is_empty() { Vec::new() } else { [path, b"/"].concat() };
        let range = (Bound::Included(prefix.clone()), Bound::Unbounded);
        self.wanted.range_mut(range).take_while(|(path, _)| path.starts_with(&prefix)).for_each(|(_, w)| each(w));
    }

    /// A link that no layer satisfied.
    pub fn into_unresolved(self) -> Option<Dangling> {
        let (target, wanted) = self.wanted.into_iter().next()?;
        Some(Dangling { rank: wanted.rank, path: wanted.link, problem: Problem::MissingTarget(target) })
    }
}

impl<Id> Flattener<Id> {
    /// Takes a hard link; `clean` is its own path.
    pub(super) fn hard_link(&mut self, clean: &[u8], entry: &Entry) -> Result<Verdict, Problem> {
        let mut target = Vec::new();
        path::clean(&entry.link, &mut target)?;
        // Looked up before the claim, which may remove it: a link to itself stays what it was.
        let found = self.find_target(&target, self.now());
        let (node, visible) = self.claim(clean, false)?;
        let own = self.path.clone();
        self.links.seen_object(&own, false);
        let wanted = self.links.is_wanted(&own);
        if !visible {
            self.counts.hidden += 1;
            if let Ok(target) = &found {
                self.links.skip(&own, Skipped::Link(target.clone()))?;
            }
        }
        if !visible && !wanted {
            return Ok(Verdict::Skip);
        }
        let inode = self.take_target(found?, &own)?;
        if wanted {
            self.links.candidate(&own, inode);
        }
        if let (Some(node), true) = (node, visible) {
            self.place(node, inode);
        }
        Ok(Verdict::Skip)
    }

    /// Finds what a hard link's target is at `time`; changes nothing.
    fn find_target(&mut self, target: &[u8], time: Time) -> Result<Target, Problem> {
        let place = self.locate(target, time, Missing::Leave)?;
        let path = self.path.clone();
        if path.is_empty() {
            return Err(Problem::DirectoryTarget(path));
        }
        let node = place.parent.and_then(|parent| self.tree.child(parent, place.name(&path)));
        if let Some((entered, inode)) = node.and_then(|node| self.tree.node(node).entry)
            && entered.is_in(self.rank)
        {
            if self.tree.inode(inode).is_directory() {
                return Err(Problem::DirectoryTarget(path));
            }
            return Ok(Target::Inode(inode));
        }
        if let Some(Found::Inode(inode)) = self.links.wanted.get(&path).and_then(|wanted| wanted.found) {
            return Ok(Target::Inode(inode));
        }
        Ok(match self.links.skipped.get(path.as_slice()) {
            Some(Skipped::Object(number) | Skipped::Symlink(number, _)) => Target::Again(*number),
            Some(Skipped::Link(target)) => target.clone(),
            None => Target::Below(path),
        })
    }

    /// The inode of a target, which may be an awaited one.
    fn take_target(&mut self, target: Target, link: &[u8]) -> Result<InodeId, Problem> {
        match target {
            Target::Inode(inode) => Ok(inode),
            Target::Again(number) => {
                if let Some(inode) = self.links.again.get(&number) {
                    return Ok(*inode);
                }
                let inode = self.tree.add_inode(Meta::default(), Kind::Awaited)?;
                self.links.again.insert(number, inode);
                Ok(inode)
            }
            Target::Below(path) => self.want_from_below(path, link),
        }
    }

    fn want_from_below(&mut self, target: Vec<u8>, link: &[u8]) -> Result<InodeId, Problem> {
        if self.rank == 0 {
            return Err(Problem::MissingTarget(target));
        }
        let inode = self.tree.add_inode(Meta::default(), Kind::Awaited)?;
        let (rank, link) = (self.rank, link.to_vec());
        let wanted = Wanted { inode, found: None, gone: false, redirected: false, rank, link };
        self.links.wanted_below.push((target, wanted));
        Ok(inode)
    }

    /// Ends the layer at hand: binds the links of higher layers to what it had for them. `true` when the layer must be
    /// read once more, each entry being given to [`Self::entry_again`].
    ///
    /// # Errors
    /// When a link's target cannot be there any more.
    pub fn end_layer(&mut self) -> Result<bool, Dangling> {
        for (path, wanted) in std::mem::take(&mut self.links.wanted) {
            let problem = match wanted.found {
                Some(Found::Inode(inode)) => {
                    self.tree.alias(wanted.inode, inode);
                    continue;
                }
                Some(Found::Directory) => Problem::DirectoryTarget(path),
                None if wanted.redirected => {
                    let end = Time::layer_end(self.rank);
                    let found = self.find_target(&path, end);
                    match found.and_then(|found| self.take_target(found, &wanted.link)) {
                        Ok(inode) => {
                            self.tree.alias(wanted.inode, inode);
                            continue;
                        }
                        Err(problem) => problem,
                    }
                }
                None if wanted.gone => Problem::MissingTarget(path),
                None => {
                    self.links.wanted_below.push((path, wanted));
                    continue;
                }
            };
            return Err(Dangling { rank: wanted.rank, path: wanted.link, problem });
        }
        for (path, wanted) in std::mem::take(&mut self.links.wanted_below) {
            match self.links.wanted.get(&path) {
                Some(known) => self.tree.alias(wanted.inode, known.inode),
                None => drop(self.links.wanted.insert(path, wanted)),
            }
        }
        self.links.skipped = HashMap::new();
        self.links.skipped_symlinks = 0;
        self.links.skipped_bytes = 0;
        self.number = 0;
        Ok(!self.links.again.is_empty())
    }

    /// Takes the next entry of a layer that is read a second time.
    ///
    /// # Errors
    /// When the tree is full.
    pub fn entry_again(&mut self, entry: &mut Entry) -> Result<Verdict, Problem> {
        self.number += 1;
        let Some(inode) = self.links.again.remove(&self.number) else { return Ok(Verdict::Skip) };
        let target = std::mem::take(&mut entry.link);
        let made = self.make_inode(entry, Some(&target))?;
        self.tree.alias(inode, made);
        Ok(if entry.kind == EntryKind::File { Verdict::Store(made) } else { Verdict::Skip })
    }
}
