//! Launches by the real program, as a user without privileges, subordinate ids or any helper on `PATH`.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests fail by panicking")]

use coracle_tests::fixtures::{corner_image, corner_squashfs, standard_squashfs, temp_dir};
use coracle_tests::needs;
use coracle_tests::process::{Finished, User, coracle_binary, run, run_with_input, wait_within};
use coracle_tests::tree::{Kind, Tree};
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// A user's directory and the image with the corner cases, which has a busybox.
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

    fn command(&self, verb: &str, words: &[&str]) -> Command {
        let mut command = self.user.coracle(self.dir.path(), [verb]);
        command.arg(&self.image).args(words);
        command
    }

    fn exec(&self, words: &[&str]) -> Finished {
        run(&mut self.command("exec", words))
    }

    fn shell(&self, script: &str) -> Finished {
        self.exec(&["/bin/sh", "-c", script])
    }
}

#[test]
fn userns_exit_status_is_the_programs() {
    needs!(Coracle, Fuse);
    let bench = Bench::new();
    bench.exec(&["/bin/true"]).exited(0);
    bench.exec(&["/bin/false"]).exited(1);
    bench.shell("exit 42").exited(42);
    bench.shell("exit 255").exited(255);
    let killed = bench.shell("kill -TERM $$");
    assert_eq!(killed.status.signal(), Some(15), "{killed:?}");
    let killed = bench.shell("kill -KILL $$");
    assert_eq!(killed.status.signal(), Some(9), "{killed:?}");
}

#[test]
fn userns_own_failures_have_their_own_status() {
    needs!(Coracle, Fuse);
    let bench = Bench::new();
    let missing = bench.exec(&["no-such-program"]).exited(127);
    assert!(missing.stderr.contains("no-such-program"), "{}", missing.stderr);
    bench.exec(&["/bin/no-such-program"]).exited(127);
    let not_executable = bench.exec(&["/etc/motd"]).exited(126);
    assert!(not_executable.stderr.contains("/etc/motd"), "{}", not_executable.stderr);
    bench.exec(&["/bin"]).exited(126);
    let mut no_image = bench.user.coracle(bench.dir.path(), ["exec", "missing.sqfs", "true"]);
    let no_image = run(&mut no_image).exited(125);
    assert!(no_image.stderr.contains("missing.sqfs"), "{}", no_image.stderr);
    let mut no_squashfs = bench.user.coracle(bench.dir.path(), ["exec", "/etc/passwd", "true"]);
    run(&mut no_squashfs).exited(125);
}

#[test]
fn userns_input_output_and_arguments_pass_through() {
    needs!(Coracle, Fuse);
    let bench = Bench::new();
    let input: Vec<u8> = (0..200_000_u32).flat_map(u32::to_le_bytes).collect();
    let counted = run_with_input(&mut bench.command("exec", &["wc", "-c"]), &input).success();
    assert_eq!(counted.stdout.trim(), "800000");
    let both = bench.shell("echo out; echo err >&2").success();
    assert_eq!((both.stdout.as_str(), both.stderr.as_str()), ("out\n", "err\n"));
    let words = bench.exec(&["printf", "[%s]", "a b", "", "--help", "-e", "*", "'"]).success();
    assert_eq!(words.stdout, "[a b][][--help][-e][*][']");
}

#[test]
fn userns_run_follows_the_image_config() {
    needs!(Coracle, Fuse);
    let bench = Bench::new();
    let default = run(&mut bench.command("run", &[])).success();
    assert_eq!(default.stdout, "Afloat in a coracle.\n");
    let replaced = run(&mut bench.command("run", &["echo $VESSEL"])).success();
    assert_eq!(replaced.stdout, "coracle\n");
}

#[test]
fn userns_ids_are_the_callers_and_nothing_is_privileged() {
    needs!(Coracle, Fuse);
    let bench = Bench::new();
    let subuid = fs::read_to_string("/etc/subuid").unwrap_or_default();
    assert!(
        !subuid.lines().any(|line| line.starts_with(&format!("{}:", bench.user.name))),
        "the test user has subordinate ids"
    );
    let seen = bench.shell("id -u; id -g; cat /proc/self/uid_map /proc/self/gid_map").success();
    let words: Vec<_> = seen.stdout.split_whitespace().map(|word| word.parse::<u32>().unwrap()).collect();
    let (uid, gid) = (bench.user.uid, bench.user.gid);
    assert_eq!(words, [uid, gid, uid, uid, 1, gid, gid, 1]);
    let status = bench.shell("cat /proc/self/status").success().stdout;
    for (key, value) in [
        ("NoNewPrivs", "1"),
        ("CapEff", "0000000000000000"),
        ("CapPrm", "0000000000000000"),
        ("CapBnd", "0000000000000000"),
        ("CapInh", "0000000000000000"),
        ("CapAmb", "0000000000000000"),
    ] {
        let line = status.lines().find(|line| line.starts_with(key)).unwrap();
        assert_eq!(line.split_whitespace().nth(1), Some(value), "{line}");
    }
    let name = bench.shell("id -un; grep -c . /etc/passwd").success().stdout;
    assert!(name.starts_with(&format!("{}\n", bench.user.name)), "{name}");
}

