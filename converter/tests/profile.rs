//! Conversions laid out by a profile, from every kind of source.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests fail by panicking")]

mod support;

use coracle_converter::image_info;
use coracle_converter::profile::{Profile, ProfileFile, Touched};
use coracle_converter::{Error, LaidOut, Options, Report, Source, convert};
use coracle_squashfs::reader::{Image, OpenOptions};
use std::fs::{self, File};
use std::num::NonZeroUsize;
use std::path::Path;
use support::tar::TarBuilder;
use support::{Layout, Packed, bytes, chain, extent, file, layout_source, list, options};

fn profile(paths: &[&str]) -> ProfileFile {
    let touched = paths.iter().map(|path| Touched { path: path.as_bytes().to_vec(), blocks: vec![0] }).collect();
    ProfileFile::new(Profile { touched, ..Profile::default() }.to_json().unwrap()).unwrap()
}

/// 4 KiB blocks, so that a few files fill several.
fn by(profile: &ProfileFile) -> Options {
    Options { block_size: 4096, profile: Some(profile.clone()), ..options() }
}

fn plain() -> Options {
    Options { block_size: 4096, ..options() }
}

fn noise(seed: u32, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state as u8
    };
    (0..length).map(|_| next()).collect()
}

/// `s…` are shorter than a block, `l…` longer; the profile has every fourth, backwards.
fn many(names: std::ops::Range<u32>) -> TarBuilder {
    names.fold(TarBuilder::new().dir("d"), |tar, n| {
        tar.file(&format!("d/s{n:02}"), noise(n, 900 + n as usize))
            .file(&format!("d/l{n:02}"), noise(n, 9000 + n as usize))
    })
}

const FILES: u32 = 40;

fn hot() -> Vec<String> {
    (0..FILES).rev().filter(|n| n % 4 == 0).flat_map(|n| [format!("/d/s{n:02}"), format!("/d/l{n:02}")]).collect()
}

fn hot_profile() -> ProfileFile {
    profile(&hot().iter().map(String::as_str).collect::<Vec<_>>())
}

/// Converts to `name` in `dir`.
fn to(dir: &Path, name: &str, source: &Source, options: &Options) -> (std::path::PathBuf, Report) {
    let output = dir.join(name);
    let report = convert(source, &output, options, &()).map_err(|error| chain(&error)).unwrap();
    (output, report)
}

fn laid_out(files: u64, bytes: u64, missing: u64, elsewhere: u64) -> Option<LaidOut> {
    let mut expected = LaidOut::default();
    (expected.files, expected.bytes, expected.missing, expected.elsewhere) = (files, bytes, missing, elsewhere);
    Some(expected)
}

/// The same files as a layout of two layers, a tar, a directory and an image.
fn sources(dir: &Path) -> Vec<Source> {
    let tar = |tar: TarBuilder| tar.finish();
    Layout::new()
        .image("v1", &[tar(many(0..FILES / 2)), tar(many(FILES / 2..FILES))], Packed::Zstd)
        .write(&dir.join("layout"));
    let whole = Source::Tar { file: file(dir, "all.tar", &tar(many(0..FILES))) };
    fs::create_dir_all(dir.join("tree/d")).unwrap();
    for n in 0..FILES {
        fs::write(dir.join(format!("tree/d/s{n:02}")), noise(n, 900 + n as usize)).unwrap();
        fs::write(dir.join(format!("tree/d/l{n:02}")), noise(n, 9000 + n as usize)).unwrap();
    }
    let (image, _) = to(dir, "source.sqfs", &whole, &plain());
    vec![
        layout_source(&dir.join("layout"), None),
        whole,
        Source::Directory { dir: dir.join("tree") },
        Source::Squashfs { file: image, offset: 0 },
    ]
}

#[test]
fn files_of_a_profile_lie_together_in_its_order_whatever_the_source() {
    let dir = tempfile::tempdir().unwrap();
    for (at, source) in sources(dir.path()).iter().enumerate() {
        let (image, report) = to(dir.path(), &format!("{at}.sqfs"), source, &by(&hot_profile()));
        let sizes = (0..FILES).filter(|n| n % 4 == 0).map(|n| u64::from(900 + n + 9000 + n)).sum();
        assert_eq!(report.laid_out, laid_out(20, sizes, 0, 0));
        let hot = hot();
        let others = (0..FILES).flat_map(|n| [format!("/d/s{n:02}"), format!("/d/l{n:02}")]);
        let others = others.filter(|path| !hot.contains(path));
        let end = others.map(|path| extent(&image, &path).1).max().unwrap();
        for size in ["/d/s", "/d/l"] {
            let extents =
                hot.iter().filter(|path| path.starts_with(size)).map(|path| extent(&image, path)).collect::<Vec<_>>();
            assert!(extents.is_sorted() && extents[0].0 >= end, "{source}: {extents:?} behind {end}");
        }
        // Nothing else is among them, but for our own few small files, which come last.
        let opened = Image::open(File::open(&image).unwrap(), OpenOptions::default()).unwrap();
        let tables = opened.superblock().inode_table_start.get();
        assert!(tables - end < sizes + 4096, "{source}: {} bytes for {sizes}", tables - end);
    }
}

