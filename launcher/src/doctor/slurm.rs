//! The scheduler.

use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::process::{Command, Stdio};

use super::Check;
use crate::host::programs;

/// Where munged listens, by custom.
const MUNGE: [&str; 2] = ["/run/munge/munge.socket.2", "/var/run/munge/munge.socket.2"];

pub(super) fn check() -> Vec<Check> {
    let name = "Slurm";
    let srun = programs::find("srun", &[]);
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let job = variable("SLURM_JOB_ID").map(|job| match variable("SLURM_STEP_ID") {
        Some(step) => format!(", in job {job}, step {step}"),
        None => format!(", in job {job}"),
    });
    let Some(srun) = srun else {
        return vec![match job {
            Some(job) => Check::degraded(
                name,
                format!("srun is not on PATH{job}: steps cannot be started from here"),
                "load the site's Slurm module; inside a container, start steps from outside of it",
            ),
            None => Check::ok(name, "none"),
        }];
    };
    let version = version(&srun).unwrap_or_else(|| "srun does not tell its version".to_owned());
    let mut checks = vec![Check::ok(name, format!("{version}{}", job.unwrap_or_default()))];
    checks.extend(munge());
    checks
}

fn version(srun: &Path) -> Option<String> {
    let output = Command::new(srun).arg("--version").stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    text.lines().next().map(str::to_owned).filter(|line| !line.is_empty())
}

/// Slurm's usual way of saying who one is.
fn munge() -> Option<Check> {
    let name = "munge";
    let socket = MUNGE.iter().find(|path| Path::new(path).exists())?;
    let is_socket = std::fs::metadata(socket).is_ok_and(|status| status.file_type().is_socket());
    Some(match std::os::unix::net::UnixStream::connect(socket) {
        Ok(_) => Check::ok(name, format!("answers at {socket}")),
        Err(error) if is_socket => {
            Check::degraded(name, format!("{socket}: {error}: srun fails"), "as root: systemctl start munge")
        }
        Err(_) => Check::degraded(name, format!("{socket} is no socket"), "as root: systemctl restart munge"),
    })
}
