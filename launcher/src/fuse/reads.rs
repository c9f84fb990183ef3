//! Answers to READ, straight from unpacked blocks, and what follows from them for what will be read next.

use std::ops::Range;

use coracle_squashfs::reader::{Block, Inode};
use rustix::io::Errno;

use super::READ_MAX;
use super::answer::{Answered, Lead, Worker};
use super::protocol::{ReadIn, Request};
use super::push::Job;
use super::tree::{FileBytes, Tree};

/// What holes are sent from.
static ZEROS: [u8; 1 << 16] = [0; 1 << 16];

/// What is asked of a file.
struct Wanted {
    node: u64,
    inode: Inode,
    range: Range<u64>,
}

impl Worker<'_> {
    pub(super) fn read(&mut self, request: &Request<'_>, lead: &mut dyn Lead) -> Answered {
        let argument: ReadIn = request.argument().ok_or(Errno::INVAL)?;
        let node = request.header.nodeid;
        let inode = match self.control.tree.file(node)? {
            FileBytes::Image(inode) => inode,
            FileBytes::Made(content) => {
                let range = clip(&argument, content.len() as u64);
                let bytes = content.get(range.start as usize..range.end as usize).unwrap_or_default();
                self.sent(self.device.reply(request.header.unique, &[bytes]));
                return Ok(());
            }
        };
        let range = clip(&argument, inode.size());
        if range.is_empty() {
            self.sent(self.device.reply(request.header.unique, &[]));
            return Ok(());
        }
        let mut blocks = std::mem::take(&mut self.blocks);
        let wanted = Wanted { node, inode, range };
        let answered = self.read_blocks(request.header.unique, &wanted, &mut blocks, lead);
        // The blocks' memory goes back now: it is the next request's.
        blocks.clear();
        self.blocks = blocks;
        answered
    }

    fn read_blocks(
        &self,
        unique: u64,
        wanted: &Wanted,
        blocks: &mut Vec<Option<Block>>,
        lead: &mut dyn Lead,
    ) -> Answered {
        let tree = &self.control.tree;
        let block_size = u64::from(tree.common.block_size);
        let (first, last) = (wanted.range.start / block_size, (wanted.range.end - 1) / block_size);
        for index in first..=last {
            blocks.push(tree.image.ready_block(&wanted.inode, index)?);
        }
        let mut fresh = 0_u64;
        if blocks.iter().any(Option::is_none) {
            lead.before_work();
            for (index, slot) in (first..).zip(&mut *blocks) {
                if slot.is_none() {
                    *slot = Some(unpack(tree, wanted, index)?);
                    fresh |= 1_u64.checked_shl((index - first) as u32).unwrap_or_default();
                }
            }
        }
        let mut parts: Vec<&[u8]> = Vec::with_capacity(blocks.len());
        for (index, block) in (first..).zip(blocks.iter().flatten()) {
            let part = part_of(wanted, index, block_size, block.len());
            match block.bytes() {
                Some(bytes) => parts.push(bytes.get(part).unwrap_or_default()),
                None => parts.extend(zeros(part.len()).map(|zeros: &[u8]| zeros)),
            }
        }
        self.sent(self.device.reply(unique, &parts));
        self.count_read(wanted.range.end - wanted.range.start);
        for (index, block) in (first..).zip(blocks.iter().flatten()) {
            let is_fresh = fresh & 1_u64.checked_shl((index - first) as u32).unwrap_or_default() != 0;
            self.after(wanted, index, block, is_fresh);
        }
        Ok(())
    }

    /// Sees to what a block that was read brings along.
    fn after(&self, wanted: &Wanted, index: u64, block: &Block, is_fresh: bool) {
        let control = self.control;
        let (stored, block_size) = (block.stored(), control.tree.common.block_size);
        let part = part_of(wanted, index, block_size.into(), block.len());
        if let Some(recorder) = &control.recorder {
            let start = index * u64::from(block_size) + part.start as u64;
            recorder.note(wanted.inode.reference, index, stored.fragment, (start, part.len() as u64));
        }
        if let Some(fragment) = stored.fragment {
            if control.switches.push_fragments {
                let mut tails = control.known.take(fragment);
                let is_whole = part.len() == block.len();
                tails.retain(|tail| !(is_whole && tail.node == wanted.node));
                if !tails.is_empty() {
                    self.push(Job::Tails { block: block.clone(), tails });
                }
            }
        } else if control.switches.push_rest
            && !block.is_hole()
            && part.len() < block.len()
            && (control.recent.is_new(stored) || is_fresh)
        {
            let at = index * u64::from(block_size);
            self.push(Job::Rest { node: wanted.node, at, block: block.clone(), asked: part });
        }
        if is_fresh && control.switches.readahead {
            let is_last = (index + 1) * u64::from(block_size) + u64::from(block_size) > wanted.inode.size();
            if let Some(job) = control.order.follow(stored, is_last, &control.known) {
                self.push(job);
            }
        }
    }
}

/// The bytes asked for that the file has.
fn clip(argument: &ReadIn, size: u64) -> Range<u64> {
    let start = argument.offset.min(size);
    let length = u64::from(argument.size.min(READ_MAX));
    start..start.saturating_add(length).min(size)
}

/// The part of block `index`, which has `len` bytes, that is wanted.
fn part_of(wanted: &Wanted, index: u64, block_size: u64, len: usize) -> Range<usize> {
    let at = index * block_size;
    let start = (wanted.range.start.saturating_sub(at) as usize).min(len);
    let end = usize::try_from(wanted.range.end.saturating_sub(at)).unwrap_or(usize::MAX).min(len);
    start..end
}

/// A block that is wanted as a whole is not asked for again, since the kernel keeps it; of any other, the rest may be.
fn unpack(tree: &Tree, wanted: &Wanted, index: u64) -> Result<Block, coracle_squashfs::reader::Error> {
    let block_size = u64::from(tree.common.block_size);
    let at = index * block_size;
    let end = (at + block_size).min(wanted.inode.size());
    if wanted.range.start <= at && wanted.range.end >= end {
        tree.image.passing_block(&wanted.inode, index)
    } else {
        tree.image.block(&wanted.inode, index)
    }
}

fn zeros(mut length: usize) -> impl Iterator<Item = &'static [u8]> {
    std::iter::from_fn(move || {
        let part = ZEROS.get(..length.min(ZEROS.len())).filter(|part| !part.is_empty())?;
        length -= part.len();
        Some(part)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zeros_add_up() {
        for length in [0, 1, ZEROS.len(), ZEROS.len() + 1, 5 * ZEROS.len() - 7] {
            assert_eq!(zeros(length).map(<[u8]>::len).sum::<usize>(), length);
        }
    }

    #[test]
    fn requests_are_clipped_to_the_file() {
        let argument =
            |offset, size| ReadIn { fh: 0, offset, size, read_flags: 0, lock_owner: 0, flags: 0, padding: 0 };
        assert_eq!(clip(&argument(10, 20), 100), 10..30);
        assert_eq!(clip(&argument(90, 20), 100), 90..100);
        assert_eq!(clip(&argument(u64::MAX, u32::MAX), 100), 100..100);
        assert_eq!(clip(&argument(0, u32::MAX), u64::MAX), 0..u64::from(READ_MAX));
    }
}