#[test]
fn a_profile_changes_nothing_but_the_layout_and_is_kept_verbatim() {
    let dir = tempfile::tempdir().unwrap();
    let loose = br#" {"touched": [{"path": "/d/s00"}], "version": 1} "#;
    let loose = ProfileFile::new(loose.to_vec()).unwrap();
    for (at, source) in sources(dir.path()).iter().enumerate() {
        let (without, _) = to(dir.path(), &format!("w{at}.sqfs"), source, &plain());
        for (number, profile) in [&loose, &hot_profile()].into_iter().enumerate() {
            let (with, _) = to(dir.path(), &format!("{at}-{number}.sqfs"), source, &by(profile));
            assert_eq!(list(&with), list(&without));
            let image = Image::open(File::open(&with).unwrap(), OpenOptions::default()).unwrap();
            assert_eq!(ProfileFile::of_image(&image).unwrap().unwrap().bytes(), profile.bytes());
        }
        let image = Image::open(File::open(&without).unwrap(), OpenOptions::default()).unwrap();
        assert_eq!(ProfileFile::of_image(&image).unwrap(), None);
    }
}

#[test]
fn bytes_do_not_depend_on_threads() {
    let dir = tempfile::tempdir().unwrap();
    for source in sources(dir.path()) {
        let with = |threads| {
            let threads = NonZeroUsize::new(threads).unwrap();
            bytes(&source, &Options { threads, ..by(&hot_profile()) })
        };
        let one = with(1);
        assert!(one == with(2) && one == with(5), "{source}");
    }
}

#[test]
fn what_the_image_lacks_is_counted_and_what_is_no_file_too() {
    let dir = tempfile::tempdir().unwrap();
    let tar = TarBuilder::new().dir("d").file("d/f", "x").symlink("s", "d").file("empty", "").finish();
    let source = Source::Tar { file: file(dir.path(), "t.tar", &tar) };
    let profile = profile(&["/none", "/d", "/s", "/s/f", "/d/f/x", "/d/f", "/empty", "/etc/hosts", "/d/none"]);
    let (image, report) = to(dir.path(), "i.sqfs", &source, &by(&profile));
    assert_eq!(report.laid_out, laid_out(3, 1, 6, 0));
    let (repacked, report) = to(dir.path(), "r.sqfs", &Source::Squashfs { file: image, offset: 0 }, &by(&profile));
    assert_eq!(report.laid_out, laid_out(3, 1, 6, 0));
    assert!(list(&repacked).iter().any(|line| line.ends_with("/d/f =x")));
}

#[test]
fn any_name_of_a_file_is_good_where_the_source_tells_in_time() {
    let dir = tempfile::tempdir().unwrap();
    let tar = TarBuilder::new().file("a", "linked").link("b", "a").file("c", "c").link("d", "c").finish();
    let tar = Source::Tar { file: file(dir.path(), "t.tar", &tar) };
    fs::create_dir(dir.path().join("tree")).unwrap();
    for (name, link, content) in [("a", "b", "linked"), ("c", "d", "c")] {
        fs::write(dir.path().join("tree").join(name), content).unwrap();
        fs::hard_link(dir.path().join("tree").join(name), dir.path().join("tree").join(link)).unwrap();
    }
    let second_names = profile(&["/b", "/c", "/d"]);
    let (image, report) = to(dir.path(), "t.sqfs", &tar, &by(&second_names));
    // "a" was written when "b" turned out to be the same; "d" is where "c" is.
    assert_eq!(report.laid_out, laid_out(2, 1, 0, 1));
    let directory = Source::Directory { dir: dir.path().join("tree") };
    let (_, report) = to(dir.path(), "d.sqfs", &directory, &by(&second_names));
    assert_eq!(report.laid_out, laid_out(3, 7, 0, 0));
    // Its own profile lays an image out again, and completes it.
    let (again, report) = to(dir.path(), "r.sqfs", &Source::Squashfs { file: image.clone(), offset: 0 }, &plain());
    assert_eq!(report.laid_out, laid_out(3, 7, 0, 0));
    assert_eq!(list(&again), list(&image));
}

