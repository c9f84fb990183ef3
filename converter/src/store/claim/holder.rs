//! What a claim's file says: a count of fixed width, which its owner writes over, then who the owner is.

use crate::digest::Digest;
use crate::store::process::Process;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{self, Read};
use std::time::Duration;

/// Hexadecimal digits of a token.
pub const TOKEN: usize = 32;
/// Digits of the count, and a line feed.
const BEAT: usize = 21;
/// A claim can neither ask for patience without end nor for none.
const LEASE_SECONDS: (u64, u64) = (1, 600);

#[derive(Serialize, Deserialize)]
pub struct Holder {
    /// Random.
    pub token: String,
    /// [`Process`] as text.
    pub process: String,
    /// For people.
    pub host: String,
    /// For people.
    pub pid: u32,
    /// Seconds without a beat after which the owner is dead.
    pub lease: u64,
}

/// Why an owner failed, for those who waited for it.
#[derive(Serialize, Deserialize)]
pub struct Failure {
    /// Of its claim.
    pub token: String,
    /// For people.
    pub host: String,
    /// What it converted; of another source with the same image nothing is said.
    pub source: String,
    /// The error.
    pub message: String,
}

impl Holder {
    /// A claim's first bytes.
    pub fn beat(count: u64) -> String {
        format!("{count:020}\n")
    }

    pub fn encode(&self, count: u64) -> Vec<u8> {
        let mut content = Self::beat(count).into_bytes();
        // Strings and numbers always have a JSON form.
        content.extend(serde_json::to_vec(self).unwrap_or_default());
        content.push(b'\n');
        content
    }
}

/// A claim as somebody else sees it.
pub struct Seen {
    /// All of it: as long as that does not change, the owner gives no sign of life.
    pub content: Vec<u8>,
    /// The token; of a claim that is damaged, a hash of what it is.
    pub id: String,
    holder: Option<Holder>,
}

impl Seen {
    pub fn new(content: Vec<u8>) -> Self {
        let holder = content.get(BEAT..).and_then(|json| serde_json::from_slice::<Holder>(json).ok());
        // It becomes a part of file names.
        let valid = |token: &str| token.len() == TOKEN && token.bytes().all(|digit| digit.is_ascii_hexdigit());
        let holder = holder.filter(|holder| valid(&holder.token));
        let id = match &holder {
            Some(holder) => holder.token.clone(),
            None => Digest::of(&content).hex()[..TOKEN].to_owned(),
        };
        Self { content, id, holder }
    }

    /// Host and process id, for people.
    pub fn owner(&self) -> (&str, u32) {
        self.holder.as_ref().map_or(("an unknown host", 0), |holder| (&holder.host, holder.pid))
    }

    /// How long the owner may be silent.
    pub fn lease(&self, otherwise: Duration) -> Duration {
        let (least, most) = LEASE_SECONDS;
        self.holder.as_ref().map_or(otherwise, |holder| Duration::from_secs(holder.lease.clamp(least, most)))
    }

    /// Whether the owner has certainly ended.
    pub fn is_gone(&self, own: &Process) -> bool {
        let process = self.holder.as_ref().and_then(|holder| holder.process.parse::<Process>().ok());
        process.is_some_and(|process| process.is_gone(own))
    }
}

/// Nobody else has it.
///
/// # Errors
/// When the system has no random numbers.
pub fn token() -> io::Result<String> {
    let mut random = [0; TOKEN / 2];
    File::open("/dev/urandom")?.read_exact(&mut random)?;
    Ok(random.iter().map(|byte| format!("{byte:02x}")).collect())
}
