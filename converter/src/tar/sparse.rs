//! Sparse maps: where a file's stored bytes belong, checked against the sizes that the headers give.

use super::error::Problem;

/// Most segments of one file. GNU tar writes one per hole of at least a block.
pub const SEGMENTS_MAX: usize = 1 << 20;

/// A run of stored bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Where the bytes belong in the file.
    pub offset: u64,
    /// How many there are.
    pub length: u64,
}

/// A checked map: segments ascend, do not overlap, and hold exactly the stored bytes.
#[derive(Debug, Default)]
pub struct SparseMap {
    segments: Vec<Segment>,
    next: usize,
    /// Bytes of the file handed out so far.
    position: u64,
    size: u64,
}

/// The next run of a sparse file.
#[derive(Debug, PartialEq, Eq)]
pub enum Run {
    /// Zeros that are not stored.
    Hole(u64),
    /// Stored bytes.
    Data(u64),
}

impl SparseMap {
    /// Checks the segments of a file of `size` bytes that has `stored` bytes in the archive.
    pub fn new(mut segments: Vec<Segment>, size: u64, stored: u64) -> Result<Self, Problem> {
        let (mut end, mut sum) = (0u64, 0u64);
        for segment in &segments {
            if segment.offset < end {
                return Err(Problem::Sparse("segments overlap"));
            }
            end = segment.offset.checked_add(segment.length).ok_or(Problem::Sparse("segment is out of range"))?;
            // Cannot overflow: segments do not overlap.
            sum += segment.length;
        }
        if end > size {
            return Err(Problem::Sparse("segment lies behind the file's end"));
        }
        if sum != stored {
            return Err(Problem::Sparse("segments do not add up to the stored size"));
        }
        // An empty segment only marks the file's end.
        segments.retain(|segment| segment.length > 0);
        Ok(Self { segments, next: 0, position: 0, size })
    }

    /// The next run, or `None` at the file's end.
    pub fn next_run(&mut self) -> Option<Run> {
        let (until, data) = match self.segments.get(self.next) {
            Some(segment) if segment.offset == self.position => (segment.offset + segment.length, true),
            Some(segment) => (segment.offset, false),
            None => (self.size, false),
        };
        let length = until - self.position;
        self.position = until;
        if data {
            self.next += 1;
            Some(Run::Data(length))
        } else {
            (length > 0).then_some(Run::Hole(length))
        }
    }
}

/// Pairs up a flat list of offsets and lengths.
pub fn pairs(numbers: &[u64]) -> Result<Vec<Segment>, Problem> {
    if !numbers.len().is_multiple_of(2) {
        return Err(Problem::Sparse("offset without length"));
    }
    if numbers.len() / 2 > SEGMENTS_MAX {
        return Err(Problem::Sparse("too many segments"));
    }
    Ok(numbers.chunks_exact(2).map(|pair| Segment { offset: pair[0], length: pair[1] }).collect())
}
