//! Data on its way to the image: buffers, the threads that compress them, and their order.
//!
//! The producer takes a buffer from the pool, fills it, and sends it twice over: the block to whichever worker is
//! free, and the place where its result will appear to the in-order stage ([`super::store`]), which waits for the
//! results one after another, writes them and puts the buffers back. Nothing waits upstream: workers wait for jobs
//! alone, the in-order stage for a job that is already queued, the producer for a buffer that is on its way back. So
//! there is no cycle, and memory is bounded by the number of buffers.

use super::store::{Store, Stored};
use super::{Error, WriterOptions};
use crate::compress::{CodecError, Compress};
use crate::format::DATA_UNCOMPRESSED;
use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use std::collections::HashMap;
use std::fs::File;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

/// Buffers per worker: enough that neither a slow block at the head of the line nor a producer that is waiting for
/// its own input leaves a worker idle.
const BUFFERS_PER_WORKER: usize = 64;
/// What the buffers of all workers may take together, unless there are so many workers that each has just four.
const BUFFER_BYTES: usize = 32 << 20;
/// Blocks remembered for being found again before they are compressed; 24 MiB of memory at most.
const KNOWN_BLOCKS: usize = 1 << 18;
/// Messages under way to the in-order stage that hold no buffer.
const MESSAGES: usize = 4096;

/// BLAKE3: about twice as fast as SHA-256 with processor support, ten times without.
pub(super) type Digest = [u8; 32];

/// One block's worth of memory. `data` always has the full block size; `len` bytes of it mean something.
pub(super) struct Buffer {
    pub(super) data: Box<[u8]>,
    pub(super) len: usize,
}

impl Buffer {
    pub(super) fn filled(&self) -> &[u8] {
        self.data.get(..self.len).unwrap_or_default()
    }

    /// Copies as much as fits and returns how much that was.
    pub(super) fn push(&mut self, bytes: &[u8]) -> usize {
        let room = self.data.get_mut(self.len..).unwrap_or_default();
        let n = room.len().min(bytes.len());
        if let (Some(to), Some(from)) = (room.get_mut(..n), bytes.get(..n)) {
            to.copy_from_slice(from);
        }
        self.len += n;
        n
    }

    /// Appends zeros and returns how many fitted.
    pub(super) fn push_zeros(&mut self, count: u64) -> usize {
        let room = self.data.get_mut(self.len..).unwrap_or_default();
        let n = usize::try_from(count).unwrap_or(usize::MAX).min(room.len());
        room.get_mut(..n).unwrap_or_default().fill(0);
        self.len += n;
        n
    }
}

/// Where a block's bytes are, once a worker has seen it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// Nothing but zeros.
    Hole,
    /// In the buffer.
    Here,
    /// In the image already, at this position.
    Image(u64),
}

/// A worker's result.
pub(super) struct Packed {
    pub(super) buffer: Buffer,
    pub(super) place: Place,
    /// Stored size with [`DATA_UNCOMPRESSED`], as the format has it; 0 for a hole.
    pub(super) size: u32,
    /// Of the block as it came; zeros for a fragment block.
    pub(super) digest: Digest,
}

/// What the in-order stage is told, in the order of the image.
pub(super) enum Message {
    /// A block of the current file.
    Block(Receiver<Result<Packed, CodecError>>),
    /// A fragment block, which belongs to no file.
    Fragment(Receiver<Result<Packed, CodecError>>),
    /// This many blocks of nothing in the current file.
    Holes(u32),
    /// The current file is complete and has this size.
    EndFile(u64),
    /// The current file is given up.
    Abandon,
}

struct Job {
    buffer: Buffer,
    fragment: bool,
    reply: Sender<Result<Packed, CodecError>>,
}

/// Blocks of finished files by the digest of their content: position and stored size.
#[derive(Default)]
pub(super) struct KnownBlocks(Mutex<HashMap<Digest, (u64, u32)>>);

impl KnownBlocks {
    fn get(&self, digest: &Digest) -> Option<(u64, u32)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(digest).copied()
    }

    pub(super) fn add(&self, blocks: impl Iterator<Item = (Digest, u64, u32)>) {
        let mut map = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for (digest, position, size) in blocks {
            if map.len() >= KNOWN_BLOCKS {
                break;
            }
            map.entry(digest).or_insert((position, size));
        }
    }
}

/// What all threads share.
pub(super) struct Shared {
    pub(super) known: KnownBlocks,
    /// Set when the results are no longer wanted, so that queued jobs end at once.
    cancelled: AtomicBool,
}

/// The running threads, as the producer sees them.
pub(super) struct Pipeline {
    shared: Arc<Shared>,
    /// `None` once everything has been sent.
    senders: Option<(Sender<Job>, Sender<Message>)>,
    pool: Receiver<Buffer>,
    /// From an abandoned file.
    spare: Option<Buffer>,
    workers: Vec<JoinHandle<()>>,
    store: Option<JoinHandle<Result<Stored, Error>>>,
}

