//! `coracle config`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

#[doc = concat!("`config`.")]
#[derive(Debug, Args)]
pub struct Config {
    /// What to do.
    #[command(subcommand)]
    pub command: ConfigCommand,
}

#[doc = concat!("What can be done with the configuration.")]
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Print what is in force
    ///
    /// /etc/coracle/coracle.toml and conf.d/*.toml, your ~/.config/coracle/coracle.toml, and variables, of which the later
    /// counts. Of lists that all of them add to, each has its line.
    Show {
        /// Print a list of keys, values and origins as JSON
        #[arg(long)]
        json: bool,
        /// Say where each value comes from
        #[arg(long)]
        origin: bool,
    },
    /// Say everything that is wrong with the configuration
    ///
    /// The exit status is 1 when something is.
    Check {
        /// Files to look at before they are put in place, instead of those in force
        files: Vec<PathBuf>,
    },
}
