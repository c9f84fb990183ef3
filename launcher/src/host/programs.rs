//! Programs of the host's that a launch or a check may need.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

/// Where a program lies: on the caller's `PATH`, or else in one of `places`.
pub(crate) fn find(name: &str, places: &[&str]) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let directories = std::env::split_paths(&path).chain(places.iter().map(PathBuf::from));
    directories.filter(|directory| directory.is_absolute()).map(|directory| directory.join(name)).find(|file| {
        std::fs::metadata(file).is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_programs_are_found() {
        assert_eq!(find("no-such-program", &["/usr/bin"]), None);
        assert_eq!(find("passwd", &["/etc"]).filter(|found| found.starts_with("/etc")), None, "a file is no program");
        assert_eq!(find("etc", &["/"]), None, "a directory is none");
        assert_eq!(find("exe", &["proc/self", "/proc/self"]), Some("/proc/self/exe".into()));
    }
}
