//! Nodes of the kernel's graphics system, `/dev/dri`, by who makes the GPU and where it is plugged in.

use std::path::{Path, PathBuf};

use super::{Device, Node, Root, files};
use crate::gpu::table::Capability;

/// By driver and by number.
const CLASS: &str = "/sys/class/drm";
/// The nodes.
const NODES: &str = "/dev/dri";

/// GPUs whose maker has this number, in the order of their render nodes.
pub(super) fn devices(root: &Root, vendor: &str) -> Vec<Device> {
    let rendering = files::numbered(root, &format!("{NODES}/renderD")).into_iter();
    let mut devices = Vec::new();
    for (_, minor) in rendering {
        let about = Path::new(CLASS).join(format!("renderD{minor}/device"));
        if root.text(&about.join("vendor")).as_deref() != Some(vendor) {
            continue;
        }
        let pci = pci(root, &about);
        devices.push(Device {
            name: devices.len().to_string(),
            model: root.text(&about.join("product_name")).filter(|name| !name.is_empty()),
            minor: Some(minor),
            uuid: root.text(&about.join("unique_id")).filter(|id| !id.is_empty()),
            nodes: nodes(root, pci.as_deref()),
            pci,
            mig: false,
        });
    }
    devices
}

/// Whether there is a GPU of that maker.
pub(super) fn has(root: &Root, vendor: &str) -> bool {
    files::numbered(root, &format!("{NODES}/renderD")).iter().any(|(_, minor)| {
        let path = Path::new(CLASS).join(format!("renderD{minor}/device/vendor"));
        root.text(&path).as_deref() == Some(vendor)
    })
}

/// The nodes of the GPU that is plugged in there.
pub(super) fn nodes(root: &Root, at: Option<&str>) -> Vec<Node> {
    let Some(at) = at else { return Vec::new() };
    let mut nodes = Vec::new();
    for (kind, capability, reason) in [
        ("renderD", Capability::Compute, "the GPU, for computing and drawing"),
        ("card", Capability::Graphics, "the GPU and its screens"),
    ] {
        for (path, minor) in files::numbered(root, &format!("{NODES}/{kind}")) {
            let about = PathBuf::from(format!("{CLASS}/{kind}{minor}/device"));
            if pci(root, &about).as_deref() == Some(at) {
                nodes.push(Node { path, capability, reason: reason.to_owned(), access: None });
            }
        }
    }
    nodes
}

fn pci(root: &Root, about: &Path) -> Option<String> {
    let text = root.text(&about.join("uevent"))?;
    text.lines().find_map(|line| line.strip_prefix("PCI_SLOT_NAME=")).map(str::to_lowercase)
}
