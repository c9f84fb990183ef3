//! Decides which GPUs a container sees.

use std::collections::BTreeSet;

use super::visible::{Id, List, Malformed, ranges, until_invalid};
use super::{Environments, Source};

const NVIDIA: &str = "NVIDIA_VISIBLE_DEVICES";
const CUDA: &str = "CUDA_VISIBLE_DEVICES";
const ROCR: &str = "ROCR_VISIBLE_DEVICES";
/// What programs for AMD's GPUs read, all with numbers among those that [`ROCR`] leaves.
const AMD_RELATIVE: [&str; 3] = ["HIP_VISIBLE_DEVICES", CUDA, "GPU_DEVICE_ORDINAL"];
const MASK: &str = "ZE_AFFINITY_MASK";
/// Whether the numbers of [`MASK`] are of GPUs (`COMPOSITE`) or of their tiles.
const HIERARCHY: &str = "ZE_FLAT_DEVICE_HIERARCHY";
/// Numbers of the GPUs that the scheduler gave, of the step before the job.
const SCHEDULER: [&str; 2] = ["SLURM_STEP_GPUS", "SLURM_JOB_GPUS"];
/// How many there are.
const COUNT: &str = "SLURM_GPUS_ON_NODE";

/// A GPU of the host, or a part of one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Gpu {
    /// The GPU's number on the host.
    pub index: u32,
    /// `GPU-…`
    pub uuid: Option<String>,
    /// Numbers of the instances for GPU and computing, of a part.
    pub instance: Option<(u32, u32)>,
    /// What it is sold as.
    pub model: Option<String>,
    /// Whether its node can be opened: a scheduler's cgroup may keep processes from it.
    pub reachable: bool,
}

/// What was decided.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decision {
    /// Positions of the GPUs that are seen.
    pub shown: Vec<usize>,
    /// Variables that get other values, since GPUs are numbered among those that are seen.
    pub set: Vec<(String, String)>,
    /// Why, a sentence each.
    pub reasons: Vec<String>,
    /// What is not as it may have been meant, a sentence each.
    pub warnings: Vec<String>,
}

/// Why nothing can be decided.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A list that cannot be read.
    #[error("cannot choose GPUs by {name}={value}: {reason}")]
    Malformed {
        /// The variable.
        name: &'static str,
        /// Its value.
        value: String,
        /// Why.
        reason: Malformed,
    },
    /// There is none like this.
    #[error("cannot choose GPUs by {name}={value}: this host has no such GPU; it has {known}")]
    Absent {
        /// The variable.
        name: &'static str,
        /// Its value.
        value: String,
        /// Those that there are.
        known: String,
    },
    /// It is not the job's.
    #[error("cannot choose GPUs by {name}={value}: the scheduler gave this job {given}")]
    NotGiven {
        /// The variable.
        name: &'static str,
        /// Its value.
        value: String,
        /// What it gave.
        given: String,
    },
}

/// Which GPUs of a vendor there are, who says what, and whether the container's `/dev` is its own.
#[derive(Clone, Copy, Debug)]
pub struct Situation<'a> {
    /// In the order of their numbers, parts after their GPU.
    pub gpus: &'a [Gpu],
    /// Variables.
    pub environments: &'a Environments,
    /// Only the nodes that are decided on are shown. In the host's `/dev` all are, and variables are left as they are.
    pub own_dev: bool,
}

