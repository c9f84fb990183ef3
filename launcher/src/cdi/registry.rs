//! The CDI files of a host, and which file's device counts where several have it.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::Error;
use super::name::{ALL, Name};
use super::spec::{Device, Malformed, Spec};

/// Where the files are by the specification; what is in later ones counts before what is in earlier ones.
pub const DIRECTORIES: [&str; 2] = ["/etc/cdi", "/var/run/cdi"];
/// Most bytes that are read of a file.
const FILE_MAX: u64 = 8 << 20;

/// Why a file is of no use.
#[derive(Debug, thiserror::Error)]
pub enum Unusable {
    /// The system does not let it be read.
    #[error("{0}")]
    Read(#[from] io::Error),
    /// It is no CDI file.
    #[error("{0}")]
    Malformed(#[from] Malformed),
}

/// A file.
#[derive(Debug)]
pub struct File {
    /// Where.
    pub path: PathBuf,
    /// Position of its directory: higher ones count.
    pub priority: usize,
    /// What is in it.
    pub spec: Result<Spec, Unusable>,
}

/// All files.
#[derive(Debug, Default)]
pub struct Registry {
    /// By directory and name.
    pub files: Vec<File>,
    directories: Vec<PathBuf>,
}

/// A device, and where it is from.
#[derive(Clone, Copy, Debug)]
pub struct Entry<'a> {
    /// The file.
    pub path: &'a Path,
    priority: usize,
    /// Its content.
    pub spec: &'a Spec,
    /// The device.
    pub device: &'a Device,
}

/// A device of a listing.
#[derive(Clone, Copy, Debug)]
pub enum Listed<'a> {
    /// It can be asked for.
    Usable(Entry<'a>),
    /// Two files of one directory have it, so that none counts.
    Conflict(&'a Path, &'a Path),
}

/// Reads a file.
///
/// # Errors
/// When it cannot be read, or is no CDI file.
pub fn read(path: &Path) -> Result<Spec, Unusable> {
    let metadata = fs::metadata(path)?;
    if metadata.len() > FILE_MAX {
        return Err(Malformed("it has more than 8 MiB".to_owned()).into());
    }
    Ok(Spec::parse(&fs::read(path)?)?)
}

impl Registry {
    /// Reads the files of the specification's directories, then of `more`.
    #[must_use]
    pub fn read(more: &[PathBuf]) -> Self {
        Self::of(DIRECTORIES.iter().map(PathBuf::from).chain(more.iter().cloned()).collect())
    }

    /// Reads the files of these directories. One that is not there has none.
    #[must_use]
    pub fn of(directories: Vec<PathBuf>) -> Self {
        let mut files = Vec::new();
        for (priority, directory) in directories.iter().enumerate() {
            let is_spec =
                |path: &PathBuf| path.extension().is_some_and(|extension| extension == "json" || extension == "yaml");
            let entries = fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path());
            let mut paths: Vec<PathBuf> = entries.filter(is_spec).collect();
            paths.sort();
            files.extend(paths.into_iter().map(|path| File { spec: read(&path), path, priority }));
        }
        Self { files, directories }
    }

    fn entries(&self) -> impl Iterator<Item = (Name, Entry<'_>)> {
        let usable = self.files.iter().filter_map(|file| Some((file, file.spec.as_ref().ok()?)));
        usable.flat_map(|(file, spec)| {
            let (vendor, class) = spec.vendor_and_class();
            spec.devices.iter().map(move |device| {
                let name = Name { vendor: vendor.into(), class: class.into(), device: device.name.clone() };
                (name, Entry { path: &file.path, priority: file.priority, spec, device })
            })
        })
    }

    /// All devices by name.
    #[must_use]
    pub fn list(&self) -> BTreeMap<Name, Listed<'_>> {
        let mut listed: BTreeMap<Name, (usize, Listed<'_>)> = BTreeMap::new();
        for (name, entry) in self.entries() {
            let counts = match listed.get(&name) {
                Some((priority, Listed::Usable(other))) if *priority == entry.priority => {
                    Listed::Conflict(other.path, entry.path)
                }
                // The files come by directory, so what comes later counts.
                Some((priority, conflict)) if *priority == entry.priority => *conflict,
                _ => Listed::Usable(entry),
            };
            listed.insert(name, (entry.priority, counts));
        }
        listed.into_iter().map(|(name, (_, listed))| (name, listed)).collect()
    }

    /// Files that are of no use, a sentence each.
    pub fn complaints(&self) -> impl Iterator<Item = String> {
        let broken = self.files.iter().filter_map(|file| Some((file, file.spec.as_ref().err()?)));
        broken.map(|(file, error)| format!("cannot use the CDI file {}: {error}", file.path.display()))
    }

