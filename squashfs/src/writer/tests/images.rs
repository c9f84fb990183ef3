//! Whole images of everything that the format holds.

use super::support::{Build, Made, Rng, What, meta};
use crate::compress::Compression;
use crate::writer::{Metadata, WriterOptions};
use std::num::NonZeroUsize;

pub(super) fn options(compression: Compression, block_size: u32, threads: usize) -> WriterOptions {
    let threads = NonZeroUsize::new(threads).unwrap();
    WriterOptions { compression, block_size, threads, ..WriterOptions::default() }
}

pub(super) const ZSTD: Compression = Compression::Zstd { level: 3 };

fn xattrs(list: &[(&str, &[u8])]) -> Vec<(Vec<u8>, Vec<u8>)> {
    list.iter().map(|(name, value)| (name.as_bytes().to_vec(), value.to_vec())).collect()
}

/// One of everything, with sizes on both sides of every boundary.
fn everything(build: &mut Build, block: usize) {
    let mut rng = Rng::new(block as u64);
    build.dir("empty");
    build.add("own", Metadata { mode: 0o1777, uid: 1000, gid: 70_000, mtime: 0, ..meta(0) }, What::Directory);
    build.add("own/s", Metadata { mode: 0o6755, uid: u32::MAX - 1, mtime: u32::MAX, ..meta(0) }, What::File(vec![7]));
    for (name, size) in [("0", 0), ("1", 1), ("b-1", block - 1), ("b", block), ("b+1", block + 1), ("3b", 3 * block)] {
        build.file(format!("text{name}"), rng.text(size));
        build.file(format!("noise{name}"), rng.noise(size));
        build.file(format!("zero{name}"), vec![0; size]);
    }
    let mut holes = rng.text(2 * block);
    holes.extend(vec![0; 3 * block]);
    holes.extend(rng.noise(block / 2));
    build.file("holes", holes.clone());
    holes.truncate(5 * block);
    holes.extend(vec![0; 100]);
    build.file("hole-at-the-end", holes);
    build.dir("d");
    build.dir("d/e");
    build.dir("d/f");
    build.file("d/e/original", rng.text(200));
    build.link("d/f/link", "d/e/original");
    build.link("a-link-before", "d/e/original");
    build.add("symlink", meta(0o777), What::Symlink(b"d/e/original".to_vec()));
    build.link("d/symlink", "symlink");
    build.add("longest", meta(0o777), What::Symlink(vec![b'x'; 4095]));
    build.add("block", meta(0o660), What::Block(8, 1));
    build.add("char", meta(0o666), What::Char(4095, 1_048_575));
    build.add("char2", meta(0o666), What::Char(1, 256));
    build.add("fifo", meta(0o600), What::Fifo);
    build.add("socket", meta(0o600), What::Socket);
    build.add([b'n'; 255], meta(0o400), What::File(b"long name".to_vec()));
    build.add(b"\xff\x01 \n", meta(0o400), What::File(b"odd name".to_vec()));
}

/// Attributes on every type of inode, lists and values that repeat.
fn attributes(build: &mut Build, block: usize) {
    let mut rng = Rng::new(7);
    let big = rng.noise(3000);
    let label: &[u8] = b"system_u:object_r:bin_t:s0\0";
    let with = |mode, list: &[(&str, &[u8])]| Metadata { xattrs: xattrs(list), ..meta(mode) };
    let short: [(&str, &[u8]); 2] = [("trusted.t", b""), ("security.label", label)];
    build.dir("x");
    build.add("x/dir", with(0o755, &[("user.u", b"1"), ("trusted.big", &big)]), What::Directory);
    build.add("x/file", with(0o644, &[("user.big", &big), ("security.label", label)]), What::File(rng.text(block + 9)));
    build.add("x/same", with(0o644, &[("security.label", label), ("user.big", &big)]), What::File(vec![1; 99]));
    build.add("x/link", with(0o777, &short), What::Symlink(b"file".to_vec()));
    build.add("x/block", with(0o600, &short), What::Block(7, 300));
    build.add("x/char", with(0o600, &short), What::Char(5, 1));
    build.add("x/fifo", with(0o600, &short), What::Fifo);
    build.add("x/socket", with(0o600, &short), What::Socket);
}

fn full(options: WriterOptions) -> Made {
    let mut build = Build::new(options);
    everything(&mut build, options.block_size as usize);
    attributes(&mut build, options.block_size as usize);
    build.finish()
}

