//! A tree with everything that an image can hold, and its comparison with an image.

use crate::reader::{FileType, Image, Inode, Kind, OpenOptions, ReadAt, major, minor};
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, PermissionsExt, lchown, symlink};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, UNIX_EPOCH};

/// Whether a program can be run. Says so when not, and fails where tests must not be skipped.
pub(crate) fn have(program: &str) -> Option<()> {
    let found = std::env::split_paths(&std::env::var_os("PATH")?).any(|dir| dir.join(program).is_file());
    if found {
        return Some(());
    }
    assert!(std::env::var_os("CI").is_none(), "{program} is missing, and under CI no test may be skipped");
    eprintln!("skipped: {program} is not installed");
    None
}

/// Whether tests may make devices and other owners' files.
fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|metadata| metadata.uid() == 0)
}

pub(crate) fn open(file: &Path) -> Image<File> {
    Image::open(File::open(file).unwrap(), OpenOptions::default()).unwrap()
}

/// Bytes that do not compress, the same for each seed.
pub(crate) fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    std::iter::repeat_with(|| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    })
    .take(len)
    .collect()
}

/// Bytes that compress to about a third.
fn text(seed: u64, len: usize) -> Vec<u8> {
    noise(seed, len / 16 + 1)
        .into_iter()
        .flat_map(|byte| format!("line of text {byte:02x}\n").into_bytes())
        .take(len)
        .collect()
}

/// Fills `root` with everything that an image can hold; devices and owners only as root.
pub(crate) fn sample_tree(root: &Path) {
    for dir in ["", "files", "many", "empty", "special", "links", "names", "modes", "xattrs"] {
        fs::create_dir_all(root.join(dir)).unwrap();
    }
    for (index, len) in [0, 1, 100, 4095, 4096, 4097, 8192, 65_536, 131_071, 131_072, 131_073, 1_048_576, 1_300_037]
        .into_iter()
        .enumerate()
    {
        fs::write(root.join(format!("files/text-{len}")), text(index as u64, len)).unwrap();
        fs::write(root.join(format!("files/noise-{len}")), noise(index as u64, len)).unwrap();
    }
    fs::write(root.join("files/same"), text(11, 1_048_576)).unwrap();
    fs::write(root.join("files/zeros"), vec![0; 1 << 20]).unwrap();
    let sparse = File::create(root.join("files/sparse")).unwrap();
    sparse.set_len(3_000_000).unwrap();
    sparse.write_all_at(&text(1, 150_000), 1_500_000).unwrap();
    for index in 0..250 {
        fs::write(root.join(format!("many/small-{index}")), text(index, index as usize * 7)).unwrap();
    }
    let mut deep = root.join("deep");
    for level in 0..40 {
        deep.push(format!("level-{level}"));
    }
    fs::create_dir_all(deep).unwrap();
    let names: [&[u8]; 6] = [b" ", b"new\nline", b"\xff\xfe not utf-8", b"-", b"...", &[b'n'; 255]];
    for name in names {
        fs::write(root.join("names").join(OsStr::from_bytes(name)), name).unwrap();
    }
    symlink("/usr/bin/env", root.join("links/absolute")).unwrap();
    symlink("t".repeat(4095), root.join("links/long")).unwrap();
    fs::hard_link(root.join("files/text-4097"), root.join("links/hard-1")).unwrap();
    fs::hard_link(root.join("files/text-4097"), root.join("links/hard-2")).unwrap();
    fs::hard_link(root.join("files/noise-1300037"), root.join("links/hard-large")).unwrap();
    for mode in [0o000, 0o444, 0o755, 0o4755, 0o2755, 0o6711, 0o1777] {
        let path = root.join(format!("modes/{mode:o}"));
        fs::write(&path, b"mode").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    }
    fs::set_permissions(root.join("empty"), fs::Permissions::from_mode(0o1777)).unwrap();
    drop(std::os::unix::net::UnixListener::bind(root.join("special/socket")).unwrap());
    run("mkfifo", &[root.join("special/fifo").as_os_str()]);
    add_xattrs(root);
    if is_root() {
        add_devices_and_owners(root);
    }
    for (path, seconds) in [("files/text-1", 1), ("files/text-100", 4_000_000_000), ("many", 1_600_000_000)] {
        let file = File::open(root.join(path)).unwrap();
        file.set_modified(UNIX_EPOCH + Duration::from_secs(seconds)).unwrap();
    }
}

fn run(program: &str, args: &[&OsStr]) {
    assert!(Command::new(program).args(args).status().unwrap().success(), "{program} {args:?}");
}

