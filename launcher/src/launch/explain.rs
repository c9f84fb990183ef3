//! `gpu explain` and `mpi explain`.

use coracle::cli;
use coracle::exit::Exit;
use coracle::gpu;
use coracle::host::{Disk, Host};
use coracle::mpi;
use coracle::options::{Gpu, Verb};
use coracle::spec;

use super::{Launch, Looked, ready};
use crate::{print, settings};

/// Says what a launch with these options would find and take of GPU drivers.
pub(crate) fn explain(arguments: &cli::Explain) -> anyhow::Result<Exit> {
    let config = settings()?;
    // No program is looked for: only the environment matters.
    let verb = Verb::Exec(vec!["true".into()]);
    let mut ready = ready(&arguments.flags, arguments.image.clone(), verb, &config)?;
    if ready.options.gpu.asked.is_empty() {
        ready.options.gpu = Gpu::auto();
    }
    let tree = Looked::open(&ready.image, &ready.path, Some(&config.images))?;
    let Launch { path, verb, options, caller, around, .. } = ready.launch(&config)?;
    let host = Host::new(around, caller.ids, None);
    let facts = tree.facts(&path);
    let composed = spec::compose(&facts, &verb, &options, &host, &Disk::default())?;
    let root = gpu::discover::Root::host();
    let explained = gpu::explain::explain(&root, &composed.spec, &options, facts.tree, &host)?;
    print(|out| {
        let written = if arguments.json { explained.write_json(out) } else { explained.write(out) };
        Ok(written?)
    })?;
    Ok(if explained.works() { Exit::Success } else { Exit::Failure })
}

/// Says which MPI libraries there are, and what a launch of a program would make of them.
pub(crate) fn explain_mpi(arguments: &cli::ExplainMpi) -> anyhow::Result<Exit> {
    let config = settings()?;
    let program = arguments.program.clone();
    let verb = Verb::Exec(vec![program.clone().unwrap_or("true".into())]);
    let ready = ready(&arguments.flags, arguments.image.clone(), verb, &config)?;
    let tree = Looked::open(&ready.image, &ready.path, Some(&config.images))?;
    let Launch { path, verb, options, caller, around, .. } = ready.launch(&config)?;
    let host = Host::new(around, caller.ids, None);
    let facts = tree.facts(&path);
    let composed = spec::compose(&facts, &verb, &options, &host, &Disk::default())?;
    let explained = mpi::explain(&composed, program.is_some(), facts.tree, &host)?;
    print(|out| {
        let written = if arguments.json { explained.write_json(out) } else { explained.write(out) };
        Ok(written?)
    })?;
    Ok(if explained.works() { Exit::Success } else { Exit::Failure })
}
