//! fuse-overlayfs, which does what the kernel's overlayfs does where users may not mount that.
//!
//! It is a program of the host's, and runs in the host's tree, in a process that is nobody's child and in a mount namespace of
//! its own: in the container's it would keep its own mount alive forever. The mount is made here, on a descriptor that the
//! program inherits, so it needs neither `fusermount3` nor a right to mount. It ends with the mount.

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use rustix::fs::{Mode, OFlags, fstatvfs, mkdirat, openat};
use rustix::io::{FdFlags, fcntl_setfd};

use super::writable::{Kept, Writable};
use super::{DIRECTORY, Engine, Error, LaunchError, Parts, ROOT, magic_link};
use crate::engine::namespace;
use crate::fuse;
use crate::host::programs;
use crate::sys::{descriptors, privileges, process};

const PROGRAM: &str = "fuse-overlayfs";
/// Where it is looked for besides the caller's `PATH`.
const PLACES: [&str; 3] = ["/usr/local/bin", "/usr/bin", "/bin"];
/// Says that the process is where it should be.
const READY: u8 = b'r';
/// Says that the mount is there.
const MOUNTED: u8 = b'm';
/// Longest report, in bytes.
const REPORT_MAX: u64 = 2048;
/// The writable directory among the helpers.
const KEPT: &str = "kept";

/// The program, on the host.
pub(crate) fn find() -> Option<PathBuf> {
    programs::find(PROGRAM, &PLACES)
}

impl Engine<'_> {
    pub(super) fn by_program(&mut self, program: &Path, parts: &Parts, at: &Path) -> Result<(), LaunchError> {
        let failed = |what| move |cause: io::Error| Error::Program { what, cause };
        let options = show_parts(parts, at)?;
        let fuse = self.open_host_fuse()?;
        let host = self.host.as_ref().ok_or(LaunchError::OutOfOrder("start fuse-overlayfs"))?;
        let lock = parts.upper.as_ref().and_then(|upper| upper.kept.as_ref()).map(|kept| kept.lock.as_fd());
        let (mut report, go) = start(program, host.as_fd(), &options, fuse.as_fd(), lock)?;
        // From now on its mount namespace is a copy that lacks what is mounted next.
        let mut word = [0];
        if report.read(&mut word).map_err(failed("wait for it"))? == 0 || word != [READY] {
            let mut text = String::from_utf8_lossy(&word).into_owned();
            let _ = report.take(REPORT_MAX).read_to_string(&mut text);
            return Err(Error::ProgramFailed { report: text }.into());
        }
        let root = openat(&parts.memory, ROOT, DIRECTORY, Mode::empty()).map_err(io::Error::from);
        let root = root.map_err(failed("find its mount point"))?;
        let ids = (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw());
        let data = fuse::mount_data(fuse.as_raw_fd(), ids.0, ids.1);
        mount(
            Some(PROGRAM),
            magic_link(&root).as_str(),
            Some("fuse.fuse-overlayfs"),
            parts.flags(),
            Some(data.as_str()),
        )
        .map_err(|cause| failed("mount it")(cause.into()))?;
        // A copy in this process would keep requests waiting forever if the program died.
        drop(fuse);
        self.overlay_by_program = true;
        // It is not to read what is not mounted yet. If it is gone, that is heard next.
        let _ = (&go).write_all(&[MOUNTED]);
        answers(&parts.memory, report).map_err(LaunchError::from)
    }

    /// `/dev/fuse` of the host, opened in the container's user namespace.
    fn open_host_fuse(&self) -> Result<OwnedFd, LaunchError> {
        self.on_host(namespace::open_fuse)?
    }
}

