//! Who starts the ranks, by the environment that it gives them, and what they need of it.
//!
//! The nearest starter counts: `mpirun` within an allocation of Slurm leaves `SLURM_*` as they are, so those of Slurm are
//! looked at last.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fmt;

use serde::{Deserialize, Serialize};

mod needs;
#[cfg(test)]
mod tests;

pub use needs::Needs;

/// Variables that say something about starters begin with one of these.
const PREFIXES: [&str; 12] =
    ["FLUX_", "HYDI_", "HYDRA_", "MPIR_", "MPI_LOCAL", "OMPI_", "PALS_", "PMI", "PRTE_", "SLURM_", "SPMI", "TMPDIR"];

/// What starts ranks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// `srun`.
    Slurm,
    /// `mpirun` and `mpiexec` of MPICH and its kin.
    Hydra,
    /// `mpirun` of Open MPI 4 and older.
    Orte,
    /// `mpirun` of Open MPI 5, and `prterun`.
    Prrte,
    /// `flux run`.
    Flux,
    /// `mpiexec` and `aprun` of HPE's Parallel Application Launch Service.
    Pals,
}

/// How ranks find each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Protocol {
    /// A server that each rank connects to.
    Pmix,
    /// The second wire protocol, over a descriptor.
    Pmi2,
    /// The first wire protocol, over a descriptor or a port.
    Pmi1,
    /// The starter offers none: every rank would be on its own.
    None,
}

/// Who starts this rank.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Starter {
    /// What it is.
    pub kind: Kind,
    /// What it speaks.
    pub protocol: Protocol,
    /// This rank.
    pub rank: u32,
    /// All ranks.
    pub size: u32,
    /// Ranks of this node, where the starter says.
    pub local: Option<u32>,
    /// The version of its PMIx server, as it says.
    pub server: Option<String>,
    /// What ranks need inside.
    pub needs: Needs,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Slurm => "srun",
            Self::Hydra => "mpirun of MPICH",
            Self::Orte => "mpirun of Open MPI 4",
            Self::Prrte => "mpirun of Open MPI 5",
            Self::Flux => "flux run",
            Self::Pals => "mpiexec of PALS",
        })
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pmix => "PMIx",
            Self::Pmi2 => "PMI-2",
            Self::Pmi1 => "PMI-1",
            Self::None => "no PMI",
        })
    }
}

impl Starter {
    /// Whether there is anything that ranks would have to find each other for.
    #[must_use]
    pub fn has_several(&self) -> bool {
        self.size > 1
    }
}

/// The part of an environment that tells starters.
struct Environment<'a>(BTreeMap<&'a str, &'a str>);

impl<'a> Environment<'a> {
    fn get(&self, name: &str) -> Option<&'a str> {
        self.0.get(name).copied().filter(|value| !value.is_empty())
    }

    fn number(&self, name: &str) -> Option<u32> {
        self.get(name)?.parse().ok()
    }

    fn first(&self, names: &[&str]) -> Option<u32> {
        names.iter().find_map(|name| self.number(name))
    }

    fn has(&self, prefix: &str) -> bool {
        self.0.range(prefix..).next().is_some_and(|(name, _)| name.starts_with(prefix))
    }
}

