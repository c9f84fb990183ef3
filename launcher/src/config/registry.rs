//! `[registry]`: mirrors, certificates, credential files and signatures.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::path::PathBuf;

use coracle_converter::registry::{self, Mirror, Policy, Requirement, Rule};
use serde::{Deserialize, Deserializer, de};

/// As in one file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Registry {
    /// By host and port.
    hosts: BTreeMap<String, Host>,
    /// Files with credentials, before the usual ones.
    auth_files: Option<Vec<PathBuf>>,
    /// Connections that download blobs at the same time.
    connections: Option<NonZeroUsize>,
    /// What images must be signed by.
    #[serde(deserialize_with = "rules")]
    signatures: Vec<Rule>,
    /// Those of the site, which the user's come beside.
    #[serde(skip)]
    site_signatures: Vec<Rule>,
}

/// One registry.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
struct Host {
    #[serde(deserialize_with = "mirrors")]
    mirrors: Option<Vec<Mirror>>,
    insecure: Option<bool>,
    ca_files: Option<Vec<PathBuf>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Signature {
    scope: String,
    policy: Option<Verdict>,
    keys: Option<Vec<PathBuf>>,
    identity: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Verdict {
    Accept,
    Reject,
}

fn mirrors<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Vec<Mirror>>, D::Error> {
    let texts = Vec::<String>::deserialize(from)?;
    texts.iter().map(|text| text.parse()).collect::<Result<_, _>>().map(Some).map_err(de::Error::custom)
}

fn rules<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<Rule>, D::Error> {
    let rule = |Signature { scope, policy, keys, identity }| {
        let requirement = match (policy, keys) {
            (Some(Verdict::Accept), None) => Requirement::Accept,
            (Some(Verdict::Reject), None) => Requirement::Reject,
            (None, Some(keys)) if !keys.is_empty() => Requirement::Signed { keys, identity },
            _ => return Err(de::Error::custom("a signature has either keys or policy = \"accept\" or \"reject\"")),
        };
        let scope = registry::scope(&scope).ok_or_else(|| {
            de::Error::custom(format!("scope {scope:?} covers no image: write *, HOST, or HOST/NAME"))
        })?;
        Ok(Rule { scope, requirement })
    };
    Vec::<Signature>::deserialize(from)?.into_iter().map(rule).collect()
}

impl Registry {
    /// Takes in a file that counts more; of hosts, each setting by itself. What the site asks of images stays asked.
    pub(super) fn merge(&mut self, later: Self, of_user: bool) {
        for (name, host) in later.hosts {
            let mine = self.hosts.entry(name).or_default();
            mine.mirrors = host.mirrors.or(mine.mirrors.take());
            mine.insecure = host.insecure.or(mine.insecure);
            mine.ca_files = host.ca_files.or(mine.ca_files.take());
        }
        self.auth_files = later.auth_files.or(self.auth_files.take());
        self.connections = later.connections.or(self.connections);
        if of_user {
            self.signatures = later.signatures;
        } else {
            self.site_signatures.extend(later.signatures);
        }
    }

    /// A setting, as host and key, that decides which server answers for a host or is believed to be it.
    pub(super) fn server(&self) -> Option<(&str, &'static str)> {
        self.hosts.iter().find_map(|(name, host)| {
            let Host { mirrors, insecure, ca_files } = host;
            let set =
                [("mirrors", mirrors.is_some()), ("insecure", insecure.is_some()), ("ca-files", ca_files.is_some())];
            set.into_iter().find(|(_, set)| *set).map(|(key, _)| (name.as_str(), key))
        })
    }

    /// For the client.
    #[must_use]
    pub fn settings(&self) -> registry::Settings {
        let mut settings = registry::Settings::default();
        for (name, host) in &self.hosts {
            let (mirrors, ca_files) =
                (host.mirrors.clone().unwrap_or_default(), host.ca_files.clone().unwrap_or_default());
            let host = registry::Host { mirrors, ca_files, insecure: host.insecure.unwrap_or_default() };
            settings.hosts.insert(name.clone(), host);
        }
        settings.credential_files = self.auth_files.clone().unwrap_or_default();
        settings.connections = self.connections.unwrap_or(settings.connections);
        // Two authorities: neither can let in what the other refuses.
        settings.policies = [&self.site_signatures, &self.signatures]
            .into_iter()
            .filter(|rules| !rules.is_empty())
            .map(|rules| Policy { rules: rules.clone() })
            .collect();
        settings
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Registry {
        toml::from_str(text).unwrap()
    }

    #[test]
    fn hosts_merge_by_setting_and_signatures_stand_side_by_side() {
        let mut all = Registry::default();
        all.merge(
            parse(
                "[hosts.\"r.example:5000\"]\nmirrors = [\"m.example/r\"]\nca-files = [\"/ca.pem\"]\n\
                 [[signatures]]\nscope = \"r.example:5000\"\nkeys = [\"/k.pub\"]\n",
            ),
            false,
        );
        all.merge(
            parse("connections = 5\n[hosts.\"r.example:5000\"]\ninsecure = true\n[[signatures]]\nscope = \"*\"\npolicy = \"accept\"\n"),
            true,
        );
        let settings = all.settings();
        let host = &settings.hosts["r.example:5000"];
        assert!(host.insecure && host.mirrors[0].host == "m.example" && host.ca_files.len() == 1);
        assert_eq!(settings.connections.get(), 5);
        assert_eq!(settings.policies.len(), 2);
        assert!(matches!(settings.policies[0].rules[0].requirement, Requirement::Signed { .. }));
    }

    #[test]
    fn half_written_rules_are_errors() {
        for text in [
            "[[signatures]]\nscope = \"x\"\n",
            "[[signatures]]\nscope = \"x\"\nkeys = []\n",
            "[[signatures]]\nscope = \"x\"\nkeys = [\"/k\"]\npolicy = \"accept\"\n",
            "[hosts.x]\nmirrors = [\"https://m\"]\n",
            "[hosts.x]\nmirror = []\n",
            "[[signatures]]\nscope = \"https://x\"\npolicy = \"reject\"\n",
            "[[signatures]]\nscope = \"x/a:1\"\npolicy = \"reject\"\n",
            "connections = 0\n",
        ] {
            assert!(toml::from_str::<Registry>(text).is_err(), "{text}");
        }
    }
}
