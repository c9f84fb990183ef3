//! Every form of a source that needs no other tool: the same image must come out of all of them.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests fail by panicking")]

mod support;

use coracle_converter::{Digest, Source, convert};
use serde_json::json;
use std::fs;
use std::path::{Path, PathBuf};
use support::tar::TarBuilder;
use support::{Layout, Packed, bytes, chain, converted, file, gzip, layout_source, list, options};

/// One layer larger than what is kept in memory of a compressed archive, between two that are not.
fn layers() -> Vec<Vec<u8>> {
    let noise = (0..2_500_000u32).flat_map(|n| n.wrapping_mul(2_654_435_761).rotate_left(n % 29).to_le_bytes());
    vec![
        TarBuilder::new().file("base", noise.clone().take(9 << 20).collect::<Vec<_>>()).finish(),
        TarBuilder::new().file("large", noise.collect::<Vec<_>>()).file("small", "1").finish(),
        TarBuilder::new().file("small", "2").file(".wh.base", "").finish(),
    ]
}

/// A docker archive with these images: tags and layers of each.
fn docker(images: &[(&[&str], &[Vec<u8>])]) -> Vec<u8> {
    let mut tar = TarBuilder::new();
    let mut manifest = Vec::new();
    for (tags, layers) in images {
        let config = Layout::config(layers, coracle_converter::host_architecture()).to_string();
        let name = format!("{}.json", Digest::of(config.as_bytes()).hex());
        let names = layers.iter().map(|layer| format!("{}.tar", Digest::of(layer).hex())).collect::<Vec<_>>();
        tar = names.iter().zip(*layers).fold(tar, |tar, (name, layer)| tar.file(name, layer)).file(&name, config);
        manifest.push(json!({"Config": name, "RepoTags": tags, "Layers": names}));
    }
    tar.file("manifest.json", json!(manifest).to_string()).finish()
}

#[test]
fn compressed_archives_give_the_same_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let layers = layers();
    for packed in [Packed::Plain, Packed::Gzip] {
        let archive = Layout::new().image("v1", &layers, packed).archive();
        let mut digests = Vec::new();
        for content in [archive.clone(), gzip(&archive), zstd::encode_all(&archive[..], 1).unwrap()] {
            let file = file(dir.path(), "oci.tar", &content);
            digests.push(Digest::of(&bytes(&Source::OciArchive { file, reference: None }, &options())));
        }
        digests.dedup();
        assert_eq!(digests.len(), 1, "{packed:?}");
    }
    let archive = docker(&[(&["a:1"], &layers)]);
    let mut digests = Vec::new();
    for content in [archive.clone(), gzip(&archive), zstd::encode_all(&archive[..], 1).unwrap()] {
        let file = file(dir.path(), "docker.tar", &content);
        digests.push(Digest::of(&bytes(&Source::DockerArchive { file, reference: None }, &options())));
    }
    digests.dedup();
    assert_eq!(digests.len(), 1);
}

#[test]
fn damaged_compressed_archives_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let good = gzip(&docker(&[(&["a:1"], &layers())]));
    let mut flipped = good.clone();
    flipped[good.len() / 2] ^= 4;
    for (what, content) in
        [("cut", good[..good.len() / 2].to_vec()), ("checksum", good[..good.len() - 1].to_vec()), ("flipped", flipped)]
    {
        let source = Source::DockerArchive { file: file(dir.path(), "bad.tar.gz", &content), reference: None };
        let error = chain(&converted(&source).unwrap_err());
        assert!(error.contains("bad.tar.gz") || error.contains("layer"), "{what}: {error}");
    }
}

