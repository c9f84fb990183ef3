//! What is measured with: one OCI layout, the tree unpacked from it, a tar of that tree, and one squashfs file.

use crate::measure::output;
use anyhow::{Context, Result};
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The account that launches are made as.
const USER: &str = "coracle-test";

/// All inputs, ready to be used.
#[derive(Debug)]
pub struct Images {
    /// The program under test.
    pub coracle: PathBuf,
    /// The OCI layout.
    pub layout: PathBuf,
    /// Its root file system, unpacked, readable by every user.
    pub tree: PathBuf,
    /// A tar of the tree.
    pub tar: PathBuf,
    /// The image as coracle makes it by default, which all contenders run.
    pub image: PathBuf,
    /// Scratch space.
    pub scratch: PathBuf,
    /// Whether this is the small image.
    pub small: bool,
    user: (u32, u32, PathBuf),
}

impl Images {
    /// Makes what is missing.
    pub fn prepare(scratch: &Path, coracle: &Path, small: bool) -> Result<Self> {
        let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts");
        let layout = if small {
            let layout = scratch.join("layout");
            output(Command::new(scripts.join("image.py")).arg("corner").arg(&layout))?;
            layout
        } else {
            PathBuf::from(output(&mut Command::new(scripts.join("standard-image.sh")))?.trim_end())
        };
        let bundle = scratch.join("bundle");
        output(
            Command::new("umoci").args(["unpack", "--image"]).arg(format!("{}:gzip", layout.display())).arg(&bundle),
        )?;
        let tree = bundle.join("rootfs");
        output(Command::new("chmod").args(["-R", "a+rX"]).arg(&tree))?;
        output(Command::new("chmod").arg("755").arg(&bundle))?;
        let tar = scratch.join("tree.tar");
        output(Command::new(scripts.join("image.py")).arg("flatten").arg(&tree).arg(&tar))?;
        let image = scratch.join("image.sqfs");
        output(Command::new(coracle).arg("build").arg(&image).arg(format!("oci:{}:latest", layout.display())))?;
        output(Command::new("chmod").arg("644").arg(&image))?;
        let user = user().context("find the unprivileged user; run scripts/setup.sh bench")?;
        let scratch = scratch.to_path_buf();
        Ok(Self { coracle: coracle.to_path_buf(), layout, tree, tar, image, scratch, small, user })
    }

    /// The image once more, laid out by a profile of this command.
    pub fn profiled(&self, command: &[&str]) -> Result<PathBuf> {
        let name: String = command.concat().chars().map(|c| if c.is_alphanumeric() { c } else { '-' }).collect();
        let (profile, image) = (self.scratch.join(format!("{name}.json")), self.scratch.join(format!("{name}.sqfs")));
        if !image.exists() {
            let mut record = Command::new(&self.coracle);
            output(record.args(["profile", "record", "--output"]).arg(&profile).arg(&self.image).args(command))?;
            output(
                Command::new(&self.coracle).args(["build", "--profile"]).arg(&profile).arg(&image).arg(&self.image),
            )?;
            output(Command::new("chmod").arg("644").arg(&image))?;
        }
        Ok(image)
    }

    /// A command as the unprivileged user, with the system's programs on `PATH`.
    pub fn as_user(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        let (uid, gid, home) = &self.user;
        command.uid(*uid).gid(*gid).env_clear().env("HOME", home).env("USER", USER).current_dir(home);
        command.env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
        command
    }
}

fn user() -> Result<(u32, u32, PathBuf)> {
    let passwd = fs::read_to_string("/etc/passwd").context("read /etc/passwd")?;
    let line = passwd.lines().find(|line| line.split(':').next() == Some(USER)).context("there is no such account")?;
    let fields: Vec<_> = line.split(':').collect();
    let field = |index: usize| fields.get(index).copied().context("a short line in /etc/passwd");
    Ok((field(2)?.parse().context("a user id")?, field(3)?.parse().context("a group id")?, field(5)?.into()))
}

/// Whether a program is on `PATH`.
pub fn installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).chain([PathBuf::from("/usr/sbin")]).any(|dir| dir.join(program).is_file())
}
