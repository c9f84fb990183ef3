//! From an image layout's index to one image: reference, platform, manifest, config, layers.

use super::{Content, Image, Store, StoredBlob, blob_name};
use crate::digest::Digest;
use crate::error::Error;
use crate::layer::Layer;
use oci_spec::image::{Descriptor, ImageIndex, ImageManifest};
use serde::Deserialize;
use serde::de::DeserializeOwned;

const INDEX: [&str; 2] =
    ["application/vnd.oci.image.index.v1+json", "application/vnd.docker.distribution.manifest.list.v2+json"];
const MANIFEST: [&str; 2] =
    ["application/vnd.oci.image.manifest.v1+json", "application/vnd.docker.distribution.manifest.v2+json"];
const CONFIG: [&str; 2] =
    ["application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json"];
/// Layers, without the compression that follows after `+` or `.`; what the content is decides.
const LAYER: [&str; 4] = [
    "application/vnd.oci.image.layer.v1.tar",
    "application/vnd.oci.image.layer.nondistributable.v1.tar",
    "application/vnd.docker.image.rootfs.diff.tar",
    "application/vnd.docker.image.rootfs.foreign.diff.tar",
];
/// Annotations by which an index names its images: OCI's, and containerd's for the full name.
const NAME: [&str; 2] = ["org.opencontainers.image.ref.name", "io.containerd.image.name"];
/// Annotation of a layer that is an eStargz one: the digest of its table of contents.
const ESTARGZ: &str = "containerd.io/snapshot/stargz/toc.digest";
/// Deepest nesting of indexes.
const NESTED_MAX: u32 = 4;

/// What is needed of an image config; the rest is handed on verbatim.
#[derive(Deserialize)]
pub struct Config {
    /// Architecture in Go's spelling.
    pub architecture: Option<String>,
    /// The layers' digests.
    pub rootfs: RootFs,
}

/// Part of an image config.
#[derive(Deserialize)]
pub struct RootFs {
    /// Digests of the uncompressed layers, from the bottom up.
    pub diff_ids: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct LayoutVersion {
    image_layout_version: String,
}

/// Parses a document.
pub fn json<T: DeserializeOwned>(content: &[u8], document: &str) -> Result<T, Error> {
    serde_json::from_slice(content).map_err(|source| Error::Json { document: document.to_owned(), source })
}

/// Finds the image of that reference for that architecture.
pub fn resolve(store: &dyn Store, reference: Option<&str>, architecture: &str) -> Result<Image, Error> {
    let missing = |missing: &str| Error::Form {
        path: store.place().into(),
        form: "OCI image layout",
        missing: missing.to_owned(),
    };
    let layout = store.document("oci-layout")?.ok_or_else(|| missing("oci-layout file"))?;
    let version: LayoutVersion = json(&layout, "oci-layout")?;
    if !version.image_layout_version.starts_with("1.") {
        return Err(Error::Document {
            document: "oci-layout".into(),
            reason: format!("layout version {:?} is not known", version.image_layout_version),
        });
    }
    let index = store.document("index.json")?.ok_or_else(|| missing("index.json"))?;
    let index: ImageIndex = json(&index, "index.json")?;
    let (descriptor, name) = by_reference(store, index.manifests(), reference, architecture)?;
    follow(store, descriptor, architecture, name)
}

/// The image that a descriptor leads to.
pub fn follow(
    store: &dyn Store,
    descriptor: &Descriptor,
    architecture: &str,
    name: Option<String>,
) -> Result<Image, Error> {
    let (content, manifest) = descend(store, descriptor, architecture)?;
    image(store, content, &manifest, name)
}

/// The descriptors of a layout's index that are asked for, as one, with the name that the index has for it.
fn by_reference<'a>(
    store: &dyn Store,
    all: &'a [Descriptor],
    reference: Option<&str>,
    architecture: &str,
) -> Result<(&'a Descriptor, Option<String>), Error> {
    let available = || {
        let mut names = all.iter().map(|one| name(one).map_or_else(|| one.digest().to_string(), str::to_owned));
        let mut names = names.by_ref().collect::<Vec<_>>();
        names.sort();
        names.dedup();
        names
    };
    let number = reference.and_then(|reference| reference.strip_prefix('@')?.parse::<usize>().ok());
    if let Some(one) = number.and_then(|number| all.get(number)) {
        return Ok((one, name(one).map(str::to_owned)));
    }
    let wanted = |one: &&Descriptor| match reference {
        None => !is_attestation(one),
        Some(digest) if digest.starts_with("sha256:") => one.digest().as_ref() == digest,
        Some(wanted) => names(one).any(|name| name == wanted),
    };
    let found = all.iter().filter(wanted).collect::<Vec<_>>();
    let chosen = match found.as_slice() {
        [one] => one,
        [] => {
            let wanted = reference.unwrap_or("of any name").to_owned();
            return Err(Error::NoSuchImage { wanted, path: store.place().into(), available: available() });
        }
        // One name for several platforms is what a nested index would say.
        many if many.iter().all(|one| name(one) == name(found[0])) => by_platform(many.iter().copied(), architecture)?,
        _ => return Err(Error::SeveralImages { path: store.place().into(), available: available() }),
    };
    Ok((chosen, name(chosen).map(str::to_owned)))
}

