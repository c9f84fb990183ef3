//! Every form of source, converted and read back.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, reason = "tests fail by panicking")]

mod support;

use coracle_converter::image_info::{self, ImageInfo};
use coracle_converter::{Digest, Error, Event, Options, Progress, Source, convert};
use coracle_squashfs::compress::Compression;
use coracle_squashfs::reader::{Image, OpenOptions};
use serde_json::json;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::num::NonZeroUsize;
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::sync::Mutex;
use support::tar::TarBuilder;
use support::{Layout, OCI_CONFIG, OCI_INDEX, OCI_LAYER, OCI_MANIFEST, Packed, archive, bytes, chain, converted};
use support::{file, gzip, layout_source, list, list_all, options};

fn layers() -> Vec<Vec<u8>> {
    vec![
        TarBuilder::new()
            .meta(0o755, 0, 0, 1000)
            .dir("bin")
            .meta(0o4755, 0, 0, 1000)
            .pax("SCHILY.xattr.security.capability", [1, 0, 0, 2])
            .file("bin/sh", "shell")
            .link("bin/bash", "bin/sh")
            .meta(0o644, 10, 20, 3000)
            .file("gone", "x")
            .symlink("link", "bin/sh")
            .device("null", b'3', 1, 3)
            .finish(),
        TarBuilder::new().meta(0o600, 10, 20, 4000).file(".wh.gone", "").file("new", vec![b'n'; 300_000]).finish(),
    ]
}

const EXPECTED: [&str; 7] = [
    "d 755 0:0 0 8 / ",
    "d 755 0:0 1000 2 /bin ",
    "- 4755 0:0 1000 2 /bin/bash =shell security.capability=\\x01\\x00\\x00\\x02",
    "- 4755 0:0 1000 2 /bin/sh =shell security.capability=\\x01\\x00\\x00\\x02 @/bin/bash",
    "l 777 10:20 3000 1 /link ->bin/sh",
    "- 600 10:20 4000 1 /new =",
    "c 644 10:20 3000 1 /null  rdev: 259",
];

fn check(lines: &[String]) {
    let new = Digest::of(&vec![b'n'; 300_000]).hex();
    let expected =
        EXPECTED.map(|line| if line.contains("/new") { format!("{line}{}", &new[..16]) } else { line.into() });
    // The root's link count depends on the mount points added.
    assert_eq!(lines[1..], expected[1..]);
    assert!(lines[0].starts_with("d 755 0:0 0 "), "{}", lines[0]);
}

#[test]
fn a_layout_converts_whatever_its_layers_are_packed_with() {
    for packed in [Packed::Plain, Packed::Gzip, Packed::Zstd] {
        let dir = tempfile::tempdir().unwrap();
        Layout::new().image("v1", &layers(), packed).write(dir.path());
        for reference in [None, Some("v1")] {
            check(&converted(&layout_source(dir.path(), reference)).unwrap());
        }
    }
}

#[test]
fn an_archive_of_the_same_image_gives_the_same_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let layout = Layout::new().image("v1", &layers(), Packed::Gzip);
    layout.write(&dir.path().join("layout"));
    let file = file(dir.path(), "image.tar", &layout.archive());
    let from_layout = bytes(&layout_source(&dir.path().join("layout"), None), &options());
    let from_archive = bytes(&Source::OciArchive { file, reference: Some("v1".into()) }, &options());
    assert_eq!(Digest::of(&from_layout), Digest::of(&from_archive));
}

#[test]
fn bytes_do_not_depend_on_threads_time_or_place() {
    let layout = Layout::new().image("v1", &layers(), Packed::Zstd);
    let mut digests = Vec::new();
    for threads in [1, 2, 5] {
        let dir = tempfile::tempdir().unwrap();
        layout.write(dir.path());
        let options = Options { threads: NonZeroUsize::new(threads).unwrap(), ..options() };
        digests.push(Digest::of(&bytes(&layout_source(dir.path(), None), &options)));
    }
    digests.dedup();
    assert_eq!(digests.len(), 1);
}

