//! Environment definition files in place of an image.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests fail by panicking")]

use coracle_tests::fixtures::corner_squashfs;
use coracle_tests::needs;
use coracle_tests::process::{Finished, User, run};
use coracle_tests::site::Site;
use std::fs;
use std::path::PathBuf;

/// A user's directory with an environment of this text, in which `IMAGE` stands for the image's path.
struct Bench {
    user: User,
    dir: tempfile::TempDir,
}

impl Bench {
    fn new(text: &str) -> Self {
        let user = User::unprivileged();
        let bench = Self { dir: user.temp_dir(), user };
        bench.write("env.toml", text);
        bench
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text.replace("IMAGE", corner_squashfs().to_str().unwrap())).unwrap();
        path
    }

    fn coracle(&self, words: &[&str]) -> Finished {
        let mut command = self.user.coracle(self.dir.path(), words);
        // Another home is another /etc/passwd, which is one in a session.
        command.env("HOME", self.dir.path()).env("CORACLE_SESSION_SCOPE", self.dir.path());
        run(command.env("SCRATCH", self.dir.path()).env("FROM_HOST", "host"))
    }
}

#[test]
fn userns_an_environment_says_how_to_run() {
    needs!(Coracle, Fuse);
    let bench = Bench::new(
        "image = \"IMAGE\"\nwritable = false\nworkdir = \"/data\"\nmounts = [\"${SCRATCH}/d:/data:ro+nosuid\"]\n\
         [env]\nVESSEL = \"${VESSEL} of ${FROM_HOST}\"\nPATH = \"${PATH}:/custom/bin\"\nFROM_HOST = \"\"\nEMPTY = \"${NOT_SET:-}\"\n",
    );
    bench.write("d/file", "data\n");
    let script = "pwd; cat file; touch x 2>/dev/null || echo read-only; echo $VESSEL; echo ${PATH##*:}; echo [${FROM_HOST-unset}] [${EMPTY-unset}]; echo $PATH | grep -c nonexistent";
    let seen = bench.coracle(&["exec", "env.toml", "sh", "-c", script]);
    let expected = "/data\ndata\nread-only\ncoracle of host\n/custom/bin\n[unset] []\n0\n";
    assert_eq!((seen.stdout.as_str(), seen.stderr.as_str()), (expected, ""));
    // Flags count more.
    let seen = bench
        .coracle(&["exec", "--pwd=/etc", "--env=VESSEL=mine", "./env.toml", "sh", "-c", "pwd; echo $VESSEL"])
        .success();
    assert_eq!(seen.stdout, "/etc\nmine\n");
    let shell = bench.coracle(&["shell", "env.toml", "-c", "cat file"]).success();
    assert_eq!(shell.stdout, "data\n");
}

#[test]
fn userns_the_entrypoint_can_be_left_out() {
    needs!(Coracle, Fuse);
    let bench = Bench::new("image = \"IMAGE\"\nwritable = false\n");
    assert_eq!(bench.coracle(&["run", "env.toml"]).success().stdout, "Afloat in a coracle.\n");
    assert_eq!(bench.coracle(&["run", "env.toml", "echo $VESSEL"]).success().stdout, "coracle\n");
    bench.write("env.toml", "image = \"IMAGE\"\nwritable = false\nentrypoint = false\n");
    assert_eq!(bench.coracle(&["run", "env.toml", "echo", "$VESSEL"]).success().stdout, "$VESSEL\n");
    let nothing = bench.coracle(&["run", "env.toml"]).exited(125);
    assert!(
        nothing.stderr.contains("entrypoint = false leaves the image's program out; give a command"),
        "{}",
        nothing.stderr
    );
}

/// As the container engine has it.
#[test]
fn userns_an_environment_can_be_written_to_unless_it_says_otherwise() {
    needs!(Coracle, Fuse);
    let bench = Bench::new("image = \"IMAGE\"\n");
    let write = |options: &[&str]| {
        let words = [&["exec"], options, &["env.toml", "sh", "-c", "echo kept >/etc/new && cat /etc/new"]].concat();
        bench.coracle(&words)
    };
    assert_eq!(write(&[]).success().stdout, "kept\n");
    // One layer takes the place of the other.
    fs::create_dir(bench.dir.path().join("over")).unwrap();
    std::os::unix::fs::chown(bench.dir.path().join("over"), Some(bench.user.uid), Some(bench.user.gid)).unwrap();
    assert_eq!(write(&["--overlay", "over"]).success().stdout, "kept\n");
    assert!(bench.dir.path().join("over/upper/etc/new").exists());
    bench.write("env.toml", "image = \"IMAGE\"\nwritable = false\n");
    assert!(write(&[]).stderr.contains("Read-only file system"));
}

#[test]
fn userns_environments_are_found_by_name() {
    needs!(Coracle, Fuse);
    let bench = Bench::new("");
    bench.write(".edf/base.toml", "image = \"IMAGE\"\nwritable = false\n[env]\nA = \"base\"\nB = \"base\"\n");
    bench.write("project/app.toml", "base_environment = \"base\"\n[env]\nA = \"app\"\n");
    let place = bench.dir.path().join("project");
    let exec = |name: &str, search: &str| {
        let mut command = bench.user.coracle(bench.dir.path(), ["exec", name, "sh", "-c", "echo $A $B"]);
        command.env("HOME", bench.dir.path()).env("CORACLE_SESSION_SCOPE", bench.dir.path());
        run(command.env("EDF_PATH", search))
    };
    let place = place.to_str().unwrap();
    assert_eq!(exec("edf://base", "").success().stdout, "base base\n");
    assert_eq!(exec("edf://app", &format!("/absent:{place}")).success().stdout, "app base\n");
    let absent = exec("edf://app", "").exited(125);
    assert!(absent.stderr.contains("cannot find environment app: there is no app.toml in"), "{}", absent.stderr);
    // A word alone is an image's name, as ever.
    assert!(exec("base", "").exited(125).stderr.contains("no stored image of that name"));
}

