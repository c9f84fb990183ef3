//! What launches learned about an image, so that the next need not open it.

use std::cell::{OnceCell, RefCell};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::bytes::Bytes;
use crate::image::{Entry, Error, ImageFile, Tree};

/// Bytes that a memo may have: it travels in one packet.
const BYTES_MAX: usize = 96 << 10;

/// Answers about an image's tree.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memo {
    /// First byte of the squashfs in the image file.
    offset: u64,
    entries: BTreeMap<Vec<u8>, Option<Noted>>,
    contents: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
    /// What was concluded, by subject.
    notes: BTreeMap<String, Bytes>,
}

/// An [`Entry`] in a form that any path survives.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Noted {
    Directory,
    File { executable: bool },
    Link(Vec<u8>),
    Special,
}

impl Memo {
    /// Takes over what `other` knows, as far as there is room.
    pub(super) fn merge(&mut self, other: Self) {
        let mut merged = self.clone();
        merged.offset = other.offset;
        merged.entries.extend(other.entries);
        merged.contents.extend(other.contents);
        merged.notes.extend(other.notes);
        if merged.bytes() <= BYTES_MAX {
            *self = merged;
        }
    }

    fn bytes(&self) -> usize {
        let entries: usize = self.entries.keys().map(|path| path.len() + 16).sum();
        let content = |content: &Option<Vec<u8>>| content.as_ref().map_or(0, Vec::len);
        let notes: usize = self.notes.iter().map(|(subject, note)| subject.len() + note.0.len() + 16).sum();
        entries + notes + self.contents.iter().map(|(path, found)| path.len() + content(found) + 16).sum::<usize>()
    }

    fn is_empty(&self) -> bool {
        self.entries.is_empty() && self.contents.is_empty() && self.notes.is_empty() && self.offset == 0
    }
}

impl From<&Entry> for Noted {
    fn from(entry: &Entry) -> Self {
        match entry {
            Entry::Directory => Self::Directory,
            Entry::File { executable } => Self::File { executable: *executable },
            Entry::Link(target) => Self::Link(target.as_os_str().as_bytes().to_vec()),
            Entry::Special => Self::Special,
        }
    }
}

impl From<&Noted> for Entry {
    fn from(noted: &Noted) -> Self {
        match noted {
            Noted::Directory => Self::Directory,
            Noted::File { executable } => Self::File { executable: *executable },
            Noted::Link(target) => Self::Link(PathBuf::from(OsString::from_vec(target.clone()))),
            Noted::Special => Self::Special,
        }
    }
}

/// A tree that answers from a memo, asks the image file for the rest, and notes what that said.
pub struct Remembered {
    path: PathBuf,
    memo: Memo,
    image: OnceCell<ImageFile>,
    learned: RefCell<Memo>,
}

impl Remembered {
    /// Of an image that is opened when the memo does not suffice.
    #[must_use]
    pub fn new(path: PathBuf, memo: Memo) -> Self {
        Self { path, memo, image: OnceCell::new(), learned: RefCell::default() }
    }

    /// Of an open image, nothing known yet.
    #[must_use]
    pub fn open(image: ImageFile) -> Self {
        let remembered = Self::new(image.path.clone(), Memo::default());
        remembered.learned.borrow_mut().offset = image.offset;
        let _ = remembered.image.set(image);
        remembered
    }

    /// First byte of the squashfs in the image file.
    pub fn offset(&self) -> u64 {
        self.image.get().map_or(self.memo.offset, |image| image.offset)
    }

    /// What was not in the memo, and the image if it was opened.
    #[must_use]
    pub fn finish(self) -> (Option<Memo>, Option<ImageFile>) {
        let mut learned = self.learned.into_inner();
        // What is too much for a packet is looked at again by each launch.
        if learned.bytes() > BYTES_MAX {
            learned.notes.clear();
        }
        if learned.bytes() > BYTES_MAX {
            learned.contents.clear();
        }
        if learned.bytes() > BYTES_MAX {
            learned.entries.clear();
        }
        ((!learned.is_empty()).then_some(learned), self.image.into_inner())
    }

