//! NVIDIA's driver under Windows' Subsystem for Linux: libraries that Windows brings along, and one device for all GPUs.

use std::path::{Path, PathBuf};

use super::{Device, Error, Found, HostFile, Layout, Node, Root, Wanted, files, libraries};
use crate::gpu::table::{self, Capability, Kind, Vendor};

pub(super) fn present(root: &Root) -> bool {
    root.has(Path::new("/dev/dxg")) && root.has(&Path::new(table::WSL_LIBRARIES).join("libcuda.so.1"))
}

pub(super) fn discover(root: &Root, wanted: &Wanted, known: &mut libraries::Known) -> Result<Found, Error> {
    let mut found = Found::new(Vendor::Nvidia, Layout::Wsl);
    known.add_directory(root, Path::new(table::WSL_LIBRARIES));
    known.find(root, wanted, table::NVIDIA_LIBRARIES, None, &mut found)?;
    files::programs(root, wanted, table::NVIDIA_UTILITIES, &[table::WSL_LIBRARIES], &mut found);
    // What is in the libraries' directory only opens what is there.
    for name in root.list(Path::new(table::WSL_DRIVERS)) {
        let path = Path::new(table::WSL_DRIVERS).join(name);
        if root.has(&path.join("libcuda.so.1.1")) {
            found.files.push(HostFile {
                path: path.clone(),
                destination: path,
                kind: Kind::Directory,
                capability: Capability::Compute,
                group: None,
                reason: "the driver itself, which the libraries open by its path".into(),
                elf: None,
            });
        }
    }
    if found.files.iter().all(|file| file.kind != Kind::Directory) {
        found.warnings.push(format!("there is no NVIDIA driver below {}", table::WSL_DRIVERS));
    }
    let dxg = PathBuf::from("/dev/dxg");
    let reason = "the GPUs, which are Windows'".to_owned();
    let node = Node { path: dxg, capability: Capability::Compute, reason, access: None };
    found.devices.push(Device { name: "0".into(), nodes: vec![node], ..Device::default() });
    Ok(found)
}
