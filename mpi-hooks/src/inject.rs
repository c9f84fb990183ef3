//! The host's MPI in a container: which files are shown where, and what the container's loader is told.
//!
//! Host libraries lie side by side in a directory of their own, which is what `$ORIGIN` means in them. The loader is told by a
//! copy of the image's cache in which their names lead there. A search path that comes before the cache and leads to the image's
//! MPI has the host's file bound over the image's. The C library is always the container's. What comes out is tried with
//! the loader's own rules before anybody relies on it.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::files::{self, Files};
use crate::libraries::Abi;
use crate::libraries::cache::{self, Entry};
use crate::loader::{Closure, Loader, Object};
use crate::mpi::{self, Mpi};

mod error;
mod overlay;
mod plugins;
#[cfg(test)]
mod real;
#[cfg(test)]
mod tests;
mod verify;

pub use error::Error;
pub use overlay::Overlay;

/// Where the host's libraries are in a container.
pub const LIBRARIES: &str = "/.coracle/mpi/lib";
/// Names that stand for the same library: Debian's MPICH has names of its own.
const ALIASES: [(&str, &str); 3] = [
    ("libmpi.so.12", "libmpich.so.12"),
    ("libmpifort.so.12", "libmpichfort.so.12"),
    ("libmpicxx.so.12", "libmpichcxx.so.12"),
];
/// Parts of glibc, which are of one version with the loader.
const C_LIBRARY: [&str; 12] = [
    "ld-linux",
    "libc.so.",
    "libm.so.",
    "libmvec.so.",
    "libpthread.so.",
    "libdl.so.",
    "librt.so.",
    "libresolv.so.",
    "libutil.so.",
    "libanl.so.",
    "libnsl.so.",
    "libnss_",
];
/// What is made for each other, and for the host's devices: the host's, unless the program uses the container's anyway.
const MATCHED: [&str; 16] = [
    "libmpi",
    "libopen-",
    "libmca_",
    "libompi",
    "libpmi",
    "libprrte",
    "libfabric",
    "libuc",
    "libhwloc",
    "libevent",
    "libibverbs",
    "librdmacm",
    "libpsm",
    "libcxi",
    "libxpmem",
    "libslurm",
];
/// Files that search paths are bound over; usual programs have two.
const OVER_MAX: usize = 64;

/// What is to be brought where.
pub struct Question<'a> {
    /// For which programs.
    pub abi: Abi,
    /// The host.
    pub host: &'a dyn Files,
    /// Its library.
    pub mpi: &'a Mpi,
    /// `LD_LIBRARY_PATH` on the host.
    pub host_library_path: &'a str,
    /// What the container shows.
    pub container: &'a dyn Files,
    /// The container's program.
    pub program: &'a Path,
    /// Its `LD_LIBRARY_PATH`.
    pub library_path: &'a str,
}

/// Something of the host that the container shows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bind {
    /// On the host.
    pub source: PathBuf,
    /// In the container.
    pub destination: PathBuf,
}

/// Whose library serves a name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Served {
    /// The name by which it is needed.
    pub soname: String,
    /// The file, on the host or in the container.
    pub path: PathBuf,
    /// Whether it is the host's.
    pub host: bool,
}

/// How a container gets the host's MPI.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Injection {
    /// What is bound, in this order.
    pub binds: Vec<Bind>,
    /// Files that are bound over the container's.
    pub over: Vec<(PathBuf, Vec<u8>)>,
    /// Variables that are set.
    pub env: Vec<(String, String)>,
    /// All that the host's library needs, by name.
    pub libraries: Vec<Served>,
}

/// Decides whether a program can use the host's MPI, and how it comes to.
///
/// # Errors
/// When it cannot, with the reason.
pub fn inject(question: &Question<'_>) -> Result<Injection, Error> {
    let loader = Loader::new(question.container, question.abi, question.library_path)?;
    let before = loader.closure(question.program)?;
    let needed = fitting(question, &before)?;
    let host = Loader::new(question.host, question.abi, question.host_library_path)?;
    let mut brought = Brought::default();
    for name in &needed {
        let path = host_file(question, name)?;
        brought.add(&host, name, &path)?;
        brought.always.insert(name.clone());
    }
    let mut injection = Injection::default();
    plugins::add(question, &host, &mut brought, &mut injection)?;
    choose(question, &loader, &before, &mut brought, &mut injection)?;
    place(&brought, &mut injection);
    tell(&loader, question.abi, &brought, &mut injection);
    bind_over(question, &brought, &mut injection)?;
    verify::verify(question, &before, &brought, &injection)?;
    Ok(injection)
}

