//! placeholder
pub mod fuse;
