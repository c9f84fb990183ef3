//! Layer semantics: each case a stack of tars, bottom first, and the tree that must come out.

use super::*;
use crate::digest::Digest;
use crate::error::Error;
use crate::flatten::Problem as EntryProblem;
use crate::flatten::tree::Kind;
use crate::layer::Blob;
use crate::sink::{Content, Fill};
use crate::test_tar::TarBuilder;
use std::collections::HashMap;
use std::io::{self, Read};

/// Keeps content in memory.
#[derive(Default)]
struct Memory(Vec<String>);

struct MemoryFile {
    content: String,
    left: u64,
}

impl DataSink for Memory {
    type Id = usize;

    fn file(&mut self, _path: &[u8], size: u64, fill: &mut Fill<'_>) -> Result<usize, Error> {
        let mut file = MemoryFile { content: String::new(), left: size };
        fill(&mut file)?;
        assert_eq!(file.left, 0, "content is shorter than announced");
        self.0.push(file.content);
        Ok(self.0.len() - 1)
    }
}

impl Content for MemoryFile {
    fn data(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.left = self.left.checked_sub(bytes.len() as u64).expect("content is longer than announced");
        self.content.push_str(&String::from_utf8_lossy(bytes));
        Ok(())
    }

    fn hole(&mut self, length: u64) -> Result<(), Error> {
        self.left = self.left.checked_sub(length).expect("content is longer than announced");
        self.content.push_str(&format!("<{length}>"));
        Ok(())
    }
}

struct Bytes(Vec<u8>);

impl Blob for Bytes {
    fn open(&self) -> io::Result<Box<dyn Read + Send + '_>> {
        Ok(Box::new(&self.0[..]))
    }
}

fn layer(number: usize, tar: &[u8]) -> Layer {
    let digest = Some(Digest::of(tar));
    Layer {
        name: format!("layer {number}"),
        blob: Box::new(Bytes(tar.to_vec())),
        digest,
        size: Some(tar.len() as u64),
        diff_id: digest,
        estargz: false,
    }
}

struct Flat {
    lines: Vec<String>,
    counts: Counts,
    /// Files whose content was stored.
    stored: usize,
    /// Lines of metadata by path.
    meta: HashMap<String, String>,
}

fn try_flatten(tars: &[Vec<u8>], options: &Options) -> Result<Flat, Error> {
    let layers = tars.iter().enumerate().map(|(number, tar)| layer(number, tar)).collect::<Vec<_>>();
    let mut sink = Memory::default();
    let (tree, counts) = flatten(&layers, true, &mut sink, options, &())?;
    let mut flat = Flat { lines: Vec::new(), counts, stored: sink.0.len(), meta: HashMap::new() };
    list(&tree, &sink, &mut flat);
    Ok(flat)
}

/// One line per path: `d dir`, `f file=content`, `l link->target`, …; `~` marks an implied directory; hard links
/// have the first path of their inode behind a `@`.
fn list(tree: &FileTree<usize>, sink: &Memory, flat: &mut Flat) {
    let mut groups = HashMap::new();
    let mut waiting = vec![(FileTree::<usize>::ROOT, String::new())];
    while let Some((at, path)) = waiting.pop() {
        for (name, &child) in tree.node(at).children.iter().rev() {
            waiting.push((child, format!("{path}{}{}", if path.is_empty() { "" } else { "/" }, name.escape_ascii())));
        }
        let Some((_, inode)) = tree.node(at).entry else {
            if tree.is_live(at) && !path.is_empty() {
                flat.lines.push(format!("~ {path}"));
            }
            continue;
        };
        let meta = &tree.inode(inode).meta;
        let text = format!("{:o} {}:{} {}", meta.mode, meta.uid, meta.gid, meta.mtime);
        flat.meta.insert(path.clone(), text);
        if path.is_empty() {
            continue;
        }
        let first = groups.entry(tree.resolve(inode)).or_insert_with(|| path.clone()).clone();
        let same = if first == path { String::new() } else { format!(" @{first}") };
        flat.lines.push(match &tree.inode(inode).kind {
            Kind::Directory => format!("d {path}"),
            Kind::File(id) => format!("f {path}={}{same}", sink.0[*id]),
            Kind::Symlink(target) => format!("l {path}->{}{same}", target.escape_ascii()),
            Kind::CharDevice { major, minor } => format!("c {path} {major},{minor}{same}"),
            Kind::BlockDevice { major, minor } => format!("b {path} {major},{minor}{same}"),
            Kind::Fifo => format!("p {path}{same}"),
            other => panic!("{path} is {other:?}"),
        });
    }
}

