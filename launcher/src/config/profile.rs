//! `[profile.NAME]`: options under a name.
//!
//! A profile's keys are the flags of a launch, and mean what they mean; what a user gives besides counts more.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Deserializer, de};

use super::expand::{Unexpandable, anything, expand, expand_part};
use super::file::{Environment, binds, checked, no_mounts};
use super::layering::over;
use crate::cli::{Flags, parse, units};
use crate::options::Options;

/// What switches the default profile off.
pub const NONE: &str = "none";

/// As in a file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub(super) struct Profile {
    inherit: Vec<String>,
    #[serde(deserialize_with = "binds")]
    bind: Vec<String>,
    #[serde(deserialize_with = "no_mounts")]
    no_mount: Vec<String>,
    #[serde(deserialize_with = "devices")]
    device: Vec<String>,
    #[serde(deserialize_with = "scratches")]
    scratch: Vec<String>,
    #[serde(deserialize_with = "overlays")]
    overlay: Vec<String>,
    #[serde(deserialize_with = "home")]
    home: Option<String>,
    no_home: bool,
    contain: bool,
    containall: bool,
    compat: bool,
    cleanenv: bool,
    fakeroot: bool,
    userns: bool,
    pid: bool,
    ipc: bool,
    uts: bool,
    net: bool,
    hostname: Option<String>,
    #[serde(deserialize_with = "path")]
    pwd: Option<String>,
    #[serde(deserialize_with = "path")]
    workdir: Option<String>,
    #[serde(deserialize_with = "security")]
    security: Option<String>,
    /// In [`Flags`]' words.
    #[serde(deserialize_with = "memory")]
    writable_tmpfs: Option<String>,
    environment: Environment,
}

/// Why a profile cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// There is none of that name.
    #[error("there is no profile {name:?}: {known}")]
    Unknown {
        /// As asked for.
        name: String,
        /// Which there are.
        known: String,
    },
    /// It is its own base.
    #[error("profile {chain} inherits itself; see {}", path.display())]
    Cycle {
        /// Names, with arrows between them.
        chain: String,
        /// Where the last is.
        path: PathBuf,
    },
    /// A variable is missing.
    #[error("cannot use profile {name:?} of {}: {problem}", path.display())]
    Expand {
        /// Which.
        name: String,
        /// Where it is.
        path: PathBuf,
        /// What is missing.
        problem: Unexpandable,
    },
    /// A value does not parse with the variables that there are.
    #[error("cannot use profile {name:?} of {}: {problem}", path.display())]
    Parse {
        /// Which.
        name: String,
        /// Where it is.
        path: PathBuf,
        /// What is wrong.
        problem: parse::Error,
    },
}

fn devices<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    checked(from, |text| match parse::cdi_devices(text)? {
        Some(_) => Ok(()),
        None => parse::device(text).map(drop),
    })
}

fn scratches<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    checked(from, parse::scratch)
}

fn overlays<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    checked(from, parse::overlay)
}

fn one<'de, D: Deserializer<'de>, T>(
    from: D,
    parse: impl Fn(&OsStr) -> Result<T, parse::Error>,
) -> Result<Option<String>, D::Error> {
    let text = String::deserialize(from)?;
    let expanded = expand_part(&text, &anything).map_err(de::Error::custom)?;
    parse(&expanded).map_err(de::Error::custom)?;
    Ok(Some(text))
}

fn home<'de, D: Deserializer<'de>>(from: D) -> Result<Option<String>, D::Error> {
    one(from, parse::home)
}

fn security<'de, D: Deserializer<'de>>(from: D) -> Result<Option<String>, D::Error> {
    one(from, parse::security)
}

fn path<'de, D: Deserializer<'de>>(from: D) -> Result<Option<String>, D::Error> {
    let text = one(from, |_| Ok(()))?;
    match &text {
        Some(text) if !text.starts_with(['/', '$']) => {
            Err(de::Error::custom(format!("{text:?} is relative: write an absolute path")))
        }
        _ => Ok(text),
    }
}

