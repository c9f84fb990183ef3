//! What is written to, and what is put over or into an image: layers, directories as images, binds of images, `--workdir`.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests fail by panicking")]

use coracle_tests::fixtures::{corner_squashfs, temp_dir};
use coracle_tests::needs;
use coracle_tests::process::{Finished, User, run, wait_within};
use rustix::fs::{FlockOperation, flock};
use std::fs::{self, File};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// What makes overlays.
const WAYS: [&str; 2] = ["kernel", "fuse"];
/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(60);
/// Changes of every kind, each looked at afterwards. The image is the one with the corner cases.
const CHANGES: &str = r#"set -e
rm -r /corner/deep; [ ! -e /corner/deep ]
mkdir /corner/deep; [ -z "$(ls -A /corner/deep)" ]; echo new >/corner/deep/new
mv /corner/many /many; [ ! -e /corner/many ]; [ -n "$(ls /many)" ]
mkdir /made; mv /made /renamed; rmdir /renamed; [ ! -e /renamed ]
echo one >/etc/one; ln /etc/one /etc/two; echo two >>/etc/two; [ "$(wc -l </etc/one)" = 2 ]
chmod 700 /etc/motd; [ "$(stat -c %a /etc/motd)" = 700 ]; grep -q Afloat /etc/motd
chmod 700 /corner/xattrs/capability; [ "$(stat -c %a /corner/xattrs/capability)" = 700 ]
ln -s /etc/motd /etc/link; grep -q Afloat /etc/link
mv /etc/motd /etc/renamed; [ ! -e /etc/motd ]; grep -q Afloat /etc/renamed
echo "x:x:9:9::/:" >>/etc/passwd; grep -q ^x: /etc/passwd
touch -d @1000000000 /bin; [ "$(stat -c %Y /bin)" = 1000000000 ]
echo changed"#;

struct Bench {
    user: User,
    dir: tempfile::TempDir,
    image: PathBuf,
}