fn run(tars: &[TarBuilder]) -> Flat {
    let tars = tars.iter().map(|tar| tar.clone().finish()).collect::<Vec<_>>();
    try_flatten(&tars, &Options::default()).map_err(|error| chain(&error)).unwrap()
}

fn chain(error: &dyn std::error::Error) -> String {
    let source = error.source().map(|source| format!(": {}", chain(source))).unwrap_or_default();
    format!("{error}{source}")
}

fn fails(tars: &[TarBuilder]) -> Error {
    let tars = tars.iter().map(|tar| tar.clone().finish()).collect::<Vec<_>>();
    match try_flatten(&tars, &Options::default()) {
        Ok(flat) => panic!("flattened to {:?}", flat.lines),
        Err(error) => error,
    }
}

#[track_caller]
fn check(tars: &[TarBuilder], expected: &[&str]) {
    assert_eq!(run(tars).lines, expected);
}

fn tar() -> TarBuilder {
    TarBuilder::new()
}

#[test]
fn the_top_layer_wins_and_hidden_content_is_not_stored() {
    let flat = run(&[
        tar().dir("a").file("a/x", "old").file("a/y", "kept"),
        tar().file("a/x", "middle"),
        tar().file("a/x", "new"),
    ]);
    assert_eq!(flat.lines, ["d a", "f a/x=new", "f a/y=kept"]);
    assert_eq!((flat.stored, flat.counts.hidden, flat.counts.entries), (2, 2, 5));
}

#[test]
fn directories_merge_and_the_top_entry_gives_the_metadata() {
    let flat = run(&[
        tar().meta(0o700, 1, 1, 11).dir("a").dir("b").file("a/low", ""),
        tar().meta(0o750, 2, 2, 22).dir("a").file("b/high", "").file("c/d/new", ""),
    ]);
    assert_eq!(flat.lines, ["d a", "f a/low=", "d b", "f b/high=", "~ c", "~ c/d", "f c/d/new="]);
    assert_eq!(flat.meta["a"], "750 2:2 22");
    // Only a lower layer has an entry for it.
    assert_eq!(flat.meta["b"], "700 1:1 11");
}

#[test]
fn the_root_s_entry_counts_whatever_its_spelling() {
    for name in ["./", "/", ".", "a/.."] {
        let flat = run(&[tar().meta(0o700, 5, 6, 7).dir(name).file("f", "")]);
        assert_eq!(flat.meta[""], "700 5:6 7", "{name}");
    }
    assert!(matches!(fails(&[tar().file("./", "")]), Error::Entry { source: EntryProblem::Root, .. }));
    assert!(matches!(fails(&[tar().symlink("..", "/")]), Error::Entry { source: EntryProblem::Root, .. }));
}

#[test]
fn whiteouts_hide_lower_layers_only() {
    let low = tar().dir("a").file("a/x", "low").file("a/y", "low").dir("d").file("d/z", "low");
    check(&[low.clone(), tar().file("a/.wh.x", "").file(".wh.d", "")], &["d a", "f a/y=low"]);
    // In either order the same layer's entry stays, and what it hides of lower layers is hidden.
    for top in
        [tar().file(".wh.d", "").dir("d").file("d/new", "n"), tar().dir("d").file("d/new", "n").file(".wh.d", "")]
    {
        check(&[low.clone(), top], &["d a", "f a/x=low", "f a/y=low", "d d", "f d/new=n"]);
    }
    // Hidden in the middle, new at the top.
    check(
        &[low.clone(), tar().file(".wh.d", ""), tar().file("d/up", "u")],
        &["d a", "f a/x=low", "f a/y=low", "~ d", "f d/up=u"],
    );
    // A directory's white-out hides everything below it, too, and a white-out of nothing does nothing.
    check(&[low, tar().file(".wh.a", "").file(".wh.d", "").file(".wh.none", "")], &[]);
}