    /// The devices that `asked` names: one, or for `all` every one of the kind.
    ///
    /// # Errors
    /// When there is none, with those that there are, or when two files have it.
    pub fn find(&self, asked: &Name) -> Result<Vec<(Name, Entry<'_>)>, Error> {
        let listed = self.list();
        let conflict = |name: &Name, one: &Path, other: &Path| {
            Err(Error::Conflict { device: name.to_string(), one: one.into(), other: other.into() })
        };
        match listed.get(asked) {
            Some(Listed::Usable(entry)) => return Ok(vec![(asked.clone(), *entry)]),
            Some(Listed::Conflict(one, other)) => return conflict(asked, one, other),
            None => {}
        }
        let mut found = Vec::new();
        if asked.device == ALL {
            for (name, listed) in listed.iter().filter(|(name, _)| asked.is_of_kind(name)) {
                match listed {
                    Listed::Usable(entry) => found.push((name.clone(), *entry)),
                    Listed::Conflict(one, other) => return conflict(name, one, other),
                }
            }
        }
        if found.is_empty() { Err(self.unknown(asked, &listed)) } else { Ok(found) }
    }

    fn unknown(&self, asked: &Name, listed: &BTreeMap<Name, Listed<'_>>) -> Error {
        let of_kind: Vec<String> =
            listed.keys().filter(|name| asked.is_of_kind(name)).map(ToString::to_string).collect();
        let known = if of_kind.is_empty() { listed.keys().map(ToString::to_string).collect() } else { of_kind };
        Error::Unknown {
            device: asked.to_string(),
            known,
            directories: self.directories.clone(),
            broken: self.complaints().collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(kind: &str, names: &[&str]) -> String {
        let devices: Vec<_> = names
            .iter()
            .map(|name| serde_json::json!({"name": name, "containerEdits": {"env": [format!("D={name}")]}}))
            .collect();
        serde_json::json!({"cdiVersion": "0.6.0", "kind": kind, "devices": devices}).to_string()
    }

    fn names(found: &[(Name, Entry<'_>)]) -> Vec<String> {
        found.iter().map(|(name, entry)| format!("{} {}", name.device, entry.path.display())).collect()
    }

    #[test]
    fn later_directories_count_and_conflicts_do_not() {
        let dir = tempfile::tempdir().unwrap();
        let (low, high) = (dir.path().join("low"), dir.path().join("high"));
        fs::create_dir_all(&low).unwrap();
        fs::create_dir_all(&high).unwrap();
        fs::write(low.join("a.json"), file("v.com/c", &["x", "y", "z"])).unwrap();
        fs::write(low.join("b.yaml"), file("v.com/c", &["z", "y"])).unwrap();
        fs::write(high.join("a.json"), file("v.com/c", &["y"])).unwrap();
        fs::write(high.join("note.txt"), "no device").unwrap();
        let registry = Registry::of(vec![low.clone(), high.clone(), dir.path().join("absent")]);
        let find = |name: &str| registry.find(&Name::parse(name).unwrap());
        assert_eq!(names(&find("v.com/c=x").unwrap()), [format!("x {}", low.join("a.json").display())]);
        assert_eq!(names(&find("v.com/c=y").unwrap()), [format!("y {}", high.join("a.json").display())]);
        let conflict = find("v.com/c=z").unwrap_err().to_string();
        assert!(conflict.contains("a.json") && conflict.contains("b.yaml"), "{conflict}");
        assert!(find("v.com/c=all").is_err(), "one of all is in conflict");
        fs::write(low.join("b.yaml"), "kind: v.com/c\ndevices: []\n").unwrap();
        let registry = Registry::of(vec![low, high]);
        let all = registry.find(&Name::parse("v.com/c=all").unwrap()).unwrap();
        assert_eq!(all.iter().map(|(name, _)| name.device.as_str()).collect::<Vec<_>>(), ["x", "y", "z"]);
        assert_eq!(registry.complaints().count(), 1);
        let unknown = registry.find(&Name::parse("v.com/c=nine").unwrap()).unwrap_err().to_string();
        assert!(unknown.contains("v.com/c=x, v.com/c=y") && unknown.contains("b.yaml"), "{unknown}");
    }

    #[test]
    fn a_device_called_all_is_one() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("a.json"), file("v.com/c", &["0", "all"])).unwrap();
        let registry = Registry::of(vec![dir.path().to_path_buf()]);
        assert_eq!(registry.find(&Name::parse("v.com/c=all").unwrap()).unwrap().len(), 1);
        let none = Registry::of(Vec::new()).find(&Name::parse("v.com/c=0").unwrap()).unwrap_err().to_string();
        assert!(none.contains("there is no CDI device"), "{none}");
    }
}
