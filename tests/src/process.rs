//! Running programs: with their output captured, with a time limit, as the unprivileged user, and with peak memory.

use crate::needs;
use std::ffi::OsStr;
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// Longer than any test's command takes on a slow machine; a command that hangs ends here.
const LIMIT: Duration = Duration::from_secs(400);

/// The account that launches are made as when the tests run as root.
pub const TEST_USER: &str = "coracle-test";

/// What a finished program left.
#[derive(Debug)]
pub struct Finished {
    /// How it ended.
    pub status: ExitStatus,
    /// Standard output, lossy.
    pub stdout: String,
    /// Standard error, lossy.
    pub stderr: String,
    /// How long it took.
    pub elapsed: Duration,
}

impl Finished {
    /// Exit status, when it exited by itself.
    #[must_use]
    pub fn code(&self) -> Option<i32> {
        self.status.code()
    }

    /// Panics with the program's output unless it succeeded.
    #[track_caller]
    pub fn success(self) -> Self {
        assert!(self.status.success(), "{}\nstdout: {}\nstderr: {}", self.status, self.stdout, self.stderr);
        self
    }

    /// Panics with the program's output unless it exited with this status.
    #[track_caller]
    pub fn exited(self, code: i32) -> Self {
        assert_eq!(self.code(), Some(code), "{}\nstdout: {}\nstderr: {}", self.status, self.stdout, self.stderr);
        self
    }
}

/// Runs to the end, standard input empty, and captures the output.
///
/// # Panics
/// When the program cannot be started or passes the time limit.
#[track_caller]
pub fn run(command: &mut Command) -> Finished {
    command.stdin(Stdio::null());
    run_with_input(command, &[])
}

/// Like [`run`], with these bytes on standard input.
///
/// # Panics
/// As [`run`].
#[track_caller]
pub fn run_with_input(command: &mut Command, input: &[u8]) -> Finished {
    let begun = Instant::now();
    if !input.is_empty() {
        command.stdin(Stdio::piped());
    }
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|error| panic!("start {command:?}: {error}"));
    if let Some(mut stdin) = child.stdin.take() {
        // The program may end without reading all of it.
        let _ = std::io::Write::write_all(&mut stdin, input);
    }
    let out = drain(child.stdout.take());
    let err = drain(child.stderr.take());
    let status = wait_within(&mut child, LIMIT).unwrap_or_else(|| {
        let _ = child.kill();
        panic!("{command:?} did not end within {LIMIT:?}");
    });
    // A descendant that kept the pipe open would hang this join; that is a failure of its own, so it has a limit too.
    let finish = |reader: std::thread::JoinHandle<Vec<u8>>| {
        let until = Instant::now() + Duration::from_secs(20);
        while !reader.is_finished() {
            assert!(Instant::now() < until, "{command:?} ended, but something keeps its output open");
            std::thread::sleep(Duration::from_millis(2));
        }
        String::from_utf8_lossy(&reader.join().unwrap()).into_owned()
    };
    Finished { status, stdout: finish(out), stderr: finish(err), elapsed: begun.elapsed() }
}

fn drain(pipe: Option<impl Read + Send + 'static>) -> std::thread::JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut pipe) = pipe {
            let _ = pipe.read_to_end(&mut bytes);
        }
        bytes
    })
}

/// Waits for a child for a limited time; `None` when it still runs.
///
/// # Panics
/// When the child cannot be waited for.
pub fn wait_within(child: &mut Child, limit: Duration) -> Option<ExitStatus> {
    let until = Instant::now() + limit;
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return Some(status);
        }
        if Instant::now() >= until {
            return None;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// The program under test, copied once to a place that every user can reach.
///
/// # Errors
/// When there is none to test.
pub fn coracle_binary() -> Result<PathBuf, String> {
    static BINARY: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    BINARY.get_or_init(place_binary).clone()
}

fn place_binary() -> Result<PathBuf, String> {
    let built = built_binary()?;
    let bytes = std::fs::read(&built).map_err(|error| format!("read {}: {error}", built.display()))?;
    let place = crate::fixtures::shared_dir().join(format!("coracle-{}", &crate::tree::sha256_hex(&bytes)[..16]));
    let _lock = crate::fixtures::lock("binary");
    if !place.exists() {
        let temporary = place.with_extension("new");
        let copied = std::fs::write(&temporary, &bytes)
            .and_then(|()| std::fs::set_permissions(&temporary, std::os::unix::fs::PermissionsExt::from_mode(0o755)))
            .and_then(|()| std::fs::rename(&temporary, &place));
        copied.map_err(|error| format!("copy {} to {}: {error}", built.display(), place.display()))?;
    }
    Ok(place)
}

fn built_binary() -> Result<PathBuf, String> {
    if let Some(given) = std::env::var_os("CORACLE_BIN") {
        return Ok(given.into());
    }
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace().join("target"), PathBuf::from);
    ["release", "debug"]
        .map(|profile| target.join(profile).join("coracle"))
        .into_iter()
        .filter(|file| file.exists())
        .max_by_key(|file| file.metadata().and_then(|meta| meta.modified()).ok())
        .ok_or_else(|| "there is no coracle to test: set CORACLE_BIN, or run cargo build --release first".into())
}

