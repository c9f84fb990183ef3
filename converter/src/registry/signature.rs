//! Which images a site lets in: cosign signatures, verified with keys alone, nothing asked of the network but the
//! registry that has the image.
//!
//! A signature is an image beside the image, tag `sha256-HEX.sig`; each of its layers is a signed statement (simple
//! signing) with the signature in an annotation.

use super::client::Client;
use super::error::{Error, words};
use super::keys::PublicKey;
use super::reference::{Reference, canonical_host, is_host, is_repository};
use crate::digest::Digest;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use oci_spec::image::ImageManifest;
use serde::Deserialize;
use std::path::PathBuf;

/// Holds the signature of a layer's statement.
const ANNOTATION: &str = "dev.cosignproject.cosign/signature";
/// The statements' media type.
const STATEMENT: &str = "application/vnd.dev.cosign.simplesigning.v1+json";
/// What a statement is called.
const KIND: &str = "cosign container image signature";
/// Most signatures of an image that are looked at.
const SIGNATURES_MAX: usize = 64;
/// Largest statement, in bytes.
const STATEMENT_MAX: u64 = 1 << 20;

/// Rules of one authority, of which the one with the longest fitting scope counts. Without a fitting one, everything
/// is let in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// In any order.
    pub rules: Vec<Rule>,
}

/// What is asked of some images.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// `HOST`, `HOST/NAMESPACE`, `HOST/NAME`, or `*` for all.
    pub scope: String,
    /// What is asked.
    pub requirement: Requirement,
}

/// What is asked of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Requirement {
    /// Nothing.
    Accept,
    /// It is not let in at all.
    Reject,
    /// A signature.
    Signed {
        /// Files of public keys (PEM), one of which must have signed.
        keys: Vec<PathBuf>,
        /// The name that must have been signed, or what it begins with, up to a `/`; without one the image's own.
        identity: Option<String>,
    },
}

impl Policy {
    /// The requirement for `HOST/NAME`.
    fn of(&self, name: &str) -> &Requirement {
        let fitting = self.rules.iter().filter(|rule| covers(&rule.scope, name));
        // Of equal scopes the first counts.
        fitting
            .rev()
            .max_by_key(|rule| scope_length(&rule.scope))
            .map_or(&Requirement::Accept, |rule| &rule.requirement)
    }
}

/// A scope in the spelling of names: `*`, `HOST`, or `HOST/NAMESPACE…`; `None` when no name could be in it, which would
/// leave open what somebody wanted closed.
#[must_use]
pub fn scope(given: &str) -> Option<String> {
    let given = given.trim_end_matches('/');
    if given == "*" {
        return Some(given.to_owned());
    }
    let (host, space) = given.split_once('/').map_or((given, None), |(host, space)| (host, Some(space)));
    let host = canonical_host(host);
    match space {
        None => is_host(&host).then_some(host),
        // All names of Docker Hub have two parts; of one part are those of `library`.
        Some(space) => (is_host(&host) && is_repository(space)).then(|| format!("{host}/{space}")),
    }
}

fn scope_length(scope: &str) -> usize {
    if scope == "*" { 0 } else { scope.len() }
}

