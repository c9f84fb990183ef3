//! Limits of the process.

use nix::sys::resource::{Resource, getrlimit};

use super::Check;

/// Descriptors and processes below which real programs run into limits.
const LOW: u64 = 1024;

pub(super) fn check() -> Vec<Check> {
    vec![
        limit("open files", Resource::RLIMIT_NOFILE, "raise it: ulimit -n, or LimitNOFILE of slurmd"),
        limit("processes", Resource::RLIMIT_NPROC, "raise it: ulimit -u, or /etc/security/limits.d"),
    ]
}

fn limit(name: &'static str, resource: Resource, remedy: &str) -> Check {
    match getrlimit(resource) {
        Ok((soft, hard)) if soft < LOW => Check::degraded(name, format!("{soft}, at most {}", Limit(hard)), remedy),
        Ok((soft, _)) => Check::ok(name, Limit(soft).to_string()),
        Err(error) => Check::ok(name, format!("unknown ({error})")),
    }
}

/// A limit in words.
pub(super) struct Limit(pub(super) u64);

impl std::fmt::Display for Limit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.0 == libc::RLIM_INFINITY { f.write_str("unlimited") } else { write!(f, "{}", self.0) }
    }
}
