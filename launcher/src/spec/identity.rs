//! Who the program is: its ids, capabilities and filters, and what the container's user database says.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{
    LinuxCapabilities, LinuxCapabilitiesBuilder, LinuxIdMapping, LinuxIdMappingBuilder, LinuxSeccomp, User, UserBuilder,
};

use super::mounts::Mounts;
use super::{Error, FILE, ROOT_FILTER};
use crate::capabilities::CapabilitySet;
use crate::host::accounts::{self, Account};
use crate::host::{Host, SeccompFile};
use crate::ids::Range;
use crate::image::{Entry, Tree, locate};
use crate::options::{DefaultMount, Options};
use crate::seccomp::{self, Circumstances};

/// Root's home directory, and where the caller's is for a root of a container.
pub(super) const ROOT_HOME: &str = "/root";
/// Where apt looks for its settings.
const APT: &str = "/etc/apt/apt.conf.d";
/// Our file there.
const APT_FILE: &str = "/etc/apt/apt.conf.d/99coracle";
/// Our file where the host's settings are bound over the image's, and the variable by which apt finds it.
const APT_ASIDE: (&str, &str) = ("/.coracle/apt.conf", "APT_CONFIG");
/// What it is told: its downloads would else be made by a user that there is not.
const APT_SETTING: &str = "APT::Sandbox::User \"root\";\n";
/// Which sources the C library asks for names.
const SWITCH: &str = "/etc/nsswitch.conf";

/// The ids that the program starts with.
pub(super) fn user(host: &Host) -> Result<User, Error> {
    let (uid, gid) = host.ids.caller();
    Ok(UserBuilder::default().uid(uid).gid(gid).build()?)
}

/// The maps of a user namespace.
pub(super) fn mappings(ranges: &[Range]) -> Result<Vec<LinuxIdMapping>, Error> {
    let mapping = |range: &Range| {
        let builder = LinuxIdMappingBuilder::default().host_id(range.outside).container_id(range.inside);
        Ok(builder.size(range.length).build()?)
    };
    ranges.iter().map(mapping).collect()
}

/// The capabilities that a launch asks for: none for an ordinary user, all of the container's for its root.
pub(super) fn wanted(options: &Options) -> CapabilitySet {
    options.wanted_capabilities()
}

/// The sets of a process with these. Root gets what it may have with each program that it executes, others need the
/// ambient set for that.
pub(super) fn capabilities(set: CapabilitySet, host: &Host) -> Result<LinuxCapabilities, Error> {
    let kept = if host.ids.caller().0 == 0 { CapabilitySet::NONE } else { set };
    Ok(LinuxCapabilitiesBuilder::default()
        .bounding(set.to_spec())
        .effective(set.to_spec())
        .permitted(set.to_spec())
        .inheritable(kept.to_spec())
        .ambient(kept.to_spec())
        .build()?)
}

/// The caller's profile.
pub(super) fn profile(file: &SeccompFile, capabilities: CapabilitySet) -> Result<LinuxSeccomp, Error> {
    let around = Circumstances { capabilities, kernel: &file.kernel };
    Ok(seccomp::parse(&file.path, &file.content, around)?)
}

/// What lets a root that is alone install packages. `covered`: something is bound over the image's settings of apt.
pub(super) fn pretend(
    tree: &dyn Tree,
    options: &Options,
    host: &Host,
    covered: bool,
    env: &mut BTreeMap<OsString, OsString>,
    annotations: &mut HashMap<String, String>,
    warnings: &mut Vec<String>,
) -> Result<(), Error> {
    if !options.fakeroot || host.ids.is_full() {
        return Ok(());
    }
    if seccomp::root::available() {
        let profile = seccomp::root::profile(wanted(options) == CapabilitySet::ALL)?;
        // Its keys are in the order of the structure's fields, so the text is always the same.
        let text = serde_json::to_string(&profile).map_err(oci_spec::OciSpecError::SerDe)?;
        annotations.insert(ROOT_FILTER.to_owned(), text);
    } else {
        let processor = std::env::consts::ARCH;
        warnings.push(format!(
            "giving files to other users will fail: {processor} has no filter for it here; subordinate ids do without"
        ));
    }
    let file = if covered { APT_ASIDE.0 } else { APT_FILE };
    if left_out(options, file) {
        return Ok(());
    }
    if covered {
        env.entry(APT_ASIDE.1.into()).or_insert_with(|| file.into());
    } else if locate(tree, Path::new(APT))?.entry != Some(Entry::Directory) {
        return Ok(());
    }
    annotations.insert(format!("{FILE}{file}"), APT_SETTING.to_owned());
    Ok(())
}

/// Whether [`pretend`] has to give apt its setting in another way.
pub(super) fn covers_apt(mounts: &Mounts) -> bool {
    mounts.cover(Path::new(APT))
}

fn left_out(options: &Options, path: &str) -> bool {
    options.no_mount.contains(&DefaultMount::Path(PathBuf::from(path)))
}

/// `passwd` and `group` in which the program's user is known, and an `nsswitch.conf` by which they are read.
pub(super) fn account_files(
    tree: &dyn Tree,
    options: &Options,
    host: &Host,
    home: &Path,
    shell: &Path,
    annotations: &mut HashMap<String, String>,
) -> Result<(), Error> {
    let content = |path: &str| -> Result<Option<Vec<u8>>, Error> {
        let found = tree.content(&locate(tree, Path::new(path))?.path)?;
        Ok(found.filter(|content| !content.is_empty()))
    };
    let mut put = |path: &str, content: Vec<u8>| {
        annotations.insert(format!("{FILE}{path}"), String::from_utf8_lossy(&content).into_owned());
    };
    let (passwd, group) = ("/etc/passwd", "/etc/group");
    if !left_out(options, passwd) {
        let image = content(passwd)?;
        if !options.fakeroot {
            put(passwd, accounts::merge_passwd(image.as_deref(), &host.who.account, home, shell));
        } else if let Some(merged) = accounts::with_root(image.as_deref(), &root(home, shell)) {
            put(passwd, merged);
        }
    }
    if !left_out(options, group) {
        let image = content(group)?;
        if !options.fakeroot {
            let mut merged = accounts::merge_group(image.as_deref(), &host.who.group, host.gid);
            for (gid, name) in &host.who.groups {
                merged = accounts::merge_group(Some(&merged), name, *gid);
            }
            put(group, merged);
        } else if image.is_none() {
            put(group, accounts::merge_group(None, "root", 0));
        }
    }
    if !left_out(options, SWITCH)
        && let Some(switch) = content(SWITCH)?
        && let Some(changed) = accounts::with_files(&switch)
    {
        put(SWITCH, changed);
    }
    Ok(())
}

/// The container's root.
fn root(home: &Path, shell: &Path) -> Account {
    Account {
        name: "root".to_owned(),
        uid: 0,
        gid: 0,
        gecos: "root".into(),
        home: home.to_path_buf(),
        shell: shell.to_path_buf(),
    }
}

#[cfg(test)]
mod tests;
