//! Containers in the background: how they are started, joined, looked at and ended, and what is left of them.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests fail by panicking")]

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use coracle_tests::fixtures::corner_squashfs;
use coracle_tests::needs;
use coracle_tests::process::{Finished, User, coracle_binary, run, wait_within};
use coracle_tests::terminal::Terminal;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(120);
/// Prints, and ends when it is told to.
const SERVICE: &str =
    "echo begun; echo trouble >&2; trap 'echo told; exit 3' TERM; trap 'echo usr' USR1; while :; do sleep 0.05; done";

/// A user's world of instances, which is empty again at its end.
struct Bench {
    user: User,
    dir: tempfile::TempDir,
    image: PathBuf,
}

impl Drop for Bench {
    fn drop(&mut self) {
        let _ = self.instance(&["stop", "--all", "--timeout", "0"]).output();
    }
}

impl Bench {
    fn new() -> Self {
        let user = User::unprivileged();
        let dir = user.temp_dir();
        let bench = Self { user, dir, image: corner_squashfs() };
        for name in ["state", "work", "logs"] {
            fs::create_dir(bench.path(name)).unwrap();
            fs::set_permissions(bench.path(name), fs::Permissions::from_mode(0o700)).unwrap();
            if needs::is_root() {
                chown(bench.path(name), Some(bench.user.uid), Some(bench.user.gid)).unwrap();
            }
        }
        fs::write(bench.path("server.log"), "").unwrap();
        fs::set_permissions(bench.path("server.log"), fs::Permissions::from_mode(0o666)).unwrap();
        bench
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn dress<'c>(&self, command: &'c mut Command) -> &'c mut Command {
        command
            .env("CORACLE_SESSION_DIR", self.path("state"))
            .env("CORACLE_SESSION_IDLE", "1")
            .env("CORACLE_SERVER_LOG", self.path("server.log"))
            .env("XDG_STATE_HOME", self.path("logs"))
    }

    fn coracle(&self, words: &[&str]) -> Command {
        let mut command = self.user.coracle(&self.path("work"), words);
        self.dress(&mut command);
        command
    }

    fn instance(&self, words: &[&str]) -> Command {
        self.coracle(&[&["instance"], words].concat())
    }

    fn run(&self, words: &[&str]) -> Finished {
        run(&mut self.coracle(words))
    }

    fn image(&self) -> &str {
        self.image.to_str().unwrap()
    }

    /// `instance start OPTIONS IMAGE NAME WORDS`
    fn start(&self, options: &[&str], name: &str, words: &[&str]) -> Finished {
        self.run(&[&["instance", "start"], options, &[self.image(), name], words].concat())
    }

    fn list(&self) -> Vec<Value> {
        let listed = self.run(&["instance", "list", "--json"]).success();
        serde_json::from_str(&listed.stdout).unwrap()
    }

    fn one(&self, name: &str) -> Value {
        self.list().into_iter().find(|one| one["name"] == name).unwrap_or_else(|| panic!("no {name}"))
    }

    fn pid(&self, name: &str) -> Pid {
        Pid::from_raw(i32::try_from(self.one(name)["pid"].as_i64().unwrap()).unwrap())
    }

    fn logs(&self, words: &[&str]) -> String {
        self.run(&[&["instance", "logs"], words].concat()).success().stdout
    }

    /// Files of instances, sockets of sessions left aside.
    fn states(&self) -> Vec<String> {
        let names = fs::read_dir(self.path("state")).unwrap().map(|entry| entry.unwrap().file_name());
        names.map(|name| name.into_string().unwrap()).filter(|name| !name.ends_with(".sock")).collect()
    }
}

fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < LIMIT, "waited too long for {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Whether a process is there and has not ended.
fn lives(pid: i64) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

