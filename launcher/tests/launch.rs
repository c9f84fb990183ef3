//! Drives the built program as an unprivileged user on a tiny image: what programs see, and what is left behind.

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Stdio;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

mod support;

use support::{World, complaint, converse, eventually, is_root, piped, uid, unable};

#[test]
fn userns_exit_status_and_signals_are_the_programs() {
    if unable() {
        return;
    }
    let world = World::new();
    for status in [0, 1, 42, 125, 255] {
        let exit = world.shell(&[], &format!("exit {status}")).status().unwrap();
        assert_eq!(exit.code(), Some(status));
    }
    for signal in [9, 15, 11] {
        let exit = world.shell(&[], &format!("kill -{signal} $$")).status().unwrap();
        assert_eq!(exit.signal(), Some(signal));
    }
    world.assert_nothing_left();
}

#[test]
fn userns_pipes_pass_data_unchanged() {
    if unable() {
        return;
    }
    let world = World::new();
    let data: Vec<u8> = (0..3_000_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let output = converse(world.shell(&[], "cat"), data.clone());
    assert!(output.stdout == data && output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    // The standard error is not the standard output.
    let output = world.shell(&[], "echo out; echo err >&2").output().unwrap();
    assert_eq!((output.stdout.as_slice(), output.stderr.as_slice()), (b"out\n".as_slice(), b"err\n".as_slice()));
}

#[test]
fn userns_the_program_has_no_privileges_and_no_foreign_descriptors() {
    if unable() {
        return;
    }
    let world = World::new();
    // Not through a shell, which would have its own idea of signals.
    let grep = ["grep", "-E", "^(Cap|NoNewPrivs|Sig(Blk|Ign)|[UG]id)", "/proc/self/status"];
    let status = world.coracle().arg("exec").arg(&world.image).args(grep).output().unwrap();
    let status = String::from_utf8(status.stdout).unwrap();
    let (uid, none) = (uid(), "0000000000000000");
    // What a program started without coracle has: whoever runs the tests may ignore signals.
    let mut plain = std::process::Command::new("grep");
    world.dress(plain.args(["-E", "^(Sig(Blk|Ign)|[UG]id)", "/proc/self/status"]));
    let plain = String::from_utf8(plain.output().unwrap().stdout).unwrap();
    assert!(plain.contains(&format!("Uid:\t{uid}\t")), "{plain}");
    for line in ["NoNewPrivs:\t1".to_owned()]
        .into_iter()
        .chain(["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"].map(|set| format!("{set}:\t{none}")))
        .chain(plain.lines().map(str::to_owned))
    {
        assert!(status.lines().any(|one| one == line), "{line}\n{status}");
    }
    // Descriptor 3 is that of the directory being listed.
    assert_eq!(world.prints(&[], "ls /proc/self/fd"), "0\n1\n2\n3\n");
}

#[test]
fn userns_root_is_root_without_power() {
    if unable() || !is_root() {
        return;
    }
    let world = World::new();
    let mut command = std::process::Command::new(world.coracle().get_program());
    let output =
        command.arg("exec").arg(&world.image).args(["sh", "-c", "id -u; grep CapEff /proc/self/status"]).output();
    assert_eq!(String::from_utf8(output.unwrap().stdout).unwrap(), "0\nCapEff:\t0000000000000000\n");
}

#[test]
fn userns_the_caller_is_known_by_name() {
    if unable() {
        return;
    }
    let world = World::new();
    let me = uid();
    assert_eq!(world.prints(&[], "id -u"), format!("{me}\n"));
    let passwd = world.prints(&[], "cat /etc/passwd");
    assert!(passwd.starts_with("root:x:0:0:root:/root:/bin/sh\n"), "{passwd}");
    assert!(passwd.lines().any(|line| line.split(':').nth(2) == Some(&me.to_string())), "{passwd}");
    if is_root() {
        assert_eq!(world.prints(&[], "id -un; id -gn"), "tester\ngroup4242\n");
        assert!(passwd.contains(&format!("tester:x:4242:4242::{}:/bin/sh\n", world.home.display())), "{passwd}");
    }
}

#[test]
fn userns_environment() {
    if unable() {
        return;
    }
    let world = World::new();
    let get = |options: &[&str], name: &str| {
        let mut command = world.shell(options, &format!("echo \"${{{name}-unset}}\""));
        command.env("FOO", "host").env("LD_LIBRARY_PATH", "/opt/lib").env("TMPDIR", "/nowhere");
        let output = command.output().unwrap();
        String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
    };
    assert_eq!(get(&[], "FOO"), "host");
    assert_eq!(get(&["--cleanenv"], "FOO"), "unset");
    assert_eq!(get(&["-e", "--env", "FOO"], "FOO"), "host");
    assert_eq!(get(&["--env", "FOO=a b,BAR=c"], "FOO"), "a b");
    assert_eq!(get(&[], "LD_LIBRARY_PATH"), "unset");
    assert_eq!(get(&[], "TMPDIR"), "unset");
    assert_eq!(get(&["-e"], "HOME"), world.home.to_str().unwrap());
    assert_eq!(get(&[], "CORACLE_IMAGE"), world.image.to_str().unwrap());
    assert_eq!(get(&[], "PATH"), "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
    let file = world.path("env");
    fs::write(&file, "# settings\nFOO='from file'\n").unwrap();
    assert_eq!(get(&["--env-file", file.to_str().unwrap()], "FOO"), "from file");
    fs::write(&file, "ok=1\nbad line\n").unwrap();
    let output = world.shell(&["--env-file", file.to_str().unwrap()], "true").output().unwrap();
    assert!(complaint(&output, 125).contains("line 2 of environment file"));
}

#[test]
fn userns_working_directory() {
    if unable() {
        return;
    }
    let world = World::with(|tree| fs::create_dir(tree.join("work")).unwrap());
    assert_eq!(world.prints(&[], "pwd"), format!("{}\n", world.home.display()));
    assert_eq!(world.prints(&["--pwd", "/work"], "pwd; echo $PWD"), "/work\n/work\n");
    assert_eq!(world.prints(&["--cwd", "/work"], "pwd"), "/work\n");
    let output = world.shell(&["--pwd", "/nowhere"], "true").output().unwrap();
    assert!(complaint(&output, 125).contains("cannot enter /nowhere in the container: No such file"));
    let mut command = world.shell(&[], "pwd");
    let output = command.current_dir("/usr").output().unwrap();
    assert_eq!(output.stdout, b"/\n", "the image has no /usr, and the host's is not shown");
    assert!(complaint(&output, 0).contains("warning: the working directory /usr is not shown"));
}

#[test]
fn userns_a_home_behind_a_symbolic_link_keeps_its_name() {
    if unable() {
        return;
    }
    let world = World::new();
    let link = world.path("link");
    symlink(&world.home, &link).unwrap();
    fs::write(world.home.join("note"), "at home").unwrap();
    let mut command = world.shell(&["--no-mount", "tmp"], "pwd; cat $HOME/note note");
    let output = command.env("HOME", &link).env("PWD", &link).output().unwrap();
    let expected = format!("{}\nat homeat home", link.display());
    assert_eq!(String::from_utf8_lossy(&output.stdout), expected, "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn userns_binds() {
    if unable() {
        return;
    }
    let world = World::new();
    let data = world.own_dir("data");
    fs::write(data.join("file"), "content").unwrap();
    let bind = |rest: &str| format!("{}{rest}", data.display());
    // Neither the target nor its parents are in the image.
    assert_eq!(world.prints(&["-B", &bind(":/deep/in/side")], "cat /deep/in/side/file"), "content");
    let file = format!("{}/file:/deep/a.txt,{}:/other:ro", data.display(), data.display());
    assert_eq!(world.prints(&["--bind", &file], "cat /deep/a.txt; cat /other/file"), "contentcontent");
    assert_eq!(world.prints(&["-B", &bind(":/rw")], "echo new > /rw/new; cat /rw/new"), "new\n");
    assert_eq!(fs::read_to_string(data.join("new")).unwrap(), "new\n");
    let output = world.shell(&["-B", &bind(":/ro:ro")], "echo no > /ro/refused").output().unwrap();
    assert!(complaint(&output, 1).contains("Read-only file system"));
    assert!(!data.join("refused").exists());
    let output = world.shell(&["-B", "/absent-on-this-host"], "true").output().unwrap();
    assert!(complaint(&output, 125).contains("cannot bind /absent-on-this-host: there is no such file"));
    let output = world.shell(&["-B", &format!("{}/file:/bin", data.display())], "true").output().unwrap();
    assert!(complaint(&output, 125).contains("/bin"), "a file cannot go on a directory");
    world.assert_nothing_left();
}

#[test]
fn userns_a_bind_of_the_whole_host_shows_the_host() {
    if unable() {
        return;
    }
    let world = World::new();
    fs::write(world.home.join("mark"), "mine").unwrap();
    // The image is mounted over /tmp on the way; that must not show here.
    let script = format!("cat /host{}/mark", world.home.display());
    assert_eq!(world.prints(&["-B", "/:/host"], &script), "mine");
}

#[test]
fn userns_binds_below_binds_need_a_target_on_the_host() {
    if unable() {
        return;
    }
    let world = World::new();
    let (outer, inner) = (world.own_dir("outer"), world.own_dir("inner"));
    fs::write(inner.join("file"), "inner").unwrap();
    let binds = format!("{}:/o/sub,{}:/o", inner.display(), outer.display());
    let output = world.shell(&["-B", &binds], "true").output().unwrap();
    let text = complaint(&output, 125);
    assert!(text.contains("cannot mount on /o/sub in the container") && text.contains("make it on the host"), "{text}");
    fs::create_dir(outer.join("sub")).unwrap();
    assert_eq!(world.prints(&["-B", &binds], "cat /o/sub/file"), "inner", "the parent comes first, whatever the order");
}

#[test]
fn userns_links_in_the_image_lead_no_mount_outside() {
    if unable() {
        return;
    }
    let world = World::with(|tree| {
        symlink("/../../../../../../tmp/../escape", tree.join("out")).unwrap();
        fs::create_dir(tree.join("escape")).unwrap();
    });
    let data = world.own_dir("data");
    fs::write(data.join("file"), "inside").unwrap();
    let bind = format!("{}:/out", data.display());
    assert_eq!(world.prints(&["-B", &bind], "cat /escape/file"), "inside");
    // The host's root lies on the container's while mounts are made, and `..` must not lead there.
    let output =
        world.shell(&["-B", &format!("{}:/tmp/../escape", data.display())], "cat /escape/file").output().unwrap();
    assert_eq!(output.stdout, b"inside", "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn userns_defaults_show_the_host_and_contain_does_not() {
    if unable() {
        return;
    }
    let world = World::new();
    fs::write(world.home.join("note"), "x").unwrap();
    assert_eq!(world.prints(&[], "test -c /dev/null && test -d /proc/self && test -d /sys/kernel && cat ~/note"), "x");
    let contained =
        world.prints(&["--contain"], "pwd; ls -A ~ /tmp /dev; echo y > ~/new; cat ~/new; echo z > /dev/shm/z");
    let home = world.home.display();
    assert!(contained.starts_with("/\n") && contained.ends_with("y\n"), "{contained}");
    assert!(contained.contains(&format!("{home}:\ny\n")), "an empty home: {contained}");
    assert!(contained.contains("null\nptmx\npts\nrandom\nshm\nstderr\n") && !contained.contains("fuse"), "{contained}");
    assert!(!world.home.join("new").exists());
    let output = world.shell(&["--no-home", "--no-mount", "tmp,cwd"], "cat ~/note").output().unwrap();
    complaint(&output, 1);
    world.assert_nothing_left();
}

#[test]
fn userns_programs_that_cannot_be_executed_are_explained() {
    if unable() {
        return;
    }
    let world = World::with(|tree| {
        let executable = |name: &str, content: &[u8]| {
            fs::write(tree.join(name), content).unwrap();
            fs::set_permissions(tree.join(name), fs::Permissions::from_mode(0o755)).unwrap();
        };
        executable("bin/script", b"#!/opt/perl -w\n");
        executable("bin/plain", b"echo hello\n");
        executable("bin/dos", b"#!/bin/sh\r\necho\r\n");
        let mut elf = fs::read("/bin/busybox").unwrap();
        elf[18] = 243;
        executable("bin/foreign", &elf);
        fs::write(tree.join("bin/data"), "x").unwrap();
    });
    let says = |program: &str, status: i32, text: &str| {
        let output = world.coracle().arg("exec").arg(&world.image).arg(program).output().unwrap();
        let complaint = complaint(&output, status);
        assert!(complaint.contains(text), "{program}: {complaint}");
        assert_eq!(complaint.lines().count(), 1, "{complaint}");
    };
    says("absent", 127, "cannot find absent in the container: searched /usr/local/sbin:");
    says("/bin/absent", 127, "cannot find /bin/absent in the container");
    says("data", 126, "cannot execute /bin/data in the container: it has no execute permission");
    says("/etc", 126, "cannot execute /etc in the container: it is a directory");
    says("script", 126, "its interpreter /opt/perl is not in the container");
    says("dos", 126, "carriage return");
    says("plain", 126, "run it with its interpreter");
    says("foreign", 126, "it is built for riscv64");
    world.assert_nothing_left();
}

#[test]
fn userns_run_and_shell_follow_the_image() {
    if unable() {
        return;
    }
    let world = World::with(|tree| {
        fs::create_dir_all(tree.join(".coracle")).unwrap();
        let config = r#"{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]},
            "config":{"Env":["GREETING=hi"],"Entrypoint":["/bin/sh","-c","echo $GREETING $0 $1"],"Cmd":["a","b"]}}"#;
        fs::write(tree.join(".coracle/config.json"), config).unwrap();
    });
    let run = |verb: &str, words: &[&str]| {
        let output = world.coracle().arg(verb).arg(&world.image).args(words).output().unwrap();
        String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
    };
    assert_eq!(run("run", &[]), "hi a b\n");
    assert_eq!(run("run", &["--help", "-B"]), "hi --help -B\n");
    assert_eq!(run("shell", &["-c", "echo in the shell"]), "in the shell\n");
    assert!(run("inspect", &[]).contains("environment   GREETING=hi"));
    let plain = World::new();
    let output = plain.coracle().arg("run").arg(&plain.image).output().unwrap();
    assert!(complaint(&output, 125).contains("it names no program of its own"));
}

#[test]
fn userns_bytes_that_are_no_text_reach_the_program() {
    if unable() {
        return;
    }
    let world = World::new();
    let raw = OsStr::from_bytes(b"\xff\xfe");
    let mut command = world.coracle();
    command.arg("exec").arg(&world.image).args(["sh", "-c", "printf %s \"$0$RAW\""]).arg(raw).env("RAW", raw);
    assert_eq!(command.output().unwrap().stdout, b"\xff\xfe\xff\xfe");
}

#[test]
fn userns_a_sif_file_runs() {
    if unable() {
        return;
    }
    let world = World::new();
    let path = world.path("image.sif");
    fs::write(&path, support::sif(&fs::read(&world.image).unwrap())).unwrap();
    let output = world.coracle().arg("exec").arg(&path).args(["echo", "from a sif"]).output().unwrap();
    assert_eq!(output.stdout, b"from a sif\n", "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn userns_damaged_images_are_refused_before_anything_starts() {
    if unable() {
        return;
    }
    let world = World::new();
    let mut bytes = fs::read(&world.image).unwrap();
    bytes.truncate(bytes.len() / 2);
    fs::write(&world.image, &bytes).unwrap();
    let output = world.shell(&[], "true").output().unwrap();
    assert!(complaint(&output, 125).contains("tiny.sqfs"));
    world.assert_nothing_left();
}

/// The limits of a user namespace are its owner's to set, so an unprivileged user can be an administrator who has
/// switched namespaces off.
#[test]
fn userns_limits_are_explained_and_a_server_without_mount_ends() {
    if unable() {
        return;
    }
    let world = World::new();
    let limited = |limit: &str, words: &[&str]| {
        let mut command = std::process::Command::new("unshare");
        world.dress(&mut command);
        let script = format!("echo 0 > /proc/sys/user/{limit} && exec \"$@\"");
        command.args(["-Ur", "sh", "-c", &script, "--"]).arg(world.coracle().get_program()).args(words);
        command.output().unwrap()
    };
    let exec = ["exec", world.image.to_str().unwrap(), "true"];
    let text = complaint(&limited("max_user_namespaces", &exec), 125);
    assert!(
        text.contains("cannot create a user namespace") && text.contains("raise user.max_user_namespaces"),
        "{text}"
    );
    // By now the server has been started; it must not wait for a mount that never comes.
    let text = complaint(&limited("max_mnt_namespaces", &exec), 125);
    assert!(text.contains("cannot create a mount namespace") && text.contains("max_mnt_namespaces"), "{text}");
    world.assert_nothing_left();
    let doctor = limited("max_user_namespaces", &["doctor"]);
    let text = String::from_utf8_lossy(&doctor.stdout);
    assert_eq!(doctor.status.code(), Some(1), "{text}");
    assert!(
        text.contains("sysctl -w user.max_user_namespaces=15000") && text.contains("cannot run images yet"),
        "{text}"
    );
}

#[test]
fn userns_launches_nest() {
    if unable() {
        return;
    }
    let world = World::new();
    let inner =
        format!("{} exec {} sh -c 'id -u; pwd'", world.coracle().get_program().display(), world.image.display());
    // The program needs the C library of the host, if it was not built static.
    let output = world.shell(&["-B", "/usr,/lib,/lib64"], &inner).output().unwrap();
    let expected = format!("{}\n{}\n", uid(), world.home.display());
    assert_eq!(String::from_utf8_lossy(&output.stdout), expected, "{}", String::from_utf8_lossy(&output.stderr));
    world.assert_nothing_left();
}

#[test]
fn userns_the_server_is_not_the_programs_business() {
    if unable() {
        return;
    }
    let world = World::new();
    let mut child = piped(world.shell(&[], "echo up; read line; cat /etc/passwd; exit 3"));
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    output.read_line(&mut line).unwrap();
    assert_eq!(line, "up\n");
    let servers = world.servers();
    let [server] = servers.as_slice() else { panic!("{servers:?}") };
    // Fields after the name: state, parent, group, session.
    let stat = fs::read_to_string(format!("/proc/{server}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    assert_ne!(fields[1], child.id().to_string(), "not a child of the program");
    assert_eq!(fields[3], server.to_string(), "a session of its own, out of the terminal's reach");
    if is_root() {
        let open = fs::read_dir(format!("/proc/{server}/fd")).unwrap();
        let mut open: Vec<String> =
            open.map(|fd| fs::read_link(fd.unwrap().path()).unwrap().to_string_lossy().into_owned()).collect();
        open.sort();
        // Of the session: connections, the namespaces that it keeps, and the directory of its socket.
        let sessions = format!("/coracle-{}", uid());
        let known = ["anon_inode:", "pidfd:", "socket:", "mnt:", "user:"];
        open.retain(|target| !known.iter().any(|kind| target.starts_with(kind)) && !target.ends_with(&sessions));
        let log = world.path("server.log");
        // The last tells it whether a processor is free, and nothing about any process.
        let files = [world.image.to_str().unwrap(), log.to_str().unwrap(), "/proc/loadavg"];
        let expected = [["/dev/fuse", "/dev/null"].as_slice(), &files].concat();
        let unexpected: Vec<_> = open.iter().filter(|target| !expected.contains(&target.as_str())).collect();
        assert!(unexpected.is_empty(), "{unexpected:?}");
        assert_eq!(fs::read_link(format!("/proc/{server}/cwd")).unwrap(), Path::new("/"));
        let status = fs::read_to_string(format!("/proc/{server}/status")).unwrap();
        assert!(status.contains("CapEff:\t0000000000000000") && status.contains("NoNewPrivs:\t1"), "{status}");
    }
    // A scheduler's warning signals go to every process of a job.
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGUSR1] {
        kill(Pid::from_raw(*server), signal).unwrap();
    }
    child.stdin.take().unwrap().write_all(b"go\n").unwrap();
    let rest: Vec<String> = output.lines().map(Result::unwrap).collect();
    assert!(rest[0].starts_with("root:"), "{rest:?}");
    assert_eq!(child.wait().unwrap().code(), Some(3));
    world.assert_nothing_left();
}

#[test]
fn userns_a_killed_program_leaves_nothing() {
    if unable() {
        return;
    }
    let world = World::new();
    let mut child = piped(world.shell(&[], "echo up; sleep 1000"));
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut String::new()).unwrap();
    assert_eq!(world.servers().len(), 1);
    child.kill().unwrap();
    child.wait().unwrap();
    // The shell was killed, the sleep it started was not: the mount is the sleep's now.
    let sleeper = || {
        let processes = fs::read_dir("/proc").unwrap().map(|entry| entry.unwrap().path());
        processes.into_iter().find(|path| {
            let root = fs::read(path.join("cmdline")).unwrap_or_default() == b"sleep\x001000\0";
            let image = fs::read(path.join("environ")).unwrap_or_default();
            root && String::from_utf8_lossy(&image).contains(world.image.to_str().unwrap())
        })
    };
    if let Some(path) = sleeper() {
        assert_eq!(world.servers().len(), 1, "someone still needs it");
        let pid: i32 = path.file_name().unwrap().to_str().unwrap().parse().unwrap();
        kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    }
    world.assert_nothing_left();
}

#[test]
fn userns_a_killed_server_ends_the_mount_not_the_host() {
    if unable() {
        return;
    }
    let world = World::new();
    let mut child = piped(world.shell(&[], "echo up; read line; cat /bin/wc > /dev/null || exit 9"));
    let mut output = BufReader::new(child.stdout.take().unwrap());
    output.read_line(&mut String::new()).unwrap();
    let server = Pid::from_raw(world.servers()[0]);
    kill(server, Signal::SIGKILL).unwrap();
    eventually("the server to die", || world.servers().is_empty());
    // It may be gone already: its own pages came from the image.
    let _ = child.stdin.take().unwrap().write_all(b"go\n");
    let status = child.wait().unwrap();
    assert!(!status.success(), "{status}: files are gone, and the program is told so");
    world.assert_nothing_left();
}

#[test]
fn userns_a_background_process_keeps_its_files() {
    if unable() {
        return;
    }
    let world = World::new();
    let done = world.home.join("done");
    let script = "(sleep 1; cat /etc/passwd > ~/done) > /dev/null 2>&1 & exit 4";
    assert_eq!(world.shell(&[], script).status().unwrap().code(), Some(4));
    eventually("the background process", || fs::read_to_string(&done).is_ok_and(|text| text.contains("root:")));
    world.assert_nothing_left();
}

#[test]
fn userns_many_at_once() {
    if unable() {
        return;
    }
    let world = World::new();
    let children: Vec<_> =
        (0..16).map(|n| world.shell(&[], &format!("exit {n}")).stdout(Stdio::null()).spawn().unwrap()).collect();
    for (n, child) in children.into_iter().enumerate() {
        assert_eq!(child.wait_with_output().unwrap().status.code(), Some(i32::try_from(n).unwrap()));
    }
    world.assert_nothing_left();
}

#[test]
fn userns_a_terminal_has_job_control() {
    if unable() {
        return;
    }
    let world = World::new();
    let mut command = std::process::Command::new("script");
    world.dress(&mut command);
    let line = format!("{} shell {}", world.coracle().get_program().display(), world.image.display());
    command.args(["-qec", &line, "/dev/null"]).env("TERM", "dumb");
    let Ok(mut child) = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn() else {
        support::missing("script");
        return;
    };
    let mut stdin = child.stdin.take().unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let mut until = |mark: &str| {
        let mut text = String::new();
        while !text.lines().any(|line| line.trim_end().ends_with(mark) && !line.contains("echo")) {
            assert_ne!(output.read_line(&mut text).unwrap(), 0, "{mark} did not come: {text}");
        }
        text
    };
    stdin.write_all(b"stty -echo; tty; echo ready; sleep 100; echo status-$?\n").unwrap();
    let text = until("ready");
    assert!(text.contains("/dev/pts/") && !text.contains("job control turned off"), "{text}");
    std::thread::sleep(std::time::Duration::from_millis(200));
    // Ctrl-C reaches the foreground program, neither the shell nor the server.
    stdin.write_all(b"\x03").unwrap();
    stdin.write_all(b"sleep 50 & jobs; kill %1; wait; cat /etc/passwd; echo finished\n").unwrap();
    let text = until("finished");
    assert!(text.contains("sleep 50") && text.contains("root:x:0:0"), "{text}");
    stdin.write_all(b"exit 6\n").unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(6));
    world.assert_nothing_left();
}
