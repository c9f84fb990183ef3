//! What a program's dynamic loader would load, and from where, without starting it.
//!
//! glibc's rules (`ld.so(8)`): `DT_RPATH` of the needing object and of those that brought it in, where there is no
//! `DT_RUNPATH`; `LD_LIBRARY_PATH`; `DT_RUNPATH`; the cache; the usual directories. musl's: `LD_LIBRARY_PATH`, the search
//! paths of either kind along the chain, its own list of directories. Variants for newer processors
//! (`glibc-hwcaps`) are not looked for: they are the same library.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};

use crate::files::{self, Files};
use crate::libraries::Abi;
use crate::libraries::cache::{self, Cache};
use crate::libraries::elf::Elf;

#[cfg(test)]
mod tests;

/// Longest cache that is read, in bytes; those of large distributions have a tenth of it.
const CACHE_MAX: usize = 4 << 20;
/// Longest list of musl's.
const LIST_MAX: usize = 64 << 10;
/// Objects of one program. A browser has three hundred.
const OBJECTS_MAX: usize = 4096;

/// Which C library's rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rules {
    Glibc,
    Musl,
}

/// A tree as its loader sees it.
pub struct Loader<'a> {
    files: &'a dyn Files,
    abi: Abi,
    cache: Cache,
    /// `LD_LIBRARY_PATH`.
    library_path: Vec<PathBuf>,
    /// musl's directories.
    list: Vec<PathBuf>,
}

/// Something that a program has in its memory.
#[derive(Clone, Debug)]
pub struct Object {
    /// Where it was found: what `$ORIGIN` in it means.
    pub found: PathBuf,
    /// The same, symbolic links followed.
    pub path: PathBuf,
    /// The name by which it was needed; the program has none.
    pub name: Option<String>,
    /// What it says of itself.
    pub elf: Elf,
    /// The object that brought it in, by its place in the list.
    pub by: Option<usize>,
}

/// All that a program has in its memory when it starts, the program first.
#[derive(Clone, Debug, Default)]
pub struct Closure {
    /// In the order in which they are loaded.
    pub objects: Vec<Object>,
    /// Names that lead nowhere, and the file that needs them.
    pub missing: Vec<(String, PathBuf)>,
}

impl Closure {
    /// What was loaded under a name.
    #[must_use]
    pub fn named(&self, name: &str) -> Option<&Object> {
        self.objects.iter().find(|object| object.is(name))
    }
}

impl Object {
    fn is(&self, name: &str) -> bool {
        self.name.as_deref() == Some(name) || self.elf.soname.as_deref() == Some(name)
    }

    /// The directories of a search path of this object.
    fn directories<'p>(&'p self, path: &'p str, abi: Abi) -> impl Iterator<Item = PathBuf> + 'p {
        let origin = self.found.parent().unwrap_or(Path::new("/")).display().to_string();
        path.split(':').filter(|part| !part.is_empty()).flat_map(move |part| {
            let set = |part: &str, name: &str, value: &str| {
                part.replace(&format!("${{{name}}}"), value).replace(&format!("${name}"), value)
            };
            let part = set(&set(part, "ORIGIN", &origin), "PLATFORM", abi.name());
            // What `$LIB` stands for is built into the loader, and is one of these.
            let libs = [format!("lib/{}-linux-gnu", abi.name()), "lib64".into(), "lib".into()];
            let count = if part.contains("$LIB") || part.contains("${LIB}") { libs.len() } else { 1 };
            libs.into_iter().take(count).map(move |lib| PathBuf::from(set(&part, "LIB", &lib))).collect::<Vec<_>>()
        })
    }
}

impl<'a> Loader<'a> {
    /// Looks at a tree, for programs that have this `LD_LIBRARY_PATH`.
    ///
    /// # Errors
    /// When the tree cannot be read.
    pub fn new(files: &'a dyn Files, abi: Abi, library_path: &str) -> io::Result<Self> {
        let content = files::content(files, Path::new(cache::PATH), CACHE_MAX)?;
        // What is damaged, glibc does not use either.
        let cache = content.and_then(|bytes| Cache::parse(&bytes).ok()).unwrap_or_default();
        let path = PathBuf::from(format!("/etc/ld-musl-{}.path", abi.name()));
        let list = files::content(files, &path, LIST_MAX)?;
        let list =
            list.map_or("/lib:/usr/local/lib:/usr/lib".into(), |list| String::from_utf8_lossy(&list).into_owned());
        let list = list.split([':', '\n']).filter(|part| !part.is_empty()).map(PathBuf::from).collect();
        Ok(Self { files, abi, cache, library_path: split(library_path), list })
    }

    /// For which programs.
    #[must_use]
    pub fn abi(&self) -> Abi {
        self.abi
    }

    /// The cache.
    #[must_use]
    pub fn cache(&self) -> &Cache {
        &self.cache
    }

