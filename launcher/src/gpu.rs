//! GPUs: what a host's drivers consist of, finding it, and bringing it into a container.
//!
//! [`table`] says what belongs to a driver and why, [`discover`] finds it below a root directory, [`inject`] decides how a
//! container gets it, and [`explain`] prints that. Nothing here starts a program or loads a library.

pub mod discover;
pub mod explain;
pub mod image;
pub mod inject;
pub mod launch;
pub mod policy;
pub mod table;