impl Bench {
    fn new() -> Self {
        let user = User::unprivileged();
        let dir = user.temp_dir();
        Self { user, dir, image: corner_squashfs() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A directory of the user's.
    fn own(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        run(self.user.command("/bin/mkdir").arg(&path)).success();
        path
    }

    fn command(&self, options: &[&str], image: &Path, words: &[&str]) -> Command {
        let mut command = self.user.coracle(self.dir.path(), ["exec"]);
        // By which its servers are found.
        let mark = format!("--env=MARK={}", self.dir.path().display());
        command.arg(mark).args(options).arg(image).args(words);
        // A session of each test's own, which does not outlive it for long.
        command.env("CORACLE_SESSION_SCOPE", self.dir.path()).env("CORACLE_SESSION_IDLE", "1");
        command
    }

    fn shell(&self, options: &[&str], script: &str) -> Finished {
        run(&mut self.command(options, &self.image, &["/bin/sh", "-c", script]))
    }

    fn refusal(&self, options: &[&str]) -> String {
        self.shell(options, "true").exited(125).stderr
    }

    fn sandbox(&self) -> PathBuf {
        let sandbox = self.path("sandbox");
        let mut build = self.user.coracle(self.dir.path(), ["build", "--quiet", "--sandbox"]);
        run(build.arg(&sandbox).arg(&self.image)).success();
        sandbox
    }

    /// Servers that this test's launches have started.
    fn servers(&self) -> usize {
        let here = self.dir.path().to_str().unwrap();
        let is_ours = |entry: fs::DirEntry| {
            let name = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
            let words = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            name == "coracle-server\n" && String::from_utf8_lossy(&words).contains(here)
        };
        fs::read_dir("/proc").unwrap().flatten().map(is_ours).filter(|ours| *ours).count()
    }
}

fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < PATIENCE, "waited too long for {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A running program that has said a line.
fn running(mut command: Command) -> std::process::Child {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut byte = [0];
    std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut byte).unwrap();
    child
}

fn squashfs(tree: &Path, image: &Path) {
    let mut command = Command::new("mksquashfs");
    run(command.args([tree, image]).args(["-noappend", "-quiet", "-no-progress"])).success();
    fs::set_permissions(image, fs::Permissions::from_mode(0o644)).unwrap();
}

#[test]
fn userns_memory_takes_every_change_and_forgets_it() {
    needs!(Coracle, Fuse, Tool("fuse-overlayfs"));
    let bench = Bench::new();
    for way in WAYS {
        for options in [["--writable-tmpfs", "--no-session"].as_slice(), &["--writable-tmpfs"], &["--writable-tmpfs"]] {
            let mut command = bench.command(options, &bench.image, &["/bin/sh", "-c", CHANGES]);
            let done = run(command.env("CORACLE_OVERLAYFS", way)).success();
            assert_eq!((done.stdout.as_str(), done.stderr.as_str()), ("changed\n", ""), "{way} {options:?}");
        }
    }
    let seen = bench.shell(&["--writable-tmpfs"], "grep -c Afloat /etc/motd; ls /many; touch /tmp/x || echo no").stdout;
    assert_eq!(seen, "1\n");
    let plain = bench.shell(&[], "touch /x").exited(1);
    assert!(plain.stderr.contains("Read-only"), "{}", plain.stderr);
}

#[test]
fn userns_memory_has_an_end() {
    needs!(Coracle, Fuse, Tool("fuse-overlayfs"));
    let bench = Bench::new();
    let script = "dd if=/dev/zero of=/fits bs=64k count=4 2>/dev/null; dd if=/dev/zero of=/big bs=64k count=64; echo $?; rm /big; \
                  dd if=/dev/zero of=/again bs=64k count=4";
    for way in WAYS {
        let mut command = bench.command(&["--writable-tmpfs=1M"], &bench.image, &["/bin/sh", "-c", script]);
        let done = run(command.env("CORACLE_OVERLAYFS", way)).success();
        assert_eq!(done.stdout, "1\n", "{way}: {}", done.stderr);
        assert!(done.stderr.contains("No space left"), "{way}: {}", done.stderr);
    }
}

#[test]
fn userns_binds_and_the_host_are_as_without_layers() {
    needs!(Coracle, Fuse);
    let bench = Bench::new();
    let script = "cut -d' ' -f5 /proc/self/mountinfo | sort; ls -d /tmp /proc/1 /dev/null; pwd; id -un; cat /new/dir/x";
    let data = bench.own("data");
    fs::write(data.join("x"), "bound\n").unwrap();
    let bind = format!("{}:/new/dir", data.display());
    // A recursive bind of all there is shows no helper, either.
    for binds in [["-B", bind.as_str()].as_slice(), &["-B", &bind, "-B", "/:/host"]] {
        let with = |option: &'static str| {
            let seen = bench.shell(&[&[option], binds].concat(), script).success();
            assert_eq!(seen.stderr, "");
            seen.stdout
        };
        let plain = with("--no-session");
        assert!(plain.contains("bound"), "{plain}");
        assert_eq!(with("--writable-tmpfs"), plain);
        assert_eq!(with("--overlay=data:ro"), plain);
    }
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(" coracle ") && !mounts.contains("fuse-overlayfs"), "{mounts}");
}

#[test]
fn userns_a_directory_keeps_what_is_written() {
    needs!(Coracle, Fuse, Tool("fuse-overlayfs"));
    let bench = Bench::new();
    for way in WAYS {
        let kept = bench.own(&format!("kept,with:{way}"));
        let option = format!("--overlay=kept,with\\:{way}");
        let launch = |options: &[&str], script: &str| {
            let mut command = bench.command(options, &bench.image, &["/bin/sh", "-c", script]);
            run(command.env("CORACLE_OVERLAYFS", way))
        };
        let first = launch(&[&option], CHANGES).success();
        assert_eq!((first.stdout.as_str(), first.stderr.as_str()), ("changed\n", ""), "{way}");
        let check = "ls /corner/deep; wc -l </etc/one; [ -e /etc/motd ] || echo gone; touch /x && echo written";
        assert_eq!(launch(&[&option], check).success().stdout, "new\n2\ngone\nwritten\n", "{way}");
        let read_only =
            launch(&[&format!("{option}:ro")], "cat /etc/one; [ -e /etc/motd ] || echo gone; touch /y").exited(1);
        assert_eq!(read_only.stdout, "one\ntwo\ngone\n", "{way}");
        assert!(read_only.stderr.contains("Read-only"), "{way}: {}", read_only.stderr);
        assert!(kept.join("upper/etc/one").exists() && kept.join("work").exists());
        // Over it, in memory: what was kept is seen and stays.
        let both = [format!("{option}:ro"), "--writable-tmpfs".to_owned()];
        launch(&both.each_ref().map(String::as_str), "rm /etc/one; [ ! -e /etc/one ]").success();
        assert!(kept.join("upper/etc/one").exists());
    }
}

