use super::*;
use crate::options::{Event, Options, Progress};
use crate::test_tar::TarBuilder;
use crate::{Digest, Source};
use serde_json::json;
use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::sync::Mutex;
use std::thread;

/// Counts conversions.
#[derive(Default)]
struct Heard(Mutex<Vec<String>>);

impl Progress for Heard {
    fn event(&self, event: Event<'_>) {
        let name = match event {
            Event::Converting => "converting",
            Event::Stored => "stored",
            Event::Waiting { .. } => "waiting",
            _ => return,
        };
        self.0.lock().unwrap().push(name.to_owned());
    }
}

impl Heard {
    fn count(&self, name: &str) -> usize {
        self.0.lock().unwrap().iter().filter(|heard| *heard == name).count()
    }
}

struct World {
    dir: tempfile::TempDir,
    store: Store,
}

impl World {
    fn new(settings: Settings) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::new(dir.path().join("store"), settings);
        Self { dir, store }
    }

    /// An OCI layout with one layer, a file with this content.
    fn layout(&self, name: &str, content: &[u8]) -> Source {
        let dir = self.dir.path().join(name);
        fs::create_dir_all(dir.join("blobs/sha256")).unwrap();
        let blob = |media_type: &str, content: &[u8]| {
            let digest = Digest::of(content);
            fs::write(dir.join("blobs/sha256").join(digest.hex()), content).unwrap();
            json!({"mediaType": media_type, "digest": digest.to_string(), "size": content.len()})
        };
        let tar = TarBuilder::new().file("x", content).finish();
        let layer = blob("application/vnd.oci.image.layer.v1.tar", &tar);
        let config = json!({"architecture": "amd64", "os": "linux",
            "rootfs": {"type": "layers", "diff_ids": [Digest::of(&tar).to_string()]}});
        let config = blob("application/vnd.oci.image.config.v1+json", config.to_string().as_bytes());
        let manifest = json!({"schemaVersion": 2, "config": config, "layers": [layer]});
        let manifest = blob("application/vnd.oci.image.manifest.v1+json", manifest.to_string().as_bytes());
        fs::write(dir.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
        let index = json!({"schemaVersion": 2, "manifests": [manifest]});
        fs::write(dir.join("index.json"), index.to_string()).unwrap();
        Source::OciLayout { dir, reference: None }
    }

    fn tar(&self, name: &str, content: &[u8]) -> Source {
        let file = self.dir.path().join(name);
        fs::write(&file, TarBuilder::new().file("x", content).finish()).unwrap();
        Source::Tar { file }
    }

    fn pull(&self, source: &Source, name: Option<&str>) -> Pulled {
        self.store.pull(source, name, &Options::default(), &()).unwrap()
    }

    /// All files of the store, those of images apart.
    fn files(&self) -> Vec<String> {
        let mut files = Vec::new();
        for part in ["claims", "refs", "images"] {
            for entry in fs::read_dir(self.store.dir().join(part)).unwrap() {
                let name = entry.unwrap().file_name().into_string().unwrap();
                if part == "claims" || name.starts_with('.') {
                    files.push(format!("{part}/{name}"));
                }
            }
        }
        files
    }
}

/// Bytes that do not compress, all different for different seeds.
fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..length).map(|_| next()).collect()
}

fn arch() -> &'static str {
    crate::host_architecture()
}

#[test]
fn an_image_is_converted_once_whatever_it_is_called() {
    let world = World::new(Settings::default());
    let source = world.layout("a", b"1");
    let first = world.pull(&source, None);
    assert!(first.report.is_some());
    assert_eq!(first.name, format!("oci:{}/a", world.dir.path().display()));
    let heard = Heard::default();
    let again = world.store.pull(&world.layout("b", b"1"), Some("mine"), &Options::default(), &heard).unwrap();
    assert_eq!((&again.path, again.report.is_none(), heard.count("stored")), (&first.path, true, 1));
    assert!(world.files().is_empty(), "{:?}", world.files());
    for name in [first.name.as_str(), "mine"] {
        assert_eq!(world.store.get(name, arch()).unwrap().unwrap().path, first.path);
    }
    assert_eq!(world.store.get("mine", "other").unwrap(), None);
    let list = world.store.list().unwrap();
    assert_eq!(list.len(), 1);
    assert_eq!(list[0].names.iter().map(|name| name.name.as_str()).collect::<Vec<_>>(), ["mine", &first.name]);
    assert_eq!((list[0].size, list[0].metadata.size), (first.path.metadata().unwrap().len(), list[0].size));
    assert!(list[0].metadata.manifest_digest.is_some() && list[0].metadata.created > 0);
    // Other settings make another image.
    let options = Options { block_size: 4096, ..Options::default() };
    assert_ne!(world.store.pull(&source, None, &options, &()).unwrap().key, first.key);
}

