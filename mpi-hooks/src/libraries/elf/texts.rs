//! Texts anywhere in an ELF file's data.

use super::{Error, Segment, Source, Symbols};
use crate::libraries::format::{EXECUTABLE, p_type};

/// Part of a file that is searched at once.
const PART: usize = 1 << 20;
/// As far as a segment is searched; the largest library of MPI has 4 MB of data and 40 MB in all.
const SEARCH_MAX: u64 = 256 << 20;

impl<S: Source + ?Sized> Symbols<'_, S> {
    /// Whether each of some texts is anywhere in what the file has loaded, instructions left out where they have a segment of
    /// their own.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn has_texts<const N: usize>(&self, texts: [&[u8]; N]) -> Result<[bool; N], Error> {
        let mut found = [false; N];
        let loaded = || self.head.segments.iter().filter(|segment| segment.kind == p_type::LOAD);
        let data = |segment: &&Segment| segment.flags & EXECUTABLE == 0;
        // Linkers of old put all that is not written to into one segment, instructions included.
        let mixed = loaded().next().is_none_or(|first| !data(&first));
        for segment in loaded().filter(|segment| mixed || data(segment)) {
            self.search(segment, &texts, &mut found)?;
        }
        Ok(found)
    }

    fn search(&self, segment: &Segment, texts: &[&[u8]], found: &mut [bool]) -> Result<(), Error> {
        let longest = texts.iter().map(|text| text.len()).max().unwrap_or_default();
        let end = segment.offset.saturating_add(segment.size.min(SEARCH_MAX));
        let (mut buffer, mut offset) = (vec![0; PART + longest], segment.offset);
        while offset < end && found.contains(&false) {
            let count = self.file.source.read_at(offset, &mut buffer)?;
            let bytes = buffer.get(..count).unwrap_or_default();
            for (found, text) in found.iter_mut().zip(texts) {
                *found = *found || finds(bytes, text);
            }
            if count < buffer.len() {
                break;
            }
            // What lies across the border was seen whole.
            offset += PART as u64;
        }
        Ok(())
    }
}

/// By the first letter, which is found fast.
fn finds(bytes: &[u8], text: &[u8]) -> bool {
    let Some(first) = text.first() else { return true };
    let mut rest = bytes;
    while let Some(at) = rest.iter().position(|byte| byte == first) {
        rest = rest.get(at..).unwrap_or_default();
        if rest.starts_with(text) {
            return true;
        }
        rest = rest.get(1..).unwrap_or_default();
    }
    false
}
