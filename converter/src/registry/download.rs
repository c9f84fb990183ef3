//! Blobs fetched into a cache by a few connections, the first blob first, large ones in pieces side by side; and
//! readers that follow a file while it grows.

use super::blob::{RemoteBlob, Stream};
use super::cache::{self, Cache, Part};
use super::error::Error;
use crate::layer::Blob;
use crate::options::{Event, Progress};
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

/// Bytes of a piece. Blobs of up to two are not cut.
const PIECE: u64 = 16 << 20;
/// Most pieces of a blob, whatever size its manifest claims.
const PIECES_MAX: u64 = 4096;
/// Bytes read from a connection at a time.
const READ: usize = 256 << 10;
/// Between two looks at how far downloads are.
const LOOK: Duration = Duration::from_millis(100);

/// Downloads, under way while they are [watched](Self::watch). They end when this is dropped; what has come is kept for
/// the next time.
#[derive(Debug)]
pub struct Downloads {
    shared: Arc<Shared>,
    connections: usize,
}

#[derive(Debug)]
struct Shared {
    cache: Cache,
    blobs: Vec<RemoteBlob>,
    states: Mutex<Vec<State>>,
    changed: Condvar,
    cancelled: AtomicBool,
}

/// How far a blob is.
#[derive(Debug, Default)]
struct State {
    /// Somebody looks after its file.
    begun: bool,
    file: Option<Arc<File>>,
    /// The file's name as long as it is a part.
    part: Option<PathBuf>,
    /// Lay in the cache before.
    present: bool,
    pieces: Vec<Piece>,
    /// Written out of order, unless the server has no ranges.
    cut: bool,
    /// Whether the server sends pieces, once it has answered.
    in_pieces: Option<bool>,
    /// Bytes that a new process could go on from.
    noted: u64,
    error: Option<String>,
}

#[derive(Debug)]
struct Piece {
    start: u64,
    end: u64,
    done: u64,
    taken: bool,
}

impl State {
    /// Bytes from the start that are there.
    fn prefix(&self, size: u64) -> u64 {
        if self.present {
            return size;
        }
        let incomplete = self.pieces.iter().find(|piece| piece.start + piece.done < piece.end);
        incomplete.map_or(if self.pieces.is_empty() { 0 } else { size }, |piece| piece.start + piece.done)
    }

    fn received(&self, size: u64) -> u64 {
        let missing = self.pieces.iter().map(|piece| piece.end - piece.start - piece.done).sum::<u64>();
        if self.present || !self.pieces.is_empty() { size - missing.min(size) } else { 0 }
    }
}

/// What a connection is to do next.
enum Task {
    Begin(usize),
    Fetch(usize, usize),
    Wait,
    End,
}

impl Downloads {
    /// Of these blobs, the first of them first. None may be there twice.
    pub fn new(cache: Cache, blobs: Vec<RemoteBlob>, connections: usize) -> Self {
        let states = blobs.iter().map(|_| State::default()).collect();
        let (states, changed, cancelled) = (Mutex::new(states), Condvar::new(), AtomicBool::new(false));
        Self { shared: Arc::new(Shared { cache, blobs, states, changed, cancelled }), connections }
    }

    /// One of the blobs, to be read while it arrives.
    pub fn blob(&self, index: usize) -> Box<dyn Blob> {
        Box::new(Arriving { shared: Arc::clone(&self.shared), index })
    }

    /// Begins, and tells of the downloads while `body` runs.
    ///
    /// # Errors
    /// When a thread cannot be started.
    pub fn watch<T>(&self, progress: &dyn Progress, body: impl FnOnce() -> T) -> Result<T, Error> {
        for number in 0..self.connections {
            let shared = Arc::clone(&self.shared);
            let thread = thread::Builder::new().name(format!("download-{number}"));
            let failed = |source| Error::File { action: "start a thread for", path: "downloads".into(), source };
            thread.spawn(move || shared.work()).map_err(failed)?;
        }
        let ended = AtomicBool::new(false);
        thread::scope(|scope| {
            let reporter = thread::Builder::new().name("download-report".into());
            let reporter = reporter.spawn_scoped(scope, || self.shared.report(progress, &ended));
            let value = body();
            ended.store(true, Ordering::Relaxed);
            // Without a reporter nobody is told; the downloads do not depend on it.
            if let Ok(reporter) = reporter {
                reporter.thread().unpark();
            }
            Ok(value)
        })
    }
}