#[test]
fn userns_one_container_at_a_time_writes_to_a_directory() {
    needs!(Coracle, Fuse, Tool("fuse-overlayfs"));
    let bench = Bench::new();
    for way in WAYS {
        let kept = bench.own(way);
        let option = format!("--overlay={way}");
        let launch = |script: &str| {
            let mut command = bench.command(&[&option], &bench.image, &["/bin/sh", "-c", script]);
            command.env("CORACLE_OVERLAYFS", way);
            command
        };
        let mut first = running(launch("echo; read x"));
        let second = run(&mut launch("true")).exited(125);
        let expected = format!("cannot write to overlay {}: another container writes to it", kept.display());
        assert!(second.stderr.contains(&expected), "{}", second.stderr);
        drop(first.stdin.take());
        assert!(wait_within(&mut first, PATIENCE).is_some());
        // Right after it; the launch waits for what the kernel has still to do.
        run(&mut launch("touch /x")).success();
        // Nobody has it any more: fuse-overlayfs would.
        let directory = File::open(&kept).unwrap();
        eventually("the lock", || flock(&directory, FlockOperation::NonBlockingLockExclusive).is_ok());
    }
}

#[test]
fn userns_the_overlays_program_is_no_way_out() {
    needs!(Coracle, Fuse, Tool("fuse-overlayfs"));
    let bench = Bench::new();
    let script = "for p in /proc/[0-9]*; do if grep -qs ^fuse-overlayfs $p/comm; then echo found; \
                  ls $p/root/ 2>/dev/null && echo way out; fi; done; ls -l /proc/self/fd | grep -c overlay; \
                  cat /proc/self/task/*/children";
    let mut command = bench.command(&["--writable-tmpfs"], &bench.image, &["/bin/sh", "-c", script]);
    let seen = run(command.env("CORACLE_OVERLAYFS", "fuse")).stdout;
    assert!(seen.contains("found") && !seen.contains("way out"), "{seen}");
}

#[test]
fn userns_the_overlays_program_is_no_way_out_for_powerful_programs() {
    needs!(Coracle, Fuse, Tool("fuse-overlayfs"));
    let bench = Bench::new();
    let outside = bench.own("outside");
    let escape = format!(
        "for p in /proc/[0-9]*; do read c <$p/comm; [ \"$c\" = fuse-overlayfs ] || continue; echo found; \
         echo x >$p/root{0}/escaped; ls $p/root/ $p/fd/ && echo way out; done 2>/dev/null; grep CapBnd /proc/self/status",
        outside.display()
    );
    let powers: [&[&str]; 4] = [
        &["--fakeroot"],
        &["--fakeroot", "--containall"],
        &["--add-caps", "all"],
        &["--add-caps", "dac_override,dac_read_search,fowner,chown"],
    ];
    for power in powers {
        let options = [power, &["--writable-tmpfs"]].concat();
        let mut command = bench.command(&options, &bench.image, &["/bin/sh", "-c", &escape]);
        let done = run(command.env("CORACLE_OVERLAYFS", "fuse")).success();
        assert!(done.stdout.contains("found") && !done.stdout.contains("way out"), "{options:?}: {}", done.stdout);
        assert!(!outside.join("escaped").exists(), "{options:?}");
        let told = done.stderr.contains("going on without CAP_SYS_PTRACE");
        assert_eq!(told, options[1] == "all", "{options:?}: {}", done.stderr);
    }
}

