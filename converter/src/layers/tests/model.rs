//! Random stacks of layers against a naive unpacker that works from the bottom up, as the specification is written.

use super::*;
use std::collections::BTreeMap;

#[derive(Clone, Debug, PartialEq, Eq)]
enum Thing {
    Implied,
    Directory(u64),
    File(String, u64),
}

#[derive(Clone, Debug)]
enum Step {
    Directory(String),
    File(String),
    Link(String, String),
    Whiteout(String),
    Opaque(String),
}

#[derive(Default)]
struct Model {
    tree: BTreeMap<String, Thing>,
    inodes: u64,
}

impl Model {
    fn remove_below(&mut self, path: &str) {
        let prefix = format!("{path}/");
        self.tree.retain(|known, _| !known.starts_with(&prefix));
    }

    fn parents(path: &str) -> impl Iterator<Item = &str> {
        path.match_indices('/').map(|(at, _)| &path[..at])
    }

    /// Nothing when a file is in the way.
    fn insert(&mut self, path: &str, thing: Thing) -> Option<()> {
        for parent in Self::parents(path) {
            match self.tree.get(parent) {
                Some(Thing::File(..)) => return None,
                Some(_) => {}
                None => drop(self.tree.insert(parent.to_owned(), Thing::Implied)),
            }
        }
        if !matches!(thing, Thing::Directory(_)) {
            self.remove_below(path);
        }
        self.tree.insert(path.to_owned(), thing);
        Some(())
    }

    /// The number of a step that no unpacker would carry out: a link to what is missing or no file, or an entry below
    /// a file.
    fn layer(&mut self, number: u64, steps: &[Step]) -> Option<usize> {
        // White-outs first: they concern lower layers, wherever they stand.
        for step in steps {
            match step {
                Step::Whiteout(path) => {
                    self.tree.remove(path);
                    self.remove_below(path);
                }
                Step::Opaque(path) => self.remove_below(path),
                _ => {}
            }
        }
        for (at, step) in steps.iter().enumerate() {
            let done = match step {
                Step::Directory(path) => self.insert(path, Thing::Directory(number)),
                Step::File(path) => {
                    self.inodes += 1;
                    let inode = self.inodes;
                    self.insert(path, Thing::File(format!("{number}.{at}"), inode))
                }
                Step::Link(path, target) => match self.tree.get(target).cloned() {
                    Some(thing @ Thing::File(..)) => self.insert(path, thing),
                    _ => None,
                },
                Step::Whiteout(_) | Step::Opaque(_) => Some(()),
            };
            if done.is_none() {
                return Some(at);
            }
        }
        None
    }

    fn lines(&self) -> Vec<String> {
        let mut first = HashMap::new();
        let mut lines = self
            .tree
            .iter()
            .map(|(path, thing)| (path.split('/').map(str::to_owned).collect::<Vec<_>>(), path, thing))
            .collect::<Vec<_>>();
        lines.sort_by(|one, other| one.0.cmp(&other.0));
        lines
            .into_iter()
            .map(|(_, path, thing)| match thing {
                Thing::Implied => format!("~ {path}"),
                Thing::Directory(_) => format!("d {path}"),
                Thing::File(content, inode) => {
                    let first = first.entry(*inode).or_insert_with(|| path.clone()).clone();
                    let same = if first == *path { String::new() } else { format!(" @{first}") };
                    format!("f {path}={content}{same}")
                }
            })
            .collect()
    }
}

struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % bound
    }

    fn path(&mut self) -> String {
        let depth = 1 + self.below(3);
        (0..depth).map(|_| ["a", "b", "c"][self.below(3) as usize]).collect::<Vec<_>>().join("/")
    }

    fn step(&mut self) -> Step {
        match self.below(10) {
            0..=1 => Step::Directory(self.path()),
            2..=5 => Step::File(self.path()),
            6..=7 => Step::Link(self.path(), self.path()),
            8 => Step::Whiteout(self.path()),
            _ => Step::Opaque(self.path()),
        }
    }
}

/// A layer of these steps.
fn build(number: usize, steps: &[Step]) -> Vec<u8> {
    let tar = steps.iter().enumerate().fold(TarBuilder::new(), |tar, (at, step)| match step {
        Step::Directory(path) => tar.dir(path),
        Step::File(path) => tar.file(path, format!("{number}.{at}")),
        Step::Link(path, target) => tar.link(path, target),
        Step::Whiteout(path) => match path.rsplit_once('/') {
            Some((parent, name)) => tar.file(&format!("{parent}/.wh.{name}"), ""),
            None => tar.file(&format!(".wh.{path}"), ""),
        },
        Step::Opaque(path) => tar.file(&format!("{path}/.wh..wh..opq"), ""),
    });
    tar.finish()
}

#[test]
fn random_stacks_flatten_as_they_would_unpack() {
    let mut random = Random(0x1234_5678_9abc_def1);
    let mut compared = 0;
    for case in 0..1200 {
        let mut model = Model::default();
        let mut stack = Vec::new();
        for number in 0..1 + random.below(4) {
            let mut steps = (0..1 + random.below(7)).map(|_| random.step()).collect::<Vec<_>>();
            loop {
                let mut trial = Model { tree: model.tree.clone(), inodes: model.inodes };
                let Some(impossible) = trial.layer(number, &steps) else {
                    model = trial;
                    break;
                };
                steps.remove(impossible);
            }
            stack.push(steps);
        }
        let tars = stack.iter().enumerate().map(|(number, steps)| build(number, steps)).collect::<Vec<_>>();
        let flat = try_flatten(&tars, &Options::default());
        let flat = flat.unwrap_or_else(|error| panic!("case {case}: {}\n{stack:#?}", chain(&error)));
        assert_eq!(flat.lines, model.lines(), "case {case}: {stack:#?}");
        compared += flat.lines.len();
    }
    assert!(compared > 3000, "the stacks came out empty");
}
