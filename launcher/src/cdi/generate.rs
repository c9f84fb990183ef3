//! Writes a CDI file for a driver that was found, so that every runtime of the host gives containers the same.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::check::VERSIONS;
use super::name;
use super::spec::{Device, DeviceNode, Edits, Hook, Mount, Spec};

/// The program that other runtimes run for NVIDIA's hooks. This one does what they say by itself.
const NVIDIA_HOOK: &str = "/usr/bin/nvidia-cdi-hook";
/// How files of the host are shown.
const SHARED: [&str; 4] = ["nosuid", "nodev", "rbind", "rprivate"];

/// Whose driver it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Vendor {
    /// `nvidia.com/gpu`
    Nvidia,
    /// `amd.com/gpu`
    Amd,
    /// `intel.com/gpu`
    Intel,
}

impl Vendor {
    /// The kind of its devices.
    #[must_use]
    pub const fn kind(self) -> &'static str {
        match self {
            Self::Nvidia => "nvidia.com/gpu",
            Self::Amd => "amd.com/gpu",
            Self::Intel => "intel.com/gpu",
        }
    }
}

/// A driver as it was found; all paths are of the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Driver {
    /// Whose.
    pub vendor: Vendor,
    /// Its version.
    pub version: Option<String>,
    /// GPUs, and parts of such.
    pub gpus: Vec<Gpu>,
    /// Device nodes that each GPU needs.
    pub nodes: Vec<PathBuf>,
    /// Libraries.
    pub libraries: Vec<Library>,
    /// Other files, directories and sockets, with the path in the container, and whether they are written to.
    pub files: Vec<(PathBuf, PathBuf, bool)>,
    /// Symbolic links of the container, path and target.
    pub links: Vec<(PathBuf, PathBuf)>,
    /// Variables.
    pub env: Vec<(String, String)>,
}

/// A GPU or a part of one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Gpu {
    /// Its number, `0`, or `0:1:0` for a part.
    pub name: String,
    /// Another name, which stays with it: `GPU-…`.
    pub uuid: Option<String>,
    /// Its nodes.
    pub nodes: Vec<PathBuf>,
}

/// A library.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Library {
    /// The file, links followed.
    pub path: PathBuf,
    /// The name by which programs need it.
    pub soname: String,
    /// Further names by which they look for it.
    pub also: Vec<String>,
}

/// Describes a driver; `None` when there is no GPU.
#[must_use]
pub fn describe(driver: &Driver) -> Option<Spec> {
    let mut devices: Vec<Device> = Vec::new();
    let mut all: Vec<DeviceNode> = Vec::new();
    for gpu in &driver.gpus {
        let nodes: Vec<DeviceNode> = gpu.nodes.iter().map(|path| node(path)).collect();
        all.extend(nodes.iter().filter(|node| !all.contains(node)).cloned().collect::<Vec<_>>());
        for name in [Some(&gpu.name), gpu.uuid.as_ref()].into_iter().flatten() {
            let valid = name::check_device(name).is_ok();
            if valid && !nodes.is_empty() && !devices.iter().any(|device| device.name == *name) {
                devices.push(device(name, nodes.clone()));
            }
        }
    }
    if devices.is_empty() {
        return None;
    }
    if !devices.iter().any(|device| device.name == name::ALL) {
        devices.push(device(name::ALL, all));
    }
    let mut spec =
        Spec { kind: driver.vendor.kind().to_owned(), devices, container_edits: common(driver), ..Spec::default() };
    // The oldest that has all that is used, so that older runtimes read it, too.
    spec.cdi_version = VERSIONS.get(spec.needed().0).map_or_else(String::new, |version| (*version).to_owned());
    Some(spec)
}

fn device(name: &str, device_nodes: Vec<DeviceNode>) -> Device {
    Device { name: name.to_owned(), container_edits: Edits { device_nodes, ..Edits::default() }, ..Device::default() }
}

fn node(path: &Path) -> DeviceNode {
    DeviceNode { path: path.display().to_string(), ..DeviceNode::default() }
}

fn mount(path: &Path, destination: &Path, written: bool) -> Mount {
    let first = if written { "rw" } else { "ro" };
    Mount {
        host_path: path.display().to_string(),
        container_path: destination.display().to_string(),
        options: std::iter::once(first).chain(SHARED).map(str::to_owned).collect(),
        ..Mount::default()
    }
}

