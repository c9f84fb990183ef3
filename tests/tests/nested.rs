//! Coracle within containers, other namespaces and poor surroundings: what runs, and what is said where nothing can.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests fail by panicking")]

use coracle_tests::fixtures::corner_squashfs;
use coracle_tests::needs;
use coracle_tests::needs::find_tool;
use coracle_tests::process::{Finished, User, coracle_binary, run};
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

/// What a dynamic build needs of the host, by path; nothing for a static one.
fn libraries(program: &Path) -> Vec<PathBuf> {
    let listed = run(Command::new("ldd").arg(program));
    let words = listed.stdout.split_whitespace().filter(|word| word.starts_with('/'));
    words.map(PathBuf::from).collect()
}

/// An unprivileged user's directory, the program and an image.
struct Bench {
    user: User,
    dir: tempfile::TempDir,
    program: PathBuf,
    image: PathBuf,
}

impl Bench {
    fn new() -> Self {
        let user = User::unprivileged();
        let dir = user.temp_dir();
        Self { user, dir, program: coracle_binary().unwrap(), image: corner_squashfs() }
    }

    /// A command of the host as the user, which finds the host's programs.
    fn host(&self, words: &[&str]) -> Command {
        let mut command = self.user.command(find_tool(words[0]).unwrap());
        command.args(&words[1..]).current_dir(self.dir.path()).env("PATH", "/usr/bin:/bin:/usr/sbin:/sbin");
        command
    }

    /// The program under `outer`, a command of the host.
    fn under(&self, outer: &[&str], words: &[&str]) -> Finished {
        let mut command = self.host(outer);
        run(command.arg(&self.program).args(words))
    }

    /// Options with which an image shows the program, and what that needs.
    fn shown(&self) -> Vec<String> {
        let mut options = vec!["-B".to_owned(), format!("{}:/opt/coracle", self.program.display())];
        for library in libraries(&self.program) {
            options.extend(["-B".to_owned(), library.display().to_string()]);
        }
        options
    }

    fn image(&self) -> &str {
        self.image.to_str().unwrap()
    }

    /// The program within a container of the program.
    fn inner(&self, options: &[&str], words: &[&str]) -> Finished {
        let mut command = self.user.coracle(self.dir.path(), ["exec"]);
        command.args(options).args(self.shown()).arg(&self.image).arg("/opt/coracle").args(words);
        run(&mut command)
    }
}

/// The lines of a report, as JSON.
fn checks(report: &Finished) -> Value {
    serde_json::from_str(&report.stdout).unwrap_or_else(|error| panic!("{error}: {report:?}"))
}

fn check<'a>(report: &'a Value, name: &str) -> &'a Value {
    let all = report["checks"].as_array().unwrap();
    all.iter().find(|check| check["name"] == name).unwrap_or_else(|| panic!("{name} is missing: {report:#}"))
}

fn found(report: &Value, name: &str) -> String {
    check(report, name)["found"].as_str().unwrap().to_owned()
}

#[test]
fn userns_coracle_in_coracle() {
    needs!(Coracle, Fuse, Tool("ldd"));
    let bench = Bench::new();
    let image = bench.image();
    let ran = bench.inner(&[], &["exec", image, "/bin/sh", "-c", "id -u; echo afloat"]).success();
    assert_eq!(ran.stdout, format!("{}\nafloat\n", bench.user.uid));
    assert_eq!(bench.inner(&[], &["exec", image, "/bin/sh", "-c", "exit 42"]).code(), Some(42));
    // Three deep.
    let binds = libraries(&bench.program);
    let binds: Vec<String> = binds.iter().map(|path| format!("--bind={}", path.display())).collect();
    let mut words = vec!["exec", "--bind=/opt/coracle"];
    words.extend(binds.iter().map(String::as_str));
    words.extend([image, "/opt/coracle", "exec", image, "echo", "three"]);
    assert_eq!(bench.inner(&[], &words).success().stdout, "three\n");
    let report = checks(&bench.inner(&[], &["doctor", "--json"]).success());
    assert!(found(&report, "container").contains("inside Coracle"), "{report:#}");
    assert_eq!(check(&report, "sessions")["verdict"], "degraded");
}

