//! `spec` and `--dry-run`: what would happen.

use std::path::Path;

use anyhow::Context;
use coracle::cli::{self, Flags};
use coracle::exit::Exit;
use coracle::options::Verb;
use coracle::plan::Way;

use super::{Looked, Prepared, Sessions, ready};
use crate::{print, settings, warn};

/// `spec`.
pub(crate) fn specification(arguments: &cli::Spec) -> anyhow::Result<Exit> {
    let (image, rest) = cli::image_and_rest(&arguments.words).context("no image given")?;
    let verb = cli::command(rest).unwrap_or(Verb::Run(Vec::new()));
    show(&arguments.flags, &image, verb, arguments.steps || arguments.flags.dry_run)
}

/// Prints what would happen.
pub(super) fn show(flags: &Flags, image: &Path, verb: Verb, steps: bool) -> anyhow::Result<Exit> {
    let config = settings()?;
    let ready = ready(flags, image.to_path_buf(), verb, &config)?;
    let tree = Looked::open(&ready.image, &ready.path, Some(&config.images))?;
    let launch = ready.launch(&config)?;
    launch.caller.warnings.iter().for_each(|warning| warn(warning));
    let Prepared { composed, wanted, .. } = launch.prepare(&tree.facts(&launch.path), &launch.caller.ids, None)?;
    let way = if Sessions::read(flags, &config)?.is_some() { Way::Found } else { Way::Alone };
    print(|out| {
        if steps {
            write!(out, "{}", wanted.plan(way))?;
        } else {
            // By way of a value, whose keys are sorted: the specification's own maps come in any order.
            let mut value = serde_json::to_value(&composed.spec).context("cannot print the specification")?;
            let sets = value.pointer_mut("/process/capabilities").and_then(serde_json::Value::as_object_mut);
            for set in sets.into_iter().flatten() {
                set.1.as_array_mut().into_iter().for_each(|names| names.sort_by_key(ToString::to_string));
            }
            serde_json::to_writer_pretty(&mut *out, &value)?;
            writeln!(out)?;
        }
        Ok(())
    })?;
    Ok(Exit::Success)
}
