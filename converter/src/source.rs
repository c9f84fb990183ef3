//! Where images come from: the forms of a source, and the image that one of them holds.

mod archive;
mod detect;
mod docker;
mod export;
mod layout;
mod oci;
mod remote;
mod stream;

pub use remote::pick;

use crate::digest::Digest;
use crate::error::Error;
use crate::layer::{Blob, Layer, Packing};
use crate::options::Options;
use crate::registry::{self, Downloads, Reference};
use crate::section::Section;
use crate::sif;
use export::Export;
use oci_spec::image::Descriptor;
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

/// Largest JSON document that is read, in bytes. Registries refuse manifests above 4 MiB.
pub const DOCUMENT_MAX: u64 = 8 << 20;

/// An image, or a plain root file system.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Source {
    /// An image in a registry.
    Registry {
        /// Its name.
        reference: Reference,
    },
    /// A finished squashfs or SIF file in a registry, which is not converted.
    Artifact {
        /// Its name.
        reference: Reference,
    },
    /// An OCI image layout.
    OciLayout {
        /// Its directory.
        dir: PathBuf,
        /// Reference name, or `sha256:…` of a manifest, when there is more than one image.
        reference: Option<String>,
    },
    /// An OCI image layout in a tar.
    OciArchive {
        /// The tar.
        file: PathBuf,
        /// As for a layout.
        reference: Option<String>,
    },
    /// What `docker save` writes.
    DockerArchive {
        /// The tar.
        file: PathBuf,
        /// Repository and tag, when there is more than one image.
        reference: Option<String>,
    },
    /// An image in the Docker daemon's store.
    DockerDaemon {
        /// As `docker save` takes it; `:latest` when there is no tag.
        name: String,
    },
    /// An image in the store of podman and buildah.
    ContainersStorage {
        /// As `podman save` takes it.
        name: String,
    },
    /// A root file system in a tar, plain or compressed with gzip or zstd.
    Tar {
        /// The tar.
        file: PathBuf,
    },
    /// A root file system in a directory.
    Directory {
        /// The directory.
        dir: PathBuf,
    },
    /// A squashfs image, by whatever tool.
    Squashfs {
        /// The file that it is in.
        file: PathBuf,
        /// Its first byte there.
        offset: u64,
    },
    /// Apptainer's image format, with a squashfs image inside.
    Sif {
        /// The file.
        file: PathBuf,
    },
}

impl FromStr for Source {
    type Err = Error;

    /// `docker://[HOST[:PORT]/]NAME[:TAG][@DIGEST]`, `oras://` likewise, `oci:DIR[:TAG]`, `oci-archive:FILE[:TAG]`,
    /// `docker-archive:FILE[:NAME:TAG]`, `docker-daemon:NAME[:TAG]`, `containers-storage:NAME`, `tar:FILE`, `dir:DIR`,
    /// `squashfs:FILE` or `sif:FILE`. As in other tools the first colon after the file ends it, and a tag may have more of
    /// them; `@sha256:…` may stand in place of a tag, and `:@N` for the image with that number, from 0.
    fn from_str(given: &str) -> Result<Self, Self::Err> {
        let form_error = || Error::SourceForm { given: given.to_owned() };
        let named = |name: &str| name.parse::<Reference>().map_err(Error::from);
        if let Some(name) = given.strip_prefix("docker://") {
            return Ok(Self::Registry { reference: named(name)? });
        }
        if let Some(name) = given.strip_prefix("oras://") {
            return Ok(Self::Artifact { reference: named(name)? });
        }
        let (form, rest) = given.split_once(':').ok_or_else(form_error)?;
        let (path, reference) = match (rest.split_once("@sha256:"), rest.split_once(':')) {
            (Some((path, hex)), _) if !path.contains(':') => (path, Some(format!("sha256:{hex}"))),
            (_, Some((path, reference))) => (path, Some(reference.to_owned())),
            (_, None) => (rest, None),
        };
        let whole = rest;
        if path.is_empty() || reference.as_deref() == Some("") {
            return Err(form_error());
        }
        let path = PathBuf::from(path);
        Ok(match form {
            "oci" => Self::OciLayout { dir: path, reference },
            "oci-archive" => Self::OciArchive { file: path, reference },
            "docker-archive" => Self::DockerArchive { file: path, reference },
            "tar" => Self::Tar { file: whole.into() },
            "dir" => Self::Directory { dir: whole.into() },
            "squashfs" => Self::Squashfs { file: whole.into(), offset: 0 },
            "sif" => Self::Sif { file: whole.into() },
            // A command would take it for an option.
            "docker-daemon" | "containers-storage" if whole.starts_with('-') => return Err(form_error()),
            "docker-daemon" => Self::DockerDaemon { name: whole.into() },
            "containers-storage" => Self::ContainersStorage { name: whole.into() },
            _ => return Err(form_error()),
        })
    }
}

