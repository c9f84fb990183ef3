use std::collections::BTreeMap;

use coracle_squashfs::reader::FileType;
use rustix::io::Errno;

use super::super::listing::Target;
use super::super::node::ROOT_ID;
use super::super::protocol::Attr;
use super::super::tests::{have, make_image, make_tree, open_image, options};
use super::super::tree::{Failure, FileBytes, Tree};
use super::super::{Error, Synthetic, SyntheticFile};
use super::Node;

const TREE: &[&str] = &[
    "etc/",
    "etc/passwd",
    "etc/resolv.conf -> ../run/resolve/stub.conf",
    "var/home/",
    "var/run -> /run",
    "home -> var/home",
    "up -> ../../../var",
    "loop -> loop",
    "chain -> chain2/x",
    "chain2 -> /var/missing",
    "file",
    "many/",
    "many/b",
    "many/d",
];

fn tree(entries: &[&str], synthetic: Synthetic) -> Result<Tree, Error> {
    let directory = tempfile::tempdir().unwrap();
    let source = directory.path().join("source");
    make_tree(&source, entries);
    Tree::new(open_image(&make_image(&source, &[])), &options(synthetic), 1 << 20)
}

fn directories(paths: &[&str]) -> Synthetic {
    Synthetic { directories: paths.iter().map(Into::into).collect(), files: Vec::new() }
}

fn files(files: &[(&str, SyntheticFile)]) -> Synthetic {
    let files = files.iter().map(|(path, file)| (path.into(), file.clone())).collect();
    Synthetic { directories: Vec::new(), files }
}

/// Looks a path up name by name, following no links.
fn walk(tree: &Tree, path: &str) -> Option<(Node, Attr)> {
    let mut node = Node::from_id(ROOT_ID, tree.common.root).unwrap();
    for name in path.split('/').filter(|name| !name.is_empty()) {
        node = tree.find(tree.id(node), name.as_bytes()).unwrap()?;
    }
    Some((node, tree.attributes(node).unwrap().0))
}

fn kind(tree: &Tree, path: &str) -> Option<FileType> {
    walk(tree, path).map(|(_, attributes)| type_of(&attributes))
}

fn type_of(attributes: &Attr) -> FileType {
    let all = [FileType::Directory, FileType::File, FileType::Symlink];
    all.into_iter().find(|kind| kind.mode_bits() == attributes.mode & 0o170_000).unwrap()
}

fn read(tree: &Tree, path: &str) -> Vec<u8> {
    let (node, attributes) = walk(tree, path).unwrap();
    let content = match tree.file(tree.id(node)).unwrap() {
        FileBytes::Image(inode) => tree.image.block(&inode, 0).unwrap().bytes().unwrap().to_vec(),
        FileBytes::Made(content) => content.to_vec(),
    };
    assert_eq!(content.len() as u64, attributes.size);
    content
}

/// Names and cookies of a directory from a cookie on.
fn names(tree: &Tree, path: &str, cookie: u64) -> Vec<(String, u64)> {
    let (node, _) = walk(tree, path).unwrap();
    let mut names = Vec::new();
    tree.list(node, cookie, &mut |entry| {
        let name = String::from_utf8(entry.name.to_vec()).unwrap();
        if let Target::Node(target) = entry.target {
            let (attributes, _) = tree.attributes(target).unwrap();
            assert_eq!(type_of(&attributes), entry.kind, "{name}");
            assert_eq!(tree.find(tree.id(node), entry.name).unwrap(), Some(target), "{name}");
        }
        names.push((name, entry.cookie));
        Ok(false)
    })
    .unwrap();
    names
}

#[test]
fn directories_are_made_with_their_parents_along_links() {
    if !have("mksquashfs") {
        return;
    }
    let paths = ["/home/alice/data", "/var/run/lock", "/up/log/./x//", "/chain", "/opt/a/../b", "/etc", "/"];
    let tree = tree(TREE, directories(&paths)).unwrap();
    for made in ["/var/home/alice/data", "/run/lock", "/var/log/x", "/var/missing/x", "/opt/a", "/opt/b"] {
        assert_eq!(kind(&tree, made), Some(FileType::Directory), "{made}");
    }
    assert_eq!(kind(&tree, "/home"), Some(FileType::Symlink));
    assert_eq!(kind(&tree, "/etc/passwd"), Some(FileType::File));
    assert_eq!(kind(&tree, "/etc/alice"), None);

    let (_, alice) = walk(&tree, "/var/home/alice").unwrap();
    assert_eq!((alice.mode & 0o7777, alice.nlink, alice.uid, alice.gid), (0o755, 3, 1234, 5678));
    let (_, root) = walk(&tree, "/").unwrap();
    // Its own 2, etc, many and var of the image, run and opt added.
    assert_eq!(root.nlink, 2 + 3 + 2);
}