impl Drop for Downloads {
    fn drop(&mut self) {
        self.shared.cancelled.store(true, Ordering::Relaxed);
        let mut states = self.shared.lock();
        for (state, blob) in states.iter_mut().zip(&self.shared.blobs) {
            if let (Some(part), Some(file)) = (state.part.take(), &state.file) {
                cache::release(&part, file, state.prefix(blob.size), state.cut);
            }
        }
        drop(states);
        self.shared.changed.notify_all();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Vec<State>> {
        self.states.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
    }

    fn work(&self) {
        let mut states = self.lock();
        loop {
            match self.next(&mut states) {
                Task::End => return,
                Task::Wait => states = self.changed.wait(states).unwrap_or_else(PoisonError::into_inner),
                Task::Begin(index) => {
                    drop(states);
                    let begun = self.begin(index);
                    states = self.lock();
                    self.settle(&mut states, index, begun);
                }
                Task::Fetch(index, piece) => {
                    drop(states);
                    let fetched = self.fetch(index, piece);
                    states = self.lock();
                    self.settle(&mut states, index, fetched);
                }
            }
        }
    }

    fn settle(&self, states: &mut [State], index: usize, outcome: Result<(), Error>) {
        if let (Err(error), Some(state)) = (outcome, states.get_mut(index)) {
            state.error.get_or_insert(crate::error::chain(&error));
        }
        self.changed.notify_all();
    }

    /// The earliest piece that nobody fetches.
    fn next(&self, states: &mut [State]) -> Task {
        if self.is_cancelled() {
            return Task::End;
        }
        let mut undecided = false;
        for (index, state) in states.iter_mut().enumerate() {
            if state.present || state.error.is_some() {
                continue;
            }
            if !state.begun {
                state.begun = true;
                return Task::Begin(index);
            }
            // Only an answer shows whether the server sends pieces.
            let first_taken = state.pieces.iter().any(|piece| piece.taken);
            if state.file.is_none() || (first_taken && state.in_pieces.is_none()) {
                undecided = true;
                continue;
            }
            if let Some(piece) = state.pieces.iter().position(|piece| !piece.taken) {
                if let Some(piece) = state.pieces.get_mut(piece) {
                    piece.taken = true;
                }
                return Task::Fetch(index, piece);
            }
        }
        if undecided { Task::Wait } else { Task::End }
    }

    /// Looks for the blob in the cache, or makes its part.
    fn begin(&self, index: usize) -> Result<(), Error> {
        let Some(blob) = self.blobs.get(index) else { return Ok(()) };
        let cut = blob.size > 2 * PIECE;
        let (file, part, pieces) = match self.cache.find(&blob.digest, blob.size)? {
            Some(file) => (file, None, Vec::new()),
            None => {
                let Part { file, path, prefix } = self.cache.part(&blob.digest, blob.size, cut)?;
                (file, Some(path), pieces(prefix, blob.size, cut))
            }
        };
        let mut states = self.lock();
        if let Some(state) = states.get_mut(index) {
            state.present = part.is_none();
            (state.file, state.part, state.pieces) = (Some(Arc::new(file)), part, pieces);
            state.cut = cut;
            if self.is_cancelled()
                && let (Some(part), Some(file)) = (state.part.take(), &state.file)
            {
                // Nobody would release it any more.
                cache::release(&part, file, state.prefix(blob.size), state.cut);
            }
        }
        Ok(())
    }

    fn fetch(&self, index: usize, number: usize) -> Result<(), Error> {
        let Some(blob) = self.blobs.get(index) else { return Ok(()) };
        let (file, start, end, several, undecided, path) = {
            let states = self.lock();
            let Some(state) = states.get(index) else { return Ok(()) };
            let (Some(file), Some(piece)) = (&state.file, state.pieces.get(number)) else { return Ok(()) };
            let path = state.part.clone().unwrap_or_default();
            (Arc::clone(file), piece.start + piece.done, piece.end, state.cut, state.in_pieces.is_none(), path)
        };
        let mut stream = Stream::new(blob, start, end, several, undecided);
        if start < end {
            let in_pieces = stream.connect()?;
            self.decide(index, number, in_pieces);
        } else {
            self.decide(index, number, true);
        }
        let mut buffer = vec![0; READ];
        let mut position = start;
        while !self.is_cancelled() {
            let count = match stream.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => count,
                Err(error) => return Err(registry_error(error, blob)),
            };
            let failed = |source| Error::File { action: "write", path: path.clone(), source };
            file.write_all_at(buffer.get(..count).unwrap_or_default(), position).map_err(failed)?;
            position += count as u64;
            self.advanced(index, number, count as u64);
        }
        Ok(())
    }

