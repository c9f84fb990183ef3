//! NVIDIA's driver on Jetson boards: what lists of the board's system name, or all of its directory of libraries.

use std::path::{Path, PathBuf};

use super::{Device, Error, Found, HostFile, Layout, Library, Link, Node, Root, Wanted, libraries, library_of};
use crate::gpu::table::{self, Capability, Kind, Vendor, Whose};

/// Says which release of the board's system this is.
const RELEASE: &str = "/etc/nv_tegra_release";
/// Nodes where no list names them.
const NODES: [&str; 12] = [
    "/dev/nvhost-ctrl",
    "/dev/nvhost-ctrl-gpu",
    "/dev/nvhost-gpu",
    "/dev/nvhost-as-gpu",
    "/dev/nvhost-dbg-gpu",
    "/dev/nvhost-prof-gpu",
    "/dev/nvhost-tsg-gpu",
    "/dev/nvgpu",
    "/dev/nvmap",
    "/dev/nvsciipc",
    "/dev/dri",
    "/dev/host1x-fence",
];

pub(super) fn present(root: &Root) -> bool {
    root.has(Path::new(RELEASE)) && table::TEGRA_LIBRARIES.iter().any(|path| root.has(Path::new(path)))
}

pub(super) fn discover(root: &Root, wanted: &Wanted, known: &libraries::Known) -> Result<Found, Error> {
    let mut found = Found::new(Vendor::Nvidia, Layout::Tegra);
    found.driver_version = root.text(Path::new(RELEASE)).and_then(|text| release(&text));
    let mut listed = 0;
    for name in root.list(Path::new(table::TEGRA_LISTS)).iter().filter(|name| name.ends_with(".csv")) {
        let text = root.text(&Path::new(table::TEGRA_LISTS).join(name)).unwrap_or_default();
        for (kind, path) in text.lines().filter_map(line) {
            listed += 1;
            add(root, wanted, kind, &path, &mut found);
        }
    }
    if listed == 0 {
        for path in all_libraries(root) {
            add(root, wanted, "lib", &path, &mut found);
        }
        for path in NODES {
            add(root, wanted, "dev", Path::new(path), &mut found);
        }
    }
    // What the board shares with other systems: the loaders of OpenCL and OpenGL.
    known.find(root, wanted, table::NVIDIA_LIBRARIES, None, &mut found)?;
    if found.libraries.iter().all(|library| library.soname != "libcuda.so.1") {
        found.warnings.push("this Jetson has no libcuda.so.1 among its libraries".into());
    }
    Ok(found)
}

/// What is in the board's directories of libraries.
fn all_libraries(root: &Root) -> Vec<PathBuf> {
    let inside = |directory: &&str| {
        let directory = PathBuf::from(directory);
        root.list(&directory).into_iter().map(move |name| directory.join(name)).collect::<Vec<_>>()
    };
    table::TEGRA_LIBRARIES.iter().flat_map(inside).collect()
}

/// `R35.4.1` of `# R35 (release), REVISION: 4.1, GCID: …`.
fn release(text: &str) -> Option<String> {
    let words: Vec<&str> = text.split([' ', ',']).filter(|word| !word.is_empty()).collect();
    let major = words.iter().find(|word| {
        word.strip_prefix('R').is_some_and(|number| !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()))
    })?;
    let minor = words.iter().position(|word| *word == "REVISION:").and_then(|at| words.get(at + 1))?;
    Some(format!("{major}.{minor}"))
}

/// Kind and path of a line of a list.
fn line(line: &str) -> Option<(&str, PathBuf)> {
    let line = line.split('#').next()?.trim();
    let (kind, path) = line.split_once(',')?;
    let path = PathBuf::from(path.trim());
    path.is_absolute().then_some((kind.trim(), path))
}

fn add(root: &Root, wanted: &Wanted, kind: &str, path: &Path, found: &mut Found) {
    let Some(real) = root.real(path) else {
        found.notes.push(format!("left out {}: it is listed, but not there", path.display()));
        return;
    };
    match kind {
        "lib" => add_library(root, wanted, path, real, found),
        "dev" => {
            let reason = "listed by the board's system".to_owned();
            let node = Node { path: path.to_path_buf(), capability: Capability::Compute, reason, access: None };
            match found.devices.first_mut() {
                Some(gpu) => gpu.nodes.push(node),
                None => found.devices.push(Device { name: "0".into(), nodes: vec![node], ..Device::default() }),
            }
        }
        // Where the link leads is listed as well.
        "sym" => {
            let target = std::fs::read_link(root.at(path)).unwrap_or(real);
            found.links.push(Link { path: path.to_path_buf(), target, reason: "listed by the board's system".into() });
        }
        "dir" => found.files.push(file(path, real, Kind::Directory)),
        other => found.notes.push(format!("left out {}: {other} is no kind that is known", path.display())),
    }
}

fn file(path: &Path, real: PathBuf, kind: Kind) -> HostFile {
    HostFile {
        path: real,
        destination: path.to_path_buf(),
        kind,
        capability: Capability::Compute,
        group: None,
        reason: "listed by the board's system".into(),
        elf: None,
    }
}

fn add_library(root: &Root, wanted: &Wanted, path: &Path, real: PathBuf, found: &mut Found) {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    match library_of(root, &real, wanted.abi) {
        Ok(Some(elf)) => {
            let soname = elf.soname.clone().unwrap_or_else(|| name.clone());
            if let Some(same) = found.libraries.iter_mut().find(|library| library.path == real) {
                if same.soname != name && !same.also.contains(&name) {
                    same.also.push(name);
                }
                return;
            }
            if found.libraries.iter().any(|library| library.soname == soname) {
                return;
            }
            let also = if name == soname { Vec::new() } else { vec![name] };
            found.libraries.push(Library {
                path: real,
                essential: soname == "libcuda.so.1",
                soname,
                also,
                abi: wanted.abi,
                capability: Capability::Compute,
                whose: Whose::Host,
                group: None,
                version: None,
                reason: "part of the board's system".into(),
                elf,
            });
        }
        Ok(None) => found.notes.push(format!("left out {}: it is for another kind of machine", path.display())),
        // Firmware and settings lie among the libraries.
        Err(_) if root.at(&real).is_file() => found.files.push(file(path, real, Kind::Configuration)),
        Err(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_and_releases_are_read() {
        assert_eq!(line("lib, /usr/lib/x.so"), Some(("lib", PathBuf::from("/usr/lib/x.so"))));
        assert_eq!(line("# dev, /dev/x"), None);
        assert_eq!(line("dev, relative"), None);
        let text = "# R35 (release), REVISION: 4.1, GCID: 33958178, BOARD: t186ref, EABI: aarch64, DATE: Tue";
        assert_eq!(release(text).as_deref(), Some("R35.4.1"));
    }
}
