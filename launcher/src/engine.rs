//! Carries out a [`Plan`]: namespaces, mounts, privileges, and at last the program itself.
//!
//! Runs in a process with one thread, which becomes the program; there is no supervisor. What must be decided
//! has been decided: each step is taken or the launch ends.

use std::collections::HashMap;
use std::convert::Infallible;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use rustix::fs::{Mode, OFlags, open};
use rustix::io::Errno;

use crate::capabilities::{Capabilities, PTRACE};
use crate::fuse::{self, ServeOptions, Synthetic};
use crate::host::Identification;
use crate::ids::{Ids, Owners};
use crate::image::{self, ImageFile};
use crate::plan::{Plan, Step};
use crate::session::{self, ContainerKey, Founding, Joined, Keeper, Memo};
use crate::sys::{attributes, descriptors, filter, privileges, process, resolve};
use crate::trace;

pub(crate) mod confine;
mod error;
mod execute;
mod fork;
mod identity;
mod images;
mod isolate;
mod layers;
mod make;
pub(crate) mod namespace;
mod server;

pub use error::{Error, Reason};
pub use fork::{Detached, runs};
pub use layers::Error as LayersError;
pub(crate) use layers::fuse_overlayfs;
pub use server::{Touches, touches};

/// Names a file to which the server writes what goes wrong.
const LOG: &str = "CORACLE_SERVER_LOG";

/// What a launch begins with.
#[derive(Default)]
pub struct Ground {
    /// The image, when this launch mounts it.
    pub image: Option<image::Handle>,
    /// The session to found or join, if any.
    pub session: Session,
    /// Finds out where in the image the program is.
    pub program: Option<Guess>,
    /// Where the server writes, when it ends, what was read: see [`Touches`].
    pub record: Option<OwnedFd>,
    /// What a launch in the background needs.
    pub detached: Option<Rc<Detached>>,
    /// The directory in `/proc` of the process 1 of the instance that is joined.
    pub instance: Option<OwnedFd>,
}

/// Says which program of an image a launch will start, if that is in the image. The server asks, in its own process.
pub type Guess = Box<dyn FnOnce(&ImageFile) -> Option<PathBuf>>;

/// What is known besides the steps when all has been decided.
#[derive(Default)]
pub struct Decided {
    /// What tells this launch's mounts from those of others.
    pub key: ContainerKey,
    /// What was learned about the image.
    pub memo: Option<Memo>,
    /// Who the caller is, for a session that is founded.
    pub who: Option<Identification>,
}

/// A launch's part in a session.
#[derive(Default)]
pub enum Session {
    /// None.
    #[default]
    Without,
    /// It makes one.
    Found {
        /// Where others look for it.
        founding: Founding,
        /// How long it shall wait for other launches.
        idle: Duration,
    },
    /// It joins one.
    Join(Box<Joined>),
    /// It joins one, and a container of it.
    JoinContainer(Box<Joined>, OwnedFd),
}

/// A launch under way.
pub struct Launch<'a> {
    engine: Engine<'a>,
    /// With what a plan has to begin.
    taken: Vec<Step>,
}

impl<'a> Launch<'a> {
    /// Takes the steps that need not wait until all has been decided: [`opening`](crate::plan::opening) or none. `warn` is
    /// told, in a sentence, what could not be had.
    ///
    /// # Errors
    /// Why the launch cannot go on: report and exit.
    pub fn begin(steps: &[Step], ground: Ground, warn: &'a mut dyn FnMut(String)) -> Result<Self, Error> {
        let engine = Engine {
            ground,
            decided: Decided::default(),
            ids: Ids::own(0, 0),
            fuse: None,
            server: None,
            channel: None,
            complete: true,
            sources: HashMap::new(),
            proc: None,
            host: None,
            root: None,
            images: HashMap::new(),
            below: None,
            traces: false,
            overlay_by_program: false,
            joined_user: false,
            forked: None,
            guarded: None,
            filtered: false,
            around: None,
            warn,
        };
        let mut launch = Self { engine, taken: steps.to_vec() };
        launch.take(steps)?;
        for step in &mut launch.taken {
            if let Step::UnshareUser(ids) = step {
                ids.clone_from(&launch.engine.ids);
            }
        }
        Ok(launch)
    }

