//! The command line: the one definition of verbs, options and their help.
//!
//! Parsing is pure. It ends in the types of [`crate::options`]; nothing here looks at the host.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::options::Verb;

pub mod accepted;
mod cdi;
pub mod completions;
mod config;
mod flags;
mod instance;
pub mod parse;
pub mod quick;
pub mod registry;
mod store;
pub mod units;

pub use cdi::{Cdi, CdiCommand};
pub use config::{Config, ConfigCommand};
pub use flags::Flags;
pub use instance::{InInstance, Instance, InstanceCommand, List, Logs, Restart, Start, Stop};
pub use store::{Build, Conversion, Format, Images, Prune, Pull, PullArguments, Remove, Showing};

/// The forms of a source, as help shows them.
const SOURCES: &str = "docker://NAME[:TAG], oras://NAME[:TAG], oci:DIR[:TAG], oci-archive:FILE[:TAG], \
                       docker-archive:FILE[:TAG], docker-daemon:NAME[:TAG], containers-storage:NAME, tar:FILE, dir:DIR, \
                       squashfs:FILE, sif:FILE, or a path alone, which is told by what it holds";

/// Runs container images on HPC clusters, without root.
#[derive(Debug, Parser)]
#[command(name = "coracle", version, max_term_width = 100, disable_help_subcommand = true)]
#[command(
    after_help = "Exit status: the program's own; 125 when coracle fails, 126 when the program cannot be executed, \
                        127 when it is not in the image."
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The verbs.
// The arguments' own documentation is written with `concat!`, which clap passes over: it would take the place of the verb's here.
// Each verb's options are made when it is the one: that is a tenth of a launch.
#[derive(Debug, Subcommand)]
#[command(defer = true)]
pub enum Command {
    /// Run the image's own program (its entrypoint and command)
    ///
    /// Arguments after the image replace the image's default arguments and go to the program untouched.
    #[command(override_usage = "coracle run [OPTIONS] IMAGE [ARG]...")]
    Run(Launch),
    /// Execute a command in an image
    #[command(override_usage = "coracle exec [OPTIONS] IMAGE COMMAND [ARG]...")]
    Exec(Launch),
    /// Start a shell in an image
    #[command(override_usage = "coracle shell [OPTIONS] IMAGE [ARG]...")]
    Shell(Launch),
    /// Convert an image into one squashfs file, a directory, or an OCI archive
    ///
    /// A squashfs or SIF file as the source is packed anew, with other settings or laid out for a program; what is in it
    /// stays as it is.
    Build(Build),
    /// Bring an image into the store, converted once for all who share it
    ///
    /// The source is looked at anew. What run, exec and shell find stored they do not pull again.
    #[command(override_usage = "coracle pull [OPTIONS] SOURCE [NAME]")]
    Pull(PullArguments),
    /// Store a finished image file in a registry
    ///
    /// Where the same repository has the container image that the file was made of, the file is linked to it.
    Push(registry::Push),
    /// Log in to registries and out
    Registry(registry::Registry),
    /// List the stored images
    Images(Images),
    /// Remove stored images by name
    ///
    /// An image goes with its last name; programs that run from it are not disturbed.
    Rmi(Remove),
    /// Remove stored images that are not needed
    ///
    /// Without options: images older than ten minutes that no name is left of, blobs that were not read for 30 days, and what killed processes left.
    Prune(Prune),
    /// Show what an image contains
    Inspect(Inspect),
    /// Devices that --device gives containers, by the Container Device Interface (CDI)
    Cdi(Cdi),
    /// What a container would get of the host's GPU drivers
    Gpu(Gpu),
    /// Which MPI libraries host and image have, and whether ranks find each other
    Mpi(Mpi),
    /// Check whether this host can run images, and say what to change
    Doctor(Doctor),
    /// Print what would run, as an OCI runtime specification
    ///
    /// With a command it is what `exec` would do, without one what `run` would do.
    #[command(override_usage = "coracle spec [OPTIONS] IMAGE [COMMAND [ARG]...]")]
    Spec(Spec),
    /// Look at the sessions of images on this node, and end them
    ///
    /// A session is the mount of an image that all of a user's launches on a node share. It ends by itself some
    /// seconds after its last program.
    Session(Session),
    /// Show the configuration in force, and check it
    Config(Config),
    /// Run containers in the background under names
    Instance(Instance),
    /// Find out what a program reads of an image, for an image that is laid out for it
    Profile(Profile),
    /// Print what makes a shell complete coracle's verbs, options and images
    ///
    /// bash: source <(coracle completions bash), or put it into ~/.local/share/bash-completion/completions/coracle; zsh: put it into
    /// a directory of $fpath as _coracle; fish: put it into ~/.config/fish/completions/coracle.fish.
    Completions(completions::Completions),
}