#[test]
fn docker_archives_of_both_kinds_convert() {
    let dir = tempfile::tempdir().unwrap();
    let layers = layers();
    let config = Layout::config(&layers, "amd64").to_string().into_bytes();
    let hex = Digest::of(&config).hex();
    // Before Docker 25: a directory per layer; a layer that another image has, too, is a link.
    let manifest =
        json!([{"Config": format!("{hex}.json"), "RepoTags": ["alpine:3"], "Layers": ["a/layer.tar", "b/layer.tar"]}]);
    let old = TarBuilder::new()
        .dir("a")
        .file("a/layer.tar", &layers[0])
        .file(&format!("{hex}.json"), &config)
        .symlink("b/layer.tar", "../c/layer.tar")
        .file("c/layer.tar", &layers[1])
        .file("manifest.json", manifest.to_string())
        .finish();
    let old = file(dir.path(), "old.tar", &old);
    // Since: blobs, and an OCI index beside.
    let mut layout = Layout::new();
    let descriptor = layout.manifest(&layers, Packed::Plain, &Layout::config(&layers, "amd64"));
    layout.manifests.push(descriptor.clone());
    let blob = |content: &[u8]| format!("blobs/sha256/{}", Digest::of(content).hex());
    let manifest = json!([
        {"Config": blob(&config), "RepoTags": ["docker.io/library/alpine:3"], "Layers": [blob(&layers[0]), blob(&layers[1])]}
    ]);
    layout.files.insert("manifest.json".into(), manifest.to_string().into_bytes());
    let new = file(dir.path(), "new.tar", &layout.archive());
    for path in [old, new.clone()] {
        for reference in [None, Some("alpine:3"), Some("docker.io/library/alpine:3"), Some(&*format!("sha256:{hex}"))] {
            let source = Source::DockerArchive { file: path.clone(), reference: reference.map(str::to_owned) };
            check(&converted(&source).map_err(|error| chain(&error)).unwrap());
        }
        let source = Source::DockerArchive { file: path, reference: Some("alpine".into()) };
        let text = chain(&converted(&source).unwrap_err());
        assert!(text.contains("no image \"alpine\"") && text.contains("alpine:3"), "{text}");
    }
    // The verbatim OCI manifest is found and kept.
    let output = dir.path().join("out");
    let report = convert(&Source::DockerArchive { file: new, reference: None }, &output, &options(), &()).unwrap();
    assert_eq!(report.manifest_digest.unwrap().to_string(), descriptor["digest"].as_str().unwrap());
}

#[test]
fn several_images_in_one_archive_are_told_apart_by_tag() {
    let dir = tempfile::tempdir().unwrap();
    let one = vec![TarBuilder::new().file("one", "1").finish()];
    let two = vec![TarBuilder::new().file("two", "2").finish()];
    let layout = Layout::new().image("a", &one, Packed::Plain).image("b", &two, Packed::Plain);
    layout.write(dir.path());
    assert!(converted(&layout_source(dir.path(), Some("b"))).unwrap().iter().any(|line| line.ends_with("/two =2")));
    let digest = layout.manifests[0]["digest"].as_str().unwrap().to_owned();
    assert!(converted(&layout_source(dir.path(), Some(&digest))).unwrap().iter().any(|line| line.ends_with("/one =1")));
    let text = chain(&converted(&layout_source(dir.path(), None)).unwrap_err());
    assert!(text.contains("has several images; name one: there are a, b"), "{text}");
    let text = chain(&converted(&layout_source(dir.path(), Some("c"))).unwrap_err());
    assert!(text.contains("no image \"c\" in") && text.contains("there are a, b"), "{text}");
}

