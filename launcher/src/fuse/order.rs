//! Whether files are read in the order in which the image has them, and what comes next if so.
//!
//! Within a file the kernel reads ahead by itself; it knows of no order among files. Where files are read in the image's
//! order (a copy, a search, a checksum), the next file's first block and the next fragment block can be had while the
//! reader is busy with this one. Anywhere else it would be work for nothing, so it is only done after a while.

use std::sync::{Mutex, PoisonError};

use coracle_squashfs::reader::Stored;

use super::known::Known;
use super::push::Job;

/// Bytes by which a block may lie behind the one before it and still be in order: fragment blocks lie between.
const GAP: u64 = 1 << 20;
/// Blocks in order before anything is unpacked ahead.
const PATIENCE: u32 = 3;

/// What has been read lately.
#[derive(Debug, Default)]
pub(super) struct Order(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// End of the last data block, and how many have been in order.
    end: u64,
    blocks: u32,
    /// The last fragment block, and the same.
    fragment: u32,
    fragments: u32,
}

impl Order {
    /// Takes note of a block that has just been unpacked, and says what to unpack next. `is_last` says that it is the last
    /// data block of its file.
    pub(super) fn follow(&self, stored: Stored, is_last: bool, known: &Known) -> Option<Job> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(fragment) = stored.fragment {
            let is_next = (1..=2).contains(&fragment.wrapping_sub(state.fragment));
            state.fragments = if is_next { state.fragments.saturating_add(1) } else { 0 };
            state.fragment = fragment;
            return (state.fragments >= PATIENCE).then(|| Job::AheadFragment { fragment: fragment.wrapping_add(1) });
        }
        let end = stored.position.saturating_add(stored.size.into());
        let is_next = stored.position.checked_sub(state.end).is_some_and(|gap| gap <= GAP);
        state.blocks = if is_next { state.blocks.saturating_add(1) } else { 0 };
        state.end = end;
        if state.blocks < PATIENCE || !is_last {
            return None;
        }
        drop(state);
        let (_, inode) = known.next_start(end..end.saturating_add(GAP))?;
        Some(Job::Ahead { inode, index: 0 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fragment(index: u32) -> Stored {
        Stored { position: 0, size: 1, fragment: Some(index) }
    }

    #[test]
    fn only_what_is_read_in_order_goes_on() {
        let (order, known) = (Order::default(), Known::default());
        let mut ahead = |index| match order.follow(fragment(index), true, &known) {
            Some(Job::AheadFragment { fragment }) => Some(fragment),
            _ => None,
        };
        assert_eq!([7, 8, 9].map(&mut ahead), [None; 3]);
        assert_eq!([10, 12, 14].map(&mut ahead), [Some(11), Some(13), Some(15)]);
        assert_eq!([3, 90, 14, 15, 16].map(&mut ahead), [None; 5]);
        assert_eq!(ahead(17), Some(18));
    }
}
