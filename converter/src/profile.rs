//! Profiles: which blocks of an image a program touched first, in order, and where that is stored.
//!
//! The file is JSON, one line per touched file:
//!
//! ```json
//! {"version":1,"command":["python3","job.py"],"image":{"size":123456},"touched":[
//! {"path":"/usr/bin/python3.11","blocks":[0,1,7]},
//! {"path":"/usr/lib/os-release"}
//! ]}
//! ```
//!
//! Paths are absolute, free of symbolic links, and bytes: one that is no part of valid UTF-8 is written as `%` and two
//! hexadecimal digits, and so is `%` itself (`%25`). A profile comes from anyone, so everything in it is checked.

use crate::error::Error;
use crate::image_info;
use crate::text::Name;
use coracle_squashfs::reader::{Image, ReadAt};
use serde::{Deserialize, Serialize};
use std::collections::HashSet;
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// Version that is written, and the only one that is read.
pub const VERSION: u32 = 1;
/// Largest profile, in bytes.
pub const SIZE_MAX: u64 = 16 << 20;
/// Where an image has the profile that it was laid out by, verbatim.
pub const PATH: &str = "/.coracle/profile.json";
/// Longest path, in bytes; as the longest that a layer may have.
const PATH_MAX: usize = 16 << 10;

/// What a program touched.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Profile {
    /// The program and its arguments, for people.
    pub command: Vec<String>,
    /// The image that it ran in.
    pub image: Option<ProfiledImage>,
    /// Files in the order of their first touch, none twice.
    pub touched: Vec<Touched>,
}

/// The image that a profile was recorded from, for people and for guesses whether it still fits: what counts are the
/// paths.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProfiledImage {
    /// Bytes in use, as its superblock says.
    pub size: u64,
    /// The superblock's time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mkfs_time: Option<u32>,
}

/// A file that was touched.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Touched {
    /// Absolute, without `.`, `..` and empty components. Any name of a file that has several.
    pub path: Vec<u8>,
    /// Blocks in the order of their first touch, none twice, counted as by [`Image::block`]: a tail in a fragment block
    /// is the last one. None at all when only the file's place matters.
    pub blocks: Vec<u32>,
}

/// A valid profile and its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProfileFile {
    profile: Profile,
    bytes: Vec<u8>,
}

/// What is wrong with a profile.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Problem {
    /// It cannot be read.
    #[error("read it")]
    Read(#[source] std::io::Error),
    /// Larger than any profile of a program.
    #[error("it has more than {SIZE_MAX} bytes")]
    Size,
    /// No JSON, or not of this form.
    #[error("it is no profile of version {VERSION}")]
    Json(#[source] serde_json::Error),
    /// From another version of this program.
    #[error("it has version {0}, this program knows {VERSION}: record it again")]
    Version(u64),
    /// A path that no file has.
    #[error("file {number} of its list, {}: {reason}", Name(path))]
    Path {
        /// Place in the list, from 1.
        number: usize,
        /// As in the profile.
        path: Vec<u8>,
        /// Why not.
        reason: &'static str,
    },
    /// A block that is listed twice.
    #[error("file {number} of its list, {}: block {block} is listed twice", Name(path))]
    Block {
        /// Place in the list, from 1.
        number: usize,
        /// As in the profile.
        path: Vec<u8>,
        /// Which block.
        block: u32,
    },
}

/// The file's form.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    version: u32,
    #[serde(default)]
    command: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    image: Option<ProfiledImage>,
    touched: Vec<Line>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    path: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    blocks: Vec<u32>,
}

impl Profile {
    /// Reads a profile.
    ///
    /// # Errors
    /// The first thing that is wrong with it.
    pub fn from_json(bytes: &[u8]) -> Result<Self, Problem> {
        #[derive(Deserialize)]
        struct Versioned {
            version: u64,
        }
        if bytes.len() as u64 > SIZE_MAX {
            return Err(Problem::Size);
        }
        // First, so that what a later version adds is not called a mistake.
        let Versioned { version } = serde_json::from_slice(bytes).map_err(Problem::Json)?;
        if version != u64::from(VERSION) {
            return Err(Problem::Version(version));
        }
        let Document { command, image, touched, .. } = serde_json::from_slice(bytes).map_err(Problem::Json)?;
        let touched = touched.into_iter().enumerate().map(|(at, line)| {
            let reason = "`%` must be followed by two hexadecimal digits";
            let path = unescaped(&line.path).ok_or_else(|| bad_path(at, line.path.as_bytes(), reason))?;
            Ok(Touched { path, blocks: line.blocks })
        });
        let profile = Self { command, image, touched: touched.collect::<Result<_, _>>()? };
        profile.check()?;
        Ok(profile)
    }

