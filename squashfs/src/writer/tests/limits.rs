//! Names, directories, ids and attributes at the format's limits.

use super::images::{ZSTD, options};
use super::support::{Build, Mount, Rng, What, meta, read_image};
use crate::compress::Compression;
use crate::reader::{Image, OpenOptions};
use crate::writer::{Error, Metadata, Node, NodeId, NodeKind, Tree, clamp_time, xattr_supported};
use std::fs::File;

fn node(kind: NodeKind) -> Node {
    Node { metadata: meta(0o755), kind }
}

#[test]
fn a_tree_refuses_what_cannot_be() {
    let mut tree = Tree::new(meta(0o755));
    let file = tree.add(Tree::ROOT, b"file", node(NodeKind::Fifo)).unwrap();
    let dir = tree.add(Tree::ROOT, b"dir", node(NodeKind::Directory)).unwrap();
    let mut add = |parent, name: &[u8], kind| tree.add(parent, name, node(kind)).unwrap_err();
    assert!(matches!(add(Tree::ROOT, b"file", NodeKind::Fifo), Error::AlreadyExists { .. }));
    assert!(matches!(add(file, b"x", NodeKind::Fifo), Error::NotADirectory { .. }));
    assert!(matches!(add(NodeId(99), b"x", NodeKind::Fifo), Error::UnknownNode(99)));
    assert!(matches!(add(dir, &[b'x'; 256], NodeKind::Fifo), Error::NameTooLong { .. }));
    for name in [&b""[..], b".", b"..", b"a/b", b"/", b"a\0"] {
        assert!(matches!(add(dir, name, NodeKind::Fifo), Error::InvalidName { .. }));
    }
    for target in [&b""[..], b"a\0b", &[b'x'; 4096]] {
        assert!(matches!(add(dir, b"x", NodeKind::Symlink(target.to_vec())), Error::LinkTarget { .. }));
    }
    assert!(matches!(add(dir, b"x", NodeKind::CharDevice { major: 4096, minor: 0 }), Error::DeviceNumber { .. }));
    assert!(matches!(add(dir, b"x", NodeKind::BlockDevice { major: 0, minor: 1 << 20 }), Error::DeviceNumber { .. }));
    assert!(matches!(tree.link(Tree::ROOT, b"x", dir), Err(Error::LinkToDirectory { .. })));
    assert!(matches!(tree.link(dir, b"x", NodeId(99)), Err(Error::UnknownNode(99))));
    assert!(matches!(tree.link(Tree::ROOT, b"dir", file), Err(Error::AlreadyExists { .. })));
    assert_eq!((tree.nlink(Tree::ROOT), tree.nlink(file), tree.nlink(dir)), (3, 1, 2));
    tree.link(dir, b"x", file).unwrap();
    assert_eq!((tree.nlink(file), tree.lookup(dir, b"x"), tree.lookup(dir, b"y")), (2, Some(file), None));
    assert_eq!(tree.children(Tree::ROOT).collect::<Vec<_>>(), [(&b"dir"[..], dir), (b"file", file)]);
    assert_eq!((tree.len(), tree.is_empty()), (3, false));
}

#[test]
fn only_three_prefixes_of_attributes_are_stored() {
    for name in ["user.a", "trusted.overlay.opaque", "security.capability"] {
        assert!(xattr_supported(name.as_bytes()), "{name}");
    }
    for name in ["system.posix_acl_access", "system.posix_acl_default", "user.", "user", "", "btrfs.compression"] {
        assert!(!xattr_supported(name.as_bytes()), "{name}");
    }
    let mut tree = Tree::new(meta(0o755));
    let mut set = |list: Vec<(Vec<u8>, Vec<u8>)>| tree.set_metadata(Tree::ROOT, Metadata { xattrs: list, ..meta(0) });
    let error = set(vec![(b"system.posix_acl_access".to_vec(), vec![])]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "extended attribute system.posix_acl_access cannot be stored: only user., trusted. and security. can"
    );
    let twice = vec![(b"user.b".to_vec(), vec![1]), (b"user.a".to_vec(), vec![]), (b"user.b".to_vec(), vec![2])];
    assert!(matches!(set(twice), Err(Error::InvalidXattr { name, .. }) if name == b"user.b"));
    assert!(matches!(set(vec![([b"user.", &[b'x'; 251][..]].concat(), vec![])]), Err(Error::InvalidXattr { .. })));
    assert!(matches!(set(vec![(b"user.a\0".to_vec(), vec![])]), Err(Error::InvalidXattr { .. })));
    assert!(matches!(set(vec![(b"user.a".to_vec(), vec![0; 65_537])]), Err(Error::InvalidXattr { .. })));
    assert!(set(vec![(b"user.a".to_vec(), vec![0; 65_536])]).is_ok());
}

