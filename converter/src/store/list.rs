//! What is stored.

use super::error::Error;
use super::key::is_key;
use super::metadata::{Metadata, seconds};
use super::refs::{Refs, entries};
use super::{Store, small};
use serde::Serialize;
use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

/// A stored image. The names are an interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Image {
    /// Its key; any beginning of it that no other has is its id.
    pub key: String,
    /// What it is called, by name and architecture. None when an image that somebody pulled anew left it without.
    pub names: Vec<Name>,
    /// The image file.
    pub path: PathBuf,
    /// Bytes.
    pub size: u64,
    /// Seconds since 1970, to the hour.
    pub last_used: u64,
    /// Whether it is in another's store, in which nothing is changed.
    pub shared: bool,
    /// What is noted of it; nothing when the process that made it was killed before.
    pub metadata: Metadata,
}

/// A name of an image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Name {
    /// The name.
    pub name: String,
    /// Architecture that it has the image on.
    pub architecture: String,
}

impl Store {
    /// All images, by their first names.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn list(&self) -> Result<Vec<Image>, Error> {
        let mut images: Vec<Image> = Vec::new();
        for dir in self.dirs() {
            let shared = dir != self.dir;
            // Images first: one that appears meanwhile must not look as if nobody had named it. What is wrong with a store
            // of others is no reason not to see the own one.
            let paths = match entries(&dir.join("images")) {
                Err(_) if shared => continue,
                paths => paths?,
            };
            let refs = match Refs(dir.join("refs")).list() {
                Err(_) if shared => continue,
                refs => refs?,
            };
            let mut names: HashMap<String, Vec<Name>> = HashMap::new();
            for one in refs {
                let name = Name { name: one.name, architecture: one.architecture };
                names.entry(one.key).or_default().push(name);
            }
            images.extend(paths.into_iter().filter_map(|path| image(path, &mut names, shared)));
            // A name of ours may be that of an image in another's store.
            for image in &mut images {
                image.names.extend(names.remove(&image.key).unwrap_or_default());
            }
        }
        images.sort_by(|a, b| (first(a), &a.key).cmp(&(first(b), &b.key)));
        Ok(images)
    }
}

/// Those without a name come last.
fn first(image: &Image) -> (bool, Option<&str>) {
    (image.names.is_empty(), image.names.first().map(|name| name.name.as_str()))
}

fn image(path: PathBuf, names: &mut HashMap<String, Vec<Name>>, shared: bool) -> Option<Image> {
    let name = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_suffix(".sqfs"));
    let key = name.filter(|key| is_key(key))?.to_owned();
    // Another process may remove it at any time.
    let file = fs::metadata(&path).ok()?;
    let noted = path.with_extension("json");
    let metadata = small::read_json::<Metadata>(&noted).ok().flatten().unwrap_or_default();
    let names = names.remove(&key).unwrap_or_default();
    Some(Image { names, size: file.len(), last_used: last_used(&noted, &file), shared, metadata, path, key })
}

fn last_used(noted: &Path, image: &fs::Metadata) -> u64 {
    let used = fs::metadata(noted).and_then(|noted| noted.modified());
    used.or_else(|_| image.modified()).map(seconds).unwrap_or_default()
}
