//! Namespaces of a container's own: what is seen in them, and how a program with processes of its own looks from outside.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests fail by panicking")]

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use coracle_tests::fixtures::corner_squashfs;
use coracle_tests::needs;
use coracle_tests::process::{Finished, User, coracle_binary, run, wait_within};
use coracle_tests::terminal::Terminal;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const LIMIT: Duration = Duration::from_secs(120);

struct Bench {
    user: User,
    dir: tempfile::TempDir,
    image: PathBuf,
}

impl Bench {
    fn new() -> Self {
        let user = User::unprivileged();
        let dir = user.temp_dir();
        let log = dir.path().join("server.log");
        fs::write(&log, "").unwrap();
        fs::set_permissions(&log, fs::Permissions::from_mode(0o666)).unwrap();
        Self { user, dir, image: corner_squashfs() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Of a session of this test's own, so that its server can be told from others'.
    fn dress<'c>(&self, command: &'c mut Command) -> &'c mut Command {
        command
            .env("CORACLE_SESSION_SCOPE", self.dir.path())
            .env("CORACLE_SESSION_IDLE", "1")
            .env("CORACLE_SERVER_LOG", self.path("server.log"))
    }

    fn command(&self, options: &[&str], words: &[&str]) -> Command {
        let mut command = self.user.coracle(self.dir.path(), ["exec"]);
        command.args(options).arg(&self.image).args(words);
        self.dress(&mut command);
        command
    }

    fn exec(&self, options: &[&str], words: &[&str]) -> Finished {
        run(&mut self.command(options, words))
    }

    fn shell(&self, options: &[&str], script: &str) -> Finished {
        self.exec(options, &["/bin/sh", "-c", script])
    }

    /// What it prints; standard error has to stay empty.
    fn prints(&self, options: &[&str], script: &str) -> String {
        let finished = self.shell(options, script).success();
        assert_eq!(finished.stderr, "", "{options:?} {script}");
        finished.stdout
    }

    /// Started, and past its first line.
    fn start(&self, options: &[&str], script: &str) -> (Child, String) {
        let mut command = self.command(options, &["/bin/sh", "-c", script]);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        output.read_line(&mut line).unwrap();
        child.stdout = Some(output.into_inner());
        (child, line.trim().to_owned())
    }

    fn terminal(&self, script: &str) -> Terminal {
        let scope = self.dir.path().to_str().unwrap();
        let envs = [("CORACLE_SESSION_SCOPE", scope), ("CORACLE_SESSION_IDLE", "1"), ("PATH", "/usr/bin:/bin")];
        Terminal::start(&self.user, self.dir.path(), &envs, script, &[&coracle_binary().unwrap(), &self.image])
    }
}

fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < LIMIT, "waited too long for {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn own(kind: &str) -> String {
    fs::read_link(format!("/proc/self/ns/{kind}")).unwrap().display().to_string()
}

/// Host processes whose command line has `text`. A session's server, which was started by a launch, has that one's.
fn processes_with(text: &str) -> Vec<i32> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let ended = fs::read_to_string(entry.path().join("stat")).is_ok_and(|stat| stat.contains(") Z "));
        let server = fs::read_to_string(entry.path().join("comm")).is_ok_and(|name| name == "coracle-server\n");
        if !ended && !server && String::from_utf8_lossy(&line).contains(text) {
            found.push(pid);
        }
    }
    found
}

#[test]
fn userns_each_namespace_is_had_alone_and_together() {
    needs!(Coracle, Fuse);
    let bench = Bench::new();
    let kinds = ["ipc", "uts", "net", "pid"];
    let script = "for kind in ipc uts net pid; do readlink /proc/self/ns/$kind; done";
    for (options, others) in [
        (&[][..], &[][..]),
        (&["--ipc"], &["ipc"]),
        (&["--uts"], &["uts"]),
        (&["--net"], &["net"]),
        (&["--net", "--network=none"], &["net"]),
        (&["--pid"], &["pid"]),
        (&["-p", "-i", "-n", "--uts"], &kinds),
        (&["--containall"], &["ipc", "pid"]),
        (&["--containall", "--no-pid"], &["ipc"]),
        (&["--compat"], &["ipc", "pid"]),
        (&["--no-session", "--pid", "--net"], &["net", "pid"]),
    ] {
        let seen = bench.prints(options, script);
        for (kind, link) in kinds.iter().zip(seen.lines()) {
            assert_eq!(*link != own(kind), others.contains(kind), "{options:?} {kind}: {link}");
        }
    }
    assert_eq!(fs::read_to_string(bench.path("server.log")).unwrap(), "");
}

