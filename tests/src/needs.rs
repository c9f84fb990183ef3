//! What a test needs of the machine. A missing piece skips the test with a reason, and fails it under CI.

use std::path::{Path, PathBuf};

/// Something a test cannot do without.
#[derive(Clone, Copy, Debug)]
pub enum Need {
    /// A program on `PATH`, also looked for in the `sbin` directories.
    Tool(&'static str),
    /// Effective uid 0: device nodes, other owners, kernel mounts.
    Root,
    /// A `/dev/fuse` that the launching user may open.
    Fuse,
    /// The program to test: `CORACLE_BIN`, or one that cargo built before.
    Coracle,
    /// The standard test image; made when missing, which only root can.
    StandardImage,
    /// A GPU of NVIDIA's with its driver. The one thing that is skipped under CI, too.
    Gpu,
}

/// True when every need is met. Otherwise says what is missing; panics under `CI`, where nothing may be skipped.
#[must_use]
pub fn met(needs: &[Need]) -> bool {
    for need in needs {
        if let Err(reason) = check(*need) {
            let required = std::env::var_os("CI").is_some() && !matches!(need, Need::Gpu);
            assert!(!required, "a test may not be skipped under CI: {reason}");
            eprintln!("skipped: {reason}");
            return false;
        }
    }
    true
}

fn check(need: Need) -> Result<(), String> {
    match need {
        Need::Tool(name) => find_tool(name).map(drop).ok_or_else(|| format!("{name} is not installed")),
        Need::Root if is_root() => Ok(()),
        Need::Root => Err("needs root".into()),
        Need::Fuse => {
            let mode = std::fs::metadata("/dev/fuse").map_err(|error| format!("/dev/fuse: {error}"))?;
            let mode = std::os::unix::fs::PermissionsExt::mode(&mode.permissions());
            if mode & 0o006 == 0o006 {
                Ok(())
            } else {
                Err("/dev/fuse is not open to all; run scripts/setup.sh test".into())
            }
        }
        Need::Coracle => crate::process::coracle_binary().map(drop),
        Need::Gpu if Path::new("/dev/nvidiactl").exists() && find_tool("nvidia-smi").is_some() => Ok(()),
        Need::Gpu => Err("there is no NVIDIA GPU on this machine".into()),
        Need::StandardImage => crate::fixtures::standard_image().map(drop),
    }
}

/// True for effective uid 0.
#[must_use]
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Where a program lies.
#[must_use]
pub fn find_tool(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|folder| folder.join(name))
        .find(|file| is_program(file))
}

fn is_program(file: &Path) -> bool {
    std::fs::metadata(file)
        .is_ok_and(|meta| meta.is_file() && std::os::unix::fs::PermissionsExt::mode(&meta.permissions()) & 0o111 != 0)
}

/// Skips the rest of a test unless its needs are met.
#[macro_export]
macro_rules! needs {
    ($($need:expr),+ $(,)?) => {{
        #[allow(unused_imports)]
        use $crate::needs::Need::{Coracle, Fuse, Gpu, Root, StandardImage, Tool};
        if !$crate::needs::met(&[$($need),+]) {
            return;
        }
    }};
}
