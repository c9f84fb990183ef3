//! Carries out a [`Plan`]: namespaces, mounts, privileges, and at last the program itself.
//!
//! Runs in a process with one thread, which becomes the program; there is no supervisor. What must be decided
//! has been decided: each step is taken or the launch ends.

use std::collections::HashMap;
use std::convert::Infallible;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};

use coracle_squashfs::reader::Image;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use rustix::fs::{Mode, OFlags, open};
use rustix::io::Errno;

use crate::fuse::{self, ServeOptions, Synthetic};
use crate::image::ImageFile;
use crate::plan::{Plan, Step};
use crate::sys::{attributes, descriptors, privileges, process, resolve};

mod error;
mod execute;
mod make;
pub(crate) mod namespace;
mod server;

pub use error::{Error, Reason};

/// Carries out `plan` on `image` and becomes the program. `warn` is told, in a sentence, what could not be had.
///
/// # Errors
/// Why the program is not running. The process is then somewhere between two worlds: report and exit.
pub fn launch(plan: &Plan, image: ImageFile, warn: &mut dyn FnMut(String)) -> Result<Infallible, Error> {
    let descriptor = image.descriptor();
    let mut engine = Engine {
        image: Some(image.image),
        descriptor,
        ids: (0, 0),
        fuse: None,
        server: None,
        sources: HashMap::new(),
        proc: None,
        host: None,
        root: None,
        program: program(plan),
        warn,
    };
    for step in &plan.steps {
        engine.take(step)?;
    }
    Err(Error::NothingToExecute)
}

/// The program of a plan, when it is named by an absolute path.
fn program(plan: &Plan) -> Option<PathBuf> {
    plan.steps.iter().find_map(|step| match step {
        Step::Execute { args, .. } => args.first().map(PathBuf::from).filter(|path| path.is_absolute()),
        _ => None,
    })
}

/// What one step leaves for another.
struct Engine<'a> {
    image: Option<Image<File>>,
    /// Of the image file.
    descriptor: RawFd,
    ids: (u32, u32),
    fuse: Option<OwnedFd>,
    server: Option<server::Handle>,
    sources: HashMap<PathBuf, Result<OwnedFd, Errno>>,
    /// `/proc` of the host, by which `mount(2)` is given descriptors.
    proc: Option<OwnedFd>,
    host: Option<OwnedFd>,
    root: Option<OwnedFd>,
    /// What will be started, if that is plain before anything is mounted.
    program: Option<PathBuf>,
    warn: &'a mut dyn FnMut(String),
}