#[test]
fn userns_an_instance_is_started_looked_at_and_stopped() {
    needs!(Coracle, Fuse);
    let bench = Bench::new();
    let started = bench.start(&["--env", "A=b"], "web.1", &["/bin/sh", "-c", SERVICE]).exited(0);
    assert_eq!((started.stdout.as_str(), started.stderr.as_str()), ("", ""));
    let state = bench.path("state").join(&bench.states()[0]);
    assert_eq!(fs::metadata(&state).unwrap().permissions().mode() & 0o777, 0o600);
    eventually("it to write", || bench.logs(&["web.1"]) == "begun\n");
    assert_eq!(bench.logs(&["--stderr", "web.1"]), "trouble\n");

    let one = bench.one("web.1");
    assert_eq!(one["state"], "running");
    assert_eq!(one["image"], bench.image());
    assert_eq!(one["command"][0], "/bin/sh");
    assert_eq!(one["words"].as_array().unwrap()[..3], ["start", "--env", "A=b"].map(Value::from));
    assert_eq!(one["cwd"], bench.path("work").to_str().unwrap());
    assert_eq!(one["user"], bench.user.name);
    assert!(one["started"].as_u64().unwrap() > 1_700_000_000);
    assert_eq!(
        one["output"],
        bench.path("logs").join(format!("coracle/instances/{}/web.1.out", host())).to_str().unwrap()
    );
    let (pid, supervisor) = (one["pid"].as_i64().unwrap(), one["supervisor"].as_i64().unwrap());
    assert_eq!(fs::read_to_string(format!("/proc/{pid}/comm")).unwrap(), "coracle-init\n");
    let own = |pid: i64, kind: &str| fs::read_link(format!("/proc/{pid}/ns/{kind}")).unwrap().display().to_string();
    for kind in ["pid", "mnt", "user", "ipc", "net", "uts"] {
        assert_eq!(own(pid, kind), format!("{kind}:[{}]", one["namespaces"][kind]));
    }
    // It has no terminal, no input, and holds nothing of its starter's.
    for process in [pid, supervisor] {
        // Of the supervisor only root sees them.
        let null = fs::metadata("/dev/null").unwrap().rdev();
        for number in (0..3).filter(|_| needs::is_root()) {
            assert_eq!(fs::metadata(format!("/proc/{process}/fd/{number}")).unwrap().rdev(), null, "{process}");
        }
        let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
        let fields: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
        assert_eq!(fields[4], "0", "no terminal: {stat}");
        assert_eq!(fields[3], process.to_string(), "a session of its own: {stat}");
    }
    let table = bench.run(&["instance", "list"]).success().stdout;
    let lines: Vec<&str> = table.lines().collect();
    assert!(
        lines[0].starts_with("NAME ") && lines[1].starts_with("web.1 ") && lines[1].contains(" running "),
        "{table}"
    );
    assert_eq!(lines[0].find("STATE"), lines[1].find("running"), "{table}");

    let stopped = bench.run(&["instance", "stop", "web.1"]).success();
    assert_eq!((stopped.stdout.as_str(), stopped.stderr.as_str()), ("", ""));
    assert!(!lives(pid) && !lives(supervisor), "it is gone when stop returns");
    assert_eq!(bench.states(), Vec::<String>::new());
    assert_eq!(bench.run(&["instance", "list"]).success().stdout, "no instances\n");
    assert_eq!(bench.logs(&["web.1"]), "begun\ntold\n", "it was told, and its logs are still there");
    assert_eq!(fs::read_to_string(bench.path("server.log")).unwrap(), "");
}

fn host() -> String {
    nix::unistd::gethostname().unwrap().into_string().unwrap()
}

