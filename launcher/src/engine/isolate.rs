//! Namespaces of the container's own, and what has to be mounted or set in them.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use rustix::fs::{Mode, OFlags, fchmod, fstat, openat};

use super::fork::Around;
use super::{Engine, Error, attributes, magic_link};
use crate::options::Namespaces;
use crate::plan::{Isolation, SYSFS};
use crate::sys::network;

/// Of a generated file; the caller's mask of permissions is not meant for it.
const FILE_MODE: u32 = 0o644;
/// What `/proc` calls the namespaces that an instance may have of its own: the first gives the right to enter the others,
/// and the last takes the host's `/proc` out of sight.
const ENTERED: [&str; 6] = ["user", "ipc", "uts", "net", "pid", "mnt"];

impl Engine<'_> {
    pub(super) fn isolate(&mut self, step: &Isolation) -> Result<(), Error> {
        match step {
            // After the user namespace, which owns them then, and gives the right to what follows.
            Isolation::Unshare(namespaces) => enter(*namespaces),
            Isolation::Hostname(name) => {
                nix::unistd::sethostname(name).map_err(|cause| Error::Hostname { cause: cause.into() })
            }
            Isolation::Loopback => network::raise_loopback().map_err(|cause| Error::Loopback { cause }),
            Isolation::Join { pid } => self.join_instance(*pid),
            // Before /proc is mounted, which shows the processes of whoever mounts it, and while the host's /proc can be seen in
            // whole: else the kernel lets no other be mounted (mount_too_revealing).
            Isolation::Fork { new } => self.fork(*new),
            Isolation::File { destination, content } => self.mount_file(destination, content),
            Isolation::Sysfs { destination, flags } => self.mount_sysfs(destination, *flags),
            // After all descriptors and capabilities are gone, since it stays as long as the program.
            Isolation::Init => self.stay_and_go_on(),
            Isolation::Stay => self.stay(),
        }
    }

    /// Enters what an instance has of its own. The directory of `/proc` that is looked into is of the process that the launch
    /// has found to be the right one, and of no other: the kernel ties it to the process, not to its number.
    fn join_instance(&mut self, pid: i32) -> Result<(), Error> {
        let gone = |cause: std::io::Error| Error::Instance { pid, cause };
        let process = self.ground.instance.take().ok_or(Error::OutOfOrder("join the instance"))?;
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let at = |directory: &OwnedFd, name: &str| openat(directory, name, flags, Mode::empty());
        let mut entered = Vec::new();
        for kind in ENTERED {
            let theirs = at(&process, &format!("ns/{kind}")).map_err(|cause| gone(cause.into()))?;
            let own = File::open(format!("/proc/self/ns/{kind}")).map_err(gone)?;
            let inode = |file: &OwnedFd| fstat(file).map(|status| status.st_ino);
            // Entering the one that one is in is refused, or needs rights that nobody has.
            if inode(&theirs) != inode(&own.into()) {
                entered.push(theirs);
            }
        }
        // By these names there are the container's afterwards.
        self.around = Some(Around::look());
        for namespace in entered {
            setns(&namespace, CloneFlags::empty()).map_err(|cause| gone(cause.into()))?;
        }
        Ok(())
    }

    /// On a file system in memory that is at the directory for a moment, and goes on as long as the file is shown.
    fn mount_file(&mut self, destination: &Path, content: &[u8]) -> Result<(), Error> {
        let failed = |cause: std::io::Error| Error::File { path: destination.to_path_buf(), cause };
        let refused = |cause: nix::Error| failed(cause.into());
        let (Some(parent), Some(name)) = (destination.parent(), destination.file_name()) else {
            return Err(failed(std::io::ErrorKind::InvalidInput.into()));
        };
        // Held, because the directory covers it from now on.
        let target = self.target(destination)?;
        let directory = self.target(parent)?;
        let (flags, none) = (MsFlags::MS_NOSUID | MsFlags::MS_NODEV, None::<&str>);
        mount(Some("tmpfs"), magic_link(&directory).as_str(), Some("tmpfs"), flags, Some("mode=755,size=1m"))
            .map_err(refused)?;
        let memory = self.target(parent)?;
        let source = write(&memory, name, content).map_err(failed)?;
        mount(Some(magic_link(&source).as_str()), magic_link(&target).as_str(), none, MsFlags::MS_BIND, none)
            .map_err(refused)?;
        umount2(magic_link(&memory).as_str(), MntFlags::MNT_DETACH).map_err(refused)?;
        let mounted = self.target(destination)?;
        attributes::restrict(&mounted, MsFlags::MS_RDONLY | flags, Path::new(".")).map_err(failed)
    }

    fn mount_sysfs(&mut self, destination: &Path, flags: MsFlags) -> Result<(), Error> {
        match self.mount("sysfs", destination, flags, "") {
            // Where parts of the host's are hidden.
            Err(Error::Mount { cause, .. }) if cause.raw_os_error() == Some(libc::EPERM) => {
                self.bind(Path::new(SYSFS), destination, true, MsFlags::empty())
            }
            result => result,
        }
    }
}

fn enter(namespaces: Namespaces) -> Result<(), Error> {
    let kinds = [
        (namespaces.ipc, CloneFlags::CLONE_NEWIPC, "ipc"),
        (namespaces.uts, CloneFlags::CLONE_NEWUTS, "uts"),
        (namespaces.net, CloneFlags::CLONE_NEWNET, "net"),
    ];
    // One by one, so that the one that is refused can be named.
    for (_, flag, kind) in kinds.into_iter().filter(|(asked, ..)| *asked) {
        unshare(flag).map_err(|cause| Error::Namespace { kind, cause: cause.into() })?;
    }
    Ok(())
}

/// A new file, held by its path.
fn write(directory: &OwnedFd, name: &OsStr, content: &[u8]) -> std::io::Result<OwnedFd> {
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
    let mode = Mode::from_raw_mode(FILE_MODE);
    let mut file = File::from(openat(directory, name, flags, mode)?);
    file.write_all(content)?;
    fchmod(&file, mode)?;
    Ok(openat(directory, PathBuf::from(name), OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?)
}