#[test]
fn a_path_that_turns_out_to_lead_through_a_link_is_in_the_image_all_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let layers = [
        TarBuilder::new().dir("usr/lib").symlink("lib", "usr/lib").file("usr/lib/low", "low").finish(),
        TarBuilder::new().file("lib/x", "top").file("lib/low", "new").finish(),
    ];
    Layout::new().image("v1", &layers, Packed::Plain).write(dir.path());
    let source = layout_source(dir.path(), None);
    let (plain, _) = to(dir.path(), "plain.sqfs", &source, &plain());
    let (image, report) = to(dir.path(), "i.sqfs", &source, &by(&profile(&["/lib/x", "/usr/lib/low"])));
    assert_eq!(report.laid_out, laid_out(0, 0, 1, 1));
    assert_eq!(list(&image), list(&plain));
}

#[test]
fn holes_and_their_files_stay_what_they_are() {
    let dir = tempfile::tempdir().unwrap();
    let sparse = |name| {
        TarBuilder::new()
            .pax("GNU.sparse.size", (1u64 << 27).to_string())
            .pax("GNU.sparse.map", "8192,3")
            .file(name, "abc")
    };
    let source = Source::Tar { file: file(dir.path(), "t.tar", &sparse("s").finish()) };
    let (image, report) = to(dir.path(), "i.sqfs", &source, &by(&profile(&["/s"])));
    assert_eq!(report.laid_out, laid_out(1, 1 << 27, 0, 0));
    assert_eq!(extent_of_sparse(&image), (8195, 1 << 27));
    let (again, _) = to(dir.path(), "r.sqfs", &Source::Squashfs { file: image, offset: 0 }, &plain());
    assert_eq!(extent_of_sparse(&again), (8195, 1 << 27));
}

/// End of the data of `/s`, which is "abc" in its third block, and its size.
fn extent_of_sparse(path: &Path) -> (u64, u64) {
    let image = Image::open(File::open(path).unwrap(), OpenOptions::default()).unwrap();
    let inode = image.resolve(b"/s").unwrap().unwrap();
    let holes = (0..10).map(|at| image.block(&inode, at).unwrap().is_hole()).collect::<Vec<_>>();
    assert_eq!(holes.iter().position(|hole| !hole), Some(2));
    assert_eq!(holes.iter().filter(|hole| !**hole).count(), 1);
    assert!(inode.blocks_512() <= 4096 / 512);
    assert!(image.block(&inode, 2).unwrap().bytes().unwrap().starts_with(b"abc\0"));
    (2 * 4096 + 3, inode.size())
}

#[test]
fn a_damaged_layer_leaves_nothing_though_content_was_held_back() {
    let dir = tempfile::tempdir().unwrap();
    let whole = many(0..4).finish();
    let source = Source::Tar { file: file(dir.path(), "cut.tar", &whole[..whole.len() - 12_000]) };
    fs::create_dir(dir.path().join("out")).unwrap();
    let every = profile(&["/d/s00", "/d/l01", "/d/l03", "/d/s03"]);
    let error = convert(&source, &dir.path().join("out/i.sqfs"), &by(&every), &()).unwrap_err();
    assert!(matches!(error, Error::Tar { .. }), "{}", chain(&error));
    assert_eq!(fs::read_dir(dir.path().join("out")).unwrap().count(), 0);
}

#[test]
fn a_profile_in_an_image_is_checked_like_any() {
    let dir = tempfile::tempdir().unwrap();
    let bad = r#"{"version":1,"touched":[{"path":"/../x"}]}"#;
    let source = image_with(dir.path(), "profile.json", bad);
    let text = chain(&convert(&source, &dir.path().join("o.sqfs"), &plain(), &()).unwrap_err());
    assert!(text.contains(image_info::DIRECTORY) && text.contains("/../x"), "{text}");
    // The one that is given counts.
    to(dir.path(), "o.sqfs", &source, &by(&profile(&["/f"])));
}

/// An image with a file in `/.coracle`, as only another program makes it.
fn image_with(dir: &Path, name: &str, content: &str) -> Source {
    use coracle_squashfs::writer::{Metadata, Node, NodeKind, Tree, Writer, WriterOptions};
    let path = dir.join("made.sqfs");
    let file = File::options().read(true).write(true).create(true).truncate(true).open(&path).unwrap();
    let mut writer = Writer::new(file, WriterOptions::default()).unwrap();
    let id = writer.add_file(content.len() as u64, &mut content.as_bytes()).unwrap();
    let mut tree = Tree::new(Metadata::default());
    let node = |kind| Node { metadata: Metadata { mode: 0o755, ..Metadata::default() }, kind };
    let own = tree.add(Tree::ROOT, b".coracle", node(NodeKind::Directory)).unwrap();
    tree.add(own, name.as_bytes(), node(NodeKind::File(id))).unwrap();
    tree.add(Tree::ROOT, b"f", node(NodeKind::File(id))).unwrap();
    writer.finish(&tree).unwrap();
    Source::Squashfs { file: path, offset: 0 }
}