#[test]
fn userns_programs_join_an_instance() {
    needs!(Coracle, Fuse);
    let bench = Bench::new();
    let data = bench.path("work").join("data");
    fs::create_dir(&data).unwrap();
    fs::write(data.join("file"), "bound").unwrap();
    let options = ["-B", "data:/d", "--hostname", "boat", "--net", "--ipc", "--env", "MINE=1", "--contain"];
    bench.start(&options, "all", &[]).success();
    let inside = |options: &[&str], script: &str| {
        let words = [&["exec"], options, &["instance://all", "sh", "-c", script]].concat();
        let mut command = bench.coracle(&words);
        run(command.env("HOSTS", "own"))
    };
    let prints = |options: &[&str], script: &str| {
        let finished = inside(options, script).success();
        assert_eq!(finished.stderr, "");
        finished.stdout
    };
    let pid = bench.pid("all");
    for kind in ["user", "mnt", "pid", "ipc", "uts", "net"] {
        let theirs = fs::read_link(format!("/proc/{pid}/ns/{kind}")).unwrap();
        assert_eq!(prints(&[], &format!("readlink /proc/self/ns/{kind}")).trim(), theirs.to_str().unwrap());
    }
    assert_eq!(
        prints(&[], "hostname; cat /d/file; ls /sys/class/net; cat /proc/1/comm"),
        "boat\nboundlo\ncoracle-init\n"
    );
    // Two programs see each other, and what the other has written.
    prints(&[], "echo note >/tmp/note");
    assert_eq!(prints(&[], "cat /tmp/note"), "note\n");
    // The environment is composed as for a launch, on top of what the instance has.
    assert_eq!(prints(&[], "echo $MINE $HOSTS $VESSEL"), "1 own coracle\n");
    assert_eq!(prints(&["--cleanenv", "--env", "MORE=2"], "echo $MINE:$HOSTS:$VESSEL:$MORE"), "1::coracle:2\n");
    assert_eq!(prints(&["--pwd", "/d"], "pwd"), "/d\n");
    let status = prints(&[], "grep -E '^(Cap|NoNew)' /proc/$$/status; ls /proc/$$/fd; :");
    assert!(status.contains("NoNewPrivs:\t1") && !status.contains("ffff") && status.ends_with("0\n1\n2\n"), "{status}");

    inside(&[], "exit 41").exited(41);
    assert_eq!(inside(&[], "kill -SEGV $$").status.signal(), Some(11));
    bench.run(&["exec", "instance://all", "no-such-program"]).exited(127);
    bench.run(&["instance", "exec", "all", "sh", "-c", "exit 6"]).exited(6);
    assert_eq!(bench.run(&["run", "instance://all"]).success().stdout, "Afloat in a coracle.\n");
    assert_eq!(bench.run(&["shell", "instance://all", "-c", "echo $0"]).success().stdout, "/bin/sh\n");
    let steps = bench.run(&["exec", "--dry-run", "instance://all", "true"]).success().stdout;
    assert!(steps.contains(&format!("enter the namespaces of process {pid}")), "{steps}");

    for (option, value) in [("--bind", "/tmp"), ("--overlay", "x"), ("--hostname", "y"), ("--dns", "192.0.2.1")] {
        let refused = bench.run(&["exec", option, value, "instance://all", "true"]).exited(125);
        assert!(refused.stderr.contains(&format!("cannot use {option} in instance all")), "{}", refused.stderr);
    }
    for option in ["--pid", "--contain", "--fakeroot", "--writable-tmpfs", "--no-session"] {
        let refused = bench.run(&["exec", option, "instance://all", "true"]).exited(125);
        assert!(refused.stderr.contains(&format!("cannot use {option} in instance all")), "{}", refused.stderr);
    }
    let none = bench.run(&["exec", "instance://none", "true"]).exited(125);
    assert!(none.stderr.contains("there is no instance none"), "{}", none.stderr);
    let bad = bench.run(&["exec", "instance://a/b", "true"]).exited(125);
    assert!(bad.stderr.contains("use letters"), "{}", bad.stderr);
    // What has gone from the host is there in the container.
    fs::remove_dir_all(&data).unwrap();
    assert_eq!(prints(&[], "echo fine"), "fine\n");
    assert_eq!(fs::read_to_string(bench.path("server.log")).unwrap(), "");
}

#[test]
fn userns_programs_in_an_instance_start_where_they_are_called() {
    needs!(Coracle, Fuse);
    let bench = Bench::new();
    let deep = bench.path("work").join("deep");
    fs::create_dir(&deep).unwrap();
    bench.start(&[], "open", &[]).success();
    bench.start(&["--contain"], "closed", &[]).success();
    bench.start(&["--pwd", "/etc"], "fixed", &[]).success();
    for (name, expected) in [("open", deep.to_str().unwrap()), ("closed", "/"), ("fixed", "/etc")] {
        let mut command = bench.coracle(&["exec", &format!("instance://{name}"), "pwd"]);
        let seen = run(command.current_dir(&deep)).success();
        assert_eq!((seen.stdout.trim(), seen.stderr.as_str()), (expected, ""), "{name}");
    }
}

#[test]
fn userns_signals_and_ends_of_programs_in_an_instance() {
    needs!(Coracle, Fuse);
    let bench = Bench::new();
    bench.start(&[], "all", &[]).success();
    let begin = |script: &str| {
        let mut child = bench
            .coracle(&["exec", "instance://all", "sh", "-c", script])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut output = child.stdout.take().unwrap();
        std::io::Read::read_exact(&mut output, &mut [0; 3]).unwrap();
        child.stdout = Some(output);
        child
    };
    let pid = |child: &Child| Pid::from_raw(child.id().cast_signed());
    let mut told = begin("trap 'exit 8' TERM; echo up; while :; do sleep 0.05; done");
    kill(pid(&told), Signal::SIGTERM).unwrap();
    assert_eq!(wait_within(&mut told, LIMIT).unwrap().code(), Some(8));
    // Killed, it takes its program along; the instance stays.
    let tag = format!("7105.{}", std::process::id());
    let mut killed = begin(&format!("echo up; exec sleep {tag}"));
    let listed = || bench.run(&["exec", "instance://all", "ps"]).success().stdout;
    assert!(listed().contains(&tag));
    killed.kill().unwrap();
    killed.wait().unwrap();
    eventually("its end", || !listed().contains(&tag));
    // When the instance ends, so do the programs that have joined it.
    let mut joined = begin("echo up; sleep 1000");
    bench.run(&["instance", "stop", "all"]).success();
    assert_eq!(wait_within(&mut joined, LIMIT).unwrap().signal(), Some(9));
}

