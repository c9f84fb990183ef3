//! Damaged and lying input: an error that names the place, nothing left behind, no crash and no hang.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests fail by panicking")]

use coracle_tests::fixtures::{corner_image, corner_squashfs, temp_dir};
use coracle_tests::layout::{Layout, Tar};
use coracle_tests::needs;
use coracle_tests::process::{Finished, coracle, run};
use coracle_tests::tree::Tree;
use serde_json::json;
use std::fs;
use std::path::Path;
use std::process::Command;

/// Builds from the source into a directory of its own, expects a failure that says each of `clues`, and nothing left.
#[track_caller]
fn refused(source: &str, clues: &[&str]) -> String {
    let dir = temp_dir();
    let output = dir.path().join("image.sqfs");
    let mut command = coracle(["build", "--quiet"]);
    let finished = limited(command.arg(&output).arg(source));
    assert_eq!(finished.code(), Some(125), "{source}: {} {}", finished.status, finished.stderr);
    for clue in clues {
        assert!(finished.stderr.contains(clue), "{source}: \"{clue}\" is not in: {}", finished.stderr);
    }
    let left: Vec<_> = fs::read_dir(dir.path()).unwrap().flatten().map(|entry| entry.file_name()).collect();
    assert!(left.is_empty(), "{source}: left {left:?}");
    finished.stderr
}

/// Runs with little memory, so that an allocation by a lying number shows.
fn limited(command: &mut Command) -> Finished {
    let mut wrapped = Command::new("prlimit");
    wrapped.args(["--as=2147483648", "--core=0", "--"]).arg(command.get_program()).args(command.get_args());
    run(&mut wrapped)
}

fn copy(dir: &Path) -> Layout {
    Layout::copy_of(&corner_image(), "latest", &dir.join("layout"))
}

#[test]
fn a_truncated_layer_blob() {
    needs!(Coracle);
    let dir = temp_dir();
    for index in 0..4 {
        let layout = copy(&dir.path().join(index.to_string()));
        let digest = layout.layer_digest(index);
        let blob = layout.blob(&digest);
        let length = fs::metadata(&blob).unwrap().len();
        fs::File::options().write(true).open(&blob).unwrap().set_len(length / 2).unwrap();
        refused(&layout.source(), &[&digest[7..19]]);
    }
}

#[test]
fn a_flipped_bit_in_a_layer_blob() {
    needs!(Coracle);
    let dir = temp_dir();
    for index in 0..4 {
        let layout = copy(&dir.path().join(index.to_string()));
        let digest = layout.layer_digest(index);
        let blob = layout.blob(&digest);
        let mut bytes = fs::read(&blob).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 0x10;
        fs::write(&blob, bytes).unwrap();
        refused(&layout.source(), &[&digest[7..19]]);
    }
}

#[test]
fn a_missing_blob() {
    needs!(Coracle);
    let dir = temp_dir();
    let layout = copy(dir.path());
    let digest = layout.layer_digest(1);
    fs::remove_file(layout.blob(&digest)).unwrap();
    refused(&layout.source(), &[&digest[7..19]]);
}

#[test]
fn a_manifest_that_lies_about_a_size() {
    needs!(Coracle);
    for wrong in [0_u64, 1, 1 << 40] {
        let dir = temp_dir();
        let layout = copy(dir.path());
        let digest = layout.layer_digest(1);
        let mut manifest = layout.manifest();
        manifest["layers"][1]["size"] = json!(wrong);
        layout.set_manifest(&manifest);
        refused(&layout.source(), &[&digest[7..19]]);
    }
}

#[test]
fn a_config_with_a_wrong_diff_id() {
    needs!(Coracle);
    let dir = temp_dir();
    let layout = copy(dir.path());
    let wrong = format!("sha256:{}", "5".repeat(64));
    layout.edit_config(|config| config["rootfs"]["diff_ids"][2] = json!(wrong));
    refused(&layout.source(), &["555555555555"]);
}

#[test]
fn a_config_with_too_few_diff_ids() {
    needs!(Coracle);
    let dir = temp_dir();
    let layout = copy(dir.path());
    layout.edit_config(|config| {
        config["rootfs"]["diff_ids"].as_array_mut().unwrap().pop();
    });
    refused(&layout.source(), &["3 layers", "manifest 4"]);
}

#[test]
fn documents_that_are_none() {
    needs!(Coracle);
    let dir = temp_dir();
    let layout = copy(dir.path());
    fs::write(layout.path.join("index.json"), "{\"schemaVersion\":2,\"manifests\":[").unwrap();
    refused(&layout.source(), &["index.json"]);
    fs::remove_file(layout.path.join("index.json")).unwrap();
    refused(&layout.source(), &["index.json"]);
    refused("oci:/does/not/exist", &["/does/not/exist"]);
    refused("docker-archive:/dev/null", &["/dev/null"]);
    refused("floppy:/dev/fd0", &["oci:", "docker-archive:"]);
}

/// One layer of these entries, cut or not, under its true digest.
fn layer(entries: Tar) -> (tempfile::TempDir, Layout) {
    let dir = temp_dir();
    let layout = Layout::new(&dir.path().join("layout"), &[entries.finish()]);
    (dir, layout)
}

