use super::*;
use std::path::PathBuf;

fn recognised(env: &str) -> Option<Starter> {
    let pairs = env.split_whitespace().filter_map(|word| word.split_once('='));
    recognise(pairs.map(|(name, value)| (OsStr::new(name), OsStr::new(value))))
}

/// As Slurm 22.05 sets them.
const STEP: &str = "SLURM_PROCID=1 SLURM_STEP_NUM_TASKS=2 SLURM_STEP_TASKS_PER_NODE=2 SLURM_NODEID=0 SLURM_STEP_ID=0";
const SERVER: &str = "PMIX_RANK=1 PMIX_SERVER_URI2=x PMIX_VERSION=4.2.2rc2";

fn one(env: &str, kind: Kind, protocol: Protocol) -> Starter {
    let found = recognised(env).unwrap_or_else(|| panic!("{env}"));
    assert_eq!((found.kind, found.protocol, found.rank, found.size), (kind, protocol, 1, 2), "{env}");
    found
}

#[test]
fn slurm_says_which_protocol_it_offers() {
    let spool = "PMIX_SERVER_TMPDIR=/spool/pmix.1.0/ PMIX_DSTORE_21_BASE_PATH=/spool/pmix.1.0//pmix_dstor_ds21_7";
    let pmix = one(
        &format!("{STEP} {SERVER} {spool} PMIX_NAMESPACE=slurm.pmix.1.0 PMIX_SYSTEM_TMPDIR=/tmp"),
        Kind::Slurm,
        Protocol::Pmix,
    );
    assert_eq!((pmix.local, pmix.server.as_deref()), (Some(2), Some("4.2.2rc2")));
    assert_eq!(pmix.needs.directories, [PathBuf::from("/spool/pmix.1.0")]);
    assert!(pmix.needs.variables.iter().any(|name| name == "SLURM_PROCID"));
    let pmi2 = one(&format!("{STEP} PMI_FD=13 PMI_RANK=1 PMI_SIZE=2 PMI_JOBID=2.0"), Kind::Slurm, Protocol::Pmi2);
    assert_eq!((pmi2.needs.descriptors, pmi2.server), (vec![13], None));
    one(STEP, Kind::Slurm, Protocol::None);
}

#[test]
fn hydra_is_told_from_slurms_pmi2_even_within_a_step() {
    let hydra = "HYDI_CONTROL_FD=7 MPI_LOCALNRANKS=2 PMI_FD=8 PMI_RANK=1 PMI_SIZE=2 PMI_HOSTNAME=vm";
    let found = one(hydra, Kind::Hydra, Protocol::Pmi1);
    assert_eq!((found.local, found.needs.descriptors), (Some(2), vec![8]));
    one(&format!("{hydra} {STEP}"), Kind::Hydra, Protocol::Pmi1);
}

#[test]
fn both_mpiruns_of_open_mpi_are_told_apart() {
    let world = "OMPI_COMM_WORLD_RANK=1 OMPI_COMM_WORLD_SIZE=2 OMPI_COMM_WORLD_LOCAL_SIZE=2";
    let session = "OMPI_FILE_LOCATION=/tmp/s/0/0 PMIX_SERVER_TMPDIR=/tmp/s OMPI_MCA_orte_launch=1";
    let four = one(&format!("{world} {SERVER} {session} PMIX_NAMESPACE=1000407041 {STEP}"), Kind::Orte, Protocol::Pmix);
    assert_eq!((four.local, four.needs.directories), (Some(2), vec![PathBuf::from("/tmp/s")]));
    one(&format!("{world} {SERVER} PRTE_LAUNCHED=1 PMIX_NAMESPACE=prterun-vm-1@1"), Kind::Prrte, Protocol::Pmix);
}

#[test]
fn flux_and_pals_are_recognised() {
    let flux = "FLUX_TASK_RANK=1 FLUX_JOB_SIZE=2 PMI_FD=5 PMI_RANK=1 PMI_SIZE=2 FLUX_URI=local:///run/flux/local";
    let found = one(flux, Kind::Flux, Protocol::Pmi1);
    assert_eq!((found.needs.directories, found.needs.descriptors), (vec![PathBuf::from("/run/flux")], vec![5]));
    let pals =
        "PALS_RANKID=1 PALS_SPOOL_DIR=/var/run/palsd/x PMI_RANK=1 PMI_SIZE=2 PMI_CONTROL_PORT=1 PALS_LOCAL_SIZE=2";
    assert_eq!(one(pals, Kind::Pals, Protocol::Pmi2).needs.directories, [PathBuf::from("/var/run/palsd/x")]);
}

#[test]
fn an_allocation_is_no_starter() {
    for env in ["", "PATH=/bin", "SLURM_JOB_ID=1 SLURM_NTASKS=4 SLURM_PROCID=0", "PMI_FD=3", "PMIX_RANK=1"] {
        assert_eq!(recognised(env), None, "{env}");
    }
}

#[test]
fn standard_descriptors_and_the_root_are_never_asked_for() {
    let env = format!("{STEP} PMI_FD=1 PMI_RANK=1 PMI_SIZE=2 PMI_JOBID=2.0 PMIX_SERVER_TMPDIR=/ PMIX_X=1");
    let found = recognised(&env).map(|starter| starter.needs);
    assert_eq!(found.map(|needs| (needs.descriptors, needs.directories)), Some((vec![], vec![])));
}

#[test]
fn tasks_of_a_node_are_read_from_slurms_list() {
    for (tasks, node, expected) in
        [("2", 0, Some(2)), ("2(x3),1", 2, Some(2)), ("2(x3),1", 3, Some(1)), ("2(x3),1", 4, None), ("x", 0, None)]
    {
        assert_eq!(on_node(tasks, node), expected, "{tasks} {node}");
    }
}
