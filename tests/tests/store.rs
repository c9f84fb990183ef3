//! The image store by the real program: many processes on several hosts, killed and stopped ones, full disks, images in
//! use. Hosts are namespaces with names and processes of their own, so that they cannot tell whether each other's
//! processes live.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests fail by panicking")]

use coracle_tests::fixtures::corner_image;
use coracle_tests::layout::{Layout, Tar};
use coracle_tests::needs;
use coracle_tests::needs::find_tool;
use coracle_tests::process::{Finished, User, coracle_binary, run, wait_within};
use coracle_tests::tree::sha256_of;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Seconds after which a silent converter counts as dead.
const LEASE: u64 = 2;
/// Longest that anything here may take that is not blocked.
const PATIENCE: Duration = Duration::from_secs(90);

/// As long as a host of [`Mounts`] may still believe what it knew.
const MEMORY: Duration = Duration::from_millis(1100);

/// A user with a store, and an image that takes a while to convert.
struct World {
    user: User,
    dir: tempfile::TempDir,
    layout: Layout,
    store: PathBuf,
}

impl World {
    fn new() -> Self {
        Self::of(User::unprivileged())
    }

    fn of(user: User) -> Self {
        let dir = user.temp_dir();
        let layout = Layout::new(&dir.path().join("layout"), &[files(1, 120), files(2, 120)]);
        let store = dir.path().join("store");
        let config = dir.path().join("home/.config/coracle");
        fs::create_dir_all(&config).unwrap();
        fs::write(config.join("coracle.toml"), format!("[store]\nlease-seconds = {LEASE}\n")).unwrap();
        Self { user, dir, layout, store }
    }

    fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = self.user.command(program);
        command
            .current_dir(self.dir.path())
            .env("HOME", self.dir.path().join("home"))
            .env("CORACLE_STORE", &self.store);
        // A session would outlive the test.
        command.env("CORACLE_SESSION", "off");
        command
    }

    fn coracle(&self, words: &[&str]) -> Command {
        let mut command = self.command(coracle_binary().unwrap());
        command.args(words);
        command
    }

    fn run(&self, words: &[&str]) -> Finished {
        run(&mut self.coracle(words))
    }

    fn source(&self) -> String {
        self.layout.source()
    }

    /// A shell script on a host of its own.
    fn host(&self, name: &str, script: &str) -> Command {
        let mut command = self.command(find_tool("unshare").unwrap());
        if !self.is_root() {
            command.args(["--user", "--map-root-user"]);
        }
        command.args(["--uts", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "/bin/sh", "-c"]);
        command.arg(format!("{} {name} || exit; {script}", find_tool("hostname").unwrap().display()));
        command.env("CORACLE", coracle_binary().unwrap());
        command
    }

    fn is_root(&self) -> bool {
        self.user.uid == 0
    }

    /// Everything in the store but images, what is noted of them, and names.
    fn leftovers(&self) -> Vec<String> {
        let mut found = Vec::new();
        for part in ["claims", "images", "refs"] {
            for entry in fs::read_dir(self.store.join(part)).unwrap() {
                let name = entry.unwrap().file_name().into_string().unwrap();
                if part == "claims" || name.starts_with('.') {
                    found.push(format!("{part}/{name}"));
                }
            }
        }
        found
    }
}

/// A layer of files that compress somewhat, so that converting them takes a noticeable time.
fn files(seed: u64, count: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        // Five bits of eight.
        b"abcdefghijklmnopqrstuvwxyz012345"[(state & 31) as usize]
    };
    (0..count)
        .fold(Tar::default(), |tar, number| {
            let content: Vec<u8> = (0..100_000).map(|_| next()).collect();
            tar.file(&format!("file-{seed}-{number}"), &content)
        })
        .finish()
}

fn events(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
}

fn count(events: &[Value], name: &str) -> usize {
    events.iter().filter(|event| event["event"] == name).count()
}

