//! CUDA's packages for forward compatibility: the user side of a newer driver, in the image, for programs that need a newer
//! CUDA than the host's driver has.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{ImageLibraries, is_plain};
use crate::gpu::discover::Found;
use crate::image;

/// Where NVIDIA's images have it.
pub(super) const DIRECTORY: &str = "/usr/local/cuda/compat";
/// The first branch whose kernel module works with a newer user side.
const FIRST_BRANCH: u32 = 450;
/// GPUs with which it does not: CUDA refuses (error 804), whatever the versions.
const NOT_SUPPORTED: [&str; 2] = ["GeForce", "TITAN"];

/// What of an image takes the place of the host's libraries.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Compat {
    /// Its version.
    pub version: String,
    /// The host's driver's.
    pub driver: String,
    /// Names and files.
    pub libraries: Vec<(String, PathBuf)>,
}

/// What the image has, if it is newer than the driver and the driver can be used with it.
pub(super) fn find(found: &[Found], image: &ImageLibraries<'_>) -> Result<Option<Compat>, image::Error> {
    let Some(driver) = found.iter().find(|driver| is_plain(driver)) else { return Ok(None) };
    let Some(real) = image.real(&Path::new(DIRECTORY).join("libcuda.so.1"))? else { return Ok(None) };
    let version = real.file_name().and_then(|name| name.to_str()?.strip_prefix("libcuda.so."));
    let (Some(version), Some(host)) = (version, driver.driver_version.as_deref()) else { return Ok(None) };
    let (Some(newer), Some(branch)) = (branch(version), branch(host)) else { return Ok(None) };
    let refused = |name: &str| NOT_SUPPORTED.iter().any(|part| name.contains(part));
    let supported = driver.devices.iter().filter_map(|device| device.model.as_deref()).all(|name| !refused(name));
    if newer <= branch || branch < FIRST_BRANCH || !supported {
        return Ok(None);
    }
    let mut libraries = Vec::new();
    for name in names(version) {
        let path = Path::new(DIRECTORY).join(&name);
        if image.real(&path)?.is_some() {
            libraries.push((name, path));
        }
    }
    Ok(Some(Compat { version: version.to_owned(), driver: host.to_owned(), libraries }))
}

/// Libraries that such packages have had.
fn names(version: &str) -> Vec<String> {
    let fixed = [
        "libcuda.so.1",
        "libcuda.so",
        "libnvidia-ptxjitcompiler.so.1",
        "libnvidia-nvvm.so.4",
        "libnvidia-nvvm70.so.4",
        "libcudadebugger.so.1",
        "libnvidia-tileiras.so.1",
    ];
    let versioned = ["libnvidia-gpucomp.so", "libnvidia-pkcs11.so", "libnvidia-pkcs11-openssl3.so"];
    let versioned = versioned.iter().map(|stem| format!("{stem}.{version}"));
    fixed.iter().map(|name| (*name).to_owned()).chain(versioned).collect()
}

/// The first number of a version.
fn branch(version: &str) -> Option<u32> {
    version.split('.').next()?.parse().ok()
}
