//! The checks, in the order in which a launch needs what they check. Each runs in a child process, for a limited time.

use std::fs;
use std::io;
use std::time::Duration;

use super::attempt::{Outcome, attempt};
use super::{
    Check, Verdict, container, fabric, filesystems, gpu, groups, identity, kernel, limits, mounts, namespaces,
};
use super::{places, slurm, terminal};

/// Longer than a healthy file server takes for a few requests.
const PATIENCE: Duration = Duration::from_secs(5);

/// Some lines of the report that stand and fall together.
struct Group {
    /// The line that says so when the group did not come to an end.
    name: &'static str,
    /// What that means for images.
    lost: Verdict,
    check: fn() -> Vec<Check>,
    /// Cannot be told where there are no user namespaces.
    takes_user_namespace: bool,
}

impl Group {
    const fn new(name: &'static str, lost: Verdict, check: fn() -> Vec<Check>) -> Self {
        Self { name, lost, check, takes_user_namespace: false }
    }

    const fn within(self) -> Self {
        Self { takes_user_namespace: true, ..self }
    }

    fn run(&self, patience: Duration) -> Vec<Check> {
        let (found, remedy) = match attempt(patience, self.check) {
            Outcome::Done(checks) => return checks,
            Outcome::Late => (
                format!("no answer within {} s", patience.as_secs()),
                "find out which file system does not answer: stat the paths of df -a one by one",
            ),
            Outcome::Lost(text) => (
                format!("cannot be tried: {text}"),
                "a limit on processes or memory may be reached: ulimit -a, and the job's cgroup",
            ),
        };
        vec![Check { verdict: self.lost, ..Check::degraded(self.name, found, remedy) }]
    }
}

/// All groups.
const GROUPS: [Group; 16] = [
    Group::new("container", Verdict::Degraded, container::check),
    Group::new("kernel", Verdict::Broken, kernel::check),
    Group::new("user namespaces", Verdict::Broken, namespaces::user),
    Group::new("/dev/fuse", Verdict::Broken, filesystems::device),
    Group::new("FUSE mount", Verdict::Broken, filesystems::fuse).within(),
    Group::new("mounts", Verdict::Broken, mounts::check).within(),
    Group::new("namespaces", Verdict::Degraded, namespaces::others).within(),
    Group::new("overlay", Verdict::Degraded, filesystems::overlay).within(),
    Group::new("subordinate ids", Verdict::Degraded, identity::check),
    Group::new("limits", Verdict::Degraded, limits::check),
    Group::new("cgroup", Verdict::Degraded, groups::check),
    Group::new("home", Verdict::Degraded, places::home),
    Group::new("places", Verdict::Degraded, places::check),
    Group::new("GPU", Verdict::Degraded, gpu::check),
    Group::new("MPI", Verdict::Degraded, fabric::check),
    Group::new("Slurm", Verdict::Degraded, slurm::check),
];

pub(super) fn all() -> Vec<Check> {
    let mut checks: Vec<Check> = Vec::new();
    for group in &GROUPS {
        let without = |check: &Check| check.name == "user namespaces" && check.verdict == Verdict::Broken;
        if group.takes_user_namespace && checks.iter().any(without) {
            let found = "not tried, since it takes a user namespace";
            checks.push(Check { verdict: group.lost, ..Check::ok(group.name, found) });
        } else {
            checks.extend(group.run(PATIENCE));
        }
    }
    // It waits for nothing, and in a child the standard descriptors are not these.
    checks.push(terminal::check());
    checks
}

/// A launch error keeps its words but must pass through a pipe.
pub(super) fn in_words(error: impl std::fmt::Display) -> String {
    error.to_string()
}

/// What comes of a trial in a process of its own.
pub(super) fn trial(body: impl FnOnce() -> Result<(), String>) -> Result<(), String> {
    match attempt(PATIENCE, body) {
        Outcome::Done(result) => result,
        Outcome::Late => Err(format!("no answer within {} s", PATIENCE.as_secs())),
        Outcome::Lost(text) => Err(text),
    }
}

/// Launch errors carry their remedy after a semicolon.
pub(super) fn split_remedy(text: &str) -> (String, String) {
    match text.split_once("; ") {
        Some((error, remedy)) => (error.to_owned(), remedy.to_owned()),
        None => (text.to_owned(), "look for the security module that forbids it: dmesg, or journalctl -k".to_owned()),
    }
}

/// The number that a file of `/proc` or `/sys` holds.
pub(super) fn number(path: &str) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// Whether something is there, and if not, whether that is all there is to say.
pub(super) fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remedies_are_told_from_errors() {
        let (error, remedy) = split_remedy("cannot x: y; do z");
        assert_eq!((error.as_str(), remedy.as_str()), ("cannot x: y", "do z"));
        assert!(split_remedy("cannot x").1.contains("dmesg"));
    }

    #[test]
    fn what_does_not_answer_is_a_line_of_the_report() {
        let hang = || {
            std::thread::sleep(Duration::from_secs(60));
            Vec::new()
        };
        let checks = Group::new("home", Verdict::Degraded, hang).run(Duration::from_secs(1));
        assert_eq!((checks[0].name.as_ref(), checks[0].verdict), ("home", Verdict::Degraded));
        assert!(checks[0].found.contains("no answer within 1 s"));
    }
}