#[test]
fn a_local_source_that_changed_is_pulled_anew_and_a_chosen_name_stays_what_it_was() {
    let world = World::new(Settings::default());
    let source = world.layout("a", b"1");
    let first = world.pull(&source, None);
    world.pull(&source, Some("chosen"));
    world.layout("a", b"22");
    assert_eq!(world.store.get(&first.name, arch()).unwrap(), None);
    assert_eq!(world.store.get("chosen", arch()).unwrap().unwrap().key, first.key);
    let second = world.pull(&source, None);
    assert_ne!(second.key, first.key);
    assert_eq!(world.store.get(&first.name, arch()).unwrap().unwrap().key, second.key);
}

#[test]
fn sources_without_digest_are_stored_by_content() {
    let world = World::new(Settings::default());
    let (tar, same) = (world.tar("a.tar", b"1"), world.tar("b.tar", b"1"));
    let (first, second) = (world.pull(&tar, None), world.pull(&same, None));
    assert_eq!(first.path, second.path);
    assert_ne!(world.pull(&world.tar("c.tar", b"2"), None).key, first.key);
    let root = world.dir.path().join("root");
    fs::create_dir(&root).unwrap();
    let dir = world.pull(&Source::Directory { dir: root }, Some("dir"));
    assert_eq!(world.store.get("dir", arch()).unwrap().unwrap().path, dir.path);
    let again = world.pull(&Source::Squashfs { file: dir.path, offset: 0 }, Some("packed"));
    assert!(again.path.exists() && world.files().is_empty(), "{:?}", world.files());
}

#[test]
fn many_threads_pull_and_one_converts() {
    let world = World::new(Settings::default());
    let data = noise(1, 4 << 20);
    for source in [world.layout("a", &data), world.tar("a.tar", &data)] {
        let heard = Heard::default();
        let paths = thread::scope(|scope| {
            let pull = || {
                // Each as if it were a process of its own.
                let store = Store::new(world.store.dir(), Settings::default());
                store.pull(&source, None, &Options::default(), &heard).unwrap().path
            };
            let pulls: Vec<_> = (0..16).map(|_| scope.spawn(pull)).collect();
            pulls.into_iter().map(|pull| pull.join().unwrap()).collect::<BTreeSet<_>>()
        });
        assert_eq!((paths.len(), heard.count("converting")), (1, 1), "{source}");
        assert!(world.files().is_empty(), "{:?}", world.files());
    }
}

#[test]
fn an_owner_that_lost_its_claim_while_it_converted_uses_the_others_image() {
    /// Has somebody else take over, convert and publish in the middle of a conversion.
    struct Usurper<'a>(&'a World, &'a Source, Mutex<Option<u64>>);
    impl Progress for Usurper<'_> {
        fn event(&self, event: Event<'_>) {
            if event == Event::Finishing {
                let claims = self.0.store.dir().join("claims");
                for entry in fs::read_dir(&claims).unwrap() {
                    fs::remove_file(entry.unwrap().path()).unwrap();
                }
                let pulled = self.0.pull(self.1, None);
                *self.2.lock().unwrap() = Some(pulled.path.metadata().unwrap().ino());
            }
        }
    }
    let world = World::new(Settings::default());
    let source = world.layout("a", b"1");
    let usurper = Usurper(&world, &source, Mutex::default());
    let store = Store::new(world.store.dir(), Settings::default());
    let pulled = store.pull(&source, None, &Options::default(), &usurper).unwrap();
    assert!(pulled.report.is_none());
    assert_eq!(Some(pulled.path.metadata().unwrap().ino()), usurper.2.into_inner().unwrap(), "nothing was replaced");
    assert!(world.files().is_empty(), "{:?}", world.files());
}

