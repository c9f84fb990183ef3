//! Tests of what can be asked of a server, and told to it, while it runs.
//!
//! The server is another process: a thread in it looks for files in the test's directory and does what they say.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::mount::{Mounted, Tier, is_started, run};
use super::*;

/// Has the server record what is read.
pub(super) const RECORD: &str = "CORACLE_TEST_RECORD";
/// A directory of the server's, by which it is spoken to.
const TALK: &str = "CORACLE_TEST_TALK";
/// A program that the server shall expect.
const EXPECT: &str = "CORACLE_TEST_EXPECT";
const PATIENCE: Duration = Duration::from_secs(10);

/// In the server: does what the environment says.
pub(super) fn arrange(server: &mut Server) {
    if let Some(program) = std::env::var_os(EXPECT) {
        server.expect(Path::new(&program));
    }
    if let Some(directory) = std::env::var_os(TALK).map(PathBuf::from) {
        let control = server.control();
        std::thread::spawn(move || listen(&directory, &control));
    }
}

fn listen(directory: &Path, control: &Control) {
    loop {
        let answer = if let Ok(question) = fs::read_to_string(directory.join("ask")) {
            match question.as_str() {
                "stats" => serde_json::to_string(&control.stats()).unwrap(),
                "touched" => serde_json::to_string(&control.touched()).unwrap(),
                "" => String::new(),
                additions => {
                    let (directories, files): (Vec<_>, Vec<_>) =
                        additions.split(' ').partition(|path| path.ends_with('/'));
                    let content = |path| (PathBuf::from(path), SyntheticFile::Content(b"added".to_vec(), 0o644));
                    let synthetic = Synthetic {
                        directories: directories.into_iter().map(PathBuf::from).collect(),
                        files: files.into_iter().map(content).collect(),
                    };
                    control.add(&synthetic).map_or_else(|error| error.to_string(), |()| "done".to_owned())
                }
            }
        } else {
            String::new()
        };
        if !answer.is_empty() {
            fs::remove_file(directory.join("ask")).unwrap();
            fs::write(directory.join("part"), answer).unwrap();
            fs::rename(directory.join("part"), directory.join("answer")).unwrap();
        }
        std::thread::sleep(Duration::from_millis(3));
    }
}

/// In the test: asks the server.
#[track_caller]
fn ask(directory: &Path, question: &str) -> String {
    fs::write(directory.join("whole"), question).unwrap();
    fs::rename(directory.join("whole"), directory.join("ask")).unwrap();
    let answer = directory.join("answer");
    eventually(|| answer.exists());
    let text = fs::read_to_string(&answer).unwrap();
    fs::remove_file(answer).unwrap();
    text
}

#[track_caller]
fn eventually(mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < PATIENCE, "waited too long");
        std::thread::sleep(Duration::from_millis(3));
    }
}

#[track_caller]
fn stat(directory: &Path, name: &str) -> u64 {
    let stats: serde_json::Value = serde_json::from_str(&ask(directory, "stats")).unwrap();
    match &stats[name] {
        serde_json::Value::Number(number) => number.as_u64().unwrap(),
        _ => stats["requests"][name].as_u64().unwrap(),
    }
}

fn talk() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

