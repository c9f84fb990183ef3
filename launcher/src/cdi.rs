//! Devices by the Container Device Interface: a host's files say what a device needs – nodes, libraries, variables – and
//! this module puts that into the composed runtime specification.
//!
//! The files are written for runtimes that act as root. What an unprivileged launch can do in another way it does; what it
//! cannot do is an error that names the file, never left out.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use oci_spec::OciSpecError;

use crate::gpu_policy::facts::{self, Facts};
use crate::gpu_policy::require;
use crate::host::Host;
use crate::image::{self, Tree};
use crate::options::{BindSource, EnvSetting, Options};
use crate::spec::Composed;

mod check;
mod container;
mod edits;
pub mod generate;
pub mod hooks;
pub mod look;
mod name;
mod native;
mod registry;
mod soname;
pub mod spec;
#[cfg(test)]
mod tests;
mod yaml;

pub use name::{ALL, ANNOTATION, Name, Unqualified, annotated};
pub use registry::{DIRECTORIES, Entry, File, Listed, Registry, Unusable, read};

use container::Container;
use look::Look;
use native::{Applier, Libraries};

/// Vendor of the devices whose images have requirements.
const NVIDIA: &str = "nvidia.com";
/// The version of NVIDIA's driver.
const MODULE_VERSION: &str = "/sys/module/nvidia/version";
/// The same, among other words.
const DRIVER_VERSION: &str = "/proc/driver/nvidia/version";

/// Why a container cannot have a device.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An annotation with something else.
    #[error(transparent)]
    Unqualified(#[from] Unqualified),
    /// No file has it.
    #[error("cannot give the container {device}: {}{}", known_devices(known, directories), broken_files(broken))]
    Unknown {
        /// As asked for.
        device: String,
        /// Devices of the kind, or all if there are none.
        known: Vec<String>,
        /// Where was looked.
        directories: Vec<PathBuf>,
        /// Files that are of no use, a sentence each.
        broken: Vec<String>,
    },
    /// Two files of one directory have it.
    #[error(
        "cannot give the container {device}: both {} and {} have it, and neither counts more; an administrator can remove one",
        one.display(),
        other.display()
    )]
    Conflict {
        /// Its name.
        device: String,
        /// A file.
        one: PathBuf,
        /// Another.
        other: PathBuf,
    },
    /// Something that a launch without privileges cannot do.
    #[error("cannot give the container {device}: {} asks for {what}", path.display())]
    Refused {
        /// Its name.
        device: String,
        /// The file.
        path: PathBuf,
        /// What.
        what: String,
    },
    /// A hook.
    #[error("cannot give the container {device}: {} has the hook {hook} run, and {reason}", path.display())]
    Hook {
        /// Its program and command.
        hook: String,
        /// The device's name.
        device: String,
        /// The file.
        path: PathBuf,
        /// Why not.
        reason: hooks::Refused,
    },
    /// A group that the caller is not in.
    #[error(
        "cannot give the container {device}: {} asks for the group {group}, and you are not in it; an administrator can add you to it",
        path.display()
    )]
    Group {
        /// The device's name.
        device: String,
        /// The file.
        path: PathBuf,
        /// Its number.
        group: u32,
    },
    /// Something that the file names is not on the host.
    #[error(
        "cannot give the container {device}: the {what} {} that {} names is not on this host, or out of your reach; the file may be out of date",
        at.display(),
        path.display()
    )]
    Missing {
        /// What it should be.
        what: &'static str,
        /// On the host.
        at: PathBuf,
        /// The device's name.
        device: String,
        /// The file.
        path: PathBuf,
    },
    /// A node of another type.
    #[error(
        "cannot give the container {device}: {} is {found}, and {} says that it is {wanted}; the file may be out of date",
        at.display(),
        path.display()
    )]
    OtherType {
        /// On the host.
        at: PathBuf,
        /// By the file.
        wanted: String,
        /// What it is.
        found: &'static str,
        /// The device's name.
        device: String,
        /// The file.
        path: PathBuf,
    },
    /// A place in a directory of the host.
    #[error(
        "cannot give the container {device}: {} wants {} there, where the host's directory is shown, in which nothing is made; with --contain the container has a /dev of its own",
        path.display(),
        at.display()
    )]
    NoPlace {
        /// In the container.
        at: PathBuf,
        /// The device's name.
        device: String,
        /// The file.
        path: PathBuf,
    },
    /// The image does not work with the driver.
    #[error(transparent)]
    Require(#[from] require::Error),
    /// The image is damaged.
    #[error(transparent)]
    Image(#[from] image::Error),
    /// The parts do not make a specification.
    #[error("cannot compose the runtime specification")]
    Spec(#[from] OciSpecError),
}

fn known_devices(known: &[String], directories: &[PathBuf]) -> String {
    let directories: Vec<String> = directories.iter().map(|directory| directory.display().to_string()).collect();
    let searched = directories.join(", ");
    if known.is_empty() {
        return format!(
            "there is no CDI device on this host, looked for in {searched}; an administrator can make the files: coracle cdi generate"
        );
    }
    format!("this host has no such CDI device in {searched}; it has {}", known.join(", "))
}

fn broken_files(broken: &[String]) -> String {
    broken.iter().fold(String::new(), |text, one| format!("{text}; {one}"))
}

/// Where edits are from, and what the caller has set.
struct Origin<'a> {
    /// Its name.
    device: &'a str,
    /// The file.
    path: &'a Path,
    /// Variables by the caller's options, which count.
    set_by_caller: &'a [&'a str],
    /// Destinations of the caller's binds.
    bound_by_caller: &'a [PathBuf],
}