fn names(descriptor: &Descriptor) -> impl Iterator<Item = &str> {
    let annotations = descriptor.annotations().as_ref();
    NAME.iter().filter_map(move |key| annotations?.get(*key).map(String::as_str))
}

fn name(descriptor: &Descriptor) -> Option<&str> {
    names(descriptor).next()
}

/// Build provenance that lies beside the images of an index.
fn is_attestation(descriptor: &Descriptor) -> bool {
    let annotated = |key| descriptor.annotations().as_ref().is_some_and(|all| all.contains_key(key));
    annotated("vnd.docker.reference.type")
        || descriptor.platform().as_ref().is_some_and(|platform| platform.os().to_string() == "unknown")
}

/// The best of several descriptors for Linux on an architecture, which may have a variant behind a `/`.
fn by_platform<'a>(
    all: impl Iterator<Item = &'a Descriptor> + Clone,
    architecture: &str,
) -> Result<&'a Descriptor, Error> {
    let (name, wanted) = match architecture.split_once('/') {
        Some((name, variant)) => (name, Some(variant)),
        None => (architecture, None),
    };
    let fits = |one: &&Descriptor| {
        one.platform().as_ref().is_some_and(|platform| {
            // 64-bit ARM is v8 where nothing else is said.
            let variant = platform.variant().as_deref().or((name == "arm64").then_some("v8"));
            platform.os().to_string() == "linux"
                && platform.architecture().to_string() == name
                && (wanted.is_none() || variant == wanted)
        })
    };
    // Without a variant the image runs on every machine of the architecture; else the lowest is likeliest to.
    let variant = |one: &&Descriptor| one.platform().as_ref().and_then(|platform| platform.variant().clone());
    all.clone().filter(fits).min_by_key(variant).ok_or_else(|| {
        let mut available = all
            .filter(|one| !is_attestation(one))
            .map(|one| match one.platform() {
                Some(platform) => {
                    let variant = platform.variant().as_ref().map(|variant| format!("/{variant}")).unwrap_or_default();
                    format!("{}/{}{variant}", platform.os(), platform.architecture())
                }
                None => "one of unknown platform".to_owned(),
            })
            .collect::<Vec<_>>();
        available.sort();
        available.dedup();
        Error::NoPlatform { wanted: architecture.to_owned(), available }
    })
}

/// Follows nested indexes down to a manifest.
pub fn descend(store: &dyn Store, from: &Descriptor, architecture: &str) -> Result<(Vec<u8>, ImageManifest), Error> {
    let mut descriptor = from.clone();
    for _ in 0..NESTED_MAX {
        let media_type = descriptor.media_type().to_string();
        let index = INDEX.contains(&media_type.as_str());
        if !index && !MANIFEST.contains(&media_type.as_str()) {
            let remedy = if media_type.contains("manifest.v1+prettyjws") || media_type.ends_with("manifest.v1+json") {
                ": push the image again with a current tool"
            } else {
                ""
            };
            return Err(Error::MediaType {
                what: format!("manifest {}", descriptor.digest()),
                found: media_type,
                remedy,
            });
        }
        let what = if index { "index" } else { "manifest" };
        let content = blob_document(store, &descriptor, Content::Manifest, what)?;
        let document = format!("{what} {}", descriptor.digest());
        if !index {
            let manifest = json(&content, &document)?;
            return Ok((content, manifest));
        }
        let nested: ImageIndex = json(&content, &document)?;
        descriptor = match nested.manifests().as_slice() {
            [one] => one.clone(),
            many => by_platform(many.iter(), architecture)?.clone(),
        };
    }
    Err(Error::Document { document: "index.json".into(), reason: "indexes are nested too deeply".into() })
}

