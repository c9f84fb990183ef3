//! Finds the parts of the drivers that [`table`](super::table) lists, below a root directory: `/` in production, a made-up tree
//! in tests.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::table::{Capability, Kind, Vendor, Whose};
use crate::libraries::elf::Elf;
use crate::libraries::{Abi, elf};

mod amd;
mod drm;
mod files;
mod intel;
mod libraries;
mod nvidia;
mod root;
mod tegra;
mod wsl;

pub use root::Root;

/// Why a driver cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The libraries are of another version than the kernel module.
    #[error(
        "cannot use the NVIDIA driver: the kernel module is version {module}, but {} is version {library}; the driver was updated \
         in part: have the module loaded anew (or the node restarted), or the libraries of {module} installed", path.display()
    )]
    Versions {
        /// The module's.
        module: String,
        /// The library's.
        library: String,
        /// On the host.
        path: PathBuf,
    },
}

/// What is looked for.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// For which programs.
    pub abi: Abi,
    /// For what.
    pub capabilities: BTreeSet<Capability>,
    /// Where CUDA's sharing service (MPS) has its pipes, if the caller says: `CUDA_MPS_PIPE_DIRECTORY`.
    pub mps: Option<PathBuf>,
}

impl Default for Wanted {
    /// Everything but what 32-bit programs and X servers need, for programs like this one.
    fn default() -> Self {
        let capabilities = Capability::ALL.into_iter();
        let capabilities = capabilities.filter(|one| !matches!(one, Capability::Compat32 | Capability::Display));
        Self { abi: Abi::OWN, capabilities: capabilities.collect(), mps: None }
    }
}

/// How a driver is installed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Layout {
    /// A kernel module with its libraries.
    #[default]
    Native,
    /// Windows' driver, under its Subsystem for Linux.
    Wsl,
    /// NVIDIA's Jetson boards.
    Tegra,
}

/// A driver as it was found. All paths are as programs of the host see them.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Found {
    /// Whose.
    pub vendor: Vendor,
    /// How it is installed.
    pub layout: Layout,
    /// Of the kernel module, or else of the libraries.
    pub driver_version: Option<String>,
    /// GPUs, and parts of such.
    pub devices: Vec<Device>,
    /// Device nodes of the driver as a whole.
    pub nodes: Vec<Node>,
    /// Libraries.
    pub libraries: Vec<Library>,
    /// Files that are not found by a library's name.
    pub files: Vec<HostFile>,
    /// Symbolic links that the driver needs beside its files.
    pub links: Vec<Link>,
    /// Variables.
    pub env: Vec<(String, String)>,
    /// What will probably not work, a sentence each.
    pub warnings: Vec<String>,
    /// What was left out, and why.
    pub notes: Vec<String>,
}

impl Found {
    fn new(vendor: Vendor, layout: Layout) -> Self {
        Self {
            vendor,
            layout,
            driver_version: None,
            devices: Vec::new(),
            nodes: Vec::new(),
            libraries: Vec::new(),
            files: Vec::new(),
            links: Vec::new(),
            env: Vec::new(),
            warnings: Vec::new(),
            notes: Vec::new(),
        }
    }
}

/// A GPU, or an instance that a GPU is divided into.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Device {
    /// From 0, in the order of their nodes; `GPU:GI:CI` for an instance, by the numbers of the GPU and of its instances for GPU and
    /// computing.
    pub name: String,
    /// What is sold under this name.
    pub model: Option<String>,
    /// The number in `/dev/nvidia0` or `/dev/dri/renderD128`.
    pub minor: Option<u32>,
    /// `GPU-…`
    pub uuid: Option<String>,
    /// Where it is plugged in: `0000:07:00.0`.
    pub pci: Option<String>,
    /// Whether it is an instance of a divided GPU (MIG).
    pub mig: bool,
    /// What a container needs to use it.
    pub nodes: Vec<Node>,
}

/// A device node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Node {
    /// On the host and in the container.
    pub path: PathBuf,
    /// What it is for.
    pub capability: Capability,
    /// Why.
    pub reason: String,
    /// The file in `/proc` that says who may use it, of a capability.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub access: Option<PathBuf>,
}

/// A library.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Library {
    /// The file, symbolic links followed.
    pub path: PathBuf,
    /// The name by which it is needed.
    pub soname: String,
    /// Further names by which programs look for it.
    pub also: Vec<String>,
    /// For which programs.
    pub abi: Abi,
    /// What it is for.
    pub capability: Capability,
    /// Whose counts when the image has one, too.
    pub whose: Whose,
    /// Those that go together.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// Whether nothing works without it.
    pub essential: bool,
    /// The driver's version, if the file's name says it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Why.
    pub reason: String,
    /// What it says of itself.
    #[serde(skip)]
    pub elf: Elf,
}

/// A file, directory or socket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct HostFile {
    /// On the host, symbolic links followed.
    pub path: PathBuf,
    /// In the container.
    pub destination: PathBuf,
    /// What it is.
    pub kind: Kind,
    /// What it is for.
    pub capability: Capability,
    /// Libraries without which it is of no use.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// Why.
    pub reason: String,
    /// What it says of itself, of a program.
    #[serde(skip)]
    pub elf: Option<Elf>,
}

/// A symbolic link.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Link {
    /// In the container.
    pub path: PathBuf,
    /// To what.
    pub target: PathBuf,
    /// Why.
    pub reason: String,
}

/// Finds the drivers of `vendors` that this host has.
///
/// # Errors
/// When one is there that cannot work.
pub fn discover(root: &Root, vendors: &[Vendor], wanted: &Wanted) -> Result<Vec<Found>, Error> {
    let mut found = Vec::new();
    let mut known = None;
    for vendor in vendors {
        let here = match vendor {
            Vendor::Nvidia => nvidia::present(root),
            Vendor::Amd => amd::present(root),
            Vendor::Intel => intel::present(root),
        };
        if !here {
            continue;
        }
        let cache = known.get_or_insert_with(|| libraries::Known::read(root, wanted));
        found.push(match vendor {
            Vendor::Nvidia => nvidia::discover(root, wanted, cache)?,
            Vendor::Amd => amd::discover(root),
            Vendor::Intel => intel::discover(root, wanted, cache),
        });
    }
    Ok(found)
}

/// Reads a library of the host, if it is for these programs.
fn library_of(root: &Root, path: &Path, abi: Abi) -> Result<Option<Elf>, elf::Error> {
    let elf = Elf::open(&root.at(path))?;
    Ok((elf.abi == abi).then_some(elf))
}
