//! NVIDIA's driver.

use std::path::{Path, PathBuf};

use super::{Device, Error, Found, HostFile, Layout, Node, Root, Wanted, files, libraries, tegra, wsl};
use crate::gpu::table::{self, Capability, Kind, Vendor};

/// Says the kernel module's version.
const VERSION: &str = "/proc/driver/nvidia/version";
/// A directory for each GPU.
const GPUS: &str = "/proc/driver/nvidia/gpus";
/// Files that say which node lets a process do what.
const CAPABILITIES: &str = "/proc/driver/nvidia/capabilities";
/// Nodes of those.
const CAPABILITY_NODES: &str = "/dev/nvidia-caps";
/// Where the service that lets processes share a GPU has its pipes unless told otherwise.
const MPS: &str = "/tmp/nvidia-mps";

/// Whether there is a GPU of NVIDIA's that can be used: libraries alone, as on a login node, are no driver.
pub(super) fn present(root: &Root) -> bool {
    let native = [VERSION, "/dev/nvidiactl"].iter().any(|path| root.has(Path::new(path)));
    native || wsl::present(root) || tegra::present(root)
}

/// All of it.
pub(super) fn discover(root: &Root, wanted: &Wanted, known: &mut libraries::Known) -> Result<Found, Error> {
    // A Jetson with a plug-in card has both; the card's driver is then the one with a version.
    if !root.has(Path::new(VERSION)) {
        if wsl::present(root) {
            return wsl::discover(root, wanted, known);
        }
        if tegra::present(root) {
            return tegra::discover(root, wanted, known);
        }
    }
    let mut found = Found::new(Vendor::Nvidia, Layout::Native);
    let module = root.text(Path::new(VERSION)).and_then(|text| module_version(&text));
    known.find(root, wanted, table::NVIDIA_LIBRARIES, module.as_deref(), &mut found)?;
    drop_idle_dispatchers(&mut found);
    let of_library = || found.libraries.iter().find_map(|library| library.version.clone());
    found.driver_version = module.clone().or_else(of_library);
    if found.libraries.iter().all(|library| !library.essential) {
        found.warnings.push(format!(
            "the host has {} but not its libraries: the loader's cache lists no libcuda.so.1 and no libnvidia-ml.so.1",
            module.map_or("a device of NVIDIA's".to_owned(), |module| format!("NVIDIA's kernel module {module}"))
        ));
    }
    files::programs(root, wanted, table::NVIDIA_UTILITIES, &[], &mut found);
    files::files(root, wanted, table::NVIDIA_FILES, None, &mut found);
    add_mps(root, wanted, &mut found);
    files::nodes(root, wanted, table::NVIDIA_NODES, &mut found);
    add_capabilities(root, &mut found);
    found.devices = devices(root);
    if found.devices.is_empty() {
        found
            .warnings
            .push("NVIDIA's kernel module is loaded, but there is no GPU: neither /dev/nvidia0 nor another".into());
    }
    Ok(found)
}

/// Dispatchers of OpenGL that the host has anyway are of no use without NVIDIA's OpenGL.
fn drop_idle_dispatchers(found: &mut Found) {
    let vendors = ["libGLX_nvidia.so", "libEGL_nvidia.so"];
    let drawing = found.libraries.iter().any(|library| vendors.iter().any(|stem| library.soname.starts_with(stem)));
    if !drawing {
        found.libraries.retain(|library| library.group.as_deref() != Some(table::GL_DISPATCHER));
    }
}

/// Of a line such as `NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  550.54.15  Release Build …`.
fn module_version(text: &str) -> Option<String> {
    let line = text.lines().find(|line| line.starts_with("NVRM version:"))?;
    let is_version = |word: &&str| {
        word.contains('.') && word.split('.').all(|part| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit()))
    };
    line.split_whitespace().find(is_version).map(str::to_owned)
}

/// The directory of the pipes by which programs reach the service that lets them share a GPU.
fn add_mps(root: &Root, wanted: &Wanted, found: &mut Found) {
    let path = wanted.mps.clone().unwrap_or_else(|| PathBuf::from(MPS));
    if wanted.capabilities.contains(&Capability::Compute) && root.has(&path.join("control")) {
        found.files.push(HostFile {
            path: path.clone(),
            destination: path,
            kind: Kind::Socket,
            capability: Capability::Compute,
            group: None,
            reason: "the service that lets processes share a GPU (MPS)".into(),
            elf: None,
        });
    }
}

