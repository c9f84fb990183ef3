//! The Slurm that tests of launches by a scheduler run on.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests fail by panicking")]

use coracle_tests::needs;
use coracle_tests::process::run;
use coracle_tests::slurm::Slurm;

#[test]
fn slurm_nodes_are_apart_and_report_their_status() {
    needs!(Root, Tool("srun"), Tool("slurmctld"), Tool("munged"));
    let slurm = Slurm::new(2, 2);
    let hosts = run(&mut slurm.srun(["-N2", "-t1", "hostname"])).success();
    let mut names: Vec<_> = hosts.stdout.lines().collect();
    names.sort_unstable();
    assert_eq!(names, ["node1", "node2"]);
    run(&mut slurm.srun(["-N1", "-t1", "sh", "-c", "exit 7"])).exited(7);
}