#[test]
fn userns_layers_of_squashfs_files_are_stacked() {
    needs!(Coracle, Fuse, Tool("mksquashfs"), Tool("fuse-overlayfs"));
    let bench = Bench::new();
    bench.own("kept");
    bench
        .shell(
            &["--overlay=kept"],
            "rm /etc/motd; rm -r /corner/deep; mkdir /corner/deep; echo low >/etc/low; echo low >/etc/both",
        )
        .success();
    squashfs(&bench.path("kept/upper"), &bench.path("low.sqfs"));
    squashfs(&bench.path("kept"), &bench.path("whole.sqfs"));
    let high = bench.path("tree");
    fs::create_dir_all(high.join("etc")).unwrap();
    fs::write(high.join("etc/both"), "high\n").unwrap();
    squashfs(&high, &bench.path("high.sqfs"));
    let script =
        "cat /etc/low /etc/both; ls -A /corner/deep; [ -e /etc/motd ] || echo gone; touch /x 2>/dev/null || echo fixed";
    for way in WAYS {
        for (low, rest) in [("low.sqfs", [].as_slice()), ("whole.sqfs:ro", &["--no-session"])] {
            let options = [&["--overlay", low, "--overlay", "high.sqfs:ro"], rest].concat();
            let launch = |options: &[&str]| {
                let mut command = bench.command(options, &bench.image, &["/bin/sh", "-c", script]);
                run(command.env("CORACLE_OVERLAYFS", way)).success().stdout
            };
            assert_eq!(launch(&options), "low\nhigh\ngone\nfixed\n", "{way} {low}");
            assert_eq!(
                launch(&[options.as_slice(), &["--writable-tmpfs"]].concat()),
                "low\nhigh\ngone\n",
                "{way} {low}"
            );
        }
    }
    eventually("the servers to end", || bench.servers() == 0);
}

#[test]
fn userns_mistakes_with_layers_are_explained() {
    needs!(Coracle, Fuse, Tool("mkfs.ext3"));
    let bench = Bench::new();
    let told = |options: &[&str], parts: &[&str]| {
        let said = bench.refusal(options);
        assert!(parts.iter().all(|part| said.contains(part)), "{options:?}: {said}");
    };
    told(&["--overlay=absent"], &["absent: there is no such file or directory", "mkdir"]);
    let used = bench.own("used");
    fs::write(used.join("results"), "").unwrap();
    told(&["--overlay=used"], &["neither empty nor a layer", "\"results\""]);
    assert!(!used.join("upper").exists());
    told(&["--overlay=/usr"], &["belongs to another user", "--overlay /usr:ro"]);
    let ext = bench.path("x.img");
    File::create(&ext).unwrap().set_len(4 << 20).unwrap();
    run(Command::new("mkfs.ext3").args(["-q", "-F"]).arg(&ext)).success();
    told(&["--overlay=x.img"], &["ext2, ext3 or ext4", "--overlay DIR", "debugfs"]);
    bench.own("one");
    bench.own("two");
    told(&["--overlay=one", "--overlay=two"], &["cannot write to both", "/one and", "/two: only one layer", ":ro"]);
    told(&["--overlay=one", "--writable-tmpfs"], &["cannot write to both", "--writable-tmpfs"]);
    told(
        &["--writable"],
        &["cannot write to image", "coracle build --sandbox DIR", "--overlay DIR", "--writable-tmpfs"],
    );
    let mut without = bench.command(&["--writable-tmpfs"], &bench.image, &["true"]);
    let said = run(without.env("CORACLE_OVERLAYFS", "none")).exited(125).stderr;
    assert!(said.contains("install fuse-overlayfs") && said.contains("--sandbox DIR"), "{said}");
    eventually("the servers to end", || bench.servers() == 0);
}

#[test]
fn root_a_file_system_that_takes_no_layer_is_named() {
    needs!(Coracle, Fuse, Root);
    let bench = Bench::new();
    let place = temp_dir();
    let names = ["low", "up", "work", "at"].map(|name| place.path().join(name));
    names.iter().for_each(|path| fs::create_dir(path).unwrap());
    let [low, up, work, at] = names.each_ref().map(|path| path.display());
    let options = format!("lowerdir={low},upperdir={up},workdir={work}");
    run(Command::new("mount").args(["-t", "overlay", "overlay", "-o", &options]).arg(at.to_string())).success();
    let kept = place.path().join("at/kept");
    fs::create_dir(&kept).unwrap();
    std::os::unix::fs::chown(&kept, Some(bench.user.uid), Some(bench.user.gid)).unwrap();
    let said = bench.refusal(&[&format!("--overlay={}", kept.display())]);
    run(Command::new("umount").arg(at.to_string())).success();
    assert!(said.contains("cannot be written to on an overlay file system"), "{said}");
    assert!(said.contains("a disk of this node") && said.contains("--writable-tmpfs"), "{said}");
}

