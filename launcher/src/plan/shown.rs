//! Links, files and modes that a specification asks for in annotations: things that it has no field for, because other
//! runtimes have hooks run for them.
//!
//! Where they come to be depends on what is at their place: the server shows them in the image, a step makes them on a
//! new file system. In a directory of the host nothing is made.

use std::collections::HashMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};

use super::{Error, Mounts, Step};
use crate::fuse::SyntheticFile;
use crate::session::Fingerprint;
use crate::spec::{self, is_below};

/// Where the server shows what is to be bound over something else.
const SHOWN: &str = "/.coracle/shown";
/// Permission bits of a file that is bound over another.
const OVER_MODE: u16 = 0o444;

impl Mounts {
    /// Adds what the annotations ask for, after all mounts.
    pub(super) fn show(&mut self, annotations: &HashMap<String, String>) -> Result<(), Error> {
        // In the order of their paths, so that a directory's link comes before what is in it.
        let mut asked: Vec<(&str, &str)> = annotations.iter().map(|(name, value)| (&**name, &**value)).collect();
        asked.sort_unstable();
        for (name, value) in asked {
            if let Some(path) = name.strip_prefix(spec::LINK) {
                self.link(Path::new(path), Path::new(value))?;
            } else if let Some(path) = name.strip_prefix(spec::LINKS) {
                self.links(Path::new(path), value)?;
            } else if let Some(path) = name.strip_prefix(spec::OVER) {
                self.over(Path::new(path), value.as_bytes());
            } else if let Some(path) = name.strip_prefix(spec::RAW_OVER) {
                let content = spec::hex::decode(value);
                let unreadable = || Error::Unsupported(format!("the content of {path}, which is not hexadecimal,"));
                self.over(Path::new(path), &content.ok_or_else(unreadable)?);
            } else if let Some(path) = name.strip_prefix(spec::MODE) {
                self.mode(Path::new(path), value)?;
            }
        }
        Ok(())
    }

    /// Whether a new writable file system is at `path`; `None` when it is the image.
    fn holder(&self, path: &Path) -> Option<bool> {
        self.covered.iter().rev().find(|(covered, _)| is_below(path, covered)).map(|(_, writable)| *writable)
    }

    fn link(&mut self, path: &Path, target: &Path) -> Result<(), Error> {
        match self.holder(path) {
            None => self.files.push((path.to_path_buf(), SyntheticFile::Link(target.to_path_buf()))),
            Some(true) => {
                self.steps.push(Step::MakeLink { path: path.to_path_buf(), target: target.to_path_buf() });
            }
            Some(false) => return Err(of_host("a link", path)),
        }
        Ok(())
    }

    /// The server has the directory under a name of its own, so that launches of a session that want other links there do not meet.
    fn links(&mut self, path: &Path, lines: &str) -> Result<(), Error> {
        if self.holder(path).is_some() {
            return Err(of_host("links", path));
        }
        let source = shown(lines.as_bytes());
        for line in lines.lines() {
            let unreadable = || Error::Unsupported(format!("the link {line:?} of {}", path.display()));
            let (name, target) = line.split_once(' ').ok_or_else(unreadable)?;
            if name.is_empty() || name.contains('/') {
                return Err(unreadable());
            }
            self.files.push((source.join(name), SyntheticFile::Link(target.into())));
        }
        self.directories.extend([source.clone(), path.to_path_buf()]);
        self.steps.push(Step::BindShown { source, destination: path.to_path_buf() });
        Ok(())
    }

    fn over(&mut self, path: &Path, content: &[u8]) {
        let source = shown(content);
        self.files.push((source.clone(), SyntheticFile::Content(content.to_vec(), OVER_MODE)));
        self.steps.push(Step::BindShown { source, destination: path.to_path_buf() });
    }

    fn mode(&mut self, path: &Path, value: &str) -> Result<(), Error> {
        let mode = u32::from_str_radix(value, 8).ok().filter(|mode| *mode <= 0o7777);
        let mode = mode.ok_or_else(|| Error::Unsupported(format!("the mode {value:?} of {}", path.display())))?;
        if self.holder(path) != Some(true) {
            return Err(of_host("a mode", path));
        }
        self.steps.push(Step::SetMode { path: path.to_path_buf(), mode });
        Ok(())
    }
}

/// Where the server shows what is to be bound elsewhere, by its content.
fn shown(content: &[u8]) -> PathBuf {
    let mut print = Fingerprint::new();
    print.bytes(content);
    let mut source = format!("{SHOWN}/");
    for byte in print.finish() {
        // Writing to a String cannot fail.
        let _ = write!(source, "{byte:02x}");
    }
    source.into()
}

fn of_host(what: &str, path: &Path) -> Error {
    Error::Unsupported(format!("{what} at {}, which is not the container's own,", path.display()))
}