/// Capabilities of the driver as a whole: dividing GPUs, and watching the parts.
fn add_capabilities(root: &Root, found: &mut Found) {
    for (name, reason) in [
        ("mig/config", "lets administrators divide GPUs"),
        ("mig/monitor", "lets administrators watch the parts of divided GPUs"),
        ("fabric-imex-mgmt", "lets administrators manage memory that nodes share"),
    ] {
        found.nodes.extend(capability(root, &Path::new(CAPABILITIES).join(name), Capability::Utility, reason));
    }
}

/// The node of a capability, which its file names by number.
fn capability(root: &Root, access: &Path, capability: Capability, reason: &str) -> Option<Node> {
    let text = root.text(access)?;
    let minor: u32 = text.lines().find_map(|line| line.strip_prefix("DeviceFileMinor:")?.trim().parse().ok())?;
    let path = Path::new(CAPABILITY_NODES).join(format!("nvidia-cap{minor}"));
    root.has(&path).then(|| Node { path, capability, reason: reason.to_owned(), access: Some(access.to_path_buf()) })
}

fn devices(root: &Root) -> Vec<Device> {
    let mut gpus: Vec<Device> = root.list(Path::new(GPUS)).iter().filter_map(|pci| described(root, pci)).collect();
    // Without /proc, as in a container that shows the nodes alone.
    for (_, minor) in files::numbered(root, "/dev/nvidia") {
        if gpus.iter().all(|gpu| gpu.minor != Some(minor)) {
            gpus.push(Device { minor: Some(minor), ..Device::default() });
        }
    }
    gpus.sort_by_key(|gpu| gpu.minor);
    let mut devices = Vec::new();
    for (index, mut gpu) in gpus.into_iter().enumerate() {
        let Some(minor) = gpu.minor else { continue };
        gpu.name = index.to_string();
        gpu.nodes.push(Node {
            path: PathBuf::from(format!("/dev/nvidia{minor}")),
            capability: Capability::Utility,
            reason: "the GPU".into(),
            access: None,
        });
        gpu.nodes.extend(super::drm::nodes(root, gpu.pci.as_deref()));
        let instances = instances(root, &gpu);
        devices.push(gpu);
        devices.extend(instances);
    }
    devices
}

/// What the driver says of a GPU.
fn described(root: &Root, pci: &str) -> Option<Device> {
    let text = root.text(&Path::new(GPUS).join(pci).join("information"))?;
    let value = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.trim_start().strip_prefix(':'));
        line.map(|value| value.trim().to_owned()).filter(|value| !value.is_empty())
    };
    let minor = value("Device Minor").and_then(|minor| minor.parse().ok());
    let node = minor.map(|minor: u32| PathBuf::from(format!("/dev/nvidia{minor}")));
    // A cgroup or an administrator may have taken it away.
    node.filter(|node| root.has(node))?;
    Some(Device {
        model: value("Model"),
        minor,
        uuid: value("GPU UUID"),
        pci: Some(pci.to_owned()),
        ..Device::default()
    })
}

/// The instances that a GPU is divided into.
fn instances(root: &Root, gpu: &Device) -> Vec<Device> {
    let Some(minor) = gpu.minor else { return Vec::new() };
    let mig = Path::new(CAPABILITIES).join(format!("gpu{minor}")).join("mig");
    let mut instances = Vec::new();
    let numbers = |path: &Path, prefix: &str| -> Vec<(String, String)> {
        let names = root.list(path).into_iter();
        names.filter_map(|name| Some((name.strip_prefix(prefix)?.to_owned(), name))).collect()
    };
    for (gi, name) in numbers(&mig, "gi") {
        let instance = mig.join(name);
        let outer =
            capability(root, &instance.join("access"), Capability::Compute, "lets a process use the GPU instance");
        for (ci, name) in numbers(&instance, "ci") {
            let access = instance.join(name).join("access");
            let inner = capability(root, &access, Capability::Compute, "lets a process use the compute instance");
            instances.push(Device {
                name: format!("{}:{gi}:{ci}", gpu.name),
                mig: true,
                uuid: None,
                nodes: gpu.nodes.iter().take(1).cloned().chain(outer.clone()).chain(inner).collect(),
                ..gpu.clone()
            });
        }
    }
    instances
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_of_both_modules() {
        let closed = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.129.03  Thu Oct 19 18:56:32 UTC 2023\nGCC version:  gcc 12.2.0";
        let open = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  550.54.15  Release Build  (dvs)  Tue Mar  5 22:15:33";
        assert_eq!(module_version(closed).as_deref(), Some("535.129.03"));
        assert_eq!(module_version(open).as_deref(), Some("550.54.15"));
        assert_eq!(module_version("GCC version: gcc 12.2.0"), None);
    }
}
