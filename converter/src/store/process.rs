//! Which process something belongs to, told in a way that every host that shares a directory can judge – or knows that
//! it cannot.

use crate::digest::Digest;
use std::fmt;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::str::FromStr;

/// A process of some host, written `HOST-NAMESPACE-PID-START` for use in file names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// 16 hexadecimal digits of a hash over host name and boot id. Cloned machines may share either.
    host: String,
    /// Inode of the PID namespace: equal names of hosts in different namespaces mean nothing to each other.
    namespace: u64,
    pid: i32,
    /// When it started, in the kernel's ticks since boot, since process ids come again.
    start: u64,
}

/// Text that is no [`Process`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Invalid;

impl Process {
    /// This one; of process 0, which nobody can judge, where `/proc` is missing or shows another namespace.
    pub fn own() -> Self {
        let pid = i32::try_from(std::process::id()).unwrap_or_default();
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let host = Digest::of(format!("{}\n{}", host_name(), boot.trim()).as_bytes()).hex()[..16].to_owned();
        let namespace = fs::metadata("/proc/self/ns/pid").map(|namespace| namespace.ino());
        let stat = fs::read_to_string("/proc/self/stat").ok().as_deref().and_then(Stat::parse);
        match (namespace, stat) {
            (Ok(namespace), Some(stat)) if stat.pid == pid && !boot.is_empty() => {
                Self { host, namespace, pid, start: stat.start }
            }
            _ => Self { host, namespace: 0, pid: 0, start: 0 },
        }
    }

    /// Whether it has certainly ended. A process of another host or namespace never has.
    pub fn is_gone(&self, own: &Self) -> bool {
        if self.pid <= 0 || own.pid == 0 || (&self.host, self.namespace) != (&own.host, own.namespace) {
            return false;
        }
        let Some(pid) = rustix::process::Pid::from_raw(self.pid) else { return false };
        // `/proc` may hide processes of other users; the kernel's answer to a signal does not.
        if rustix::process::test_kill_process(pid) == Err(rustix::io::Errno::SRCH) {
            return true;
        }
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid)).ok();
        stat.as_deref().and_then(Stat::parse).is_some_and(|stat| stat.start != self.start || stat.ended)
    }
}

impl fmt::Display for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{:x}-{}-{}", self.host, self.namespace, self.pid, self.start)
    }
}

impl FromStr for Process {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let mut parts = text.split('-');
        let mut next = || parts.next().ok_or(Invalid);
        let host = next()?.to_owned();
        let namespace = u64::from_str_radix(next()?, 16).map_err(|_| Invalid)?;
        let pid = next()?.parse().map_err(|_| Invalid)?;
        let start = next()?.parse().map_err(|_| Invalid)?;
        let hexadecimal = host.len() == 16 && host.bytes().all(|digit| digit.is_ascii_hexdigit());
        if hexadecimal && next().is_err() { Ok(Self { host, namespace, pid, start }) } else { Err(Invalid) }
    }
}

/// The host's name, for people.
pub fn host_name() -> String {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    name.trim().chars().filter(|c| !c.is_control()).take(64).collect()
}

/// What is of interest in `/proc/PID/stat`, proc_pid_stat(5).
struct Stat {
    pid: i32,
    /// A zombie or dead: its parent just has not asked yet.
    ended: bool,
    /// Field 22.
    start: u64,
}

impl Stat {
    fn parse(text: &str) -> Option<Self> {
        let (pid, _) = text.split_once(' ')?;
        // The command's name may hold anything, parentheses included.
        let (_, rest) = text.rsplit_once(") ")?;
        let mut fields = rest.split(' ');
        let state = fields.next()?;
        Some(Self { pid: pid.parse().ok()?, ended: matches!(state, "Z" | "X"), start: fields.nth(18)?.parse().ok()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn text_round_trips_and_other_text_is_refused() {
        let own = Process::own();
        assert_eq!(own.to_string().parse(), Ok(own.clone()));
        assert_ne!(own.pid, 0);
        for bad in ["", "-", "0123456789abcdef-1-2", "0123456789abcdef-1-2-3-4", "xyz-1-2-3", "0123456789abcdeg-1-2-3"]
        {
            assert_eq!(bad.parse::<Process>(), Err(Invalid), "{bad}");
        }
    }

    #[test]
    fn only_a_process_of_this_host_and_namespace_is_known_to_be_gone() {
        let own = Process::own();
        assert!(!own.is_gone(&own));
        let mut child = Command::new("sleep").arg("100").spawn().unwrap();
        let text = fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap();
        let start = Stat::parse(&text).unwrap().start;
        let process = Process { pid: child.id() as i32, start, ..own.clone() };
        assert!(!process.is_gone(&own));
        assert!(Process { start: start + 1, ..process.clone() }.is_gone(&own), "its id was given out again");
        child.kill().unwrap();
        while !process.is_gone(&own) {
            std::thread::yield_now();
        }
        child.wait().unwrap();
        assert!(process.is_gone(&own));
        assert!(!Process { namespace: 1, ..process.clone() }.is_gone(&own));
        assert!(!Process { host: "0123456789abcdef".into(), ..process.clone() }.is_gone(&own));
        assert!(!Process { pid: 0, ..process.clone() }.is_gone(&own));
        assert!(!process.is_gone(&Process { pid: 0, ..own }));
    }

    #[test]
    fn names_of_commands_do_not_confuse() {
        let stat = Stat::parse("7 (a) Z) 1 (b) S 1 7 7 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 4711 0").unwrap();
        assert_eq!((stat.pid, stat.ended, stat.start), (7, false, 4711));
        assert!(Stat::parse("7 (a) S 1").is_none() && Stat::parse("").is_none());
    }
}