#[test]
fn a_failure_leaves_nothing_and_is_told_to_those_who_wait() {
    let world = World::new(Settings::default());
    let source = world.layout("a", &noise(1, 8 << 20));
    let Source::OciLayout { dir, .. } = &source else { unreachable!() };
    let largest = fs::read_dir(dir.join("blobs/sha256")).unwrap().map(|entry| entry.unwrap().path());
    let largest = largest.max_by_key(|path| path.metadata().unwrap().len()).unwrap();
    let mut layer = fs::read(&largest).unwrap();
    let middle = layer.len() / 2;
    layer[middle] ^= 1;
    fs::write(&largest, layer).unwrap();
    let heard = Heard::default();
    let errors = thread::scope(|scope| {
        let pull = || {
            let store = Store::new(world.store.dir(), Settings::default());
            store.pull(&source, None, &Options::default(), &heard).unwrap_err()
        };
        let pulls: Vec<_> = (0..8).map(|_| scope.spawn(pull)).collect();
        pulls.into_iter().map(|pull| pull.join().unwrap()).collect::<Vec<_>>()
    });
    for error in &errors {
        assert!(error::chain(error).contains("is damaged: its content has digest"), "{error:?}");
    }
    // All who came while it was found out learned it from the owner; latecomers may have looked themselves.
    let elsewhere = errors.iter().filter(|error| matches!(error, Error::Elsewhere { .. })).count();
    assert_eq!(elsewhere + heard.count("converting"), 8);
    assert!(elsewhere > 0, "{errors:?}");
    let files = world.files();
    assert!(files.iter().all(|file| file.ends_with(".failed")), "{files:?}");
    assert!(world.store.list().unwrap().is_empty());
}

#[test]
fn what_others_share_is_used_and_not_touched() {
    let site = World::new(Settings::default());
    let source = site.layout("a", b"1");
    let shared = site.pull(&source, Some("app"));
    let own = World::new(Settings { shared: vec![site.store.dir().into()], ..Settings::default() });
    assert_eq!(own.store.get("app", arch()).unwrap().unwrap().path, shared.path);
    let pulled = own.pull(&source, Some("mine"));
    assert_eq!((pulled.path, pulled.report.is_none()), (shared.path.clone(), true));
    assert_eq!(own.store.get("mine", arch()).unwrap().unwrap().path, shared.path);
    assert!(own.store.list().unwrap()[0].shared);
    assert!(matches!(own.store.remove("app"), Err(Error::NotStored { .. })));
    assert!(!own.store.remove("mine").unwrap().gone);
    let all = Policy { all: true, ..Policy::default() };
    assert!(own.store.prune(&all).unwrap().images.is_empty());
    assert!(shared.path.exists() && own.store.get("mine", arch()).unwrap().is_none());
    // A site's store that is damaged keeps nobody from their own.
    own.pull(&own.layout("b", b"2"), Some("other"));
    let refs = site.store.dir().join("refs");
    fs::remove_dir_all(&refs).unwrap();
    fs::write(&refs, "").unwrap();
    assert!(own.store.get("other", arch()).unwrap().is_some());
}

#[test]
fn names_are_removed_one_by_one_and_the_image_with_the_last() {
    let world = World::new(Settings::default());
    let source = world.layout("a", b"1");
    let key = world.pull(&source, Some("one")).key;
    let path = world.pull(&source, Some("two")).path;
    assert!(!world.store.remove("one").unwrap().gone && path.exists());
    assert!(matches!(world.store.remove("one"), Err(Error::NotStored { .. })));
    assert!(world.store.remove("two").unwrap().gone && !path.exists() && !path.with_extension("json").exists());
    world.pull(&source, Some("one"));
    world.pull(&source, Some("two"));
    assert!(world.store.remove(&key[..5]).is_err(), "too short for an id");
    let removed = world.store.remove(&key[..12]).unwrap();
    assert_eq!((removed.names.len(), path.exists()), (2, false));
    assert!(world.store.list().unwrap().is_empty());
}

fn age(path: &Path, days: u64) {
    let then = SystemTime::now() - Duration::from_secs(days * 86400);
    fs::File::options().write(true).open(path).unwrap().set_modified(then).unwrap();
}

fn keys(pruned: &Pruned) -> Vec<&str> {
    pruned.images.iter().map(|image| image.key.as_str()).collect()
}