/// Gathers what a manifest refers to.
fn image(store: &dyn Store, content: Vec<u8>, manifest: &ImageManifest, name: Option<String>) -> Result<Image, Error> {
    let config_type = manifest.config().media_type().to_string();
    if !CONFIG.contains(&config_type.as_str()) {
        return Err(Error::MediaType {
            what: "the config".into(),
            found: config_type,
            remedy: ": this is an artifact, not a container image",
        });
    }
    let config = blob_document(store, manifest.config(), Content::Config, "image config")?;
    let parsed: Config = json(&config, &format!("image config {}", manifest.config().digest()))?;
    let diff_ids = diff_ids(&parsed, manifest.layers().len())?;
    let layers = manifest
        .layers()
        .iter()
        .zip(diff_ids)
        .map(|(descriptor, diff_id)| layer(store, descriptor, diff_id))
        .collect::<Result<Vec<_>, _>>()?;
    Ok(Image {
        reference: name,
        manifest: Some(content),
        config: Some(config),
        architecture: parsed.architecture,
        layers,
        whiteouts: true,
        downloads: None,
    })
}

/// The config's digests of uncompressed layers, of which there must be one per layer.
pub fn diff_ids(config: &Config, layers: usize) -> Result<Vec<Digest>, Error> {
    let diff_ids = &config.rootfs.diff_ids;
    if diff_ids.len() != layers {
        return Err(Error::Document {
            document: "image config".into(),
            reason: format!("it describes {} layers, the manifest {layers}", diff_ids.len()),
        });
    }
    diff_ids.iter().map(|text| parse_digest(text)).collect()
}

fn parse_digest(text: &str) -> Result<Digest, Error> {
    text.parse().map_err(|_| Error::DigestForm(text.to_owned()))
}

fn layer(store: &dyn Store, descriptor: &Descriptor, diff_id: Digest) -> Result<Layer, Error> {
    let digest = parse_digest(descriptor.digest().as_ref())?;
    let media_type = descriptor.media_type().to_string();
    let known = LAYER
        .iter()
        .any(|known| matches!(media_type.strip_prefix(known), Some("" | "+gzip" | "+zstd" | ".gzip" | ".zstd")));
    if !known {
        let remedy = if media_type.ends_with("+encrypted") { ": decrypt the image first" } else { "" };
        return Err(Error::MediaType { what: format!("layer {digest}"), found: media_type, remedy });
    }
    let name = blob_name(&digest);
    let place = || store.place().join(&name).display().to_string();
    let missing = || match descriptor.urls().as_ref().filter(|urls| !urls.is_empty()) {
        Some(urls) => Error::ForeignLayer { digest, urls: urls.clone() },
        None => Error::BlobMissing { what: "layer", digest, place: place() },
    };
    let StoredBlob { blob, size: found } = store.layer(descriptor, &digest)?.ok_or_else(missing)?;
    let size = descriptor.size();
    if found != size {
        return Err(Error::BlobSize { what: format!("layer {digest}"), expected: size, found });
    }
    let estargz = descriptor.annotations().as_ref().is_some_and(|all| all.contains_key(ESTARGZ));
    let name = format!("layer {digest}");
    Ok(Layer { name, blob, digest: Some(digest), size: Some(size), diff_id: Some(diff_id), estargz })
}

/// A small blob, its size and digest verified.
pub fn blob_document(
    store: &dyn Store,
    descriptor: &Descriptor,
    kind: Content,
    what: &'static str,
) -> Result<Vec<u8>, Error> {
    let digest = parse_digest(descriptor.digest().as_ref())?;
    let name = blob_name(&digest);
    let place = || store.place().join(&name).display().to_string();
    let content = store.content(kind, &digest)?.ok_or_else(|| Error::BlobMissing { what, digest, place: place() })?;
    let what = format!("{what} {digest}");
    if content.len() as u64 != descriptor.size() {
        return Err(Error::BlobSize { what, expected: descriptor.size(), found: content.len() as u64 });
    }
    let found = Digest::of(&content);
    if found != digest {
        return Err(Error::BlobDigest { what, found, noticed: None });
    }
    Ok(content)
}

/// The manifest of a layout that refers to this image config.
pub fn manifest_of_config(store: &dyn Store, config: &Digest) -> Option<Vec<u8>> {
    let index: ImageIndex = serde_json::from_slice(&store.document("index.json").ok()??).ok()?;
    index.manifests().iter().filter(|one| MANIFEST.contains(&one.media_type().to_string().as_str())).find_map(|one| {
        let content = blob_document(store, one, Content::Manifest, "manifest").ok()?;
        let manifest: ImageManifest = serde_json::from_slice(&content).ok()?;
        (manifest.config().digest().as_ref() == config.to_string()).then_some(content)
    })
}
