//! The directories of `--workdir`, made on the host. Others may be able to write to the place where they are: no link is followed in
//! it, and what was there before stays as it is.

use std::os::fd::OwnedFd;
use std::path::{Component, Path, PathBuf};

use anyhow::Context;
use rustix::fs::{Mode, OFlags, fchmod, fstat, mkdirat, open, openat};
use rustix::io::Errno;

const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// Makes `directories`, which are absolute and below `work`, with their modes.
pub(super) fn make(work: &Path, directories: &[(PathBuf, u32)]) -> anyhow::Result<()> {
    let work = std::path::absolute(work).with_context(|| format!("cannot use {} for --workdir", work.display()))?;
    let failed = || format!("cannot use {} for --workdir", work.display());
    let base = open(&work, DIRECTORY, Mode::empty()).with_context(failed)?;
    if fstat(&base).with_context(failed)?.st_uid != rustix::process::geteuid().as_raw() {
        anyhow::bail!("{}: it belongs to another user; use a directory of your own", failed());
    }
    for (path, mode) in directories {
        let below =
            path.strip_prefix(&work).with_context(|| format!("cannot make {} for --workdir", path.display()))?;
        make_one(&base, &work, below, *mode)?;
    }
    Ok(())
}

fn make_one(base: &OwnedFd, work: &Path, below: &Path, mode: u32) -> anyhow::Result<()> {
    let mut at = work.to_path_buf();
    let mut parent = None;
    let mut made = false;
    for part in below.components() {
        at.push(part);
        let failed = || format!("cannot make {} for --workdir", at.display());
        let Component::Normal(name) = part else { anyhow::bail!("{}: it is not below the directory", failed()) };
        let above = parent.as_ref().unwrap_or(base);
        made = match mkdirat(above, name, Mode::RWXU | Mode::from_raw_mode(0o055)) {
            Ok(()) => true,
            Err(Errno::EXIST) => false,
            Err(cause) => return Err(cause).with_context(failed),
        };
        let opened = openat(above, name, DIRECTORY | OFlags::NOFOLLOW, Mode::empty());
        parent = Some(match opened {
            Err(Errno::LOOP | Errno::NOTDIR) => {
                anyhow::bail!(
                    "{}: something is there that is no directory, and links are not followed there; remove it",
                    failed()
                )
            }
            opened => opened.with_context(failed)?,
        });
    }
    // The caller's umask has no say.
    if let (true, Some(last)) = (made, parent) {
        fchmod(&last, Mode::from_raw_mode(mode))
            .with_context(|| format!("cannot make {} for --workdir", at.display()))?;
    }
    Ok(())
}
