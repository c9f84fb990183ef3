//! What the server has done: requests by kind, bytes, pushes and time. What a switch is worth shows here first.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use serde::{Serialize, Serializer};

macro_rules! kinds {
    ($($(#[$doc:meta])* $kind:ident = $name:literal,)*) => {
        /// A kind of request, by its name in the kernel's `fuse.h`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
        #[non_exhaustive]
        pub enum RequestKind { $($(#[$doc])* #[serde(rename = $name)] $kind,)* }

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
    /// The kernel lets go of nodes.
    Forget = "FORGET",
    /// Everything else.
    Other = "other",
}

impl fmt::Display for RequestKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Counters that go on while the server runs.
#[derive(Debug, Default)]
pub(super) struct Counters {
    requests: [AtomicU64; RequestKind::ALL.len()],
    answering: AtomicU64,
    polling: AtomicU64,
    pub(super) read_bytes: AtomicU64,
    pub(super) pushed_bytes: AtomicU64,
    pub(super) pushes: AtomicU64,
    pub(super) refused: AtomicU64,
    dropped: AtomicU64,
}

impl Counters {
    pub(super) fn answered(&self, kind: RequestKind, time: Duration) {
        if let Some(count) = self.requests.get(kind as usize) {
            count.fetch_add(1, Relaxed);
        }
        self.answering.fetch_add(nanoseconds(time), Relaxed);
    }

    pub(super) fn dropped(&self) {
        self.dropped.fetch_add(1, Relaxed);
    }

    pub(super) fn polled(&self, time: Duration) {
        self.polling.fetch_add(nanoseconds(time), Relaxed);
    }

    pub(super) fn snapshot(&self, reader: coracle_squashfs::reader::Stats, failures: u64) -> Stats {
        let requests = RequestKind::ALL.iter().map(|kind| (*kind, self.count(*kind))).collect();
        Stats {
            requests,
            answering_ns: self.answering.load(Relaxed),
            polling_ns: self.polling.load(Relaxed),
            blocks: reader.blocks,
            block_hits: reader.block_hits,
            metadata_blocks: reader.metadata_blocks,
            metadata_hits: reader.metadata_hits,
            image_bytes: reader.bytes_read,
            read_bytes: self.read_bytes.load(Relaxed),
            pushed_bytes: self.pushed_bytes.load(Relaxed),
            pushes: self.pushes.load(Relaxed),
            pushes_refused: self.refused.load(Relaxed),
            pushes_dropped: self.dropped.load(Relaxed),
            failures,
        }
    }

    fn count(&self, kind: RequestKind) -> u64 {
        self.requests.get(kind as usize).map_or(0, |count| count.load(Relaxed))
    }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// What a server has done since it started.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Stats {
    /// Requests answered, by kind, in the order of [`RequestKind::ALL`]; an object in JSON.
    #[serde(serialize_with = "as_object")]
    pub requests: Vec<(RequestKind, u64)>,
    /// Time spent answering, all threads together, in nanoseconds.
    pub answering_ns: u64,
    /// Time spent looking for the next request before sleeping, in nanoseconds.
    pub polling_ns: u64,
    /// Data and fragment blocks unpacked.
    pub blocks: u64,
    /// Data and fragment blocks found in the server's cache.
    pub block_hits: u64,
    /// Metadata blocks unpacked.
    pub metadata_blocks: u64,
    /// Metadata blocks found in the server's cache.
    pub metadata_hits: u64,
    /// Bytes read from the image file.
    pub image_bytes: u64,
    /// Bytes of files sent in answer to READ.
    pub read_bytes: u64,
    /// Bytes of files put into the page cache unasked.
    pub pushed_bytes: u64,
    /// Number of such pushes.
    pub pushes: u64,
    /// Pushes that the kernel refused, mostly because it has let go of the file.
    pub pushes_refused: u64,
    /// Pushes not made because too many were waiting.
    pub pushes_dropped: u64,
    /// Requests that could not be answered because the image could not be read.
    pub failures: u64,
}

fn as_object<S: Serializer>(requests: &[(RequestKind, u64)], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(requests.iter().map(|(kind, count)| (kind, count)))
}

impl Stats {
    /// Number of requests of one kind.
    pub fn count(&self, kind: RequestKind) -> u64 {
        self.requests.iter().find(|(of, _)| *of == kind).map_or(0, |(_, count)| *count)
    }
}
