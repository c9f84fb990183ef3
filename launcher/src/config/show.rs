//! Where each setting comes from, and all that is wrong with the files: for people, and not on the way of a launch.

use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::{Map, Value};
use toml::Spanned;
use toml::de::{DeString, DeTable, DeValue, Deserializer};

use super::file::File;
use super::trust::Owner;
use super::{Config, DROP_INS, Error, FILE, SITE, drop_ins, text, user_file, variables};

/// Every key, and its default as JSON where it has one that can be said; `*` stands for names that a site chooses.
pub const KEYS: &[(&str, Option<&str>)] = &[
    ("compatibility.apptainer-variables", Some("false")),
    ("defaults.profile", None),
    ("environment.append.*", None),
    ("environment.prepend.*", None),
    ("environment.set.*", None),
    ("environment.unset", None),
    ("gpu.default", Some("\"off\"")),
    ("images.allowed-paths", None),
    ("images.allowed-registries", None),
    ("images.read-only", Some("false")),
    ("mounts.bind", None),
    ("mounts.force-bind", Some("false")),
    ("mounts.no-mount", None),
    ("mpi.default", Some("\"off\"")),
    ("profile.*.bind", None),
    ("profile.*.cleanenv", None),
    ("profile.*.compat", None),
    ("profile.*.contain", None),
    ("profile.*.containall", None),
    ("profile.*.device", None),
    ("profile.*.environment.append.*", None),
    ("profile.*.environment.prepend.*", None),
    ("profile.*.environment.set.*", None),
    ("profile.*.environment.unset", None),
    ("profile.*.fakeroot", None),
    ("profile.*.home", None),
    ("profile.*.hostname", None),
    ("profile.*.inherit", None),
    ("profile.*.ipc", None),
    ("profile.*.net", None),
    ("profile.*.no-home", None),
    ("profile.*.no-mount", None),
    ("profile.*.overlay", None),
    ("profile.*.pid", None),
    ("profile.*.pwd", None),
    ("profile.*.scratch", None),
    ("profile.*.security", None),
    ("profile.*.userns", None),
    ("profile.*.uts", None),
    ("profile.*.workdir", None),
    ("profile.*.writable-tmpfs", None),
    ("registry.auth-files", None),
    ("registry.connections", None),
    ("registry.hosts.*.ca-files", None),
    ("registry.hosts.*.insecure", None),
    ("registry.hosts.*.mirrors", None),
    ("registry.signatures", None),
    ("session.enabled", Some("true")),
    ("session.idle-seconds", Some("5")),
    ("store.dir", None),
    ("store.dirs", None),
    ("store.lease-seconds", Some("30")),
    ("store.max-size", None),
];

/// To these every file adds; of the others the last counts.
pub const ACCUMULATING: [&str; 6] = [
    "mounts.bind",
    "mounts.no-mount",
    "environment.prepend",
    "environment.append",
    "environment.unset",
    "registry.signatures",
];

/// Where a setting comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A file, and the line, from 1.
    File(PathBuf, usize),
    /// A variable of the environment.
    Environment,
    /// Nothing sets it.
    Default,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path, line) => write!(f, "{}:{line}", path.display()),
            Self::Environment => f.write_str("environment"),
            Self::Default => f.write_str("default"),
        }
    }
}

/// One setting in force.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// With dots; names that are not plain in quotes.
    pub key: String,
    /// What it is set to.
    pub value: Value,
    /// By whom.
    pub origin: Origin,
}

/// The settings in force for a user with this home directory and environment, by key.
///
/// # Errors
/// When a file cannot be used.
pub fn show(home: Option<&Path>, env: &[(OsString, OsString)]) -> Result<Vec<Entry>, Error> {
    show_in(Path::new(SITE), Owner::Site(0), home, env)
}

