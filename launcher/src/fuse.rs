//! A read-only FUSE file system that serves a SquashFS image, for a mount made by the caller on a `/dev/fuse` descriptor.
//!
//! The tree never changes while it is mounted, so the kernel may keep all that it is told: names, absent names,
//! attributes, listings, link targets and data. Directories and files that the image lacks can be added, so that a
//! bind mount finds its target in any image. Everything is shown as owned by one user and group, unless
//! the container has more of them.

use std::fs::File;
use std::io;
use std::os::fd::{OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};
use std::thread;

use coracle_squashfs::reader::{self, Image};
use thiserror::Error;

use crate::ids::Owners;

mod answer;
mod control;
mod device;
mod elf;
mod expect;
mod known;
mod listing;
mod listings;
mod load;
mod log;
mod node;
mod order;
mod overlay;
mod protocol;
mod push;
mod reads;
mod record;
mod session;
mod source;
mod spin;
mod stats;
mod switches;
mod tree;

pub use control::Control;
use device::Device;
pub use load::Load;
pub use record::Touch;
use session::Session;
pub use stats::{RequestKind, Stats};
pub use switches::Switches;
use tree::Tree;

/// Longest READ that the kernel may send, in bytes: its own limit unless the administrator raises that (256 pages).
const READ_MAX: u32 = 1 << 20;
/// Threads that answer requests, at most, if their number is not asked for: more than a few wait for each other.
const THREADS_MAX: usize = 4;

/// Directories and files to show whether or not the image has them. Paths are absolute, in the image, and resolved as
/// a process with the image as its root would; missing parents are added.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Synthetic {
    /// Directories (mode 0755, empty) to add where there is none.
    pub directories: Vec<PathBuf>,
    /// Files to add, after the directories and in this order.
    pub files: Vec<(PathBuf, SyntheticFile)>,
}

/// A file to add to the image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SyntheticFile {
    /// An empty file (mode 0644), only where nothing is: a target for a bind mount.
    Empty,
    /// This content with these permission bits, in place of what is there. A symbolic link in the last place is replaced,
    /// not followed.
    Content(Vec<u8>, u16),
    /// A symbolic link to this target, in place of what is there; nothing is done where the same link is.
    Link(PathBuf),
}

/// How to serve an image.
#[derive(Clone, Debug)]
pub struct ServeOptions {
    /// Owner shown for what has no other.
    pub uid: u32,
    /// Group shown for what has no other.
    pub gid: u32,
    /// Whom else files of the image may belong to.
    pub owners: Owners,
    /// What to show besides the image.
    pub synthetic: Synthetic,
    /// Bytes that unpacked blocks may take, metadata included.
    pub cache_bytes: usize,
    /// Whether to take note of the blocks that are read, for [`Control::touched`].
    pub record: bool,
    /// What to do beyond the least.
    pub switches: Switches,
}

impl ServeOptions {
    /// Unpacked blocks in memory, in bytes, unless said otherwise: a server stays below 32 MiB with it.
    pub const CACHE_BYTES: usize = 16 << 20;

    /// The usual, for an image shown as owned by this user and group.
    pub fn new(uid: u32, gid: u32) -> Self {
        Self {
            uid,
            gid,
            owners: Owners::default(),
            synthetic: Synthetic::default(),
            cache_bytes: Self::CACHE_BYTES,
            record: false,
            switches: Switches::default(),
        }
    }
}

/// Why an image cannot be served.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// The image could not be read while a path was resolved in it.
    #[error("cannot resolve {} in the image", path.display())]
    Image {
        /// The path asked for.
        path: PathBuf,
        /// What the reader found.
        source: reader::Error,
    },
    /// A synthetic path must start at the image's root.
    #[error("cannot add {} to the image: the path is not absolute", path.display())]
    NotAbsolute {
        /// The path asked for.
        path: PathBuf,
    },
    /// No file system call could reach this name.
    #[error(
        "cannot add {} to the image: a name on the way, {}, is over 255 bytes or has a NUL byte",
        path.display(), component.display()
    )]
    BadName {
        /// The path asked for.
        path: PathBuf,
        /// How far it was walked, links resolved.
        component: PathBuf,
    },
    /// A component of the path, or the place of a directory, is taken by something else.
    #[error(
        "cannot add {} to the image: {} exists there and is not a directory; choose another path",
        path.display(), component.display()
    )]
    NotADirectory {
        /// The path asked for.
        path: PathBuf,
        /// What is in the way, links resolved.
        component: PathBuf,
    },
    /// The place of a file is taken by a directory.
    #[error("cannot add the file {} to the image: a directory of this name exists there", path.display())]
    IsADirectory {
        /// The path asked for.
        path: PathBuf,
    },
    /// The image's links run in a circle.
    #[error("cannot add {} to the image: more than 40 symbolic links on the way", path.display())]
    TooManyLinks {
        /// The path asked for.
        path: PathBuf,
    },
    /// Another launch uses the mount, and was shown something else there.
    #[error(
        "cannot change {} in a mounted image: another launch sees it as it is; use a mount of your own",
        path.display()
    )]
    Conflict {
        /// The path asked for.
        path: PathBuf,
    },
    /// [`Switches::VARIABLE`] is not understood.
    #[error("{0}")]
    Switches(String),
    /// The kernel did not start the session, or ended it with an error.
    #[error("cannot serve the image over /dev/fuse")]
    Session(#[source] io::Error),
}

/// An image ready to be served: all that can be wrong with the request has been checked.
pub struct Server {
    control: Arc<Control>,
    /// Which program will be started first, and who unpacks what it needs.
    program: Option<PathBuf>,
    unpacker: Option<thread::JoinHandle<()>>,
}

