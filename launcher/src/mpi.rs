//! Ranks of MPI programs: what they keep of who starts them, and whether they will find each other.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::io;
use std::path::PathBuf;

use coracle_mpi_hooks::fit::{Fit, fit};
use coracle_mpi_hooks::mpi::Mpi;
use coracle_mpi_hooks::starter::{self, Starter};
use oci_spec::OciSpecError;
use oci_spec::runtime::Spec;

use crate::gpu::inject::Bind;
use crate::gpu::launch::add_binds;
use crate::host::Host;
use crate::image::{self, Tree};
use crate::options::{self, Options};
use crate::spec::{self, Composed};

mod explain;
mod shown;
mod trap;
mod uses;

pub use explain::{Explained, explain};
pub use uses::Uses;

/// Variables that say which rank this is: without any there is no starter.
const TELLING: [&str; 6] =
    ["SLURM_PROCID", "PMI_RANK", "PMIX_RANK", "OMPI_COMM_WORLD_RANK", "PALS_RANKID", "FLUX_TASK_RANK"];

/// Why ranks cannot start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// They would not find each other.
    #[error(
        "cannot start {}, rank {rank} of {size}: {end}: {reason}; its MPI library is {library}; use {way_out}; --mpi=off starts it all \
         the same", program.display()
    )]
    Ranks {
        /// The program, as the image has it.
        program: PathBuf,
        /// This rank.
        rank: u32,
        /// All ranks.
        size: u32,
        /// What would come of it.
        end: End,
        /// The library.
        library: String,
        /// What is on either side.
        reason: String,
        /// What to do.
        way_out: String,
    },
    /// The image is damaged.
    #[error(transparent)]
    Image(#[from] image::Error),
    /// A library cannot be read.
    #[error("cannot look for the MPI library of {}", program.display())]
    Look {
        /// The program.
        program: PathBuf,
        /// Why.
        #[source]
        cause: io::Error,
    },
    /// The parts do not make a specification.
    #[error("cannot compose the runtime specification")]
    Spec(#[from] OciSpecError),
}

/// Who starts several ranks, of which this is one.
#[must_use]
pub fn starter(host: &Host) -> Option<Starter> {
    // Plain launches pay for no more than this.
    let told = |name: &std::ffi::OsString| name.to_str().is_some_and(|name| TELLING.contains(&name));
    if !host.env.iter().any(|(name, _)| told(name)) {
        return None;
    }
    let variables = host.env.iter().map(|(name, value)| (name.as_os_str(), value.as_os_str()));
    starter::recognise(variables).filter(Starter::has_several)
}

/// Has ranks reach who started them, and refuses those that would not find each other.
///
/// # Errors
/// When the ranks of a program that uses MPI could not work together.
pub fn apply(composed: &mut Composed, options: &Options, tree: &dyn Tree, host: &Host) -> Result<(), Error> {
    let mode = options.mpi.unwrap_or_default();
    if mode == options::Mpi::Off {
        return Ok(());
    }
    let Some(starter) = starter(host) else { return Ok(()) };
    wire(&mut composed.spec, &starter, host)?;
    let (program, uses) = uses::remembered(&composed.spec, tree)?;
    match judge(&starter, &uses, mode, program)? {
        Verdict::Start => {}
        Verdict::Trap { warning, mpis } => {
            // One rank says it for all.
            if starter.rank == 0 {
                composed.warnings.push(warning);
            }
            trap::set(&mut composed.spec, &mpis);
        }
    }
    Ok(())
}

/// What is to be done about the ranks of a program.
#[derive(Debug, PartialEq)]
enum Verdict {
    Start,
    /// Should the program come to use one of these, it is to fail.
    Trap {
        warning: String,
        mpis: Vec<Mpi>,
    },
}

/// What would come of ranks that do not find each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// All the same work, done by each.
    Alone,
    /// An error of theirs.
    Fails,
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Alone => {
                "its ranks would not find each other, and each take itself for the only one (\"rank 0 of 1\")"
            }
            Self::Fails => "MPI_Init would fail",
        })
    }
}

/// Why ranks on a library are not started.
struct Refusal<'a> {
    mpi: &'a Mpi,
    end: End,
    reason: String,
    way_out: String,
}

impl<'a> Refusal<'a> {
    /// `None` where nothing speaks against it.
    fn of(starter: &Starter, mpi: &'a Mpi) -> Option<Self> {
        let (end, reason, way_out) = match fit(starter, mpi.speaks) {
            Fit::Singletons { reason, way_out } => (End::Alone, reason, way_out),
            Fit::Fails { reason, way_out } => (End::Fails, reason, way_out),
            Fit::Works | Fit::Unknown { .. } => return None,
        };
        Some(Self { mpi, end, reason, way_out })
    }

