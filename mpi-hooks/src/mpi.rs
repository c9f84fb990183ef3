//! Which MPI libraries a host or an image has, as their files tell.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::files::{self, Files, Kind};
use crate::fit::Speaks;
use crate::libraries::Abi;
use crate::loader::{Loader, split};

mod identify;
#[cfg(test)]
mod tests;

pub use identify::identify;

/// Names by which programs need an MPI library, and the interface that the name stands for.
pub const NAMES: [(&str, Interface); 8] = [
    ("libmpi.so.12", Interface::Mpich),
    // Debian's.
    ("libmpich.so.12", Interface::Mpich),
    ("libmpi.so.40", Interface::OpenMpi),
    ("libmpi.so.20", Interface::OpenMpi),
    ("libmpi.so.80", Interface::OpenMpi),
    ("libmpi_abi.so.0", Interface::Standard),
    ("libmpi_abi.so.1", Interface::Standard),
    // HPE's, by the name of the compiler.
    ("libmpi_gnu_91.so.12", Interface::Mpich),
];
/// Libraries for Fortran's programs, beside those.
pub const FORTRAN: [(&str, Interface); 6] = [
    ("libmpifort.so.12", Interface::Mpich),
    ("libmpichfort.so.12", Interface::Mpich),
    ("libmpi_mpifh.so.40", Interface::OpenMpi),
    ("libmpi_usempif08.so.40", Interface::OpenMpi),
    ("libmpi_usempi_ignore_tkr.so.40", Interface::OpenMpi),
    ("libmpi_abi_fortran.so.1", Interface::Standard),
];
/// Variables of modules that name where an MPI is installed.
pub const PREFIX_VARIABLES: [&str; 8] = [
    "MPI_HOME",
    "MPI_ROOT",
    "MPICH_DIR",
    "I_MPI_ROOT",
    "CRAY_MPICH_DIR",
    "MVAPICH2_HOME",
    "EBROOTOPENMPI",
    "EBROOTMPICH",
];
/// Where libraries are below a prefix.
const BELOW: [&str; 4] = ["lib", "lib64", "lib/release", "lib64/release"];
/// Directories whose directories may each be a prefix.
const FAMILIES: [&str; 4] = ["/opt", "/opt/openmpi", "/opt/mpich", "/usr/lib64"];
/// Prefixes that need no telling.
const USUAL: [&str; 3] = ["/usr/local", "/usr/lib/x86_64-linux-gnu/openmpi", "/usr/lib/aarch64-linux-gnu/openmpi"];
/// Directories of a family that are looked at.
const FAMILY_MAX: usize = 256;

/// A binary interface: programs that are built for one run with each library that has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Interface {
    /// The MPICH ABI Compatibility Initiative's.
    Mpich,
    /// Open MPI's, since version 1.
    OpenMpi,
    /// MPI 5's.
    Standard,
}

/// Whose a library is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Family {
    /// Open MPI.
    OpenMpi,
    /// MPICH.
    Mpich,
    /// Intel MPI.
    Intel,
    /// MVAPICH.
    Mvapich,
    /// HPE Cray MPICH.
    Cray,
    /// Some other's.
    Unknown,
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::OpenMpi => "Open MPI",
            Self::Mpich => "MPICH",
            Self::Intel => "Intel MPI",
            Self::Mvapich => "MVAPICH",
            Self::Cray => "HPE Cray MPICH",
            Self::Unknown => "an MPI library of a kind that is not known",
        })
    }
}

impl fmt::Display for Interface {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Mpich => "MPICH ABI",
            Self::OpenMpi => "Open MPI",
            Self::Standard => "MPI standard ABI",
        })
    }
}

/// An MPI library.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mpi {
    /// Whose.
    pub family: Family,
    /// As the library itself says.
    pub version: Option<String>,
    /// For which programs.
    pub interface: Interface,
    /// The name by which programs need it.
    pub soname: String,
    /// The file, symbolic links followed.
    pub path: PathBuf,
    /// Libraries for Fortran's programs that are installed with it.
    pub fortran: Vec<String>,
    /// How it finds other ranks.
    pub speaks: Speaks,
}

