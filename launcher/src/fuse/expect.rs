//! What the first program will read, guessed before it is started or taken from a profile, and unpacked meanwhile.
//!
//! Starting a program from a new mount is mostly waiting for blocks to be unpacked, one after the other. A thread that
//! unpacks them while the launcher is still mounting halves that. A block goes to the page cache as soon as the kernel knows
//! its file; until then it waits here.

use std::collections::{HashMap, HashSet, VecDeque};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use coracle_converter::profile::{ProfileFile, Touched};
use coracle_squashfs::format::InodeRef;
use coracle_squashfs::reader::{Inode, Kind};

use super::control::Control;
use super::elf::Elf;
use super::push::Pusher;

/// Bytes of blocks that a guess may unpack.
const GUESS_MAX: usize = 4 << 20;
/// Files that a guess may follow.
const FILES_MAX: usize = 64;
/// Longest `#!` line, as in the kernel (`BINPRM_BUF_SIZE`).
const SCRIPT_LINE: usize = 256;
/// The loader's list of libraries, which it reads whole.
const LOADER_CACHE: &str = "/etc/ld.so.cache";
/// Among how many files of a profile its program is looked for.
const PROGRAM_AMONG: usize = 4;
/// Where libraries are, if nothing says otherwise; `*` stands for the machine's name.
const LIBRARY_DIRS: [&str; 7] =
    ["/lib/*-linux-gnu", "/usr/lib/*-linux-gnu", "/lib64", "/usr/lib64", "/lib", "/usr/lib", "/usr/local/lib"];

/// How long the next file of a profile may take to be opened before the program is believed to do something else.
const PATIENCE: Duration = Duration::from_secs(2);
/// Files that the kernel is remembered to know while blocks are unpacked, at most.
const KNOWN_MAX: usize = 1 << 12;

/// Blocks that wait for the kernel to know their file.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    state: Mutex<State>,
    /// Whether anything waits or will.
    is_used: AtomicBool,
    is_over: AtomicBool,
    /// Blocks have found their file.
    fewer: Condvar,
}

#[derive(Debug, Default)]
struct State {
    blocks: HashMap<InodeRef, Vec<u64>>,
    /// How many there are.
    count: usize,
    known: HashSet<InodeRef>,
    is_unpacking: bool,
}

impl Waiting {
    /// Takes note that the kernel knows a file, and returns the blocks that wait for it.
    pub(super) fn known(&self, inode: InodeRef) -> Vec<u64> {
        if !self.is_used.load(Relaxed) {
            return Vec::new();
        }
        let mut state = self.lock();
        if state.is_unpacking && state.known.len() < KNOWN_MAX {
            state.known.insert(inode);
        }
        let blocks = state.blocks.remove(&inode).unwrap_or_default();
        state.count -= blocks.len();
        if !blocks.is_empty() {
            self.fewer.notify_all();
        }
        self.is_used.store(state.is_unpacking || !state.blocks.is_empty(), Relaxed);
        blocks
    }

    /// Has the thread that unpacks end soon.
    pub(super) fn end(&self) {
        self.is_over.store(true, Relaxed);
        self.fewer.notify_all();
    }

    /// Waits until fewer than `limit` blocks wait for their files; false if that does not come to pass in time.
    fn wait_for_room(&self, limit: usize) -> bool {
        let is_full = |state: &mut State| state.count >= limit && !self.is_over.load(Relaxed);
        let waited = self.fewer.wait_timeout_while(self.lock(), PATIENCE, is_full);
        let (state, result) = waited.unwrap_or_else(PoisonError::into_inner);
        drop(state);
        !result.timed_out() && !self.is_over.load(Relaxed)
    }

    /// Says that blocks will come. Before the kernel is told of any file.
    pub(super) fn start(&self) {
        self.lock().is_unpacking = true;
        self.is_used.store(true, Relaxed);
    }

    fn finish(&self) {
        let mut state = self.lock();
        state.is_unpacking = false;
        state.known = HashSet::new();
        self.is_used.store(!state.blocks.is_empty(), Relaxed);
    }

    /// Has a block wait for its file, unless the kernel knows that already: then returns true.
    fn add(&self, inode: InodeRef, index: u64) -> bool {
        let mut state = self.lock();
        let is_known = state.known.contains(&inode);
        if !is_known {
            state.blocks.entry(inode).or_default().push(index);
            state.count += 1;
        }
        is_known
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The life of the thread that unpacks what a program needs to start.
pub(super) fn run(control: &Control, program: &Path) {
    let ahead = Ahead { control };
    match ahead.profile(program) {
        Some(profile) => ahead.follow(&profile),
        None => ahead.guess(program),
    }
    control.waiting.finish();
}

struct Ahead<'a> {
    control: &'a Control,
}

impl Ahead<'_> {
    /// The image's own profile, if it is one of this program.
    fn profile(&self, program: &Path) -> Option<ProfileFile> {
        let program = self.find(program)?.reference;
        // Damage is for those to report who need the file.
        let profile = ProfileFile::of_image(&self.control.tree.image).ok()??;
        let is_in = |touched: &Touched| {
            self.control
                .tree
                .image
                .resolve(&touched.path)
                .is_ok_and(|found| found.is_some_and(|found| found.reference == program))
        };
        // The kernel opens the program first of all.
        profile.profile().touched.iter().take(PROGRAM_AMONG).any(is_in).then_some(profile)
    }

