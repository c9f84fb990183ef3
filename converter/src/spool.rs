//! Content that is to be written later than it arrives: a temporary file without a name.
//!
//! Runs of bytes and of zeros are kept as they come, each behind its length, so that holes of any size cost nothing and
//! memory does not grow with either.

use crate::error::Error;
use crate::sink::Content;
use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Bytes read or written at a time.
const BUFFER: usize = 128 << 10;
/// Marks a length as that of a hole. No file is so long that its runs would need the bit.
const HOLE: u64 = 1 << 63;
/// Bytes of a run's length.
const HEADER: u64 = 8;

/// Holds files until they are wanted.
#[derive(Debug)]
pub struct Spool {
    /// The output, beside which the temporary file is.
    output: PathBuf,
    file: BufWriter<File>,
    end: u64,
}

/// Where a [`Spool`] has a file.
#[derive(Clone, Copy, Debug)]
pub struct Spooled {
    start: u64,
    end: u64,
}

impl Spool {
    /// An empty one in the directory of `output`; it goes when it is dropped, or the process ends.
    ///
    /// # Errors
    /// When no file can be made there.
    pub fn beside(output: &Path) -> Result<Self, Error> {
        let parent = output.parent().filter(|parent| !parent.as_os_str().is_empty());
        let file = tempfile::tempfile_in(parent.unwrap_or(Path::new("."))).map_err(failed("make", output))?;
        Ok(Self { output: output.into(), file: BufWriter::with_capacity(BUFFER, file), end: 0 })
    }

    /// Where the next file will begin.
    pub fn begin(&self) -> Spooled {
        Spooled { start: self.end, end: self.end }
    }

    /// Ends the file that [`Self::begin`] began.
    pub fn end(&self, begun: Spooled) -> Spooled {
        Spooled { end: self.end, ..begun }
    }

    /// Has everything in the file, so that it can be read.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn flush(&mut self) -> Result<(), Error> {
        self.file.flush().map_err(failed("write", &self.output))
    }

    /// Provides a file that was flushed.
    ///
    /// # Errors
    /// When it cannot be read back, or `content` refuses it.
    pub fn read(&self, from: Spooled, content: &mut dyn Content) -> Result<(), Error> {
        let input = At { file: self.file.get_ref(), position: from.start }.take(from.end - from.start);
        let room = usize::try_from(input.limit()).unwrap_or(BUFFER).min(BUFFER);
        let mut input = BufReader::with_capacity(room, input);
        let mut left = from.end - from.start;
        while left > 0 {
            let mut header = [0; HEADER as usize];
            input.read_exact(&mut header).map_err(failed("read", &self.output))?;
            left = left.saturating_sub(HEADER);
            let run = u64::from_le_bytes(header);
            if run & HOLE != 0 {
                content.hole(run & !HOLE)?;
                continue;
            }
            let mut run = run;
            left = left.saturating_sub(run);
            while run > 0 {
                let bytes = input.fill_buf().map_err(failed("read", &self.output))?;
                let count = bytes.len().min(usize::try_from(run).unwrap_or(usize::MAX));
                if count == 0 {
                    return Err(failed("read", &self.output)(io::ErrorKind::UnexpectedEof.into()));
                }
                content.data(bytes.get(..count).unwrap_or_default())?;
                input.consume(count);
                run -= count as u64;
            }
        }
        Ok(())
    }

    fn run(&mut self, length: u64, bytes: &[u8]) -> Result<(), Error> {
        let header = length.to_le_bytes();
        let written = self.file.write_all(&header).and_then(|()| self.file.write_all(bytes));
        written.map_err(failed("write", &self.output))?;
        self.end += HEADER + bytes.len() as u64;
        Ok(())
    }
}

impl Content for Spool {
    fn data(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.run(bytes.len() as u64, bytes)
    }

    fn hole(&mut self, length: u64) -> Result<(), Error> {
        self.run(length | HOLE, &[])
    }
}

/// Reads on from a position, whatever the file's own is.
struct At<'a> {
    file: &'a File,
    position: u64,
}

impl Read for At<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read_at(buffer, self.position)?;
        self.position += count as u64;
        Ok(count)
    }
}

fn failed<'p>(action: &'static str, output: &'p Path) -> impl FnOnce(io::Error) -> Error + use<'p> {
    move |cause| Error::Spool { action, output: output.into(), source: cause }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Runs(Vec<u8>, u64);

    impl Content for Runs {
        fn data(&mut self, bytes: &[u8]) -> Result<(), Error> {
            self.0.extend_from_slice(bytes);
            Ok(())
        }

        fn hole(&mut self, length: u64) -> Result<(), Error> {
            self.1 += length;
            Ok(())
        }
    }

    #[test]
    fn files_come_back_in_any_order_and_nothing_is_left() {
        let dir = tempfile::tempdir().unwrap();
        let mut spool = Spool::beside(&dir.path().join("out.sqfs")).unwrap();
        let large = (0..3 * BUFFER as u32 / 4 + 1).flat_map(u32::to_le_bytes).collect::<Vec<_>>();
        let mut files = Vec::new();
        for parts in [&[b"first".as_slice(), b"", b"second"][..], &[], &[&large], &[b"x"]] {
            let begun = spool.begin();
            for part in parts {
                spool.data(part).unwrap();
                spool.hole(1 << 50).unwrap();
            }
            files.push((spool.end(begun), parts.concat(), (parts.len() as u64) << 50));
        }
        spool.flush().unwrap();
        for (spooled, bytes, hole) in files.iter().rev() {
            let mut runs = Runs::default();
            spool.read(*spooled, &mut runs).unwrap();
            assert!(runs.0 == *bytes && runs.1 == *hole);
        }
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_file_that_was_cut_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let mut spool = Spool::beside(&dir.path().join("out.sqfs")).unwrap();
        let begun = spool.begin();
        spool.data(b"content").unwrap();
        let spooled = spool.end(begun);
        spool.flush().unwrap();
        spool.file.get_ref().set_len(10).unwrap();
        let error = spool.read(spooled, &mut Runs::default()).unwrap_err();
        assert!(error.to_string().contains("out.sqfs"), "{error}");
    }
}
