//! Arguments of what makes images and keeps them: `build`, `pull`, `images`, `rmi` and `prune`.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use coracle_squashfs::compress::Compression;

use super::registry::Fetch;
use super::{SOURCES, parse, units};

/// When an image argument that is no file is brought into the store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Pull {
    /// Each time: a tag may stand for another image than yesterday
    Always,
    /// When it is not there, or a local source has changed
    #[default]
    Missing,
    /// Not at all
    Never,
}

#[doc = concat!("How an image is made.")]
#[derive(Debug, Default, Args)]
pub struct Conversion {
    /// zstd (the default), gzip, lz4 or xz; zstd and gzip with a level. Of an OCI archive's layer: gzip (the default) or zstd
    #[arg(long, value_name = "CODEC[:LEVEL]", value_parser = parse::compression)]
    pub compression: Option<Compression>,
    /// Bytes in a data block, a power of two from 4K to 1M [default: 128K]
    #[arg(long, value_name = "SIZE", value_parser = parse::block_size)]
    pub block_size: Option<u32>,
    /// Lay the files that a program reads out together, in the order of a profile, which becomes a part of the image
    #[arg(long, value_name = "FILE")]
    pub profile: Option<PathBuf>,
    /// Compressing threads; one for each core when left out
    #[arg(long, value_name = "N")]
    pub threads: Option<NonZeroUsize>,
    /// What to fetch, and how.
    #[command(flatten)]
    pub fetch: Fetch,
}

#[doc = concat!("What is shown meanwhile.")]
#[derive(Debug, Default, Args)]
pub struct Showing {
    /// Show neither progress nor summary
    #[arg(short, long)]
    pub quiet: bool,
    /// Print what happens as JSON, one object on each line
    #[arg(long, conflicts_with = "quiet")]
    pub json: bool,
}

/// What `build` makes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// One squashfs file, to run
    #[default]
    Squashfs,
    /// A directory, to look at and change
    Sandbox,
    /// An OCI image layout in a tar, for other tools
    OciArchive,
}

#[doc = concat!("`build`.")]
#[derive(Debug, Args)]
pub struct Build {
    /// The squashfs file, directory or archive to make
    #[arg(value_name = "OUTPUT")]
    pub output: PathBuf,
    /// What to convert.
    #[arg(value_name = "SOURCE", help = SOURCES)]
    pub source: String,
    /// Replace the output if it exists
    #[arg(short = 'F', long)]
    pub force: bool,
    /// Unpack into a directory that belongs to you, the same as --format sandbox
    #[arg(short, long, conflicts_with_all = ["format", "block_size", "compression", "profile"])]
    pub sandbox: bool,
    /// What to make
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t)]
    pub format: Format,
    /// How.
    #[command(flatten)]
    pub conversion: Conversion,
    /// What is shown.
    #[command(flatten)]
    pub showing: Showing,
}

#[doc = concat!("`pull`.")]
#[derive(Debug, Args)]
pub struct PullArguments {
    /// What to store.
    #[arg(value_name = "SOURCE", help = SOURCES)]
    pub source: String,
    /// Convert the image even if its registry has a finished file of it
    #[arg(long)]
    pub convert: bool,
    /// What to call it [default: as the source]
    #[arg(conflicts_with = "output")]
    pub name: Option<String>,
    /// Make this file instead of storing the image, as build does
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Replace the file if it exists
    #[arg(short = 'F', long, requires = "output")]
    pub force: bool,
    /// How.
    #[command(flatten)]
    pub conversion: Conversion,
    /// What is shown.
    #[command(flatten)]
    pub showing: Showing,
}

#[doc = concat!("`images`.")]
#[derive(Debug, Args)]
pub struct Images {
    /// Print the list as JSON
    #[arg(long)]
    pub json: bool,
}

#[doc = concat!("`rmi`.")]
#[derive(Debug, Args)]
pub struct Remove {
    /// Names, or the beginnings of ids
    #[arg(required = true, value_name = "NAME")]
    pub names: Vec<String>,
}

#[doc = concat!("`prune`.")]
#[derive(Debug, Args)]
pub struct Prune {
    /// Also images and blobs that were not used for so long: 12h, 30d, 8w
    #[arg(long, value_name = "AGE", value_parser = units::age)]
    pub older_than: Option<Duration>,
    /// Also the least recently used images and blobs, until no more is left than this: 500M, 50G
    #[arg(long, value_name = "SIZE", value_parser = units::size)]
    pub max_size: Option<u64>,
    /// All images and blobs
    #[arg(long)]
    pub all: bool,
    /// Only say what would be removed
    #[arg(short = 'n', long)]
    pub dry_run: bool,
    /// Print the result as JSON
    #[arg(long)]
    pub json: bool,
}