#[test]
fn root_a_file_system_without_attributes_is_written_to_by_the_program() {
    needs!(Coracle, Fuse, Root, Tool("fuse-overlayfs"));
    let bench = Bench::new();
    let place = temp_dir();
    run(Command::new("mount").args(["-t", "ramfs", "ramfs"]).arg(place.path())).success();
    let kept = place.path().join("kept");
    fs::create_dir(&kept).unwrap();
    std::os::unix::fs::chown(&kept, Some(bench.user.uid), Some(bench.user.gid)).unwrap();
    let option = format!("--overlay={}", kept.display());
    let launch = |way: &str, script: &str| {
        let mut command = bench.command(&[&option], &bench.image, &["/bin/sh", "-c", script]);
        run(command.env("CORACLE_OVERLAYFS", way))
    };
    let by_kernel = launch("kernel", "echo x >/etc/x; cat /etc/x");
    let whichever = launch("", "cat /etc/x; rm -r /corner/deep; mkdir /corner/deep; ls -A /corner/deep");
    let again = launch("", "ls -A /corner/deep");
    run(Command::new("umount").arg("-l").arg(place.path())).success();
    let by_kernel = by_kernel.success();
    assert_eq!(by_kernel.stdout, "x\n");
    assert!(by_kernel.stderr.contains("no extended attributes"), "{}", by_kernel.stderr);
    let whichever = whichever.success();
    assert_eq!((whichever.stdout.as_str(), whichever.stderr.as_str()), ("x\n", ""));
    assert_eq!(again.success().stdout, "");
}

#[test]
fn userns_a_directory_is_an_image() {
    needs!(Coracle, Fuse, Tool("fuse-overlayfs"));
    let bench = Bench::new();
    let sandbox = bench.sandbox();
    let listing = |path: &Path| run(Command::new("/usr/bin/find").arg(path).args(["-printf", "%P %m %T@\n"])).stdout;
    let before = listing(&sandbox);
    let data = bench.own("data");
    fs::write(data.join("x"), "bound\n").unwrap();
    let bind = format!("{}:/new/dir,{}/x:/new/file", data.display(), data.display());
    let script = "id -un; cat /new/dir/x /new/file; pwd; touch /x 2>/dev/null || echo fixed; touch /etc/x 2>/dev/null || echo fixed";
    let expected = format!("{}\nbound\nbound\n{}\nfixed\nfixed\n", bench.user.name, bench.dir.path().display());
    for way in WAYS {
        let mut command = bench.command(&["-B", &bind], &sandbox, &["/bin/sh", "-c", script]);
        let done = run(command.env("CORACLE_OVERLAYFS", way)).success();
        assert_eq!((done.stdout, done.stderr.as_str()), (expected.clone(), ""), "{way}");
    }
    let changes = ["/bin/sh", "-c", CHANGES];
    let done = run(&mut bench.command(&["--writable-tmpfs"], &sandbox, &changes)).success();
    assert_eq!((done.stdout.as_str(), done.stderr.as_str()), ("changed\n", ""));
    let kept = bench.own("kept");
    run(&mut bench.command(&["--overlay=kept"], &sandbox, &changes)).success();
    assert!(kept.join("upper/etc/one").exists());
    // What the container needs is not what the caller wrote.
    assert!(!kept.join("upper/proc").exists() && !kept.join("upper/etc/group").exists());
    assert_eq!(listing(&sandbox), before, "the directory is as it was");
    let run_it =
        run(bench.user.coracle(bench.dir.path(), ["run", "sandbox"]).env("CORACLE_SESSION_SCOPE", "x")).success();
    assert_eq!(run_it.stdout, "Afloat in a coracle.\n", "as its configuration says");
    assert_eq!(bench.servers(), 0, "nobody has to answer for a directory");
}

