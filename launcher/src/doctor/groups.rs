//! Control groups: which version, what this process's group allows, and whether the user may make groups in it.

use std::fs;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, access};

use super::Check;
use super::checks::number;

/// Processes below which a launch and its server, and the threads of real programs, run into the limit.
const FEW: u64 = 64;
/// Where the file systems are by custom.
const ROOT: &str = "/sys/fs/cgroup";

pub(super) fn check() -> Vec<Check> {
    let Ok(own) = fs::read_to_string("/proc/self/cgroup") else {
        return vec![Check::ok("cgroup", "none")];
    };
    let Some((version, group)) = group(&own, Path::new(ROOT)) else {
        let remedy = "mount /sys/fs/cgroup; limits of a job then show";
        return vec![Check::degraded("cgroup", "not to be seen: limits and delegation are not known", remedy)];
    };
    vec![delegation(version, &group), processes(&own, version, &group), memory(&own, version, &group)]
}

/// Version and directory of the group that this process is in.
fn group(own: &str, root: &Path) -> Option<(u8, PathBuf)> {
    let find = |controller: &str| own.lines().find_map(|line| path_of(line, controller));
    let second = find("").map(|path| [root.join(path), root.join("unified").join(path)]);
    if let Some(directory) = second.into_iter().flatten().find(|path| path.join("cgroup.controllers").exists()) {
        // With the controllers elsewhere the first version decides.
        if find("pids").is_none() && find("memory").is_none() {
            return Some((2, directory));
        }
    }
    let path = find("pids")?;
    Some((1, root.join("pids").join(path)))
}

/// The path of a line of `/proc/self/cgroup`, relative, if it is that of the controller.
fn path_of<'a>(line: &'a str, controller: &str) -> Option<&'a str> {
    let mut fields = line.splitn(3, ':');
    let (_, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
    let mut names = controllers.split(',');
    names.any(|name| name == controller).then(|| path.trim_start_matches('/'))
}

fn delegation(version: u8, group: &Path) -> Check {
    let name = "cgroup";
    let writable =
        access(group, Access::WRITE_OK).is_ok() && access(group.join("cgroup.procs"), Access::WRITE_OK).is_ok();
    let controllers = fs::read_to_string(group.join("cgroup.controllers")).unwrap_or_default();
    match (version, writable) {
        (2, true) => Check::ok(name, format!("version 2, delegated: {}", controllers.trim())),
        // Coracle makes no groups: the scheduler's count.
        (2, false) => Check::ok(name, "version 2, not delegated: limits are those of the job"),
        _ => Check::ok(name, "version 1: limits are those of the job"),
    }
}

/// The smallest limit on the way up to the root, which is what counts.
fn smallest(group: &Path, file: &str) -> Option<(u64, PathBuf)> {
    group
        .ancestors()
        .take_while(|path| path.starts_with(ROOT))
        .filter_map(|path| {
            let limit = number(path.join(file).to_str()?)?;
            Some((limit, path.to_path_buf()))
        })
        .min()
}

fn processes(own: &str, version: u8, group: &Path) -> Check {
    let name = "cgroup processes";
    let group = directory(own, version, group, "pids");
    match smallest(&group, "pids.max") {
        Some((limit, at)) => {
            let used = number(&at.join("pids.current").to_string_lossy()).unwrap_or_default();
            let found = format!("{used} of {limit} ({})", at.display());
            if limit.saturating_sub(used) < FEW {
                let remedy = "ask for more: TasksMax of systemd, --pids-limit of an outer container";
                Check::degraded(name, format!("{found}: launches may fail to start"), remedy)
            } else {
                Check::ok(name, found)
            }
        }
        None => Check::ok(name, "not limited"),
    }
}

fn memory(own: &str, version: u8, group: &Path) -> Check {
    let group = directory(own, version, group, "memory");
    let file = if version == 2 { "memory.max" } else { "memory.limit_in_bytes" };
    // The first version says "no limit" by a number near 2^63.
    let limit = smallest(&group, file).filter(|(limit, _)| *limit < 1 << 60);
    let found = limit.map(|(limit, at)| format!("{} ({})", crate::inspect::bytes(limit), at.display()));
    Check::ok("cgroup memory", found.unwrap_or_else(|| "not limited".to_owned()))
}

/// With the first version each controller has a tree of its own.
fn directory(own: &str, version: u8, group: &Path, controller: &str) -> PathBuf {
    let path = (version == 1).then(|| own.lines().find_map(|line| path_of(line, controller))).flatten();
    path.map_or_else(|| group.to_path_buf(), |path| Path::new(ROOT).join(controller).join(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_found_in_its_group() {
        assert_eq!(path_of("0::/user.slice/x", ""), Some("user.slice/x"));
        assert_eq!(path_of("4:cpu,cpuacct:/job", "cpuacct"), Some("job"));
        assert_eq!(path_of("4:cpu,cpuacct:/job", "pids"), None);
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("a/b")).unwrap();
        fs::write(dir.path().join("a/b/cgroup.controllers"), "pids").unwrap();
        assert_eq!(group("0::/a/b\n", dir.path()), Some((2, dir.path().join("a/b"))));
        let hybrid = "8:pids:/job\n0::/a/b\n";
        assert_eq!(group(hybrid, dir.path()), Some((1, dir.path().join("pids/job"))));
        assert_eq!(group("0::/elsewhere\n", dir.path()), None);
    }
}
