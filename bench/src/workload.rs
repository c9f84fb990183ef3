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
    script: Script,
    cold: bool,
}

/// What is run.
#[derive(Clone, Copy)]
enum Script {
    /// This, by a shell, twice; the times include its programs' starts.
    Shell(&'static str),
    /// This, which says itself when it has begun, done it once and done it again.
    Marked(&'static str),
}

/// The program whose profile the profiled image is laid out by.
const IMPORT: [&str; 3] = ["python3", "-c", "import scipy.stats, scipy.optimize"];

const RANDOM: &str = "\
import os, random
file = max((os.path.join(d, f) for d, _, fs in os.walk('/usr/lib') for f in fs if not os.path.islink(os.path.join(d, f))), key=os.path.getsize)
size = os.path.getsize(file)
random.seed(1)
at = [random.randrange(size - 4096) & ~4095 for _ in range(3000)]
fd = os.open(file, os.O_RDONLY)
print('mark', flush=True)
for offset in at: os.pread(fd, 4096, offset)
print('mark', flush=True)
for offset in at: os.pread(fd, 4096, offset)
print('mark', flush=True)
";

const WORKLOADS: [Workload; 5] = [
    Workload { name: "find", title: "find / -xdev -ls", script: Script::Shell("find / -xdev -ls"), cold: true },
    Workload {
        name: "import",
        title: "python3 -c 'import scipy.stats, scipy.optimize'",
        script: Script::Shell("python3 -c 'import scipy.stats, scipy.optimize'"),
        cold: true,
    },
    Workload {
        name: "read",
        title: "Reading all of /usr",
        script: Script::Shell("find /usr -xdev -type f -print0 | xargs -0 cat"),
        cold: false,
    },
    Workload {
        name: "read-parallel",
        title: "Reading all of /usr, two at a time",
        script: Script::Shell("find /usr -xdev -type f -print0 | xargs -0 -n 256 -P 2 cat"),
        cold: false,
    },
    Workload {
        name: "random",
        title: "3000 random reads of 4 KiB in the largest file",
        script: Script::Marked(RANDOM),
        cold: false,
    },
];

#[derive(Clone, Copy, Debug)]
enum Contender {
    Coracle,
    CoracleProfiled,
    Kernel,
    SquashfuseLl,
    ChRunImage,
    ChRunDirectory,
    Directory,
}

/// A table for each workload.
pub fn run(images: &Images, rounds: usize, finish: &dyn Fn(Table) -> Result<()>) -> Result<()> {
    let wanted = |workload: &&Workload| !images.small || workload.name == "find";
    WORKLOADS.iter().filter(wanted).try_for_each(|workload| finish(table(images, rounds, workload)?))
}

fn table(images: &Images, rounds: usize, workload: &Workload) -> Result<Table> {
    let mut contenders = vec![
        ("coracle".to_owned(), Contender::Coracle),
        ("kernel squashfs".to_owned(), Contender::Kernel),
        ("directory".to_owned(), Contender::Directory),
    ];
    if workload.name == "import" {
        images.profiled(&IMPORT)?;
        contenders.insert(1, ("coracle, image with a profile of this program".to_owned(), Contender::CoracleProfiled));
    }
    if installed("squashfuse_ll") {
        contenders.push(("squashfuse_ll".to_owned(), Contender::SquashfuseLl));
    }
    if installed("ch-run") {
        contenders.push(("ch-run, image".to_owned(), Contender::ChRunImage));
        contenders.push(("ch-run, directory".to_owned(), Contender::ChRunDirectory));
    }
    // The small image's busybox knows no -ls.
    let script = if images.small { Script::Shell("find / -xdev") } else { workload.script };
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
        ..Table::default()
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
fn twice(images: &Images, contender: Contender, script: Script) -> Result<(Cost, Cost)> {
    // The shell's own words mark the times, so that neither mounting nor starting counts, nor a clock program's start.
    // What fails would be quick for nothing, so it ends the benchmark.
    let marked;
    let words = match script {
        Script::Shell(script) => {
            marked = format!(
                "echo mark; {{ {script}; }} >/dev/null || exit 1; echo mark; {{ {script}; }} >/dev/null || exit 1; echo mark"
            );
            ["/bin/sh", "-c", &marked]
        }
        Script::Marked(script) => ["/usr/bin/python3", "-c", script],
    };
    let exec = |image: &Path| {
        // A server that just served would make a fresh mount warm.
        let mut command = images.as_user(&images.coracle);
        command.args(["exec", "--no-session"]).arg(image).args(words);
        command
    };
    let mut peak_kib = 0;
    let marks = match contender {
        Contender::Coracle => marks(&mut exec(&images.image), &mut || peak_kib = server_peak())?,
        Contender::CoracleProfiled => marks(&mut exec(&images.profiled(&IMPORT)?), &mut || peak_kib = server_peak())?,
        Contender::ChRunImage => marks(ch_run(images, &images.image).args(words), &mut || ())?,
        Contender::ChRunDirectory => marks(ch_run(images, &images.tree).args(words), &mut || ())?,
        Contender::Kernel | Contender::SquashfuseLl | Contender::Directory => {
            let mounted = Mounted::new(images, contender)?;
            marks(Command::new("chroot").arg(&mounted.0).args(words), &mut || ())?
        }
    };
    let [start, middle, end] = marks[..] else { bail!("{contender:?} set {} marks instead of 3", marks.len()) };
    let cost = |from: Instant, to: Instant| Cost { seconds: (to - from).as_secs_f64(), peak_kib };
    Ok((cost(start, middle), cost(middle, end)))
}

/// A script's first run in a fresh mount of an image, by coracle.
pub fn fresh(images: &Images, image: &Path, script: &str) -> Result<Cost> {
    let marked = format!("echo mark; {{ {script}; }} >/dev/null || exit 1; echo mark");
    let mut command = images.as_user(&images.coracle);
    command.args(["exec", "--no-session"]).arg(image).args(["/bin/sh", "-c", &marked]);
    let marks = marks(&mut command, &mut || ())?;
    let [start, end] = marks[..] else { bail!("{script:?} set {} marks instead of 2", marks.len()) };
    Ok(Cost { seconds: (end - start).as_secs_f64(), peak_kib: 0 })
}

/// The host's `/tmp` and home are on the directory's own file system, where `find -xdev` would go into them.
fn ch_run(images: &Images, image: &Path) -> Command {
    let mut command = images.as_user("ch-run");
    command.args(["--private-tmp", "--no-home"]).arg(image).arg("--");
    command
}

/// Peak resident set of the file system server that is running, by the kernel's account.
fn server_peak() -> u64 {
    let peak = |process: std::fs::DirEntry| {
        let name = std::fs::read_to_string(process.path().join("comm")).ok()?;
        let status = std::fs::read_to_string(process.path().join("status")).ok()?;
        let line = status.lines().find(|line| name == "coracle-server\n" && line.starts_with("VmHWM:"))?;
        line.split_whitespace().nth(1)?.parse().ok()
    };
    std::fs::read_dir("/proc").into_iter().flatten().flatten().filter_map(peak).max().unwrap_or(0)
}

/// When each line of a command's output arrived; `end` is called at the last.
fn marks(command: &mut Command, end: &mut dyn FnMut()) -> Result<Vec<Instant>> {
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("start {command:?}"))?;
    let out = child.stdout.take().context("a pipe from the container")?;
    let mut marks = Vec::new();
    for line in BufReader::new(out).lines() {
        line.context("read from the container")?;
        marks.push(Instant::now());
        if marks.len() == 3 {
            end();
        }
    }
    let status = child.wait().context("wait for the container")?;
    if !status.success() {
        bail!("{command:?} failed: {status}");
    }
    Ok(marks)
}
