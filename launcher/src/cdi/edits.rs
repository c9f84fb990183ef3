//! Applies `containerEdits`: environment, device nodes, mounts and groups. Hooks are in [`super::native`].

use std::path::{Path, PathBuf};

use super::container::{Container, Shown};
use super::look::{Facts, Kind, Look};
use super::spec::{DeviceNode, Edits, Mount};
use super::{Error, Origin};

/// Words of mounts that say what is so anyway, or what no file system has acted on for long.
const NO_EFFECT: [&str; 13] = [
    "async",
    "atime",
    "defaults",
    "diratime",
    "loud",
    "silent",
    "nomand",
    "noiversion",
    "nolazytime",
    "norelatime",
    "nostrictatime",
    "symfollow",
    "rsymfollow",
];
/// Restrictions of everything below a mount, which is how a bind applies the plain ones anyway.
const RECURSIVE: [(&str, &str); 11] = [
    ("rro", "ro"),
    ("rrw", "rw"),
    ("rnosuid", "nosuid"),
    ("rsuid", "suid"),
    ("rnodev", "nodev"),
    ("rdev", "dev"),
    ("rnoexec", "noexec"),
    ("rexec", "exec"),
    ("rnoatime", "noatime"),
    ("rrelatime", "relatime"),
    ("rstrictatime", "strictatime"),
];

/// Applies the edits of one file or device, hooks left out.
pub(super) fn apply(
    container: &mut Container,
    edits: &Edits,
    origin: &Origin<'_>,
    host: &dyn Look,
    warnings: &mut Vec<String>,
) -> Result<(), Error> {
    if edits.intel_rdt.is_some() {
        return Err(
            origin.refuse("intelRdt, a class of cache and memory bandwidth, which only root can give a process")
        );
    }
    if let Some(device) = edits.net_devices.first() {
        let name = &device.host_interface_name;
        return Err(origin.refuse(&format!("netDevices, to move the network interface {name}, which only root can do")));
    }
    let groups = if edits.additional_gids.is_empty() { Vec::new() } else { host.groups() };
    if let Some(group) = edits.additional_gids.iter().find(|group| **group != 0 && !groups.contains(group)) {
        return Err(Error::Group { device: origin.device.to_owned(), path: origin.path.into(), group: *group });
    }
    for setting in &edits.env {
        let (name, value) = setting.split_once('=').unwrap_or((setting, ""));
        if !origin.set_by_caller.contains(&name) {
            container.set(name, value);
        }
    }
    for node in &edits.device_nodes {
        device(container, node, origin, host, warnings)?;
    }
    for one in &edits.mounts {
        mount(container, one, origin, host, warnings)?;
    }
    Ok(())
}

fn device(
    container: &mut Container,
    node: &DeviceNode,
    origin: &Origin<'_>,
    host: &dyn Look,
    warnings: &mut Vec<String>,
) -> Result<(), Error> {
    let path = Path::new("/").join(&node.path);
    let source = if node.host_path.is_empty() { path.clone() } else { Path::new("/").join(&node.host_path) };
    let missing = || Error::Missing {
        what: "device node",
        at: source.clone(),
        device: origin.device.to_owned(),
        path: origin.path.into(),
    };
    let facts = host.facts(&source).ok_or_else(missing)?;
    agrees(node, &source, facts, origin, warnings)?;
    match container.shown(&path) {
        // The host's own node, at its own place.
        Shown::Host(shown) if shown == source => return Ok(()),
        Shown::Host(shown) => match host.facts(&shown) {
            Some(there) if there.kind == facts.kind && there.device == facts.device => return Ok(()),
            Some(_) => {}
            None => {
                return Err(Error::NoPlace { at: path, device: origin.device.to_owned(), path: origin.path.into() });
            }
        },
        Shown::Fixed => {
            return Err(Error::NoPlace { at: path, device: origin.device.to_owned(), path: origin.path.into() });
        }
        Shown::Image | Shown::New => {}
    }
    let options = ["bind", "nosuid", "noexec"].map(str::to_owned).to_vec();
    container.mount("bind", &source, &path, options)?;
    Ok(())
}