#[test]
fn opaque_marks_hide_lower_content_in_either_order() {
    let low = tar().meta(0o700, 1, 1, 1).dir("a").dir("a/sub").file("a/sub/x", "low").file("a/y", "low");
    for top in [
        tar().dir("a").file("a/.wh..wh..opq", "").file("a/new", "n"),
        tar().dir("a").file("a/new", "n").file("a/.wh..wh..opq", ""),
        tar().file("a/new", "n").file("a/.wh..wh..opq", ""),
    ] {
        check(&[low.clone(), top], &["d a", "f a/new=n"]);
    }
    // The mark hides what is in the directory, not what the directory is.
    let flat = run(&[low.clone(), tar().file("a/.wh..wh..opq", "")]);
    assert_eq!(flat.lines, ["d a"]);
    assert_eq!(flat.meta["a"], "700 1:1 1");
    check(&[low, tar().file(".wh..wh..opq", "").file("only", "")], &["f only="]);
}

#[test]
fn invalid_whiteouts_are_refused_and_aufs_books_ignored() {
    for name in ["a/.wh.", ".wh..", "a/.wh..."] {
        assert!(
            matches!(fails(&[tar().file(name, "")]), Error::Entry { source: EntryProblem::Whiteout, .. }),
            "{name}"
        );
    }
    let flat = run(&[tar().dir(".wh..wh.plnk").file(".wh..wh.plnk/1.2", "").file(".wh..wh.aufs", "").file("f", "")]);
    assert_eq!((flat.lines, flat.counts.ignored), (vec!["f f=".to_owned()], 3));
}

#[test]
fn whiteout_names_are_ordinary_in_a_plain_root_file_system() {
    let tar = tar().file(".wh.x", "kept").finish();
    let mut sink = Memory::default();
    let layers = [layer(0, &tar)];
    let (tree, _) = flatten(&layers, false, &mut sink, &Options::default(), &()).unwrap();
    assert!(tree.child(FileTree::<usize>::ROOT, b".wh.x").is_some());
}

#[test]
fn types_replace_each_other() {
    // A file over a directory hides what is below it, for good.
    check(&[tar().dir("a").file("a/x", ""), tar().file("a", "file")], &["f a=file"]);
    check(&[tar().dir("a").file("a/x", ""), tar().file("a", "file"), tar().dir("a")], &["d a"]);
    check(&[tar().dir("a").file("a/x", ""), tar().file("a", "file"), tar().file("a/new", "n")], &["~ a", "f a/new=n"]);
    check(&[tar().file("a", "file"), tar().dir("a").file("a/x", "x")], &["d a", "f a/x=x"]);
    check(&[tar().dir("a").file("a/x", ""), tar().symlink("a", "b")], &["l a->b"]);
    check(&[tar().symlink("a", "b"), tar().dir("a").file("a/x", "x")], &["d a", "f a/x=x"]);
    check(&[tar().file("a", ""), tar().device("a", b'3', 1, 5), tar().entry("b", b'6', "", b"")], &["c a 1,5", "p b"]);
}

#[test]
fn a_later_duplicate_in_a_layer_replaces_an_earlier() {
    check(&[tar().file("a", "1").file("a", "2")], &["f a=2"]);
    check(&[tar().file("a", "1").dir("a").file("a/x", "x")], &["d a", "f a/x=x"]);
    check(&[tar().dir("a").file("a/x", "x").file("a", "2")], &["f a=2"]);
    check(&[tar().dir("a").file("a/x", "x").file("a", "2").dir("a")], &["d a"]);
    check(&[tar().dir("a").file("a/low", ""), tar().dir("a").file("a/x", "x").file("a", "2").dir("a")], &["d a"]);
    check(&[tar().file("a", "1").file("a/x", "x")], &["~ a", "f a/x=x"]);
    let flat = run(&[tar().meta(0o700, 0, 0, 1).dir("a").meta(0o711, 0, 0, 2).dir("a")]);
    assert_eq!(flat.meta["a"], "711 0:0 2");
    // Links to what was replaced keep it.
    check(&[tar().file("a", "1").link("b", "a").file("a", "2").link("c", "a")], &["f a=2", "f b=1", "f c=2 @a"]);
}

