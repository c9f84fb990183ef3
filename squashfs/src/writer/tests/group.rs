//! Files that are to lie together.

use super::images::{ZSTD, options};
use super::support::{Build, Made, Rng};
use crate::reader::{Image, OpenOptions, ReadAt};
use std::fs::File;
use std::io;
use std::sync::Mutex;

const BLOCK: usize = 4096;

/// Notes which bytes are read.
struct Spy {
    file: File,
    reads: Mutex<Vec<(u64, u64)>>,
}

impl ReadAt for &Spy {
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.reads.lock().unwrap().push((offset, offset + buf.len() as u64));
        ReadAt::read_exact_at(&self.file, buf, offset)
    }

    fn size(&self) -> io::Result<u64> {
        self.file.size()
    }
}

/// Where the stored blocks of a file lie: first byte of the first one, first byte behind the last one.
fn extent(made: &Made, path: &str) -> (u64, u64) {
    let spy = Spy { file: File::open(&made.path).unwrap(), reads: Mutex::default() };
    let image = Image::open(&spy, OpenOptions::default()).unwrap();
    // What opening reads lies in front of the data.
    spy.reads.lock().unwrap().clear();
    let inode = image.resolve(path.as_bytes()).unwrap().unwrap();
    let data_end = image.superblock().inode_table_start.get();
    for block in 0..image.block_count(&inode) {
        image.block(&inode, block).unwrap();
    }
    let reads = spy.reads.lock().unwrap();
    let data = reads.iter().filter(|(_, end)| *end <= data_end);
    (data.clone().map(|read| read.0).min().unwrap(), data.map(|read| read.1).max().unwrap())
}

/// Small and large files, the group's named `g…`, and copies in both parts.
fn grouped(threads: usize) -> Made {
    let mut rng = Rng::new(8);
    let copies = [rng.noise(700), rng.noise(3 * BLOCK + 5)];
    let mut build = Build::new(options(ZSTD, BLOCK as u32, threads));
    for at in 0..30 {
        build.file(format!("c{at:02}"), rng.noise(1500));
        build.file(format!("d{at:02}"), rng.noise(2 * BLOCK + at));
    }
    build.file("copy0", copies[0].clone());
    build.file("copy1", copies[1].clone());
    build.writer.begin_group().unwrap();
    for at in 0..20 {
        build.file(format!("g{at:02}"), rng.noise(if at % 4 == 0 { 3 * BLOCK } else { 1000 }));
    }
    build.file("group0", copies[0].clone());
    build.file("group1", copies[1].clone());
    build.file("group2", copies[0].clone());
    build.finish()
}

#[test]
fn a_group_lies_together_and_in_order() {
    let made = grouped(2);
    made.check();
    let before = (0..30).flat_map(|at| [format!("c{at:02}"), format!("d{at:02}")]);
    let end_before = before.map(|path| extent(&made, &path).1).max().unwrap();
    let group = (0..20).map(|at| extent(&made, &format!("g{at:02}"))).collect::<Vec<_>>();
    assert!(group.iter().all(|(start, _)| *start >= end_before), "{group:?} and {end_before}");
    for kind in [true, false] {
        let starts = group.iter().enumerate().filter(|(at, _)| (at % 4 == 0) == kind).map(|(_, extent)| extent.0);
        assert!(starts.is_sorted(), "{group:?}");
    }
    // Nothing but what the group holds, one small copy among it.
    let image = Image::open(File::open(&made.path).unwrap(), OpenOptions::default()).unwrap();
    assert_eq!(image.superblock().inode_table_start.get() - end_before, (5 * 3 * BLOCK + 15 * 1000 + 700) as u64);
}

#[test]
fn a_group_has_small_copies_of_its_own_and_shares_large_ones() {
    let made = grouped(2);
    assert_ne!(extent(&made, "copy0"), extent(&made, "group0"));
    assert_eq!(extent(&made, "group0"), extent(&made, "group2"));
    assert_eq!(extent(&made, "copy1"), extent(&made, "group1"));
    assert_eq!(made.summary.duplicates, 2);
}

#[test]
fn a_grouped_image_does_not_depend_on_threads() {
    assert!(grouped(1).bytes() == grouped(4).bytes());
}
