//! What ranks need inside to reach who started them.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{Environment, Kind};

/// What ranks need inside.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Needs {
    /// Variables that are passed even where the host's environment is not.
    pub variables: Vec<String>,
    /// Of the host, writable, at the same paths.
    pub directories: Vec<PathBuf>,
    /// Descriptors that variables name; sockets or pipes, else they are not passed.
    pub descriptors: Vec<i32>,
}

/// By prefix, besides the kind's own.
const COMMON: [&str; 2] = ["PMIX_", "PMI_"];
/// Variables whose value is a descriptor that ranks use. `HYDI_CONTROL_FD` is of Hydra's proxies, which leave it open: no
/// rank needs it.
const DESCRIPTORS: [&str; 1] = ["PMI_FD"];
/// Variables whose value is a directory.
const DIRECTORIES: [&str; 6] = [
    "PMIX_SERVER_TMPDIR",
    "PMIX_DSTORE_21_BASE_PATH",
    "PMIX_DSTORE_ESH_BASE_PATH",
    "OMPI_MCA_orte_jobfam_session_dir",
    "OMPI_FILE_LOCATION",
    "PALS_SPOOL_DIR",
];

pub(super) fn of(env: &Environment<'_>, kind: Kind) -> Needs {
    let own: &[&str] = match kind {
        Kind::Slurm => &["SLURM_", "SPMI"],
        Kind::Hydra => &["HYDI_", "HYDRA_", "MPI_LOCAL", "MPIR_"],
        Kind::Orte => &["OMPI_"],
        Kind::Prrte => &["OMPI_", "PRTE_"],
        Kind::Flux => &["FLUX_"],
        Kind::Pals => &["PALS_"],
    };
    let passed = |name: &str| COMMON.iter().chain(own).any(|prefix| name.starts_with(prefix));
    Needs {
        variables: env.0.keys().filter(|name| passed(name)).map(|name| (*name).to_owned()).collect(),
        directories: directories(env),
        // The standard ones stay open anyway.
        descriptors: DESCRIPTORS
            .iter()
            .filter_map(|name| i32::try_from(env.number(name)?).ok())
            .filter(|fd| *fd > 2)
            .collect(),
    }
}

/// Each once, without those below another.
fn directories(env: &Environment<'_>) -> Vec<PathBuf> {
    let named = DIRECTORIES.iter().filter_map(|name| env.get(name)).map(PathBuf::from);
    let socket = env.get("FLUX_URI").and_then(|uri| uri.strip_prefix("local://")).map(Path::new);
    let mut all: Vec<PathBuf> = named
        .chain(socket.and_then(Path::parent).map(Path::to_path_buf))
        .filter(|path| path.is_absolute() && path.parent().is_some())
        // Without the doubled and trailing slashes that Slurm writes.
        .map(|path| path.components().collect())
        .collect();
    all.sort();
    all.dedup_by(|later, earlier| later.starts_with(&*earlier));
    all
}
