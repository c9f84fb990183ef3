//! What a launch does with mounts besides that of the image.

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::unistd::{chdir, pivot_root};

use super::Check;
use super::checks::{in_words, split_remedy, trial};
use super::namespaces::enter_mount;
use crate::host::mount_point;

pub(super) fn check() -> Vec<Check> {
    let Some(at) = mount_point() else {
        return vec![Check::broken("mount", "there is no directory to mount over", "make /tmp or /mnt")];
    };
    let tmpfs = || {
        enter_mount()?;
        mount(Some("coracle"), &at, Some("tmpfs"), MsFlags::MS_NOSUID, None::<&str>)
            .map_err(|error| format!("cannot mount a tmpfs over {}: {error}", at.display()))
    };
    let pivot = || {
        tmpfs()?;
        chdir(&at).map_err(in_words)?;
        // Both at the same place: the old root lies over the new one until it is detached.
        pivot_root(".", ".").map_err(|error| format!("cannot change the root: {error}"))?;
        umount2(".", MntFlags::MNT_DETACH).map_err(|error| format!("cannot detach the old root: {error}"))
    };
    let bind = || {
        enter_mount()?;
        mount(Some("/dev"), &at, None::<&str>, MsFlags::MS_BIND | MsFlags::MS_REC, None::<&str>)
            .map_err(|error| format!("cannot bind /dev on {}: {error}", at.display()))
    };
    vec![
        line("mount", trial(tmpfs), "a tmpfs can be mounted"),
        line("bind", trial(bind), "directories can be bound"),
        line("pivot_root", trial(pivot), "works in a user namespace"),
    ]
}

fn line(name: &'static str, outcome: Result<(), String>, works: &str) -> Check {
    match outcome {
        Ok(()) => Check::ok(name, works),
        Err(error) => {
            let (error, remedy) = split_remedy(&error);
            Check::broken(name, error, remedy)
        }
    }
}