    /// The ids that the new user namespace has, which may be less than what was asked for.
    #[must_use]
    pub fn ids(&self) -> &Ids {
        &self.engine.ids
    }

    /// Takes the steps of `plan` that have not been taken yet, and becomes the program.
    ///
    /// # Errors
    /// Why the program is not running. The process is then somewhere between two worlds: report and exit. After
    /// [`Error::Session`] alone it is where it was.
    pub fn finish(mut self, plan: &Plan, decided: Decided) -> Result<Infallible, Error> {
        self.engine.decided = decided;
        self.engine.filtered = plan.steps.iter().any(|step| matches!(step, Step::Filter(_)));
        let rest = plan.steps.strip_prefix(self.taken.as_slice()).ok_or(Error::OutOfOrder("go on"))?;
        self.engine.traces = rest
            .iter()
            .any(|step| matches!(step, Step::Capabilities(sets) if !sets.is_empty() && sets.bounding.has(PTRACE)));
        self.take(rest)?;
        Err(Error::NothingToExecute)
    }

    fn take(&mut self, steps: &[Step]) -> Result<(), Error> {
        for step in steps {
            trace::mark(step);
            self.engine.take(step)?;
        }
        Ok(())
    }
}

/// What one step leaves for another.
struct Engine<'a> {
    ground: Ground,
    decided: Decided,
    ids: Ids,
    fuse: Option<OwnedFd>,
    server: Option<server::Handle>,
    /// To the session's server.
    channel: Option<OwnedFd>,
    /// Nothing had to be left out.
    complete: bool,
    sources: HashMap<PathBuf, Result<OwnedFd, Errno>>,
    /// `/proc` of the host, by which `mount(2)` is given descriptors.
    proc: Option<OwnedFd>,
    host: Option<OwnedFd>,
    root: Option<OwnedFd>,
    /// Image files besides the image's own.
    images: HashMap<PathBuf, images::Served>,
    /// The image, when layers over it are the root: stacked on that, with the host's root.
    below: Option<OwnedFd>,
    /// The program will be able to look into other processes of its user namespace.
    traces: bool,
    /// A process of the container's user namespace answers for the root, with the host's tree as its own.
    overlay_by_program: bool,
    /// The session's user namespace has been entered.
    joined_user: bool,
    /// In a process that another one waits for.
    forked: Option<fork::Forked>,
    /// The sets that the program is to have, while this process has a right more.
    guarded: Option<Capabilities>,
    /// The program will be under a filter, and its init under none.
    filtered: bool,
    /// Where an instance was joined: what was around before.
    around: Option<fork::Around>,
    warn: &'a mut dyn FnMut(String),
}

