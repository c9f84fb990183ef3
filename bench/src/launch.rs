//! What it costs to start `/bin/true` in an image and to be rid of the image again.

use crate::images::{Images, installed};
use crate::measure::cost;
use crate::rounds::{Table, interleave};
use anyhow::Result;
use std::process::Command;

/// How one contender launches: the command of one launch.
type Launch<'a> = Box<dyn Fn() -> Command + 'a>;

/// One row, all contenders.
pub fn run(images: &Images, rounds: usize) -> Result<Table> {
    let mount_point = images.scratch.join("launch");
    std::fs::create_dir_all(&mount_point)?;
    crate::measure::output(Command::new("chown").arg("coracle-test").arg(&mount_point))?;
    let (image, tree, at) = (&images.image, &images.tree, &mount_point);
    let mut contenders: Vec<(String, Launch<'_>)> = vec![
        (
            "coracle exec".into(),
            Box::new(|| {
                let mut command = images.as_user(&images.coracle);
                command.arg("exec").arg(image).arg("/bin/true");
                command
            }),
        ),
        (
            "unshare, plain directory".into(),
            Box::new(|| {
                let mut command = images.as_user("unshare");
                command.args(["-Ur", "--root"]).arg(tree).arg("/bin/true");
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
        contenders.push((
            "ch-run, image".into(),
            Box::new(|| {
                let mut command = images.as_user("ch-run");
                command.arg(image).args(["--", "/bin/true"]);
                command
            }),
        ));
        contenders.push((
            "ch-run, directory".into(),
            Box::new(|| {
                let mut command = images.as_user("ch-run");
                command.arg(tree).args(["--", "/bin/true"]);
                command
            }),
        ));
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
    let row = "/bin/true";
    // Each once before, so that the image and the programs are in the page cache.
    for (_, launch) in &contenders {
        cost(&mut launch())?;
    }
    let samples = interleave(rounds, &contenders, |launch| {
        let mut cost = cost(&mut launch())?;
        cost.peak_kib = 0;
        Ok(vec![(row.into(), cost)])
    })?;
    Ok(Table {
        name: "launch".into(),
        title: "Launch of /bin/true".into(),
        notes: vec![
            format!(
                "Median wall time of {rounds} interleaved rounds and in brackets coracle's time by the peer's. A new mount for"
            ),
            "each launch, everything in the page cache, as an unprivileged user where not said otherwise.".into(),
        ],
        contenders: contenders.iter().map(|(name, _)| name.clone()).collect(),
        rows: vec![row.into()],
        samples,
    })
}