#[test]
fn userns_coracle_in_a_contained_one_wants_the_device() {
    needs!(Coracle, Fuse, Tool("ldd"));
    let bench = Bench::new();
    let image = format!("--bind={}:/i.sqfs", bench.image());
    let without = bench.inner(&["-c", &image], &["exec", "/i.sqfs", "true"]).exited(125);
    assert!(without.stderr.contains("cannot open /dev/fuse: No such file"), "{}", without.stderr);
    assert!(without.stderr.contains("run the outer one with --device /dev/fuse"), "{}", without.stderr);
    let with = ["-c", "--device", "/dev/fuse", &image];
    for inner in [&["exec", "/i.sqfs", "echo", "in"][..], &["exec", "-c", "/i.sqfs", "echo", "in"]] {
        assert_eq!(bench.inner(&with, inner).success().stdout, "in\n");
    }
}

#[test]
fn userns_sessions_in_a_container_have_a_place_by_choice() {
    needs!(Coracle, Fuse, Tool("ldd"));
    let bench = Bench::new();
    let sessions = bench.dir.path().join("sessions");
    fs::create_dir(&sessions).unwrap();
    chown(&sessions, Some(bench.user.uid), Some(bench.user.gid)).unwrap();
    fs::set_permissions(&sessions, PermissionsExt::from_mode(0o700)).unwrap();
    let inner = "/opt/coracle exec $0 /bin/true && /opt/coracle session list --json";
    let mut command = bench.user.coracle(bench.dir.path(), ["exec"]);
    command.env("CORACLE_SESSION_DIR", &sessions).env("CORACLE_SESSION_IDLE", "30");
    command.args(bench.shown()).arg(&bench.image).args(["sh", "-c", inner, bench.image()]);
    let listed = run(&mut command).success();
    let sessions: Value = serde_json::from_str(&listed.stdout).unwrap();
    assert_eq!(sessions.as_array().unwrap().len(), 2, "the outer one's and the inner one's: {sessions:#}");
    let mut stop = bench.user.coracle(bench.dir.path(), ["session", "stop", "--all"]);
    run(stop.env("CORACLE_SESSION_DIR", bench.dir.path().join("sessions"))).success();
}

#[test]
fn userns_under_other_user_namespaces() {
    needs!(Coracle, Fuse, Tool("unshare"));
    let bench = Bench::new();
    let script = ["exec", bench.image(), "/bin/sh", "-c", "id -u"];
    let own = format!("{}\n", bench.user.uid);
    for (outer, uid) in [
        (&["unshare", "-Ur"][..], "0\n"),
        (&["unshare", "-Urm"], "0\n"),
        (&["unshare", "-Urmpf", "--mount-proc"], "0\n"),
        (&["unshare", "-Urn"], "0\n"),
        (&["unshare", "-U", "--map-current-user"], own.as_str()),
    ] {
        assert_eq!(bench.under(outer, &script).success().stdout, uid, "{outer:?}");
    }
    let unmapped = bench.under(&["unshare", "-U"], &script).exited(125);
    assert!(unmapped.stderr.contains("its user id is not mapped"), "{}", unmapped.stderr);
    let report = checks(&bench.under(&["unshare", "-U"], &["doctor", "--json"]).exited(1));
    assert_eq!(check(&report, "user namespaces")["verdict"], "broken");
    assert!(found(&report, "FUSE mount").contains("not tried"), "{report:#}");
}

#[test]
fn root_in_a_chroot_it_says_so() {
    needs!(Coracle, Fuse, Root, Tool("ldd"), Tool("chroot"), Tool("unshare"));
    let bench = Bench::new();
    let root = Outer::root_with(&bench, &["tmp"]);
    let user = format!("--userspec={}:{}", bench.user.uid, bench.user.gid);
    let (directory, program) = (root.path().to_str().unwrap(), "/usr/bin/coracle");
    // In a mount namespace of its own, with which /proc goes.
    let script = format!("mount -t proc proc {directory}/proc && exec chroot {user} {directory} {program} \"$@\"");
    let chroot = |words: &[&str]| run(Command::new("unshare").args(["-m", "sh", "-c", &script, "sh"]).args(words));
    let refused = chroot(&["exec", "/i.sqfs", "true"]).exited(125);
    assert!(refused.stderr.contains("this is a chroot"), "{}", refused.stderr);
    let report = checks(&chroot(&["doctor", "--json"]).exited(1));
    assert_eq!(check(&report, "chroot")["verdict"], "broken");
    // Without /proc it cannot be told for certain.
    let blind = run(Command::new("chroot").args([&user, directory, program, "exec", "/i.sqfs", "true"])).exited(125);
    assert!(blind.stderr.contains("or this is a chroot"), "{}", blind.stderr);
}

