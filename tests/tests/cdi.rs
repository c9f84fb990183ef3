//! CDI devices in containers of the real program, as a user without privileges.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests fail by panicking")]

use coracle_tests::fixtures::corner_squashfs;
use coracle_tests::needs;
use coracle_tests::process::{Finished, User, coracle_binary, run};
use std::fs;
use std::path::PathBuf;
use std::process::Command;

/// A user's directory with CDI files, and the image with the corner cases, which has a busybox.
struct Bench {
    user: User,
    dir: tempfile::TempDir,
    image: PathBuf,
}

impl Bench {
    fn new(files: &[(&str, &str)]) -> Self {
        let user = User::unprivileged();
        let dir = user.temp_dir();
        fs::create_dir(dir.path().join("cdi")).unwrap();
        fs::create_dir(dir.path().join("host")).unwrap();
        let bench = Self { user, dir, image: corner_squashfs() };
        for (name, content) in files {
            let content = content.replace("HOST", bench.dir.path().join("host").to_str().unwrap());
            fs::write(bench.dir.path().join("cdi").join(name), content).unwrap();
        }
        bench
    }

    fn host_file(&self, name: &str, content: &str) {
        fs::write(self.dir.path().join("host").join(name), content).unwrap();
    }

    fn cdi(&self) -> String {
        self.dir.path().join("cdi").display().to_string()
    }

    /// A command in a container with these options.
    fn exec(&self, options: &[&str], script: &str) -> Finished {
        run(&mut self.command(options, script))
    }

    fn command(&self, options: &[&str], script: &str) -> Command {
        let mut command = self.user.coracle(self.dir.path(), ["exec"]);
        command.args(["--cdi-dirs", &self.cdi()]).args(options).arg(&self.image).args(["/bin/sh", "-c", script]);
        command.env("CORACLE_SESSION_SCOPE", self.dir.path());
        command
    }

    /// On a host of its own, which `prepare` makes as its root; the program runs without privileges there as well.
    fn on_host(&self, prepare: &str, words: &[&str]) -> Finished {
        let mut command = Command::new("unshare");
        command.args(["--mount", "/bin/sh", "-ec"]);
        let script = format!(
            "{prepare}\nexec setpriv --reuid {} --regid {} --clear-groups \"$@\"",
            self.user.uid, self.user.gid
        );
        command.arg(script).arg("sh").arg(coracle_binary().unwrap()).args(words);
        command.env("HOME", &self.user.home).env("CORACLE_SESSION", "off").current_dir(self.dir.path());
        run(&mut command)
    }
}

const DEVICE: &str = "\
cdiVersion: 0.7.0
kind: vendor.com/thing
containerEdits:
  env: [VENDOR_COMMON=yes, PATH=/vendor/bin:/bin]
devices:
- name: one
  containerEdits:
    env: [VENDOR_ONE=1]
    deviceNodes:
    - {path: /dev/vendor/one, hostPath: /dev/zero, type: c}
    mounts:
    - {hostPath: HOST/data, containerPath: /opt/vendor/data, options: [ro, nosuid, nodev, rbind, rprivate]}
    - {hostPath: tmpfs, containerPath: /run/vendor, type: tmpfs, options: [nosuid, size=64k]}
- name: two
  containerEdits:
    env: [VENDOR_TWO=2]
";

#[test]
fn userns_a_device_brings_nodes_mounts_and_variables() {
    needs!(Coracle, Fuse);
    let bench = Bench::new(&[("vendor.yaml", DEVICE)]);
    bench.host_file("data", "of the host\n");
    let script = "cat /opt/vendor/data; echo $VENDOR_COMMON$VENDOR_ONE$VENDOR_TWO $MINE; head -c 3 /dev/vendor/one | wc -c; \
                  echo x > /run/vendor/f && cat /run/vendor/f; echo x > /opt/vendor/data && echo written; true";
    let one = bench.exec(&["--contain", "--device", "vendor.com/thing=one"], script).success();
    assert_eq!(one.stdout, "of the host\nyes1\n3\nx\n", "{}", one.stderr);
    let all = ["--contain", "--device", "vendor.com/thing=all", "--env", "VENDOR_COMMON=mine"];
    let all = bench.exec(&all, "echo $VENDOR_COMMON$VENDOR_ONE$VENDOR_TWO").success();
    assert_eq!(all.stdout, "mine12\n", "what the caller sets counts");
    let none = bench.exec(&["--contain"], "ls /opt/vendor /dev/vendor 2>&1; echo $VENDOR_COMMON").success();
    assert!(
        none.stdout.ends_with("\n\n") && !none.stdout.contains("data\n"),
        "a device is not there unless it is asked for"
    );
}