#[test]
fn entries_below_a_symbolic_link_of_their_layer_follow_it_inside_the_root() {
    check(
        &[tar().symlink("lib", "usr/lib").dir("usr/lib").file("lib/x", "x")],
        &["l lib->usr/lib", "~ usr", "d usr/lib", "f usr/lib/x=x"],
    );
    check(&[tar().symlink("abs", "/usr").file("abs/x", "x")], &["l abs->/usr", "~ usr", "f usr/x=x"]);
    check(&[tar().symlink("out", "../../../etc").file("out/x", "x")], &["~ etc", "f etc/x=x", "l out->../../../etc"]);
    check(
        &[tar().dir("a/b").symlink("a/b/up", "../c/./").file("a/b/up/x", "x")],
        &["~ a", "d a/b", "l a/b/up->../c/./", "~ a/c", "f a/c/x=x"],
    );
    check(&[tar().symlink("a", "b").symlink("b", "c").file("a/x", "x")], &["l a->b", "l b->c", "~ c", "f c/x=x"]);
    check(&[tar().symlink("a", ".").file("a/a/x", "x")], &["l a->.", "f x=x"]);
    let error = fails(&[tar().symlink("a", "b").symlink("b", "a").file("a/x", "x")]);
    assert!(matches!(error, Error::Entry { source: EntryProblem::SymlinkLoop, .. }), "{error:?}");
    // After the link, a directory of its name takes the link's place.
    check(&[tar().symlink("a", "b").file("a/x", "x").dir("a").file("a/y", "y")], &["d a", "f a/y=y", "~ b", "f b/x=x"]);
    // White-outs follow, too.
    check(
        &[tar().file("usr/x", "low"), tar().symlink("l", "usr").file("l/.wh.x", "").file("usr/y", "")],
        &["l l->usr", "~ usr", "f usr/y="],
    );
}

#[test]
fn entries_below_a_lower_layer_s_symbolic_link_follow_it_when_it_turns_up() {
    let low =
        tar().symlink("lib", "usr/lib").dir("usr").dir("usr/lib").file("usr/lib/x", "low").file("usr/lib/y", "low");
    check(
        &[low.clone(), tar().file("lib/x", "top").file("lib/sub/z", "top")],
        &[
            "l lib->usr/lib",
            "d usr",
            "d usr/lib",
            "~ usr/lib/sub",
            "f usr/lib/sub/z=top",
            "f usr/lib/x=top",
            "f usr/lib/y=low",
        ],
    );
    // The same with the link behind its target in the tar: what was read before it is replaced.
    let late = tar().dir("usr/lib").file("usr/lib/x", "low").symlink("lib", "usr/lib");
    check(&[late, tar().file("lib/x", "top")], &["l lib->usr/lib", "~ usr", "d usr/lib", "f usr/lib/x=top"]);
    // White-outs and opaque marks move along.
    check(&[low.clone(), tar().file("lib/.wh.x", "")], &["l lib->usr/lib", "d usr", "d usr/lib", "f usr/lib/y=low"]);
    check(&[low.clone(), tar().file("lib/.wh..wh..opq", "")], &["l lib->usr/lib", "d usr", "d usr/lib"]);
    check(
        &[low.clone(), tar().file("lib/new", "n").file("usr/lib/.wh..wh..opq", "")],
        &["l lib->usr/lib", "d usr", "d usr/lib", "f usr/lib/new=n"],
    );
    // Of two layers above, the higher one wins wherever its entry was.
    check(
        &[low.clone(), tar().file("usr/lib/x", "middle"), tar().file("lib/x", "top")],
        &["l lib->usr/lib", "d usr", "d usr/lib", "f usr/lib/x=top", "f usr/lib/y=low"],
    );
    check(
        &[low.clone(), tar().file("lib/x", "middle"), tar().file("usr/lib/x", "top")],
        &["l lib->usr/lib", "d usr", "d usr/lib", "f usr/lib/x=top", "f usr/lib/y=low"],
    );
    // A directory with an entry of its own replaces the link.
    check(
        &[low, tar().dir("lib").file("lib/x", "top")],
        &["d lib", "f lib/x=top", "d usr", "d usr/lib", "f usr/lib/x=low", "f usr/lib/y=low"],
    );
    // Links of links, discovered one after the other.
    check(
        &[tar().symlink("b", "c").dir("c"), tar().symlink("a", "b"), tar().file("a/x", "x")],
        &["l a->b", "l b->c", "d c", "f c/x=x"],
    );
    let error = fails(&[tar().symlink("a", "a"), tar().file("a/x", "x")]);
    assert!(matches!(error, Error::Entry { source: EntryProblem::SymlinkLoop, .. }), "{error:?}");
}

