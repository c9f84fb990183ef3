//! Registries and the image store together: what is fetched once is not fetched again, and a finished image in place of a
//! conversion.

#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

use coracle_tests::fixtures::{corner_image, temp_dir};
use coracle_tests::layout::{Layout, Tar};
use coracle_tests::needs;
use coracle_tests::process::{Finished, User, run};
use coracle_tests::registry::{Proxy, Registry};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

macro_rules! registry_needs {
    () => {
        needs!(Coracle, Tool("docker-registry"), Tool("skopeo"))
    };
}

/// An unprivileged user with stores, in front of a registry that is listened to.
struct World {
    user: User,
    dir: TempDir,
    registry: Registry,
    proxy: Proxy,
}

impl World {
    fn new() -> Self {
        let user = User::unprivileged();
        let registry = Registry::plain();
        let proxy = Proxy::start(registry.port, |_| None);
        Self { dir: user.temp_dir(), user, registry, proxy }
    }

    fn source(&self, name: &str) -> String {
        format!("docker://{}/{name}", self.proxy.host())
    }

    fn run(&self, store: &str, words: &[&str]) -> Finished {
        let mut command = self.user.coracle(self.dir.path(), words);
        // A session would outlive the test.
        command.env("CORACLE_STORE", self.store(store)).env("CORACLE_SESSION", "off");
        run(&mut command)
    }

    fn store(&self, store: &str) -> PathBuf {
        self.dir.path().join(store)
    }

    /// The file of a stored image, and whether it was converted for that.
    fn pull(&self, store: &str, words: &[&str]) -> (PathBuf, bool) {
        let done = self.run(store, &[&["pull", "--json"], words].concat()).success();
        let event = |name: &str| {
            let found = done.stdout.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
            found.into_iter().find(|event| event["event"] == name)
        };
        let path = event("done").unwrap()["path"].as_str().unwrap().into();
        // Tables are written by a conversion alone.
        (path, event("finishing").is_some())
    }

    /// Blobs that have been fetched since the last time, by digest.
    fn blobs(&self, since: &mut usize) -> Vec<String> {
        let seen = self.proxy.seen();
        let new = seen.get(*since..).unwrap_or_default();
        *since = seen.len();
        let digest = |path: &str| path.rsplit('/').next().unwrap_or_default().to_owned();
        new.iter().filter(|seen| seen.is_blob()).map(|seen| digest(&seen.path)).collect()
    }
}

fn layer(name: &str) -> Vec<u8> {
    Tar::default().file(name, name.repeat(10_000).as_bytes()).finish()
}

fn names(dir: &Path) -> usize {
    fs::read_dir(dir).unwrap().count()
}

#[test]
fn registry_layers_that_images_share_are_fetched_once() {
    registry_needs!();
    let world = World::new();
    let scratch = temp_dir();
    let layout = |name: &str, top: &str| Layout::new(&scratch.path().join(name), &[layer("base"), layer(top)]);
    let (one, two) = (layout("one", "first"), layout("two", "second"));
    assert_eq!(one.layer_digest(0), two.layer_digest(0));
    world.registry.fill(&scratch.path().join("one"), "latest", "lab/one:1", None);
    world.registry.fill(&scratch.path().join("two"), "latest", "lab/two:1", None);

    let mut since = 0;
    assert!(world.pull("store", &[&world.source("lab/one:1")]).1);
    assert!(world.blobs(&mut since).contains(&one.layer_digest(0)));
    assert!(world.pull("store", &[&world.source("lab/two:1")]).1);
    let fetched = world.blobs(&mut since);
    assert!(fetched.contains(&two.layer_digest(1)) && !fetched.contains(&two.layer_digest(0)), "{fetched:?}");
    let (_, converted) = world.pull("store", &[&world.source("lab/one:1")]);
    let fetched = world.blobs(&mut since);
    assert!(!converted && fetched.len() <= 1, "the config at most: {fetched:?}");

    let kept = world.store("store").join("blobs/sha256");
    assert_eq!(names(&kept), 3);
    let listed = world.run("store", &["images"]).success().stdout;
    assert!(listed.contains("lab/one:1") && listed.contains("lab/two:1"), "{listed}");
    world.run("store", &["prune", "--all"]).success();
    assert_eq!((names(&kept), names(&world.store("store").join("images"))), (0, 0));
}

#[test]
fn registry_a_finished_image_comes_in_place_of_a_conversion() {
    registry_needs!();
    let world = World::new();
    world.registry.fill(&corner_image(), "latest", "lab/app:1", None);
    let source = world.source("lab/app:1");
    let (made, converted) = world.pull("maker", &[&source]);
    assert!(converted, "nobody has pushed a finished one yet");
    world.run("maker", &["push", "-q", &source, &format!("oras://{}/lab/app:1-sqfs", world.proxy.host())]).success();

    let mut since = 0;
    world.blobs(&mut since);
    let (taken, converted) = world.pull("taker", &[&source]);
    assert!(!converted);
    assert_eq!(world.blobs(&mut since).len(), 1, "one file, no layers");
    assert!(fs::read(&taken).unwrap() == fs::read(&made).unwrap());
    let (again, _) = world.pull("taker", &[&source]);
    assert_eq!((again, world.blobs(&mut since)), (taken.clone(), Vec::new()));

    // What is asked for otherwise is made.
    assert!(world.pull("taker", &["--convert", &source]).1);
    assert!(world.pull("taker", &["--compression", "lz4", &source]).1);
    let (artifact, converted) =
        world.pull("artifact", &[&format!("oras://{}/lab/app:1-sqfs", world.proxy.host()), "app"]);
    assert!(!converted && fs::read(artifact).unwrap() == fs::read(&made).unwrap());
}

#[test]
fn userns_registry_an_image_is_run_by_its_reference() {
    needs!(Coracle, Fuse, Tool("docker-registry"), Tool("skopeo"), Tool("busybox"));
    let world = World::new();
    world.registry.fill(&corner_image(), "latest", "lab/app:1", None);
    let source = world.source("lab/app:1");
    let exec =
        |words: &[&str]| world.run("store", &[&["exec"], words, &[&source, "/bin/sh", "-c", "echo up"]].concat());
    let never = exec(&["--pull=never"]).exited(125);
    assert!(never.stderr.contains("--pull=never") || never.stderr.contains("no stored image"), "{}", never.stderr);
    assert_eq!(exec(&[]).success().stdout, "up\n");
    let mut since = 0;
    world.blobs(&mut since);
    let requests = world.proxy.seen().len();
    assert_eq!(exec(&[]).success().stdout, "up\n");
    assert_eq!(world.proxy.seen().len(), requests, "it is there, and the registry is not asked");
    let gone = world.run("store", &["exec", &world.source("lab/none:1"), "true"]).exited(125);
    assert!(gone.stderr.contains("lab/none"), "{}", gone.stderr);
}
