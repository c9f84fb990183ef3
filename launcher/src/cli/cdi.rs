//! `coracle cdi`: devices by the Container Device Interface.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use crate::cdi::generate;

#[doc = concat!("`cdi`.")]
#[derive(Debug, Args)]
pub struct Cdi {
    /// What to do.
    #[command(subcommand)]
    pub command: CdiCommand,
}

#[doc = concat!("What can be done with CDI files.")]
#[derive(Debug, Subcommand)]
pub enum CdiCommand {
    /// List the devices that --device takes
    List {
        /// Print the list as JSON
        #[arg(long)]
        json: bool,
    },
    /// Check CDI files, and say what launches cannot do of what they ask for
    ///
    /// The exit status is 1 when a file is not valid.
    Validate {
        /// Files [default: all of this host]
        files: Vec<PathBuf>,
    },
    /// Write a CDI file for the GPUs of this host
    Generate {
        /// Whose GPUs, where the host has more than one vendor's
        #[arg(long, value_enum)]
        vendor: Option<Vendor>,
        /// Where the file goes, like /etc/cdi/nvidia.json [default: standard output]
        #[arg(short, long, value_name = "FILE")]
        output: Option<PathBuf>,
    },
}

/// A vendor of GPUs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Vendor {
    /// nvidia.com/gpu
    Nvidia,
    /// amd.com/gpu
    Amd,
    /// intel.com/gpu
    Intel,
}

impl From<Vendor> for generate::Vendor {
    fn from(vendor: Vendor) -> Self {
        match vendor {
            Vendor::Nvidia => Self::Nvidia,
            Vendor::Amd => Self::Amd,
            Vendor::Intel => Self::Intel,
        }
    }
}
