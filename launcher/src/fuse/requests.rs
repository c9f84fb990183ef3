//! Counts of the kernel's requests, by kind: what a caching switch is worth shows here first.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! kinds {
    ($($(#[$doc:meta])* $kind:ident = $name:literal,)*) => {
        /// A kind of request, by its name in the kernel's `fuse.h`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum RequestKind { $($(#[$doc])* $kind,)* }

        impl RequestKind {
            /// All kinds that are counted.
            pub const ALL: &[Self] = &[$(Self::$kind,)*];

            /// The kernel's name.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$kind => $name,)* }
            }
        }
    };
}

kinds! {
    /// A name in a directory.
    Lookup = "LOOKUP",
    /// Attributes of a node.
    GetAttr = "GETATTR",
    /// A symbolic link's target.
    ReadLink = "READLINK",
    /// A file is opened.
    Open = "OPEN",
    /// File data.
    Read = "READ",
    /// A file descriptor is closed.
    Flush = "FLUSH",
    /// A directory is opened.
    OpenDir = "OPENDIR",
    /// Names in a directory.
    ReadDir = "READDIR",
    /// Names in a directory, with attributes.
    ReadDirPlus = "READDIRPLUS",
    /// Size of the file system.
    StatFs = "STATFS",
    /// One extended attribute.
    GetXattr = "GETXATTR",
    /// Names of extended attributes.
    ListXattr = "LISTXATTR",
    /// A device control, mostly `isatty`.
    Ioctl = "IOCTL",
}

impl fmt::Display for RequestKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How many requests have been answered since the server started.
#[derive(Debug, Default)]
pub struct Requests {
    counts: [AtomicU64; RequestKind::ALL.len()],
}

impl Requests {
    /// Number of requests of one kind.
    pub fn count(&self, kind: RequestKind) -> u64 {
        self.counts.get(kind as usize).map_or(0, |count| count.load(Ordering::Relaxed))
    }

    pub(super) fn add(&self, kind: RequestKind) {
        if let Some(count) = self.counts.get(kind as usize) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }
}
