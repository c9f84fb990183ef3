//! The host's MPI libraries and fast networks.

use std::fs;
use std::path::Path;

use coracle_mpi_hooks::files::HostFiles;
use coracle_mpi_hooks::libraries::Abi;
use coracle_mpi_hooks::mpi::{self, Search};
use nix::sys::resource::{Resource, getrlimit};

use super::Check;
use super::limits::Limit;

/// Locked memory below which registering buffers with a network card fails.
const LOCKED_LOW: u64 = 1 << 30;

pub(super) fn check() -> Vec<Check> {
    let fabrics = fabrics(Path::new("/"));
    let mut checks = vec![mpi(), network(&fabrics)];
    checks.extend(locked_memory(!fabrics.is_empty()));
    checks
}

fn mpi() -> Check {
    let variables: Vec<(String, String)> = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    let value = |name: &str| variables.iter().find(|(one, _)| one == name).map(|(_, value)| value.as_str());
    let found = mpi::find(&HostFiles::new("/"), &Search::of(Abi::OWN, value)).unwrap_or_default();
    let found: Vec<String> = found.iter().map(|mpi| format!("{mpi} for {}", mpi.interface)).collect();
    let found = if found.is_empty() { "none on the host".to_owned() } else { found.join(", ") };
    Check::ok("MPI", format!("{found}; programs use that of their image, see coracle mpi explain"))
}

/// Devices of fast networks.
fn fabrics(root: &Path) -> Vec<&'static str> {
    let has = |folder: &str, prefix: &str| {
        let entries = fs::read_dir(root.join(folder)).into_iter().flatten().flatten();
        entries.into_iter().any(|entry| entry.file_name().to_string_lossy().starts_with(prefix))
    };
    [
        ("InfiniBand or RoCE (/dev/infiniband)", has("dev/infiniband", "uverbs")),
        ("Slingshot (/dev/cxi*)", has("dev", "cxi")),
        ("Omni-Path (/dev/hfi1*)", has("dev", "hfi1")),
        ("XPMEM (/dev/xpmem)", has("dev", "xpmem")),
        ("KNEM (/dev/knem)", has("dev", "knem")),
    ]
    .into_iter()
    .filter_map(|(name, there)| there.then_some(name))
    .collect()
}

fn network(fabrics: &[&str]) -> Check {
    let found = if fabrics.is_empty() { "none".to_owned() } else { fabrics.join(", ") };
    Check::ok("fabric", found)
}

fn locked_memory(fabric: bool) -> Option<Check> {
    let name = "locked memory";
    let (soft, hard) = getrlimit(Resource::RLIMIT_MEMLOCK).ok()?;
    Some(if fabric && soft < LOCKED_LOW {
        Check::degraded(
            name,
            format!("{soft} bytes, at most {}: MPI over this fabric may fail to register memory", Limit(hard)),
            "ulimit -l unlimited; for jobs, LimitMEMLOCK=infinity of slurmd and PropagateResourceLimitsExcept=MEMLOCK",
        )
    } else if soft == libc::RLIM_INFINITY {
        Check::ok(name, "unlimited")
    } else {
        Check::ok(name, format!("{soft} bytes"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fabrics_are_told_by_their_devices() {
        let dir = tempfile::tempdir().unwrap();
        assert!(fabrics(dir.path()).is_empty());
        fs::create_dir_all(dir.path().join("dev/infiniband")).unwrap();
        fs::write(dir.path().join("dev/infiniband/rdma_cm"), "").unwrap();
        assert!(fabrics(dir.path()).is_empty(), "a connection manager alone is no card");
        fs::write(dir.path().join("dev/infiniband/uverbs0"), "").unwrap();
        fs::write(dir.path().join("dev/cxi0"), "").unwrap();
        assert_eq!(fabrics(dir.path()).len(), 2);
    }
}
