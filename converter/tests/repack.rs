//! Squashfs images as sources: what is in them stays as it is.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests fail by panicking")]

mod support;

use coracle_converter::image_info::{self, ImageInfo};
use coracle_converter::{Digest, Error, Options, Source, convert};
use coracle_squashfs::compress::Compression;
use coracle_squashfs::reader::{Image, OpenOptions};
use coracle_squashfs::writer::{Metadata, Node, NodeKind, Tree, Writer, WriterOptions};
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use support::tar::TarBuilder;
use support::{Layout, Packed, bytes, chain, extent, file, layout_source, list_all, options};

fn image(path: &Path, offset: u64) -> Source {
    Source::Squashfs { file: path.into(), offset }
}

fn open(path: &Path) -> Image<File> {
    Image::open(File::open(path).unwrap(), OpenOptions::default()).unwrap()
}

fn repacked(dir: &Path, source: &Source, options: &Options) -> PathBuf {
    let output = dir.join("repacked.sqfs");
    convert(source, &output, &Options { force: true, ..options.clone() }, &()).map_err(|error| chain(&error)).unwrap();
    output
}

/// Everything but the file of our own that says how the image was packed.
fn tree(path: &Path) -> Vec<String> {
    list_all(path).into_iter().filter(|line| !line.contains(" /.coracle/image.json ")).collect()
}

/// One of everything, made by the writer itself, with what no layer can have.
fn everything(path: &Path) {
    let file = File::options().read(true).write(true).create_new(true).open(path).unwrap();
    let mut writer = Writer::new(file, WriterOptions { block_size: 4096, ..WriterOptions::default() }).unwrap();
    let meta = |mode, id| Metadata { mode, uid: id, gid: id + 1, mtime: id + 2, xattrs: Vec::new() };
    let xattrs = vec![
        (b"user.z".to_vec(), b"\0\xff".to_vec()),
        (b"security.capability".to_vec(), vec![1; 20]),
        (b"trusted.a".to_vec(), vec![]),
    ];
    let mut tree = Tree::new(Metadata { xattrs: xattrs.clone(), ..meta(0o1751, 5) });
    let content = (0..5000u32).flat_map(u32::to_le_bytes).collect::<Vec<_>>();
    let long = writer.add_file(content.len() as u64, &mut &content[..]).unwrap();
    let short = writer.add_file(6, &mut &b"short\n"[..]).unwrap();
    let mut sparse = writer.begin_file(10_000_000).unwrap();
    sparse.write_hole(5_000_000).unwrap();
    sparse.write(b"x").unwrap();
    sparse.write_hole(4_999_999).unwrap();
    let sparse = sparse.finish().unwrap();
    let empty = writer.add_file(0, &mut &b""[..]).unwrap();
    let mut add = |parent, name: &[u8], metadata, kind| tree.add(parent, name, Node { metadata, kind }).unwrap();
    let root = Tree::ROOT;
    let dir = add(root, b"d\xff", meta(0o2775, 70_000), NodeKind::Directory);
    let deep = add(dir, b".wh.not a white-out", meta(0o700, 1), NodeKind::Directory);
    let file = add(deep, b"long", Metadata { xattrs, ..meta(0o6711, 0) }, NodeKind::File(long));
    add(root, b"same content", meta(0o600, 3), NodeKind::File(long));
    add(root, b"short", meta(0, 4_000_000_000), NodeKind::File(short));
    add(root, b"sparse", meta(0o644, 0), NodeKind::File(sparse));
    add(root, b"empty", meta(0o644, 0), NodeKind::File(empty));
    let link = add(root, b"link", meta(0o777, 9), NodeKind::Symlink(b"../\xffnowhere".to_vec()));
    let device = add(root, b"block", meta(0o660, 6), NodeKind::BlockDevice { major: 4095, minor: 1_048_575 });
    add(dir, b"char", meta(0o666, 0), NodeKind::CharDevice { major: 1, minor: 3 });
    add(dir, b"fifo", meta(0o644, 0), NodeKind::Fifo);
    add(dir, b"socket", meta(0o755, 0), NodeKind::Socket);
    for (name, target) in [(&b"one more"[..], file), (b"another link", link), (b"another device", device)] {
        tree.link(root, name, target).unwrap();
        tree.link(deep, name, target).unwrap();
    }
    writer.finish(&tree).unwrap();
}