#[test]
fn entries_below_a_higher_layer_s_link_or_file_are_hidden() {
    check(&[tar().dir("a").file("a/x", "x"), tar().symlink("a", "b")], &["l a->b"]);
    check(&[tar().file("a/x", "x").link("y", "a/x"), tar().file("a", "top")], &["f a=top", "f y=x"]);
    // The hidden link of a layer still leads that layer's other entries where they belong.
    check(&[tar().symlink("a", "b").file("a/x", "x"), tar().dir("a")], &["d a", "~ b", "f b/x=x"]);
}

#[test]
fn hard_links_within_a_layer_share_the_inode() {
    check(&[tar().file("a", "x").link("b", "./a").link("c/d", "/b")], &["f a=x", "f b=x @a", "~ c", "f c/d=x @a"]);
    check(&[tar().symlink("a", "x").link("b", "a")], &["l a->x", "l b->x @a"]);
    check(&[tar().file("a", "x").link("a", "a")], &["f a=x"]);
    check(
        &[tar().dir("d").file("d/f", "x").symlink("s", "d").link("l", "s/f")],
        &["d d", "f d/f=x", "f l=x @d/f", "l s->d"],
    );
    check(&[tar().file("a", "x").link("b", "../../a")], &["f a=x", "f b=x @a"]);
}

#[test]
fn hard_links_reach_into_lower_layers() {
    check(&[tar().file("a", "x"), tar().link("b", "a")], &["f a=x", "f b=x @a"]);
    check(
        &[tar().file("a", "x"), tar().file("other", ""), tar().link("b", "a").link("c", "b")],
        &["f a=x", "f b=x @a", "f c=x @a", "f other="],
    );
    check(&[tar().file("a", "x"), tar().link("b", "a"), tar().link("c", "a")], &["f a=x", "f b=x @a", "f c=x @a"]);
    check(&[tar().file("a", "x"), tar().link("b", "a"), tar().link("c", "b")], &["f a=x", "f b=x @a", "f c=x @a"]);
    // Through a link on the way that only the lower layer has.
    check(
        &[tar().symlink("s", "d").file("d/f", "x"), tar().link("l", "s/f")],
        &["~ d", "f d/f=x", "f l=x @d/f", "l s->d"],
    );
}

