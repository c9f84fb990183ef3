//! How the libraries come into their directory in the container: as symbolic links into the host's directories, each of which is
//! bound once. A driver has thirty libraries or more in one directory, and a bind costs ten times what a link does.
//!
//! Nothing searches the host's directories there: neither the loader's cache nor a path names them, and the loader takes a library
//! to be where it found the link (`$ORIGIN`, `dladdr`).

use std::path::{Path, PathBuf};

use super::{Bind, Injection, directory};
use crate::gpu::discover::Library;
use crate::libraries::Abi;

/// Where the host's directories are in a container, by number.
pub const HOST: &str = "/.coracle/gpu/host";
/// As many libraries of a directory as make it worth a bind of the whole. Fewer are bound one by one, and nothing else is shown.
const TOGETHER: usize = 3;

/// Shows the libraries under all names by which they are looked for. The first of a name counts.
pub(super) fn show(chosen: &[&Library], abi: Abi, injection: &mut Injection) {
    let mut parents: Vec<&Path> = Vec::new();
    for library in chosen {
        let (Some(parent), Some(file)) = (library.path.parent(), library.path.file_name()) else { continue };
        let number = parents.iter().position(|other| *other == parent).unwrap_or_else(|| {
            parents.push(parent);
            parents.len() - 1
        });
        let place = Path::new(HOST).join(number.to_string());
        let target = place.join(file);
        let beside = chosen.iter().filter(|other| other.path.parent() == Some(parent)).count();
        if beside < TOGETHER {
            injection.show(&library.path, target.clone());
        } else {
            injection.show(parent, place);
        }
        for name in std::iter::once(&library.soname).chain(&library.also) {
            injection.link(directory(library, abi), name, target.clone());
        }
    }
}

impl Injection {
    fn show(&mut self, source: &Path, destination: PathBuf) {
        if self.binds.iter().all(|bind| bind.destination != destination) {
            self.binds.push(Bind { source: source.to_path_buf(), destination, device: false, writable: false });
        }
    }

    fn link(&mut self, directory: &Path, name: &str, target: PathBuf) {
        // A blank or line break would be read as the end of the name.
        if name.contains(char::is_whitespace) {
            self.loader.push(format!("left out {name:?}, which is no name that a loader is asked for"));
            return;
        }
        let at = self.directories.iter().position(|(path, _)| path == directory).unwrap_or_else(|| {
            self.directories.push((directory.to_path_buf(), Vec::new()));
            self.directories.len() - 1
        });
        let Some((_, links)) = self.directories.get_mut(at) else { return };
        if links.iter().all(|(other, _)| other != name) {
            links.push((name.to_owned(), target));
        }
    }

    /// The host's file that a program gets under a name, of the libraries in this directory of the container.
    #[must_use]
    pub fn library(&self, directory: &str, name: &str) -> Option<PathBuf> {
        let (_, links) = self.directories.iter().find(|(path, _)| path == Path::new(directory))?;
        let (_, target) = links.iter().find(|(link, _)| link == name)?;
        self.binds.iter().find_map(|bind| {
            let rest = target.strip_prefix(&bind.destination).ok()?;
            Some(if rest == Path::new("") { bind.source.clone() } else { bind.source.join(rest) })
        })
    }
}