#[test]
fn userns_a_terminal_reaches_into_an_instance() {
    needs!(Coracle, Fuse, Tool("script"));
    let bench = Bench::new();
    bench.start(&[], "all", &[]).success();
    let (state, logs) = (bench.path("state"), bench.path("logs"));
    let envs = [
        ("CORACLE_SESSION_DIR", state.to_str().unwrap()),
        ("XDG_STATE_HOME", logs.to_str().unwrap()),
        ("PATH", "/usr/bin:/bin"),
    ];
    let script = "set -m; \"$1\" exec instance://all sh -c 'echo up; exec cat'; echo \"then $?\"; fg; echo \"last $?\"";
    let mut terminal = Terminal::start(&bench.user, &bench.path("work"), &envs, script, &[&coracle_binary().unwrap()]);
    terminal.wait_for("up");
    terminal.type_in("\u{1a}");
    terminal.wait_for("then 148");
    terminal.type_in("words\n");
    eventually("the program to go on", || terminal.shown().matches("words").count() == 2);
    terminal.type_in("\u{4}");
    terminal.wait_for("last 0");
    assert!(terminal.end().0.success());
    let script = "\"$1\" exec instance://all sh -c 'echo up; exec sleep 1000'";
    let mut terminal = Terminal::start(&bench.user, &bench.path("work"), &envs, script, &[&coracle_binary().unwrap()]);
    terminal.wait_for("up");
    terminal.type_in("\u{3}");
    assert_eq!(terminal.end().0.code(), Some(130));
    assert_eq!(bench.one("all")["state"], "running", "Ctrl-C was not for it");
}

#[test]
fn userns_an_instance_survives_its_starter() {
    needs!(Coracle, Fuse, Tool("script"));
    let bench = Bench::new();
    let (state, logs) = (bench.path("state"), bench.path("logs"));
    let envs = [
        ("CORACLE_SESSION_DIR", state.to_str().unwrap()),
        ("XDG_STATE_HOME", logs.to_str().unwrap()),
        ("PATH", "/usr/bin:/bin"),
    ];
    // An interactive shell that hangs up on its jobs, on a terminal that goes away.
    let script = "shopt -s huponexit; \"$1\" instance start \"$2\" kept sh -c 'echo up; exec sleep 1000'; echo \"started $?\"; exit";
    let terminal =
        Terminal::start(&bench.user, &bench.path("work"), &envs, script, &[&coracle_binary().unwrap(), &bench.image]);
    terminal.wait_for("started 0");
    assert!(terminal.end().0.success());
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(bench.one("kept")["state"], "running");
    assert_eq!(bench.logs(&["kept"]), "up\n");
    // Whoever waits for the end of the starter's output is not kept waiting.
    let mut command = bench.user.command("/bin/sh");
    command.current_dir(bench.path("work")).args(["-c", "x=$(\"$0\" instance start \"$1\" other 2>&1); echo \"<$x>\""]);
    command.arg(coracle_binary().unwrap()).arg(&bench.image);
    assert_eq!(run(bench.dress(&mut command)).success().stdout, "<>\n");
}

#[test]
fn userns_failed_starts_are_as_in_the_foreground() {
    needs!(Coracle, Fuse);
    let bench = Bench::new();
    let fails = |finished: Finished, status: i32, text: &str| {
        let finished = finished.exited(status);
        assert!(
            finished.stderr.starts_with("coracle: error: ") && finished.stderr.contains(text),
            "{}",
            finished.stderr
        );
        assert_eq!((finished.stdout.as_str(), finished.stderr.lines().count()), ("", 1), "{}", finished.stderr);
        assert_eq!(bench.states(), Vec::<String>::new());
    };
    fails(bench.start(&[], "x", &["no-such-program"]), 127, "cannot find no-such-program");
    fails(bench.start(&[], "x", &["/etc/motd"]), 126, "cannot execute /etc/motd");
    fails(bench.start(&["-B", "/no/such"], "x", &[]), 125, "cannot bind /no/such");
    fails(bench.start(&["--pwd", "/no/such"], "x", &[]), 125, "cannot enter /no/such");
    fails(bench.start(&["--no-pid"], "x", &[]), 125, "--no-pid");
    fails(bench.start(&["--no-init"], "x", &[]), 125, "--no-init");
    fails(bench.start(&["--network", "x", "--net"], "x", &[]), 125, "\"x\"");
    for name in ["", "a/b", "-x", ".x", "a b"] {
        fails(bench.start(&[], name, &[]), 125, "cannot call an instance");
    }
    fails(bench.run(&["instance", "start", "absent.sqfs", "x"]), 125, "absent.sqfs");
    fails(bench.run(&["instance", "start", bench.image()]), 125, "no name given: write coracle instance start");
    fails(bench.run(&["instance", "run", "instance://x", "y"]), 125, "instance of an instance");
    for words in [&["stop", "none"][..], &["logs", "none"], &["restart", "none"]] {
        fails(bench.run(&[&["instance"], words].concat()), 125, "there is no instance none");
    }
    fails(bench.run(&["instance", "stop", "--signal", "NONE", "x"]), 125, "there is no signal NONE");
    // A directory that others can enter is none for states.
    fs::set_permissions(bench.path("state"), fs::Permissions::from_mode(0o755)).unwrap();
    fails(bench.start(&[], "x", &[]), 125, "mode 0700");
    fs::set_permissions(bench.path("state"), fs::Permissions::from_mode(0o700)).unwrap();
    assert_eq!(fs::read_to_string(bench.path("server.log")).unwrap(), "");
}

