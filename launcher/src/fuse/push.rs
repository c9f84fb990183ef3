//! Putting data into the page cache that nobody has asked for yet (`FUSE_NOTIFY_STORE`).
//!
//! A push waits for a page's lock, which a READ that is under way holds until it is answered. So pushes are made by a
//! thread that answers nothing, and whoever answers never waits for it: what does not fit into the queue is dropped.

use std::collections::VecDeque;
use std::io;
use std::ops::Range;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use coracle_squashfs::format::InodeRef;
use coracle_squashfs::reader::Block;

use super::control::Control;
use super::device::Device;
use super::known::Tail;
use super::node::Node;
use super::protocol::{NotifyStoreOut, notify};

/// Bytes of blocks that may wait in the queue.
const WAITING_MAX: usize = 2 << 20;
/// Pushes must start and end at pages, but at the end of the file. Larger pages only exist where blocks are larger, too:
/// mksquashfs makes blocks of 4 KiB and up, and a push that covers no whole page does nothing.
const PAGE: usize = 4096;

/// How often, and in which intervals, a push is tried that the kernel may not be ready for.
const TRIES: usize = 4;
const BETWEEN: Duration = Duration::from_micros(30);

/// Something to be pushed.
pub(super) enum Job {
    /// Small files and ends of files out of one fragment block.
    Tails { block: Block, tails: Vec<Tail> },
    /// A block of a file, without the part that has been asked for.
    Rest { node: u64, at: u64, block: Block, asked: Range<usize> },
    /// A block that has yet to be unpacked.
    Ahead { inode: InodeRef, index: u64 },
    /// A fragment block that has yet to be unpacked.
    AheadFragment { fragment: u32 },
}

/// Jobs on their way to the thread that pushes.
#[derive(Default)]
pub(super) struct Queue {
    state: Mutex<State>,
    filled: Condvar,
}

#[derive(Default)]
struct State {
    jobs: VecDeque<Job>,
    is_closed: bool,
}

impl Queue {
    /// Adds a job, or returns false if too many wait.
    pub(super) fn put(&self, job: Job, block_size: u32) -> bool {
        let mut state = self.lock();
        if state.is_closed || state.jobs.len() >= (WAITING_MAX / block_size as usize).clamp(2, 64) {
            return false;
        }
        state.jobs.push_back(job);
        let is_first = state.jobs.len() == 1;
        drop(state);
        if is_first {
            self.filled.notify_one();
        }
        true
    }

    /// Ends the thread.
    pub(super) fn close(&self) {
        let mut state = self.lock();
        state.is_closed = true;
        state.jobs.clear();
        drop(state);
        self.filled.notify_all();
    }

    fn take(&self) -> Option<Job> {
        let mut state = self.lock();
        loop {
            if state.is_closed {
                return None;
            }
            if let Some(job) = state.jobs.pop_front() {
                return Some(job);
            }
            state = self.filled.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The life of the thread that pushes.
pub(super) fn run(control: &Control, device: &Device) {
    while let Some(job) = control.queue.take() {
        let pusher = Pusher { control, device };
        match job {
            Job::Tails { block, tails } => pusher.tails(&block, &tails),
            Job::Rest { node, at, block, asked } => pusher.rest(node, at, &block, asked),
            Job::Ahead { inode, index } => pusher.ahead_soon(inode, index),
            Job::AheadFragment { fragment } => pusher.ahead_fragment(fragment),
        }
    }
}

/// Pushes from any thread that answers no requests.
pub(super) struct Pusher<'a> {
    pub(super) control: &'a Control,
    pub(super) device: &'a Device,
}

impl Pusher<'_> {
    fn tails(&self, block: &Block, tails: &[Tail]) {
        let whole = block.whole().unwrap_or_default();
        for tail in tails {
            let start = tail.start as usize;
            if let Some(data) = whole.get(start..start.saturating_add(tail.len as usize)) {
                self.store(tail.node, tail.at, data);
            }
        }
    }

    fn rest(&self, node: u64, at: u64, block: &Block, asked: Range<usize>) {
        // Holes are made of nothing: reading one costs little, and most are never read.
        let Some(bytes) = block.bytes() else { return };
        let before = asked.start / PAGE * PAGE;
        let after = asked.end.next_multiple_of(PAGE);
        let mut is_known = true;
        for (start, end) in [(after, bytes.len()), (0, before)] {
            if start < end
                && let Some(data) = bytes.get(start..end)
            {
                is_known &= self.store(node, at + start as u64, data);
            }
        }
        if is_known {
            // The kernel has all of it. Its memory is of more use for the next block: touching new memory is dear.
            self.control.tree.image.release(block);
        }
    }

    /// Unpacks block `index` of a file, if that is not done yet, and pushes it; false if the kernel does not know the file.
    /// With a fragment block comes all that waits for it. What is damaged is reported when it is asked for.
    pub(super) fn ahead(&self, inode: InodeRef, index: u64) -> bool {
        let tree = &self.control.tree;
        let Ok(inode) = tree.image.inode(inode) else { return false };
        let Ok(block) = tree.image.block(&inode, index) else { return false };
        let Some(bytes) = block.bytes() else { return true };
        let at = index * u64::from(tree.common.block_size);
        let is_known = self.store(tree.id(Node::Image(inode.reference)), at, bytes);
        if is_known {
            match block.stored().fragment {
                Some(fragment) => self.tails(&block, &self.control.known.take(fragment)),
                None => {
                    self.control.recent.is_new(block.stored());
                    tree.image.release(&block);
                }
            }
        }
        is_known
    }

    /// The same for a file that the kernel has just been told of. It takes notice when the one who asked for it has run.
    fn ahead_soon(&self, inode: InodeRef, index: u64) {
        for _ in 0..TRIES {
            if self.ahead(inode, index) {
                return;
            }
            thread::sleep(BETWEEN);
        }
    }

    fn ahead_fragment(&self, fragment: u32) {
        if let Ok(block) = self.control.tree.image.fragment_block(fragment) {
            self.tails(&block, &self.control.known.take(fragment));
        }
    }

    /// Pushes bytes of a file; false if the kernel does not take them.
    fn store(&self, node: u64, offset: u64, data: &[u8]) -> bool {
        let Ok(size) = u32::try_from(data.len()) else { return false };
        let argument = NotifyStoreOut { nodeid: node, offset, size, padding: 0 };
        let counters = &self.control.counters;
        match self.device.notify(notify::STORE, &argument, &[data]) {
            Ok(()) => {
                counters.pushes.fetch_add(1, Relaxed);
                counters.pushed_bytes.fetch_add(size.into(), Relaxed);
                true
            }
            // ENOENT: the kernel has let go of the file. Any other error is no reason to stop serving, either: what is not
            // pushed will be asked for.
            Err(error) => {
                counters.refused.fetch_add(1, Relaxed);
                debug_assert!(error.kind() != io::ErrorKind::InvalidInput, "the kernel takes no such push: {error}");
                false
            }
        }
    }
}
