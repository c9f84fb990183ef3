//! `gpu explain` and `mpi explain`.

use std::path::Path;

use coracle::cli::{self, Flags};
use coracle::exit::Exit;
use coracle::explanation::Explanation;
use coracle::gpu;
use coracle::host::{Disk, Host};
use coracle::image::Tree;
use coracle::mpi;
use coracle::options::{Gpu, Options, Verb};
use coracle::spec::{self, Composed};

use super::{Launch, Looked, Ready, ready};
use crate::{print, settings};

/// Says what a launch with these options would find and take of GPU drivers.
pub(crate) fn explain(arguments: &cli::Explain) -> anyhow::Result<Exit> {
    // No program is looked for: only the environment matters.
    let verb = Verb::Exec(vec!["true".into()]);
    let all = |ready: &mut Ready| {
        if ready.options.gpu.asked.is_empty() {
            ready.options.gpu = Gpu::auto();
        }
    };
    let root = gpu::discover::Root::host();
    composed(&arguments.flags, &arguments.image, arguments.json, verb, all, |composed, options, tree, host| {
        Ok(gpu::explain::explain(&root, &composed.spec, options, tree, host)?)
    })
}

/// Says which MPI libraries there are, and what a launch of a program would make of them.
pub(crate) fn explain_mpi(arguments: &cli::ExplainMpi) -> anyhow::Result<Exit> {
    let asked = arguments.program.is_some();
    let verb = Verb::Exec(vec![arguments.program.clone().unwrap_or("true".into())]);
    composed(
        &arguments.flags,
        &arguments.image,
        arguments.json,
        verb,
        |_| {},
        |composed, _, tree, host| Ok(mpi::explain(composed, asked, tree, host)?),
    )
}

/// Composes a launch as far as the image, options and host tell, and prints what `look` says of it.
fn composed<E: Explanation>(
    flags: &Flags,
    image: &Path,
    json: bool,
    verb: Verb,
    change: impl FnOnce(&mut Ready),
    look: impl FnOnce(&Composed, &Options, &dyn Tree, &Host) -> anyhow::Result<E>,
) -> anyhow::Result<Exit> {
    let config = settings()?;
    let mut ready = ready(flags, image.to_path_buf(), verb, &config)?;
    change(&mut ready);
    let tree = Looked::open(&ready.image, &ready.path, Some(&config.images))?;
    let Launch { path, verb, options, caller, around, .. } = ready.launch(&config)?;
    let host = Host::new(around, caller.ids, None);
    let facts = tree.facts(&path);
    let composed = spec::compose(&facts, &verb, &options, &host, &Disk::default())?;
    let explained = look(&composed, &options, facts.tree, &host)?;
    print(|out| {
        if !json {
            return Ok(explained.write(out)?);
        }
        serde_json::to_writer_pretty(&mut *out, &explained)?;
        Ok(writeln!(out)?)
    })?;
    Ok(if explained.works() { Exit::Success } else { Exit::Failure })
}