#[test]
fn userns_the_host_name_is_the_containers_everywhere() {
    needs!(Coracle, Fuse);
    let bench = Bench::new();
    let seen = bench.prints(&["--hostname", "node.boat"], "hostname; cat /etc/hostname; grep boat /etc/hosts");
    assert_eq!(seen, "node.boat\nnode.boat\n127.0.1.1\tnode.boat node\n");
    let hosts = bench.prints(&["--hostname", "localhost"], "cat /etc/hosts");
    assert_eq!(hosts, fs::read_to_string("/etc/hosts").unwrap(), "the name has an address");
    // What the caller binds wins, and what is generated cannot be written to.
    let mine = bench.path("hosts");
    fs::write(&mine, "192.0.2.7 other\n").unwrap();
    let bind = format!("{}:/etc/hosts", mine.display());
    assert_eq!(bench.prints(&["--hostname", "x", "-B", &bind], "cat /etc/hosts"), "192.0.2.7 other\n");
    let written = bench.shell(&["--hostname", "x"], "echo y >/etc/hosts").exited(1);
    assert!(written.stderr.contains("Read-only"), "{}", written.stderr);
    let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    assert_eq!(bench.prints(&["--uts"], "hostname"), host);
    let bad = bench.exec(&["--hostname", "a b"], &["true"]).exited(125);
    assert!(bad.stderr.contains("a b"), "{}", bad.stderr);
}

#[test]
fn userns_name_servers_are_those_given_and_launches_still_share_a_mount() {
    needs!(Coracle, Fuse);
    let bench = Bench::new();
    let (mut first, _) = bench.start(&[], "echo up; sleep 1000");
    let seen = bench.prints(&["--dns", "192.0.2.1,2001:db8::1", "--dns", "192.0.2.2"], "cat /etc/resolv.conf");
    assert_eq!(seen, "nameserver 192.0.2.1\nnameserver 2001:db8::1\nnameserver 192.0.2.2\n");
    assert_eq!(bench.prints(&["--dns", "192.0.2.9"], "cat /etc/resolv.conf"), "nameserver 192.0.2.9\n");
    let host = fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    assert_eq!(bench.prints(&[], "cat /etc/resolv.conf"), host);
    assert_eq!(processes_with(bench.dir.path().to_str().unwrap()).len(), 0, "the scope is no argument");
    first.kill().unwrap();
    first.wait().unwrap();
    let bad = bench.exec(&["--dns", "ns.example"], &["true"]).exited(125);
    assert!(bad.stderr.contains("ns.example"), "{}", bad.stderr);
    let many = bench.exec(&["--dns", "192.0.2.1,192.0.2.2,192.0.2.3,192.0.2.4"], &["true"]).success();
    assert!(many.stderr.contains("not 192.0.2.4"), "{}", many.stderr);
}

#[test]
fn userns_a_network_of_its_own_has_loopback_alone() {
    needs!(Coracle, Fuse);
    let bench = Bench::new();
    let seen = bench.prints(&["--net"], "ls /sys/class/net; grep -c : /proc/net/dev; ls -d /sys/fs/cgroup");
    assert_eq!(seen, "lo\n1\n/sys/fs/cgroup\n");
    let seen = bench.prints(&["--net"], "ip address show lo");
    assert!(seen.contains("UP") && seen.contains("127.0.0.1"), "{seen}");
    // Abstract sockets and the host's listeners are out of reach.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    let answering = std::thread::spawn(move || drop(listener.accept().unwrap()));
    assert_ne!(bench.exec(&["--net"], &["nc", "127.0.0.1", &port]).code(), Some(0));
    bench.exec(&[], &["nc", "127.0.0.1", &port]).success();
    answering.join().unwrap();
    let bad = bench.exec(&["--net", "--network", "bridge"], &["true"]).exited(125);
    assert!(bad.stderr.contains("bridge"), "{}", bad.stderr);
}