/// Has 16 processes on four hosts pull; `stores` has the store's path as each host has it. Each result's file name.
fn pull_on_four_hosts(world: &World, stores: &[PathBuf]) -> BTreeSet<PathBuf> {
    let source = world.source();
    let children: Vec<(usize, Child)> = (0..4)
        .map(|host| {
            let script = format!(
                "for i in 1 2 3 4; do \"$CORACLE\" pull --json {source} >{out}/$i-{host}.out 2>{out}/$i-{host}.err & done; \
                 wait",
                out = world.dir.path().display()
            );
            let mut command = world.host(&format!("node{host}"), &script);
            command.env("CORACLE_STORE", &stores[host]).stdin(Stdio::null());
            (host, command.spawn().unwrap())
        })
        .collect();
    for (host, mut child) in children {
        assert!(wait_within(&mut child, PATIENCE).expect("blocked").success(), "host {host}");
    }
    let mut all = Vec::new();
    let mut paths = BTreeSet::new();
    for (host, store) in stores.iter().enumerate() {
        for process in 1..=4 {
            let file =
                |kind: &str| fs::read_to_string(world.dir.path().join(format!("{process}-{host}.{kind}"))).unwrap();
            let told = events(&file("out"));
            let done = told.last().unwrap_or_else(|| panic!("host {host}, process {process}: {}", file("err")));
            assert_eq!(done["event"], "done", "host {host}, process {process}: {}", file("err"));
            let path = PathBuf::from(done["path"].as_str().unwrap());
            assert!(path.starts_with(store));
            paths.insert(path.strip_prefix(store).unwrap().to_path_buf());
            all.extend(told);
        }
    }
    assert_eq!(count(&all, "converting"), 1, "conversions");
    assert_eq!(all.iter().filter(|event| event["converted"] == true).count(), 1);
    let waiting = all.iter().filter(|event| event["event"] == "waiting").collect::<Vec<_>>();
    assert!(!waiting.is_empty() && waiting.iter().all(|event| event["host"].as_str().unwrap().starts_with("node")));
    paths
}

/// The image that a plain conversion makes, to the byte.
fn expected(world: &World) -> String {
    let file = world.dir.path().join("expected.sqfs");
    world.run(&["build", "-q", "-F", file.to_str().unwrap(), &world.source()]).success();
    sha256_of(&file)
}

fn check_image(world: &World, image: &Path) {
    assert_eq!(sha256_of(image), expected(world));
    run(Command::new(find_tool("unsquashfs").unwrap()).arg("-s").arg(image)).success();
    let inspected = world.run(&["inspect", "--json", &world.source()]).success().stdout;
    let inspected: Value = serde_json::from_str(&inspected).unwrap();
    assert_eq!(inspected["path"], image.to_str().unwrap());
}

#[test]
fn userns_sixteen_processes_on_four_hosts_pull_and_one_converts() {
    needs!(Coracle, Tool("unshare"), Tool("unsquashfs"));
    let world = World::new();
    let stores = vec![world.store.clone(); 4];
    for _ in 0..3 {
        let paths = pull_on_four_hosts(&world, &stores);
        assert_eq!(paths.len(), 1);
        check_image(&world, &world.store.join(paths.first().unwrap()));
        assert!(world.leftovers().is_empty(), "{:?}", world.leftovers());
        world.run(&["rmi", &world.source()]).success();
    }
}

/// A directory as several hosts see it: through a file system that has no nameless files and, as NFS, keeps what it
/// knows of names and attributes for a second.
struct Mounts(Vec<PathBuf>);

impl Mounts {
    fn new(world: &World) -> Self {
        fs::create_dir(&world.store).unwrap();
        let mounts = Self((0..4).map(|host| world.dir.path().join(format!("mount{host}"))).collect());
        for mount in &mounts.0 {
            fs::create_dir(mount).unwrap();
            let mut command = Command::new(find_tool("bindfs").unwrap());
            command.args(["-o", "attr_timeout=1,entry_timeout=1,negative_timeout=1"]).arg(&world.store).arg(mount);
            run(&mut command).success();
        }
        mounts
    }
}

impl Drop for Mounts {
    fn drop(&mut self) {
        for mount in &self.0 {
            let _ = run(Command::new("umount").arg("-l").arg(mount));
        }
    }
}

fn root() -> User {
    User { name: "root".into(), uid: 0, gid: 0, home: "/root".into() }
}

