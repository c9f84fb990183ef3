//! Mount options as words, and as the flags of `mount(2)`.

use std::fmt;

use nix::mount::MsFlags;

/// What the words mean.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Parsed {
    /// `bind` or `rbind`
    pub(super) bind: bool,
    /// `rbind`
    pub(super) recursive: bool,
    pub(super) flags: MsFlags,
    /// For the file system.
    pub(super) other: Vec<String>,
}

const FLAGS: [(&str, MsFlags); 10] = [
    ("ro", MsFlags::MS_RDONLY),
    ("nosuid", MsFlags::MS_NOSUID),
    ("nodev", MsFlags::MS_NODEV),
    ("noexec", MsFlags::MS_NOEXEC),
    ("sync", MsFlags::MS_SYNCHRONOUS),
    ("dirsync", MsFlags::MS_DIRSYNC),
    ("noatime", MsFlags::MS_NOATIME),
    ("nodiratime", MsFlags::MS_NODIRATIME),
    ("relatime", MsFlags::MS_RELATIME),
    ("strictatime", MsFlags::MS_STRICTATIME),
];
/// The opposite of a flag that an earlier word may have set.
const CLEARS: [(&str, MsFlags); 4] = [
    ("rw", MsFlags::MS_RDONLY),
    ("suid", MsFlags::MS_NOSUID),
    ("dev", MsFlags::MS_NODEV),
    ("exec", MsFlags::MS_NOEXEC),
];
/// All of the container's mounts receive the host's later mounts and pass none on, which serves who asks for these. Who
/// asks for `shared` would be deceived, so that is an unknown word.
const PROPAGATION: [&str; 4] = ["slave", "rslave", "private", "rprivate"];

pub(super) fn parse(words: &[String]) -> Parsed {
    let mut parsed = Parsed { bind: false, recursive: false, flags: MsFlags::empty(), other: Vec::new() };
    for word in words {
        let find = |table: &[(&str, MsFlags)]| table.iter().find(|(name, _)| name == word).map(|(_, flag)| *flag);
        if let Some(flag) = find(&FLAGS) {
            parsed.flags |= flag;
        } else if let Some(flag) = find(&CLEARS) {
            parsed.flags &= !flag;
        } else if word == "bind" || word == "rbind" {
            parsed.bind = true;
            parsed.recursive |= word == "rbind";
        } else if !PROPAGATION.contains(&word.as_str()) && word != "defaults" {
            parsed.other.push(word.clone());
        }
    }
    parsed
}

/// Writes flags as `, ro, nosuid`.
pub(super) struct Names(pub(super) MsFlags);

impl fmt::Display for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        FLAGS.iter().filter(|(_, flag)| self.0.contains(*flag)).try_for_each(|(name, _)| write!(f, ", {name}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_become_flags_and_data() {
        let words = ["rbind", "rslave", "ro", "nosuid", "rw", "size=1m", "mode=1777", "shared"].map(str::to_owned);
        let parsed = parse(&words);
        assert!(parsed.bind && parsed.recursive);
        assert_eq!(parsed.flags, MsFlags::MS_NOSUID, "the last of ro and rw counts");
        assert_eq!(parsed.other, ["size=1m", "mode=1777", "shared"]);
        assert_eq!(Names(MsFlags::MS_RDONLY | MsFlags::MS_NODEV).to_string(), ", ro, nodev");
    }
}