#[test]
fn attributes_that_repeat_are_stored_once() {
    let mut rng = Rng::new(1);
    let size = |values: &[Vec<u8>]| {
        let mut build = Build::new(options(ZSTD, 4096, 1));
        for (at, value) in values.iter().enumerate() {
            let own = (format!("user.{at}").into_bytes(), b"own".to_vec());
            let xattrs = vec![(b"user.value".to_vec(), value.clone()), own];
            build.add(format!("f{at}"), Metadata { xattrs, ..meta(0o644) }, What::File(vec![]));
        }
        let made = build.finish();
        made.check();
        assert_eq!(made.summary.xattr_lists as usize, values.len());
        made.summary.bytes
    };
    let values: Vec<Vec<u8>> = (0..20).map(|_| rng.noise(3000)).collect();
    let (same, different) = (size(&vec![values[0].clone(); 20]), size(&values));
    assert!(different - same > 18 * 3000, "{same} {different}");
}

#[test]
fn many_attribute_lists_fill_several_blocks() {
    let mut build = Build::new(options(Compression::Lz4, 4096, 1));
    for at in 0..1500u32 {
        let xattrs = vec![(b"user.n".to_vec(), at.to_le_bytes().to_vec()), (b"trusted.same".to_vec(), vec![9; 80])];
        build.add(format!("f{at}"), Metadata { xattrs, ..meta(0o644) }, What::File(vec![]));
    }
    build.finish().check();
}

#[test]
fn ids_beyond_16_bits_are_refused() {
    for (count, fits) in [(65_535, true), (65_536, false)] {
        let mut build = Build::new(options(Compression::Lz4, 4096, 1));
        for uid in 1..count {
            let metadata = Metadata { uid, ..meta(0) };
            let node = Node { metadata, kind: NodeKind::Fifo };
            build.tree.add(Tree::ROOT, format!("{uid}").as_bytes(), node).unwrap();
        }
        match build.writer.finish(&build.tree) {
            Ok(summary) => assert!(fits && summary.ids == count),
            Err(error) => assert!(
                !fits && error.to_string() == "too many distinct owner and group ids: the format counts at most 65535"
            ),
        }
    }
}

#[test]
fn large_directories_are_indexed_and_names_found() {
    let mut build = Build::new(options(ZSTD, 4096, 2));
    build.file("early", b"linked from afar".to_vec());
    build.dir("big");
    for at in 0..40_000u32 {
        // Not in order of names.
        let name = format!("big/entry-{:08x}", at.wrapping_mul(2_654_435_761));
        if at % 5000 == 0 {
            build.dir(name);
        } else if at % 911 == 0 {
            build.link(name, "early");
        } else {
            build.add(name, meta(0o600), What::Fifo);
        }
    }
    let made = build.finish();
    // Looks many names up, too.
    assert!(read_image(&made.path) == made.expected);
    let image = Image::open(File::open(&made.path).unwrap(), OpenOptions::default()).unwrap();
    let big = image.resolve(b"/big").unwrap().unwrap();
    let before = image.stats().metadata_blocks;
    assert!(image.lookup(&big, b"entry-ffffffff").unwrap().is_none());
    let read = image.stats().metadata_blocks - before;
    assert!(read < 20, "{read} metadata blocks read for one name");
    for number in 1..=made.summary.inodes {
        assert_eq!(image.inode_by_number(number).unwrap().number, number);
    }
    if let Some(mount) = Mount::new(&made) {
        for (path, seen) in made.expected.iter().step_by(97) {
            use std::os::unix::{ffi::OsStrExt, fs::MetadataExt};
            let path = mount.0.join(std::ffi::OsStr::from_bytes(path));
            assert_eq!(std::fs::symlink_metadata(path).unwrap().nlink() as u32, seen.nlink);
        }
        assert_eq!(std::fs::read_dir(mount.0.join("big")).unwrap().count(), 40_000);
        assert!(!mount.0.join("big/entry-0").exists());
    }
}

#[test]
fn nesting_is_limited_by_nothing_but_memory() {
    let mut build = Build::new(options(Compression::Lz4, 4096, 1));
    let mut parent = Tree::ROOT;
    for _ in 0..50_000 {
        parent = build.tree.add(parent, b"d", node(NodeKind::Directory)).unwrap();
    }
    let summary = build.writer.finish(&build.tree).unwrap();
    assert_eq!(summary.inodes, 50_001);
    let image = Image::open(summary.file, OpenOptions::default()).unwrap();
    let mut inode = image.inode(image.root()).unwrap();
    let mut depth = 0;
    while let Some(entry) = image.lookup(&inode, b"d").unwrap() {
        inode = image.inode(entry.inode).unwrap();
        depth += 1;
    }
    assert_eq!(depth, 50_000);
}

#[test]
fn an_id_of_another_image_is_an_error() {
    let mut build = Build::new(options(ZSTD, 4096, 1));
    let mut other = Build::new(options(ZSTD, 4096, 1));
    for at in 0..3 {
        let id = other.writer.add_file(1, &mut &[at + 1][..]).unwrap();
        build.tree.add(Tree::ROOT, &[b'a' + at], node(NodeKind::File(id))).unwrap();
    }
    assert!(matches!(build.writer.finish(&build.tree), Err(Error::UnknownFile(1))));
}

#[test]
fn times_outside_32_bits_become_the_nearest() {
    assert_eq!([-1, 0, 5, 1 << 32, i64::MIN, i64::MAX].map(clamp_time), [0, 0, 5, u32::MAX, 0, u32::MAX]);
}
