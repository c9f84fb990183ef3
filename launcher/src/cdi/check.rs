//! What the specification demands of a file beyond its form.

use super::name;
use super::spec::{DeviceNode, Edits, Malformed, Spec};

/// Released versions of the specification, oldest first.
pub const VERSIONS: [&str; 10] =
    ["0.1.0", "0.2.0", "0.3.0", "0.4.0", "0.5.0", "0.6.0", "0.7.0", "0.8.0", "1.0.0", "1.1.0"];
/// The least that any file can have needed, as the reference implementation has it.
const EARLIEST: usize = 2;
/// Bytes of all annotations of a file or device, as Kubernetes bounds them.
const ANNOTATIONS_MAX: usize = 256 << 10;
/// Points of a container's life.
const HOOK_NAMES: [&str; 6] =
    ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"];

fn malformed<T>(text: impl Into<String>) -> Result<T, Malformed> {
    Err(Malformed(text.into()))
}

impl Spec {
    /// Checks names, versions and fields.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn check(&self) -> Result<(), Malformed> {
        let version = self.cdi_version.strip_prefix('v').unwrap_or(&self.cdi_version);
        let Some(position) = VERSIONS.iter().position(|known| *known == version) else {
            return malformed(format!(
                "cdiVersion {:?} is none that this program knows: 0.3.0 to 1.1.0",
                self.cdi_version
            ));
        };
        let Some((vendor, class)) = self.kind.split_once('/') else {
            return malformed(format!("kind {:?} is not of the form vendor.com/class", self.kind));
        };
        name::check_part(vendor).map_err(|reason| Malformed(format!("vendor {vendor:?} of the kind {reason}")))?;
        name::check_part(class).map_err(|reason| Malformed(format!("class {class:?} of the kind {reason}")))?;
        check_annotations(&self.annotations)?;
        check_edits(&self.container_edits)?;
        if self.devices.is_empty() {
            return malformed("it has no devices");
        }
        for (index, device) in self.devices.iter().enumerate() {
            let within = |error: Malformed| Malformed(format!("device {:?}: {error}", device.name));
            name::check_device(&device.name)
                .map_err(|reason| Malformed(format!("device {:?} {reason}", device.name)))?;
            check_annotations(&device.annotations).map_err(within)?;
            if device.container_edits.is_empty() {
                return malformed(format!("device {:?} has no containerEdits", device.name));
            }
            check_edits(&device.container_edits).map_err(within)?;
            if self.devices.iter().take(index).any(|other| other.name == device.name) {
                return malformed(format!("there are two devices {:?}", device.name));
            }
        }
        let (needed, why) = self.needed();
        if position < needed {
            let version = VERSIONS.get(needed).unwrap_or(&"");
            return malformed(format!("cdiVersion is {}, but {why} needs {version}", self.cdi_version));
        }
        Ok(())
    }

    /// The oldest version that has all that is used here, as a position in [`VERSIONS`], and what needs it.
    pub(super) fn needed(&self) -> (usize, &'static str) {
        let edits = || self.devices.iter().map(|device| &device.container_edits).chain([&self.container_edits]);
        let any = |uses: &dyn Fn(&Edits) -> bool| edits().any(uses);
        let newer_rdt =
            |edits: &Edits| edits.intel_rdt.as_ref().is_some_and(|rdt| rdt.schemata.is_some() || rdt.enable_monitoring);
        let annotated =
            || !self.annotations.is_empty() || self.devices.iter().any(|device| !device.annotations.is_empty());
        let digit = || self.devices.iter().any(|device| device.name.starts_with(|first: char| first.is_ascii_digit()));
        if any(&|edits| !edits.net_devices.is_empty()) {
            (9, "netDevices")
        } else if any(&newer_rdt) {
            (9, "intelRdt with schemata or enableMonitoring")
        } else if any(&|edits| edits.intel_rdt.is_some()) {
            (6, "intelRdt")
        } else if any(&|edits| !edits.additional_gids.is_empty()) {
            (6, "additionalGids")
        } else if annotated() {
            (5, "annotations")
        } else if self.vendor_and_class().1.contains('.') {
            (5, "a class with a dot")
        } else if digit() {
            (4, "a device name that begins with a digit")
        } else if any(&|edits| edits.device_nodes.iter().any(|node| !node.host_path.is_empty())) {
            (4, "hostPath of a device node")
        } else if any(&|edits| edits.mounts.iter().any(|mount| !mount.kind.is_empty())) {
            (3, "type of a mount")
        } else {
            (EARLIEST, "the specification")
        }
    }
}

