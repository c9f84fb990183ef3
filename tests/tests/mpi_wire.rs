//! What ranks keep of who starts them, with starters made up by variables.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests fail by panicking")]

use coracle_tests::fixtures::corner_squashfs;
use coracle_tests::needs;
use coracle_tests::process::{User, coracle_binary, run};

/// What Hydra sets for one of so many ranks, with 9 as the descriptor.
fn rank_of(size: &str) -> [(&'static str, String); 4] {
    [("PMI_FD", "9"), ("PMI_RANK", "0"), ("PMI_SIZE", size), ("MPI_LOCALNRANKS", size)]
        .map(|(name, value)| (name, value.to_owned()))
}

/// Descriptors of the program, and what came of its word through number 9, which is `opened`.
fn seen(opened: &str, ranks: &str, options: &[&str]) -> String {
    let user = User::unprivileged();
    let dir = user.temp_dir();
    let mut command = user.command("/bin/sh");
    // Number 7 is named by nothing.
    let script = format!("exec 7>&1 9{opened}; exec \"$@\" /bin/sh -c 'ls /proc/$$/fd; echo said 2>/dev/null >&9; :'");
    command.current_dir(dir.path()).args(["-c", &script, "sh"]).arg(coracle_binary().unwrap()).arg("exec");
    command.args(options).arg(corner_squashfs()).envs(rank_of(ranks));
    let words = run(&mut command).success().stdout;
    words.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn userns_ranks_keep_the_descriptor_of_their_starter_in_every_way() {
    needs!(Coracle, Fuse);
    // The second of the first two joins what the first has made.
    for options in [&[][..], &[], &["--no-session"], &["--pid"], &["--no-session", "--pid"], &["--fakeroot"]] {
        assert_eq!(seen(">&1", "2", options), "0 1 2 9 said", "{options:?}");
    }
}

#[test]
fn userns_nothing_but_a_channel_of_several_ranks_is_kept() {
    needs!(Coracle, Fuse);
    for options in [&[][..], &["--pid"]] {
        assert_eq!(seen("</etc", "2", options), "0 1 2", "a directory leads out of the container: {options:?}");
        assert_eq!(seen("</etc/passwd", "2", options), "0 1 2", "a file is no channel: {options:?}");
        assert_eq!(seen(">&1", "1", options), "0 1 2", "a single rank speaks to nobody: {options:?}");
    }
}

#[test]
fn userns_a_dry_run_shows_what_is_kept() {
    needs!(Coracle);
    let user = User::unprivileged();
    let dir = user.temp_dir();
    let mut command = user.coracle(dir.path(), ["exec", "--dry-run"]);
    let shown = run(command.arg(corner_squashfs()).arg("true").envs(rank_of("2"))).success().stdout;
    assert!(shown.contains("close all descriptors except 0, 1 and 2, and 9 if it is a socket or a pipe"), "{shown}");
}
