//! Runs OCI container images on HPC clusters without root: the library behind the `coracle` program.
//!
//! A launch goes through [`cli`] (arguments to types), [`host`] and [`image`] (facts), [`spec`] (everything that will
//! happen, as an OCI runtime specification), [`plan`] (the steps) and [`engine`] (which takes them).

pub mod capabilities;
pub mod cdi;
pub mod cli;
pub mod config;
pub mod doctor;
pub mod edf;
pub mod engine;
pub mod exit;
pub mod explanation;
pub mod fuse;
pub mod gpu;
pub mod gpu_policy;
pub mod host;
pub mod ids;
pub mod image;
pub mod inspect;
pub mod instance;
pub mod mpi;
pub mod options;
pub mod plan;
#[cfg(test)]
mod repeatable;
pub mod seccomp;
pub mod session;
pub mod spec;
pub mod stored;
pub mod sys;
pub mod trace;

pub use coracle_mpi_hooks::libraries;
