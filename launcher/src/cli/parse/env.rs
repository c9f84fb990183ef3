//! Settings of the environment.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use super::Error;
use crate::options::EnvSetting;

/// Parses `NAME=VALUE[,NAME=VALUE…]` or `NAME`. A comma that no `NAME=` follows is part of the value, so that
/// `UCX_TLS=rc,self` is one setting.
///
/// # Errors
/// [`Error::Env`] when a name is empty or holds bytes that no variable name has.
pub fn env(value: &OsStr) -> Result<Vec<EnvSetting>, Error> {
    let mut pieces: Vec<Vec<u8>> = Vec::new();
    for piece in value.as_bytes().split(|byte| *byte == b',') {
        let starts = piece.iter().position(|byte| *byte == b'=').is_some_and(|at| is_name(&piece[..at]));
        match pieces.last_mut() {
            Some(last) if !starts => {
                last.push(b',');
                last.extend_from_slice(piece);
            }
            _ => pieces.push(piece.to_vec()),
        }
    }
    pieces.iter().map(|piece| setting(piece).ok_or_else(|| Error::Env { value: value.to_owned() })).collect()
}

/// One setting, taken literally.
pub(crate) fn setting(line: &[u8]) -> Option<EnvSetting> {
    match line.iter().position(|byte| *byte == b'=') {
        Some(at) if is_settable(&line[..at]) => {
            let (name, value) = (line[..at].to_vec(), line[at + 1..].to_vec());
            Some(EnvSetting::Set(OsString::from_vec(name), OsString::from_vec(value)))
        }
        None if is_settable(line) => Some(EnvSetting::Inherit(OsString::from_vec(line.to_vec()))),
        _ => None,
    }
}

/// Whether a shell could have set the name; what follows a comma must look like this to start a new setting.
fn is_name(name: &[u8]) -> bool {
    name.first().is_some_and(|byte| byte.is_ascii_alphabetic() || *byte == b'_')
        && name.iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'_')
}

/// Whether the environment can hold the name at all, which is more than what shells can set.
fn is_settable(name: &[u8]) -> bool {
    !name.is_empty() && !name.iter().any(|byte| byte.is_ascii_whitespace() || *byte == 0)
}

/// Parses a file of settings: one a line, empty lines and lines that start with `#` skipped, an `export ` before the
/// name and a pair of quotes around the value removed; nothing is expanded. The error is the number of the bad line.
///
/// # Errors
/// The number, from 1, of the first line that is no setting.
pub fn env_file(content: &[u8]) -> Result<Vec<EnvSetting>, usize> {
    let mut settings = Vec::new();
    for (number, line) in content.split(|byte| *byte == b'\n').enumerate() {
        let line = line.trim_ascii();
        if line.is_empty() || line.starts_with(b"#") {
            continue;
        }
        let line = line.strip_prefix(b"export ").unwrap_or(line).trim_ascii_start();
        match setting(line) {
            Some(EnvSetting::Set(name, value)) => settings.push(EnvSetting::Set(name, unquote(value))),
            Some(inherit) => settings.push(inherit),
            None => return Err(number + 1),
        }
    }
    Ok(settings)
}

fn unquote(value: OsString) -> OsString {
    match value.as_bytes() {
        [b'"', inner @ .., b'"'] | [b'\'', inner @ .., b'\''] => OsString::from_vec(inner.to_vec()),
        _ => value,
    }
}