#[test]
fn of_several_platforms_the_wanted_one_is_taken() {
    let dir = tempfile::tempdir().unwrap();
    let mut layout = Layout::new();
    let mut nested = Vec::new();
    for (architecture, variant) in [("amd64", Some("v3")), ("amd64", None), ("arm64", Some("v8"))] {
        let name = format!("{architecture}{}", variant.unwrap_or_default());
        let layers = [TarBuilder::new().file(&name, "").finish()];
        let mut descriptor = layout.manifest(&layers, Packed::Plain, &Layout::config(&layers, architecture));
        descriptor["platform"] = json!({"architecture": architecture, "os": "linux"});
        if let Some(variant) = variant {
            descriptor["platform"]["variant"] = json!(variant);
        }
        nested.push(descriptor);
    }
    let mut attestation = layout.blob(OCI_MANIFEST, b"{}");
    attestation["platform"] = json!({"architecture": "unknown", "os": "unknown"});
    nested.push(attestation);
    let index = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": nested}).to_string();
    let mut descriptor = layout.blob(OCI_INDEX, index.as_bytes());
    descriptor["annotations"] = json!({"org.opencontainers.image.ref.name": "multi"});
    layout.manifests.push(descriptor);
    // The same, as a layout's own index has it.
    let mut flat = layout.clone();
    flat.manifests = nested;
    for (name, layout) in [("nested", layout), ("flat", flat)] {
        let dir = dir.path().join(name);
        layout.write(&dir);
        for (wanted, expected) in [("amd64", "/amd64 ="), ("arm64", "/arm64v8 =")] {
            let output = dir.join(wanted);
            let options = Options { architecture: wanted.into(), ..options() };
            convert(&layout_source(&dir, None), &output, &options, &()).map_err(|error| chain(&error)).unwrap();
            assert!(list(&output).iter().any(|line| line.ends_with(expected)), "{name} {wanted}");
        }
        let options = Options { architecture: "riscv64".into(), ..options() };
        let error = convert(&layout_source(&dir, None), &dir.join("out"), &options, &()).unwrap_err();
        let text = chain(&error);
        let known = "no image for linux/riscv64; there are linux/amd64, linux/amd64/v3, linux/arm64/v8";
        assert_eq!(text, known, "{name}");
    }
}

#[test]
fn plain_root_file_systems_convert_from_tars() {
    let dir = tempfile::tempdir().unwrap();
    let tar = TarBuilder::new().dir("./").dir("./usr").file("./usr/.wh.kept", "k").finish();
    let forms = [("plain", tar.clone()), ("gz", gzip(&tar)), ("zst", zstd::encode_all(&tar[..], 1).unwrap())];
    for (name, content) in forms {
        let lines = converted(&Source::Tar { file: file(dir.path(), name, &content) }).unwrap();
        assert!(lines.contains(&"- 644 0:0 1000000 1 /usr/.wh.kept =k".to_owned()), "{name}: {lines:?}");
    }
    for length in [tar.len() - 1024, 700, 512, 0] {
        let cut = Source::Tar { file: file(dir.path(), "cut", &tar[..length]) };
        let text = chain(&converted(&cut).unwrap_err());
        assert!(text.contains("no end marker") || text.contains("in the middle of an entry"), "{length}: {text}");
    }
}

