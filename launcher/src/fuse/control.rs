//! What a running server shares with whoever started it.

use std::io;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use coracle_squashfs::reader::Stored;
use rustix::io::Errno;

use super::device::Device;
use super::expect::Waiting;
use super::known::Known;
use super::load::Load;
use super::order::Order;
use super::protocol::{NotifyInvalEntryOut, NotifyInvalInodeOut, notify};
use super::push::Queue;
use super::record::{Recorder, Touch};
use super::stats::{Counters, Stats};
use super::switches::Switches;
use super::tree::Tree;
use super::{Error, Synthetic};

/// A running server, as seen from other threads of its process.
pub struct Control {
    pub(super) tree: Tree,
    pub(super) switches: Switches,
    pub(super) counters: Counters,
    pub(super) known: Known,
    pub(super) queue: Queue,
    pub(super) recent: Recent,
    pub(super) order: Order,
    pub(super) waiting: Waiting,
    /// Until the server runs.
    pub(super) load: Mutex<Option<Load>>,
    /// Bytes that unpacked blocks may take.
    pub(super) cache_bytes: usize,
    pub(super) recorder: Option<Recorder>,
    /// Features of the kernel in use, by their flags in [`init`](super::protocol::init).
    pub(super) features: AtomicU32,
    /// While the server runs. Nobody may keep it longer: the kernel tells by it that the server is gone.
    pub(super) device: RwLock<Option<Arc<Device>>>,
}

impl Control {
    pub(super) fn new(tree: Tree, switches: Switches, record: bool, cache_bytes: usize, load: Load) -> Self {
        Self {
            tree,
            switches,
            counters: Counters::default(),
            known: Known::default(),
            queue: Queue::default(),
            recent: Recent::default(),
            order: Order::default(),
            waiting: Waiting::default(),
            load: Mutex::new(Some(load)),
            cache_bytes,
            recorder: record.then(Recorder::default),
            features: AtomicU32::new(0),
            device: RwLock::new(None),
        }
    }

    /// Shows more directories and files, or none of them if there is an error. Whoever looks after this returns sees them, if
    /// the mount has been used before or not. To be called by a thread that answers no requests.
    ///
    /// # Errors
    /// [`Error::Conflict`] if a file would have to look otherwise than it does now; those of
    /// [`Server::new`](super::Server::new); [`Error::Session`] if the kernel cannot be told.
    pub fn add(&self, synthetic: &Synthetic) -> Result<(), Error> {
        self.tree.add(synthetic, |news| {
            // Before the server runs, the kernel knows nothing that it would have to forget.
            let Some(device) = self.device() else { return Ok(()) };
            for (directory, name) in news {
                forget(&device, directory, &name).map_err(Error::Session)?;
            }
            Ok(())
        })
    }

    /// Counters since the server was made.
    pub fn stats(&self) -> Stats {
        self.counters.snapshot(self.tree.image.stats(), self.tree.log.failures())
    }

    /// Blocks of the image in the order in which they were first asked for, if that is recorded; else nothing.
    pub fn touched(&self) -> Vec<Touch> {
        self.recorder.as_ref().map(Recorder::touched).unwrap_or_default()
    }

    pub(super) fn device(&self) -> Option<Arc<Device>> {
        self.device.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn uses(&self, feature: u32) -> bool {
        self.features.load(Relaxed) & feature != 0
    }
}

/// Has the kernel forget that `directory` lacks `name`, its listing and its attributes.
fn forget(device: &Device, directory: u64, name: &[u8]) -> io::Result<()> {
    let namelen = u32::try_from(name.len()).unwrap_or(u32::MAX);
    let entry = NotifyInvalEntryOut { parent: directory, namelen, flags: 0 };
    let node = NotifyInvalInodeOut { ino: directory, off: 0, len: 0 };
    let told =
        [device.notify(notify::INVAL_ENTRY, &entry, &[name, &[0]]), device.notify(notify::INVAL_INODE, &node, &[])];
    for result in told {
        match result.as_ref().map_err(|error| error.raw_os_error()) {
            // It knows no such directory or name, so there is nothing to forget; or it is gone as a whole.
            Ok(()) | Err(Some(NO_ENTRY | NOT_CONNECTED | NO_DEVICE)) => {}
            Err(_) => return result,
        }
    }
    Ok(())
}

const NO_ENTRY: i32 = Errno::NOENT.raw_os_error();
const NOT_CONNECTED: i32 = Errno::NOTCONN.raw_os_error();
const NO_DEVICE: i32 = Errno::NODEV.raw_os_error();

/// Which blocks have been pushed lately, by their position. A block may be forgotten early; it is then pushed twice.
pub(super) struct Recent(Box<[AtomicU64]>);

/// Slots of [`Recent`].
const RECENT: usize = 1024;

impl Default for Recent {
    fn default() -> Self {
        Self((0..RECENT).map(|_| AtomicU64::new(0)).collect())
    }
}

impl Recent {
    /// Whether a block has not been seen lately; it has from now on.
    pub(super) fn is_new(&self, stored: Stored) -> bool {
        // Positions of blocks that follow each other differ by odd numbers of bytes.
        let slot = (stored.position ^ (stored.position >> 10) ^ (stored.position >> 20)) as usize % RECENT;
        self.0.get(slot).is_none_or(|slot| slot.swap(stored.position, Relaxed) != stored.position)
    }
}
