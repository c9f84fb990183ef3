//! All that is wrong with the files, and not the first thing only: for people, before a launch says it.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use toml::Spanned;
use toml::de::{DeString, DeTable, DeValue, Deserializer};

use super::file::File;
use super::show::{Found, files, line_at};
use super::trust::Owner;
use super::{Config, Error, SITE, text, user_file};

/// All that is wrong with these files, or with those that are in force when there are none; a sentence each.
#[must_use]
pub fn problems(given: &[PathBuf], home: Option<&Path>) -> Vec<String> {
    problems_in(Path::new(SITE), Owner::Site(0), given, home)
}

fn problems_in(site: &Path, root: Owner, given: &[PathBuf], home: Option<&Path>) -> Vec<String> {
    let mut problems = Vec::new();
    let mut config = Config::default();
    let mut take = |path: PathBuf, of_site: bool, text: Result<Option<String>, Error>| match text {
        Err(error) => problems.push(error.to_string()),
        Ok(None) => {}
        Ok(Some(text)) => {
            problems.extend(problems_of(&path, &text));
            for file in usable(&text) {
                problems.extend(config.merge(path.clone(), of_site, &text, file).err().map(|error| error.to_string()));
            }
        }
    };
    if given.is_empty() {
        match files(site, root, home) {
            Err(error) => take(site.to_path_buf(), true, Err(error)),
            Ok(files) => {
                for Found { path, owner, directories } in files {
                    let directories: Vec<&Path> = directories.iter().map(PathBuf::as_path).collect();
                    let text = text(&path, owner, &directories);
                    take(path, matches!(owner, Owner::Site(_)), text);
                }
            }
        }
    }
    // Who has to own these depends on where they will be.
    for path in given {
        let text = std::fs::read_to_string(path).map(Some);
        let of_site = home.is_none_or(|home| *path != user_file(home));
        take(path.clone(), of_site, text.map_err(|cause| Error::Read { path: path.clone(), cause }));
    }
    problems.extend(config.check().iter().map(ToString::to_string));
    problems
}

/// Each key is looked at by itself, so that one mistake does not hide another.
fn problems_of(path: &Path, text: &str) -> Vec<String> {
    let say = |error: &toml::de::Error| {
        let line = line_at(text, error.span().map_or(0, |span| span.start));
        (line, format!("{}:{line}: {}", path.display(), error.message().replace('\n', "; ")))
    };
    let (table, errors) = DeTable::parse_recoverable(text);
    let mut problems: Vec<_> = errors.iter().map(say).collect();
    if problems.is_empty() {
        let alone = |one| File::deserialize(Deserializer::from(Spanned::new(table.span(), one)));
        problems
            .extend(singles(table.get_ref()).into_iter().filter_map(|one| alone(one).err()).map(|error| say(&error)));
    }
    // A table that should not be there is a mistake of each of its keys.
    problems.sort();
    problems.dedup();
    problems.into_iter().map(|(_, problem)| problem).collect()
}

/// The file, or what of it can be used: sections and profiles that are right in themselves.
fn usable(text: &str) -> Vec<File> {
    if let Ok(file) = toml::from_str(text) {
        return vec![file];
    }
    let (table, _) = DeTable::parse_recoverable(text);
    let span = table.span();
    let alone = |one| File::deserialize(Deserializer::from(Spanned::new(span.clone(), one))).ok();
    let mut files = Vec::new();
    for (name, value) in table.get_ref() {
        let parts = match value.get_ref() {
            DeValue::Table(profiles) if name.get_ref() == "profile" => parts(profiles, 1),
            whole => vec![whole.clone()],
        };
        files.extend(parts.into_iter().filter_map(|part| alone(only(name, value, part))));
    }
    files
}

/// How deep tables have keys that are known by themselves.
const DEPTH: [(&str, usize); 2] = [("profile", 2), ("registry", 1)];

/// Tables that have one key each.
fn singles<'i>(table: &DeTable<'i>) -> Vec<DeTable<'i>> {
    let mut all = Vec::new();
    for (name, value) in table {
        let deepest = DEPTH.iter().find(|(one, _)| one == name.get_ref()).map_or(1, |(_, deepest)| *deepest);
        let inner = match value.get_ref() {
            DeValue::Table(inner) if !inner.is_empty() => parts(inner, deepest),
            _ => vec![value.get_ref().clone()],
        };
        all.extend(inner.into_iter().map(|part| only(name, value, part)));
    }
    all
}

fn only<'i>(name: &Spanned<DeString<'i>>, value: &Spanned<DeValue<'i>>, part: DeValue<'i>) -> DeTable<'i> {
    let mut one = DeTable::new();
    one.insert(name.clone(), Spanned::new(value.span(), part));
    one
}

fn parts<'i>(table: &DeTable<'i>, deeper: usize) -> Vec<DeValue<'i>> {
    let mut all = Vec::new();
    for (name, value) in table {
        let inner = match value.get_ref() {
            DeValue::Table(inner) if deeper > 1 && !inner.is_empty() => parts(inner, deeper - 1),
            other => vec![other.clone()],
        };
        all.extend(inner.into_iter().map(|part| DeValue::Table(only(name, value, part))));
    }
    all
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::show::tests::{me, place};
    use super::*;

    #[test]
    fn all_mistakes_are_said() {
        let (_dir, site, home) = place();
        assert_eq!(problems_in(&site, me(), &[], Some(&home)), Vec::<String>::new());
        let bad = "[mounts]\nbind = [\"/a:b\"]\nbinds = []\n[what]\nx = 1\ny = 2\n[profile.p]\nfoo = 1\npwd = \"x\"\n[profile.q]\nno-mount = [\"w\"]\n";
        fs::write(user_file(&home), bad).unwrap();
        let lines = |problems: &[String]| -> Vec<String> {
            problems
                .iter()
                .map(|text| text.strip_prefix(&format!("{}:", user_file(&home).display())).unwrap()[..2].to_owned())
                .collect()
        };
        let problems = problems_in(&site, me(), &[], Some(&home));
        assert_eq!(lines(&problems), ["2:", "3:", "4:", "8:", "9:", "11"], "{problems:#?}");
        assert_eq!(problems_in(&site, me(), &[user_file(&home)], None), problems);
        fs::write(user_file(&home), "a = \nb = ?\n").unwrap();
        assert!(problems_in(&site, me(), &[], Some(&home)).len() >= 2);
        fs::write(
            user_file(&home),
            "[defaults]\nprofile = \"z\"\n[profile.a]\ninherit = [\"b\"]\n[profile.b]\ninherit = [\"a\"]\n",
        )
        .unwrap();
        let problems = problems_in(&site, me(), &[], Some(&home)).join("\n");
        assert!(problems.contains("no profile \"z\": there are a, b, x"), "{problems}");
        assert!(problems.contains("a -> b -> a"), "{problems}");
    }
}
