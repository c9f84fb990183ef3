//! The documents against the program: options that they name exist, options that exist are named, messages are the code's.
#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use clap::{Command, CommandFactory};
use coracle::cli::Cli;

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_path_buf()
}

fn document(name: &str) -> String {
    let path = workspace().join("docs").join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Long options of a command, with other names and hidden ones.
fn own_options(command: &Command) -> BTreeSet<String> {
    let names = command.get_arguments().flat_map(|arg| {
        let aliases = arg.get_all_aliases().unwrap_or_default();
        arg.get_long().into_iter().chain(aliases).map(str::to_owned).collect::<Vec<_>>()
    });
    names.collect()
}

fn all_options(command: &Command) -> BTreeSet<String> {
    let below = command.get_subcommands().flat_map(all_options);
    own_options(command).into_iter().chain(below).collect()
}

fn definition() -> Command {
    let mut command = Cli::command();
    command.build();
    command
}

/// Those of a launch.
fn launch_options() -> BTreeSet<String> {
    own_options(definition().find_subcommand("exec").unwrap())
}

/// What begins with two dashes in a text.
fn named(text: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let starts = text.match_indices("--").map(|(at, _)| at);
    for at in starts.filter(|at| !text[..*at].ends_with(['-', '|']) && !text[..*at].ends_with(char::is_alphanumeric)) {
        let name: String =
            text[at + 2..].chars().take_while(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || *c == '-').collect();
        if !name.trim_matches('-').is_empty() {
            found.insert(name.trim_end_matches('-').to_owned());
        }
    }
    found
}

/// Cells of the tables' rows, without heads.
fn rows(text: &str) -> Vec<Vec<String>> {
    let cells = |line: &str| {
        let line = line.trim().trim_start_matches('|').trim_end_matches('|').replace("\\|", "\u{1}");
        line.split('|').map(|cell| cell.trim().replace('\u{1}', "|")).collect::<Vec<_>>()
    };
    let lines: Vec<&str> = text.lines().collect();
    let is_rule = |line: &&str| line.starts_with("| ---");
    let rows = lines
        .iter()
        .enumerate()
        .filter(|(at, line)| line.starts_with('|') && !is_rule(line) && !lines.get(at + 1).is_some_and(is_rule));
    rows.map(|(_, line)| cells(line)).collect()
}

#[test]
fn every_option_of_a_launch_is_in_a_document() {
    let text = document("user-guide.md") + &document("apptainer-options.md");
    let named = named(&text);
    let missing: Vec<_> = launch_options().into_iter().filter(|name| name != "help" && !named.contains(name)).collect();
    assert!(missing.is_empty(), "neither in docs/user-guide.md nor in docs/apptainer-options.md: {missing:?}");
}

#[test]
fn apptainers_options_are_as_the_table_says() {
    let exist = launch_options();
    let all = all_options(&definition());
    let mut count = 0;
    let rows = rows(&document("apptainer-options.md"));
    let theirs: BTreeSet<String> = rows.iter().flat_map(|row| named(&row[0])).collect();
    for row in rows {
        let [option, here, note] = &row[..] else { panic!("{row:?}") };
        let there = match here.as_str() {
            "same" | "differs" | "always so" => true,
            "left out" => false,
            other => panic!("{other:?} is no state: {row:?}"),
        };
        for name in named(option) {
            count += 1;
            assert_eq!(exist.contains(&name), there, "--{name}: {here}");
        }
        for name in named(note) {
            // In examples of other programs.
            let foreign = ["user", "scope"].contains(&name.as_str());
            assert!(foreign || all.contains(&name) || theirs.contains(&name), "--{name} does not exist: {note}");
        }
    }
    assert!(count > 75, "{count} options");
}

#[test]
fn what_other_launchers_options_become_exists() {
    let all = all_options(&definition());
    let verbs: BTreeSet<String> = definition().get_subcommands().map(|command| command.get_name().to_owned()).collect();
    let mut count = 0;
    for row in rows(&document("coming-from.md")) {
        let [_, here, _] = &row[..] else { panic!("{row:?}") };
        for name in named(here) {
            count += 1;
            assert!(all.contains(&name), "--{name} does not exist: {row:?}");
        }
        for part in here.split("`coracle ").skip(1) {
            let verb: String = part.chars().take_while(char::is_ascii_lowercase).collect();
            assert!(verbs.contains(&verb), "there is no verb {verb}: {row:?}");
        }
    }
    assert!(count > 35, "{count} options");
}

/// All product code, with strings that go over several lines joined.
fn source() -> String {
    fn add(directory: &Path, text: &mut String) {
        for entry in fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()) {
            if entry.is_dir() {
                add(&entry, text);
            } else if entry.extension().is_some_and(|kind| kind == "rs") {
                text.push_str(&fs::read_to_string(entry).unwrap());
            }
        }
    }
    let mut text = String::new();
    for member in ["launcher", "converter", "squashfs", "mpi-hooks"] {
        add(&workspace().join(member).join("src"), &mut text);
    }
    let mut joined = String::new();
    for part in text.split("\\\n") {
        joined.push_str(if joined.is_empty() { part } else { part.trim_start() });
    }
    joined
}

