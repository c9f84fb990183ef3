//! What is put over the image, and binds of other images, as steps.

use std::collections::HashSet;
use std::fmt;
use std::path::{Path, PathBuf};

use nix::mount::MsFlags;
use oci_spec::runtime::{Mount, Spec};

use super::{Error, Step, Synthetic, SyntheticFile, options};
use crate::host::{Kind, Probe};
use crate::spec::{self, INSIDE};

/// Layers over an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layers {
    /// What the image lacks or has other than the container needs, when no server shows that: right above the image.
    pub generated: Option<Synthetic>,
    /// Image files and directories that are only read, from the bottom up.
    pub lower: Vec<PathBuf>,
    /// On top.
    pub upper: Upper,
}

/// Where writes go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Upper {
    /// Nowhere.
    None,
    /// Into memory.
    Memory {
        /// Most bytes.
        size: Option<u64>,
    },
    /// Into a directory of the host.
    Directory(PathBuf),
}

/// A directory of the host that is the image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Directory {
    pub(super) path: PathBuf,
    /// Writes go into it.
    pub(super) writable: bool,
}

/// What the root is made of, besides an image file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Root {
    pub(super) directory: Option<Directory>,
    pub(super) layers: Option<Layers>,
    /// Image files that need a server.
    pub(super) images: Vec<PathBuf>,
    /// Directories that layers are in.
    pub(super) sources: Vec<PathBuf>,
}

impl Root {
    pub(super) fn new(spec: &Spec, probe: &dyn Probe) -> Result<Self, Error> {
        let root = spec.root().as_ref();
        let read_only = root.and_then(oci_spec::runtime::Root::readonly).unwrap_or_default();
        let lines = spec.annotations().as_ref().and_then(|all| all.get(spec::LAYERS));
        let mut made = Self::default();
        let mut layers = Layers { generated: None, lower: Vec::new(), upper: Upper::None };
        for line in lines.into_iter().flat_map(|lines| lines.lines()) {
            made.layer(line, &mut layers, probe)?;
        }
        // Of an image file the path is that of the place that another runtime would mount it on.
        let directory = root.map(|root| root.path().clone()).filter(|path| path.is_absolute());
        made.directory = directory.map(|path| Directory { path, writable: !read_only && lines.is_none() });
        let direct = made.directory.as_ref().map(|directory| directory.writable);
        if lines.is_some() || direct == Some(false) {
            made.layers = Some(layers);
        }
        Ok(made)
    }

    fn layer(&mut self, line: &str, layers: &mut Layers, probe: &dyn Probe) -> Result<(), Error> {
        let unknown = || Error::Unsupported(format!("the layer {line:?}"));
        if layers.upper != Upper::None {
            return Err(Error::Unsupported("a layer over one that is written to".to_owned()));
        }
        if let Some(path) = line.strip_prefix(spec::READ_ONLY).map(PathBuf::from) {
            let list = if probe.kind(&path) == Some(Kind::File) { &mut self.images } else { &mut self.sources };
            list.push(path.clone());
            layers.lower.push(path);
        } else if let Some(path) = line.strip_prefix(spec::WRITABLE).map(PathBuf::from) {
            self.sources.push(path.clone());
            layers.upper = Upper::Directory(path);
        } else {
            let size = line.strip_prefix(spec::MEMORY).ok_or_else(unknown)?.trim_start();
            let size = if size.is_empty() { None } else { Some(size.parse().map_err(|_| unknown())?) };
            layers.upper = Upper::Memory { size };
        }
        Ok(())
    }

    /// Whether what was made for one launch cannot be used by another.
    pub(super) fn is_own(&self) -> bool {
        self.directory.is_some() || self.layers.is_some()
    }

    /// Takes over what a server would show, when there is none, and gives the steps that make what mounts need and a layer
    /// may hide.
    pub(super) fn settle(&mut self, synthetic: &mut Synthetic) -> Vec<Step> {
        let hidden = match &self.layers {
            Some(layers) => layers.upper != Upper::None && !(layers.lower.is_empty() && layers.is_memory()),
            None => self.directory.is_some(),
        };
        let mut steps = Vec::new();
        if hidden {
            steps.extend(synthetic.directories.iter().cloned().map(Step::MakeDirectory));
            let empty = synthetic.files.iter().filter(|(_, file)| *file == SyntheticFile::Empty);
            steps.extend(empty.map(|(path, _)| Step::MakeFile(path.clone())));
            steps.extend(synthetic.files.iter().filter_map(|(path, file)| match file {
                SyntheticFile::Link(target) => Some(Step::MakeLink { path: path.clone(), target: target.clone() }),
                _ => None,
            }));
        }
        if self.directory.is_some() {
            let generated = std::mem::take(synthetic);
            if let Some(layers) = &mut self.layers {
                layers.generated = Some(generated);
            } else {
                steps.extend(generated.files.into_iter().filter_map(|(path, file)| match file {
                    SyntheticFile::Content(content, _) => Some(Step::WriteFile { path, content }),
                    // Made by the steps above.
                    SyntheticFile::Empty | SyntheticFile::Link(_) => None,
                }));
            }
        }
        steps
    }
}

impl Layers {
    /// Whether all that is over the image is what a server would show of a squashfs.
    pub(crate) fn is_only_generated(&self) -> bool {
        self.lower.is_empty() && self.upper == Upper::None
    }

    fn is_memory(&self) -> bool {
        matches!(self.upper, Upper::Memory { .. })
    }
}

/// The step for a mount of what an image file holds.
pub(super) fn bind_image(mount: &Mount, at: &Path, optional: &HashSet<PathBuf>) -> Result<Step, Error> {
    let destination = mount.destination().clone();
    let file = mount.source().clone().filter(|source| source.is_absolute());
    let file = file.ok_or_else(|| Error::Source { destination: destination.clone() })?;
    let words = mount.options().as_deref().unwrap_or_default();
    if words.iter().any(|word| word == "rw") {
        return Err(Error::Unsupported("writing to an image that is bound".to_owned()));
    }
    let parsed = options::parse(words);
    let mut inside = PathBuf::from("/");
    for option in parsed.other {
        match option.strip_prefix(INSIDE) {
            Some(path) => inside = PathBuf::from(path),
            None => return Err(Error::Option { destination, option }),
        }
    }
    let optional = optional.contains(&destination);
    let restrict = parsed.flags | MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    Ok(Step::BindImage { file, inside, destination, at: at.to_path_buf(), restrict, optional })
}

impl fmt::Display for Layers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("put over the image")?;
        if let Some(generated) = &self.generated {
            f.write_str(" what the container needs (")?;
            let paths = generated.directories.iter().chain(generated.files.iter().map(|(path, _)| path));
            for (index, path) in paths.enumerate() {
                write!(f, "{}{}", if index == 0 { "" } else { " " }, path.display())?;
            }
            f.write_str("),")?;
        }
        self.lower.iter().try_for_each(|path| write!(f, " {}, read-only,", path.display()))?;
        match &self.upper {
            Upper::None => f.write_str(" nothing that is written to"),
            Upper::Memory { size: None } => f.write_str(" memory to write to"),
            Upper::Memory { size: Some(size) } => write!(f, " {size} bytes of memory to write to"),
            Upper::Directory(path) => write!(f, " {} to write to", path.display()),
        }?;
        f.write_str("; make that the root")
    }
}