#[test]
fn userns_descriptors_other_than_the_first_three_are_closed() {
    needs!(Coracle, Fuse);
    let bench = Bench::new();
    // Descriptor 7 is open in the shell that starts coracle, and may not arrive.
    let mut command = bench.user.command("/bin/sh");
    let script = "exec 7</etc/passwd; exec \"$0\" exec \"$1\" /bin/sh -c 'ls /proc/$$/fd; :'";
    command.current_dir(bench.dir.path()).args(["-c", script]).arg(coracle_binary().unwrap()).arg(&bench.image);
    let seen = run(&mut command).success().stdout;
    assert_eq!(seen.split_whitespace().collect::<Vec<_>>(), ["0", "1", "2"]);
}

#[test]
fn userns_the_program_has_no_children_it_did_not_start() {
    needs!(Coracle, Fuse);
    let bench = Bench::new();
    let seen = bench
        .shell("wait; echo \"waited: $?\"; read children </proc/$$/task/$$/children; echo \"[$children]\"")
        .success();
    assert_eq!(seen.stdout, "waited: 0\n[]\n");
}

/// Processes that run a file of this name.
fn processes_of(binary: &Path) -> Vec<u32> {
    let numbers =
        fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    numbers.filter(|pid| fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe == binary)).collect()
}

/// A copy of the program that no other test runs, so that its processes can be told.
fn own_copy(bench: &Bench) -> PathBuf {
    let copy = bench.dir.path().join("coracle-of-this-test");
    fs::copy(coracle_binary().unwrap(), &copy).unwrap();
    copy
}

