//! Requests: one agent for each host with the roots that it is trusted by, redirects that never carry credentials to
//! another host, and another try after what may pass.

use super::error::{Error, words};
use super::limits;
use super::settings::{Settings, is_loopback};
use super::tls;
use crate::section::Section;
use std::collections::HashMap;
use std::fs::File;
use std::hash::{BuildHasher, Hasher};
use std::io::{self, Read};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;
use ureq::http::{self, Method, StatusCode, Uri, header};
use ureq::tls::{RootCerts, TlsConfig};
use ureq::{Agent, Body, SendBody};

/// An answer whose body has not been read.
pub type Response = http::Response<Body>;

/// Until a connection stands.
const CONNECT: Duration = Duration::from_secs(20);
/// Until a server begins to answer; a registry that caches another may fetch first.
const ANSWER: Duration = Duration::from_secs(120);
/// Without a single byte in either direction.
const SILENCE: Duration = Duration::from_secs(60);
/// Redirects in a row.
const REDIRECTS: usize = 5;
/// Tries, when nothing else can be asked.
pub const TRIES: u32 = 6;
/// Tries, when another place has the same.
pub const TRIES_OF_MIRROR: u32 = 2;
/// The pause before the second try; each is twice the one before.
const PAUSE: Duration = Duration::from_millis(250);
/// The longest pause that is made without being asked to.
const PAUSE_MAX: Duration = Duration::from_secs(20);
/// The longest pause that a server may ask for; a limit that lasts longer is the user's to know of.
const PAUSE_ASKED_MAX: Duration = Duration::from_secs(90);
/// Largest error document that is looked at, in bytes.
const REFUSAL_MAX: u64 = 64 << 10;

/// What goes with a request.
#[derive(Clone, Copy)]
pub enum Payload<'a> {
    /// Nothing.
    None,
    /// Bytes in memory.
    Bytes(&'a [u8]),
    /// Part of a file: start and length.
    Part(&'a File, u64, u64),
}

/// A request that can be made again.
pub struct Request<'a> {
    /// GET, HEAD, …
    pub method: Method,
    /// Absolute.
    pub uri: Uri,
    /// Without `Authorization`.
    pub headers: Vec<(header::HeaderName, String)>,
    /// Its body.
    pub payload: Payload<'a>,
    /// What it is for: `pull debian:12`.
    pub doing: &'a str,
    /// How often it may be made.
    pub tries: u32,
}

/// Makes requests.
pub struct Http {
    agents: Mutex<HashMap<String, Agent>>,
    roots: tls::Roots,
}

impl Http {
    /// Nothing is read or connected yet.
    pub fn new() -> Self {
        Self { agents: Mutex::default(), roots: tls::Roots::default() }
    }

    fn agent(&self, settings: &Settings, uri: &Uri) -> Result<Agent, Error> {
        let authority = authority(uri);
        let key = format!("{}://{authority}", uri.scheme_str().unwrap_or_default());
        let mut agents = self.agents.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(agent) = agents.get(&key) {
            return Ok(agent.clone());
        }
        let mut config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .user_agent(concat!("coracle/", env!("CARGO_PKG_VERSION")))
            .max_idle_connections_per_host(settings.connections.get() + 1)
            .timeout_connect(Some(CONNECT))
            .timeout_recv_response(Some(ANSWER))
            .timeout_per_read(Some(SILENCE))
            .timeout_per_write(Some(SILENCE));
        if is_loopback(authority) {
            // As Go's programs do, whatever HTTP_PROXY says.
            config = config.proxy(None);
        }
        if uri.scheme() == Some(&http::uri::Scheme::HTTPS) {
            let extra = settings.host(authority).map(|host| host.ca_files.as_slice()).unwrap_or_default();
            let tls = match self.roots.with(extra)? {
                Some(roots) => TlsConfig::builder().root_certs(RootCerts::Specific(roots)).build(),
                None => TlsConfig::builder().root_certs(RootCerts::WebPki).build(),
            };
            config = config.tls_config(tls);
        }
        let agent = config.build().new_agent();
        agents.insert(key, agent.clone());
        Ok(agent)
    }

    /// Makes the request until it is answered, and returns any answer that does not ask for another try.
    ///
    /// # Errors
    /// When there is no answer, or none but pleas for patience.
    pub fn send(
        &self,
        settings: &Settings,
        request: &Request<'_>,
        authorization: Option<&str>,
    ) -> Result<Response, Error> {
        let mut pauses = Pauses::new(request.tries);
        loop {
            let (error, asked) = match self.follow(settings, request, authorization) {
                Ok(response) if !may_pass(response.status()) => return Ok(response),
                Ok(response) => {
                    let asked = limits::retry_after(response.headers());
                    (refusal(response, &request.uri, request.doing), asked)
                }
                Err(Failure::Lasting(error)) => return Err(error),
                Err(Failure::Passing(error)) => (error, None),
            };
            if !pauses.pause(asked) {
                return Err(error);
            }
        }
    }

