//! A blob of a registry, streamed: a connection that breaks is taken up again where it broke.

use super::client::{Access, Ask, Client, Place};
use super::error::Error;
use super::http::{self, Pauses, Payload, Request, Response, TRIES, TRIES_OF_MIRROR, authority};
use super::reference::Reference;
use crate::digest::Digest;
use crate::layer::Blob;
use std::fmt;
use std::io::{self, Read};
use std::sync::Arc;
use ureq::BodyReader;
use ureq::http::{Method, Uri, header, uri::Scheme};

/// So many bytes after a break show that trying again makes sense.
const PROGRESS: u64 = 64 << 10;
/// Addresses of a layer that are tried; a manifest may name any number.
const URLS_MAX: usize = 4;

/// A blob that can be fetched, whole or in part.
#[derive(Clone)]
pub struct RemoteBlob {
    pub(super) client: Arc<Client>,
    pub(super) reference: Reference,
    pub(crate) digest: Digest,
    pub(super) size: u64,
    /// Of layers that registries may not distribute.
    pub(super) urls: Vec<String>,
}

impl fmt::Debug for RemoteBlob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RemoteBlob").field("digest", &self.digest).field("size", &self.size).finish_non_exhaustive()
    }
}

impl RemoteBlob {
    /// The blob of a descriptor.
    pub fn new(client: &Arc<Client>, reference: &Reference, digest: Digest, size: u64, urls: Vec<String>) -> Self {
        Self { client: Arc::clone(client), reference: reference.clone(), digest, size, urls }
    }

    pub(super) fn doing(&self) -> String {
        format!("pull {} of {}", self.digest, self.reference.name())
    }

    /// Asks for the bytes from `start` to `end`, of places from the `skip`th on. Only with `ranged`, or when it is not
    /// the whole, is a range asked for.
    fn request(&self, start: u64, end: u64, ranged: bool, skip: usize) -> Result<Answer, Error> {
        let doing = self.doing();
        let mut headers = Vec::new();
        if ranged || start > 0 || end < self.size {
            headers.push((header::RANGE, format!("bytes={start}-{}", end.saturating_sub(1))));
        }
        let from_registry = self.registries(&headers, &doing, start, skip);
        // What a registry has it need not be asked of others for; a site may have no way to them.
        let missing =
            matches!(&from_registry, Err(error) if !self.urls.is_empty() && !matches!(error, Error::Denied { .. }));
        let elsewhere = self.urls.iter().take(URLS_MAX).filter(|_| missing);
        let found = elsewhere.map(|url| self.foreign(url, &headers, &doing, start)).find_map(Result::ok);
        found.map_or(from_registry, Ok)
    }

    fn registries(
        &self,
        headers: &[(header::HeaderName, String)],
        doing: &str,
        start: u64,
        skip: usize,
    ) -> Result<Answer, Error> {
        let places = self.client.places(&self.reference);
        let last = places.len().saturating_sub(1);
        let mut failed = Vec::new();
        for place in places.iter().skip(skip.min(last)) {
            match self.at(place, headers, doing, start) {
                Ok(answer) => return Ok(answer),
                Err(error) if place.mirror => failed.push(error.to_string()),
                Err(error) if failed.is_empty() => return Err(error),
                Err(error) => return Err(Error::Mirrors { origin: Box::new(error), mirrors: failed.join("; ") }),
            }
        }
        Err(Error::Protocol {
            doing: doing.to_owned(),
            host: self.reference.host().to_owned(),
            reason: "nothing".into(),
        })
    }

    fn at(
        &self,
        place: &Place,
        headers: &[(header::HeaderName, String)],
        doing: &str,
        start: u64,
    ) -> Result<Answer, Error> {
        let uri = self.client.uri(place, &format!("blobs/{}", self.digest), doing)?;
        let (method, payload, access) = (Method::GET, Payload::None, Access::Pull);
        let ask = Ask { method, uri, headers: headers.to_vec(), payload, doing, access };
        let answer = self.client.call(place, &ask)?;
        self.accept(answer, &ask.uri, doing, start).map_err(|error| match error {
            Error::NotFound { doing, host, detail, .. } => Error::NotFound { doing, host, what: "blob", detail },
            other => other,
        })
    }

    /// A layer from where its publisher has it. Nobody is logged in there.
    fn foreign(
        &self,
        url: &str,
        headers: &[(header::HeaderName, String)],
        doing: &str,
        start: u64,
    ) -> Result<Answer, Error> {
        let bad = || Error::Protocol {
            doing: doing.to_owned(),
            host: self.reference.host().to_owned(),
            reason: "an address of a layer that cannot be used".to_owned(),
        };
        let uri: Uri = url.parse().map_err(|_| bad())?;
        let plain = self.client.base(&self.client.origin(&self.reference), doing)?.scheme() == Some(&Scheme::HTTP);
        let allowed = uri.scheme() == Some(&Scheme::HTTPS) || (plain && uri.scheme() == Some(&Scheme::HTTP));
        if !allowed || authority(&uri).is_empty() || authority(&uri).contains('@') {
            return Err(bad());
        }
        let (method, payload, tries) = (Method::GET, Payload::None, TRIES_OF_MIRROR);
        let request = Request { method, uri: uri.clone(), headers: headers.to_vec(), payload, doing, tries };
        self.accept(self.client.http.send(&self.client.settings, &request, None)?, &uri, doing, start)
    }

