//! Where the states of instances are: beside the sockets of sessions, in a directory that is the caller's alone.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{AtFlags, Mode, OFlags, openat, renameat, unlinkat};
use rustix::io::Errno;

use super::process::proc;
use super::record::boot;
use super::{Error, Process, Record, State};
use crate::session::Place;

/// What the name of a state ends in. `/tmp` may be shared between nodes, so that of the node is in it; `@` is in no instance's name.
const SUFFIX: &str = ".instance";
/// Namespaces that are noted.
const KINDS: [&str; 6] = ["user", "mnt", "pid", "ipc", "uts", "net"];

/// The caller's instances on this node.
#[derive(Debug)]
pub struct Directory {
    place: Place,
    suffix: String,
}

impl Directory {
    /// Opens it; made if it is not there.
    ///
    /// # Errors
    /// When there can be none.
    pub fn open() -> Result<Self, Error> {
        let place = Place::own().map_err(Error::Place)?.ok_or(Error::NoPlace)?;
        Ok(Self { place, suffix: format!("@{}{SUFFIX}", host()) })
    }

    fn file(&self, name: &str) -> String {
        format!("{name}{}", self.suffix)
    }

    /// All instances, by name.
    ///
    /// # Errors
    /// When the directory cannot be read. A file that is none of ours is left out.
    pub fn all(&self) -> Result<Vec<Record>, Error> {
        let names = self.place.names_with(&self.suffix).map_err(Error::Place)?;
        let name = |file: &String| file.strip_suffix(&self.suffix).map(str::to_owned);
        names.iter().filter_map(name).filter_map(|name| self.read(&name).transpose()).collect()
    }

    /// The instance of this name, whether it runs or not.
    ///
    /// # Errors
    /// When its state cannot be read.
    pub fn read(&self, name: &str) -> Result<Option<Record>, Error> {
        let failed = |cause: io::Error| Error::State { what: "read", name: name.to_owned(), cause };
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let file = match openat(&self.place, self.file(name), flags, Mode::empty()) {
            Ok(file) => file,
            Err(Errno::NOENT) => return Ok(None),
            Err(cause) => return Err(failed(cause.into())),
        };
        let mut text = String::new();
        File::from(file).read_to_string(&mut text).map_err(failed)?;
        serde_json::from_str(&text).map(Some).map_err(|cause| failed(cause.into()))
    }

    /// The instance of this name, which has to run.
    ///
    /// # Errors
    /// When it does not.
    pub fn running(&self, name: &str) -> Result<(Record, OwnedFd), Error> {
        super::check_name(name)?;
        let record = self.read(name)?.ok_or_else(|| Error::Unknown { name: name.to_owned() })?;
        let process = record.process.open().filter(|_| record.state() == State::Running);
        let process = process.ok_or_else(|| Error::Dead { name: name.to_owned() })?;
        Ok((record, process))
    }

    /// Takes the name for an instance that this process is about to start. One of two that want it at once gets it.
    ///
    /// # Errors
    /// [`Error::Taken`], or when the state cannot be written.
    pub fn claim(&self, record: &Record) -> Result<(), Error> {
        let _lock = self.place.lock().map_err(Error::Place)?;
        // One that cannot be read is no reason never to use the name again.
        if let Ok(Some(other)) = self.read(&record.name)
            && other.is_there()
        {
            return Err(Error::Taken { name: record.name.clone(), pid: other.process.pid });
        }
        self.write(record)
    }

    fn write(&self, record: &Record) -> Result<(), Error> {
        let failed = |cause: io::Error| Error::State { what: "write", name: record.name.clone(), cause };
        let (name, new) = (self.file(&record.name), format!("{}.{}", self.file(&record.name), std::process::id()));
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let write = || -> io::Result<()> {
            let mut file = File::from(openat(&self.place, &new, flags, Mode::from_raw_mode(0o600))?);
            file.write_all(&serde_json::to_vec_pretty(record)?)?;
            Ok(renameat(&self.place, &new, &self.place, &name)?)
        };
        write().map_err(|cause| {
            let _ = unlinkat(&self.place, &new, AtFlags::empty());
            failed(cause)
        })
    }

    /// Removes the state of this very instance; another one of its name stays.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub fn remove(&self, record: &Record) -> Result<(), Error> {
        let failed = |cause| Error::State { what: "remove", name: record.name.clone(), cause };
        let _lock = self.place.lock().map_err(Error::Place)?;
        match self.read(&record.name) {
            Ok(Some(other)) if other.supervisor != record.supervisor || other.boot != record.boot => Ok(()),
            _ => self.place.remove(&self.file(&record.name)).map_err(failed),
        }
    }

    /// What notes that the container of `record` has its process 1. It needs no path: it is called where paths may lead elsewhere.
    ///
    /// # Errors
    /// When `/proc` is not there.
    pub fn note(self, record: Record) -> io::Result<impl Fn(i32) -> io::Result<()>> {
        let proc = proc()?;
        Ok(move |pid: i32| {
            let process = Process::find(&proc, pid)?;
            let inode = |kind: &str| {
                let path = format!("{pid}/ns/{kind}");
                let namespace = openat(&proc, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).ok()?;
                Some((kind.to_owned(), rustix::fs::fstat(namespace.as_fd()).ok()?.st_ino))
            };
            let namespaces = KINDS.iter().filter_map(|kind| inode(kind)).collect();
            let record = Record { process, namespaces, starting: false, ..record.clone() };
            self.write(&record).map_err(io::Error::other)
        })
    }
}

/// This node's name.
#[must_use]
pub fn host() -> String {
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let plain = |letter: char| if letter.is_ascii_alphanumeric() || "-._".contains(letter) { letter } else { '_' };
    name.chars().map(plain).collect()
}

impl Record {
    /// Fills in who and when.
    ///
    /// # Errors
    /// When `/proc` is not there.
    pub fn by_this_process(self) -> io::Result<Self> {
        let own = Process::own()?;
        Ok(Self { process: own, supervisor: own, starting: true, boot: boot(), ..self })
    }
}
