//! The verbs that run no program: what they print, and their exit statuses.

use std::fs;

use serde_json::Value;

mod support;

use support::{World, complaint, unable};

#[test]
fn usage_errors_are_told_from_help() {
    let world = support::bare();
    let run = |words: &[&str]| world.coracle().args(words).output().unwrap();
    assert!(complaint(&run(&["frobnicate"]), 125).contains("unrecognized subcommand"));
    assert!(complaint(&run(&["exec"]), 125).contains("Usage: coracle exec [OPTIONS] IMAGE COMMAND"));
    assert!(complaint(&run(&["exec", "/image"]), 125).contains("no command given"));
    assert!(complaint(&run(&["run", "-B", "/a:/b:rx", "/image"]), 125).contains("unknown option \"rx\""));
    let help = run(&["--help"]);
    assert!(help.status.success() && help.stderr.is_empty());
    assert!(String::from_utf8(help.stdout).unwrap().contains("Exit status: the program's own; 125"));
}

#[test]
fn what_is_no_image_says_what_to_do() {
    let world = support::bare();
    let says = |image: &str| complaint(&world.coracle().args(["exec", image, "true"]).output().unwrap(), 125);
    assert!(says("/absent.sqfs").contains("cannot open image /absent.sqfs: No such file or directory"));
    for word in ["absent", "absent.sqfs", "lab/app:1"] {
        assert!(says(word).contains("no stored image of that name: coracle images lists those"), "{word}");
    }
    assert!(says(world.home.to_str().unwrap()).contains("is a directory, but no image"));
}

#[test]
fn userns_spec_prints_what_would_run() {
    if unable() {
        return;
    }
    let world = World::new();
    let spec = |words: &[&str]| {
        let output = world.coracle().arg("spec").args(words).arg(&world.image).args(["ls", "-l"]).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let json: Value = serde_json::from_str(&spec(&["--env", "A=1"])).unwrap();
    assert_eq!(json["process"]["args"], serde_json::json!(["ls", "-l"]));
    assert!(json["process"]["env"].as_array().unwrap().contains(&"A=1".into()));
    assert_eq!(json["process"]["noNewPrivileges"], true);
    assert_eq!(json["annotations"]["org.coracle.image"], world.image.to_str().unwrap());
    assert_eq!(spec(&[]), spec(&[]), "the same text every time");
    let steps = spec(&["--steps", "-c"]);
    let order = [
        "user namespace",
        "open /dev/fuse",
        "mount namespace",
        "detach the host's root",
        "no_new_privs",
        "execute ls -l",
    ];
    let positions: Vec<usize> =
        order.iter().map(|step| steps.find(step).unwrap_or_else(|| panic!("{step}: {steps}"))).collect();
    assert!(positions.is_sorted(), "{steps}");
    world.assert_nothing_left();
}

#[test]
fn userns_inspect_shows_every_view() {
    if unable() {
        return;
    }
    let config = r#"{"architecture":"riscv64","os":"linux","rootfs":{"type":"layers","diff_ids":[]},
        "config":{"Cmd":["x"],"Labels":{"a":"\u001b[2J"}}}"#;
    let world = World::with(|tree| {
        fs::create_dir(tree.join(".coracle")).unwrap();
        fs::write(tree.join(".coracle/config.json"), config).unwrap();
    });
    let inspect = |view: &[&str]| world.coracle().arg("inspect").args(view).arg(&world.image).output().unwrap();
    let text = |view: &[&str]| String::from_utf8(inspect(view).stdout).unwrap();
    let summary = text(&[]);
    assert!(
        summary.contains("platform      linux/riscv64\n") && summary.contains("label         a=\\u{1b}[2J\n"),
        "{summary}"
    );
    let json: Value = serde_json::from_str(&text(&["--json"])).unwrap();
    assert_eq!(
        (&json["config"]["architecture"], &json["squashfs"]["compression"]),
        (&"riscv64".into(), &"gzip".into())
    );
    assert_eq!(text(&["--config"]), config, "byte for byte");
    assert!(text(&["--superblock"]).contains("compression"));
    assert!(text(&["--tree"]).contains("/bin/busybox"));
    assert!(complaint(&inspect(&["--manifest"]), 125).contains("/.coracle/manifest.json"));
    assert!(complaint(&inspect(&["--json", "--tree"]), 125).contains("cannot be used with"));
}

#[test]
fn userns_doctor_finds_this_host_fit() {
    if unable() {
        return;
    }
    let world = support::bare();
    let output = world.coracle().args(["doctor", "--json"]).output().unwrap();
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(output.status.success() && json["fit"] == true, "{json:#}");
    let names: Vec<&str> =
        json["checks"].as_array().unwrap().iter().map(|check| check["name"].as_str().unwrap()).collect();
    // Scripts of sites look for them.
    for name in [
        "container",
        "kernel",
        "openat2",
        "close_range",
        "seccomp",
        "Landlock",
        "user namespaces",
        "/dev/fuse",
        "FUSE mount",
        "mount",
        "bind",
        "pivot_root",
        "pid namespace",
        "fresh /proc",
        "ipc namespace",
        "uts namespace",
        "net namespace",
        "overlay",
        "subordinate ids",
        "open files",
        "processes",
        "cgroup",
        "home",
        "/tmp",
        "sessions",
        "store",
        "MPI",
        "fabric",
        "Slurm",
        "terminal",
    ] {
        assert_eq!(names.iter().filter(|one| **one == name).count(), 1, "{name}: {names:?}");
    }
}