#[test]
fn a_directory_converts_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("root");
    fs::create_dir_all(root.join("a/b")).unwrap();
    fs::create_dir(root.join(".coracle")).unwrap();
    fs::write(root.join("a/file"), "content").unwrap();
    fs::set_permissions(root.join("a/file"), fs::Permissions::from_mode(0o4751)).unwrap();
    fs::hard_link(root.join("a/file"), root.join("a/b/linked")).unwrap();
    symlink("/nowhere", root.join("dangling")).unwrap();
    symlink("a", root.join("to-directory")).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(root.join("socket")).unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, root.join("pipe"), rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    // Data between two holes.
    let sparse = File::create(root.join("sparse")).unwrap();
    sparse.set_len(40 << 20).unwrap();
    sparse.write_all_at(b"middle", 20 << 20).unwrap();
    let xattr = rustix::fs::setxattr(root.join("a"), "user.test", b"value", rustix::fs::XattrFlags::empty());

    let source = Source::Directory { dir: root.clone() };
    let output = dir.path().join("out.sqfs");
    let report = convert(&source, &output, &options(), &()).unwrap();
    assert!(report.bytes < 1 << 20, "the holes were stored: {} bytes", report.bytes);
    let lines = list(&output);
    let line = |path: &str| lines.iter().find(|line| line.split(' ').nth(5) == Some(path)).map(String::as_str);
    let field = |path: &str, number: usize| line(path).and_then(|line| line.split(' ').nth(number)).map(str::to_owned);
    assert_eq!(field("/a/b/linked", 6).as_deref(), Some("=content"));
    assert_eq!(field("/a/b/linked", 1).as_deref(), Some("4751"));
    assert_eq!(field("/a/file", 4).as_deref(), Some("2"));
    assert!(line("/a/file").unwrap().ends_with("@/a/b/linked"));
    assert_eq!(field("/dangling", 6).as_deref(), Some("->/nowhere"));
    assert_eq!(field("/to-directory", 6).as_deref(), Some("->a"));
    assert_eq!(field("/socket", 0).as_deref(), Some("s"));
    assert_eq!(field("/pipe", 0).as_deref(), Some("p"));
    let mut content = vec![0; 40 << 20];
    content[20 << 20..][..6].copy_from_slice(b"middle");
    assert_eq!(field("/sparse", 6), Some(format!("={}", &Digest::of(&content).hex()[..16])));
    assert!(!list_all(&output).iter().any(|line| line.contains("/.coracle/config.json")));
    if xattr.is_ok() {
        assert!(line("/a").unwrap().ends_with("user.test=value"), "{:?}", line("/a"));
    }

    // The output may lie in the directory.
    let first = bytes(&source, &options());
    let inside = root.join("inside.sqfs");
    convert(&source, &inside, &options(), &()).unwrap();
    assert!(list(&inside).iter().all(|line| !line.contains("inside")));
    fs::remove_file(&inside).unwrap();
    // Times of `root` changed, but neither file nor order did.
    let options = Options { threads: NonZeroUsize::MIN, ..options() };
    let again = bytes(&source, &options);
    assert_eq!(first.len(), again.len());
}

#[test]
fn usual_mount_points_are_added_only_where_missing() {
    let dir = tempfile::tempdir().unwrap();
    let tar = TarBuilder::new()
        .symlink("tmp", "var/tmp")
        .meta(0o700, 1, 2, 3)
        .dir("run")
        .dir("etc")
        .file("etc/hosts", "own")
        .symlink("etc/resolv.conf", "../run/nowhere")
        .symlink("var", "elsewhere")
        .finish();
    let output = dir.path().join("out");
    convert(&Source::Tar { file: file(dir.path(), "t", &tar) }, &output, &options(), &()).unwrap();
    let lines = list_all(&output);
    let expected = [
        "d 755 0:0 0 2 /dev ",
        "d 700 1:2 3 2 /etc ",
        "- 644 0:0 0 1 /etc/group =",
        "- 700 1:2 3 1 /etc/hosts =own",
        "- 644 0:0 0 1 /etc/passwd =",
        "l 777 1:2 3 1 /etc/resolv.conf ->../run/nowhere",
        "d 755 0:0 0 2 /proc ",
        "d 700 1:2 3 2 /run ",
        "d 755 0:0 0 2 /sys ",
        "l 777 0:0 1000000 1 /tmp ->var/tmp",
        "l 777 1:2 3 1 /var ->elsewhere",
    ];
    let without_ours = lines.iter().filter(|line| !line.contains("/.coracle")).skip(1);
    for (line, expected) in without_ours.zip(expected) {
        // `@` marks empty files that share nothing but their content.
        assert_eq!(line, expected);
    }
}

