//! A read-only FUSE file system that serves a SquashFS image, for a mount made by the caller on a `/dev/fuse` descriptor.
//!
//! The tree never changes while it is mounted, so the kernel may keep all that it is told: names, absent names,
//! attributes, listings, link targets and data. Directories and files that the image lacks can be added, so that a
//! bind mount finds its target in any image. Everything is shown as owned by one user and group.

use std::fs::File;
use std::io;
use std::os::fd::{OwnedFd, RawFd};
use std::path::PathBuf;
use std::sync::Arc;

use coracle_squashfs::reader::{self, Image};
use fuser::{Config, InitFlags, Session, SessionACL};
use thiserror::Error;

mod filesystem;
mod listing;
mod log;
mod node;
mod overlay;
mod requests;

use filesystem::Tree;
use log::Log;
pub use requests::{RequestKind, Requests};

/// Names the environment variable that switches parts of the server off, for measuring them.
pub const SWITCHES: &str = "CORACLE_FUSE";
/// Longest READ that the kernel may send, in bytes: its own limit unless the administrator raises that (256 pages).
const READ_MAX: u32 = 1 << 20;

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
}

/// How to serve an image.
#[derive(Clone, Debug)]
pub struct ServeOptions {
    /// Owner shown for everything.
    pub uid: u32,
    /// Group shown for everything.
    pub gid: u32,
    /// Threads that answer requests; 0 counts as 1.
    pub threads: usize,
    /// What to show besides the image.
    pub synthetic: Synthetic,
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
    /// The kernel did not start the session, or ended it with an error.
    #[error("cannot serve the image over /dev/fuse")]
    Session(#[source] io::Error),
}

/// An image ready to be served: all that can be wrong with the request has been checked.
pub struct Server {
    synthetic: Synthetic,
    tree: Tree,
    threads: usize,
}

impl Server {
    /// Resolves the synthetic paths in `image`. Reads the image, starts nothing.
    pub fn new(image: Image<File>, options: ServeOptions) -> Result<Self, Error> {
        let threads = options.threads.max(1);
        Ok(Self { synthetic: options.synthetic.clone(), tree: Tree::new(image, options)?, threads })
    }

    /// Writes to `sink`, in one line, the first request that could not be answered because the image is damaged, and
    /// at the end how many there were.
    #[must_use]
    pub fn log_to(mut self, sink: File) -> Self {
        self.tree.log = Log::new(Some(sink));
        self
    }

    /// Behaves as on a kernel that does not offer these features, to exercise the fallbacks.
    #[must_use]
    pub fn withhold(mut self, features: InitFlags) -> Self {
        self.tree.withheld = features;
        self
    }

    /// The running server, for others to ask.
    pub fn control(&self) -> Arc<Control> {
        Arc::new(Control { synthetic: self.synthetic.clone(), requests: self.requests() })
    }

    /// The counts of requests, which go on while the server runs.
    pub fn requests(&self) -> Arc<Requests> {
        Arc::clone(&self.tree.requests)
    }

    /// Answers the kernel's requests on `fuse_device`, on which a file system has been mounted with [`mount_data`].
    /// Returns when the mount is gone. No other process should hold the descriptor: when the last
    /// copy is closed, and only then, the kernel fails what a dead server has left unanswered.
    pub fn run(self, fuse_device: OwnedFd) -> Result<(), Error> {
        let mut config = Config::default();
        // Who may use the mount is for the kernel to say: see `mount_data`.
        config.acl = SessionACL::All;
        config.n_threads = Some(self.threads);
        let session = match Session::from_fd(self.tree, fuse_device, config.acl, config) {
            Ok(session) => session,
            // The mount went before its first request was read: nothing was served, and nobody misses it.
            Err(error) if error.kind() == io::ErrorKind::NotConnected => return Ok(()),
            Err(error) => return Err(Error::Session(error)),
        };
        session.run().map_err(Error::Session)
    }
}

/// A running server, for other threads.
pub struct Control {
    synthetic: Synthetic,
    requests: Arc<Requests>,
}

impl Control {
    /// Adds to what is shown.
    pub fn add(&self, synthetic: &Synthetic) -> Result<(), Error> {
        for path in &synthetic.directories {
            if !self.synthetic.directories.contains(path) {
                return Err(Error::NotAbsolute { path: path.clone() });
            }
        }
        Ok(())
    }

    /// Counters.
    pub fn stats(&self) -> std::collections::BTreeMap<&'static str, u64> {
        RequestKind::ALL.iter().map(|kind| (kind.name(), self.requests.count(*kind))).collect()
    }
}

/// Serves `image` on `fuse_device` until its mount is gone: [`Server::new`] and [`Server::run`] in one.
pub fn serve(image: Image<File>, fuse_device: OwnedFd, options: ServeOptions) -> Result<(), Error> {
    Server::new(image, options)?.run(fuse_device)
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
