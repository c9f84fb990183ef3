//! Subordinate ids, with which `--fakeroot` gives files several owners. Most clusters have none, and need none.

use std::fs;
use std::path::Path;

use super::Check;
use crate::host::{accounts, programs};

pub(super) fn check() -> Vec<Check> {
    let name = "subordinate ids";
    let uid = nix::unistd::geteuid().as_raw();
    let user = fs::read("/etc/passwd").ok().and_then(|passwd| accounts::passwd_by_uid(&passwd, uid));
    let user = user.map(|account| account.name).or_else(|| std::env::var("USER").ok()).unwrap_or_default();
    let count = |file: &str| fs::read_to_string(file).map_or(0, |text| ids(&text, &user, uid));
    let (users, groups) = (count("/etc/subuid"), count("/etc/subgid"));
    let helpers = ["newuidmap", "newgidmap"].map(helper);
    vec![match (users > 0 && groups > 0, helpers) {
        (true, [Ok(()), Ok(())]) => Check::ok(name, format!("{users} users and {groups} groups for {user}")),
        (true, [Err(error), _] | [_, Err(error)]) => Check::degraded(
            name,
            format!("{users} users and {groups} groups for {user}, but {error}: --fakeroot maps nobody but root"),
            "install uidmap (Debian, Ubuntu) or shadow-utils (RHEL)",
        ),
        (false, _) if users != groups => Check::degraded(
            name,
            format!("{users} users and {groups} groups for {user}: --fakeroot maps nobody but root"),
            format!("as root: usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {user}"),
        ),
        (false, _) => Check::ok(name, "none: --fakeroot maps nobody but root, which is what most programs need"),
    }]
}

/// How many a file of ranges gives to a user.
fn ids(text: &str, user: &str, uid: u32) -> u64 {
    let range = |line: &str| {
        let mut fields = line.split(':');
        let owner = fields.next()?;
        let count: u64 = fields.nth(1)?.trim().parse().ok()?;
        (owner == user || owner.parse() == Ok(uid)).then_some(count)
    };
    text.lines().filter_map(range).sum()
}

/// Whether the program can map ids that are not the caller's: setuid, or by file capabilities.
fn helper(name: &str) -> Result<(), String> {
    let path = programs::find(name, &[]).ok_or_else(|| format!("{name} is not on PATH"))?;
    if is_privileged(&path) {
        Ok(())
    } else {
        Err(format!("{} is neither setuid nor has capabilities", path.display()))
    }
}

fn is_privileged(path: &Path) -> bool {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    let setuid = fs::metadata(path).is_ok_and(|status| status.permissions().mode() & 0o4000 != 0 && status.uid() == 0);
    let mut value = [0_u8; 64];
    setuid || rustix::fs::getxattr(path, c"security.capability", &mut value).is_ok_and(|length| length > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_count_by_name_and_by_id() {
        let text = "root:100000:65536\nme:165536:65536\n4242:300000:10\nme:x:y\nbroken\n";
        assert_eq!(ids(text, "me", 1), 65536);
        assert_eq!(ids(text, "me", 4242), 65546);
        assert_eq!(ids(text, "you", 1), 0);
    }
}
