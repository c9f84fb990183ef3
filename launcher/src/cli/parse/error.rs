//! What is wrong with an option's value.

use std::ffi::OsString;
use std::path::PathBuf;

/// Why an option's value was refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Error {
    /// A bind without a source.
    #[error("bind {value:?} names no source: write SOURCE[:DESTINATION[:ro|rw]]")]
    BindSource {
        /// As given.
        value: OsString,
    },
    /// A bind whose destination is relative.
    #[error("bind {value:?} has the destination {destination:?}: write an absolute path")]
    BindDestination {
        /// As given.
        value: OsString,
        /// The offending part.
        destination: PathBuf,
    },
    /// A bind over `/`.
    #[error("bind {value:?} would cover the whole image: choose a destination below /")]
    BindRoot {
        /// As given.
        value: OsString,
    },
    /// An unknown third part of a bind.
    #[error(
        "bind {value:?} has the unknown option {option:?}: use ro, rw, nosuid, nodev, noexec, bind, rbind, a propagation such as rslave, \
         or image-src=PATH"
    )]
    BindOption {
        /// As given.
        value: OsString,
        /// The offending part.
        option: OsString,
    },
    /// A setting without a name.
    #[error("environment setting {value:?} has no valid name: write NAME=VALUE, or NAME to take the host's value")]
    Env {
        /// As given.
        value: OsString,
    },
    /// A home that is no absolute path inside.
    #[error("home {value:?} has the destination {destination:?}: write an absolute path below /")]
    Home {
        /// As given.
        value: OsString,
        /// The offending part.
        destination: PathBuf,
    },
    /// No size.
    #[error("{value:?} is no size: write a number and K, M, G or T, like 50G")]
    Size {
        /// As given.
        value: String,
    },
    /// No age.
    #[error("{value:?} is no age: write a number and s, m, h, d or w, like 30d")]
    Age {
        /// As given.
        value: String,
    },
    /// An unknown codec, or a level that it does not have.
    #[error("no such compression: use zstd, zstd:1 to zstd:22, gzip, gzip:1 to gzip:9, lz4 or xz")]
    Compression,
    /// A block size that squashfs does not have.
    #[error("no such block size: use a power of two from 4K to 1M")]
    BlockSize,
    /// A `--mount` that is not understood.
    #[error(
        "mount {value:?}: {problem}; write type=bind,source=SOURCE,destination=DESTINATION[,ro], or type=tmpfs,destination=DESTINATION"
    )]
    MountKeys {
        /// As given.
        value: OsString,
        /// What is wrong.
        problem: String,
    },
    /// A device that is none.
    #[error(
        "device {value:?}: write the absolute path of a device, like /dev/fuse[:DESTINATION], or the name of a CDI device, like nvidia.com/gpu=all; coracle cdi list shows them"
    )]
    Device {
        /// As given.
        value: OsString,
    },
    /// A name that looks like a CDI device's and is none.
    #[error("device {0}")]
    CdiDevice(#[from] crate::cdi::Unqualified),
    /// No annotation.
    #[error("annotation {value:?}: write NAME=VALUE; names that begin with org.coracle. are taken")]
    Annotation {
        /// As given.
        value: OsString,
    },
    /// A directory that is not absolute.
    #[error("scratch directory {value:?}: write an absolute path below /")]
    Scratch {
        /// As given.
        value: OsString,
    },
    /// An overlay without a path, or with an unknown option.
    #[error("overlay {value:?}: write PATH or PATH:ro")]
    Overlay {
        /// As given.
        value: OsString,
    },
    /// No host name.
    #[error("{value:?} is no host name: use letters, digits, dots and dashes, at most 64")]
    Hostname {
        /// As given.
        value: String,
    },
    /// No address.
    #[error("{value:?} is no address of a name server: write one like 192.0.2.53 or 2001:db8::53")]
    Address {
        /// As given.
        value: String,
    },
    /// No capability.
    #[error("{value:?} is no capability: write a name of capabilities(7), like CAP_NET_RAW, or ALL")]
    Capability {
        /// As given.
        value: String,
    },
    /// Of several filters, one would be left out.
    #[error("cannot use two seccomp profiles, {} and {second:?}: put what both refuse into one", first.display())]
    Securities {
        /// The file of the first.
        first: PathBuf,
        /// As given.
        second: OsString,
    },
    /// A restriction of another kind.
    #[error("security {value:?}: write seccomp:FILE; labels of SELinux and AppArmor are not changed")]
    Security {
        /// As given.
        value: OsString,
    },
    /// No choice of GPUs.
    #[error("gpu {value:?}: use auto, off, nvidia, amd or intel; CDI devices are asked for with --device")]
    Gpu {
        /// As given.
        value: OsString,
    },
    /// A choice of MPI that this version does not have.
    #[error("mpi {value:?}: use auto, container or off; this version does not bring the host's MPI into the container")]
    Mpi {
        /// As given.
        value: String,
    },
    /// A network that only root could make.
    #[error(
        "network {value:?}: without privileges there is only none, a loopback device; leave --net out for the host's network"
    )]
    Network {
        /// As given.
        value: String,
    },
    /// An unknown default mount.
    #[error(
        "no default mount is called {name:?}: use proc, sys, dev, devpts, tmp, home, cwd, bind-paths, hostfs or an absolute path"
    )]
    Mount {
        /// The offending part.
        name: OsString,
    },
}