/// What all devices need.
fn common(driver: &Driver) -> Edits {
    let mut edits = Edits {
        env: driver.env.iter().map(|(name, value)| format!("{name}={value}")).collect(),
        device_nodes: driver.nodes.iter().map(|path| node(path)).collect(),
        mounts: driver.files.iter().map(|(path, destination, written)| mount(path, destination, *written)).collect(),
        ..Edits::default()
    };
    if driver.vendor == Vendor::Nvidia {
        edits.mounts.extend(driver.libraries.iter().map(|library| mount(&library.path, &library.path, false)));
        edits.hooks = hooks(driver);
    } else {
        // There is no program that other runtimes could run for links: each name is a mount of its own.
        for library in &driver.libraries {
            let directory = library.path.parent().unwrap_or(Path::new("/"));
            let names = std::iter::once(&library.soname).chain(&library.also);
            edits.mounts.extend(names.map(|name| mount(&library.path, &directory.join(name), false)));
        }
    }
    edits
}

fn hooks(driver: &Driver) -> Vec<Hook> {
    let hook = |words: Vec<String>| Hook {
        hook_name: "createContainer".to_owned(),
        path: NVIDIA_HOOK.to_owned(),
        args: std::iter::once("nvidia-cdi-hook".to_owned()).chain(words).collect(),
        ..Hook::default()
    };
    let option =
        |name: &str, values: Vec<String>| values.into_iter().flat_map(|value| [name.to_owned(), value]).collect();
    let mut links: Vec<String> =
        driver.links.iter().map(|(path, target)| format!("{}::{}", target.display(), path.display())).collect();
    let mut folders = BTreeSet::new();
    for library in &driver.libraries {
        let directory = library.path.parent().unwrap_or(Path::new("/"));
        folders.insert(directory.display().to_string());
        let link = |name: &String| format!("{}::{}", library.soname, directory.join(name).display());
        links.extend(library.also.iter().filter(|name| **name != library.soname).map(link));
    }
    let with = |command: &str, options: Vec<String>| hook(std::iter::once(command.to_owned()).chain(options).collect());
    let mut hooks = Vec::new();
    if !links.is_empty() {
        hooks.push(with("create-symlinks", option("--link", links)));
    }
    if let Some(version) = &driver.version {
        hooks.push(with("enable-cuda-compat", vec![format!("--host-driver-version={version}")]));
    }
    if !folders.is_empty() {
        hooks.push(with("update-ldcache", option("--folder", folders.into_iter().collect())));
    }
    hooks.push(with("disable-device-node-modification", Vec::new()));
    hooks
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cdi::hooks::recognise;

    fn driver(vendor: Vendor) -> Driver {
        Driver {
            vendor,
            version: Some("550.54.14".into()),
            gpus: vec![
                Gpu { name: "0".into(), uuid: Some("GPU-1".into()), nodes: vec!["/dev/nvidia0".into()] },
                Gpu {
                    name: "1:0:0".into(),
                    uuid: None,
                    nodes: vec!["/dev/nvidia1".into(), "/dev/nvidia-caps/c".into()],
                },
            ],
            nodes: vec!["/dev/nvidiactl".into()],
            libraries: vec![Library {
                path: "/usr/lib64/libcuda.so.550.54.14".into(),
                soname: "libcuda.so.1".into(),
                also: vec!["libcuda.so".into()],
            }],
            files: vec![("/run/nvidia/socket".into(), "/run/nvidia/socket".into(), true)],
            links: Vec::new(),
            env: vec![("NVIDIA_VISIBLE_DEVICES".into(), "void".into())],
        }
    }

    #[test]
    fn what_is_written_is_valid_and_read_back() {
        for vendor in [Vendor::Nvidia, Vendor::Amd, Vendor::Intel] {
            let spec = describe(&driver(vendor)).unwrap();
            let text = serde_json::to_string_pretty(&spec).unwrap();
            let read = Spec::parse(text.as_bytes()).unwrap();
            assert_eq!(read, spec);
            assert_eq!(spec.cdi_version, "0.5.0", "for names that begin with a digit");
            let names: Vec<&str> = spec.devices.iter().map(|device| device.name.as_str()).collect();
            assert_eq!(names, ["0", "GPU-1", "1:0:0", "all"]);
            assert_eq!(spec.devices[3].container_edits.device_nodes.len(), 3);
            for hook in &spec.container_edits.hooks {
                recognise(hook).unwrap();
            }
            let has = |path: &str| spec.container_edits.mounts.iter().any(|mount| mount.container_path == path);
            assert_eq!(has("/usr/lib64/libcuda.so.1"), vendor != Vendor::Nvidia);
            assert_eq!(spec.container_edits.hooks.is_empty(), vendor != Vendor::Nvidia);
        }
        assert!(describe(&Driver { gpus: Vec::new(), ..driver(Vendor::Amd) }).is_none());
    }
}
