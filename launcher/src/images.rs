//! Image arguments that are no files, and the verbs `images`, `rmi` and `prune`.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::SystemTime;

use anyhow::{Context, bail};
use coracle::cli::{self, Pull};
use coracle::config::Config;
use coracle::exit::Exit;
use coracle::inspect::bytes;
use coracle::stored::{self, Meaning};
use coracle_converter::store::{Policy, Removed};

use super::{print, settings};

/// Digits of a key that make an id for people.
const ID: usize = 12;

/// A child process failed, and has said why.
#[derive(Debug, thiserror::Error)]
#[error("cannot pull the image")]
pub(super) struct Said;

/// An image argument's file.
pub(super) struct Found {
    /// Where it is.
    pub path: PathBuf,
    /// What it is called in the store, when it is there.
    pub name: Option<String>,
}

/// Finds the file of an image argument; what has to be pulled for it is pulled.
pub(super) fn find(word: &Path, pull: Pull, config: &Config) -> anyhow::Result<Found> {
    match stored::meaning(word, pull, &config.store)? {
        Meaning::File(path) => Ok(Found { path, name: None }),
        Meaning::Stored { path, name } => Ok(Found { path, name: Some(name) }),
        Meaning::ToPull { source, name } => {
            pull_in_child(&source)?;
            let stored = stored::open(&config.store)?.get(&name, coracle_converter::host_architecture())?;
            let stored =
                stored.with_context(|| format!("cannot find image {name} in the store, though it was pulled"))?;
            Ok(Found { path: stored.path, name: Some(name) })
        }
    }
}

/// Converting takes threads, and a process that has had any cannot make the namespaces of a launch.
fn pull_in_child(source: &str) -> anyhow::Result<()> {
    let mut command = Command::new("/proc/self/exe");
    // Standard output is the program's that will run.
    command.args(["pull", "--", source]).stdin(Stdio::null()).stdout(Stdio::null());
    let status = command.status().context("cannot start coracle pull")?;
    match status.code() {
        Some(0) => Ok(()),
        Some(_) => Err(Said.into()),
        None => bail!("cannot pull {source}: coracle pull was ended ({status}); memory may not have sufficed"),
    }
}

/// `images`.
pub(super) fn list(arguments: &cli::Images) -> anyhow::Result<Exit> {
    let images = stored::open(&settings()?.store)?.list()?;
    print(|out| {
        if arguments.json {
            serde_json::to_writer_pretty(&mut *out, &images)?;
            return Ok(writeln!(out)?);
        }
        if images.is_empty() {
            return Ok(writeln!(out, "no images")?);
        }
        writeln!(out, "{:<ID$}  {:>10}  {:>9}  {:>9}  NAME", "ID", "SIZE", "CREATED", "USED")?;
        for image in &images {
            let (size, used) = (bytes(image.size), age(image.last_used));
            let created = age(image.metadata.created);
            let id = image.key.get(..ID).unwrap_or_default();
            let none = [String::from("-")];
            let names: Vec<String> = image.names.iter().map(|one| label(&one.name, &one.architecture)).collect();
            for name in if names.is_empty() { none.as_slice() } else { &names } {
                let shared = if image.shared { " (shared)" } else { "" };
                writeln!(out, "{id:<ID$}  {size:>10}  {created:>9}  {used:>9}  {name}{shared}")?;
            }
        }
        Ok(())
    })?;
    Ok(Exit::Success)
}

/// Names of images that run here, one a line, for shells that complete them.
pub(super) fn names(out: &mut dyn Write) -> anyhow::Result<()> {
    for image in stored::open(&settings()?.store)?.list()? {
        let here = image.names.iter().filter(|one| one.architecture == coracle_converter::host_architecture());
        for one in here.filter(|one| !one.name.contains(|c: char| c.is_control() || c.is_whitespace())) {
            writeln!(out, "{}", one.name)?;
        }
    }
    Ok(())
}

/// The architecture is said when it is not this machine's.
fn label(name: &str, architecture: &str) -> String {
    let name: String = name.chars().filter(|c| !c.is_control()).collect();
    if architecture == coracle_converter::host_architecture() { name } else { format!("{name} ({architecture})") }
}

/// `rmi`.
pub(super) fn remove(arguments: &cli::Remove) -> anyhow::Result<Exit> {
    let store = stored::open(&settings()?.store)?;
    let mut failed = None;
    for name in &arguments.names {
        // Images of local sources are listed with absolute paths.
        let source = name.parse().ok().map(|source| coracle_converter::store::reference(&source));
        match store.remove(source.as_deref().unwrap_or(name)) {
            Ok(removed) => print(|out| Ok(writeln!(out, "{}", removal(&removed))?))?,
            Err(error) => {
                if let Some(earlier) = failed.replace(anyhow::Error::from(error)) {
                    super::complain(&earlier);
                }
            }
        }
    }
    failed.map_or(Ok(Exit::Success), Err)
}

fn removal(removed: &Removed) -> String {
    let names = if removed.names.is_empty() { "an image without a name".to_owned() } else { removed.names.join(", ") };
    match removed.gone {
        true => format!("{names}: removed, {}", bytes(removed.size)),
        false => format!("{names}: name removed; the image has others"),
    }
}

/// `prune`.
pub(super) fn prune(arguments: &cli::Prune) -> anyhow::Result<Exit> {
    let &cli::Prune { older_than, max_size, all, dry_run, json } = arguments;
    let policy = Policy { older_than, max_size, all, dry_run, ..Policy::default() };
    let pruned = stored::open(&settings()?.store)?.prune(&policy)?;
    print(|out| {
        if json {
            serde_json::to_writer_pretty(&mut *out, &pruned)?;
            return Ok(writeln!(out)?);
        }
        for image in &pruned.images {
            writeln!(out, "{}", removal(image))?;
        }
        let what = format!(
            "{} images, {} blobs, {} leftovers of dead processes",
            pruned.images.len(),
            pruned.blobs,
            pruned.leftovers
        );
        let verb = if dry_run { "would remove" } else { "removed" };
        Ok(writeln!(out, "{verb} {what}: {}", bytes(pruned.bytes))?)
    })?;
    Ok(Exit::Success)
}

/// How long ago that was, roughly.
fn age(seconds: u64) -> String {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    if seconds == 0 {
        return "-".to_owned();
    }
    match now.saturating_sub(seconds) {
        0..120 => "now".to_owned(),
        age @ 120..7200 => format!("{} min", age / 60),
        age @ 7200..172_800 => format!("{} h", age / 3600),
        age => format!("{} days", age / 86_400),
    }
}
