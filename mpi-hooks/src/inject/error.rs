//! Why a container cannot have the host's MPI.

use std::io;
use std::path::PathBuf;

use crate::mpi::{Interface, Mpi};

/// Why not.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Nothing to replace.
    #[error("{} is not bound to an MPI library", program.display())]
    NoMpi {
        /// The program.
        program: PathBuf,
    },
    /// Another C library.
    #[error("{} is built for musl (as Alpine has), and the host's {} {} for glibc; use an image with glibc", program.display(), host.family, host.path.display())]
    Musl {
        /// The program.
        program: PathBuf,
        /// Of the host.
        host: Box<Mpi>,
    },
    /// Another binary interface.
    #[error("{} needs {needed} ({interface}), and the host's {} {} is {} ({}); use an MPI of the same interface on one of the sides", program.display(), host.family, host.path.display(), host.soname, host.interface)]
    Interface {
        /// The program.
        program: PathBuf,
        /// What it needs.
        needed: String,
        /// What that stands for.
        interface: Interface,
        /// Of the host.
        host: Box<Mpi>,
    },
    /// No library for another language.
    #[error("{} needs {library}, and the host's {} {} comes without it; install the host's bindings for that language", program.display(), host.family, host.path.display())]
    Binding {
        /// The program.
        program: PathBuf,
        /// What it needs.
        library: String,
        /// Of the host.
        host: Box<Mpi>,
    },
    /// The host's installation is not whole.
    #[error("the host has no {library}, which its {} needs", by.display())]
    HostLacks {
        /// What is missing.
        library: String,
        /// What needs it.
        by: PathBuf,
    },
    /// Something would not be found.
    #[error("the container would have no {library}, which {} needs", by.display())]
    Lacks {
        /// What is missing.
        library: String,
        /// What needs it.
        by: PathBuf,
    },
    /// A library is too old.
    #[error("{} needs {version} of {library}, and the container's {} does not define it; use an image with a newer one", by.display(), path.display())]
    TooOld {
        /// What needs it.
        by: PathBuf,
        /// The version.
        version: String,
        /// Of what.
        library: String,
        /// The file that would be used.
        path: PathBuf,
    },
    /// A function or variable is missing.
    #[error("{} needs {symbol}, which neither the host's MPI nor another library of the program has", by.display())]
    Symbol {
        /// What needs it.
        by: PathBuf,
        /// Its name.
        symbol: String,
    },
    /// Two libraries of one name.
    #[error("the loader would find the container's MPI by way of {}, and the host's by another", path.display())]
    Both {
        /// Where.
        path: PathBuf,
    },
    /// The host or the image cannot be read.
    #[error("cannot read libraries")]
    Read(#[from] io::Error),
}
