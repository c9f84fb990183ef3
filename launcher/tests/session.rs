//! One mount for all launches of an image: who joins, who does not, and what becomes of it when something ends.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Output};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

mod support;

use support::{World, complaint, eventually, is_root, piped, unable};

/// A program that says where it is and waits for a line.
struct Program {
    child: Child,
    /// Its mount and user namespaces.
    namespaces: String,
}

impl Program {
    fn start(command: Command) -> Self {
        let mut child = piped(command);
        let mut namespaces = String::new();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        output.read_line(&mut namespaces).unwrap();
        child.stdout = Some(output.into_inner());
        Self { child, namespaces }
    }

    fn end(mut self) -> Output {
        self.child.stdin.take().unwrap().write_all(b"\n").unwrap();
        self.child.wait_with_output().unwrap()
    }

    fn mounts(&self) -> &str {
        self.namespaces.split(' ').next().unwrap()
    }

    fn user(&self) -> &str {
        self.namespaces.split(' ').nth(1).unwrap()
    }
}

/// Prints both namespaces, waits, and prints a file.
const WAIT: &str =
    "a=$(ls -l /proc/self/ns/mnt); b=$(ls -l /proc/self/ns/user); echo ${a##*> } ${b##*> }; read x; cat /etc/passwd";

fn waiting(world: &World, options: &[&str]) -> Program {
    Program::start(world.shell(options, WAIT))
}

