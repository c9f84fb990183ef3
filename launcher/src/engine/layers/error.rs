//! Why layers cannot be put over an image, and what to do about it.

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;

/// Why layers cannot be put over an image.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The helpers' `tmpfs`.
    #[error("cannot make a file system in memory for what lies over the image: {cause}")]
    Memory {
        /// The kernel's reason.
        cause: io::Error,
    },
    /// A layer's directory.
    #[error("cannot open overlay {}: {cause}", path.display())]
    Open {
        /// On the host.
        path: PathBuf,
        /// The kernel's reason.
        cause: io::Error,
    },
    /// The directories that a writable layer consists of.
    #[error("cannot write to overlay {}: cannot make {name} in it: {cause}{}", path.display(), making(cause))]
    Make {
        /// On the host.
        path: PathBuf,
        /// `upper` or `work`.
        name: &'static str,
        /// The kernel's reason.
        cause: io::Error,
    },
    /// Someone else's directory.
    #[error("cannot write to overlay {}: the directory belongs to another user; to read it: --overlay {}:ro", path.display(), path.display())]
    Owner {
        /// On the host.
        path: PathBuf,
    },
    /// A directory that is used for something else.
    #[error(
        "cannot write to overlay {}: it is neither empty nor a layer that was made before (with directories upper and work in it), but has {found:?}; \
         use an empty directory", path.display()
    )]
    Foreign {
        /// On the host.
        path: PathBuf,
        /// One of the names in it.
        found: OsString,
    },
    /// A file system on which nothing can be kept.
    #[error(
        "cannot write to overlay {}: overlay file systems cannot be written to on {kind}; use a directory on a disk of this node, such as in /tmp, \
         or --writable-tmpfs", path.display()
    )]
    FileSystem {
        /// On the host.
        path: PathBuf,
        /// Its name, if it is known.
        kind: String,
    },
    /// Another container writes there.
    #[error("cannot write to overlay {}: another container writes to it at the moment; read it with :ro, or use another directory for each", path.display())]
    Busy {
        /// On the host.
        path: PathBuf,
    },
    /// The kernel lets no user mount an overlay.
    #[error("cannot put layers over the image: {cause}{}", refused(cause))]
    Refused {
        /// The kernel's reason.
        cause: io::Error,
    },
    /// A layer's file system has no attributes for users.
    #[error(
        "the file system that is written to has no extended attributes for users (in memory: since Linux 6.6), and fuse-overlayfs is not on this host: \
         a directory of the image that is removed cannot be made again"
    )]
    Attributes,
    /// Any other reason of the kernel's.
    #[error("cannot put layers over the image: {cause}")]
    Mount {
        /// The kernel's reason.
        cause: io::Error,
    },
    /// A layer that cannot be shown to fuse-overlayfs, or the program cannot be started.
    #[error("cannot put layers over the image with fuse-overlayfs: {what}: {cause}")]
    Program {
        /// What was being done.
        what: &'static str,
        /// The kernel's reason.
        cause: io::Error,
    },
    /// What fuse-overlayfs itself says.
    #[error("cannot put layers over the image: fuse-overlayfs failed: {report}")]
    ProgramFailed {
        /// In its words.
        report: String,
    },
    /// What the container needs besides the image.
    #[error("cannot make {} for the container: {cause}", path.display())]
    Generate {
        /// In the container.
        path: PathBuf,
        /// The kernel's reason.
        cause: io::Error,
    },
    /// The variable for tests.
    #[error("CORACLE_OVERLAYFS={}: write kernel, fuse or none", value.display())]
    Switch {
        /// Its value.
        value: OsString,
    },
}

impl Error {
    /// Whether another way of making an overlay may do.
    pub(super) const fn is_refusal(&self) -> bool {
        matches!(self, Self::Refused { .. } | Self::Attributes)
    }
}

fn refused(cause: &io::Error) -> &'static str {
    match cause.raw_os_error() {
        Some(libc::ENODEV) => {
            "; an administrator can load the module (modprobe overlay) or install fuse-overlayfs, which takes its place"
        }
        _ => {
            "; users can mount overlay file systems since Linux 5.11, unless a security module forbids it; an administrator can install fuse-overlayfs, \
             which takes their place, or unpack the image: coracle build --sandbox DIR IMAGE, coracle exec --writable DIR"
        }
    }
}

fn making(cause: &io::Error) -> &'static str {
    match cause.raw_os_error() {
        Some(libc::EROFS) => "; to read it, end it with :ro",
        _ => "",
    }
}