    /// Whether a host answers a handshake as none does that speaks TLS.
    pub fn lacks_tls(&self, settings: &Settings, host: &str) -> bool {
        let Ok(uri) = format!("https://{host}/v2/").parse::<Uri>() else { return false };
        let Ok(agent) = self.agent(settings, &uri) else { return false };
        agent.get(uri).call().is_err_and(|error| speaks_no_tls(&error))
    }

    /// Follows redirects. Credentials go to the host that they are for, and to no other.
    fn follow(
        &self,
        settings: &Settings,
        request: &Request<'_>,
        authorization: Option<&str>,
    ) -> Result<Response, Failure> {
        let mut uri = request.uri.clone();
        for _ in 0..=REDIRECTS {
            let authorization = authorization.filter(|_| same_origin(&uri, &request.uri));
            let response = self.once(settings, request, &uri, authorization)?;
            let follows = matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308);
            if !follows || !matches!(request.method, Method::GET | Method::HEAD) {
                return Ok(response);
            }
            let bad = |reason: &str| {
                let host = authority(&uri).to_owned();
                Failure::Lasting(Error::Protocol { doing: request.doing.to_owned(), host, reason: reason.to_owned() })
            };
            let location = location(&uri, &response).ok_or_else(|| bad("a redirect that leads nowhere"))?;
            if uri.scheme() == Some(&http::uri::Scheme::HTTPS) && location.scheme() != uri.scheme() {
                return Err(bad("a redirect from HTTPS to plain HTTP, which is not followed"));
            }
            uri = location;
        }
        let host = authority(&request.uri).to_owned();
        let reason = "too many redirects".to_owned();
        Err(Failure::Lasting(Error::Protocol { doing: request.doing.to_owned(), host, reason }))
    }

    fn once(
        &self,
        settings: &Settings,
        request: &Request<'_>,
        uri: &Uri,
        authorization: Option<&str>,
    ) -> Result<Response, Failure> {
        let agent = self.agent(settings, uri).map_err(Failure::Lasting)?;
        let mut builder = http::Request::builder().method(&request.method).uri(uri);
        for (name, value) in &request.headers {
            builder = builder.header(name, value);
        }
        if let Some(authorization) = authorization {
            builder = builder.header(header::AUTHORIZATION, authorization);
        }
        let unusable = |_| {
            let reason = "something that cannot be asked for again".to_owned();
            let host = authority(uri).to_owned();
            Failure::Lasting(Error::Protocol { doing: request.doing.to_owned(), host, reason })
        };
        let answer = match request.payload {
            Payload::None => agent.run(builder.body(()).map_err(unusable)?),
            Payload::Bytes(bytes) => {
                let builder = builder.header(header::CONTENT_LENGTH, bytes.len().to_string());
                agent.run(builder.body(bytes).map_err(unusable)?)
            }
            Payload::Part(file, start, length) => {
                let builder = builder.header(header::CONTENT_LENGTH, length.to_string());
                let mut part = Section::new(file, start, length);
                agent.run(builder.body(SendBody::from_reader(&mut part)).map_err(unusable)?)
            }
        };
        answer.map_err(|error| failure(error, uri, request.doing))
    }
}

/// A request without a usable answer.
enum Failure {
    /// Another try would end the same way.
    Lasting(Error),
    /// It may work in a moment.
    Passing(Error),
}

/// Host and port of a request.
pub fn authority(uri: &Uri) -> &str {
    uri.authority().map(http::uri::Authority::as_str).unwrap_or_default()
}

/// Whether what is for the one may go to the other.
pub fn same_origin(one: &Uri, other: &Uri) -> bool {
    one.scheme() == other.scheme() && one.authority() == other.authority()
}

/// Where an answer leads.
pub fn location(from: &Uri, response: &Response) -> Option<Uri> {
    let text = response.headers().get(header::LOCATION)?.to_str().ok()?;
    let uri: Uri = if text.starts_with("//") {
        format!("{}:{text}", from.scheme_str()?).parse().ok()?
    } else if text.starts_with('/') {
        format!("{}://{}{text}", from.scheme_str()?, authority(from)).parse().ok()?
    } else {
        text.parse().ok()?
    };
    let web = matches!(uri.scheme_str(), Some("http" | "https"));
    // A name before the host would be shown in messages, and no registry has one.
    (web && !authority(&uri).is_empty() && !authority(&uri).contains('@')).then_some(uri)
}