impl Situation<'_> {
    fn matches(&self, position: usize, id: &Id) -> bool {
        let Some(gpu) = self.gpus.get(position) else { return false };
        let uuid = gpu.uuid.as_deref().map(str::to_ascii_lowercase);
        match id {
            // With a divided GPU come its parts.
            Id::Index(index) => gpu.index == *index,
            Id::Part(index, part) => {
                let parts = self.gpus.iter().enumerate();
                let mut parts = parts.filter(|(_, gpu)| gpu.index == *index && gpu.instance.is_some());
                parts.nth(*part as usize).is_some_and(|(at, _)| at == position)
            }
            Id::Uuid(wanted) => gpu.instance.is_none() && uuid.is_some_and(|uuid| uuid.starts_with(wanted)),
            Id::MigUuid(wanted) => uuid.is_some_and(|uuid| uuid.starts_with(wanted)),
            Id::Instance(of, instance, computing) => {
                let whole = self.gpus.iter().find(|whole| whole.index == gpu.index && whole.instance.is_none());
                let uuid = whole.and_then(|whole| whole.uuid.as_deref()).map(str::to_ascii_lowercase);
                gpu.instance == Some((*instance, *computing)) && uuid.is_some_and(|uuid| uuid.starts_with(of))
            }
        }
    }

    fn found(&self, id: &Id) -> Vec<usize> {
        (0..self.gpus.len()).filter(|position| self.matches(*position, id)).collect()
    }

    fn names(&self, positions: impl IntoIterator<Item = usize>) -> String {
        let name = |position: usize| {
            let gpu = self.gpus.get(position)?;
            Some(match (&gpu.uuid, gpu.instance) {
                (_, Some((instance, computing))) => format!("{}:{instance}:{computing}", gpu.index),
                (Some(uuid), None) => format!("{} ({uuid})", gpu.index),
                (None, None) => gpu.index.to_string(),
            })
        };
        let names: Vec<String> = positions.into_iter().filter_map(name).collect();
        if names.is_empty() { "none".to_owned() } else { names.join(", ") }
    }

    /// What the scheduler and the kernel leave.
    fn given(&self, decision: &mut Decision) -> Vec<usize> {
        let reachable: Vec<usize> =
            self.gpus.iter().enumerate().filter(|(_, gpu)| gpu.reachable).map(|(position, _)| position).collect();
        if reachable.len() < self.gpus.len() {
            let shown = self.names(reachable.iter().copied());
            decision.reasons.push(format!("this process may open the GPUs {shown} of {}", self.gpus.len()));
        }
        let scheduler = SCHEDULER.iter().find_map(|name| {
            let value = self.environments.host.get(*name)?;
            Some((*name, value, ranges(value).filter(|numbers| !numbers.is_empty())?))
        });
        // Where a cgroup keeps the others away, the numbers may be counted within it or not.
        let given = match scheduler {
            Some((name, value, numbers)) if reachable.len() == self.gpus.len() => {
                decision.reasons.push(format!("the scheduler gave GPUs: {name}={value}"));
                let given = |position: &usize| self.gpus.get(*position).is_some_and(|gpu| numbers.contains(&gpu.index));
                reachable.into_iter().filter(given).collect()
            }
            _ => reachable,
        };
        let whole = given.iter().filter(|at| self.gpus.get(**at).is_some_and(|gpu| gpu.instance.is_none())).count();
        let count = self.environments.host.get(COUNT).and_then(|count| count.parse::<usize>().ok());
        if let Some(count) = count.filter(|count| *count != whole && *count != given.len()) {
            decision.warnings.push(format!("{COUNT}={count}, but {whole} GPUs can be used"));
        }
        given
    }

    /// The caller's choice of GPUs, which must be there and given.
    fn chosen(&self, name: &'static str, value: &str, ids: &[Id], given: &[usize]) -> Result<Vec<usize>, Error> {
        let mut chosen = BTreeSet::new();
        for id in ids {
            let found = self.found(id);
            if found.is_empty() {
                let known = self.names(0..self.gpus.len());
                return Err(Error::Absent { name, value: value.to_owned(), known });
            }
            let found: Vec<usize> = found.into_iter().filter(|position| given.contains(position)).collect();
            if found.is_empty() {
                let given = self.names(given.iter().copied());
                return Err(Error::NotGiven { name, value: value.to_owned(), given });
            }
            chosen.extend(found);
        }
        Ok(chosen.into_iter().collect())
    }

    /// Narrows what is shown to what a variable names by number among `base`, and gives the variable the numbers among
    /// what is then shown.
    fn narrow(&self, name: &str, value: &str, base: &[usize], decision: &mut Decision) {
        let mut order: Vec<usize> = Vec::new();
        let mut numbers = true;
        for id in until_invalid(value) {
            let found = match &id {
                Id::Index(index) => base.get(*index as usize).copied().into_iter().collect(),
                id => {
                    numbers = false;
                    self.found(id)
                }
            };
            // An invalid one ends the list.
            let Some(position) = found.into_iter().find(|position| base.contains(position)) else { break };
            if !order.contains(&position) {
                order.push(position);
            }
        }
        order.retain(|position| decision.shown.contains(position));
        let mut shown = order.clone();
        shown.sort_unstable();
        decision.reasons.push(format!("{name}={value} leaves {}", self.names(shown.iter().copied())));
        if numbers && !order.is_empty() {
            let place = |position: &usize| shown.iter().position(|at| at == position);
            let places: Vec<String> = order.iter().filter_map(place).map(|place| place.to_string()).collect();
            let value = places.join(",");
            decision.set.push((name.to_owned(), value));
        }
        decision.shown = shown;
    }

    /// CUDA numbers GPUs from the fastest, unless told otherwise, so numbers mean the host's only where all are alike.
    fn is_mixed(&self) -> bool {
        let models: BTreeSet<&Option<String>> = self.gpus.iter().map(|gpu| &gpu.model).collect();
        let by_place = self.environments.get("CUDA_DEVICE_ORDER").is_some_and(|(order, _)| order == "PCI_BUS_ID");
        models.len() > 1 && !by_place
    }
}

