use super::*;
use std::process::{Command, Stdio};
use std::sync::Barrier;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

const LEASE: Duration = Duration::from_secs(1);

fn claims(dir: &Path) -> Claims {
    Claims::new(dir.to_path_buf(), LEASE)
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// What a claim would look like whose owner is `process`.
fn put(dir: &Path, key: &str, process: &str) -> String {
    let token = token().unwrap();
    let holder = Holder {
        token: token.clone(),
        process: process.into(),
        host: "elsewhere".into(),
        pid: 1,
        lease: LEASE.as_secs(),
    };
    fs::write(dir.join(key), holder.encode(0)).unwrap();
    token
}

/// Of a host that nobody here can ask.
const REMOTE: &str = "0123456789abcdef-1-1-1";

#[test]
fn one_has_it_until_it_is_released() {
    let dir = tempfile::tempdir().unwrap();
    let (one, other) = (claims(dir.path()), claims(dir.path()));
    let claim = one.take("k").unwrap().unwrap();
    assert!(other.take("k").unwrap().is_none() && claim.is_mine().unwrap());
    assert_eq!(names(dir.path()), ["k"]);
    let seen = other.read("k").unwrap().unwrap();
    assert_eq!((seen.id.as_str(), seen.owner().1), (claim.token(), std::process::id()));
    assert!(other.take("l").unwrap().is_some(), "of another image");
    claim.release();
    assert_eq!(names(dir.path()), ["l"]);
    assert!(other.take("k").unwrap().is_some());
}

#[test]
fn one_of_many_threads_gets_it_again_and_again() {
    const THREADS: usize = 16;
    const ROUNDS: usize = 40;
    let dir = tempfile::tempdir().unwrap();
    let (holders, taken) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let barrier = Barrier::new(THREADS);
    thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                let claims = claims(dir.path());
                for round in 0..ROUNDS {
                    barrier.wait();
                    let claim = claims.take("k").unwrap();
                    if claim.is_some() {
                        assert_eq!(holders.fetch_add(1, Ordering::SeqCst), 0, "round {round}");
                        taken.fetch_add(1, Ordering::SeqCst);
                    }
                    barrier.wait();
                    if let Some(claim) = claim {
                        holders.fetch_sub(1, Ordering::SeqCst);
                        claim.release();
                    }
                }
            });
        }
    });
    assert_eq!(taken.load(Ordering::SeqCst), ROUNDS);
    assert!(names(dir.path()).is_empty());
}

#[test]
fn of_many_who_find_the_owner_dead_one_takes_over() {
    const THREADS: usize = 16;
    let dir = tempfile::tempdir().unwrap();
    let own = claims(dir.path()).own().to_string();
    let mut child = Command::new("true").spawn().unwrap();
    child.wait().unwrap();
    // Same host and namespace, a process id that has ended.
    let mut parts: Vec<&str> = own.split('-').collect();
    let pid = child.id().to_string();
    parts[2] = &pid;
    for _ in 0..40 {
        put(dir.path(), "k", &parts.join("-"));
        let (retired, taken) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let barrier = Barrier::new(THREADS);
        thread::scope(|scope| {
            for _ in 0..THREADS {
                scope.spawn(|| {
                    let claims = claims(dir.path());
                    let mut watch = Watch::default();
                    let seen = claims.read("k").unwrap().unwrap();
                    barrier.wait();
                    // All act on the same sight, some after the winner has taken over.
                    if watch.look(&claims, "k", &seen).unwrap() {
                        retired.fetch_add(1, Ordering::SeqCst);
                    }
                    if let Some(claim) = claims.take("k").unwrap() {
                        taken.fetch_add(1, Ordering::SeqCst);
                        assert!(claim.is_mine().unwrap());
                    }
                });
            }
        });
        assert_eq!((retired.into_inner(), taken.into_inner()), (1, 1));
        assert_eq!(names(dir.path()), ["k"]);
        fs::remove_file(dir.path().join("k")).unwrap();
    }
}

#[test]
fn a_silent_owner_elsewhere_is_dead_after_its_lease_and_a_beating_one_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let claims = claims(dir.path());
    put(dir.path(), "silent", REMOTE);
    let token = put(dir.path(), "beating", REMOTE);
    let begun = Instant::now();
    let (mut silent, mut beating) = (Watch::default(), Watch::default());
    let mut count = 0;
    while let Some(seen) = claims.read("silent").unwrap() {
        let dead = silent.look(&claims, "silent", &seen).unwrap();
        assert!(!dead || begun.elapsed() > LEASE);
        count += 1;
        let file = OpenOptions::new().write(true).open(dir.path().join("beating")).unwrap();
        file.write_all_at(Holder::beat(count).as_bytes(), 0).unwrap();
        assert!(!beating.look(&claims, "beating", &claims.read("beating").unwrap().unwrap()).unwrap());
        assert!(begun.elapsed() < LEASE * 5);
        thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(beating.id(), Some(token.as_str()));
    assert_eq!(names(dir.path()), ["beating"]);
}

