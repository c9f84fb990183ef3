//! Values of options that clap has no type for: binds, environment settings, home, lists of mounts.
//!
//! Everything works on bytes, because paths and values need not be UTF-8.

use std::ffi::{OsStr, OsString};
use std::net::IpAddr;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use crate::cdi::Name;
use crate::gpu::table::Vendor;
use crate::options::{Gpu, Missing, Mpi};

mod capabilities;
mod compression;
mod env;
mod error;
mod mounts;
#[cfg(test)]
mod tests;

pub use capabilities::{ALL, CAPABILITIES, capabilities};
pub use compression::{block_size, compression};
pub(crate) use env::setting;
pub use env::{env, env_file};
pub use error::Error;
pub(crate) use mounts::add_option;
pub use mounts::{binds, device, home, mount, no_mount, overlay, scratch};

/// Splits at each `separator` that no backslash precedes; the backslashes that protect one are removed.
pub(crate) fn split(value: &[u8], separator: u8, escapable: &[u8], keep_escapes: bool) -> Vec<Vec<u8>> {
    let mut parts = vec![Vec::new()];
    let mut bytes = value.iter().copied().peekable();
    while let Some(byte) = bytes.next() {
        let escaped = (byte == b'\\').then(|| bytes.next_if(|next| escapable.contains(next))).flatten();
        match (escaped, parts.last_mut()) {
            (Some(next), Some(part)) => {
                if keep_escapes {
                    part.push(byte);
                }
                part.push(next);
            }
            (None, Some(_)) if byte == separator => parts.push(Vec::new()),
            (None, Some(part)) => part.push(byte),
            (_, None) => {}
        }
    }
    parts
}

/// Parses a list of names of CDI devices; `None` when it is none.
///
/// # Errors
/// [`Error::CdiDevice`]
pub fn cdi_devices(value: &OsStr) -> Result<Option<Vec<Name>>, Error> {
    let Some(text) = value.to_str().filter(|text| !text.starts_with('/') && text.contains('=')) else {
        return Ok(None);
    };
    Ok(Some(text.split(',').map(Name::parse).collect::<Result<_, _>>()?))
}

/// Parses `NAME=VALUE`.
///
/// # Errors
/// [`Error::Annotation`]
pub fn annotation(value: &OsStr) -> Result<(String, String), Error> {
    let refused = || Error::Annotation { value: value.to_owned() };
    let (name, content) = value.to_str().and_then(|text| text.split_once('=')).ok_or_else(refused)?;
    // What the program itself says to its engine is said by these.
    if name.is_empty() || name.starts_with("org.coracle.") {
        return Err(refused());
    }
    Ok((name.to_owned(), content.to_owned()))
}

/// Parses a list of GPU drivers into what is asked for. `off` takes back what came before.
///
/// # Errors
/// [`Error::Gpu`]
pub fn gpu(value: &OsStr, gpu: &mut Gpu) -> Result<(), Error> {
    let refused = || Error::Gpu { value: value.to_owned() };
    for word in value.to_str().ok_or_else(refused)?.split(',') {
        match word {
            "auto" => Vendor::ALL.into_iter().for_each(|vendor| gpu.ask(vendor, Missing::Silent)),
            "off" => *gpu = Gpu { alone: true, ..Gpu::default() },
            "nvidia" => gpu.ask(Vendor::Nvidia, Missing::Fail),
            "amd" => gpu.ask(Vendor::Amd, Missing::Fail),
            "intel" => gpu.ask(Vendor::Intel, Missing::Fail),
            _ => return Err(refused()),
        }
    }
    Ok(())
}

/// Parses what is done for ranks of MPI programs.
///
/// # Errors
/// [`Error::Mpi`]
pub fn mpi(value: &str) -> Result<Mpi, Error> {
    match value {
        "auto" => Ok(Mpi::Auto),
        "container" => Ok(Mpi::Container),
        "off" => Ok(Mpi::Off),
        _ => Err(Error::Mpi { value: value.to_owned() }),
    }
}

/// Checks a host name.
///
/// # Errors
/// [`Error::Hostname`]
pub fn hostname(value: &str) -> Result<String, Error> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-.".contains(&byte);
    let valid = (1..=64).contains(&value.len()) && !value.starts_with('-') && value.bytes().all(plain);
    if valid { Ok(value.to_owned()) } else { Err(Error::Hostname { value: value.to_owned() }) }
}

/// Parses a list of addresses.
///
/// # Errors
/// [`Error::Address`]
pub fn addresses(value: &str) -> Result<Vec<IpAddr>, Error> {
    let address = |text: &str| text.trim().parse().map_err(|_| Error::Address { value: text.to_owned() });
    value.split(',').map(address).collect()
}

/// A list of names, or patterns of names.
#[must_use]
pub fn names(value: &OsStr) -> Vec<OsString> {
    let names = value.as_bytes().split(|byte| *byte == b',').filter(|name| !name.is_empty());
    names.map(|name| OsString::from_vec(name.to_vec())).collect()
}

/// Parses `seccomp:FILE`.
///
/// # Errors
/// [`Error::Security`]
pub fn security(value: &OsStr) -> Result<PathBuf, Error> {
    let file = value.as_bytes().strip_prefix(b"seccomp:").filter(|file| !file.is_empty());
    let file = file.ok_or_else(|| Error::Security { value: value.to_owned() })?;
    Ok(PathBuf::from(OsString::from_vec(file.to_vec())))
}
