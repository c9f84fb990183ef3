//! What `docker save` and `podman save` write: `manifest.json` names configs and layers by their member names.
//!
//! Since Docker 25 the members lie in `blobs/` and an OCI index stands beside; `manifest.json` is still there and says
//! which image has which tag.

use super::archive::Archive;
use super::oci::{self, Config, diff_ids, json};
use super::{Image, Store, StoredBlob};
use crate::digest::Digest;
use crate::error::Error;
use crate::layer::Layer;
use serde::Deserialize;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Saved {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

/// Finds the image of that name.
pub fn resolve(archive: &Archive, reference: Option<&str>, architecture: &str) -> Result<Image, Error> {
    let Some(manifest) = archive.document("manifest.json")? else {
        if archive.document("oci-layout")?.is_some() {
            return oci::resolve(archive, reference, architecture);
        }
        return Err(Error::Form {
            path: archive.place().into(),
            form: "docker archive",
            missing: "manifest.json (a root file system in a tar is tar:FILE)".into(),
        });
    };
    let images: Vec<Saved> = json(&manifest, "manifest.json")?;
    let (saved, name) = select(archive, &images, reference)?;
    let member = |name: &str| Error::Form {
        path: archive.place().into(),
        form: "complete docker archive",
        missing: format!("member {name:?}"),
    };
    let config = archive.document(&saved.config)?.ok_or_else(|| member(&saved.config))?;
    let digest = Digest::of(&config);
    // `HEX.json`, or `blobs/sha256/HEX` in newer archives.
    if let Some(promised) = digest_of_name(&saved.config)
        && promised != digest
    {
        return Err(Error::BlobDigest { what: format!("image config {promised}"), found: digest, noticed: None });
    }
    let parsed: Config = json(&config, &format!("image config {}", saved.config))?;
    let layers = saved
        .layers
        .iter()
        .zip(diff_ids(&parsed, saved.layers.len())?)
        .map(|(name, diff_id)| {
            let StoredBlob { blob, size } = archive.blob(name)?.ok_or_else(|| member(name))?;
            // Only newer archives name layers by digest; the older ones' directories are ids of another kind.
            let digest = name.strip_prefix("blobs/sha256/").and_then(|hex| Digest::from_hex(hex).ok());
            let name = format!("layer {name}");
            Ok(Layer { name, blob, digest, size: Some(size), diff_id: Some(diff_id), estargz: false })
        })
        .collect::<Result<Vec<_>, Error>>()?;
    Ok(Image {
        reference: name,
        manifest: oci::manifest_of_config(archive, &digest),
        config: Some(config),
        architecture: parsed.architecture,
        layers,
        whiteouts: true,
        downloads: None,
    })
}

fn select<'a>(
    archive: &Archive,
    images: &'a [Saved],
    reference: Option<&str>,
) -> Result<(&'a Saved, Option<String>), Error> {
    let tags = |image: &'a Saved| image.repo_tags.iter().flatten();
    let available = || {
        // One that has no name has a number.
        let nameless = images.iter().enumerate().filter(|(_, image)| tags(image).next().is_none());
        let mut names = images.iter().flat_map(tags).cloned().collect::<Vec<_>>();
        names.extend(nameless.map(|(number, _)| format!("@{number}")));
        names.sort();
        names
    };
    let path = || archive.place().to_path_buf();
    match (reference, images) {
        (None, [one]) => Ok((one, tags(one).next().cloned())),
        (None, []) => Err(Error::NoSuchImage { wanted: "of any name".into(), path: path(), available: Vec::new() }),
        (None, _) => Err(Error::SeveralImages { path: path(), available: available() }),
        (Some(wanted), _) if wanted.starts_with('@') => {
            let number = wanted.get(1..).and_then(|number| number.parse::<usize>().ok());
            let image = number.and_then(|number| images.get(number));
            let image = image.map(|image| (image, tags(image).next().cloned()));
            image.ok_or_else(|| Error::NoSuchImage { wanted: wanted.to_owned(), path: path(), available: available() })
        }
        (Some(wanted), _) => {
            let full = full_name(wanted);
            images
                .iter()
                .find_map(|image| tags(image).find(|tag| full_name(tag) == full).map(|tag| (image, Some(tag.clone()))))
                .or_else(|| {
                    let wanted = wanted.parse::<Digest>().ok()?;
                    images.iter().find(|image| digest_of_name(&image.config) == Some(wanted)).map(|image| (image, None))
                })
                .ok_or_else(|| Error::NoSuchImage { wanted: wanted.to_owned(), path: path(), available: available() })
        }
    }
}

fn digest_of_name(member: &str) -> Option<Digest> {
    let name = member.rsplit('/').next()?;
    Digest::from_hex(name.strip_suffix(".json").unwrap_or(name)).ok()
}

/// A name with what Docker leaves out: registry, `library` and tag.
fn full_name(name: &str) -> String {
    let (repository, tag) = match name.rsplit_once(':') {
        Some((repository, tag)) if !tag.contains('/') => (repository, tag),
        _ => (name, "latest"),
    };
    let repository = match repository.split_once('/') {
        None => format!("docker.io/library/{repository}"),
        Some((first, _)) if !first.contains(['.', ':']) && first != "localhost" => format!("docker.io/{repository}"),
        Some(_) => repository.to_owned(),
    };
    format!("{repository}:{tag}")
}