#[test]
fn hard_links_keep_what_the_target_was_when_it_is_hidden_above() {
    // Replaced, white-outed, or its directory gone: the link has the old content, stored once.
    for (top, rest) in [(tar().file("a", "new"), "f a=new"), (tar().file(".wh.a", "").file("z", ""), "f z=")] {
        let mut expected = vec!["f b=old", rest];
        expected.sort_by_key(|line| line[2..].to_owned());
        // Target in a layer below the link's.
        let flat = run(&[tar().file("a", "old"), tar().link("b", "a"), top.clone()]);
        assert_eq!(flat.lines, expected);
        // Target in the link's own layer, which takes a second read.
        let flat = run(&[tar().file("a", "old").link("b", "a"), top.clone()]);
        assert_eq!(flat.lines, expected);
        // Two links to it share an inode.
        let flat = run(&[tar().file("a", "old").link("b", "a").link("b2", "a").link("b3", "b"), top]);
        assert!(flat.lines.contains(&"f b2=old @b".to_owned()), "{:?}", flat.lines);
        assert!(flat.lines.contains(&"f b3=old @b".to_owned()), "{:?}", flat.lines);
    }
    // Renamed by link and white-out in one layer.
    check(&[tar().file("a", "old"), tar().link("b", "a").file(".wh.a", "")], &["f b=old"]);
    // A hidden link leads on to its target.
    check(&[tar().file("a", "x").link("b", "a").link("c", "b"), tar().file(".wh.b", "").file(".wh.a", "")], &["f c=x"]);
    check(&[tar().file("d/a", "x").link("b", "d/a"), tar().file("d", "top")], &["f b=x", "f d=top"]);
    // Also symbolic links and devices.
    check(&[tar().symlink("a", "t").link("b", "a"), tar().file("a", "n")], &["f a=n", "l b->t"]);
    // As of the link's layer: not what the target was further down.
    check(
        &[tar().file("a", "1"), tar().file("a", "2"), tar().link("b", "a"), tar().file("a", "3")],
        &["f a=3", "f b=2"],
    );
    check(
        &[tar().file("a", "1"), tar().link("b", "a"), tar().file("a", "2"), tar().link("c", "a")],
        &["f a=2", "f b=1", "f c=2 @a"],
    );
}

#[test]
fn hidden_content_is_stored_once_for_all_its_links() {
    let flat = run(&[tar().file("a", "old"), tar().link("b", "a").link("c", "a"), tar().file(".wh.a", "")]);
    assert_eq!(flat.lines, ["f b=old", "f c=old @b"]);
    assert_eq!(flat.stored, 1);
}

#[test]
fn hard_links_to_nothing_name_both_ends() {
    for tars in [
        vec![tar().link("b", "missing")],
        vec![tar().file("x", ""), tar().link("b", "missing")],
        // Gone in between, or with its directory.
        vec![tar().file("missing", ""), tar().file(".wh.missing", ""), tar().link("b", "missing")],
    ] {
        let text = chain(&fails(&tars));
        assert!(text.contains("entry \"b\"") && text.contains("hard link to \"missing\""), "{text}");
    }
    let text = chain(&fails(&[tar().file("d/f", ""), tar().file("d", ""), tar().link("b", "d/f")]));
    assert!(text.contains("hard link to \"d/f\""), "{text}");
    let text = chain(&fails(&[tar().file("d/f", ""), tar().file("d/.wh..wh..opq", ""), tar().link("b", "d/f")]));
    assert!(text.contains("hard link to \"d/f\""), "{text}");
    for tars in [vec![tar().dir("d").link("b", "d")], vec![tar().dir("d"), tar().link("b", "d")]] {
        let text = chain(&fails(&tars));
        assert!(text.contains("hard link to \"d\", which is a directory"), "{text}");
    }
    // Nobody sees the link, so nobody misses its target.
    check(&[tar().link("b", "missing"), tar().file("b", "new")], &["f b=new"]);
}

#[test]
fn hostile_names_stay_inside_the_root_or_are_refused() {
    check(
        &[tar().file("/abs", "a").file("../../up", "u").file("x/../../y", "y").file("//a//b/", "b")],
        &["~ a", "f a/b=b", "f abs=a", "f up=u", "f y=y"],
    );
    check(&[tar().symlink("s", "../../../etc/passwd")], &["l s->../../../etc/passwd"]);
    let long = "n".repeat(256);
    assert!(matches!(fails(&[tar().file(&long, "")]), Error::Entry { source: EntryProblem::NameTooLong, .. }));
    let deep = "d/".repeat(1100);
    assert!(matches!(fails(&[tar().file(&deep, "")]), Error::Entry { source: EntryProblem::PathTooLong, .. }));
    let target = "t".repeat(4096);
    for target in ["", target.as_str()] {
        let error = fails(&[tar().symlink("s", target)]);
        assert!(matches!(error, Error::Entry { source: EntryProblem::SymlinkTarget(_), .. }));
    }
    // Ours alone.
    let flat = run(&[tar().dir(".coracle").file(".coracle/config.json", "{}").file("./.coracle/x", "").file("f", "")]);
    assert_eq!((flat.lines, flat.counts.ignored), (vec!["f f=".to_owned()], 3));
}

