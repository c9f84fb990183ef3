//! Tests over a real mount, as root and as an unprivileged user.
//!
//! A test starts this program again, in namespaces of its own, with one of the ignored functions below to run; that mounts
//! and starts this program once more to serve, as the launcher does. So no test harness thread shares a namespace or
//! descriptor with a server, and a mount cannot outlive its test.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::mount::{MntFlags, MsFlags};
use tempfile::TempDir;

use super::compare::{assert_same, assert_same_ranges, damage, files, populate};
use super::*;

const IMAGE: &str = "CORACLE_TEST_IMAGE";
const LOG: &str = "CORACLE_TEST_LOG";
const COUNTS: &str = "CORACLE_TEST_COUNTS";
/// Has the server do without the kernel's features that it can do without.
const FALLBACKS: (&str, &str) = (Switches::VARIABLE, "no-readdirplus,no-silent-open,no-cache-symlinks");
/// Set in the programs that tests start.
const STARTED: &str = "CORACLE_TEST_STARTED";
const NOBODY: &str = "65534";

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Tier {
    /// In a mount namespace of the host's root.
    Root,
    /// In a user and mount namespace of an ordinary user.
    User,
}

/// Whether a test of this tier can run here.
fn can_run(tier: Tier) -> bool {
    let is_root = nix::unistd::geteuid().is_root();
    if tier == Tier::Root && !is_root {
        eprintln!("skipped: needs root");
        return false;
    }
    if is_root && fs::metadata("/dev/fuse").is_ok_and(|device| device.mode() & 0o666 != 0o666) {
        // As distributions have it.
        fs::set_permissions("/dev/fuse", Permissions::from_mode(0o666)).unwrap();
    }
    let ready = if let Err(error) = File::options().read(true).write(true).open("/dev/fuse") {
        assert!(std::env::var_os("CI").is_none(), "/dev/fuse: {error}");
        eprintln!("skipped: /dev/fuse: {error}");
        false
    } else {
        true
    };
    ready && have("mksquashfs") && have("unshare") && (!is_root || have("setpriv"))
}

/// Runs the ignored function `body` of this module in namespaces of its own.
pub(super) fn run(tier: Tier, body: &str, environment: &[(&str, &str)]) {
    if !can_run(tier) {
        return;
    }
    // Where the build put this program, others may not reach it.
    let directory = tempfile::tempdir().unwrap();
    fs::set_permissions(directory.path(), Permissions::from_mode(0o755)).unwrap();
    let program = directory.path().join("tests");
    fs::copy(std::env::current_exe().unwrap(), &program).unwrap();

    let mut command = match tier {
        Tier::Root => Command::new("unshare"),
        Tier::User if !nix::unistd::geteuid().is_root() => Command::new("unshare"),
        Tier::User => {
            let mut command = Command::new("setpriv");
            command.args(["--reuid", NOBODY, "--regid", NOBODY, "--clear-groups", "unshare"]);
            command
        }
    };
    command.args(if tier == Tier::User { ["-Urm"].as_slice() } else { &["-m", "--propagation", "private"] });
    let output = command
        .arg(&program)
        .args(["--exact", &function(body), "--ignored", "--nocapture"])
        .env(STARTED, "1")
        .envs(environment.iter().copied())
        .current_dir(std::env::temp_dir())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && text.contains("1 passed"), "{body}: {}\n{text}", output.status);
}

/// Whether a test started this program: with `--include-ignored` the functions for it run in the host's namespaces, too.
pub(super) fn is_started() -> bool {
    std::env::var_os(STARTED).is_some()
}

fn function(name: &str) -> String {
    let module = module_path!().split_once("::").map_or("", |(_, module)| module);
    // Another module's function is named with that module.
    let module = if name.contains("::") { module.trim_end_matches("::mount") } else { module };
    format!("{module}::{name}")
}

/// A directory tree, an image of it and, as long as it lives, a mount of that.
pub(super) struct Mounted {
    pub(super) directory: TempDir,
    pub(super) server: Child,
}

