//! Public keys in PEM files, as `cosign generate-key-pair` and `openssl pkey -pubout` write them: ECDSA on P-256 and
//! P-384, Ed25519, RSA.

use super::error::Error;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::signature::{self, UnparsedPublicKey, VerificationAlgorithm};
use std::fs::File;
use std::io::Read;
use std::path::Path;

const BEGIN: &str = "-----BEGIN PUBLIC KEY-----";
const END: &str = "-----END PUBLIC KEY-----";
/// Largest key file that is read, in bytes.
const FILE_MAX: u64 = 64 << 10;
/// Object identifiers of what a key is for (RFC 5480, 8410, 8017), as DER has them.
const EC: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
const P256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
const P384: &[u8] = &[0x2b, 0x81, 0x04, 0x00, 0x22];
const ED25519: &[u8] = &[0x2b, 0x65, 0x70];
const RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];
/// DER's tags.
const SEQUENCE: u8 = 0x30;
const OBJECT: u8 = 0x06;
const BITS: u8 = 0x03;

/// A key that can verify.
pub struct PublicKey(UnparsedPublicKey<Vec<u8>>);

impl PublicKey {
    /// Reads the first key of a file.
    ///
    /// # Errors
    /// When there is none that can be used.
    pub fn load(path: &Path) -> Result<Self, Error> {
        let mut pem = String::new();
        let read = File::open(path).and_then(|file| file.take(FILE_MAX).read_to_string(&mut pem));
        read.map_err(|source| Error::File { action: "read", path: path.into(), source })?;
        let reason = "it holds no public key (PEM) of ECDSA P-256 or P-384, Ed25519 or RSA";
        Self::parse(&pem).ok_or_else(|| Error::Pem { path: path.into(), reason })
    }

    fn parse(pem: &str) -> Option<Self> {
        let text = pem.split_once(BEGIN)?.1.split_once(END)?.0;
        let der = STANDARD.decode(text.split_ascii_whitespace().collect::<String>()).ok()?;
        // SubjectPublicKeyInfo: what the key is for, then its bits (RFC 5280, 4.1).
        let (info, _) = element(&der, SEQUENCE)?;
        let (purpose, rest) = element(info, SEQUENCE)?;
        let (bits, _) = element(rest, BITS)?;
        // All bits of the last byte count.
        let key = bits.strip_prefix(&[0])?;
        let (algorithm, parameters) = element(purpose, OBJECT)?;
        let verification: &'static dyn VerificationAlgorithm = match algorithm {
            EC => match element(parameters, OBJECT)?.0 {
                P256 => &signature::ECDSA_P256_SHA256_ASN1,
                P384 => &signature::ECDSA_P384_SHA384_ASN1,
                _ => return None,
            },
            ED25519 => &signature::ED25519,
            RSA => &signature::RSA_PKCS1_2048_8192_SHA256,
            _ => return None,
        };
        Some(Self(UnparsedPublicKey::new(verification, key.to_vec())))
    }

    /// Whether this key made that signature of the message.
    pub fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        self.0.verify(message, signature).is_ok()
    }
}

/// The content of the first element, which must have that tag, and what follows it.
fn element(der: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (&found, rest) = der.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (length, rest) = match first {
        0..=0x7f => (usize::from(first), rest),
        // Keys of any use are shorter than 64 KiB.
        0x81 => (usize::from(*rest.first()?), rest.get(1..)?),
        0x82 => (usize::from(u16::from_be_bytes([*rest.first()?, *rest.get(1)?])), rest.get(2..)?),
        _ => return None,
    };
    (found == tag && length <= rest.len()).then(|| rest.split_at(length))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_told_by_their_kind() {
        // RFC 8410, 10.1.
        let ed25519 = format!("{BEGIN}\nMCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=\n{END}\n");
        assert!(PublicKey::parse(&ed25519).is_some());
        for text in [
            String::new(),
            ed25519.replace("MCow", "MCox"),
            format!("{BEGIN}\nMCow\n{END}"),
            format!("{BEGIN}{END}"),
            ed25519.replace("AyEA", "AyH/"),
        ] {
            assert!(PublicKey::parse(&text).is_none(), "{text}");
        }
    }
}
