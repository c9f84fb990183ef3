//! Putting a finished image into a registry: the file as a blob, a manifest around it, and the link to the container
//! image that it was made of.

use super::artifact::{
    self, ARTIFACT_TYPE, Document, EMPTY, EMPTY_TYPE, INDEX_TYPE, LAYER_TYPE, Link, MANIFEST_TYPE, is_container_image,
};
use super::client::{Access, Ask, Client, Manifest, Place};
use super::error::Error;
use super::http::{self, Payload};
use super::reference::Reference;
use super::upload::Upload;
use crate::digest::Digest;
use std::collections::BTreeMap;
use std::fs::File;
use ureq::http::{Method, header};

/// The name under which other tools store the file when they fetch it.
const TITLE: (&str, &str) = ("org.opencontainers.image.title", "image.sqfs");

/// A file to be pushed.
#[derive(Debug)]
pub struct Finished<'a> {
    /// The file.
    pub file: &'a File,
    /// Its digest.
    pub digest: Digest,
    /// Its size.
    pub size: u64,
    /// Manifest of the container image that it was made of.
    pub made_of: Option<Digest>,
    /// The name of that image.
    pub source: Option<Reference>,
}

/// What a push did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pushed {
    /// Digest of the artifact's manifest.
    pub manifest: Digest,
    /// Digest of the file.
    pub blob: Digest,
    /// The registry had the file already.
    pub present: bool,
    /// The container image in the same repository that it now refers to.
    pub attached: Option<Digest>,
}

impl Client {
    /// Stores a finished image. A reference without a tag, at the digest of its container image, adds it to that
    /// image without a name of its own.
    ///
    /// # Errors
    /// When the registry does not take it, or the tag is that of a container image.
    pub fn push(
        &self,
        finished: &Finished<'_>,
        reference: &Reference,
        advanced: &dyn Fn(u64),
    ) -> Result<Pushed, Error> {
        let doing = format!("push {reference}");
        let wrong = |reason: String| Error::Artifact { reference: reference.to_string(), reason };
        let place = self.origin(reference);
        let subject = match finished.made_of {
            Some(digest) => self.at_origin(&place, &digest.to_string(), &doing)?,
            None => None,
        };
        match reference.digest() {
            Some(asked) if subject.as_ref().is_none_or(|subject| subject.digest != asked) => {
                return Err(wrong(format!("the image was not made of {asked}, or that is not in this repository")));
            }
            _ => {}
        }
        if let Some(tag) = reference.tag()
            && let Some(there) = self.at_origin(&place, tag, &doing)?
            && is_container_image(&there)
        {
            return Err(wrong(format!("tag {tag} is that of a container image: push to another tag, as {tag}-sqfs")));
        }
        // Reading and writing is one permission.
        let upload = |file: Payload<'_>, digest, size, from: Option<&str>| {
            Upload { client: self, place: &place, doing: &doing, digest, size, from }.run(file, advanced)
        };
        let same_registry =
            |source: &&Reference| source.host() == reference.host() && source.repository() != reference.repository();
        let from = finished.source.as_ref().filter(same_registry).map(Reference::repository);
        let whole = Payload::Part(finished.file, 0, finished.size);
        let present = !upload(whole, finished.digest, finished.size, from)?;
        upload(Payload::Bytes(EMPTY), Digest::of(EMPTY), EMPTY.len() as u64, None)?;

        let manifest = manifest(finished, subject.as_ref());
        let content = serde_json::to_vec(&manifest).map_err(|error| wrong(error.to_string()))?;
        let digest = Digest::of(&content);
        let selector = reference.tag().map_or_else(|| digest.to_string(), str::to_owned);
        let keeps_account = self.put_manifest(&place, &selector, MANIFEST_TYPE, &content, &doing)?;
        if let Some(subject) = &subject
            && !keeps_account
        {
            let (media_type, size) = (MANIFEST_TYPE.to_owned(), content.len() as u64);
            let artifact_type = Some(ARTIFACT_TYPE.to_owned());
            let link =
                Link { media_type, digest: digest.to_string(), size, artifact_type, annotations: BTreeMap::new() };
            self.add_referrer(reference, &place, &subject.digest, link, &doing)?;
        }
        let attached = subject.map(|subject| subject.digest);
        Ok(Pushed { manifest: digest, blob: finished.digest, present, attached })
    }

    /// A manifest of the registry itself, whatever its mirrors have.
    fn at_origin(&self, place: &Place, selector: &str, doing: &str) -> Result<Option<Manifest>, Error> {
        match self.manifest_at(place, selector, selector.parse().ok(), doing) {
            Ok(manifest) => Ok(Some(manifest)),
            Err(Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Stores a manifest; true when the registry keeps account of what it refers to.
    fn put_manifest(
        &self,
        place: &Place,
        selector: &str,
        media_type: &str,
        content: &[u8],
        doing: &str,
    ) -> Result<bool, Error> {
        let uri = self.uri(place, &format!("manifests/{selector}"), doing)?;
        let headers = vec![(header::CONTENT_TYPE, media_type.to_owned())];
        let (method, payload, access) = (Method::PUT, Payload::Bytes(content), Access::Push);
        let ask = Ask { method, uri, headers, payload, doing, access };
        let answer = self.call(place, &ask)?;
        if !answer.status().is_success() {
            return Err(http::refusal(answer, &ask.uri, doing));
        }
        Ok(answer.headers().contains_key("oci-subject"))
    }

    /// Adds to the tag that lists what refers to an image (distribution specification 1.1, referrers tag schema).
    fn add_referrer(
        &self,
        reference: &Reference,
        place: &Place,
        subject: &Digest,
        link: Link,
        doing: &str,
    ) -> Result<(), Error> {
        let tag = artifact::referrers_tag(subject);
        let mut all = match self.at_origin(place, &tag, doing)? {
            // A mirror's list may be an old one.
            Some(manifest) => artifact::parse(&manifest.content, reference)?,
            None => artifact::empty(),
        };
        if all.manifests.iter().any(|one| one.digest == link.digest) {
            return Ok(());
        }
        all.manifests.push(link);
        let content = serde_json::to_vec(&all)
            .map_err(|error| Error::Artifact { reference: reference.to_string(), reason: error.to_string() })?;
        self.put_manifest(place, &tag, INDEX_TYPE, &content, doing).map(drop)
    }
}

/// The same file gives the same manifest.
fn manifest(finished: &Finished<'_>, subject: Option<&Manifest>) -> Document {
    let link = |media_type: &str, digest: &Digest, size: u64| Link {
        media_type: media_type.to_owned(),
        digest: digest.to_string(),
        size,
        artifact_type: None,
        annotations: BTreeMap::new(),
    };
    let mut layer = link(LAYER_TYPE, &finished.digest, finished.size);
    layer.annotations.insert(TITLE.0.to_owned(), TITLE.1.to_owned());
    Document {
        schema_version: 2,
        media_type: Some(MANIFEST_TYPE.to_owned()),
        artifact_type: Some(ARTIFACT_TYPE.to_owned()),
        config: link(EMPTY_TYPE, &Digest::of(EMPTY), EMPTY.len() as u64),
        layers: vec![layer],
        subject: subject.map(|subject| link(&subject.media_type, &subject.digest, subject.content.len() as u64)),
    }
}