/// Decides for NVIDIA's GPUs.
///
/// # Errors
/// When the caller or the environment asks for GPUs that are not there, or not the job's.
pub fn nvidia(situation: &Situation<'_>) -> Result<Decision, Error> {
    let mut decision = Decision::default();
    let given = situation.given(&mut decision);
    let said = situation.environments.get(NVIDIA);
    decision.shown = match said {
        None => given.clone(),
        Some((value, Source::Image)) => by_image(situation, value, &given, &mut decision),
        Some((value, source)) => {
            let list = List::parse(value).map_err(|reason| Error::Malformed {
                name: NVIDIA,
                value: value.to_owned(),
                reason,
            })?;
            decision.reasons.push(format!("{NVIDIA}={value}"));
            match list {
                List::All => given.clone(),
                // A container around this launch says so to its own runtime, not to this one.
                List::Void if source == Source::Host => given.clone(),
                List::None | List::Void => Vec::new(),
                List::Of(ids) => situation.chosen(NVIDIA, value, &ids, &given)?,
            }
        }
    };
    let cuda = situation.environments.asked(CUDA);
    if let Some((value, _)) = cuda.filter(|_| situation.own_dev) {
        let by_number = until_invalid(value).iter().any(|id| matches!(id, Id::Index(_)));
        if by_number && situation.is_mixed() {
            decision.warnings.push(format!(
                "{CUDA}={value} chooses among GPUs of several kinds, which CUDA numbers by speed: none is hidden for it; set CUDA_DEVICE_ORDER=PCI_BUS_ID"
            ));
        } else {
            // Counted among all that this process can reach.
            let base: Vec<usize> = reachable_in_order(situation);
            situation.narrow(CUDA, value, &base, &mut decision);
        }
    } else if cuda.is_none() && !situation.own_dev && decision.shown.len() < given.len() {
        softly(situation, &mut decision);
    }
    Ok(decision)
}

fn reachable_in_order(situation: &Situation<'_>) -> Vec<usize> {
    let gpus = situation.gpus.iter().enumerate();
    gpus.filter(|(_, gpu)| gpu.reachable).map(|(position, _)| position).collect()
}

/// In the host's `/dev` nodes cannot be hidden, but CUDA can be told.
fn softly(situation: &Situation<'_>, decision: &mut Decision) {
    let names = decision.shown.iter().filter_map(|position| situation.gpus.get(*position));
    let names: Vec<String> = names.map(|gpu| gpu.uuid.clone().unwrap_or_else(|| gpu.index.to_string())).collect();
    // CUDA takes an empty value as none, but so do some programs as unset.
    let value = if names.is_empty() { "-1".to_owned() } else { names.join(",") };
    decision.warnings.push(
        "the host's /dev shows all GPUs: only CUDA is told which to use; with --contain the others are hidden"
            .to_owned(),
    );
    decision.set.push((CUDA.to_owned(), value));
}

