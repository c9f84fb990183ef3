//! Images laid out by a profile, and images packed anew, by the real program: nothing but the layout may differ.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests fail by panicking")]

use coracle_tests::agree::agree;
use coracle_tests::fixtures::{corner_image, corner_squashfs, standard_squashfs, temp_dir, unpacked};
use coracle_tests::needs;
use coracle_tests::process::{coracle, run, run_with_peak_rss};
use coracle_tests::tree::{Expected, Kind, Tree, assert_same, sha256_of};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::json;

const PROFILE: &str = "/.coracle/profile.json";
const INFO: &str = "/.coracle/image.json";

/// Every so many of a tree's regular files, from the last to the first.
fn profile(dir: &Path, tree: &Tree, every: usize) -> PathBuf {
    let files = tree.entries.iter().filter(|(_, entry)| matches!(entry.kind, Kind::File(..)));
    let plain = |byte: &u8| byte.is_ascii() && *byte != b'%';
    let text = |byte: &u8| if plain(byte) { char::from(*byte).to_string() } else { format!("%{byte:02x}") };
    let escaped = |path: &[u8]| path.iter().map(text).collect::<String>();
    let touched = files.rev().step_by(every).map(|(path, _)| json!({"path": escaped(path), "blocks": [0]}));
    let profile = json!({"version": 1, "command": ["test"], "touched": touched.collect::<Vec<_>>()});
    let path = dir.join("profile.json");
    fs::write(&path, profile.to_string()).unwrap();
    path
}

fn build(output: &Path, source: &str, options: &[&str]) -> String {
    run(coracle(["build"]).args(options).arg(output).arg(source)).success().stdout
}

#[test]
fn root_a_profile_changes_nothing_that_a_reader_sees() {
    needs!(Root, Coracle, Tool("umoci"), Tool("unsquashfs"));
    let layout = corner_image();
    let plain = Tree::of_image(&corner_squashfs());
    let dir = temp_dir();
    let profile = profile(dir.path(), &plain, 2);
    let by = ["--force", "--profile", profile.to_str().unwrap()];
    let image = dir.path().join("image.sqfs");
    let original = format!("oci:{}:latest", layout.display());
    let again = format!("squashfs:{}", corner_squashfs().display());
    for source in [original.as_str(), &again, corner_squashfs().to_str().unwrap()] {
        let summary = build(&image, source, &by);
        assert!(summary.contains("laid out together"), "{summary}");
        let seen = Tree::of_image(&image);
        assert_same(source, &plain.clone().without(&[INFO]), &seen.clone().without(&[PROFILE, INFO]), &[]);
        agree(source, &image, &seen);
        let digest = sha256_of(&image);
        build(&image, source, &[&by[..], &["--threads", "5"]].concat());
        assert_eq!(sha256_of(&image), digest, "{source}: 5 threads");
    }
}

/// What packing an image anew adds to one that is not ours.
const DOCUMENTS: [Expected; 2] = [
    Expected {
        reason: "an image of ours says how it was made",
        covers: |path, what| path.starts_with(b"/.coracle") && what == "extra",
    },
    Expected { reason: "and has a directory for that", covers: |path, what| path == b"/" && what == "nlink" },
];

#[test]
fn root_images_of_mksquashfs_are_packed_anew() {
    needs!(Root, Coracle, Tool("mksquashfs"), Tool("umoci"), Tool("unsquashfs"));
    let root = unpacked("corner", &corner_image());
    let original = Tree::of_directory(&root);
    let dir = temp_dir();
    let (theirs, ours) = (dir.path().join("theirs"), dir.path().join("ours.sqfs"));
    let variants: &[&[&str]] = &[
        &["-comp", "gzip", "-b", "4096"],
        &["-comp", "lzo", "-b", "1M", "-always-use-fragments"],
        &["-comp", "xz", "-no-exports", "-no-xattrs"],
        &["-noI", "-noD", "-noF", "-noX", "-no-fragments"],
    ];
    for options in variants {
        let mut command = Command::new("mksquashfs");
        command
            .arg(&root)
            .arg(&theirs)
            .args(["-no-progress", "-quiet", "-noappend", "-processors", "2"])
            .args(*options);
        run(&mut command).success();
        build(&ours, theirs.to_str().unwrap(), &["--quiet", "--force"]);
        let (before, after) = (Tree::of_image(&theirs), Tree::of_image(&ours));
        assert_same(&format!("{options:?}"), &before, &after, &DOCUMENTS);
        if !options.contains(&"-no-xattrs") {
            assert_same(&format!("{options:?}: directory"), &original, &after, &DOCUMENTS);
        }
        agree(&format!("{options:?}"), &ours, &after);
    }
}

#[test]
fn root_the_standard_image_by_profile_within_512_mib() {
    needs!(Root, Coracle, StandardImage, Tool("unsquashfs"));
    let source = standard_squashfs();
    let plain = Tree::of_image(&source);
    let dir = temp_dir();
    let profile = profile(dir.path(), &plain, 50);
    let image = dir.path().join("image.sqfs");
    let mut command = coracle(["build", "--quiet", "--compression", "zstd:1", "--profile"]);
    let (finished, peak) = run_with_peak_rss(command.arg(&profile).arg(&image).arg(&source));
    finished.success();
    assert!(peak < 512 << 10, "{peak} KiB");
    let seen = Tree::of_image(&image);
    assert_same("by profile", &plain.without(&[INFO]), &seen.clone().without(&[PROFILE, INFO]), &[]);
    agree("by profile", &image, &seen);
}
