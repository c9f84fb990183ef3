//! Namespaces of the container's own, and the files that have to agree with them.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use oci_spec::OciSpecError;
use oci_spec::runtime::{LinuxNamespaceBuilder, LinuxNamespaceType, Spec};

use super::mounts::Mounts;
use super::{INIT, MOUNTED_FILE, STAY};
use crate::host::Host;
use crate::options::{Namespaces, Options, Verb};

const HOSTS: &str = "/etc/hosts";
const HOSTNAME: &str = "/etc/hostname";
pub(super) const RESOLVER: &str = "/etc/resolv.conf";
/// More name servers the C library does not ask (`MAXNS` of resolv.conf(5)).
const SERVERS_MAX: usize = 3;
/// For hosts without such a file.
const LOCALHOST: &[u8] = b"127.0.0.1\tlocalhost\n::1\tlocalhost\n";
/// Where Debian has the name of a host whose address is not its own. Programs that look their own name up get an answer.
const OWN_ADDRESS: &str = "127.0.1.1";

/// Adds the namespaces to what was composed.
pub(super) fn apply(spec: &mut Spec, options: &Options) -> Result<(), OciSpecError> {
    spec.set_hostname(options.hostname.clone());
    let own = options.namespaces;
    if own == Namespaces::default() && options.hostname.is_none() {
        return Ok(());
    }
    let kinds = [
        (own.pid, LinuxNamespaceType::Pid),
        (own.ipc, LinuxNamespaceType::Ipc),
        // A profile may name the host and nothing else.
        (own.uts || options.hostname.is_some(), LinuxNamespaceType::Uts),
        (own.net, LinuxNamespaceType::Network),
    ];
    if let Some(linux) = spec.linux_mut() {
        let mut namespaces = linux.namespaces().clone().unwrap_or_default();
        for (_, kind) in kinds.into_iter().filter(|(asked, _)| *asked) {
            namespaces.push(LinuxNamespaceBuilder::default().typ(kind).build()?);
        }
        linux.set_namespaces(Some(namespaces));
    }
    Ok(())
}

/// Notes what the specification has no field for.
pub(super) fn annotate(
    verb: &Verb,
    options: &Options,
    host: &Host,
    mounts: &Mounts,
    annotations: &mut HashMap<String, String>,
) {
    if options.namespaces.pid && !options.no_init {
        annotations.insert(INIT.to_owned(), true.to_string());
    }
    if *verb == Verb::Stay {
        annotations.insert(STAY.to_owned(), true.to_string());
    }
    for (path, content) in files(options, host, mounts) {
        annotations.insert(format!("{MOUNTED_FILE}{path}"), content);
    }
}

/// Whether `path` is generated for this launch, so that the host's is not shown.
pub(super) fn generates(options: &Options, path: &Path) -> bool {
    (path == Path::new(RESOLVER) && !options.dns.is_empty()) || (path == Path::new(HOSTS) && options.hostname.is_some())
}

/// A warning, when there are more name servers than programs will ask.
pub(super) fn warning(options: &Options) -> Option<String> {
    let (given, rest) = (options.dns.len(), options.dns.get(SERVERS_MAX..)?);
    let first = rest.first()?;
    Some(format!("{given} name servers are given: most programs ask the first {SERVERS_MAX} only, and not {first}"))
}

fn files(options: &Options, host: &Host, mounts: &Mounts) -> Vec<(&'static str, String)> {
    let mut files = Vec::new();
    // What the caller binds there wins.
    if !options.dns.is_empty() && !mounts.has(Path::new(RESOLVER)) {
        let lines = options.dns.iter().map(|address| format!("nameserver {address}\n"));
        files.push((RESOLVER, lines.collect()));
    }
    let etc = mounts.has(Path::new("/etc"));
    if let Some(name) = options.hostname.as_ref().filter(|_| !etc) {
        if !mounts.has(Path::new(HOSTS)) {
            files.push((HOSTS, with_name(host.hosts.as_deref().unwrap_or(LOCALHOST), name)));
        }
        if !mounts.has(Path::new(HOSTNAME)) {
            files.push((HOSTNAME, format!("{name}\n")));
        }
    }
    files
}

/// The content of a `hosts` file in which `name` has an address.
fn with_name(hosts: &[u8], name: &str) -> String {
    let mut text = String::from_utf8_lossy(hosts).into_owned();
    let words = |line: &str| line.split('#').next().unwrap_or_default().split_whitespace().skip(1).any(|w| w == name);
    if !text.lines().any(words) {
        if !text.is_empty() && !text.ends_with('\n') {
            text.push('\n');
        }
        let short = name.split_once('.').map(|(short, _)| format!(" {short}")).unwrap_or_default();
        text.push_str(&format!("{OWN_ADDRESS}\t{name}{short}\n"));
    }
    text
}

/// The mounts of `/proc`, `/sys` and message queues that show the namespaces' own; what else is the host's.
pub(super) fn file_systems(options: &Options, path: &Path) -> Option<(&'static str, &'static [&'static str])> {
    const GUARDED: &[&str] = &["nosuid", "nodev", "noexec"];
    match path.to_str()? {
        "/proc" if options.namespaces.pid => Some(("proc", GUARDED)),
        "/sys" if options.namespaces.net => Some(("sysfs", GUARDED)),
        "/dev/mqueue" if options.namespaces.ipc => Some(("mqueue", GUARDED)),
        _ => None,
    }
}

/// Where the kernel says that it has message queues.
pub(super) fn message_queues() -> PathBuf {
    PathBuf::from("/proc/sys/fs/mqueue")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_added_to_hosts_unless_it_is_there() {
        let hosts = "127.0.0.1 localhost\n10.0.0.1 a.b box # alias";
        assert_eq!(with_name(hosts.as_bytes(), "box"), hosts);
        assert_eq!(with_name(hosts.as_bytes(), "alias"), format!("{hosts}\n127.0.1.1\talias\n"));
        assert_eq!(with_name(b"", "a.b"), "127.0.1.1\ta.b a\n");
    }

    #[test]
    fn too_many_name_servers_are_said() {
        let dns = |count: u8| (1..=count).map(|last| std::net::Ipv4Addr::new(192, 0, 2, last).into()).collect();
        let warns = |count| warning(&Options { dns: dns(count), ..Options::default() });
        assert_eq!(warns(3), None);
        assert!(warns(4).unwrap().contains("and not 192.0.2.4"));
    }
}
