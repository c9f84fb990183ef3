//! Names of images in registries: `[HOST[:PORT]/]NAME[:TAG][@DIGEST]`, as the distribution specification has them.

use super::error::Error;
use super::settings::is_loopback;
use crate::digest::Digest;
use std::fmt;
use std::str::FromStr;

/// The registry that names without a host mean, as people write it.
const DEFAULT_HOST: &str = "docker.io";
/// Where its interface is.
const DEFAULT_API: &str = "registry-1.docker.io";
/// Another name of it.
const DEFAULT_ALIAS: &str = "index.docker.io";
/// Where its images without a name of their own space lie.
const DEFAULT_SPACE: &str = "library";
/// What is meant when neither a tag nor a digest is given.
const DEFAULT_TAG: &str = "latest";
/// Most bytes of host and repository together, as the reference implementation has it.
const NAME_MAX: usize = 255;
/// Most bytes of a tag.
const TAG_MAX: usize = 128;

/// The name of an image, or of anything else that a registry keeps.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reference {
    host: String,
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

impl Reference {
    /// Host and port, as written; `docker.io` when none was.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Name in the registry, with Docker Hub's `library/`.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The tag, if there is one; `latest` when neither tag nor digest was given.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest, which counts before the tag.
    pub fn digest(&self) -> Option<Digest> {
        self.digest
    }

    /// The same image, at this digest and no other.
    pub fn pinned(&self, digest: Digest) -> Self {
        Self { digest: Some(digest), ..self.clone() }
    }

    /// `HOST/NAME`.
    pub fn name(&self) -> String {
        format!("{}/{}", self.host, self.repository)
    }

    /// As [`Reference::name`], but so that a host of one word, which only `#` can follow, is read as one again.
    fn unambiguous(&self) -> String {
        let joint = if means_host(&self.host) { '/' } else { '#' };
        format!("{}{joint}{}", self.host, self.repository)
    }

    /// The name under which an image made of it is known: with the tag when there is one, whether or not a digest
    /// pins it, so that pinning changes no bytes.
    pub(crate) fn recorded(&self) -> String {
        match (&self.tag, self.digest) {
            (None, Some(digest)) => format!("{}@{digest}", self.unambiguous()),
            (tag, _) => format!("{}:{}", self.unambiguous(), tag.as_deref().unwrap_or(DEFAULT_TAG)),
        }
    }

    /// What a registry is asked for: the digest, or the tag.
    pub(crate) fn selector(&self) -> String {
        match (self.digest, &self.tag) {
            (Some(digest), _) => digest.to_string(),
            (None, tag) => tag.clone().unwrap_or_else(|| DEFAULT_TAG.to_owned()),
        }
    }

    /// Another tag of the same repository.
    pub(crate) fn with_tag(&self, tag: String) -> Self {
        Self { tag: Some(tag), digest: None, ..self.clone() }
    }
}

/// The host that speaks for a registry, given its name.
pub(super) fn api_host(host: &str) -> &str {
    if host == DEFAULT_HOST { DEFAULT_API } else { host }
}

/// The name of a registry, given any of its names, in the one spelling in which settings and policies know it.
pub(super) fn canonical_host(host: &str) -> String {
    let host = host.to_ascii_lowercase();
    // Where TLS is usual anyway. A host on this machine may speak plain HTTP there.
    let host = match host.strip_suffix(":443") {
        Some(name) if !is_loopback(&host) => name.to_owned(),
        _ => host,
    };
    if host == DEFAULT_ALIAS || host == DEFAULT_API { DEFAULT_HOST.to_owned() } else { host }
}

/// Whether a text names a registry, with or without a port.
pub(super) fn is_host(text: &str) -> bool {
    let (name, port) = match text.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((address, port)) if address.parse::<std::net::Ipv6Addr>().is_ok() => ("v6", port),
            _ => return false,
        },
        None => match text.find(':') {
            Some(colon) => text.split_at(colon),
            None => (text, ""),
        },
    };
    let label = |label: &str| {
        let fits = |c: u8| c.is_ascii_alphanumeric() || c == b'-';
        !label.is_empty() && label.bytes().all(fits) && !label.starts_with('-') && !label.ends_with('-')
    };
    let port_fits = port.is_empty() || port.strip_prefix(':').is_some_and(|port| port.parse::<u16>().is_ok());
    name.len() <= NAME_MAX && name.split('.').all(label) && port_fits
}

/// Lower-case letters and digits, joined by one dot, one or two underscores, or dashes.
pub(super) fn is_repository(text: &str) -> bool {
    text.len() <= NAME_MAX && !text.is_empty() && text.split('/').all(is_component)
}

fn is_component(text: &str) -> bool {
    let word = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
    let bytes = text.as_bytes();
    if !bytes.first().is_some_and(|c| word(*c)) || !bytes.last().is_some_and(|c| word(*c)) {
        return false;
    }
    bytes
        .split(|c| word(*c))
        .all(|joint| matches!(joint, b"" | b"." | b"_" | b"__") || joint.iter().all(|c| *c == b'-'))
}

fn is_tag(text: &str) -> bool {
    let word = |c: u8| c.is_ascii_alphanumeric() || c == b'_';
    let bytes = text.as_bytes();
    bytes.len() <= TAG_MAX
        && bytes.first().is_some_and(|c| word(*c))
        && bytes.iter().all(|c| word(*c) || matches!(c, b'.' | b'-'))
}