#[test]
fn pruning_goes_by_age_size_and_names() {
    let world = World::new(Settings::default());
    let mut images = Vec::new();
    for days in 1..=3 {
        let pulled = world.pull(&world.layout("a", &noise(days, 100_000)), Some(&format!("n{days}")));
        age(&pulled.path.with_extension("json"), days * 10);
        images.push(pulled);
    }
    let size = images[0].path.metadata().unwrap().len();
    let prune = |policy: Policy| world.store.prune(&policy).unwrap();
    let old = || Policy { older_than: Some(Duration::from_secs(25 * 86400)), ..Policy::default() };
    assert!(keys(&prune(Policy::default())).is_empty());
    let would = prune(Policy { dry_run: true, ..old() });
    assert_eq!((keys(&would), images[2].path.exists()), (vec![images[2].key.as_str()], true));
    assert_eq!(prune(old()), would);
    assert!(!images[2].path.exists() && world.store.get("n3", arch()).unwrap().is_none());
    // Using it makes it recent.
    world.store.get("n2", arch()).unwrap().unwrap();
    let pruned = prune(Policy { max_size: Some(size + size / 2), ..Policy::default() });
    assert_eq!(keys(&pruned), [images[0].key.as_str()]);
    // Without a name nobody can use it.
    world.store.refs.remove("n2", arch()).unwrap();
    assert!(keys(&prune(Policy::default())).is_empty(), "just made, it may be about to get one");
    age(&images[1].path, 1);
    assert_eq!(keys(&prune(Policy::default())), [images[1].key.as_str()]);
    // A name whose image is gone.
    let pulled = world.pull(&world.layout("a", b"x"), Some("gone"));
    fs::remove_file(&pulled.path).unwrap();
    assert!(world.store.get("gone", arch()).unwrap().is_none());
    prune(Policy::default());
    assert!(world.store.refs.list().unwrap().is_empty());
}

#[test]
fn blobs_and_leftovers_go_when_nobody_can_use_them() {
    let world = World::new(Settings::default());
    world.pull(&world.layout("a", b"x"), None);
    let blobs = world.store.blobs_dir();
    fs::create_dir_all(&blobs).unwrap();
    let file = |path: PathBuf, days: u64| {
        fs::write(&path, "12345").unwrap();
        let then = SystemTime::now() - Duration::from_secs(days * 86400);
        let times = fs::FileTimes::new().set_accessed(then).set_modified(then);
        fs::File::options().write(true).open(&path).unwrap().set_times(times).unwrap();
        path
    };
    let blob = |text: &str, days| file(blobs.join(Digest::of(text.as_bytes()).hex()), days);
    let images = world.store.images_dir();
    let dead = "0123456789abcdef-1-1-1";
    let gone = [blob("old", 40), file(blobs.join("a.part"), 2), file(images.join(format!(".x.sqfs.{dead}.abcdef")), 2)];
    let stay = [blob("new", 3), file(blobs.join("b.part"), 0), file(images.join(format!(".y.sqfs.{dead}.abcdef")), 0)];
    let claims = world.store.claims.dir().to_path_buf();
    let own = world.store.claims.own().to_string();
    // Of this host, by a process that cannot be: they go at once.
    let ended = own.rsplit_once('-').unwrap().0.to_owned() + "-1";
    let at_once =
        [file(claims.join(format!(".token.{ended}.")), 0), file(world.store.refs.0.join(format!(".r.{ended}.0")), 0)];
    let pruned = world.store.prune(&Policy::default()).unwrap();
    assert!(gone.iter().chain(&at_once).all(|path| !path.exists()) && stay.iter().all(|path| path.exists()));
    assert_eq!((pruned.blobs, pruned.leftovers, pruned.bytes), (1, 4, 25));
    let pruned = world.store.prune(&Policy { older_than: Some(Duration::from_secs(86400)), ..Policy::default() });
    assert_eq!((pruned.unwrap().blobs, stay[0].exists()), (1, false));
    blob("any", 0);
    let all = world.store.prune(&Policy { all: true, ..Policy::default() }).unwrap();
    assert_eq!((all.blobs, all.images.len()), (1, 1));
}

#[test]
fn a_limit_evicts_the_least_recently_used_before_and_after() {
    let size = 1_000_000;
    let world = World::new(Settings { max_size: Some(2_500_000), ..Settings::default() });
    let pulled: Vec<_> = (1..=4)
        .map(|seed| {
            let pulled = world.pull(&world.layout("a", &noise(seed, size)), Some(&format!("n{seed}")));
            age(&pulled.path.with_extension("json"), 10 - seed);
            pulled
        })
        .collect();
    let there = pulled.iter().map(|pulled| pulled.path.exists()).collect::<Vec<_>>();
    assert_eq!(there, [false, false, true, true]);
    let small = Store::new(world.store.dir(), Settings { max_size: Some(1000), ..Settings::default() });
    let source = world.layout("a", &noise(9, size));
    let error = small.pull(&source, None, &Options::default(), &()).unwrap_err();
    assert!(matches!(error, Error::MaxSize { max: 1000, .. }), "{error:?}");
}
