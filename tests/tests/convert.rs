//! Conversions by the real program, judged by umoci, the kernel, unsquashfs and libsquashfs, entry by entry.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests fail by panicking")]

use coracle_tests::agree::agree;
use coracle_tests::fixtures::{
    corner_image, corner_squashfs, export, flatten, standard_image, standard_squashfs, temp_dir, unpacked,
};
use coracle_tests::layout::Layout;
use coracle_tests::needs;
use coracle_tests::process::{User, coracle, run, run_with_peak_rss};
use coracle_tests::tree::{Expected, Tree, assert_same, sha256_of};
use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime};

/// Where `umoci unpack` and a conversion may differ, and why.
const FROM_UMOCI: &[Expected] = &[
    Expected {
        reason: "the conversion adds the image's documents",
        covers: |path, what| path.starts_with(b"/.coracle") && what == "extra",
    },
    Expected {
        reason: "the conversion adds usual mount points that the image lacks",
        covers: |path, what| {
            let added: &[&[u8]] =
                &[b"/run", b"/var", b"/var/tmp", b"/etc/hosts", b"/etc/resolv.conf", b"/mnt", b"/opt", b"/srv"];
            added.contains(&path) && what == "extra"
        },
    },
    Expected {
        reason: "a directory that mount points were added to has one more subdirectory",
        covers: |path, what| path == b"/" && what == "nlink",
    },
    Expected {
        reason: "in a PAX header an empty value takes a keyword back; umoci has no attribute then",
        covers: |path, what| path == b"/corner/xattrs/user" && what == "xattrs",
    },
    Expected {
        reason: "umoci sets the POSIX ACL, which changes the group's bits; squashfs has no place for one",
        covers: |path, what| path == b"/corner/xattrs/acl" && what == "mode",
    },
];

fn build(output: &Path, source: &str, options: &[&str]) {
    run(coracle(["build", "--quiet"]).args(options).arg(output).arg(source)).success();
}

fn latest(layout: &Path) -> String {
    format!("oci:{}:latest", layout.display())
}

#[test]
fn root_standard_image_equals_umoci_unpack_and_all_readers_agree() {
    needs!(Root, Coracle, StandardImage, Tool("umoci"), Tool("unsquashfs"));
    let image = standard_squashfs();
    let seen = Tree::of_image(&image);
    assert!(seen.entries.len() > 40_000, "{} entries are too few for the standard image", seen.entries.len());
    let bundle = unpacked("standard", &standard_image().unwrap());
    assert_same("umoci unpack", &Tree::of_directory(&bundle), &seen, FROM_UMOCI);
    agree("standard image", &image, &seen);
}

#[test]
fn root_corner_image_in_every_compressor_and_block_size() {
    needs!(Root, Coracle, Tool("umoci"), Tool("unsquashfs"));
    let layout = corner_image();
    let original = Tree::of_directory(&unpacked("corner", &layout));
    let dir = temp_dir();
    for compression in ["zstd:3", "zstd:15", "gzip", "gzip:1", "lz4", "xz"] {
        for size in ["4K", "128K", "1M"] {
            let image = dir.path().join("image.sqfs");
            build(&image, &latest(&layout), &["--force", "--compression", compression, "--block-size", size]);
            let seen = Tree::of_image(&image);
            let what = format!("{compression} {size}");
            assert_same(&what, &original, &seen, FROM_UMOCI);
            agree(&what, &image, &seen);
        }
    }
}

#[test]
fn both_tags_of_an_image_give_the_same_tree() {
    needs!(Coracle);
    let layout = corner_image();
    let dir = temp_dir();
    let image = dir.path().join("gzip.sqfs");
    build(&image, &format!("oci:{}:gzip", layout.display()), &[]);
    let documents = &["/.coracle"];
    let left = Tree::of_image(&corner_squashfs()).without(documents);
    assert_same("layers compressed in another way", &left, &Tree::of_image(&image).without(documents), &[]);
}

#[test]
fn archives_give_the_same_tree_as_the_layout() {
    needs!(Coracle, Tool("python3"));
    let layout = corner_image();
    let dir = temp_dir();
    let documents = &["/.coracle"];
    let expected = Tree::of_image(&corner_squashfs()).without(documents);
    for format in ["oci-archive", "docker-archive"] {
        let archive = dir.path().join(format!("{format}.tar"));
        export(format, &layout, "latest", &archive);
        let image = dir.path().join(format!("{format}.sqfs"));
        build(&image, &format!("{format}:{}", archive.display()), &[]);
        assert_same(format, &expected, &Tree::of_image(&image).without(documents), &[]);
    }
}