#[test]
fn root_sixteen_processes_on_four_hosts_with_caches_of_their_own() {
    needs!(Coracle, Root, Tool("unshare"), Tool("bindfs"), Tool("unsquashfs"));
    let world = World::of(root());
    let mounts = Mounts::new(&world);
    for _ in 0..3 {
        let paths = pull_on_four_hosts(&world, &mounts.0);
        assert_eq!(paths.len(), 1);
        check_image(&world, &world.store.join(paths.first().unwrap()));
        assert!(world.leftovers().is_empty(), "{:?}", world.leftovers());
        world.run(&["rmi", &world.source()]).success();
        std::thread::sleep(MEMORY);
    }
}

/// Kills the process that converts, at random moments, while one on its own host and one on another wait for it. Hosts
/// are given time to forget between the rounds.
fn kill_at_random_moments(world: &World, stores: [&Path; 2], rounds: usize, forget: Duration) {
    let expected = expected(world);
    let small = Layout::new(&world.dir.path().join("small"), &[Tar::default().file("x", b"y").finish()]).source();
    // How long a pull takes, from its start to its end.
    let begun = Instant::now();
    world.run(&["pull", "-q", &world.source()]).success();
    let whole = begun.elapsed();
    world.run(&["rmi", &world.source()]).success();
    let mut seed = [0; 8];
    File::open("/dev/urandom").unwrap().read_exact(&mut seed).unwrap();
    let mut random = u64::from_le_bytes(seed) | 1;
    let mut died = 0;
    for round in 0..rounds {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let moment = whole.mul_f64((random % 1000) as f64 / 1000.0);
        let pull = |store: &Path| {
            let mut command = world.coracle(&["pull", "--json", &world.source()]);
            command.env("CORACLE_STORE", store).stdout(Stdio::piped()).stderr(Stdio::piped());
            command
        };
        let mut victim = pull(stores[0]).spawn().unwrap();
        let near = pull(stores[0]).spawn().unwrap();
        let script = format!("exec \"$CORACLE\" pull --json {}", world.source());
        let mut far = world.host("far", &script);
        far.env("CORACLE_STORE", stores[1]).stdout(Stdio::piped()).stderr(Stdio::piped());
        let far = far.spawn().unwrap();
        std::thread::sleep(moment);
        victim.kill().unwrap();
        let what = format!("round {round}, killed after {moment:?} of {whole:?} (seed {seed:?})");
        let mut conversions = 0;
        for mut child in [near, far] {
            let status = wait_within(&mut child, PATIENCE).unwrap_or_else(|| panic!("{what}: blocked"));
            let output = child.wait_with_output().unwrap();
            let text = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(status.success(), "{what}: {text}");
            let told = events(&String::from_utf8(output.stdout).unwrap());
            conversions += count(&told, "converting");
            let path = PathBuf::from(told.last().unwrap()["path"].as_str().unwrap());
            assert_eq!(sha256_of(&path), expected, "{what}");
        }
        died += usize::from(!victim.wait().unwrap().success());
        assert!(conversions <= 1, "{what}: {conversions} conversions by those who lived");
        // What is found of the dead is removed by the next who converts.
        world.run(&["pull", "-q", &small]).success();
        world.run(&["rmi", &world.source(), &small]).success();
        assert!(world.leftovers().is_empty(), "{what}: {:?}", world.leftovers());
        assert_eq!(fs::read_dir(world.store.join("images")).unwrap().count(), 0, "{what}");
        std::thread::sleep(forget);
    }
    assert!(died > 0, "no victim was killed before its end");
}

#[test]
fn userns_a_converter_killed_at_random_moments_loses_nothing_and_blocks_nobody() {
    needs!(Coracle, Tool("unshare"));
    let world = World::new();
    kill_at_random_moments(&world, [&world.store, &world.store], 20, Duration::ZERO);
}

#[test]
fn root_a_converter_killed_where_every_file_has_a_name() {
    needs!(Coracle, Root, Tool("unshare"), Tool("bindfs"));
    let world = World::of(root());
    let mounts = Mounts::new(&world);
    kill_at_random_moments(&world, [&mounts.0[0], &mounts.0[1]], 10, MEMORY);
}

