//! The reader against images that other tools made, compared with the directory they were made from.

use super::*;
use std::fs::File;
use std::path::Path;
use std::process::{Command, Stdio};
use support::{Compare, have, open, sample_tree};

mod crafted;
mod damage;
pub(crate) mod support;
mod threads;

/// Makes an image of `source` with mksquashfs; `None` when the tool is missing.
pub(crate) fn mksquashfs(source: &Path, image: &Path, options: &[&str]) -> Option<()> {
    have("mksquashfs")?;
    let output = Command::new("mksquashfs")
        .args([source, image])
        .args(["-noappend", "-no-progress", "-quiet", "-no-recovery", "-processors", "2"])
        .args(options)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(output.status.success(), "mksquashfs {options:?}: {}", String::from_utf8_lossy(&output.stderr));
    Some(())
}

/// Makes images of one tree with each set of options, and compares each with the tree.
fn compare_all(option_sets: &[&[&str]]) {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("source");
    sample_tree(&source);
    for options in option_sets {
        let file = dir.path().join("image");
        if mksquashfs(&source, &file, options).is_none() {
            return;
        }
        let compared = Compare::default().run(&open(&file), &source, &format!("{options:?}"));
        assert!(compared > 300, "{options:?}: only {compared} files were compared");
    }
}

#[test]
fn images_of_every_compressor() {
    compare_all(&[
        &["-comp", "gzip", "-Xcompression-level", "6", "-Xwindow-size", "12"],
        &["-comp", "lzo"],
        &["-comp", "xz", "-Xbcj", "x86"],
        &["-comp", "lz4"],
        &["-comp", "lz4", "-Xhc"],
        &["-comp", "zstd", "-Xcompression-level", "3"],
    ]);
}

#[test]
fn images_of_every_block_size() {
    let sets: Vec<Vec<String>> = (12..=20)
        .map(|log| {
            let size = (1u32 << log).to_string();
            ["-comp", "zstd", "-Xcompression-level", "1", "-b", &size].map(String::from).to_vec()
        })
        .collect();
    let sets: Vec<Vec<&str>> = sets.iter().map(|set| set.iter().map(String::as_str).collect()).collect();
    compare_all(&sets.iter().map(Vec::as_slice).collect::<Vec<_>>());
}

#[test]
fn images_with_parts_stored_plainly_and_without_fragments() {
    compare_all(&[
        &["-noI"],
        &["-noD"],
        &["-noF"],
        &["-noX"],
        &["-noId"],
        &["-noI", "-noD", "-noF", "-noX", "-no-exports"],
        &["-no-fragments", "-comp", "lz4"],
        &["-always-use-fragments", "-comp", "lz4"],
        &["-no-duplicates", "-no-sparse", "-comp", "lz4"],
        &["-comp", "lz4", "-b", "4096", "-noF", "-always-use-fragments"],
    ]);
}

#[test]
fn images_of_squashfs_tools_ng() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("source");
    sample_tree(&source);
    for compressor in ["gzip", "xz", "lz4", "zstd"] {
        if have("gensquashfs").is_none() {
            return;
        }
        let file = dir.path().join(compressor);
        let status = Command::new("gensquashfs")
            .args(["--quiet", "--keep-time", "--keep-xattr", "--exportable", "-c", compressor, "-D"])
            .args([&source, &file])
            .status()
            .unwrap();
        assert!(status.success());
        let image = open(&file);
        // This tool makes each hard link a file of its own.
        let compare = Compare { hard_links: false, root: false, directory_links: false, empty_xattrs: false };
        compare.run(&image, &source, compressor);
        assert_eq!(image.inode_by_number(1).unwrap().number, 1);
    }
}

#[test]
fn images_of_tar2sqfs() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("source");
    sample_tree(&source);
    // No tar holds a socket.
    std::fs::remove_file(source.join("special/socket")).unwrap();
    if have("tar2sqfs").and(have("tar")).is_none() {
        return;
    }
    let (tar, file) = (dir.path().join("source.tar"), dir.path().join("image"));
    let status = Command::new("tar")
        .args(["--xattrs", "--xattrs-include=*", "--format=posix", "--sparse", "-cf"])
        .arg(&tar)
        .arg("-C")
        .args([&source, Path::new(".")])
        .status()
        .unwrap();
    assert!(status.success());
    let status = Command::new("tar2sqfs")
        .args(["--quiet", "--compressor", "zstd"])
        .arg(&file)
        .stdin(File::open(&tar).unwrap())
        .status()
        .unwrap();
    assert!(status.success());
    let compare = Compare { root: false, directory_links: false, ..Compare::default() };
    compare.run(&open(&file), &source, "tar2sqfs");
}