impl Mounted {
    pub(super) fn new(fill: impl FnOnce(&Path), arguments: &[&str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let source = directory.path().join("source");
        fs::create_dir(&source).unwrap();
        fill(&source);
        let image = make_image(&source, arguments);
        Self::serve(directory, &image)
    }

    pub(super) fn serve(directory: TempDir, image: &Path) -> Self {
        Self::serve_with(directory, image, &[])
    }

    pub(super) fn serve_with(directory: TempDir, image: &Path, environment: &[(&str, &str)]) -> Self {
        let target = directory.path().join("mount");
        fs::create_dir(&target).unwrap();
        let device: OwnedFd = File::options().read(true).write(true).open("/dev/fuse").unwrap().into();
        let data = mount_data(device.as_raw_fd(), 0, 0);
        let flags = MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
        nix::mount::mount(Some("coracle"), &target, Some("fuse.coracle"), flags, Some(data.as_str())).unwrap();
        // The descriptor moves into the server and is closed here.
        let server = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", &function("serving"), "--ignored", "--nocapture"])
            .env(IMAGE, image)
            .env(LOG, directory.path().join("log"))
            .env(COUNTS, directory.path().join("counts"))
            .envs(environment.iter().copied())
            .stdin(device)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        Self { directory, server }
    }

    pub(super) fn source(&self) -> PathBuf {
        self.directory.path().join("source")
    }

    pub(super) fn path(&self) -> PathBuf {
        self.directory.path().join("mount")
    }

    /// Unmounts and tells whether the server ended well.
    pub(super) fn end(&mut self) -> bool {
        nix::mount::umount2(&self.path(), MntFlags::MNT_DETACH).unwrap();
        wait(&mut self.server)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // An error says that it has ended, which is what is wanted.
        let _ = nix::mount::umount2(&self.path(), MntFlags::MNT_DETACH);
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

/// Whether the process ended well, in good time.
fn wait(process: &mut Child) -> bool {
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(10) {
        if let Some(status) = process.try_wait().unwrap() {
            return status.success();
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    panic!("the server goes on after its mount is gone");
}

#[test]
#[ignore = "the server of the other tests here"]
fn serving() {
    if !is_started() {
        return;
    }
    let device = io::stdin().as_fd().try_clone_to_owned().unwrap();
    let image = std::env::var_os(IMAGE).unwrap();
    let log = File::options().create(true).append(true).open(std::env::var_os(LOG).unwrap()).unwrap();
    let synthetic = Synthetic {
        directories: vec!["/extra/directory".into(), "/deep/bind".into()],
        files: vec![
            ("/extra/empty".into(), SyntheticFile::Empty),
            ("/etc/passwd".into(), SyntheticFile::Content(b"user:x:0:0::/:/bin/sh\n".to_vec(), 0o644)),
        ],
    };
    let synthetic = if std::env::var_os("CORACLE_TEST_SYNTHETIC").is_some() { synthetic } else { Synthetic::default() };
    let switches = Switches::from_environment().unwrap();
    let record = std::env::var_os(super::live::RECORD).is_some();
    let options = ServeOptions { synthetic, switches, record, ..ServeOptions::new(0, 0) };
    let mut server = Server::new(open_image(Path::new(&image)), options, Load::open()).unwrap().log_to(log);
    super::live::arrange(&mut server);
    let control = server.control();
    server.run(device).unwrap();
    if let Some(path) = std::env::var_os(COUNTS) {
        let stats = control.stats();
        let count = |kind: &RequestKind| format!("{kind} {}\n", stats.count(*kind));
        fs::write(path, RequestKind::ALL.iter().map(count).collect::<String>()).unwrap();
    }
}

#[test]
fn userns_small_caches_and_single_threads_serve_the_same() {
    // 8 blocks of 128 KiB, and none.
    for switches in ["cache=2097152,threads=1", "cache=0,threads=4,no-spin"] {
        run(Tier::User, "tree_is_the_sources", &[(Switches::VARIABLE, switches)]);
    }
}

fn in_both(tier: Tier, body: &str) {
    run(tier, body, &[]);
    run(tier, body, &[FALLBACKS]);
}

#[test]
fn root_tree_is_the_sources() {
    in_both(Tier::Root, "tree_is_the_sources");
}

#[test]
fn userns_tree_is_the_sources() {
    in_both(Tier::User, "tree_is_the_sources");
}

#[test]
#[ignore = "run in namespaces of its own"]
fn tree_is_the_sources() {
    if !is_started() {
        return;
    }
    let with_devices = fs::read_to_string("/proc/self/uid_map").unwrap().contains("4294967295");
    for arguments in [["-comp", "zstd", "-b", "128K"], ["-comp", "gzip", "-b", "16K"]] {
        let mut mounted = Mounted::new(|source| populate(source, with_devices), &arguments);
        // Twice: from the server, then from the kernel's caches.
        for _ in 0..2 {
            assert_same(&mounted.source(), &mounted.path(), (0, 0));
        }
        for name in ["sizes/393233", "sparse"] {
            assert_same_ranges(&mounted.source().join(name), &mounted.path().join(name));
        }
        let sparse = fs::metadata(mounted.path().join("sparse")).unwrap();
        assert!(sparse.blocks() * 512 < sparse.size() / 2);
        assert_eq!(sparse.blksize(), if arguments.contains(&"16K") { 16 << 10 } else { 128 << 10 });
        let ask = |name| rustix::fs::getxattr(mounted.path().join("attributed"), name, &mut [0; 16]).unwrap_err();
        assert_eq!(ask("user.four"), rustix::io::Errno::NODATA);
        assert_eq!(ask("user.one"), rustix::io::Errno::RANGE);
        assert_eq!(ask("security.selinux"), rustix::io::Errno::NOTSUP);
        let statfs = nix::sys::statvfs::statvfs(&mounted.path()).unwrap();
        assert!(statfs.blocks() > 0 && statfs.files() > 3000);
        assert_eq!((statfs.blocks_free(), statfs.files_free()), (0, 0));
        assert!(mounted.end());
    }
}

#[test]
fn userns_images_without_attributes_or_exports_are_served() {
    run(Tier::User, "plain_image", &[]);
}

#[test]
#[ignore = "run in namespaces of its own"]
fn plain_image() {
    if !is_started() {
        return;
    }
    let fill = |source: &Path| make_tree(source, &["a/b/", "a/file", "link -> a/file"]);
    let mut mounted = Mounted::new(fill, &["-no-xattrs", "-no-exports"]);
    assert_same(&mounted.source(), &mounted.path(), (0, 0));
    let error = rustix::fs::getxattr(mounted.path().join("a"), "user.x", &mut [0; 16]).unwrap_err();
    assert_eq!(error, rustix::io::Errno::NOTSUP);
    assert!(fs::write(mounted.path().join("new"), "").is_err());
    assert!(mounted.end());
}

#[test]
fn userns_the_kernel_asks_once() {
    run(Tier::User, "requests_are_few", &[]);
    run(Tier::User, "requests_are_few", &[FALLBACKS]);
}

#[test]
#[ignore = "run in namespaces of its own"]
fn requests_are_few() {
    if !is_started() {
        return;
    }
    let entries = ["a/", "a/b/", "a/b/one", "a/b/two", "a/b/three", "link -> a/b"];
    let mut mounted = Mounted::new(|source| make_tree(source, &entries), &["-no-xattrs"]);
    let root = mounted.path();
    for _ in 0..10 {
        for directory in ["", "a", "a/b"] {
            for entry in fs::read_dir(root.join(directory)).unwrap() {
                let path = entry.unwrap().path();
                let metadata = fs::symlink_metadata(&path).unwrap();
                if metadata.is_symlink() {
                    fs::read_link(&path).unwrap();
                } else if metadata.is_file() {
                    fs::read(&path).unwrap();
                }
            }
        }
        assert!(!root.join("a/absent").exists());
        assert!(rustix::fs::getxattr(root.join("a"), "user.x", &mut [0; 16]).is_err());
    }
    let counts = mounted.directory.path().join("counts");
    assert!(mounted.end());
    let text = fs::read_to_string(counts).unwrap();
    let count = |kind: RequestKind| {
        let line = text.lines().find_map(|line| line.strip_prefix(kind.name())?.strip_prefix(' ')).unwrap();
        line.parse::<u32>().unwrap()
    };
    if std::env::var_os(FALLBACKS.0).is_some() {
        assert_eq!((count(RequestKind::Open), count(RequestKind::OpenDir)), (30, 30), "{text}");
        assert_eq!((count(RequestKind::ReadLink), count(RequestKind::ReadDirPlus)), (10, 0), "{text}");
    } else {
        assert_eq!((count(RequestKind::Open), count(RequestKind::OpenDir)), (1, 1), "{text}");
        assert_eq!((count(RequestKind::ReadLink), count(RequestKind::ReadDir)), (1, 0), "{text}");
        // All else came with the listings; the kernel may ask for the root's own attributes.
        assert_eq!(count(RequestKind::Lookup), 1, "{text}");
        assert!(count(RequestKind::GetAttr) <= 1, "{text}");
    }
    // The caches of data and of listings hold without zero-message opens, too: once for the entries, once for the end.
    assert_eq!(count(RequestKind::ReadDir) + count(RequestKind::ReadDirPlus), 6, "{text}");
    // One file at least; the others, in the same block, may have been pushed in time.
    assert!((1..=3).contains(&count(RequestKind::Read)), "{text}");
    assert_eq!(count(RequestKind::GetXattr), 1, "{text}");
    assert!(count(RequestKind::Flush) <= 1, "{text}");
}

#[test]
fn userns_additions_can_be_bound_over_and_read() {
    run(Tier::User, "additions", &[("CORACLE_TEST_SYNTHETIC", "1")]);
    run(Tier::User, "additions", &[("CORACLE_TEST_SYNTHETIC", "1"), FALLBACKS]);
}

#[test]
#[ignore = "run in namespaces of its own"]
fn additions() {
    if !is_started() {
        return;
    }
    let fill = |source: &Path| make_tree(source, &["etc/", "etc/passwd", "etc/group", "deep/", "deep/file"]);
    let mut mounted = Mounted::new(fill, &[]);
    let root = mounted.path();
    assert_eq!(fs::read_to_string(root.join("etc/passwd")).unwrap(), "user:x:0:0::/:/bin/sh\n");
    assert_eq!(fs::read_to_string(root.join("etc/group")).unwrap(), "etc/group");
    // What the kernel learnt from a listing is what it is told when it asks for a name.
    for directory in ["", "etc", "deep", "extra"] {
        for entry in fs::read_dir(root.join(directory)).unwrap() {
            let entry = entry.unwrap();
            let metadata = fs::symlink_metadata(entry.path()).unwrap();
            assert_eq!(entry.file_type().unwrap(), metadata.file_type(), "{}", entry.path().display());
            assert_eq!(std::os::unix::fs::DirEntryExt::ino(&entry), metadata.ino(), "{}", entry.path().display());
        }
    }
    let mut names: Vec<_> = fs::read_dir(root.join("deep")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort_unstable();
    assert_eq!(names, ["bind", "file"]);
    assert_eq!(fs::metadata(root.join("deep")).unwrap().nlink(), 3);

    for (from, to) in [("deep", "extra/directory"), ("etc/group", "extra/empty")] {
        let (from, to) = (root.join(from), root.join(to));
        nix::mount::mount(Some(&from), &to, None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
    }
    assert_eq!(fs::read_to_string(root.join("extra/directory/file")).unwrap(), "deep/file");
    assert_eq!(fs::read_to_string(root.join("extra/empty")).unwrap(), "etc/group");
    assert!(mounted.end());
}

#[test]
fn userns_many_readers_at_once() {
    run(Tier::User, "many_readers", &[]);
}

#[test]
#[ignore = "run in namespaces of its own"]
fn many_readers() {
    if !is_started() {
        return;
    }
    let mut mounted = Mounted::new(|source| populate(source, false), &["-b", "64K"]);
    let (source, path) = (mounted.source(), mounted.path());
    let files = files(&source);
    std::thread::scope(|scope| {
        for reader in 0..8 {
            let (source, path, files) = (&source, &path, &files);
            scope.spawn(move || {
                let start = reader * files.len() / 16;
                for file in files.iter().cycle().skip(start).take(files.len()) {
                    let mounted = path.join(file.strip_prefix(source).unwrap());
                    assert!(fs::read(file).unwrap() == fs::read(&mounted).unwrap(), "{}", mounted.display());
                }
            });
        }
    });
    assert!(mounted.end());
}

#[test]
fn userns_a_mount_whose_server_is_killed_fails_at_once() {
    run(Tier::User, "killed_server", &[]);
}

#[test]
#[ignore = "run in namespaces of its own"]
fn killed_server() {
    if !is_started() {
        return;
    }
    let mut mounted = Mounted::new(|source| make_tree(source, &["a/", "a/file"]), &[]);
    assert_eq!(fs::read_to_string(mounted.path().join("a/file")).unwrap(), "a/file");
    mounted.server.kill().unwrap();
    mounted.server.wait().unwrap();
    let error = fs::read_dir(mounted.path()).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(nix::libc::ENOTCONN));
}

#[test]
fn userns_a_mount_that_goes_before_it_is_served_is_no_error() {
    run(Tier::User, "mount_gone_early", &[]);
}

#[test]
#[ignore = "run in namespaces of its own"]
fn mount_gone_early() {
    if !is_started() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let source = directory.path().join("source");
    make_tree(&source, &["file"]);
    let image = make_image(&source, &[]);
    let target = directory.path().join("mount");
    fs::create_dir(&target).unwrap();
    let device = File::options().read(true).write(true).open("/dev/fuse").unwrap();
    let data = mount_data(device.as_raw_fd(), 0, 0);
    nix::mount::mount(Some("coracle"), &target, Some("fuse.coracle"), MsFlags::MS_RDONLY, Some(data.as_str())).unwrap();
    nix::mount::umount2(&target, MntFlags::MNT_DETACH).unwrap();
    let options = ServeOptions::new(0, 0);
    serve(open_image(&image), device.into(), options).unwrap();
}

#[test]
fn userns_a_damaged_image_gives_io_errors_and_one_log_entry() {
    run(Tier::User, "damaged_image", &[]);
}

#[test]
#[ignore = "run in namespaces of its own"]
fn damaged_image() {
    if !is_started() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let source = directory.path().join("source");
    make_tree(&source, &["a/", "a/small"]);
    fs::write(source.join("large"), "all of one kind ".repeat(100_000)).unwrap();
    let image = make_image(&source, &["-comp", "zstd"]);
    // The first data block follows the superblock.
    damage(&image, 100, 50);
    let log = directory.path().join("log");
    let mut mounted = Mounted::serve(directory, &image);
    for _ in 0..2 {
        let error = fs::read(mounted.path().join("large")).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(nix::libc::EIO));
    }
    assert_eq!(fs::read_to_string(mounted.path().join("a/small")).unwrap(), "a/small");
    let text = fs::read_to_string(&log).unwrap();
    assert!(text.starts_with("cannot answer READ of node ") && text.contains("data block at byte 96"), "{text}");
    assert_eq!(text.lines().count(), 1, "{text}");
    assert!(mounted.end());
    let text = fs::read_to_string(&log).unwrap();
    assert_eq!(text.lines().count(), 2, "{text}");
}
