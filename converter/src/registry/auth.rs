//! Proving who asks: basic authentication, and tokens of the server that a registry names.

use super::challenge::{self, Challenge};
use super::client::{Client, Place, read_bounded};
use super::credentials::{self, Credential};
use super::error::Error;
use super::http::{self, Payload, Request, authority};
use super::reference::{Reference, canonical_host, is_host};
use super::settings::is_loopback;
use serde::Deserialize;
use ureq::ResponseExt;
use ureq::http::{HeaderMap, Method, Uri, header, uri::Scheme};

/// Largest answer of a token server, in bytes.
const TOKEN_MAX: u64 = 1 << 20;
/// How this program names itself to token servers.
const CLIENT: &str = "coracle";

#[derive(Deserialize)]
struct Token {
    token: Option<String>,
    access_token: Option<String>,
}

impl Client {
    /// The header that answers a registry's challenge.
    pub(super) fn authenticate(
        &self,
        place: &Place,
        challenge: &HeaderMap,
        scope: Option<&str>,
        doing: &str,
    ) -> Result<String, Error> {
        let credential = credentials::find(&self.credential_files(), &place.registry, &place.repository)?;
        self.answer(place, challenge, scope, credential.as_ref(), doing)
    }

    fn answer(
        &self,
        place: &Place,
        challenge: &HeaderMap,
        scope: Option<&str>,
        credential: Option<&Credential>,
        doing: &str,
    ) -> Result<String, Error> {
        let login = format!("log in: coracle registry login {}", place.registry);
        let denied = |reason: &str| Error::Denied {
            doing: doing.to_owned(),
            host: place.host.clone(),
            reason: reason.to_owned(),
            remedy: login.clone(),
        };
        match challenge::of(challenge) {
            Some(Challenge::Basic) => credential
                .and_then(Credential::basic)
                .ok_or_else(|| denied("wants a user name and password, and none are known")),
            Some(Challenge::Bearer { realm, service }) => {
                let realm = self.realm(place, &realm, doing)?;
                self.token(place, &realm, service.as_deref(), scope, credential, doing)
            }
            None => Err(denied("denies access and offers no way to authenticate that is supported (Basic, Bearer)")),
        }
    }

    /// The token server, which credentials go to: over TLS, unless the registry is one that does without, and then
    /// only to a host that may as well.
    fn realm(&self, place: &Place, realm: &str, doing: &str) -> Result<Uri, Error> {
        let bad = |reason: &str| Error::Protocol {
            doing: doing.to_owned(),
            host: place.host.clone(),
            reason: format!("a token server {reason}"),
        };
        let uri: Uri = realm.parse().map_err(|_| bad("of no usable address"))?;
        let host = authority(&uri);
        if host.is_empty() || host.contains('@') {
            return Err(bad("of no usable address"));
        }
        let plain_registry = self.base(place, doing)?.scheme() == Some(&Scheme::HTTP);
        let plain_allowed = plain_registry && (is_loopback(host) || self.settings.insecure(host));
        match uri.scheme() {
            Some(scheme) if *scheme == Scheme::HTTPS || (*scheme == Scheme::HTTP && plain_allowed) => Ok(uri),
            _ => Err(bad("that is not reached by HTTPS, which would show credentials to others")),
        }
    }

    fn token(
        &self,
        place: &Place,
        realm: &Uri,
        service: Option<&str>,
        scope: Option<&str>,
        credential: Option<&Credential>,
        doing: &str,
    ) -> Result<String, Error> {
        let mut query = vec![("client_id", CLIENT)];
        query.extend(service.map(|service| ("service", service)));
        query.extend(scope.map(|scope| ("scope", scope)));
        let form;
        let mut request = Request {
            method: Method::GET,
            uri: realm.clone(),
            headers: Vec::new(),
            payload: Payload::None,
            doing,
            tries: place.tries(),
        };
        let mut basic = None;
        if let Some(Credential::Identity(token)) = credential {
            query.extend([("grant_type", "refresh_token"), ("refresh_token", token)]);
            form = encoded(&query);
            request.method = Method::POST;
            request.headers.push((header::CONTENT_TYPE, "application/x-www-form-urlencoded".to_owned()));
            request.payload = Payload::Bytes(form.as_bytes());
        } else {
            basic = credential.and_then(Credential::basic);
            let joint = if realm.query().is_some() { '&' } else { '?' };
            request.uri = format!("{realm}{joint}{}", encoded(&query)).parse().map_err(|_| Error::Protocol {
                doing: doing.to_owned(),
                host: place.host.clone(),
                reason: "a token server of no usable address".to_owned(),
            })?;
        }
        let answer = self.http.send(&self.settings, &request, basic.as_deref())?;
        let there = Place { host: authority(realm).to_owned(), ..place.clone() };
        match answer.status().as_u16() {
            200..=299 => {}
            400 | 401 | 403 => {
                let known = if credential.is_some() {
                    "refuses the credentials that are kept for it"
                } else {
                    "gives no token without a login"
                };
                return Err(Error::Denied {
                    doing: doing.to_owned(),
                    host: there.host,
                    reason: known.to_owned(),
                    remedy: format!("check the name, or log in: coracle registry login {}", place.registry),
                });
            }
            _ => return Err(http::refusal(answer, realm, doing)),
        }
        let content = read_bounded(answer, TOKEN_MAX, &there, doing)?;
        // A parser's message could quote the token.
        let token = serde_json::from_slice::<Token>(&content).ok();
        let token = token
            .and_then(|token| token.token.or(token.access_token))
            .filter(|token| !token.is_empty() && token.bytes().all(|c| c.is_ascii_graphic()));
        token.map(|token| format!("Bearer {token}")).ok_or_else(|| Error::Protocol {
            doing: doing.to_owned(),
            host: there.host,
            reason: "something else than a token".to_owned(),
        })
    }

