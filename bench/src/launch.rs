//! What it costs to start `/bin/true` in an image: with a new mount, in a mount that is there, and many at once.

use crate::images::{Images, installed};
use crate::measure::{Cost, cost, output};
use crate::rounds::{Table, interleave};
use anyhow::{Context, Result, bail};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How one contender launches: the command of one launch.
type Launch<'a> = Box<dyn Fn() -> Command + 'a>;

/// Launches that are made at once.
const MANY: usize = 64;
/// Rounds of those.
const MANY_ROUNDS: usize = 5;
const ROW: &str = "/bin/true";

/// All tables.
pub fn run(images: &Images, rounds: usize, finish: &dyn Fn(Table) -> Result<()>) -> Result<()> {
    finish(first(images, rounds)?)?;
    finish(joined(images, rounds)?)?;
    finish(many(images, rounds.min(MANY_ROUNDS))?)
}

fn exec<'a>(images: &'a Images, image: &'a Path, options: &'a [&'a str]) -> Launch<'a> {
    Box::new(move || {
        let mut command = images.as_user(&images.coracle);
        command.arg("exec").args(options).arg(image).arg(ROW);
        command
    })
}

fn unshare<'a>(images: &'a Images) -> (String, Launch<'a>) {
    let launch: Launch<'_> = Box::new(|| {
        let mut command = images.as_user("unshare");
        command.args(["-Urm", ROW]);
        command
    });
    ("unshare -Urm, no image".into(), launch)
}

fn ch_run<'a>(images: &'a Images, image: &'a Path) -> Launch<'a> {
    Box::new(move || {
        let mut command = images.as_user("ch-run");
        command.arg(image).args(["--", ROW]);
        command
    })
}