fn until(limit: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + limit;
    while !condition() {
        if Instant::now() > end {
            return false;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    true
}

#[test]
fn userns_nothing_is_left_after_the_program() {
    needs!(Coracle, Fuse);
    let bench = Bench::new();
    let own = own_copy(&bench);
    // Not in the session of another test.
    let own_command = || {
        let mut command = bench.user.command(&own);
        command.env("CORACLE_SESSION_SCOPE", &own);
        command
    };
    let mounts =
        || fs::read_to_string("/proc/self/mountinfo").unwrap().lines().filter(|line| line.contains("fuse")).count();
    let before = mounts();
    let mut command = own_command();
    run(command.current_dir(bench.dir.path()).arg("exec").arg(&bench.image).arg("true")).success();
    assert!(until(Duration::from_secs(10), || processes_of(&own).is_empty()), "a server outlives its container");
    assert!(mounts() <= before, "the mount shows in the host's table");

    let mut command = own_command();
    command.current_dir(bench.dir.path()).arg("exec").arg(&bench.image).args(["sleep", "1000"]).stdin(Stdio::null());
    let mut child = command.spawn().unwrap();
    assert!(
        until(Duration::from_secs(20), || {
            fs::read(format!("/proc/{}/cmdline", child.id())).is_ok_and(|line| line.starts_with(b"sleep\0"))
        }),
        "sleep never starts"
    );
    assert_eq!(mounts(), before, "the mount shows in the host's table");
    assert!(!processes_of(&own).is_empty(), "nothing serves the image");
    child.kill().unwrap();
    assert_eq!(child.wait().unwrap().signal(), Some(9));
    assert!(until(Duration::from_secs(10), || processes_of(&own).is_empty()), "a server outlives a killed container");
}

#[test]
fn userns_signals_reach_the_program_alone() {
    needs!(Coracle, Fuse);
    let bench = Bench::new();
    // Not INT: whoever starts the tests in the background has it ignored, and a shell cannot trap what is.
    let script = "trap 'echo caught; exit 9' USR1; echo ready; while :; do sleep 0.05; done";
    let mut command = bench.command("exec", &["/bin/sh", "-c", script]);
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut line = String::new();
    let mut out = std::io::BufReader::new(child.stdout.take().unwrap());
    std::io::BufRead::read_line(&mut out, &mut line).unwrap();
    assert_eq!(line, "ready\n");
    let pid = nix::unistd::Pid::from_raw(child.id().cast_signed());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGUSR1).unwrap();
    let status = wait_within(&mut child, Duration::from_secs(20)).expect("the program does not end");
    assert_eq!(status.code(), Some(9));
    let mut rest = String::new();
    std::io::Read::read_to_string(&mut out, &mut rest).unwrap();
    assert_eq!(rest, "caught\n");
}

#[test]
fn userns_working_directory_home_and_tmp_are_the_hosts() {
    needs!(Coracle, Fuse);
    let bench = Bench::new();
    let seen = bench.shell("pwd; echo written >here; echo $HOME; ls -d \"$HOME\"").success();
    let cwd = bench.dir.path().display().to_string();
    let home = bench.user.home.display().to_string();
    assert_eq!(seen.stdout, format!("{cwd}\n{home}\n{home}\n"));
    assert_eq!(fs::read_to_string(bench.dir.path().join("here")).unwrap(), "written\n");
    let read_only = bench.shell("echo x >/bin/new 2>&1 || echo refused").success();
    assert!(read_only.stdout.ends_with("refused\n"), "{}", read_only.stdout);
    let dev = bench.shell("echo x >/dev/null && head -c 4 /dev/zero | wc -c").success();
    assert_eq!(dev.stdout.trim(), "4");
}

#[test]
fn userns_binds_reach_paths_that_the_image_lacks() {
    needs!(Coracle, Fuse);
    let bench = Bench::new();
    fs::create_dir(bench.dir.path().join("data")).unwrap();
    fs::write(bench.dir.path().join("data/file"), "bound\n").unwrap();
    let source = bench.dir.path().join("data").display().to_string();
    let mut command = bench.user.coracle(bench.dir.path(), ["exec", "--bind"]);
    command.arg(format!("{source}:/not/in/the/image")).arg(&bench.image).args(["cat", "/not/in/the/image/file"]);
    assert_eq!(run(&mut command).success().stdout, "bound\n");
    let mut command = bench.user.coracle(bench.dir.path(), ["exec", "--bind"]);
    command.arg(format!("{source}/file:/etc/motd:ro")).arg(&bench.image).args(["cat", "/etc/motd"]);
    assert_eq!(run(&mut command).success().stdout, "bound\n");
}

#[test]
fn userns_every_file_reads_the_same_through_fuse() {
    needs!(Coracle, Fuse);
    let bench = Bench::new();
    // What the host covers is left out; names with a line break would need a protocol of their own.
    let script = "cd / && find . -xdev -type f ! -name 'line*' ! -path './tmp/*' ! -path './var/*' -exec sha256sum {} +; \
                  find . -xdev -type l -exec readlink {} \\; | sort | sha256sum";
    let seen = bench.shell(script).success().stdout;
    let sums: BTreeMap<_, _> =
        seen.lines().filter_map(|line| line.split_once("  ./")).map(|(sum, path)| (path, sum)).collect();
    let tree = Tree::of_image(&bench.image);
    let mut compared = 0;
    for (path, entry) in &tree.entries {
        let Kind::File(_, hash) = &entry.kind else { continue };
        let Ok(path) = std::str::from_utf8(path) else { continue };
        if path.starts_with("/etc/") || path.contains('\n') {
            continue;
        }
        let expected = hash.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        // A busybox puts no backslash before a path with one, as coreutils does.
        assert_eq!(sums.get(&path[1..]), Some(&expected.as_str()), "{path}");
        compared += 1;
    }
    assert!(compared > 3000, "only {compared} files were compared");
}

#[test]
fn userns_images_of_other_tools_run() {
    needs!(Coracle, Fuse, Tool("mksquashfs"), Tool("busybox"));
    let bench = Bench::new();
    let dir = temp_dir();
    let root = dir.path().join("root");
    fs::create_dir_all(root.join("bin")).unwrap();
    fs::copy(coracle_tests::needs::find_tool("busybox").unwrap(), root.join("bin/busybox")).unwrap();
    std::os::unix::fs::symlink("busybox", root.join("bin/sh")).unwrap();
    for options in [
        &["-comp", "gzip"][..],
        &["-comp", "lz4"],
        &["-comp", "xz"],
        &["-comp", "lzo"],
        &["-comp", "zstd"],
        &["-no-fragments", "-noI", "-noD", "-noX"],
        &["-b", "4096", "-no-exports"],
    ] {
        let image = dir.path().join("image.sqfs");
        let mut command = Command::new("mksquashfs");
        run(command.arg(&root).arg(&image).args(["-noappend", "-quiet", "-no-progress", "-all-root"]).args(options))
            .success();
        let mut command = bench.user.coracle(bench.dir.path(), ["exec"]);
        let seen =
            run(command.arg(&image).args(["/bin/sh", "-c", "echo it runs; /bin/busybox ls -d /proc/self"])).success();
        assert_eq!(seen.stdout, "it runs\n/proc/self\n", "mksquashfs {}", options.join(" "));
    }
}

#[test]
fn userns_many_launches_at_once() {
    needs!(Coracle, Fuse);
    let bench = Bench::new();
    let children: Vec<_> = (0..16)
        .map(|number| {
            let script = format!("sha256sum /bin/busybox | cut -c1-8; exit {number}");
            let mut command = bench.command("exec", &["/bin/sh", "-c", &script]);
            command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap()
        })
        .collect();
    let mut sums = std::collections::BTreeSet::new();
    for (number, child) in (0..).zip(children) {
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(number));
        sums.insert(output.stdout);
    }
    assert_eq!(sums.len(), 1);
}

