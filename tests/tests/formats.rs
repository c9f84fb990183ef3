//! Images made by mksquashfs, gensquashfs and tar2sqfs, in every compressor and block size, read by our reader.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests fail by panicking")]

use coracle_tests::fixtures::{self, corner_image, temp_dir, unpacked};
use coracle_tests::process::run;
use coracle_tests::tree::{Expected, Tree, assert_same};
use coracle_tests::{needs, tree};
use std::path::{Path, PathBuf};
use std::process::Command;

const COMPRESSORS: [&str; 5] = ["gzip", "lzo", "lz4", "xz", "zstd"];
const BLOCK_SIZES: [u32; 4] = [4096, 32 << 10, 128 << 10, 1 << 20];

/// The tree with the corner cases, on disk and as data.
fn original() -> (PathBuf, Tree) {
    let root = unpacked("corner", &corner_image());
    let tree = Tree::of_directory(&root);
    (root, tree)
}

const CHILDREN_COUNTED: Expected = Expected {
    reason: "libsquashfs counts every child of a directory as a link to it, not its subdirectories alone",
    covers: |_, what| what == "nlink",
};
const LINKS_COPIED: Expected = Expected {
    reason: "gensquashfs packs each name of a hard link as a file of its own",
    covers: |path, what| what == "link" && path.starts_with(b"/corner/hard/"),
};

fn compare(what: &str, original: &Tree, image: &Path, expected: &[Expected]) {
    assert_same(what, original, &Tree::of_image(image), expected);
}

fn mksquashfs(root: &Path, image: &Path, options: &[&str]) {
    let mut command = Command::new("mksquashfs");
    command.arg(root).arg(image).args(["-no-progress", "-quiet", "-noappend", "-processors", "2"]).args(options);
    run(&mut command).success();
}

#[test]
fn root_mksquashfs_in_every_compressor_and_block_size() {
    needs!(Root, Tool("mksquashfs"), Tool("umoci"));
    let (root, original) = original();
    let dir = temp_dir();
    for compressor in COMPRESSORS {
        for size in BLOCK_SIZES {
            let image = dir.path().join("image");
            mksquashfs(&root, &image, &["-comp", compressor, "-b", &size.to_string()]);
            compare(&format!("mksquashfs {compressor} {size}"), &original, &image, &[]);
        }
    }
}

#[test]
fn root_mksquashfs_with_every_option_that_changes_the_format() {
    needs!(Root, Tool("mksquashfs"), Tool("umoci"));
    let (root, original) = original();
    let dir = temp_dir();
    let variants: &[&[&str]] = &[
        &["-no-fragments"],
        &["-always-use-fragments"],
        &["-tailends"],
        &["-no-exports"],
        &["-no-duplicates"],
        &["-no-sparse"],
        &["-nopad"],
        &["-noI"],
        &["-noD"],
        &["-noF"],
        &["-noX"],
        &["-noI", "-noD", "-noF", "-noX"],
        &["-noId"],
        &["-comp", "lz4", "-Xhc"],
        &["-comp", "xz", "-Xbcj", "x86"],
        &["-comp", "xz", "-Xdict-size", "8K", "-b", "64K"],
        &["-comp", "gzip", "-Xwindow-size", "10", "-Xstrategy", "default,filtered"],
        &["-comp", "zstd", "-Xcompression-level", "19"],
        &["-comp", "lzo", "-Xalgorithm", "lzo1x_1"],
    ];
    for options in variants {
        let image = dir.path().join("image");
        mksquashfs(&root, &image, options);
        compare(&format!("mksquashfs {}", options.join(" ")), &original, &image, &[]);
    }
    let image = dir.path().join("no-xattrs");
    mksquashfs(&root, &image, &["-no-xattrs"]);
    let lost = Expected { reason: "asked for: no extended attributes", covers: |_, what| what == "xattrs" };
    compare("mksquashfs -no-xattrs", &original, &image, &[lost]);
}

#[test]
fn root_mksquashfs_image_inside_another_file() {
    needs!(Root, Tool("mksquashfs"), Tool("umoci"));
    let (root, original) = original();
    let dir = temp_dir();
    let image = dir.path().join("image");
    mksquashfs(&root, &image, &["-offset", "123K"]);
    assert_same("an image at an offset", &original, &Tree::of_image_at(&image, 123 << 10), &[]);
}

#[test]
fn root_gensquashfs_in_every_compressor_and_block_size() {
    needs!(Root, Tool("gensquashfs"), Tool("umoci"));
    let (root, original) = original();
    let dir = temp_dir();
    // It stops at a POSIX ACL, for which squashfs has no place.
    let copy = dir.path().join("tree");
    run(Command::new("cp").arg("-a").arg(&root).arg(&copy)).success();
    xattr::remove(copy.join("corner/xattrs/acl"), "system.posix_acl_access").unwrap();
    xattr::remove(copy.join("corner/xattrs/default-acl"), "system.posix_acl_default").unwrap();
    for compressor in COMPRESSORS {
        for size in BLOCK_SIZES {
            let image = dir.path().join("image");
            let mut command = Command::new("gensquashfs");
            command.args([
                "--force",
                "--quiet",
                "--keep-time",
                "--keep-xattr",
                "--num-jobs",
                "2",
                "--compressor",
                compressor,
            ]);
            command.args(["--block-size", &size.to_string(), "--pack-dir"]).arg(&copy).arg(&image);
            run(&mut command).success();
            compare(&format!("gensquashfs {compressor} {size}"), &original, &image, &[CHILDREN_COUNTED, LINKS_COPIED]);
        }
    }
}

#[test]
fn root_tar2sqfs_in_every_compressor() {
    needs!(Root, Tool("tar2sqfs"), Tool("umoci"));
    let (root, original) = original();
    let dir = temp_dir();
    let tar = dir.path().join("flat.tar");
    fixtures::flatten(&root, &tar);
    for compressor in COMPRESSORS {
        for size in [4096, 1 << 20] {
            let image = dir.path().join("image");
            let mut command = Command::new("tar2sqfs");
            command.args(["--force", "--quiet", "--num-jobs", "2", "--compressor", compressor]);
            command.args(["--block-size", &size.to_string()]).arg(&image).stdin(std::fs::File::open(&tar).unwrap());
            let done = command.output().unwrap();
            assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
            compare(&format!("tar2sqfs {compressor} {size}"), &original, &image, &[CHILDREN_COUNTED]);
        }
    }
}

#[test]
fn root_differences_are_found() {
    needs!(Root, Tool("mksquashfs"), Tool("umoci"));
    let (_, original) = original();
    let mut changed = original.clone();
    let path = b"/corner/keep".to_vec();
    changed.entries.get_mut(&path).unwrap().mode ^= 0o001;
    changed.entries.remove(b"/corner/fifo".as_slice()).unwrap();
    let found = tree::differences(&original, &changed, &[]);
    assert_eq!(found, ["/corner/fifo missing: fifo", "/corner/keep mode: 644 / 645"]);
    let unneeded = Expected { reason: "nothing of the kind", covers: |_, what| what == "owner" };
    assert_eq!(tree::differences(&original, &original, &[unneeded]), ["expected, but not seen: nothing of the kind"]);
}
