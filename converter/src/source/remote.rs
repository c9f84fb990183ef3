//! An image in a registry as a store of documents and blobs.

use super::{Content, Image, Store, StoredBlob, oci};
use crate::digest::Digest;
use crate::error::Error;
use crate::layer::Blob;
use crate::options::Options;
use crate::registry::{Cache, Downloads, Manifest, Reference, RemoteBlob};
use oci_spec::image::{Descriptor, MediaType};
use std::cell::RefCell;
use std::path::{Path, PathBuf};

struct Remote<'a> {
    options: &'a Options,
    reference: &'a Reference,
    place: PathBuf,
    /// What the reference means; fetched already.
    root: &'a Manifest,
    /// In the order of the manifest.
    layers: RefCell<Vec<RemoteBlob>>,
}

/// Finds the image. Its layers come through the cache when there is one.
pub fn resolve(reference: &Reference, options: &Options) -> Result<Image, Error> {
    let client = &options.registry;
    let root = client.manifest(reference)?;
    let store = Remote::new(options, reference, &root);
    let mut image = oci::follow(&store, &descriptor(&root)?, &options.architecture, Some(reference.recorded()))?;
    let manifest = image.manifest.as_deref().map_or(root.digest, Digest::of);
    client.check_policy(reference, &Picked { root: root.digest, manifest }.digests())?;
    if let Some(directory) = &options.blob_cache {
        download(&mut image, store.layers.into_inner(), directory, options)?;
    }
    Ok(image)
}

/// The manifest that a reference means on a platform.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Picked {
    /// What the reference names itself: the manifest, or an index.
    pub root: Digest,
    /// The manifest.
    pub manifest: Digest,
}

impl Picked {
    /// Both, or one when they are the same.
    pub fn digests(&self) -> Vec<Digest> {
        let mut digests = vec![self.root, self.manifest];
        digests.dedup();
        digests
    }
}

/// Finds the manifest without its image.
pub fn pick(reference: &Reference, options: &Options) -> Result<Picked, Error> {
    let root = options.registry.manifest(reference)?;
    let store = Remote::new(options, reference, &root);
    let (content, _) = oci::descend(&store, &descriptor(&root)?, &options.architecture)?;
    Ok(Picked { root: root.digest, manifest: Digest::of(&content) })
}

fn descriptor(root: &Manifest) -> Result<Descriptor, Error> {
    let digest = root.digest.to_string().parse::<oci_spec::image::Digest>();
    let digest = digest.map_err(|_| Error::DigestForm(root.digest.to_string()))?;
    Ok(Descriptor::new(MediaType::from(root.media_type.as_str()), root.content.len() as u64, digest))
}

/// Will have the layers come into the cache, the top one first.
fn download(image: &mut Image, layers: Vec<RemoteBlob>, directory: &Path, options: &Options) -> Result<(), Error> {
    let mut blobs: Vec<RemoteBlob> = Vec::new();
    let mut indexes = Vec::new();
    for layer in layers.into_iter().rev() {
        // The same layer may be in an image several times.
        let index = blobs.iter().position(|blob| blob.digest == layer.digest).unwrap_or(blobs.len());
        if index == blobs.len() {
            blobs.push(layer);
        }
        indexes.push(index);
    }
    let connections = options.registry.settings().connections.get();
    let downloads = Downloads::new(Cache::open(directory)?, blobs, connections);
    for (layer, index) in image.layers.iter_mut().rev().zip(indexes) {
        layer.blob = downloads.blob(index);
    }
    image.downloads = Some(downloads);
    Ok(())
}

impl<'a> Remote<'a> {
    fn new(options: &'a Options, reference: &'a Reference, root: &'a Manifest) -> Self {
        Self { options, reference, place: reference.name().into(), root, layers: RefCell::default() }
    }
}

impl Store for Remote<'_> {
    fn place(&self) -> &Path {
        &self.place
    }

    fn document(&self, _: &str) -> Result<Option<Vec<u8>>, Error> {
        // Registries have no files of a layout.
        Ok(None)
    }

    fn blob(&self, _: &str) -> Result<Option<StoredBlob>, Error> {
        Ok(None)
    }

    fn content(&self, kind: Content, digest: &Digest) -> Result<Option<Vec<u8>>, Error> {
        let client = &self.options.registry;
        Ok(Some(match kind {
            Content::Manifest if *digest == self.root.digest => self.root.content.clone(),
            Content::Manifest => client.manifest(&self.reference.pinned(*digest))?.content,
            Content::Config => client.small_blob(self.reference, *digest, &format!("pull {}", self.reference))?,
        }))
    }

    fn layer(&self, descriptor: &Descriptor, digest: &Digest) -> Result<Option<StoredBlob>, Error> {
        let urls = descriptor.urls().clone().unwrap_or_default();
        let blob = RemoteBlob::new(&self.options.registry, self.reference, *digest, descriptor.size(), urls);
        self.layers.borrow_mut().push(blob.clone());
        let blob: Box<dyn Blob> = Box::new(blob);
        Ok(Some(StoredBlob { blob, size: descriptor.size() }))
    }
}
