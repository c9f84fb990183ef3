//! Which GPUs a container sees and whether its image can work with the driver, by the conventions of environment
//! variables. Pure: what is there, and who says what, goes in.
//!
//! Who counts, from the strictest down:
//! 1. the scheduler: what it did not give the job (`SLURM_STEP_GPUS`, `SLURM_JOB_GPUS`, a cgroup) nobody can ask for;
//! 2. the caller's options (`--env`);
//! 3. the environment of the launch;
//! 4. the image, whose variables are defaults: they count where nobody else says anything, take away, and give nothing
//!    that is not there anyway.

use std::collections::BTreeMap;

pub mod capabilities;
pub mod facts;
pub mod require;
pub mod select;
mod version;
pub mod visible;

/// Who says what: the same variable may be set by several.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Environments {
    /// By the caller's options.
    pub caller: BTreeMap<String, String>,
    /// By the environment of the launch.
    pub host: BTreeMap<String, String>,
    /// By the image.
    pub image: BTreeMap<String, String>,
}

/// Who set a variable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The caller's options.
    Caller,
    /// The environment of the launch.
    Host,
    /// The image.
    Image,
}

impl Environments {
    /// A variable's value that counts, and whose it is.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<(&str, Source)> {
        self.asked(name).or_else(|| Some((self.image.get(name)?.as_str(), Source::Image)))
    }

    /// The same, the image left out.
    #[must_use]
    pub fn asked(&self, name: &str) -> Option<(&str, Source)> {
        self.caller
            .get(name)
            .map(|value| (value.as_str(), Source::Caller))
            .or_else(|| self.host.get(name).map(|value| (value.as_str(), Source::Host)))
    }
}
