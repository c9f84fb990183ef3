//! Trees that other tools have unpacked, in the form of [`super::list`].

use super::ADDED;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::process::Command;

/// Whether a tool is there and, where it must be, this is root. Under CI it has to be.
#[allow(clippy::print_stdout, reason = "a test says why it did nothing")]
pub fn usable(tools: &[&str], root: bool) -> bool {
    let missing = tools.iter().find(|tool| Command::new(tool).arg("--version").output().is_err());
    let reason = match missing {
        Some(tool) => format!("{tool} is not installed"),
        None if root && !rustix::process::geteuid().is_root() => "needs root".to_owned(),
        None => return true,
    };
    assert!(std::env::var_os("CI").is_none(), "a test may not be skipped under CI: {reason}");
    println!("skipped: {reason}");
    false
}

/// Runs a command that must succeed.
pub fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// As [`super::list`] has an image. Directories have neither a link count, which file systems disagree about, nor a time,
/// which changes whenever an unpacker adds or removes something in them.
pub fn list_directory(root: &Path) -> Vec<String> {
    let mut lines = Vec::new();
    walk(root, root, &mut BTreeMap::new(), &mut lines);
    comparable(lines)
}

fn walk(root: &Path, at: &Path, seen: &mut BTreeMap<u64, String>, lines: &mut Vec<String>) {
    let meta = at.symlink_metadata().unwrap();
    let relative = at.strip_prefix(root).unwrap().as_os_str().as_bytes().escape_ascii().to_string();
    let name = format!("/{relative}");
    let kind = meta.file_type();
    let (letter, detail) = if kind.is_file() {
        let content = fs::read(at).unwrap();
        match content.len() {
            0..=200 => ("-", format!("={}", content.escape_ascii())),
            _ => ("-", format!("={}", coracle_converter::Digest::of(&content).hex().get(..16).unwrap())),
        }
    } else if kind.is_symlink() {
        ("l", format!("->{}", fs::read_link(at).unwrap().as_os_str().as_bytes().escape_ascii()))
    } else if kind.is_dir() {
        ("d", String::new())
    } else if kind.is_fifo() {
        ("p", String::new())
    } else {
        (if kind.is_block_device() { "b" } else { "c" }, format!(" rdev: {}", meta.rdev()))
    };
    let same = match seen.get(&meta.ino()).filter(|_| !meta.is_dir()) {
        Some(first) => format!(" @{first}"),
        None => String::new(),
    };
    seen.entry(meta.ino()).or_insert_with(|| name.clone());
    let mode = if kind.is_symlink() { 0o777 } else { meta.mode() & 0o7777 };
    let (uid, gid, nlink) = (meta.uid(), meta.gid(), meta.nlink());
    lines.push(format!("{letter} {mode:o} {uid}:{gid} {} {nlink} {name} {detail}{}{same}", meta.mtime(), xattrs(at)));
    if meta.is_dir() {
        let mut entries = fs::read_dir(at).unwrap().map(|entry| entry.unwrap().path()).collect::<Vec<_>>();
        entries.sort();
        entries.iter().for_each(|entry| walk(root, entry, seen, lines));
    }
}

fn xattrs(path: &Path) -> String {
    let mut names = vec![0; 65_536];
    let Ok(length) = rustix::fs::llistxattr(path, &mut names[..]) else { return String::new() };
    let mut names = names[..length].split(|&byte| byte == 0).filter(|name| !name.is_empty()).collect::<Vec<_>>();
    names.sort();
    let value = |name: &[u8]| {
        let mut value = vec![0; 65_536];
        let length = rustix::fs::lgetxattr(path, OsStr::from_bytes(name), &mut value[..]).unwrap();
        value[..length].escape_ascii().to_string()
    };
    names.iter().map(|name| format!(" {}={}", name.escape_ascii(), value(name))).collect()
}

/// Lines of either list without what cannot be compared, sorted.
pub fn comparable(lines: Vec<String>) -> Vec<String> {
    let mut lines = lines
        .into_iter()
        .filter(|line| !ADDED.iter().any(|added| line.split(' ').nth(5) == Some(added)))
        .map(|line| {
            let fields = line.splitn(7, ' ').collect::<Vec<_>>();
            let (time, links) = if fields[0] == "d" { ("-", "-") } else { (fields[3], fields[4]) };
            format!("{} {} {} {time} {links} {} {}", fields[0], fields[1], fields[2], fields[5], fields[6])
        })
        .filter(|line| line.split(' ').nth(5) != Some("/"))
        .collect::<Vec<_>>();
    lines.sort();
    lines
}
