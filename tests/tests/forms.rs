//! Sources in other tools' stores and files, by the real program and the real tools.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests fail by panicking")]

use coracle_tests::fixtures::{corner_image, corner_squashfs, export, temp_dir, unpacked};
use coracle_tests::layout::{Layout, Tar};
use coracle_tests::needs;
use coracle_tests::process::{coracle, run};
use coracle_tests::tree::{Expected, Tree, assert_same};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

const DOCUMENTS: &[&str] = &["/.coracle"];

/// The corner image without the layers' documents, which depend on how it came.
fn expected() -> Tree {
    Tree::of_image(&corner_squashfs()).without(DOCUMENTS)
}

/// A tool that is said to be the only one on `PATH`.
fn only(dir: &Path, name: &str, script: &str) -> PathBuf {
    let folder = dir.join(format!("bin-{name}"));
    fs::create_dir_all(&folder).unwrap();
    let program = folder.join(name);
    fs::write(&program, format!("#!/bin/sh\nPATH=/usr/sbin:/usr/bin:/sbin:/bin\n{script}\n")).unwrap();
    fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).unwrap();
    folder
}

/// What is in the directory besides what a test put there.
fn left(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn root_images_of_podman_buildah_and_skopeo_s_store() {
    needs!(Root, Coracle, Tool("podman"), Tool("skopeo"), Tool("buildah"));
    let dir = temp_dir();
    let store = dir.path().join("storage.conf");
    let place = |name: &str| dir.path().join(name).display().to_string();
    fs::write(
        &store,
        format!("[storage]\ndriver = \"vfs\"\nrunroot = \"{}\"\ngraphroot = \"{}\"\n", place("run"), place("graph")),
    )
    .unwrap();
    let with_store = |command: &mut Command| {
        command.env("CONTAINERS_STORAGE_CONF", &store);
        run(command)
    };
    // More than is kept in memory, between two small layers.
    let noise: Vec<u8> = (0..2_500_000_u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    let layers = [
        Tar::default().directory("d").file("d/gone", b"1").file("d/stays", b"2").finish(),
        Tar::default().file("large", &noise).symlink("link", "large").hardlink("same", "large").finish(),
        Tar::default().file("d/.wh.gone", b"").file("d/stays", b"3").finish(),
    ];
    let layout = Layout::new(&dir.path().join("layout"), &layers);
    let direct = dir.path().join("direct.sqfs");
    run(coracle(["build", "--quiet"]).arg(&direct).arg(layout.source())).success();
    let expected = Tree::of_image(&direct).without(DOCUMENTS);
    let mut copy = Command::new("skopeo");
    with_store(copy.args(["copy", "--insecure-policy", &layout.source(), "containers-storage:localhost/image:1"]))
        .success();
    // Each in turn, as if it were the only one that is installed.
    for tool in ["podman", "buildah", "skopeo"] {
        let folder = only(dir.path(), tool, &format!("exec {tool} \"$@\""));
        let output = dir.path().join(format!("{tool}.sqfs"));
        let mut command = coracle(["build", "--quiet"]);
        command.arg(&output).arg("containers-storage:localhost/image:1").env("PATH", folder);
        with_store(&mut command).success();
        assert_same(tool, &expected, &Tree::of_image(&output).without(DOCUMENTS), &[]);
        fs::remove_file(&output).unwrap();

        let folder = dir.path().join(format!("bin-{tool}"));
        let mut command = coracle(["build", "--quiet"]);
        command.arg(&output).arg("containers-storage:localhost/absent:1").env("PATH", folder);
        let refused = with_store(&mut command).exited(125);
        assert!(refused.stderr.contains(tool) && refused.stderr.contains("absent"), "{}", refused.stderr);
        assert!(!output.exists());
    }
    // The store's directories are its own business; nothing else is there.
    let names = left(dir.path());
    assert_eq!(
        names,
        ["bin-buildah", "bin-podman", "bin-skopeo", "direct.sqfs", "graph", "layout", "run", "storage.conf"]
    );
}

/// `docker save` as the daemon answers it, from a layout: there is no daemon where tests run.
#[test]
fn images_of_a_docker_daemon() {
    needs!(Coracle, Tool("python3"));
    let dir = temp_dir();
    let archive = dir.path().join("saved.tar");
    export("docker-archive", &corner_image(), "gzip", &archive);
    let log = dir.path().join("log");
    let script = format!(
        "echo \"$@\" >>{}\n[ \"$3\" = corner:latest ] || {{ echo \"No such image: $3\" >&2; exit 1; }}\nexec cat {}",
        log.display(),
        archive.display()
    );
    let folder = only(dir.path(), "docker", &script);
    let output = dir.path().join("out.sqfs");
    let build = |name: &str, path: &Path| {
        let mut command = coracle(["build", "--quiet"]);
        run(command.arg(&output).arg(format!("docker-daemon:{name}")).env("PATH", path))
    };
    build("corner", &folder).success();
    assert_same("docker save", &expected(), &Tree::of_image(&output).without(DOCUMENTS), &[]);
    assert!(fs::read_to_string(&log).unwrap().starts_with("save -- corner:latest\n"));
    fs::remove_file(&output).unwrap();
    let refused = build("corner:2", &folder).exited(125);
    assert!(refused.stderr.contains("exit status: 1: No such image: corner:2"), "{}", refused.stderr);
    let refused = build("corner", dir.path()).exited(125);
    assert!(refused.stderr.contains("there is no docker on PATH"), "{}", refused.stderr);
    assert_eq!(left(dir.path()), ["bin-docker", "log", "saved.tar"]);
}

#[test]
fn paths_alone_are_told_by_what_they_hold() {
    needs!(Coracle, Tool("python3"), Tool("gzip"), Tool("zstd"));
    let dir = temp_dir();
    let mut sources = vec![corner_image()];
    for format in ["oci-archive", "docker-archive"] {
        let archive = dir.path().join(format!("{format}.tar"));
        export(format, &corner_image(), "gzip", &archive);
        for tool in ["gzip", "zstd"] {
            run(Command::new(tool).args(["-k", "-q"]).arg(&archive)).success();
        }
        let with = |ending: &str| PathBuf::from(format!("{}.{ending}", archive.display()));
        sources.extend([with("gz"), with("zst"), archive]);
    }
    let output = dir.path().join("out.sqfs");
    for source in &sources {
        // Two tags of one image.
        let more = if source.is_dir() { ":gzip" } else { "" };
        let form = if source.is_dir() { "oci:" } else { "" };
        let source = format!("{form}{}{more}", source.display());
        run(coracle(["build", "--quiet", "--force"]).arg(&output).arg(&source)).success();
        assert_same(&source, &expected(), &Tree::of_image(&output).without(DOCUMENTS), &[]);
    }
    let refused = run(coracle(["build"]).arg(&output).arg("alpine:3")).exited(125);
    for form in ["oci-archive:FILE", "docker-daemon:NAME", "containers-storage:NAME", "sif:FILE", "a path alone"] {
        assert!(refused.stderr.contains(form), "{}", refused.stderr);
    }
}

#[test]
fn root_images_as_enroot_makes_them() {
    needs!(Root, Coracle, Tool("umoci"), Tool("mksquashfs"));
    let dir = temp_dir();
    let root = unpacked("corner", &corner_image());
    let image = dir.path().join("image.sqsh");
    let mut command = Command::new("mksquashfs");
    command.arg(&root).arg(&image).args(["-no-progress", "-quiet", "-comp", "lzo", "-noD"]);
    run(&mut command).success();
    let output = dir.path().join("out.sqfs");
    run(coracle(["build", "--quiet"]).arg(&output).arg(&image)).success();
    let documents = Expected {
        reason: "the image's documents are in a directory of the root",
        covers: |path, what| path == b"/" && what == "nlink",
    };
    assert_same("enroot", &Tree::of_image(&image), &Tree::of_image(&output).without(DOCUMENTS), &[documents]);
}