#[test]
fn userns_spec_is_a_runtime_specification() {
    needs!(Coracle, Fuse);
    let bench = Bench::new();
    let printed = run(&mut bench.command("spec", &["echo", "hello"])).success().stdout;
    let spec: serde_json::Value = serde_json::from_str(&printed).unwrap();
    assert_eq!(spec["process"]["args"], serde_json::json!(["echo", "hello"]));
    assert_eq!(spec["process"]["noNewPrivileges"], true);
    let mounts = spec["mounts"].as_array().unwrap();
    assert!(mounts.iter().any(|mount| mount["destination"] == "/proc"), "{printed}");
}

#[test]
fn userns_inspect_tells_what_was_converted() {
    needs!(Coracle);
    let bench = Bench::new();
    let mut command = bench.user.coracle(bench.dir.path(), ["inspect", "--json"]);
    let printed = run(command.arg(&bench.image)).success().stdout;
    let json: serde_json::Value = serde_json::from_str(&printed).unwrap();
    assert!(json.is_object(), "{printed}");
    // The stored config is the layout's blob, byte for byte.
    let mut command = bench.user.coracle(bench.dir.path(), ["inspect", "--config"]);
    let config = run(command.arg(&bench.image)).success().stdout;
    let digest = coracle_tests::tree::sha256_hex(config.trim_end_matches('\n').as_bytes());
    let verbatim = corner_image().join("blobs/sha256").join(&digest);
    assert!(
        verbatim.exists()
            || corner_image().join("blobs/sha256").join(coracle_tests::tree::sha256_hex(config.as_bytes())).exists()
    );
    let mut command = bench.user.coracle(bench.dir.path(), ["inspect", "--tree"]);
    let listing = run(command.arg(&bench.image)).success().stdout;
    assert!(listing.contains("/corner/hard/across"), "the tree lacks a file");
}

#[test]
fn userns_doctor_finds_this_host_fit() {
    needs!(Coracle, Fuse);
    let bench = Bench::new();
    run(&mut bench.user.coracle(bench.dir.path(), ["doctor"])).success();
}

#[test]
fn userns_scipy_works_in_the_standard_image() {
    needs!(Coracle, Fuse, StandardImage);
    let bench = Bench { image: standard_squashfs(), ..Bench::new() };
    let script = "import scipy.stats, numpy; print(round(scipy.stats.norm.cdf(1.96), 4), numpy.arange(5).sum())";
    let seen = bench.exec(&["python3", "-c", script]).success();
    assert_eq!(seen.stdout, "0.975 10\n");
}

#[test]
fn userns_compiler_and_mpi_work_in_the_standard_image() {
    needs!(Coracle, Fuse, StandardImage);
    let bench = Bench { image: standard_squashfs(), ..Bench::new() };
    let script = "mpicc -O1 -o hello /usr/local/bin/hello-mpi.c && mpirun --oversubscribe -n 2 ./hello | sort";
    let seen = bench.exec(&["/bin/sh", "-c", script]).success();
    assert_eq!(seen.stdout, "rank 0 of 2, sum of ranks 1\nrank 1 of 2, sum of ranks 1\n");
    let native = bench.exec(&["/bin/sh", "-c", "mpirun --oversubscribe -n 2 hello-mpi | sort"]).success();
    assert_eq!(native.stdout, seen.stdout);
}

#[test]
fn root_launches_work_for_root_too() {
    needs!(Root, Coracle, Fuse);
    let mut command = coracle_tests::process::coracle(["exec"]);
    let seen = run(command.current_dir("/").arg(corner_squashfs()).args(["/bin/sh", "-c", "id -u; cat /corner/keep"]))
        .success();
    assert_eq!(seen.stdout, "0\nkeep\n");
}