    fn image(&self) -> Result<&ImageFile, Error> {
        if let Some(image) = self.image.get() {
            return Ok(image);
        }
        let image = ImageFile::open(&self.path)?;
        self.learned.borrow_mut().offset = image.offset;
        Ok(self.image.get_or_init(|| image))
    }
}

impl Tree for Remembered {
    fn entry(&self, path: &Path) -> Result<Option<Entry>, Error> {
        let key = path.as_os_str().as_bytes();
        if let Some(known) = self.memo.entries.get(key).or(self.learned.borrow().entries.get(key)) {
            return Ok(known.as_ref().map(Entry::from));
        }
        let found = self.image()?.entry(path)?;
        self.learned.borrow_mut().entries.insert(key.to_vec(), found.as_ref().map(Noted::from));
        Ok(found)
    }

    fn content(&self, path: &Path) -> Result<Option<Vec<u8>>, Error> {
        let key = path.as_os_str().as_bytes();
        if let Some(known) = self.memo.contents.get(key).or(self.learned.borrow().contents.get(key)) {
            return Ok(known.clone());
        }
        let found = self.image()?.content(path)?;
        self.learned.borrow_mut().contents.insert(key.to_vec(), found.clone());
        Ok(found)
    }

    fn note(&self, subject: &str) -> Option<&[u8]> {
        self.memo.notes.get(subject).map(|note| note.0.as_slice())
    }

    fn keep_note(&self, subject: &str, note: Vec<u8>) {
        self.learned.borrow_mut().notes.insert(subject.to_owned(), Bytes(note));
    }

    /// Parts of large files are not kept: what was concluded from them can be, as a note.
    fn read_at(&self, path: &Path, offset: u64, buffer: &mut [u8]) -> Result<usize, Error> {
        self.image()?.read_at(path, offset, buffer)
    }

    /// As for parts of files.
    fn names(&self, path: &Path) -> Result<Vec<OsString>, Error> {
        self.image()?.names(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memo(path: &str, content: usize) -> Memo {
        let contents = [(path.as_bytes().to_vec(), Some(vec![0; content]))];
        Memo { contents: contents.into_iter().collect(), ..Memo::default() }
    }

    #[test]
    fn a_memo_answers_without_the_image() {
        let mut known = memo("/config", 3);
        known.entries.insert(b"/bin".to_vec(), Some(Noted::Link(b"usr/bin\xff".to_vec())));
        known.entries.insert(b"/no".to_vec(), None);
        let tree = Remembered::new("/absent.sqfs".into(), known);
        assert_eq!(tree.content(Path::new("/config")).unwrap().unwrap().len(), 3);
        assert!(
            matches!(tree.entry(Path::new("/bin")).unwrap(), Some(Entry::Link(target)) if target.as_os_str().len() == 8)
        );
        assert_eq!(tree.entry(Path::new("/no")).unwrap(), None);
        assert!(tree.entry(Path::new("/other")).is_err(), "only the image knows");
        assert!(tree.finish().0.is_none());
    }

    #[test]
    fn notes_are_kept_in_what_travels() {
        let tree = Remembered::new("/absent.sqfs".into(), Memo::default());
        assert_eq!(tree.note("gpu"), None);
        tree.keep_note("gpu", b"\0\xff".to_vec());
        let learned = tree.finish().0.unwrap();
        let mut all = Memo::default();
        all.merge(postcard::from_bytes(&postcard::to_stdvec(&learned).unwrap()).unwrap());
        assert_eq!(Remembered::new("/absent.sqfs".into(), all).note("gpu"), Some(b"\0\xff".as_slice()));
    }

    #[test]
    fn what_does_not_fit_is_not_kept() {
        let mut all = Memo::default();
        all.merge(memo("/a", 60 << 10));
        all.merge(memo("/b", 60 << 10));
        assert_eq!(all.contents.len(), 1);
        all.merge(memo("/c", 1000));
        assert_eq!(all.contents.len(), 2);
    }
}
