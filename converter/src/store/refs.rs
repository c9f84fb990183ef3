//! Names of stored images: small files that say which image a name stands for on an architecture.

use super::claim::is_absent;
use super::error::Error;
use super::key::is_key;
use super::process::Process;
use super::{small, visible};
use crate::digest::Digest;
use crate::source::Source;
use serde::{Deserialize, Serialize};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Longest name, in bytes.
const NAME_MAX: usize = 1024;

/// What a name stands for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ref {
    /// The name: what a source is called, or what the caller wanted.
    pub name: String,
    /// Go's spelling; what was asked for.
    pub architecture: String,
    /// The image's key.
    pub key: String,
    /// [`stamp`] of the source, when that is a file of this host that may change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stamp: Option<String>,
    /// Token of the claim under which it was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
}

/// Names in one store.
#[derive(Debug)]
pub struct Refs(pub PathBuf);

impl Refs {
    fn path(&self, name: &str, architecture: &str) -> PathBuf {
        self.0.join(Digest::of(format!("{architecture}\n{name}").as_bytes()).hex())
    }

    /// What the name stands for.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn read(&self, name: &str, architecture: &str) -> Result<Option<Ref>, Error> {
        let found: Option<Ref> = small::read_json(&self.path(name, architecture))?;
        Ok(found.filter(|found| found.name == name && found.architecture == architecture && is_key(&found.key)))
    }

    /// Has the name stand for that.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, new: &Ref, own: &Process) -> Result<(), Error> {
        // Of many who pull at once one writes.
        let same = |old: Ref| (old.key, old.stamp) == (new.key.clone(), new.stamp.clone());
        if new.by.is_none() && self.read(&new.name, &new.architecture)?.is_some_and(same) {
            return Ok(());
        }
        small::write_json(&self.path(&new.name, &new.architecture), new, own)
    }

    /// Waits until a name that another host may just have made is seen on this one.
    ///
    /// # Errors
    /// When the directory cannot be read or written.
    pub fn await_name(&self, name: &str, architecture: &str, own: &Process) -> Result<(), Error> {
        let probe = self.0.join(format!(".probe.{own}."));
        fs::write(&probe, "").map_err(Error::file("create", &probe))?;
        let _ = fs::remove_file(&probe);
        visible::is_there(&self.path(name, architecture)).map(drop)
    }

    /// Has the name stand for nothing; false when it did.
    ///
    /// # Errors
    /// When that cannot be written.
    pub fn remove(&self, name: &str, architecture: &str) -> Result<bool, Error> {
        let path = self.path(name, architecture);
        match fs::remove_file(&path) {
            Ok(()) => Ok(true),
            Err(error) if is_absent(&error) => Ok(false),
            Err(error) => Err(Error::file("remove", path)(error)),
        }
    }

    /// All of them, by name.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn list(&self) -> Result<Vec<Ref>, Error> {
        let mut refs = Vec::new();
        for path in entries(&self.0)? {
            // A file that cannot be read names nothing, as one that is no name.
            let found: Option<Ref> = small::read_json(&path).ok().flatten();
            refs.extend(
                found.filter(|found| is_key(&found.key) && self.path(&found.name, &found.architecture) == path),
            );
        }
        refs.sort_by(|a, b| (&a.name, &a.architecture).cmp(&(&b.name, &b.architecture)));
        Ok(refs)
    }
}

/// The entries of a directory, none when it does not exist.
///
/// # Errors
/// When it cannot be read.
pub fn entries(dir: &Path) -> Result<Vec<PathBuf>, Error> {
    match fs::read_dir(dir) {
        Ok(entries) => {
            let paths = entries.map(|entry| entry.map(|entry| entry.path()));
            paths.collect::<Result<_, _>>().map_err(Error::file("read", dir))
        }
        Err(error) if is_absent(&error) => Ok(Vec::new()),
        Err(error) => Err(Error::file("read", dir)(error)),
    }
}

/// Refuses names that could not be told from other things that a caller may write.
///
/// # Errors
/// What is wrong with it.
pub fn check(name: &str) -> Result<(), Error> {
    let reason = if name.is_empty() {
        "it is empty"
    } else if name.len() > NAME_MAX {
        "it is too long"
    } else if name.starts_with('-') {
        "it looks like an option"
    } else if name.starts_with(['/', '.']) {
        "it looks like a path"
    } else if name.chars().any(|c| c.is_control() || c.is_whitespace()) {
        "it has spaces or control characters"
    } else {
        return Ok(());
    };
    Err(Error::Name { name: name.to_owned(), reason })
}