#[test]
fn userns_a_converter_that_was_stopped_and_comes_back_does_no_harm() {
    needs!(Coracle, Tool("unshare"));
    let world = World::new();
    let mut slow = world.coracle(&["pull", "--json", &world.source()]);
    let mut slow = slow.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(slow.stdout.take().unwrap()).lines();
    assert!(lines.next().unwrap().unwrap().contains("converting"));
    let pid = Pid::from_raw(slow.id().try_into().unwrap());
    kill(pid, Signal::SIGSTOP).unwrap();
    let begun = Instant::now();
    let other = world.run(&["pull", "--json", &world.source()]).success();
    assert!(begun.elapsed() > Duration::from_secs(LEASE), "it was given its time");
    let told = events(&other.stdout);
    assert_eq!((count(&told, "waiting"), count(&told, "converting")), (1, 1));
    let image = PathBuf::from(told.last().unwrap()["path"].as_str().unwrap());
    let inode = image.metadata().unwrap().ino();
    kill(pid, Signal::SIGCONT).unwrap();
    let told = events(&lines.map(Result::unwrap).collect::<Vec<_>>().join("\n"));
    assert!(wait_within(&mut slow, PATIENCE).unwrap().success());
    assert_eq!(told.last().unwrap()["converted"], false, "it noticed");
    assert_eq!(image.metadata().unwrap().ino(), inode, "nothing was replaced");
    check_image(&world, &image);
    assert!(world.leftovers().is_empty(), "{:?}", world.leftovers());
}