#[test]
fn userns_a_name_is_had_once() {
    needs!(Coracle, Fuse);
    let bench = Bench::new();
    for round in 0..4 {
        let name = format!("n{round}");
        let starts: Vec<Child> = (0..6)
            .map(|_| {
                let mut command = bench.instance(&["start", bench.image(), &name, "sleep", "1000"]);
                command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
            })
            .collect();
        let outputs: Vec<_> = starts.into_iter().map(|child| child.wait_with_output().unwrap()).collect();
        let won = outputs.iter().filter(|output| output.status.success()).count();
        assert_eq!(won, 1, "{outputs:?}");
        for output in outputs.iter().filter(|output| !output.status.success()) {
            let text = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(125));
            assert!(
                text.contains(&format!("cannot start instance {name}: one of that name runs as process ")),
                "{text}"
            );
        }
        assert_eq!(bench.one(&name)["state"], "running");
    }
    let taken = bench.start(&[], "n0", &[]).exited(125).stderr;
    assert!(taken.contains(&format!("process {}", bench.pid("n0"))), "{taken}");
    assert_eq!(bench.list().len(), 4);
    let chosen: Vec<Value> =
        serde_json::from_str(&bench.run(&["instance", "list", "--json", "n[0-9]"]).success().stdout).unwrap();
    assert!(chosen.is_empty(), "no other patterns than * and ?");
    let chosen = bench.run(&["instance", "list", "?2"]).success().stdout;
    assert!(chosen.lines().count() == 2 && chosen.contains("n2"), "{chosen}");
    bench.run(&["instance", "stop", "n0", "n[1"]).exited(125);
    assert_eq!(bench.list().len(), 4, "a mistake stops none");
    bench.run(&["instance", "stop", "n0", "n1"]).success();
    assert_eq!(bench.list().len(), 2);
    bench.run(&["instance", "stop", "--all"]).success();
    assert!(bench.list().is_empty() && bench.states().is_empty());
    bench.run(&["instance", "stop", "--all"]).success();
}

#[test]
fn userns_what_does_not_listen_is_killed() {
    needs!(Coracle, Fuse);
    let bench = Bench::new();
    bench.start(&[], "deaf", &["sh", "-c", "trap '' TERM; echo up; while :; do sleep 0.1; done"]).success();
    eventually("it to be deaf", || bench.logs(&["deaf"]) == "up\n");
    let begun = Instant::now();
    let pid = bench.pid("deaf");
    bench.run(&["instance", "stop", "--timeout", "1", "deaf"]).success();
    assert!(begun.elapsed() >= Duration::from_secs(1) && !lives(pid.as_raw().into()));
    assert!(bench.states().is_empty());
    // Another signal, which it hears.
    bench
        .start(&[], "other", &["sh", "-c", "trap 'echo usr2; exit' USR2; echo up; while :; do sleep 0.05; done"])
        .success();
    eventually("it to listen", || bench.logs(&["other"]) == "up\n");
    bench.run(&["instance", "stop", "--signal", "sigusr2", "other"]).success();
    assert_eq!(bench.logs(&["other"]), "up\nusr2\n");
    // With nothing but an init.
    bench.start(&[], "idle", &[]).success();
    let begun = Instant::now();
    bench.run(&["instance", "stop", "--timeout", "60", "idle"]).success();
    assert!(begun.elapsed() < Duration::from_secs(30));
}

