//! Has MPI libraries fail that would start ranks which do not find each other, without a word, as programs on their own.
//!
//! For programs of which nobody knows whether they use such a library: a shell, an interpreter, a script.

use coracle_mpi_hooks::fit::Speaks;
use coracle_mpi_hooks::mpi::Mpi;
use oci_spec::runtime::Spec;

/// Open MPI names what it was asked for and does not have; both of its lines fail in `MPI_Init` for that, in every layout.
const OPEN_MPI: [(&str, &str); 1] = [("OMPI_MCA_pml", "ranks_cannot_find_each_other")];
/// MPICH and its kin speak to the descriptor that they are told of; nobody has that one.
const MPICH: [(&str, &str); 3] = [("PMI_FD", "2147483647"), ("PMI_RANK", "0"), ("PMI_SIZE", "2")];

/// Sets what these libraries fail for.
pub(super) fn set(spec: &mut Spec, mpis: &[Mpi]) {
    let Some(process) = spec.process_mut() else { return };
    let mut env = process.env().clone().unwrap_or_default();
    for mpi in mpis {
        let variables: &[(&str, &str)] = match mpi.speaks {
            Speaks::OpenMpi4 | Speaks::OpenMpi5 => &OPEN_MPI,
            Speaks::Mpich4 | Speaks::Mpich5 | Speaks::Told { pmi: true, .. } => &MPICH,
            Speaks::Told { .. } | Speaks::Unknown => &[],
        };
        for (name, value) in variables {
            env.retain(|one| !one.strip_prefix(name).is_some_and(|rest| rest.starts_with('=')));
            env.push(format!("{name}={value}"));
        }
    }
    process.set_env(Some(env));
}