/// Holds what the file says of a node against the node itself, which is what will be shown.
fn agrees(
    node: &DeviceNode,
    source: &Path,
    facts: Facts,
    origin: &Origin<'_>,
    warnings: &mut Vec<String>,
) -> Result<(), Error> {
    let is = match facts.kind {
        Kind::Char => "c",
        Kind::Block => "b",
        Kind::Fifo => "p",
        Kind::Directory | Kind::File => "no device",
    };
    let wanted = if node.kind == "u" { "c" } else { node.kind.as_str() };
    if is == "no device" || (!wanted.is_empty() && wanted != is) {
        return Err(Error::OtherType {
            at: source.to_path_buf(),
            wanted: if wanted.is_empty() { "a device".to_owned() } else { format!("type {wanted}") },
            found: is,
            device: origin.device.to_owned(),
            path: origin.path.into(),
        });
    }
    let mut differs = |what: &str, says: String, has: String| {
        warnings.push(format!(
            "{} says {what} {says} of {}, which has {has}: the host's own is shown",
            origin.path.display(),
            source.display()
        ));
    };
    let (major, minor) = (facts.device.0.cast_signed(), facts.device.1.cast_signed());
    if node.major != 0 && facts.kind != Kind::Fifo && (node.major, node.minor) != (major, minor) {
        differs("numbers", format!("{}:{}", node.major, node.minor), format!("{major}:{minor}"));
    }
    if let Some(mode) = node.file_mode.map(|mode| mode & 0o7777).filter(|mode| *mode != facts.mode) {
        differs("mode", format!("{mode:o}"), format!("{:o}", facts.mode));
    }
    for (what, says, has) in [("owner", node.uid, facts.uid), ("group", node.gid, facts.gid)] {
        if let Some(says) = says.filter(|says| *says != has) {
            differs(what, says.to_string(), has.to_string());
        }
    }
    let permits = |letter| node.permissions.is_empty() || node.permissions.contains(letter);
    if node.permissions == "none" || !permits('r') || !permits('w') {
        warnings.push(format!(
            "{} permits {} for {}, which takes a cgroup that only the administrator's programs set up: the rights of the host's own node count",
            origin.path.display(),
            node.permissions,
            source.display()
        ));
    }
    Ok(())
}

fn mount(
    container: &mut Container,
    mount: &Mount,
    origin: &Origin<'_>,
    host: &dyn Look,
    warnings: &mut Vec<String>,
) -> Result<(), Error> {
    let destination: PathBuf = Path::new("/").join(&mount.container_path).components().collect();
    let options = options(&mount.options);
    let is_bind = options.iter().any(|word| word == "bind" || word == "rbind");
    let (kind, source) = if is_bind || ["", "bind", "none", "rbind"].contains(&mount.kind.as_str()) {
        ("bind", Path::new("/").join(&mount.host_path))
    } else {
        (mount.kind.as_str(), PathBuf::from(&mount.host_path))
    };
    if kind == "bind" && host.facts(&source).is_none() {
        return Err(Error::Missing {
            what: "file or directory",
            at: source,
            device: origin.device.to_owned(),
            path: origin.path.into(),
        });
    }
    let replaced = container.mount(kind, &source, &destination, options)?;
    // The same device may come by two names; and the defaults give way without a word.
    let other = replaced.filter(|there| there.source().as_ref() != Some(&source));
    if let Some(there) = other.filter(|there| origin.bound_by_caller.iter().any(|bound| bound == there.destination())) {
        warnings.push(format!(
            "device {} mounts {} on {}, in place of what you bound there",
            origin.device,
            source.display(),
            there.destination().display()
        ));
    }
    Ok(())
}

fn options(words: &[String]) -> Vec<String> {
    let plain = |word: &String| {
        let known = RECURSIVE.iter().find(|(recursive, _)| recursive == word);
        known.map_or_else(|| word.clone(), |(_, plain)| (*plain).to_owned())
    };
    words.iter().filter(|word| !NO_EFFECT.contains(&word.as_str())).map(plain).collect()
}
