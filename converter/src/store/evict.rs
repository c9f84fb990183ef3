//! Removing images, by name and by what is used least. A program that runs from an image goes on: it has the file open.

use super::error::Error;
use super::list::Image;
use super::metadata::seconds;
use super::refs::entries;
use super::{Store, key};
use serde::Serialize;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// Fewest digits of a key that are an id: shorter ones are too easily names.
const ID_MIN: usize = 6;
/// Age at which a blob that nothing has read since goes, unless told otherwise. It only saves a download.
const BLOB_AGE: Duration = Duration::from_secs(30 * 24 * 3600);
/// Age under which an image without a name may be about to get one.
const NAMING: Duration = Duration::from_secs(600);

/// What to remove.
#[derive(Clone, Debug, Default)]
pub struct Policy {
    /// Images and blobs that were not used for so long.
    pub older_than: Option<Duration>,
    /// The least recently used images and blobs, until no more bytes are left.
    pub max_size: Option<u64>,
    /// All images and blobs.
    pub all: bool,
    /// Only say what would be removed.
    pub dry_run: bool,
    /// Leave what is without a name, or left by dead processes.
    pub evict_only: bool,
    /// The key of an image that stays in any case.
    pub keep: Option<String>,
}

/// An image that was removed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Removed {
    /// Its key.
    pub key: String,
    /// What it was called.
    pub names: Vec<String>,
    /// Bytes.
    pub size: u64,
    /// Whether the file is gone: it stays as long as it has another name.
    pub gone: bool,
}

/// What was removed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Pruned {
    /// Images.
    pub images: Vec<Removed>,
    /// Number of blobs.
    pub blobs: usize,
    /// Number of files that dead processes left.
    pub leftovers: usize,
    /// Bytes of all of that.
    pub bytes: u64,
}

/// Something that may be evicted.
enum Unit {
    Image(Box<Image>),
    Blob(PathBuf),
}

struct Candidate {
    last_used: u64,
    size: u64,
    unit: Unit,
}

impl Store {
    /// Removes a name, and the image if that was its last; or by id an image with all its names.
    ///
    /// # Errors
    /// When there is none, or it cannot be removed.
    pub fn remove(&self, name: &str) -> Result<Removed, Error> {
        let images = self.list()?.into_iter().filter(|image| !image.shared || !image.names.is_empty());
        let images = images.collect::<Vec<_>>();
        let named = |image: &&Image| image.names.iter().any(|one| one.name == name);
        if let Some(image) = images.iter().find(named) {
            let mut removed = false;
            for one in image.names.iter().filter(|one| one.name == name) {
                removed |= self.refs.remove(&one.name, &one.architecture)?;
            }
            // A name in another's store stays, and so does its image.
            if !removed {
                return Err(Error::NotStored { name: name.to_owned(), dir: self.dir.clone() });
            }
            let gone = !image.shared && image.names.iter().all(|one| one.name == name);
            if gone {
                self.unlink(&image.path)?;
            }
            return Ok(Removed { key: image.key.clone(), names: vec![name.to_owned()], size: image.size, gone });
        }
        let id = name.len() >= ID_MIN && name.bytes().all(|digit| digit.is_ascii_hexdigit());
        let mut found = images.iter().filter(|image| id && !image.shared && image.key.starts_with(name));
        match (found.next(), found.next()) {
            (Some(image), None) => self.remove_image(image, false),
            (Some(_), Some(_)) => Err(Error::Ambiguous { name: name.to_owned() }),
            (None, _) => Err(Error::NotStored { name: name.to_owned(), dir: self.dir.clone() }),
        }
    }

