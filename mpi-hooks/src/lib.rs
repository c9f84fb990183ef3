//! The host's MPI in containers: who starts ranks, what they need, and what fits together.
//!
//! Pure: the environment is a value, and what comes back can be printed.

pub mod files;
pub mod fit;
pub mod inject;
pub mod libraries;
pub mod loader;
pub mod mpi;
#[cfg(test)]
mod repeatable;
pub mod starter;