/// The name under which a source's image is stored unless it gets another: paths in it are absolute.
pub fn reference(source: &Source) -> String {
    let absolute = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.into());
    let mut source = source.clone();
    match &mut source {
        Source::OciLayout { dir: path, .. } | Source::Directory { dir: path } => *path = absolute(path),
        Source::OciArchive { file: path, .. }
        | Source::DockerArchive { file: path, .. }
        | Source::Tar { file: path }
        | Source::Squashfs { file: path, .. }
        | Source::Sif { file: path } => *path = absolute(path),
        Source::Registry { .. }
        | Source::Artifact { .. }
        | Source::DockerDaemon { .. }
        | Source::ContainersStorage { .. } => {}
    }
    source.to_string()
}

/// What changes when a source of this host changes, except a directory's content far down; none when that cannot be told.
///
/// A name of a local file means something else on another host that shares the store, and the stamp tells that, too.
pub fn stamp(source: &Source) -> Option<String> {
    let path = match source {
        Source::OciLayout { dir, .. } => dir.join("index.json"),
        Source::Directory { dir: path }
        | Source::OciArchive { file: path, .. }
        | Source::DockerArchive { file: path, .. }
        | Source::Tar { file: path }
        | Source::Squashfs { file: path, .. }
        | Source::Sif { file: path } => path.clone(),
        Source::Registry { .. }
        | Source::Artifact { .. }
        | Source::DockerDaemon { .. }
        | Source::ContainersStorage { .. } => return None,
    };
    let file = fs::metadata(path).ok().filter(|file| file.is_file() || file.is_dir())?;
    Some(format!("{}-{}-{}-{}", file.ino(), file.len(), file.mtime(), file.mtime_nsec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_to_keys_by_architecture() {
        let dir = tempfile::tempdir().unwrap();
        let (refs, own) = (Refs(dir.path().join("refs")), Process::own());
        assert!(refs.list().unwrap().is_empty() && refs.read("a", "amd64").unwrap().is_none());
        fs::create_dir(&refs.0).unwrap();
        let key = Digest::of(b"").hex();
        let new = Ref { name: "a/b:c".into(), architecture: "amd64".into(), key, stamp: None, by: None };
        refs.write(&new, &own).unwrap();
        let changed = Ref { key: Digest::of(b"x").hex(), ..new.clone() };
        refs.write(&changed, &own).unwrap();
        refs.write(&Ref { architecture: "arm64".into(), ..new.clone() }, &own).unwrap();
        assert_eq!(refs.read("a/b:c", "amd64").unwrap(), Some(changed));
        // What is no name of ours is passed over.
        fs::write(refs.0.join("x"), "{}").unwrap();
        fs::write(refs.path("bad", "amd64"), r#"{"name":"bad","architecture":"amd64","key":"../../x"}"#).unwrap();
        fs::write(refs.path("half", "amd64"), r#"{"name":"half","arch"#).unwrap();
        assert_eq!(refs.list().unwrap().len(), 2);
        assert!(refs.read("bad", "amd64").unwrap().is_none() && refs.read("half", "amd64").unwrap().is_none());
        assert!(refs.remove("a/b:c", "amd64").unwrap() && !refs.remove("a/b:c", "amd64").unwrap());
    }

    #[test]
    fn names_that_look_like_something_else_are_refused() {
        for good in ["app", "lab/app:1.2", "docker://debian:12", "oci:/x:1", "größe"] {
            assert!(check(good).is_ok(), "{good}");
        }
        for bad in ["", "-x", "/x", "./x", ".x", "a b", "a\nb", &"x".repeat(1025)] {
            assert!(check(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn references_have_absolute_paths_and_stamps_change_with_the_file() {
        let here = std::env::current_dir().unwrap();
        let name = |source: &str| reference(&source.parse().unwrap());
        assert_eq!(name("oci:layout:1.2"), format!("oci:{}/layout:1.2", here.display()));
        assert_eq!(name("tar:/x.tar"), "tar:/x.tar");
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("x");
        let source = Source::Tar { file: file.clone() };
        assert_eq!(stamp(&source), None);
        fs::write(&file, "1").unwrap();
        let first = stamp(&source);
        fs::write(&file, "12").unwrap();
        assert!(first.is_some() && stamp(&source) != first);
    }
}
