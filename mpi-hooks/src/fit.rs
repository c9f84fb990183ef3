//! Who can be started by whom: what a starter offers against what an MPI library speaks.
//!
//! A library that does not find its starter does not fail, as a rule: it takes itself for the only rank there is. So this
//! is asked before anything starts. Rows of Open MPI 4.1 and 5.0, MPICH 4.0 and 5.0 under their `mpirun`s and Slurm 22.05 were measured
//! with two ranks that call `MPI_Init` and say their number; the others follow from what the protocols are.

use serde::{Deserialize, Serialize};

use crate::starter::{Kind, Protocol, Starter};

#[cfg(test)]
mod tests;

/// What an MPI library speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Speaks {
    /// Open MPI 4 and older: PMIx, and of Open MPI's starters only its own.
    OpenMpi4,
    /// Open MPI 5: PMIx.
    OpenMpi5,
    /// MPICH up to version 4 and its kin: PMI-1 and PMI-2, mute where there is neither.
    Mpich4,
    /// MPICH 5: PMI-1 and PMI-2; sees that there is PMIx, which its usual build has no client for.
    Mpich5,
    /// One that speaks these, as its files tell.
    Told {
        /// Over a descriptor or a port, either version.
        pmi: bool,
        /// As a client of a server.
        pmix: bool,
    },
    /// Not known.
    Unknown,
}

/// What becomes of ranks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fit {
    /// All find each other.
    Works,
    /// Each would say "rank 0 of 1", with exit status 0.
    Singletons {
        /// Why.
        reason: String,
        /// What to do instead.
        way_out: String,
    },
    /// `MPI_Init` fails.
    Fails {
        /// Why.
        reason: String,
        /// What to do instead.
        way_out: String,
    },
    /// Nothing is known for sure.
    Unknown {
        /// Why not.
        reason: String,
    },
}

impl Fit {
    /// Whether ranks must not be started.
    #[must_use]
    pub fn is_refused(&self) -> bool {
        matches!(self, Self::Singletons { .. } | Self::Fails { .. })
    }
}

/// What kind of end ranks come to that do not find each other.
enum End {
    Works,
    Singletons,
    Fails,
    Unknown,
}

/// Says what becomes of ranks that `starter` starts and whose library speaks `speaks`.
#[must_use]
pub fn fit(starter: &Starter, speaks: Speaks) -> Fit {
    if !starter.has_several() {
        return Fit::Works;
    }
    let reason = || format!("{} offers {}, and {}", starter.kind, starter.protocol, described(speaks));
    match end(starter, speaks) {
        End::Works => Fit::Works,
        End::Singletons => Fit::Singletons { reason: reason(), way_out: way_out(starter, speaks) },
        End::Fails => Fit::Fails { reason: reason(), way_out: way_out(starter, speaks) },
        End::Unknown => Fit::Unknown { reason: reason() },
    }
}

fn end(starter: &Starter, speaks: Speaks) -> End {
    let slurm = starter.kind == Kind::Slurm;
    match (speaks, starter.protocol) {
        (Speaks::Unknown, Protocol::None) => End::Singletons,
        (Speaks::Unknown, _) => End::Unknown,
        // It takes PRRTE for no starter of its own; with the variables that mpirun of Open MPI 5 sets, it fails instead.
        (Speaks::OpenMpi4, Protocol::Pmix) if starter.kind == Kind::Prrte => End::Singletons,
        (Speaks::OpenMpi4 | Speaks::OpenMpi5, Protocol::Pmix) => End::Works,
        // It knows that Slurm started it, and wants PMIx of it.
        (Speaks::OpenMpi4, _) if slurm => End::Fails,
        (Speaks::OpenMpi4 | Speaks::OpenMpi5, _) => End::Singletons,
        (Speaks::Mpich4 | Speaks::Mpich5, Protocol::Pmi1 | Protocol::Pmi2) => End::Works,
        (Speaks::Mpich5, Protocol::Pmix) => End::Fails,
        (Speaks::Mpich4 | Speaks::Mpich5, _) => End::Singletons,
        (Speaks::Told { pmix, .. }, Protocol::Pmix) => works(pmix),
        (Speaks::Told { pmi, .. }, Protocol::Pmi1 | Protocol::Pmi2) => works(pmi),
        (Speaks::Told { .. }, Protocol::None) => End::Singletons,
    }
}

fn works(spoken: bool) -> End {
    if spoken { End::Works } else { End::Singletons }
}

fn described(speaks: Speaks) -> &'static str {
    match speaks {
        Speaks::OpenMpi4 => {
            "Open MPI 4 is started by its own mpirun, or by others over PMIx, but not by mpirun of Open MPI 5"
        }
        Speaks::OpenMpi5 => "Open MPI 5 speaks PMIx alone",
        Speaks::Mpich4 | Speaks::Mpich5 => "MPICH speaks PMI-1 and PMI-2 alone",
        Speaks::Told { pmi: true, pmix: true } => "the MPI library speaks PMI-1, PMI-2 and PMIx",
        Speaks::Told { pmi: true, .. } => "the MPI library speaks PMI-1 and PMI-2 alone",
        Speaks::Told { pmix: true, .. } => "the MPI library speaks PMIx alone",
        Speaks::Told { .. } => "the MPI library speaks neither PMI nor PMIx",
        Speaks::Unknown => "it is not known what the MPI library speaks",
    }
}

/// The same starter told differently where it can be, else the starter that fits.
fn way_out(starter: &Starter, speaks: Speaks) -> String {
    let pmi = matches!(speaks, Speaks::Mpich4 | Speaks::Mpich5 | Speaks::Told { pmi: true, .. });
    let pmix = matches!(speaks, Speaks::OpenMpi4 | Speaks::OpenMpi5 | Speaks::Told { pmix: true, .. });
    match (starter.kind, speaks) {
        (Kind::Slurm, _) if pmi => "srun --mpi=pmi2",
        (Kind::Slurm, _) if pmix => "srun --mpi=pmix",
        (_, Speaks::OpenMpi4) => "mpirun of Open MPI 4, or srun --mpi=pmix",
        _ if pmix => "mpirun of Open MPI, or srun --mpi=pmix",
        _ if pmi => "mpirun of MPICH, or srun --mpi=pmi2",
        _ => "an MPI library and a starter that speak the same of PMI-1, PMI-2 and PMIx",
    }
    .to_owned()
}
