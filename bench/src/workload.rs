//! Programs that read an image: cold, in a fresh mount, and again in the same mount.

use crate::images::{Images, installed};
use crate::measure::{Cost, drop_caches, output};
use crate::rounds::{Table, interleave};
use anyhow::{Context, Result, bail};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

/// A program that is run twice in one container.
struct Workload {
    name: &'static str,
    title: &'static str,
    script: &'static str,
    cold: bool,
}

const WORKLOADS: [Workload; 4] = [
    Workload { name: "find", title: "find / -xdev -ls", script: "find / -xdev -ls", cold: true },
    Workload {
        name: "import",
        title: "python3 -c 'import scipy.stats, scipy.optimize'",
        script: "python3 -c 'import scipy.stats, scipy.optimize'",
        cold: true,
    },
    Workload {
        name: "read",
        title: "Reading all of /usr",
        script: "find /usr -xdev -type f -print0 | xargs -0 cat",
        cold: false,
    },
    Workload {
        name: "read-parallel",
        title: "Reading all of /usr, two at a time",
        script: "find /usr -xdev -type f -print0 | xargs -0 -n 256 -P 2 cat",
        cold: false,
    },
];

#[derive(Clone, Copy, Debug)]
enum Contender {
    Coracle,
    Kernel,
    SquashfuseLl,
    ChRunImage,
    ChRunDirectory,
    Directory,
}

/// A table for each workload.
pub fn run(images: &Images, rounds: usize) -> Result<Vec<Table>> {
    let wanted = |workload: &&Workload| !images.small || workload.name == "find";
    WORKLOADS.iter().filter(wanted).map(|workload| table(images, rounds, workload)).collect()
}

fn table(images: &Images, rounds: usize, workload: &Workload) -> Result<Table> {
    let mut contenders = vec![
        ("coracle".to_owned(), Contender::Coracle),
        ("kernel squashfs".to_owned(), Contender::Kernel),
        ("directory".to_owned(), Contender::Directory),
    ];
    if installed("squashfuse_ll") {
        contenders.push(("squashfuse_ll".to_owned(), Contender::SquashfuseLl));
    }
    if installed("ch-run") {
        contenders.push(("ch-run, image".to_owned(), Contender::ChRunImage));
        contenders.push(("ch-run, directory".to_owned(), Contender::ChRunDirectory));
    }
    // The small image's busybox knows no -ls.
    let script = if images.small { "find / -xdev" } else { workload.script };
    let samples = interleave(rounds, &contenders, |contender| {
        let mut rows = Vec::new();
        if workload.cold {
            drop_caches()?;
            let (first, _) = twice(images, *contender, script)?;
            rows.push(("cold".to_owned(), first));
        }
        let (first, second) = twice(images, *contender, script)?;
        rows.push(("fresh".to_owned(), first));
        rows.push(("warm".to_owned(), second));
        Ok(rows)
    })?;
    let mut rows = vec!["fresh".to_owned(), "warm".to_owned()];
    if workload.cold {
        rows.insert(0, "cold".to_owned());
    }
    Ok(Table {
        name: format!("running-{}", workload.name),
        title: workload.title.to_owned(),
        notes: vec![
            format!("Median wall time of {rounds} interleaved rounds, timed inside the container, and in brackets coracle's time by"),
            "the peer's. cold: page cache dropped, then a new mount; fresh: a new mount; warm: again in that mount. All run the".into(),
            "same image file, or the tree unpacked from the same layers. coracle and ch-run as an unprivileged user, the others".into(),
            "as root in a chroot.".into(),
        ],
        contenders: contenders.into_iter().map(|(name, _)| name).collect(),
        rows,
        samples,
    })
}

/// A mount for one container; taken away when dropped.
struct Mounted(PathBuf);

impl Mounted {
    fn new(images: &Images, contender: Contender) -> Result<Self> {
        let at = images.scratch.join("mounted");
        std::fs::create_dir_all(&at).context("make a mount point")?;
        match contender {
            Contender::Kernel => {
                output(Command::new("mount").args(["-t", "squashfs", "-o", "loop,ro"]).arg(&images.image).arg(&at))?
            }
            Contender::SquashfuseLl => {
                output(Command::new("squashfuse_ll").args(["-o", "dev"]).arg(&images.image).arg(&at))?
            }
            _ => output(Command::new("mount").arg("--bind").arg(&images.tree).arg(&at))?,
        };
        let mounted = Self(at);
        for folder in ["dev", "proc"] {
            let from = Path::new("/").join(folder);
            output(Command::new("mount").arg("--bind").arg(from).arg(mounted.0.join(folder)))?;
        }
        Ok(mounted)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        for place in [self.0.join("dev"), self.0.join("proc"), self.0.clone()] {
            // A server that has not let go yet must not end the benchmark.
            let _ = output(Command::new("umount").arg("-l").arg(place));
        }
    }
}

/// Runs the script twice in one container; the times of the first and of the second run.
fn twice(images: &Images, contender: Contender, script: &str) -> Result<(Cost, Cost)> {
    // The shell's own words mark the times, so that neither mounting nor starting counts, nor a clock program's start.
    // What fails would be quick for nothing, so it ends the benchmark.
    let marked = format!(
        "echo mark; {{ {script}; }} >/dev/null || exit 1; echo mark; {{ {script}; }} >/dev/null || exit 1; echo mark"
    );
    let shell = ["/bin/sh", "-c", &marked];
    let marks = match contender {
        Contender::Coracle => marks(images.as_user(&images.coracle).arg("exec").arg(&images.image).args(shell))?,
        Contender::ChRunImage => marks(ch_run(images, &images.image).args(shell))?,
        Contender::ChRunDirectory => marks(ch_run(images, &images.tree).args(shell))?,
        Contender::Kernel | Contender::SquashfuseLl | Contender::Directory => {
            let mounted = Mounted::new(images, contender)?;
            marks(Command::new("chroot").arg(&mounted.0).args(shell))?
        }
    };
    let [start, middle, end] = marks[..] else { bail!("{contender:?} set {} marks instead of 3", marks.len()) };
    let cost = |from: Instant, to: Instant| Cost { seconds: (to - from).as_secs_f64(), peak_kib: 0 };
    Ok((cost(start, middle), cost(middle, end)))
}

/// The host's `/tmp` and home are on the directory's own file system, where `find -xdev` would go into them.
fn ch_run(images: &Images, image: &Path) -> Command {
    let mut command = images.as_user("ch-run");
    command.args(["--private-tmp", "--no-home"]).arg(image).arg("--");
    command
}

/// When each line of a command's output arrived.
fn marks(command: &mut Command) -> Result<Vec<Instant>> {
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("start {command:?}"))?;
    let out = child.stdout.take().context("a pipe from the container")?;
    let marks = BufReader::new(out).lines().map(|line| line.map(|_| Instant::now())).collect::<Result<_, _>>();
    let status = child.wait().context("wait for the container")?;
    if !status.success() {
        bail!("{command:?} failed: {status}");
    }
    marks.context("read from the container")
}