    /// What a program has in its memory when it starts; nothing for what is no dynamic program of this machine's.
    ///
    /// # Errors
    /// When the tree cannot be read.
    pub fn closure(&self, program: &Path) -> io::Result<Closure> {
        let mut closure = Closure::default();
        let Some(path) = files::file(self.files, program)? else { return Ok(closure) };
        let Ok(elf) = files::elf(self.files, &path) else { return Ok(closure) };
        if elf.abi != self.abi {
            return Ok(closure);
        }
        let musl = elf.interpreter.as_deref().is_some_and(|name| name.contains("/ld-musl-"));
        let rules = if musl { Rules::Musl } else { Rules::Glibc };
        closure.objects.push(Object { found: path.clone(), path, name: None, elf, by: None });
        let mut missing = BTreeSet::new();
        let mut at = 0;
        while let Some(object) = closure.objects.get(at).filter(|_| at < OBJECTS_MAX) {
            for name in object.elf.needed.clone() {
                if closure.named(&name).is_some() {
                    continue;
                }
                match self.resolve(&name, &closure.objects, at, rules)? {
                    // One file under two names is loaded once.
                    Some(one) if closure.objects.iter().any(|other| other.path == one.path) => {}
                    Some(one) => closure.objects.push(Object { name: Some(name), ..one }),
                    None if missing.insert(name.clone()) => {
                        let by = closure.objects.get(at).map(|object| object.path.clone()).unwrap_or_default();
                        closure.missing.push((name, by));
                    }
                    None => {}
                }
            }
            at += 1;
        }
        Ok(closure)
    }

    /// Finds what object `by` needs under a name.
    fn resolve(&self, name: &str, objects: &[Object], by: usize, rules: Rules) -> io::Result<Option<Object>> {
        if name.contains('/') {
            return self.open(Path::new(name), by);
        }
        for directory in self.places(objects, by, rules) {
            if let Some(object) = self.open(&directory.join(name), by)? {
                return Ok(Some(object));
            }
        }
        if rules == Rules::Musl {
            return Ok(None);
        }
        for path in self.cache.find(OsStr::new(name), self.abi) {
            if let Some(object) = self.open(path, by)? {
                return Ok(Some(object));
            }
        }
        for directory in self.abi.directories() {
            if let Some(object) = self.open(&Path::new(directory).join(name), by)? {
                return Ok(Some(object));
            }
        }
        Ok(None)
    }

    /// The directories that are searched for what object `by` needs, before the cache.
    fn places(&self, objects: &[Object], by: usize, rules: Rules) -> Vec<PathBuf> {
        let chain = || std::iter::successors(objects.get(by), |object| objects.get(object.by?));
        let Some(object) = objects.get(by) else { return Vec::new() };
        let mut places: Vec<PathBuf> = Vec::new();
        let mut add = |object: &Object, path: Option<&String>| {
            places.extend(path.into_iter().flat_map(|path| object.directories(path, self.abi)));
        };
        match rules {
            Rules::Glibc => {
                if object.elf.runpath.is_none() {
                    // `DT_RPATH` of an object that has `DT_RUNPATH` besides does not count.
                    chain().filter(|one| one.elf.runpath.is_none()).for_each(|one| add(one, one.elf.rpath.as_ref()));
                }
                places.extend(self.library_path.iter().cloned());
                places.extend(object.elf.runpath.iter().flat_map(|path| object.directories(path, self.abi)));
            }
            Rules::Musl => {
                chain().for_each(|one| add(one, one.elf.runpath.as_ref().or(one.elf.rpath.as_ref())));
                places.splice(0..0, self.library_path.iter().cloned());
                places.extend(self.list.iter().cloned());
            }
        }
        places
    }

    /// A library that can be in the same process; others are passed over, as the loader does.
    fn open(&self, path: &Path, by: usize) -> io::Result<Option<Object>> {
        let Some(real) = files::file(self.files, path)? else { return Ok(None) };
        Ok(match files::elf(self.files, &real) {
            Ok(elf) if elf.abi == self.abi => {
                Some(Object { found: path.to_path_buf(), path: real, name: None, elf, by: Some(by) })
            }
            _ => None,
        })
    }

    /// The library that programs without search paths of their own get under a name.
    ///
    /// # Errors
    /// When the tree cannot be read.
    pub fn library(&self, name: &str) -> io::Result<Option<PathBuf>> {
        let in_path = self.library_path.iter().map(|directory| directory.join(name));
        let cached = self.cache.find(OsStr::new(name), self.abi).map(Path::to_path_buf);
        let usual = self.abi.directories().iter().map(Path::new).map(|directory| directory.join(name));
        let listed = self.list.iter().map(|directory| directory.join(name));
        for path in in_path.chain(cached).chain(usual).chain(listed) {
            if let Some(object) = self.open(&path, 0)? {
                return Ok(Some(object.path));
            }
        }
        Ok(None)
    }
}

/// The directories of a search path.
pub(crate) fn split(path: &str) -> Vec<PathBuf> {
    path.split([':', ';']).filter(|part| part.starts_with('/')).map(PathBuf::from).collect()
}