fn show_in(site: &Path, root: Owner, home: Option<&Path>, env: &[(OsString, OsString)]) -> Result<Vec<Entry>, Error> {
    let config = Config::from(site, root, home)?;
    let mut entries: Vec<Entry> = Vec::new();
    for Found { path, owner, directories } in files(site, root, home)? {
        let directories: Vec<&Path> = directories.iter().map(PathBuf::as_path).collect();
        let Some(text) = text(&path, owner, &directories)? else { continue };
        let parsed = DeTable::parse(&text);
        let table = parsed.map_err(|cause| Error::Parse { path: path.clone(), cause: Box::new(cause) })?;
        let mut leaves = Vec::new();
        flatten(String::new(), table.get_ref(), &mut leaves);
        // A profile takes the place of another of its name as a whole.
        for profile in profiles(table.get_ref()) {
            let begin = format!("profile.{profile}.");
            entries.retain(|entry| !entry.key.starts_with(&begin));
        }
        for (key, value, at) in leaves {
            let adds = ACCUMULATING.iter().any(|one| key == *one || key.starts_with(&format!("{one}.")));
            if !adds {
                entries.retain(|entry| entry.key != key);
            }
            entries.push(Entry { key, value, origin: Origin::File(path.clone(), line_at(&text, at)) });
        }
    }
    for (key, default) in KEYS {
        if let (Some(default), false) = (default, entries.iter().any(|entry| entry.key == *key)) {
            let value = serde_json::from_str(default).unwrap_or_default();
            entries.push(Entry { key: (*key).to_owned(), value, origin: Origin::Default });
        }
    }
    // Stable: of those that add up, the order in which they do.
    entries.sort_by(|one, other| one.key.cmp(&other.key));
    let mut of_environment: Vec<Entry> = env
        .iter()
        .filter(|(name, value)| !value.is_empty() && variables::is_known(name, config.apptainer_variables))
        .map(|(name, value)| Entry {
            key: name.to_string_lossy().into_owned(),
            value: Value::String(value.to_string_lossy().into_owned()),
            origin: Origin::Environment,
        })
        .collect();
    of_environment.sort_by(|one, other| one.key.cmp(&other.key));
    entries.extend(of_environment);
    Ok(entries)
}

struct Found {
    path: PathBuf,
    owner: Owner,
    directories: Vec<PathBuf>,
}

/// The files in the order in which they count.
fn files(site: &Path, root: Owner, home: Option<&Path>) -> Result<Vec<Found>, Error> {
    let mut files = vec![Found { path: site.join(FILE), owner: root, directories: vec![site.to_path_buf()] }];
    let conf_d = site.join(DROP_INS);
    for path in drop_ins(&conf_d)? {
        files.push(Found { path, owner: root, directories: vec![site.to_path_buf(), conf_d.clone()] });
    }
    files.extend(home.map(|home| Found { path: user_file(home), owner: Owner::User, directories: Vec::new() }));
    Ok(files)
}

fn quoted(name: &str) -> String {
    let plain = !name.is_empty() && name.bytes().all(|c| c.is_ascii_alphanumeric() || b"-_".contains(&c));
    if plain { name.to_owned() } else { Value::String(name.to_owned()).to_string() }
}

fn profiles(table: &DeTable<'_>) -> Vec<String> {
    let profiles = table.get("profile").and_then(|profiles| profiles.get_ref().as_table());
    profiles.into_iter().flatten().map(|(name, _)| quoted(name.get_ref())).collect()
}

fn flatten(above: String, table: &DeTable<'_>, leaves: &mut Vec<(String, Value, usize)>) {
    for (name, value) in table {
        let name = quoted(name.get_ref());
        let key = if above.is_empty() { name } else { format!("{above}.{name}") };
        match value.get_ref() {
            DeValue::Table(inner) => flatten(key, inner, leaves),
            other => leaves.push((key, json(other), value.span().start)),
        }
    }
}

fn json(value: &DeValue<'_>) -> Value {
    match value {
        DeValue::String(text) => Value::String(text.to_string()),
        DeValue::Boolean(whether) => Value::Bool(*whether),
        DeValue::Integer(number) => number.as_str().parse::<i64>().map_or_else(|_| number.as_str().into(), Value::from),
        DeValue::Float(number) => number.as_str().parse::<f64>().map_or_else(|_| number.as_str().into(), Value::from),
        DeValue::Datetime(date) => Value::String(date.to_string()),
        DeValue::Array(values) => values.iter().map(|value| json(value.get_ref())).collect(),
        DeValue::Table(table) => {
            let pairs = table.iter().map(|(name, value)| (name.get_ref().to_string(), json(value.get_ref())));
            Value::Object(pairs.collect::<Map<_, _>>())
        }
    }
}