    /// The profile as a file.
    ///
    /// # Errors
    /// What keeps it from being read again.
    pub fn to_json(&self) -> Result<Vec<u8>, Problem> {
        self.check()?;
        let head = Document { version: VERSION, command: self.command.clone(), image: self.image, touched: Vec::new() };
        let mut json = serde_json::to_vec(&head).map_err(Problem::Json)?;
        // The list is the last field: "]}" makes room for its lines.
        json.truncate(json.len().saturating_sub(2));
        for (at, Touched { path, blocks }) in self.touched.iter().enumerate() {
            json.extend_from_slice(if at == 0 { b"\n" } else { b",\n" });
            let line = Line { path: escaped(path), blocks: blocks.clone() };
            serde_json::to_writer(&mut json, &line).map_err(Problem::Json)?;
        }
        json.extend_from_slice(b"\n]}\n");
        if json.len() as u64 > SIZE_MAX { Err(Problem::Size) } else { Ok(json) }
    }

    fn check(&self) -> Result<(), Problem> {
        let mut paths = HashSet::with_capacity(self.touched.len());
        let mut known = HashSet::new();
        for (at, Touched { path, blocks }) in self.touched.iter().enumerate() {
            if let Some(reason) = unusable(path) {
                return Err(bad_path(at, path, reason));
            }
            if !paths.insert(path.as_slice()) {
                return Err(bad_path(at, path, "it is listed twice"));
            }
            known.clear();
            if let Some(&block) = blocks.iter().find(|&&block| !known.insert(block)) {
                return Err(Problem::Block { number: at + 1, path: path.clone(), block });
            }
        }
        Ok(())
    }
}

impl ProfileFile {
    /// Takes the bytes of a profile.
    ///
    /// # Errors
    /// The first thing that is wrong with it.
    pub fn new(bytes: Vec<u8>) -> Result<Self, Problem> {
        Ok(Self { profile: Profile::from_json(&bytes)?, bytes })
    }

    /// Reads a profile from a file.
    ///
    /// # Errors
    /// When there is none, or something is wrong with it.
    pub fn load(path: &Path) -> Result<Self, Error> {
        let failed = |source| Error::Profile { what: path.display().to_string(), source };
        let mut bytes = Vec::new();
        let file = File::open(path).map_err(Problem::Read).map_err(failed)?;
        file.take(SIZE_MAX + 1).read_to_end(&mut bytes).map_err(Problem::Read).map_err(failed)?;
        Self::new(bytes).map_err(failed)
    }

    /// The profile that an image was laid out by, if any.
    ///
    /// # Errors
    /// When it cannot be read, or something is wrong with it.
    pub fn of_image<S: ReadAt>(image: &Image<S>) -> Result<Option<Self>, Error> {
        let Some(bytes) = image_info::read(image, PATH, SIZE_MAX)? else { return Ok(None) };
        Self::new(bytes).map(Some).map_err(|source| Error::Profile { what: format!("{PATH} of the image"), source })
    }

    /// What it says.
    pub fn profile(&self) -> &Profile {
        &self.profile
    }

    /// Its bytes, verbatim.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

fn bad_path(at: usize, path: &[u8], reason: &'static str) -> Problem {
    Problem::Path { number: at + 1, path: path.to_vec(), reason }
}

/// Why no file can have this path.
fn unusable(path: &[u8]) -> Option<&'static str> {
    let Some(relative) = path.strip_prefix(b"/") else { return Some("the path is not absolute") };
    if path.len() > PATH_MAX {
        return Some("the path is too long");
    }
    if path.contains(&0) {
        return Some("the path has a zero byte");
    }
    let odd = relative.split(|&byte| byte == b'/').any(|name| matches!(name, b"" | b"." | b".."));
    odd.then_some("the path has an empty component, `.` or `..`")
}

fn escaped(path: &[u8]) -> String {
    let mut text = String::with_capacity(path.len());
    for chunk in path.utf8_chunks() {
        text.push_str(&chunk.valid().replace('%', "%25"));
        chunk.invalid().iter().for_each(|byte| text.push_str(&format!("%{byte:02X}")));
    }
    text
}

/// `None` when a `%` is not followed by two hexadecimal digits.
fn unescaped(text: &str) -> Option<Vec<u8>> {
    let mut parts = text.as_bytes().split(|&byte| byte == b'%');
    let mut path = parts.next()?.to_vec();
    for part in parts {
        let (digits, rest) = part.split_at_checked(2)?;
        let digit = |byte: u8| char::from(byte).to_digit(16);
        let [high, low] = digits else { return None };
        path.push((digit(*high)? * 16 + digit(*low)?) as u8);
        path.extend_from_slice(rest);
    }
    Some(path)
}

#[cfg(test)]
mod tests;