#[test]
fn messages_that_are_explained_are_the_codes() {
    let source = source();
    let text = document("troubleshooting.md");
    let headings = text.lines().filter_map(|line| line.strip_prefix("### `")?.strip_suffix('`'));
    let headings: Vec<&str> = headings.collect();
    assert!(headings.len() > 40, "{}", headings.len());
    for heading in headings {
        let parts = heading.split('…').map(|part| part.trim_matches([':', ' '])).filter(|part| part.len() > 2);
        for part in parts {
            assert!(source.contains(part), "{heading}: no message has {part:?}");
        }
    }
    for name in named(&text) {
        let foreign = ["device", "security-opt", "container"].contains(&name.as_str());
        assert!(foreign || all_options(&definition()).contains(&name), "--{name} does not exist");
    }
}

/// Every page, relative to the workspace.
fn pages() -> Vec<PathBuf> {
    let mut pages = vec![PathBuf::from("README.md"), PathBuf::from("CHANGELOG.md")];
    for directory in ["docs", "docs/decisions"].map(PathBuf::from) {
        let entries = fs::read_dir(workspace().join(&directory)).unwrap();
        let names = entries.map(|entry| PathBuf::from(entry.unwrap().file_name()));
        pages.extend(
            names.filter(|name| name.extension().is_some_and(|kind| kind == "md")).map(|name| directory.join(name)),
        );
    }
    pages
}

/// What a link can name in a page: its headings, outside of code.
fn anchors(text: &str) -> BTreeSet<String> {
    let mut in_code = false;
    let mut found = BTreeSet::new();
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            in_code = !in_code;
        } else if line.starts_with('#') && !in_code {
            let title = line.trim_start_matches('#').trim().to_lowercase();
            let kept = title.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
            found.insert(kept.map(|c| if c == ' ' { '-' } else { c }).collect());
        }
    }
    found
}

#[test]
fn links_between_documents_lead_somewhere() {
    let mut count = 0;
    for page in pages() {
        let text = fs::read_to_string(workspace().join(&page)).unwrap();
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if link.contains("://") {
                continue;
            }
            count += 1;
            let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
            let directory = workspace().join(page.parent().unwrap());
            let target = if file.is_empty() { workspace().join(&page) } else { directory.join(file) };
            assert!(target.exists(), "{}: {link}", page.display());
            if !anchor.is_empty() {
                let text = fs::read_to_string(&target).unwrap();
                assert!(anchors(&text).contains(anchor), "{}: {link}", page.display());
            }
        }
    }
    assert!(count > 100, "{count} links");
}
