//! One layer as a verified stream of uncompressed bytes.
//!
//! Two threads run ahead of the parser, with a bounded number of buffers that go round: one reads, hashes and
//! decompresses the blob, one hashes what comes out. What the parser saw only counts once both digests are right.

use crate::digest::{Digest, Hasher, HashingReader};
use crate::error::Error;
use crate::tar::Input;
use crossbeam_channel::{Receiver, Sender, bounded};
use std::io::{self, BufRead, BufReader, Read};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

/// Bytes in a buffer.
const CHUNK: usize = 256 << 10;
/// Buffers that may wait between two threads.
const WAITING: usize = 8;
/// Bytes read from the blob at a time.
const READ: usize = 128 << 10;
/// Bytes that tell the compressors apart.
const MAGIC: usize = 10;

/// Something to read from its start, possibly more than once: a file, a part of one, a download.
pub trait Blob: Send + Sync {
    /// A reader at the start.
    ///
    /// # Errors
    /// When it cannot be opened.
    fn open(&self) -> io::Result<Box<dyn Read + Send + '_>>;

    /// How it is compressed, where that costs next to nothing to find out.
    fn packing(&self) -> Option<Packing> {
        None
    }

    /// It was read to its end, and has the digest and size that it should have, or has not.
    fn judged(&self, _genuine: bool) {}
}

/// A layer and what its image says about it.
pub struct Layer {
    /// For messages: `layer` and its digest or file.
    pub name: String,
    /// Its content.
    pub blob: Box<dyn Blob>,
    /// Digest of the blob.
    pub digest: Option<Digest>,
    /// Bytes in the blob, when that is known beforehand.
    pub size: Option<u64>,
    /// Digest of the uncompressed tar.
    pub diff_id: Option<Digest>,
    /// An eStargz layer: it has files of its own at its root, which its readers hide.
    pub estargz: bool,
}

impl Layer {
    /// Bytes that its content will hardly stay below in an image. Content is stored once and may be hidden by upper
    /// layers, so this is far below what is usual: only what cannot succeed may be refused for want of space.
    pub fn least_bytes(&self) -> u64 {
        match self.size {
            // A pipe would lose what is looked at.
            None => 0,
            Some(size) => match self.blob.packing() {
                Some(Packing::Plain) => size / 32,
                _ => size / 3,
            },
        }
    }
}

impl std::fmt::Debug for Layer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Layer").field("name", &self.name).field("size", &self.size).finish_non_exhaustive()
    }
}

/// How bytes are compressed, by their first few.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packing {
    /// Not at all.
    Plain,
    /// One or more gzip members.
    Gzip,
    /// One or more Zstandard frames.
    Zstd,
    /// In a way that no container tool uses for layers.
    Other(&'static str),
}

impl Packing {
    /// Looks at the first bytes, ten of which suffice.
    pub fn of(start: &[u8]) -> Self {
        match start {
            [0x1f, 0x8b, 8, ..] => Self::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Self::Zstd,
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Self::Other("xz"),
            [b'B', b'Z', b'h', b'1'..=b'9', 0x31, 0x41, 0x59, 0x26, 0x53, 0x59, ..] => Self::Other("bzip2"),
            [0x04, 0x22, 0x4d, 0x18, ..] => Self::Other("lz4"),
            _ => Self::Plain,
        }
    }

    /// Looks at the first bytes of what `reader` reads.
    pub fn of_reader(mut reader: impl Read) -> Option<Self> {
        let mut start = [0; MAGIC];
        let length = read_full(&mut reader, &mut start).ok()?;
        start.get(..length).map(Self::of)
    }

    /// Name for messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::Plain => "nothing",
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
            Self::Other(name) => name,
        }
    }
}