#[test]
fn userns_annotations_ask_for_devices() {
    needs!(Coracle, Fuse);
    let bench = Bench::new(&[("vendor.yaml", DEVICE)]);
    let annotation = ["--annotation", "cdi.k8s.io/vendor_1=vendor.com/thing=two"];
    assert_eq!(bench.exec(&annotation, "echo $VENDOR_TWO").success().stdout, "2\n");
    let other = ["--annotation", "com.example/note=vendor.com/thing=two"];
    assert_eq!(bench.exec(&other, "echo $VENDOR_TWO").success().stdout, "\n");
    let wrong = bench.exec(&["--annotation", "cdi.k8s.io/vendor_1=two"], "true").exited(125);
    assert!(wrong.stderr.contains("vendor.com/class=name"), "{}", wrong.stderr);
}

#[test]
fn userns_an_unknown_device_is_said_with_the_known() {
    needs!(Coracle, Fuse);
    let bench = Bench::new(&[("vendor.yaml", DEVICE), ("broken.json", "{\"cdiVersion\": ")]);
    let unknown = bench.exec(&["--device", "vendor.com/thing=nine"], "true").exited(125);
    for said in ["vendor.com/thing=nine", "vendor.com/thing=one, vendor.com/thing=two", "broken.json"] {
        assert!(unknown.stderr.contains(said), "{said}\n{}", unknown.stderr);
    }
    let known = bench.exec(&["--device", "vendor.com/thing=two"], "echo $VENDOR_TWO").success();
    assert_eq!(known.stdout, "2\n", "a broken file disables only itself");
    assert!(known.stderr.contains("warning: cannot use the CDI file") && known.stderr.contains("broken.json"));
    let unqualified = bench.exec(&["--device", "thing=one"], "true").exited(125);
    assert!(unqualified.stderr.contains("vendor.com/class=name"), "{}", unqualified.stderr);
    let missing = bench.exec(&["--contain", "--device", "vendor.com/thing=one"], "true").exited(125);
    assert!(missing.stderr.contains("host/data") && missing.stderr.contains("vendor.yaml"), "{}", missing.stderr);
    bench.host_file("data", "");
    let node = bench.exec(&["--device", "vendor.com/thing=one"], "true").exited(125);
    assert!(node.stderr.contains("/dev/vendor/one") && node.stderr.contains("--contain"), "{}", node.stderr);
}

/// An instance has the devices that it was started with, and each program in it what they set.
#[test]
fn userns_an_instance_has_its_devices() {
    needs!(Coracle, Fuse);
    let bench = Bench::new(&[("vendor.yaml", DEVICE)]);
    bench.host_file("data", "of the host\n");
    let own = |words: &[&str]| {
        let mut command = bench.user.coracle(bench.dir.path(), words);
        command.env("CORACLE_SESSION_DIR", bench.dir.path().join("sessions")).env("HOME", bench.dir.path());
        run(&mut command)
    };
    let name = format!("cdi-{}", std::process::id());
    let (image, at) = (bench.image.to_str().unwrap(), format!("instance://{name}"));
    let device = ["--contain", "--cdi-dirs", "cdi", "--device", "vendor.com/thing=one"];
    own(&[&["instance", "start"][..], &device, &[image, &name]].concat()).success();
    let script = "cat /opt/vendor/data; echo $VENDOR_ONE; head -c 2 /dev/vendor/one | wc -c";
    let seen = own(&["exec", &at, "/bin/sh", "-c", script]);
    let late = own(&["exec", "--device", "vendor.com/thing=two", &at, "true"]);
    own(&["instance", "stop", &name]).success();
    assert_eq!(seen.success().stdout, "of the host\n1\n2\n");
    assert!(late.exited(125).stderr.contains("cannot use --device in instance"));
}