#[test]
fn what_exists_is_left_alone() {
    if !have("mksquashfs") {
        return;
    }
    let synthetic = Synthetic {
        directories: vec!["/etc".into(), "/many".into(), "/home".into()],
        files: vec![("/etc/passwd".into(), SyntheticFile::Empty), ("/file".into(), SyntheticFile::Empty)],
    };
    let tree = tree(TREE, synthetic).unwrap();
    assert!(tree.overlay().directories.is_empty());
    assert_eq!(read(&tree, "/etc/passwd"), b"etc/passwd");
}

#[test]
fn content_replaces_files_and_links_in_their_place() {
    if !have("mksquashfs") {
        return;
    }
    let content = |text: &str| SyntheticFile::Content(text.into(), 0o640);
    let tree = tree(
        TREE,
        files(&[
            ("/etc/passwd", content("old")),
            ("/etc/passwd", content("new")),
            ("/etc/resolv.conf", content("nameserver")),
            ("/home/bob/note", content("hello")),
            ("/home/bob/target", SyntheticFile::Empty),
            ("/home/bob/note", SyntheticFile::Empty),
        ]),
    )
    .unwrap();
    assert_eq!(read(&tree, "/etc/passwd"), b"new");
    assert_eq!(read(&tree, "/etc/resolv.conf"), b"nameserver");
    assert_eq!(read(&tree, "/var/home/bob/note"), b"hello");
    assert_eq!(read(&tree, "/var/home/bob/target"), b"");
    let (_, passwd) = walk(&tree, "/etc/passwd").unwrap();
    assert_eq!((passwd.mode & 0o7777, passwd.nlink, passwd.blocks), (0o640, 1, 1));
    assert_eq!(kind(&tree, "/run"), None);
}

#[test]
fn an_empty_file_is_made_where_a_bind_mount_would_look() {
    if !have("mksquashfs") {
        return;
    }
    let tree = tree(TREE, files(&[("/etc/resolv.conf", SyntheticFile::Empty)])).unwrap();
    assert_eq!(kind(&tree, "/etc/resolv.conf"), Some(FileType::Symlink));
    assert_eq!(read(&tree, "/run/resolve/stub.conf"), b"");
}

#[test]
fn listings_are_merged_without_duplicates_and_resume_anywhere() {
    if !have("mksquashfs") {
        return;
    }
    let synthetic = Synthetic {
        directories: vec!["/many/c".into(), "/many/e/f".into()],
        files: vec![
            ("/many/d".into(), SyntheticFile::Content(b"other".to_vec(), 0o600)),
            ("/many/a".into(), SyntheticFile::Empty),
        ],
    };
    let tree = tree(TREE, synthetic).unwrap();
    let all = names(&tree, "/many", 0);
    let listed: Vec<&str> = all.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(listed, [".", "..", "b", "d", "a", "c", "e"]);
    for (index, (_, cookie)) in all.iter().enumerate() {
        assert_eq!(names(&tree, "/many", *cookie), &all[index + 1..]);
    }
    let (many, _) = walk(&tree, "/many").unwrap();
    for nowhere in [3, 1 << 32, (1 << 33) - 1] {
        let failure = tree.list(many, nowhere, &mut |_| Ok(false)).unwrap_err();
        assert!(matches!(failure, Failure::Errno(Errno::INVAL)), "{nowhere}: {failure:?}");
    }
    let made: Vec<String> = names(&tree, "/many/e", 0).into_iter().map(|(name, _)| name).collect();
    assert_eq!(made, [".", "..", "f"]);
    assert_eq!(names(&tree, "/many/e/f", 0).len(), 2);
}

#[test]
fn parents_of_listed_directories_are_named() {
    if !have("mksquashfs") {
        return;
    }
    let tree = tree(TREE, directories(&["/var/home/alice/x"])).unwrap();
    let paths = ["/", "/var", "/var/home", "/var/home/alice", "/var/home/alice/x"];
    let mut above = tree.id(walk(&tree, "/").unwrap().0);
    for path in paths {
        let (node, _) = walk(&tree, path).unwrap();
        let mut dots = BTreeMap::new();
        tree.list(node, 0, &mut |entry| {
            if let Target::Dot(id) = entry.target {
                dots.insert(entry.name.to_vec(), id);
            }
            Ok(false)
        })
        .unwrap();
        assert_eq!(dots.get(b".".as_slice()), Some(&tree.id(node)), "{path}");
        assert_eq!(dots.get(b"..".as_slice()), Some(&above), "{path}");
        above = tree.id(node);
    }
}

