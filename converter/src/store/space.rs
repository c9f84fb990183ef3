//! Room: what is free, and what the system says when nothing is.

use super::error::Error;
use coracle_squashfs::writer;
use rustix::io::Errno;
use std::io;
use std::path::Path;

/// Bytes that the caller may still write in the file system of `dir`, as far as the system tells: quotas are mostly
/// found out by writing.
///
/// # Errors
/// When the directory is not there.
pub fn free(dir: &Path) -> Result<u64, Error> {
    let system = rustix::fs::statvfs(dir).map_err(|error| Error::file("examine", dir)(error.into()))?;
    Ok(system.f_bavail.saturating_mul(system.f_frsize))
}

/// Says what to do when an error comes from a full file system or quota.
pub fn explained(error: Error, dir: &Path, written: u64) -> Error {
    if matches!(error, Error::Full { .. }) {
        return error;
    }
    match full(&error) {
        Some(quota) => Error::Full { dir: dir.into(), written, quota, source: Box::new(error) },
        None => error,
    }
}

/// Whether something is full (false) or a quota exceeded (true).
fn full(error: &(dyn std::error::Error + 'static)) -> Option<bool> {
    let mut next = Some(error);
    while let Some(error) = next {
        let writer = error.downcast_ref::<writer::Error>().and_then(|error| match error {
            writer::Error::Output { cause, .. } => Some(cause),
            _ => None,
        });
        let code = writer.or_else(|| error.downcast_ref::<io::Error>()).and_then(io::Error::raw_os_error);
        match code.map(Errno::from_raw_os_error) {
            Some(Errno::NOSPC) => return Some(false),
            Some(Errno::DQUOT) => return Some(true),
            _ => next = error.source(),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_file_systems_and_quotas_are_recognised_wherever_they_were_noticed() {
        let io = |errno: Errno| io::Error::from(errno);
        let dir = Path::new("/store");
        let file = |errno| Error::file("write", "/store/x")(io(errno));
        let sink = |errno| {
            let source = writer::Error::Output { action: "write", cause: io(errno) };
            Error::Convert(crate::Error::Write { path: "/store/x".into(), source })
        };
        for (error, quota) in [(file(Errno::NOSPC), false), (file(Errno::DQUOT), true), (sink(Errno::DQUOT), true)] {
            let error = explained(error, dir, 3 << 20);
            assert!(matches!(&error, Error::Full { quota: found, .. } if *found == quota), "{error:?}");
            let text = error.to_string();
            let reason = if quota { "quota is exceeded" } else { "file system is full" };
            assert!(text.contains(reason) && text.contains("3.0 MiB") && text.contains("coracle prune"), "{text}");
        }
        assert!(matches!(explained(sink(Errno::IO), dir, 0), Error::Convert(_)));
        assert!(free(Path::new("/")).is_ok() && free(Path::new("/nonexistent/x")).is_err());
    }
}
