//! Images as directories and OCI archives, judged by umoci, skopeo and the file system.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests fail by panicking")]

use coracle_tests::fixtures::{corner_image, corner_squashfs, temp_dir};
use coracle_tests::layout::{Layout, Tar};
use coracle_tests::needs;
use coracle_tests::process::{User, coracle, run};
use coracle_tests::tree::{Expected, Kind, Tree, assert_same, sha256_of};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

/// What a directory of the caller's own keeps of an image.
fn as_owned(tree: Tree, user: &User) -> Tree {
    let mut tree = tree;
    tree.entries.retain(|_, entry| !matches!(entry.kind, Kind::Block(..) | Kind::Char(..)));
    for entry in tree.entries.values_mut() {
        (entry.uid, entry.gid) = (user.uid, user.gid);
        let needed = match entry.kind {
            Kind::Directory => 0o700,
            Kind::Symlink(_) => 0,
            _ => 0o600,
        };
        entry.mode = (entry.mode & 0o1777) | needed;
        // Directories count differently from one file system to another.
        if entry.kind == Kind::Directory {
            entry.nlink = None;
        }
        if let Some(xattrs) = &mut entry.xattrs {
            xattrs
                .retain(|name, _| name.starts_with(b"user.") && matches!(entry.kind, Kind::Directory | Kind::File(..)));
        }
    }
    tree
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_sandbox_is_the_image_as_far_as_a_user_can_own_it() {
    needs!(Coracle);
    let user = User::unprivileged();
    let dir = user.temp_dir();
    let image = corner_squashfs();
    let documents = &["/.coracle"];
    let expected = as_owned(Tree::of_image(&image), &user);
    let unpacked = dir.path().join("from-image");
    for (name, source) in [
        ("from-image", image.display().to_string()),
        ("from-layers", format!("oci:{}:latest", corner_image().display())),
        ("from-directory", format!("dir:{}", unpacked.display())),
    ] {
        let place = dir.path().join(name);
        let mut command = user.coracle(dir.path(), ["build", "--sandbox"]);
        let done = run(command.arg(&place).arg(&source)).success();
        let found = as_owned(Tree::of_directory(&place), &user);
        assert_same(name, &expected.clone().without(documents), &found.without(documents), &[]);
        assert!(place.join(".coracle/image.json").is_file());
        let left_out =
            done.stdout.lines().find_map(|line| line.strip_prefix("left out: ")).unwrap_or_default().to_owned();
        // What a directory lacks, another cannot lose.
        assert_eq!(
            name != "from-directory",
            left_out.contains("device nodes") && left_out.contains("setuid"),
            "{left_out}"
        );
    }
    assert_eq!(names(dir.path()), ["from-directory", "from-image", "from-layers"]);
    // It is an image again.
    let again = dir.path().join("again.sqfs");
    run(user.coracle(dir.path(), ["build", "--quiet"]).arg(&again).arg(&unpacked)).success();
    assert_same(
        "again",
        &expected.without(documents),
        &as_owned(Tree::of_image(&again), &user).without(documents),
        &[],
    );
    let config = |image: &Path| run(coracle(["inspect", "--config"]).arg(image)).success().stdout;
    assert_eq!(config(&again), config(&image), "it runs as the first did");
}

#[test]
fn a_sandbox_is_made_whole_or_not_at_all_and_replaces_only_its_like() {
    needs!(Coracle);
    let user = User::unprivileged();
    let dir = user.temp_dir();
    let place = dir.path().join("box");
    let build = |options: &[&str], source: &str| {
        run(user.coracle(dir.path(), ["build", "--quiet", "--sandbox"]).args(options).arg(&place).arg(source))
    };
    let shared = temp_dir();
    let good = Layout::new(&shared.path().join("good"), &[Tar::default().directory("d").file("d/f", b"1").finish()]);
    // The damage is in the lower layer, which is read when the upper has been stored.
    let lower = Tar::default().file("x", b"1").finish();
    let bad =
        Layout::new(&shared.path().join("bad"), &[lower, Tar::default().directory("d").file("d/y", b"2").finish()]);
    fs::write(bad.blob(&bad.layer_digest(0)), Tar::default().file("x", b"2").finish()).unwrap();
    let refused = build(&[], &bad.source()).exited(125);
    assert!(refused.stderr.contains("is damaged"), "{}", refused.stderr);
    assert!(names(dir.path()).is_empty(), "{:?}", names(dir.path()));

    build(&[], &good.source()).success();
    let refused = build(&[], &good.source()).exited(125);
    assert!(refused.stderr.contains("exists already"), "{}", refused.stderr);
    fs::remove_file(place.join("d/f")).unwrap();
    build(&["--force"], &bad.source()).exited(125);
    assert!(!place.join("d/f").exists(), "a failure replaced it");
    build(&["--force"], &good.source()).success();
    assert_eq!(fs::read(place.join("d/f")).unwrap(), b"1");
    assert_eq!(names(dir.path()), ["box"]);

    // A home directory, say.
    fs::remove_dir_all(&place).unwrap();
    fs::create_dir(&place).unwrap();
    fs::write(place.join("precious"), "").unwrap();
    let refused = build(&["--force"], &good.source()).exited(125);
    assert!(refused.stderr.contains("is not replaced: remove it"), "{}", refused.stderr);
    fs::remove_dir_all(&place).unwrap();
    std::os::unix::fs::symlink(shared.path(), &place).unwrap();
    build(&["--force"], &good.source()).exited(125);
    assert!(place.join("good").exists());
}

#[test]
fn a_sandbox_never_leads_outside() {
    needs!(Coracle);
    let user = User::unprivileged();
    let dir = user.temp_dir();
    let outside = dir.path().join("outside");
    fs::create_dir(&outside).unwrap();
    let target = outside.display().to_string();
    let layers = [
        Tar::default().symlink("link", &target).symlink("up", "../../outside").file("../../outside/a", b"").finish(),
        Tar::default().file("link/b", b"").file("up/c", b"").hardlink("d", "link/b").directory("up/e").finish(),
        Tar::default().symlink("deep", &target).file("deep/f", b"").entry("g", b'6', "", 0, b"").finish(),
    ];
    let shared = temp_dir();
    let layout = Layout::new(&shared.path().join("layout"), &layers);
    let place = dir.path().join("inner/box");
    fs::create_dir(dir.path().join("inner")).unwrap();
    if needs::is_root() {
        std::os::unix::fs::chown(dir.path().join("inner"), Some(user.uid), Some(user.gid)).unwrap();
        std::os::unix::fs::chown(&outside, Some(user.uid), Some(user.gid)).unwrap();
    }
    run(user.coracle(dir.path(), ["build", "--quiet", "--sandbox"]).arg(&place).arg(layout.source())).success();
    assert!(names(&outside).is_empty(), "{:?}", names(&outside));
    assert!(place.join("outside/a").exists(), "entries that climb stay inside");
}

/// What is different in an image that has been an OCI archive.
const ARCHIVED: [Expected; 2] = [
    Expected {
        reason: "the directory of the image's documents is none of the layer",
        covers: |path, what| path == b"/" && what == "nlink",
    },
    Expected {
        reason: "in a PAX header an empty value takes a keyword back; umoci has no attribute then",
        covers: |path, what| path == b"/corner/xattrs/user" && what == "xattrs",
    },
];

#[test]
fn root_an_oci_archive_is_the_image_to_other_tools() {
    needs!(Root, Coracle, Tool("skopeo"), Tool("umoci"));
    let dir = temp_dir();
    let image = corner_squashfs();
    let archive = dir.path().join("image.tar");
    let build = |options: &[&str], source: &str, output: &Path| {
        run(coracle(["build", "--quiet", "--format", "oci-archive"]).args(options).arg(output).arg(source)).success()
    };
    build(&[], &image.display().to_string(), &archive);
    let layout = dir.path().join("layout");
    let to = format!("oci:{}:t", layout.display());
    run(Command::new("skopeo")
        .args(["copy", "--insecure-policy"])
        .arg(format!("oci-archive:{}", archive.display()))
        .arg(to))
    .success();
    let bundle = dir.path().join("bundle");
    run(Command::new("umoci").args(["unpack", "--image", &format!("{}:t", layout.display())]).arg(&bundle)).success();
    let documents = &["/.coracle"];
    let expected = Tree::of_image(&image).without(documents);
    let seen = Tree::of_directory(&bundle.join("rootfs"));
    assert_same("umoci", &expected, &seen, &ARCHIVED);

    // By our own reading, and with a layer of the other kind.
    let zstd = dir.path().join("zstd.tar");
    build(&["--compression", "zstd:3"], &image.display().to_string(), &zstd);
    for archive in [&archive, &zstd] {
        let again = dir.path().join("again.sqfs");
        run(coracle(["build", "--quiet", "--force"]).arg(&again).arg(archive)).success();
        let found = Tree::of_image(&again).without(documents);
        assert_same("again", &expected, &found, &[]);
    }

    // The config is the image's but for its layers and history.
    let inspect = |what: &[&str]| -> Value {
        serde_json::from_str(&run(Command::new("skopeo").args(what)).success().stdout).unwrap()
    };
    let name = format!("oci-archive:{}", archive.display());
    let new = inspect(&["inspect", "--config", "--raw", &name]);
    let old: Value = serde_json::from_str(&run(coracle(["inspect", "--config"]).arg(&image)).success().stdout).unwrap();
    let rest = |config: &Value| -> BTreeMap<String, Value> {
        let fields = config.as_object().unwrap().clone().into_iter();
        fields.filter(|(name, _)| !matches!(name.as_str(), "rootfs" | "history")).collect()
    };
    assert_eq!(rest(&new), rest(&old));
    let history = new["history"].as_array().unwrap();
    assert!(history.iter().rev().skip(1).all(|step| step["empty_layer"] == true));
    assert!(history.last().unwrap()["created_by"].as_str().unwrap().contains("--format oci-archive"));
    assert!(history.last().unwrap()["comment"].as_str().unwrap().starts_with("flattened from sha256:"));
}

#[test]
fn the_same_image_gives_the_same_archive() {
    needs!(Coracle);
    let dir = temp_dir();
    let from_layers = format!("oci:{}:latest", corner_image().display());
    let mut digests = Vec::new();
    for (name, source, threads) in [
        ("one", from_layers.clone(), "1"),
        ("two", from_layers, "3"),
        ("three", corner_squashfs().display().to_string(), "2"),
    ] {
        let output = dir.path().join(name);
        let mut command = coracle(["build", "--quiet", "--format", "oci-archive", "--threads", threads]);
        run(command.arg(&output).arg(source).env("TZ", "Asia/Tokyo")).success();
        digests.push(sha256_of(&output));
    }
    assert!(digests.iter().all(|digest| *digest == digests[0]), "{digests:?}");
    assert_eq!(names(dir.path()), ["one", "three", "two"]);
}

#[test]
fn settings_that_an_output_has_not_are_refused() {
    needs!(Coracle);
    let dir = temp_dir();
    let output = dir.path().join("x");
    let image = corner_squashfs();
    for (options, expected) in [
        (&["--format", "oci-archive", "--compression", "xz"][..], "OCI has gzip and zstd layers"),
        (&["--sandbox", "--compression", "xz"], "cannot be used with"),
    ] {
        let refused = run(coracle(["build"]).args(options).arg(&output).arg(&image)).exited(125);
        assert!(refused.stderr.contains(expected), "{}", refused.stderr);
        assert!(!output.exists());
    }
}
