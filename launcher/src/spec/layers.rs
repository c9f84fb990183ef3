//! What lies over the image, and whether the image itself is written to.

use std::path::{Path, PathBuf};

use super::{ImageFacts, mounts};
use crate::host::{Host, Kind, Probe};
use crate::options::{Layer, Options};

/// Begins the line of a layer in memory; its size may follow.
pub(crate) const MEMORY: &str = "memory";
/// Begins the line of a layer that is written to.
pub(crate) const WRITABLE: &str = "rw ";
/// Begins the line of a layer that is only read.
pub(crate) const READ_ONLY: &str = "ro ";

/// Why the layers cannot be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// `--writable` for what cannot be changed.
    #[error(
        "cannot write to image {}: it is a file, which never changes. Unpack it and write to that: coracle build --sandbox DIR {}; \
         or write beside it: --overlay DIR keeps what is written, --writable-tmpfs forgets it", image.display(), image.display()
    )]
    Writable {
        /// The image file.
        image: PathBuf,
    },
    /// A layer that is not there.
    #[error("cannot use overlay {}: there is no such file or directory; for a new one that is written to: mkdir {}", path.display(), path.display())]
    Absent {
        /// Absolute.
        path: PathBuf,
    },
    /// More than one place to write to.
    #[error(
        "cannot write to both {one} and {other}: only one layer can be written to; end the others with :ro, as in --overlay DIR:ro"
    )]
    TwoWritable {
        /// A layer.
        one: String,
        /// Another.
        other: String,
    },
    /// A name that is no text, or two lines.
    #[error(
        "cannot use overlay {path:?}: its path has a line break, or is not UTF-8: rename it, or make a symbolic link to it"
    )]
    Path {
        /// Absolute.
        path: PathBuf,
    },
}

/// What was decided.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Over {
    /// The container's root is not written to.
    pub(super) read_only: bool,
    /// The layers from the bottom up, a line each.
    pub(super) lines: Vec<String>,
}

/// The layers that `options` ask for. The one that is written to, if any, is on top, wherever it was named: writing to
/// what others hide would make no sense.
pub(super) fn decide(
    image: &ImageFacts<'_>,
    options: &Options,
    host: &Host,
    probe: &dyn Probe,
) -> Result<Over, super::Error> {
    if options.writable && !image.directory {
        return Err(Error::Writable { image: image.path.to_path_buf() }.into());
    }
    let mut lines = Vec::new();
    let mut top: Option<String> = None;
    for layer in &options.layers {
        let (line, read_only) = line(layer, host, probe)?;
        if read_only {
            lines.push(line);
        } else if let Some(one) = top.replace(line.clone()) {
            return Err(Error::TwoWritable { one: place(&one), other: place(&line) }.into());
        }
    }
    let read_only = top.is_none() && !options.writable;
    lines.extend(top);
    Ok(Over { read_only, lines })
}

/// A layer's line, and whether it is only read.
fn line(layer: &Layer, host: &Host, probe: &dyn Probe) -> Result<(String, bool), super::Error> {
    match layer {
        Layer::Memory { size: None } => Ok((MEMORY.to_owned(), false)),
        Layer::Memory { size: Some(size) } => Ok((format!("{MEMORY} {size}"), false)),
        Layer::At { path, read_only } => {
            let path = mounts::absolute(path, host)?;
            let kind = probe.kind(&path).ok_or_else(|| Error::Absent { path: path.clone() })?;
            let text = path.to_str().filter(|text| !text.contains('\n'));
            let text = text.ok_or_else(|| Error::Path { path: path.clone() })?;
            // A squashfs cannot be written to, with or without the word.
            let read_only = *read_only || kind == Kind::File;
            Ok((format!("{}{text}", if read_only { READ_ONLY } else { WRITABLE }), read_only))
        }
    }
}

/// How a person calls what a line describes.
fn place(line: &str) -> String {
    line.strip_prefix(WRITABLE)
        .map_or_else(|| "a layer in memory (--writable-tmpfs, --compat)".to_owned(), str::to_owned)
}

/// Directories below the one of `--workdir` that are bound and have to be made, with their modes.
#[must_use]
pub fn work_directories(spec: &oci_spec::runtime::Spec, work: &Path) -> Vec<(PathBuf, u32)> {
    let binds = spec.mounts().iter().flatten().filter(|mount| mount.typ().as_deref() == Some("bind"));
    let sources = binds.filter_map(|mount| mount.source().clone());
    let below = sources.filter(|source| source != work && source.starts_with(work));
    below.map(|source| (source.clone(), mode(source.strip_prefix(work).unwrap_or(&source)))).collect()
}

/// As their counterparts of a system have them.
fn mode(name: &Path) -> u32 {
    match name.to_str() {
        Some("tmp" | "var_tmp") => 0o1777,
        Some("home") => 0o700,
        _ => 0o755,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::Fake;
    use crate::spec::tests::{PATHS, host};

    fn decided(directory: bool, options: &Options) -> Result<Over, String> {
        let tree = Fake::new(&[]);
        let image = ImageFacts { path: Path::new("/i.sqfs"), offset: 0, directory, tree: &tree };
        decide(&image, options, &host(), &PATHS).map_err(|error| error.to_string())
    }

    fn layers(layers: &[(&str, bool)]) -> Options {
        let layer = |(path, read_only): &(&str, bool)| match *path {
            "" => Layer::Memory { size: Some(4096) },
            path => Layer::At { path: path.into(), read_only: *read_only },
        };
        Options { layers: layers.iter().map(layer).collect(), ..Options::default() }
    }

    #[test]
    fn the_writable_layer_is_on_top_and_there_is_one() {
        let over = decided(false, &layers(&[("/data/sub", false), ("x.txt", true), ("/data", true)]));
        assert!(over.unwrap_err().contains("/data/sub/x.txt: there is no such file"));
        let over = decided(false, &layers(&[("/data/sub", false), ("/data/x.txt", false), ("/data", true)])).unwrap();
        assert_eq!(
            over,
            Over { read_only: false, lines: ["ro /data/x.txt", "ro /data", "rw /data/sub"].map(str::to_owned).into() }
        );
        let over = decided(false, &layers(&[("/data/x.txt", false)])).unwrap();
        assert!(over.read_only, "a file is only read");
        assert_eq!(decided(false, &layers(&[("", false)])).unwrap().lines, ["memory 4096"]);
        let error = decided(false, &layers(&[("/data", false), ("", false)])).unwrap_err();
        assert!(error.starts_with("cannot write to both /data and a layer in memory"), "{error}");
    }

    #[test]
    fn only_a_directory_is_written_to_itself() {
        let writable = Options { writable: true, ..Options::default() };
        assert!(decided(false, &writable).unwrap_err().contains("coracle build --sandbox DIR /i.sqfs"));
        assert_eq!(decided(true, &writable).unwrap(), Over { read_only: false, lines: Vec::new() });
        assert!(decided(true, &Options::default()).unwrap().read_only);
    }

    #[test]
    fn names_that_are_no_line_are_refused() {
        struct All;
        impl Probe for All {
            fn kind(&self, _: &Path) -> Option<Kind> {
                Some(Kind::Directory)
            }
        }
        let layer = Layer::At { path: "/a\nrw /b".into(), read_only: true };
        assert!(line(&layer, &host(), &All).unwrap_err().to_string().contains("line break"));
    }
}