    fn error(self, starter: &Starter, program: PathBuf) -> Error {
        let Self { mpi, end, reason, way_out } = self;
        let (rank, size, library) = (starter.rank, starter.size, mpi.to_string());
        Error::Ranks { program, rank, size, end, library, reason, way_out }
    }
}

fn judge(starter: &Starter, uses: &Uses, mode: options::Mpi, program: PathBuf) -> Result<Verdict, Error> {
    // One library is the program's, of several nobody knows which.
    let (mpis, certain) = match uses {
        Uses::Nothing => return Ok(Verdict::Start),
        Uses::Library(mpi) => (std::slice::from_ref(mpi), true),
        Uses::Perhaps(mpis) => (mpis.as_slice(), mode == options::Mpi::Container && mpis.len() == 1),
    };
    let mut refusals: Vec<Refusal<'_>> = mpis.iter().filter_map(|mpi| Refusal::of(starter, mpi)).collect();
    if refusals.is_empty() {
        return Ok(Verdict::Start);
    }
    if certain {
        return Err(refusals.swap_remove(0).error(starter, program));
    }
    let mpis = refusals.iter().filter(|refusal| refusal.end == End::Alone).map(|refusal| refusal.mpi.clone()).collect();
    let Refusal { mpi, reason, way_out, .. } = refusals.swap_remove(0);
    let warning = format!(
        "the image has an MPI library whose ranks would not find each other: {mpi}: {reason}; should {} use it, MPI_Init fails; use \
         {way_out} then; --mpi=off leaves all as it is",
        program.display()
    );
    Ok(Verdict::Trap { warning, mpis })
}

/// Keeps open, shows and passes what ranks need of their starter.
fn wire(spec: &mut Spec, starter: &Starter, host: &Host) -> Result<(), Error> {
    let needs = &starter.needs;
    let numbers: Vec<String> = needs.descriptors.iter().map(ToString::to_string).collect();
    let mut annotations: HashMap<String, String> = spec.annotations().clone().unwrap_or_default();
    if !numbers.is_empty() {
        annotations.insert(spec::DESCRIPTORS.to_owned(), numbers.join(","));
    }
    if !annotations.is_empty() {
        spec.set_annotations(Some(annotations));
    }
    let lacks = |directory: &&PathBuf| !spec::shows(spec, directory) && directory.is_dir();
    let bind = |directory: &PathBuf| Bind {
        source: directory.clone(),
        destination: directory.clone(),
        device: false,
        writable: true,
    };
    let binds: Vec<Bind> = needs.directories.iter().filter(lacks).map(bind).collect();
    if !binds.is_empty() {
        add_binds(spec, binds.iter())?;
    }
    pass_variables(spec, &needs.variables, host);
    Ok(())
}

/// Even where the caller's environment is not passed.
fn pass_variables(spec: &mut Spec, names: &[String], host: &Host) {
    let Some(process) = spec.process_mut() else { return };
    let mut env = process.env().clone().unwrap_or_default();
    let there: HashSet<&str> = env.iter().filter_map(|one| Some(one.split_once('=')?.0)).collect();
    let lacks = |name: &&String| !there.contains(name.as_str());
    let value = |name: &String| {
        let (_, value) = host.env.iter().find(|(one, _)| one.to_str() == Some(name))?;
        Some(format!("{name}={}", value.to_str()?))
    };
    let more: Vec<String> = names.iter().filter(lacks).filter_map(value).collect();
    env.extend(more);
    process.set_env(Some(env));
}

/// The value of a variable of the container.
fn variable<'s>(spec: &'s Spec, name: &str) -> Option<&'s str> {
    let env = spec.process().as_ref()?.env().as_ref()?;
    env.iter().find_map(|one| one.strip_prefix(name)?.strip_prefix('='))
}

/// Where the program is, as the container's search path says.
fn program(spec: &Spec, files: &dyn coracle_mpi_hooks::files::Files) -> io::Result<Option<PathBuf>> {
    let process = spec.process().as_ref();
    let Some(name) = process.and_then(|process| process.args().as_ref()?.first()) else { return Ok(None) };
    if name.contains('/') {
        let cwd = process.map(|process| process.cwd().clone()).unwrap_or_default();
        return Ok(Some(cwd.join(name)));
    }
    for directory in std::env::split_paths(variable(spec, "PATH").unwrap_or_default()) {
        let path = directory.join(name);
        if coracle_mpi_hooks::files::file(files, &path)?.is_some() {
            return Ok(Some(path));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests;