#[test]
fn userns_a_crashed_instance_is_seen_replaced_and_restarted() {
    needs!(Coracle, Fuse);
    let bench = Bench::new();
    for by_supervisor in [false, true] {
        bench.start(&["--env", "B=c"], "svc", &["sh", "-c", "echo begun $B in $PWD; exec sleep 1000"]).success();
        let line = format!("begun c in {}\n", bench.path("work").display());
        eventually("it to write", || bench.logs(&["svc"]) == line);
        let one = bench.one("svc");
        let victim = one[if by_supervisor { "supervisor" } else { "pid" }].as_i64().unwrap();
        kill(Pid::from_raw(i32::try_from(victim).unwrap()), Signal::SIGKILL).unwrap();
        eventually("it to be dead", || bench.one("svc")["state"] == "dead");
        let table = bench.run(&["instance", "list"]).success().stdout;
        assert!(table.contains(" dead "), "{table}");
        let refused = bench.run(&["exec", "instance://svc", "true"]).exited(125).stderr;
        assert!(refused.contains("instance svc has ended; coracle instance restart svc"), "{refused}");
        // Again as it was, wherever one is.
        let mut restart = bench.instance(&["restart", "svc"]);
        run(restart.current_dir("/")).success();
        assert_eq!(bench.one("svc")["state"], "running");
        eventually("it to write", || bench.logs(&["svc"]) == line.repeat(2));
        // One that runs, too.
        let before = bench.pid("svc");
        run(&mut bench.instance(&["restart", "svc"])).success();
        assert_ne!(bench.pid("svc"), before);
        assert!(!lives(before.as_raw().into()));
        eventually("it to write", || bench.logs(&["svc"]) == line.repeat(3));
        // A program that ends by itself leaves the instance dead, and its name free.
        let pid = bench.pid("svc");
        // Which may end before it has said so.
        let _ = bench.run(&["exec", "instance://svc", "kill", "-TERM", "1"]);
        eventually("it to be dead", || bench.one("svc")["state"] == "dead" && !lives(pid.as_raw().into()));
        bench.start(&[], "svc", &["sh", "-c", "echo new"]).success();
        eventually("it to write", || bench.logs(&["svc"]) == "new\n");
        eventually("its end", || bench.one("svc")["state"] == "dead");
        bench.run(&["instance", "stop", "svc"]).success();
        assert!(bench.states().is_empty());
    }
}

#[test]
fn userns_a_process_id_that_is_another_processs_by_now_is_not_taken_for_it() {
    needs!(Coracle, Fuse);
    let bench = Bench::new();
    bench.start(&[], "svc", &["sleep", "1000"]).success();
    let file = bench.path("state").join(&bench.states()[0]);
    let kept = fs::read_to_string(&file).unwrap();
    bench.run(&["instance", "stop", "svc"]).success();
    let mut other = bench.user.command("/usr/bin/sleep").arg("1000").spawn().unwrap();
    let pid = other.id();
    let change = |change: &dyn Fn(&mut Value)| {
        let mut value: Value = serde_json::from_str(&kept).unwrap();
        for name in ["process", "supervisor"] {
            value[name]["pid"] = pid.into();
        }
        change(&mut value);
        fs::write(&file, value.to_string()).unwrap();
        if needs::is_root() {
            chown(&file, Some(bench.user.uid), Some(bench.user.gid)).unwrap();
        }
    };
    change(&|_| {});
    assert_eq!(bench.one("svc")["state"], "dead");
    bench.run(&["exec", "instance://svc", "true"]).exited(125);
    bench.run(&["instance", "stop", "svc"]).success();
    assert!(other.try_wait().unwrap().is_none(), "it is none of the instance's");
    assert!(bench.states().is_empty());
    // Of an earlier start of the host: process ids and times may be the same.
    let stat = fs::read_to_string(format!("/proc/{}/stat", other.id())).unwrap();
    let start: u64 = stat.rsplit_once(") ").unwrap().1.split(' ').nth(19).unwrap().parse().unwrap();
    change(&|value| {
        for name in ["process", "supervisor"] {
            value[name]["start"] = start.into();
        }
        value["boot"] = "another".into();
    });
    assert_eq!(bench.one("svc")["state"], "dead");
    bench.run(&["instance", "stop", "svc"]).success();
    assert!(other.try_wait().unwrap().is_none());
    other.kill().unwrap();
    other.wait().unwrap();
    // What cannot be read is said, and can be replaced.
    fs::write(&file, "{").unwrap();
    let damaged = bench.run(&["instance", "stop", "svc"]).exited(125).stderr;
    assert!(damaged.contains("cannot read the state of instance svc"), "{damaged}");
    bench.start(&[], "svc", &[]).success();
}