    /// After the first answer: either the other pieces are for others to fetch, or this one is all there is.
    fn decide(&self, index: usize, number: usize, in_pieces: bool) {
        let mut states = self.lock();
        let Some(state) = states.get_mut(index) else { return };
        if state.in_pieces.is_none() {
            state.in_pieces = Some(in_pieces);
            if !in_pieces && let Some(size) = self.blobs.get(index).map(|blob| blob.size) {
                state.pieces.truncate(number + 1);
                if let Some(piece) = state.pieces.get_mut(number) {
                    piece.end = size;
                }
            }
            self.changed.notify_all();
        }
    }

    fn advanced(&self, index: usize, number: usize, count: u64) {
        let Some(size) = self.blobs.get(index).map(|blob| blob.size) else { return };
        let note = {
            let mut states = self.lock();
            let Some(state) = states.get_mut(index) else { return };
            if let Some(piece) = state.pieces.get_mut(number) {
                piece.done = (piece.done + count).min(piece.end - piece.start);
            }
            let prefix = state.prefix(size);
            let worth = state.cut && prefix >= state.noted + PIECE;
            if worth {
                state.noted = prefix;
            }
            state.part.clone().filter(|_| worth).map(|part| (part, prefix))
        };
        self.changed.notify_all();
        if let Some((part, prefix)) = note {
            // Without the note a later process begins from the one before.
            let _ = cache::note(&part, prefix);
        }
    }

    fn report(&self, progress: &dyn Progress, ended: &AtomicBool) {
        let total = self.blobs.len();
        let mut told: Vec<Option<u64>> = vec![None; total];
        loop {
            let last = ended.load(Ordering::Relaxed);
            let seen = {
                let states = self.lock();
                let pairs = states.iter().zip(&self.blobs);
                pairs
                    .map(|(state, blob)| (state.file.is_some(), state.present, state.received(blob.size)))
                    .collect::<Vec<_>>()
            };
            for (index, ((begun, present, received), told)) in seen.into_iter().zip(&mut told).enumerate() {
                let Some(blob) = self.blobs.get(index).filter(|_| begun) else { continue };
                let before = told.unwrap_or_else(|| {
                    let (bytes, name) = (blob.size, blob.digest);
                    progress.event(Event::DownloadStarted { index, total, digest: name, bytes, present });
                    0
                });
                if received > before {
                    progress.event(Event::Downloaded { index, bytes: received - before });
                }
                if received == blob.size && (told.is_none() || before < received) {
                    progress.event(Event::DownloadFinished { index });
                }
                *told = Some(received);
            }
            if last {
                return;
            }
            thread::park_timeout(LOOK);
        }
    }
}

/// What a blob is fetched in.
fn pieces(prefix: u64, size: u64, cut: bool) -> Vec<Piece> {
    let piece = PIECE.max(size.div_ceil(PIECES_MAX));
    let mut pieces = Vec::new();
    let mut start = prefix;
    loop {
        // The last piece takes what is too short for one of its own.
        let end = if cut && (size - start) / 2 >= piece { start + piece } else { size };
        pieces.push(Piece { start, end, done: 0, taken: false });
        start = end;
        if start >= size {
            return pieces;
        }
    }
}