/// Has `parse` read the whole layer, of which at most `limit` bytes may come out, and verifies it. `advanced` hears
/// how many bytes of the blob have been read.
///
/// # Errors
/// When the layer is damaged, which is reported rather than what `parse` made of it; else what `parse` returns.
pub fn read<T>(
    layer: &Layer,
    limit: u64,
    advanced: &(dyn Fn(u64) + Sync),
    parse: impl FnOnce(&mut ChunkInput) -> Result<T, Error>,
) -> Result<T, Error> {
    let (decoded, to_hash) = bounded::<Vec<u8>>(WAITING);
    let (hashed, to_parse) = bounded::<Vec<u8>>(WAITING);
    let (recycle, empty) = bounded::<Vec<u8>>(2 * WAITING);
    // Set when the parser failed for a reason that a damaged layer does not explain.
    let abandoned = AtomicBool::new(false);
    thread::scope(|scope| {
        let spawn_failed = |source| Error::LayerRead { layer: layer.name.clone(), source };
        let decoder = Decoder { layer, limit, advanced, abandoned: &abandoned, decoded, empty };
        let decoder = thread::Builder::new().name("layer-decode".into()).spawn_scoped(scope, move || decoder.run());
        let decoder = decoder.map_err(spawn_failed)?;
        let hash = layer.diff_id.is_some();
        let hasher = thread::Builder::new().name("layer-hash".into());
        let hasher = hasher.spawn_scoped(scope, move || pass_on(&to_hash, &hashed, hash)).map_err(spawn_failed)?;

        let mut input = ChunkInput { chunks: to_parse, recycle, chunk: Vec::new(), used: 0 };
        let parsed = parse(&mut input);
        match &parsed {
            Ok(_) => input.drain(),
            Err(Error::Tar { .. } | Error::Entry { .. }) => {}
            Err(_) => abandoned.store(true, Ordering::Relaxed),
        }
        drop(input);
        let diff_id = join(hasher);
        match (join(decoder), parsed) {
            (Err(Error::BlobDigest { what, found, noticed: None }), Err(sign)) => {
                Err(Error::BlobDigest { what, found, noticed: Some(Box::new(sign)) })
            }
            (Err(error), _) | (Ok(()), Err(error)) => Err(error),
            (Ok(()), Ok(value)) => match (layer.diff_id, diff_id) {
                (Some(expected), Some(found)) if expected != found => {
                    Err(Error::DiffId { layer: layer.name.clone(), expected, found })
                }
                _ => Ok(value),
            },
        }
    })
}

/// A thread's result; its panic goes on in this thread.
fn join<T>(thread: thread::ScopedJoinHandle<'_, T>) -> T {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

fn pass_on(from: &Receiver<Vec<u8>>, to: &Sender<Vec<u8>>, hash: bool) -> Option<Digest> {
    let mut hasher = hash.then(Hasher::default);
    for chunk in from {
        if let Some(hasher) = &mut hasher {
            hasher.update(&chunk);
        }
        // The parser gave up: the digest no longer matters.
        to.send(chunk).ok()?;
    }
    hasher.map(Hasher::finish)
}

/// The first thread: from the blob to buffers of uncompressed bytes.
struct Decoder<'a> {
    layer: &'a Layer,
    limit: u64,
    advanced: &'a (dyn Fn(u64) + Sync),
    abandoned: &'a AtomicBool,
    decoded: Sender<Vec<u8>>,
    empty: Receiver<Vec<u8>>,
}

