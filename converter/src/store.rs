//! Images that are kept: converted once for all processes and hosts that share the directory, found by name, evicted by
//! age and size.
//!
//! `images/KEY.sqfs` is an image and `images/KEY.json` what is noted of it; the key is a hash of what decides the image's
//! bytes. `refs/` has names, `claims/` who converts at the moment, `blobs/sha256/` what registries sent. Everything appears
//! whole under its name by link or rename and is never changed then, so readers need no lock; the only thing to
//! decide is who converts, which a claim does. Nothing here relies on `flock`, or on clocks of hosts that agree.

mod claim;
mod error;
mod evict;
mod key;
mod list;
mod metadata;
mod process;
mod pull;
mod refs;
mod small;
mod space;
mod sweep;
mod visible;

pub use error::Error;
pub use evict::{Policy, Pruned, Removed};
pub use list::Image;
pub use metadata::Metadata;
pub use pull::Pulled;
pub use refs::{check as check_name, reference};

use crate::source::Source;
use claim::Claims;
use refs::Refs;
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, UTIME_NOW, utimensat};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// What the last use of an image is noted to: many nodes that start a job touch nothing.
const USE_NOTED_EVERY: Duration = Duration::from_secs(3600);

/// How a store is used.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Stores of others, in which images are looked for first and nothing is ever written.
    pub shared: Vec<PathBuf>,
    /// Bytes that images and blobs may have together.
    pub max_size: Option<u64>,
    /// How long a process that converts may give no sign of life before another does it; 1 second to 10 minutes.
    pub lease: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self { shared: Vec::new(), max_size: None, lease: Duration::from_secs(30) }
    }
}

/// A directory of images.
#[derive(Debug)]
pub struct Store {
    dir: PathBuf,
    settings: Settings,
    claims: Claims,
    refs: Refs,
}

/// An image that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// The image file.
    pub path: PathBuf,
    /// Its key.
    pub key: String,
}

impl Store {
    /// The store in this directory, which need not exist: it is made when something is stored.
    pub fn new(dir: impl Into<PathBuf>, settings: Settings) -> Self {
        let dir = dir.into();
        let claims = Claims::new(dir.join("claims"), settings.lease);
        let refs = Refs(dir.join("refs"));
        Self { dir, settings, claims, refs }
    }

    /// Its directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Where a registry client keeps what it downloaded, by digest; unfinished files end in `.part`.
    pub fn blobs_dir(&self) -> PathBuf {
        self.dir.join("blobs/sha256")
    }

    /// The image that a name stands for on an architecture, if it is there, and still what a local source has. The caller
    /// is taken to use it.
    ///
    /// # Errors
    /// When the caller's own store cannot be read.
    pub fn get(&self, name: &str, architecture: &str) -> Result<Option<Stored>, Error> {
        for dir in self.dirs() {
            let found = match Refs(dir.join("refs")).read(name, architecture) {
                // Another's store that is out of reach here keeps nobody from using their own.
                Err(_) if dir != self.dir => continue,
                found => found?,
            };
            let Some(found) = found else { continue };
            if found.stamp.is_some() && found.stamp != local_stamp(name) {
                continue;
            }
            if let Some(stored) = self.find(&found.key) {
                note_use(&stored.path);
                return Ok(Some(stored));
            }
        }
        Ok(None)
    }

    /// The stores, in the order in which they count.
    fn dirs(&self) -> impl Iterator<Item = &Path> {
        self.settings.shared.iter().chain([&self.dir]).map(PathBuf::as_path)
    }

    fn images_dir(&self) -> PathBuf {
        self.dir.join("images")
    }

    fn find(&self, key: &str) -> Option<Stored> {
        self.dirs()
            .map(|dir| image_in(dir, key))
            .find(|path| path.exists())
            .map(|path| Stored { path, key: key.into() })
    }
}

fn image_in(store: &Path, key: &str) -> PathBuf {
    store.join("images").join(format!("{key}.sqfs"))
}

fn local_stamp(name: &str) -> Option<String> {
    refs::stamp(&name.parse::<Source>().ok()?)
}

/// The last use is the time of the file beside the image: the image's own may not change, since what makes an image that
/// is in use another one is looked at there, and access times are kept nowhere.
fn note_use(image: &Path) {
    let noted = image.with_extension("json");
    let recent = fs::metadata(&noted)
        .and_then(|noted| noted.modified())
        .is_ok_and(|modified| SystemTime::now().duration_since(modified).is_ok_and(|age| age < USE_NOTED_EVERY));
    if !recent {
        let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
        // Others' stores cannot be written.
        let _ = utimensat(CWD, &noted, &Timestamps { last_access: now, last_modification: now }, AtFlags::empty());
    }
}

#[cfg(test)]
mod tests;