impl Engine<'_> {
    /// Takes one step. The arms stand in the order in which a plan has them.
    fn take(&mut self, step: &Step) -> Result<(), Error> {
        match step {
            // First, because it is what gives an ordinary user the right to all that follows, within it alone. Ids
            // can be mapped only by writing to /proc before anything else changes the process's credentials.
            Step::UnshareUser(ids) => {
                self.ids = identity::enter(ids, self.warn)?;
                Ok(())
            }
            // After the user namespace: the kernel lets a file system be mounted only in the user namespace in which its
            // /dev/fuse was opened (fuse_fill_super compares f_cred->user_ns).
            Step::OpenFuse => {
                self.fuse = Some(namespace::open_fuse()?);
                Ok(())
            }
            // Before the mount namespace: a server inside it would keep it, and with it the mount, alive forever.
            Step::StartServer => self.start_server(),
            // Before anything changes that the program will see: without an agreement a session can still be done without.
            Step::AskServer { directories, files } => {
                let synthetic = Synthetic { directories: directories.clone(), files: files.clone() };
                match (&self.ground.session, &self.server) {
                    (Session::Join(joined), None) => Ok(joined.add(&synthetic)?),
                    (_, Some(server)) => server.show(&synthetic),
                    _ => Err(Error::OutOfOrder("ask the server")),
                }
            }
            // As for the image's own server, whose place in the order this shares.
            Step::StartImages(paths) => self.start_images(paths),
            // The user namespace owns it, so nothing mounted here ever reaches the host.
            Step::UnshareMount => namespace::enter_mount(),
            Step::MountImage { at } => self.mount_image(at),
            Step::BindDirectory { source, at, writable } => Self::bind_directory(source, at, *writable),
            // While the host's tree is still there, in which later launches look for what they bind.
            Step::KeepNamespaces => self.keep_namespaces(),
            Step::JoinUser => self.join_user(),
            Step::JoinSession | Step::JoinContainer => self.join(),
            // The original is everyone's.
            Step::CopyMount => namespace::copy_mount(),
            // Before the binds: a recursive bind of /tmp or / would take the image's mount along with it as long as
            // that hangs below them.
            Step::PivotRoot { from } => self.pivot(from),
            // After the copy, because a bind takes its source only from the current namespace; after the pivot, because
            // until then the image covers a directory which may hold sources.
            Step::OpenSources(sources) => self.open_sources(sources),
            // After the pivot, from which on nothing of the host's tree is covered any more by the image; its helpers
            // are mounted in that tree, and go with it.
            Step::StackLayers { layers, at } => self.stack(layers, at),
            Step::MakeDirectory(path) => make::directory(self.root()?, path),
            Step::MakeFile(path) => make::file(self.root()?, path),
            Step::WriteFile { path, content } => make::written(self.root()?, path, content),
            Step::MakeLink { path, target } => make::link(self.root()?, path, target),
            Step::SetMode { path, mode } => make::mode(self.root()?, path, *mode),
            Step::BindShown { source, destination } => self.bind_shown(source, destination),
            Step::Bind { source, destination, recursive, restrict, optional } => {
                let bound = self.bind(source, destination, *recursive, *restrict);
                self.perhaps(*optional, bound)
            }
            Step::BindImage { file, inside, destination, at, restrict, optional } => {
                let bound = self.bind_image((file, inside), destination, at, *restrict);
                self.perhaps(*optional, bound)
            }
            Step::Mount { kind, destination, flags, data } => self.mount(kind, destination, *flags, data),
            Step::Isolate(step) => self.isolate(step),
            // With everything in place, and before the program can act, the host's tree goes out of reach.
            Step::DetachHost => self.detach_host(),
            // Nothing is missing in it, and nothing in it leads to the host's tree.
            Step::KeepContainer => self.keep_container(),
            // After the pivot, by path and with the caller's own rights.
            Step::ChangeDirectory { path, fallback } => self.change_directory(path, fallback.as_deref()),
            // Set-user-id programs and file capabilities could otherwise regain what is given up next. Cannot be
            // undone, and is inherited.
            Step::NoNewPrivileges => nix::sys::prctl::set_no_new_privs()
                .map_err(|cause| Error::Privileges { what: "no_new_privs", cause: cause.into() }),
            // After the last mount(2), which needed them.
            Step::Capabilities(sets) if self.ground.detached.is_some() => {
                let sets = self.without_trace(*sets);
                self.guarded = Some(sets);
                privileges::set_guarded(&sets)
                    .map_err(|cause| Error::Privileges { what: "the capability sets", cause: cause.into() })
            }
            Step::Capabilities(sets) if sets.is_empty() => privileges::drop_all()
                .map_err(|cause| Error::Privileges { what: "empty capability sets", cause: cause.into() }),
            Step::Capabilities(sets) => privileges::set(&self.without_trace(*sets))
                .map_err(|cause| Error::Privileges { what: "the capability sets", cause: cause.into() }),
            // Last, since the steps before work with descriptors; those of the host's tree would lead out of the container.
            Step::CloseDescriptors(kept) => {
                trace::finish();
                self.close(kept)
            }
            // Nothing but execve(2) is left to do, which a filter has to allow. No privilege is needed after no_new_privs.
            Step::Filter(filter) => {
                self.let_go()?;
                filter::install(&filter.instructions, filter.flags)
                    .map_err(|cause| Error::Privileges { what: "the filter of system calls", cause })
            }
            Step::Execute { args, env } => {
                self.let_go()?;
                let error = execute::become_program(args, env);
                self.take_back();
                Err(error)
            }
        }
    }

    /// What could not be had is a warning if it is optional.
    fn perhaps(&mut self, optional: bool, result: Result<(), Error>) -> Result<(), Error> {
        match result {
            Err(error) if optional => {
                self.complete = false;
                (self.warn)(format!("{error}: going on without it"));
                Ok(())
            }
            result => result,
        }
    }

    /// As the caller would open them.
    fn open_sources(&mut self, sources: &[PathBuf]) -> Result<(), Error> {
        let open = || sources.iter().map(|path| (path.clone(), open_source(path))).collect();
        self.sources = self.on_host(open)?;
        Ok(())
    }

    /// Does something while the host's root is the root.
    fn on_host<T>(&self, work: impl FnOnce() -> T) -> Result<T, Error> {
        let failed = |cause: nix::Error| Error::Pivot { what: "look beside", cause: cause.into() };
        let misplaced = || Error::OutOfOrder("look at the host");
        let host = self.host.as_ref().ok_or_else(misplaced)?;
        let proc = self.proc.as_ref().ok_or_else(misplaced)?;
        nix::unistd::fchdir(host).map_err(failed)?;
        nix::unistd::chroot(".").map_err(failed)?;
        let outcome = work();
        nix::unistd::fchdir(self.root()?).map_err(failed)?;
        nix::unistd::chroot(".").map_err(failed)?;
        nix::unistd::fchdir(proc).map_err(failed)?;
        Ok(outcome)
    }

    /// Enters the user namespace of the session, to whose server nothing has been said yet that would bind it.
    fn join_user(&mut self) -> Result<(), Error> {
        let Session::Join(joined) = &self.ground.session else { return Err(Error::OutOfOrder("join the session")) };
        self.joined_user = true;
        namespace::join_user(&joined.user)
    }

    /// Enters what the session's server has sent.
    fn join(&mut self) -> Result<(), Error> {
        let (joined, container) = match std::mem::replace(&mut self.ground.session, Session::Without) {
            Session::Join(joined) => (joined, None),
            Session::JoinContainer(joined, container) => (joined, Some(container)),
            _ => return Err(Error::OutOfOrder("join the session")),
        };
        // In this order: the first gives the right to the second.
        if !self.joined_user {
            namespace::join_user(&joined.user)?;
        }
        namespace::join_mounts(container.as_ref().unwrap_or(&joined.base))?;
        let channel = joined.into_channel();
        if let Some(memo) = self.decided.memo.take() {
            session::remember(&channel, memo);
        }
        self.channel = Some(channel);
        Ok(())
    }

    fn keep_namespaces(&mut self) -> Result<(), Error> {
        let misplaced = || Error::OutOfOrder("keep the namespaces");
        let own = |kind: &str| File::open(format!("/proc/self/ns/{kind}")).map(OwnedFd::from).map_err(Error::Keep);
        let server = self.server.as_ref().ok_or_else(misplaced)?;
        let Session::Found { founding, .. } = std::mem::replace(&mut self.ground.session, Session::Without) else {
            return Err(misplaced());
        };
        let who = self.decided.who.take().ok_or_else(misplaced)?;
        let memo = self.decided.memo.take().unwrap_or_default();
        session::keep(server.channel(), memo, who, &own("user")?, &own("mnt")?).map_err(Error::Keep)?;
        founding.hand_over();
        Ok(())
    }

    fn keep_container(&mut self) -> Result<(), Error> {
        let proc = self.proc.as_ref().ok_or(Error::OutOfOrder("keep the container"))?;
        if self.complete {
            let flags = OFlags::RDONLY | OFlags::CLOEXEC;
            let container = rustix::fs::openat(proc, "self/ns/mnt", flags, Mode::empty());
            let container = container.map_err(|error| Error::Keep(error.into()))?;
            let channel = self.channel.as_ref().or(self.server.as_ref().map(server::Handle::channel));
            if let Some(channel) = channel {
                session::keep_container(channel, self.decided.key, &container);
            }
        }
        Ok(())
    }

    fn start_server(&mut self) -> Result<(), Error> {
        let (uid, gid) = self.ids.caller();
        let owners = Owners::from(&self.ids);
        let switches = fuse::Switches::from_environment().map_err(fuse::Error::Switches)?;
        let misplaced = || Error::OutOfOrder("start the server");
        let failed = |cause| Error::StartServer { cause };
        let image = self.ground.image.take().ok_or_else(misplaced)?;
        let fuse = self.fuse.as_ref().ok_or_else(misplaced)?.try_clone().map_err(failed)?;
        let record = self.ground.record.take();
        let switches = if record.is_some() { switches.recording() } else { switches };
        let options = ServeOptions { switches, owners, record: record.is_some(), ..ServeOptions::new(uid, gid) };
        let log = open_log()?;
        let keeper = match &self.ground.session {
            Session::Found { founding, idle, .. } => {
                Some(Keeper::new(founding, image.path.clone(), *idle).map_err(failed)?)
            }
            _ => None,
        };
        let program = self.ground.program.take();
        let equipment = server::Equipment { image, options, program, fuse, keeper, log, record };
        self.server = Some(server::start(equipment)?);
        Ok(())
    }

    fn mount_image(&mut self, at: &Path) -> Result<(), Error> {
        let misplaced = Error::OutOfOrder("mount the image");
        let (Some(fuse), Some(server)) = (self.fuse.take(), &mut self.server) else { return Err(misplaced) };
        namespace::mount_fuse(fuse.as_fd(), at, self.ids.caller())?;
        // A copy of the descriptor in this process would keep requests waiting forever if the server died.
        drop(fuse);
        server.mounted()
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

    fn bind_shown(&mut self, source: &Path, destination: &Path) -> Result<(), Error> {
        let (from, target) = (self.target(source)?, self.target(destination)?);
        let (from, to) = (magic_link(&from), magic_link(&target));
        mount(Some(from.as_str()), to.as_str(), None::<&str>, MsFlags::MS_BIND, None::<&str>).map_err(|cause| {
            Error::Bind {
                source_path: source.to_path_buf(),
                destination: destination.to_path_buf(),
                cause: cause.into(),
            }
        })
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
    fn pivot(&mut self, from: &Path) -> Result<(), Error> {
        let failed = |what| move |cause: nix::Error| Error::Pivot { what, cause: cause.into() };
        let host = |path: &str| {
            open_source(Path::new(path)).map_err(|cause| Error::Source { path: path.into(), cause: cause.into() })
        };
        let proc = host("/proc")?;
        self.host = Some(host("/")?);
        let root = open(from, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
        self.root = Some(root.map_err(|cause| self.server_fault(cause, |cause| Error::Root { cause }))?);
        nix::unistd::fchdir(self.root()?).map_err(failed("enter"))?;
        nix::unistd::pivot_root(".", ".").map_err(failed("change to"))?;
        nix::unistd::fchdir(&proc).map_err(failed("prepare"))?;
        self.proc = Some(proc);
        Ok(())
    }

    fn detach_host(&mut self) -> Result<(), Error> {
        let failed = |what| move |cause: nix::Error| Error::Pivot { what, cause: cause.into() };
        let host = self.host.as_ref().ok_or(Error::OutOfOrder("detach the host's root"))?;
        nix::unistd::fchdir(host).map_err(failed("detach the host's root from"))?;
        umount2(".", MntFlags::MNT_DETACH).map_err(failed("detach the host's root from"))?;
        // The host's root was stacked on it, which is what the kernel would have taken until now.
        if let Some(below) = self.below.take() {
            nix::unistd::fchdir(&below).map_err(failed("detach the image from"))?;
            umount2(".", MntFlags::MNT_DETACH).map_err(failed("detach the image from"))?;
        }
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
    fn close(&mut self, inherited: &[i32]) -> Result<(), Error> {
        self.sources.clear();
        self.images.clear();
        (self.root, self.proc, self.host) = (None, None, None);
        (self.server, self.fuse, self.channel) = (None, None, None);
        (self.ground.image, self.ground.session, self.ground.instance) = (None, Session::Without, None);
        process::default_sigpipe().map_err(Error::Descriptors)?;
        // What it works with is closed below its owner, which therefore must never be dropped.
        std::mem::forget(self.ground.detached.clone());
        let kept = self.forked.iter().flat_map(fork::Forked::descriptors);
        let kept: Vec<i32> = kept
            .chain(self.ground.detached.iter().flat_map(|detached| detached.descriptors()))
            // Not before all of ours are closed: one of them could have a number that was not inherited after all.
            .chain(inherited.iter().copied().filter(|fd| descriptors::is_inherited_channel(*fd)))
            .collect();
        descriptors::close_all_but(&kept).map_err(Error::Descriptors)
    }
}

/// The file to which servers write what goes wrong.
fn open_log() -> Result<Option<File>, Error> {
    let open_log = |path: std::ffi::OsString| {
        let log = File::options().append(true).create(true).open(&path);
        log.map_err(|cause| Error::Log { path: path.into(), cause })
    };
    std::env::var_os(LOG).map(open_log).transpose()
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
