//! The same image in, the same bytes out, whatever the machine, and all that an image says of its making.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests fail by panicking")]

use coracle_tests::fixtures::{corner_image, export, temp_dir};
use coracle_tests::layout::Layout;
use coracle_tests::needs;
use coracle_tests::process::{User, coracle, coracle_binary, run};
use coracle_tests::tree::sha256_of;
use serde_json::Value;
use std::fs;
use std::path::Path;
use std::process::Command;

/// What a build is made under.
#[derive(Default)]
struct Host<'a> {
    threads: &'a str,
    umask: &'a str,
    zone: &'a str,
    locale: &'a str,
    name: &'a str,
    directory: &'a str,
    /// As `faketime` takes it.
    time: &'a str,
    user: bool,
}

impl Host<'_> {
    fn build(&self, options: &[&str], output: &Path, source: &str) -> String {
        let script = r#"umask "$1"; cd "$2"; hostname "$3"; shift 3; exec "$@""#;
        let mut command = Command::new("unshare");
        command.args(["--uts", "sh", "-c", script, "sh", self.umask, self.directory, self.name]);
        if self.user {
            let user = User::unprivileged();
            command.args([
                "setpriv",
                "--clear-groups",
                "--reuid",
                &user.uid.to_string(),
                "--regid",
                &user.gid.to_string(),
            ]);
        }
        command.args(["faketime", self.time]).arg(coracle_binary().unwrap());
        command.args(["build", "--quiet", "--threads", self.threads]).args(options).arg(output).arg(source);
        command
            .env("TZ", self.zone)
            .env("LC_ALL", self.locale)
            .env("HOME", self.directory)
            .env("SOURCE_DATE_EPOCH", "5");
        run(&mut command).success();
        sha256_of(output)
    }
}

#[test]
fn root_no_trait_of_a_host_shows_in_an_image() {
    needs!(Root, Coracle, Tool("unshare"), Tool("faketime"), Tool("setpriv"));
    let first = Host {
        threads: "1",
        umask: "022",
        zone: "UTC",
        locale: "C",
        name: "login1",
        directory: "/",
        time: "2001-02-03 04:05:06",
        user: false,
    };
    let dir = User::unprivileged().temp_dir();
    let layout = Layout::copy_of(&corner_image(), "latest", &dir.path().join("layout"));
    let here = dir.path().display().to_string();
    let others = [
        Host { threads: "2", ..first },
        Host { threads: "7", ..first },
        Host { umask: "077", ..first },
        Host { zone: "Pacific/Kiritimati", ..first },
        Host { locale: "tr_TR.UTF-8", ..first },
        Host { name: "node0815.example.org", ..first },
        Host { directory: &here, ..first },
        Host { time: "2037-12-31 23:59:59", ..first },
        Host { user: true, ..first },
    ];
    let everything = Host {
        threads: "3",
        umask: "027",
        zone: "America/St_Johns",
        locale: "de_DE.UTF-8",
        name: "x",
        directory: &here,
        time: "1999-12-31 23:59:59",
        user: true,
    };
    let all = others.iter().chain([&everything]).collect::<Vec<_>>();
    for (options, hosts) in [
        (&["--compression", "zstd:3"][..], &all[..]),
        (&["--compression", "gzip:1", "--block-size", "1M"], &[&everything]),
        (&["--format", "oci-archive"], &[&everything]),
    ] {
        let output = dir.path().join("reference");
        let expected = first.build(options, &output, &layout.source());
        fs::remove_file(&output).unwrap();
        for (number, host) in hosts.iter().enumerate() {
            let digest = host.build(options, &output, &layout.source());
            assert_eq!(digest, expected, "{options:?}, host {number}");
            fs::remove_file(&output).unwrap();
        }
    }
    // The name of the source in the file system, its files' times, and the form of an archive.
    let moved = Layout::copy_of(&corner_image(), "latest", &dir.path().join("elsewhere/under another name"));
    let output = dir.path().join("moved");
    let settings = &["--compression", "zstd:3"];
    let expected = first.build(settings, &dir.path().join("again"), &layout.source());
    assert_eq!(first.build(settings, &output, &moved.source()), expected);
    let archive = dir.path().join("image.tar");
    export("oci-archive", &corner_image(), "latest", &archive);
    run(Command::new("gzip").arg("-k").arg(&archive)).success();
    for ending in ["tar", "tar.gz"] {
        let source = format!("oci-archive:{}", dir.path().join("image").with_extension(ending).display());
        assert_eq!(first.build(&[settings, &["--force"][..]].concat(), &output, &source), expected, "{ending}");
    }
}

#[test]
fn an_image_says_what_it_was_made_from_and_by_what() {
    needs!(Coracle);
    let dir = temp_dir();
    let layout = Layout::copy_of(&corner_image(), "latest", &dir.path().join("layout"));
    let image = dir.path().join("image.sqfs");
    run(coracle(["build", "--quiet", "--compression", "zstd:2", "--block-size", "256K"])
        .arg(&image)
        .arg(layout.source()))
    .success();
    let text = run(coracle(["inspect", "--json"]).arg(&image)).success().stdout;
    let shown: Value = serde_json::from_str(&text).unwrap();
    let info = &shown["image"];
    let manifest = layout.manifest();
    assert_eq!(info["version"], 2);
    assert_eq!(info["source"], "latest");
    assert_eq!(info["config_digest"], manifest["config"]["digest"]);
    assert!(info["manifest_digest"].as_str().unwrap().starts_with("sha256:"));
    assert_eq!((&info["os"], &info["architecture"]), (&shown["config"]["os"], &shown["config"]["architecture"]));
    let layers = info["layers"].as_array().unwrap();
    assert_eq!(layers.len(), manifest["layers"].as_array().unwrap().len());
    for (number, layer) in layers.iter().enumerate() {
        assert_eq!(layer["digest"], manifest["layers"][number]["digest"]);
        assert_eq!(layer["diff_id"], shown["config"]["rootfs"]["diff_ids"][number]);
    }
    assert_eq!(info["created_by"]["name"], "coracle");
    let version = run(&mut coracle(["--version"])).success().stdout;
    assert!(version.trim_end().ends_with(info["created_by"]["version"].as_str().unwrap()), "{version}");
    let settings = serde_json::json!({"compression": "zstd", "level": 2, "block_size": 262_144});
    assert_eq!(info["settings"], settings);
    // Nothing of this host or hour.
    let fields: Vec<_> = info.as_object().unwrap().keys().map(String::as_str).collect();
    let known = [
        "architecture",
        "config_digest",
        "created_by",
        "layers",
        "manifest_digest",
        "os",
        "settings",
        "source",
        "version",
    ];
    assert_eq!(fields, known);
    assert!(!info.to_string().contains(dir.path().to_str().unwrap()));
}