#[test]
fn userns_a_built_directory_runs() {
    if unable() {
        return;
    }
    let world = World::with(|_| {});
    let out = world.own_dir("out").join("built.sqfs");
    let source = format!("dir:{}", world.path("tree").display());
    let build = |words: &[&str]| world.coracle().arg("build").args(words).arg(&out).arg(&source).output().unwrap();
    let built = build(&["--compression", "gzip:1", "--block-size", "64K", "--threads", "2"]);
    let text = String::from_utf8_lossy(&built.stdout).into_owned();
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    assert!(text.contains("built.sqfs: ") && text.contains(" inodes, "), "{text}");
    let phases = String::from_utf8_lossy(&built.stderr).into_owned();
    assert_eq!(phases, "coracle: packing a directory\ncoracle: writing tables\n", "a line for each phase");
    let output = world.coracle().arg("exec").arg(&out).args(["echo", "built"]).output().unwrap();
    assert_eq!(output.stdout, b"built\n", "{}", String::from_utf8_lossy(&output.stderr));
    let again = build(&[]);
    assert_eq!(again.status.code(), Some(125), "an existing file is kept");
    let forced = build(&["--force", "--quiet"]);
    assert!(forced.status.success() && forced.stdout.is_empty(), "{}", String::from_utf8_lossy(&forced.stderr));
    assert!(forced.stderr.is_empty());
    let events = |output: &std::process::Output| {
        let lines = String::from_utf8(output.stdout.clone()).unwrap();
        let event = |line: &str| serde_json::from_str::<Value>(line).unwrap();
        lines.lines().map(event).collect::<Vec<_>>()
    };
    let told = events(&build(&["--force", "--json"]));
    let names: Vec<&str> = told.iter().map(|event| event["event"].as_str().unwrap()).collect();
    assert_eq!((names[0], *names.last().unwrap()), ("directory", "done"), "{names:?}");
    assert_eq!(told.last().unwrap()["size"], fs::metadata(&out).unwrap().len());
    let failed = events(&build(&["--json"]));
    assert!(failed[0]["message"].as_str().unwrap().contains("exists already"), "{failed:?}");
    // On a terminal there are bars, which go again.
    let mut command = std::process::Command::new("script");
    let words = format!("{} build --force {} {source}", world.coracle().get_program().display(), out.display());
    match command.args(["-qec", &words, "/dev/null"]).env("TERM", "xterm").output() {
        Ok(output) => {
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            assert!(output.status.success() && text.contains("directory") && text.contains('\u{1b}'), "{text:?}");
            let last = text.trim_end().rsplit(['\r', '\n']).next().unwrap_or_default();
            assert!(last.contains("built.sqfs: "), "nothing is drawn below: {text:?}");
        }
        Err(_) => drop(support::missing("script")),
    }
}

#[test]
fn userns_images_are_packed_anew_and_laid_out_by_a_profile() {
    if unable() {
        return;
    }
    let world = World::new();
    let (out, profile) = (world.own_dir("out"), world.path("profile.json"));
    fs::write(&profile, r#"{"version":1,"touched":[{"path":"/bin/busybox","blocks":[0]},{"path":"/gone"}]}"#).unwrap();
    let sif = world.path("image.sif");
    fs::write(&sif, support::sif(&fs::read(&world.image).unwrap())).unwrap();
    for (name, source) in [("a.sqfs", &world.image), ("b.sqfs", &sif), ("c.sqfs", &out.join("b.sqfs"))] {
        let output = out.join(name);
        let mut build = world.coracle();
        build.arg("build").arg(&output).arg(source);
        // The last one has a profile of its own.
        if name != "c.sqfs" {
            build.arg("--profile").arg(&profile);
        }
        let built = build.output().unwrap();
        let text = String::from_utf8_lossy(&built.stdout).into_owned();
        assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
        assert!(text.contains("profile: 1 files, ") && text.contains("; 1 are not in this image"), "{text}");
        let ran = world.coracle().arg("exec").arg(&output).args(["echo", name]).output().unwrap();
        assert_eq!(ran.stdout, format!("{name}\n").as_bytes(), "{}", String::from_utf8_lossy(&ran.stderr));
    }
    let fails = |words: &[&str]| {
        let output = world.coracle().arg("build").arg(out.join("x")).args(words).output().unwrap();
        complaint(&output, 125)
    };
    let image = world.image.to_str().unwrap();
    fs::write(&profile, r#"{"version":1,"touched":[{"path":"../x"}]}"#).unwrap();
    let text = fails(&[image, "--profile", profile.to_str().unwrap()]);
    assert!(text.contains("profile.json") && text.contains("\"../x\": the path is not absolute"), "{text}");
    assert!(fails(&["/absent.sqfs"]).contains("cannot open /absent.sqfs: No such file"));
    assert!(fails(&["podman://debian"]).contains("use docker://NAME"));
    assert!(fails(&[profile.to_str().unwrap()]).contains("it is no squashfs, SIF or tar file"));
    assert!(!out.join("x").exists());
}
