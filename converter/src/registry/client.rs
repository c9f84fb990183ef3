//! The client: which places have a repository, and what they are asked for it.

use super::credentials;
use super::error::Error;
use super::http::{self, Http, Payload, Request, Response, TRIES, TRIES_OF_MIRROR, authority};
use super::reference::{Reference, api_host};
use super::settings::{Settings, is_loopback};
use crate::digest::Digest;
use crate::source::DOCUMENT_MAX;
use std::collections::HashMap;
use std::fmt;
use std::io::Read;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};
use ureq::ResponseExt;
use ureq::http::{HeaderMap, Method, Uri, header};

/// The kinds of manifests that are understood, or refused with a reason.
const ACCEPT: &str = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, \
                      application/vnd.docker.distribution.manifest.list.v2+json, \
                      application/vnd.docker.distribution.manifest.v2+json";
/// The header by which a registry says what a tag means.
const CONTENT_DIGEST: &str = "docker-content-digest";
/// How long a document may take; a server that trickles would otherwise hold a job for hours.
const DOCUMENT_TIME: Duration = Duration::from_secs(300);

/// What a reference means at the moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolved {
    /// Of the manifest, or of the index of several.
    pub digest: Digest,
    /// Its media type, as the registry says.
    pub media_type: String,
}

/// A manifest or index, its digest verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// Its media type, as it says itself, or else as the registry says.
    pub media_type: String,
    /// Verbatim.
    pub content: Vec<u8>,
    /// Of the content.
    pub digest: Digest,
}

/// Talks to registries. Nothing is read or connected before it is used; threads may share it.
pub struct Client {
    pub(super) http: Http,
    pub(super) settings: Settings,
    /// Headers by host and scope.
    pub(super) authorizations: Mutex<HashMap<(String, String), String>>,
    /// Whether a host of this machine speaks plain HTTP.
    plain: Mutex<HashMap<String, bool>>,
}

impl Default for Client {
    fn default() -> Self {
        Self::new(Settings::default())
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The rest holds secrets.
        f.debug_struct("Client").field("settings", &self.settings).finish_non_exhaustive()
    }
}

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    /// To read.
    Pull,
    /// To read and write.
    Push,
}

/// A server with a repository, perhaps under another name.
#[derive(Clone, Debug)]
pub(super) struct Place {
    /// Host and port of its interface.
    pub host: String,
    /// The registry's name, which credentials are kept under.
    pub registry: String,
    /// There.
    pub repository: String,
    /// Whether another place may be asked when this one fails.
    pub mirror: bool,
}

/// A request to a place.
pub(super) struct Ask<'a> {
    pub method: Method,
    pub uri: Uri,
    pub headers: Vec<(header::HeaderName, String)>,
    pub payload: Payload<'a>,
    pub doing: &'a str,
    pub access: Access,
}

impl Client {
    /// With these settings; the environment's credential files count as well.
    pub fn new(settings: Settings) -> Self {
        Self { http: Http::new(), settings, authorizations: Mutex::default(), plain: Mutex::default() }
    }

    /// The settings.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Files with credentials, in the order in which they count.
    pub fn credential_files(&self) -> Vec<PathBuf> {
        self.settings.credential_files.iter().cloned().chain(credentials::usual_files()).collect()
    }

    /// Finds out which manifest a reference means, without fetching it.
    ///
    /// # Errors
    /// When no place has it, or none answers.
    pub fn resolve(&self, reference: &Reference) -> Result<Resolved, Error> {
        let doing = format!("look up {reference}");
        self.first(reference, |place| {
            let headers = match self.ask_manifest(place, Method::HEAD, &reference.selector(), &doing) {
                Ok(answer) => answer.headers().clone(),
                // A server that has no such method.
                Err(Error::Status { status: 405 | 501, .. }) => HeaderMap::new(),
                Err(error) => return Err(error),
            };
            let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
            let digest = text(CONTENT_DIGEST).and_then(|digest| digest.parse().ok());
            match digest {
                Some(digest) if reference.digest().is_none_or(|asked| asked == digest) => {
                    let media_type = text("content-type").unwrap_or_default();
                    Ok(Resolved { digest, media_type: bare(media_type).to_owned() })
                }
                // Not every server says it; the content does.
                _ => {
                    let manifest = self.manifest_at(place, &reference.selector(), reference.digest(), &doing)?;
                    Ok(Resolved { digest: manifest.digest, media_type: manifest.media_type })
                }
            }
        })
    }