#[test]
fn as_deep_as_allowed_is_fine_and_replacing_it_is_quick() {
    let deep = "d/".repeat(1023);
    let start = std::time::Instant::now();
    let top = (0..20_000).fold(tar().file(&format!("{deep}f"), ""), |tar, _| tar.file("d", "").dir("d"));
    check(&[tar().file(&format!("{deep}low"), ""), top], &["d d"]);
    assert!(start.elapsed().as_secs() < 60, "replacing a directory costs what was once below it");
    // Everything below a link moves.
    let deep = "d/".repeat(1022);
    let flat =
        run(&[tar().file(&format!("b/{deep}f"), "low").symlink("a", "b"), tar().file(&format!("a/{deep}f"), "top")]);
    assert!(flat.lines.last().is_some_and(|line| line.ends_with("/f=top")));
}

#[test]
fn limits_stop_bombs() {
    let small = Options { max_entries: 100, max_layer_bytes: 1 << 20, ..Options::default() };
    let many = (0..200).fold(tar(), |tar, number| tar.file(&format!("f{number}"), "")).finish();
    assert!(matches!(try_flatten(&[many], &small), Err(Error::Entry { source: EntryProblem::TooManyEntries, .. })));
    let deep = tar().file(&"d/".repeat(150), "").finish();
    assert!(matches!(try_flatten(&[deep], &small), Err(Error::Entry { source: EntryProblem::TooManyEntries, .. })));
    let large = tar().file("f", vec![0; 2 << 20]).finish();
    assert!(matches!(try_flatten(&[large], &small), Err(Error::LayerTooLarge { .. })));
    let size = (1u64 << 60).to_string();
    let sparse = tar().pax("GNU.sparse.size", size).pax("GNU.sparse.map", "").file("f", "").finish();
    assert!(matches!(try_flatten(&[sparse], &Options::default()), Err(Error::LayerTooLarge { .. })));
}

#[test]
fn metadata_and_xattrs_are_kept() {
    let flat = run(&[tar().meta(0o6755, 1000, 50, 77).file("f", "").symlink("s", "f")]);
    assert_eq!(flat.meta["f"], "6755 1000:50 77");
    assert_eq!(flat.meta["s"], "777 1000:50 77");
    let flat = run(&[tar()
        .pax("SCHILY.xattr.security.capability", [1, 0, 0, 2])
        .pax("SCHILY.xattr.user.x", "y")
        .pax("SCHILY.xattr.system.posix_acl_access", "acl")
        .file("f", "")]);
    assert_eq!(flat.counts.dropped_xattrs, 1);
}

#[test]
fn sparse_files_pass_their_holes_on() {
    let flat = run(&[tar().pax("GNU.sparse.size", "9000").pax("GNU.sparse.map", "4096,3").file("s", "abc")]);
    assert_eq!(flat.lines, ["f s=<4096>abc<4901>"]);
}

#[test]
fn without_a_digest_the_end_marker_is_required() {
    let cut = tar().file("f", "").unfinished();
    let mut layers = [layer(0, &cut)];
    assert!(flatten(&layers, true, &mut Memory::default(), &Options::default(), &()).is_ok());
    layers[0].diff_id = None;
    let error = flatten(&layers, true, &mut Memory::default(), &Options::default(), &()).unwrap_err();
    assert!(chain(&error).contains("no end marker"), "{}", chain(&error));
}

/// A model: unpack bottom up into a map, the way the specification is written.
mod model;
