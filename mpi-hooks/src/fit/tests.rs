use super::*;
use crate::starter::Needs;

fn starter(kind: Kind, protocol: Protocol) -> Starter {
    Starter { kind, protocol, rank: 0, size: 2, local: None, server: None, needs: Needs::default() }
}

/// A letter for each outcome: works, singletons, fails, unknown.
fn letter(fit: &Fit) -> char {
    match fit {
        Fit::Works => 'w',
        Fit::Singletons { .. } => 's',
        Fit::Fails { .. } => 'f',
        Fit::Unknown { .. } => 'u',
    }
}

#[test]
fn each_library_under_each_starter_is_as_measured() {
    let starters = [
        starter(Kind::Orte, Protocol::Pmix),
        starter(Kind::Hydra, Protocol::Pmi1),
        starter(Kind::Prrte, Protocol::Pmix),
        starter(Kind::Slurm, Protocol::Pmix),
        starter(Kind::Slurm, Protocol::Pmi2),
        starter(Kind::Slurm, Protocol::None),
    ];
    let told = |pmi, pmix| Speaks::Told { pmi, pmix };
    for (speaks, expected) in [
        (Speaks::OpenMpi4, "wsswff"),
        (Speaks::OpenMpi5, "wswwss"),
        (Speaks::Mpich4, "swssws"),
        (Speaks::Mpich5, "fwffws"),
        (told(true, false), "swssws"),
        (told(false, true), "wswwss"),
        (told(true, true), "wwwwws"),
        (told(false, false), "ssssss"),
        (Speaks::Unknown, "uuuuus"),
    ] {
        let found: String = starters.iter().map(|starter| letter(&fit(starter, speaks))).collect();
        assert_eq!(found, expected, "{speaks:?}");
    }
}

#[test]
fn a_single_rank_needs_nobody() {
    let alone = Starter { size: 1, ..starter(Kind::Slurm, Protocol::None) };
    assert_eq!(fit(&alone, Speaks::Unknown), Fit::Works);
}

#[test]
fn a_refusal_names_both_sides_and_the_way_out() {
    let fitted = fit(&starter(Kind::Slurm, Protocol::Pmix), Speaks::Mpich4);
    assert!(fitted.is_refused());
    let Fit::Singletons { reason, way_out } = fitted else { panic!("{fitted:?}") };
    assert_eq!(reason, "srun offers PMIx, and MPICH speaks PMI-1 and PMI-2 alone");
    assert_eq!(way_out, "srun --mpi=pmi2");
    let Fit::Singletons { way_out, .. } = fit(&starter(Kind::Hydra, Protocol::Pmi1), Speaks::OpenMpi5) else {
        panic!()
    };
    assert_eq!(way_out, "mpirun of Open MPI, or srun --mpi=pmix");
    let Fit::Singletons { way_out, .. } = fit(&starter(Kind::Prrte, Protocol::Pmix), Speaks::OpenMpi4) else {
        panic!()
    };
    assert_eq!(way_out, "mpirun of Open MPI 4, or srun --mpi=pmix");
}