/// Whether a scope has a name in it. Names end at `/`: `host/a` does not cover `host/ab`.
fn covers(scope: &str, name: &str) -> bool {
    let scope = scope.trim_end_matches('/');
    scope == "*" || name.strip_prefix(scope).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

impl Client {
    /// Whether a policy asks for signatures of this repository.
    pub(super) fn wants_signatures(&self, reference: &Reference) -> bool {
        let name = reference.name();
        self.settings().policies.iter().any(|policy| *policy.of(&name) != Requirement::Accept)
    }

    /// Refuses what a policy does not let in. One of `digests` must be signed: the manifest's, or that of the index
    /// which names it.
    ///
    /// # Errors
    /// With the reason.
    pub(crate) fn check_policy(&self, reference: &Reference, digests: &[Digest]) -> Result<(), Error> {
        let name = reference.name();
        for policy in &self.settings().policies {
            match policy.of(&name) {
                Requirement::Accept => {}
                Requirement::Reject => {
                    return Err(refused(reference, format!("images of {name} are not allowed here")));
                }
                Requirement::Signed { keys, identity } => {
                    let keys = keys.iter().map(|path| PublicKey::load(path)).collect::<Result<Vec<_>, _>>()?;
                    let identity = identity.as_deref();
                    let mut reasons = Vec::new();
                    for digest in digests {
                        match self.verify(reference, *digest, &keys, identity)? {
                            Ok(()) => {
                                reasons.clear();
                                break;
                            }
                            Err(reason) => reasons.push(format!("{digest}: {reason}")),
                        }
                    }
                    if !reasons.is_empty() {
                        return Err(refused(reference, reasons.join("; ")));
                    }
                }
            }
        }
        Ok(())
    }

    /// Looks for one good signature; the inner result says what is wrong with those that there are.
    fn verify(
        &self,
        reference: &Reference,
        digest: Digest,
        keys: &[PublicKey],
        identity: Option<&str>,
    ) -> Result<Result<(), String>, Error> {
        let beside = reference.with_tag(format!("sha256-{}.sig", digest.hex()));
        let Some(manifest) = self.manifest_if_any(&beside)? else {
            return Ok(Err("it has no cosign signature".into()));
        };
        let Ok(manifest) = serde_json::from_slice::<ImageManifest>(&manifest.content) else {
            return Ok(Err("its signature is no manifest".into()));
        };
        let mut reason = "its signature holds no signed statement".to_owned();
        for layer in manifest.layers().iter().take(SIGNATURES_MAX) {
            let signature = layer.annotations().as_ref().and_then(|all| all.get(ANNOTATION));
            let Some(signature) = signature.filter(|_| layer.media_type().to_string() == STATEMENT) else { continue };
            let (Ok(signature), Ok(blob)) = (STANDARD.decode(signature), layer.digest().as_ref().parse()) else {
                continue;
            };
            if layer.size() > STATEMENT_MAX {
                continue;
            }
            let statement = self.small_blob(&beside, blob, &format!("check the signature of {reference}"))?;
            if !keys.iter().any(|key| key.verifies(&statement, &signature)) {
                reason = "it is not signed by any of the keys that the policy names".into();
                continue;
            }
            match judge(&statement, reference, digest, identity) {
                Ok(()) => return Ok(Ok(())),
                Err(wrong) => reason = wrong,
            }
        }
        Ok(Err(reason))
    }
}

fn refused(reference: &Reference, reason: String) -> Error {
    Error::Policy { reference: reference.to_string(), reason }
}

#[derive(Deserialize)]
struct Statement {
    critical: Critical,
}

#[derive(Deserialize)]
struct Critical {
    identity: Identity,
    image: SignedImage,
    #[serde(rename = "type")]
    kind: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Identity {
    docker_reference: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct SignedImage {
    docker_manifest_digest: String,
}

/// Whether a statement, which is genuine, is about this image.
fn judge(content: &[u8], reference: &Reference, digest: Digest, identity: Option<&str>) -> Result<(), String> {
    let statement: Statement =
        serde_json::from_slice(content).map_err(|_| "what is signed is no statement about an image".to_owned())?;
    let Critical { identity: signed, image, kind } = statement.critical;
    if kind != KIND {
        return Err(format!("what is signed is a {:?}", words(&kind)));
    }
    if image.docker_manifest_digest != digest.to_string() {
        return Err(format!("the signature is for {}", words(&image.docker_manifest_digest)));
    }
    let name = full_name(&signed.docker_reference);
    let right = match identity {
        Some(wanted) => covers(wanted, &name),
        None => name == reference.name(),
    };
    if right {
        return Ok(());
    }
    let wanted = identity.map_or_else(|| reference.name(), str::to_owned);
    Err(format!(
        "the signature is for the name {:?}, not for {wanted}: the policy can name it as identity",
        words(&name)
    ))
}

/// A signed name without its tag, and with one host name for each registry.
fn full_name(signed: &str) -> String {
    match signed.parse::<Reference>() {
        Ok(reference) => reference.name(),
        Err(_) => match signed.split_once('/') {
            Some((host, rest)) => format!("{}/{rest}", canonical_host(host)),
            None => signed.to_owned(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(scope: &str, requirement: Requirement) -> Rule {
        Rule { scope: scope.into(), requirement }
    }

    #[test]
    fn a_host_is_covered_however_it_is_spelled() {
        let policy =
            Policy { rules: vec![rule("docker.io", Requirement::Reject), rule("r.example/a", Requirement::Reject)] };
        for name in
            ["Registry-1.docker.io/library/x", "index.docker.io:443/a/b", "x", "R.Example/a", "r.example:443/a/b"]
        {
            let reference: Reference = name.parse().unwrap();
            assert_eq!(policy.of(&reference.name()), &Requirement::Reject, "{name} is {}", reference.name());
        }
        let scopes =
            [("*", Some("*")), ("Index.docker.io", Some("docker.io")), ("R.example:443/a/", Some("r.example/a"))];
        for (given, canonical) in scopes {
            assert_eq!(scope(given).as_deref(), canonical);
        }
        for wrong in ["", "https://r.example", "r.example/a:1", "r.example/A", "*/x", "a b"] {
            assert_eq!(scope(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn the_longest_scope_counts_and_ends_at_a_slash() {
        use Requirement::{Accept, Reject};
        let signed = Requirement::Signed { keys: Vec::new(), identity: None };
        let policy = Policy {
            rules: vec![
                rule("*", Reject),
                rule("r.example", signed.clone()),
                rule("r.example/open", Accept),
                rule("r.example/open", Reject),
            ],
        };
        assert_eq!(policy.of("r.example/a"), &signed);
        assert_eq!(policy.of("r.example/open/x"), &Accept);
        assert_eq!(policy.of("r.example/opener"), &signed);
        assert_eq!(policy.of("r.example.evil/a"), &Reject);
        assert_eq!(Policy::default().of("x/y"), &Accept);
    }

    #[test]
    fn a_statement_must_be_about_the_image() {
        let digest = Digest::of(b"manifest");
        let reference: Reference = "r.example/team/app:1".parse().unwrap();
        let statement = |name: &str, digest: &str, kind: &str| {
            format!(
                r#"{{"critical":{{"identity":{{"docker-reference":"{name}"}},"image":{{"docker-manifest-digest":"{digest}"}},"type":"{kind}"}},"optional":null}}"#
            )
        };
        let check = |text: String, identity| judge(text.as_bytes(), &reference, digest, identity);
        let good = digest.to_string();
        assert_eq!(check(statement("r.example/team/app", &good, KIND), None), Ok(()));
        assert_eq!(check(statement("r.example/team/app:1", &good, KIND), None), Ok(()));
        assert_eq!(check(statement("q.example/team/app", &good, KIND), Some("q.example/team")), Ok(()));
        for (text, clue) in [
            (statement("r.example/team/other", &good, KIND), "name"),
            (statement("r.example/team/app", &Digest::of(b"x").to_string(), KIND), "is for sha256:"),
            (statement("r.example/team/app", &good, "atomic"), "atomic"),
            ("{}".to_owned(), "no statement"),
        ] {
            let error = check(text, None).unwrap_err();
            assert!(error.contains(clue), "{error}");
        }
        assert!(check(statement("q.example/teams", &good, KIND), Some("q.example/team")).is_err());
    }
}
