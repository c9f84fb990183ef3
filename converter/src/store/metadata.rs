//! What is noted of a stored image beside it.

use super::process::host_name;
use crate::convert::Opened;
use serde::{Deserialize, Serialize};
use std::time::{SystemTime, UNIX_EPOCH};

/// Version that is written.
const VERSION: u32 = 1;

/// Contents of `images/KEY.json`, for people and other programs: an image is whole without it. Its time of modification is
/// when the image was last used, to the hour.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Metadata {
    /// Version of this form.
    pub version: u32,
    /// The source that it was first made from.
    pub source: String,
    /// Digest of the manifest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub manifest_digest: Option<String>,
    /// Digest of the image config.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub config_digest: Option<String>,
    /// Architecture in Go's spelling, when the image says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub architecture: Option<String>,
    /// Bytes of the image file.
    pub size: u64,
    /// Seconds since 1970.
    pub created: u64,
    /// Host on which it was converted.
    pub host: String,
    /// Version of the program that did.
    pub program: String,
}

impl Metadata {
    /// Of an image that was just made.
    pub fn new(opened: &Opened<'_>, source: &str, size: u64) -> Self {
        let digest = |digest: Option<crate::Digest>| digest.map(|digest| digest.to_string());
        Self {
            version: VERSION,
            source: source.to_owned(),
            manifest_digest: digest(opened.manifest_digest()),
            config_digest: digest(opened.config_digest()),
            architecture: opened.architecture().map(str::to_owned),
            size,
            created: seconds(SystemTime::now()),
            host: host_name(),
            program: format!("coracle {}", env!("CARGO_PKG_VERSION")),
        }
    }
}

/// Seconds since 1970.
pub fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}