#[test]
fn userns_message_queues_are_the_namespaces() {
    needs!(Coracle, Fuse);
    if !Path::new("/proc/sys/fs/mqueue").exists() {
        return;
    }
    let bench = Bench::new();
    let contained =
        bench.prints(&["--contain", "--ipc"], "echo /dev/mqueue/*; grep -c ' /dev/mqueue mqueue ' /proc/mounts");
    assert_eq!(contained, "/dev/mqueue/*\n1\n");
    assert_eq!(bench.prints(&["--contain"], "ls /dev | grep -c mqueue; true"), "0\n");
}

#[test]
fn userns_processes_of_its_own_and_an_init() {
    needs!(Coracle, Fuse);
    let bench = Bench::new();
    let seen = bench.prints(&["--pid"], "echo $$ $PPID; cat /proc/1/comm; ls -d /proc/[0-9]* | wc -l");
    assert_eq!(seen, "2 1\ncoracle-init\n4\n");
    assert_eq!(bench.prints(&["--pid", "--no-init"], "echo $$ $PPID"), "1 0\n");
    assert_eq!(bench.prints(&["--no-init"], "test $$ != 1; echo $?"), "0\n");
    // Of nobody else's, and with no rights.
    let status = bench.prints(&["--pid"], "for pid in 1 2; do grep -E '^(Cap|NoNew|Seccomp:)' /proc/$pid/status; done");
    for line in status.lines() {
        let value = line.split_whitespace().nth(1).unwrap();
        let expected = if line.starts_with("NoNew") { "1" } else { "0" };
        assert_eq!(value.trim_start_matches('0'), expected.trim_start_matches('0'), "{line}");
    }
    for options in [&["--pid"][..], &["--pid", "--no-init"]] {
        assert_eq!(bench.prints(options, "ls /proc/$$/fd; :"), "0\n1\n2\n");
    }
    // Pipes that the program closes are closed: neither the init nor the one that waits holds them.
    let closed =
        bench.command(&["--pid"], &["/bin/sh", "-c", "exec >/dev/null 2>&1; sleep 3"]).stdout(Stdio::piped()).spawn();
    let (mut closed, begun) = (closed.unwrap(), Instant::now());
    std::io::Read::read_to_end(&mut closed.stdout.take().unwrap(), &mut Vec::new()).unwrap();
    assert!(closed.try_wait().unwrap().is_none() || begun.elapsed() > LIMIT, "its output ended before it did");
    closed.wait().unwrap();
    // What the program leaves behind is reaped: a child whose parent ends becomes the init's.
    let script = "(sleep 0.2 & exec sh -c 'exit 0'); sleep 1; grep -l '^State:.Z' /proc/[0-9]*/status; true";
    assert_eq!(bench.prints(&["--pid"], script), "");
    let errors = bench.exec(&["--pid", "--no-pid"], &["true"]).exited(125);
    assert!(errors.stderr.contains("--no-pid"), "{}", errors.stderr);
}

