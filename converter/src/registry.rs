//! The client of container registries: the OCI distribution specification over blocking HTTP.
//!
//! A [`Reference`] names an image, a [`Client`] finds and fetches it from mirrors or the registry. Whatever comes is
//! verified by digest. Layers stream into the conversion while they arrive.

mod artifact;
mod auth;
mod blob;
mod cache;
mod challenge;
mod client;
pub mod credentials;
mod download;
mod error;
mod helper;
mod http;
mod keys;
mod limits;
mod push;
mod reference;
mod settings;
mod signature;
mod tls;
mod upload;

pub use artifact::{ARTIFACT_TYPE, Artifact, LAYER_TYPE};
pub(crate) use blob::RemoteBlob;
pub(crate) use cache::{Cache, PART, PREFIX};
pub use client::{Client, Manifest, Resolved};
pub(crate) use download::Downloads;
pub use error::Error;
pub use push::{Finished, Pushed};
pub use reference::Reference;
pub use settings::{Host, InvalidMirror, Mirror, Settings};
pub use signature::{Policy, Requirement, Rule, scope};