/// Whether the first part of a name with several is a host. `localhost` is one, as is anything that no name can be.
fn means_host(first: &str) -> bool {
    first.contains(['.', ':', '[']) || first == "localhost" || first.bytes().any(|c| c.is_ascii_uppercase())
}

impl FromStr for Reference {
    type Err = Error;

    /// Without `docker://`. `HOST#NAME:TAG`, which enroot and pyxis use, means `HOST/NAME:TAG`.
    fn from_str(given: &str) -> Result<Self, Error> {
        let bad = |reason| Error::Reference { given: given.to_owned(), reason };
        let (rest, digest) = match given.split_once('@') {
            Some((user, rest)) if rest.contains('#') && !user.contains(['/', ':']) => {
                return Err(bad("it names a user: leave that out, and log in with coracle registry login"));
            }
            Some((rest, digest)) => {
                (rest, Some(digest.parse().map_err(|_| bad("after @ stands sha256: and 64 hexadecimal digits"))?))
            }
            None => (given, None),
        };
        let (host, rest) = match rest.split_once('#') {
            Some((host, rest)) => (Some(host), rest),
            None => match rest.split_once('/') {
                Some((first, name)) if means_host(first) => (Some(first), name),
                _ => (None, rest),
            },
        };
        let (repository, tag) = match rest.rsplit_once(':') {
            Some((repository, tag)) => (repository, Some(tag)),
            None => (rest, None),
        };
        let host = canonical_host(host.unwrap_or(DEFAULT_HOST));
        if !is_host(&host) {
            return Err(bad("its host is no host name with or without a port"));
        }
        let repository = match repository.contains('/') {
            false if host == DEFAULT_HOST && !repository.is_empty() => format!("{DEFAULT_SPACE}/{repository}"),
            _ => repository.to_owned(),
        };
        if !is_repository(&repository) {
            return Err(bad(if repository.bytes().any(|c| c.is_ascii_uppercase()) {
                "a name has no upper-case letters"
            } else {
                "a name is made of lower-case letters, digits and single separators"
            }));
        }
        if host.len() + 1 + repository.len() > NAME_MAX {
            return Err(bad("it is longer than names may be"));
        }
        if tag.is_some_and(|tag| !is_tag(tag)) {
            return Err(bad("a tag is made of at most 128 letters, digits, dots, dashes and underscores"));
        }
        let tag = match (tag, digest) {
            (None, None) => Some(DEFAULT_TAG.to_owned()),
            (tag, _) => tag.map(str::to_owned),
        };
        Ok(Self { host: host.to_owned(), repository, tag, digest })
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.unambiguous())?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        self.digest.map_or(Ok(()), |digest| write!(f, "@{digest}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn names_are_completed_as_docker_does() {
        for (given, full) in [
            ("debian", "docker.io/library/debian:latest"),
            ("debian:12", "docker.io/library/debian:12"),
            ("index.docker.io/debian", "docker.io/library/debian:latest"),
            ("a/b", "docker.io/a/b:latest"),
            ("localhost/a", "localhost/a:latest"),
            ("localhost:5000/a/b/c:v1", "localhost:5000/a/b/c:v1"),
            ("[::1]:5000/a", "[::1]:5000/a:latest"),
            ("nvcr.io/nvidia/cuda:12.4.1-base-ubuntu22.04", "nvcr.io/nvidia/cuda:12.4.1-base-ubuntu22.04"),
            ("nvcr.io#nvidia/cuda:1", "nvcr.io/nvidia/cuda:1"),
            ("host#a__b--c.d", "host#a__b--c.d:latest"),
        ] {
            let reference: Reference = given.parse().unwrap();
            assert_eq!(reference.to_string(), full);
            assert_eq!(full.parse::<Reference>().unwrap(), reference);
        }
        let pinned: Reference = format!("debian:12@sha256:{HEX}").parse().unwrap();
        assert_eq!(pinned.tag(), Some("12"));
        assert_eq!(pinned.selector(), format!("sha256:{HEX}"));
        assert_eq!(pinned.recorded(), "docker.io/library/debian:12");
        let only: Reference = format!("debian@sha256:{HEX}").parse().unwrap();
        assert_eq!((only.tag(), only.recorded()), (None, format!("docker.io/library/debian@sha256:{HEX}")));
    }

    #[test]
    fn what_is_no_name_is_refused_with_the_reason() {
        let long = format!("a/{}", "x".repeat(300));
        for (given, reason) in [
            ("", "name"),
            ("Debian", "upper-case"),
            ("a//b", "name"),
            ("a..b", "name"),
            ("-a", "name"),
            ("a:", "tag"),
            ("a:b c", "tag"),
            ("a@sha256:12", "sha256"),
            ("a@sha512:12", "sha256"),
            ("ho_st.example/a", "host"),
            ("host:99999/a", "host"),
            ("[::g]/a", "host"),
            ("me@host#a", "login"),
            ("a.example/../b", "name"),
            (&long, "name"),
        ] {
            let error = given.parse::<Reference>().unwrap_err().to_string();
            assert!(error.contains(reason), "{given}: {error}");
        }
    }
}