#[test]
fn userns_ends_are_the_programs_with_processes_of_its_own() {
    needs!(Coracle, Fuse);
    let bench = Bench::new();
    for options in [&["--pid"][..], &["--pid", "--no-session"], &["--containall"]] {
        for status in [0, 1, 42, 125, 255] {
            bench.shell(options, &format!("exit {status}")).exited(status);
        }
        for signal in [Signal::SIGKILL, Signal::SIGTERM, Signal::SIGSEGV, Signal::SIGABRT, Signal::SIGUSR1] {
            let killed = bench.shell(options, &format!("kill -{} $$", signal as i32));
            assert_eq!(killed.status.signal(), Some(signal as i32), "{killed:?}");
        }
        let missing = bench.exec(options, &["no-such-program"]).exited(127);
        assert!(missing.stderr.starts_with("coracle: error: cannot find no-such-program"), "{}", missing.stderr);
        assert_eq!(missing.stderr.lines().count(), 1, "said once: {}", missing.stderr);
        bench.exec(options, &["/etc/motd"]).exited(126);
    }
    // Process 1 itself: a signal of its own it does not feel, one from outside ends it.
    bench.shell(&["--pid", "--no-init"], "exit 9").exited(9);
    bench.shell(&["--pid", "--no-init"], "kill -TERM $$; exit 3").exited(3);
    bench.exec(&["--pid", "--no-init"], &["no-such-program"]).exited(127);
    let failed = bench.exec(&["--pid", "--pwd", "/no/such/place"], &["true"]).exited(125);
    assert_eq!(failed.stderr.lines().count(), 1, "{}", failed.stderr);
    // No core file of the one that waits.
    let mut cored = bench.user.command("/bin/sh");
    let script = "ulimit -c unlimited; \"$0\" exec --pid \"$1\" sh -c 'ulimit -c 0; kill -SEGV $$'; echo $?; ls";
    cored.current_dir(bench.dir.path()).args(["-c", script]).arg(coracle_binary().unwrap()).arg(&bench.image);
    cored.env("PATH", "/usr/bin:/bin");
    let seen = run(bench.dress(&mut cored)).success();
    assert_eq!(seen.stdout, "139\nserver.log\n", "{}", seen.stderr);
    assert_eq!(fs::read_to_string(bench.path("server.log")).unwrap(), "");
}

#[test]
fn userns_everything_ends_with_the_program_or_with_the_one_that_waits() {
    needs!(Coracle, Fuse);
    let bench = Bench::new();
    let tag = |number: u32| format!("{number}.{}", std::process::id());
    // Daemons do not outlive the program, and do not keep its end from being seen.
    let daemon = tag(7001);
    let script = format!("(trap '' TERM HUP; exec sleep {daemon}) >/dev/null 2>&1 & sleep 0.2; exit 5");
    bench.shell(&["--pid"], &script).exited(5);
    assert_eq!(processes_with(&daemon), Vec::<i32>::new());
    for options in [&["--pid"][..], &["--pid", "--no-init"]] {
        let sleeper = tag(7002);
        let (mut child, _) = bench.start(options, &format!("sleep {sleeper} & echo up; wait"));
        eventually("the container", || !processes_with(&sleeper).is_empty());
        child.kill().unwrap();
        assert_eq!(child.wait().unwrap().signal(), Some(9));
        eventually("the end of the container", || processes_with(&sleeper).is_empty());
    }
    // The init dies, and all with it; the one that waits says so.
    let sleeper = tag(7003);
    let (mut child, _) = bench.start(&["--pid"], &format!("echo up; exec sleep {sleeper}"));
    let init = children_of(child.id()).pop().unwrap();
    kill(Pid::from_raw(init), Signal::SIGKILL).unwrap();
    assert_eq!(wait_within(&mut child, LIMIT).unwrap().signal(), Some(9));
    assert_eq!(processes_with(&sleeper), Vec::<i32>::new());
}

fn children_of(pid: u32) -> Vec<i32> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    children.split_whitespace().map(|child| child.parse().unwrap()).collect()
}

/// Whether this process, and so what it starts, ignores a signal.
fn is_ignored(signal: Signal) -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).unwrap();
    u64::from_str_radix(mask.trim(), 16).unwrap() >> (signal as i32 - 1) & 1 == 1
}

#[test]
fn userns_signals_are_passed_on() {
    needs!(Coracle, Fuse);
    let bench = Bench::new();
    let script = "for one in TERM USR1 HUP QUIT WINCH 40; do trap \"echo $one\" $one; done; trap 'echo INT; exit 7' INT; echo up; while :; do sleep 0.05; done";
    let (mut child, _) = bench.start(&["--pid"], script);
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let pid = Pid::from_raw(child.id().cast_signed());
    for (signal, name) in [
        (Signal::SIGTERM, "TERM"),
        (Signal::SIGUSR1, "USR1"),
        (Signal::SIGHUP, "HUP"),
        (Signal::SIGQUIT, "QUIT"),
        (Signal::SIGWINCH, "WINCH"),
        (Signal::SIGINT, "INT"),
    ] {
        // A shell has no trap for what was ignored when it started, as by nohup(1) around these tests.
        if is_ignored(signal) {
            continue;
        }
        kill(pid, signal).unwrap();
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        assert_eq!(line.trim(), name);
    }
    assert_eq!(wait_within(&mut child, LIMIT).unwrap().code(), Some(7));
    // By default they end it, and the end is the same; one that is ignored from the start is ignored.
    let (mut child, _) = bench.start(&["--pid"], "echo up; exec sleep 1000");
    kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGTERM).unwrap();
    assert_eq!(wait_within(&mut child, LIMIT).unwrap().signal(), Some(15));
    // A container that signals its group gets each once.
    let script = "n=0; trap 'n=$((n+1))' USR1; kill -USR1 0; sleep 0.3; echo $n";
    let mut group = bench.user.command("/usr/bin/setsid");
    group.current_dir(bench.dir.path()).arg("-w").arg(coracle_binary().unwrap()).args(["exec", "--pid"]);
    group.arg(&bench.image).args(["sh", "-c", script]);
    assert_eq!(run(bench.dress(&mut group)).stdout, "1\n");
}

