//! Who says which GPUs and which parts of a driver a container gets, brought together with what was found.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use oci_spec::runtime::Spec;
use serde::{Deserialize, Serialize};

use super::discover::{Device, Found, Wanted};
use super::table::{Capability, Vendor};
use crate::gpu_policy::facts::Facts;
use crate::gpu_policy::{Environments, capabilities, require, select};
use crate::host::Host;
use crate::image::Tree;
use crate::options::{EnvSetting, Options};
use crate::spec;

/// Where the service that lets processes share a GPU has its pipes.
const MPS: &str = "CUDA_MPS_PIPE_DIRECTORY";

/// Why no GPUs can be given.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The choice is wrong.
    #[error(transparent)]
    Select(#[from] select::Error),
    /// Parts of a driver that there are not.
    #[error(transparent)]
    Capabilities(#[from] capabilities::Unknown),
    /// The image does not work with the driver.
    #[error(transparent)]
    Require(#[from] require::Error),
}

/// A GPU or a part of one, as far as a choice needs it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gpu {
    /// Whose.
    pub vendor: Vendor,
    /// Its number among the vendor's, or that of the GPU that it is a part of.
    pub index: u32,
    /// `GPU-…`
    pub uuid: Option<String>,
    /// Numbers of the instances for GPU and computing, of a part.
    pub instance: Option<(u32, u32)>,
    /// What it is sold as.
    pub model: Option<String>,
    /// Its nodes.
    pub nodes: Vec<PathBuf>,
}

impl Gpu {
    /// Of a driver.
    pub(super) fn of(found: &Found) -> impl Iterator<Item = Self> + '_ {
        found.devices.iter().map(|device| Self {
            vendor: found.vendor,
            index: number(device, 0).unwrap_or_default(),
            uuid: device.uuid.clone(),
            instance: number(device, 1).zip(number(device, 2)),
            model: device.model.clone(),
            nodes: device.nodes.iter().map(|node| node.path.clone()).collect(),
        })
    }
}

/// A part of a device's name.
fn number(device: &Device, part: usize) -> Option<u32> {
    device.name.split(':').nth(part)?.parse().ok()
}

/// What was decided.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Nodes of the GPUs that are seen.
    pub nodes: Vec<PathBuf>,
    /// Variables that get other values.
    pub set: Vec<(String, String)>,
    /// Why, a sentence each.
    pub reasons: Vec<String>,
    /// What is not as it may have been meant, a sentence each.
    pub warnings: Vec<String>,
}

/// Who says what.
#[must_use]
pub fn environments(options: &Options, host: &Host, tree: &dyn Tree, container: &Spec) -> Environments {
    let text = |word: &OsStr| word.to_str().map(str::to_owned);
    let by_host = host.env.iter().filter_map(|(name, value)| Some((text(name)?, text(value)?))).collect();
    let mut said = Environments { host: by_host, ..Environments::default() };
    let env = container.process().as_ref().and_then(|process| process.env().as_deref()).unwrap_or_default();
    let mut unset = Vec::new();
    for setting in options.early_env.iter().chain(&host.file_settings).chain(&options.env) {
        let setting = match setting {
            EnvSetting::Set(name, value) => text(name).zip(text(value)),
            EnvSetting::Inherit(name) => text(name).zip(host.var(name).and_then(text)),
            EnvSetting::Unset(name) => {
                unset.extend(text(name));
                None
            }
            // What came of it.
            EnvSetting::Prepend(name, _) | EnvSetting::Append(name, _) | EnvSetting::Expand { name, .. } => text(name)
                .and_then(|name| {
                    let value = env.iter().find_map(|one| one.strip_prefix(&name)?.strip_prefix('='));
                    value.map(|value| (name.clone(), value.to_owned()))
                }),
        };
        said.caller.extend(setting);
    }
    // One that cannot be read has been an error already.
    let config = spec::configuration(tree).ok().flatten();
    let env = config.as_ref().and_then(|config| config.config().as_ref()).and_then(|config| config.env().as_deref());
    let settings = env.unwrap_or_default().iter().filter_map(|setting| setting.split_once('='));
    said.image = settings.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    for name in unset {
        said.caller.remove(&name);
        said.host.remove(&name);
        said.image.remove(&name);
    }
    said
}

