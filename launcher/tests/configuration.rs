//! What the guide and the examples say of the configuration is what the program does.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use coracle::config::{self, KEYS, OTHERS, OWN, VARIABLES};
use coracle::edf;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_path_buf()
}

/// All of the guide.
fn documentation() -> String {
    let mut text = String::new();
    let mut directories = vec![root().join("docs")];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                directories.push(path);
            } else if path.extension().is_some_and(|extension| extension == "md") {
                text.push_str(&fs::read_to_string(path).unwrap());
            }
        }
    }
    text
}

/// Paths of a table's values, with `*` for names that a site chooses.
fn keys(above: &str, table: &toml::Table, all: &mut BTreeSet<String>) {
    for (name, value) in table {
        let free = matches!(above, "profile" | "registry.hosts")
            || ["set", "prepend", "append"].iter().any(|last| above.ends_with(&format!("environment.{last}")));
        let name = if free { "*" } else { name };
        let key = if above.is_empty() { name.to_owned() } else { format!("{above}.{name}") };
        match value {
            toml::Value::Table(inner) => keys(&key, inner, all),
            _ => drop(all.insert(key)),
        }
    }
}

#[test]
fn the_example_has_every_key_and_is_right() {
    let path = root().join("examples/coracle.toml");
    assert_eq!(config::problems(std::slice::from_ref(&path), None), Vec::<String>::new());
    let mut found = BTreeSet::new();
    keys("", &fs::read_to_string(path).unwrap().parse().unwrap(), &mut found);
    let known: BTreeSet<String> = KEYS.iter().map(|(key, _)| (*key).to_owned()).collect();
    assert_eq!(found, known);
}

#[test]
fn the_guide_has_every_key() {
    let text = documentation();
    for (key, default) in KEYS {
        // Those of a profile are the flags', and are in its table without what stands before them.
        let name = key.strip_prefix("profile.*.").unwrap_or(key).trim_end_matches(".*");
        let row = text.lines().find(|line| line.starts_with(&format!("| `{name}` |")));
        let row = row.unwrap_or_else(|| panic!("the guide has no row for {name}"));
        if let Some(default) = default {
            assert!(row.contains(&format!("`{default}`")), "{default}: {row}");
        }
    }
}

#[test]
fn the_guide_has_every_variable() {
    let text = documentation();
    for variable in VARIABLES {
        let apptainer: Vec<String> = variable.apptainer.iter().map(|name| format!("`{name}`")).collect();
        let apptainer = if apptainer.is_empty() { "–".to_owned() } else { apptainer.join(", ") };
        let row = format!("| `{OWN}{}` | `--{}` | {apptainer} |", variable.name, variable.flag);
        assert!(text.contains(&row), "the guide has no row {row}");
    }
    for (name, _) in OTHERS {
        assert!(text.contains(&format!("`{name}`")) || text.contains(&format!("`{name}=")), "{name}");
    }
}

#[test]
fn the_example_of_an_environment_is_read() {
    let value = |name: &str| ["HOME", "PWD"].contains(&name).then(|| OsString::from("/home/ada"));
    let path = root().join("examples/pytorch.toml");
    assert_eq!(edf::locate(&path, &value).unwrap(), Some(path.clone()));
    let environment = edf::read(&path, &value).unwrap();
    assert_eq!(environment.image, Path::new("docker://nvcr.io#nvidia/pytorch:24.01-py3"));
    assert!(!environment.entrypoint && environment.warning.is_none());
    assert_eq!(environment.options.binds.len(), 1);
}