fn add_xattrs(root: &Path) {
    let large = noise(5, 2500);
    let mut wanted: Vec<(&str, &str, &[u8])> = vec![
        ("files/text-100", "user.short", b"value"),
        ("files/text-100", "user.empty", b""),
        ("files/text-4096", "user.large", &large),
        ("files/text-8192", "user.large", &large),
        ("files/noise-1300037", "user.large", &large),
        ("empty", "user.of-a-directory", b"\0binary\xff"),
        ("xattrs", "user.of-a-directory", b"\0binary\xff"),
    ];
    if is_root() {
        wanted.extend([
            ("files/text-100", "trusted.overlay.opaque", b"y".as_slice()),
            ("files/text-1", "security.label", b"label".as_slice()),
            ("links/absolute", "trusted.of-a-link", b"1".as_slice()),
            ("special/fifo", "trusted.of-a-fifo", b"2".as_slice()),
            ("special/socket", "trusted.of-a-socket", b"3".as_slice()),
        ]);
    }
    for (path, name, value) in wanted {
        if let Err(error) = xattr::set(root.join(path), name, value) {
            eprintln!("no {name} on {path} here: {error}");
        }
    }
}

fn add_devices_and_owners(root: &Path) {
    for (name, kind, major, minor) in
        [("null", "c", "1", "3"), ("large-minor", "c", "300", "70000"), ("disk", "b", "8", "17")]
    {
        let path = root.join("special").join(name);
        run("mknod", &[path.as_os_str(), kind.as_ref(), major.as_ref(), minor.as_ref()]);
    }
    xattr::set(root.join("special/null"), "trusted.of-a-device", b"4").unwrap();
    for (index, path) in ["files/text-1", "empty", "links/absolute", "special/fifo"].into_iter().enumerate() {
        lchown(root.join(path), Some(1000 + index as u32), Some(4_000_000_000 + index as u32)).unwrap();
    }
    for index in 0..60 {
        lchown(root.join(format!("many/small-{index}")), Some(20_000 + index), Some(30_000 + index)).unwrap();
    }
}

/// Compares an image with the directory it was made from.
pub(crate) struct Compare {
    /// Whether the tool keeps hard links.
    pub(crate) hard_links: bool,
    /// Whether the tool takes the root directory's own metadata.
    pub(crate) root: bool,
    /// Whether the tool counts only subdirectories as links of a directory, as Linux does.
    pub(crate) directory_links: bool,
    /// Whether the tool keeps attributes without a value.
    pub(crate) empty_xattrs: bool,
}

impl Default for Compare {
    fn default() -> Self {
        Self { hard_links: true, root: true, directory_links: true, empty_xattrs: true }
    }
}

impl Compare {
    /// Compares everything, panics at the first difference, and returns the number of files.
    pub(crate) fn run<S: ReadAt>(&self, image: &Image<S>, source: &Path, what: &str) -> usize {
        let mut links = BTreeMap::new();
        let root = image.inode(image.root()).unwrap();
        let count = self.directory(image, &root, source, what, &mut links);
        let walked: Vec<_> = image.walk().map(|entry| entry.unwrap()).collect();
        assert_eq!(walked.len(), count, "{what}: walk");
        for entry in walked.iter().step_by(17) {
            let resolved = image.resolve(&entry.path).unwrap().unwrap();
            assert_eq!(resolved.reference, entry.inode.reference, "{what}: {}", entry.path.escape_ascii());
        }
        if self.root {
            self.metadata(&root, source, what);
        }
        count
    }

    fn directory<S: ReadAt>(
        &self,
        image: &Image<S>,
        dir: &Inode,
        source: &Path,
        what: &str,
        links: &mut BTreeMap<(u64, u64), u32>,
    ) -> usize {
        let mut names: Vec<_> = fs::read_dir(source).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort_by(|a, b| a.as_bytes().cmp(b.as_bytes()));
        let entries: Vec<_> = image.read_dir(dir).unwrap().map(|entry| entry.unwrap()).collect();
        let listed: Vec<_> = entries.iter().map(|entry| entry.name.as_slice()).collect();
        assert_eq!(listed, names.iter().map(|name| name.as_bytes()).collect::<Vec<_>>(), "{what}: {source:?}");
        assert!(image.lookup(dir, b"\x01 not there").unwrap().is_none());
        assert!(image.lookup(dir, b"\xff\xff not there").unwrap().is_none());
        check_resuming(image, dir, &entries);
        let mut count = 1;
        for entry in &entries {
            let path = source.join(OsStr::from_bytes(&entry.name));
            assert_eq!(image.lookup(dir, &entry.name).unwrap().as_ref(), Some(entry), "{what}: {path:?}");
            let inode = image.inode(entry.inode).unwrap();
            assert_eq!((inode.number, inode.file_type()), (entry.number, entry.file_type), "{what}: {path:?}");
            self.metadata(&inode, &path, what);
            let metadata = path.symlink_metadata().unwrap();
            if self.hard_links && !metadata.is_dir() {
                let number = *links.entry((metadata.dev(), metadata.ino())).or_insert(inode.number);
                assert_eq!(number, inode.number, "{what}: {path:?}");
            }
            self.xattrs(image, &inode, &path, what);
            match inode.file_type() {
                FileType::Directory => count += self.directory(image, &inode, &path, what, links),
                FileType::File => check_content(image, &inode, &fs::read(&path).unwrap(), what, &path),
                FileType::Symlink => {
                    let target = fs::read_link(&path).unwrap();
                    assert_eq!(image.read_link(&inode).unwrap(), target.as_os_str().as_bytes(), "{what}: {path:?}");
                }
                _ => {}
            }
            count += usize::from(inode.file_type() != FileType::Directory);
        }
        count
    }

