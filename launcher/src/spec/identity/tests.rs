//! Root and others, on hosts and images made up for them.

use super::super::tests::{annotation, host, mounts, oci, try_with, var};
use super::*;
use crate::ids::Ids;
use crate::image::Fake;
use crate::options::{Bind, Home, Verb};
use crate::spec::Composed;

fn root() -> Options {
    Options { fakeroot: true, ..Options::default() }
}

fn alone() -> Host {
    Host { ids: Ids::root(1000, 100), ..host() }
}

fn full() -> Host {
    let many = Range { inside: 1, outside: 100_000, length: 65536 };
    let Ids { mut users, mut groups } = Ids::root(1000, 100);
    users.push(many);
    groups.push(many);
    Host { ids: Ids { users, groups }, ..host() }
}

fn with(tree: &Fake, options: &Options, host: &Host) -> Composed {
    try_with(tree, Verb::Exec(vec!["id".into()]), options, host).unwrap()
}

fn file(composed: &Composed, path: &str) -> Option<String> {
    annotation(composed, &format!("{FILE}{path}"))
}

#[test]
fn root_has_its_name_its_home_and_its_capabilities() {
    let composed = with(&oci(), &root(), &alone());
    let get = |name: &str| var(&composed, name).unwrap();
    assert_eq!([get("HOME"), get("USER"), get("LOGNAME")], ["/root", "root", "root"]);
    let mounts = mounts(&composed);
    for wanted in ["/root /home/ada rw", "/home/ada /home/ada rw"] {
        assert!(mounts.contains(&wanted.to_owned()), "{mounts:?}");
    }
    let process = composed.spec.process().as_ref().unwrap();
    assert_eq!((process.user().uid(), process.user().gid()), (0, 0));
    let sets = process.capabilities().as_ref().unwrap();
    assert_eq!(sets.permitted().as_ref().unwrap().len(), 41);
    assert!(sets.ambient().as_ref().unwrap().is_empty(), "root needs none");
    let map = composed.spec.linux().as_ref().unwrap().uid_mappings().as_ref().unwrap()[0];
    assert_eq!((map.container_id(), map.host_id(), map.size()), (0, 1000, 1));
    assert_eq!(
        file(&composed, "/etc/passwd").as_deref(),
        Some("root:x:0:0:root:/root:/bin/sh\n"),
        "the image's has no home"
    );
    assert!(annotation(&composed, ROOT_FILTER).unwrap().contains("fchownat"));
}

#[test]
fn an_image_that_knows_root_keeps_its_user_database() {
    let tree = oci().with("/etc/passwd", "root:x:0:0:root:/root:/bin/bash\n").with("/etc/group", "root:x:0:\n");
    let composed = with(&tree, &root(), &alone());
    assert_eq!((file(&composed, "/etc/passwd"), file(&composed, "/etc/group")), (None, None));
    let home = Home::At { source: "/data".into(), destination: Some("/h".into()) };
    let moved = with(&tree, &Options { home, ..root() }, &alone());
    assert_eq!(file(&moved, "/etc/passwd").as_deref(), Some("root:x:0:0:root:/h:/bin/bash\n"));
    assert_eq!(var(&moved, "HOME").as_deref(), Some("/h"));
    let contained = with(&tree, &Options { contain: true, ..root() }, &alone());
    let mounts = mounts(&contained);
    assert!(mounts.iter().any(|mount| mount.starts_with("/root tmpfs ")), "{mounts:?}");
    assert!(!mounts.iter().any(|mount| mount.starts_with("/home/ada ")), "{mounts:?}");
    let without = with(&tree, &Options { home: Home::Without, ..root() }, &alone());
    assert_eq!(var(&without, "HOME").as_deref(), Some("/root"));
}

#[test]
fn apt_is_told_that_there_is_root_alone() {
    let tree = Fake::new(&["/bin/sh", "/etc/apt/apt.conf.d/"]);
    let composed = with(&tree, &root(), &alone());
    assert_eq!(file(&composed, APT_FILE).as_deref(), Some(APT_SETTING));
    assert_eq!(var(&composed, "APT_CONFIG"), None);
    let bound = Options { binds: vec![Bind::of_host("/data", Some("/etc/apt".into()))], ..root() };
    let composed = with(&tree, &bound, &alone());
    assert_eq!(
        (file(&composed, APT_FILE), var(&composed, "APT_CONFIG").as_deref()),
        (None, Some("/.coracle/apt.conf"))
    );
    assert_eq!(file(&composed, "/.coracle/apt.conf").as_deref(), Some(APT_SETTING));
    for (options, host) in [(root(), full()), (Options::default(), host())] {
        let composed = with(&tree, &options, &host);
        assert_eq!((file(&composed, APT_FILE), annotation(&composed, ROOT_FILTER)), (None, None));
    }
    assert_eq!(file(&with(&oci(), &root(), &alone()), APT_FILE), None, "an image without apt");
}

#[test]
fn names_are_looked_up_in_the_files() {
    let tree = oci().with("/etc/nsswitch.conf", "passwd: sss\ngroup: files sss\n");
    let composed = with(&tree, &Options::default(), &host());
    assert_eq!(file(&composed, SWITCH).as_deref(), Some("passwd: files sss\ngroup: files sss\n"));
    assert_eq!(
        file(&with(&oci().with("/etc/nsswitch.conf", "passwd: files\n"), &Options::default(), &host()), SWITCH),
        None
    );
    let mut known = host();
    known.who.groups = vec![(5000, "astro".into()), (6000, "bio".into())];
    let group = file(&with(&oci(), &Options::default(), &known), "/etc/group").unwrap();
    assert!(group.contains("users:x:100:\n") && group.contains("astro:x:5000:\nbio:x:6000:\n"), "{group}");
}

#[test]
fn others_than_root_have_what_they_add() {
    let mut options = Options::default();
    options.capabilities.add.insert("CAP_NET_RAW".into());
    let composed = with(&oci(), &options, &host());
    let sets = composed.spec.process().as_ref().unwrap().capabilities().clone().unwrap();
    for set in [sets.bounding(), sets.effective(), sets.permitted(), sets.inheritable(), sets.ambient()] {
        assert_eq!(set.as_ref().unwrap().len(), 1);
    }
}