    /// Fetches the manifest or index that a reference means.
    ///
    /// # Errors
    /// When no place has it, none answers, or all send something else.
    pub fn manifest(&self, reference: &Reference) -> Result<Manifest, Error> {
        let doing = format!("pull {reference}");
        self.first(reference, |place| self.manifest_at(place, &reference.selector(), reference.digest(), &doing))
    }

    /// The same, `None` when there is none.
    pub(super) fn manifest_if_any(&self, reference: &Reference) -> Result<Option<Manifest>, Error> {
        match self.manifest(reference) {
            Ok(manifest) => Ok(Some(manifest)),
            Err(Error::NotFound { .. }) => Ok(None),
            Err(Error::Mirrors { origin, .. }) if matches!(*origin, Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn ask_manifest(&self, place: &Place, method: Method, selector: &str, doing: &str) -> Result<Response, Error> {
        let uri = self.uri(place, &format!("manifests/{selector}"), doing)?;
        let headers = vec![(header::ACCEPT, ACCEPT.to_owned())];
        let ask = Ask { method, uri, headers, payload: Payload::None, doing, access: Access::Pull };
        let answer = self.call(place, &ask)?;
        if answer.status().is_success() { Ok(answer) } else { Err(http::refusal(answer, &ask.uri, doing)) }
    }

    pub(super) fn manifest_at(
        &self,
        place: &Place,
        selector: &str,
        expected: Option<Digest>,
        doing: &str,
    ) -> Result<Manifest, Error> {
        let answer = self.ask_manifest(place, Method::GET, selector, doing)?;
        let text = |name: &str| answer.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let (announced, header) = (text(CONTENT_DIGEST), text("content-type"));
        let content = read_bounded(answer, DOCUMENT_MAX, place, doing)?;
        let digest = Digest::of(&content);
        // For a tag, what the server itself says is the only witness of a damaged transfer.
        let expected = expected.or_else(|| announced?.parse().ok()).unwrap_or(digest);
        if digest != expected {
            let (doing, host) = (doing.to_owned(), place.host.clone());
            return Err(Error::Digest { doing, host, expected, found: digest });
        }
        Ok(Manifest { media_type: media_type(&content, header), content, digest })
    }

    /// A small blob, verified.
    pub(crate) fn small_blob(&self, reference: &Reference, digest: Digest, doing: &str) -> Result<Vec<u8>, Error> {
        self.first(reference, |place| {
            let uri = self.uri(place, &format!("blobs/{digest}"), doing)?;
            let ask = Ask {
                method: Method::GET,
                uri,
                headers: Vec::new(),
                payload: Payload::None,
                doing,
                access: Access::Pull,
            };
            // A body that is cut is asked for again, as an answer that does not come.
            let mut pauses = http::Pauses::new(place.tries());
            loop {
                let answer = self.call(place, &ask)?;
                if !answer.status().is_success() {
                    return Err(http::refusal(answer, &ask.uri, doing));
                }
                match read_bounded(answer, DOCUMENT_MAX, place, doing) {
                    Ok(content) if Digest::of(&content) == digest => return Ok(content),
                    Ok(content) => {
                        let (doing, host, found) = (doing.to_owned(), place.host.clone(), Digest::of(&content));
                        return Err(Error::Digest { doing, host, expected: digest, found });
                    }
                    Err(error @ Error::Unreachable { .. }) if !pauses.pause(None) => return Err(error),
                    Err(Error::Unreachable { .. }) => {}
                    Err(error) => return Err(error),
                }
            }
        })
    }

    /// The places of a repository, in the order in which they are asked.
    pub(super) fn places(&self, reference: &Reference) -> Vec<Place> {
        let mirrors = self.settings.host(reference.host()).map(|host| host.mirrors.as_slice()).unwrap_or_default();
        let mut places = mirrors
            .iter()
            .map(|mirror| Place {
                host: api_host(&mirror.host).to_owned(),
                registry: mirror.host.clone(),
                repository: match &mirror.prefix {
                    Some(prefix) => format!("{prefix}/{}", reference.repository()),
                    None => reference.repository().to_owned(),
                },
                mirror: true,
            })
            .collect::<Vec<_>>();
        places.push(self.origin(reference));
        places
    }

    /// The registry itself.
    pub(super) fn origin(&self, reference: &Reference) -> Place {
        Place {
            host: api_host(reference.host()).to_owned(),
            registry: reference.host().to_owned(),
            repository: reference.repository().to_owned(),
            mirror: false,
        }
    }

    /// The first success of any place, whatever is wrong with those before.
    pub(super) fn first<T>(
        &self,
        reference: &Reference,
        mut attempt: impl FnMut(&Place) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let mut failed = Vec::new();
        for place in self.places(reference) {
            match attempt(&place) {
                Ok(value) => return Ok(value),
                Err(error) if place.mirror => failed.push(error.to_string()),
                Err(error) if failed.is_empty() => return Err(error),
                Err(error) => {
                    return Err(Error::Mirrors { origin: Box::new(error), mirrors: failed.join("; ") });
                }
            }
        }
        // There is always the registry itself.
        Err(Error::Protocol { doing: format!("pull {reference}"), host: String::new(), reason: "nothing".into() })
    }

    /// Makes a request, and proves who asks when the place wants to know.
    ///
    /// # Errors
    /// When there is no answer, or access is denied.
    pub(super) fn call(&self, place: &Place, ask: &Ask<'_>) -> Result<Response, Error> {
        let base = self.base(place, ask.doing)?;
        let scope = scope(place, ask.access);
        let key = (place.host.clone(), scope.clone());
        // A place to upload to may be elsewhere, with its permission in its address.
        let here = http::same_origin(&base, &ask.uri);
        let mut authorization = self.authorization(&key).filter(|_| here);
        let mut challenged = false;
        loop {
            let request = Request {
                method: ask.method.clone(),
                uri: ask.uri.clone(),
                headers: ask.headers.clone(),
                payload: ask.payload,
                doing: ask.doing,
                tries: place.tries(),
            };
            let answer = self.http.send(&self.settings, &request, authorization.as_deref())?;
            // A redirect leads to others, whose challenges are not this registry's: they must not learn its credentials.
            let by_place = http::same_origin(answer.get_uri(), &ask.uri);
            match answer.status().as_u16() {
                401 if here && by_place && !challenged => {
                    challenged = true;
                    let header = self.authenticate(place, answer.headers(), Some(&scope), ask.doing)?;
                    let mut known = self.authorizations.lock().unwrap_or_else(PoisonError::into_inner);
                    known.insert(key.clone(), header.clone());
                    authorization = Some(header);
                }
                401 | 403 if by_place => return Err(self.denied(place, answer, ask)),
                401 | 403 => {
                    let at = answer.get_uri().clone();
                    return Err(http::refusal(answer, &at, ask.doing));
                }
                _ => return Ok(answer),
            }
        }
    }

    fn authorization(&self, key: &(String, String)) -> Option<String> {
        self.authorizations.lock().unwrap_or_else(PoisonError::into_inner).get(key).cloned()
    }

    fn denied(&self, place: &Place, answer: Response, ask: &Ask<'_>) -> Error {
        let status = answer.status().as_u16();
        let detail = match http::refusal(answer, &ask.uri, ask.doing) {
            Error::Status { detail, .. } if !detail.is_empty() => format!(" ({detail})"),
            _ => String::new(),
        };
        let what = if ask.access == Access::Push { "write to" } else { "read" };
        Error::Denied {
            doing: ask.doing.to_owned(),
            host: place.host.clone(),
            reason: format!("does not let this user {what} {}, status {status}{detail}", place.repository),
            remedy: format!("check the name, or log in as a user who may: coracle registry login {}", place.registry),
        }
    }

    /// The address of something in a repository.
    pub(super) fn uri(&self, place: &Place, path: &str, doing: &str) -> Result<Uri, Error> {
        let base = self.base(place, doing)?;
        let scheme = base.scheme_str().unwrap_or("https");
        let text = format!("{scheme}://{}/v2/{}/{path}", authority(&base), place.repository);
        text.parse().map_err(|_| bad_address(place, doing))
    }

    /// `https://HOST/`, or with `http` where that is allowed.
    pub(super) fn base(&self, place: &Place, doing: &str) -> Result<Uri, Error> {
        let plain = self.settings.insecure(&place.host) || (is_loopback(&place.host) && self.speaks_plain(&place.host));
        let scheme = if plain { "http" } else { "https" };
        format!("{scheme}://{}/v2/", place.host).parse().map_err(|_| bad_address(place, doing))
    }

    /// This machine's own servers may speak plain HTTP without anybody having said so. One request, which holds nothing,
    /// tells.
    fn speaks_plain(&self, host: &str) -> bool {
        let mut known = self.plain.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(plain) = known.get(host) {
            return *plain;
        }
        let plain = self.http.lacks_tls(&self.settings, host);
        known.insert(host.to_owned(), plain);
        plain
    }
}

impl Place {
    /// How often it is asked.
    pub(super) fn tries(&self) -> u32 {
        if self.mirror { TRIES_OF_MIRROR } else { TRIES }
    }
}

fn bad_address(place: &Place, doing: &str) -> Error {
    Error::Protocol { doing: doing.to_owned(), host: place.host.clone(), reason: "no address that can be asked".into() }
}

/// The scope of a token.
pub(super) fn scope(place: &Place, access: Access) -> String {
    let actions = if access == Access::Push { "pull,push" } else { "pull" };
    format!("repository:{}:{actions}", place.repository)
}

/// A media type without parameters.
fn bare(media_type: &str) -> &str {
    media_type.split(';').next().unwrap_or_default().trim()
}

/// What a manifest says that it is; OCI lets it be silent, and then what it holds tells where the server does not.
fn media_type(content: &[u8], header: Option<String>) -> String {
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Typed {
        media_type: Option<String>,
        manifests: Option<serde::de::IgnoredAny>,
        config: Option<serde::de::IgnoredAny>,
    }
    let typed = serde_json::from_slice::<Typed>(content).ok();
    // What could be read as either is neither (CVE-2021-41190): a signature would cover both.
    if typed.as_ref().is_some_and(|typed| typed.manifests.is_some() && typed.config.is_some()) {
        return String::new();
    }
    let own = typed.as_ref().and_then(|typed| typed.media_type.clone()).filter(|own| !own.is_empty());
    let header = header.filter(|header| ACCEPT.contains(bare(header)) || header.contains("manifest.v1"));
    let held = typed.and_then(|typed| match (typed.manifests, typed.config) {
        (Some(_), None) => Some("application/vnd.oci.image.index.v1+json".to_owned()),
        (None, Some(_)) => Some("application/vnd.oci.image.manifest.v1+json".to_owned()),
        _ => None,
    });
    bare(&own.or(header).or(held).unwrap_or_default()).to_owned()
}

/// A body of at most `max` bytes.
pub(super) fn read_bounded(answer: Response, max: u64, place: &Place, doing: &str) -> Result<Vec<u8>, Error> {
    let (doing, host) = (doing.to_owned(), place.host.clone());
    let mut content = Vec::new();
    let mut reader = answer.into_body().into_with_config().limit(u64::MAX).reader().take(max + 1);
    let until = Instant::now() + DOCUMENT_TIME;
    let mut buffer = [0; 16 << 10];
    loop {
        match reader.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => content.extend_from_slice(buffer.get(..count).unwrap_or_default()),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(Error::Unreachable { doing, host, cause: error.to_string() }),
        }
        if Instant::now() >= until {
            return Err(Error::Unreachable { doing, host, cause: "a small document takes more than 5 minutes".into() });
        }
    }
    if content.len() as u64 > max {
        return Err(Error::Protocol { doing, host, reason: format!("a document of more than {max} bytes") });
    }
    Ok(content)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_is_told_by_itself_its_server_or_what_it_holds() {
        let index = "application/vnd.oci.image.index.v1+json";
        let own = br#"{"mediaType":"application/vnd.docker.distribution.manifest.v2+json"}"#;
        assert_eq!(media_type(own, Some(index.into())), "application/vnd.docker.distribution.manifest.v2+json");
        assert_eq!(media_type(b"{}", Some(format!("{index}; charset=utf-8"))), index);
        assert_eq!(media_type(br#"{"manifests":[]}"#, Some("text/plain".into())), index);
        assert_eq!(media_type(br#"{"config":{}}"#, None), "application/vnd.oci.image.manifest.v1+json");
        let old = "application/vnd.docker.distribution.manifest.v1+prettyjws";
        assert_eq!(media_type(b"{}", Some(old.into())), old);
        assert_eq!(media_type(b"no json", None), "");
    }

    #[test]
    fn a_client_shows_no_secrets() {
        let client = Client::default();
        client.authorizations.lock().unwrap().insert(("h".into(), "s".into()), "Basic c2VjcmV0".into());
        assert!(!format!("{client:?}").contains("c2VjcmV0"));
    }
}
