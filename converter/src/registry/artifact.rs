//! Finished images in registries: squashfs files as OCI artifacts (image specification 1.1), by name or as what refers
//! to the container image that they were made of.

use super::client::{Access, Ask, Client, Manifest};
use super::error::Error;
use super::http::{self, Payload};
use super::reference::Reference;
use crate::digest::Digest;
use crate::source::DOCUMENT_MAX;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use ureq::http::{Method, header};

/// What a finished image is as an artifact.
pub const ARTIFACT_TYPE: &str = "application/vnd.coracle.image.v1+squashfs";
/// What its one layer is: the file.
pub const LAYER_TYPE: &str = "application/vnd.coracle.image.layer.v1+squashfs";
/// Apptainer's layer.
const SIF_LAYER_TYPE: &str = "application/vnd.sylabs.sif.layer.v1.sif";
/// A config that says nothing.
pub(super) const EMPTY_TYPE: &str = "application/vnd.oci.empty.v1+json";
pub(super) const EMPTY: &[u8] = b"{}";
pub(super) const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";
pub(super) const INDEX_TYPE: &str = "application/vnd.oci.image.index.v1+json";
/// Configs of container images, whose layers are no finished image.
const IMAGE_CONFIGS: [&str; 2] =
    ["application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json"];
/// Most referrers of an image that are looked at.
const REFERRERS_MAX: usize = 256;

/// A finished image in a registry, found and not fetched yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Artifact {
    /// Its name, pinned to its manifest.
    pub reference: Reference,
    /// Digest of its manifest.
    pub manifest: Digest,
    /// Digest of the file.
    pub blob: Digest,
    /// Bytes of the file.
    pub size: u64,
    /// The manifest of the container image that it is said to be made of; checked against what the file says.
    pub subject: Option<Digest>,
}