#[test]
fn images_of_a_docker_archive_have_tags_and_numbers() {
    let dir = tempfile::tempdir().unwrap();
    let one = [TarBuilder::new().file("one", "").finish()];
    let two = [TarBuilder::new().file("two", "").finish()];
    let three = [TarBuilder::new().file("three", "").finish()];
    let archive = docker(&[(&["a:1", "localhost/a:x"], &one), (&["a:2"], &two), (&[], &three)]);
    let archive = file(dir.path(), "images.tar", &archive);
    let has = |reference: &str| {
        let source: Source = format!("docker-archive:{}:{reference}", archive.display()).parse().unwrap();
        converted(&source).map(|lines| lines[1].split(' ').nth(5).unwrap().to_owned()).map_err(|error| chain(&error))
    };
    for (reference, expected) in [
        ("a:1", "/one"),
        ("docker.io/library/a:1", "/one"),
        ("localhost/a:x", "/one"),
        ("a:2", "/two"),
        ("@0", "/one"),
        ("@1", "/two"),
        ("@2", "/three"),
    ] {
        assert_eq!(has(reference).as_deref(), Ok(expected), "{reference}");
    }
    for reference in ["a:3", "@3", "@x", "@-1", "@99999999999999999999"] {
        let error = has(reference).unwrap_err();
        assert!(
            error.contains(&format!("no image {reference:?}")) && error.contains("@2, a:1, a:2, localhost/a:x"),
            "{error}"
        );
    }
    let error = chain(&converted(&Source::DockerArchive { file: archive, reference: None }).unwrap_err());
    assert!(error.contains("has several images; name one: there are @2, a:1"), "{error}");
    // As in skopeo, layouts and OCI archives have numbers, too.
    let layout = dir.path().join("layout");
    Layout::new().image("x", &one, Packed::Plain).image("y", &two, Packed::Plain).write(&layout);
    assert!(converted(&layout_source(&layout, Some("@1"))).unwrap()[1].contains("/two"));
}

fn detected(path: &Path) -> String {
    Source::detect(path)
        .map_or_else(|error| chain(&error), |source| source.to_string().replace(path.to_str().unwrap(), ""))
}

#[test]
fn a_path_alone_is_told_by_what_it_holds() {
    let dir = tempfile::tempdir().unwrap();
    let layers = &layers()[1..];
    let layout = Layout::new().image("v1", layers, Packed::Gzip);
    layout.write(&dir.path().join("layout"));
    let put = |content: &[u8]| file(dir.path(), "file", content);
    let root = TarBuilder::new().dir("./").dir("bin").file("manifest.json", "{}").finish();
    for pack in [|bytes: &[u8]| bytes.to_vec(), gzip, |bytes: &[u8]| zstd::encode_all(bytes, 1).unwrap()] {
        assert_eq!(detected(&put(&pack(&layout.archive()))), "oci-archive:");
        assert_eq!(detected(&put(&pack(&docker(&[(&["a:1"], layers)])))), "docker-archive:");
        assert_eq!(detected(&put(&pack(&root))), "tar:");
    }
    assert_eq!(detected(&dir.path().join("layout")), "oci:");
    assert_eq!(detected(dir.path()), "dir:");
    let image = dir.path().join("image.sqfs");
    convert(&layout_source(&dir.path().join("layout"), None), &image, &options(), &()).unwrap();
    assert_eq!(detected(&image), "squashfs:");
    let sif = put(&sif(&image));
    assert_eq!(detected(&sif), "sif:");
    assert_eq!(converted(&Source::Sif { file: sif }).unwrap(), list(&image));
    for (content, expected) in [
        (&b"#!/bin/sh\n"[..], "cannot tell what"),
        (b"", "cannot tell what"),
        (b"\xfd7zXZ\0\0\x04", "compressed with xz"),
    ] {
        let text = detected(&put(content));
        assert!(text.contains(expected), "{text}");
    }
    assert!(detected(&dir.path().join("missing")).contains("cannot open"));
}

/// A SIF file with that image as its root file system.
fn sif(image: &PathBuf) -> Vec<u8> {
    let mut bytes = vec![0u8; 4096];
    bytes[32..42].copy_from_slice(b"SIF_MAGIC\0");
    bytes[88..96].copy_from_slice(&1i64.to_le_bytes());
    bytes[96..104].copy_from_slice(&128i64.to_le_bytes());
    let descriptor = &mut bytes[128..128 + 585];
    descriptor[0..4].copy_from_slice(&0x4004i32.to_le_bytes());
    descriptor[4] = 1;
    descriptor[17..25].copy_from_slice(&4096i64.to_le_bytes());
    descriptor[201..205].copy_from_slice(&1i32.to_le_bytes());
    descriptor[205..209].copy_from_slice(&2i32.to_le_bytes());
    bytes.extend(fs::read(image).unwrap());
    bytes
}