#[test]
fn work_keeps_a_claim_alive() {
    let dir = tempfile::tempdir().unwrap();
    let claims = claims(dir.path());
    let claim = claims.take("k").unwrap().unwrap();
    let before = claims.read("k").unwrap().unwrap().content;
    let token = claim.token().to_owned();
    claim.while_beating(|| {
        let begun = Instant::now();
        while claims.read("k").unwrap().unwrap().content == before {
            assert!(begun.elapsed() < LEASE, "no sign of life in a lease");
            thread::sleep(Duration::from_millis(10));
        }
    });
    assert_eq!(claims.read("k").unwrap().unwrap().id, token, "a beat changes the count alone");
}

#[test]
fn an_owner_that_was_taken_for_dead_notices_and_harms_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let claims = claims(dir.path());
    let slow = claims.take("k").unwrap().unwrap();
    assert!(claims.retire("k", slow.token()).unwrap());
    assert!(!slow.is_mine().unwrap());
    let new = claims.take("k").unwrap().unwrap();
    slow.beat(7);
    assert!(!slow.is_mine().unwrap() && new.is_mine().unwrap());
    // Nor may one who saw the old claim, and is slow, remove the new one.
    assert!(!claims.retire("k", slow.token()).unwrap());
    slow.release();
    assert!(new.is_mine().unwrap());
    assert_eq!(names(dir.path()), ["k"]);
}

#[test]
fn one_who_died_while_removing_a_claim_blocks_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let claims = claims(dir.path());
    // Of this host: seen at once.
    let token = put(dir.path(), "k", REMOTE);
    let mut child = Command::new("true").stdout(Stdio::null()).spawn().unwrap();
    child.wait().unwrap();
    let own = claims.own().to_string();
    let mut parts: Vec<&str> = own.split('-').collect();
    let pid = child.id().to_string();
    parts[2] = &pid;
    fs::write(claims.marker("k", &token), parts.join("-")).unwrap();
    assert!(!claims.retire("k", &token).unwrap(), "the marker's owner has to be looked at first");
    assert!(claims.retire("k", &token).unwrap());
    assert!(names(dir.path()).is_empty());
    // Of another: after as long as its claim had to be watched.
    let token = put(dir.path(), "k", REMOTE);
    fs::write(claims.marker("k", &token), REMOTE).unwrap();
    let (mut watch, begun) = (Watch::default(), Instant::now());
    while let Some(seen) = claims.read("k").unwrap() {
        watch.look(&claims, "k", &seen).unwrap();
        assert!(begun.elapsed() < LEASE * 6);
        thread::sleep(Duration::from_millis(20));
    }
    assert!(begun.elapsed() > LEASE * 2);
    assert!(names(dir.path()).is_empty());
}

#[test]
fn damaged_and_hostile_claims_are_outwaited() {
    let dir = tempfile::tempdir().unwrap();
    let claims = claims(dir.path());
    let hostile = br#"00000000000000000000
{"token":"../../../../../../../etc/x","process":"","host":"\u001b[2J","pid":1,"lease":99999999}"#;
    for content in [&b""[..], &[0xff; 40_000], hostile] {
        fs::write(dir.path().join("k"), content).unwrap();
        let (mut watch, begun) = (Watch::default(), Instant::now());
        while let Some(seen) = claims.read("k").unwrap() {
            assert!(seen.id.bytes().all(|digit| digit.is_ascii_hexdigit()));
            watch.look(&claims, "k", &seen).unwrap();
            assert!(begun.elapsed() < LEASE * 4);
            thread::sleep(Duration::from_millis(50));
        }
        assert!(begun.elapsed() > LEASE);
    }
    assert!(names(dir.path()).is_empty());
}

#[test]
fn waiting_hears_why_its_owner_failed_but_not_about_another_source() {
    let dir = tempfile::tempdir().unwrap();
    let claims = claims(dir.path());
    let claim = claims.take("k").unwrap().unwrap();
    let token = claim.token().to_owned();
    claims.note_failure(&claim, "oci:/x", "layer 1 is damaged");
    claim.release();
    let (_, message) = claims.failure("k", &token, "oci:/x").unwrap();
    assert_eq!(message, "layer 1 is damaged");
    assert!(claims.failure("k", &token, "oci:/y").is_none());
    assert!(claims.failure("k", &"0".repeat(32), "oci:/x").is_none());
    claims.forget_failure("k");
    assert!(claims.failure("k", &token, "oci:/x").is_none());
}