/// A container made by an OCI runtime, as Docker, Podman and Slurm's `--container` make them.
struct Outer<'a> {
    bench: &'a Bench,
    root: tempfile::TempDir,
    config: Value,
}

impl<'a> Outer<'a> {
    /// A root file system with a shell, the program and the image.
    fn root_with(bench: &Bench, folders: &[&str]) -> tempfile::TempDir {
        let root = coracle_tests::fixtures::temp_dir();
        let at = |path: &str| root.path().join(path.trim_start_matches('/'));
        for folder in ["bin", "dev", "etc", "home", "proc", "sys", "usr/bin"].iter().chain(folders) {
            fs::create_dir_all(at(folder)).unwrap();
        }
        for folder in folders {
            fs::set_permissions(at(folder), PermissionsExt::from_mode(0o1777)).unwrap();
        }
        fs::copy(find_tool("busybox").unwrap(), at("bin/busybox")).unwrap();
        symlink("busybox", at("bin/sh")).unwrap();
        let mut files = libraries(&bench.program);
        files.push(PathBuf::from("/usr/bin/coracle"));
        for file in files {
            let source = if file.ends_with("coracle") { bench.program.as_path() } else { file.as_path() };
            let destination = at(file.to_str().unwrap());
            fs::create_dir_all(destination.parent().unwrap()).unwrap();
            fs::copy(source, destination).unwrap();
        }
        fs::copy(&bench.image, at("i.sqfs")).unwrap();
        fs::create_dir_all(at("box/bin")).unwrap();
        fs::copy(at("bin/busybox"), at("box/bin/busybox")).unwrap();
        root
    }