#[test]
fn userns_a_directory_without_overlays_has_what_it_has() {
    needs!(Coracle, Fuse);
    let bench = Bench::new();
    let sandbox = bench.sandbox();
    let launch = |options: &[&str]| {
        let mut command = bench.command(options, &sandbox, &["/bin/sh", "-c", "id -un; touch /etc/passwd /x"]);
        run(command.env("CORACLE_OVERLAYFS", "none"))
    };
    let done = launch(&["--pwd", "/"]).exited(1);
    assert_eq!(done.stdout, format!("{}\n", bench.user.name));
    assert!(done.stderr.contains("only what the image has is mounted on"), "{}", done.stderr);
    assert_eq!(done.stderr.matches("Read-only").count(), 2, "{}", done.stderr);
    let missing = launch(&["-B", "/etc/passwd:/not/there"]).exited(125);
    assert!(missing.stderr.contains("cannot mount on /not/there"), "{}", missing.stderr);
}

#[test]
fn userns_a_directory_is_written_to_when_asked() {
    needs!(Coracle, Fuse);
    let bench = Bench::new();
    let sandbox = bench.sandbox();
    let passwd = fs::read(sandbox.join("etc/passwd")).ok();
    let bind = format!("{}:/new/dir", bench.own("data").display());
    let script = "set -e; echo kept >/etc/kept; rm /etc/motd; touch /new/dir/x; cat /proc/self/comm";
    let done = run(&mut bench.command(&["--writable", "-B", &bind], &sandbox, &["/bin/sh", "-c", script])).success();
    assert_eq!((done.stdout.as_str(), done.stderr.as_str()), ("cat\n", ""));
    assert_eq!(fs::read_to_string(sandbox.join("etc/kept")).unwrap(), "kept\n");
    assert!(!sandbox.join("etc/motd").exists() && sandbox.join("new/dir").is_dir());
    assert_eq!(fs::read(sandbox.join("etc/passwd")).ok(), passwd, "left as it is");
    assert!(bench.path("data/x").exists() && !sandbox.join("new/dir/x").exists());
}

#[test]
fn userns_links_of_a_directory_do_not_lead_out_of_it() {
    needs!(Coracle, Fuse);
    let bench = Bench::new();
    let sandbox = bench.sandbox();
    let outside = bench.own("outside");
    fs::write(outside.join("passwd"), "secret:x:0:0::/:/bin/sh\n").unwrap();
    fs::remove_dir_all(sandbox.join("etc")).unwrap();
    symlink(&outside, sandbox.join("etc")).unwrap();
    symlink(format!("../..{}", outside.display()), sandbox.join("new")).unwrap();
    let bound = bench.path("bound");
    fs::write(&bound, "bound\n").unwrap();
    let bind = format!("{}:/new/file", bound.display());
    // Nothing of the host is shown where the links lead.
    let all = ["-B", &bind, "--no-home", "--no-mount=tmp,cwd,bind-paths", "--pwd=/"];
    for (option, status) in [("--no-session", 0), ("--writable-tmpfs", 0), ("--writable", 125)] {
        let options = [all.as_slice(), &[option]].concat();
        let script = "cat /etc/passwd /new/file; echo x >/etc/y";
        let done = run(&mut bench.command(&options, &sandbox, &["/bin/sh", "-c", script]));
        assert_eq!(done.code() == Some(125), status == 125, "{option}: {}", done.stderr);
        assert!(!done.stdout.contains("secret"), "{option}: {}", done.stdout);
        assert_eq!(done.stdout.contains(&bench.user.name) && done.stdout.contains("bound"), status == 0, "{option}");
        let names: Vec<_> = fs::read_dir(&outside).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["passwd"], "{option}: {}", done.stderr);
    }
}

#[test]
fn userns_a_directory_that_is_no_image_keeps_its_error() {
    needs!(Coracle, Fuse);
    let bench = Bench::new();
    let layout = bench.own("layout");
    fs::write(layout.join("oci-layout"), "{}").unwrap();
    let said = run(&mut bench.command(&[], &layout, &["true"])).exited(125).stderr;
    assert!(said.contains("is an OCI layout") && said.contains("oci:"), "{said}");
    let empty = bench.own("empty");
    let said = run(&mut bench.command(&[], &empty, &["true"])).exited(125).stderr;
    assert!(said.contains("is a directory, but no image"), "{said}");
    let inspected = run(&mut bench.user.coracle(bench.dir.path(), ["inspect", "empty"])).success().stdout;
    assert!(inspected.contains("a directory") && inspected.contains("none"), "{inspected}");
}

