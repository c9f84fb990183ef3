//! Which blocks a program needs, in which order: what a profile is made of.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use coracle_squashfs::format::InodeRef;
use serde::Serialize;

/// Blocks that are recorded, at most; a profile of more would not fit into any cache.
const TOUCHES_MAX: usize = 1 << 14;
/// Ranges that are kept of one block.
const RANGES_MAX: usize = 64;

/// A block of the image, by the file through which it was first needed, and what was asked of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Touch {
    /// The file's inode (`InodeRef.0`).
    pub inode: u64,
    /// Number of the block in the file.
    pub block: u64,
    /// Index of the fragment block, if the block is a tail in one.
    pub fragment: Option<u32>,
    /// What was asked for in this file, as offset and length in bytes, in order; at most 64 ranges.
    pub ranges: Vec<(u64, u64)>,
}

/// Takes note of what READ asks for.
#[derive(Debug, Default)]
pub(super) struct Recorder(Mutex<Touched>);

#[derive(Debug, Default)]
struct Touched {
    touches: Vec<Touch>,
    places: HashMap<(u64, u64), usize>,
}

impl Recorder {
    /// Takes note of a READ of block `block` of a file; of a block that exceeds the bounds, it takes none.
    pub(super) fn note(&self, inode: InodeRef, block: u64, fragment: Option<u32>, range: (u64, u64)) {
        let mut guard = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let touched = &mut *guard;
        let next = touched.touches.len();
        if next >= TOUCHES_MAX && !touched.places.contains_key(&(inode.0, block)) {
            return;
        }
        let place = *touched.places.entry((inode.0, block)).or_insert(next);
        match touched.touches.get_mut(place) {
            Some(touch) if touch.ranges.len() < RANGES_MAX => touch.ranges.push(range),
            None => {
                touched.touches.push(Touch { inode: inode.0, block, fragment, ranges: vec![range] });
            }
            Some(_) => {}
        }
    }

    pub(super) fn touched(&self) -> Vec<Touch> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).touches.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_listed_in_the_order_of_their_first_use() {
        let recorder = Recorder::default();
        recorder.note(InodeRef(5), 1, None, (131_072, 4096));
        recorder.note(InodeRef(3), 0, Some(2), (0, 10));
        recorder.note(InodeRef(5), 1, None, (200_000, 4096));
        let touched = recorder.touched();
        assert_eq!(touched.iter().map(|touch| (touch.inode, touch.block)).collect::<Vec<_>>(), [(5, 1), (3, 0)]);
        assert_eq!(touched[0].ranges, [(131_072, 4096), (200_000, 4096)]);
        assert_eq!(touched[1].fragment, Some(2));
        (0..200).for_each(|_| recorder.note(InodeRef(3), 0, Some(2), (0, 10)));
        assert_eq!(recorder.touched()[1].ranges.len(), RANGES_MAX);
    }
}