/// `Open MPI 4.1.4 (/usr/lib/libmpi.so.40)`
impl fmt::Display for Mpi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let version = self.version.as_ref().map(|version| format!(" {version}")).unwrap_or_default();
        write!(f, "{}{version} ({})", self.family, self.path.display())
    }
}

/// Where to look.
#[derive(Clone, Debug)]
pub struct Search {
    /// For programs of which kind.
    pub abi: Abi,
    /// Directories below which an MPI may be installed, besides the usual ones.
    pub prefixes: Vec<PathBuf>,
    /// `LD_LIBRARY_PATH`.
    pub library_path: String,
}

impl Search {
    /// As an environment says.
    #[must_use]
    pub fn of<'a>(abi: Abi, get: impl Fn(&str) -> Option<&'a str>) -> Self {
        let prefixes = PREFIX_VARIABLES.iter().filter_map(|name| get(name)).flat_map(split).collect();
        Self { abi, prefixes, library_path: get("LD_LIBRARY_PATH").unwrap_or_default().to_owned() }
    }

    /// The loader of a tree, for programs that look there.
    ///
    /// # Errors
    /// When the tree cannot be read.
    pub fn loader<'a>(&self, files: &'a dyn Files) -> io::Result<Loader<'a>> {
        Loader::new(files, self.abi, &self.library_path)
    }
}

/// Finds MPI libraries. The first of a name is the one that programs without search paths of their own get, if any do.
///
/// # Errors
/// When the tree cannot be read.
pub fn find(files: &dyn Files, search: &Search) -> io::Result<Vec<Mpi>> {
    find_with(&search.loader(files)?, files, search)
}

/// The same, by a loader of the same tree and search.
///
/// # Errors
/// As for [`find`].
pub fn find_with(loader: &Loader<'_>, files: &dyn Files, search: &Search) -> io::Result<Vec<Mpi>> {
    let mut found: Vec<Mpi> = Vec::new();
    let mut add = |path: PathBuf| -> io::Result<()> {
        if found.iter().all(|mpi| mpi.path != path)
            && let Some(mpi) = identify(files, &path, search.abi)?
        {
            found.push(mpi);
        }
        Ok(())
    };
    for (name, _) in NAMES {
        if let Some(path) = loader.library(name)? {
            add(path)?;
        }
    }
    for directory in directories(files, search)? {
        for (name, _) in NAMES {
            if let Some(path) = files::file(files, &directory.join(name))? {
                add(path)?;
            }
        }
    }
    Ok(found)
}

/// Where libraries may be that the loader does not know of.
fn directories(files: &dyn Files, search: &Search) -> io::Result<Vec<PathBuf>> {
    let mut prefixes = search.prefixes.clone();
    prefixes.extend(USUAL.iter().map(PathBuf::from));
    for family in FAMILIES {
        let family = Path::new(family);
        let names = files.list(family)?;
        prefixes.extend(names.into_iter().take(FAMILY_MAX).map(|name| family.join(name)));
    }
    let mut real: BTreeMap<PathBuf, ()> = BTreeMap::new();
    let mut directories = Vec::new();
    for prefix in prefixes {
        // A prefix is often given as the directory of the libraries itself.
        for directory in BELOW.iter().map(|below| prefix.join(below)).chain([prefix.clone()]) {
            let Some(found) = files.find(&directory)?.filter(|found| found.kind == Kind::Directory) else { continue };
            if real.insert(found.path.clone(), ()).is_none() {
                directories.push(found.path);
            }
        }
    }
    Ok(directories)
}

/// The MPI library that a program has in its memory.
///
/// # Errors
/// When the tree cannot be read.
pub fn of_program(loader: &Loader<'_>, files: &dyn Files, program: &Path) -> io::Result<Option<Mpi>> {
    let closure = loader.closure(program)?;
    for (name, _) in NAMES {
        if let Some(object) = closure.named(name) {
            return identify(files, &object.path, loader.abi());
        }
    }
    Ok(None)
}