/// Recognises who starts this rank; nobody does where its number or that of all ranks is not said.
#[must_use]
pub fn recognise<'a>(variables: impl IntoIterator<Item = (&'a OsStr, &'a OsStr)>) -> Option<Starter> {
    let text = variables.into_iter().filter_map(|(name, value)| Some((name.to_str()?, value.to_str()?)));
    let told = text.filter(|(name, _)| PREFIXES.iter().any(|prefix| name.starts_with(prefix)));
    let env = Environment(told.collect());
    let kind = kind(&env)?;
    let (rank, size, local) = match kind {
        Kind::Orte | Kind::Prrte => (
            env.first(&["OMPI_COMM_WORLD_RANK", "PMIX_RANK"]),
            env.number("OMPI_COMM_WORLD_SIZE"),
            env.number("OMPI_COMM_WORLD_LOCAL_SIZE"),
        ),
        Kind::Hydra => (env.number("PMI_RANK"), env.number("PMI_SIZE"), env.number("MPI_LOCALNRANKS")),
        Kind::Pals => (
            env.first(&["PALS_RANKID", "PMI_RANK"]),
            env.number("PMI_SIZE"),
            env.first(&["PALS_LOCAL_SIZE", "PMI_LOCAL_SIZE"]),
        ),
        Kind::Flux => (env.number("FLUX_TASK_RANK"), env.number("FLUX_JOB_SIZE"), None),
        Kind::Slurm => (
            env.number("SLURM_PROCID"),
            env.number("SLURM_STEP_NUM_TASKS"),
            env.get("SLURM_STEP_TASKS_PER_NODE").and_then(|tasks| on_node(tasks, env.number("SLURM_NODEID")?)),
        ),
    };
    // prterun without Open MPI's personality says no size: what it starts may be many.
    let size = size.or_else(|| (kind == Kind::Prrte).then_some(u32::MAX));
    let protocol = protocol(&env, kind);
    Some(Starter {
        kind,
        protocol,
        rank: rank?,
        size: size?,
        local,
        server: (protocol == Protocol::Pmix).then(|| env.get("PMIX_VERSION").map(str::to_owned)).flatten(),
        needs: needs::of(&env, kind),
    })
}

fn kind(env: &Environment<'_>) -> Option<Kind> {
    let space = env.get("PMIX_NAMESPACE").unwrap_or_default();
    if env.get("PALS_RANKID").is_some() {
        return Some(Kind::Pals);
    }
    if env.get("FLUX_TASK_RANK").is_some() && env.get("FLUX_JOB_SIZE").is_some() {
        return Some(Kind::Flux);
    }
    if env.get("OMPI_COMM_WORLD_RANK").is_some() && env.has("OMPI_MCA_orte_") {
        return Some(Kind::Orte);
    }
    // Both names of the space: `prterun` and a `prte` that was there before.
    if space.starts_with("prte") || (env.has("PRTE_") && env.get("PMIX_RANK").is_some()) {
        return Some(Kind::Prrte);
    }
    // Slurm's PMI-2 has PMI_FD and PMI_RANK as Hydra has.
    let pmi = env.get("PMI_RANK").is_some() && (env.get("PMI_FD").is_some() || env.get("PMI_PORT").is_some());
    if pmi && (env.has("HYDI_") || env.get("MPI_LOCALNRANKS").is_some() || env.get("SLURM_STEP_NUM_TASKS").is_none()) {
        return Some(Kind::Hydra);
    }
    (env.get("SLURM_PROCID").is_some() && env.get("SLURM_STEP_NUM_TASKS").is_some()).then_some(Kind::Slurm)
}

fn protocol(env: &Environment<'_>, kind: Kind) -> Protocol {
    let pmix = env.get("PMIX_NAMESPACE").is_some() && env.get("PMIX_RANK").is_some() && env.has("PMIX_SERVER_URI");
    let wire = env.get("PMI_FD").is_some() || env.get("PMI_PORT").is_some();
    match kind {
        _ if pmix => Protocol::Pmix,
        Kind::Slurm if wire && env.get("PMI_JOBID").is_some() => Protocol::Pmi2,
        Kind::Pals if wire || env.get("PMI_CONTROL_PORT").is_some() => Protocol::Pmi2,
        _ if wire => Protocol::Pmi1,
        _ => Protocol::None,
    }
}

/// How many tasks node number `node` has, of Slurm's `2(x3),1`.
fn on_node(tasks: &str, node: u32) -> Option<u32> {
    let mut before = 0_u32;
    for part in tasks.split(',') {
        let (count, times) = match part.split_once("(x") {
            Some((count, times)) => (count, times.strip_suffix(')')?.parse().ok()?),
            None => (part, 1_u32),
        };
        before = before.checked_add(times)?;
        if node < before {
            return count.parse().ok();
        }
    }
    None
}
