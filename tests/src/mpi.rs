//! MPIs of this machine and of PyPI: images of programs that are built on them, and what starts ranks.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::fixtures::{key_of, script, shared};
use crate::process;

/// An image of a program that is built on an MPI.
#[derive(Clone, Debug)]
pub struct MpiImage {
    /// What it is called in a table.
    pub name: &'static str,
    /// The squashfs file, which has `mpi-hello`.
    pub path: PathBuf,
}

/// Where Debian has the libraries of this machine.
const LIBRARIES: &str = "/usr/lib/x86_64-linux-gnu";

/// An image of the distribution's Open MPI, whose components are files of their own.
#[must_use]
pub fn open_mpi() -> MpiImage {
    let below = |name: &str| format!("{LIBRARIES}/{name}");
    let directories = [below("openmpi"), below("pmix2"), "/usr/share/openmpi".into(), "/etc/openmpi".into()];
    image("ompi4", Path::new("mpicc.openmpi"), &directories)
}

/// An image of the distribution's MPICH.
#[must_use]
pub fn mpich() -> MpiImage {
    image("mpich4", Path::new("mpicc.mpich"), &[format!("{LIBRARIES}/ucx")])
}

/// Where PyPI's Open MPI and MPICH are installed.
///
/// # Errors
/// When they cannot be fetched.
pub fn wheels() -> Result<PathBuf, String> {
    let output = Command::new(script("mpi-hosts.sh")).output().map_err(|error| error.to_string())?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    Ok(PathBuf::from(String::from_utf8_lossy(&output.stdout).trim_end()))
}

/// Images of those, the last built for the interface of the MPI standard.
#[must_use]
pub fn wheel_images(hosts: &Path) -> [MpiImage; 3] {
    let of = |name: &'static str, prefix: &str, compiler: &str| {
        let prefix = hosts.join(prefix);
        image(name, &prefix.join("bin").join(compiler), &[prefix.join("lib").display().to_string()])
    };
    [of("ompi5", "openmpi-5", "mpicc"), of("mpich5", "mpich-5", "mpicc"), of("mpich5-abi", "mpich-5", "mpicc_abi")]
}

fn image(name: &'static str, compiler: &Path, directories: &[String]) -> MpiImage {
    let source = process::workspace().join("examples/mpi/c/hello.c");
    let maker = script("mpi-image.sh");
    let words = format!("{}{directories:?}", compiler.display());
    let key = key_of(&[&fs::read(&maker).unwrap(), &fs::read(&source).unwrap(), words.as_bytes()]);
    let path = shared(&format!("mpi-{name}"), &key, |place| {
        process::run(Command::new(&maker).arg(place).arg(compiler).arg(&source).args(directories)).success();
    });
    MpiImage { name, path }
}