    fn metadata(&self, inode: &Inode, path: &Path, what: &str) {
        let metadata = path.symlink_metadata().unwrap();
        let kind = metadata.file_type();
        assert_eq!(metadata.mode(), inode.file_type().mode_bits() | u32::from(inode.mode), "{what}: {path:?}");
        assert_eq!((metadata.uid(), metadata.gid()), (inode.uid, inode.gid), "{what}: {path:?}");
        assert_eq!(metadata.mtime(), i64::from(inode.mtime), "{what}: {path:?}");
        if if kind.is_dir() { self.directory_links } else { self.hard_links } {
            assert_eq!(metadata.nlink(), u64::from(inode.nlink), "{what}: {path:?}");
        }
        if !kind.is_dir() {
            assert_eq!(metadata.len(), inode.size(), "{what}: {path:?}");
        }
        if let Kind::BlockDevice { rdev } | Kind::CharDevice { rdev } = inode.kind {
            assert!(kind.is_block_device() || kind.is_char_device());
            let rebuilt = (u64::from(minor(rdev)) & 0xff)
                | (u64::from(major(rdev)) << 8)
                | ((u64::from(minor(rdev)) & !0xff) << 12);
            assert_eq!(metadata.rdev(), rebuilt, "{what}: {path:?}");
        }
    }

    fn xattrs<S: ReadAt>(&self, image: &Image<S>, inode: &Inode, path: &Path, what: &str) {
        let wanted: BTreeMap<_, _> = xattr::list(path)
            .unwrap()
            .map(|name| (name.as_bytes().to_vec(), xattr::get(path, &name).unwrap().unwrap()))
            .filter(|(_, value)| self.empty_xattrs || !value.is_empty())
            .collect();
        let got: BTreeMap<_, _> =
            image.xattrs(inode).unwrap().into_iter().map(|xattr| (xattr.name, xattr.value)).collect();
        assert_eq!(got, wanted, "{what}: {path:?}");
    }
}

fn check_resuming<S: ReadAt>(image: &Image<S>, dir: &Inode, entries: &[crate::reader::DirEntry]) {
    for (index, entry) in entries.iter().enumerate().step_by(1 + entries.len() / 50) {
        let rest = image.read_dir_from(dir, entry.next_position).unwrap();
        let next: Vec<_> = rest.take(3).map(|entry| entry.unwrap()).collect();
        assert_eq!(next, entries[index + 1..].iter().take(3).cloned().collect::<Vec<_>>());
        assert!(image.read_dir_from(dir, entry.next_position - 1).is_err());
    }
    assert!(image.read_dir_from(dir, u32::MAX).is_err());
}

/// Reads a file in several ways that must agree.
fn check_content<S: ReadAt>(image: &Image<S>, inode: &Inode, wanted: &[u8], what: &str, path: &Path) {
    for chunk in [1_usize << 20, 50_001] {
        let mut got = Vec::new();
        let mut buf = vec![0xaa; chunk];
        loop {
            let count = image.read(inode, got.len() as u64, &mut buf).unwrap();
            got.extend_from_slice(&buf[..count]);
            if count < chunk {
                break;
            }
        }
        assert!(got == wanted, "{what}: {path:?} differs, read by {chunk}");
    }
    let mut got = Vec::new();
    for index in 0..image.block_count(inode) {
        let block = image.block(inode, index).unwrap();
        assert!(block.is_hole() || block.bytes().unwrap().len() == block.len());
        got.extend_from_slice(block.bytes().unwrap_or(&vec![0; block.len()]));
    }
    assert!(got == wanted, "{what}: {path:?} differs, read by block");
    assert!(image.block(inode, image.block_count(inode)).is_err());
}
