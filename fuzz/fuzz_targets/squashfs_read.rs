//! Opens bytes as a SquashFS image and does everything with it that a server or a dump would do.
//!
//! The work is bounded, so that a time-out means a loop in the reader and not a large image.
#![no_main]

use coracle_squashfs::dump;
use coracle_squashfs::reader::{FileType, Image, Inode, OpenOptions, WalkEntry};
use libfuzzer_sys::fuzz_target;
use std::io::{self, Write};

const FILES: usize = 200;
const ENTRIES: usize = 300;
const TEXT: usize = 64 << 10;

fuzz_target!(|bytes: &[u8]| {
    let options = OpenOptions { cache_bytes: 256 << 10, ..OpenOptions::default() };
    let Ok(image) = Image::open(bytes, options) else { return };
    for entry in image.walk().take(FILES).flatten() {
        let WalkEntry { path, inode } = entry;
        let _ = image.resolve(&path);
        let _ = image.xattrs(&inode);
        let _ = image.inode_by_number(inode.number);
        match inode.file_type() {
            FileType::Directory => list(&image, &inode),
            FileType::File => read(&image, &inode),
            FileType::Symlink => drop(image.read_link(&inode)),
            _ => {}
        }
    }
    let mut text = Vec::new();
    dump::superblock(&image, &mut text).expect("memory takes what is written");
    let _ = dump::tree(&image, &mut Bounded(TEXT));
});

/// Lists, resumes and looks up. They may disagree when the directory index lies, but not on what a name is.
fn list(image: &Image<&[u8]>, dir: &Inode) {
    let Ok(entries) = image.read_dir(dir) else { return };
    let entries: Vec<_> = entries.take(ENTRIES).map_while(Result::ok).collect();
    for entry in entries.iter().step_by(7) {
        if let Ok(Some(found)) = image.lookup(dir, &entry.name) {
            assert_eq!(found.name, entry.name);
        }
        if let Ok(rest) = image.read_dir_from(dir, entry.next_position) {
            assert!(rest.take(3).map_while(Result::ok).all(|next| next.next_position > entry.next_position));
        }
    }
}

/// A read must give the same bytes however it is cut.
fn read(image: &Image<&[u8]>, file: &Inode) {
    let mut whole = vec![0; 20_000];
    let mut part = vec![0; 1000];
    for offset in [0, file.size() / 2, file.size().saturating_sub(5000)] {
        let Ok(count) = image.read(file, offset, &mut whole) else { continue };
        assert_eq!(count as u64, (file.size() - offset).min(whole.len() as u64));
        if count >= 3000
            && let Ok(again) = image.read(file, offset + 2000, &mut part)
        {
            assert_eq!(part[..again], whole[2000..2000 + again]);
        }
    }
    let last = image.block_count(file).saturating_sub(1);
    if let Ok(block) = image.block(file, last) {
        assert!(block.len() as u64 <= file.size());
        assert!(block.is_hole() || block.bytes().is_some_and(|bytes| bytes.len() == block.len()));
    }
}

/// Takes so many bytes and then fails.
struct Bounded(usize);

impl Write for Bounded {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.0 = self.0.checked_sub(buf.len()).ok_or(io::ErrorKind::StorageFull)?;
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
