//! Completion scripts by the shells that read them, and manual pages by the programs that show them.
#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

use std::fs;
use std::process::Command;

#[path = "../examples/man.rs"]
mod man;
mod support;

use support::World;

/// Runs the shell with the script's file as `$1`; nothing when there is no such shell.
fn ask(world: &World, shell: &str, script: &str) -> Option<String> {
    let program = world.coracle();
    let completed = world.coracle().args(["completions", shell]).output().unwrap();
    assert!(completed.status.success(), "{}", String::from_utf8_lossy(&completed.stderr));
    let file = world.path(shell);
    fs::write(&file, completed.stdout).unwrap();
    let folder = std::path::Path::new(program.get_program()).parent().unwrap();
    let mut command = Command::new(shell);
    command.arg("-c").arg(script).arg(shell).arg(&file).current_dir(&world.home);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let path = std::env::join_paths(std::iter::once(folder.to_path_buf()).chain(std::env::split_paths(&path))).unwrap();
    command.env("PATH", path).env("HOME", &world.home).env("CORACLE_STORE", world.path("store")).env("FILE", &file);
    match command.output() {
        Ok(output) => {
            assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
            Some(String::from_utf8(output.stdout).unwrap())
        }
        Err(_) => support::missing(shell).then_some(String::new()).filter(|text| !text.is_empty()),
    }
}

/// A store with two images, as `coracle images` lists them.
fn with_images() -> Option<World> {
    if support::unable() {
        return None;
    }
    let world = World::with(|_| {});
    let store = world.own_dir("store");
    for name in ["solver", "team/solver:2"] {
        let mut pull = world.coracle();
        pull.args(["pull", "-q"]).arg(format!("dir:{}", world.path("tree").display())).arg(name);
        let pulled = pull.env("CORACLE_STORE", &store).output().unwrap();
        assert!(pulled.status.success(), "{}", String::from_utf8_lossy(&pulled.stderr));
    }
    // The shells are run by whoever runs the tests.
    Some(world)
}

#[test]
fn bash_completes_verbs_options_and_images() {
    let Some(world) = with_images() else { return };
    let script = r#"
        source "$1"
        complete_for() {
            COMP_LINE="$*" COMP_POINT=${#COMP_LINE}
            COMP_WORDS=("$@") COMP_CWORD=$(($# - 1)) COMPREPLY=()
            _coracle_with_images coracle "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD-1]}" 2>/dev/null
            echo "${COMPREPLY[*]}"
        }
        complete_for coracle pru
        complete_for coracle exec --cleane
        complete_for coracle exec sol
        complete_for coracle run --contain team
        complete_for coracle registry log
        complete -p coracle
    "#;
    let Some(text) = ask(&world, "bash", script) else { return };
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[0], "prune");
    assert_eq!(lines[1], "--cleanenv");
    assert_eq!(lines[2], "solver");
    assert_eq!(lines[3], "team/solver:2");
    assert_eq!(lines[4], "login logout");
    assert!(lines[5].contains("_coracle_with_images"));
}

#[test]
fn zsh_and_fish_take_their_scripts() {
    let Some(world) = with_images() else { return };
    let zsh = "autoload -Uz compinit && compinit -u -d $HOME/dump && source $1 && whence -w _coracle _coracle_images";
    if let Some(text) = ask(&world, "zsh", zsh) {
        assert_eq!(text, "_coracle: function\n_coracle_images: function\n");
    }
    let fish =
        "source $FILE; complete -C 'coracle pru'; complete -C 'coracle exec sol'; complete -C 'coracle exec --cleane'";
    if let Some(text) = ask(&world, "fish", fish) {
        let words: Vec<&str> = text.lines().filter_map(|line| line.split('\t').next()).collect();
        assert_eq!(words, ["prune", "solver", "--cleanenv"], "{text}");
    }
}

#[test]
fn manual_pages_are_well_formed_and_complete() {
    let dir = tempfile::tempdir().unwrap();
    man::write(dir.path()).unwrap();
    let pages: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
    for name in ["coracle.1", "coracle-run.1", "coracle-exec.1", "coracle-registry-login.1", "coracle-profile-record.1"]
    {
        assert!(pages.iter().any(|page| page.ends_with(name)), "{name} is missing: {pages:?}");
    }
    let exec = fs::read_to_string(dir.path().join("coracle-exec.1")).unwrap();
    for text in ["coracle exec [OPTIONS] IMAGE COMMAND", "\\-\\-writable\\-tmpfs", "\\-\\-bind", "EXIT STATUS", "127"] {
        assert!(exec.contains(text), "{text}: {exec}");
    }
    // Dates are left out, so that the same source gives the same pages.
    match Command::new("mandoc").args(["-T", "lint", "-W", "warning"]).args(&pages).output() {
        Ok(output) => {
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            let lines: Vec<&str> = text.lines().filter(|line| !line.contains("missing date")).collect();
            assert!(lines.is_empty(), "{lines:#?}");
        }
        Err(_) => drop(support::missing("mandoc")),
    }
    let mut man = Command::new("man");
    man.args(["--warnings", "--local-file"])
        .env("MAN_KEEP_FORMATTING", "1")
        .env("MANWIDTH", "100")
        .env("LC_ALL", "C.UTF-8");
    match man.args(&pages).output() {
        Ok(output) => {
            let errors = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success() && errors.is_empty(), "{errors}");
        }
        Err(_) => drop(support::missing("man")),
    }
}