/// The workspace's root.
#[must_use]
pub fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("/")).to_path_buf()
}

/// `coracle` with the caller's own rights and a nearly empty environment.
///
/// # Panics
/// When there is no program to test.
#[must_use]
pub fn coracle<S: AsRef<OsStr>>(arguments: impl IntoIterator<Item = S>) -> Command {
    let mut command = Command::new(coracle_binary().unwrap());
    command.args(arguments).env_clear().env("HOME", "/nonexistent").env("PATH", "/nonexistent");
    command
}

/// Ids and home of the user that launches are made as: the caller, or for root [`TEST_USER`].
#[derive(Clone, Debug)]
pub struct User {
    /// Login name.
    pub name: String,
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Home directory.
    pub home: PathBuf,
}

impl User {
    /// The unprivileged user.
    ///
    /// # Panics
    /// When the account is missing.
    #[must_use]
    pub fn unprivileged() -> Self {
        let found = if needs::is_root() {
            nix::unistd::User::from_name(TEST_USER).unwrap()
        } else {
            nix::unistd::User::from_uid(nix::unistd::geteuid()).unwrap()
        };
        Self::from(found.expect("the test user is missing; run scripts/setup.sh test"))
    }

    /// Another account that the setup makes. Only root can launch as it.
    ///
    /// # Panics
    /// When the account is missing.
    #[must_use]
    pub fn named(name: &str) -> Self {
        let found = nix::unistd::User::from_name(name).unwrap();
        Self::from(found.unwrap_or_else(|| panic!("the user {name} is missing; run scripts/setup.sh test")))
    }

    fn from(found: nix::unistd::User) -> Self {
        Self { name: found.name, uid: found.uid.as_raw(), gid: found.gid.as_raw(), home: found.dir }
    }

    /// A command with this user's ids and nothing but `HOME`, `USER`, `TERM` and a `PATH` that holds no program: no
    /// helper can be found, `fusermount` least of all.
    #[must_use]
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command
            .env_clear()
            .env("HOME", &self.home)
            .env("USER", &self.name)
            .env("PATH", "/nonexistent")
            .env("TERM", "dumb");
        if needs::is_root() {
            // The standard library drops all supplementary groups along with the uid.
            command.uid(self.uid).gid(self.gid);
        }
        command
    }

    /// `coracle` as this user, in a directory of its own.
    ///
    /// # Panics
    /// When there is no program to test.
    #[must_use]
    pub fn coracle<S: AsRef<OsStr>>(&self, cwd: &Path, arguments: impl IntoIterator<Item = S>) -> Command {
        let mut command = self.command(coracle_binary().unwrap());
        command.current_dir(cwd).args(arguments);
        command
    }

    /// A temporary directory that belongs to this user.
    ///
    /// # Panics
    /// When it cannot be made.
    #[must_use]
    pub fn temp_dir(&self) -> tempfile::TempDir {
        let dir = crate::fixtures::temp_dir();
        if needs::is_root() {
            std::os::unix::fs::chown(dir.path(), Some(self.uid), Some(self.gid)).unwrap();
        }
        dir
    }
}

/// Runs a command under a small process that reports the peak resident set of what it ran, in KiB.
///
/// # Panics
/// As [`run`], or when no figure came back.
#[track_caller]
pub fn run_with_peak_rss(command: &Command) -> (Finished, u64) {
    // Python's own 10 MB are what a fork of it would count at least; a fork of this test process could count more.
    let script = "import resource, subprocess, sys\n\
                  status = subprocess.call(sys.argv[1:])\n\
                  print('peak', resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)\n\
                  sys.exit(status)";
    let mut wrapped = Command::new(needs::find_tool("python3").expect("python3"));
    wrapped.args(["-c", script]).arg(command.get_program()).args(command.get_args());
    let finished = run(&mut wrapped);
    let peak = finished.stdout.lines().rev().find_map(|line| line.strip_prefix("peak ")?.parse().ok());
    let peak = peak.unwrap_or_else(|| panic!("no peak memory in {finished:?}"));
    (finished, peak)
}
