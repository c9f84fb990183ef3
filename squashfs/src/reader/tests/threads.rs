//! Many threads on one image.

use super::support::{noise, open, sample_tree};
use super::*;
use std::sync::Barrier;

#[test]
fn eight_threads_read_everything_through_a_tiny_cache() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("source");
    sample_tree(&source);
    let file = dir.path().join("image");
    if mksquashfs(&source, &file, &["-comp", "lz4", "-b", "16384"]).is_none() {
        return;
    }
    let wanted = digest(&open(&file), 0);
    for cache_bytes in [0, 40_000, 1 << 20] {
        let options = OpenOptions { cache_bytes, ..OpenOptions::default() };
        let image = Image::open(File::open(&file).unwrap(), options).unwrap();
        let barrier = Barrier::new(8);
        std::thread::scope(|scope| {
            for start in 0..8 {
                let (image, barrier) = (&image, &barrier);
                scope.spawn(move || {
                    barrier.wait();
                    assert_eq!(digest(image, start * 50), wanted, "cache of {cache_bytes}");
                });
            }
        });
        let kept = image.data.weight() + image.metadata.weight() + image.positions.weight();
        assert!(kept <= cache_bytes, "{kept} bytes are kept, {cache_bytes} are allowed");
    }
}

/// A number that depends on all names and contents, files taken from the `start`th on, then from the first.
fn digest<S: ReadAt>(image: &Image<S>, start: usize) -> u64 {
    let entries: Vec<_> = image.walk().map(|entry| entry.unwrap()).collect();
    let start = start.min(entries.len());
    let mut sum = 0u64;
    for entry in entries[start..].iter().chain(&entries[..start]) {
        let mut hash = 0xcbf2_9ce4_8422_2325_u64;
        let mut add = |bytes: &[u8]| {
            for byte in bytes {
                hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
            }
        };
        add(&entry.path);
        if entry.inode.file_type() == FileType::File {
            let mut buf = vec![0; 30_000];
            let mut offset = 0;
            loop {
                let count = image.read(&entry.inode, offset, &mut buf).unwrap();
                add(&buf[..count]);
                offset += count as u64;
                if count < buf.len() {
                    break;
                }
            }
        }
        for xattr in image.xattrs(&entry.inode).unwrap() {
            add(&xattr.name);
            add(&xattr.value);
        }
        sum = sum.wrapping_add(hash);
    }
    sum
}

#[test]
fn a_block_that_eight_threads_want_is_unpacked_once() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("source");
    std::fs::create_dir(&source).unwrap();
    let content: Vec<u8> = noise(1, 1 << 19).into_iter().flat_map(|byte| [byte, byte]).collect();
    std::fs::write(source.join("file"), &content).unwrap();
    let file = dir.path().join("image");
    if mksquashfs(&source, &file, &["-comp", "xz", "-b", "1M"]).is_none() {
        return;
    }
    let image = open(&file);
    let inode = image.resolve(b"/file").unwrap().unwrap();
    let barrier = Barrier::new(8);
    std::thread::scope(|scope| {
        for thread in 0..8u64 {
            let (image, inode, barrier, content) = (&image, &inode, &barrier, &content);
            scope.spawn(move || {
                barrier.wait();
                let mut buf = vec![0; 4096];
                assert_eq!(image.read(inode, thread * 100_000, &mut buf).unwrap(), 4096);
                assert!(buf == content[thread as usize * 100_000..][..4096]);
            });
        }
    });
    let stats = image.stats();
    assert_eq!((stats.blocks, stats.block_hits), (1, 7));
}
