use super::*;

#[test]
fn sources_are_told_by_their_form() {
    let registry = |name: &str| Source::Registry { reference: name.parse().unwrap() };
    let some = |text: &str| Some(text.to_owned());
    for (text, expected) in [
        ("oci:dir", Source::OciLayout { dir: "dir".into(), reference: None }),
        ("oci:/a/dir:v1", Source::OciLayout { dir: "/a/dir".into(), reference: some("v1") }),
        ("oci:d:docker.io/x:3", Source::OciLayout { dir: "d".into(), reference: some("docker.io/x:3") }),
        ("oci:d@sha256:ab", Source::OciLayout { dir: "d".into(), reference: some("sha256:ab") }),
        ("oci-archive:f.tar", Source::OciArchive { file: "f.tar".into(), reference: None }),
        ("oci-archive:f.tar:t", Source::OciArchive { file: "f.tar".into(), reference: some("t") }),
        ("docker-archive:f:a/b:3", Source::DockerArchive { file: "f".into(), reference: some("a/b:3") }),
        ("tar:root:fs.tar.gz", Source::Tar { file: "root:fs.tar.gz".into() }),
        ("docker://docker.io/library/alpine:3", registry("alpine:3")),
        ("oras://r.example/a:1", Source::Artifact { reference: "r.example#a:1".parse().unwrap() }),
        ("dir:/a:b", Source::Directory { dir: "/a:b".into() }),
        ("docker-archive:f:@1", Source::DockerArchive { file: "f".into(), reference: some("@1") }),
        ("docker-daemon:a/b:3", Source::DockerDaemon { name: "a/b:3".into() }),
        (
            "containers-storage:localhost/a@sha256:ab",
            Source::ContainersStorage { name: "localhost/a@sha256:ab".into() },
        ),
        ("sif:a:b", Source::Sif { file: "a:b".into() }),
        ("squashfs:a:b", Source::Squashfs { file: "a:b".into(), offset: 0 }),
    ] {
        let source: Source = text.parse().unwrap();
        assert_eq!(source, expected);
        assert_eq!(source.to_string(), text);
    }
}

#[test]
fn other_texts_are_answered_with_the_forms_there_are() {
    for text in ["", "alpine", "oci:", "oci:dir:", "oci::tag", "docker:alpine", "./dir", "tar:", "docker-daemon:--help"]
    {
        let error = text.parse::<Source>().unwrap_err().to_string();
        assert!(error.contains(&format!("{text:?}")) && error.contains("oci:DIR[:TAG]"), "{error}");
    }
}

/// A docker archive of three layers that are too large to be kept, and a small one, from the bottom up.
fn saved(noise: &[u8]) -> (Vec<u8>, Vec<Digest>) {
    use crate::test_tar::TarBuilder;
    let layers = ["a", "b", "c", "d"].map(|name| {
        let content = if name == "c" { &b"small"[..] } else { noise };
        TarBuilder::new().file(name, content).finish()
    });
    let diff_ids = layers.iter().map(|layer| Digest::of(layer)).collect::<Vec<_>>();
    let texts = diff_ids.iter().map(Digest::to_string).collect::<Vec<_>>();
    let config =
        serde_json::json!({"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": texts}});
    let names = diff_ids.iter().map(|digest| format!("{}.tar", digest.hex())).collect::<Vec<_>>();
    let manifest = serde_json::json!([{"Config": "config.json", "RepoTags": ["x:1"], "Layers": names}]);
    let tar = names.iter().zip(&layers).fold(TarBuilder::new(), |tar, (name, layer)| tar.file(name, layer));
    let tar = tar.file("config.json", config.to_string()).file("manifest.json", manifest.to_string());
    (tar.finish(), diff_ids)
}

#[test]
fn a_compressed_archive_is_read_once_and_then_for_each_large_layer_that_lies_further_ahead() {
    let dir = tempfile::tempdir().unwrap();
    let (tar, diff_ids) = saved(&vec![b'x'; 9 << 20]);
    let path = dir.path().join("saved.tar.zst");
    std::fs::write(&path, zstd::encode_all(&tar[..], 1).unwrap()).unwrap();
    let archive = archive::Archive::open(&path).unwrap();
    let image = docker::resolve(&archive, None, "amd64").unwrap();
    let stream = archive.stream().unwrap();
    let read = |layer: &Layer| {
        let mut content = Vec::new();
        layer.blob.open().unwrap().read_to_end(&mut content).unwrap();
        Digest::of(&content)
    };
    assert_eq!(stream.passes(), 1);
    // From the top down: `d`, `c` from memory, `b`, `a`.
    for (layer, expected) in image.layers.iter().zip(&diff_ids).rev() {
        assert_eq!(read(layer), *expected);
    }
    assert_eq!(stream.passes(), 4);
    // In the order in which they lie there, one more reading is enough.
    for (layer, expected) in image.layers.iter().zip(&diff_ids) {
        assert_eq!(read(layer), *expected);
    }
    assert_eq!(stream.passes(), 5);
}

#[test]
fn a_compressed_archive_is_not_read_without_end() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.tar.gz");
    std::fs::write(&path, zstd::encode_all(&[0; 1024][..], 1).unwrap()).unwrap();
    let stream = stream::Stream::new(stream::Origin::Packed(path, crate::layer::Packing::Zstd));
    for _ in 0..256 {
        stream.start().unwrap();
    }
    assert!(stream.start().unwrap_err().to_string().contains("unpack it first"));
}