/// An image's list is a default: it can take away, and what it names may well not be there.
fn by_image(situation: &Situation<'_>, value: &str, given: &[usize], decision: &mut Decision) -> Vec<usize> {
    let Ok(List::Of(ids)) = List::parse(value) else { return given.to_vec() };
    let wanted: Vec<usize> =
        given.iter().copied().filter(|position| ids.iter().any(|id| situation.matches(*position, id))).collect();
    if wanted.is_empty() {
        decision
            .warnings
            .push(format!("the image's {NVIDIA}={value} names no GPU that can be used: it is passed over"));
        return given.to_vec();
    }
    decision.reasons.push(format!("the image's {NVIDIA}={value}"));
    wanted
}

/// Decides for AMD's GPUs.
///
/// # Errors
/// As for [`nvidia`].
pub fn amd(situation: &Situation<'_>) -> Result<Decision, Error> {
    let mut decision = Decision::default();
    decision.shown = situation.given(&mut decision);
    if !situation.own_dev {
        return Ok(decision);
    }
    if let Some((value, _)) = situation.environments.asked(ROCR) {
        let base = reachable_in_order(situation);
        situation.narrow(ROCR, value, &base, &mut decision);
        // The others count among what is left, which keeps its order.
        return Ok(decision);
    }
    let relative: Vec<(&str, &str)> =
        AMD_RELATIVE.iter().filter_map(|name| Some((*name, situation.environments.asked(name)?.0))).collect();
    let first = relative.first().copied();
    if let Some((name, value)) = first
        && relative.iter().all(|(_, other)| *other == value)
    {
        let base = reachable_in_order(situation);
        situation.narrow(name, value, &base, &mut decision);
        if let Some((_, numbers)) = decision.set.first().cloned() {
            decision.set = relative.iter().map(|(name, _)| ((*name).to_owned(), numbers.clone())).collect();
        }
    } else if relative.len() > 1 {
        let names: Vec<&str> = relative.iter().map(|(name, _)| *name).collect();
        decision.warnings.push(format!("{} differ: no GPU is hidden for them", names.join(" and ")));
    }
    Ok(decision)
}

/// Decides for Intel's GPUs.
///
/// # Errors
/// As for [`nvidia`].
pub fn intel(situation: &Situation<'_>) -> Result<Decision, Error> {
    let mut decision = Decision::default();
    decision.shown = situation.given(&mut decision);
    let Some((value, _)) = situation.environments.asked(MASK).filter(|_| situation.own_dev) else {
        return Ok(decision);
    };
    let hierarchy = situation.environments.get(HIERARCHY).map(|(value, _)| value);
    if hierarchy != Some("COMPOSITE") {
        decision
            .reasons
            .push(format!("{MASK}={value} counts tiles unless {HIERARCHY}=COMPOSITE: no GPU is hidden for it"));
        return Ok(decision);
    }
    let base = reachable_in_order(situation);
    let devices: Vec<&str> = value.split(',').map(|word| word.split('.').next().unwrap_or(word).trim()).collect();
    let mut narrowed = Decision { shown: decision.shown.clone(), ..Decision::default() };
    situation.narrow(MASK, &devices.join(","), &base, &mut narrowed);
    // What follows the dot stays: tiles are numbered within their GPU.
    let place = |word: &str| {
        let (device, tile) =
            word.trim().split_once('.').map_or((word.trim(), None), |(device, tile)| (device, Some(tile)));
        let position = base.get(device.parse::<usize>().ok()?)?;
        let place = narrowed.shown.iter().position(|shown| shown == position)?;
        Some(tile.map_or_else(|| place.to_string(), |tile| format!("{place}.{tile}")))
    };
    let mask: Vec<String> = value.split(',').map_while(place).collect();
    decision.shown.clone_from(&narrowed.shown);
    decision.reasons.extend(narrowed.reasons);
    if !mask.is_empty() {
        decision.set.push((MASK.to_owned(), mask.join(",")));
    }
    Ok(decision)
}

#[cfg(test)]
mod tests;
