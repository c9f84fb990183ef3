//! An unprivileged user with a home, a tiny image, and the built program.
//!
//! As root the tests drop to a user id that no database knows; else they run as whoever runs them.
#![allow(dead_code, reason = "each test file uses its part")]
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "only tests use it, and skips are said aloud")]

use std::fs;
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::thread::sleep;
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// The user that the tests become when root runs them.
pub const UID: u32 = 4242;
/// Longest wait for something that should take milliseconds.
const PATIENCE: Duration = Duration::from_secs(10);
const BUSYBOX: &str = "/bin/busybox";

/// A user's world for one test; gone with it.
pub struct World {
    dir: TempDir,
    pub home: PathBuf,
    pub image: PathBuf,
}

/// Whether the tests can become someone else.
pub fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// The user id that programs run with.
pub fn uid() -> u32 {
    if is_root() { UID } else { nix::unistd::geteuid().as_raw() }
}

/// Says why a test does not run; on a build server that is a failure.
pub fn missing(what: &str) -> bool {
    assert!(
        std::env::var_os("CI").is_none(),
        "{what} is missing: install it (Debian: squashfs-tools, busybox-static, bsdutils)"
    );
    println!("skipped: {what} is missing");
    true
}

/// A busybox that needs a loader would need it in the image, too; a program says in its text which one.
fn has_static_busybox() -> bool {
    let loader = b"/ld-linux";
    fs::read(BUSYBOX)
        .is_ok_and(|program| !program[..program.len().min(4096)].windows(loader.len()).any(|part| part == loader))
}

/// Whether what the tests need is missing.
pub fn unable() -> bool {
    let mksquashfs = Command::new("mksquashfs").arg("-version").output().is_err();
    (mksquashfs && missing("mksquashfs")) || (!has_static_busybox() && missing("a static busybox")) || {
        if is_root() && Path::new("/dev/fuse").exists() {
            fs::set_permissions("/dev/fuse", fs::Permissions::from_mode(0o666)).unwrap();
        }
        fs::File::options().read(true).write(true).open("/dev/fuse").is_err() && missing("/dev/fuse")
    }
}

/// A copy of the program that the user can reach, whatever directory it was built in.
fn program() -> &'static Path {
    static PROGRAM: OnceLock<(TempDir, PathBuf)> = OnceLock::new();
    &PROGRAM
        .get_or_init(|| {
            let dir = TempDir::new().unwrap();
            fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
            let path = dir.path().join("coracle");
            let built = Path::new(env!("CARGO_BIN_EXE_coracle"));
            fs::hard_link(built, &path).or_else(|_| fs::copy(built, &path).map(drop)).unwrap();
            (dir, path)
        })
        .1
}

/// A world without an image, for what needs none.
pub fn bare() -> World {
    let dir = tempfile::Builder::new().prefix("coracle-test-").tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let (home, image) = (dir.path().join("home"), dir.path().join("tiny.sqfs"));
    fs::create_dir(&home).unwrap();
    chown(&home, Some(uid()), Some(uid())).unwrap();
    // The server has no standard error; what it cannot do, and is not allowed to do, it says here.
    let log = dir.path().join("server.log");
    fs::write(&log, "").unwrap();
    fs::set_permissions(&log, fs::Permissions::from_mode(0o666)).unwrap();
    World { dir, home, image }
}

impl World {
    /// An image with busybox and little else: no `/proc`, no `/dev`, no `/tmp`.
    pub fn new() -> Self {
        static IMAGE: OnceLock<Vec<u8>> = OnceLock::new();
        let world = bare();
        fs::write(&world.image, IMAGE.get_or_init(|| fs::read(Self::with(|_| {}).image).unwrap())).unwrap();
        world
    }

