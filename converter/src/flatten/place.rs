//! Finds an entry's place in the tree, following symbolic links inside the root as unpacking would, and settles what
//! the entry does to what is there.
//!
//! The awkward case: a higher layer has `lib/x` without an entry for `lib`, and only a lower layer shows that `lib` is a
//! symbolic link. Unpacking would have followed it, so what was collected below `lib` moves to where it leads.

use super::path::{DEPTH_MAX, NAME_MAX, PATH_MAX};
use super::tree::{FileTree, InodeId, Kind, NodeId, Time};
use super::{Flattener, Problem};

/// Most symbolic links followed for one path; as the kernel.
const LINKS_MAX: u32 = 40;

/// Where a path leads.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// The directory that holds the path's last component; `None` when it is hidden, or missing and not to be made.
    pub parent: Option<NodeId>,
    /// Where the last component starts in the resolved path.
    name_at: usize,
    /// Latest time at which something cleared one of the directories on the way.
    floor: Time,
}

impl Place {
    /// The last component of the resolved path.
    pub fn name<'a>(&self, path: &'a [u8]) -> &'a [u8] {
        path.get(self.name_at..).unwrap_or_default()
    }
}

/// What to do about directories that a path needs and that are not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missing {
    /// The path then leads nowhere.
    Leave,
    /// Make them, but let what is no directory be.
    Make,
    /// Make them, in place of a file of the same layer, too.
    Replace,
}

enum Step {
    Into(Option<NodeId>),
    Follow(Box<[u8]>),
}

impl<Id> Flattener<Id> {
    /// Resolves the directories of `path` as they are at `time` and leaves the resolved path in `self.path`. What is
    /// missing on the way is treated as `missing` says.
    pub(super) fn locate(&mut self, path: &[u8], time: Time, missing: Missing) -> Result<Place, Problem> {
        let mut resolved = std::mem::take(&mut self.path);
        resolved.clear();
        resolved.extend_from_slice(path);
        let place = self.walk(&mut resolved, time, missing, false);
        self.path = resolved;
        place
    }

    /// As [`Self::locate`], the last component included: the place's parent is the directory itself.
    pub(super) fn locate_directory(&mut self, path: &[u8], time: Time, missing: Missing) -> Result<Place, Problem> {
        let mut resolved = std::mem::take(&mut self.path);
        resolved.clear();
        resolved.extend_from_slice(path);
        let place = self.walk(&mut resolved, time, missing, true);
        self.path = resolved;
        place
    }