#[test]
fn userns_the_images_own_program_in_the_background() {
    needs!(Coracle, Fuse);
    let bench = Bench::new();
    bench.run(&["instance", "run", bench.image(), "own"]).success();
    eventually("it to write", || bench.logs(&["own"]) == "Afloat in a coracle.\n");
    bench.run(&["instance", "restart", "own"]).success();
    eventually("it to write", || bench.logs(&["own"]) == "Afloat in a coracle.\n".repeat(2));
    bench.run(&["instance", "stop", "own"]).success();
    bench.run(&["instance", "run", bench.image(), "own", "echo $VESSEL"]).success();
    eventually("it to write", || bench.logs(&["own"]) == "coracle\n");
}

#[test]
fn userns_logs_are_followed_to_the_end() {
    needs!(Coracle, Fuse);
    let bench = Bench::new();
    let script = "i=0; trap 'echo last; exit' TERM; while :; do echo line $i; i=$((i+1)); sleep 0.1; done";
    bench.start(&[], "talk", &["sh", "-c", script]).success();
    let mut follow = bench.instance(&["logs", "-f", "talk"]);
    let follow = follow.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    eventually("some lines", || bench.logs(&["talk"]).lines().count() > 5);
    bench.run(&["instance", "stop", "talk"]).success();
    let output = follow.wait_with_output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && output.stderr.is_empty());
    assert!(text.starts_with("line 0\nline 1\n") && text.ends_with("last\n"), "{text}");
    assert_eq!(text, bench.logs(&["talk"]));
}

#[test]
fn userns_a_session_lives_as_long_as_its_instance() {
    needs!(Coracle, Fuse);
    let bench = Bench::new();
    bench.start(&[], "long", &["sh", "-c", "sleep 4; cat /etc/motd; sleep 1000"]).success();
    let session = |bench: &Bench| bench.run(&["session", "list", "--json"]).success().stdout;
    std::thread::sleep(Duration::from_secs(3));
    let supervisor = bench.one("long")["supervisor"].to_string();
    assert!(session(&bench).contains(&supervisor), "{}", session(&bench));
    eventually("it to read", || !bench.logs(&["long"]).is_empty());
    bench.run(&["instance", "stop", "long"]).success();
    eventually("the session's end", || !session(&bench).contains(&supervisor));
    assert_eq!(fs::read_to_string(bench.path("server.log")).unwrap(), "");
}

#[test]
fn userns_an_instance_has_its_identity_and_its_filter_for_all_that_join() {
    needs!(Coracle, Fuse);
    let bench = Bench::new();
    let profile = bench.path("profile.json");
    // What is left to do before the program is executed is not the program's, and may be refused to it.
    fs::write(
        &profile,
        r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"action":"SCMP_ACT_ERRNO",
            "names":["clone","fork","vfork","prctl","rt_sigprocmask","kill","mkdir","mkdirat"]}]}"#,
    )
    .unwrap();
    let filter = format!("seccomp:{}", profile.display());
    bench.start(&["--fakeroot"], "root", &[]).success();
    assert_eq!(bench.run(&["exec", "instance://root", "id", "-u"]).success().stdout, "0\n");
    bench.start(&["--security", &filter], "strict", &["sh", "-c", "echo up; exec sleep 1000"]).success();
    eventually("it to write", || bench.logs(&["strict"]) == "up\n");
    let refused = bench.run(&["exec", "instance://strict", "mkdir", "/tmp/new"]).exited(1);
    assert!(refused.stderr.contains("not permitted"), "{}", refused.stderr);
    bench.run(&["exec", "--pid", "--security", &filter, bench.image(), "mkdir", "/tmp/new"]).exited(1);
    bench.run(&["exec", "--pid", "--no-init", "--security", &filter, bench.image(), "true"]).exited(0);
    let missing = bench.start(&["--security", &filter], "none", &["no-such-program"]).exited(127);
    assert!(missing.stderr.contains("no-such-program"), "{}", missing.stderr);
}