/// The line, from 1, of a byte of a text.
pub(crate) fn line_at(text: &str, byte: usize) -> usize {
    let before = text.as_bytes().get(..byte).unwrap_or(text.as_bytes());
    before.iter().filter(|byte| **byte == b'\n').count() + 1
}

/// The line of a table, or of a table's key; of a file that parses.
pub(super) fn line_of_key(text: &str, key: &str) -> usize {
    let Ok(table) = DeTable::parse(text) else { return 1 };
    let (section, rest) = key.split_once('.').map_or((key, None), |(section, rest)| (section, Some(rest)));
    let find = |table: &DeTable<'_>, name: &str| {
        table.iter().find(|(key, _)| key.get_ref() == name).map(|(key, _)| key.span().start)
    };
    let inner = table.get_ref().get(section).and_then(|inner| inner.get_ref().as_table());
    let at = match rest {
        Some(rest) => inner.and_then(|inner| find(inner, rest)),
        None => find(table.get_ref(), section),
    };
    line_at(text, at.unwrap_or_default())
}

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

    use super::*;

    const SITE_FILE: &str =
        "[mounts]\nbind = [\"/a\"]\n[session]\nidle-seconds = 1\n[profile.x]\npwd = \"/x\"\ncontain = true\n";
    const USER_FILE: &str = "[session]\nidle-seconds = 7\n[mounts]\n\nbind = [\"/b\"]\n[profile.x]\npwd = \"/y\"\n";

    fn place() -> (tempfile::TempDir, PathBuf, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let (site, home) = (dir.path().join("site"), dir.path().join("home"));
        fs::create_dir_all(&site).unwrap();
        fs::create_dir_all(home.join(".config/coracle")).unwrap();
        fs::write(site.join(FILE), SITE_FILE).unwrap();
        fs::write(user_file(&home), USER_FILE).unwrap();
        (dir, site, home)
    }

    fn me() -> Owner {
        Owner::Site(nix::unistd::geteuid().as_raw())
    }

    #[test]
    fn each_value_has_its_file_and_line() {
        let (_dir, site, home) = place();
        let env = [("CORACLE_BIND", "/c"), ("OTHER", "x"), ("CORACLE_STORE", "")]
            .map(|(name, value)| (name.into(), value.into()));
        let entries = show_in(&site, me(), Some(&home), &env).unwrap();
        let of = |key: &str| -> Vec<(String, String)> {
            let of_key = entries.iter().filter(|entry| entry.key == key);
            of_key.map(|entry| (entry.value.to_string(), entry.origin.to_string())).collect()
        };
        let at = |path: PathBuf, line: usize| format!("{}:{line}", path.display());
        let (theirs, ours) = (site.join(FILE), user_file(&home));
        assert_eq!(of("mounts.bind"), [("[\"/a\"]".into(), at(theirs, 2)), ("[\"/b\"]".into(), at(ours.clone(), 5))]);
        assert_eq!(of("session.idle-seconds"), [("7".into(), at(ours.clone(), 2))]);
        assert_eq!(of("profile.x.pwd"), [("\"/y\"".into(), at(ours, 7))]);
        assert!(of("profile.x.contain").is_empty(), "the user's profile is another");
        assert_eq!(of("images.read-only"), [("false".into(), "default".into())]);
        assert_eq!(of("CORACLE_BIND"), [("\"/c\"".into(), "environment".into())]);
        assert!(of("OTHER").is_empty() && of("CORACLE_STORE").is_empty());
    }

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

    #[test]
    fn keys_are_in_order() {
        assert!(KEYS.is_sorted());
        for key in ACCUMULATING {
            assert!(KEYS.iter().any(|(one, _)| *one == key || *one == format!("{key}.*")), "{key}");
        }
    }
}