impl Source {
    /// The digest of the manifest or index that a source in a registry means at the moment; `None` for any other. One
    /// request, usually. With [`Source::pinned`] a conversion takes that and no other.
    ///
    /// # Errors
    /// When no registry has it, or none answers.
    pub fn resolve(&self, client: &registry::Client) -> Result<Option<Digest>, Error> {
        match self {
            Self::Registry { reference } | Self::Artifact { reference } => Ok(Some(client.resolve(reference)?.digest)),
            _ => Ok(None),
        }
    }

    /// The same source in a registry, at this digest and no other; any other source as it is.
    pub fn pinned(&self, digest: Digest) -> Self {
        match self {
            Self::Registry { reference } => Self::Registry { reference: reference.pinned(digest) },
            Self::Artifact { reference } => Self::Artifact { reference: reference.pinned(digest) },
            other => other.clone(),
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (form, path, reference) = match self {
            Self::Registry { reference } => return write!(f, "docker://{reference}"),
            Self::Artifact { reference } => return write!(f, "oras://{reference}"),
            Self::OciLayout { dir, reference } => ("oci", dir, reference.as_deref()),
            Self::OciArchive { file, reference } => ("oci-archive", file, reference.as_deref()),
            Self::DockerArchive { file, reference } => ("docker-archive", file, reference.as_deref()),
            Self::Tar { file } => ("tar", file, None),
            Self::Directory { dir } => ("dir", dir, None),
            Self::Squashfs { file, .. } => ("squashfs", file, None),
            Self::Sif { file } => ("sif", file, None),
            Self::DockerDaemon { name } => return write!(f, "docker-daemon:{name}"),
            Self::ContainersStorage { name } => return write!(f, "containers-storage:{name}"),
        };
        write!(f, "{form}:{}", path.display())?;
        match reference {
            Some(digest) if digest.starts_with("sha256:") => write!(f, "@{digest}"),
            Some(tag) => write!(f, ":{tag}"),
            None => Ok(()),
        }
    }
}

/// An image that a source was found to hold.
#[derive(Debug)]
pub struct Image {
    /// The name under which the source has it. No part of the place where the source lies: the same image gives the
    /// same bytes wherever it is converted.
    pub reference: Option<String>,
    /// Manifest, verbatim.
    pub manifest: Option<Vec<u8>>,
    /// Image config, verbatim.
    pub config: Option<Vec<u8>>,
    /// Architecture in Go's spelling.
    pub architecture: Option<String>,
    /// From the bottom up.
    pub layers: Vec<Layer>,
    /// Whether names like `.wh.x` are white-outs.
    pub whiteouts: bool,
    /// What fetches the layers, as long as this is there.
    pub downloads: Option<Downloads>,
}

/// What a source was found to hold.
#[derive(Debug)]
pub enum Found<'s> {
    /// Layers.
    Image(Image),
    /// Files; not looked at yet.
    Directory(&'s Path),
    /// A squashfs image at a byte of a file; not looked at yet.
    Squashfs(&'s Path, u64),
}

/// Finds what is to be converted.
///
/// # Errors
/// When the source is not of its form, or has no such image.
pub fn resolve<'s>(source: &'s Source, options: &Options) -> Result<Found<'s>, Error> {
    let architecture = &options.architecture;
    Ok(Found::Image(match source {
        Source::Registry { reference } => remote::resolve(reference, options)?,
        // What is finished has no layers.
        Source::Artifact { .. } => return Err(Error::Finished { given: source.to_string() }),
        Source::OciLayout { dir, reference } => {
            let store = layout::Directory::open(dir)?;
            oci::resolve(&store, reference.as_deref(), architecture)?
        }
        Source::OciArchive { file, reference } => {
            let store = archive::Archive::open(file)?;
            oci::resolve(&store, reference.as_deref(), architecture)?
        }
        Source::DockerArchive { file, reference } => {
            let archive = archive::Archive::open(file)?;
            docker::resolve(&archive, reference.as_deref(), architecture)?
        }
        Source::DockerDaemon { name } => exported(source, Export::docker(name)?, architecture)?,
        Source::ContainersStorage { name } => exported(source, Export::containers(name)?, architecture)?,
        Source::Tar { file } => plain_tar(file)?,
        Source::Directory { dir } => return Ok(Found::Directory(dir)),
        Source::Squashfs { file, offset } => return Ok(Found::Squashfs(file, *offset)),
        Source::Sif { file } => {
            let opened = File::open(file).map_err(Error::file("open", file))?;
            let offset = sif::squashfs_offset(&opened).map_err(|source| Error::Sif { path: file.clone(), source })?;
            return Ok(Found::Squashfs(file, offset));
        }
    }))
}

