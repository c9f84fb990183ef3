//! Test images and what is derived from them, made once and shared by all test processes.

use crate::{needs, process};
use rustix::fs::{FlockOperation, flock};
use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// A directory of one test, readable by every user, removed at its end.
///
/// # Panics
/// When it cannot be made.
#[must_use]
pub fn temp_dir() -> tempfile::TempDir {
    let dir = tempfile::Builder::new().prefix("coracle-test-").tempdir().unwrap();
    fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).unwrap();
    dir
}

/// The directory of what test processes share. Others may read it, only the caller may write it.
///
/// # Panics
/// When it belongs to someone else.
#[must_use]
pub fn shared_dir() -> PathBuf {
    let uid = rustix::process::geteuid().as_raw();
    let dir = std::env::temp_dir().join(format!("coracle-tests-{uid}"));
    let _ = fs::create_dir(&dir);
    let meta = fs::symlink_metadata(&dir).unwrap();
    assert!(meta.is_dir() && meta.uid() == uid, "{} belongs to someone else", dir.display());
    fs::set_permissions(&dir, PermissionsExt::from_mode(0o755)).unwrap();
    dir
}

/// Held while one process makes what others wait for.
///
/// # Panics
/// When the lock file cannot be made.
#[must_use]
pub fn lock(name: &str) -> File {
    let file = File::create(shared_dir().join(format!("{name}.lock"))).unwrap();
    flock(&file, FlockOperation::LockExclusive).unwrap();
    file
}

/// Makes `shared_dir()/NAME-KEY` unless it exists, and removes what older keys left.
pub(crate) fn shared(name: &str, key: &str, make: impl FnOnce(&Path)) -> PathBuf {
    let dir = shared_dir();
    let place = dir.join(format!("{name}-{key}"));
    let _lock = lock(name);
    if place.exists() {
        return place;
    }
    for old in fs::read_dir(&dir).unwrap().flatten() {
        let file_name = old.file_name();
        let old_key = file_name.to_string_lossy().into_owned();
        if old_key.strip_prefix(name).is_some_and(|rest| rest.starts_with('-') && rest.len() == key.len() + 1) {
            let _ = fs::remove_dir_all(old.path()).or_else(|_| fs::remove_file(old.path()));
        }
    }
    let temporary = dir.join(format!("{name}.making"));
    let _ = fs::remove_dir_all(&temporary).or_else(|_| fs::remove_file(&temporary));
    make(&temporary);
    fs::rename(&temporary, &place).unwrap();
    place
}

pub(crate) fn key_of(parts: &[&[u8]]) -> String {
    crate::tree::sha256_hex(&parts.concat())[..16].to_owned()
}

pub(crate) fn script(name: &str) -> PathBuf {
    process::workspace().join("scripts").join(name)
}

/// The standard test image, as an OCI layout with the tags `latest` and `gzip`.
///
/// # Errors
/// When it is missing and cannot be made.
pub fn standard_image() -> Result<PathBuf, String> {
    static IMAGE: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let make = || {
        let output = Command::new(script("standard-image.sh")).output().map_err(|error| error.to_string())?;
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).into_owned());
        }
        Ok(PathBuf::from(String::from_utf8_lossy(&output.stdout).trim_end()))
    };
    IMAGE.get_or_init(make).clone()
}

/// A small image with a busybox and every corner case: an OCI layout with the tags `latest` and `gzip`.
///
/// # Panics
/// When it cannot be made.
#[must_use]
pub fn corner_image() -> PathBuf {
    let busybox = needs::find_tool("busybox").expect("busybox is missing; run scripts/setup.sh test");
    let key = key_of(&[&fs::read(script("image.py")).unwrap(), &fs::read(&busybox).unwrap()]);
    shared("corner-image", &key, |place| {
        let mut command = Command::new(script("image.py"));
        process::run(command.args(["corner", "--busybox"]).arg(&busybox).arg(place)).success();
    })
}

