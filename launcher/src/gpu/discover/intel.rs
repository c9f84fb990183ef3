//! Intel's driver: render nodes, and the libraries of the compute runtime for images that have none.

use super::{Found, Layout, Root, Wanted, drm, files, libraries};
use crate::gpu::table::{self, Vendor};

/// Intel's number on the PCI bus.
const NUMBER: &str = "0x8086";

pub(super) fn present(root: &Root) -> bool {
    drm::has(root, NUMBER)
}

pub(super) fn discover(root: &Root, wanted: &Wanted, known: &libraries::Known) -> Found {
    let mut found = Found::new(Vendor::Intel, Layout::Native);
    if let Err(error) = known.find(root, wanted, table::INTEL_LIBRARIES, None, &mut found) {
        found.warnings.push(error.to_string());
    }
    // A loader alone drives nothing.
    if found.libraries.iter().any(|library| library.group.as_deref() == Some(table::INTEL_RUNTIME)) {
        files::files(root, wanted, table::INTEL_FILES, Some(table::INTEL_RUNTIME), &mut found);
    }
    found.devices = drm::devices(root, NUMBER);
    found
}