fn may_pass(status: StatusCode) -> bool {
    matches!(status.as_u16(), 429 | 500 | 502 | 503 | 504)
}

/// Whether an answer to a handshake shows that the other side does not speak TLS.
fn speaks_no_tls(error: &ureq::Error) -> bool {
    match error {
        ureq::Error::Io(error) => match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            Some(rustls::Error::InvalidMessage(_)) => true,
            Some(_) => false,
            None => matches!(error.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset),
        },
        ureq::Error::Rustls(rustls::Error::InvalidMessage(_)) => true,
        _ => false,
    }
}

/// Says why there was no answer, and whether that may change.
fn failure(error: ureq::Error, uri: &Uri, doing: &str) -> Failure {
    let (doing, host) = (doing.to_owned(), authority(uri).to_owned());
    let tls = match &error {
        ureq::Error::Rustls(error) => Some(error),
        ureq::Error::Io(error) => error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()),
        _ => None,
    };
    if let Some(tls) = tls {
        let remedy = match tls {
            rustls::Error::InvalidCertificate(_) => {
                "if its certificate is the site's own, name the CA in ca-files of [registry.hosts] or in SSL_CERT_FILE"
            }
            rustls::Error::InvalidMessage(_) => {
                "if it speaks plain HTTP, say insecure = true in [registry.hosts] of coracle.toml"
            }
            _ => "check that it offers TLS 1.2 or later",
        };
        return Failure::Lasting(Error::Tls { doing, host, cause: tls.to_string(), remedy });
    }
    let cause = match &error {
        ureq::Error::Io(error) => error.to_string(),
        other => other.to_string(),
    };
    let unreachable = Error::Unreachable { doing, host, cause };
    match error {
        ureq::Error::Io(_)
        | ureq::Error::Timeout(_)
        | ureq::Error::ConnectionFailed
        | ureq::Error::HostNotFound
        | ureq::Error::BodyStalled
        | ureq::Error::Protocol(_) => Failure::Passing(unreachable),
        _ => Failure::Lasting(unreachable),
    }
}

/// Counts tries, and makes the pauses between them longer and of uneven length.
pub struct Pauses {
    left: u32,
    next: Duration,
}

impl Pauses {
    /// For so many tries.
    pub fn new(tries: u32) -> Self {
        Self { left: tries.saturating_sub(1), next: PAUSE }
    }

    /// Waits before another try; false when there is none left, or the wait asked for is too long.
    pub fn pause(&mut self, asked: Option<Duration>) -> bool {
        if self.left == 0 || asked.is_some_and(|asked| asked > PAUSE_ASKED_MAX) {
            return false;
        }
        self.left -= 1;
        // Many nodes that were refused together should not come again together.
        let jitter = std::collections::hash_map::RandomState::new().build_hasher().finish() % 512;
        let own = self.next.mul_f64(0.75 + jitter as f64 / 1024.0);
        self.next = (self.next * 2).min(PAUSE_MAX);
        thread::sleep(asked.map_or(own, |asked| asked + own / 4));
        true
    }
}

/// An answer that is a refusal, in words.
pub fn refusal(response: Response, uri: &Uri, doing: &str) -> Error {
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    let (doing, host) = (doing.to_owned(), authority(uri).to_owned());
    let detail = refusal_words(response);
    match status {
        429 => {
            let (limit, wait) = limits::explain(&headers);
            Error::RateLimited { doing, host, detail, limit, wait }
        }
        404 => Error::NotFound { doing, host, what: "image or tag", detail },
        _ => Error::Status { doing, host, status, detail },
    }
}

/// The messages of an error document.
fn refusal_words(response: Response) -> String {
    #[derive(serde::Deserialize)]
    struct Refusal {
        errors: Vec<Entry>,
    }
    #[derive(serde::Deserialize)]
    struct Entry {
        code: Option<String>,
        message: Option<String>,
    }
    let mut text = Vec::new();
    let read = response.into_body().into_reader().take(REFUSAL_MAX).read_to_end(&mut text);
    let Ok(refusal) = read.map_err(drop).and_then(|_| serde_json::from_slice::<Refusal>(&text).map_err(drop)) else {
        return String::new();
    };
    let said = refusal.errors.into_iter().take(3).filter_map(|entry| entry.message.or(entry.code)).collect::<Vec<_>>();
    words(&said.join("; "))
}