#[test]
fn userns_a_full_disk_is_said_with_the_way_out_and_nothing_is_left() {
    needs!(Coracle, Tool("unshare"), Tool("mount"), Tool("find"));
    let world = World::new();
    fs::create_dir(&world.store).unwrap();
    if needs::is_root() {
        std::os::unix::fs::chown(&world.store, Some(world.user.uid), Some(world.user.gid)).unwrap();
    }
    let (mount, find) = (find_tool("mount").unwrap(), find_tool("find").unwrap());
    // Refused before, as it cannot fit, and found out while writing, as a quota is.
    for (size, text) in [("400k", "it needs at least 7"), ("4m", "the file system is full after")] {
        let script = format!(
            "{} -t tmpfs -o size={size} none {store} && \"$CORACLE\" pull --json {}; echo status $?; {} {store} -type f",
            mount.display(),
            world.source(),
            find.display(),
            store = world.store.display()
        );
        let done = run(&mut world.host("node", &script));
        assert!(done.stdout.ends_with("status 125\n"), "{size}: {done:?}");
        assert!(done.stderr.contains(text) && done.stderr.contains("coracle prune"), "{size}: {done:?}");
        assert!(done.stderr.contains(world.store.to_str().unwrap()), "{size}: {done:?}");
        assert!(done.stdout.contains(r#""event":"failed""#), "{size}: {done:?}");
    }
}

#[test]
fn userns_an_image_that_is_removed_while_it_runs_goes_on_running() {
    needs!(Coracle, Fuse, Tool("busybox"));
    let world = World::new();
    let source = format!("oci:{}:latest", corner_image().display());
    world.run(&["pull", "-q", &source, "lab/app:1"]).success();
    let busybox = fs::metadata(find_tool("busybox").unwrap()).unwrap().len();
    let mut running =
        world.coracle(&["exec", "lab/app:1", "/bin/sh", "-c", "echo up; read x; cat /bin/busybox | wc -c"]);
    let mut running = running.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(running.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "up");
    let removed = world.run(&["rmi", "lab/app:1"]).success();
    assert!(removed.stdout.starts_with("lab/app:1: removed, "), "{removed:?}");
    assert_eq!(fs::read_dir(world.store.join("images")).unwrap().count(), 0);
    running.stdin.take().unwrap().write_all(b"\n").unwrap();
    assert_eq!(lines.next().unwrap().unwrap().trim(), busybox.to_string());
    assert!(running.wait().unwrap().success());
    let gone = world.run(&["exec", "lab/app:1", "true"]).exited(125);
    assert!(gone.stderr.contains("no stored image of that name"), "{gone:?}");
}

#[test]
fn userns_launches_that_all_need_the_image_convert_it_once() {
    needs!(Coracle, Fuse, Tool("busybox"));
    let world = World::new();
    let source = format!("oci:{}:latest", corner_image().display());
    let launch = |number: u32| {
        let mut command = world.coracle(&["exec", &source, "/bin/sh", "-c", &format!("echo {number}")]);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let launches: Vec<(u32, Child)> = (0..12).map(|number| (number, launch(number))).collect();
    let mut conversions = 0;
    for (number, child) in launches {
        let output = child.wait_with_output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.stdout, format!("{number}\n").as_bytes(), "{text}");
        conversions += text.matches("coracle: writing tables").count();
    }
    assert_eq!(conversions, 1);
    assert!(world.leftovers().is_empty(), "{:?}", world.leftovers());
}

#[test]
fn userns_an_image_is_given_by_file_by_name_or_by_source() {
    needs!(Coracle, Fuse, Tool("busybox"));
    let world = World::new();
    let dir = world.dir.path();
    fs::create_dir(dir.join("root")).unwrap();
    fs::create_dir(dir.join("root/bin")).unwrap();
    fs::copy(find_tool("busybox").unwrap(), dir.join("root/bin/busybox")).unwrap();
    for applet in ["sh", "cat", "echo"] {
        symlink("busybox", dir.join("root/bin").join(applet)).unwrap();
    }
    let pack = |what: &str| {
        fs::write(dir.join("root/what"), what).unwrap();
        run(Command::new("tar")
            .args(["-C", dir.join("root").to_str().unwrap(), "-cf"])
            .arg(dir.join("app.tar"))
            .arg("."))
        .success();
        fs::set_permissions(dir.join("app.tar"), PermissionsExt::from_mode(0o644)).unwrap();
    };
    let exec = |words: &[&str]| world.run(&[&["exec"], words, &["/bin/cat", "/what"]].concat());
    pack("one");
    let first = exec(&["tar:app.tar"]).success();
    assert_eq!(first.stdout, "one");
    assert!(first.stderr.contains("coracle: layer 1/1 app.tar: "), "{first:?}");
    let second = exec(&["tar:app.tar"]).success();
    assert_eq!((second.stdout.as_str(), second.stderr.as_str()), ("one", ""), "it is there");
    let forced = exec(&["--pull=always", "tar:app.tar"]).success();
    assert!(forced.stderr.contains("layer 1/1"), "{forced:?}");
    world.run(&["pull", "-q", "tar:app.tar", "kept"]).success();
    pack("two, longer");
    let refused = exec(&["--pull=never", "tar:app.tar"]).exited(125);
    assert!(refused.stderr.contains("--pull=never"), "{refused:?}");
    assert_eq!(exec(&["tar:app.tar"]).success().stdout, "two, longer", "a source that changed");
    assert_eq!(exec(&["kept"]).success().stdout, "one", "a name that was chosen");
    // A file of that name comes first.
    world.run(&["build", "-q", "kept", "tar:app.tar"]).success();
    assert_eq!(exec(&["kept"]).success().stdout, "two, longer");
    let spec: Value = serde_json::from_str(&world.run(&["spec", "tar:app.tar", "/bin/cat"]).success().stdout).unwrap();
    assert!(spec["annotations"]["org.coracle.image"].as_str().unwrap().starts_with(world.store.to_str().unwrap()));
    // What is wrong with a source is said once, by the process that pulls.
    fs::write(dir.join("bad.tar"), "no tar").unwrap();
    let bad = exec(&["tar:bad.tar"]).exited(125);
    assert_eq!(bad.stderr.matches("error:").count(), 1, "{bad:?}");
    let list: Value = serde_json::from_str(&world.run(&["images", "--json"]).success().stdout).unwrap();
    assert_eq!(list.as_array().unwrap().len(), 2);
    let table = world.run(&["images"]).success().stdout;
    assert!(table.contains("kept") && table.contains(&format!("tar:{}/app.tar", dir.display())), "{table}");
    world.run(&["rmi", "tar:app.tar"]).success();
    let pruned = world.run(&["prune", "--all", "--dry-run"]).success().stdout;
    assert!(pruned.contains("would remove 1 images"), "{pruned}");
    let pruned: Value = serde_json::from_str(&world.run(&["prune", "--all", "--json"]).success().stdout).unwrap();
    assert_eq!(pruned["images"][0]["names"][0], "kept");
    assert_eq!(world.run(&["images"]).success().stdout, "no images\n");
}