    /// Checks credentials against a registry. `HOST[:PORT]`, perhaps with a name space behind it.
    ///
    /// # Errors
    /// When the registry does not answer, or does not accept them.
    pub fn check_login(&self, registry: &str, credential: &Credential) -> Result<(), Error> {
        let (host, space) = registry.split_once('/').unwrap_or((registry, ""));
        let host = canonical_host(host);
        if !is_host(&host) {
            let reason = "a registry is HOST or HOST:PORT, perhaps with /NAMESPACE";
            return Err(Error::Reference { given: registry.to_owned(), reason });
        }
        // Only where it is asked matters.
        let name: Reference = format!("{host}/x").parse()?;
        let mut place = self.origin(&name);
        place.repository = space.to_owned();
        let doing = format!("log in to {registry}");
        let request = |uri: Uri| Request {
            method: Method::GET,
            uri,
            headers: Vec::new(),
            payload: Payload::None,
            doing: &doing,
            tries: place.tries(),
        };
        let base = self.base(&place, &doing)?;
        let answer = self.http.send(&self.settings, &request(base.clone()), None)?;
        if answer.status().is_success() {
            // Whoever asks may read it; there is nothing to check credentials by.
            return Ok(());
        }
        if answer.status().as_u16() != 401 || !http::same_origin(answer.get_uri(), &base) {
            return Err(http::refusal(answer, &base, &doing));
        }
        let header = self.answer(&place, answer.headers(), None, Some(credential), &doing)?;
        let answer = self.http.send(&self.settings, &request(base.clone()), Some(&header))?;
        match answer.status().as_u16() {
            200..=299 => Ok(()),
            401 | 403 => Err(Error::Denied {
                doing: doing.clone(),
                host: place.host.clone(),
                reason: "does not accept this user name and password".to_owned(),
                remedy: "check both".to_owned(),
            }),
            _ => Err(http::refusal(answer, &base, &doing)),
        }
    }
}

/// As a query or form: everything but letters, digits and `-._~` in hexadecimal.
fn encoded(pairs: &[(&str, &str)]) -> String {
    use std::fmt::Write;
    let mut text = String::new();
    for (name, value) in pairs {
        if !text.is_empty() {
            text.push('&');
        }
        text.push_str(name);
        text.push('=');
        for byte in value.bytes() {
            match byte {
                b'-' | b'.' | b'_' | b'~' => text.push(char::from(byte)),
                _ if byte.is_ascii_alphanumeric() => text.push(char::from(byte)),
                // Writing to a string cannot fail.
                _ => drop(write!(text, "%{byte:02X}")),
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_encoded() {
        assert_eq!(encoded(&[("a", "x y:z/é"), ("b", "1~")]), "a=x%20y%3Az%2F%C3%A9&b=1~");
    }

    #[test]
    fn credentials_go_to_no_plain_token_server() {
        let client = Client::default();
        let reference: Reference = "registry.example/a".parse().unwrap();
        let place = client.origin(&reference);
        for realm in ["http://auth.example/token", "http://127.0.0.1/token", "ftp://x/", "https://me@x/", "token"] {
            assert!(client.realm(&place, realm, "pull").is_err(), "{realm}");
        }
        assert!(client.realm(&place, "https://auth.example/token", "pull").is_ok());
    }
}