    /// Unpacks what a profile lists, in its order, as far ahead of the program as there is room.
    fn follow(&self, profile: &ProfileFile) {
        let room = (self.control.cache_bytes / 4) / self.control.tree.common.block_size as usize;
        let mut unpacked = HashSet::new();
        for touched in &profile.profile().touched {
            // What the image lacks was there when the profile was made.
            let Ok(Some(inode)) = self.control.tree.image.resolve(&touched.path) else { continue };
            for block in &touched.blocks {
                if !self.control.waiting.wait_for_room(room) {
                    return;
                }
                self.unpack(&inode, (*block).into(), &mut unpacked);
            }
        }
    }

    /// Follows a program to all that it is linked to. What cannot be found or read is left out: it is only a guess.
    fn guess(&self, program: &Path) {
        let mut files = VecDeque::from([program.to_path_buf()]);
        let (mut seen, mut unpacked) = (HashSet::new(), HashSet::new());
        let room = GUESS_MAX.min(self.control.cache_bytes / 4) / self.control.tree.common.block_size as usize;
        while let Some(path) = files.pop_front() {
            if seen.len() >= FILES_MAX || self.is_over() {
                return;
            }
            let Some(inode) = self.find(&path) else { continue };
            if !seen.insert(inode.reference) {
                continue;
            }
            let Some(elf) = self.elf(&inode) else {
                files.extend(self.script(&inode));
                self.unpack(&inode, 0, &mut unpacked);
                continue;
            };
            let block_size = u64::from(self.control.tree.common.block_size);
            for touched in elf.touched {
                let end = touched.end.min(inode.size());
                for index in touched.start / block_size..end.div_ceil(block_size) {
                    if unpacked.len() < room && !self.is_over() {
                        self.unpack(&inode, index, &mut unpacked);
                    }
                }
            }
            if let Some(interpreter) = elf.interpreter {
                files.push_back(OsStr::from_bytes(&interpreter).into());
                files.push_back(LOADER_CACHE.into());
            }
            let origin = path.parent().unwrap_or(Path::new("/"));
            for name in elf.needed {
                let directories = library_dirs(elf.machine, elf.runpath.as_deref(), origin);
                let name = OsStr::from_bytes(&name);
                files.extend(directories.into_iter().map(|dir| dir.join(name)).find(|path| self.find(path).is_some()));
            }
        }
    }

    fn is_over(&self) -> bool {
        self.control.waiting.is_over.load(Relaxed)
    }

    fn find(&self, path: &Path) -> Option<Inode> {
        let tree = &self.control.tree;
        let inode = tree.overlay().resolve(&tree.image, path)?;
        let inode = tree.image.inode(inode).ok()?;
        matches!(inode.kind, Kind::File { .. }).then_some(inode)
    }

    fn elf(&self, inode: &Inode) -> Option<Elf> {
        let image = &self.control.tree.image;
        Elf::read(&|at, buffer| {
            let wanted = buffer.len();
            image.read(inode, at, buffer).ok().filter(|got| *got == wanted).map(drop)
        })
    }

    /// What `#!` names.
    fn script(&self, inode: &Inode) -> Option<PathBuf> {
        let mut line = [0; SCRIPT_LINE];
        let length = self.control.tree.image.read(inode, 0, &mut line).ok()?;
        let line = line.get(..length)?.strip_prefix(b"#!")?;
        let line = line.split(|byte| *byte == b'\n').next()?.trim_ascii();
        let program = line.split(u8::is_ascii_whitespace).next()?;
        Some(OsStr::from_bytes(program).into())
    }

    fn unpack(&self, inode: &Inode, index: u64, unpacked: &mut HashSet<(InodeRef, u64)>) {
        if !unpacked.insert((inode.reference, index)) || self.control.tree.image.block(inode, index).is_err() {
            return;
        }
        if self.control.waiting.add(inode.reference, index)
            && let Some(device) = self.control.device()
        {
            Pusher { control: self.control, device: &device }.ahead(inode.reference, index);
        }
    }
}

fn library_dirs(machine: u16, runpath: Option<&[u8]>, origin: &Path) -> Vec<PathBuf> {
    let machine = match machine {
        62 => "x86_64",
        183 => "aarch64",
        243 => "riscv64",
        21 => "powerpc64le",
        _ => "unknown",
    };
    let origin = origin.to_string_lossy();
    let runpath = String::from_utf8_lossy(runpath.unwrap_or_default()).into_owned();
    let first = runpath
        .split(':')
        .filter(|path| !path.is_empty())
        .map(|path| path.replace("${ORIGIN}", &origin).replace("$ORIGIN", &origin).into());
    first.chain(LIBRARY_DIRS.iter().map(|path| path.replace('*', machine).into())).collect()
}