/// Runs a function of this module, with a directory to talk to the server by.
fn run_live(body: &str, environment: &[(&str, &str)]) {
    let talk = talk();
    fs::set_permissions(talk.path(), std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    let mut environment = environment.to_vec();
    environment.push((TALK, talk.path().to_str().unwrap()));
    run(Tier::User, &format!("live::{body}"), &environment);
}

fn talk_directory() -> PathBuf {
    std::env::var_os(TALK).unwrap().into()
}

#[test]
fn userns_additions_show_in_a_mount_that_is_in_use() {
    run_live("added_while_mounted", &[]);
    run_live("added_while_mounted", &[(Switches::VARIABLE, "no-readdirplus,no-silent-open,threads=1")]);
}

#[test]
#[ignore = "run in namespaces of its own"]
fn added_while_mounted() {
    if !is_started() {
        return;
    }
    let mut mounted = Mounted::new(|source| make_tree(source, &["etc/", "etc/passwd", "deep/"]), &[]);
    let (root, talk) = (mounted.path(), talk_directory());
    let names = |directory: &str| {
        let mut names: Vec<_> =
            fs::read_dir(root.join(directory)).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort_unstable();
        names
    };
    // Everything is in the kernel's caches.
    for _ in 0..2 {
        assert!(!root.join("data/in").exists() && !root.join("etc/hosts").exists());
        assert_eq!((names(""), names("etc")), (vec!["deep".into(), "etc".into()], vec!["passwd".into()]));
    }
    let links = |path: &Path| std::os::unix::fs::MetadataExt::nlink(&fs::metadata(path).unwrap());
    let before = links(&root);
    assert_eq!(ask(&talk, "/data/in/ /etc/hosts /deep/er/file"), "done");
    assert_eq!(fs::read_to_string(root.join("etc/hosts")).unwrap(), "added");
    assert_eq!(fs::read_to_string(root.join("deep/er/file")).unwrap(), "added");
    assert!(root.join("data/in").is_dir());
    assert_eq!(names(""), ["data", "deep", "etc"]);
    assert_eq!(names("etc"), ["hosts", "passwd"]);
    assert_eq!((names("deep"), names("data")), (vec!["er".into()], vec!["in".into()]));
    assert_eq!(links(&root), before + 1);

    // To what has been added, and the same again.
    assert_eq!(ask(&talk, "/data/in/ /data/out/ /etc/hosts"), "done");
    assert_eq!(names("data"), ["in", "out"]);
    let refused = ask(&talk, "/other/ /etc/passwd");
    assert!(refused.starts_with("cannot change /etc/passwd in a mounted image"), "{refused}");
    assert!(!root.join("other").exists());
    assert_eq!(fs::read_to_string(root.join("etc/passwd")).unwrap(), "etc/passwd");
    assert!(mounted.end());
}

#[test]
fn userns_an_idle_server_uses_no_time() {
    run(Tier::User, "live::idle", &[]);
}

#[test]
#[ignore = "run in namespaces of its own"]
fn idle() {
    if !is_started() {
        return;
    }
    let mut mounted = Mounted::new(|source| make_tree(source, &["a/", "a/file"]), &[]);
    for _ in 0..1000 {
        // Not in any cache: each is a request, and the server learns to look for the next one.
        let _ = fs::read_dir(mounted.path().join("a")).unwrap().count();
    }
    std::thread::sleep(Duration::from_millis(100));
    let before = processor_time(mounted.server.id());
    std::thread::sleep(Duration::from_secs(1));
    let used = processor_time(mounted.server.id()) - before;
    assert!(used < Duration::from_millis(10), "{used:?}");
    assert!(mounted.end());
}

/// Time that all threads of a process have had a processor.
fn processor_time(process: u32) -> Duration {
    let tasks = fs::read_dir(format!("/proc/{process}/task")).unwrap();
    let time = |task: fs::DirEntry| {
        let text = fs::read_to_string(task.path().join("schedstat")).unwrap();
        text.split(' ').next().unwrap().parse::<u64>().unwrap()
    };
    Duration::from_nanos(tasks.map(|task| time(task.unwrap())).sum())
}

/// A file of four blocks that differ, and small files that share one.
fn fill(source: &Path) {
    let block = |seed: usize| (0..131_072).map(move |at| (at / 3 * seed % 251) as u8);
    fs::write(source.join("large"), (1..=4).flat_map(block).collect::<Vec<u8>>()).unwrap();
    fs::create_dir(source.join("small")).unwrap();
    for name in 0..40_usize {
        fs::write(source.join(format!("small/{name}")), name.to_string().repeat(1000)).unwrap();
    }
}

#[test]
fn userns_what_was_read_is_recorded() {
    run_live("recorded", &[(RECORD, "1"), (Switches::VARIABLE, "no-push-rest,no-push-fragments,no-readahead")]);
}

#[test]
#[ignore = "run in namespaces of its own"]
fn recorded() {
    if !is_started() {
        return;
    }
    let mut mounted = Mounted::new(fill, &["-comp", "zstd"]);
    let (path, talk) = (mounted.path(), talk_directory());
    let read_at = |path: &Path, at| {
        let mut byte = [0];
        std::os::unix::fs::FileExt::read_exact_at(&File::open(path).unwrap(), &mut byte, at).unwrap();
    };
    read_at(&path.join("large"), 3 * 131_072);
    fs::read(path.join("small/7")).unwrap();
    let touched: serde_json::Value = serde_json::from_str(&ask(&talk, "touched")).unwrap();
    let blocks: Vec<_> = touched.as_array().unwrap().iter().map(|touch| touch["block"].as_u64().unwrap()).collect();
    assert_eq!(blocks, [3, 0], "{touched}");
    assert!(touched[0]["fragment"].is_null() && touched[1]["fragment"].is_u64(), "{touched}");
    assert_eq!(touched[0]["ranges"][0][0], 3 * 131_072, "{touched}");
    assert!(mounted.end());
}

#[test]
fn userns_what_was_unpacked_along_is_not_asked_for() {
    run_live("pushed", &[(Switches::VARIABLE, "no-readahead")]);
}

#[test]
#[ignore = "run in namespaces of its own"]
fn pushed() {
    if !is_started() {
        return;
    }
    let mut mounted = Mounted::new(fill, &["-comp", "zstd"]);
    let (path, talk) = (mounted.path(), talk_directory());
    // The kernel learns of the files; reading one brings all.
    let names: Vec<_> = fs::read_dir(path.join("small")).unwrap().map(|entry| entry.unwrap().path()).collect();
    let first = fs::read(&names[0]).unwrap();
    assert_eq!(first, fs::read(mounted.source().join("small").join(names[0].file_name().unwrap())).unwrap());
    eventually(|| stat(&talk, "pushes") >= names.len() as u64 - 1);
    for name in &names {
        let source = mounted.source().join("small").join(name.file_name().unwrap());
        assert_eq!(fs::read(name).unwrap(), fs::read(source).unwrap());
    }
    assert_eq!(stat(&talk, "READ"), 1);
    // A page out of the middle of a block brings the rest of the block, not the next one.
    let pushes = stat(&talk, "pushes");
    let mut page = [0; 4096];
    let large = File::open(path.join("large")).unwrap();
    rustix::fs::fadvise(&large, 0, None, rustix::fs::Advice::Random).unwrap();
    std::os::unix::fs::FileExt::read_exact_at(&large, &mut page, 131_072 + 16_384).unwrap();
    eventually(|| stat(&talk, "pushes") == pushes + 2);
    for at in (131_072..2 * 131_072).step_by(4096) {
        std::os::unix::fs::FileExt::read_exact_at(&large, &mut page, at).unwrap();
    }
    assert_eq!(stat(&talk, "READ"), 2);
    drop(large);
    assert_eq!(fs::read(path.join("large")).unwrap(), fs::read(mounted.source().join("large")).unwrap());
    assert!(mounted.end());
}

#[test]
fn userns_an_image_that_is_written_over_is_served_no_more() {
    run(Tier::User, "live::written_over", &[]);
}

#[test]
#[ignore = "run in namespaces of its own"]
fn written_over() {
    if !is_started() {
        return;
    }
    let mut mounted = Mounted::new(fill, &["-comp", "zstd"]);
    let image = mounted.source().with_extension("sqfs");
    let old = fs::read(&image).unwrap();
    let mut page = [0; 100];
    let large = File::open(mounted.path().join("large")).unwrap();
    std::os::unix::fs::FileExt::read_exact_at(&large, &mut page, 0).unwrap();
    fs::write(&image, &old).unwrap();
    let error = std::os::unix::fs::FileExt::read_exact_at(&large, &mut page, 3 * 131_072).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(nix::libc::EIO));
    drop(large);
    let log = fs::read_to_string(mounted.directory.path().join("log")).unwrap();
    assert!(log.contains("the image file was changed while in use"), "{log}");
    assert!(mounted.end());
}

