//! Whether a file is there as the file server says, not as this host remembers.
//!
//! A host that found no file of a name may go on believing that for as long as it keeps such knowledge: a minute on NFS, a
//! second on many FUSE file systems. A listing of a directory in which this host has just made a file is fresh on both.

use super::error::Error;
use super::refs::entries;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

/// Longer than hosts keep what they know: `acdirmax` of nfs(5) is 60 seconds unless set.
const LONGEST: Duration = Duration::from_secs(90);
/// Between two looks.
const PAUSE: Duration = Duration::from_millis(50);

/// Looks a file up in a directory that this process has just changed, and waits until this host sees it by name as well.
///
/// # Errors
/// When the directory cannot be read.
pub fn is_there(path: &Path) -> Result<bool, Error> {
    if path.exists() {
        return Ok(true);
    }
    let dir = path.parent().unwrap_or(Path::new("/"));
    let begun = Instant::now();
    while entries(dir)?.iter().any(|entry| entry == path) {
        if path.exists() {
            return Ok(true);
        }
        if begun.elapsed() > LONGEST {
            break;
        }
        thread::sleep(PAUSE);
    }
    Ok(false)
}