#[test]
fn userns_programs_of_an_instance_do_not_look_into_its_init() {
    needs!(Coracle, Fuse);
    let bench = Bench::new();
    let profile = bench.path("profile.json");
    fs::write(&profile, r#"{"defaultAction":"SCMP_ACT_ALLOW"}"#).unwrap();
    let filter = format!("seccomp:{}", profile.display());
    let script = "(exec 3<>/proc/1/mem) && echo opened";
    for (name, options) in [("plain", &["--security", &filter][..]), ("root", &["--fakeroot", "--security", &filter])] {
        bench.start(options, name, &["sh", "-c", &format!("{script}; sleep 1000")]).success();
        let joined = bench.run(&["exec", &format!("instance://{name}"), "sh", "-c", script]);
        assert!(!joined.stdout.contains("opened") && joined.stderr.contains("denied"), "{name}: {joined:?}");
        let shown =
            bench.run(&["exec", &format!("instance://{name}"), "grep", "CapPrm", "/proc/self/status"]).success();
        assert_eq!(shown.stdout.contains("\t0000000000000000"), name == "plain", "{shown:?}");
        eventually("its words", || bench.logs(&["--stderr", name]).contains("denied"));
        assert_eq!(bench.logs(&[name]), "");
    }
    let refused = bench.start(&["--add-caps", "all", "--security", &filter], "all", &[]).exited(125);
    assert!(refused.stderr.contains("--drop-caps CAP_SYS_PTRACE"), "{}", refused.stderr);
}

#[test]
fn userns_programs_of_an_instance_do_not_look_into_what_makes_its_root() {
    needs!(Coracle, Fuse, Tool("fuse-overlayfs"));
    let bench = Bench::new();
    let script = "for p in /proc/[0-9]*; do read c <$p/comm; [ \"$c\" = fuse-overlayfs ] || continue; echo found; \
                  ls $p/root/ $p/fd/ && echo way out; done 2>/dev/null; echo looked";
    let start = format!("{script}; sleep 1000");
    let mut start =
        bench.instance(&["start", "--fakeroot", "--writable-tmpfs", bench.image(), "layered", "sh", "-c", &start]);
    run(start.env("CORACLE_OVERLAYFS", "fuse")).success();
    eventually("its words", || bench.logs(&["layered"]).contains("looked"));
    let joined = bench.run(&["exec", "instance://layered", "sh", "-c", script]).success();
    for seen in [bench.logs(&["layered"]), joined.stdout] {
        assert!(seen.contains("found") && !seen.contains("way out"), "{seen}");
    }
}

#[test]
fn userns_the_rights_of_an_instance_are_those_it_was_started_with() {
    needs!(Coracle, Fuse);
    let bench = Bench::new();
    let profile = bench.path("profile.json");
    let text =
        r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"action":"SCMP_ACT_ERRNO","names":["mkdir","mkdirat"]}]}"#;
    fs::write(&profile, text).unwrap();
    let mut start = bench.instance(&["start", bench.image(), "strict"]);
    run(start.env("CORACLE_SECURITY", format!("seccomp:{}", profile.display()))).success();
    fs::remove_file(&profile).unwrap();
    let mut join =
        bench.coracle(&["exec", "instance://strict", "sh", "-c", "grep CapEff /proc/self/status; mkdir /tmp/new"]);
    let joined = run(join.env("CORACLE_ADD_CAPS", "all")).exited(1);
    assert!(joined.stderr.contains("not permitted"), "{joined:?}");
    assert_eq!(joined.stdout, "CapEff:\t0000000000000000\n");
    bench.start(&[], "free", &[]).success();
    let mut join = bench.coracle(&["exec", "instance://free", "grep", "CapEff", "/proc/self/status"]);
    let variables = [("CORACLE_ADD_CAPS", "all"), ("CORACLE_SECURITY", "seccomp:/no/such"), ("CORACLE_FAKEROOT", "1")];
    assert_eq!(run(join.envs(variables)).success().stdout, "CapEff:\t0000000000000000\n");
}

#[test]
fn userns_a_signal_to_the_group_reaches_a_program_in_an_instance_once() {
    needs!(Coracle, Fuse);
    let bench = Bench::new();
    bench.start(&[], "one", &[]).success();
    // The program itself signals its group, in which is the process that waits for it outside.
    let script =
        "n=0; trap 'n=$((n+1))' USR1; kill -USR1 0; i=0; while [ $i -lt 20 ]; do sleep 0.05; i=$((i+1)); done; echo $n";
    let mut join = bench.coracle(&["exec", "instance://one", "sh", "-c", script]);
    std::os::unix::process::CommandExt::process_group(&mut join, 0);
    assert_eq!(run(&mut join).success().stdout, "1\n");
}

#[test]
fn userns_failed_starts_are_heard_of_where_the_caller_ignores_ends_of_children() {
    needs!(Coracle, Fuse);
    let bench = Bench::new();
    let mut command = bench.user.command("/usr/bin/env");
    command.current_dir(bench.path("work")).arg("--ignore-signal=CHLD");
    command.arg(coracle_tests::process::coracle_binary().unwrap()).args(["instance", "start", bench.image(), "none"]);
    run(bench.dress(command.arg("no-such-program"))).exited(127);
}
