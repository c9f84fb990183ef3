//! Where each setting comes from: for people, and not on the way of a launch.

use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};
use toml::de::{DeTable, DeValue};

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
    ("gpu.cdi-dirs", None),
    ("gpu.default", Some("\"off\"")),
    ("images.allowed-paths", None),
    ("images.allowed-registries", None),
    ("images.read-only", Some("false")),
    ("mounts.bind", None),
    ("mounts.force-bind", Some("false")),
    ("mounts.no-mount", None),
    ("mpi.default", Some("\"auto\"")),
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

pub(super) struct Found {
    pub(super) path: PathBuf,
    pub(super) owner: Owner,
    pub(super) directories: Vec<PathBuf>,
}

/// The files in the order in which they count.
pub(super) fn files(site: &Path, root: Owner, home: Option<&Path>) -> Result<Vec<Found>, Error> {
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
    line_of(text, &key.split('.').collect::<Vec<_>>())
}

/// The same for a key whose parts may have dots.
pub(super) fn line_of(text: &str, key: &[&str]) -> usize {
    let Ok(table) = DeTable::parse(text) else { return 1 };
    let (mut table, mut at) = (Some(table.get_ref()), 0);
    for name in key {
        let found = table.and_then(|table| table.iter().find(|(key, _)| key.get_ref() == name));
        let Some((key, value)) = found else { break };
        (table, at) = (value.get_ref().as_table(), key.span().start);
    }
    line_at(text, at)
}

#[cfg(test)]
pub(super) mod tests {
    use std::fs;

    use super::*;

    const SITE_FILE: &str =
        "[mounts]\nbind = [\"/a\"]\n[session]\nidle-seconds = 1\n[profile.x]\npwd = \"/x\"\ncontain = true\n";
    const USER_FILE: &str = "[session]\nidle-seconds = 7\n[mounts]\n\nbind = [\"/b\"]\n[profile.x]\npwd = \"/y\"\n";

    pub(in crate::config) fn place() -> (tempfile::TempDir, PathBuf, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let (site, home) = (dir.path().join("site"), dir.path().join("home"));
        fs::create_dir_all(&site).unwrap();
        fs::create_dir_all(home.join(".config/coracle")).unwrap();
        fs::write(site.join(FILE), SITE_FILE).unwrap();
        fs::write(user_file(&home), USER_FILE).unwrap();
        (dir, site, home)
    }

    pub(in crate::config) fn me() -> Owner {
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
    fn keys_are_in_order() {
        assert!(KEYS.is_sorted());
        for key in ACCUMULATING {
            assert!(KEYS.iter().any(|(one, _)| *one == key || *one == format!("{key}.*")), "{key}");
        }
    }
}