    /// Removes what the policy says; without any, images without a name, old blobs, and what dead processes left.
    ///
    /// # Errors
    /// When the store cannot be read, or something not be removed.
    pub fn prune(&self, policy: &Policy) -> Result<Pruned, Error> {
        let mut pruned = Pruned::default();
        if !policy.evict_only {
            let left = self.left(None)?;
            pruned.leftovers = left.len();
            pruned.bytes = left.iter().map(|left| left.bytes).sum();
            if !policy.dry_run {
                self.sweep(&left);
            }
        }
        let mut candidates = self.candidates()?;
        candidates.sort_by_key(|candidate| candidate.last_used);
        let mut total: u64 = candidates.iter().map(|candidate| candidate.size).sum();
        for candidate in candidates {
            if !policy.wants(&candidate, total) {
                continue;
            }
            let removed = match candidate.unit {
                Unit::Image(image) if !policy.all && image.names.is_empty() && self.is_in_the_making(&image)? => {
                    continue;
                }
                Unit::Image(image) => {
                    self.remove_image(&image, policy.dry_run).map(|removed| pruned.images.push(removed))
                }
                Unit::Blob(path) => {
                    let removed = if policy.dry_run { Ok(()) } else { self.unlink(&path) };
                    removed.map(|()| pruned.blobs += 1)
                }
            };
            match removed {
                Ok(()) => {}
                // What is another user's cannot be evicted for an image of the caller's.
                Err(_) if policy.evict_only => continue,
                Err(error) => return Err(error),
            }
            total -= candidate.size;
            pruned.bytes += candidate.size;
        }
        if !policy.evict_only && !policy.dry_run {
            self.remove_dangling_names()?;
        }
        Ok(pruned)
    }

    /// Whether an image that had no name when it was looked at may be about to get one, or has got it.
    fn is_in_the_making(&self, image: &Image) -> Result<bool, Error> {
        let made = fs::metadata(&image.path).and_then(|file| file.modified()).map(seconds).unwrap_or_default();
        let age = seconds(SystemTime::now()).saturating_sub(made);
        let claimed =
            || self.claims.read(&image.key).map(|seen| seen.is_some_and(|seen| !seen.is_gone(self.claims.own())));
        Ok(age < NAMING.as_secs() || claimed()? || self.refs.list()?.iter().any(|one| one.key == image.key))
    }

    fn candidates(&self) -> Result<Vec<Candidate>, Error> {
        let images = self.list()?.into_iter().filter(|image| !image.shared);
        let candidate = |image: Image| Candidate {
            last_used: image.last_used,
            size: image.size,
            unit: Unit::Image(Box::new(image)),
        };
        let mut candidates = images.map(candidate).collect::<Vec<_>>();
        for path in entries(&self.blobs_dir())? {
            let blob = path.file_name().and_then(|name| name.to_str()).is_some_and(key::is_key);
            let Some(file) = fs::metadata(&path).ok().filter(|_| blob) else { continue };
            let used = file.accessed().into_iter().chain(file.modified()).max().map(seconds).unwrap_or_default();
            candidates.push(Candidate { last_used: used, size: file.len(), unit: Unit::Blob(path) });
        }
        Ok(candidates)
    }

    fn remove_image(&self, image: &Image, dry_run: bool) -> Result<Removed, Error> {
        if !dry_run {
            // Names first: none shall lead nowhere.
            for one in &image.names {
                self.refs.remove(&one.name, &one.architecture)?;
            }
            self.unlink(&image.path)?;
        }
        let names = image.names.iter().map(|one| one.name.clone()).collect();
        Ok(Removed { key: image.key.clone(), names, size: image.size, gone: true })
    }

    /// Removes an image with what is noted of it, or a blob.
    pub(super) fn unlink(&self, path: &Path) -> Result<(), Error> {
        for path in [path.to_path_buf(), path.with_extension("json")] {
            match fs::remove_file(&path) {
                Err(error) if !super::claim::is_absent(&error) => return Err(Error::file("remove", path)(error)),
                _ => {}
            }
        }
        Ok(())
    }

    /// Names of images that somebody removed in another way.
    fn remove_dangling_names(&self) -> Result<(), Error> {
        for one in self.refs.list()? {
            if self.find(&one.key).is_none() {
                self.refs.remove(&one.name, &one.architecture)?;
            }
        }
        Ok(())
    }
}

impl Policy {
    fn wants(&self, candidate: &Candidate, total: u64) -> bool {
        let (named, blob) = match &candidate.unit {
            Unit::Image(image) if self.keep.as_ref() == Some(&image.key) => return false,
            Unit::Image(image) => (!image.names.is_empty(), false),
            Unit::Blob(_) => (true, true),
        };
        let age = seconds(SystemTime::now()).saturating_sub(candidate.last_used);
        let older = |limit: Duration| age > limit.as_secs();
        self.all
            || self.max_size.is_some_and(|max| total > max)
            || self.older_than.is_some_and(older)
            || (!self.evict_only && (!named || (blob && self.older_than.is_none() && older(BLOB_AGE))))
    }
}
