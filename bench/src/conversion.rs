//! Conversion of the OCI layout, against packing a tree or a tar that someone else has unpacked before.

use crate::images::Images;
use crate::measure::{Cost, cost, output};
use crate::rounds::{Table, interleave};
use anyhow::{Context, Result};
use std::fs;
use std::path::Path;
use std::process::Command;

/// Compressing threads of every contender.
pub const THREADS: &str = "2";
const BLOCK_SIZE: &str = "131072";

#[derive(Clone, Copy, Debug)]
enum Contender {
    Coracle,
    Mksquashfs,
    Tar2sqfs,
    UmociMksquashfs,
}

/// Level 15, at which mksquashfs packs when nothing is said, and coracle's own default.
pub fn run(images: &Images, rounds: usize, finish: &dyn Fn(Table) -> Result<()>) -> Result<()> {
    let default = level_of(images)?;
    let mut levels = if images.small { vec![1] } else { vec![15, default] };
    levels.dedup();
    levels.into_iter().try_for_each(|level| finish(table(images, rounds, level)?))
}

fn table(images: &Images, rounds: usize, level: u32) -> Result<Table> {
    let contenders: Vec<_> = [
        ("coracle build", Contender::Coracle),
        ("mksquashfs of the unpacked tree", Contender::Mksquashfs),
        ("tar2sqfs of one tar", Contender::Tar2sqfs),
        ("umoci unpack, mksquashfs", Contender::UmociMksquashfs),
    ]
    .map(|(name, contender)| (name.to_owned(), contender))
    .into();
    let mut sizes = Vec::new();
    let row = format!("zstd {level}");
    let samples = interleave(rounds, &contenders, |contender| {
        let (cost, size) = convert(images, *contender, level)?;
        sizes.push((format!("{contender:?}"), size));
        Ok(vec![(row.clone(), cost)])
    })?;
    sizes.sort();
    sizes.dedup();
    let sizes: Vec<_> =
        sizes.iter().map(|(name, size)| format!("{name} {:.1} MiB", *size as f64 / 1048576.0)).collect();
    Ok(Table {
        name: format!("conversion-zstd-{level}"),
        title: format!("Conversion, zstd level {level}"),
        notes: vec![
            format!(
                "Median wall time of {rounds} interleaved rounds, peak resident set, and in brackets coracle's time by"
            ),
            format!(
                "the peer's. {THREADS} threads, blocks of 128 KiB, warm page cache. coracle starts from the layers; the time to"
            ),
            "unpack them or to make the tar is not in the second and third column.".into(),
            format!("Sizes: {}.", sizes.join(", ")),
        ],
        contenders: contenders.into_iter().map(|(name, _)| name).collect(),
        rows: vec![row],
        samples,
        ..Table::default()
    })
}

fn convert(images: &Images, contender: Contender, level: u32) -> Result<(Cost, u64)> {
    let out = images.scratch.join("converted.sqfs");
    let unpacked = images.scratch.join("unpacked");
    let cost = match contender {
        Contender::Coracle => {
            let mut command = Command::new(&images.coracle);
            command.args(["build", "--quiet", "--threads", THREADS, "--block-size", "128K"]);
            command.args(["--compression", &format!("zstd:{level}")]).arg(&out);
            cost(command.arg(format!("oci:{}:latest", images.layout.display())))?
        }
        Contender::Mksquashfs => cost(&mut mksquashfs(&images.tree, &out, level))?,
        Contender::Tar2sqfs => {
            let script = "exec tar2sqfs --quiet --num-jobs \"$1\" --block-size \"$2\" --compressor zstd \
                          --comp-extra level=\"$3\" \"$4\" <\"$5\"";
            let mut command = Command::new("sh");
            command.args(["-c", script, "sh", THREADS, BLOCK_SIZE, &level.to_string()]);
            cost(command.arg(&out).arg(&images.tar))?
        }
        Contender::UmociMksquashfs => {
            let mut umoci = Command::new("umoci");
            let image = format!("{}:gzip", images.layout.display());
            let first = cost(umoci.args(["unpack", "--image", &image]).arg(&unpacked))?;
            let second = cost(&mut mksquashfs(&unpacked.join("rootfs"), &out, level))?;
            let peak_kib = first.peak_kib.max(second.peak_kib);
            Cost { seconds: first.seconds + second.seconds, peak_kib }
        }
    };
    let size = fs::metadata(&out).context("the converted image")?.len();
    clear(&[&out, &unpacked])?;
    Ok((cost, size))
}

/// Removes what a contender wrote, and has it flushed now instead of in the next one's time.
pub fn clear(paths: &[&Path]) -> Result<()> {
    output(Command::new("rm").arg("-rf").args(paths))?;
    output(&mut Command::new("sync")).map(drop)
}

/// `mksquashfs` with the settings that all contenders get.
pub fn mksquashfs(tree: &Path, out: &Path, level: u32) -> Command {
    let mut command = Command::new("mksquashfs");
    command.arg(tree).arg(out).args(["-no-progress", "-quiet", "-noappend", "-processors", THREADS, "-b", BLOCK_SIZE]);
    command.args(["-comp", "zstd", "-Xcompression-level", &level.to_string()]);
    command
}

/// The level that coracle uses when it is given none, as the image says.
pub fn level_of(images: &Images) -> Result<u32> {
    let text = output(Command::new("unsquashfs").arg("-cat").arg(&images.image).arg(".coracle/image.json"))?;
    let value: serde_json::Value = serde_json::from_str(&text).context("parse image.json")?;
    let level = value.pointer("/settings/level").and_then(serde_json::Value::as_u64);
    let level = level.and_then(|level| u32::try_from(level).ok());
    level.with_context(|| format!("find the compression level in {text}"))
}