    /// The same with what `change` does to its tree.
    pub fn with(change: impl FnOnce(&Path)) -> Self {
        let world = bare();
        let tree = world.path("tree");
        let bin = tree.join("bin");
        fs::create_dir_all(&bin).unwrap();
        fs::create_dir(tree.join("etc")).unwrap();
        fs::copy(BUSYBOX, bin.join("busybox")).unwrap();
        let applets =
            "sh cat echo env grep head id kill ls mkdir printf pwd sha256sum sleep stat stty tail touch true tty wc";
        applets.split(' ').for_each(|applet| symlink("busybox", bin.join(applet)).unwrap());
        fs::write(tree.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\n").unwrap();
        change(&tree);
        let mut command = Command::new("mksquashfs");
        command.args([&tree, &world.image]).args(["-noappend", "-quiet", "-no-progress", "-all-root", "-comp", "gzip"]);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        world
    }

    /// Where the user can be given files; the user cannot write here.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A directory that the user owns.
    pub fn own_dir(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        fs::create_dir(&path).unwrap();
        chown(&path, Some(uid()), Some(uid())).unwrap();
        path
    }

    /// `coracle`, as the user, at home, with a small environment.
    pub fn coracle(&self) -> Command {
        let mut command = Command::new(program());
        self.dress(&mut command);
        command
    }

    /// Has `command` run as the user, at home.
    pub fn dress(&self, command: &mut Command) {
        command.current_dir(&self.home).env_clear().stdin(Stdio::null());
        command.env("HOME", &self.home).env("USER", "tester").env("PATH", "/usr/bin:/bin");
        command.env("RUST_BACKTRACE", "0").env("CORACLE_SERVER_LOG", self.path("server.log"));
        // How to run all tests again with the fallbacks.
        for name in ["CORACLE_FUSE", "CORACLE_SESSION"] {
            command.envs(std::env::var_os(name).map(|value| (name, value)));
        }
        // The default would have every test wait for the end of its session.
        command.env("CORACLE_SESSION_IDLE", "1");
        if is_root() {
            command.uid(UID).gid(UID);
        }
    }

    /// `coracle exec` with `options` and a shell that runs `script`.
    pub fn shell(&self, options: &[&str], script: &str) -> Command {
        let mut command = self.coracle();
        command.arg("exec").args(options).arg(&self.image).args(["sh", "-c", script]);
        command
    }

    /// What `script` prints; it must succeed and have nothing to say on standard error.
    pub fn prints(&self, options: &[&str], script: &str) -> String {
        let output = self.shell(options, script).output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && errors.is_empty(), "{script}: {} {errors}", output.status);
        String::from_utf8(output.stdout).unwrap()
    }

    /// Processes that serve this world's image.
    pub fn servers(&self) -> Vec<i32> {
        let image = self.image.to_str().unwrap();
        let mut servers = Vec::new();
        for entry in fs::read_dir("/proc").unwrap() {
            let path = entry.unwrap().path();
            let Some(pid) = path.file_name().and_then(|name| name.to_str()?.parse().ok()) else { continue };
            let name = fs::read_to_string(path.join("comm")).unwrap_or_default();
            let arguments = fs::read(path.join("cmdline")).unwrap_or_default();
            if name == "coracle-server\n" && String::from_utf8_lossy(&arguments).contains(image) {
                servers.push(pid);
            }
        }
        servers
    }

    /// Waits until nothing of this world's launches is left.
    pub fn assert_nothing_left(&self) {
        eventually("the server to end", || self.servers().is_empty());
        assert_eq!(fs::read_to_string(self.path("server.log")).unwrap(), "");
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounts.contains(" - fuse coracle "), "{mounts}");
    }
}

/// Waits until `done`.
pub fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < PATIENCE, "waited too long for {what}");
        sleep(Duration::from_millis(5));
    }
}

/// What a failed command says; fails if it did not exit with `status`.
pub fn complaint(output: &Output, status: i32) -> String {
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(status), "{text}");
    text
}

/// Starts `command` with pipes to it.
pub fn piped(mut command: Command) -> Child {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// Sends `input` to `command` and returns its output.
pub fn converse(command: Command, input: Vec<u8>) -> Output {
    let mut child = piped(command);
    let mut stdin = child.stdin.take().unwrap();
    // In a thread: both pipes may be full at once.
    let writer = std::thread::spawn(move || stdin.write_all(&input));
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap().unwrap();
    output
}

/// A SIF file with this image as its root file system.
pub fn sif(image: &[u8]) -> Vec<u8> {
    let mut sif = vec![0_u8; 4096];
    sif[32..42].copy_from_slice(b"SIF_MAGIC\0");
    sif[88..96].copy_from_slice(&1_i64.to_le_bytes());
    sif[96..104].copy_from_slice(&128_i64.to_le_bytes());
    let descriptor = &mut sif[128..];
    descriptor[..5].copy_from_slice(&[4, 0x40, 0, 0, 1]);
    descriptor[17..25].copy_from_slice(&4096_i64.to_le_bytes());
    descriptor[201] = 1;
    descriptor[205] = 2;
    sif.extend(image);
    sif
}