/// A table of one row. `notes` go on after what all such tables have in common.
fn table(
    name: &str,
    title: &str,
    notes: [&str; 2],
    rounds: usize,
    contenders: &[(String, Launch<'_>)],
) -> Result<Table> {
    // Each once before, so that the image and the programs are in the page cache.
    for (_, launch) in contenders {
        cost(&mut launch())?;
    }
    let samples = interleave(rounds, contenders, |launch| {
        let mut cost = cost(&mut launch())?;
        cost.peak_kib = 0;
        Ok(vec![(ROW.into(), cost)])
    })?;
    let [first, second] = notes;
    Ok(Table {
        name: name.into(),
        title: title.into(),
        notes: vec![
            format!(
                "Median wall time of {rounds} interleaved rounds and in brackets coracle's time by the peer's. {first}"
            ),
            second.into(),
        ],
        contenders: names(contenders),
        rows: vec![ROW.into()],
        samples,
        ..Table::default()
    })
}

fn names(contenders: &[(String, Launch<'_>)]) -> Vec<String> {
    contenders.iter().map(|(name, _)| name.clone()).collect()
}

/// A new mount for each launch.
fn first(images: &Images, rounds: usize) -> Result<Table> {
    let mount_point = images.scratch.join("launch");
    std::fs::create_dir_all(&mount_point)?;
    output(Command::new("chown").arg("coracle-test").arg(&mount_point))?;
    let (image, tree, at) = (&images.image, &images.tree, &mount_point);
    let profiled = images.profiled(&[ROW])?;
    let mut contenders: Vec<(String, Launch<'_>)> = vec![
        ("coracle exec".into(), exec(images, image, &["--no-session"])),
        ("coracle exec, image with a profile of this launch".into(), exec(images, &profiled, &["--no-session"])),
        unshare(images),
        (
            "unshare, plain directory".into(),
            Box::new(|| {
                let mut command = images.as_user("unshare");
                command.args(["-Ur", "--root"]).arg(tree).arg(ROW);
                command
            }),
        ),
        (
            "kernel squashfs (root)".into(),
            Box::new(|| {
                let mut command = Command::new("sh");
                let script = "mount -t squashfs -o loop,ro \"$1\" \"$2\" && chroot \"$2\" /bin/true && umount \"$2\"";
                command.args(["-c", script, "sh"]).arg(image).arg(at);
                command
            }),
        ),
    ];
    if installed("ch-run") {
        contenders.push(("ch-run, image".into(), ch_run(images, image)));
        contenders.push(("ch-run, directory".into(), ch_run(images, tree)));
    }
    if installed("squashfuse_ll") && installed("fusermount") {
        contenders.push((
            "squashfuse_ll, unshare".into(),
            Box::new(|| {
                let mut command = images.as_user("sh");
                let script =
                    "squashfuse_ll \"$1\" \"$2\" && unshare -Ur --root \"$2\" /bin/true && fusermount -u \"$2\"";
                command.args(["-c", script, "sh"]).arg(image).arg(at);
                command
            }),
        ));
    }
    let notes = [
        "A new mount for",
        "each launch, everything in the page cache, as an unprivileged user where not said otherwise.",
    ];
    table("launch", "Launch of /bin/true", notes, rounds, &contenders)
}

/// A program that keeps an image's session alive.
struct Session<'a>(&'a Images, Child);

impl<'a> Session<'a> {
    fn start(images: &'a Images) -> Result<Self> {
        let mut command = images.as_user(&images.coracle);
        command.arg("exec").arg(&images.image).args(["sh", "-c", "echo up; read x"]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().context("start a program for its session")?;
        let mut up = [0; 3];
        let out = child.stdout.as_mut().context("a pipe from the program")?;
        std::io::Read::read_exact(out, &mut up).context("hear from the program")?;
        Ok(Self(images, child))
    }
}

impl Drop for Session<'_> {
    fn drop(&mut self) {
        // What cannot be ended ends by itself.
        drop(self.1.stdin.take());
        let _ = self.1.wait();
        let _ = output(self.0.as_user(&self.0.coracle).args(["session", "stop", "--all"]));
    }
}

/// The mount is there.
fn joined(images: &Images, rounds: usize) -> Result<Table> {
    let _session = Session::start(images)?;
    let mut contenders = vec![("coracle exec".into(), exec(images, &images.image, &[])), unshare(images)];
    if installed("ch-run") {
        contenders.push(("ch-run, image".into(), ch_run(images, &images.image)));
        contenders.push(("ch-run, directory".into(), ch_run(images, &images.tree)));
    }
    let notes = [
        "With all default",
        "binds, while another program runs in the image; the peers know nothing of each other's mounts.",
    ];
    table("launch-joined", "Launch of /bin/true into a live session", notes, rounds, &contenders)
}

/// Many at once, from the first start to the last end.
fn many(images: &Images, rounds: usize) -> Result<Table> {
    let mut contenders = vec![("coracle exec".into(), exec(images, &images.image, &[])), unshare(images)];
    if installed("ch-run") {
        contenders.push(("ch-run, directory".into(), ch_run(images, &images.tree)));
    }
    let row = format!("{MANY} x {ROW}");
    let samples = interleave(rounds, &contenders, |launch| {
        // No session is left from the round before.
        output(images.as_user(&images.coracle).args(["session", "stop", "--all"]))?;
        std::thread::sleep(Duration::from_millis(300));
        let begun = Instant::now();
        let children: Vec<Child> =
            (0..MANY).map(|_| launch().stdin(Stdio::null()).spawn()).collect::<Result<_, _>>().context("start")?;
        let mut failed = 0;
        for mut child in children {
            failed += usize::from(!child.wait().context("wait for a launch")?.success());
        }
        let seconds = begun.elapsed().as_secs_f64();
        if failed > 0 {
            bail!("{failed} of {MANY} launches failed");
        }
        Ok(vec![(row.clone(), Cost { seconds, peak_kib: 0 })])
    })?;
    Ok(Table {
        name: "launch-many".into(),
        title: format!("{MANY} launches of /bin/true at once"),
        notes: vec![
            format!(
                "Median wall time of {rounds} interleaved rounds, from the first start to the last end, and in brackets"
            ),
            "coracle's time by the peer's. No session is there before; the first of coracle's launches makes it."
                .into(),
        ],
        contenders: names(&contenders),
        rows: vec![row],
        samples,
        ..Table::default()
    })
}