#[test]
fn userns_a_session_lives_as_long_as_a_program_with_processes_of_its_own() {
    needs!(Coracle, Fuse);
    let bench = Bench::new();
    let (mut child, _) = bench.start(&["--pid"], "echo up; sleep 4; cat /etc/motd");
    // Longer than the idle time.
    std::thread::sleep(Duration::from_secs(3));
    let mut list = bench.user.coracle(bench.dir.path(), ["session", "list", "--json"]);
    let listed = run(bench.dress(&mut list)).success().stdout;
    assert!(listed.contains(&format!("{}", child.id())), "{listed}");
    assert!(wait_within(&mut child, LIMIT).unwrap().success());
    assert_eq!(fs::read_to_string(bench.path("server.log")).unwrap(), "");
}

#[test]
fn userns_a_host_that_hides_its_processes_is_explained() {
    needs!(Coracle, Fuse, Tool("unshare"));
    let bench = Bench::new();
    // As containers of Docker do.
    let script = "mount -t tmpfs none /proc/fs && exec \"$0\" exec $OPTIONS \"$1\" true";
    let run_with = |options: &str| {
        let mut command = bench.user.command("/usr/bin/unshare");
        command.current_dir(bench.dir.path()).args(["-Urm", "/bin/sh", "-c", script]);
        command.arg(coracle_binary().unwrap()).arg(&bench.image).env("OPTIONS", options).env("PATH", "/usr/bin:/bin");
        run(&mut command)
    };
    let refused = run_with("--pid").exited(125);
    assert!(
        refused.stderr.contains("cannot mount proc on /proc") && refused.stderr.contains("--no-pid"),
        "{}",
        refused.stderr
    );
    run_with("--containall --no-pid").success();
    run_with("--pid --no-mount proc").success();
    run_with("--net").success();
}

#[test]
fn userns_steps_are_printed_before_they_are_taken() {
    needs!(Coracle, Fuse);
    let bench = Bench::new();
    let steps =
        bench.exec(&["--dry-run", "--pid", "--ipc", "--net", "--hostname", "a", "--dns", "192.0.2.1"], &["true"]);
    let steps = steps.success().stdout;
    let at = |text: &str| steps.find(text).unwrap_or_else(|| panic!("{text}: {steps}"));
    let order = [
        "enter new namespaces for IPC, the host name, the network",
        "set the host name to a",
        "bring the loopback device up",
        "go on as process 1",
        "make the image at",
        "mount proc on /proc, nosuid, nodev, noexec",
        "show a file of 21 bytes on /etc/resolv.conf, ro",
        "empty the bounding",
        "stay as the container's init",
        "execute true",
    ];
    let places: Vec<usize> = order.into_iter().map(at).collect();
    assert!(places.is_sorted(), "{steps}");
    let mut spec = bench.user.coracle(bench.dir.path(), ["spec", "--pid", "--hostname", "a"]);
    let spec = run(spec.arg(&bench.image)).success().stdout;
    assert!(spec.contains("\"type\": \"pid\"") && spec.contains("\"hostname\": \"a\""), "{spec}");
}

