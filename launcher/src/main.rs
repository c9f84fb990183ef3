//! The `coracle` program: dispatches verbs, and is the one place that prints.

mod build;
mod launch;
mod record;
mod registry;

use std::io::{self, BufWriter, Write};
use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use coracle::cli::{self, Cli, Command};
use coracle::doctor::Report;
use coracle::engine;
use coracle::exit::Exit;
use coracle::image::ImageFile;
use coracle::inspect::{self, View};
use coracle::options::Verb;
use coracle::trace;

fn main() -> ExitCode {
    if let Err(error) = trace::start() {
        warn(&format!("cannot open the file that {} names: {error}", trace::VARIABLE));
    }
    trace::mark("read the command line");
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are no errors and go to standard output; clap knows which is which.
            let _ = error.print();
            return if error.use_stderr() { Exit::Failure } else { Exit::Success }.into();
        }
    };
    match dispatch(cli) {
        Ok(exit) => exit,
        Err(error) if is_broken_pipe(&error) => Exit::Success.into(),
        Err(error) => complain(&error).into(),
    }
}

/// Says what went wrong, and what to exit with.
fn complain(error: &anyhow::Error) -> Exit {
    say(&format!("coracle: error: {error:#}"));
    error.downcast_ref::<engine::Error>().map_or(Exit::Failure, engine::Error::exit)
}

/// Tells the caller, who may have closed standard error.
fn say(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}

fn warn(text: &str) {
    say(&format!("coracle: warning: {text}"));
}

/// The reader of a listing may have read enough.
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let broken = |cause: &io::Error| cause.kind() == io::ErrorKind::BrokenPipe;
    error.chain().any(|cause| cause.downcast_ref::<io::Error>().is_some_and(broken))
}

fn dispatch(cli: Cli) -> anyhow::Result<ExitCode> {
    let exit = match cli.command {
        Command::Run(launch) => launch::run(&launch.flags, &launch.words, |rest| Ok(Verb::Run(rest))),
        Command::Shell(launch) => launch::run(&launch.flags, &launch.words, |rest| Ok(Verb::Shell(rest))),
        Command::Exec(launch) => launch::run(&launch.flags, &launch.words, |rest| {
            cli::command(rest).context("no command given: write coracle exec IMAGE COMMAND, or coracle run IMAGE")
        }),
        // Its exit status is its program's.
        Command::Profile(cli::Profile { command: cli::ProfileCommand::Record(arguments) }) => {
            return record::record(&arguments);
        }
        Command::Spec(spec) => launch::show(&spec),
        Command::Session(session) => launch::sessions(&session.command),
        Command::Build(arguments) => {
            let summary = build::build(&arguments)?;
            if !arguments.quiet {
                print(|out| Ok(writeln!(out, "{summary}")?))?;
            }
            Ok(Exit::Success)
        }
        Command::Push(arguments) => {
            let summary = registry::push(&arguments)?;
            if !arguments.quiet {
                print(|out| Ok(writeln!(out, "{summary}")?))?;
            }
            Ok(Exit::Success)
        }
        Command::Registry(arguments) => {
            let mut exit = Exit::Failure;
            print(|out| {
                exit = registry::registry(&arguments.command, out)?;
                Ok(())
            })?;
            Ok(exit)
        }
        Command::Inspect(arguments) => show_image(&arguments),
        Command::Doctor(arguments) => {
            let report = Report::collect();
            print(|out| Ok(report.write(arguments.json, out)?))?;
            Ok(if report.fit { Exit::Success } else { Exit::Unfit })
        }
    };
    exit.map(ExitCode::from)
}

fn show_image(arguments: &cli::Inspect) -> anyhow::Result<Exit> {
    let view = match arguments {
        cli::Inspect { json: true, .. } => View::Json,
        cli::Inspect { config: true, .. } => View::Config,
        cli::Inspect { manifest: true, .. } => View::Manifest,
        cli::Inspect { tree: true, .. } => View::Tree,
        cli::Inspect { superblock: true, .. } => View::SuperBlock,
        _ => View::Summary,
    };
    let image = ImageFile::open(&arguments.image)?;
    print(|out| Ok(inspect::show(&image, view, out)?))?;
    Ok(Exit::Success)
}

/// Writes to standard output, and means it: what is left in the buffer may fail as well.
fn print(write: impl FnOnce(&mut dyn Write) -> anyhow::Result<()>) -> anyhow::Result<()> {
    let mut out = BufWriter::new(io::stdout().lock());
    write(&mut out)?;
    Ok(out.flush()?)
}