/// Libraries of the host that a container gets.
#[derive(Default)]
struct Brought {
    /// All that were loaded on the host, by name.
    objects: BTreeMap<String, Object>,
    /// Those that the container gets whatever it has itself.
    always: BTreeSet<String>,
    /// Names that the container's own libraries serve.
    own: BTreeSet<String>,
}

impl Brought {
    /// A library that is needed under a name, and all that it needs.
    fn add(&mut self, host: &Loader<'_>, name: &str, path: &Path) -> Result<(), Error> {
        let closure = host.closure(path)?;
        if let Some((library, by)) = closure.missing.into_iter().next() {
            return Err(Error::HostLacks { library, by });
        }
        for (index, object) in closure.objects.into_iter().enumerate() {
            let soname = object.elf.soname.clone();
            for other in soname.iter().flat_map(|soname| std::iter::once(soname.as_str()).chain(alias(soname))) {
                self.objects.entry(other.to_owned()).or_insert_with(|| object.clone());
            }
            let called = if index == 0 { Some(name.to_owned()) } else { object.name.clone() };
            if let Some(called) = called {
                self.objects.entry(called).or_insert(object);
            }
        }
        Ok(())
    }

    /// What the container gets, by name.
    fn shown(&self) -> impl Iterator<Item = (&str, &Object)> {
        let host = |name: &str| !is_c_library(name) && !self.own.contains(name);
        self.objects.iter().map(|(name, object)| (name.as_str(), object)).filter(move |(name, _)| host(name))
    }
}

/// Whether a library belongs to the C library.
fn is_c_library(name: &str) -> bool {
    C_LIBRARY.iter().any(|part| name.starts_with(part))
}

fn alias(name: &str) -> Option<&'static str> {
    ALIASES.iter().find_map(|(one, other)| match name {
        _ if name == *one => Some(*other),
        _ if name == *other => Some(*one),
        _ => None,
    })
}

/// Whether a name is one of an MPI's libraries that programs are linked to.
fn is_mpi(name: &str) -> bool {
    name.starts_with("libmpi.so.")
        || name.starts_with("libmpi_")
        || name.starts_with("libmpich")
        || name.starts_with("libmpifort.so.")
        || name.starts_with("libmpicxx.so.")
}

/// The names under which a program needs MPI, if the host's library has the same interface.
fn fitting(question: &Question<'_>, before: &Closure) -> Result<BTreeSet<String>, Error> {
    let program = || question.program.to_path_buf();
    let first = before.objects.first().ok_or_else(|| Error::NoMpi { program: program() })?;
    let reached = reached(before);
    let needed: BTreeSet<String> = reached.iter().filter(|name| is_mpi(name)).cloned().collect();
    let library = mpi::NAMES.iter().find(|(name, _)| needed.contains(*name));
    let Some((name, interface)) = library else { return Err(Error::NoMpi { program: program() }) };
    let host = || Box::new(question.mpi.clone());
    if first.elf.interpreter.as_deref().is_some_and(|path| path.contains("/ld-musl-")) {
        return Err(Error::Musl { program: program(), host: host() });
    }
    let same = question.mpi.soname == *name || alias(&question.mpi.soname) == Some(name) || serves(question, name)?;
    if *interface != question.mpi.interface || !same {
        return Err(Error::Interface {
            program: program(),
            needed: (*name).to_owned(),
            interface: *interface,
            host: host(),
        });
    }
    Ok(needed)
}

/// Whether the host's library is installed under this name as well.
fn serves(question: &Question<'_>, name: &str) -> io::Result<bool> {
    let beside = question.mpi.path.with_file_name(name);
    Ok(files::file(question.host, &beside)?.is_some_and(|path| path == question.mpi.path))
}