#[test]
fn userns_a_program_that_is_expected_is_unpacked_before_it_is_read() {
    run_live("expected", &[(EXPECT, "/bin/link"), (Switches::VARIABLE, "no-push-fragments,no-push-rest,no-readahead")]);
}

#[test]
#[ignore = "run in namespaces of its own"]
fn expected() {
    if !is_started() {
        return;
    }
    let programs = |source: &Path| {
        make_tree(source, &["bin/", "bin/link -> /opt/program", "opt/"]);
        fs::copy(std::env::current_exe().unwrap(), source.join("opt/program")).unwrap();
    };
    let mut mounted = Mounted::new(programs, &["-comp", "gzip", "-no-fragments"]);
    let (path, talk) = (mounted.path(), talk_directory());
    // The header, symbols, relocations and data: several blocks, which wait until the file is known.
    eventually(|| stat(&talk, "blocks") >= 4);
    assert_eq!((stat(&talk, "READ"), stat(&talk, "pushes")), (0, 0));
    let size = fs::metadata(path.join("opt/program")).unwrap().len();
    assert_eq!(size, fs::metadata(mounted.source().join("opt/program")).unwrap().len());
    // The header's block may be the last, so there have to come no more for a while.
    let mut before = 0;
    eventually(|| {
        let now = stat(&talk, "pushes");
        let ended = now >= 4 && now == before;
        before = now;
        if !ended {
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
        ended
    });
    let mut header = [0; 4096];
    std::os::unix::fs::FileExt::read_exact_at(&File::open(path.join("opt/program")).unwrap(), &mut header, 0).unwrap();
    assert_eq!(stat(&talk, "READ"), 0);
    assert!(fs::read(path.join("opt/program")).unwrap() == fs::read(mounted.source().join("opt/program")).unwrap());
    assert!(mounted.end());
}
