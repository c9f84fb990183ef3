//! Who converts an image: one process of all that share a directory, without `flock`, which NFS and Lustre mounts may
//! lack or keep to one host.
//!
//! A claim is a file that appears whole under the image's key by link(2), which exactly one of many wins on every file
//! system that has links, NFSv3 included. Its owner counts in it. Others take it for dead when the count has stood still
//! for the owner's lease *by their own clock* – clocks of hosts are never compared – or at once when it belongs to a
//! process of their own host and namespace that has ended.
//!
//! Whoever removes a claim, its owner too, first makes a marker (`O_EXCL`) that has the claim's token in its name: the
//! right to remove that claim and no other. So a process that was slow to act on what it saw cannot remove the claim of
//! another that came meanwhile.

mod holder;
mod watch;

use super::error::Error;
use super::process::{Process, host_name};
use crossbeam_channel::{RecvTimeoutError, bounded};
pub use holder::Seen;
use holder::{Holder, token};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::thread;
use std::time::Duration;
pub use watch::Watch;

/// Most bytes of a claim or note that are read.
const READ_MAX: u64 = 16 << 10;
/// Beats in a lease: that many may fail or come late before the owner seems dead.
const BEATS: u32 = 6;
/// What the name of a marker ends in.
pub const MARKER: &str = ".retire";

/// The directory of claims.
#[derive(Debug)]
pub struct Claims {
    dir: PathBuf,
    /// Found out when it matters: looking an image up should cost little.
    own: OnceLock<Process>,
    lease: Duration,
}

/// A claim that this process holds until it is released, or taken from it for dead.
#[derive(Debug)]
pub struct Claim<'c> {
    claims: &'c Claims,
    key: String,
    file: File,
    token: String,
}

impl Claims {
    /// In this directory, with that lease for new claims.
    pub fn new(dir: PathBuf, lease: Duration) -> Self {
        Self { dir, own: OnceLock::new(), lease }
    }

    /// This process.
    pub fn own(&self) -> &Process {
        self.own.get_or_init(Process::own)
    }

