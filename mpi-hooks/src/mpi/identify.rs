//! Tells whose an MPI library is by what is in it. Its file's name says little: Intel's, MVAPICH's and Cray's are all called
//! `libmpi.so.12`.

use std::io;
use std::path::Path;

use super::{FORTRAN, Family, Interface, Mpi, NAMES};
use crate::files::{self, Files, InFiles};
use crate::fit::Speaks;
use crate::libraries::Abi;
use crate::libraries::elf::{self, Elf, Symbols};

/// What `MPI_Get_library_version` of those that are made from MPICH begins with.
const TEXTS: [(&[u8], Family); 3] =
    [(b"Intel(R) MPI Library", Family::Intel), (b"MVAPICH", Family::Mvapich), (b"CRAY MPICH", Family::Cray)];
/// A symbol that Open MPI's headers lead to in all programs.
const OPEN_MPI: &str = "ompi_mpi_comm_world";
/// Where a library keeps its version.
const VERSIONS: [&str; 3] = ["MPII_Version_string", "MPIR_Version_string", "opal_version_string"];

/// The MPI library in a file, if it is one for this machine.
///
/// # Errors
/// When the tree cannot be read.
pub fn identify(files: &dyn Files, path: &Path, abi: Abi) -> io::Result<Option<Mpi>> {
    let source = InFiles { files, path };
    let (elf, symbols) = match (Elf::read(&source), Symbols::read(&source)) {
        (Ok(elf), Ok(symbols)) => (elf, symbols),
        (Err(elf::Error::Read(error)), _) | (_, Err(elf::Error::Read(error))) => return Err(error),
        _ => return Ok(None),
    };
    let Some(soname) = elf.soname.clone().filter(|_| elf.abi == abi) else { return Ok(None) };
    // Something else may be called so.
    if !symbols.defines("MPI_Init") && !symbols.defines("PMPI_Init") {
        return Ok(None);
    }
    let named = NAMES.iter().find(|(name, _)| *name == soname).map(|(_, interface)| *interface);
    let (family, speaks) = if symbols.mentions(OPEN_MPI) {
        // Version 5 has no layer of its own for starting ranks.
        let four = elf.needed.iter().any(|name| name.starts_with("libopen-rte.so"));
        (Family::OpenMpi, if four { Speaks::OpenMpi4 } else { Speaks::OpenMpi5 })
    } else {
        mpich_kin(&elf, &symbols)?
    };
    let interface = match (named, family) {
        (Some(interface), _) => interface,
        (None, Family::OpenMpi) => Interface::OpenMpi,
        (None, Family::Unknown) => return Ok(None),
        (None, _) => Interface::Mpich,
    };
    let version = VERSIONS.iter().find_map(|name| symbols.text(name));
    let version = match (version, family) {
        (None, Family::OpenMpi) => open_mpi(files, path, &elf)?,
        (version, _) => version,
    };
    let fortran = fortran(files, path, interface)?;
    Ok(Some(Mpi { family, version, interface, soname, path: path.to_path_buf(), fortran, speaks }))
}

/// Open MPI's version is in the library of its lowest layer, which lies beside or where `DT_RUNPATH` says.
fn open_mpi(files: &dyn Files, path: &Path, elf: &Elf) -> io::Result<Option<String>> {
    let Some(name) = elf.needed.iter().find(|name| name.starts_with("libopen-pal.so")) else { return Ok(None) };
    let beside = path.parent().unwrap_or(Path::new("/"));
    let origin = beside.display().to_string();
    let searched = elf.runpath.iter().chain(&elf.rpath).flat_map(|path| path.split(':'));
    let searched = searched.map(|part| part.replace("$ORIGIN", &origin).replace("${ORIGIN}", &origin));
    for directory in std::iter::once(origin.clone()).chain(searched) {
        let Some(path) = files::file(files, &Path::new(&directory).join(name))? else { continue };
        if let Ok(symbols) = Symbols::read(&InFiles { files, path: &path }) {
            return Ok(symbols.text("opal_version_string"));
        }
    }
    Ok(None)
}

/// Libraries of the same directory for Fortran's programs.
fn fortran(files: &dyn Files, path: &Path, interface: Interface) -> io::Result<Vec<String>> {
    let beside = path.parent().unwrap_or(Path::new("/"));
    let mut there = Vec::new();
    for (name, of) in FORTRAN {
        if of == interface && files::file(files, &beside.join(name))?.is_some() {
            there.push(name.to_owned());
        }
    }
    Ok(there)
}

/// Whose a library is that is not Open MPI's, and what it says to its starter. Clients are functions of other libraries, or built
/// in, and then only the names of the variables that they read tell.
fn mpich_kin<S: elf::Source>(elf: &Elf, symbols: &Symbols<'_, S>) -> io::Result<(Family, Speaks)> {
    let [(intel, _), (mvapich, _), (cray, _)] = TEXTS;
    let texts = [b"PMI_FD\0", b"PMIX_NAMESPACE\0".as_slice(), intel, mvapich, cray];
    let [pmi, sees_pmix, kin @ ..] = symbols.has_texts(texts).map_err(|error| match error {
        elf::Error::Read(error) => error,
        other => io::Error::other(other),
    })?;
    let needs = |name: &str| elf.needed.iter().any(|needed| needed.starts_with(name));
    let pmix = needs("libpmix.so") || symbols.mentions("PMIx_Init");
    let pmi = pmi || needs("libpmi.so") || needs("libpmi2.so");
    let marked = kin.iter().zip(TEXTS).find(|(found, _)| **found).map(|(_, (_, family))| family);
    let mpich = symbols.all.iter().any(|symbol| symbol.name.starts_with("MPIR_") || symbol.name.starts_with("MPII_"));
    let family = marked.unwrap_or(if mpich { Family::Mpich } else { Family::Unknown });
    let speaks = match (pmi, pmix) {
        (true, false) if sees_pmix => Speaks::Mpich5,
        (true, false) => Speaks::Mpich4,
        (false, false) => Speaks::Unknown,
        (pmi, pmix) => Speaks::Told { pmi, pmix },
    };
    Ok((family, speaks))
}
