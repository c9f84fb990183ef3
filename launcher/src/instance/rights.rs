//! What the programs of an instance may do, settled when it is started.

use std::io;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::Error;
use crate::capabilities::PTRACE;
use crate::options::{Capabilities, Options};

/// For programs that join later, whatever files and variables say by then.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rights {
    /// They are root.
    pub fakeroot: bool,
    /// The caller's supplementary groups are mapped.
    pub map_groups: bool,
    /// Capabilities.
    pub capabilities: Capabilities,
    /// The filter of system calls.
    pub seccomp: Option<Profile>,
}

/// A seccomp profile.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Profile {
    /// Where it was; what is wrong with it is said of that.
    pub path: PathBuf,
    /// What was in it.
    pub content: String,
}

impl Rights {
    /// Those of an instance with these options.
    ///
    /// # Errors
    /// When the profile cannot be read.
    pub fn of(options: &Options) -> Result<Self, Error> {
        let read = |path: &PathBuf| -> Result<Profile, Error> {
            let failed = |cause: io::Error| Error::Profile { path: path.clone(), cause };
            Ok(Profile { path: path.clone(), content: std::fs::read_to_string(path).map_err(failed)? })
        };
        Ok(Self {
            fakeroot: options.fakeroot,
            map_groups: options.map_groups,
            capabilities: options.capabilities.clone(),
            seccomp: options.seccomp.as_ref().map(read).transpose()?,
        })
    }

    /// Gives options these rights and no others. The profile's content comes with [`Surroundings`](crate::host::Surroundings).
    pub fn settle(&self, options: &mut Options) {
        options.fakeroot = self.fakeroot;
        options.map_groups = self.map_groups;
        options.capabilities = self.capabilities.clone();
        options.seccomp = None;
    }
}

/// Keeps programs under a filter from the init of their instance, which is under none: they must not have what would let them
/// write to its memory.
///
/// # Errors
/// When they were to have it.
pub fn guard_init(name: &str, options: &mut Options) -> Result<(), Error> {
    if options.seccomp.is_none() || options.capabilities.drop.contains(PTRACE) {
        return Ok(());
    }
    if options.capabilities.add.iter().any(|one| one == PTRACE || one == "ALL") {
        return Err(Error::Guard { name: name.to_owned() });
    }
    options.capabilities.drop.insert(PTRACE.to_owned());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_under_a_filter_cannot_have_the_right_that_guards_the_init() {
        let guarded = |add: &[&str], drop: &[&str], filter: bool| {
            let set = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
            let capabilities = Capabilities { add: set(add), drop: set(drop) };
            let mut options = Options { capabilities, seccomp: filter.then(|| "p.json".into()), ..Options::default() };
            guard_init("a", &mut options).map(|()| options.capabilities.drop.contains(PTRACE)).ok()
        };
        assert_eq!(guarded(&["ALL"], &[], false), Some(false));
        assert_eq!(guarded(&[], &[], true), Some(true));
        assert_eq!(guarded(&["ALL"], &[], true), None);
        assert_eq!(guarded(&[PTRACE], &[], true), None);
        assert_eq!(guarded(&["ALL"], &[PTRACE], true), Some(true));
    }
}