    /// Where they are.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Tries to become the one who converts; `None` when somebody else is.
    ///
    /// # Errors
    /// When the directory cannot be written.
    pub fn take(&self, key: &str) -> Result<Option<Claim<'_>>, Error> {
        let token = token().map_err(Error::file("read", "/dev/urandom"))?;
        let temporary = self.dir.join(format!(".{token}.{}.", self.own()));
        let holder = Holder {
            token: token.clone(),
            process: self.own().to_string(),
            host: host_name(),
            pid: std::process::id(),
            lease: self.lease.as_secs(),
        };
        let failed = || Error::file("create", &temporary);
        let mut file = OpenOptions::new().write(true).create_new(true).open(&temporary).map_err(failed())?;
        let written = file.write_all(&holder.encode(0)).and_then(|()| file.sync_data());
        let linked = written.and_then(|()| match fs::hard_link(&temporary, self.dir.join(key)) {
            // The reply of a server may be lost and the repeated request refused: the count of links tells.
            Err(_) if fs::symlink_metadata(&temporary).is_ok_and(|temporary| temporary.nlink() == 2) => Ok(()),
            result => result,
        });
        let _ = fs::remove_file(&temporary);
        match linked {
            Ok(()) => Ok(Some(Claim { claims: self, key: key.to_owned(), file, token })),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(None),
            Err(error) => Err(failed()(error)),
        }
    }

    /// What there is of a claim.
    ///
    /// # Errors
    /// When it is there and cannot be read.
    pub fn read(&self, key: &str) -> Result<Option<Seen>, Error> {
        // Opening anew each time is what has an NFS client ask the server.
        Ok(self.content(&self.dir.join(key))?.map(Seen::new))
    }

    fn content(&self, path: &Path) -> Result<Option<Vec<u8>>, Error> {
        let mut content = Vec::new();
        match File::open(path).and_then(|file| file.take(READ_MAX).read_to_end(&mut content)) {
            Ok(_) => Ok(Some(content)),
            Err(error) if is_absent(&error) => Ok(None),
            Err(error) => Err(Error::file("read", path)(error)),
        }
    }

    /// Removes the claim with that id, if it is still the one; false when it is not, or another is about to.
    ///
    /// # Errors
    /// When the directory cannot be written.
    pub fn retire(&self, key: &str, id: &str) -> Result<bool, Error> {
        let marker = self.marker(key, id);
        match OpenOptions::new().write(true).create_new(true).open(&marker) {
            // Without its content it is judged by time alone.
            Ok(mut file) => drop(file.write_all(self.own().to_string().as_bytes())),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                if self.process_in(&marker).is_some_and(|process| process.is_gone(self.own())) {
                    let _ = fs::remove_file(&marker);
                }
                return Ok(false);
            }
            Err(error) => return Err(Error::file("create", marker)(error)),
        }
        let removed = self.remove_if(key, id);
        let _ = fs::remove_file(&marker);
        removed
    }

    /// Removes what another left of its attempt to retire a claim.
    pub fn unmark(&self, key: &str, id: &str) {
        let _ = fs::remove_file(self.marker(key, id));
    }

    /// Which process wrote its name into a file.
    pub fn process_in(&self, path: &Path) -> Option<Process> {
        String::from_utf8(self.content(path).ok()??).ok()?.parse().ok()
    }

    /// Leaves word for those who wait that the source cannot be converted by anybody.
    pub fn note_failure(&self, claim: &Claim<'_>, source: &str, message: &str) {
        let note = holder::Failure {
            token: claim.token.clone(),
            host: host_name(),
            source: source.to_owned(),
            message: message.chars().take(4096).collect(),
        };
        // Those who hear nothing find out themselves.
        let Ok(json) = serde_json::to_vec(&note) else { return };
        let _ = super::small::write(&self.failure_path(&claim.key), &json, self.own());
    }

    /// What the owner with this token found wrong with this source: its host and error.
    pub fn failure(&self, key: &str, token: &str, source: &str) -> Option<(String, String)> {
        let content = self.content(&self.failure_path(key)).ok()??;
        let note: holder::Failure = serde_json::from_slice(&content).ok()?;
        (note.token == token && note.source == source).then_some((note.host, note.message))
    }

    /// Removes such word, since it turned out otherwise.
    pub fn forget_failure(&self, key: &str) {
        let _ = fs::remove_file(self.failure_path(key));
    }

    fn failure_path(&self, key: &str) -> PathBuf {
        self.dir.join(format!("{key}.failed"))
    }

    fn marker(&self, key: &str, id: &str) -> PathBuf {
        self.dir.join(format!("{key}.{id}{MARKER}"))
    }

    fn remove_if(&self, key: &str, id: &str) -> Result<bool, Error> {
        if self.read(key)?.is_none_or(|seen| seen.id != id) {
            return Ok(false);
        }
        let path = self.dir.join(key);
        match fs::remove_file(&path) {
            Ok(()) => Ok(true),
            Err(error) if is_absent(&error) => Ok(false),
            Err(error) => Err(Error::file("remove", path)(error)),
        }
    }
}

impl Claim<'_> {
    /// Tells this claim from all others.
    pub fn token(&self) -> &str {
        &self.token
    }

    /// Does `work`, and meanwhile keeps the claim alive.
    pub fn while_beating<T>(&self, work: impl FnOnce() -> T) -> T {
        let (stop, stopped) = bounded::<()>(0);
        let interval = (self.claims.lease / BEATS).max(Duration::from_millis(1));
        thread::scope(|scope| {
            let beat = move || {
                let mut count = 0;
                while stopped.recv_timeout(interval) == Err(RecvTimeoutError::Timeout) {
                    count += 1;
                    self.beat(count);
                }
            };
            // Without it the work goes on: at worst somebody else does it, too.
            let _ = thread::Builder::new().name("store-beat".into()).spawn_scoped(scope, beat);
            let result = work();
            drop(stop);
            result
        })
    }

    /// One that cannot be written is missed by others, who then judge.
    fn beat(&self, count: u64) {
        let beat = Holder::beat(count);
        let _ = self.file.write_all_at(beat.as_bytes(), 0).and_then(|()| self.file.sync_data());
    }

    /// Whether nobody took it for dead.
    ///
    /// # Errors
    /// When that cannot be read.
    pub fn is_mine(&self) -> Result<bool, Error> {
        Ok(self.claims.read(&self.key)?.is_some_and(|seen| seen.id == self.token))
    }

    /// Gives it up.
    pub fn release(self) {
        // Where not even a marker can be made, a small risk is better than a claim that all others have to outwait.
        if self.claims.retire(&self.key, &self.token).is_err() {
            let _ = self.claims.remove_if(&self.key, &self.token);
        }
    }
}

/// No such file; on NFS one that went while it was being looked at.
pub fn is_absent(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(rustix::io::Errno::STALE.raw_os_error())
}

#[cfg(test)]
mod tests;
