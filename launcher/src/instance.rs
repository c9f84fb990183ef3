//! Instances: containers that run in the background under a name.
//!
//! All that is known of one is a small file in the caller's directory for this node, which is written by rename and read by whoever asks. No
//! process has to be asked, and none has to tidy up: an instance runs if its processes do, which their ids and start times tell.

use std::io;
use std::path::{Path, PathBuf};

mod process;
mod record;
mod rights;
mod state;

pub use process::Process;
pub use record::{Record, State};
pub use rights::{Profile, Rights, guard_init};
pub use state::{Directory, host};

/// Before a name, in place of an image.
pub const SCHEME: &str = "instance://";
/// Longest name: names of files have 255 bytes at most, and that of the host is in them, too.
const NAME_MAX: usize = 100;

/// Why nothing can be done with an instance.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A name.
    #[error(
        "cannot call an instance {name:?}: use letters, digits, _, - and ., {NAME_MAX} at most, and begin with a letter or digit"
    )]
    Name {
        /// As given.
        name: String,
    },
    /// It is taken.
    #[error(
        "cannot start instance {name}: one of that name runs as process {pid}; stop it with coracle instance stop {name}, or choose another name"
    )]
    Taken {
        /// The name.
        name: String,
        /// Its process 1.
        pid: i32,
    },
    /// There is none.
    #[error("there is no instance {name} on this node; see coracle instance list")]
    Unknown {
        /// The name.
        name: String,
    },
    /// It has ended.
    #[error(
        "instance {name} has ended; coracle instance restart {name} starts it again, and coracle instance logs {name} shows what it wrote"
    )]
    Dead {
        /// The name.
        name: String,
    },
    /// There is no directory.
    #[error(
        "cannot keep instances here: in a user namespace of its own there is no place for them; set CORACLE_SESSION_DIR to a directory of yours alone"
    )]
    NoPlace,
    /// The directory.
    #[error("cannot use the directory of instances: {0}")]
    Place(io::Error),
    /// A file of it.
    #[error("cannot {what} the state of instance {name}: {cause}")]
    State {
        /// A verb.
        what: &'static str,
        /// The name.
        name: String,
        /// The system's reason.
        cause: io::Error,
    },
    /// The file of `--security seccomp:`.
    #[error("cannot read seccomp profile {}: {cause}", path.display())]
    Profile {
        /// The path.
        path: PathBuf,
        /// The system's reason.
        cause: io::Error,
    },
    /// Its programs could get rid of their filter.
    #[error(
        "cannot start instance {name} with a seccomp profile and CAP_SYS_PTRACE: its programs could write to the memory of its init, which is under no filter; leave the capability out, with --drop-caps CAP_SYS_PTRACE"
    )]
    Guard {
        /// The name.
        name: String,
    },
}

/// Checks a name.
///
/// # Errors
/// [`Error::Name`]
pub fn check_name(name: &str) -> Result<(), Error> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte);
    let first = name.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
    let valid = first && name.len() <= NAME_MAX && name.bytes().all(plain);
    if valid { Ok(()) } else { Err(Error::Name { name: name.to_owned() }) }
}

/// The name in `instance://NAME`.
#[must_use]
pub fn named(image: &Path) -> Option<&str> {
    image.as_os_str().to_str()?.strip_prefix(SCHEME)
}

/// Whether `name` is what `pattern` says, in which `*` stands for any letters and `?` for one.
#[must_use]
pub fn matches(pattern: &str, name: &str) -> bool {
    fn at(pattern: &[u8], name: &[u8]) -> bool {
        match (pattern.split_first(), name.split_first()) {
            (None, None) => true,
            (Some((b'*', rest)), _) => at(rest, name) || name.split_first().is_some_and(|(_, name)| at(pattern, name)),
            (Some((b'?', rest)), Some((_, name))) => at(rest, name),
            (Some((one, rest)), Some((other, name))) => one == other && at(rest, name),
            _ => false,
        }
    }
    at(pattern.as_bytes(), name.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_plain() {
        for good in ["a", "web-1", "a.b_C", "9"] {
            check_name(good).unwrap();
        }
        for bad in ["", ".", "..", "a/b", "-a", "a b", "a@b", "ä", &"x".repeat(101)] {
            assert!(check_name(bad).unwrap_err().to_string().contains("use letters"), "{bad}");
        }
        assert_eq!(named(Path::new("instance://a")), Some("a"));
        assert_eq!(named(Path::new("a")), None);
    }

    #[test]
    fn patterns_match() {
        assert!(matches("web*", "web-1") && matches("*", "x") && matches("w?b", "web") && matches("*b*", "abc"));
        assert!(!matches("web", "web-1") && !matches("?", "") && !matches("*x", "web"));
    }
}