impl Engine<'_> {
    /// Takes one step. The arms stand in the order in which a plan has them.
    fn take(&mut self, step: &Step) -> Result<(), Error> {
        match step {
            // First, because it is what gives an ordinary user the right to all that follows, within it alone. Ids
            // can be mapped only by writing to /proc before anything else changes the process's credentials.
            Step::UnshareUser { uid, gid } => {
                self.ids = (*uid, *gid);
                namespace::enter_user(*uid, *gid)
            }
            // After the user namespace: the kernel lets a file system be mounted only in the user namespace in which its
            // /dev/fuse was opened (fuse_fill_super compares f_cred->user_ns).
            Step::OpenFuse => {
                self.fuse = Some(namespace::open_fuse()?);
                Ok(())
            }
            // Before the mount namespace: a server inside it would keep it, and with it the mount, alive forever.
            Step::StartServer { directories, files } => {
                let synthetic = Synthetic { directories: directories.clone(), files: files.clone() };
                self.start_server(synthetic)
            }
            // The user namespace owns it, so nothing mounted here ever reaches the host.
            Step::UnshareMount => namespace::enter_mount(),
            // After the mount namespace, because a bind takes its source only from the current one; before the
            // image, because that covers a directory which may hold sources.
            Step::OpenSources(sources) => self.open_sources(sources),
            Step::MountImage { at } => self.mount_image(at),
            // Before the binds: a recursive bind of /tmp or / would take the image's mount along with it as long as
            // that hangs below them.
            Step::PivotRoot => self.pivot(),
            Step::MakeDirectory(path) => make::directory(self.root()?, path),
            Step::MakeFile(path) => make::file(self.root()?, path),
            Step::MakeLink { path, target } => make::link(self.root()?, path, target),
            Step::Bind { source, destination, recursive, restrict, optional } => {
                match self.bind(source, destination, *recursive, *restrict) {
                    Err(error) if *optional => {
                        (self.warn)(format!("{error}: going on without it"));
                        Ok(())
                    }
                    result => result,
                }
            }
            Step::Mount { kind, destination, flags, data } => self.mount(kind, destination, *flags, data),
            // With everything in place, and before the program can act, the host's tree goes out of reach.
            Step::DetachHost => self.detach_host(),
            // After the pivot, by path and with the caller's own rights.
            Step::ChangeDirectory { path, fallback } => self.change_directory(path, fallback.as_deref()),
            // Set-user-id programs and file capabilities could otherwise regain what is given up next. Cannot be
            // undone, and is inherited.
            Step::NoNewPrivileges => nix::sys::prctl::set_no_new_privs()
                .map_err(|cause| Error::Privileges { what: "no_new_privs", cause: cause.into() }),
            // After the last mount(2), which needed them.
            Step::DropCapabilities => privileges::drop_all()
                .map_err(|cause| Error::Privileges { what: "empty capability sets", cause: cause.into() }),
            // Last, since the steps before work with descriptors; those of the host's tree would lead out of the container.
            Step::CloseDescriptors => self.close(),
            Step::Execute { args, env } => Err(execute::become_program(args, env)),
        }
    }

    fn open_sources(&mut self, sources: &[PathBuf]) -> Result<(), Error> {
        let open = |path: &str| {
            open_source(Path::new(path)).map_err(|cause| Error::Source { path: path.into(), cause: cause.into() })
        };
        self.proc = Some(open("/proc")?);
        self.host = Some(open("/")?);
        self.sources = sources.iter().map(|path| (path.clone(), open_source(path))).collect();
        Ok(())
    }

    fn start_server(&mut self, synthetic: Synthetic) -> Result<(), Error> {
        let (uid, gid) = self.ids;
        let switches = fuse::Switches::from_environment().map_err(fuse::Error::Switches)?;
        let image = self.image.take().ok_or(Error::OutOfOrder("start the server"))?;
        let mut server = fuse::Server::new(image, ServeOptions { synthetic, switches, ..ServeOptions::new(uid, gid) })?;
        if let Some(program) = &self.program {
            server.expect(program);
        }
        let fuse = self.fuse.as_ref().ok_or(Error::OutOfOrder("start the server"))?;
        self.server = Some(server::start(server, fuse, self.descriptor)?);
        Ok(())
    }

    fn mount_image(&mut self, at: &Path) -> Result<(), Error> {
        let misplaced = Error::OutOfOrder("mount the image");
        let (Some(fuse), Some(server)) = (self.fuse.take(), &mut self.server) else { return Err(misplaced) };
        namespace::mount_fuse(fuse.as_fd(), at, self.ids)?;
        // A copy of the descriptor in this process would keep requests waiting forever if the server died.
        drop(fuse);
        server.mounted()?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = open(at, flags, Mode::empty());
        self.root = Some(root.map_err(|cause| self.server_fault(cause, |cause| Error::Root { cause }))?);
        Ok(())
    }

    fn root(&self) -> Result<BorrowedFd<'_>, Error> {
        self.root.as_ref().map(AsFd::as_fd).ok_or(Error::OutOfOrder("use the new root"))
    }

    fn target(&mut self, path: &Path) -> Result<OwnedFd, Error> {
        let target = resolve::in_root(self.root()?, path);
        target.map_err(|cause| {
            self.server_fault(cause, |cause| Error::Target { path: path.to_path_buf(), cause: cause.into() })
        })
    }

    /// What the server says is wrong, if the error is one that a dead server causes.
    fn server_fault(&mut self, cause: Errno, otherwise: impl FnOnce(Errno) -> Error) -> Error {
        let suspicious = matches!(cause, Errno::NOTCONN | Errno::CONNABORTED | Errno::IO);
        let report = self.server.as_mut().filter(|_| suspicious).and_then(server::Handle::report);
        report.unwrap_or_else(|| otherwise(cause))
    }

    fn bind(&mut self, source: &Path, destination: &Path, recursive: bool, restrict: MsFlags) -> Result<(), Error> {
        let failed = |errno: io::Error| Error::Bind {
            source_path: source.to_path_buf(),
            destination: destination.to_path_buf(),
            cause: errno,
        };
        let from = match self.sources.get(source) {
            Some(Ok(descriptor)) => magic_link(descriptor),
            Some(Err(errno)) => return Err(Error::Source { path: source.to_path_buf(), cause: (*errno).into() }),
            None => return Err(Error::OutOfOrder("bind what was not opened")),
        };
        let target = self.target(destination)?;
        // Descriptors rather than paths: nobody can exchange them in between, and no symbolic link is followed.
        let flags = MsFlags::MS_BIND | if recursive { MsFlags::MS_REC } else { MsFlags::empty() };
        mount(Some(from.as_str()), magic_link(&target).as_str(), None::<&str>, flags, None::<&str>)
            .map_err(|errno| failed(errno.into()))?;
        if !restrict.is_empty() {
            // Opened anew: the descriptor above is of what is now covered.
            let mounted = self.target(destination)?;
            attributes::restrict(&mounted, restrict, Path::new(".")).map_err(failed)?;
        }
        Ok(())
    }

    fn mount(&mut self, kind: &str, destination: &Path, flags: MsFlags, data: &str) -> Result<(), Error> {
        let target = self.target(destination)?;
        mount(Some(kind), magic_link(&target).as_str(), Some(kind), flags, Some(data)).map_err(|cause| Error::Mount {
            kind: kind.to_owned(),
            destination: destination.to_path_buf(),
            cause: cause.into(),
        })
    }

    /// `pivot_root(".", ".")` stacks the old root on the new one, which takes no directory in a read-only image
    /// (pivot_root(2), NOTES). Absolute paths start below the stack.
    fn pivot(&mut self) -> Result<(), Error> {
        let failed = |what| move |cause: nix::Error| Error::Pivot { what, cause: cause.into() };
        let proc = self.proc.as_ref().ok_or(Error::OutOfOrder("change to the new root"))?;
        nix::unistd::fchdir(self.root()?).map_err(failed("enter"))?;
        nix::unistd::pivot_root(".", ".").map_err(failed("change to"))?;
        nix::unistd::fchdir(proc).map_err(failed("prepare"))
    }

    fn detach_host(&mut self) -> Result<(), Error> {
        let failed = |what| move |cause: nix::Error| Error::Pivot { what, cause: cause.into() };
        let host = self.host.as_ref().ok_or(Error::OutOfOrder("detach the host's root"))?;
        nix::unistd::fchdir(host).map_err(failed("detach the host's root from"))?;
        umount2(".", MntFlags::MNT_DETACH).map_err(failed("detach the host's root from"))?;
        nix::unistd::chdir("/").map_err(failed("enter"))
    }

    fn change_directory(&mut self, path: &Path, fallback: Option<&Path>) -> Result<(), Error> {
        let failed = |path: &Path, cause: nix::Error| Error::ChangeDirectory { path: path.into(), cause: cause.into() };
        match (nix::unistd::chdir(path), fallback) {
            (Ok(()), _) => Ok(()),
            (Err(cause), None) => Err(failed(path, cause)),
            (Err(cause), Some(fallback)) => {
                (self.warn)(format!("{}: starting in {}", failed(path, cause), fallback.display()));
                nix::unistd::chdir(fallback).map_err(|cause| failed(fallback, cause))
            }
        }
    }

    /// Closes what is owned here first, so that no owner is left of a number that another file may get.
    fn close(&mut self) -> Result<(), Error> {
        self.sources.clear();
        (self.root, self.proc, self.host) = (None, None, None);
        (self.server, self.fuse, self.image) = (None, None, None);
        process::default_sigpipe().map_err(Error::Descriptors)?;
        descriptors::close_all_but(&[]).map_err(Error::Descriptors)
    }
}

/// The path by which `mount(2)`, which knows no descriptors, takes one, while the host's `/proc` is the working directory:
/// the container has none yet.
fn magic_link(descriptor: impl AsFd) -> String {
    format!("self/fd/{}", descriptor.as_fd().as_raw_fd())
}

/// `O_DIRECTORY` is what makes the kernel mount an autofs directory; plain `O_PATH` would hold the empty place.
fn open_source(path: &Path) -> Result<OwnedFd, Errno> {
    match open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()) {
        Err(Errno::NOTDIR) => open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()),
        result => result,
    }
}