fn registry_error(error: io::Error, blob: &RemoteBlob) -> Error {
    let cause = error.to_string();
    match error.into_inner().map(|inner| inner.downcast::<Error>()) {
        Some(Ok(error)) => *error,
        _ => Error::Unreachable { doing: blob.doing(), host: blob.reference.host().to_owned(), cause },
    }
}

/// A blob of [`Downloads`].
struct Arriving {
    shared: Arc<Shared>,
    index: usize,
}

impl Blob for Arriving {
    fn open(&self) -> io::Result<Box<dyn Read + Send + '_>> {
        Ok(Box::new(Follower { of: self, position: 0 }))
    }

    /// The converter has its digest anyhow, so it is not computed twice.
    fn judged(&self, genuine: bool) {
        let mut states = self.shared.lock();
        let (Some(state), Some(blob)) = (states.get_mut(self.index), self.shared.blobs.get(self.index)) else { return };
        let part = state.part.take();
        if genuine {
            if let Some(part) = part {
                state.present = true;
                drop(states);
                // It is read all the same; the next image fetches it again.
                let _ = self.shared.cache.publish(&part, &blob.digest);
            }
        } else if let Some(part) = part {
            cache::discard(&part);
        } else if state.present {
            self.shared.cache.remove(&blob.digest);
        }
    }
}

/// Reads what is there, and waits for what is not.
struct Follower<'a> {
    of: &'a Arriving,
    position: u64,
}

impl Read for Follower<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let shared = &self.of.shared;
        let size = shared.blobs.get(self.of.index).map_or(0, |blob| blob.size);
        if self.position >= size || buffer.is_empty() {
            return Ok(0);
        }
        let mut states = shared.lock();
        let (file, there) = loop {
            let state = states.get(self.of.index).ok_or_else(|| io::Error::other("there is no such download"))?;
            let prefix = state.prefix(size);
            match &state.file {
                Some(file) if prefix > self.position => break (Arc::clone(file), prefix),
                _ => {}
            }
            if let Some(error) = &state.error {
                return Err(io::Error::other(error.clone()));
            }
            if shared.is_cancelled() {
                return Err(io::Error::other("the download was given up"));
            }
            states = shared.changed.wait(states).unwrap_or_else(PoisonError::into_inner);
        };
        drop(states);
        let room = buffer.len().min(usize::try_from(there - self.position).unwrap_or(usize::MAX));
        let count = file.read_at(buffer.get_mut(..room).unwrap_or_default(), self.position)?;
        if count == 0 {
            return Err(io::Error::other("the file of the download was cut short by somebody else"));
        }
        self.position += count as u64;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_cover_a_blob_without_gaps() {
        for (prefix, size, cut) in
            [(0, 0, false), (0, 5, false), (3, 5, false), (0, 7 * PIECE + 5, true), (PIECE + 1, 3 * PIECE, true)]
        {
            let pieces = pieces(prefix, size, cut);
            assert_eq!(pieces.first().map(|piece| piece.start), Some(prefix));
            assert_eq!(pieces.last().map(|piece| piece.end), Some(size));
            assert!(pieces.windows(2).all(|pair| pair[0].end == pair[1].start && pair[0].start < pair[0].end));
        }
    }

    #[test]
    fn a_size_that_no_blob_has_makes_no_long_list() {
        assert!(pieces(0, u64::MAX, true).len() as u64 <= PIECES_MAX);
    }

    #[test]
    fn only_what_has_no_gap_before_it_counts() {
        let mut state = State { pieces: pieces(0, 4 * PIECE, true), ..State::default() };
        assert_eq!((state.pieces.len(), state.prefix(4 * PIECE)), (4, 0));
        state.pieces[1].done = PIECE;
        assert_eq!((state.prefix(4 * PIECE), state.received(4 * PIECE)), (0, PIECE));
        state.pieces[0].done = PIECE;
        assert_eq!(state.prefix(4 * PIECE), 2 * PIECE);
        state.pieces[2].done = PIECE;
        state.pieces[3].done = PIECE;
        assert_eq!(state.prefix(4 * PIECE), 4 * PIECE);
    }
}
