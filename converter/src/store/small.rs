//! Small files of the store: whole under their names, or not there.

use super::claim::is_absent;
use super::error::Error;
use super::process::Process;
use crate::output::Output;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;

/// Most bytes that are read.
const MAX: u64 = 64 << 10;

/// Writes a file in place of any before.
///
/// # Errors
/// When that is not possible; what was there stays.
pub fn write(path: &Path, content: &[u8], own: &Process) -> Result<(), Error> {
    let write = |force| {
        let output = Output::create_tagged(path, force, &own.to_string())?;
        output.writer()?.write_all(content).map_err(crate::Error::file("write", path))?;
        output.publish()
    };
    // Replacing takes a passing name, which a process that is killed leaves.
    match write(false) {
        Err(crate::Error::OutputExists { .. }) => Ok(write(true)?),
        result => Ok(result?),
    }
}

/// Writes a value as JSON.
///
/// # Errors
/// As [`write`].
pub fn write_json(path: &Path, value: &impl Serialize, own: &Process) -> Result<(), Error> {
    let json = serde_json::to_vec(value);
    let document = path.display().to_string();
    let mut json = json.map_err(|source| crate::Error::Json { document, source })?;
    json.push(b'\n');
    write(path, &json, own)
}

/// Reads a value; `None` when there is none, or one that cannot be understood, which is then made anew.
///
/// # Errors
/// When it is there and cannot be read.
pub fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, Error> {
    // As most are, so that a launch reads a name in one call.
    let mut content = Vec::with_capacity(1024);
    match File::open(path).and_then(|file| file.take(MAX).read_to_end(&mut content)) {
        Ok(_) => Ok(serde_json::from_slice(&content).ok()),
        Err(error) if is_absent(&error) => Ok(None),
        Err(error) => Err(Error::file("read", path)(error)),
    }
}
