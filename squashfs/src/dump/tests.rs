//! The text of dumps.

use super::*;
use crate::reader::OpenOptions;
use crate::reader::tests::{mksquashfs, support};
use std::process::Command;

fn text(write: impl FnOnce(&mut dyn Write)) -> String {
    let mut out = Vec::new();
    write(&mut out);
    String::from_utf8(out).unwrap()
}

#[test]
fn times_are_utc_and_iso() {
    for (seconds, wanted) in [
        (0, "1970-01-01T00:00:00Z"),
        (951_782_399, "2000-02-28T23:59:59Z"),
        (951_782_400, "2000-02-29T00:00:00Z"),
        (1_709_251_199, "2024-02-29T23:59:59Z"),
        (1_735_689_599, "2024-12-31T23:59:59Z"),
        (4_107_542_400, "2100-03-01T00:00:00Z"),
        (u32::MAX, "2106-02-07T06:28:15Z"),
    ] {
        assert_eq!(Time(seconds).to_string(), wanted);
    }
}

#[test]
fn a_superblock_shows_every_field() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("source");
    std::fs::create_dir(&source).unwrap();
    for (options, compressor) in [
        (["-comp", "zstd", "-Xcompression-level", "3"].as_slice(), "zstd level 3"),
        (&["-comp", "gzip", "-Xcompression-level", "5"], "gzip level 5 window 15 strategies 0x0"),
        (&["-comp", "gzip"], "gzip"),
        (&["-comp", "xz", "-Xdict-size", "65536"], "xz dictionary 65536 filters 0x0"),
        (&["-comp", "lz4", "-Xhc"], "lz4 version 1 high-compression"),
        (&["-comp", "lzo", "-Xalgorithm", "lzo1x_1_15"], "lzo algorithm lzo1x_1_15 level 0"),
    ] {
        let file = dir.path().join("image");
        let all = [options, &["-mkfs-time", "86400", "-noX"]].concat();
        if mksquashfs(&source, &file, &all).is_none() {
            return;
        }
        let image = support::open(&file);
        let shown = text(|out| superblock(&image, out).unwrap());
        assert_eq!(shown.lines().count(), 18, "{shown}");
        assert!(shown.starts_with("magic                  0x73717368\nversion                4.0\n"), "{shown}");
        assert!(shown.contains("created                1970-01-02T00:00:00Z\n"), "{shown}");
        assert!(shown.contains(&format!("compression            {compressor}\n")), "{shown}");
        assert!(shown.contains(" duplicates-removed exportable uncompressed-xattrs"), "{shown}");
        assert!(shown.ends_with("xattr_id_table_start   none\n"), "{shown}");
    }
}

#[test]
fn a_tree_shows_types_owners_targets_devices_and_attributes() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("source");
    std::fs::create_dir(&source).unwrap();
    std::fs::write(source.join("a\x1b[31mfile"), b"12345").unwrap();
    std::fs::write(source.join("with attributes"), b"").unwrap();
    xattr::set(source.join("with attributes"), "user.one", b"1").unwrap();
    std::os::unix::fs::symlink("target\nline", source.join("link")).unwrap();
    let file = dir.path().join("image");
    let options = ["-all-time", "0", "-all-root", "-p", "dev c 620 0 0 300 70000", "-p", "a\x1b[31mfile m 6755 0 0"];
    if mksquashfs(&source, &file, &options).is_none() {
        return;
    }
    let image = support::open(&file);
    let shown = text(|out| tree(&image, out).unwrap());
    let lines: Vec<_> = shown.lines().collect();
    assert_eq!(lines[1], "-rwsr-sr-x   1 0/0                  5 1970-01-01T00:00:00Z /a\\x1b[31mfile");
    assert_eq!(lines[2], "crw--w----   1 0/0          300,70000 1970-01-01T00:00:00Z /dev");
    assert!(lines[3].ends_with("/link -> target\\nline"), "{shown}");
    assert!(lines[4].ends_with("/with attributes [user.one]"), "{shown}");
    assert_eq!(lines.len(), 5);
}

#[test]
fn a_tree_has_the_paths_that_unsquashfs_lists() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("source");
    support::sample_tree(&source);
    std::fs::remove_dir_all(source.join("names")).unwrap();
    let file = dir.path().join("image");
    if support::have("unsquashfs").and_then(|()| mksquashfs(&source, &file, &["-comp", "lz4"])).is_none() {
        return;
    }
    let output = Command::new("unsquashfs").args(["-d", "", "-l"]).arg(&file).output().unwrap();
    assert!(output.status.success());
    let mut wanted: Vec<_> = String::from_utf8(output.stdout).unwrap().lines().map(String::from).collect();
    wanted.sort();
    let image = crate::reader::Image::open(std::fs::read(&file).unwrap(), OpenOptions::default()).unwrap();
    let listed = text(|out| tree(&image, out).unwrap());
    let mut got: Vec<_> = listed
        .lines()
        .filter_map(|line| line.split_once("Z /").map(|(_, path)| path))
        .map(|path| format!("/{}", path.split(' ').next().unwrap_or_default()))
        .map(|path| if path == "/" { String::new() } else { path })
        .collect();
    got.sort();
    assert_eq!(got, wanted);
}
