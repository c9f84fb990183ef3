//! Files that the kernel knows, by where the image has their data: those that may be pushed.
//!
//! Only an inode that the kernel has in memory takes a push. It has those that LOOKUP and READDIRPLUS told it of; which
//! of them it has dropped since is not followed: it then refuses the push, which costs a system call.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use coracle_squashfs::format::InodeRef;
use coracle_squashfs::reader::Inode;

/// Tails that are kept, of 24 bytes each, and starts of data.
const TAILS_MAX: usize = 1 << 16;
const STARTS_MAX: usize = 1 << 14;

/// A file's tail in a fragment block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tail {
    pub(super) node: u64,
    /// First byte in the unpacked fragment block.
    pub(super) start: u32,
    /// Bytes, at least one.
    pub(super) len: u32,
    /// First byte in the file, a multiple of the block size.
    pub(super) at: u64,
}

/// All files that wait to be pushed.
#[derive(Debug, Default)]
pub(super) struct Known {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// By fragment block, each sorted by place in it.
    tails: HashMap<u32, Vec<Tail>>,
    /// Fragment blocks in the order in which their first file became known.
    order: VecDeque<u32>,
    count: usize,
    /// Files with data blocks of their own, by the position of the first.
    starts: BTreeMap<u64, InodeRef>,
}

impl Known {
    /// Takes note of a regular file that the kernel has been told of as node `id`.
    pub(super) fn add(&self, id: u64, inode: &Inode, block_size: u32) {
        let size = inode.size();
        let mut state = self.lock();
        if let Some((fragment, start)) = inode.fragment() {
            let len = (size % u64::from(block_size)) as u32;
            if len > 0 {
                state.add(fragment, Tail { node: id, start, len, at: size - u64::from(len) });
            }
        }
        if let Some(start) = inode.data_start(block_size)
            && state.starts.len() < STARTS_MAX
        {
            state.starts.insert(start, inode.reference);
        }
    }

    /// The files that wait for fragment block `index`, which do so no more.
    pub(super) fn take(&self, index: u32) -> Vec<Tail> {
        let mut state = self.lock();
        let tails = state.tails.remove(&index).unwrap_or_default();
        state.count -= tails.len();
        tails
    }

    /// The file whose data is the first in `range` of the image.
    pub(super) fn next_start(&self, range: std::ops::Range<u64>) -> Option<(u64, InodeRef)> {
        self.lock().starts.range(range).next().map(|(position, inode)| (*position, *inode))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn add(&mut self, fragment: u32, tail: Tail) {
        while self.count >= TAILS_MAX {
            let Some(oldest) = self.order.pop_front() else { return };
            self.count -= self.tails.remove(&oldest).map_or(0, |tails| tails.len());
        }
        let tails = self.tails.entry(fragment).or_insert_with(|| {
            // Taken ones leave their place in the order behind; it must not grow without end.
            if self.order.len() >= TAILS_MAX {
                self.order.pop_front();
            }
            self.order.push_back(fragment);
            Vec::new()
        });
        let key = (tail.start, tail.node);
        if let Err(place) = tails.binary_search_by_key(&key, |tail| (tail.start, tail.node)) {
            tails.insert(place, tail);
            self.count += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tail(node: u64, start: u32) -> Tail {
        Tail { node, start, len: 1, at: 0 }
    }

    #[test]
    fn each_file_waits_once_and_is_taken_once() {
        let known = Known::default();
        for tail in [tail(1, 50), tail(2, 10), tail(1, 50)] {
            known.lock().add(7, tail);
        }
        assert_eq!(known.take(7), [tail(2, 10), tail(1, 50)]);
        assert!(known.take(7).is_empty());
        assert_eq!(known.lock().count, 0);
    }

    #[test]
    fn memory_is_bounded_and_the_oldest_go() {
        let known = Known::default();
        for number in 0..TAILS_MAX as u64 * 3 {
            known.lock().add((number / 100) as u32, tail(number, number as u32));
        }
        assert!(known.lock().count <= TAILS_MAX);
        assert!(known.take(0).is_empty());
        assert_eq!(known.take((TAILS_MAX * 3 / 100 - 1) as u32).len(), 100);
        for number in 0..TAILS_MAX as u32 * 2 {
            known.lock().add(number, tail(1, 1));
            known.take(number);
        }
        assert!(known.lock().order.len() <= TAILS_MAX);
    }
}
