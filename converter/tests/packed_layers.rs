//! Layers in every form that registries have, and tars by other tools, against what other tools make of them.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, reason = "tests fail by panicking")]

mod support;

use coracle_converter::{Digest, Source};
use flate2::{Compression, GzBuilder};
use serde_json::{Value, json};
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Command;
use support::tar::TarBuilder;
use support::unpacked::{comparable, list_directory, run, usable};
use support::{Layout, OCI_CONFIG, OCI_LAYER, OCI_MANIFEST, Packed, chain, converted, gzip, layout_source};

/// Two layers of which the upper hides some of the lower.
fn layers() -> Vec<Vec<u8>> {
    let noise = (0..40_000u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect::<Vec<_>>();
    vec![
        TarBuilder::new()
            .dir("d")
            .file("d/gone", &noise[..70_000])
            .file("d/stays", &noise)
            .link("link", "d/stays")
            .finish(),
        TarBuilder::new().file("d/.wh.gone", "").file("new", "x").symlink("s", "new").finish(),
    ]
}

/// An image whose layers are these blobs, described so; `tars` is what they unpack to.
fn described(dir: &Path, tars: &[Vec<u8>], blobs: &[(Vec<u8>, Value)], types: [&str; 2]) -> std::path::PathBuf {
    let mut layout = Layout::new();
    let config =
        layout.blob(types[1], Layout::config(tars, coracle_converter::host_architecture()).to_string().as_bytes());
    let layers = blobs
        .iter()
        .map(|(blob, more)| {
            let mut descriptor = layout.blob("", blob);
            descriptor.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            descriptor
        })
        .collect::<Vec<_>>();
    let manifest = json!({"schemaVersion": 2, "mediaType": types[0], "config": config, "layers": layers});
    let mut descriptor = layout.blob(types[0], manifest.to_string().as_bytes());
    descriptor["annotations"] = json!({"org.opencontainers.image.ref.name": "t"});
    layout.manifests.push(descriptor);
    let path = dir.join("layout");
    layout.write(&path);
    path
}

fn ours(layout: &Path) -> Vec<String> {
    comparable(converted(&layout_source(layout, None)).unwrap_or_else(|error| panic!("{}", chain(&error))))
}

/// What umoci makes of the same layers, plain.
fn umoci(tars: &[Vec<u8>]) -> Vec<String> {
    let dir = tempfile::tempdir().unwrap();
    let layout = dir.path().join("layout");
    Layout::new().image("t", tars, Packed::Plain).write(&layout);
    unpack(&layout, &dir.path().join("bundle"))
}

fn unpack(layout: &Path, bundle: &Path) -> Vec<String> {
    run(Command::new("umoci").args(["unpack", "--image", &format!("{}:t", layout.display())]).arg(bundle));
    list_directory(&bundle.join("rootfs"))
}

/// The layer as eStargz has it: a gzip member for each file, the table of contents in the last but one, and an empty
/// member that says where that is.
fn estargz(files: &[(&str, &[u8])], landmark: &str) -> (Vec<u8>, Vec<u8>, Digest) {
    let toc = json!({"version": 1, "entries": files.iter().map(|(name, _)| json!({"name": name})).collect::<Vec<_>>()});
    let toc = toc.to_string().into_bytes();
    let with_landmark = [files, &[(landmark, &b"\x0f"[..])]].concat();
    let (mut blob, mut tar) = (Vec::new(), Vec::new());
    for (name, content) in &with_landmark {
        let part = TarBuilder::new().file(name, content).unfinished();
        blob.extend(gzip(&part));
        tar.extend(part);
    }
    let offset = blob.len();
    let last = TarBuilder::new().file("stargz.index.json", &toc).finish();
    blob.extend(gzip(&last));
    tar.extend(last);
    let extra = [b"SG\x16\0".to_vec(), format!("{offset:016x}STARGZ").into_bytes()].concat();
    let mut footer = GzBuilder::new().extra(extra).write(Vec::new(), Compression::none());
    footer.flush().unwrap();
    blob.extend(footer.finish().unwrap());
    (blob, tar, Digest::of(&toc))
}

#[test]
fn root_estargz_layers_lose_what_is_theirs_alone() {
    if !usable(&["umoci"], true) {
        return;
    }
    for landmark in [".prefetch.landmark", ".no.prefetch.landmark"] {
        let dir = tempfile::tempdir().unwrap();
        let files = [("bin/sh", &b"shell"[..]), ("deep/stargz.index.json", b"not at the root")];
        let (blob, tar, toc) = estargz(&files, landmark);
        let media_type = format!("{OCI_LAYER}+gzip");
        let annotations = json!({"containerd.io/snapshot/stargz/toc.digest": toc.to_string()});
        let marked = json!({"mediaType": media_type, "annotations": annotations});
        let all = umoci(std::slice::from_ref(&tar));
        // umoci knows nothing of eStargz and unpacks its books, too; readers of eStargz hide them.
        let books = |line: &String| line.contains(" /stargz.index.json ") || line.contains(&format!(" /{landmark} "));
        assert_eq!(all.iter().filter(|line| books(line)).count(), 2);
        let expected = all.iter().filter(|line| !books(line)).cloned().collect::<Vec<_>>();
        assert_eq!(
            ours(&described(
                dir.path(),
                std::slice::from_ref(&tar),
                &[(blob.clone(), marked)],
                [OCI_MANIFEST, OCI_CONFIG]
            )),
            expected
        );
        // In a layer that is not said to be one they are files like any other.
        let dir = tempfile::tempdir().unwrap();
        let plain = json!({"mediaType": media_type});
        assert_eq!(ours(&described(dir.path(), &[tar], &[(blob, plain)], [OCI_MANIFEST, OCI_CONFIG])), all);
    }
}

#[test]
fn root_zstd_chunked_layers_by_skopeo() {
    if !usable(&["skopeo", "umoci"], true) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let plain = dir.path().join("plain");
    Layout::new().image("t", &layers(), Packed::Plain).write(&plain);
    for format in ["zstd:chunked", "zstd", "gzip"] {
        let other = dir.path().join(format.replace(':', "-"));
        let (from, to) = (format!("oci:{}:t", plain.display()), format!("oci:{}:t", other.display()));
        run(Command::new("skopeo").args(["copy", "--insecure-policy", "--dest-compress-format", format, &from, &to]));
        let chunked = fs::read_dir(other.join("blobs/sha256")).unwrap().any(|blob| {
            let blob = fs::read(blob.unwrap().path()).unwrap();
            // The skippable frame with the table of contents, and its mark.
            blob.windows(4).any(|bytes| bytes == [0x50, 0x2a, 0x4d, 0x18]) && blob.ends_with(b"GnUlInUx")
        });
        assert_eq!(chunked, format == "zstd:chunked", "{format}");
        assert_eq!(ours(&other), umoci(&layers()), "{format}");
    }
}

#[test]
fn root_docker_media_types_are_the_same_image() {
    if !usable(&["umoci"], true) {
        return;
    }
    // umoci unpacks the same layers under the types of OCI, which are what it is made for.
    let types =
        ["application/vnd.docker.distribution.manifest.v2+json", "application/vnd.docker.container.image.v1+json"];
    let tars = layers();
    for layer in [
        "application/vnd.docker.image.rootfs.diff.tar.gzip",
        "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
    ] {
        let dir = tempfile::tempdir().unwrap();
        let blobs = tars.iter().map(|tar| (gzip(tar), json!({"mediaType": layer}))).collect::<Vec<_>>();
        assert_eq!(ours(&described(dir.path(), &tars, &blobs, types)), umoci(&tars), "{layer}");
    }
}

#[test]
fn root_non_distributable_layers_are_taken_where_they_are_and_named_where_not() {
    if !usable(&["umoci"], true) {
        return;
    }
    let tars = layers();
    let dir = tempfile::tempdir().unwrap();
    let more = json!({
        "mediaType": "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
        "urls": ["https://example.com/layer\u{1b}[2J"],
    });
    let blobs = tars.iter().map(|tar| (gzip(tar), more.clone())).collect::<Vec<_>>();
    let layout = described(dir.path(), &tars, &blobs, [OCI_MANIFEST, OCI_CONFIG]);
    assert_eq!(ours(&layout), umoci(&tars));
    fs::remove_file(layout.join("blobs/sha256").join(Digest::of(&blobs[0].0).hex())).unwrap();
    let error = chain(&converted(&layout_source(&layout, None)).unwrap_err());
    assert!(
        error.contains("non-distributable layer sha256:") && error.contains("https://example.com/layer"),
        "{error}"
    );
    assert!(!error.contains('\u{1b}'), "{error:?}");
}

#[test]
fn root_empty_layers_are_no_layers() {
    if !usable(&["umoci"], true) {
        return;
    }
    // Two blocks of zeros, and the 32 bytes that Docker stored for a step that changed no file.
    let empty = vec![0; 1024];
    let docker = b"\x1f\x8b\x08\0\0\x09\x6e\x88\0\xff\x62\x18\x05\xa3\x60\x14\x8c\x58\0\x08\0\0\xff\xff\x2e\xaf\xb5\xef\0\x04\0\0";
    assert_eq!(docker.len(), 32);
    let content = TarBuilder::new().file("a", "x").finish();
    let tars = [empty.clone(), content.clone(), empty.clone(), empty.clone()];
    let media_type = json!({"mediaType": format!("{OCI_LAYER}+gzip")});
    let blobs = [docker.to_vec(), gzip(&content), gzip(&empty), docker.to_vec()].map(|blob| (blob, media_type.clone()));
    let dir = tempfile::tempdir().unwrap();
    let layout = described(dir.path(), &tars, &blobs, [OCI_MANIFEST, OCI_CONFIG]);
    assert_eq!(ours(&layout), unpack(&layout, &dir.path().join("bundle")));
    assert_eq!(ours(&layout), ["- 644 0:0 1000000 1 /a =x"]);
}

#[test]
fn steps_without_a_layer_do_not_count_as_layers() {
    let tars = layers();
    let mut config = Layout::config(&tars, coracle_converter::host_architecture());
    config["history"] = json!([
        {"created_by": "ENV A=b", "empty_layer": true}, {"created_by": "COPY"}, {"created_by": "CMD", "empty_layer": true},
        {"created_by": "RUN"}, {"created_by": "LABEL", "empty_layer": true},
    ]);
    let mut layout = Layout::new();
    let descriptor = layout.manifest(&tars, Packed::Gzip, &config);
    layout.manifests.push(descriptor);
    let (dir, plain) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    layout.write(dir.path());
    Layout::new().image("t", &tars, Packed::Plain).write(plain.path());
    assert_eq!(ours(dir.path()), ours(plain.path()));
}

#[test]
fn artifacts_are_refused_as_such() {
    let dir = tempfile::tempdir().unwrap();
    let empty = "application/vnd.oci.empty.v1+json";
    let blobs = [(b"{}".to_vec(), json!({"mediaType": "application/vnd.example.model"}))];
    let layout = described(dir.path(), &[b"{}".to_vec()], &blobs, [OCI_MANIFEST, empty]);
    let error = chain(&converted(&layout_source(&layout, None)).unwrap_err());
    assert!(error.contains(empty) && error.contains("an artifact, not a container image"), "{error}");
}

/// A tree with holes and attributes, for tools to pack.
fn tree(root: &Path) {
    fs::create_dir_all(root.join("dir")).unwrap();
    let sparse = fs::File::create(root.join("sparse")).unwrap();
    for at in 0..6u64 {
        std::os::unix::fs::FileExt::write_all_at(&sparse, b"data", at * 3_000_000 + 5000).unwrap();
    }
    sparse.set_len(20_000_000).unwrap();
    fs::File::create(root.join("hole")).unwrap().set_len(1 << 20).unwrap();
    fs::write(root.join("dir/file"), "x").unwrap();
    let flags = rustix::fs::XattrFlags::empty();
    for (name, value) in [("user.text", &b"value"[..]), ("user.binary", b"\0\xff\n=")] {
        rustix::fs::setxattr(root.join("dir/file"), name, value, flags).unwrap();
    }
}

#[test]
fn root_tars_of_other_tools_unpack_as_they_do() {
    if !usable(&["tar", "bsdtar"], true) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("root");
    tree(&root);
    let gnu = |options: &[&'static str]| [&["tar", "--xattrs", "--xattrs-include=*", "--sparse"], options].concat();
    let cases: Vec<Vec<String>> = [
        ["tar", "--sparse", "--format=gnu"].to_vec(),
        gnu(&["--format=posix", "--sparse-version=0.0"]),
        gnu(&["--format=posix", "--sparse-version=0.1"]),
        gnu(&["--format=posix", "--sparse-version=1.0"]),
        // libarchive writes its own keyword beside star's.
        vec!["bsdtar", "--format=pax"],
    ]
    .into_iter()
    .map(|words| words.into_iter().map(str::to_owned).collect())
    .collect();
    for words in cases {
        let (tar, unpacked) = (dir.path().join("a.tar"), tempfile::tempdir().unwrap());
        run(Command::new(&words[0]).args(&words[1..]).arg("-cf").arg(&tar).arg("-C").arg(&root).arg("."));
        // GNU tar reads no attributes of libarchive's format and bsdtar none of the old GNU format: each its own.
        let unpacker = if words[0] == "bsdtar" {
            &["bsdtar", "-x"][..]
        } else {
            &["tar", "-x", "--xattrs", "--xattrs-include=*"][..]
        };
        run(Command::new(unpacker[0]).args(&unpacker[1..]).arg("-f").arg(&tar).arg("-C").arg(unpacked.path()));
        let ours = converted(&Source::Tar { file: tar }).unwrap_or_else(|error| panic!("{words:?}: {}", chain(&error)));
        let ours = comparable(ours);
        assert_eq!(ours, list_directory(unpacked.path()), "{words:?}");
        assert_eq!(ours.iter().any(|line| line.contains("user.binary")), !words.contains(&"--format=gnu".to_owned()));
    }
}

#[test]
fn root_the_keyword_of_libarchive_alone_is_an_attribute() {
    if !usable(&["bsdtar"], true) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let tar = TarBuilder::new().pax("LIBARCHIVE.xattr.user.a%3Db", "AQI=").file("f", "").finish();
    let tar = support::file(dir.path(), "a.tar", &tar);
    let unpacked = tempfile::tempdir().unwrap();
    run(Command::new("bsdtar").arg("-xf").arg(&tar).arg("-C").arg(unpacked.path()));
    let ours = comparable(converted(&Source::Tar { file: tar }).unwrap());
    assert_eq!(ours, list_directory(unpacked.path()));
    assert!(ours[0].contains("user.a=b=\\x01\\x02"), "{ours:?}");
}