/// What a program needs, and what that needs, as far as MPI: what only MPI needs is not among it.
fn reached(closure: &Closure) -> BTreeSet<String> {
    let mut reached = BTreeSet::new();
    let mut pending: Vec<&Object> = closure.objects.first().into_iter().collect();
    while let Some(object) = pending.pop() {
        for name in &object.elf.needed {
            if reached.insert(name.clone()) && !is_mpi(name) {
                pending.extend(closure.named(name));
            }
        }
    }
    reached
}

/// The host's file for a name of MPI that a program needs.
fn host_file(question: &Question<'_>, name: &str) -> Result<PathBuf, Error> {
    let mpi = question.mpi;
    if mpi.soname == name || alias(&mpi.soname) == Some(name) {
        return Ok(mpi.path.clone());
    }
    for name in std::iter::once(name).chain(alias(name)) {
        if let Some(path) = files::file(question.host, &mpi.path.with_file_name(name))? {
            return Ok(path);
        }
    }
    Err(Error::Binding {
        program: question.program.to_path_buf(),
        library: name.to_owned(),
        host: Box::new(mpi.clone()),
    })
}

/// Leaves to the container what it has itself and what serves the host's libraries as well.
fn choose(
    question: &Question<'_>,
    loader: &Loader<'_>,
    before: &Closure,
    brought: &mut Brought,
    injection: &mut Injection,
) -> Result<(), Error> {
    let shared = reached(before);
    let mut kept = BTreeSet::new();
    for (name, object) in &brought.objects {
        let own = match before.named(name).filter(|_| shared.contains(name) && !is_mpi(name)) {
            // The cache speaks to all programs of the container, not to this one alone.
            None if !MATCHED.iter().any(|part| name.starts_with(part)) => installed(loader, name)?,
            own => own.cloned(),
        };
        let own = match own {
            Some(own) if is_c_library(name) || verify::serves(question, &own, object, brought)? => Some(own),
            _ => None,
        };
        if let Some(own) = own {
            kept.insert(name.clone());
            injection.libraries.push(Served { soname: name.clone(), path: own.path, host: false });
        } else if !is_c_library(name) {
            injection.libraries.push(Served { soname: name.clone(), path: object.path.clone(), host: true });
        }
    }
    brought.own = kept;
    Ok(())
}

/// The container's library of a name, where its loader has one.
fn installed(loader: &Loader<'_>, name: &str) -> io::Result<Option<Object>> {
    let Some(path) = loader.library(name)? else { return Ok(None) };
    Ok(loader.closure(&path)?.objects.into_iter().next())
}

fn place(brought: &Brought, injection: &mut Injection) {
    for (name, object) in brought.shown() {
        injection.binds.push(Bind { source: object.path.clone(), destination: Path::new(LIBRARIES).join(name) });
    }
}

/// Has the loader find the host's libraries.
fn tell(loader: &Loader<'_>, abi: Abi, brought: &Brought, injection: &mut Injection) {
    let mut list = loader.cache().clone();
    let names: BTreeSet<&str> = brought.shown().map(|(name, _)| name).collect();
    list.remove(|entry| entry.is_for(abi) && entry.soname.to_str().is_some_and(|name| names.contains(name)));
    for name in names {
        list.add(Entry::new(name, Path::new(LIBRARIES).join(name), abi));
    }
    injection.over.push((cache::PATH.into(), list.write()));
}

/// Where search paths of programs and libraries lead to the container's files before the loader asks its cache, those become
/// the host's.
fn bind_over(question: &Question<'_>, brought: &Brought, injection: &mut Injection) -> Result<(), Error> {
    let host: BTreeMap<&str, &Object> = brought.shown().collect();
    for _ in 0..OVER_MAX {
        let after = Overlay::closure(question, injection)?;
        let astray = after.objects.iter().find_map(|object| {
            let name = object.name.as_deref().or(object.elf.soname.as_deref())?;
            let source = &host.get(name)?.path;
            let there = injection.binds.iter().any(|bind| bind.destination == object.path && bind.source == *source);
            (!there).then(|| Bind { source: source.clone(), destination: object.path.clone() })
        });
        let Some(bind) = astray else { return Ok(()) };
        if injection.binds.iter().any(|other| other.destination == bind.destination) {
            return Err(Error::Both { path: bind.destination });
        }
        injection.binds.push(bind);
    }
    Err(Error::Both { path: question.program.to_path_buf() })
}