#[test]
fn everything_stays_as_it_is_in_every_compressor_and_block_size() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("source.sqfs");
    everything(&source);
    let expected = list_all(&source);
    let compressions =
        [Compression::Zstd { level: 1 }, Compression::Gzip { level: 1 }, Compression::Lz4, Compression::Xz];
    for (compression, block_size) in compressions.into_iter().zip([4096, 1 << 20, 1 << 17, 8192]) {
        let options = Options { compression, block_size, ..options() };
        let output = repacked(dir.path(), &image(&source, 0), &options);
        let ours = tree(&output).into_iter().filter(|line| !line.contains("/.coracle ")).collect::<Vec<_>>();
        // A subdirectory more.
        assert_eq!(ours[0], expected[0].replace(" 3 / ", " 4 / "));
        assert_eq!(ours[1..], expected[1..]);
        let blocks = |path: &Path| open(path).resolve(b"/sparse").unwrap().unwrap().blocks_512();
        assert!(blocks(&output) <= u64::from(block_size) / 512 && blocks(&source) == 8);
    }
}

#[test]
fn an_image_of_ours_keeps_its_documents_and_says_how_it_is_packed_now() {
    let dir = tempfile::tempdir().unwrap();
    let layer = TarBuilder::new().dir("bin").file("bin/sh", "shell").link("bin/bash", "bin/sh").finish();
    Layout::new().image("v1", &[layer], Packed::Gzip).write(&dir.path().join("layout"));
    let source = dir.path().join("source.sqfs");
    let layout = layout_source(&dir.path().join("layout"), None);
    let first = convert(&layout, &source, &options(), &()).unwrap();
    let output = dir.path().join("out.sqfs");
    let lz4 = Options { compression: Compression::Lz4, block_size: 8192, ..options() };
    let report = convert(&image(&source, 0), &output, &lz4, &()).unwrap();
    assert_eq!(tree(&output), tree(&source));
    assert_eq!((report.manifest_digest, report.config_digest), (first.manifest_digest, first.config_digest));
    let (before, after) = (open(&source), open(&output));
    assert_eq!(image_info::config_bytes(&after).unwrap(), image_info::config_bytes(&before).unwrap());
    let was = ImageInfo::read(&before).unwrap().unwrap();
    let is = ImageInfo::read(&after).unwrap().unwrap();
    assert_eq!((is.settings.compression.as_str(), is.settings.level, is.settings.block_size), ("lz4", None, 8192));
    assert_eq!(ImageInfo { settings: was.settings.clone(), ..is }, was);
    // The name is the image's, not the file's.
    assert_eq!(was.source.as_deref(), Some("v1"));
}

#[test]
fn packing_anew_comes_to_rest() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("source.sqfs");
    everything(&source);
    let once = file(dir.path(), "once.sqfs", &bytes(&image(&source, 0), &options()));
    let twice = bytes(&image(&once, 0), &options());
    assert_eq!(Digest::of(&twice), Digest::of(&fs::read(once).unwrap()));
}

#[test]
fn an_image_inside_of_another_file_is_found_by_its_offset() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("source.sqfs");
    everything(&source);
    let inside = [&[7; 4096][..], &fs::read(&source).unwrap(), b"behind"].concat();
    let inside = file(dir.path(), "inside", &inside);
    assert_eq!(bytes(&image(&inside, 4096), &options()), bytes(&image(&source, 0), &options()));
    let error = convert(&image(&inside, 0), &dir.path().join("o"), &options(), &()).unwrap_err();
    assert!(chain(&error).contains("inside: open image"), "{}", chain(&error));
}

#[test]
fn an_output_may_take_its_source_s_place() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("repacked.sqfs");
    everything(&source);
    let expected = bytes(&image(&source, 0), &options());
    repacked(dir.path(), &image(&source, 0), &options());
    assert!(fs::read(source).unwrap() == expected);
}

#[test]
fn damage_is_named_with_its_place_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("source.sqfs");
    everything(&source);
    let (position, _) = extent(&source, "/same content");
    let damaged = File::options().write(true).open(&source).unwrap();
    damaged.write_all_at(&[0xff; 64], position).unwrap();
    fs::create_dir(dir.path().join("out")).unwrap();
    let error = convert(&image(&source, 0), &dir.path().join("out/o"), &options(), &()).unwrap_err();
    assert!(matches!(error, Error::ImageEntry { .. }), "{}", chain(&error));
    assert!(chain(&error).contains("long\" in ") && chain(&error).contains("source.sqfs"), "{}", chain(&error));
    assert_eq!(fs::read_dir(dir.path().join("out")).unwrap().count(), 0);
}

#[test]
fn limits_hold_for_images_as_for_layers() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("source.sqfs");
    everything(&source);
    let fails =
        |options: Options| chain(&convert(&image(&source, 0), &dir.path().join("o"), &options, &()).unwrap_err());
    let text = fails(Options { max_entries: 4, ..options() });
    assert!(text.contains("source.sqfs") && text.contains("more entries"), "{text}");
    let text = fails(Options { max_layer_bytes: 9_000_000, ..options() });
    assert!(text.contains("source.sqfs") && text.contains("9000000"), "{text}");
}