    fn walk(&mut self, path: &mut Vec<u8>, time: Time, missing: Missing, whole: bool) -> Result<Place, Problem> {
        let mut links = 0;
        // Each round starts at the root with a path of which a longer front part is known to be free of links.
        'round: loop {
            let root = self.tree.node(FileTree::<Id>::ROOT);
            let mut floor = root.hides_children;
            let mut directory = (root.hides_children <= time).then_some(FileTree::<Id>::ROOT);
            let (mut start, mut depth) = (0, 0);
            loop {
                let rest = path.get(start..).unwrap_or_default();
                let end = rest.iter().position(|&byte| byte == b'/').map_or(path.len(), |at| start + at);
                let component = path.get(start..end).unwrap_or_default();
                if matches!(component, b"" | b"." | b"..") && start < path.len() {
                    splice(path, start, end);
                    continue 'round;
                }
                if component.is_empty() || (end == path.len() && !whole) {
                    // A directory's path may end in a slash here, after `..`.
                    if whole && path.ends_with(b"/") {
                        path.pop();
                    }
                    return Ok(Place { parent: directory, name_at: start.min(path.len()), floor });
                }
                depth += 1;
                if depth > DEPTH_MAX || component.len() > NAME_MAX {
                    return Err(if depth > DEPTH_MAX { Problem::PathTooLong } else { Problem::NameTooLong });
                }
                match self.step(directory, path.get(..end).unwrap_or_default(), component, time, missing)? {
                    Step::Into(next) => {
                        directory = next;
                        if let Some(next) = next {
                            floor = floor.max(self.tree.node(next).hides_children);
                        }
                    }
                    Step::Follow(target) => {
                        links += 1;
                        if links > LINKS_MAX {
                            return Err(Problem::SymlinkLoop);
                        }
                        redirect(path, start, end, &target)?;
                        continue 'round;
                    }
                }
                if end == path.len() {
                    return Ok(Place { parent: directory, name_at: end, floor });
                }
                start = end + 1;
            }
        }
    }

    /// One component further: `path` is resolved up to and with `name`, its last component.
    fn step(
        &mut self,
        directory: Option<NodeId>,
        path: &[u8],
        name: &[u8],
        time: Time,
        missing: Missing,
    ) -> Result<Step, Problem> {
        // A link of this layer that a higher layer hides was still there when this layer was unpacked.
        if let Some(target) = self.links.skipped_symlink(path) {
            return Ok(Step::Follow(target.into()));
        }
        let Some(directory) = directory else { return Ok(Step::Into(None)) };
        let Some(id) = self.tree.child(directory, name) else {
            if missing == Missing::Leave {
                return Ok(Step::Into(None));
            }
            let id = self.tree.child_or_new(directory, name)?;
            if missing == Missing::Replace {
                self.tree.node_mut(id).implied = time;
            }
            return Ok(Step::Into(Some(id)));
        };
        let node = self.tree.node(id);
        if node.hides_self > time {
            return Ok(Step::Into(None));
        }
        if let Some((entered, inode)) = node.entry
            && entered < time
        {
            match &self.tree.inode(inode).kind {
                Kind::Symlink(target) => return Ok(Step::Follow(target.clone())),
                Kind::Directory => {}
                // Something below a file of the same layer: the file makes way for the directory.
                _ if missing == Missing::Replace => self.tree.node_mut(id).entry = None,
                _ => return Ok(Step::Into(None)),
            }
        }
        let node = self.tree.node_mut(id);
        if missing == Missing::Replace {
            node.implied = node.implied.max(time);
        }
        let visible = node.hides_children <= time;
        Ok(Step::Into(visible.then_some(id)))
    }

    /// Claims `clean` for something that is no directory. Returns the path's node and whether the claim holds against
    /// higher layers; [`Self::place`] makes it take effect.
    pub(super) fn claim(&mut self, clean: &[u8], symlink: bool) -> Result<(Option<NodeId>, bool), Problem> {
        let now = self.now();
        let place = self.locate(clean, now, Missing::Replace)?;
        let Some(parent) = place.parent else { return Ok((None, false)) };
        let id = self.tree.child_or_new(parent, place.name(&self.path))?;
        let node = self.tree.node_mut(id);
        if node.hides_self > now {
            return Ok((Some(id), false));
        }
        node.hides_self = now;
        node.hides_children = node.hides_children.max(now);
        if node.implied < now {
            node.implied = Time::NEVER;
        }
        if !node.children.is_empty() {
            self.tree.prune_children(id, now);
        }
        // Directories that higher layers merely imply replace a file, but follow a symbolic link.
        let node = self.tree.node(id);
        let implied = !symlink && (node.implied > Time::NEVER || self.tree.has_live_children(id));
        let entry = self.tree.node(id).entry;
        Ok((Some(id), !implied && entry.is_none_or(|(time, _)| time < now)))
    }

    /// Puts an inode at a path that [`Self::claim`] found visible.
    pub(super) fn place(&mut self, id: NodeId, inode: InodeId) {
        let now = self.now();
        self.tree.node_mut(id).entry = Some((now, inode));
    }

    /// Moves what higher layers have put below the symbolic link at `path`, made at `entered`, to where it leads.
    pub(super) fn relocate(&mut self, id: NodeId, path: &[u8], target: &[u8], entered: Time) -> Result<(), Problem> {
        let node = self.tree.node_mut(id);
        let opaque = node.hides_children;
        let implied = std::mem::take(&mut node.implied);
        let children = std::mem::take(&mut node.children);
        let mut directory = path.to_vec();
        let start = path.iter().rposition(|&byte| byte == b'/').map_or(0, |slash| slash + 1);
        redirect(&mut directory, start, path.len(), target)?;
        if opaque > entered
            && let Some(directory) = self.locate_directory(&directory, opaque, Missing::Make)?.parent
        {
            let node = self.tree.node_mut(directory);
            node.hides_children = node.hides_children.max(opaque);
            self.tree.prune_children(directory, opaque);
        }
        if implied > entered
            && let Some(directory) = self.locate_directory(&directory, implied, Missing::Make)?.parent
        {
            let node = self.tree.node_mut(directory);
            node.implied = node.implied.max(implied);
        }
        for (name, child) in children {
            let newest = self.tree.newest(child);
            let mut destination = directory.clone();
            destination.push(b'/');
            destination.extend_from_slice(&name);
            let place = self.locate(&destination, newest, Missing::Make)?;
            let Some(parent) = place.parent else { continue };
            let path = self.path.clone();
            let into = self.tree.child_or_new(parent, place.name(&path))?;
            self.merge(into, child, &path)?;
            self.tree.prune(into, place.floor);
        }
        Ok(())
    }

    /// Joins the claims of two nodes and of all below them; `into` is at `path`.
    fn merge(&mut self, into: NodeId, from: NodeId, path: &[u8]) -> Result<(), Problem> {
        let depth = path.iter().filter(|&&byte| byte == b'/').count();
        // Joined nodes, each before what is below it: its place above in this list, its name, its depth.
        let mut joined = vec![(into, 0, Box::<[u8]>::default(), depth)];
        let mut sources = vec![from];
        let mut next = 0;
        while let (Some(&(into, _, _, depth)), Some(&from)) = (joined.get(next), sources.get(next)) {
            if depth >= DEPTH_MAX {
                return Err(Problem::PathTooLong);
            }
            let from = std::mem::take(self.tree.node_mut(from));
            let node = self.tree.node_mut(into);
            node.hides_self = node.hides_self.max(from.hides_self);
            node.hides_children = node.hides_children.max(from.hides_children);
            node.entry = node.entry.max(from.entry);
            node.implied = node.implied.max(from.implied);
            for (name, child) in from.children {
                let known = self.tree.child_or_new(into, &name)?;
                joined.push((known, next, name, depth + 1));
                sources.push(child);
            }
            next += 1;
        }
        for (at, &(id, ..)) in joined.iter().enumerate().rev() {
            let Some((target, entered)) = self.settle(id) else { continue };
            let mut names = Vec::new();
            let mut at = at;
            while at > 0
                && let Some((_, above, name, _)) = joined.get(at)
            {
                names.push(&name[..]);
                at = *above;
            }
            names.push(path);
            names.reverse();
            self.relocate(id, &names.join(&b'/'), &target, entered)?;
        }
        Ok(())
    }

    /// Has the joined claims of one path take effect. What is below a symbolic link remains to be moved: the link's
    /// target and time.
    fn settle(&mut self, id: NodeId) -> Option<(Box<[u8]>, Time)> {
        let floor = self.tree.node(id).hides_children;
        self.tree.prune_children(id, floor);
        let node = self.tree.node_mut(id);
        if node.implied < node.hides_self {
            node.implied = Time::NEVER;
        }
        let (time, inode) = node.entry?;
        let implied = node.implied > time;
        if time < node.hides_self {
            self.tree.node_mut(id).entry = None;
            return None;
        }
        match &self.tree.inode(inode).kind {
            Kind::Directory => None,
            Kind::Symlink(target) => Some((target.clone(), time)),
            _ => {
                if implied || self.tree.has_live_children(id) {
                    self.tree.node_mut(id).entry = None;
                }
                None
            }
        }
    }
}

/// Takes an empty, `.` or `..` component out of a path whose front is free of links.
fn splice(path: &mut Vec<u8>, start: usize, end: usize) {
    let up = path.get(start..end) == Some(b"..");
    let keep = if up {
        let parent = path.get(..start.saturating_sub(1)).unwrap_or_default();
        parent.iter().rposition(|&byte| byte == b'/').map_or(0, |slash| slash + 1)
    } else {
        start
    };
    let rest = (end + 1).min(path.len());
    path.drain(keep..rest);
}

/// Replaces the symbolic link at `start..end` by where it leads.
fn redirect(path: &mut Vec<u8>, start: usize, end: usize, target: &[u8]) -> Result<(), Problem> {
    let front = if target.starts_with(b"/") { 0 } else { start };
    if path.len() + target.len() > PATH_MAX {
        return Err(Problem::PathTooLong);
    }
    path.splice(front..end, target.iter().copied());
    Ok(())
}
