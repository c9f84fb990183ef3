//! What becomes of ranks, by starter and library.

use coracle_mpi_hooks::fit::Speaks;
use coracle_mpi_hooks::mpi::{Family, Interface};
use std::ffi::OsStr;

use super::*;

fn mpi(family: Family, speaks: Speaks) -> Mpi {
    Mpi {
        family,
        version: Some("4.1.4".into()),
        interface: Interface::OpenMpi,
        soname: "libmpi.so.40".into(),
        path: "/usr/lib/libmpi.so.40".into(),
        fortran: Vec::new(),
        speaks,
    }
}

fn hydra(size: &str) -> Starter {
    let env = [("PMI_FD", "9"), ("PMI_RANK", "1"), ("PMI_SIZE", size), ("MPI_LOCALNRANKS", size)];
    starter::recognise(env.iter().map(|(name, value)| (OsStr::new(*name), OsStr::new(*value)))).unwrap()
}

fn judged(uses: &Uses, mode: options::Mpi) -> Result<Verdict, String> {
    judge(&hydra("2"), uses, mode, "/app".into()).map_err(|error| error.to_string())
}

#[test]
fn ranks_that_would_not_find_each_other_are_refused_with_both_sides_and_the_way_out() {
    let open = mpi(Family::OpenMpi, Speaks::OpenMpi4);
    let refused = judged(&Uses::Library(open.clone()), options::Mpi::Auto).unwrap_err();
    for part in [
        "/app, rank 1 of 2",
        "mpirun of MPICH",
        "Open MPI 4.1.4 (/usr/lib/libmpi.so.40)",
        "srun --mpi=pmix",
        "--mpi=off",
    ] {
        assert!(refused.contains(part), "{part}: {refused}");
    }
    let mpich = mpi(Family::Mpich, Speaks::Mpich4);
    assert_eq!(judged(&Uses::Library(mpich.clone()), options::Mpi::Auto), Ok(Verdict::Start));
    assert_eq!(judged(&Uses::Nothing, options::Mpi::Container), Ok(Verdict::Start));
    // A shell is started; should it come to the library, that one fails.
    let both = Uses::Perhaps(vec![mpich.clone(), open.clone()]);
    let Ok(Verdict::Trap { warning, mpis }) = judged(&both, options::Mpi::Auto) else { panic!("no trap") };
    assert!(warning.contains("should /app use it"), "{warning}");
    assert_eq!(mpis, std::slice::from_ref(&open), "only what would not fail by itself");
    assert!(judged(&Uses::Perhaps(vec![open]), options::Mpi::Container).is_err());
    assert_eq!(judged(&Uses::Perhaps(vec![mpich]), options::Mpi::Auto), Ok(Verdict::Start));
}

#[test]
fn traps_are_variables() {
    let process =
        oci_spec::runtime::ProcessBuilder::default().env(vec!["PMI_FD=9".to_owned()]).cwd("/").build().unwrap();
    let mut spec = oci_spec::runtime::SpecBuilder::default().process(process).build().unwrap();
    trap::set(&mut spec, &[mpi(Family::OpenMpi, Speaks::OpenMpi5), mpi(Family::Mpich, Speaks::Mpich4)]);
    assert_eq!(variable(&spec, "OMPI_MCA_pml"), Some("ranks_cannot_find_each_other"));
    assert_eq!(variable(&spec, "PMI_FD"), Some("2147483647"));
}
