//! What killed processes left: temporary names, claims, markers. Whatever is removed here by mistake costs its owner no
//! more than doing its work again.

use super::Store;
use super::claim::MARKER;
use super::error::Error;
use super::key::is_key;
use super::process::Process;
use super::refs::entries;
use crate::registry::{PART, PREFIX};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// Age at which anything temporary is old, whoever made it. It is compared with the clock of the file server or of
/// another host, so it has to be large.
const OLD: Duration = Duration::from_secs(24 * 3600);

/// Something to remove.
#[derive(Debug)]
pub struct Left {
    /// Where it is.
    pub path: PathBuf,
    /// In bytes.
    pub bytes: u64,
    /// Key and id of a claim, which is not simply removed.
    pub claim: Option<(String, String)>,
}

impl Store {
    /// Finds what dead processes left. Of the image `mine`, whose claim the caller holds, nobody else's temporary file is
    /// of use.
    pub(super) fn left(&self, mine: Option<&str>) -> Result<Vec<Left>, Error> {
        let mut left = Vec::new();
        let own = self.claims.own();
        for dir in [self.images_dir(), self.refs.0.clone(), self.claims.dir().to_path_buf(), self.blobs_dir()] {
            for path in entries(&dir)? {
                let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
                let process = || tagged(name);
                let stale = if let Some(hidden) = name.strip_prefix('.') {
                    let superseded = mine.is_some_and(|key| hidden.starts_with(key)) && process().as_ref() != Some(own);
                    superseded || process().is_some_and(|process| process.is_gone(own)) || is_old(&path)
                } else if name.ends_with(MARKER) {
                    self.claims.process_in(&path).is_some_and(|process| process.is_gone(own)) || is_old(&path)
                } else if name.ends_with(".failed") || name.ends_with(PART) {
                    is_old(&path)
                } else if name.strip_suffix(PREFIX).is_some_and(|part| !dir.join(part).exists()) {
                    // Of a part that is there it is needed as long as that.
                    is_old(&path)
                } else if dir == self.claims.dir() && is_key(name) && mine != Some(name) {
                    if let Some(seen) = self.claims.read(name)?.filter(|seen| seen.is_gone(own) || is_old(&path)) {
                        let claim = Some((name.to_owned(), seen.id));
                        left.push(Left { bytes: 0, claim, path });
                    }
                    continue;
                } else {
                    false
                };
                if stale {
                    let bytes = fs::symlink_metadata(&path).map_or(0, |file| file.len());
                    left.push(Left { path, bytes, claim: None });
                }
            }
        }
        Ok(left)
    }

    /// Removes it. What cannot be removed, being another user's, stays.
    pub(super) fn sweep(&self, left: &[Left]) {
        for left in left {
            match &left.claim {
                Some((key, id)) => drop(self.claims.retire(key, id)),
                None => drop(fs::remove_file(&left.path)),
            }
        }
    }
}

/// The process in a temporary name: `.NAME.PROCESS.` and something random.
fn tagged(name: &str) -> Option<Process> {
    name.rsplit('.').nth(1)?.parse().ok()
}

fn is_old(path: &Path) -> bool {
    let modified = fs::symlink_metadata(path).and_then(|file| file.modified());
    modified.is_ok_and(|modified| SystemTime::now().duration_since(modified).is_ok_and(|age| age > OLD))
}