const HOOKS: &str = "\
cdiVersion: 0.6.0
kind: vendor.com/thing
devices:
- name: links
  containerEdits:
    hooks:
    - hookName: createContainer
      path: /usr/bin/nvidia-cdi-hook
      args: [nvidia-cdi-hook, create-symlinks, --link, 'libv.so.1::/opt/vendor/lib/libv.so', --link, '../x::/dev/vendor/by/x', --link, '/made/up::/etc/motd']
    mounts:
    - {hostPath: tmpfs, containerPath: /dev/vendor/by, type: tmpfs, options: [mode=755]}
- name: mode
  containerEdits:
    deviceNodes: [{path: /dev/vendor/one, hostPath: /dev/null}]
    hooks:
    - {hookName: createContainer, path: /usr/bin/nvidia-ctk, args: [nvidia-ctk, hook, chmod, --mode, '750', --path, /dev/vendor]}
- name: libraries
  containerEdits:
    mounts: [{hostPath: HOST/libv.so.1.2, containerPath: /opt/vendor/lib/libv.so.1.2, options: [ro, bind]}]
    hooks:
    - {hookName: createContainer, path: /x/nvidia-cdi-hook, args: [nvidia-cdi-hook, update-ldcache, --folder, /opt/vendor/lib]}
- name: unknown
  containerEdits:
    hooks:
    - {hookName: createRuntime, path: /opt/vendor/bin/setup, args: [setup, thing]}
";

#[test]
fn userns_hooks_are_done_without_running_them_or_refused_by_name() {
    needs!(Coracle, Fuse);
    let bench = Bench::new(&[("vendor.yaml", HOOKS)]);
    let script = "readlink /opt/vendor/lib/libv.so; readlink /dev/vendor/by/x; readlink /etc/motd; ls /opt/vendor/lib";
    for way in [&["--no-session"][..], &[], &["--writable-tmpfs"]] {
        let options: Vec<&str> = [way, &["--contain", "--device", "vendor.com/thing=links"]].concat();
        let links = bench.exec(&options, script).success();
        assert_eq!(links.stdout, "libv.so.1\n../x\n/made/up\nlibv.so\n", "{}", links.stderr);
    }
    // Although a session is there by now in which the image looks otherwise.
    let plain = bench.exec(&["--contain"], "test ! -h /etc/motd && cat /etc/motd >/tmp/x && echo own").success();
    assert_eq!(plain.stdout, "own\n", "the image's own file is there without the device: {}", plain.stderr);
    let mode = bench.exec(&["--contain", "--device", "vendor.com/thing=mode"], "stat -c %a /dev/vendor").success();
    assert_eq!(mode.stdout, "750\n", "{}", mode.stderr);
    let unknown = bench.exec(&["--device", "vendor.com/thing=unknown"], "true").exited(125);
    assert!(
        unknown.stderr.contains("the hook /opt/vendor/bin/setup thing") && unknown.stderr.contains("vendor.yaml"),
        "{}",
        unknown.stderr
    );
}

#[test]
fn userns_libraries_are_found_by_name() {
    needs!(Coracle, Fuse, Tool("gcc"));
    let bench = Bench::new(&[("vendor.yaml", HOOKS)]);
    let library = bench.dir.path().join("host/libv.so.1.2");
    let mut gcc = Command::new("gcc");
    gcc.args(["-shared", "-nostdlib", "-Wl,-soname,libv.so.1", "-x", "c", "/dev/null", "-o"]).arg(&library);
    run(&mut gcc).success();
    let script = "readlink /opt/vendor/lib/libv.so.1; head -c 4 /opt/vendor/lib/libv.so.1 | tail -c 3; echo; echo $LD_LIBRARY_PATH";
    let options = ["--device", "vendor.com/thing=libraries", "--env", "LD_LIBRARY_PATH=/own"];
    let found = bench.exec(&options, script).success();
    assert_eq!(found.stdout, "libv.so.1.2\nELF\n/own:/opt/vendor/lib\n", "{}", found.stderr);
}