/// An image out of another tool's store.
fn exported(source: &Source, export: Export, architecture: &str) -> Result<Image, Error> {
    let archive = archive::Archive::exported(&source.to_string(), export)?;
    docker::resolve(&archive, None, architecture)
}

fn plain_tar(file: &Path) -> Result<Image, Error> {
    let failed = || Error::file("open", file);
    let metadata = file.metadata().map_err(failed())?;
    if metadata.is_dir() {
        return Err(Error::Form { path: file.into(), form: "tar file", missing: "content: it is a directory".into() });
    }
    let layer = Layer {
        name: file.display().to_string(),
        blob: Box::new(FileBlob(file.into())),
        digest: None,
        // A pipe or device has no size of its own.
        size: metadata.is_file().then_some(metadata.len()),
        diff_id: None,
        estargz: false,
    };
    Ok(Image {
        reference: None,
        manifest: None,
        config: None,
        architecture: None,
        layers: vec![layer],
        whiteouts: false,
        downloads: None,
    })
}

/// Named files and blobs: a layout directory or an archive.
trait Store {
    /// Where it is, for messages.
    fn place(&self) -> &Path;
    /// A small file, or `None` when there is none.
    fn document(&self, name: &str) -> Result<Option<Vec<u8>>, Error>;
    /// A blob by name, or `None` when there is none.
    fn blob(&self, name: &str) -> Result<Option<StoredBlob>, Error>;

    /// A manifest, index or config by digest; not verified yet.
    fn content(&self, _: Content, digest: &Digest) -> Result<Option<Vec<u8>>, Error> {
        self.document(&blob_name(digest))
    }

    /// A layer by what its manifest says of it.
    fn layer(&self, _: &Descriptor, digest: &Digest) -> Result<Option<StoredBlob>, Error> {
        self.blob(&blob_name(digest))
    }
}

/// What a document is to an image: registries keep them in different places.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Content {
    /// A manifest, or an index of several.
    Manifest,
    /// An image config.
    Config,
}

/// A blob of a [`Store`].
struct StoredBlob {
    blob: Box<dyn Blob>,
    /// In bytes.
    size: u64,
}

/// A whole file.
#[derive(Debug)]
struct FileBlob(PathBuf);

impl Blob for FileBlob {
    fn open(&self) -> io::Result<Box<dyn Read + Send + '_>> {
        Ok(Box::new(File::open(&self.0)?))
    }

    fn packing(&self) -> Option<Packing> {
        Packing::of_reader(File::open(&self.0).ok()?)
    }
}

/// A part of a file.
impl Blob for Section<Arc<File>> {
    fn open(&self) -> io::Result<Box<dyn Read + Send + '_>> {
        Ok(Box::new(self.clone()))
    }

    fn packing(&self) -> Option<Packing> {
        Packing::of_reader(self.clone())
    }
}

/// Reads at most [`DOCUMENT_MAX`] bytes.
pub fn read_document(
    mut from: impl Read,
    size: u64,
    document: &str,
    failed: impl FnOnce(io::Error) -> Error,
) -> Result<Vec<u8>, Error> {
    let too_large = |size| Error::DocumentTooLarge { document: document.to_owned(), size, max: DOCUMENT_MAX };
    if size > DOCUMENT_MAX {
        return Err(too_large(size));
    }
    let mut content = Vec::new();
    from.by_ref().take(DOCUMENT_MAX + 1).read_to_end(&mut content).map_err(failed)?;
    if content.len() as u64 > DOCUMENT_MAX {
        return Err(too_large(content.len() as u64));
    }
    Ok(content)
}

/// Name of a blob in a layout.
fn blob_name(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

#[cfg(test)]
mod tests;
