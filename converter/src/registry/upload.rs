//! One blob into a repository: not at all when it is there, by reference when another repository has it, else in
//! pieces, each of which can be sent again.

use super::client::{Access, Ask, Client, Place};
use super::error::Error;
use super::http::{self, Pauses, Payload, Response, TRIES};
use crate::digest::Digest;
use ureq::http::{Method, Uri, header};

/// Bytes of a piece.
const PIECE: u64 = 64 << 20;
/// The largest piece that a registry may ask for.
const PIECE_MAX: u64 = 1 << 30;

/// A blob on its way.
pub struct Upload<'a> {
    /// Talks to the registry.
    pub client: &'a Client,
    /// Where it goes.
    pub place: &'a Place,
    /// For messages.
    pub doing: &'a str,
    /// Its digest.
    pub digest: Digest,
    /// Its size.
    pub size: u64,
    /// A repository of the same registry that may have it.
    pub from: Option<&'a str>,
}

impl Upload<'_> {
    /// Sees to it that the registry has the blob; false when it had.
    ///
    /// # Errors
    /// When the registry does not take it.
    pub fn run(&self, content: Payload<'_>, advanced: &dyn Fn(u64)) -> Result<bool, Error> {
        if self.is_there()? {
            advanced(self.size);
            return Ok(false);
        }
        let mut pauses = Pauses::new(TRIES);
        let Some((mut session, piece)) = self.begin()? else {
            advanced(self.size);
            return Ok(false);
        };
        let mut position = 0;
        while position < self.size {
            let length = piece.min(self.size - position);
            match self.send(&session, part(content, position, length), position, length) {
                Ok(next) => {
                    (session, position) = (next, position + length);
                    advanced(length);
                    pauses = Pauses::new(TRIES);
                }
                Err(error) if !may_pass(&error) || !pauses.pause(None) => return Err(error),
                // The registry says how much of the piece it has.
                Err(_) => match self.state(&session) {
                    Ok((next, there)) => (session, position) = (next, there.min(self.size)),
                    Err(error) if !may_pass(&error) => {
                        // It has forgotten about it.
                        let Some((next, _)) = self.begin()? else { return Ok(false) };
                        (session, position) = (next, 0);
                    }
                    Err(_) => {}
                },
            }
        }
        let joint = if session.query().is_some() { '&' } else { '?' };
        let uri = format!("{session}{joint}digest={}", self.digest).parse().map_err(|_| self.no_place())?;
        let answer = self.ask(Method::PUT, &uri, Vec::new(), Payload::Bytes(b""))?;
        if answer.status().is_success() { Ok(true) } else { Err(http::refusal(answer, &uri, self.doing)) }
    }

    fn is_there(&self) -> Result<bool, Error> {
        let uri = self.client.uri(self.place, &format!("blobs/{}", self.digest), self.doing)?;
        let answer = self.ask(Method::HEAD, &uri, Vec::new(), Payload::None)?;
        match answer.status().as_u16() {
            200 => Ok(true),
            404 => Ok(false),
            _ => Err(http::refusal(answer, &uri, self.doing)),
        }
    }

    /// The address to upload to and the bytes of a piece; `None` when the registry took it from another repository.
    fn begin(&self) -> Result<Option<(Uri, u64)>, Error> {
        let query = self.from.map(|from| format!("?mount={}&from={from}", self.digest)).unwrap_or_default();
        let uri = self.client.uri(self.place, &format!("blobs/uploads/{query}"), self.doing)?;
        let answer = self.ask(Method::POST, &uri, Vec::new(), Payload::Bytes(b""))?;
        match answer.status().as_u16() {
            201 => Ok(None),
            202 => {
                let least =
                    answer.headers().get("oci-chunk-min-length").and_then(|value| value.to_str().ok()?.parse().ok());
                let piece = least.unwrap_or(PIECE).clamp(PIECE, PIECE_MAX);
                Ok(Some((http::location(&uri, &answer).ok_or_else(|| self.no_place())?, piece)))
            }
            _ => Err(http::refusal(answer, &uri, self.doing)),
        }
    }

    fn send(&self, session: &Uri, payload: Payload<'_>, position: u64, length: u64) -> Result<Uri, Error> {
        let last = position + length - 1;
        let headers = vec![
            (header::CONTENT_TYPE, "application/octet-stream".to_owned()),
            (header::CONTENT_RANGE, format!("{position}-{last}")),
        ];
        let answer = self.ask(Method::PATCH, session, headers, payload)?;
        match answer.status().as_u16() {
            200..=299 => http::location(session, &answer).ok_or_else(|| self.no_place()),
            _ => Err(http::refusal(answer, session, self.doing)),
        }
    }

    /// Where to go on, and how many bytes are there.
    fn state(&self, session: &Uri) -> Result<(Uri, u64), Error> {
        let answer = self.ask(Method::GET, session, Vec::new(), Payload::None)?;
        if !answer.status().is_success() {
            return Err(http::refusal(answer, session, self.doing));
        }
        // `0-9` for ten bytes; `0-0` is what some say for none.
        let range = answer.headers().get(header::RANGE).and_then(|value| value.to_str().ok());
        let last = range.and_then(|range| range.rsplit_once('-')).and_then(|(_, last)| last.parse::<u64>().ok());
        let there = last.map_or(0, |last| if last == 0 { 0 } else { last + 1 });
        Ok((http::location(session, &answer).unwrap_or_else(|| session.clone()), there))
    }

    fn ask(
        &self,
        method: Method,
        uri: &Uri,
        headers: Vec<(header::HeaderName, String)>,
        payload: Payload<'_>,
    ) -> Result<Response, Error> {
        let ask = Ask { method, uri: uri.clone(), headers, payload, doing: self.doing, access: Access::Push };
        self.client.call(self.place, &ask)
    }

    fn no_place(&self) -> Error {
        let reason = "no place to upload to".to_owned();
        Error::Protocol { doing: self.doing.to_owned(), host: self.place.host.clone(), reason }
    }
}

fn part(content: Payload<'_>, position: u64, length: u64) -> Payload<'_> {
    match content {
        Payload::None => Payload::None,
        Payload::Bytes(bytes) => {
            let start = usize::try_from(position).unwrap_or(usize::MAX);
            Payload::Bytes(bytes.get(start..).unwrap_or_default())
        }
        Payload::Part(file, start, _) => Payload::Part(file, start + position, length),
    }
}

fn may_pass(error: &Error) -> bool {
    match error {
        Error::Unreachable { .. } | Error::RateLimited { .. } => true,
        // The piece does not follow what is there.
        Error::Status { status, .. } => *status == 416 || *status >= 500,
        _ => false,
    }
}
