//! Sessions: one mount of an image for all launches of one user on one node.
//!
//! The first launch of an image leaves its namespaces with the server of the mount, which keeps them for a while after
//! the last program has ended. Later launches get them as descriptors over a Unix socket, and join. Nothing of a session
//! is on disk but that socket, so a server that is killed leaves nothing that could be in the way of the next one.

use std::time::Duration;

mod bytes;
mod client;
mod fingerprint;
mod keeper;
mod memo;
mod message;
mod place;
mod report;

pub use bytes::Bytes;
pub use client::{Error, Founding, Joined, Meeting, meet};
pub(crate) use client::{keep, keep_container, remember};
pub use fingerprint::Fingerprint;
pub use keeper::Keeper;
pub use memo::{Memo, Remembered};
pub use message::ContainerKey;
pub(crate) use message::{bytes_of, synthetic};
pub use place::{Identity, Place};
pub use report::{Report, reports, stop};

/// How long a session waits for another launch after its last program has ended, unless told otherwise.
pub const IDLE: Duration = Duration::from_secs(5);
