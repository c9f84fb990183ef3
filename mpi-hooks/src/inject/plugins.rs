//! What an MPI loads of its own accord: directories of plugins and its configuration, shown where the library looks for them.

use std::path::{Path, PathBuf};

use super::{Bind, Brought, Error, Injection, Question};
use crate::files::Kind;
use crate::loader::Loader;

/// From the directory of the library: where Open MPI, PMIx, libfabric and UCX have their plugins, and texts of messages.
const DIRECTORIES: [&str; 9] = [
    "openmpi",
    "openmpi/lib/openmpi3",
    "pmix",
    "pmix2/lib/pmix",
    "libfabric",
    "ucx",
    "../share/openmpi",
    "../share/pmix",
    "../../share/openmpi",
];
/// Anywhere: configuration, and which drivers there are for verbs.
const CONFIGURATION: [&str; 4] =
    ["/etc/openmpi", "/etc/ucx", "/etc/libibverbs.d", "/usr/lib/x86_64-linux-gnu/libibverbs"];

/// Shows them, and brings what plugins need. A plugin that cannot be loaded is passed over by those who load it.
pub(super) fn add(
    question: &Question<'_>,
    host: &Loader<'_>,
    brought: &mut Brought,
    injection: &mut Injection,
) -> Result<(), Error> {
    let beside = question.mpi.path.parent().unwrap_or(Path::new("/"));
    let places = DIRECTORIES.iter().map(|directory| beside.join(directory));
    let mut shown: Vec<PathBuf> = Vec::new();
    for place in places.chain(CONFIGURATION.iter().map(PathBuf::from)) {
        let found = question.host.find(&place)?.filter(|found| found.kind == Kind::Directory);
        let Some(found) = found.filter(|found| !shown.contains(&found.path)) else { continue };
        injection.binds.push(Bind { source: found.path.clone(), destination: found.path.clone() });
        for name in question.host.list(&found.path)? {
            if !name.to_str().is_some_and(|name| name.contains(".so")) {
                continue;
            }
            for object in host.closure(&found.path.join(&name))?.objects.into_iter().skip(1) {
                if let Some(name) = object.name.clone() {
                    brought.objects.entry(name).or_insert(object);
                }
            }
        }
        shown.push(found.path);
    }
    let prefix = beside.parent().unwrap_or(Path::new("/"));
    if question.mpi.family == crate::mpi::Family::OpenMpi
        && !prefix.starts_with("/usr/lib")
        && prefix != Path::new("/usr")
    {
        // It may have been moved since it was built.
        for name in ["OPAL_PREFIX", "PMIX_PREFIX"] {
            injection.env.push((name.to_owned(), prefix.display().to_string()));
        }
    }
    Ok(())
}
