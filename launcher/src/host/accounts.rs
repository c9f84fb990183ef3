//! `passwd` and `group` lines: finding the caller's, and putting it into the image's files.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::path_from;

/// What a container gets that has no user database at all.
const DEFAULT_PASSWD: &[u8] = b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n";
/// Likewise for groups.
const DEFAULT_GROUP: &[u8] = b"root:x:0:\nnogroup:x:65534:\n";

/// A line of `/etc/passwd`, without the password.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    /// Login name.
    pub name: String,
    /// User id.
    pub uid: u32,
    /// Primary group id.
    pub gid: u32,
    /// Full name and the like.
    pub gecos: OsString,
    /// Home directory.
    pub home: PathBuf,
    /// Login shell.
    pub shell: PathBuf,
}

/// Finds a user in the content of a `passwd` file.
pub(crate) fn passwd_by_uid(content: &[u8], uid: u32) -> Option<Account> {
    content.split(|byte| *byte == b'\n').find_map(|line| {
        let fields: Vec<&[u8]> = line.split(|byte| *byte == b':').collect();
        let [name, _, id, gid, gecos, home, shell] = fields.as_slice() else { return None };
        (number(id)? == uid).then_some(())?;
        let shell = if shell.is_empty() { b"/bin/sh".as_slice() } else { shell };
        Some(Account {
            name: std::str::from_utf8(name).ok()?.to_owned(),
            uid,
            gid: number(gid)?,
            gecos: OsString::from_vec(gecos.to_vec()),
            home: path_from(home),
            shell: path_from(shell),
        })
    })
}

/// Finds a group's name in the content of a `group` file.
pub(super) fn group_by_gid(content: &[u8], gid: u32) -> Option<String> {
    content.split(|byte| *byte == b'\n').find_map(|line| {
        let mut fields = line.split(|byte| *byte == b':');
        let name = fields.next()?;
        (number(fields.nth(1)?)? == gid).then_some(())?;
        Some(std::str::from_utf8(name).ok()?.to_owned())
    })
}

/// The image's `passwd` file with the caller's entry in place of those that have its name or id.
#[must_use]
pub fn merge_passwd(image: Option<&[u8]>, account: &Account, home: &Path, shell: &Path) -> Vec<u8> {
    let field = |value: &[u8]| value.iter().map(|byte| if b":\n".contains(byte) { b'_' } else { *byte }).collect();
    let fields: [Vec<u8>; 7] = [
        field(account.name.as_bytes()),
        b"x".to_vec(),
        account.uid.to_string().into_bytes(),
        account.gid.to_string().into_bytes(),
        field(account.gecos.as_bytes()),
        field(home.as_os_str().as_bytes()),
        field(shell.as_os_str().as_bytes()),
    ];
    merge(image.unwrap_or(DEFAULT_PASSWD), &account.name, account.uid, &fields.join(&b':'))
}

/// The image's `group` file with the caller's group in place of those that have its name or id.
#[must_use]
pub fn merge_group(image: Option<&[u8]>, name: &str, gid: u32) -> Vec<u8> {
    merge(image.unwrap_or(DEFAULT_GROUP), name, gid, format!("{name}:x:{gid}:").as_bytes())
}

/// The image's `passwd` file with this root, unless it has one with this home directory already. Its shell is the image's if it
/// has one.
#[must_use]
pub fn with_root(image: Option<&[u8]>, root: &Account) -> Option<Vec<u8>> {
    let own = image.and_then(|image| passwd_by_uid(image, 0)).filter(|own| own.name == root.name);
    match own {
        Some(own) if own.home == root.home => None,
        Some(own) => Some(merge_passwd(image, root, &root.home, &own.shell)),
        None => Some(merge_passwd(image, root, &root.home, &root.shell)),
    }
}

/// An `nsswitch.conf` that has the C library look into the files, where the image's would not; `None` where it does.
#[must_use]
pub fn with_files(switch: &[u8]) -> Option<Vec<u8>> {
    let mut changed = false;
    let lines: Vec<Vec<u8>> = switch
        .split(|byte| *byte == b'\n')
        .map(|line| {
            let text = line.split(|byte| *byte == b'#').next().unwrap_or_default().trim_ascii();
            let Some(colon) = text.iter().position(|byte| *byte == b':') else { return line.to_vec() };
            let (name, sources) = (text[..colon].trim_ascii(), text[colon + 1..].trim_ascii());
            let mut words = sources.split(u8::is_ascii_whitespace);
            if !matches!(name, b"passwd" | b"group") || words.any(|word| matches!(word, b"files" | b"compat")) {
                return line.to_vec();
            }
            changed = true;
            [name, b": files ", sources].concat()
        })
        .collect();
    changed.then(|| lines.join(&b'\n'))
}

