//! What the loader of this machine says of its own programs.

use std::collections::BTreeMap;
use std::process::Command;

use super::*;
use crate::files::HostFiles;

/// Name and real path of all that the real loader loads.
fn real(program: &str) -> Option<BTreeMap<String, PathBuf>> {
    let output =
        Command::new(program).env("LD_TRACE_LOADED_OBJECTS", "1").env_remove("LD_LIBRARY_PATH").output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let lines = text.lines().filter_map(|line| line.trim().split_once(" => "));
    let found = lines.filter_map(|(name, rest)| {
        let path = rest.split_once(" (").map_or(rest, |(path, _)| path);
        Some((name.to_owned(), std::fs::canonicalize(path).ok()?))
    });
    Some(found.collect())
}

#[test]
fn programs_of_this_machine_get_what_the_real_loader_gives_them() {
    let files = HostFiles::new("/");
    let loader = Loader::new(&files, Abi::OWN, "").unwrap();
    let mut compared = 0;
    for program in [
        "/usr/bin/bash",
        "/usr/bin/python3",
        "/usr/bin/git",
        "/usr/bin/apt",
        "/usr/bin/gcc",
        "/usr/bin/mpirun",
        "/usr/bin/ls",
    ] {
        let Some(expected) = real(program).filter(|all| !all.is_empty()) else { continue };
        let closure = loader.closure(Path::new(program)).unwrap();
        assert!(closure.missing.is_empty(), "{program}: {:?}", closure.missing);
        for (name, path) in expected {
            // Variants for newer processors are the same library in a directory of its own.
            if path.components().any(|part| part.as_os_str() == "glibc-hwcaps") {
                continue;
            }
            assert_eq!(closure.named(&name).map(|object| &object.path), Some(&path), "{program}: {name}");
            compared += 1;
        }
    }
    assert!(compared > 0 || !Path::new("/usr/bin/ls").exists());
}

#[test]
fn what_is_no_program_has_nothing() {
    let files = HostFiles::new("/");
    let loader = Loader::new(&files, Abi::OWN, "").unwrap();
    for path in ["/etc/passwd", "/nowhere", "/usr/bin"] {
        assert!(loader.closure(Path::new(path)).unwrap().objects.is_empty());
    }
}
