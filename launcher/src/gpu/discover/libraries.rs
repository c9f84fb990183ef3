//! Finds libraries by the names that the loader knows them by.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use super::{Error, Found, Library, Root, Wanted, library_of};
use crate::gpu::table::{self, Capability};
use crate::libraries::Abi;
use crate::libraries::cache::{self, Cache};

/// The host's libraries by the stem of their names.
pub(super) struct Known {
    /// Name and path, in the loader's order; those that no cache lists come last.
    by_stem: HashMap<String, Vec<(String, PathBuf)>>,
    /// The cache could not be used.
    problem: Option<String>,
}

/// `libcuda.so` of `libcuda.so.1`.
fn stem(name: &str) -> Option<&str> {
    if name.ends_with(".so") {
        return Some(name);
    }
    name.find(".so.").and_then(|at| name.get(..at + 3))
}

impl Known {
    pub(super) fn read(root: &Root, wanted: &Wanted) -> Self {
        let mut known = Self { by_stem: HashMap::new(), problem: None };
        let abis: Vec<Abi> = abis(wanted).collect();
        match root.read(Path::new(cache::PATH)).map(|bytes| Cache::parse(&bytes)) {
            Some(Ok(cache)) => {
                for entry in cache.entries().iter().filter(|entry| abis.iter().any(|abi| entry.is_for(*abi))) {
                    if let Some(name) = entry.soname.to_str() {
                        known.add(name, entry.path.clone());
                    }
                }
            }
            Some(Err(error)) => {
                known.problem = Some(format!("cannot read the loader's cache {}: {error}", cache::PATH));
            }
            None => known.problem = Some(format!("there is no loader's cache {}", cache::PATH)),
        }
        for directory in table::LIBRARY_DIRECTORIES {
            known.add_directory(root, Path::new(directory));
        }
        if known.problem.is_some() {
            for directory in wanted.abi.directories() {
                known.add_directory(root, Path::new(directory));
            }
        }
        known
    }

    fn add(&mut self, name: &str, path: PathBuf) {
        if let Some(stem) = stem(name) {
            self.by_stem.entry(stem.to_owned()).or_default().push((name.to_owned(), path));
        }
    }

    /// Takes in what a directory has.
    pub(super) fn add_directory(&mut self, root: &Root, directory: &Path) {
        for name in root.list(directory) {
            self.add(&name, directory.join(&name));
        }
    }

    fn candidates(&self, stem: &str) -> impl Iterator<Item = &(String, PathBuf)> {
        self.by_stem.get(stem).into_iter().flatten()
    }

    /// Adds to `found` the libraries of `rows`. `module` is the kernel module's version, if it is known.
    pub(super) fn find(
        &self,
        root: &Root,
        wanted: &Wanted,
        rows: &[table::Library],
        module: Option<&str>,
        found: &mut Found,
    ) -> Result<(), Error> {
        found.notes.extend(self.problem.clone());
        for abi in abis(wanted) {
            for row in rows.iter().filter(|row| wanted.capabilities.contains(&row.capability)) {
                self.find_row(root, abi, row, module, found)?;
            }
        }
        Ok(())
    }

    /// All libraries of one row: usually one, but their names may have versions that differ.
    fn find_row(
        &self,
        root: &Root,
        abi: Abi,
        row: &table::Library,
        module: Option<&str>,
        found: &mut Found,
    ) -> Result<(), Error> {
        let mut seen: Vec<(String, PathBuf)> = Vec::new();
        let mut other: Option<(String, PathBuf)> = None;
        for (_, path) in self.candidates(row.stem) {
            let Some(real) = root.real(path).filter(|real| seen.iter().all(|(_, path)| path != real)) else { continue };
            let elf = match library_of(root, &real, abi) {
                Ok(Some(elf)) => elf,
                Ok(None) => continue,
                Err(error) => {
                    found.notes.push(format!("left out {}: {error}", real.display()));
                    continue;
                }
            };
            let version = row.versioned.then(|| version_of(&real)).flatten();
            if let (Some(version), Some(module)) = (&version, module)
                && version != module
            {
                other.get_or_insert_with(|| (version.clone(), real.clone()));
                continue;
            }
            let soname = elf.soname.clone().unwrap_or_else(|| file_name(path));
            // The first is what the loader takes, too.
            let known = |library: &Library| library.soname == soname && library.abi == abi;
            if seen.iter().any(|(name, _)| *name == soname) || found.libraries.iter().any(known) {
                continue;
            }
            seen.push((soname.clone(), real.clone()));
            found.libraries.push(Library {
                also: row.also.iter().filter(|name| **name != soname).map(|name| (*name).to_owned()).collect(),
                path: real,
                soname,
                abi,
                capability: row.capability,
                whose: row.whose,
                group: row.group.map(str::to_owned),
                essential: row.essential,
                version,
                reason: row.reason.to_owned(),
                elf,
            });
        }
        match (other, module) {
            (Some((library, path)), Some(module)) if seen.is_empty() && row.essential => {
                Err(Error::Versions { module: module.to_owned(), library, path })
            }
            (Some((library, path)), Some(module)) => {
                found.notes.push(format!(
                    "left out {}: it is of version {library}, the kernel module of {module}",
                    path.display()
                ));
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

fn abis(wanted: &Wanted) -> impl Iterator<Item = Abi> {
    let compat = wanted.capabilities.contains(&Capability::Compat32).then(|| wanted.abi.compat32()).flatten();
    std::iter::once(wanted.abi).chain(compat)
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// The driver's version at the end of a file's name. Versions of an interface, as in `libcuda.so.1.1`, are smaller.
pub(super) fn version_of(path: &Path) -> Option<String> {
    let name = path.file_name()?.to_str()?;
    let version = name.split_once(".so.")?.1;
    let mut parts = version.split('.');
    let major: u32 = parts.next()?.parse().ok()?;
    let rest: Vec<&str> = parts.collect();
    let numbers = rest.iter().all(|part| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit()));
    (major >= 100 && numbers && !rest.is_empty()).then(|| version.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stems_and_versions() {
        assert_eq!(stem("libcuda.so.1"), Some("libcuda.so"));
        assert_eq!(stem("libcuda.so"), Some("libcuda.so"));
        assert_eq!(stem("libnvidia-glcore.so.550.54.15"), Some("libnvidia-glcore.so"));
        assert_eq!(stem("ld-linux-x86-64.so.2"), Some("ld-linux-x86-64.so"));
        assert_eq!(stem("README"), None);
        let version = |name: &str| version_of(Path::new(name));
        assert_eq!(version("/usr/lib/libcuda.so.550.54.15").as_deref(), Some("550.54.15"));
        assert_eq!(version("/usr/lib/libcuda.so.470.82").as_deref(), Some("470.82"));
        assert_eq!(version("/usr/lib/libcuda.so.1"), None);
        assert_eq!(version("/usr/lib/libcuda.so.1.1"), None);
        assert_eq!(version("/usr/lib/libnvidia-egl-gbm.so.1.1.1"), None);
        assert_eq!(version("/usr/lib/libcuda.so"), None);
    }
}