    /// Sees to it that the answer can be what was asked for.
    fn accept(&self, answer: Response, uri: &Uri, doing: &str, start: u64) -> Result<Answer, Error> {
        let wrong_size = |found| Error::Size {
            doing: doing.to_owned(),
            host: authority(uri).to_owned(),
            expected: self.size,
            found,
        };
        let text = |name: header::HeaderName| answer.headers().get(name).and_then(|value| value.to_str().ok());
        let partial = match answer.status().as_u16() {
            200 => {
                let length = text(header::CONTENT_LENGTH).and_then(|length| length.parse().ok());
                if let Some(found) = length.filter(|length| *length != self.size) {
                    return Err(wrong_size(found));
                }
                false
            }
            206 => {
                // `bytes 5-9/100`, or `*` for a length that the server does not know.
                let range = text(header::CONTENT_RANGE).and_then(|range| range.strip_prefix("bytes "));
                let (range, total) = range.and_then(|range| range.split_once('/')).unwrap_or_default();
                let from = range.split_once('-').and_then(|(from, _)| from.parse::<u64>().ok());
                if let Some(found) = total.parse().ok().filter(|total| *total != self.size) {
                    return Err(wrong_size(found));
                }
                if from != Some(start) {
                    return Err(Error::Protocol {
                        doing: doing.to_owned(),
                        host: authority(uri).to_owned(),
                        reason: "another range than was asked for".to_owned(),
                    });
                }
                true
            }
            416 => {
                let range = text(header::CONTENT_RANGE).and_then(|range| range.strip_prefix("bytes */"));
                return Err(wrong_size(range.and_then(|total| total.parse().ok()).unwrap_or(start)));
            }
            _ => return Err(http::refusal(answer, uri, doing)),
        };
        let host = authority(uri).to_owned();
        Ok(Answer { body: answer.into_body().into_with_config().limit(u64::MAX).reader(), partial, host })
    }
}

struct Answer {
    body: BodyReader<'static>,
    /// Begins where it was asked to, not at 0.
    partial: bool,
    host: String,
}

impl Blob for RemoteBlob {
    fn open(&self) -> io::Result<Box<dyn Read + Send + '_>> {
        Ok(Box::new(Stream::new(self, 0, self.size, false, true)))
    }
}

/// A part of a blob being read.
pub struct Stream<'b> {
    blob: &'b RemoteBlob,
    position: u64,
    end: u64,
    ranged: bool,
    body: Option<BodyReader<'static>>,
    /// Bytes in front of the position that a server without ranges sends again.
    discard: u64,
    host: String,
    pauses: Pauses,
    since_break: u64,
    skip: usize,
    /// A server that sends the whole in place of a part decides that this part is the whole; not once others fetch theirs.
    widens: bool,
}

impl<'b> Stream<'b> {
    /// Nothing is asked for yet. With `ranged` a range is asked for even if it is the whole.
    pub fn new(blob: &'b RemoteBlob, start: u64, end: u64, ranged: bool, widens: bool) -> Self {
        Self {
            blob,
            position: start,
            end,
            ranged,
            body: None,
            discard: 0,
            host: String::new(),
            pauses: Pauses::new(TRIES),
            since_break: 0,
            skip: 0,
            widens,
        }
    }

    /// Asks for the part; true when the server sends only that, false when it sends the whole blob, which is read to
    /// its end then.
    ///
    /// # Errors
    /// When nobody has it.
    pub fn connect(&mut self) -> Result<bool, Error> {
        let answer = self.blob.request(self.position, self.end, self.ranged, self.skip)?;
        if answer.partial {
            self.widens = false;
        } else {
            self.discard = self.position;
            if self.widens {
                self.end = self.blob.size;
            }
        }
        self.body = Some(answer.body);
        self.host = answer.host;
        Ok(answer.partial)
    }

    fn broken(&mut self, cause: &str) -> io::Result<()> {
        self.body = None;
        if self.since_break >= PROGRESS {
            self.pauses = Pauses::new(TRIES);
        }
        self.since_break = 0;
        if self.pauses.pause(None) {
            return Ok(());
        }
        if self.skip + 1 < self.blob.client.places(&self.blob.reference).len() {
            self.skip += 1;
            self.pauses = Pauses::new(TRIES);
            return Ok(());
        }
        let cause = format!("the connection broke at byte {} of {}: {cause}", self.position, self.blob.size);
        Err(io::Error::other(Error::Unreachable { doing: self.blob.doing(), host: self.host.clone(), cause }))
    }
}

impl Read for Stream<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let left = self.end.saturating_sub(self.position);
            if left == 0 || buffer.is_empty() {
                return Ok(0);
            }
            let Some(body) = &mut self.body else {
                self.connect().map_err(io::Error::other)?;
                continue;
            };
            let wanted = if self.discard > 0 { self.discard } else { left };
            let room = buffer.len().min(usize::try_from(wanted).unwrap_or(usize::MAX));
            match body.read(buffer.get_mut(..room).unwrap_or_default()) {
                Ok(0) => self.broken("it ended early")?,
                Ok(count) if self.discard > 0 => self.discard -= count as u64,
                Ok(count) => {
                    self.position += count as u64;
                    self.since_break += count as u64;
                    return Ok(count);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => self.broken(&error.to_string())?,
            }
        }
    }
}
