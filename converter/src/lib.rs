//! OCI and Docker images, tars, directories and squashfs images into one squashfs file.
//!
//! [`convert`] is the way in. A [`Source`] is resolved to layers; each layer streams, verified, through our own tar
//! reader from the top down into one tree, visible content straight into the squashfs writer. Nothing is unpacked to
//! disk, and neither root nor subordinate ids are needed. [`image_info`] reads back what an image says of itself.
//! The [`store`] keeps images for all who share a directory. A [`profile`] has the files that a program reads laid out together.

mod arrange;
mod artifact;
mod build;
mod convert;
mod digest;
mod directory;
mod error;
mod flatten;
pub mod image_info;
mod layer;
mod layers;
mod options;
mod out;
pub mod output;
pub mod profile;
pub mod registry;
mod repack;
mod section;
pub mod sif;
mod sink;
mod source;
mod spool;
pub mod store;
mod tar;
mod text;

#[cfg(test)]
#[path = "../tests/support/tar.rs"]
mod test_tar;

pub use artifact::{find_squashfs, push};
pub use convert::{Opened, convert};
pub use digest::{Digest, InvalidDigest};
pub use error::Error;
pub use flatten::{Counts, Problem as EntryProblem};
pub use options::{Event, LaidOut, Options, Progress, Report, Unpacked, host_architecture};
pub use out::oci::LayerPacking;
pub use out::{to_oci_archive, to_sandbox};
pub use source::Source;
pub use tar::{Error as TarError, Problem as TarProblem};
