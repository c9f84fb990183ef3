//! Whom the caller may be in a container: itself, root, or root with the subordinate ids that `/etc/subuid` and
//! `/etc/subgid` grant.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::{Identification, group_names, identify, programs, value};
use crate::ids::{Ids, Range};
use crate::options::Options;

/// Lines that the kernel takes in a map (`UID_GID_MAP_MAX_EXTENTS`).
const RANGES_MAX: usize = 340;
/// Where the programs are that write maps, if not on the caller's `PATH`.
const PLACES: [&str; 4] = ["/usr/bin", "/bin", "/usr/sbin", "/usr/local/bin"];
/// Writes maps of users.
pub(crate) const MAP_USERS: &str = "newuidmap";
/// Writes maps of groups.
pub(crate) const MAP_GROUPS: &str = "newgidmap";
/// Lists what is granted, where that is not in the files alone.
const LIST: &str = "getsubids";

/// First ids and numbers of ids.
type Granted = Vec<(u32, u32)>;

/// The caller, and whom the container shall know.
#[derive(Clone, Debug)]
pub struct Caller {
    /// The maps to ask for.
    pub ids: Ids,
    /// The caller as the databases know it, if that had to be looked up for the maps.
    pub who: Option<Identification>,
    /// What will not be as asked for, a sentence each.
    pub warnings: Vec<String>,
}

impl Caller {
    /// Decides for this process. Without options for it, nothing is looked at.
    #[must_use]
    pub fn new(options: &Options) -> Self {
        let (uid, gid) = (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw());
        let mut caller = Self { ids: Ids::own(uid, gid), who: None, warnings: Vec::new() };
        if options.fakeroot {
            caller.ids = Ids::root(uid, gid);
            if helper(MAP_USERS).is_some() && helper(MAP_GROUPS).is_some() {
                let (users, groups) = caller.granted(uid, gid);
                // Users without groups, or the other way round, are no system on which a package could be installed.
                if !users.is_empty() && !groups.is_empty() {
                    extend(&mut caller.ids.users, &users);
                    extend(&mut caller.ids.groups, &groups);
                }
            }
        } else if options.map_groups {
            caller.map_groups(uid, gid);
        }
        caller
    }

    /// What users and groups the caller is granted.
    fn granted(&mut self, uid: u32, gid: u32) -> (Granted, Granted) {
        let read = |path: &str| fs::read(path).unwrap_or_default();
        let (users, groups) = (read("/etc/subuid"), read("/etc/subgid"));
        let elsewhere = asks_elsewhere(&read("/etc/nsswitch.conf")).then(|| helper(LIST)).flatten();
        if users.is_empty() && groups.is_empty() && elsewhere.is_none() {
            return (Vec::new(), Vec::new());
        }
        let env: Vec<_> = std::env::vars_os().collect();
        let who = self.who.insert(identify(uid, gid, value(&env, "USER"), value(&env, "HOME")));
        let name = &who.account.name;
        if let Some(list) = elsewhere {
            return (listed(&list, &[name]), listed(&list, &["-g", name]));
        }
        (ranges(&users, name, uid), ranges(&groups, name, uid))
    }

    fn map_groups(&mut self, uid: u32, gid: u32) {
        let others = supplementary(gid);
        if others.is_empty() {
            return;
        }
        let (_, granted) = self.granted(uid, gid);
        let allowed: Vec<u32> =
            others.iter().copied().filter(|group| granted.iter().any(|range| contains(*range, *group))).collect();
        let list = |groups: &[u32]| groups.iter().map(u32::to_string).collect::<Vec<_>>().join(", ");
        if allowed.is_empty() {
            self.warnings.push(format!(
                "cannot map the supplementary groups {}: /etc/subgid does not grant them to you; \
                 they show as nogroup in the container, but files are accessible by them",
                list(&others)
            ));
        } else if helper(MAP_GROUPS).is_none() {
            self.warnings.push(format!(
                "cannot map the supplementary groups {}: {MAP_GROUPS} is not installed on this host (package uidmap or shadow-utils)",
                list(&allowed)
            ));
        } else {
            if let Some(who) = &mut self.who {
                who.groups = group_names(&allowed);
            }
            self.ids.groups.extend(allowed.into_iter().take(RANGES_MAX - 1).map(|group| Range::one(group, group)));
        }
    }
}

/// The caller's groups besides its own, sorted.
fn supplementary(gid: u32) -> Vec<u32> {
    let groups = nix::unistd::getgroups().unwrap_or_default();
    let mut others: Vec<u32> = groups.into_iter().map(nix::unistd::Gid::as_raw).filter(|other| *other != gid).collect();
    others.sort_unstable();
    others.dedup();
    others
}

