//! Helpers of the whole-system tests: what a test needs, the fixtures, running the program as an unprivileged
//! user, and trees that can be compared entry by entry whatever they were read from.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stderr,
    reason = "a helper of tests fails by panicking, which fails the test; skipped tests say why"
)]

pub mod agree;
pub mod fixtures;
pub mod gpu_tree;
pub mod layout;
pub mod mpi;
pub mod needs;
pub mod process;
pub mod registry;
pub mod site;
pub mod slurm;
pub mod terminal;
pub mod tree;
