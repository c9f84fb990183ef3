//! The file systems that images and their layers need.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use nix::mount::{MsFlags, mount};

use super::Check;
use super::checks::{in_words, split_remedy, trial};
use super::namespaces::{enter, enter_mount, ids};
use crate::engine::{fuse_overlayfs, namespace};
use crate::host::mount_point;

/// How an outer container is given the device.
const OUTER: &str = "in a container: run the outer one with --device /dev/fuse";

pub(super) fn device() -> Vec<Check> {
    let name = "/dev/fuse";
    let check = match File::options().read(true).write(true).open(name) {
        Ok(_) => Check::ok(name, "can be opened"),
        Err(error) if error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ENODEV) => {
            let remedy = format!(
                "as root: modprobe fuse, and in /etc/modules-load.d to keep it; {OUTER}; images that are directories run without"
            );
            Check::broken(name, error.to_string(), remedy)
        }
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => {
            let remedy = format!("a control group for devices forbids it; {OUTER}, a bind of the device does not do");
            Check::broken(name, error.to_string(), remedy)
        }
        Err(error) => {
            let mode = fs::metadata(name)
                .map(|metadata| format!("{:o}, owner {}", metadata.permissions().mode() & 0o7777, metadata.uid()));
            let found = format!("{error}; its mode is {}", mode.unwrap_or_default());
            let remedy = "as root: chmod 0666 /dev/fuse; udev's rule for it keeps that on most systems";
            Check::broken(name, found, remedy)
        }
    };
    vec![check]
}

/// The steps of a launch up to the mount; nobody answers, and the mount goes with the child.
pub(super) fn fuse() -> Vec<Check> {
    let name = "FUSE mount";
    let Some(at) = mount_point() else {
        return vec![Check::broken(name, "there is no directory to mount over", "make /tmp or /mnt")];
    };
    let attempt = trial(|| {
        enter()?;
        let fuse = namespace::open_fuse().map_err(in_words)?;
        namespace::enter_mount().map_err(in_words)?;
        namespace::mount_fuse(fuse.as_fd(), &at, ids()).map_err(in_words)
    });
    vec![match attempt {
        Ok(()) => Check::ok(name, "works in a user namespace"),
        Err(error) => {
            let (error, remedy) = split_remedy(&error);
            Check::broken(name, error, remedy)
        }
    }]
}

/// For writable layers: a new file system with three directories, put together, and written to.
pub(super) fn overlay() -> Vec<Check> {
    let name = "overlay";
    let Some(at) = mount_point() else { return Vec::new() };
    let try_with = |options: &'static str| {
        let at = at.clone();
        trial(move || {
            enter_mount()?;
            mount(Some("coracle"), &at, Some("tmpfs"), MsFlags::MS_NOSUID, None::<&str>).map_err(in_words)?;
            std::env::set_current_dir(&at).map_err(in_words)?;
            for directory in ["lower", "upper", "work", "all"] {
                fs::create_dir(directory).map_err(in_words)?;
            }
            fs::write("lower/file", "old").map_err(in_words)?;
            let data = format!("lowerdir=lower,upperdir=upper,workdir=work{options}");
            mount(Some("coracle"), "all", Some("overlay"), MsFlags::empty(), Some(data.as_str()))
                .map_err(|error| format!("cannot mount an overlay: {error}"))?;
            fs::write("all/file", "new").map_err(|error| format!("cannot write to an overlay: {error}"))?;
            fs::remove_file("all/file").map_err(|error| format!("cannot remove from an overlay: {error}"))
        })
    };
    let helper = fuse_overlayfs::find();
    vec![match try_with(",userxattr").or_else(|_| try_with("")) {
        Ok(()) => Check::ok(name, "works in a user namespace"),
        Err(error) => {
            let helper = match helper {
                Some(path) => format!("{} is there", path.display()),
                None => "fuse-overlayfs is not on PATH either".to_owned(),
            };
            let found = format!("{error}; {helper}: writable layers over an image need one of them");
            Check::degraded(
                name,
                found,
                "Linux 5.11 or later (or RHEL 8.5) has it in user namespaces; modprobe overlay",
            )
        }
    }]
}