const NVIDIA: &str = "\
cdiVersion: 0.5.0
kind: nvidia.com/gpu
devices:
- name: 0
  containerEdits:
    env: [GPU=0]
    hooks:
    - {hookName: createContainer, path: /usr/bin/nvidia-cdi-hook, args: [nvidia-cdi-hook, disable-device-node-modification]}
";

/// Directories by the specification, and a driver's parameters in `/proc`.
#[test]
fn root_files_of_the_host_are_found_and_the_drivers_parameters_changed() {
    needs!(Coracle, Fuse, Root, Tool("unshare"), Tool("setpriv"));
    let bench = Bench::new(&[("nvidia.yaml", NVIDIA)]);
    let prepare = format!(
        "mkdir {0}/up\nmount -t tmpfs tmpfs {0}/up\nmkdir {0}/up/u {0}/up/w\n\
         mount -t overlay -o lowerdir=/etc,upperdir={0}/up/u,workdir={0}/up/w overlay /etc\n\
         mkdir /etc/cdi\ncp {0}/cdi/nvidia.yaml /etc/cdi/\n\
         mount -t tmpfs tmpfs /proc/driver\nmkdir /proc/driver/nvidia\n\
         printf 'A: 1\\nModifyDeviceFiles: 1\\n' > /proc/driver/nvidia/params\n\
         echo 'NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.54.03  Tue Jun  6' > /proc/driver/nvidia/version",
        bench.dir.path().display()
    );
    let image = bench.image.to_str().unwrap();
    let script =
        "echo $GPU; cat /proc/driver/nvidia/params; echo x 2>/dev/null >/proc/driver/nvidia/params || echo kept";
    let words = ["exec", "--device", "nvidia.com/gpu=0", image, "/bin/sh", "-c", script];
    let seen = bench.on_host(&prepare, &words).success();
    assert_eq!(seen.stdout, "0\nA: 1\nModifyDeviceFiles: 0\nkept\n", "{}", seen.stderr);
    let prepare = prepare.replace(&format!("mkdir {}/up\n", bench.dir.path().display()), "");
    let words = ["exec", "--device", "nvidia.com/gpu=0", "--env", "NVIDIA_REQUIRE_CUDA=cuda>=12.4", image, "true"];
    let refused = bench.on_host(&prepare, &words).exited(125).stderr;
    assert!(refused.contains("cuda>=12.4 is not so: driver 535.54.03 supports CUDA up to 12.2"), "{refused}");
    let listed = bench.on_host(&prepare, &["cdi", "list"]).success();
    assert!(listed.stdout.contains("nvidia.com/gpu=0") && listed.stdout.contains("/etc/cdi/nvidia.yaml"));
    let json = bench.on_host(&prepare, &["cdi", "list", "--json"]).success().stdout;
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json[0]["name"], "nvidia.com/gpu=0");
}

#[test]
fn files_are_validated() {
    needs!(Coracle);
    let wrong = "cdiVersion: 0.3.0\nkind: vendor.com/thing\ndevices:\n- name: a\n  containerEdits:\n    mounts: [{hostPath: /a, containerPath: /b, typ: x}]\n";
    let bench = Bench::new(&[("good.yaml", HOOKS), ("wrong.yaml", wrong)]);
    let mut validate = bench.user.coracle(bench.dir.path(), ["cdi", "validate", "cdi/good.yaml", "cdi/wrong.yaml"]);
    let found = run(&mut validate).exited(1).stdout;
    assert!(found.contains("cdi/good.yaml: valid, version 0.6.0, vendor.com/thing with 4 devices"), "{found}");
    assert!(found.contains("refused by launches: unknown: the hook /opt/vendor/bin/setup thing"), "{found}");
    assert!(found.contains("cdi/wrong.yaml: not valid: unknown field `typ`") && found.contains("line 6"), "{found}");
    let mut good = bench.user.coracle(bench.dir.path(), ["cdi", "validate", "cdi/good.yaml"]);
    run(&mut good).success();
    let mut absent = bench.user.coracle(bench.dir.path(), ["cdi", "validate", "absent.yaml"]);
    assert!(run(&mut absent).exited(1).stdout.contains("absent.yaml: not valid: No such file"));
}