impl Server {
    /// Resolves the synthetic paths in `image`. Reads the image, starts nothing.
    ///
    /// # Errors
    /// When a synthetic path cannot be added to the image.
    pub fn new(image: Image<File>, options: ServeOptions, load: Load) -> Result<Self, Error> {
        let cache_bytes = options.switches.cache_bytes.unwrap_or(options.cache_bytes);
        let tree = Tree::new(image, &options, cache_bytes)?;
        let control = Control::new(tree, options.switches, options.record, cache_bytes, load);
        Ok(Self { control: Arc::new(control), program: None, unpacker: None })
    }

    /// The program that will be started first: an absolute path in the image. What it takes to start it is guessed,
    /// and unpacked before it is asked for.
    pub fn expect(&mut self, program: &Path) {
        if self.control.switches.expect {
            self.program = Some(program.to_path_buf());
        }
    }

    /// Shows more, as [`ServeOptions::synthetic`] does. Before [`run`](Self::run).
    ///
    /// # Errors
    /// When something cannot be added to the image; then nothing is.
    pub fn show(&mut self, synthetic: &Synthetic) -> Result<(), Error> {
        self.control.tree.prepare(synthetic)
    }

    /// Starts to unpack what is expected, in a thread, without waiting for [`run`](Self::run): the file system may
    /// still have to be mounted.
    pub fn prepare(&mut self) {
        if let Some(program) = self.program.take() {
            let control = Arc::clone(&self.control);
            control.waiting.start();
            // Without it, all comes when it is asked for.
            self.unpacker = spawn("unpack").spawn(move || expect::run(&control, &program)).ok();
        }
    }

    /// Writes to `sink`, in one line, the first request that could not be answered because the image is damaged, and
    /// at the end how many there were.
    #[must_use]
    pub fn log_to(self, sink: File) -> Self {
        self.control.tree.log.open(sink);
        self
    }

    /// What can be asked of the server, and told to it, while it runs.
    pub fn control(&self) -> Arc<Control> {
        Arc::clone(&self.control)
    }

    /// Answers the kernel's requests on `fuse_device`, on which a file system has been mounted with [`mount_data`].
    /// Returns when the mount is gone. No other process should hold the descriptor: when the last
    /// copy is closed, and only then, the kernel fails what a dead server has left unanswered.
    ///
    /// All threads are started before the second request is read, the one of [`prepare`](Self::prepare) aside.
    ///
    /// # Errors
    /// [`Error::Session`] when the kernel does not start the session, or ends it with an error.
    pub fn run(mut self, fuse_device: OwnedFd) -> Result<(), Error> {
        self.prepare();
        let control = &*self.control;
        let cpus = cpus();
        let threads = match control.switches.threads {
            // Two at least: one may be unpacking a block.
            0 => cpus.clamp(2, THREADS_MAX),
            threads => threads,
        };
        let device = Arc::new(Device::new(fuse_device));
        *control.device.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&device));
        let result = run(control, &device, threads, cpus);
        control.waiting.end();
        // A thread that panicked has said so; nothing that it did is missed.
        let _ = self.unpacker.take().map(thread::JoinHandle::join);
        *control.device.write().unwrap_or_else(PoisonError::into_inner) = None;
        control.tree.log.close();
        result
    }
}

fn run(control: &Control, device: &Device, threads: usize, cpus: usize) -> Result<(), Error> {
    // The mount went before its first request was read: nothing was served, and nobody misses it.
    let Some(session) = Session::open(control, device, threads, cpus)? else { return Ok(()) };
    thread::scope(|scope| {
        let pusher = spawn("push").spawn_scoped(scope, || push::run(control, device));
        let followers: Result<Vec<_>, _> =
            (1..threads).map(|_| spawn("serve").spawn_scoped(scope, || session.serve())).collect();
        // With fewer threads than wanted, all is served, if slower.
        let served = session.serve();
        control.queue.close();
        let mut result = served;
        for follower in followers.into_iter().flatten() {
            result = result.and(follower.join().unwrap_or_else(|_| Err(io::Error::other("a thread panicked"))));
        }
        drop(pusher);
        result.map_err(Error::Session)
    })
}

fn spawn(name: &str) -> thread::Builder {
    thread::Builder::new().name(name.to_owned()).stack_size(STACK)
}

/// Bytes of a thread's stack; unpacking keeps its state on the heap.
const STACK: usize = 512 << 10;

/// Processors that this process may use. The standard library would look through the cgroups as well, which is ten
/// system calls for a number that is capped anyway.
fn cpus() -> usize {
    nix::sched::sched_getaffinity(nix::unistd::Pid::this())
        .map_or(1, |cpus| (0..nix::sched::CpuSet::count()).filter(|cpu| cpus.is_set(*cpu).unwrap_or(false)).count())
}

/// Serves `image` on `fuse_device` until its mount is gone: [`Server::new`] and [`Server::run`] in one.
pub fn serve(image: Image<File>, fuse_device: OwnedFd, options: ServeOptions) -> Result<(), Error> {
    Server::new(image, options, Load::open())?.run(fuse_device)
}

/// The data argument of `mount(2)` for a mount on the `/dev/fuse` descriptor `fd`; ids are those of the mounting
/// process's user namespace. Mount it read-only, `nosuid` and `nodev`: the first lets the kernel refuse writes by itself,
/// the second spares a request for file capabilities at each `execve`.
///
/// The kernel checks permissions itself, from the modes shown. `allow_other` admits all ids that the mount's user namespace
/// maps (and nobody outside it), which programs that change their id there need.
pub fn mount_data(fd: RawFd, uid: u32, gid: u32) -> String {
    format!("fd={fd},rootmode=40000,user_id={uid},group_id={gid},default_permissions,allow_other,max_read={READ_MAX}")
}

#[cfg(test)]
mod tests;