fn sessions(world: &World) -> Vec<serde_json::Value> {
    let output = world.coracle().args(["session", "list", "--json"]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let all: Vec<serde_json::Value> = serde_json::from_slice(&output.stdout).unwrap();
    all.into_iter().filter(|one| one["image"] == world.image.to_str().unwrap()).collect()
}

#[test]
fn userns_launches_share_one_mount() {
    if unable() {
        return;
    }
    let world = World::new();
    let data = world.own_dir("data");
    let (first, second) = (waiting(&world, &[]), waiting(&world, &[]));
    let bind = format!("{}:/not/in/the/image", data.display());
    let third = waiting(&world, &["-B", &bind]);
    let contained = waiting(&world, &["--contain"]);
    assert_eq!(world.servers().len(), 1);
    let users: BTreeSet<&str> = [&first, &second, &third, &contained].map(Program::user).into();
    assert_eq!(users.len(), 1, "single-copy MPI needs one user namespace: {users:?}");
    assert_eq!(first.mounts(), second.mounts(), "the same mounts are made once");
    assert_ne!(first.mounts(), third.mounts());
    assert_ne!(first.mounts(), contained.mounts());
    let listed = sessions(&world);
    assert_eq!(listed.len(), 1, "{listed:?}");
    assert_eq!(listed[0]["programs"].as_array().unwrap().len(), 4);
    let files: BTreeSet<Vec<u8>> =
        [first, second, third, contained].into_iter().map(|program| program.end().stdout).collect();
    assert!(files.iter().all(|file| file.starts_with(b"root:x:0:0")), "{files:?}");
    world.assert_nothing_left();
    assert!(sessions(&world).is_empty());
}

#[test]
fn userns_binds_of_a_joining_launch_are_its_own() {
    if unable() {
        return;
    }
    let world = World::new();
    let data = world.own_dir("data");
    fs::write(data.join("file"), "data").unwrap();
    let first = waiting(&world, &[]);
    // Below /tmp, over which the image is mounted for a moment, and not in the image.
    let bind = format!("{}:/a/b", data.display());
    assert_eq!(world.prints(&["-B", &bind], "cat /a/b/file"), "data");
    assert_eq!(world.prints(&["-B", &bind], "echo $PWD; cat /a/b/file"), format!("{}\ndata", world.home.display()));
    assert!(!world.shell(&[], "cat /a/b/file").output().unwrap().status.success());
    // What is bound counts by what it is, not by its name.
    fs::rename(&data, world.path("old")).unwrap();
    fs::create_dir(&data).unwrap();
    fs::write(data.join("file"), "new").unwrap();
    assert_eq!(world.prints(&["-B", &bind], "cat /a/b/file"), "new");
    assert!(first.end().status.success());
}

#[test]
fn userns_simultaneous_launches_make_one_session() {
    if unable() {
        return;
    }
    let world = World::new();
    for _ in 0..3 {
        let programs: Vec<Child> = (0..24).map(|_| piped(world.shell(&[], WAIT))).collect();
        let programs: Vec<Program> = programs
            .into_iter()
            .map(|mut child| {
                let mut namespaces = String::new();
                let mut output = BufReader::new(child.stdout.take().unwrap());
                output.read_line(&mut namespaces).unwrap();
                child.stdout = Some(output.into_inner());
                Program { child, namespaces }
            })
            .collect();
        assert_eq!(world.servers().len(), 1);
        let users: BTreeSet<&str> = programs.iter().map(Program::user).collect();
        assert_eq!(users.len(), 1, "{users:?}");
        for program in programs {
            let output = program.end();
            assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
        }
        for server in world.servers() {
            kill(Pid::from_raw(server), Signal::SIGKILL).unwrap();
        }
        eventually("the server to be gone", || world.servers().is_empty());
    }
}

#[test]
fn userns_a_killed_server_harms_only_its_programs() {
    if unable() {
        return;
    }
    // Larger than what the server hands to the kernel unasked.
    let noise = (0..8_000_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect::<Vec<u8>>();
    let world = World::with(|tree| fs::write(tree.join("large"), noise).unwrap());
    let program = Program::start(world.shell(&[], &WAIT.replace("/etc/passwd", "/large | sha256sum && exit 9")));
    let servers = world.servers();
    kill(Pid::from_raw(servers[0]), Signal::SIGKILL).unwrap();
    eventually("the server to be gone", || world.servers().is_empty());
    // The socket is still there, and nobody answers.
    assert_eq!(world.prints(&[], "echo fine"), "fine\n");
    let output = program.end();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(errors.contains("'/large': "), "its files are gone: {output:?}");
    world.assert_nothing_left();
}

#[test]
fn userns_another_image_of_the_same_name_is_another_session() {
    if unable() {
        return;
    }
    let world = World::with(|tree| fs::write(tree.join("version"), "one").unwrap());
    let new = World::with(|tree| fs::write(tree.join("version"), "two").unwrap());
    let mut old = piped(world.shell(&[], "echo up; read x; cat /version"));
    let mut line = String::new();
    let mut output = BufReader::new(old.stdout.take().unwrap());
    output.read_line(&mut line).unwrap();
    fs::rename(&new.image, &world.image).unwrap();
    assert_eq!(world.prints(&[], "cat /version"), "two");
    old.stdin.take().unwrap().write_all(b"\n").unwrap();
    line.clear();
    output.read_line(&mut line).unwrap();
    assert_eq!(line, "one");
    assert!(old.wait().unwrap().success());
}

#[test]
fn userns_nothing_is_left_when_the_idle_time_is_over() {
    if unable() {
        return;
    }
    let world = World::new();
    let sockets = world.own_dir("sockets");
    fs::set_permissions(&sockets, fs::Permissions::from_mode(0o700)).unwrap();
    let run = |idle: &str| {
        let mut command = world.shell(&[], "true");
        command.env("CORACLE_SESSION_DIR", &sockets).env("CORACLE_SESSION_IDLE", idle);
        assert!(command.status().unwrap().success());
    };
    let empty = || fs::read_dir(&sockets).unwrap().next().is_none() && world.servers().is_empty();
    run("0");
    eventually("the session to end", empty);
    run("2");
    assert!(!empty(), "it waits for another launch");
    let start = Instant::now();
    eventually("the session to end", empty);
    assert!(start.elapsed() > Duration::from_millis(1500), "{:?}", start.elapsed());
    let output = world.shell(&[], "true").env("CORACLE_SESSION_IDLE", "soon").output().unwrap();
    assert!(complaint(&output, 125).contains("CORACLE_SESSION_IDLE=soon"));
}

#[test]
fn userns_a_process_left_behind_keeps_its_files() {
    if unable() {
        return;
    }
    let world = World::new();
    let out = world.home.join("late");
    let script = "(sleep 1; cat /etc/passwd > late.part; while [ ! -e stop ]; do sleep 0.1; done) >/dev/null 2>&1 &";
    let mut command = world.shell(&[], script);
    assert!(command.env("CORACLE_SESSION_IDLE", "0").status().unwrap().success());
    eventually("the session to be over", || sessions(&world).is_empty());
    assert_eq!(world.servers().len(), 1, "somebody uses the mount");
    let part = out.with_extension("part");
    eventually("the process to read a file", || fs::read(&part).is_ok_and(|text| text.starts_with(b"root:")));
    assert_eq!(world.prints(&[], "echo new"), "new\n");
    fs::write(world.home.join("stop"), "").unwrap();
    world.assert_nothing_left();
}

#[test]
fn userns_a_session_can_be_done_without() {
    if unable() {
        return;
    }
    let world = World::new();
    let first = waiting(&world, &[]);
    let alone = waiting(&world, &["--no-session"]);
    let mut command = world.shell(&[], WAIT);
    command.env("CORACLE_SESSION", "off");
    let off = Program::start(command);
    let mut command = world.shell(&[], WAIT);
    command.env("SLURM_JOB_ID", "1").env("SLURM_STEP_ID", "7");
    let step = Program::start(command);
    assert_eq!(world.servers().len(), 4, "another step of a job has a session of its own");
    let users: BTreeSet<&str> = [&first, &alone, &off, &step].map(Program::user).into();
    assert_eq!(users.len(), 4);
    for program in [first, alone, off, step] {
        assert!(program.end().status.success());
    }
    let output = world.shell(&[], "true").env("CORACLE_SESSION", "maybe").output().unwrap();
    assert!(complaint(&output, 125).contains("on or off"));
    // A directory that others can enter is no place for sockets.
    let open = world.own_dir("open");
    let output = world.shell(&[], "echo fine").env("CORACLE_SESSION_DIR", &open).output().unwrap();
    assert_eq!(output.stdout, b"fine\n");
    assert!(complaint(&output, 0).contains("0700"));
    world.assert_nothing_left();
}

#[test]
fn userns_a_stopped_session_ends_with_its_programs() {
    if unable() {
        return;
    }
    let world = World::new();
    let output = world.coracle().args(["session", "stop"]).arg(&world.image).output().unwrap();
    assert!(complaint(&output, 125).contains("there is none"));
    let program = waiting(&world, &[]);
    let stats = world.coracle().args(["session", "stats"]).arg(&world.image).output().unwrap();
    let stats: serde_json::Value = serde_json::from_slice(&stats.stdout).unwrap();
    assert!(stats[0]["stats"]["requests"]["LOOKUP"].as_u64() > Some(0), "{stats}");
    assert!(world.coracle().args(["session", "stop"]).arg(&world.image).status().unwrap().success());
    assert!(sessions(&world).is_empty());
    assert_eq!(world.prints(&[], "echo new"), "new\n");
    assert_eq!(world.servers().len(), 2);
    assert!(program.end().status.success());
    world.assert_nothing_left();
}

#[test]
fn userns_a_session_is_one_users() {
    if unable() || !is_root() {
        return;
    }
    let world = World::new();
    let first = waiting(&world, &[]);
    let mut other = Command::new(world.coracle().get_program());
    let output = other.arg("exec").arg(&world.image).args(["sh", "-c", "id -u"]).output().unwrap();
    assert_eq!(output.stdout, b"0\n", "{output:?}");
    assert_eq!(world.servers().len(), 2);
    assert!(first.end().status.success());
    world.assert_nothing_left();
}

#[test]
fn userns_a_failed_first_launch_leaves_no_session() {
    if unable() {
        return;
    }
    let world = World::new();
    let output = world.coracle().arg("exec").arg(&world.image).arg("/not/there").output().unwrap();
    complaint(&output, 127);
    let sockets = world.own_dir("sockets");
    fs::set_permissions(&sockets, fs::Permissions::from_mode(0o700)).unwrap();
    let text = world.path("text");
    fs::write(&text, "no image").unwrap();
    let output =
        world.coracle().arg("exec").arg(&text).arg("true").env("CORACLE_SESSION_DIR", &sockets).output().unwrap();
    assert!(complaint(&output, 125).contains("neither a squashfs"));
    assert!(fs::read_dir(&sockets).unwrap().next().is_none());
    world.assert_nothing_left();
}

#[test]
fn a_trace_shows_where_the_time_goes() {
    if unable() {
        return;
    }
    let world = World::new();
    let trace = world.home.join("trace");
    let launch = || world.shell(&[], "true").env("CORACLE_TRACE", &trace).status().unwrap().success();
    assert!(launch() && launch());
    let text = fs::read_to_string(&trace).unwrap();
    assert!(text.contains("mount the image") && text.contains("join a container"), "{text}");
    let numbers: Vec<u64> = text.lines().map(|line| line.split_whitespace().next().unwrap().parse().unwrap()).collect();
    assert!(numbers.len() > 10 && !Path::new("1").exists(), "{text}");
}

#[test]
fn userns_a_profile_is_recorded_and_laid_out() {
    if unable() {
        return;
    }
    let world = World::with(|tree| {
        fs::write(tree.join("read-second"), "2").unwrap();
        fs::write(tree.join("read-first"), vec![b'1'; 300_000]).unwrap();
        fs::write(tree.join("unread"), "0").unwrap();
    });
    let profile = world.home.join("profile.json");
    let mut record = world.coracle();
    record.args(["profile", "record", "--output"]).arg(&profile).arg(&world.image);
    let output = record.args(["--", "sh", "-c", "cat /read-first /read-second > /dev/null; exit 7"]).output().unwrap();
    assert!(complaint(&output, 7).contains("files"));
    let text = fs::read_to_string(&profile).unwrap();
    let value: serde_json::Value = serde_json::from_str(&text).unwrap();
    let paths: Vec<&str> =
        value["touched"].as_array().unwrap().iter().map(|touched| touched["path"].as_str().unwrap()).collect();
    let place = |name: &str| paths.iter().position(|path| *path == name);
    assert!(place("/bin/busybox") < place("/read-first") && place("/read-first") < place("/read-second"), "{paths:?}");
    assert!(place("/read-second").is_some() && place("/unread").is_none(), "{paths:?}");
    let again = world.home.join("again.sqfs");
    let mut build = world.coracle();
    let output = build.args(["build", "--profile"]).arg(&profile).arg(&again).arg(&world.image).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let mut run = world.coracle();
    let output = run.arg("exec").arg(&again).args(["sh", "-c", "cat /read-second /.coracle/profile.json"]).output();
    assert_eq!(String::from_utf8(output.unwrap().stdout).unwrap(), format!("2{text}"));
    // Nothing was run.
    let mut record = world.coracle();
    record.args(["profile", "record"]).arg(world.path("absent.sqfs")).args(["--", "true"]);
    complaint(&record.output().unwrap(), 125);
    world.assert_nothing_left();
}
