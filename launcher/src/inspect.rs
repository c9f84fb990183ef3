//! What an image file says of itself, for people and as JSON.

use std::io::{self, Write};
use std::path::Path;

use coracle_converter::image_info::{CONFIG, INFO, MANIFEST};
use coracle_squashfs::compress::codec_name;
use coracle_squashfs::dump;
use serde::Serialize;
use serde_json::Value;

use crate::image::{self, Directory, ImageFile, Tree};

/// What to show.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum View {
    /// A summary for people.
    #[default]
    Summary,
    /// The summary as JSON.
    Json,
    /// The OCI image configuration as it is.
    Config,
    /// The OCI manifest as it is.
    Manifest,
    /// Every file.
    Tree,
    /// The squashfs superblock.
    SuperBlock,
}

/// Why it cannot be shown.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The image cannot be read.
    #[error(transparent)]
    Image(#[from] image::Error),
    /// Listing it failed.
    #[error("cannot list {}", image.display())]
    List {
        /// The image file.
        image: std::path::PathBuf,
        /// Where and why.
        source: dump::Error,
    },
    /// Nowhere to write to.
    #[error("cannot write the result")]
    Write(#[from] io::Error),
    /// The image was made by something else than coracle.
    #[error("cannot show {file} of {}: the image was not converted from an OCI image and has none", image.display())]
    Absent {
        /// The image file.
        image: std::path::PathBuf,
        /// In the image.
        file: &'static str,
    },
    /// A directory is asked for what only a squashfs has, or for what other tools show better.
    #[error("cannot show {what} of {}: it is a directory, not a squashfs file", image.display())]
    OfFiles {
        /// The directory.
        image: std::path::PathBuf,
        /// A noun.
        what: &'static str,
    },
    /// The file in the image is no JSON.
    #[error("cannot read {file} of the image")]
    Json {
        /// In the image.
        file: &'static str,
        /// What the parser says.
        source: serde_json::Error,
    },
}

/// The summary. The names are an interface.
#[derive(Debug, Serialize)]
struct Summary {
    path: String,
    /// First byte of the squashfs in the file.
    #[serde(skip_serializing_if = "Option::is_none")]
    offset: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    squashfs: Option<Squashfs>,
    /// `image.json` as the converter wrote it.
    image: Option<Value>,
    /// The OCI image configuration.
    config: Option<Value>,
}

#[derive(Debug, Serialize)]
struct Squashfs {
    compression: String,
    block_size: u32,
    inodes: u32,
    bytes_used: u64,
    created: u32,
}

/// Writes the view of `image` to `out`.
///
/// # Errors
/// When the image is damaged or lacks what is asked for, or `out` cannot be written.
pub fn show(image: &ImageFile, view: View, out: &mut dyn Write) -> Result<(), Error> {
    match view {
        View::Tree => dump::tree(&image.image, out).map_err(|source| Error::List { image: image.path.clone(), source }),
        View::SuperBlock => Ok(dump::superblock(&image.image, out)?),
        View::Summary => summary(&collect(image)?, out),
        View::Json => as_json(&collect(image)?, out),
        View::Config => verbatim(image, &image.path, CONFIG, out),
        View::Manifest => verbatim(image, &image.path, MANIFEST, out),
    }
}

/// Writes the view of the directory at `path`, which is an image, to `out`.
///
/// # Errors
/// As for [`show`].
pub fn show_directory(path: &Path, view: View, out: &mut dyn Write) -> Result<(), Error> {
    let tree = Directory::open(path)?;
    let collected = || -> Result<Summary, Error> {
        let path = std::path::absolute(path)?.display().to_string();
        Ok(Summary { path, offset: None, squashfs: None, image: json(&tree, INFO)?, config: json(&tree, CONFIG)? })
    };
    let of_files = |what| Err(Error::OfFiles { image: path.to_path_buf(), what });
    match view {
        View::Tree => of_files("the files"),
        View::SuperBlock => of_files("the superblock"),
        View::Summary => summary(&collected()?, out),
        View::Json => as_json(&collected()?, out),
        View::Config => verbatim(&tree, path, CONFIG, out),
        View::Manifest => verbatim(&tree, path, MANIFEST, out),
    }
}

fn as_json(summary: &Summary, out: &mut dyn Write) -> Result<(), Error> {
    let text = serde_json::to_string_pretty(summary);
    let text = text.map_err(|source| Error::Json { file: INFO, source })?;
    Ok(writeln!(out, "{text}")?)
}

fn verbatim(tree: &dyn Tree, image: &Path, file: &'static str, out: &mut dyn Write) -> Result<(), Error> {
    let content = tree.content(Path::new(file))?;
    let content = content.ok_or_else(|| Error::Absent { image: image.to_path_buf(), file })?;
    Ok(out.write_all(&content)?)
}

fn json(tree: &dyn Tree, file: &'static str) -> Result<Option<Value>, Error> {
    let Some(content) = tree.content(Path::new(file))? else { return Ok(None) };
    serde_json::from_slice(&content).map(Some).map_err(|source| Error::Json { file, source })
}

fn collect(image: &ImageFile) -> Result<Summary, Error> {
    let raw = image.image.superblock();
    let id = raw.compression.get();
    Ok(Summary {
        path: image.path.display().to_string(),
        offset: Some(image.offset),
        squashfs: Some(Squashfs {
            compression: codec_name(id).to_owned(),
            block_size: raw.block_size.get(),
            inodes: raw.inodes.get(),
            bytes_used: raw.bytes_used.get(),
            created: raw.mkfs_time.get(),
        }),
        image: json(image, INFO)?,
        config: json(image, CONFIG)?,
    })
}

/// One line for each thing that is there. Strings of the image are escaped as JSON escapes them, so that they cannot
/// control the terminal.
fn summary(summary: &Summary, out: &mut dyn Write) -> Result<(), Error> {
    let mut line = |name: &str, value: &dyn std::fmt::Display| writeln!(out, "{name:<14}{value}");
    line("image", &summary.path)?;
    if let Some(offset) = summary.offset.filter(|offset| *offset != 0) {
        line("offset", &offset)?;
    }
    match &summary.squashfs {
        Some(Squashfs { compression, block_size, inodes, bytes_used, .. }) => {
            let (size, block) = (bytes(*bytes_used), bytes((*block_size).into()));
            line("squashfs", &format_args!("{size}, {compression}, blocks of {block}, {inodes} inodes"))?;
        }
        None => line("form", &"a directory")?,
    }
    let Some(config) = &summary.config else {
        line("config", &"none: the image was not converted from an OCI image")?;
        return Ok(());
    };
    let platform = ["os", "architecture", "variant"].map(|name| config[name].as_str().unwrap_or_default());
    let platform: Vec<&str> = platform.into_iter().filter(|part| !part.is_empty()).collect();
    line("platform", &Plain(&platform.join("/")))?;
    for (name, value) in [("created", &config["created"]), ("author", &config["author"])] {
        if let Some(text) = value.as_str().filter(|text| !text.is_empty()) {
            line(name, &Plain(text))?;
        }
    }
    for (name, key) in [("source", "source"), ("manifest", "manifest_digest")] {
        if let Some(text) = summary.image.as_ref().and_then(|info| info[key].as_str()) {
            line(name, &Plain(text))?;
        }
    }
    let run = &config["config"];
    for (name, key) in [("entrypoint", "Entrypoint"), ("command", "Cmd"), ("directory", "WorkingDir"), ("user", "User")]
    {
        match &run[key] {
            Value::String(text) if !text.is_empty() => line(name, &Plain(text))?,
            Value::Array(words) if !words.is_empty() => line(name, &run[key])?,
            _ => {}
        }
    }
    for (name, key) in [("environment", "Env"), ("label", "Labels")] {
        match &run[key] {
            Value::Array(entries) => {
                for text in entries.iter().filter_map(Value::as_str) {
                    line(name, &Plain(text))?;
                }
            }
            Value::Object(entries) => {
                for (key, value) in entries {
                    line(name, &format_args!("{}={}", Plain(key), Plain(value.as_str().unwrap_or_default())))?;
                }
            }
            _ => {}
        }
    }
    Ok(())
}

/// Text without control characters.
struct Plain<'a>(&'a str);

impl std::fmt::Display for Plain<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0
            .chars()
            .try_for_each(|c| if c.is_control() { write!(f, "{}", c.escape_default()) } else { write!(f, "{c}") })
    }
}

/// A number of bytes as people write it.
#[must_use]
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut unit = 0;
    let mut whole = count;
    let mut tenths = 0;
    while whole >= 1024 && unit + 1 < UNITS.len() {
        tenths = whole % 1024 * 10 / 1024;
        whole /= 1024;
        unit += 1;
    }
    let name = UNITS.get(unit).copied().unwrap_or_default();
    if tenths == 0 || whole >= 100 { format!("{whole} {name}") } else { format!("{whole}.{tenths} {name}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_readable() {
        let texts = [0, 1023, 1024, 1536, 131_072, 5 << 30].map(bytes);
        assert_eq!(texts, ["0 B", "1023 B", "1 KiB", "1.5 KiB", "128 KiB", "5 GiB"]);
    }

    #[test]
    fn control_characters_do_not_reach_the_terminal() {
        assert_eq!(Plain("a\x1b[2Jb\u{9b}é").to_string(), "a\\u{1b}[2Jb\\u{9b}é");
    }
}
