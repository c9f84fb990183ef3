//! What can go wrong with a registry. No text here ever holds credentials, nor a query, which may be a signed one.

use crate::digest::Digest;
use crate::text::Name;
use std::io;
use std::path::PathBuf;

/// Why a registry did not give or take what it should.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A name that no image can have.
    #[error("cannot use {given:?} as the name of an image: {reason}")]
    Reference {
        /// As given.
        given: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// No answer came.
    #[error("cannot {doing}: {host} does not answer: {cause}: check the name, the network and HTTPS_PROXY")]
    Unreachable {
        /// What was being done.
        doing: String,
        /// Host and port.
        host: String,
        /// What the connection said.
        cause: String,
    },
    /// The server is not who it should be, or does not speak TLS.
    #[error("cannot {doing}: no trusted connection to {host}: {cause}: {remedy}")]
    Tls {
        /// What was being done.
        doing: String,
        /// Host and port.
        host: String,
        /// What was wrong.
        cause: String,
        /// What to do.
        remedy: &'static str,
    },
    /// The server refused.
    #[error("cannot {doing}: {host} answers {status}{}", in_brackets(.detail))]
    Status {
        /// What was being done.
        doing: String,
        /// Host and port.
        host: String,
        /// HTTP status.
        status: u16,
        /// The registry's own words, may be empty.
        detail: String,
    },
    /// The server wants fewer requests.
    #[error("cannot {doing}: {host} limits how much is pulled{}{limit}: wait{wait}, log in (coracle registry login), or have the site set up a mirror", in_brackets(.detail))]
    RateLimited {
        /// What was being done.
        doing: String,
        /// Host and port.
        host: String,
        /// The registry's own words, may be empty.
        detail: String,
        /// The limit as its headers have it, with punctuation.
        limit: String,
        /// How long, with punctuation.
        wait: String,
    },
    /// Credentials are missing, wrong, or not enough.
    #[error("cannot {doing}: {host} {reason}: {remedy}")]
    Denied {
        /// What was being done.
        doing: String,
        /// Host and port.
        host: String,
        /// What it made of what it was given.
        reason: String,
        /// What to do.
        remedy: String,
    },
    /// Nothing of that name.
    #[error("cannot {doing}: {host} has no such {what}{}", in_brackets(.detail))]
    NotFound {
        /// What was being done.
        doing: String,
        /// Host and port.
        host: String,
        /// What it lacks.
        what: &'static str,
        /// The registry's own words, may be empty.
        detail: String,
    },
    /// An answer that no registry should give.
    #[error("cannot {doing}: {host} answers with {reason}")]
    Protocol {
        /// What was being done.
        doing: String,
        /// Host and port.
        host: String,
        /// What is wrong.
        reason: String,
    },
    /// Content that is not what was asked for.
    #[error("cannot {doing}: {host} sends content with digest {found} instead of {expected}")]
    Digest {
        /// What was being done.
        doing: String,
        /// Host and port.
        host: String,
        /// As asked for.
        expected: Digest,
        /// Of what came.
        found: Digest,
    },
    /// Content of another length than announced.
    #[error("cannot {doing}: {host} has {found} bytes of it instead of {expected}")]
    Size {
        /// What was being done.
        doing: String,
        /// Host and port.
        host: String,
        /// As in the manifest.
        expected: u64,
        /// As the server says.
        found: u64,
    },
    /// All mirrors failed, and so did the registry.
    #[error("{origin}; before that {mirrors}")]
    Mirrors {
        /// What the registry itself said.
        origin: Box<Error>,
        /// What the mirrors said.
        mirrors: String,
    },
    /// A file with credentials, or a helper, that cannot be used.
    #[error("cannot use credentials of {place}: {reason}")]
    Credentials {
        /// File or helper.
        place: String,
        /// What is wrong.
        reason: String,
    },
    /// A file could not be used.
    #[error("cannot {action} {}", path.display())]
    File {
        /// Verb.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A certificate or key that cannot be used.
    #[error("cannot use {}: {reason}", path.display())]
    Pem {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: &'static str,
    },
    /// The site's policy does not allow this image.
    #[error("cannot use {reference}: the signature policy refuses it: {reason}")]
    Policy {
        /// The image.
        reference: String,
        /// Why.
        reason: String,
    },
    /// An artifact that is no squashfs.
    #[error("cannot pull {reference} as a finished image: {reason}")]
    Artifact {
        /// The artifact.
        reference: String,
        /// What it is instead.
        reason: String,
    },
}

fn in_brackets(text: &str) -> String {
    if text.is_empty() { String::new() } else { format!(" ({text})") }
}

/// A server's words: one line, printable, bounded.
pub(super) fn words(text: &str) -> String {
    let shown = Name(text.trim().as_bytes()).to_string();
    shown.trim_matches('"').to_owned()
}