fn check_annotations(annotations: &std::collections::BTreeMap<String, String>) -> Result<(), Malformed> {
    let bytes: usize = annotations.iter().map(|(name, value)| name.len() + value.len()).sum();
    if bytes > ANNOTATIONS_MAX {
        return malformed("its annotations have more than 256 KiB");
    }
    let wrong = annotations.keys().find(|name| !name::is_annotation(name));
    wrong.map_or(Ok(()), |name| malformed(format!("annotation {name:?} has a name that none may have")))
}

fn check_env(env: &[String]) -> Result<(), Malformed> {
    let wrong = env.iter().find(|setting| setting.find('=').is_none_or(|at| at == 0));
    wrong.map_or(Ok(()), |setting| malformed(format!("env {setting:?} is not of the form NAME=value")))
}

fn check_edits(edits: &Edits) -> Result<(), Malformed> {
    check_env(&edits.env)?;
    edits.device_nodes.iter().try_for_each(check_node)?;
    for hook in &edits.hooks {
        if !HOOK_NAMES.contains(&hook.hook_name.as_str()) {
            return malformed(format!("hookName {:?} is none of {}", hook.hook_name, HOOK_NAMES.join(", ")));
        }
        if !hook.path.starts_with('/') {
            return malformed(format!("path {:?} of a hook is not absolute", hook.path));
        }
        check_env(&hook.env)?;
        if hook.timeout.is_some_and(|seconds| seconds <= 0) {
            return malformed(format!("timeout of the hook {} is not above 0", hook.path));
        }
    }
    for mount in &edits.mounts {
        if mount.host_path.is_empty() {
            return malformed(format!("the mount on {:?} has an empty hostPath", mount.container_path));
        }
        if mount.container_path.is_empty() {
            return malformed(format!("the mount of {:?} has an empty containerPath", mount.host_path));
        }
    }
    if let Some(id) = edits.intel_rdt.as_ref().map(|rdt| rdt.clos_id.as_str())
        && id != "/"
        && (id.len() >= 4096 || id == "." || id == ".." || id.contains(['/', '\n']))
    {
        return malformed(format!("closID {id:?} of intelRdt is no name of a class"));
    }
    for (index, device) in edits.net_devices.iter().enumerate() {
        if device.host_interface_name.is_empty() || device.name.is_empty() {
            return malformed("a netDevice has an empty name");
        }
        let twice = edits
            .net_devices
            .iter()
            .take(index)
            .any(|other| other.host_interface_name == device.host_interface_name || other.name == device.name);
        if twice {
            return malformed(format!("the netDevice {:?} comes a second time", device.host_interface_name));
        }
    }
    Ok(())
}

fn check_node(node: &DeviceNode) -> Result<(), Malformed> {
    if node.path.is_empty() {
        return malformed("a device node has an empty path");
    }
    if !["", "b", "c", "u", "p"].contains(&node.kind.as_str()) {
        return malformed(format!("type {:?} of {} is none of b, c, u, p", node.kind, node.path));
    }
    if node.permissions != "none" && node.permissions.contains(|letter| !"rwm".contains(letter)) {
        return malformed(format!("permissions {:?} of {} are none of r, w, m", node.permissions, node.path));
    }
    Ok(())
}