#[test]
fn the_image_says_what_it_was_made_from() {
    let dir = tempfile::tempdir().unwrap();
    let layout = Layout::new().image("v1", &layers(), Packed::Gzip);
    layout.write(dir.path());
    let output = dir.path().join("out.sqfs");
    let report = convert(&layout_source(dir.path(), None), &output, &options(), &()).unwrap();
    assert_eq!((report.layers, report.counts.whiteouts, report.counts.hidden), (2, 1, 1));
    assert_eq!(report.bytes, output.metadata().unwrap().len());
    let image = Image::open(File::open(&output).unwrap(), OpenOptions::default()).unwrap();
    let info = ImageInfo::read(&image).unwrap().unwrap();
    assert_eq!(info.source.as_deref(), Some("v1"));
    assert_eq!(info.manifest_digest.as_deref(), layout.manifests[0]["digest"].as_str());
    assert_eq!((info.settings.compression.as_str(), info.settings.level), ("zstd", Some(1)));
    assert_eq!((info.version, info.os.as_deref(), info.variant.as_deref()), (2, Some("linux"), None));
    assert_eq!(info.architecture.as_deref(), Some(coracle_converter::host_architecture()));
    assert_eq!(
        (info.created_by.name.as_str(), info.created_by.version.as_str()),
        ("coracle", env!("CARGO_PKG_VERSION"))
    );
    let expected =
        layers().into_iter().map(|tar| (Some(Digest::of(&gzip(&tar)).to_string()), Some(Digest::of(&tar).to_string())));
    let found = info.layers.iter().map(|layer| (layer.digest.clone(), layer.diff_id.clone()));
    assert_eq!(found.collect::<Vec<_>>(), expected.collect::<Vec<_>>());
    // Packed anew, it says the same of where it came from.
    let again = dir.path().join("again.sqfs");
    convert(
        &Source::Squashfs { file: output.clone(), offset: 0 },
        &again,
        &Options { block_size: 65_536, ..options() },
        &(),
    )
    .unwrap();
    let image_again = Image::open(File::open(&again).unwrap(), OpenOptions::default()).unwrap();
    let mut info_again = ImageInfo::read(&image_again).unwrap().unwrap();
    info_again.settings.block_size = info.settings.block_size;
    assert_eq!(info_again, info);
    let manifest = image_info::manifest_bytes(&image).unwrap().unwrap();
    assert_eq!(Some(Digest::of(&manifest).to_string()), info.manifest_digest);
    let config = image_info::config_bytes(&image).unwrap().unwrap();
    assert_eq!(Some(Digest::of(&config).to_string()), info.config_digest);
    let config = image_info::config(&image).unwrap().unwrap();
    assert_eq!(config.config().as_ref().unwrap().cmd().as_deref(), Some(&["/bin/sh".to_owned()][..]));

    // A plain root file system has neither.
    let tar = Source::Tar { file: file(dir.path(), "t", &TarBuilder::new().dir("a").finish()) };
    let output = dir.path().join("plain.sqfs");
    convert(&tar, &output, &options(), &()).unwrap();
    let image = Image::open(File::open(&output).unwrap(), OpenOptions::default()).unwrap();
    assert_eq!(ImageInfo::read(&image).unwrap().unwrap().source.as_deref(), Some("tar"));
    assert!(image_info::config(&image).unwrap().is_none());
}

#[derive(Default)]
struct Heard(Mutex<Vec<String>>);

impl Progress for Heard {
    fn event(&self, event: Event<'_>) {
        self.0.lock().unwrap().push(format!("{event:?}"));
    }
}

#[test]
fn progress_tells_layers_from_the_top_and_all_their_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let layout = Layout::new().image("v1", &layers(), Packed::Gzip);
    layout.write(dir.path());
    let heard = Heard::default();
    convert(&layout_source(dir.path(), None), &dir.path().join("out"), &options(), &heard).unwrap();
    let events = heard.0.into_inner().unwrap();
    let top = Digest::of(&gzip(&layers()[1]));
    assert!(
        events[0].starts_with("LayerStarted { index: 0, total: 2,") && events[0].contains(&top.hex()),
        "{events:?}"
    );
    assert_eq!(events.last().unwrap(), "Finishing");
    let sum = events.iter().filter_map(|event| event.strip_prefix("Advanced { bytes: ")?.strip_suffix(" }"));
    let sum = sum.map(|bytes| bytes.parse::<usize>().unwrap()).sum::<usize>();
    assert_eq!(sum, layers().iter().map(|tar| gzip(tar).len()).sum::<usize>());
}