#[test]
fn userns_what_images_hold_can_be_bound() {
    needs!(Coracle, Fuse, Tool("mksquashfs"));
    let bench = Bench::new();
    let tree = bench.path("tree");
    fs::create_dir_all(tree.join("deep/sub")).unwrap();
    fs::write(tree.join("top"), "top\n").unwrap();
    fs::write(tree.join("deep/sub/file"), "file\n").unwrap();
    symlink("deep/sub", tree.join("short")).unwrap();
    let data = bench.path("data.sqfs");
    squashfs(&tree, &data);
    let sandbox = bench.sandbox();
    let script = "cat /all/top /sub/file /one /linked/file /all/top; touch /all/x || touch /one || echo fixed; \
                  grep -c ' ro,nosuid,nodev.* - fuse coracle' /proc/self/mountinfo";
    let binds = "-B=data.sqfs:/all:image-src=/,data.sqfs:/sub:image-src=/deep/sub,data.sqfs:/one:image-src=/top,\
                 data.sqfs:/linked:image-src=/short";
    for options in [[binds].as_slice(), &[binds, "--no-session"], &[binds, "--writable-tmpfs"], &[binds], &[binds]] {
        let done = bench.shell(options, script).success();
        let mounts = if options.contains(&"--writable-tmpfs") { 4 } else { 5 };
        assert_eq!(done.stdout, format!("top\nfile\ntop\nfile\ntop\nfixed\n{mounts}\n"), "{options:?}");
    }
    let done = run(&mut bench.command(&[binds], &sandbox, &["/bin/sh", "-c", script])).success();
    assert!(done.stdout.starts_with("top\nfile\ntop\nfile\ntop\nfixed\n"), "{}", done.stdout);
    // One server for all launches that want the same.
    let mut first = running(bench.command(&[binds], &bench.image, &["/bin/sh", "-c", "echo; read x"]));
    let mut second = running(bench.command(&[binds], &bench.image, &["/bin/sh", "-c", "echo; read x"]));
    eventually("other servers to end", || bench.servers() == 2);
    for child in [&mut first, &mut second] {
        drop(child.stdin.take());
        assert!(wait_within(child, PATIENCE).is_some());
    }
    eventually("the servers to end", || bench.servers() == 0);
    // Another file under the same name is another image, whatever is kept.
    fs::write(tree.join("top"), "new\n").unwrap();
    bench.shell(&[binds], "cat /all/top").success();
    fs::remove_file(&data).unwrap();
    squashfs(&tree, &data);
    assert_eq!(bench.shell(&[binds], "cat /all/top").success().stdout, "new\n");
}

#[test]
fn userns_mistakes_with_bound_images_are_explained() {
    needs!(Coracle, Fuse);
    let bench = Bench::new();
    let image = bench.image.display();
    let said = bench.refusal(&["-B", &format!("{image}:/data:image-src=/nope")]);
    assert!(said.contains("cannot bind /nope of image") && said.contains("the image has no such"), "{said}");
    let said = bench.refusal(&["-B", &format!("{image}:/data:image-src=/,rw")]);
    assert!(said.contains("an image can only be read"), "{said}");
    let said = bench.refusal(&["-B", "/etc/passwd:/data:image-src=/"]);
    assert!(said.contains("/etc/passwd is not an image"), "{said}");
    let said = bench.refusal(&["-B", "absent.sqfs:/data:image-src=/"]);
    assert!(said.contains("absent.sqfs: there is no such file"), "{said}");
    let said = bench.refusal(&["-B", &format!("{image}:/etc/motd:image-src=/etc")]);
    assert!(said.contains("/etc/motd"), "{said}");
    eventually("the servers to end", || bench.servers() == 0);
}

