//! Whose files are believed: what stands in one decides what a user runs.

use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::Error;

/// Others than the owner may write.
const WRITABLE: u32 = 0o022;
/// The kernel's own, where nobody chose another.
const OVERFLOW: u32 = 65534;

/// Who may own a file.
#[derive(Clone, Copy, Debug)]
pub(super) enum Owner {
    /// Root. Tests are their own root.
    Site(u32),
    /// The caller, or root.
    User,
}

impl Owner {
    /// Whether what the file says counts. The file should be open: what is looked at is then what will be read.
    pub(super) fn check(self, path: &Path, file: &Metadata) -> Result<(), Error> {
        let owner = file.uid();
        let caller = nix::unistd::geteuid().as_raw();
        let belongs = match self {
            Self::Site(root) => owner == root,
            Self::User => owner == caller || owner == 0,
        };
        let is_nobodys = || owner != 0 && owner == overflow() && is_without_root(caller);
        if !(belongs || is_nobodys()) {
            let path = path.to_path_buf();
            return Err(match self {
                Self::Site(_) => Error::SiteOwner { path, owner },
                Self::User => Error::UserOwner { path, owner },
            });
        }
        // What a link or a device would let others do is its file system's business.
        if file.mode() & WRITABLE != 0 {
            return Err(Error::Writable { path: path.to_path_buf(), mode: file.mode() & 0o7777 });
        }
        Ok(())
    }
}

fn overflow() -> u32 {
    let text = fs::read_to_string("/proc/sys/kernel/overflowuid").unwrap_or_default();
    text.trim().parse().unwrap_or(OVERFLOW)
}

/// In a user namespace the host's root is nobody: nested launches see the site's files so. Where another root than the caller
/// is mapped, that one is whom the files should belong to.
fn is_without_root(caller: u32) -> bool {
    fs::read_to_string("/proc/self/uid_map").is_ok_and(|map| shows_root_as_nobody(&map, caller))
}

fn shows_root_as_nobody(map: &str, caller: u32) -> bool {
    let mut lines = map.lines().map(|line| line.split_whitespace().filter_map(|word| word.parse::<u64>().ok()));
    let (mut all, mut root) = (false, false);
    while let Some([inside, outside, count]) =
        lines.next().and_then(|mut line| Some([line.next()?, line.next()?, line.next()?]))
    {
        root |= inside == 0 && count > 0;
        all |= inside == 0 && outside == 0 && count >= u64::from(u32::MAX);
    }
    !all && (!root || caller == 0)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn root_is_nobody_only_where_it_is_not_mapped() {
        assert!(!shows_root_as_nobody("         0          0 4294967295\n", 1000));
        assert!(shows_root_as_nobody("      1000       1000          1\n", 1000));
        assert!(shows_root_as_nobody("0 1000 1\n", 0));
        assert!(!shows_root_as_nobody("0 100000 65536\n", 1000));
        assert!(!shows_root_as_nobody("0 0 4294967295\n", 0));
    }

    #[test]
    fn owner_and_mode_are_looked_at() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        fs::write(&path, "").unwrap();
        let check = |owner: Owner, mode| {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            owner.check(&path, &fs::metadata(&path).unwrap()).map_err(|error| error.to_string())
        };
        let me = nix::unistd::geteuid().as_raw();
        assert_eq!(check(Owner::Site(me), 0o644), Ok(()));
        assert_eq!(check(Owner::User, 0o600), Ok(()));
        let text = check(Owner::Site(me), 0o664).unwrap_err();
        assert!(text.contains("mode 0664") && text.contains("chmod go-w"), "{text}");
        assert!(check(Owner::User, 0o602).is_err());
        let text = check(Owner::Site(me + 1), 0o644).unwrap_err();
        assert!(text.contains("chown root"), "{text}");
    }
}
