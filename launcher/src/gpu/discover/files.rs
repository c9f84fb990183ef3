//! Finds files and device nodes by their paths.

use std::path::{Path, PathBuf};

use super::{Found, HostFile, Node, Root, Wanted};
use crate::gpu::table::{self, Kind};
use crate::libraries::elf::Elf;

/// Where programs are looked for on a host, whatever the caller's `PATH` says.
const PROGRAMS: [&str; 7] =
    ["/usr/bin", "/usr/sbin", "/bin", "/sbin", "/usr/local/bin", "/run/current-system/sw/bin", "/opt/bin"];
/// Where a container has them.
const BIN: &str = "/usr/bin";

/// Adds the programs of `rows`.
pub(super) fn programs(root: &Root, wanted: &Wanted, rows: &[table::Program], first: &[&str], found: &mut Found) {
    for row in rows.iter().filter(|row| wanted.capabilities.contains(&row.capability)) {
        let places = first.iter().chain(&PROGRAMS).map(|directory| Path::new(directory).join(row.name));
        if let Some(path) = places.into_iter().find_map(|path| root.real(&path)) {
            let elf = Elf::open(&root.at(&path)).ok();
            found.files.push(HostFile {
                path,
                elf,
                destination: Path::new(BIN).join(row.name),
                kind: Kind::Utility,
                capability: row.capability,
                group: None,
                reason: row.reason.to_owned(),
            });
        }
    }
}

/// Adds the files of `rows`.
pub(super) fn files(root: &Root, wanted: &Wanted, rows: &[table::File], group: Option<&str>, found: &mut Found) {
    let version = found.driver_version.clone();
    for row in rows.iter().filter(|row| wanted.capabilities.contains(&row.capability)) {
        let pattern = match (&version, row.path.contains("{version}")) {
            (Some(version), true) => row.path.replace("{version}", version),
            (None, true) => continue,
            (_, false) => row.path.to_owned(),
        };
        let patterns = if pattern.contains("{lib}") {
            wanted.abi.directories().iter().map(|directory| pattern.replace("{lib}", directory)).collect()
        } else {
            vec![pattern]
        };
        for path in patterns.iter().flat_map(|pattern| matches(root, pattern)) {
            add_file(root, &path, row, group, found);
        }
    }
}

fn add_file(root: &Root, path: &Path, row: &table::File, group: Option<&str>, found: &mut Found) {
    let Some(real) = root.real(path) else { return };
    // The same file by way of /lib and of /usr/lib.
    if found.files.iter().any(|file| file.path == real) {
        return;
    }
    found.files.push(HostFile {
        path: real,
        destination: path.to_path_buf(),
        kind: row.kind,
        capability: row.capability,
        group: group.map(str::to_owned),
        reason: row.reason.to_owned(),
        elf: None,
    });
}

/// The paths that fit a pattern, whose last component may have one `*` or two.
fn matches(root: &Root, pattern: &str) -> Vec<PathBuf> {
    let path = PathBuf::from(pattern);
    let (Some(directory), Some(name)) = (path.parent(), path.file_name().and_then(|name| name.to_str())) else {
        return Vec::new();
    };
    if !name.contains('*') {
        return if root.has(&path) { vec![path] } else { Vec::new() };
    }
    let names = root.list(directory).into_iter().filter(|one| fits(one, name));
    names.map(|name| directory.join(name)).collect()
}

/// Whether a name fits a pattern in which `*` stands for any letters.
fn fits(name: &str, pattern: &str) -> bool {
    match pattern.split_once('*') {
        None => name == pattern,
        Some((before, after)) => name.strip_prefix(before).is_some_and(|rest| {
            rest.char_indices()
                .map(|(at, _)| at)
                .chain([rest.len()])
                .any(|at| rest.get(at..).is_some_and(|rest| fits(rest, after)))
        }),
    }
}

/// Adds the device nodes of `rows`.
pub(super) fn nodes(root: &Root, wanted: &Wanted, rows: &[table::Node], found: &mut Found) {
    for row in rows.iter().filter(|row| wanted.capabilities.contains(&row.capability)) {
        let paths = match row.path.strip_suffix('#') {
            None => {
                if root.has(Path::new(row.path)) {
                    vec![PathBuf::from(row.path)]
                } else {
                    Vec::new()
                }
            }
            Some(prefix) => numbered(root, prefix).into_iter().map(|(path, _)| path).collect(),
        };
        for path in paths {
            found.nodes.push(Node { path, capability: row.capability, reason: row.reason.to_owned(), access: None });
        }
    }
}

/// What is at a path that ends in a number, and that number.
pub(super) fn numbered(root: &Root, prefix: &str) -> Vec<(PathBuf, u32)> {
    let Some((directory, name)) = prefix.rsplit_once('/') else { return Vec::new() };
    let directory = Path::new(directory);
    let number = |one: &String| {
        let digits = one.strip_prefix(name)?;
        let number = digits.parse().ok()?;
        (digits.bytes().all(|byte| byte.is_ascii_digit())).then(|| (directory.join(one), number))
    };
    root.list(directory).iter().filter_map(number).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_fit() {
        assert!(fits("gsp_ga10x.bin", "gsp*.bin") && fits("gsp.bin", "gsp*.bin"));
        assert!(!fits("gsp_ga10x.bin.xz", "gsp*.bin"));
        assert!(fits("10_nvidia_wayland.json", "*nvidia*.json") && !fits("50_mesa.json", "*nvidia*.json"));
    }
}