#[test]
fn root_a_tar_and_a_directory_give_the_same_tree() {
    needs!(Root, Coracle, Tool("umoci"), Tool("python3"));
    let root = unpacked("corner", &corner_image());
    let original = Tree::of_directory(&root);
    let dir = temp_dir();
    let tar = dir.path().join("flat.tar");
    flatten(&root, &tar);
    let documents = &["/.coracle"];
    for source in [format!("tar:{}", tar.display()), format!("dir:{}", root.display())] {
        let image = dir.path().join("image.sqfs");
        build(&image, &source, &["--force"]);
        assert_same(
            &source,
            &original,
            &Tree::of_image(&image).without(documents),
            &[MOUNT_POINTS[0], MOUNT_POINTS[1]],
        );
    }
}

const MOUNT_POINTS: [Expected; 2] = [
    Expected {
        reason: "the conversion adds usual mount points",
        covers: |path, what| what == "extra" && path.split(|byte| *byte == b'/').count() <= 3,
    },
    Expected {
        reason: "and they are subdirectories of the root",
        covers: |path, what| path == b"/" && what != "owner",
    },
];

/// Sets every file's time in a copy, as a copy made on another day has it.
fn set_times(dir: &Path, time: SystemTime) {
    for entry in fs::read_dir(dir).unwrap().flatten() {
        if entry.file_type().unwrap().is_dir() {
            set_times(&entry.path(), time);
        } else {
            fs::File::options().append(true).open(entry.path()).unwrap().set_modified(time).unwrap();
        }
    }
}

#[test]
fn the_same_image_gives_the_same_bytes() {
    needs!(Coracle);
    let user = User::unprivileged();
    let dir = temp_dir();
    let mine = user.temp_dir();
    let first = Layout::copy_of(&corner_image(), "latest", &dir.path().join("first/layout"));
    let second = Layout::copy_of(&corner_image(), "latest", &mine.path().join("second/another/name"));
    set_times(&second.path, SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000));
    let reference = dir.path().join("reference.sqfs");
    build(&reference, &first.source(), &["--threads", "1"]);
    let expected = sha256_of(&reference);
    for threads in ["1", "2", "3", "8"] {
        let output = mine.path().join(format!("{threads}.sqfs"));
        let mut command = user.coracle(mine.path(), ["build", "--quiet", "--threads", threads]);
        command.env("TZ", "Asia/Tokyo").env("LANG", "de_DE.UTF-8").env("SOURCE_DATE_EPOCH", "1");
        run(command.arg(&output).arg(second.source())).success();
        assert_eq!(sha256_of(&output), expected, "{threads} threads, another directory, date and user");
    }
}

#[test]
fn root_the_standard_image_gives_the_same_bytes_within_512_mib() {
    needs!(Root, Coracle, StandardImage, Tool("python3"));
    let source = latest(&standard_image().unwrap());
    let dir = temp_dir();
    let mut digests = Vec::new();
    for threads in ["2", "1"] {
        let output = dir.path().join(format!("{threads}.sqfs"));
        let mut command =
            coracle(["build", "--quiet", "--block-size", "128K", "--compression", "zstd:3", "--threads", threads]);
        let (finished, peak_kib) = run_with_peak_rss(command.arg(&output).arg(&source));
        finished.success();
        assert!(peak_kib < 512 << 10, "{threads} threads took {} MiB", peak_kib >> 10);
        digests.push(sha256_of(&output));
    }
    assert_eq!(digests[0], digests[1], "2 threads and 1 thread");
}

#[test]
fn an_existing_output_is_kept_unless_forced() {
    needs!(Coracle);
    let dir = temp_dir();
    let output = dir.path().join("image.sqfs");
    fs::write(&output, "precious").unwrap();
    let source = latest(&corner_image());
    let refused = run(coracle(["build"]).arg(&output).arg(&source)).exited(125);
    assert!(refused.stderr.contains("exists already"), "{}", refused.stderr);
    assert_eq!(fs::read(&output).unwrap(), b"precious");
    build(&output, &source, &["--force"]);
    assert_eq!(fs::read(&output).unwrap()[..4], *b"hsqs");
}

#[test]
fn holes_and_duplicates_take_no_room() {
    needs!(Coracle);
    let dir = temp_dir();
    let noise: Vec<u8> =
        (0..400_000_u32).flat_map(|n| n.wrapping_mul(2_654_435_761).rotate_left(n % 31).to_le_bytes()).collect();
    let tar = |copies: usize, zeros: usize| {
        let mut tar = coracle_tests::layout::Tar::default();
        for copy in 0..copies {
            tar = tar.file(&format!("copy-{copy}"), &noise);
        }
        tar.file("zeros", &vec![0; zeros]).finish()
    };
    let size_of = |name: &str, layer: Vec<u8>| {
        let layout = Layout::new(&dir.path().join(name), &[layer]);
        let output = dir.path().join(format!("{name}.sqfs"));
        build(&output, &layout.source(), &[]);
        fs::metadata(&output).unwrap().len()
    };
    let one = size_of("one", tar(1, 1 << 20));
    let many = size_of("many", tar(5, 16 << 20));
    assert!(many < one + 8192, "five copies and a longer hole: {many} bytes; one copy: {one}");
}