impl Origin<'_> {
    fn refuse(&self, what: &str) -> Error {
        Error::Refused { device: self.device.to_owned(), path: self.path.into(), what: what.to_owned() }
    }
}

/// Puts the devices that options and annotations ask for into what was composed. Without any it looks at nothing.
///
/// # Errors
/// When there is no such device, or it needs what a launch without privileges cannot do.
pub fn inject(composed: &mut Composed, options: &Options, tree: &dyn Tree, host: &Host) -> Result<(), Error> {
    let annotated = || options.annotations.keys().any(|name| name.starts_with(ANNOTATION));
    if options.devices.is_empty() && !annotated() {
        return Ok(());
    }
    let annotations = composed.spec.annotations().clone().unwrap_or_default();
    let asked: Vec<Name> = options.devices.iter().cloned().chain(name::annotated(&annotations)?).collect();
    if asked.is_empty() {
        return Ok(());
    }
    let caller = Caller::of(options, host);
    apply(composed, &asked, &Registry::read(&options.cdi_dirs), tree, &look::OfHost, &caller)
}

/// NVIDIA's driver, as far as it says what it is to those who do not load it.
fn driver(host: &dyn Look) -> Facts {
    let version = host.text(Path::new(MODULE_VERSION)).or_else(|| {
        let text = host.text(Path::new(DRIVER_VERSION))?;
        let words = text.split_whitespace();
        words.filter(|word| word.contains('.')).find(|word| facts::Version::parse(word).is_some()).map(str::to_owned)
    });
    version.as_deref().map(Facts::of_driver).unwrap_or_default()
}

/// What the caller's own options set.
#[derive(Default)]
struct Caller<'a> {
    variables: Vec<&'a str>,
    destinations: Vec<PathBuf>,
}

impl<'a> Caller<'a> {
    fn of(options: &'a Options, host: &'a Host) -> Self {
        let settings = host.file_settings.iter().chain(&options.env);
        let variables = settings.filter_map(|setting| match setting {
            EnvSetting::Set(name, _) | EnvSetting::Inherit(name) | EnvSetting::Expand { name, .. } => name.to_str(),
            // What a device sets is not taken away by what adds to it.
            EnvSetting::Prepend(..) | EnvSetting::Append(..) | EnvSetting::Unset(_) => None,
        });
        let destination = |bind: &crate::options::Bind| {
            let source = match &bind.source {
                BindSource::Host(path) | BindSource::Image { file: path, .. } => Some(path.clone()),
                BindSource::Empty { .. } => None,
            };
            bind.destination.clone().or(source)
        };
        Self { variables: variables.collect(), destinations: options.binds.iter().filter_map(destination).collect() }
    }
}

fn apply(
    composed: &mut Composed,
    asked: &[Name],
    registry: &Registry,
    tree: &dyn Tree,
    host: &dyn Look,
    caller: &Caller<'_>,
) -> Result<(), Error> {
    let mut devices: BTreeMap<usize, (Name, Entry<'_>)> = BTreeMap::new();
    for name in asked {
        for found in registry.find(name)? {
            if !devices.values().any(|(other, _)| *other == found.0) {
                devices.insert(devices.len(), found);
            }
        }
    }
    composed.warnings.extend(registry.complaints());
    let mut container = Container::take(&mut composed.spec);
    // What a file has for all of its devices comes before the first of them, and once.
    let mut seen: Vec<&Path> = Vec::new();
    let mut edits = Vec::new();
    for (name, entry) in devices.values() {
        if !seen.contains(&entry.path) {
            seen.push(entry.path);
            edits.push((name.to_string(), entry.path, &entry.spec.container_edits));
        }
        edits.push((name.to_string(), entry.path, &entry.device.container_edits));
    }
    let origin =
        |device, path| Origin { device, path, set_by_caller: &caller.variables, bound_by_caller: &caller.destinations };
    for (device, path, edits) in &edits {
        edits::apply(&mut container, edits, &origin(device, path), host, &mut composed.warnings)?;
    }
    // After all mounts, which links and modes depend on.
    let libraries = Libraries::default();
    let mut applier = Applier { container: &mut container, tree, host, warnings: &mut composed.warnings, libraries };
    for (device, path, edits) in &edits {
        edits.hooks.iter().try_for_each(|hook| applier.hook(hook, &origin(device, path)))?;
    }
    applier.finish();
    if devices.values().any(|(name, _)| name.vendor == NVIDIA) {
        composed.warnings.extend(require::check(&container.variables(), &driver(host))?);
    }
    container.put(&mut composed.spec);
    Ok(())
}
