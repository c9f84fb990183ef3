//! What a launch sees of an image.

use std::path::Path;

use coracle::config::Images;
use coracle::image::{self, Directory, ImageFile};
use coracle::session::Remembered;
use coracle::spec::ImageFacts;

/// An image that this process reads itself, because it is not mounted or is so already.
pub(super) enum Looked {
    File(Box<Remembered>),
    Directory(Directory),
}

impl Looked {
    /// Opens the image, called `image` by the caller and `path` by everyone else; an image that `allowed` does not let run is
    /// refused.
    pub(super) fn open(image: &Path, path: &Path, allowed: Option<&Images>) -> anyhow::Result<Self> {
        let file = match ImageFile::open(image) {
            Err(image::Error::Directory { .. }) => return Self::directory(image, path, allowed),
            file => file?,
        };
        if let Some(allowed) = allowed {
            allowed.check(file.image.source(), image)?;
        }
        Ok(Self::File(Box::new(Remembered::open(file))))
    }

    /// The same of what is known to be a directory.
    pub(super) fn directory(image: &Path, path: &Path, allowed: Option<&Images>) -> anyhow::Result<Self> {
        let directory = Directory::open_root(path)?;
        if let Some(allowed) = allowed {
            allowed.check(&directory, image)?;
        }
        Ok(Self::Directory(directory))
    }

    pub(super) fn facts<'a>(&'a self, path: &'a Path) -> ImageFacts<'a> {
        match self {
            Self::File(tree) => file(path, tree),
            Self::Directory(tree) => ImageFacts { path, offset: 0, directory: true, tree },
        }
    }
}

/// The facts of a file.
pub(super) fn file<'a>(path: &'a Path, tree: &'a Remembered) -> ImageFacts<'a> {
    ImageFacts { path, offset: tree.offset(), directory: false, tree }
}