#[test]
fn userns_annotations_are_kept_and_hooks_are_said() {
    needs!(Coracle, Fuse);
    let bench = Bench::new(
        "image = \"IMAGE\"\nwritable = false\n[annotations]\ncom.hooks.aws_ofi_nccl.enabled = \"true\"\n\
         com.hooks.aws_ofi_nccl.variant = \"cuda12\"\ncom.hooks.cxi.enabled = \"false\"\n",
    );
    let seen = bench.coracle(&["spec", "env.toml"]).success();
    let spec: serde_json::Value = serde_json::from_str(&seen.stdout).unwrap();
    assert_eq!(spec["annotations"]["com.hooks.aws_ofi_nccl.variant"], "cuda12");
    assert_eq!(spec["annotations"]["org.coracle.image"], corner_squashfs().to_str().unwrap());
    let warning = "coracle: warning: environment env.toml: hooks that are not supported yet: aws_ofi_nccl; starting without them\n";
    assert_eq!(seen.stderr, warning);
    let seen = bench.coracle(&["exec", "env.toml", "true"]).success();
    assert_eq!(seen.stderr, warning);
}

#[test]
fn userns_mistakes_name_file_and_line() {
    needs!(Coracle);
    for (text, parts) in [
        ("image = \"IMAGE\"\nworkdr = \"/x\"\n", ["line 2", "unknown key workdr"]),
        ("image = \"IMAGE\"\nmounts = [\"${NOT_SET}:/x\"]\n", ["line 2", "variable NOT_SET is not set"]),
        ("image = \"IMAGE\"\nmounts = [\"/x\"]\n", ["line 2", "SOURCE:DESTINATION"]),
        ("image = \"IMAGE\"\ndevices = [\"nvidia.com/gpu=all\"]\n", ["line 2", "CDI"]),
        ("image = \"IMAGE\"\n\nbase_environment = \"absent\"\n", ["line 3", "no absent.toml in"]),
        ("base_environment = \"./env.toml\"\n", ["line 1", "builds on itself"]),
        ("image = \n", ["line 1", "cannot use environment env.toml"]),
        ("workdir = \"/x\"\n", ["names no image", "env.toml"]),
        ("image = \"user@nvcr.io#x/y\"\n", ["line 1", "it names a user: leave that out"]),
    ] {
        let failed = Bench::new(text).coracle(&["exec", "env.toml", "true"]).exited(125);
        for part in parts {
            assert!(failed.stderr.contains(part), "{text}: {}", failed.stderr);
        }
    }
    let absent = Bench::new("").coracle(&["exec", "absent.toml", "true"]).exited(125);
    assert!(absent.stderr.contains("cannot read environment absent.toml"), "{}", absent.stderr);
}

#[test]
fn userns_a_variable_that_neither_image_nor_host_has() {
    needs!(Coracle, Fuse);
    let bench = Bench::new("image = \"IMAGE\"\nwritable = false\n[env]\nA = \"${NOWHERE}\"\n");
    let failed = bench.coracle(&["exec", "env.toml", "true"]).exited(125);
    let part = "cannot set A as line 4 of environment env.toml says: variable NOWHERE is not set; write ${NOWHERE:-}";
    assert!(failed.stderr.contains(part), "{}", failed.stderr);
}

#[test]
fn userns_an_image_may_be_called_toml() {
    needs!(Coracle, Fuse);
    let bench = Bench::new("");
    fs::copy(corner_squashfs(), bench.dir.path().join("image.toml")).unwrap();
    bench.coracle(&["exec", "image.toml", "/bin/true"]).success();
}

#[test]
fn root_the_sites_policy_counts_for_environments() {
    needs!(Coracle, Fuse, Root);
    let site = Site::new("[images]\nallowed-paths = [\"/absent\"]\nallowed-registries = [\"docker.io/library\"]\n");
    let exec = |text: &str| {
        fs::write(site.own().join("env.toml"), text).unwrap();
        run(&mut site.coracle(["exec", "env.toml", "true"])).exited(125).stderr
    };
    let text = exec(&format!("image = \"{}\"\nwritable = false\n", corner_squashfs().display()));
    assert!(text.contains("allowed-paths"), "{text}");
    let text = exec("image = \"nvcr.io#nvidia/pytorch:24.01\"\nwritable = false\n");
    assert!(text.contains("cannot fetch nvcr.io/nvidia/pytorch") && text.contains("allowed-registries"), "{text}");
    site.write("coracle.toml", "[images]\nread-only = true\n");
    let image = format!("image = \"{}\"\n", corner_squashfs().display());
    let text = exec(&format!("{image}writable = true\n"));
    assert!(text.contains("[images] read-only = true"), "{text}");
    // What an environment does not say, the site may.
    fs::write(site.own().join("env.toml"), image).unwrap();
    run(&mut site.coracle(["exec", "env.toml", "true"])).success();
}
