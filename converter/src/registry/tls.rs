//! Whom to trust: the system's bundle of certificates, those that the settings add, and the web's own list where a
//! system has none.

use super::error::Error;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use ureq::tls::{Certificate, PemItem, parse_pem};

/// Where distributions keep the bundle: Debian, Fedora and RHEL, SUSE, older RHEL, Alpine.
const BUNDLES: [&str; 5] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/ca-bundle.pem",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/cert.pem",
];
/// Names another bundle in place of the system's, as for OpenSSL.
const VARIABLE: &str = "SSL_CERT_FILE";
/// Largest bundle that is read, in bytes.
const BUNDLE_MAX: u64 = 16 << 20;

/// Certificates, read when they are first needed.
#[derive(Default)]
pub struct Roots {
    system: OnceLock<Arc<Vec<Certificate<'static>>>>,
}

impl Roots {
    /// The system's, and those of `extra` files; `None` when the system has no bundle and no file was named.
    ///
    /// # Errors
    /// When a file that was named cannot be used.
    pub fn with(&self, extra: &[PathBuf]) -> Result<Option<Arc<Vec<Certificate<'static>>>>, Error> {
        let system = match self.system.get() {
            Some(system) => Arc::clone(system),
            None => {
                let read = Arc::new(system()?);
                Arc::clone(self.system.get_or_init(|| read))
            }
        };
        if extra.is_empty() {
            return Ok(Some(system).filter(|system| !system.is_empty()));
        }
        let mut all = system.to_vec();
        for path in extra {
            all.extend(certificates(path)?);
        }
        Ok(Some(Arc::new(all)))
    }
}

fn system() -> Result<Vec<Certificate<'static>>, Error> {
    if let Some(named) = std::env::var_os(VARIABLE).filter(|named| !named.is_empty()) {
        return certificates(Path::new(&named));
    }
    let found = BUNDLES.iter().map(Path::new).find(|path| path.is_file());
    found.map_or(Ok(Vec::new()), certificates)
}

/// The certificates of a PEM file. Bundles hold some that cannot be used; one that has none at all is a mistake.
fn certificates(path: &Path) -> Result<Vec<Certificate<'static>>, Error> {
    let failed = |source: io::Error| Error::File { action: "read", path: path.into(), source };
    let mut pem = Vec::new();
    File::open(path).and_then(|file| file.take(BUNDLE_MAX).read_to_end(&mut pem)).map_err(failed)?;
    let found = parse_pem(&pem)
        .filter_map(|item| match item {
            Ok(PemItem::Certificate(certificate)) => Some(certificate),
            _ => None,
        })
        .collect::<Vec<_>>();
    if found.is_empty() {
        return Err(Error::Pem { path: path.into(), reason: "it holds no certificate in PEM form" });
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_named_file_without_certificates_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("ca.pem");
        std::fs::write(&file, "no certificate").unwrap();
        let error = certificates(&file).unwrap_err().to_string();
        assert!(error.contains("ca.pem") && error.contains("no certificate"), "{error}");
        assert!(certificates(&dir.path().join("absent")).unwrap_err().to_string().contains("absent"));
    }
}