#[doc = concat!("`profile`.")]
#[derive(Debug, Args)]
pub struct Profile {
    /// What to do.
    #[command(subcommand)]
    pub command: ProfileCommand,
}

#[doc = concat!("What can be done with profiles.")]
#[derive(Debug, Subcommand)]
pub enum ProfileCommand {
    /// Run a program and write down what it reads, in order
    ///
    /// `coracle build --profile FILE NEW.sqfs IMAGE.sqfs` then makes an image in which that lies together, and is read
    /// ahead. The exit status is the program's own.
    #[command(override_usage = "coracle profile record [OPTIONS] IMAGE [--] [COMMAND [ARG]...]")]
    Record(Record),
}

#[doc = concat!("`profile record`.")]
#[derive(Debug, Args)]
pub struct Record {
    /// How to run it.
    #[command(flatten)]
    pub flags: Flags,
    /// Where the profile goes [default: the image's name with .profile.json]
    #[arg(long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// An image, as for exec, and the command; the image's own program when there is none
    #[arg(required = true, trailing_var_arg = true, value_name = "IMAGE")]
    pub words: Vec<OsString>,
}

#[doc = concat!("`session`.")]
#[derive(Debug, Args)]
pub struct Session {
    /// What to do.
    #[command(subcommand)]
    pub command: SessionCommand,
}

#[doc = concat!("What can be done with sessions.")]
#[derive(Debug, Subcommand)]
pub enum SessionCommand {
    /// List the sessions
    List {
        /// Print the list as JSON
        #[arg(long)]
        json: bool,
    },
    /// Print what the servers have done, as JSON: requests by kind, caches, bytes, time
    Stats {
        /// Only those of this image file
        image: Option<PathBuf>,
    },
    /// Let no more launches join; the mount ends with the programs that use it
    Stop {
        /// The image file
        #[arg(required_unless_present = "all")]
        image: Option<PathBuf>,
        /// All sessions
        #[arg(long, conflicts_with = "image")]
        all: bool,
    },
}

#[doc = concat!("`run`, `exec` and `shell`.")]
#[derive(Debug, Args)]
pub struct Launch {
    /// How to run it.
    #[command(flatten)]
    pub flags: Flags,
    /// A squashfs or SIF file, a stored image's name, a source as for pull, instance://NAME, or an environment definition file
    /// (FILE.toml or edf://NAME); and what follows it, which is never taken for options of coracle
    #[arg(required = true, trailing_var_arg = true, value_name = "IMAGE")]
    pub words: Vec<OsString>,
}

#[doc = concat!("`spec`.")]
#[derive(Debug, Args)]
pub struct Spec {
    /// How it would run.
    #[command(flatten)]
    pub flags: Flags,
    /// Print the steps in the order in which they would be taken, instead of the specification
    #[arg(long)]
    pub steps: bool,
    /// An image, as for exec, and what follows it
    #[arg(required = true, trailing_var_arg = true, value_name = "IMAGE")]
    pub words: Vec<OsString>,
}

#[doc = concat!("`inspect`.")]
#[derive(Debug, Args)]
pub struct Inspect {
    /// A squashfs or SIF file, a stored image's name, or a source as for pull
    pub image: PathBuf,
    /// Print the summary as JSON
    #[arg(long, group = "what")]
    pub json: bool,
    /// Print the OCI image configuration, byte for byte
    #[arg(long, group = "what")]
    pub config: bool,
    /// Print the OCI manifest, byte for byte
    #[arg(long, group = "what")]
    pub manifest: bool,
    /// List every file with its metadata
    #[arg(long, group = "what")]
    pub tree: bool,
    /// Print the squashfs superblock
    #[arg(long, group = "what")]
    pub superblock: bool,
}

#[doc = concat!("`gpu`.")]
#[derive(Debug, Args)]
pub struct Gpu {
    /// What to do.
    #[command(subcommand)]
    pub command: GpuCommand,
}

#[doc = concat!("What can be done with GPUs.")]
#[derive(Debug, Subcommand)]
pub enum GpuCommand {
    /// Print which drivers this host has, what a container of an image would get of them, and why
    ///
    /// Takes the options of a launch; without --nv, --rocm, --intel or --gpu it looks for all.
    #[command(override_usage = "coracle gpu explain [OPTIONS] IMAGE")]
    Explain(Explain),
}