impl Decoder<'_> {
    fn run(self) -> Result<(), Error> {
        let layer = self.layer;
        let read_failed = |source| Error::LayerRead { layer: layer.name.clone(), source };
        let blob = layer.blob.open().map_err(read_failed)?;
        let blob = Watched { inner: blob, advanced: self.advanced };
        let mut raw = HashingReader::new(
            blob,
            layer.digest.is_some(),
            layer.size.map_or(u64::MAX, |size| size.saturating_add(1)),
        );
        let outcome = self.decode(&mut raw);
        // The parser must see the end before the rest of the blob is looked at.
        let Self { abandoned, decoded, .. } = self;
        drop(decoded);
        if abandoned.load(Ordering::Relaxed) {
            return outcome;
        }
        if outcome.is_ok() || layer.digest.is_some() {
            raw.drain().map_err(read_failed)?;
        }
        let (found, digest) = raw.finish();
        if let Some(expected) = layer.size
            && (outcome.is_ok() || layer.digest.is_some())
            && found != expected
        {
            layer.blob.judged(false);
            return Err(Error::BlobSize { what: layer.name.clone(), expected, found });
        }
        match digest {
            Some(found) if layer.digest != Some(found) => {
                layer.blob.judged(false);
                Err(Error::BlobDigest { what: layer.name.clone(), found, noticed: outcome.err().map(Box::new) })
            }
            Some(_) => {
                layer.blob.judged(true);
                outcome
            }
            None => outcome,
        }
    }

    fn decode(&self, raw: &mut HashingReader<Watched<'_>>) -> Result<(), Error> {
        let name = || self.layer.name.clone();
        let mut start = [0; MAGIC];
        let length = read_full(raw, &mut start).map_err(|source| Error::LayerRead { layer: name(), source })?;
        let start = start.get(..length).unwrap_or_default();
        let packing = Packing::of(start);
        let outcome = {
            let mut input = start.chain(BufReader::with_capacity(READ, &mut *raw));
            match packing {
                Packing::Plain => self.fill_chunks(&mut input),
                Packing::Gzip => self.fill_chunks(&mut flate2::bufread::MultiGzDecoder::new(input)),
                Packing::Zstd => match zstd::stream::read::Decoder::with_buffer(&mut input as &mut dyn BufRead) {
                    Ok(mut decoder) => self.fill_chunks(&mut decoder),
                    Err(error) => Err(Stop::Failed(error)),
                },
                Packing::Other(compression) => return Err(Error::Compression { layer: name(), compression }),
            }
        };
        match outcome {
            Ok(()) | Err(Stop::NotWanted) => Ok(()),
            Err(Stop::TooLarge) => Err(Error::LayerTooLarge { layer: name(), limit: self.limit }),
            Err(Stop::Failed(source)) if packing == Packing::Plain => Err(Error::LayerRead { layer: name(), source }),
            Err(Stop::Failed(source)) => {
                Err(Error::Decompress { layer: name(), compression: packing.name(), offset: raw.count(), source })
            }
        }
    }

    fn fill_chunks(&self, input: &mut dyn Read) -> Result<(), Stop> {
        let mut total = 0u64;
        loop {
            let mut chunk = self.empty.try_recv().unwrap_or_default();
            chunk.resize(CHUNK, 0);
            let length = match read_full(input, &mut chunk) {
                Ok(length) => length,
                Err(error) => return Err(Stop::Failed(error)),
            };
            chunk.truncate(length);
            total += length as u64;
            if total > self.limit {
                return Err(Stop::TooLarge);
            }
            if length > 0 && self.decoded.send(chunk).is_err() {
                return Err(Stop::NotWanted);
            }
            if length < CHUNK {
                return Ok(());
            }
        }
    }
}

/// Why decoding stopped early.
enum Stop {
    Failed(io::Error),
    TooLarge,
    NotWanted,
}

/// Fills `buffer` as far as the input goes.
fn read_full(input: &mut (impl Read + ?Sized), buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while let Some(room) = buffer.get_mut(filled..).filter(|room| !room.is_empty()) {
        match input.read(room) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// Reports how much has been read.
struct Watched<'a> {
    inner: Box<dyn Read + Send + 'a>,
    advanced: &'a (dyn Fn(u64) + Sync),
}

impl Read for Watched<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        (self.advanced)(count as u64);
        Ok(count)
    }
}

/// The parser's end of the pipeline. Ends early when the layer is damaged; [`read`] then says how.
#[derive(Debug)]
pub struct ChunkInput {
    chunks: Receiver<Vec<u8>>,
    recycle: Sender<Vec<u8>>,
    chunk: Vec<u8>,
    used: usize,
}

impl ChunkInput {
    fn drain(&mut self) {
        for chunk in &self.chunks {
            // A full or closed channel only means that the buffer is not used again.
            let _ = self.recycle.try_send(chunk);
        }
    }
}

impl Input for ChunkInput {
    fn fill(&mut self) -> io::Result<&[u8]> {
        if self.used == self.chunk.len()
            && let Ok(next) = self.chunks.recv()
        {
            let used = std::mem::replace(&mut self.chunk, next);
            self.used = 0;
            let _ = self.recycle.try_send(used);
        }
        Ok(self.chunk.get(self.used..).unwrap_or_default())
    }

    fn consume(&mut self, count: usize) {
        self.used = (self.used + count).min(self.chunk.len());
    }
}

impl<I: Input> Input for &mut I {
    fn fill(&mut self) -> io::Result<&[u8]> {
        (**self).fill()
    }

    fn consume(&mut self, count: usize) {
        (**self).consume(count);
    }

    fn skip(&mut self, count: u64) -> io::Result<u64> {
        (**self).skip(count)
    }
}

#[cfg(test)]
mod tests;