#[test]
fn userns_the_terminal_interrupts_once() {
    needs!(Coracle, Fuse, Tool("script"));
    let bench = Bench::new();
    let count =
        "n=0; trap 'n=$((n+1))' INT; echo up; i=0; while [ $i -lt 15 ]; do sleep 0.1; i=$((i+1)); done; echo total $n";
    let mut terminal = bench.terminal(&format!("\"$1\" exec --pid \"$2\" sh -c '{}'", count.replace('\'', "'\\''")));
    terminal.wait_for("up");
    terminal.type_in("\u{3}");
    terminal.wait_for("total");
    let (_, shown) = terminal.end();
    assert!(shown.contains("total 1"), "{shown}");
    // It ends the program, and the shell sees by what.
    let mut terminal =
        bench.terminal("\"$1\" exec --pid \"$2\" sh -c 'echo up; exec sleep 1000'; trap '' INT; echo \"ended $?\"");
    terminal.wait_for("up");
    terminal.type_in("\u{3}");
    let (status, shown) = terminal.end();
    assert!(status.code() == Some(130) || shown.contains("ended 130"), "{status} {shown}");
}

#[test]
fn userns_jobs_are_stopped_and_go_on() {
    needs!(Coracle, Fuse, Tool("script"));
    let bench = Bench::new();
    for options in ["--pid", ""] {
        let script = format!(
            "set -m; \"$1\" exec {options} \"$2\" sh -c 'echo up; exec cat'; echo \"then $?\"; fg; echo \"last $?\""
        );
        let mut terminal = bench.terminal(&script);
        terminal.wait_for("up");
        terminal.type_in("\u{1a}");
        terminal.wait_for("then 148");
        terminal.type_in("some words\n");
        // Echoed by the terminal, and by the program.
        eventually("the program to go on", || terminal.shown().matches("some words").count() == 2);
        terminal.type_in("\u{4}");
        terminal.wait_for("last 0");
        assert!(terminal.end().0.success());
    }
}

#[test]
fn userns_a_shell_has_the_terminal_and_gives_it_back() {
    needs!(Coracle, Fuse, Tool("script"));
    let bench = Bench::new();
    let mut terminal =
        bench.terminal("\"$1\" shell --pid \"$2\"; echo \"left $?\"; read -r line; echo \"read <$line>\"");
    terminal.wait_for("$ ");
    terminal.type_in("sleep 1000\n");
    std::thread::sleep(Duration::from_millis(300));
    terminal.type_in("\u{3}");
    terminal.type_in("echo $((40+2)); exit 4\n");
    terminal.wait_for("left 4");
    assert!(terminal.shown().contains("42"), "{}", terminal.shown());
    terminal.type_in("back\n");
    terminal.wait_for("read <back>");
    assert!(terminal.end().0.success());
}

#[test]
fn userns_a_program_does_not_look_into_the_init() {
    needs!(Coracle, Fuse);
    let bench = Bench::new();
    let profile = bench.path("p.json");
    fs::write(&profile, r#"{"defaultAction":"SCMP_ACT_ALLOW"}"#).unwrap();
    let security = format!("seccomp:{}", profile.display());
    for options in [&["--pid", "--security", &security][..], &["--pid", "--fakeroot", "--security", &security]] {
        let refused = bench.shell(options, "test $$ != 1 && exec 3<>/proc/1/mem && echo opened");
        assert!(!refused.stdout.contains("opened") && refused.stderr.contains("denied"), "{refused:?}");
    }
}

#[test]
fn userns_ends_of_children_are_seen_where_the_caller_ignores_them() {
    needs!(Coracle, Fuse);
    let bench = Bench::new();
    // CHLD is number 17: bit 16 of the mask.
    for option in ["--no-session", "--pid"] {
        let mut command = bench.user.command("/usr/bin/env");
        command.current_dir(bench.dir.path()).arg("--ignore-signal=CHLD").arg(coracle_binary().unwrap());
        command.args(["exec", option]).arg(&bench.image).args(["grep", "SigIgn", "/proc/self/status"]);
        let seen = run(bench.dress(&mut command)).success();
        let ignored = u64::from_str_radix(seen.stdout.split_whitespace().last().unwrap(), 16).unwrap();
        assert_eq!((ignored >> 16 & 1, seen.stderr.as_str()), (1, ""), "{seen:?}");
    }
}
