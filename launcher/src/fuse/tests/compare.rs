//! A tree with something of everything, and the comparison of a mount with the tree it was made from.

use std::collections::{BTreeMap, HashMap};
use std::ffi::{OsStr, OsString};
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::mem::MaybeUninit;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustix::fs::{Mode, OFlags, RawDir, XattrFlags};

/// Content that compresses, and that differs at every offset a mistake could lead to.
fn pattern(length: usize, seed: u8) -> Vec<u8> {
    (0..length).map(|at| (at / 7 + at / 4096 * 13) as u8 ^ seed).collect()
}

/// Fills the directory `root`. Device nodes are left to those who may make them.
pub(super) fn populate(root: &Path, with_devices: bool) {
    let sizes = [0, 1, 511, 4096, 4097, 131_071, 131_072, 131_073, 3 * 131_072 + 17];
    fs::create_dir(root.join("sizes")).unwrap();
    for (seed, size) in (0..).zip(sizes) {
        fs::write(root.join("sizes").join(size.to_string()), pattern(size, seed)).unwrap();
    }

    let sparse = File::create(root.join("sparse")).unwrap();
    sparse.set_len(5 << 20).unwrap();
    sparse.write_all_at(&pattern(100_000, 99), (2 << 20) + 1000).unwrap();

    fs::create_dir(root.join("many")).unwrap();
    for number in 0..3000 {
        let name = format!("entry-{number:05}-{}", "x".repeat(number % 60));
        fs::write(root.join("many").join(name), number.to_string()).unwrap();
    }

    fs::create_dir_all(root.join("deep/er/and/deeper")).unwrap();
    fs::write(root.join("deep/er/file"), "deep").unwrap();
    fs::hard_link(root.join("deep/er/file"), root.join("deep/link")).unwrap();
    fs::hard_link(root.join("deep/er/file"), root.join("hard")).unwrap();
    fs::write(root.join("n".repeat(255)), "long").unwrap();
    fs::write(root.join(OsStr::from_bytes(b"not \xff utf-8\n")), "odd").unwrap();

    symlink("deep/er/file", root.join("short")).unwrap();
    symlink("a/".repeat(2000), root.join("lengthy")).unwrap();
    symlink("/nowhere", root.join("dangling")).unwrap();
    let fifo = Mode::from_raw_mode(0o640);
    rustix::fs::mknodat(rustix::fs::CWD, root.join("fifo"), rustix::fs::FileType::Fifo, fifo, 0).unwrap();
    drop(UnixListener::bind(root.join("socket")).unwrap());
    if with_devices {
        for (name, kind, device) in [
            ("null", rustix::fs::FileType::CharacterDevice, rustix::fs::makedev(1, 3)),
            ("block", rustix::fs::FileType::BlockDevice, rustix::fs::makedev(259, 0x12345)),
        ] {
            rustix::fs::mknodat(rustix::fs::CWD, root.join(name), kind, Mode::RUSR, device).unwrap();
        }
    }

    let attributed = root.join("attributed");
    fs::write(&attributed, "x").unwrap();
    for (name, value) in [("user.one", pattern(300, 1)), ("user.two", Vec::new()), ("user.three", pattern(3000, 3))] {
        rustix::fs::setxattr(&attributed, name, &value, XattrFlags::empty()).unwrap();
    }
    rustix::fs::setxattr(root.join("deep"), "user.on-a-directory", b"yes", XattrFlags::empty()).unwrap();

    for (name, mode) in [("deep/er/and", 0o1777), ("deep/er", 0o2751), ("sizes/1", 0o4755), ("sizes/511", 0o400)] {
        fs::set_permissions(root.join(name), fs::Permissions::from_mode(mode)).unwrap();
    }
    let old = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    File::open(root.join("sizes/1")).unwrap().set_modified(old).unwrap();
    let late = SystemTime::UNIX_EPOCH + Duration::from_secs(u32::MAX.into());
    OpenOptions::new().write(true).open(root.join("sizes/0")).unwrap().set_modified(late).unwrap();
}

/// Fails on the first difference between `mount`, which shows all as owned by `owner`, and the tree it was made from.
pub(super) fn assert_same(source: &Path, mount: &Path, owner: (u32, u32)) {
    let mut links = HashMap::new();
    compare(source, mount, owner, &mut links);
}

fn compare(source: &Path, mount: &Path, owner: (u32, u32), links: &mut HashMap<(u64, u64), u64>) {
    let (want, got) = (fs::symlink_metadata(source).unwrap(), fs::symlink_metadata(mount).unwrap());
    let at = mount.display();
    assert_eq!(want.mode(), got.mode(), "{at}");
    assert_eq!(want.mtime(), got.mtime(), "{at}");
    assert_eq!((got.mtime(), got.mtime(), 0), (got.atime(), got.ctime(), got.mtime_nsec()), "{at}");
    assert_eq!(owner, (got.uid(), got.gid()), "{at}");
    assert_eq!(want.rdev(), got.rdev(), "{at}");
    assert_eq!(*links.entry((want.dev(), want.ino())).or_insert(got.ino()), got.ino(), "{at}: st_ino");
    assert_eq!(xattrs(source), xattrs(mount), "{at}");
    let kind = want.file_type();
    if kind.is_dir() {
        let names = names(source);
        let subdirectories = names.iter().filter(|name| source.join(name).symlink_metadata().unwrap().is_dir());
        assert_eq!(got.nlink(), 2 + subdirectories.count() as u64, "{at}");
        assert_eq!(listing(mount), names, "{at}");
        for name in names {
            compare(&source.join(&name), &mount.join(&name), owner, links);
        }
        return;
    }
    assert_eq!(want.nlink(), got.nlink(), "{at}");
    if kind.is_symlink() {
        assert_eq!(fs::read_link(source).unwrap(), fs::read_link(mount).unwrap(), "{at}");
    }
    if kind.is_file() || kind.is_symlink() {
        assert_eq!(want.len(), got.len(), "{at}");
    }
    if kind.is_file() {
        assert_eq!(fs::read(source).unwrap(), fs::read(mount).unwrap(), "{at}");
        assert!(got.blocks() <= got.len().div_ceil(512), "{at}");
    }
    assert!(kind.is_file() || kind.is_symlink() || kind.is_fifo() || kind.is_socket() || got.rdev() != 0, "{at}");
}