fn contains((start, count): (u32, u32), id: u32) -> bool {
    Range { inside: 0, outside: start, length: count }.covers(id)
}

/// The ranges that a file of subordinate ids grants to a user, by name or by number (subuid(5)).
fn ranges(content: &[u8], name: &str, uid: u32) -> Granted {
    let text = String::from_utf8_lossy(content);
    let uid = uid.to_string();
    let range = |line: &str| {
        let mut fields = line.trim().split(':');
        let (owner, start, count) = (fields.next()?, fields.next()?.parse().ok()?, fields.next()?.parse::<u32>().ok()?);
        ((owner == name || owner == uid) && count > 0).then_some((start, count))
    };
    text.lines().filter_map(range).collect()
}

/// Whether others than the files grant ids (nsswitch.conf, `subid`).
fn asks_elsewhere(switch: &[u8]) -> bool {
    let text = String::from_utf8_lossy(switch);
    let sources = text.lines().find_map(|line| line.split('#').next()?.trim().strip_prefix("subid:"));
    sources.is_some_and(|sources| sources.split_whitespace().any(|source| source != "files"))
}

/// What the system's own program says is granted.
fn listed(program: &Path, arguments: &[&str]) -> Granted {
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).stderr(Stdio::null()).output();
    output.map(|output| listing(&String::from_utf8_lossy(&output.stdout))).unwrap_or_default()
}

/// Reads lines such as `0: ada 100000 65536`.
fn listing(text: &str) -> Granted {
    let range = |line: &str| {
        let mut words = line.split_whitespace().skip(2);
        Some((words.next()?.parse().ok()?, words.next()?.parse().ok().filter(|count| *count > 0)?))
    };
    text.lines().filter_map(range).collect()
}

/// Puts what is granted after the caller's id, one after the other, from 1 on.
fn extend(map: &mut Vec<Range>, granted: &[(u32, u32)]) {
    let own: Vec<Range> = map.clone();
    let mut next = 1_u32;
    for (start, count) in granted.iter().copied().take(RANGES_MAX - own.len()) {
        // The kernel takes no id twice, and none beyond the last but one.
        let end = u64::from(start) + u64::from(count);
        let twice = own.iter().any(|range| contains((start, count), range.outside))
            || map.iter().any(|range| range.covers(start) || contains((start, count), range.outside));
        let room = (u32::MAX - 1).saturating_sub(next);
        if twice || end > u64::from(u32::MAX) || count > room {
            continue;
        }
        map.push(Range { inside: next, outside: start, length: count });
        next += count;
    }
}

/// Where a program is that writes maps.
pub(crate) fn helper(name: &str) -> Option<PathBuf> {
    programs::find(name, &PLACES)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SUBUID: &[u8] = b"# ours\nada:100000:65536\n1000:300000:10\nbob:1:2\nada:bad:1\nada:5:0\n";

    #[test]
    fn ranges_are_found_by_name_and_by_number() {
        assert_eq!(ranges(SUBUID, "ada", 1000), [(100_000, 65536), (300_000, 10)]);
        assert_eq!(ranges(SUBUID, "bob", 7), [(1, 2)]);
        assert_eq!(ranges(SUBUID, "eve", 8), []);
    }

    #[test]
    fn a_directory_server_may_grant_them() {
        assert_eq!(listing("0: ada 100000 65536\n1: ada 7 1\nError fetching ranges\n"), [(100_000, 65536), (7, 1)]);
        assert!(asks_elsewhere(b"passwd: sss\nsubid:   sss\n"));
        assert!(!asks_elsewhere(b"subid: files\n") && !asks_elsewhere(b"# subid: sss\n") && !asks_elsewhere(b""));
    }

    #[test]
    fn the_container_counts_them_from_one() {
        let mut map = vec![Range::one(0, 1000)];
        extend(&mut map, &[(100_000, 65536), (300_000, 10)]);
        let one = |inside, outside, length| Range { inside, outside, length };
        assert_eq!(map, [Range::one(0, 1000), one(1, 100_000, 65536), one(65537, 300_000, 10)]);
    }

    #[test]
    fn what_the_kernel_would_refuse_is_left_out() {
        let mut map = vec![Range::one(0, 1000)];
        extend(&mut map, &[(900, 200), (2000, 10), (2005, 3), (1995, 100), (u32::MAX - 1, 5)]);
        assert_eq!(map, [Range::one(0, 1000), Range { inside: 1, outside: 2000, length: 10 }]);
    }
}
