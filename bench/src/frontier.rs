//! What compressors, levels and block sizes cost and bring: conversion time, size, and speed of reading through our mount.

use crate::images::Images;
use crate::measure::{Cost, cost, output};
use crate::rounds::{Table, interleave};
use crate::workload::fresh;
use anyhow::{Context, Result, bail};
use std::collections::BTreeMap;
use std::fs;
use std::process::Command;

const CODECS: [&str; 10] =
    ["zstd:1", "zstd:3", "zstd:6", "zstd:9", "zstd:15", "zstd:19", "gzip:6", "gzip:9", "lz4", "xz"];
const BLOCKS: [&str; 5] = ["64K", "128K", "256K", "512K", "1M"];
const CONVERSION: &str = "conversion";
const READS: [(&str, &str); 3] = [
    ("import scipy", "python3 -c 'import scipy.stats, scipy.optimize'"),
    ("find", "find / -xdev -ls"),
    ("read /usr", "find /usr -xdev -type f -print0 | xargs -0 cat"),
];
/// The small image has a busybox and no Python.
const SMALL_READS: [(&str, &str); 1] = [("find", "find / -xdev")];

/// One turn of a setting converts the image with it and reads that in fresh mounts.
pub fn table(images: &Images, rounds: usize, wanted: &[String]) -> Result<Table> {
    let settings = settings(wanted)?;
    let reads = if images.small { &SMALL_READS[..] } else { &READS };
    let mut sizes = BTreeMap::new();
    let samples = interleave(rounds, &settings, |setting| {
        let (time, size, read) = turn(images, setting, reads)?;
        sizes.insert(setting.clone(), size);
        let read = read.into_iter().map(|(name, cost)| (name.to_owned(), cost));
        Ok(std::iter::once((CONVERSION.to_owned(), time)).chain(read).collect())
    })?;
    // Here a row is a setting, and a column what was measured of it.
    let samples = samples
        .into_iter()
        .map(|mut sample| {
            std::mem::swap(&mut sample.row, &mut sample.contender);
            sample
        })
        .collect();
    let mut table = Table {
        name: "frontier".into(),
        title: "Compressors, levels and block sizes".into(),
        contenders: std::iter::once(CONVERSION).chain(reads.iter().map(|(name, _)| *name)).map(str::to_owned).collect(),
        rows: settings.into_iter().map(|(name, _)| name).collect(),
        samples,
        sizes,
        ..Table::default()
    };
    table.notes = vec![
        format!(
            "Median wall time of {rounds} interleaved rounds. Conversion from the OCI layout with 2 threads; reading in a fresh mount,"
        ),
        "everything in the page cache, timed inside the container, as an unprivileged user.".into(),
        format!(
            "No other setting is better in time of conversion, size and first read at once: {}.",
            frontier(&table).join(", ")
        ),
    ];
    Ok(table)
}

fn settings(wanted: &[String]) -> Result<Vec<(String, String)>> {
    let all: Vec<_> =
        CODECS.iter().flat_map(|codec| BLOCKS.iter().map(move |block| format!("{codec}/{block}"))).collect();
    if let Some(unknown) = wanted.iter().find(|one| !all.contains(one)) {
        bail!("no setting {unknown:?}; there are {}", all.join(", "));
    }
    let chosen = all.into_iter().filter(|one| wanted.is_empty() || wanted.contains(one));
    Ok(chosen.map(|one| (one.clone(), one)).collect())
}

type Reads<'a> = Vec<(&'a str, Cost)>;

fn turn<'a>(images: &Images, setting: &str, reads: &[(&'a str, &str)]) -> Result<(Cost, u64, Reads<'a>)> {
    let (codec, block) = setting.split_once('/').context("a setting without a block size")?;
    let out = images.scratch.join("frontier.sqfs");
    let mut command = Command::new(&images.coracle);
    command.args(["build", "--quiet", "--threads", "2", "--compression", codec, "--block-size", block]).arg(&out);
    let time = cost(command.arg(format!("oci:{}:latest", images.layout.display())))?;
    let size = fs::metadata(&out).context("the converted image")?.len();
    output(Command::new("chmod").arg("644").arg(&out))?;
    // What was written is not to be flushed while it is read.
    output(&mut Command::new("sync"))?;
    let read =
        reads.iter().map(|(name, script)| Ok((*name, fresh(images, &out, script)?))).collect::<Result<Reads<'a>>>()?;
    fs::remove_file(&out).context("remove the converted image")?;
    Ok((time, size, read))
}

/// The settings to which none is superior in everything.
fn frontier(table: &Table) -> Vec<String> {
    let first = table.contenders.get(1).map(String::as_str).unwrap_or_default();
    let of = |row: &String| {
        let size = *table.sizes.get(row)? as f64;
        Some([table.median(row, CONVERSION)?, size, table.median(row, first)?])
    };
    let all: Vec<_> = table.rows.iter().filter_map(|row| Some((row, of(row)?))).collect();
    let superior =
        |one: &[f64; 3], other: &[f64; 3]| one != other && one.iter().zip(other).all(|(one, other)| one <= other);
    let best = all.iter().filter(|(_, one)| !all.iter().any(|(_, other)| superior(other, one)));
    best.map(|(row, _)| (*row).clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rounds::Sample;

    #[test]
    fn what_is_worse_in_everything_is_not_on_the_frontier() {
        let settings = [("a", 1.0, 9, 1.0), ("b", 2.0, 5, 1.0), ("c", 2.5, 6, 1.5), ("d", 9.0, 6, 0.5)];
        let sample = |row: &str, contender: &str, seconds| Sample {
            row: row.into(),
            contender: contender.into(),
            round: 0,
            turn: 0,
            seconds,
            peak_kib: None,
        };
        let table = Table {
            contenders: vec![CONVERSION.into(), "read".into()],
            rows: settings.iter().map(|(row, ..)| (*row).to_owned()).collect(),
            samples: settings
                .iter()
                .flat_map(|(row, time, _, read)| [sample(row, CONVERSION, *time), sample(row, "read", *read)])
                .collect(),
            sizes: settings.iter().map(|(row, _, size, _)| ((*row).to_owned(), *size)).collect(),
            ..Table::default()
        };
        assert_eq!(frontier(&table), ["a", "b", "d"]);
    }

    #[test]
    fn settings_are_all_or_those_named() {
        assert_eq!(settings(&[]).unwrap().len(), 50);
        assert_eq!(settings(&["xz/1M".into()]).unwrap().len(), 1);
        assert!(settings(&["zstd:4/1M".into()]).is_err());
    }
}
