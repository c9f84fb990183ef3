//! Sets of capabilities, by the kernel's numbers and by name.

use std::collections::{BTreeSet, HashSet};
use std::fmt;

use oci_spec::runtime::{Capability, LinuxCapabilities};

use crate::cli::parse::{ALL, CAPABILITIES};
use crate::options;

/// A set of capabilities; bit N is the kernel's number N.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CapabilitySet(pub u64);

impl CapabilitySet {
    /// None.
    pub const NONE: Self = Self(0);
    /// All that have a name.
    pub const ALL: Self = Self((1 << CAPABILITIES.len()) - 1);

    /// What a program gets that would have `given` if nobody had asked for anything.
    #[must_use]
    pub fn asked_for(given: Self, asked: &options::Capabilities) -> Self {
        Self((given.0 | Self::of(&asked.add).0) & !Self::of(&asked.drop).0)
    }

    fn of(names: &BTreeSet<String>) -> Self {
        if names.contains(ALL) {
            return Self::ALL;
        }
        Self(names.iter().filter_map(|name| bit(name)).fold(0, |all, bit| all | bit))
    }

    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether one is among them, by its name with `CAP_`.
    #[must_use]
    pub fn has(self, name: &str) -> bool {
        bit(name).is_some_and(|bit| self.0 & bit != 0)
    }

    /// The set with the right to look into other processes.
    #[must_use]
    pub fn with_ptrace(self) -> Self {
        Self(self.0 | bit(PTRACE).unwrap_or_default())
    }

    /// The names, in the kernel's order.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        CAPABILITIES
            .into_iter()
            .enumerate()
            .filter(move |(number, _)| self.0 & (1 << number) != 0)
            .map(|(_, name)| name)
    }

    /// As the runtime specification has them.
    #[must_use]
    pub fn to_spec(self) -> HashSet<Capability> {
        self.names().filter_map(|name| name.strip_prefix("CAP_")?.parse().ok()).collect()
    }

    fn from_spec(set: Option<&HashSet<Capability>>) -> Self {
        let bits = set.into_iter().flatten().filter_map(|one| bit(&format!("CAP_{one}")));
        Self(bits.fold(0, |all, bit| all | bit))
    }
}

fn bit(name: &str) -> Option<u64> {
    CAPABILITIES.iter().position(|known| *known == name).map(|number| 1 << number)
}

impl fmt::Display for CapabilitySet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::NONE => f.write_str("none"),
            Self::ALL => f.write_str("all"),
            _ => self.names().enumerate().try_for_each(|(index, name)| {
                f.write_str(if index == 0 { "" } else { " " })?;
                f.write_str(name)
            }),
        }
    }
}

/// Lets a program into the processes of its user namespace, whatever rights they have: into the init of an instance, and into
/// what makes its root.
pub const PTRACE: &str = "CAP_SYS_PTRACE";

/// All sets of a process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Capabilities {
    /// What it may ever get.
    pub bounding: CapabilitySet,
    /// What it has at once.
    pub effective: CapabilitySet,
    /// What it may use.
    pub permitted: CapabilitySet,
    /// What `execve` may keep.
    pub inheritable: CapabilitySet,
    /// What `execve` keeps of it for any program.
    pub ambient: CapabilitySet,
}

impl Capabilities {
    /// Without this one.
    #[must_use]
    pub fn without(self, name: &str) -> Self {
        let kept = |set: CapabilitySet| CapabilitySet(set.0 & !bit(name).unwrap_or(0));
        Self {
            bounding: kept(self.bounding),
            effective: kept(self.effective),
            permitted: kept(self.permitted),
            inheritable: kept(self.inheritable),
            ambient: kept(self.ambient),
        }
    }

    /// Whether all sets are empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl From<&LinuxCapabilities> for Capabilities {
    fn from(sets: &LinuxCapabilities) -> Self {
        Self {
            bounding: CapabilitySet::from_spec(sets.bounding().as_ref()),
            effective: CapabilitySet::from_spec(sets.effective().as_ref()),
            permitted: CapabilitySet::from_spec(sets.permitted().as_ref()),
            inheritable: CapabilitySet::from_spec(sets.inheritable().as_ref()),
            ambient: CapabilitySet::from_spec(sets.ambient().as_ref()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(add: &[&str], drop: &[&str]) -> options::Capabilities {
        let set = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
        options::Capabilities { add: set(add), drop: set(drop) }
    }

    #[test]
    fn what_is_dropped_counts_after_what_is_added() {
        let get = |given, add: &[&str], drop: &[&str]| CapabilitySet::asked_for(given, &asked(add, drop)).to_string();
        assert_eq!(get(CapabilitySet::NONE, &["CAP_SYS_ADMIN", "CAP_CHOWN"], &["CAP_CHOWN"]), "CAP_SYS_ADMIN");
        assert_eq!(get(CapabilitySet::ALL, &[], &["ALL"]), "none");
        assert_eq!(get(CapabilitySet::NONE, &["ALL"], &[]), "all");
        assert!(!CapabilitySet::asked_for(CapabilitySet::ALL, &asked(&[], &["CAP_SYS_ADMIN"])).has("CAP_SYS_ADMIN"));
    }

    #[test]
    fn every_name_is_one_of_the_specifications() {
        assert_eq!(CapabilitySet::ALL.to_spec().len(), CAPABILITIES.len());
        assert_eq!(CapabilitySet::from_spec(Some(&CapabilitySet::ALL.to_spec())), CapabilitySet::ALL);
        assert_eq!(CapabilitySet::ALL.0.count_ones(), 41);
    }
}