/// The small image converted by the program under test.
///
/// # Panics
/// When there is none or it fails.
#[must_use]
pub fn corner_squashfs() -> PathBuf {
    converted("corner-squashfs", &corner_image())
}

/// The standard image converted by the program under test, at its default settings.
///
/// # Panics
/// When there is none or it fails.
#[must_use]
pub fn standard_squashfs() -> PathBuf {
    converted("standard-squashfs", &standard_image().unwrap())
}

fn converted(name: &str, layout: &Path) -> PathBuf {
    let binary = process::coracle_binary().unwrap();
    let key = key_of(&[&fs::read(&binary).unwrap(), &fs::read(layout.join("index.json")).unwrap()]);
    shared(name, &key, |place| {
        let source = format!("oci:{}:latest", layout.display());
        process::run(process::coracle(["build"]).arg(place).arg(source)).success();
        // Launches are made by another user.
        fs::set_permissions(place, PermissionsExt::from_mode(0o644)).unwrap();
    })
}

/// `umoci unpack` of a layout's tag `gzip`; the root file system's directory.
///
/// # Panics
/// When it fails.
#[must_use]
pub fn unpacked(name: &str, layout: &Path) -> PathBuf {
    let key = key_of(&[&fs::read(layout.join("index.json")).unwrap()]);
    let bundle = shared(&format!("{name}-bundle"), &key, |place| {
        let image = format!("{}:gzip", layout.display());
        process::run(Command::new("umoci").args(["unpack", "--image", &image]).arg(place)).success();
    });
    bundle.join("rootfs")
}

/// The whole of a layout's tag as one archive file.
///
/// # Panics
/// When it fails.
pub fn export(format: &str, layout: &Path, tag: &str, file: &Path) {
    let mut command = Command::new(script("image.py"));
    process::run(command.args(["export", format]).arg(layout).arg(tag).arg(file)).success();
}

/// A plain tar of a directory tree.
///
/// # Panics
/// When it fails.
pub fn flatten(root: &Path, file: &Path) {
    process::run(Command::new(script("image.py")).arg("flatten").arg(root).arg(file)).success();
}

/// A squashfs image mounted by the kernel, until dropped.
#[derive(Debug)]
pub struct KernelMount {
    dir: tempfile::TempDir,
}

impl KernelMount {
    /// Mounts read-only through a loop device. `None` when this kernel lacks the image's compressor.
    ///
    /// # Panics
    /// When the kernel refuses the image for any other reason.
    #[must_use]
    pub fn new(image: &Path) -> Option<Self> {
        let dir = temp_dir();
        let mut command = Command::new("mount");
        let done = process::run(command.args(["-t", "squashfs", "-o", "loop,ro"]).arg(image).arg(dir.path()));
        if done.status.success() {
            return Some(Self { dir });
        }
        let config =
            Command::new("zcat").arg("/proc/config.gz").output().map(|output| output.stdout).unwrap_or_default();
        let lacking = String::from_utf8_lossy(&config).lines().any(|line| {
            line.strip_prefix("# CONFIG_SQUASHFS_")
                .and_then(|rest| rest.strip_suffix(" is not set"))
                .is_some_and(|codec| ["ZLIB", "LZ4", "LZO", "XZ", "ZSTD"].contains(&codec))
        });
        assert!(lacking, "the kernel does not mount {}: {}", image.display(), done.stderr);
        eprintln!("not compared through the kernel, which lacks a compressor: {}", image.display());
        None
    }

    /// Where it is mounted.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.dir.path()
    }
}

impl Drop for KernelMount {
    fn drop(&mut self) {
        let done = process::run(Command::new("umount").arg("-l").arg(self.dir.path()));
        // Removing the directory would otherwise walk into a mounted image.
        assert!(done.status.success() || std::thread::panicking(), "unmount: {}", done.stderr);
    }
}
