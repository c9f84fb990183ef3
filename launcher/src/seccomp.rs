//! System call filters: the caller's profile, and one that lets programs believe that they are root.
//!
//! Both are the runtime specification's `seccomp` object, so that they can be printed and read; [`compile`] makes of it what
//! the kernel takes. All that the kernel can meet on this processor is considered: a 32-bit program is filtered by its own numbers.

use std::path::PathBuf;

mod bpf;
mod calls;
mod compile;
mod profile;
pub mod root;

pub use bpf::Instruction;
pub use compile::{Foreign, compile};
pub use profile::{Circumstances, parse};

/// Why a profile cannot be used.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    /// Not JSON, or not a profile.
    #[error("cannot understand seccomp profile {}: {reason}; it must be a profile as Docker or the OCI runtime specification has them", path.display())]
    Profile {
        /// As given.
        path: PathBuf,
        /// The parser's words.
        reason: String,
    },
    /// Something that needs a supervisor.
    #[error(
        "cannot carry out the seccomp profile: {0} needs a supervising process, which a container here does not have"
    )]
    Supervisor(&'static str),
    /// A rule that the kernel's filters do not know.
    #[error("cannot carry out the seccomp profile: the rule for {call} {what}")]
    Rule {
        /// The first call of the rule.
        call: String,
        /// What is wrong with it.
        what: &'static str,
    },
    /// A processor that there is no table for.
    #[error("cannot carry out the seccomp profile: system calls of {0} processors are not known")]
    Processor(&'static str),
    /// More than the kernel takes.
    #[error("cannot carry out the seccomp profile: it takes {0} instructions, and the kernel takes 4096")]
    Long(usize),
}

/// A filter as the kernel takes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    /// The program.
    pub instructions: Vec<Instruction>,
    /// For `seccomp(2)`.
    pub flags: u32,
    /// Names of calls that no kernel for this processor is known to have.
    pub unknown: Vec<String>,
}
