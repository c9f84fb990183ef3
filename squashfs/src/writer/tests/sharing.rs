//! What is stored once, or not at all.

use super::images::{ZSTD, options};
use super::support::{Build, Made, Mount, Rng, What, meta, read_image};
use crate::compress::Compression;
use std::fs;
use std::os::unix::fs::MetadataExt;

const BLOCK: usize = 4096;

fn build() -> Build {
    Build::new(options(ZSTD, BLOCK as u32, 2))
}

fn image_of(contents: &[&[u8]]) -> Made {
    let mut build = build();
    for (at, content) in contents.iter().enumerate() {
        build.file(format!("f{at:03}"), content.to_vec());
    }
    build.finish()
}

#[test]
fn equal_files_are_stored_once() {
    let mut rng = Rng::new(1);
    let (large, small) = (rng.noise(50 * BLOCK + 77), rng.noise(3000));
    let one = image_of(&[&large, &small]);
    let many = image_of(&[&large, &small, &large, &small, &large, &small, &large]);
    many.check();
    assert_eq!(one.summary.duplicates, 0);
    assert_eq!(many.summary.duplicates, 5);
    assert_eq!(many.summary.duplicate_bytes, (3 * large.len() + 2 * small.len()) as u64);
    assert_eq!(many.summary.data_out, one.summary.data_out);
    assert_eq!(many.summary.blocks, 51);
    assert_eq!(many.summary.fragments, 1);
}

#[test]
fn blocks_of_a_copy_are_taken_back_wherever_it_comes() {
    let mut rng = Rng::new(2);
    let files: Vec<Vec<u8>> = (0..6)
        .map(|at| if at % 2 == 0 { rng.noise((5 + at) * BLOCK + at) } else { rng.text((9 - at) * BLOCK) })
        .collect();
    let small: Vec<Vec<u8>> = (0..40).map(|_| rng.noise(1500)).collect();
    let mut build = build();
    let mut unique = [false; 6];
    let mut stored = 0;
    for at in 0..120u64 {
        let pick = rng.below(6) as usize;
        let mut content = files[pick].clone();
        if at % 7 == 3 {
            // Nearly a copy: the same blocks, but for the last one.
            *content.last_mut().unwrap() ^= at as u8 | 1;
            stored += content.len().div_ceil(BLOCK);
        } else if !std::mem::replace(&mut unique[pick], true) {
            stored += content.len().div_ceil(BLOCK);
        }
        build.file(format!("l{at:03}"), content);
        if at % 3 == 0 {
            build.file(format!("s{at:03}"), small[at as usize / 3].clone());
        }
    }
    let made = build.finish();
    made.check();
    // Nearly-copies of one file that change the same way are copies of each other.
    assert!(made.summary.blocks <= stored as u64);
    assert!(made.summary.duplicates > 80, "{:?}", made.summary);
}

#[test]
fn a_last_file_that_is_a_copy_leaves_nothing_behind() {
    let content = Rng::new(3).noise(100 * BLOCK);
    let one = image_of(&[&content]);
    let two = image_of(&[&content, &content]);
    two.check();
    assert!(two.bytes().len() - one.bytes().len() <= BLOCK);
    assert_eq!(two.summary.data_out, one.summary.data_out);
}

#[test]
fn files_that_share_blocks_but_not_all_stay_apart() {
    let mut rng = Rng::new(4);
    let base = rng.text(20 * BLOCK);
    let longer = [&base[..], b"x"].concat();
    let shorter = base[..19 * BLOCK].to_vec();
    let shifted = [&base[BLOCK..], &base[..BLOCK]].concat();
    let zero_inside = [&base[..BLOCK], &vec![0; BLOCK], &base[BLOCK..]].concat();
    let zero_later = [&base[..2 * BLOCK], &vec![0; BLOCK], &base[2 * BLOCK..]].concat();
    let made = image_of(&[&base, &longer, &shorter, &shifted, &zero_inside, &zero_later, &base]);
    made.check();
    assert_eq!(made.summary.duplicates, 1);
}

#[test]
fn known_blocks_are_copied_not_compressed_again() {
    let content = Rng::new(5).text(400 * BLOCK);
    let mut build = build();
    build.file("a", content.clone());
    // So much in between that the first file is in the image for certain.
    for at in 0..8 {
        build.file(format!("b{at}"), Rng::new(10 + at).noise(50 * BLOCK));
    }
    build.file("c", [&content[..], b"different"].concat());
    build.file("d", content);
    let made = build.finish();
    made.check();
    assert!(made.summary.blocks_reused >= 700, "{:?}", made.summary);
    assert_eq!(made.summary.duplicates, 1);
}