#[test]
fn what_is_in_the_way_is_named() {
    if !have("mksquashfs") {
        return;
    }
    let text = |synthetic| tree(TREE, synthetic).map(|_| ()).unwrap_err().to_string();
    assert_eq!(
        text(directories(&["/up/../file/below"])),
        "cannot add /up/../file/below to the image: /file exists there and is not a directory; choose another path"
    );
    assert_eq!(
        text(directories(&["/etc/passwd"])),
        "cannot add /etc/passwd to the image: /etc/passwd exists there and is not a directory; choose another path"
    );
    assert_eq!(
        text(files(&[("/etc", SyntheticFile::Empty)])),
        "cannot add the file /etc to the image: a directory of this name exists there"
    );
    assert_eq!(
        text(files(&[("/etc", SyntheticFile::Content(Vec::new(), 0))])),
        "cannot add the file /etc to the image: a directory of this name exists there"
    );
    assert_eq!(
        text(directories(&["/loop/x"])),
        "cannot add /loop/x to the image: more than 40 symbolic links on the way"
    );
    assert_eq!(text(directories(&["etc/x"])), "cannot add etc/x to the image: the path is not absolute");
    let long = format!("/etc/{}", "n".repeat(256));
    assert!(matches!(tree(TREE, directories(&[&long])), Err(Error::BadName { .. })));
}

/// 40 links are followed, as by the kernel, and not one more.
#[test]
fn as_many_links_are_followed_as_the_kernel_follows() {
    if !have("mksquashfs") {
        return;
    }
    let mut entries = vec!["link0/".to_owned()];
    entries.extend((1..=41).map(|n| format!("link{n} -> link{}", n - 1)));
    let entries: Vec<&str> = entries.iter().map(String::as_str).collect();
    let made = tree(&entries, directories(&["/link40/x"])).unwrap();
    assert_eq!(kind(&made, "/link0/x"), Some(FileType::Directory));
    assert!(matches!(tree(&entries, directories(&["/link41/x"])), Err(Error::TooManyLinks { .. })));
}

#[test]
fn additions_to_a_mounted_tree_change_nothing_that_was_seen() {
    if !have("mksquashfs") {
        return;
    }
    let content = |text: &str| SyntheticFile::Content(text.into(), 0o644);
    let tree = tree(TREE, files(&[("/etc/group", content("old"))])).unwrap();
    let add = |synthetic| tree.add(&synthetic, Ok);

    let news = add(Synthetic {
        directories: vec!["/mnt/a/b".into(), "/etc".into()],
        files: vec![("/mnt/a/file".into(), content("new")), ("/etc/group".into(), content("old"))],
    });
    let root = tree.id(walk(&tree, "/").unwrap().0);
    assert_eq!(news.unwrap(), [(root, b"mnt".to_vec())]);
    assert_eq!(read(&tree, "/mnt/a/file"), b"new");
    assert!(add(files(&[("/etc/group", SyntheticFile::Empty)])).unwrap().is_empty());

    for path in ["/etc/group", "/etc/passwd", "/etc/resolv.conf"] {
        let refused =
            add(Synthetic { directories: vec!["/other".into()], files: vec![(path.into(), content("different"))] });
        assert!(matches!(&refused, Err(Error::Conflict { path: at }) if at.as_os_str() == path), "{refused:?}");
        assert_eq!(kind(&tree, "/other"), None);
    }
    let mode = SyntheticFile::Content(b"old".to_vec(), 0o600);
    assert!(matches!(add(files(&[("/etc/group", mode)])), Err(Error::Conflict { .. })));
    assert_eq!(read(&tree, "/etc/group"), b"old");
    assert!(matches!(add(directories(&["/file/x"])), Err(Error::NotADirectory { .. })));
}

#[test]
fn links_are_shown_followed_and_left_where_they_are() {
    if !have("mksquashfs") {
        return;
    }
    let link = |target: &str| SyntheticFile::Link(target.into());
    let wanted = files(&[
        ("/opt/lib/a.so", link("a.so.1")),
        ("/etc/passwd", link("/elsewhere")),
        ("/home", link("var/home")),
        ("/new", link("/var/home")),
        ("/new/inside", SyntheticFile::Empty),
    ]);
    let tree = tree(TREE, wanted.clone()).unwrap();
    let target = |path: &str| {
        let (node, attributes) = walk(&tree, path).unwrap();
        assert_eq!(type_of(&attributes), FileType::Symlink, "{path}");
        let target = tree.link(tree.id(node)).unwrap();
        assert_eq!(attributes.size, target.len() as u64, "{path}");
        String::from_utf8(target).unwrap()
    };
    assert_eq!(target("/opt/lib/a.so"), "a.so.1");
    assert_eq!(target("/etc/passwd"), "/elsewhere");
    assert!(matches!(walk(&tree, "/home").unwrap().0, Node::Image(_)), "the image's own is the same");
    assert_eq!(kind(&tree, "/var/home/inside"), Some(FileType::File), "a new link is followed");
    let (node, _) = walk(&tree, "/new").unwrap();
    assert!(tree.file(tree.id(node)).is_err());
    // In use: what is the same is there, what is another would change under somebody's eyes.
    tree.add(&wanted, |_| Ok(())).unwrap();
    for change in [("/opt/lib/a.so", link("a.so.2")), ("/file", link("x"))] {
        assert!(matches!(tree.add(&files(&[change]), |_| Ok(())), Err(Error::Conflict { .. })));
    }
    assert!(matches!(tree.add(&files(&[("/etc", link("x"))]), |_| Ok(())), Err(Error::IsADirectory { .. })));
}
