//! The same layers, unpacked by umoci.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, reason = "tests fail by panicking")]

mod support;

use std::fmt::Write;
use std::path::Path;
use std::process::Command;
use support::tar::{TarBuilder, header};
use support::unpacked::{comparable, list_directory, usable};
use support::{Layout, Packed, chain, converted, layout_source};

fn tar() -> TarBuilder {
    TarBuilder::new()
}

/// Names in every way there is: GNU long name and link, PAX, and ustar's prefix.
fn long_names() -> TarBuilder {
    let long = |kind: u8, text: &str| {
        let mut blocks = header(b"././@LongLink", kind, text.len() as u64 + 1, b"").to_vec();
        blocks.extend_from_slice(text.as_bytes());
        blocks.resize((blocks.len() + 1).next_multiple_of(512), 0);
        blocks
    };
    let (name, target) = (format!("{}/{}", "d".repeat(200), "n".repeat(200)), "t".repeat(300));
    let mut prefixed = header(b"name", b'0', 0, b"");
    prefixed[345..351].copy_from_slice(b"prefix");
    support::tar::seal(&mut prefixed);
    tar()
        .raw(&long(b'K', &target))
        .raw(&long(b'L', &name))
        .symlink("short", "short")
        .raw(&long(b'L', &format!("{name}2")))
        .file("short", "content")
        .raw(&long(b'K', &format!("{name}2")))
        .link("linked", "short")
        .file(&format!("{}/{}", "p".repeat(150), "x".repeat(250)), "pax")
        .raw(&prefixed)
}

/// `cap_net_bind_service`, permitted and effective.
const CAPABILITY: [u8; 20] = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

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
        ("implied parents", vec![tar().meta(0o600, 3, 4, 5).file("a/b/c", "1"), tar().meta(0o750, 1, 2, 3).dir("a")]),
        ("implied over directory", vec![tar().meta(0o750, 1, 2, 3).dir("a").file("a/x", ""), tar().file("a/b/c", "")]),
        ("empty layers", vec![tar(), tar().file("a", "x"), tar(), tar()]),
        ("long names", vec![long_names()]),
        (
            "hard link to a link",
            vec![tar().symlink("s", "nowhere").link("t", "s"), tar().link("u", "t").file(".wh.s", "")],
        ),
        (
            "hard links to devices",
            vec![tar().device("c", b'3', 1, 3).link("d", "c").entry("p", b'6', "", b"").link("q", "p")],
        ),
        (
            "hard link, target's directory gone",
            vec![tar().dir("d").file("d/a", "1").link("b", "d/a"), tar().file(".wh.d", "")],
        ),
        (
            "hard link, directory opaque",
            vec![tar().dir("d").file("d/a", "1").link("b", "d/a"), tar().file("d/.wh..wh..opq", "")],
        ),
        ("link replaced by link", vec![tar().file("a", "1").link("b", "a"), tar().file("c", "2").link("b", "c")]),
        ("white-out, then again", vec![tar().file("a", "1"), tar().file(".wh.a", ""), tar().file("a", "3")]),
        ("white-out of nothing", vec![tar().file("a", "1"), tar().file(".wh.b", "").file("d/.wh.e", "")]),
        ("fifo over directory", vec![tar().dir("a").file("a/x", ""), tar().entry("a", b'6', "", b"")]),
        ("directory over device", vec![tar().device("a", b'4', 8, 1), tar().dir("a").file("a/x", "")]),
        (
            "modes",
            vec![tar().meta(0o7777, 0, 0, 9).file("f", "x").dir("d"), tar().meta(0, 65_534, 1 << 20, 7).file("g", "y")],
        ),
        (
            "attributes",
            vec![
                tar()
                    .pax("SCHILY.xattr.user.a", b"1\0\xff\n")
                    .pax("SCHILY.xattr.user.b", "2")
                    .file("f", "x")
                    .link("g", "f"),
                tar().pax("SCHILY.xattr.security.capability", CAPABILITY).file("h", ""),
                tar().pax("SCHILY.xattr.user.c", "3").dir("d"),
                tar().file("f", "without"),
            ],
        ),
        ("special", vec![tar().entry("p", b'6', "", b"").device("c", b'3', 1, 3).symlink("s", "../../etc/passwd")]),
    ]
}

/// The tree of a layout's only image as umoci unpacks it, or what it says.
fn unpacked(layout: &Path, bundle: &Path) -> Result<Vec<String>, String> {
    let image = format!("{}:t", layout.display());
    let done = Command::new("umoci").args(["unpack", "--image", &image]).arg(bundle).output().unwrap();
    if !done.status.success() {
        return Err(String::from_utf8_lossy(&done.stderr).into_owned());
    }
    Ok(list_directory(&bundle.join("rootfs")))
}