#[test]
fn holes_take_no_space_and_show_in_st_blocks() {
    let mut build = build();
    let mut content = vec![0; 1000 * BLOCK];
    content[500 * BLOCK] = 1;
    build.file("one-block", content);
    build.file("nothing", vec![0; 1000 * BLOCK + 5]);
    build.file("none", vec![1; BLOCK]);
    let made = build.finish();
    made.check();
    assert_eq!(made.summary.blocks, 2);
    if let Some(mount) = Mount::new(&made) {
        let blocks = |name| fs::metadata(mount.0.join(name)).unwrap().blocks();
        assert_eq!(blocks("one-block"), BLOCK as u64 / 512);
        assert_eq!(blocks("nothing"), 1);
        assert_eq!(blocks("none"), BLOCK as u64 / 512);
    }
}

#[test]
fn zeros_and_holes_are_the_same_image() {
    let part = Rng::new(6).text(3 * BLOCK / 2);
    let sizes = [(1, 0), (BLOCK, BLOCK), (BLOCK / 2, 3 * BLOCK), (5 * BLOCK + 1, 17), (0, 2 * BLOCK), (100, 4 * BLOCK)];
    let image = |holes: bool| {
        let mut build = build();
        for (at, (before, after)) in sizes.into_iter().enumerate() {
            let content = [&vec![0; before], &part[..], &vec![0; after]].concat();
            if holes {
                let mut file = build.writer.begin_file(content.len() as u64).unwrap();
                file.write_hole(before as u64 / 2).unwrap();
                file.write_hole(before.div_ceil(2) as u64).unwrap();
                file.write(&part).unwrap();
                file.write_hole(after as u64).unwrap();
                assert_eq!(file.remaining(), 0);
                let id = file.finish().unwrap();
                let node = crate::writer::Node { metadata: meta(0o644), kind: crate::writer::NodeKind::File(id) };
                build.tree.add(crate::writer::Tree::ROOT, format!("f{at}").as_bytes(), node).unwrap();
            } else {
                build.file(format!("f{at}"), content);
            }
        }
        build.finish()
    };
    let plain = image(false);
    plain.check();
    assert!(plain.bytes() == image(true).bytes());
}

#[test]
fn a_file_beyond_4_gib_is_whole() {
    let mut build = Build::new(options(Compression::Lz4, 1 << 20, 2));
    let size = (5u64 << 30) + 4321;
    let mut file = build.writer.begin_file(size).unwrap();
    file.write(b"front").unwrap();
    file.write_hole(size - 9).unwrap();
    file.write(b"tail").unwrap();
    let id = file.finish().unwrap();
    let node = crate::writer::Node { metadata: meta(0o644), kind: crate::writer::NodeKind::File(id) };
    build.tree.add(crate::writer::Tree::ROOT, b"huge", node).unwrap();
    let made = build.finish();
    let image = crate::reader::Image::open(fs::File::open(&made.path).unwrap(), Default::default()).unwrap();
    let huge = image.resolve(b"/huge").unwrap().unwrap();
    assert_eq!(huge.size(), size);
    let mut tail = [1; 8];
    assert_eq!(image.read(&huge, size - 8, &mut tail).unwrap(), 8);
    assert_eq!(&tail, b"\0\0\0\0tail");
    if let Some(mount) = Mount::new(&made) {
        use std::os::unix::fs::FileExt;
        let file = fs::File::open(mount.0.join("huge")).unwrap();
        assert_eq!(file.metadata().unwrap().len(), size);
        assert_eq!(file.metadata().unwrap().blocks(), ((1 << 20) + 4321u64).div_ceil(512));
        file.read_exact_at(&mut tail, size - 8).unwrap();
        assert_eq!(&tail, b"\0\0\0\0tail");
    }
}

#[test]
fn hard_links_share_an_inode_and_are_counted() {
    let mut build = build();
    build.file("a", b"content".to_vec());
    for at in 0..300 {
        build.link(format!("l{at:03}"), "a");
    }
    build.add("fifo", meta(0o600), What::Fifo);
    build.link("fifo2", "fifo");
    let made = build.finish();
    made.check();
    assert_eq!(made.summary.inodes, 3);
    assert_eq!(read_image(&made.path)[&b"l299"[..]].nlink, 301);
}