#[test]
fn every_codec_makes_an_image_that_all_readers_agree_on() {
    for compression in [
        Compression::Gzip { level: 9 },
        Compression::Gzip { level: 1 },
        ZSTD,
        Compression::Zstd { level: 15 },
        Compression::Lz4,
        Compression::Xz,
    ] {
        println!("{compression:?}");
        full(options(compression, 16 << 10, 2)).check();
    }
}

#[test]
fn every_block_size_makes_an_image_that_all_readers_agree_on() {
    for log in 12..=20 {
        println!("{}", 1 << log);
        full(options(Compression::Lz4, 1 << log, 2)).check();
    }
}

#[test]
fn an_image_without_anything_is_valid() {
    let made = Build::new(options(ZSTD, 4096, 1)).finish();
    made.check();
    assert_eq!(made.summary.inodes, 1);
    assert_eq!((made.summary.fragments, made.summary.blocks, made.summary.xattr_lists), (0, 0, 0));
    assert_eq!(made.bytes().len(), 4096);
}

#[test]
fn without_export_table_only_that_is_missing() {
    let mut build = Build::new(WriterOptions { exportable: false, ..options(ZSTD, 4096, 1) });
    everything(&mut build, 4096);
    build.finish().check();
}

#[test]
fn bytes_are_the_same_for_any_number_of_threads() {
    for compression in [ZSTD, Compression::Lz4] {
        let images: Vec<_> =
            [1, 2, 8, 2].map(|threads| full(options(compression, 8192, threads)).bytes()).into_iter().collect();
        assert!(images.iter().all(|image| *image == images[0]), "{compression:?}");
    }
}

#[test]
fn tables_are_the_same_for_any_number_of_threads() {
    let image = |threads| {
        let mut build = Build::new(options(ZSTD, 4096, threads));
        for at in 0..20_000u32 {
            if at % 100 == 0 {
                build.dir(format!("d{at}"));
            }
            let metadata = Metadata { xattrs: xattrs(&[("user.n", &(at / 9).to_le_bytes())]), ..meta(0o600) };
            build.add(format!("d{}/entry{at}", at / 100 * 100), metadata, What::Fifo);
        }
        build.finish()
    };
    let one = image(1);
    assert!(super::support::read_image(&one.path) == one.expected);
    for threads in [2, 3, 40] {
        assert!(one.bytes() == image(threads).bytes(), "{threads}");
    }
}

#[test]
fn counts_are_those_of_the_input() {
    let made = full(options(ZSTD, 8192, 2));
    let summary = &made.summary;
    let inodes = made.expected.len() - 3; // Three names are links.
    assert_eq!(summary.inodes as usize, inodes);
    assert_eq!(summary.xattr_lists, 3);
    assert_eq!(summary.ids, 4);
    assert_eq!(made.bytes().len() as u64, summary.bytes.next_multiple_of(4096));
    assert!(summary.data_out < summary.data_in);
}

#[test]
fn random_trees_come_back_as_they_were() {
    for seed in 1..=6 {
        let mut rng = Rng::new(seed);
        let mut build = Build::new(options(Compression::Lz4, 4096, 1 + seed as usize % 3));
        let mut directories = vec![Vec::new()];
        let mut files: Vec<Vec<u8>> = Vec::new();
        for at in 0..600 {
            let parent = directories[rng.below(directories.len() as u64) as usize].clone();
            let name = format!("{:x}{at}", rng.next() >> (4 * rng.below(16)));
            let path =
                if parent.is_empty() { name.into_bytes() } else { [&parent[..], b"/", name.as_bytes()].concat() };
            let log = rng.below(16);
            let size = rng.below(1 << log) as usize;
            match rng.below(10) {
                0 | 1 => {
                    build.dir(&path);
                    directories.push(path);
                }
                2 if !files.is_empty() => {
                    build.link(path, &files[rng.below(files.len() as u64) as usize]);
                }
                3 => {
                    build.add(path, meta(0o777), What::Symlink(rng.text(1 + size % 4000)));
                }
                4 => {
                    build.file(path, vec![0; size]);
                }
                5 => {
                    build.file(path, rng.noise(size));
                }
                _ => {
                    build.file(&path, rng.text(size));
                    files.push(path);
                }
            }
        }
        println!("seed {seed}");
        build.finish().check();
    }
}