fn memory<'de, D: Deserializer<'de>>(from: D) -> Result<Option<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "write true, false or a size like \"2G\"")]
    enum Memory {
        Whether(bool),
        Most(String),
    }
    match Memory::deserialize(from)? {
        Memory::Whether(whether) => Ok(whether.then(String::new)),
        Memory::Most(size) => units::size(&size).map(|_| Some(size)).map_err(de::Error::custom),
    }
}

/// All of them, with the files that they are from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Profiles(pub(super) BTreeMap<String, (PathBuf, Profile)>);

impl Profiles {
    /// What a profile and those that it inherits from ask for.
    pub(super) fn options(&self, name: &str, value: &dyn Fn(&str) -> Option<OsString>) -> Result<Options, Error> {
        self.collect(name, value, &mut Vec::new())
    }

    /// Whether all names lead somewhere.
    pub(super) fn check(&self, name: &str) -> Result<(), Error> {
        // Variables may be set where it is used.
        match self.options(name, &anything) {
            Err(Error::Parse { .. }) | Ok(_) => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn find(&self, name: &str) -> Result<&(PathBuf, Profile), Error> {
        self.0.get(name).ok_or_else(|| {
            let names: Vec<&str> = self.0.keys().map(String::as_str).collect();
            let known = if names.is_empty() {
                "none is configured".to_owned()
            } else {
                format!("there are {}", names.join(", "))
            };
            Error::Unknown { name: name.to_owned(), known }
        })
    }

    fn collect<'a>(
        &'a self,
        name: &'a str,
        value: &dyn Fn(&str) -> Option<OsString>,
        above: &mut Vec<&'a str>,
    ) -> Result<Options, Error> {
        let (path, profile) = self.find(name)?;
        let cycle = above.contains(&name);
        above.push(name);
        if cycle {
            return Err(Error::Cycle { chain: above.join(" -> "), path: path.clone() });
        }
        let mut options = Options::default();
        for base in &profile.inherit {
            options = over(self.collect(base, value, above)?, options);
        }
        above.pop();
        Ok(over(profile.own(name, path, value)?, options))
    }
}

impl Profile {
    fn own(&self, name: &str, path: &Path, value: &dyn Fn(&str) -> Option<OsString>) -> Result<Options, Error> {
        let expanding = |problem| Error::Expand { name: name.to_owned(), path: path.to_path_buf(), problem };
        let flags = self.flags(value).map_err(expanding)?;
        let parsing = |problem| Error::Parse { name: name.to_owned(), path: path.to_path_buf(), problem };
        let early_env = self.environment.settings(value).map_err(expanding)?;
        Ok(Options { early_env, ..flags.options().map_err(parsing)? })
    }

    fn flags(&self, value: &dyn Fn(&str) -> Option<OsString>) -> Result<Flags, Unexpandable> {
        let parts = |texts: &[String]| texts.iter().map(|text| expand_part(text, value)).collect::<Result<Vec<_>, _>>();
        let whole =
            |text: &Option<String>| text.as_ref().map(|text| expand(text, value).map(PathBuf::from)).transpose();
        let part = |text: &Option<String>| text.as_ref().map(|text| expand_part(text, value)).transpose();
        Ok(Flags {
            bind: parts(&self.bind)?,
            no_mount: parts(&self.no_mount)?,
            device: parts(&self.device)?,
            scratch: parts(&self.scratch)?,
            overlay: parts(&self.overlay)?,
            home: part(&self.home)?,
            no_home: self.no_home,
            contain: self.contain,
            containall: self.containall,
            compat: self.compat,
            cleanenv: self.cleanenv,
            fakeroot: self.fakeroot,
            userns: self.userns,
            pid: self.pid,
            ipc: self.ipc,
            uts: self.uts,
            net: self.net,
            hostname: self.hostname.clone(),
            pwd: whole(&self.pwd)?,
            workdir: whole(&self.workdir)?,
            security: self.security.iter().map(|text| expand(text, value)).collect::<Result<_, _>>()?,
            writable_tmpfs: self.writable_tmpfs.clone(),
            ..Flags::default()
        })
    }
}
