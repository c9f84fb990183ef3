//! `coracle-bench`: conversion and running of images, against the tools that do the same.
//!
//! Contenders take turns within each round and the order rotates from round to round, so that a machine that slows
//! down or a cache that one leaves to the next hurts all of them alike. Medians and ratios go into a table, every
//! single figure into a JSON file.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program whose output is its report")]

use anyhow::{Context, Result};
use clap::Parser;
use std::path::{Path, PathBuf};

mod conversion;
mod frontier;
mod images;
mod launch;
mod machine;
mod measure;
mod pull;
mod report;
mod rounds;
mod workload;

/// Measures coracle against its peers, in turns, and writes figures and a table.
#[derive(Debug, Parser)]
struct Options {
    /// Rounds for each table
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Rounds for launches, which are short and scatter more
    #[arg(long, default_value_t = 25)]
    launch_rounds: usize,
    /// Tables to make: conversion, pull, launch, running, frontier; all but the last, which takes hours, when left out
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Settings of the frontier, as in zstd:3/64K; all when left out
    #[arg(long, value_delimiter = ',')]
    settings: Vec<String>,
    /// The program to measure
    #[arg(long, default_value = "target/release/coracle")]
    coracle: PathBuf,
    /// Where the raw figures go
    #[arg(long, default_value = "bench/results")]
    results: PathBuf,
    /// The page whose tables are replaced, between its marks
    #[arg(long, default_value = "docs/benchmarks.md")]
    page: PathBuf,
    /// One round on a small image, nothing written: checks that the benchmarks run
    #[arg(long)]
    smoke: bool,
}

impl Options {
    fn wants(&self, table: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| only == table)
    }
}

fn main() -> Result<()> {
    let mut options = Options::parse();
    let scratch = tempfile::Builder::new().prefix("coracle-bench-").tempdir().context("make a scratch directory")?;
    open_to_all(scratch.path())?;
    if options.smoke {
        options.rounds = 1;
        options.launch_rounds = 1;
        options.results = scratch.path().join("results");
        options.page = scratch.path().join("benchmarks.md");
    }
    let coracle = place_program(&options.coracle, scratch.path())?;
    let images = images::Images::prepare(scratch.path(), &coracle, options.smoke)?;
    let machine = machine::Machine::look(&coracle)?;
    println!("{}", machine.describe());

    // Each as soon as it is finished: a run takes long, and may be cut short.
    let finish = |table: rounds::Table| -> Result<()> {
        report::write_json(&options.results, &machine, &table)?;
        println!("\n{}", report::markdown(&table));
        report::replace_in_page(&options.page, &machine, &[table])
    };
    if options.wants("conversion") {
        conversion::run(&images, options.rounds, &finish)?;
    }
    if options.wants("pull") {
        pull::run(&images, options.rounds, &finish)?;
    }
    if options.wants("launch") {
        launch::run(&images, options.launch_rounds, &finish)?;
    }
    if options.wants("running") {
        workload::run(&images, options.rounds, &finish)?;
    }
    if options.only.iter().any(|only| only == "frontier") {
        finish(frontier::table(&images, options.rounds, &options.settings)?)?;
    }
    Ok(())
}

/// Other users start programs and read images from here.
fn open_to_all(dir: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o755)).context("open the scratch directory to all")
}

/// A copy where the unprivileged user can reach it, whatever the checkout's directory allows.
fn place_program(built: &Path, scratch: &Path) -> Result<PathBuf> {
    let target = std::env::var_os("CARGO_TARGET_DIR").map(|dir| PathBuf::from(dir).join("release/coracle"));
    let built = if built.exists() { built } else { target.as_deref().unwrap_or(built) };
    let copy = scratch.join("coracle");
    std::fs::copy(built, &copy)
        .with_context(|| format!("copy {}; build it first: cargo build --release -p coracle", built.display()))?;
    Ok(copy)
}
