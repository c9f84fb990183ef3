//! One file of the configuration, as it is written. What is wrong in it is said here, with its line, and not when it is used.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Deserializer, de};

use super::expand::{anything, expand, expand_part};
use super::{Images, Profile, Registry};
use crate::cli::parse;
use crate::options::{self, EnvSetting};

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub(super) struct File {
    pub(super) session: Session,
    pub(super) store: Store,
    pub(super) registry: Registry,
    pub(super) images: Images,
    pub(super) mounts: Mounts,
    pub(super) environment: Environment,
    pub(super) gpu: Gpu,
    pub(super) mpi: Mpi,
    pub(super) compatibility: Compatibility,
    pub(super) defaults: Defaults,
    #[serde(rename = "profile")]
    pub(super) profiles: BTreeMap<String, Profile>,
}

/// Where images are kept.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Store {
    /// The store's directory; `~/` and variables are expanded where it is used.
    pub dir: Option<String>,
    /// Stores of others, in which images are looked for first.
    pub dirs: Option<Vec<String>>,
    /// Bytes that the store may have.
    #[serde(deserialize_with = "size")]
    pub max_size: Option<u64>,
    /// How long a process that converts may give no sign of life before another does it.
    pub lease_seconds: Option<u32>,
}

fn size<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u64>, D::Error> {
    let text = String::deserialize(from)?;
    crate::cli::units::size(&text).map(Some).map_err(de::Error::custom)
}

impl Store {
    /// Takes in a file that counts more.
    pub(super) fn merge(&mut self, later: Self) {
        self.dir = later.dir.or(self.dir.take());
        self.dirs = later.dirs.or(self.dirs.take());
        self.max_size = later.max_size.or(self.max_size);
        self.lease_seconds = later.lease_seconds.or(self.lease_seconds);
    }
}

/// How launches share mounts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Session {
    /// Whether they do.
    pub enabled: Option<bool>,
    /// Seconds that a session waits for another launch.
    idle_seconds: Option<u32>,
}

impl Session {
    /// How long a session waits for another launch.
    #[must_use]
    pub fn idle(&self) -> Option<Duration> {
        self.idle_seconds.map(|seconds| Duration::from_secs(seconds.into()))
    }

    /// Takes in a file that counts more.
    pub(super) fn merge(&mut self, later: Self) {
        self.enabled = later.enabled.or(self.enabled);
        self.idle_seconds = later.idle_seconds.or(self.idle_seconds);
    }
}

/// What every container has, or has not.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub(super) struct Mounts {
    /// As for `--bind`, with variables.
    #[serde(deserialize_with = "binds")]
    pub(super) bind: Vec<String>,
    #[serde(deserialize_with = "no_mounts")]
    pub(super) no_mount: Vec<String>,
    pub(super) force_bind: Option<bool>,
}

/// Changes of the environment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub(super) struct Environment {
    #[serde(deserialize_with = "variables")]
    set: BTreeMap<String, String>,
    #[serde(deserialize_with = "variables")]
    prepend: BTreeMap<String, String>,
    #[serde(deserialize_with = "variables")]
    append: BTreeMap<String, String>,
    #[serde(deserialize_with = "patterns")]
    unset: Vec<String>,
}

impl Environment {
    pub(super) fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// What is unset comes first, so that something of the same name can be set.
    pub(super) fn settings(
        &self,
        value: &dyn Fn(&str) -> Option<OsString>,
    ) -> Result<Vec<EnvSetting>, super::Unexpandable> {
        type Make = fn(OsString, OsString) -> EnvSetting;
        let mut settings: Vec<_> = self.unset.iter().map(|pattern| EnvSetting::Unset(pattern.into())).collect();
        let kinds: [(_, Make); 3] =
            [(&self.set, EnvSetting::Set), (&self.prepend, EnvSetting::Prepend), (&self.append, EnvSetting::Append)];
        for (variables, make) in kinds {
            for (name, text) in variables {
                settings.push(make(name.into(), expand(text, value)?));
            }
        }
        Ok(settings)
    }
}

/// How devices come into containers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub(super) struct Gpu {
    /// The drivers of launches that say nothing about any.
    #[serde(deserialize_with = "drivers")]
    pub(super) default: Option<options::Gpu>,
    /// Directories of CDI files, which count before the standard ones.
    pub(super) cdi_dirs: Option<Vec<PathBuf>>,
}

/// What is done for ranks.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Mpi {
    #[serde(deserialize_with = "mpi")]
    pub(super) default: Option<options::Mpi>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub(super) struct Compatibility {
    pub(super) apptainer_variables: Option<bool>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Defaults {
    pub(super) profile: Option<String>,
}

fn drivers<'de, D: Deserializer<'de>>(from: D) -> Result<Option<options::Gpu>, D::Error> {
    let mut asked = options::Gpu::default();
    let value = OsString::from(String::deserialize(from)?);
    parse::gpu(&value, &mut asked).map_err(de::Error::custom)?;
    Ok(Some(asked))
}

fn mpi<'de, D: Deserializer<'de>>(from: D) -> Result<Option<options::Mpi>, D::Error> {
    parse::mpi(&String::deserialize(from)?).map(Some).map_err(de::Error::custom)
}

/// Texts of which each parses, whatever its variables are.
pub(super) fn checked<'de, D: Deserializer<'de>, T>(
    from: D,
    parse: impl Fn(&OsStr) -> Result<T, parse::Error>,
) -> Result<Vec<String>, D::Error> {
    let texts = Vec::<String>::deserialize(from)?;
    for text in &texts {
        let text = expand_part(text, &anything).map_err(de::Error::custom)?;
        parse(&text).map_err(de::Error::custom)?;
    }
    Ok(texts)
}

pub(super) fn binds<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    checked(from, parse::binds)
}

pub(super) fn no_mounts<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    checked(from, parse::no_mount)
}

fn variables<'de, D: Deserializer<'de>>(from: D) -> Result<BTreeMap<String, String>, D::Error> {
    let variables = BTreeMap::<String, String>::deserialize(from)?;
    for (name, text) in &variables {
        if name.contains('=') || parse::setting(name.as_bytes()).is_none() {
            return Err(de::Error::custom(format!("{name:?} is no name of a variable")));
        }
        expand(text, &anything).map_err(de::Error::custom)?;
    }
    Ok(variables)
}

fn patterns<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    let patterns = Vec::<String>::deserialize(from)?;
    match patterns.iter().find(|name| name.contains('=') || parse::setting(name.as_bytes()).is_none()) {
        Some(name) => Err(de::Error::custom(format!(
            "{name:?} is no name of a variable: write NAME, or NA* for all that begin so"
        ))),
        None => Ok(patterns),
    }
}