/// Puts `entry` where the first line was that has the name or the id, or at the end; drops the other such lines, since
/// look-ups by name and by id would give different answers.
fn merge(content: &[u8], name: &str, id: u32, entry: &[u8]) -> Vec<u8> {
    let mut merged = Vec::with_capacity(content.len() + entry.len() + 2);
    let mut placed = false;
    let mut put = |line: &[u8]| {
        merged.extend_from_slice(line);
        merged.push(b'\n');
    };
    for line in content.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        let mut fields = line.split(|byte| *byte == b':');
        let same_name = fields.next() == Some(name.as_bytes());
        let same_id = fields.nth(1).and_then(number) == Some(id);
        if !(same_name || same_id) {
            put(line);
        } else if !placed {
            put(entry);
            placed = true;
        }
    }
    if !placed {
        put(entry);
    }
    merged
}

fn number(field: &[u8]) -> Option<u32> {
    std::str::from_utf8(field).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &[u8] = b"root:x:0:0:root:/root:/bin/bash\nada:x:1000:100:Ada:/home/ada:/bin/zsh\nbad\n+::::::\n";

    fn ada() -> Account {
        passwd_by_uid(PASSWD, 1000).unwrap()
    }

    fn text(content: Vec<u8>) -> String {
        String::from_utf8(content).unwrap()
    }

    #[test]
    fn entries_are_found_by_id() {
        assert_eq!((ada().name.as_str(), ada().gid, ada().shell), ("ada", 100, "/bin/zsh".into()));
        assert_eq!(passwd_by_uid(PASSWD, 7), None);
        assert_eq!(passwd_by_uid(b"x:x:7:7::/:", 7).unwrap().shell, Path::new("/bin/sh"));
        assert_eq!(group_by_gid(b"a:x:1:\nb:x:22:u,v\n", 22).as_deref(), Some("b"));
        assert_eq!(group_by_gid(b"a:x:1:\nb:x:22:u,v\n", 2), None);
    }

    #[test]
    fn the_caller_replaces_namesakes_and_same_ids() {
        let merge = |image: &[u8]| text(merge_passwd(Some(image), &ada(), Path::new("/h"), Path::new("/bin/sh")));
        let line = "ada:x:1000:100:Ada:/h:/bin/sh\n";
        assert_eq!(merge(b"root:x:0:0::/:\n"), format!("root:x:0:0::/:\n{line}"));
        assert_eq!(merge(b"root:x:0:0::/:"), format!("root:x:0:0::/:\n{line}"), "no line end at the end of the file");
        let taken = b"ubuntu:x:1000:1000::/u:\nroot:x:0:0::/:\nada:x:5:5::/:\n";
        assert_eq!(merge(taken), format!("{line}root:x:0:0::/:\n"));
        assert!(text(merge_passwd(None, &ada(), Path::new("/h"), Path::new("/s"))).starts_with("root:x:0:0:"));
    }

    #[test]
    fn separators_in_values_cannot_forge_fields() {
        let merged = text(merge_passwd(Some(b""), &ada(), Path::new("/h:0\nroot2"), Path::new("/s")));
        assert_eq!(merged, "ada:x:1000:100:Ada:/h_0_root2:/s\n");
    }

    #[test]
    fn root_is_added_only_where_it_is_missing() {
        let root = |home: &str| Account { name: "root".into(), uid: 0, gid: 0, home: home.into(), ..ada() };
        assert_eq!(with_root(Some(PASSWD), &root("/root")), None);
        let moved = text(with_root(Some(b"root:x:0:0:r:/root:/bin/ash\n"), &root("/h")).unwrap());
        assert_eq!(moved, "root:x:0:0:Ada:/h:/bin/ash\n");
        assert_eq!(text(with_root(Some(b"x:x:5:5::/:/s\n"), &root("/root")).unwrap()).lines().count(), 2);
        assert!(with_root(None, &root("/root")).is_some());
    }

    #[test]
    fn files_are_looked_into_where_the_image_would_not() {
        let changed = |switch: &str| with_files(switch.as_bytes()).map(text);
        assert_eq!(changed("passwd: files sss\ngroup:\tcompat\n"), None);
        assert_eq!(changed("hosts: dns\n# passwd: sss\n"), None);
        assert_eq!(
            changed("passwd: sss # files\ngroup:   ldap\nhosts: dns\n").as_deref(),
            Some("passwd: files sss\ngroup: files ldap\nhosts: dns\n")
        );
    }

    #[test]
    fn groups_merge_likewise() {
        assert_eq!(text(merge_group(Some(b"users:x:100:\nads:x:9:\n"), "ads", 100)), "ads:x:100:\n");
        assert_eq!(text(merge_group(None, "ads", 100)), "root:x:0:\nnogroup:x:65534:\nads:x:100:\n");
    }
}
