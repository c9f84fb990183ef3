//! Runs one command to its end: wall time and peak resident set, its descendants included.

use anyhow::{Context, Result, bail};
use std::io::{Read, Seek, SeekFrom};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

/// What one run cost.
#[derive(Clone, Copy, Debug)]
pub struct Cost {
    /// Wall time.
    pub seconds: f64,
    /// Largest resident set of any process of it that was waited for.
    pub peak_kib: u64,
}

/// Runs a command that must succeed. Its output is thrown away, save standard error, which a failure shows.
pub fn cost(command: &mut Command) -> Result<Cost> {
    let mut errors = tempfile::tempfile().context("make a file for the output")?;
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(errors.try_clone().context("share a file")?);
    let begun = Instant::now();
    let child = command.spawn().with_context(|| format!("start {command:?}"))?;
    let (status, peak_kib) = wait(&child)?;
    let seconds = begun.elapsed().as_secs_f64();
    if status != 0 {
        let mut text = String::new();
        errors.seek(SeekFrom::Start(0)).and_then(|_| errors.read_to_string(&mut text)).context("read the output")?;
        bail!("{command:?} failed: {}", text.trim_end());
    }
    Ok(Cost { seconds, peak_kib })
}

/// Runs a command that must succeed and returns its standard output.
pub fn output(command: &mut Command) -> Result<String> {
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("start {command:?}"))?;
    if !output.status.success() {
        bail!("{command:?} failed: {}", String::from_utf8_lossy(&output.stderr).trim_end());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[expect(unsafe_code, reason = "the standard library waits without telling the resources used")]
fn wait(child: &Child) -> Result<(i32, u64)> {
    let pid = libc::pid_t::try_from(child.id()).context("a process id")?;
    let mut status = 0;
    // SAFETY: rusage is plain integers, for which all zeros are valid.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    loop {
        // SAFETY: both pointers are to live locals, and the child is ours and not yet waited for.
        if unsafe { libc::wait4(pid, &raw mut status, 0, &raw mut usage) } == pid {
            return Ok((status, u64::try_from(usage.ru_maxrss).unwrap_or(0)));
        }
        let error = std::io::Error::last_os_error();
        if error.kind() != std::io::ErrorKind::Interrupted {
            return Err(error).context("wait for a command");
        }
    }
}

/// Drops page cache, dentries and inodes, so that the next read goes to the disk.
pub fn drop_caches() -> Result<()> {
    output(&mut Command::new("sync"))?;
    std::fs::write("/proc/sys/vm/drop_caches", "3").context("drop the caches, which needs root")
}