/// Waits until the program answers; says why if it does not.
fn answers(memory: &OwnedFd, report: File) -> Result<(), Error> {
    let root = openat(memory, ROOT, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
    let outcome = root.and_then(|root| fstatvfs(&root).map(drop));
    outcome.map_err(|cause| {
        // It has ended, so this does too.
        let mut text = String::new();
        let _ = report.take(REPORT_MAX).read_to_string(&mut text);
        let text = text.trim().replace('\n', ": ");
        Error::ProgramFailed { report: if text.is_empty() { io::Error::from(cause).to_string() } else { text } }
    })
}

/// Gives all parts names on the helpers' file system, which is mounted at `at` of the host's tree: the program looks up
/// names more than once. Returns its options.
fn show_parts(parts: &Parts, at: &Path) -> Result<String, Error> {
    let failed = |cause: io::Error| Error::Program { what: "show it the layers", cause };
    let show = |source: &OwnedFd, name: &str| -> io::Result<String> {
        mkdirat(&parts.memory, name, Mode::RWXU)?;
        let place = openat(&parts.memory, name, DIRECTORY, Mode::empty())?;
        let (from, to) = (magic_link(source), magic_link(&place));
        mount(Some(from.as_str()), to.as_str(), None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
        Ok(at.join(name).display().to_string())
    };
    let lower: io::Result<Vec<String>> =
        parts.lower.iter().enumerate().rev().map(|(index, layer)| show(layer, &format!("lower-{index}"))).collect();
    let mut options = format!("lowerdir={}", lower.map_err(failed)?.join(":"));
    match &parts.upper {
        None => {}
        Some(Writable { kept: None, .. }) => {
            let (upper, work) = (at.join("upper"), at.join("work"));
            options.push_str(&format!(",upperdir={},workdir={}", upper.display(), work.display()));
        }
        // Both below one mount, or nothing could be renamed from one to the other.
        Some(Writable { kept: Some(Kept { directory, .. }), .. }) => {
            let kept = show(directory, KEPT).map_err(failed)?;
            options.push_str(&format!(",upperdir={kept}/upper,workdir={kept}/work"));
        }
    }
    Ok(options)
}

/// Starts the program, which answers for `fuse` until the mount is gone. What it says can be read from what is returned first; it goes
/// on when it is told to by the second.
fn start(
    program: &Path,
    host: BorrowedFd<'_>,
    options: &str,
    fuse: BorrowedFd<'_>,
    lock: Option<BorrowedFd<'_>>,
) -> Result<(File, io::PipeWriter), Error> {
    let failed = |cause: io::Error| Error::Program { what: "start it", cause };
    let word = |word: &[u8]| CString::new(word).map_err(|cause| failed(io::Error::other(cause)));
    let mount_point = format!("/dev/fd/{}", fuse.as_raw_fd());
    let path = word(program.as_os_str().as_bytes())?;
    let arguments = [PROGRAM, "-f", "-o", options, &mount_point].map(|argument| word(argument.as_bytes()));
    let arguments = arguments.into_iter().collect::<Result<Vec<_>, _>>()?;
    let (read, write) = io::pipe().map_err(failed)?;
    let (told, go) = io::pipe().map_err(failed)?;
    let body = || {
        let run = || -> io::Result<()> {
            settle(host, &write, fuse, &[Some(told.as_fd()), lock])?;
            (&write).write_all(&[READY])?;
            // The launcher's end is closed here, so the launcher's end ends this.
            (&told).read_exact(&mut [0])?;
            Err(nix::unistd::execve(&path, &arguments, &[c"PATH=/usr/bin:/bin"]).unwrap_err().into())
        };
        if let Err(error) = run() {
            let _ = (&write).write_all(format!("cannot start {PROGRAM}: {error}").as_bytes());
        }
    };
    process::spawn_detached(body).map_err(failed)?;
    Ok((File::from(OwnedFd::from(read)), go))
}

/// Leaves behind what the process has from the launcher, as the image's own server does, but in the host's tree.
fn settle(
    host: BorrowedFd<'_>,
    report: &io::PipeWriter,
    fuse: BorrowedFd<'_>,
    [told, lock]: &[Option<BorrowedFd<'_>>; 2],
) -> io::Result<()> {
    // Its life is the mount's, whatever signals schedulers and terminals send; what is blocked stays so in the program.
    let mut signals = SigSet::all();
    signals.remove(Signal::SIGSYS);
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&signals), None)?;
    nix::unistd::setsid()?;
    nix::unistd::fchdir(host)?;
    nix::unistd::chroot(".")?;
    // Root and working directory become those of the copy.
    unshare(CloneFlags::CLONE_NEWNS)?;
    let null = OwnedFd::from(File::options().read(true).write(true).open("/dev/null")?);
    process::redirect_standard(&null)?;
    drop(null);
    nix::unistd::dup2_stderr(report)?;
    let keep: Vec<BorrowedFd<'_>> = [fuse, report.as_fd()].into_iter().chain(*told).chain(*lock).collect();
    descriptors::close_all_but(&keep.iter().map(AsRawFd::as_raw_fd).collect::<Vec<_>>())?;
    for inherited in [fuse].into_iter().chain(*lock) {
        fcntl_setfd(inherited, FdFlags::empty())?;
    }
    privileges::keep_all()?;
    Ok(nix::sys::prctl::set_no_new_privs()?)
}