#[test]
fn userns_ranks_that_start_at_once_see_the_same_data() {
    needs!(Coracle, Fuse);
    let bench = Bench::new();
    let bind = format!("{}:/data:image-src=/etc", bench.image.display());
    let ranks: Vec<_> = (0..12)
        .map(|_| {
            let mut command = bench.command(&["-B", &bind], &bench.image, &["cat", "/data/motd"]);
            command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
        })
        .collect();
    for rank in ranks {
        let output = rank.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!((String::from_utf8_lossy(&output.stdout).trim(), said.as_str()), ("Afloat in a coracle.", ""));
    }
    eventually("the servers to end", || bench.servers() == 0);
}

#[test]
fn userns_private_directories_can_be_on_the_host() {
    needs!(Coracle, Fuse);
    let bench = Bench::new();
    let work = bench.own("work");
    let options = ["--contain", "--workdir", "work", "--scratch", "/scratch/deep"];
    let script = "touch /tmp/a /var/tmp/b ~/c /scratch/deep/d; stat -c %a /tmp /var/tmp ~ /scratch/deep";
    for _ in 0..2 {
        let done = bench.shell(&options, script).success();
        assert_eq!((done.stdout.as_str(), done.stderr.as_str()), ("1777\n1777\n700\n755\n", ""));
    }
    for name in ["tmp/a", "var_tmp/b", "home/c", "scratch/scratch/deep/d"] {
        assert!(work.join(name).exists(), "{name}");
    }
    let said = bench.refusal(&["--contain", "--workdir", "absent"]);
    assert!(
        said.contains("absent for --workdir: it is not a directory of this host") && said.contains("mkdir"),
        "{said}"
    );
    let unused = bench.shell(&["--workdir", "work"], "true").success();
    assert!(unused.stderr.contains("--workdir has no effect without --contain or --scratch"), "{}", unused.stderr);
    // What would happen can be read without anything happening.
    bench.own("other");
    let mut spec = bench.user.coracle(bench.dir.path(), ["spec", "--steps", "--contain", "--workdir", "other"]);
    let steps = run(spec.arg(&bench.image)).success().stdout;
    assert!(steps.contains("other/tmp"), "{steps}");
    assert_eq!(fs::read_dir(bench.path("other")).unwrap().count(), 0);
}

#[test]
fn userns_private_directories_follow_no_links() {
    needs!(Coracle, Fuse);
    let bench = Bench::new();
    let (work, target) = (bench.own("work"), bench.own("target"));
    let before = fs::metadata(&target).unwrap().permissions().mode();
    symlink(&target, work.join("tmp")).unwrap();
    let said = bench.refusal(&["--contain", "--workdir", "work"]);
    assert!(said.contains("work/tmp for --workdir") && said.contains("links are not followed"), "{said}");
    fs::remove_file(work.join("tmp")).unwrap();
    symlink(&target, work.join("scratch")).unwrap();
    let said = bench.refusal(&["--workdir", "work", "--scratch", "/data"]);
    assert!(said.contains("work/scratch for --workdir") && said.contains("links are not followed"), "{said}");
    assert_eq!(fs::metadata(&target).unwrap().permissions().mode(), before);
    assert_eq!(fs::read_dir(&target).unwrap().count(), 0);
}

#[test]
fn root_private_directories_are_the_callers() {
    needs!(Coracle, Fuse, Root);
    let bench = Bench::new();
    let others = bench.path("others");
    fs::create_dir(&others).unwrap();
    fs::set_permissions(&others, fs::Permissions::from_mode(0o1777)).unwrap();
    let said = bench.refusal(&["--contain", "--workdir", "others"]);
    assert!(said.contains("others for --workdir: it belongs to another user"), "{said}");
    assert_eq!(fs::read_dir(&others).unwrap().count(), 0);
}

#[test]
fn userns_many_ranks_write_beside_one_image() {
    needs!(Coracle, Fuse);
    let bench = Bench::new();
    let script = "echo $0 >/etc/rank; sleep 0.2; cat /etc/rank";
    let ranks: Vec<_> = (0..12)
        .map(|rank| {
            let rank = rank.to_string();
            let mut command = bench.command(&["--writable-tmpfs=1M"], &bench.image, &["/bin/sh", "-c", script, &rank]);
            (rank, command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap())
        })
        .collect();
    for (rank, child) in ranks {
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!((String::from_utf8_lossy(&output.stdout).trim(), said.as_str()), (rank.as_str(), ""));
    }
    eventually("the server to end", || bench.servers() == 0);
}
