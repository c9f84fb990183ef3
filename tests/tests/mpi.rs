//! Ranks of a real MPI library in containers, under real starters.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests fail by panicking")]

use coracle_tests::fixtures::standard_squashfs;
use coracle_tests::needs;
use coracle_tests::needs::find_tool;
use coracle_tests::process::{Finished, User, coracle_binary, run};
use coracle_tests::slurm::Slurm;

/// What `hello-mpi` of the standard image, which has Open MPI 4.1, prints.
const RIGHT: [&str; 2] = ["rank 0 of 2, sum of ranks 1", "rank 1 of 2, sum of ranks 1"];

/// Two ranks of a command in the standard image, by a starter of this machine.
fn started(starter: &[&str], options: &[&str], program: &[&str]) -> Finished {
    let user = User::unprivileged();
    let dir = user.temp_dir();
    let mut command = user.command(find_tool(starter[0]).unwrap());
    command
        .env("PATH", PATH)
        .current_dir(dir.path())
        .args(&starter[1..])
        .arg(coracle_binary().unwrap())
        .arg("exec")
        .args(options);
    run(command.arg(standard_squashfs()).args(program))
}

fn lines(seen: &Finished) -> Vec<&str> {
    let mut lines: Vec<&str> = seen.stdout.lines().filter(|line| line.starts_with("rank ")).collect();
    lines.sort_unstable();
    lines
}

/// Where starters find their own helpers.
const PATH: &str = "/usr/local/bin:/usr/bin:/bin";
const ORTE: [&str; 4] = ["mpirun.openmpi", "--oversubscribe", "-n", "2"];
const HYDRA: [&str; 3] = ["mpirun.mpich", "-n", "2"];

#[test]
fn userns_ranks_find_each_other_under_their_own_starter() {
    needs!(Coracle, Fuse, StandardImage, Tool("mpirun.openmpi"));
    for options in [&[][..], &["--cleanenv"], &["--mpi=container"], &["--mpi=off"]] {
        let seen = started(&ORTE, options, &["hello-mpi"]);
        assert_eq!(lines(&seen), RIGHT, "{options:?}: {}", seen.stderr);
        seen.success();
    }
    assert_eq!(lines(&started(&ORTE, &[], &["sh", "-c", "hello-mpi"])), RIGHT, "no trap where all is right");
}

#[test]
fn userns_ranks_that_would_each_be_alone_are_not_started() {
    needs!(Coracle, Fuse, StandardImage, Tool("mpirun.mpich"));
    // What would happen: this is what the rest is about.
    let alone = started(&HYDRA, &["--mpi=off"], &["hello-mpi"]);
    assert_eq!(lines(&alone), ["rank 0 of 1, sum of ranks 0"; 2], "{}", alone.stderr);
    let refused = started(&HYDRA, &[], &["hello-mpi"]);
    assert_eq!(lines(&refused), [""; 0]);
    for part in ["cannot start", "of 2", "mpirun of MPICH", "Open MPI 4", "srun --mpi=pmix", "--mpi=off"] {
        assert!(refused.stderr.contains(part), "{part}: {}", refused.stderr);
    }
    refused.exited(125);
    // A shell starts; what it starts finds no way to be alone.
    let trapped = started(&HYDRA, &[], &["sh", "-c", "echo rank of no MPI; hello-mpi"]);
    // Whoever fails first has the other ended, whatever that one was about to say.
    assert!(
        !lines(&trapped).is_empty() && lines(&trapped).iter().all(|line| *line == "rank of no MPI"),
        "{}",
        trapped.stdout
    );
    assert!(trapped.stderr.contains("should /usr/bin/sh use it, MPI_Init fails"), "{}", trapped.stderr);
    assert!(!trapped.status.success());
    started(&HYDRA, &["--mpi=container"], &["sh", "-c", "hello-mpi"]).exited(125);
    // What uses no MPI is left alone.
    let other = started(&HYDRA, &[], &["id", "-u"]).success();
    assert_eq!((other.stdout.lines().count(), other.stderr.as_str()), (2, ""));
}

#[test]
fn slurm_ranks_run_over_pmix_and_are_refused_where_they_would_fail() {
    needs!(Root, Coracle, Fuse, StandardImage, Tool("srun"), Tool("slurmctld"), Tool("munged"));
    let slurm = Slurm::new(2, 2);
    let srun = |how: &[&str], options: &[&str]| {
        let mut command = slurm.srun(how);
        command.arg(coracle_binary().unwrap()).arg("exec").args(options).arg(standard_squashfs());
        run(command.arg("hello-mpi"))
    };
    for nodes in ["-N1", "-N2"] {
        let seen = srun(&["--mpi=pmix", nodes, "-n2", "-t1"], &[]);
        assert_eq!(lines(&seen), RIGHT, "{nodes}: {}", seen.stderr);
        seen.success();
    }
    for plugin in ["--mpi=pmi2", "--mpi=none"] {
        let seen = srun(&[plugin, "-N1", "-n2", "-t1"], &[]);
        assert!(
            seen.stderr.contains("MPI_Init would fail") && seen.stderr.contains("srun --mpi=pmix"),
            "{}",
            seen.stderr
        );
        assert!(!seen.status.success());
    }
}

#[test]
fn userns_what_is_decided_is_explained() {
    needs!(Coracle, Fuse, StandardImage, Tool("mpirun.mpich"));
    let user = User::unprivileged();
    let dir = user.temp_dir();
    let image = standard_squashfs();
    let mut command = user.coracle(dir.path(), ["mpi", "explain", "--json"]);
    let seen = run(command.arg(&image).arg("hello-mpi")).success();
    let json: serde_json::Value = serde_json::from_str(&seen.stdout).unwrap();
    assert_eq!(json["uses"]["library"]["family"], "open-mpi", "{json}");
    assert_eq!(json["uses"]["library"]["soname"], "libmpi.so.40");
    assert!(json["uses"]["library"]["version"].as_str().unwrap().starts_with("4."));
    assert_eq!((&json["starter"], &json["error"]), (&serde_json::Value::Null, &serde_json::Value::Null));
    let mut command = user.command(find_tool("mpirun.mpich").unwrap());
    command
        .env("PATH", PATH)
        .current_dir(dir.path())
        .args(["-n", "2"])
        .arg(coracle_binary().unwrap())
        .args(["mpi", "explain"]);
    let seen = run(command.arg(&image).arg("hello-mpi")).exited(125);
    assert!(seen.stdout.contains("A launch fails: cannot start"), "{}", seen.stdout);
}