impl Pipeline {
    pub(super) fn start(file: Arc<File>, position: u64, options: &WriterOptions) -> Result<Self, Error> {
        let block_size = options.block_size as usize;
        let threads = options.threads.get();
        let per_worker = (BUFFER_BYTES / block_size / threads).clamp(4, BUFFERS_PER_WORKER);
        // The producer holds up to three: a file's block, the fragment block, the next fragment block.
        let count = threads.saturating_mul(per_worker).saturating_add(3);
        let (free, pool) = bounded(count);
        for _ in 0..count {
            let buffer = Buffer { data: vec![0; block_size].into(), len: 0 };
            free.send(buffer).map_err(|_| Error::Failed)?;
        }
        let (jobs, job_queue) = unbounded::<Job>();
        let (messages, message_queue) = bounded(MESSAGES);
        let shared = Arc::new(Shared { known: KnownBlocks::default(), cancelled: AtomicBool::new(false) });
        // From here on dropping the pipeline ends the threads that exist.
        let mut pipeline = Self {
            shared: shared.clone(),
            senders: Some((jobs, messages)),
            pool,
            spare: None,
            workers: Vec::new(),
            store: None,
        };
        for _ in 0..threads {
            let compressor = options.compression.compressor(options.block_size)?;
            let (queue, shared) = (job_queue.clone(), shared.clone());
            let worker = spawn("compressor", move || work(&queue, compressor, &shared))?;
            pipeline.workers.push(worker);
        }
        let store = Store::new(file, position, options.block_size, shared, free);
        pipeline.store = Some(spawn("output", move || store.run(&message_queue))?);
        Ok(pipeline)
    }

    /// An empty buffer, as soon as there is one.
    pub(super) fn buffer(&mut self) -> Result<Buffer, Error> {
        let buffer = self.spare.take().map_or_else(|| self.pool.recv(), Ok);
        match buffer {
            Ok(mut buffer) => {
                buffer.len = 0;
                Ok(buffer)
            }
            Err(_) => Err(self.failure()),
        }
    }

    /// Queues a block of the current file.
    pub(super) fn block(&mut self, buffer: Buffer) -> Result<(), Error> {
        self.submit(buffer, false)
    }

    /// Queues a fragment block.
    pub(super) fn fragment(&mut self, buffer: Buffer) -> Result<(), Error> {
        self.submit(buffer, true)
    }

    fn submit(&mut self, buffer: Buffer, fragment: bool) -> Result<(), Error> {
        let (reply, result) = bounded(1);
        let sent = match &self.senders {
            Some((jobs, _)) => jobs.send(Job { buffer, fragment, reply }).is_ok(),
            None => false,
        };
        if !sent {
            return Err(self.failure());
        }
        self.message(if fragment { Message::Fragment(result) } else { Message::Block(result) })
    }

    pub(super) fn message(&mut self, message: Message) -> Result<(), Error> {
        match &self.senders {
            Some((_, messages)) if messages.send(message).is_ok() => Ok(()),
            _ => Err(self.failure()),
        }
    }

    /// Gives the current file up. A failure shows at the next call.
    pub(super) fn abandon(&mut self, buffer: Option<Buffer>) {
        self.spare = buffer.or(self.spare.take());
        if let Some((_, messages)) = &self.senders {
            let _ = messages.send(Message::Abandon);
        }
    }

    /// Waits until everything is in the image.
    pub(super) fn finish(mut self) -> Result<Stored, Error> {
        self.senders = None;
        self.join()
    }

    fn join(&mut self) -> Result<Stored, Error> {
        let store = self.store.take().ok_or(Error::Failed)?;
        store.join().unwrap_or(Err(Error::ThreadDied("output")))
    }

    /// Why the other end of a channel is gone: the in-order stage's error, once; [`Error::Failed`] after that.
    fn failure(&mut self) -> Error {
        self.stop();
        match self.join() {
            Err(error) => error,
            Ok(_) => Error::Failed,
        }
    }

    fn stop(&mut self) {
        self.shared.cancelled.store(true, Ordering::Relaxed);
        self.senders = None;
    }
}

impl Drop for Pipeline {
    fn drop(&mut self) {
        self.stop();
        let _ = self.join();
        for worker in self.workers.drain(..) {
            let _ = worker.join();
        }
    }
}

fn spawn<T: Send + 'static>(
    thread: &'static str,
    body: impl FnOnce() -> T + Send + 'static,
) -> Result<JoinHandle<T>, Error> {
    let builder = std::thread::Builder::new().name(format!("squashfs-{thread}"));
    builder.spawn(body).map_err(|cause| Error::Thread { thread, cause })
}

fn work(queue: &Receiver<Job>, mut compressor: Box<dyn Compress>, shared: &Shared) {
    let mut scratch = Vec::new();
    for Job { buffer, fragment, reply } in queue {
        if shared.cancelled.load(Ordering::Relaxed) {
            continue;
        }
        // A failed send means that the result is no longer wanted.
        let _ = reply.send(pack(buffer, fragment, &mut *compressor, &mut scratch, &shared.known));
    }
}

fn pack(
    mut buffer: Buffer,
    fragment: bool,
    compressor: &mut dyn Compress,
    scratch: &mut Vec<u8>,
    known: &KnownBlocks,
) -> Result<Packed, CodecError> {
    let mut digest = Digest::default();
    if !fragment {
        if is_zero(buffer.filled()) {
            return Ok(Packed { buffer, place: Place::Hole, size: 0, digest });
        }
        digest = digest_of(buffer.filled());
        if let Some((position, size)) = known.get(&digest) {
            return Ok(Packed { buffer, place: Place::Image(position), size, digest });
        }
    }
    let size = if compressor.compress(buffer.filled(), scratch)? {
        // The scratch memory stays with the worker and in its cache; what is left to copy is small.
        buffer.len = 0;
        buffer.push(scratch);
        buffer.len as u32
    } else {
        buffer.len as u32 | DATA_UNCOMPRESSED
    };
    Ok(Packed { buffer, place: Place::Here, size, digest })
}

pub(super) fn digest_of(bytes: &[u8]) -> Digest {
    blake3::hash(bytes).into()
}

/// Whether all bytes are zero; stops at the first that is not.
pub(super) fn is_zero(bytes: &[u8]) -> bool {
    // Comparing the slice with itself, one byte on, is one memcmp.
    match bytes {
        [] => true,
        [first, rest @ ..] => *first == 0 && rest == bytes.get(..rest.len()).unwrap_or_default(),
    }
}
