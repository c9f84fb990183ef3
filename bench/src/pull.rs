//! From a registry on loopback to a squashfs file: a pull into an empty store, against the chains of tools that others use.

use crate::conversion::{THREADS, clear, level_of, mksquashfs};
use crate::images::Images;
use crate::measure::{Cost, cost};
use crate::rounds::{Table, interleave};
use anyhow::Result;
use coracle_tests::registry::{Registry, authority};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const NAME: &str = "bench/image:latest";

#[derive(Clone, Copy, Debug)]
enum Contender {
    Coracle,
    /// Packs the tree that others have to unpack first.
    Mksquashfs,
    Skopeo,
    Charliecloud,
}

/// With equal settings, and with everybody's defaults.
pub fn run(images: &Images, rounds: usize, finish: &dyn Fn(Table) -> Result<()>) -> Result<()> {
    // One of the contenders speaks TLS alone.
    let (authority, kind) = authority(&images.scratch);
    let registry = Registry::start(&kind);
    registry.fill(&images.layout, "gzip", NAME, None);
    let source = format!("docker://{}/{NAME}", registry.host());
    let equal = level_of(images)?;
    let settings = if images.small { vec![None] } else { vec![Some(equal), None] };
    let world = World { images, source, authority };
    settings.into_iter().try_for_each(|level| finish(table(&world, rounds, level)?))
}

struct World<'a> {
    images: &'a Images,
    source: String,
    /// Certificate by which the registry is trusted.
    authority: PathBuf,
}

fn table(world: &World<'_>, rounds: usize, level: Option<u32>) -> Result<Table> {
    let images = world.images;
    let mut contenders = vec![
        ("coracle pull".to_owned(), Contender::Coracle),
        ("mksquashfs of the unpacked tree".to_owned(), Contender::Mksquashfs),
        ("skopeo copy, umoci unpack, mksquashfs".to_owned(), Contender::Skopeo),
    ];
    // Its settings are its own, and the small image's strange names are not for everybody.
    let works = |command: &mut Command| command.arg("--version").output().is_ok_and(|output| output.status.success());
    if level.is_none() && !images.small && works(&mut charliecloud("ch-image", &images.scratch)) {
        contenders.push(("ch-image pull, ch-convert".to_owned(), Contender::Charliecloud));
    }
    let row = level.map_or_else(|| "defaults".to_owned(), |level| format!("zstd {level}"));
    let mut sizes = Vec::new();
    let samples = interleave(rounds, &contenders, |contender| {
        let out = images.scratch.join("pulled.sqfs");
        let cost = pull(world, *contender, level, &out)?;
        if let Ok(file) = fs::metadata(&out) {
            sizes.push(format!("{contender:?} {:.1} MiB", file.len() as f64 / 1048576.0));
        }
        clear(&[&out, &images.scratch.join("pull")])?;
        Ok(vec![(row.clone(), cost)])
    })?;
    sizes.sort();
    sizes.dedup();
    let what = if level.is_some() { "equal settings" } else { "everybody's defaults" };
    Ok(Table {
        name: level.map_or_else(|| "pull-defaults".to_owned(), |level| format!("pull-zstd-{level}")),
        title: format!("From a registry to a squashfs file, {what}"),
        notes: vec![
            format!(
                "Median wall time of {rounds} interleaved rounds, peak resident set, and in brackets coracle's time by the"
            ),
            "peer's. The registry is on loopback, speaks TLS and has gzip layers; nothing was pulled before. The second column is packing alone:".into(),
            format!("its tree was pulled and unpacked beforehand. {THREADS} processors. Sizes: {}.", sizes.join(", ")),
        ],
        contenders: contenders.into_iter().map(|(name, _)| name).collect(),
        rows: vec![row],
        samples,
        ..Table::default()
    })
}

fn pull(world: &World<'_>, contender: Contender, level: Option<u32>, out: &Path) -> Result<Cost> {
    let World { images, source, authority } = world;
    let work = images.scratch.join("pull");
    fs::create_dir_all(&work)?;
    match contender {
        Contender::Coracle => {
            let mut command = Command::new(&images.coracle);
            command.env("CORACLE_STORE", work.join("store")).env("SSL_CERT_FILE", authority).args([
                "pull",
                "--quiet",
                "--convert",
            ]);
            if let Some(level) = level {
                command.args(["--threads", THREADS, "--block-size", "128K", "--compression", &format!("zstd:{level}")]);
            }
            cost(command.arg(source))
        }
        Contender::Mksquashfs => cost(&mut packed(&images.tree, out, level)),
        Contender::Skopeo => {
            let layout = format!("{}:image", work.join("layout").display());
            let copy = cost(
                Command::new("skopeo")
                    .args(["copy", "--quiet", "--src-tls-verify=false", source])
                    .arg(format!("oci:{layout}")),
            )?;
            let unpack = cost(Command::new("umoci").args(["unpack", "--image", &layout]).arg(work.join("bundle")))?;
            let pack = cost(&mut packed(&work.join("bundle/rootfs"), out, level))?;
            Ok(sum(&[copy, unpack, pack]))
        }
        Contender::Charliecloud => {
            let name = source.trim_start_matches("docker://");
            let ch = |program| charliecloud(program, &work.join("ch"));
            let pull = cost(ch("ch-image").env("REQUESTS_CA_BUNDLE", authority).args(["--no-cache", "pull", name]))?;
            let convert = cost(ch("ch-convert").args(["-i", "ch-image", "-o", "squash", name]).arg(out))?;
            Ok(sum(&[pull, convert]))
        }
    }
}

/// A program of Charliecloud, whose Python modules are the distribution's.
fn charliecloud(program: &str, storage: &Path) -> Command {
    let mut command = Command::new(Path::new("/usr/bin").join(program));
    command.env("PATH", "/usr/bin:/usr/sbin:/bin:/sbin").env("USER", "root").env("CH_IMAGE_STORAGE", storage);
    command
}

fn packed(tree: &Path, out: &Path, level: Option<u32>) -> Command {
    match level {
        Some(level) => mksquashfs(tree, out, level),
        None => {
            let mut command = Command::new("mksquashfs");
            command.arg(tree).arg(out).args(["-no-progress", "-quiet", "-noappend"]);
            command
        }
    }
}

fn sum(parts: &[Cost]) -> Cost {
    Cost {
        seconds: parts.iter().map(|part| part.seconds).sum(),
        peak_kib: parts.iter().map(|part| part.peak_kib).max().unwrap_or_default(),
    }
}