/// Part of a manifest or index. `oci-spec` would refuse what an artifact leaves out.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Link {
    pub media_type: String,
    pub digest: String,
    pub size: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Document {
    pub schema_version: u32,
    pub media_type: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    pub config: Link,
    pub layers: Vec<Link>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<Link>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Referrers {
    pub schema_version: u32,
    pub media_type: Option<String>,
    pub manifests: Vec<Link>,
}

/// The tag that holds what refers to a manifest, where a registry does not keep account of that itself.
pub(super) fn referrers_tag(subject: &Digest) -> String {
    format!("sha256-{}", subject.hex())
}

impl Client {
    /// The finished image of that name, allowed by the policies.
    ///
    /// # Errors
    /// When there is none, or it is something else.
    pub fn artifact(&self, reference: &Reference) -> Result<Artifact, Error> {
        let manifest = self.manifest(reference)?;
        self.check_policy(reference, &[manifest.digest])?;
        read(reference, &manifest)
    }

    /// The finished images that refer to a manifest, the latest first as far as the registry keeps an order.
    ///
    /// # Errors
    /// When the registry does not answer.
    pub fn squashfs_referrers(&self, reference: &Reference, subject: Digest) -> Result<Vec<Artifact>, Error> {
        let found = self.referrers(reference, &subject)?;
        let ours = found.manifests.iter().filter(|one| one.artifact_type.as_deref() == Some(ARTIFACT_TYPE));
        let mut artifacts = Vec::new();
        for one in ours.take(REFERRERS_MAX) {
            let Ok(digest) = one.digest.parse() else { continue };
            // One may have been removed, without its registry noticing.
            let Some(manifest) = self.manifest_if_any(&reference.pinned(digest))? else { continue };
            match read(reference, &manifest) {
                Ok(artifact) if artifact.subject == Some(subject) => artifacts.push(artifact),
                _ => {}
            }
        }
        artifacts.reverse();
        // What is signed is the container image; where that matters, this must be signed as well.
        if self.wants_signatures(reference) {
            artifacts.retain(|artifact| self.check_policy(reference, &[artifact.manifest]).is_ok());
        }
        Ok(artifacts)
    }

    /// What refers to a manifest.
    pub(super) fn referrers(&self, reference: &Reference, subject: &Digest) -> Result<Referrers, Error> {
        let doing = format!("look for what refers to {subject} of {}", reference.name());
        let place = self.origin(reference);
        let uri = self.uri(&place, &format!("referrers/{subject}"), &doing)?;
        let headers = vec![(header::ACCEPT, INDEX_TYPE.to_owned())];
        let (method, payload, access) = (Method::GET, Payload::None, Access::Pull);
        let ask = Ask { method, uri, headers, payload, doing: &doing, access };
        let answer = self.call(&place, &ask)?;
        let typed = answer.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let is_index = typed.is_some_and(|typed| typed.starts_with(INDEX_TYPE));
        match answer.status().as_u16() {
            200 if is_index => {
                let content = super::client::read_bounded(answer, DOCUMENT_MAX, &place, &doing)?;
                parse(&content, reference)
            }
            // The interface came with version 1.1 of the specification; before that there is the tag.
            200..=299 | 400 | 404 | 405 | 501 => Ok(self.tagged_referrers(reference, subject)?.unwrap_or_else(empty)),
            _ => Err(http::refusal(answer, &ask.uri, &doing)),
        }
    }

    pub(super) fn tagged_referrers(&self, reference: &Reference, subject: &Digest) -> Result<Option<Referrers>, Error> {
        let tag = reference.with_tag(referrers_tag(subject));
        self.manifest_if_any(&tag)?.map(|manifest| parse(&manifest.content, &tag)).transpose()
    }
}

pub(super) fn empty() -> Referrers {
    Referrers { schema_version: 2, media_type: Some(INDEX_TYPE.to_owned()), manifests: Vec::new() }
}

pub(super) fn parse<T: serde::de::DeserializeOwned>(content: &[u8], reference: &Reference) -> Result<T, Error> {
    serde_json::from_slice(content).map_err(|error| Error::Artifact {
        reference: reference.to_string(),
        reason: format!("its manifest is not valid: {error}"),
    })
}

/// Whether a manifest is that of a container image, or an index of several.
pub(super) fn is_container_image(manifest: &Manifest) -> bool {
    match serde_json::from_slice::<Document>(&manifest.content) {
        Ok(document) => IMAGE_CONFIGS.contains(&document.config.media_type.as_str()),
        Err(_) => true,
    }
}

fn read(reference: &Reference, manifest: &Manifest) -> Result<Artifact, Error> {
    let wrong = |reason: &str| Error::Artifact { reference: reference.to_string(), reason: reason.to_owned() };
    if manifest.media_type == INDEX_TYPE || manifest.media_type.contains("manifest.list") {
        return Err(wrong("it is an index of several: convert it as docker:// instead"));
    }
    let document: Document = parse(&manifest.content, reference)?;
    if IMAGE_CONFIGS.contains(&document.config.media_type.as_str()) {
        return Err(wrong("it is a container image: convert it as docker:// instead"));
    }
    let known = |layer: &&Link| [LAYER_TYPE, SIF_LAYER_TYPE].contains(&layer.media_type.as_str());
    let layer = match document.layers.as_slice() {
        [one] => one,
        many => match many.iter().filter(known).collect::<Vec<_>>().as_slice() {
            [one] => one,
            _ => return Err(wrong("it does not hold one file alone")),
        },
    };
    let digest =
        |text: &str| text.parse::<Digest>().map_err(|_| wrong("it names its parts by another digest than sha256"));
    Ok(Artifact {
        reference: reference.pinned(manifest.digest),
        manifest: manifest.digest,
        blob: digest(&layer.digest)?,
        size: layer.size,
        subject: document.subject.as_ref().map(|subject| digest(&subject.digest)).transpose()?,
    })
}
