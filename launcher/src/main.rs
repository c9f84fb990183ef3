//! The `coracle` program: dispatches verbs, and is the one place that prints.
// Where the C library hands the arguments to Rust by itself.
#![cfg_attr(all(not(test), target_env = "gnu"), no_main)]

mod build;
mod configuration;
mod devices;
mod images;
mod instances;
mod launch;
mod progress;
mod record;
mod registry;

use std::io::{self, BufWriter, Write};
use std::path::PathBuf;

use anyhow::Context;
use clap::Parser;
use coracle::cli::{self, Cli, Command};
use coracle::config::Config;
use coracle::doctor::Report;
use coracle::engine;
use coracle::exit::Exit;
use coracle::image::{self, ImageFile};
use coracle::inspect::{self, View};
use coracle::options::Verb;
use coracle::sys::start;
use coracle::trace;

/// Called by the C library.
#[cfg(all(not(test), target_env = "gnu"))]
#[allow(unsafe_code, reason = "the name by which the C library calls it")]
#[unsafe(no_mangle)]
extern "C" fn main() -> i32 {
    start::enter(program)
}

#[cfg(any(test, not(target_env = "gnu")))]
fn main() {
    std::process::exit(start::enter(program));
}

/// The program, and its exit status.
fn program() -> u8 {
    if let Err(error) = trace::start() {
        warn(&format!("cannot open the file that {} names: {error}", trace::VARIABLE));
    }
    trace::mark("read the command line");
    let cli = match cli::quick::parse(std::env::args_os()).map_or_else(Cli::try_parse, Ok) {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are no errors and go to standard output; clap knows which is which.
            let _ = error.print();
            return if error.use_stderr() { Exit::Failure } else { Exit::Success } as u8;
        }
    };
    match dispatch(cli) {
        Ok(status) => status,
        Err(error) if is_broken_pipe(&error) => Exit::Success as u8,
        Err(error) => complain(&error) as u8,
    }
}

/// Says what went wrong, and what to exit with.
fn complain(error: &anyhow::Error) -> Exit {
    if error.downcast_ref::<images::Said>().is_some() {
        return Exit::Failure;
    }
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

/// Standard output took no more.
#[derive(Debug, thiserror::Error)]
#[error("cannot write to standard output")]
struct Output(#[source] io::Error);

/// The reader of a listing may have read enough. Pipes and sockets to others than that reader do not count.
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let broken = |output: &Output| output.0.kind() == io::ErrorKind::BrokenPipe;
    error.chain().any(|cause| cause.downcast_ref::<Output>().is_some_and(broken))
}

/// Standard output, whose errors can be told from others'.
struct Stdout<W>(W);

impl<W: Write> Write for Stdout<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes).map_err(|error| io::Error::new(error.kind(), Output(error)))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush().map_err(|error| io::Error::new(error.kind(), Output(error)))
    }
}

fn dispatch(cli: Cli) -> anyhow::Result<u8> {
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
        Command::Instance(arguments) => return instances::instance(&arguments.command),
        Command::Spec(spec) => launch::specification(&spec),
        Command::Config(arguments) => configuration::configuration(&arguments.command),
        Command::Session(session) => launch::sessions(&session.command),
        Command::Build(arguments) => build::build(&arguments).map(|()| Exit::Success),
        Command::Pull(arguments) => build::pull(&arguments).map(|()| Exit::Success),
        Command::Push(arguments) => registry::push(&arguments).map(|()| Exit::Success),
        Command::Registry(arguments) => registry::registry(&arguments.command),
        Command::Images(arguments) => images::list(&arguments),
        Command::Rmi(arguments) => images::remove(&arguments),
        Command::Prune(arguments) => images::prune(&arguments),
        Command::Cdi(arguments) => devices::cdi(&arguments),
        Command::Inspect(arguments) => show_image(&arguments),
        Command::Completions(arguments) => complete(&arguments),
        Command::Gpu(cli::Gpu { command: cli::GpuCommand::Explain(arguments) }) => launch::explain(&arguments),
        Command::Mpi(cli::Mpi { command: cli::MpiCommand::Explain(arguments) }) => launch::explain_mpi(&arguments),
        Command::Doctor(arguments) => {
            let report = Report::collect();
            print(|out| Ok(report.write(arguments.json, out)?))?;
            Ok(if report.fit { Exit::Success } else { Exit::Unfit })
        }
    };
    exit.map(|exit| exit as u8)
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
    let image = images::find(&arguments.image, cli::Pull::Missing, &settings()?)?;
    match ImageFile::open(&image.path) {
        Err(image::Error::Directory { path }) => print(|out| Ok(inspect::show_directory(&path, view, out)?)),
        file => {
            let file = file?;
            print(|out| Ok(inspect::show(&file, view, out)?))
        }
    }?;
    Ok(Exit::Success)
}

/// Where the user's settings are looked for.
fn home() -> Option<PathBuf> {
    std::env::var_os("HOME").map(PathBuf::from).filter(|home| home.is_absolute())
}

/// The script for a shell, or what it asks for.
fn complete(arguments: &cli::completions::Completions) -> anyhow::Result<Exit> {
    print(|out| match arguments.shell {
        Some(shell) => Ok(out.write_all(cli::completions::script(shell).as_bytes())?),
        None => images::names(out),
    })?;
    Ok(Exit::Success)
}

/// The settings of site and user.
fn settings() -> anyhow::Result<Config> {
    Ok(Config::read(home().as_deref())?)
}

/// Writes to standard output, and means it: what is left in the buffer may fail as well.
fn print(write: impl FnOnce(&mut dyn Write) -> anyhow::Result<()>) -> anyhow::Result<()> {
    let mut out = BufWriter::new(Stdout(io::stdout().lock()));
    write(&mut out)?;
    Ok(out.flush()?)
}
