//! AMD's driver: device nodes. Its libraries come with the image (see [`table::AMD_LIBRARIES`]).

use std::path::Path;

use super::{Found, Layout, Root, Wanted, drm, files};
use crate::gpu::table::{self, Vendor};

/// AMD's number on the PCI bus.
const NUMBER: &str = "0x1002";
const KFD: &str = "/dev/kfd";

pub(super) fn present(root: &Root) -> bool {
    root.has(Path::new(KFD)) || drm::has(root, NUMBER)
}

pub(super) fn discover(root: &Root) -> Found {
    let mut found = Found::new(Vendor::Amd, Layout::Native);
    // The module that is part of the kernel has no version of its own.
    found.driver_version = root.text(Path::new("/sys/module/amdgpu/version")).filter(|text| !text.is_empty());
    files::nodes(root, &Wanted::default(), table::AMD_NODES, &mut found);
    found.devices = drm::devices(root, NUMBER);
    if found.nodes.is_empty() {
        found.warnings.push(format!("there is no {KFD}: ROCm needs the kernel's amdgpu driver with compute (amdkfd)"));
    }
    if found.devices.is_empty() {
        found.warnings.push("there is no AMD GPU among /dev/dri/renderD*".into());
    }
    found
}
