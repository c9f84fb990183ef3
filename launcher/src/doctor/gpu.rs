//! Graphics processors: their device nodes and drivers.

use std::fs;
use std::path::Path;

use super::Check;
use crate::gpu::discover::{Root, Wanted, discover};
use crate::gpu::table::Vendor;

/// Where device managers put what containers need (Container Device Interface).
const SPECIFICATIONS: [&str; 2] = ["etc/cdi", "var/run/cdi"];

pub(super) fn check() -> Vec<Check> {
    let root = Path::new("/");
    let mut checks: Vec<Check> = [nvidia(root), amd(root), intel(root)].into_iter().flatten().collect();
    if checks.is_empty() {
        return vec![Check::ok("GPU", "none")];
    }
    checks.push(specifications(root));
    checks
}

/// How many entries of a directory have names of a prefix and a number.
fn count(folder: &Path, prefix: &str) -> usize {
    let numbered = |name: &str| {
        name.strip_prefix(prefix).is_some_and(|rest| !rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_digit()))
    };
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.into_iter().filter(|entry| entry.file_name().to_str().is_some_and(numbered)).count()
}

fn first_line(path: &Path) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    text.lines().next().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
}

/// `option` is what brings the driver into containers.
fn found(
    name: &'static str,
    devices: usize,
    driver: Option<String>,
    (vendor, option): (Vendor, &str),
    root: &Path,
) -> Check {
    let driver = driver.unwrap_or_else(|| "driver unknown".to_owned());
    let found = format!("{devices} devices, {driver}");
    let drivers = match discover(&Root::new(root), &[vendor], &Wanted::default()) {
        Ok(drivers) => drivers,
        Err(error) => {
            let remedy = format!("without that, {option} fails; the devices are in containers anyway");
            return Check::degraded(name, format!("{found}: {error}"), remedy);
        }
    };
    match (drivers.iter().map(|driver| driver.libraries.len()).sum::<usize>(), vendor) {
        (0, Vendor::Nvidia) => {
            let remedy = format!(
                "as root: install the driver's libraries, and run ldconfig; {option} brings them into containers"
            );
            Check::degraded(name, format!("{found}, but none of its libraries"), remedy)
        }
        // All that programs need comes with images.
        (0, _) => Check::ok(name, format!("{found}: {option} brings the devices into containers")),
        (libraries, _) => {
            Check::ok(name, format!("{found}, {libraries} libraries: {option} brings them into containers"))
        }
    }
}

fn nvidia(root: &Path) -> Option<Check> {
    let name = "NVIDIA GPU";
    let devices = count(&root.join("dev"), "nvidia");
    let driver = first_line(&root.join("proc/driver/nvidia/version"));
    if devices == 0 && driver.is_none() {
        return None;
    }
    let dev = root.join("dev");
    let missing: Vec<&str> = ["nvidiactl", "nvidia-uvm"].into_iter().filter(|node| !dev.join(node).exists()).collect();
    Some(if devices == 0 || !missing.is_empty() {
        let missing = if devices == 0 { "nvidia0".to_owned() } else { missing.join(" and /dev/") };
        let remedy = "as root: nvidia-modprobe -u -c=0, or nvidia-persistenced; in a job, ask the scheduler for a GPU";
        Check::degraded(name, format!("{}, but no /dev/{missing}", driver.unwrap_or_default()), remedy)
    } else {
        found(name, devices, driver, (Vendor::Nvidia, "--nv"), root)
    })
}

fn amd(root: &Path) -> Option<Check> {
    let kfd = root.join("dev/kfd").exists();
    let version = first_line(&root.join("sys/module/amdgpu/version"));
    let module = root.join("sys/module/amdgpu").is_dir();
    (kfd || module).then(|| {
        let devices = count(&root.join("dev/dri"), "renderD");
        let driver = version.map_or_else(|| "amdgpu of the kernel".to_owned(), |version| format!("amdgpu {version}"));
        if kfd {
            found("AMD GPU", devices, Some(driver), (Vendor::Amd, "--rocm"), root)
        } else {
            Check::degraded("AMD GPU", format!("{driver}, but no /dev/kfd: no computing"), "as root: modprobe amdgpu")
        }
    })
}

fn intel(root: &Path) -> Option<Check> {
    let module = ["i915", "xe"].into_iter().find(|module| root.join("sys/module").join(module).is_dir())?;
    let devices = count(&root.join("dev/dri"), "renderD");
    let driver = first_line(&root.join("sys/module").join(module).join("version"));
    let driver = driver.map_or_else(|| format!("{module} of the kernel"), |version| format!("{module} {version}"));
    (devices > 0).then(|| found("Intel GPU", devices, Some(driver), (Vendor::Intel, "--intel"), root))
}

fn specifications(root: &Path) -> Check {
    let mut files = 0;
    for folder in SPECIFICATIONS {
        let entries = fs::read_dir(root.join(folder)).into_iter().flatten().flatten();
        let kinds = ["json", "yaml"];
        files += entries
            .into_iter()
            .filter(|entry| entry.path().extension().is_some_and(|kind| kinds.iter().any(|one| kind == *one)))
            .count();
    }
    let found = if files == 0 { "none".to_owned() } else { format!("{files} in /etc/cdi and /var/run/cdi") };
    Check::ok("CDI", found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Verdict;

    #[test]
    fn devices_are_told_by_their_nodes() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        let put = |path: &str, text: &str| {
            fs::create_dir_all(root.join(path).parent().unwrap()).unwrap();
            fs::write(root.join(path), text).unwrap();
        };
        assert!(nvidia(root).is_none() && amd(root).is_none() && intel(root).is_none());
        put("proc/driver/nvidia/version", "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15\nGCC\n");
        let without = nvidia(root).unwrap();
        assert!(without.found.contains("550.54.15, but no /dev/nvidia0"), "{without:?}");
        for node in ["nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm"] {
            put(&format!("dev/{node}"), "");
        }
        let with = nvidia(root).unwrap();
        assert!(with.found.starts_with("2 devices, NVRM") && with.found.contains("none of its libraries"), "{with:?}");
        assert_eq!(with.verdict, Verdict::Degraded);
        put("dev/kfd", "");
        put("dev/dri/renderD128", "");
        put("sys/module/amdgpu/version", "6.8.5\n");
        assert!(amd(root).unwrap().found.starts_with("1 devices, amdgpu 6.8.5"));
        put("etc/cdi/nvidia.yaml", "");
        put("etc/cdi/readme", "");
        assert!(specifications(root).found.starts_with("1 in"));
    }
}
