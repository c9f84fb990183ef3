//! What the workspace promises about its own shape.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests fail by panicking")]

use coracle_tests::process::workspace;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

/// Each member with the members that it may depend on. The arrows point one way: down this list.
const ARROWS: &[(&str, &[&str])] = &[
    ("coracle-squashfs", &[]),
    ("coracle-converter", &["coracle-squashfs"]),
    ("coracle-mpi-hooks", &[]),
    ("coracle", &["coracle-squashfs", "coracle-converter", "coracle-mpi-hooks"]),
    ("coracle-cri", &["coracle", "coracle-converter", "coracle-squashfs", "coracle-mpi-hooks"]),
    // A thin adapter that has the program do the work, so that one build of it outlives many releases.
    ("coracle-slurm-plugin", &[]),
    // Judges of all the others, on which nothing else may depend. The benchmarks start their servers as the tests do.
    ("coracle-tests", &["coracle", "coracle-squashfs", "coracle-converter", "coracle-mpi-hooks", "coracle-cri"]),
    ("coracle-bench", &["coracle-tests"]),
];

fn metadata() -> Value {
    let output = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline"])
        .current_dir(workspace())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn dependencies_point_one_way() {
    let metadata = metadata();
    let allowed: BTreeMap<_, _> = ARROWS.iter().copied().collect();
    let packages = metadata["packages"].as_array().unwrap();
    let members: BTreeSet<_> = packages.iter().map(|package| package["name"].as_str().unwrap()).collect();
    for package in packages {
        let name = package["name"].as_str().unwrap();
        let may = allowed.get(name).unwrap_or_else(|| panic!("{name} is not in the list of arrows"));
        for dependency in package["dependencies"].as_array().unwrap() {
            let on = dependency["name"].as_str().unwrap();
            assert!(!members.contains(on) || may.contains(&on), "{name} may not depend on {on}");
        }
    }
}

#[test]
fn members_inherit_lints_and_versions() {
    for package in metadata()["packages"].as_array().unwrap() {
        let manifest = package["manifest_path"].as_str().unwrap();
        let text = std::fs::read_to_string(manifest).unwrap();
        let lines: Vec<_> = text.lines().map(str::trim).collect();
        for key in ["version", "edition", "rust-version", "license"] {
            let line = format!("{key}.workspace = true");
            assert!(lines.contains(&line.as_str()), "{manifest} lacks `{line}`");
        }
        let lints =
            lines.iter().position(|line| *line == "[lints]").unwrap_or_else(|| panic!("{manifest} lacks [lints]"));
        assert_eq!(lines.get(lints + 1), Some(&"workspace = true"), "{manifest} has lints of its own");
        let own_version = |line: &&&str| line.contains("version = \"") && line.contains('=') && !line.starts_with('#');
        assert_eq!(lines.iter().find(own_version), None, "{manifest} names a version that the workspace should hold");
    }
}

#[test]
fn default_members_build_with_nothing_but_rust_and_a_c_compiler() {
    let metadata = metadata();
    let names = |key: &str| -> BTreeSet<String> {
        metadata[key].as_array().unwrap().iter().map(|id| id.as_str().unwrap().to_owned()).collect()
    };
    let (defaults, members) = (names("workspace_default_members"), names("workspace_members"));
    assert!(defaults.is_subset(&members));
    for wants_system_headers in ["tests", "bench", "slurm-plugin"] {
        let inside = |id: &String| id.contains(&format!("/{wants_system_headers}#"));
        assert!(!defaults.iter().any(inside), "{wants_system_headers} is a default member");
    }
    assert!(defaults.iter().any(|id| id.contains("/launcher#")), "launcher is no default member");
}
