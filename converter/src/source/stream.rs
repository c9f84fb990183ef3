//! A tar that can only be read from its start: a compressed file, or what a command writes.
//!
//! Layers are wanted from the top down, whatever their order in the tar, and nothing is to be written to disk. So the tar
//! is read once for its index, and then once more for each layer that lies before the one read last; small members are
//! kept from the first time.

use super::export::Export;
use crate::layer::{Blob, Packing};
use crate::tar::Input;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Bytes read at a time.
const BUFFER: usize = 128 << 10;
/// Most bytes that a tar may have, unpacked.
const UNPACKED_MAX: u64 = 2 << 40;
/// Most times that a tar is read. An image has at most 127 layers by Docker's own limit.
const PASSES_MAX: u32 = 256;

/// Something to read from its start, any number of times.
#[derive(Debug)]
pub enum Origin {
    /// A compressed file.
    Packed(PathBuf, Packing),
    /// A command's standard output.
    Export(Export),
}

/// The tar.
#[derive(Debug)]
pub struct Stream {
    origin: Origin,
    passes: AtomicU32,
    /// Where the last reader stopped, for one that wants what lies behind.
    parked: Mutex<Option<Pass>>,
}

/// One reading of the tar.
pub struct Pass {
    reader: Box<dyn Read + Send>,
    position: u64,
}

impl std::fmt::Debug for Pass {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pass").field("position", &self.position).finish_non_exhaustive()
    }
}

impl Stream {
    /// Nothing is read yet.
    pub fn new(origin: Origin) -> Self {
        Self { origin, passes: AtomicU32::new(0), parked: Mutex::new(None) }
    }

    /// The tar from its start.
    ///
    /// # Errors
    /// When it cannot be opened, or has been too often.
    pub fn start(&self) -> io::Result<Pass> {
        if self.passes.fetch_add(1, Ordering::Relaxed) >= PASSES_MAX {
            return Err(io::Error::other(format!(
                "the image has so many layers that its archive would be read more than {PASSES_MAX} times: unpack it first"
            )));
        }
        let reader: Box<dyn Read + Send> = match &self.origin {
            Origin::Packed(path, packing) => {
                let file = BufReader::with_capacity(BUFFER, File::open(path)?);
                match packing {
                    Packing::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(file)),
                    Packing::Zstd => Box::new(zstd::stream::read::Decoder::with_buffer(file)?),
                    Packing::Plain | Packing::Other(_) => Box::new(file),
                }
            }
            Origin::Export(export) => Box::new(export.start()?),
        };
        Ok(Pass { reader, position: 0 })
    }

    /// Times that the tar was read, for tests.
    #[cfg(test)]
    pub fn passes(&self) -> u32 {
        self.passes.load(Ordering::Relaxed)
    }

    fn at(&self, position: u64) -> io::Result<Pass> {
        let parked = self.parked.lock().unwrap_or_else(PoisonError::into_inner).take();
        let mut pass = match parked.filter(|pass| pass.position <= position) {
            Some(pass) => pass,
            None => self.start()?,
        };
        let skip = position - pass.position;
        if io::copy(&mut pass.by_ref().take(skip), &mut io::sink())? < skip {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(pass)
    }
}

impl Read for Pass {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.reader.read(buffer)?;
        self.position += count as u64;
        if self.position > UNPACKED_MAX {
            return Err(io::Error::other(format!("the archive has more than {UNPACKED_MAX} bytes unpacked")));
        }
        Ok(count)
    }
}

/// A member of the tar.
#[derive(Clone, Debug)]
pub struct PartBlob {
    /// The tar.
    pub stream: Arc<Stream>,
    /// First byte of the member.
    pub start: u64,
    /// Its bytes.
    pub length: u64,
}

impl Blob for PartBlob {
    fn open(&self) -> io::Result<Box<dyn Read + Send + '_>> {
        let pass = self.stream.at(self.start)?;
        Ok(Box::new(PartReader { stream: &self.stream, pass: Some(pass), left: self.length }))
    }
}

struct PartReader<'a> {
    stream: &'a Stream,
    pass: Option<Pass>,
    left: u64,
}

impl Read for PartReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(pass) = &mut self.pass else { return Ok(0) };
        let room = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let count = pass.read(buffer.get_mut(..room).unwrap_or_default()).inspect_err(|error| {
            if error.kind() != io::ErrorKind::Interrupted {
                self.left = 0;
            }
        })?;
        self.left -= count as u64;
        Ok(count)
    }
}

impl Drop for PartReader<'_> {
    fn drop(&mut self) {
        *self.stream.parked.lock().unwrap_or_else(PoisonError::into_inner) = self.pass.take();
    }
}

/// A [`Pass`] for the tar reader.
pub struct StreamInput {
    pass: Pass,
    buffer: Box<[u8]>,
    used: usize,
    end: usize,
}

impl StreamInput {
    /// Reads on from where `pass` is.
    pub fn new(pass: Pass) -> Self {
        Self { pass, buffer: vec![0; BUFFER].into(), used: 0, end: 0 }
    }

    /// Reads what is behind the tar's end marker, so that a checksum or a command's failure is seen.
    ///
    /// # Errors
    /// What the reader says.
    pub fn drain(mut self) -> io::Result<()> {
        io::copy(&mut self.pass, &mut io::sink()).map(drop)
    }
}

impl Input for StreamInput {
    fn fill(&mut self) -> io::Result<&[u8]> {
        if self.used == self.end {
            (self.used, self.end) = (0, 0);
            self.end = loop {
                match self.pass.read(&mut self.buffer) {
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    other => break other?,
                }
            };
        }
        Ok(self.buffer.get(self.used..self.end).unwrap_or_default())
    }

    fn consume(&mut self, count: usize) {
        self.used = (self.used + count).min(self.end);
    }
}