#[test]
fn root_stacks_unpack_to_the_same_tree() {
    if !usable(&["umoci"], true) {
        return;
    }
    for (name, stack) in stacks() {
        let dir = tempfile::tempdir().unwrap();
        let layers = stack.into_iter().map(TarBuilder::finish).collect::<Vec<_>>();
        let layout = dir.path().join("layout");
        Layout::new().image("t", &layers, Packed::Plain).write(&layout);
        let expected = unpacked(&layout, &dir.path().join("bundle")).unwrap_or_else(|error| panic!("{name}: {error}"));
        let ours = converted(&layout_source(&layout, None)).unwrap_or_else(|error| panic!("{name}: {}", chain(&error)));
        assert_eq!(comparable(ours), expected, "{name}");
    }
}

/// Not random, so that a failure can be repeated.
struct Dice(u64);

impl Dice {
    fn below(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % sides
    }

    fn path(&mut self, leaf: bool) -> String {
        let depth = self.below(3);
        let mut parts = (0..depth).map(|_| ["a", "b"][self.below(2) as usize]).collect::<Vec<_>>();
        // Now and then something that is below in one place is a directory in another.
        let leaf = leaf && self.below(8) > 0;
        parts.push(if leaf { ["x", "y"][self.below(2) as usize] } else { ["a", "b"][self.below(2) as usize] });
        parts.join("/")
    }
}

/// A layer of entries that get in each other's way, and what they are.
fn layer(dice: &mut Dice, files: &mut Vec<String>, text: &mut String) -> TarBuilder {
    let mut layer = tar();
    let mut before: Vec<String> = Vec::new();
    for _ in 0..1 + dice.below(6) {
        let kind = if files.is_empty() { dice.below(5) } else { dice.below(10) };
        let (path, mtime) = (dice.path(!matches!(kind, 3 | 4 | 6)), dice.below(1_000_000));
        let (parent, name) = path.rsplit_once('/').map_or(("", path.as_str()), |(parent, name)| (parent, name));
        let inside = |name: &str| if parent.is_empty() { name.to_owned() } else { format!("{parent}/{name}") };
        // A directory's entry precedes what is in it, and no layer has a link and a directory of one name. Where one did,
        // unpackers would follow a link that is gone in the end; layers from the top down cannot.
        if matches!(kind, 3 | 4) && before.iter().any(|known| known.starts_with(&path)) {
            continue;
        }
        before.push(path.clone());
        layer = layer.meta(0o644, 0, 0, mtime);
        let _ = write!(text, " {path}={kind}");
        layer = match kind {
            0..=2 => {
                files.push(path.clone());
                layer.file(&path, mtime.to_string())
            }
            3 | 4 => layer.dir(&path),
            5 => layer.file(&inside(&format!(".wh.{name}")), ""),
            6 => layer.file(&format!("{path}/.wh..wh..opq"), ""),
            7 => layer.symlink(&path, ["a", "/b", "../c", "b/a"][dice.below(4) as usize]),
            _ => {
                let target = files[dice.below(files.len() as u64) as usize].clone();
                let _ = write!(text, ">{target}");
                layer.link(&path, &target)
            }
        };
    }
    text.push('|');
    layer
}

/// Many stacks that nobody thought of. Those that either side refuses are counted, not compared: a hard link to nothing,
/// say, or a path through a loop of links.
#[test]
fn root_stacks_by_chance_unpack_to_the_same_tree() {
    if !usable(&["umoci"], true) {
        return;
    }
    let count = std::env::var("STACKS").map_or(100, |count| count.parse().unwrap());
    let mut dice = Dice(0x9e37_79b9_7f4a_7c15);
    let (mut compared, mut wrong) = (0u32, Vec::new());
    for number in 0..count {
        let (mut text, mut files) = (String::new(), Vec::new());
        let layers =
            (0..2 + dice.below(3)).map(|_| layer(&mut dice, &mut files, &mut text).finish()).collect::<Vec<_>>();
        let dir = tempfile::tempdir().unwrap();
        let layout = dir.path().join("layout");
        Layout::new().image("t", &layers, Packed::Plain).write(&layout);
        let expected = unpacked(&layout, &dir.path().join("bundle"));
        let ours = converted(&layout_source(&layout, None)).map(comparable);
        match (expected, ours) {
            (Ok(expected), Ok(ours)) => {
                compared += 1;
                if expected != ours {
                    wrong.push(format!("{number}:{text}\n  umoci: {expected:#?}\n  ours: {ours:#?}"));
                }
            }
            (Ok(_), Err(error)) => wrong.push(format!("{number}:{text}\n  refused: {}", chain(&error))),
            (Err(_), _) => {}
        }
    }
    assert!(compared > count / 3, "only {compared} of {count} stacks could be compared");
    assert!(wrong.is_empty(), "{} of {compared} differ:\n{}", wrong.len(), wrong[..wrong.len().min(6)].join("\n"));
}