#[test]
fn a_layer_that_ends_within_a_file() {
    needs!(Coracle);
    let dir = temp_dir();
    let mut bytes = Tar::default().file("whole", b"whole").file("cut/short", &[7; 5000]).finish();
    bytes.truncate(3000);
    let layout = Layout::new(&dir.path().join("layout"), &[bytes]);
    refused(&layout.source(), &["cut/short"]);
}

#[test]
fn a_layer_whose_header_lies_about_a_size() {
    needs!(Coracle);
    let (_dir, layout) = layer(Tar::default().entry("lies", b'0', "", (8 << 30) - 1, b"short"));
    refused(&layout.source(), &["lies"]);
}

#[test]
fn a_layer_with_a_damaged_header() {
    needs!(Coracle);
    let dir = temp_dir();
    let mut bytes = Tar::default().file("first", b"1").file("second", b"2").finish();
    bytes[1024 + 5] ^= 0x40;
    let layout = Layout::new(&dir.path().join("layout"), &[bytes]);
    refused(&layout.source(), &[&layout.layer_digest(0)[7..19]]);
}

#[test]
fn no_entry_reaches_outside_the_image() {
    needs!(Coracle);
    for tar in [
        Tar::default().file("../outside", b"x").file("inside", b"y"),
        Tar::default().file("/absolute", b"x").file("inside", b"y"),
        Tar::default().file("a/../../../outside", b"x").file("inside", b"y"),
        Tar::default().symlink("way-out", "/").file("way-out/etc/outside", b"x").file("inside", b"y"),
        Tar::default().symlink("way-out", "../../..").file("way-out/outside", b"x").file("inside", b"y"),
        Tar::default().file("inside", b"y").hardlink("link", "../../../../etc/passwd"),
        Tar::default().file("inside", b"y").hardlink("link", "/etc/shadow"),
        Tar::default().symlink("loop", "loop").file("loop/x", b"x").file("inside", b"y"),
    ] {
        let (dir, layout) = layer(tar);
        let output = dir.path().join("image.sqfs");
        let finished = run(coracle(["build", "--quiet"]).arg(&output).arg(layout.source()));
        if finished.status.success() {
            // Refusing and clamping to the image's root are both sound; a path that climbs is not.
            let tree = Tree::of_image(&output);
            assert!(tree.entries.contains_key(b"/inside".as_slice()));
            for path in tree.entries.keys() {
                assert!(!path.split(|byte| *byte == b'/').any(|part| part == b".."), "{}", path.escape_ascii());
            }
        } else {
            assert_eq!(finished.code(), Some(125), "{}", finished.stderr);
            assert!(!output.exists());
        }
        let outside: Vec<_> = fs::read_dir(dir.path()).unwrap().flatten().map(|entry| entry.file_name()).collect();
        assert!(outside.iter().all(|name| name == "layout" || name == "image.sqfs"), "{outside:?}");
    }
}

/// An image with one thing wrong: every way to read it ends soon, by an error or by content, never by a signal.
fn survives(image: &Path) -> bool {
    let mut complained = false;
    for view in ["--tree", "--superblock", "--json"] {
        let finished = limited(coracle(["inspect", view]).arg(image));
        let code = finished.code().unwrap_or_else(|| panic!("inspect {view}: {}", finished.status));
        assert!(code == 0 || code == 125, "inspect {view} exited with {code}: {}", finished.stderr);
        assert!(!finished.stderr.contains("panicked"), "{}", finished.stderr);
        if code == 125 {
            assert!(finished.stderr.contains("image.sqfs"), "the error names no file: {}", finished.stderr);
        }
        complained |= code == 125;
    }
    complained
}

#[test]
fn a_truncated_image() {
    needs!(Coracle);
    let dir = temp_dir();
    let bytes = fs::read(corner_squashfs()).unwrap();
    let image = dir.path().join("image.sqfs");
    for length in [0, 1, 95, 96, 4096, bytes.len() / 2, bytes.len() - 5000] {
        fs::write(&image, &bytes[..length]).unwrap();
        assert!(survives(&image), "{length} bytes of {} are no image", bytes.len());
    }
    fs::write(&image, "#!/bin/sh\necho no image\n".repeat(100)).unwrap();
    assert!(survives(&image), "a script is no image");
}

#[test]
fn an_image_with_flipped_bits() {
    needs!(Coracle);
    let dir = temp_dir();
    let bytes = fs::read(corner_squashfs()).unwrap();
    let image = dir.path().join("image.sqfs");
    // Every byte of the superblock, then places all over the tables, which are at the end.
    let superblock = (0..96).map(|at| (at, 0xff));
    let tables = (1..40).map(|step| (bytes.len() - 4096 - step * 977, 0x10));
    let complaints = superblock.chain(tables).filter(|(at, mask)| {
        let mut damaged = bytes.clone();
        damaged[*at] ^= mask;
        fs::write(&image, damaged).unwrap();
        survives(&image)
    });
    assert!(complaints.count() > 40, "damage goes unnoticed");
}
