//! What a site or user sets about registries. The program fills this from its configuration.

use super::reference::{canonical_host, is_host, is_repository};
use super::signature::Policy;
use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::str::FromStr;

/// Connections that download blobs when nothing else is said.
const CONNECTIONS: usize = 3;

/// All settings.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Settings of single registries, by host and port as references have them.
    pub hosts: BTreeMap<String, Host>,
    /// Files with credentials, looked at before the usual ones.
    pub credential_files: Vec<PathBuf>,
    /// Connections that download blobs into a cache at the same time.
    pub connections: NonZeroUsize,
    /// Which signatures are asked for. An image must satisfy each.
    pub policies: Vec<Policy>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            hosts: BTreeMap::new(),
            credential_files: Vec::new(),
            connections: NonZeroUsize::new(CONNECTIONS).unwrap_or(NonZeroUsize::MIN),
            policies: Vec::new(),
        }
    }
}

/// Settings of one registry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Host {
    /// Asked before the registry itself, in this order.
    pub mirrors: Vec<Mirror>,
    /// Whether it is spoken to over plain HTTP.
    pub insecure: bool,
    /// Files of certificates (PEM) that are trusted for it, besides the system's.
    pub ca_files: Vec<PathBuf>,
}

/// A place that has copies of a registry's content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mirror {
    /// Host and port.
    pub host: String,
    /// What its repository names have in front of the original's.
    pub prefix: Option<String>,
}

/// A mirror that is not spelt `HOST[:PORT][/PREFIX]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a mirror is HOST[:PORT][/PREFIX], without https://")]
pub struct InvalidMirror;

impl FromStr for Mirror {
    type Err = InvalidMirror;

    fn from_str(given: &str) -> Result<Self, InvalidMirror> {
        let (host, prefix) = match given.split_once('/') {
            Some((host, prefix)) => (host, Some(prefix.trim_end_matches('/')).filter(|prefix| !prefix.is_empty())),
            None => (given, None),
        };
        if !is_host(host) || prefix.is_some_and(|prefix| !is_repository(prefix)) {
            return Err(InvalidMirror);
        }
        Ok(Self { host: host.to_owned(), prefix: prefix.map(str::to_owned) })
    }
}

impl Settings {
    /// Settings of a registry by any of its names.
    pub(super) fn host(&self, host: &str) -> Option<&Host> {
        let canonical = canonical_host(host);
        self.hosts.iter().find(|(name, _)| canonical_host(name) == canonical).map(|(_, settings)| settings)
    }

    /// Whether plain HTTP is allowed because somebody said so.
    pub(super) fn insecure(&self, host: &str) -> bool {
        self.host(host).is_some_and(|host| host.insecure)
    }
}

/// Whether a host, as written, is this machine: no name is looked up for that.
pub(super) fn is_loopback(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    name == "localhost" || name.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_told_by_what_is_written() {
        for host in ["localhost", "localhost:5000", "127.0.0.1:1", "127.9.9.9", "[::1]:5000"] {
            assert!(is_loopback(host), "{host}");
        }
        for host in ["example.com", "localhost.example.com", "128.0.0.1", "[::2]", "127.evil.example"] {
            assert!(!is_loopback(host), "{host}");
        }
    }

    #[test]
    fn mirrors_have_hosts_and_prefixes() {
        let mirror: Mirror = "cache.example:5000/hub".parse().unwrap();
        assert_eq!((mirror.host.as_str(), mirror.prefix.as_deref()), ("cache.example:5000", Some("hub")));
        assert_eq!("https://x".parse::<Mirror>(), Err(InvalidMirror));
        assert_eq!("x/UP".parse::<Mirror>(), Err(InvalidMirror));
    }
}
