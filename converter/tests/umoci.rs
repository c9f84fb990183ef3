//! The same layers, unpacked by umoci.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, reason = "tests fail by panicking")]

mod support;

use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::process::Command;
use support::tar::TarBuilder;
use support::{Layout, Packed, chain, converted, layout_source};

fn tar() -> TarBuilder {
    TarBuilder::new()
}

/// Stacks whose result the specification, or what everyone does, defines.
fn stacks() -> Vec<(&'static str, Vec<TarBuilder>)> {
    let usr =
        || tar().dir("usr").dir("usr/lib").symlink("lib", "usr/lib").file("usr/lib/x", "low").file("usr/lib/y", "low");
    vec![
        (
            "replaced",
            vec![tar().dir("a").file("a/x", "1").file("a/y", "1"), tar().file("a/x", "2"), tar().file("a/x", "3")],
        ),
        (
            "whiteout",
            vec![tar().dir("a").file("a/x", "").file("b", ""), tar().dir("a").file("a/.wh.x", "").file(".wh.b", "")],
        ),
        ("whiteout of own", vec![tar().dir("d").file("d/old", ""), tar().dir("d").file("d/new", "").file(".wh.d", "")]),
        (
            "opaque first",
            vec![tar().dir("d").file("d/old", ""), tar().dir("d").file("d/.wh..wh..opq", "").file("d/n", "")],
        ),
        (
            "opaque last",
            vec![tar().dir("d").file("d/old", ""), tar().dir("d").file("d/n", "").file("d/.wh..wh..opq", "")],
        ),
        ("opaque alone", vec![tar().file("z", ""), tar().file("a/.wh..wh..opq", "").file("b/.wh.c", "")]),
        ("opaque over file", vec![tar().file("a", "f"), tar().file("a/.wh..wh..opq", "")]),
        ("opaque through link", vec![usr(), tar().file("lib/.wh..wh..opq", "")]),
        ("whiteout through link", vec![usr(), tar().file("lib/.wh.x", "")]),
        ("entry through link", vec![usr(), tar().file("lib/x", "top").file("lib/z", "top")]),
        ("directory over link", vec![usr(), tar().dir("lib").file("lib/x", "top")]),
        ("link over directory", vec![tar().dir("a").file("a/x", ""), tar().symlink("a", "b")]),
        ("file over directory", vec![tar().dir("a").file("a/x", ""), tar().file("a", "f")]),
        ("directory over file", vec![tar().file("a", "f"), tar().dir("a").file("a/x", "")]),
        ("file, then directory", vec![tar().dir("a").file("a/x", ""), tar().file("a", "f"), tar().dir("a")]),
        ("hard links", vec![tar().file("a", "x").link("b", "a").dir("d").link("d/c", "/b")]),
        ("hard link down", vec![tar().file("a", "x"), tar().link("b", "a")]),
        ("hard link, target replaced", vec![tar().file("a", "1"), tar().link("b", "a"), tar().file("a", "2")]),
        ("hard link, target replaced in layer", vec![tar().file("a", "1").link("b", "a").file("a", "2")]),
        ("hard link, target gone", vec![tar().file("a", "1").link("b", "a"), tar().file(".wh.a", "")]),
        ("hard link, then white-out", vec![tar().file("a", "1"), tar().link("b", "a").file(".wh.a", "")]),
        ("duplicates", vec![tar().file("a", "1").file("a", "2").dir("d").file("d/x", "").dir("d")]),
        ("names", vec![tar().file("/abs", "").file("../../up", "").file("x/../y", "").dir("./").file("./c", "")]),
        ("special", vec![tar().entry("p", b'6', "", b"").device("c", b'3', 1, 3).symlink("s", "../../etc/passwd")]),
    ]
}

/// As [`support::list`], of an unpacked directory, without times.
fn list_directory(root: &Path, at: &Path, links: &mut Vec<(u64, String)>, lines: &mut Vec<String>) {
    let mut names = std::fs::read_dir(at).unwrap().map(|entry| entry.unwrap().path()).collect::<Vec<_>>();
    names.sort();
    for path in names {
        let meta = path.symlink_metadata().unwrap();
        let name = format!("/{}", path.strip_prefix(root).unwrap().display());
        let same = links.iter().find(|(inode, _)| *inode == meta.ino()).map(|(_, first)| format!(" @{first}"));
        let kind = meta.file_type();
        let detail = if kind.is_file() {
            format!("- {name} ={}", std::fs::read(&path).unwrap().escape_ascii())
        } else if kind.is_symlink() {
            format!("l {name} ->{}", std::fs::read_link(&path).unwrap().display())
        } else if kind.is_dir() {
            format!("d {name} ")
        } else if kind.is_fifo() {
            format!("p {name} ")
        } else {
            assert!(kind.is_char_device());
            format!("c {name} ")
        };
        lines.push(format!("{detail}{}", same.unwrap_or_default()));
        if !meta.is_dir() {
            links.push((meta.ino(), name));
        } else {
            list_directory(root, &path, links, lines);
        }
    }
}

#[test]
fn root_stacks_unpack_to_the_same_tree() {
    let usable = Command::new("umoci").arg("--version").output().is_ok() && rustix::process::geteuid().is_root();
    if !usable {
        assert!(std::env::var_os("CI").is_none(), "umoci is missing, or this is not root");
        println!("skipped: needs umoci, and root to run it");
        return;
    }
    for (name, stack) in stacks() {
        let dir = tempfile::tempdir().unwrap();
        let layers = stack.into_iter().map(TarBuilder::finish).collect::<Vec<_>>();
        let layout = dir.path().join("layout");
        Layout::new().image("t", &layers, Packed::Plain).write(&layout);
        let bundle = dir.path().join("bundle");
        let image = format!("{}:t", layout.display());
        let unpacked = Command::new("umoci").args(["unpack", "--image", &image]).arg(&bundle).output().unwrap();
        assert!(unpacked.status.success(), "{name}: {}", String::from_utf8_lossy(&unpacked.stderr));
        let mut expected = Vec::new();
        let root = bundle.join("rootfs");
        list_directory(&root, &root, &mut Vec::new(), &mut expected);
        let ours = converted(&layout_source(&layout, None)).unwrap_or_else(|error| panic!("{name}: {}", chain(&error)));
        let ours = ours
            .iter()
            .skip(1)
            .map(|line| {
                let fields = line.splitn(7, ' ').collect::<Vec<_>>();
                let rest = if matches!(fields[0], "c" | "d" | "p") { "" } else { fields[6] };
                format!("{} {} {rest}", fields[0], fields[5])
            })
            .collect::<Vec<_>>();
        expected.sort();
        let mut ours = ours;
        ours.sort();
        assert_eq!(ours, expected, "{name}");
    }
}
