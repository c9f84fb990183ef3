//! Writes the manual pages `coracle.1`, `coracle-run.1` … into a directory, for packages:
//!
//! ```console
//! $ cargo run --example man -- DIRECTORY
//! ```
#![allow(dead_code, reason = "a test uses all but the entry")]

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap::{Command, CommandFactory};
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};
use coracle::cli::Cli;

fn main() -> io::Result<()> {
    let directory = std::env::args_os().nth(1).map(PathBuf::from);
    let directory = directory.ok_or_else(|| io::Error::other("write: cargo run --example man -- DIRECTORY"))?;
    fs::create_dir_all(&directory)?;
    write(&directory)
}

/// All pages.
///
/// # Errors
/// When one cannot be written.
pub fn write(directory: &Path) -> io::Result<()> {
    let mut command = Cli::command();
    command.build();
    page(&command, &[], directory)
}

/// The page of a command, and those of its subcommands.
fn page(command: &Command, above: &[&str], directory: &Path) -> io::Result<()> {
    let mut words = above.to_vec();
    words.push(command.get_name());
    let name = words.join("-");
    let man = Man::new(command.clone().version(env!("CARGO_PKG_VERSION")));
    let mut text = Vec::new();
    let version = concat!("coracle ", env!("CARGO_PKG_VERSION"));
    // Without a date, so that the same source gives the same pages.
    writeln!(text, ".TH {} 1 \"\" \"{version}\" Coracle", name.to_uppercase())?;
    heading("NAME", &mut text)?;
    let about = command.get_about().map(ToString::to_string).unwrap_or_default();
    Roff::new().text([roman(format!("{name} - {about}"))]).to_writer(&mut text)?;
    heading("SYNOPSIS", &mut text)?;
    let usage = command.clone().render_usage().to_string();
    let usage = usage.trim_start_matches("Usage:").lines().map(str::trim).filter(|line| !line.is_empty());
    for (number, line) in usage.enumerate() {
        let mut roff = Roff::new();
        if number > 0 {
            roff.control("br", []);
        }
        roff.text([bold(line)]).to_writer(&mut text)?;
    }
    man.render_description_section(&mut text)?;
    if command.get_arguments().any(|argument| !argument.is_hide_set()) {
        man.render_options_section(&mut text)?;
    }
    if command.has_subcommands() {
        heading("COMMANDS", &mut text)?;
        for below in command.get_subcommands().filter(|below| !below.is_hide_set()) {
            let about = below.get_about().map(ToString::to_string).unwrap_or_default();
            let title = format!("{name}-{}(1)", below.get_name());
            Roff::new().control("TP", []).text([roman(title)]).text([roman(about)]).to_writer(&mut text)?;
        }
    }
    ending(above.first().copied(), &mut text)?;
    // A break beside a blank line is one that readers warn of.
    let text = String::from_utf8_lossy(&text).replace(".br\n\n.br\n", ".sp\n");
    fs::write(directory.join(format!("{name}.1")), text)?;
    let below = command.get_subcommands().filter(|below| !below.is_hide_set());
    below.into_iter().try_for_each(|below| page(below, &words, directory))
}

fn heading(title: &str, to: &mut impl Write) -> io::Result<()> {
    Roff::new().control("SH", [title]).to_writer(to)
}

/// What every page ends with.
fn ending(above: Option<&str>, to: &mut impl Write) -> io::Result<()> {
    heading("EXIT STATUS", to)?;
    for (status, meaning) in [
        ("0", "Success. Of run, exec, shell and profile record it is the status of the program."),
        ("1", "coracle doctor found something that keeps images from running."),
        ("125", "Coracle failed, or did not understand its arguments."),
        ("126", "The program is in the image, but cannot be executed."),
        ("127", "The program is not in the image."),
    ] {
        Roff::new().control("TP", []).text([bold(status)]).text([roman(meaning)]).to_writer(to)?;
    }
    heading("FILES", to)?;
    for (file, what) in [
        ("/etc/coracle/coracle.toml, /etc/coracle/conf.d/*.toml", "Settings of the site."),
        ("~/.config/coracle/coracle.toml", "Settings of the user, which count after them."),
        ("~/.local/share/coracle/images", "Stored images, unless CORACLE_STORE or a setting says otherwise."),
    ] {
        Roff::new().control("TP", []).text([roman(file)]).text([roman(what)]).to_writer(to)?;
    }
    if let Some(above) = above {
        heading("SEE ALSO", to)?;
        Roff::new().text([bold(above), roman("(1)")]).to_writer(to)?;
    }
    Ok(())
}