#[doc = concat!("`gpu explain`.")]
#[derive(Debug, Args)]
pub struct Explain {
    /// How it would run.
    #[command(flatten)]
    pub flags: Flags,
    /// Print it as JSON
    #[arg(long)]
    pub json: bool,
    /// An image, as for exec
    pub image: PathBuf,
}

#[doc = concat!("`mpi`.")]
#[derive(Debug, Args)]
pub struct Mpi {
    /// What to do.
    #[command(subcommand)]
    pub command: MpiCommand,
}

#[doc = concat!("What can be done with MPI.")]
#[derive(Debug, Subcommand)]
pub enum MpiCommand {
    /// Print the MPI libraries of host and image, which one a program uses, and whether its ranks would find each other
    ///
    /// Takes the options of a launch. Whether ranks find each other depends on who starts them, so start it as they are started:
    /// srun --mpi=pmix -n2 coracle mpi explain IMAGE PROGRAM
    #[command(override_usage = "coracle mpi explain [OPTIONS] IMAGE [PROGRAM]")]
    Explain(ExplainMpi),
}

#[doc = concat!("`mpi explain`.")]
#[derive(Debug, Args)]
pub struct ExplainMpi {
    /// How it would run.
    #[command(flatten)]
    pub flags: Flags,
    /// Print it as JSON
    #[arg(long)]
    pub json: bool,
    /// An image, as for exec
    pub image: PathBuf,
    /// A program, as for exec
    pub program: Option<OsString>,
}

#[doc = concat!("`doctor`.")]
#[derive(Debug, Args)]
pub struct Doctor {
    /// Print the result as JSON
    #[arg(long)]
    pub json: bool,
}

/// Splits what follows the options into the image and the rest.
#[must_use]
pub fn image_and_rest(words: &[OsString]) -> Option<(PathBuf, Vec<OsString>)> {
    let (image, rest) = words.split_first()?;
    Some((PathBuf::from(image), rest.to_vec()))
}

/// The command after the image of `exec` and `spec`. No program is called `--`, so one in front is dropped for those
/// who are used to writing it.
#[must_use]
pub fn command(rest: Vec<OsString>) -> Option<Verb> {
    let mut rest = rest;
    if rest.first().is_some_and(|word| word == "--") {
        rest.remove(0);
    }
    (!rest.is_empty()).then_some(Verb::Exec(rest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn launch(words: &[&str]) -> Launch {
        match Cli::try_parse_from(words).unwrap().command {
            Command::Run(launch) | Command::Exec(launch) | Command::Shell(launch) => launch,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn what_follows_the_image_is_not_ours() {
        let launch = launch(&["coracle", "exec", "-e", "i.sqfs", "--bind", "-e", "--help", "--", "x"]);
        assert_eq!(launch.words, ["i.sqfs", "--bind", "-e", "--help", "--", "x"]);
        assert!(launch.flags.cleanenv && launch.flags.bind.is_empty());
    }

    #[test]
    fn options_before_the_image_reach_their_types() {
        let words = ["coracle", "run", "-B", "/a:/b:ro", "-B/c", "--cwd", "/w", "--env", "A=1", "-c", "i.sqfs", "-x"];
        let launch = launch(&words);
        let options = launch.flags.options().unwrap();
        assert_eq!(options.binds.len(), 2);
        assert_eq!(options.working_dir, Some(PathBuf::from("/w")));
        assert!(options.contain && !options.clean_env);
        assert_eq!(launch.words, ["i.sqfs", "-x"]);
    }

    #[test]
    fn verbs_keep_their_descriptions() {
        let command = Cli::command();
        let mut built = command.clone();
        built.build();
        for verb in command.get_subcommands() {
            let after = built.find_subcommand(verb.get_name()).unwrap();
            let text = |command: &clap::Command| {
                (command.get_about().map(ToString::to_string), command.get_long_about().map(ToString::to_string))
            };
            assert_eq!(text(verb), text(after), "{}", verb.get_name());
        }
    }

    #[test]
    fn an_image_is_required() {
        assert!(Cli::try_parse_from(["coracle", "run"]).is_err());
        assert!(Cli::try_parse_from(["coracle", "run", "--home", "/x", "--no-home", "i"]).is_err());
    }

    #[test]
    fn dashes_before_a_command_are_dropped() {
        let words = |list: &[&str]| list.iter().map(OsString::from).collect::<Vec<_>>();
        assert_eq!(command(words(&["--", "ls", "--"])), Some(Verb::Exec(words(&["ls", "--"]))));
        assert_eq!(command(words(&["--"])), None);
        assert_eq!(command(Vec::new()), None);
    }
}