#[test]
fn a_large_directory_is_listed_resumed_and_searched_through_its_index() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("source");
    std::fs::create_dir_all(source.join("big")).unwrap();
    for index in 0..10_000 {
        std::fs::write(source.join(format!("big/name-{index:05}-{}", "x".repeat(index % 90))), b"").unwrap();
    }
    let file = dir.path().join("image");
    if mksquashfs(&source, &file, &["-comp", "zstd", "-Xcompression-level", "1"]).is_none() {
        return;
    }
    let image = open(&file);
    Compare::default().run(&image, &source, "large directory");
    let image = open(&file);
    let big = image.resolve(b"/big").unwrap().unwrap();
    let Kind::Directory { listing, .. } = &big.kind else { panic!("{big:?}") };
    assert!(listing.index_count > 50, "{listing:?}");
    let before = image.stats();
    assert!(image.lookup(&big, b"name-09998-xxxxxxxx").unwrap().is_some());
    let after = image.stats();
    let touched = after.metadata_blocks + after.metadata_hits - before.metadata_blocks - before.metadata_hits;
    assert!(touched < 10, "looking up one of the last names touched {touched} metadata blocks");
}

#[test]
fn a_sparse_file_of_many_blocks_is_read_at_random() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("source");
    std::fs::create_dir(&source).unwrap();
    let path = source.join("sparse");
    let sparse = File::create(&path).unwrap();
    let size = (300 << 20) + 12_345;
    sparse.set_len(size).unwrap();
    let mut offsets = Vec::new();
    for index in 0..60u64 {
        let offset = index * 5_242_880 + index * 613;
        std::os::unix::fs::FileExt::write_all_at(&sparse, &support::noise(index, 9000), offset).unwrap();
        offsets.push(offset);
    }
    let file = dir.path().join("image");
    if mksquashfs(&source, &file, &["-comp", "lz4", "-b", "4096"]).is_none() {
        return;
    }
    let image = open(&file);
    let inode = image.resolve(b"/sparse").unwrap().unwrap();
    assert_eq!(inode.size(), size);
    assert!(inode.blocks_512() * 512 < 1 << 20, "{inode:?}");
    // Backwards first, so that the whole list is walked at once and later reads use its checkpoints.
    for offset in offsets.iter().rev().chain(&offsets) {
        let mut buf = vec![0xaa; 12_000];
        assert_eq!(image.read(&inode, *offset, &mut buf).unwrap(), 12_000);
        let index = offset / 5_242_880;
        assert!(buf[..9000] == support::noise(index, 9000) && buf[9000..].iter().all(|byte| *byte == 0), "{offset}");
    }
    let mut buf = vec![0xaa; 100];
    assert_eq!(image.read(&inode, size - 10, &mut buf).unwrap(), 10);
    assert_eq!(image.read(&inode, size, &mut buf).unwrap(), 0);
    assert_eq!(image.read(&inode, u64::MAX, &mut buf).unwrap(), 0);
    assert!(image.block(&inode, 100).unwrap().is_hole());
}

#[test]
fn an_image_inside_another_file_is_found_by_its_offset() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("source");
    sample_tree(&source);
    let file = dir.path().join("image");
    if mksquashfs(&source, &file, &["-comp", "lz4", "-offset", "12345"]).is_none() {
        return;
    }
    let options = OpenOptions { offset: 12_345, ..OpenOptions::default() };
    let image = Image::open(File::open(&file).unwrap(), options).unwrap();
    Compare::default().run(&image, &source, "offset");
    let error = Image::open(File::open(&file).unwrap(), OpenOptions::default()).err().unwrap();
    assert_eq!(
        error.to_string(),
        "open image at byte 0: no squashfs superblock there: give a squashfs file or the right offset"
    );
}

#[test]
fn opening_reads_the_superblock_alone() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("source");
    sample_tree(&source);
    let file = dir.path().join("image");
    if mksquashfs(&source, &file, &["-comp", "lz4"]).is_none() {
        return;
    }
    struct Counted(File, std::sync::atomic::AtomicU32);
    impl ReadAt for Counted {
        fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> std::io::Result<()> {
            self.1.fetch_add(1, Relaxed);
            ReadAt::read_exact_at(&self.0, buf, offset)
        }
        fn size(&self) -> std::io::Result<u64> {
            self.0.size()
        }
    }
    let source = std::sync::Arc::new(Counted(File::open(&file).unwrap(), 0.into()));
    let image = Image::open(std::sync::Arc::clone(&source), OpenOptions::default()).unwrap();
    assert!(image.compressor_options().is_some());
    assert!(source.1.load(Relaxed) <= 3);
}
