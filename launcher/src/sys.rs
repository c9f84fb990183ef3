//! System calls that `nix` and `rustix` lack, or that are unsafe there, behind safe functions.
//!
//! The only module of the crate with unsafe code. The kernel floor is RHEL 8's 4.18: what is younger has its fallback
//! beside it.

pub mod attributes;
pub mod descriptors;
pub mod filter;
pub mod network;
pub mod privileges;
pub mod process;
pub mod refusal;
pub mod resolve;
pub mod signals;
pub mod start;