/// Reads of odd sizes at odd places, across blocks and past the end.
pub(super) fn assert_same_ranges(source: &Path, mount: &Path) {
    let (mut want, mut got) = (File::open(source).unwrap(), File::open(mount).unwrap());
    let size = want.metadata().unwrap().len();
    for (start, length) in [(0, 1), (131_071, 2), (131_000, 200_000), (size - 1, 10), (size, 1), (size + 4096, 1)] {
        let read = |file: &mut File| {
            let mut bytes = Vec::new();
            file.seek(SeekFrom::Start(start)).unwrap();
            file.take(length).read_to_end(&mut bytes).unwrap();
            bytes
        };
        assert_eq!(read(&mut want), read(&mut got), "{} at {start}", mount.display());
    }
}

fn names(directory: &Path) -> Vec<OsString> {
    let mut names: Vec<_> = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort_unstable();
    names
}

/// Names by `getdents64` and nothing cached between, with inode numbers and types checked against `lstat`, and the
/// listing resumed at every cookie of a small one and at some of a large one.
fn listing(directory: &Path) -> Vec<OsString> {
    let all = entries(directory, 0);
    assert_eq!(all.iter().take(2).map(|entry| entry.name.as_bytes()).collect::<Vec<_>>(), [b".".as_slice(), b".."]);
    for (index, entry) in all.iter().enumerate().skip(2) {
        let path = directory.join(&entry.name);
        let metadata = fs::symlink_metadata(&path).unwrap();
        assert_eq!(entry.ino, metadata.ino(), "{}", path.display());
        assert_eq!(entry.kind, rustix::fs::FileType::from_raw_mode(metadata.mode()), "{}", path.display());
        if all.len() < 30 || index % 97 == 0 {
            let rest: Vec<_> = entries(directory, entry.cookie).into_iter().map(|entry| entry.name).collect();
            let expected: Vec<_> = all.iter().skip(index + 1).map(|entry| entry.name.clone()).collect();
            assert_eq!(rest, expected, "{} from {:#x}", directory.display(), entry.cookie);
        }
    }
    let mut names: Vec<_> = all.into_iter().skip(2).map(|entry| entry.name).collect();
    names.sort_unstable();
    names
}

struct Entry {
    name: OsString,
    ino: u64,
    kind: rustix::fs::FileType,
    cookie: u64,
}

fn entries(directory: &Path, cookie: u64) -> Vec<Entry> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let fd = rustix::fs::open(directory, flags, Mode::empty()).unwrap();
    if cookie != 0 {
        rustix::fs::seek(&fd, rustix::fs::SeekFrom::Start(cookie)).unwrap();
    }
    let mut buffer = [MaybeUninit::uninit(); 4096];
    let mut reader = RawDir::new(&fd, &mut buffer);
    let mut entries = Vec::new();
    while let Some(entry) = reader.next() {
        let entry = entry.unwrap();
        entries.push(Entry {
            name: OsString::from_vec(entry.file_name().to_bytes().to_vec()),
            ino: entry.ino(),
            kind: entry.file_type(),
            cookie: entry.next_entry_cookie(),
        });
    }
    entries
}

fn xattrs(path: &Path) -> BTreeMap<OsString, Vec<u8>> {
    let mut names = vec![0; 65_536];
    let length = match rustix::fs::llistxattr(path, &mut names) {
        Ok(length) => length,
        Err(rustix::io::Errno::NOTSUP) => 0,
        Err(error) => panic!("{}: {error}", path.display()),
    };
    names.truncate(length);
    names
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty())
        .map(|name| {
            let mut value = vec![0; 65_536];
            let length = rustix::fs::lgetxattr(path, OsStr::from_bytes(name), &mut value).unwrap();
            assert_eq!(rustix::fs::lgetxattr_query(path, OsStr::from_bytes(name)).unwrap(), length);
            value.truncate(length);
            (OsStr::from_bytes(name).to_owned(), value)
        })
        .collect()
}

/// All files below `directory`.
pub(super) fn files(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for name in names(directory) {
        let path = directory.join(name);
        let kind = fs::symlink_metadata(&path).unwrap().file_type();
        if kind.is_dir() {
            found.extend(files(&path));
        } else if kind.is_file() {
            found.push(path);
        }
    }
    found
}

/// Writes over a part of a file.
pub(super) fn damage(path: &Path, at: u64, length: usize) {
    let mut file = OpenOptions::new().write(true).open(path).unwrap();
    file.seek(SeekFrom::Start(at)).unwrap();
    file.write_all(&vec![0x55; length]).unwrap();
}