#[test]
fn an_existing_output_is_kept_unless_forced() {
    let dir = tempfile::tempdir().unwrap();
    Layout::new().image("v1", &layers(), Packed::Plain).write(dir.path());
    let output = file(dir.path(), "out", b"precious");
    let source = layout_source(dir.path(), None);
    let error = convert(&source, &output, &options(), &()).unwrap_err();
    assert!(matches!(error, Error::OutputExists { .. }));
    assert_eq!(fs::read(&output).unwrap(), b"precious");
    convert(&source, &output, &Options { force: true, ..options() }, &()).unwrap();
    check(&list(&output));
}

#[test]
fn every_compressor_and_block_size_is_at_hand() {
    let dir = tempfile::tempdir().unwrap();
    Layout::new().image("v1", &layers(), Packed::Plain).write(dir.path());
    for (number, compression) in
        [Compression::Gzip { level: 6 }, Compression::Lz4, Compression::Xz, Compression::Zstd { level: 3 }]
            .into_iter()
            .enumerate()
    {
        let output = dir.path().join(number.to_string());
        let options = Options { compression, block_size: 4096 << number, ..options() };
        convert(&layout_source(dir.path(), None), &output, &options, &()).unwrap();
        check(&list(&output));
    }
}

/// One change to a good layout, and what the error must say.
fn damaged(change: impl FnOnce(&mut Layout), expected: &[&str]) {
    let dir = tempfile::tempdir().unwrap();
    let mut layout = Layout::new().image("v1", &layers(), Packed::Gzip);
    change(&mut layout);
    layout.write(dir.path());
    let text = chain(&converted(&layout_source(dir.path(), None)).unwrap_err());
    for part in expected {
        assert!(text.contains(part), "{part:?} is not in: {text}");
    }
}

fn layer_name() -> String {
    format!("blobs/sha256/{}", Digest::of(&gzip(&layers()[1])).hex())
}

