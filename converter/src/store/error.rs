//! What can go wrong with stored images.

use std::io;
use std::path::PathBuf;
use thiserror::Error;

/// Why a store could not do what it was asked. As usual, an error's text leaves its `source()` to whoever prints the
/// chain.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// The conversion failed.
    #[error(transparent)]
    Convert(#[from] crate::Error),
    /// A file or directory of the store could not be used.
    #[error("cannot {action} {}", path.display())]
    File {
        /// Verb.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Less is free than the image needs in any case.
    #[error(
        "cannot store the image in {}: it needs at least {}, and {} are free: make room with coracle prune, or choose \
         another directory with CORACLE_STORE", dir.display(), size(*.needed), size(*.free)
    )]
    Space {
        /// The store's directory.
        dir: PathBuf,
        /// Bytes.
        needed: u64,
        /// Bytes.
        free: u64,
    },
    /// The file system or a quota became full; what had been written is gone again.
    #[error(
        "cannot store the image in {}: {} after {}, nothing of it was kept: make room with coracle prune, or choose \
         another directory with CORACLE_STORE", dir.display(), reason(*.quota), size(*.written)
    )]
    Full {
        /// The store's directory.
        dir: PathBuf,
        /// Bytes that the image had by then.
        written: u64,
        /// Whether a quota is exceeded, or the file system is full.
        quota: bool,
        /// What failed.
        source: Box<Error>,
    },
    /// The image alone is larger than the store may be.
    #[error("cannot store the image in {}: it needs at least {}, and [store] max-size is {}", dir.display(), size(*.needed), size(*.max))]
    MaxSize {
        /// The store's directory.
        dir: PathBuf,
        /// Bytes.
        needed: u64,
        /// Bytes.
        max: u64,
    },
    /// Another process converted the image for all who wanted it, and found that it cannot be.
    #[error("{message} (found by another process, on {host})")]
    Elsewhere {
        /// That process's host.
        host: String,
        /// Its error, with all causes.
        message: String,
    },
    /// No image of that name.
    #[error("no image {name:?} is stored in {}: coracle images lists what is", dir.display())]
    NotStored {
        /// As given.
        name: String,
        /// The store's directory.
        dir: PathBuf,
    },
    /// The beginning of several images' ids.
    #[error("{name:?} is the beginning of several images' ids: write more of it; coracle images lists them")]
    Ambiguous {
        /// As given.
        name: String,
    },
    /// A name that could not be told from a path or an option.
    #[error("no image can be called {name:?}: {reason}")]
    Name {
        /// As given.
        name: String,
        /// Why not.
        reason: &'static str,
    },
}

impl Error {
    /// For `map_err` on what concerns one file.
    pub(super) fn file(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { action, path, source }
    }
}

fn reason(quota: bool) -> &'static str {
    if quota { "the disk quota is exceeded" } else { "the file system is full" }
}

/// Bytes for people; to three digits.
fn size(bytes: u64) -> String {
    match bytes {
        0..1024 => format!("{bytes} B"),
        1024..1_048_576 => format!("{:.1} KiB", bytes as f64 / 1024.0),
        1_048_576..1_073_741_824 => format!("{:.1} MiB", bytes as f64 / 1_048_576.0),
        _ => format!("{:.1} GiB", bytes as f64 / 1_073_741_824.0),
    }
}

/// An error with its sources in one line.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}
