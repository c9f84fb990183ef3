//! Independent readers of an image, against our own.

use crate::fixtures::{KernelMount, temp_dir};
use crate::process::run;
use crate::tree::{Expected, Tree, assert_same};
use std::path::Path;
use std::process::Command;

/// Compares the image as the kernel, `unsquashfs` and libsquashfs see it with how we see it.
///
/// # Panics
/// When one of them sees another tree, or cannot be run.
pub fn agree(what: &str, image: &Path, seen: &Tree) {
    if let Some(mount) = KernelMount::new(image) {
        assert_same(&format!("{what}: kernel"), &Tree::of_directory(mount.path()), seen, &[]);
    }
    let dir = temp_dir();
    let unpacked = dir.path().join("unpacked");
    run(Command::new("unsquashfs").args(["-no-progress", "-quiet", "-dest"]).arg(&unpacked).arg(image)).success();
    assert_same(&format!("{what}: unsquashfs"), &Tree::of_directory(&unpacked), seen, &[]);
    let with_xattrs = seen.paths_with_xattrs();
    let theirs = Tree::of_squashfs_ng(image, &|path| with_xattrs.contains(path));
    let not_utf8 = Expected {
        reason: "the binding to libsquashfs has no way to a name that is not UTF-8",
        covers: |path, what| what == "extra" && std::str::from_utf8(path).is_err(),
    };
    assert_same(&format!("{what}: libsquashfs"), &theirs, seen, &[not_utf8]);
}