/// Which parts of a driver are wanted. Where nobody says so, all that programs like this one can use.
///
/// # Errors
/// When one is named that there is not.
pub fn wanted(said: &Environments) -> Result<Wanted, Error> {
    let mut wanted = Wanted { mps: said.get(MPS).map(|(path, _)| PathBuf::from(path)), ..Wanted::default() };
    if said.get(capabilities::VARIABLE).is_some_and(|(value, _)| !value.trim().is_empty()) {
        let names = capabilities::wanted(said)?;
        wanted.capabilities = names.into_iter().filter_map(Capability::from_name).collect::<BTreeSet<_>>();
    }
    Ok(wanted)
}

/// Whether the container's `/dev` is not the host's.
#[must_use]
pub fn own_dev(spec: &Spec) -> bool {
    let dev = spec.mounts().iter().flatten().rev().find(|mount| mount.destination() == Path::new("/dev"));
    dev.is_none_or(|mount| mount.typ().as_deref() != Some("bind"))
}

/// Chooses among the GPUs that were found.
///
/// # Errors
/// When something is asked for that is not there.
pub fn choose(gpus: &[Gpu], said: &Environments, own_dev: bool) -> Result<Seen, Error> {
    let mut seen = Seen::default();
    for vendor in Vendor::ALL {
        let of_vendor: Vec<&Gpu> = gpus.iter().filter(|gpu| gpu.vendor == vendor).collect();
        if of_vendor.is_empty() {
            continue;
        }
        let known: Vec<select::Gpu> = of_vendor
            .iter()
            .map(|gpu| select::Gpu {
                index: gpu.index,
                uuid: gpu.uuid.clone(),
                instance: gpu.instance,
                model: gpu.model.clone(),
                reachable: gpu.nodes.iter().all(|node| can_open(node)),
            })
            .collect();
        let situation = select::Situation { gpus: &known, environments: said, own_dev };
        let decision = match vendor {
            Vendor::Nvidia => select::nvidia(&situation)?,
            Vendor::Amd => select::amd(&situation)?,
            Vendor::Intel => select::intel(&situation)?,
        };
        for gpu in decision.shown.iter().filter_map(|position| of_vendor.get(*position)) {
            seen.nodes.extend(gpu.nodes.iter().filter(|node| !seen.nodes.contains(node)).cloned().collect::<Vec<_>>());
        }
        seen.set.extend(decision.set);
        seen.reasons.extend(decision.reasons);
        seen.warnings.extend(decision.warnings);
    }
    Ok(seen)
}

/// A cgroup that keeps a process from a device says so here, too. Opening it would wake the GPU.
fn can_open(node: &Path) -> bool {
    rustix::fs::access(node, rustix::fs::Access::READ_OK | rustix::fs::Access::WRITE_OK).is_ok()
}

/// Holds the image's requirements against NVIDIA's driver; what could not be checked, a sentence each.
///
/// # Errors
/// When one is not met.
pub fn require(spec: &Spec, driver: Option<&str>, gpus: &[Gpu]) -> Result<Vec<String>, Error> {
    let env = spec.process().as_ref().and_then(|process| process.env().as_deref()).unwrap_or_default();
    let settings = env.iter().filter_map(|setting| setting.split_once('='));
    let env = settings.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    let models: Vec<Option<&str>> =
        gpus.iter().filter(|gpu| gpu.vendor == Vendor::Nvidia).map(|gpu| gpu.model.as_deref()).collect();
    let facts = driver.map(Facts::of_driver).unwrap_or_default().with_models(&models);
    Ok(require::check(&env, &facts)?)
}