#[test]
fn damage_to_a_layout_is_named() {
    let layer = layer_name();
    let short = layer.rsplit('/').next().unwrap().to_owned();
    damaged(|layout| drop(layout.files.remove(&layer)), &["layer sha256:", &short, "is missing"]);
    damaged(|layout| layout.files.get_mut(&layer).unwrap().truncate(100), &["has 100 bytes instead of", "cut short"]);
    damaged(|layout| layout.files.get_mut(&layer).unwrap().push(0), &["has more bytes instead of"]);
    damaged(|layout| layout.files.get_mut(&layer).unwrap()[300] ^= 4, &["is damaged: its content has digest", &short]);
    damaged(|layout| drop(layout.files.remove("oci-layout")), &["is no OCI image layout: it has no oci-layout file"]);
    damaged(|layout| drop(layout.files.insert("index.json".into(), b"{".to_vec())), &["index.json is not valid: EOF"]);
    damaged(
        |layout| drop(layout.files.insert("oci-layout".into(), br#"{"imageLayoutVersion":"2.0.0"}"#.to_vec())),
        &["layout version \"2.0.0\" is not known"],
    );
    damaged(|layout| layout.manifests.clear(), &["no image \"of any name\"", "there is none"]);
    damaged(
        |layout| {
            let config = Layout::config(&layers(), "amd64").to_string();
            layout.files.get_mut(&format!("blobs/sha256/{}", Digest::of(config.as_bytes()).hex())).unwrap()[5] ^= 1;
        },
        &["image config sha256:", "is damaged"],
    );
    damaged(
        |layout| {
            let config = Layout::config(&layers(), "amd64").to_string();
            layout.files.remove(&format!("blobs/sha256/{}", Digest::of(config.as_bytes()).hex()));
        },
        &["image config sha256:", "is missing"],
    );
}

/// One image whose manifest and config the caller makes.
fn refused(make: impl FnOnce(&mut Layout) -> serde_json::Value, expected: &[&str]) {
    let dir = tempfile::tempdir().unwrap();
    let mut layout = Layout::new();
    let manifest = make(&mut layout);
    layout.manifests.push(manifest);
    layout.write(dir.path());
    let text = chain(&converted(&layout_source(dir.path(), None)).unwrap_err());
    for part in expected {
        assert!(text.contains(part), "{part:?} is not in: {text}");
    }
}

#[test]
fn lying_manifests_and_configs_are_refused() {
    let tar = &layers()[..1];
    refused(
        |layout| layout.manifest(tar, Packed::Gzip, &Layout::config(&layers()[1..], "amd64")),
        &["does not belong to this image: unpacked, it has digest"],
    );
    refused(
        |layout| layout.manifest(tar, Packed::Gzip, &Layout::config(&layers(), "amd64")),
        &["it describes 2 layers, the manifest 1"],
    );
    refused(|layout| layout.manifest(tar, Packed::Gzip, &json!({"os": "linux"})), &["missing field `rootfs`"]);
    refused(
        |layout| {
            let config = layout.blob(OCI_CONFIG, Layout::config(tar, "amd64").to_string().as_bytes());
            let layer = layout.blob("application/x-strange", &tar[0]);
            let manifest = json!({"schemaVersion": 2, "config": config, "layers": [layer]});
            layout.blob(OCI_MANIFEST, manifest.to_string().as_bytes())
        },
        &["layer sha256:", "has media type \"application/x-strange\", which cannot be converted"],
    );
    refused(
        |layout| {
            let config = layout.blob(OCI_CONFIG, Layout::config(tar, "amd64").to_string().as_bytes());
            let mut layer = layout.blob(OCI_LAYER, &tar[0]);
            layer["size"] = json!(5);
            let manifest = json!({"schemaVersion": 2, "config": config, "layers": [layer]});
            layout.blob(OCI_MANIFEST, manifest.to_string().as_bytes())
        },
        &["layer sha256:", "instead of 5"],
    );
    refused(
        |layout| {
            let config = layout.blob("application/vnd.cncf.helm.config.v1+json", b"{}");
            let manifest = json!({"schemaVersion": 2, "config": config, "layers": []});
            layout.blob(OCI_MANIFEST, manifest.to_string().as_bytes())
        },
        &["this is an artifact, not a container image"],
    );
    refused(
        |layout| {
            let mut manifest = layout.manifest(tar, Packed::Gzip, &Layout::config(tar, "amd64"));
            manifest["digest"] = json!(format!("sha512:{}", "0".repeat(128)));
            manifest
        },
        &["only sha256 is"],
    );
    refused(
        |layout| layout.blob("application/vnd.docker.distribution.manifest.v1+prettyjws", b"{}"),
        &["push the image again with a current tool"],
    );
    // A layer that is no tar at all.
    let text = vec![b"not a tar".repeat(100)];
    refused(
        |layout| layout.manifest(&text, Packed::Gzip, &Layout::config(&text, "amd64")),
        &["layer sha256:", "at byte 0 of the uncompressed tar"],
    );
}

#[test]
fn forms_that_are_mixed_up_are_explained() {
    let dir = tempfile::tempdir().unwrap();
    let tar = TarBuilder::new().file("f", "").finish();
    let plain = file(dir.path(), "plain.tar", &tar);
    let packed = file(dir.path(), "packed.tar.gz", &gzip(&tar));
    let xz = file(dir.path(), "packed.tar.xz", b"\xfd7zXZ\0\0\x04");
    let cases: [(Source, &str); 8] = [
        (Source::OciLayout { dir: plain.clone(), reference: None }, "oci-archive:"),
        (Source::OciArchive { file: plain.clone(), reference: None }, "it has no oci-layout file"),
        (Source::OciArchive { file: packed.clone(), reference: None }, "it has no oci-layout file"),
        (Source::OciArchive { file: xz, reference: None }, "it is compressed with xz: decompress it first"),
        (Source::DockerArchive { file: plain, reference: None }, "it has no manifest.json"),
        (Source::DockerArchive { file: dir.path().into(), reference: None }, "it is a directory"),
        (Source::Tar { file: dir.path().join("missing") }, "cannot open"),
        (Source::Directory { dir: packed }, "Not a directory"),
    ];
    for (source, expected) in cases {
        let text = chain(&converted(&source).unwrap_err());
        assert!(text.contains(expected), "{source}: {text}");
    }
    let missing = json!([{"Config": "c.json", "RepoTags": null, "Layers": []}]).to_string();
    let files = BTreeMap::from([("manifest.json".to_owned(), missing.into_bytes())]);
    let source = Source::DockerArchive { file: file(dir.path(), "m.tar", &archive(&files)), reference: None };
    assert!(chain(&converted(&source).unwrap_err()).contains("member \"c.json\""));
    let looped = TarBuilder::new().symlink("manifest.json", "a").symlink("a", "manifest.json").finish();
    let source = Source::DockerArchive { file: file(dir.path(), "l.tar", &looped), reference: None };
    assert!(chain(&converted(&source).unwrap_err()).contains("round in a circle"));
}

/// Not random, so that a failure can be repeated.
fn xorshift(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

#[test]
fn mutated_layouts_and_layers_fail_cleanly_or_convert() {
    let mut state = 0x2545_f491_4f6c_dd1d;
    let layout = Layout::new().image("v1", &layers()[..1], Packed::Plain);
    let documents = layout.all();
    let names = documents.keys().cloned().collect::<Vec<_>>();
    let mut failures = 0;
    for _ in 0..150 {
        let dir = tempfile::tempdir().unwrap();
        let mut files = documents.clone();
        let name = &names[xorshift(&mut state) as usize % names.len()];
        let content = files.get_mut(name).unwrap();
        for _ in 0..1 + xorshift(&mut state) % 3 {
            let at = xorshift(&mut state) as usize % content.len();
            content[at] = b"\0\"{}[],:0x9"[xorshift(&mut state) as usize % 11];
        }
        let file = file(dir.path(), "a.tar", &archive(&files));
        // Nothing may be left, which `converted` checks.
        failures += usize::from(converted(&Source::OciArchive { file, reference: None }).is_err());
    }
    assert!(failures > 100, "only {failures} of 150 mutations were noticed");
    // Without digests around it, a layer's own content is all there is.
    let tar = &layers()[0];
    for _ in 0..150 {
        let dir = tempfile::tempdir().unwrap();
        let mut mutated = tar.clone();
        for _ in 0..1 + xorshift(&mut state) % 3 {
            let at = xorshift(&mut state) as usize % mutated.len();
            mutated[at] = xorshift(&mut state) as u8;
        }
        let _ = converted(&Source::Tar { file: file(dir.path(), "t", &mutated) });
    }
}

#[test]
fn the_deepest_path_converts() {
    let dir = tempfile::tempdir().unwrap();
    let tar = TarBuilder::new().file(&format!("{}f", "d/".repeat(1023)), "x").finish();
    let output = dir.path().join("out");
    let report = convert(&Source::Tar { file: file(dir.path(), "t", &tar) }, &output, &options(), &()).unwrap();
    assert!(report.inodes > 1024);
}

#[test]
fn a_panic_in_the_caller_s_progress_leaves_nothing() {
    struct Panics;
    impl Progress for Panics {
        fn event(&self, event: Event<'_>) {
            assert!(!matches!(event, Event::Finishing), "on purpose");
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let image = tempfile::tempdir().unwrap();
    Layout::new().image("v1", &layers(), Packed::Gzip).write(image.path());
    let output = dir.path().join("out");
    let result = std::panic::catch_unwind(|| convert(&layout_source(image.path(), None), &output, &options(), &Panics));
    assert!(result.is_err());
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}
