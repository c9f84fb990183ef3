//! Memory for unpacked blocks, used again and again.
//!
//! A block is as large as the allocator's limit for mappings of their own, so that freeing one gives its pages back and
//! the next one faults them in anew, which costs a third of unpacking it.

use std::sync::{Arc, Mutex, PoisonError};

/// Buffers kept for later, at most: about as many as threads can be unpacking at once.
const SPARE_MAX: usize = 8;

/// Where buffers go when they are dropped.
pub(super) struct Pool {
    /// Bytes of each buffer.
    size: usize,
    spare: Mutex<Vec<Box<[u8]>>>,
}

/// A buffer with a block in its front; it goes back to its pool.
pub(super) struct Buffer {
    bytes: Box<[u8]>,
    len: usize,
    pool: Arc<Pool>,
}

impl Pool {
    pub(super) fn new(size: usize) -> Arc<Self> {
        Arc::new(Self { size, spare: Mutex::new(Vec::new()) })
    }

    /// A buffer of this length, at most the pool's size. What is in it is from earlier blocks.
    pub(super) fn take(self: &Arc<Self>, len: usize) -> Buffer {
        let spare = self.lock().pop();
        let bytes = spare.unwrap_or_else(|| vec![0; self.size].into_boxed_slice());
        Buffer { len: len.min(bytes.len()), bytes, pool: Arc::clone(self) }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Box<[u8]>>> {
        self.spare.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Buffer {
    pub(super) const fn len(&self) -> usize {
        self.len
    }

    /// Shortens the buffer to what is valid in it.
    pub(super) fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[..self.len]
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let bytes = std::mem::take(&mut self.bytes);
        let mut spare = self.pool.lock();
        if spare.len() < SPARE_MAX {
            spare.push(bytes);
        }
    }
}

impl std::fmt::Debug for Buffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Buffer").field("len", &self.len).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_used_again_and_spares_are_few() {
        let pool = Pool::new(4096);
        let mut first = pool.take(4096);
        first.bytes_mut().fill(7);
        let address = first.bytes().as_ptr();
        first.truncate(10);
        assert_eq!(first.bytes(), [7; 10]);
        drop(first);
        let again = pool.take(100);
        assert_eq!((again.bytes().as_ptr(), again.len()), (address, 100));
        drop((0..100).map(|_| pool.take(1)).collect::<Vec<_>>());
        assert_eq!(pool.lock().len(), SPARE_MAX);
    }
}
