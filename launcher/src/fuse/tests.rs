//! Tests against images made by mksquashfs: without a mount here, over a real one in [`mount`].

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use coracle_squashfs::reader::{Image, OpenOptions};

use super::*;

mod compare;
mod live;
mod mount;

/// Whether a test that needs `tool` can go on. A continuous integration run must not skip.
pub(super) fn have(tool: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).any(|directory| directory.join(tool).is_file());
    if !found {
        assert!(std::env::var_os("CI").is_none(), "{tool} is not installed");
        eprintln!("skipped: {tool} is not installed");
    }
    found
}

/// An image of `source` beside it, by mksquashfs.
pub(super) fn make_image(source: &Path, arguments: &[&str]) -> PathBuf {
    let image = source.with_extension("sqfs");
    let status = Command::new("mksquashfs")
        .args([source, &image])
        .args(["-noappend", "-no-progress", "-quiet"])
        .args(arguments)
        .stdout(Stdio::null())
        .status()
        .unwrap();
    assert!(status.success());
    image
}

pub(super) fn open_image(path: &Path) -> Image<File> {
    Image::open(File::open(path).unwrap(), OpenOptions::default()).unwrap()
}

pub(super) fn options(synthetic: Synthetic) -> ServeOptions {
    ServeOptions { synthetic, ..ServeOptions::new(1234, 5678) }
}

/// A tree made of paths that end in a slash (directories), hold an arrow (links) or neither (files of that content).
pub(super) fn make_tree(at: &Path, entries: &[&str]) {
    fs::create_dir_all(at).unwrap();
    for entry in entries {
        if let Some((link, target)) = entry.split_once(" -> ") {
            std::os::unix::fs::symlink(target, at.join(link)).unwrap();
        } else if entry.ends_with('/') {
            fs::create_dir_all(at.join(entry)).unwrap();
        } else {
            fs::write(at.join(entry), entry).unwrap();
        }
    }
}

#[test]
fn mount_data_names_all_that_the_kernel_needs() {
    assert_eq!(
        mount_data(7, 1000, 100),
        "fd=7,rootmode=40000,user_id=1000,group_id=100,default_permissions,allow_other,max_read=1048576"
    );
}

#[test]
fn errors_name_the_path_and_what_is_in_the_way() {
    let error = Error::NotADirectory { path: "/data/in".into(), component: "/data".into() };
    assert_eq!(
        error.to_string(),
        "cannot add /data/in to the image: /data exists there and is not a directory; choose another path"
    );
}