    /// What `runc spec --rootless` has, in short: the caller is root in it, with few capabilities and parts of `/proc` covered.
    fn new(bench: &'a Bench, folders: &[&str]) -> Self {
        let root = Self::root_with(bench, folders);
        let capabilities = ["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE", "CAP_SETFCAP"];
        let mount = |destination: &str, kind: &str, options: &[&str]| json!({"destination": destination, "type": kind, "source": kind, "options": options});
        let map = |id: u32| json!([{"containerID": 0, "hostID": id, "size": 1}]);
        let namespaces: Vec<Value> =
            ["pid", "ipc", "uts", "mount", "user"].iter().map(|kind| json!({"type": kind})).collect();
        let config = json!({
            "ociVersion": "1.0.2",
            "root": {"path": root.path(), "readonly": true},
            "process": {
                "user": {"uid": 0, "gid": 0},
                "env": ["PATH=/bin:/usr/bin", "HOME=/home"],
                "cwd": "/",
                "capabilities": {"bounding": capabilities, "effective": capabilities, "permitted": capabilities},
                "noNewPrivileges": true,
            },
            "mounts": [
                mount("/proc", "proc", &[]),
                mount("/dev", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
                json!({"destination": "/sys", "type": "none", "source": "/sys", "options": ["rbind", "nosuid", "noexec", "nodev", "ro"]}),
                json!({"destination": "/dev/fuse", "type": "none", "source": "/dev/fuse", "options": ["bind"]}),
            ],
            "linux": {
                "uidMappings": map(bench.user.uid),
                "gidMappings": map(bench.user.gid),
                "namespaces": namespaces,
                "maskedPaths": ["/proc/kcore", "/proc/keys", "/proc/timer_list"],
                "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
            },
        });
        Self { bench, root, config }
    }

    fn run(&self, words: &[&str]) -> Finished {
        let mut config = self.config.clone();
        let words: Vec<&str> = std::iter::once("/usr/bin/coracle").chain(words.iter().copied()).collect();
        config["process"]["args"] = json!(words);
        let bundle = self.bench.user.temp_dir();
        fs::write(bundle.path().join("config.json"), config.to_string()).unwrap();
        let state = bundle.path().join("state");
        let mut command = self.bench.host(&["runc"]);
        command.arg("--root").arg(&state).args(["--rootless=true", "run", "-b"]).arg(bundle.path());
        let name = format!("coracle-{}", self.root.path().file_name().unwrap().to_str().unwrap());
        run(command.arg(name).env("XDG_RUNTIME_DIR", bundle.path()))
    }
}

#[test]
fn userns_in_a_container_of_an_oci_runtime() {
    needs!(Coracle, Fuse, Tool("runc"), Tool("ldd"));
    let bench = Bench::new();
    let outer = Outer::new(&bench, &["tmp"]);
    let ran = outer.run(&["exec", "/i.sqfs", "/bin/sh", "-c", "echo afloat; head -c 5 /proc/self/stat"]).success();
    assert!(ran.stdout.starts_with("afloat\n"), "{ran:?}");
    let report = checks(&outer.run(&["doctor", "--json"]).success());
    assert_eq!(check(&report, "fresh /proc")["verdict"], "degraded", "parts of /proc are covered: {report:#}");
    assert!(check(&report, "fresh /proc")["remedy"].as_str().unwrap().contains("unmask=ALL"), "{report:#}");
    // What covers parts of /proc is what keeps a fresh one away.
    let mut open = Outer::new(&bench, &["tmp"]);
    open.config["linux"]["maskedPaths"] = json!([]);
    open.config["linux"]["readonlyPaths"] = json!([]);
    let report = checks(&open.run(&["doctor", "--json"]).success());
    assert_eq!(check(&report, "fresh /proc")["verdict"], "ok", "{report:#}");
}

#[test]
fn userns_what_a_container_lacks_is_said() {
    needs!(Coracle, Fuse, Tool("runc"), Tool("ldd"));
    let bench = Bench::new();
    let words = ["exec", "/i.sqfs", "true"];
    let mut outer = Outer::new(&bench, &["tmp"]);
    outer.config["mounts"].as_array_mut().unwrap().pop();
    let text = outer.run(&words).exited(125).stderr;
    assert!(text.contains("/dev/fuse: No such file") && text.contains("outer one with --device /dev/fuse"), "{text}");
    let report = checks(&outer.run(&["doctor", "--json"]).exited(1));
    assert_eq!(check(&report, "/dev/fuse")["verdict"], "broken");
    // The container's own root as an image: that is a directory.
    assert_eq!(outer.run(&["exec", "/box", "/bin/busybox", "echo", "in"]).success().stdout, "in\n");

    let mut outer = Outer::new(&bench, &["tmp"]);
    // As Docker's profile without CAP_SYS_ADMIN.
    outer.config["linux"]["seccomp"] = json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [
            {"names": ["unshare", "mount", "umount2", "pivot_root", "setns"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1},
            {"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38},
        ],
    });
    let text = outer.run(&words).exited(125).stderr;
    assert!(text.contains("a seccomp filter is in force") && text.contains("seccomp=unconfined"), "{text}");

    let mut outer = Outer::new(&bench, &["tmp"]);
    for set in ["bounding", "effective", "permitted"] {
        outer.config["process"]["capabilities"][set] = json!([]);
    }
    let text = outer.run(&words).exited(125).stderr;
    assert!(text.contains("CAP_SETFCAP") && text.contains("another user id"), "{text}");
}

#[test]
fn userns_without_tmp_or_with_one_that_cannot_be_written() {
    needs!(Coracle, Fuse, Tool("runc"), Tool("ldd"));
    let bench = Bench::new();
    let without = Outer::new(&bench, &[]);
    assert_eq!(without.run(&["exec", "/i.sqfs", "echo", "in"]).success().stdout, "in\n");
    let report = checks(&without.run(&["doctor", "--json"]).success());
    assert!(found(&report, "/tmp").contains("No such file"), "{report:#}");
    // The root is read-only, and /tmp with it.
    let read_only = Outer::new(&bench, &["tmp"]);
    assert_eq!(read_only.run(&["exec", "/i.sqfs", "echo", "in"]).success().stdout, "in\n");
    let report = checks(&read_only.run(&["doctor", "--json"]).success());
    assert!(found(&report, "/tmp").contains("read-only"), "{report:#}");
}

#[test]
fn root_a_tmp_that_cannot_be_written_costs_the_session_alone() {
    needs!(Coracle, Fuse, Root, Tool("unshare"), Tool("setpriv"));
    let bench = Bench::new();
    let (uid, gid) = (bench.user.uid, bench.user.gid);
    let script = format!(
        "mount --bind /tmp /tmp && mount -o remount,bind,ro /tmp && exec setpriv --reuid {uid} --regid {gid} --clear-groups \"$@\""
    );
    let scope = bench.dir.path().display().to_string();
    let mut command = Command::new("unshare");
    command.args(["-m", "sh", "-c", &script, "sh"]).arg(&bench.program);
    command.args(["exec", bench.image(), "echo", "in"]).env("CORACLE_SESSION_SCOPE", scope).env("HOME", "/nonexistent");
    let ran = run(&mut command).success();
    assert_eq!(ran.stdout, "in\n");
    let told = ran.stderr.contains("cannot use a session") && ran.stderr.contains("CORACLE_SESSION_DIR");
    // Where there is a /run/user of the user, a session needs no /tmp.
    assert!(told || Path::new(&format!("/run/user/{uid}")).exists(), "{}", ran.stderr);
}

#[test]
fn userns_without_home_or_environment() {
    needs!(Coracle, Fuse);
    let bench = Bench::new();
    let exec = |home: Option<&str>| {
        let mut command = bench.user.coracle(bench.dir.path(), ["exec", bench.image(), "sh", "-c", "echo home=$HOME"]);
        command.env_clear();
        run(command.envs(home.map(|home| ("HOME", home)))).success().stdout
    };
    let own = format!("home={}\n", bench.user.home.display());
    assert_eq!(exec(None), own);
    assert_eq!(exec(Some("/nonexistent")), own);
    assert_eq!(exec(Some("relative")), own);
    // What names an image by its place needs none; a name of the store does.
    let mut command = bench.user.coracle(bench.dir.path(), ["exec", "name", "true"]);
    let text = run(command.env_clear()).exited(125).stderr;
    assert!(text.contains("HOME is not set: set CORACLE_STORE"), "{text}");
}

#[test]
fn root_with_user_id_0_nothing_is_privileged() {
    needs!(Coracle, Fuse, Root);
    let bench = Bench::new();
    let script = "id -u; grep CapEff /proc/self/status; touch /etc/motd || echo read-only";
    let mut command = Command::new(&bench.program);
    command.args(["exec", bench.image(), "sh", "-c", script]).env("CORACLE_SESSION_SCOPE", bench.dir.path());
    let ran = run(&mut command).success();
    assert_eq!(ran.stdout, "0\nCapEff:\t0000000000000000\nread-only\n", "{ran:?}");
}

#[test]
fn userns_doctor_is_not_held_up_by_a_home_that_does_not_answer() {
    needs!(Coracle, Fuse, Tool("unshare"), Tool("python3"));
    let bench = Bench::new();
    // A FUSE mount that nobody serves is as a file server that is down.
    let script = "import ctypes, os, sys\n\
                  libc = ctypes.CDLL(None, use_errno=True)\n\
                  os.mkdir('home')\n\
                  fd = os.open('/dev/fuse', os.O_RDWR)\n\
                  data = f'fd={fd},rootmode=40000,user_id=0,group_id=0'.encode()\n\
                  assert libc.mount(b'dead', b'home', b'fuse', 0, data) == 0, ctypes.get_errno()\n\
                  os.set_inheritable(fd, True)\n\
                  os.environ['HOME'] = os.path.abspath('home')\n\
                  os.execv(sys.argv[1], sys.argv[1:])";
    let outer = ["unshare", "-Urm", "python3", "-c", script];
    let ran = bench.under(&outer, &["doctor", "--json"]).success();
    let report = checks(&ran);
    assert!(found(&report, "home").contains("no answer within"), "{report:#}");
    assert_eq!(check(&report, "home")["verdict"], "degraded");
    assert_eq!(check(&report, "FUSE mount")["verdict"], "ok");
}
