//! A site's configuration that one test's programs alone see: in a mount namespace of their own `/etc/coracle` is a directory
//! of the test. Takes root, to mount; the program itself runs as the unprivileged user.

use crate::fixtures::temp_dir;
use crate::process::{User, coracle_binary};
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Puts the directory in place, over an `/etc` that may have none, and becomes the user.
const ENTER: &str = r#"set -e
site=$1 over=$2 ids=$3; shift 3
mount -t tmpfs -o mode=755 tmpfs "$over"
mkdir "$over/upper" "$over/work"
mount -t overlay -o "lowerdir=/etc,upperdir=$over/upper,workdir=$over/work" overlay /etc
mkdir -p /etc/coracle
mount --bind "$site" /etc/coracle
exec setpriv --reuid "${ids%:*}" --regid "${ids#*:}" --clear-groups "$@""#;

/// A site.
pub struct Site {
    /// Who launches.
    pub user: User,
    dir: tempfile::TempDir,
    own: tempfile::TempDir,
}

impl Site {
    /// With this `coracle.toml`.
    ///
    /// # Panics
    /// When it cannot be made.
    #[must_use]
    pub fn new(settings: &str) -> Self {
        let user = User::unprivileged();
        let own = user.temp_dir();
        let site = Self { user, dir: temp_dir(), own };
        for name in ["site/conf.d", "over"] {
            fs::create_dir_all(site.dir.path().join(name)).unwrap();
        }
        site.write("coracle.toml", settings);
        site
    }

    /// A path in the site's directory.
    #[must_use]
    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join("site").join(name)
    }

    /// Replaces a file of the site.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn write(&self, name: &str, text: &str) {
        fs::write(self.file(name), text).unwrap();
    }

    /// A directory of the user, which is also `HOME`.
    #[must_use]
    pub fn own(&self) -> &Path {
        self.own.path()
    }

    /// Writes the user's own settings.
    ///
    /// # Panics
    /// When they cannot be written.
    pub fn write_own(&self, text: &str) {
        let dir = self.own().join(".config/coracle");
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("coracle.toml"), text).unwrap();
        let id = (Some(self.user.uid), Some(self.user.gid));
        std::os::unix::fs::chown(dir.join("coracle.toml"), id.0, id.1).unwrap();
    }

    /// Any program there, as the user.
    ///
    /// # Panics
    /// When there is no program to test.
    pub fn program<S: AsRef<OsStr>>(&self, words: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new("/usr/bin/unshare");
        command.args(["-m", "/bin/sh", "-c", ENTER, "enter"]);
        command.arg(self.file("")).arg(self.dir.path().join("over"));
        command.arg(format!("{}:{}", self.user.uid, self.user.gid)).args(words);
        command
            .env_clear()
            .env("HOME", self.own())
            .env("USER", &self.user.name)
            .env("PATH", "/usr/bin:/bin:/usr/sbin:/sbin");
        command.env("CORACLE_SESSION_IDLE", "1").current_dir(self.own());
        command
    }

    /// `coracle` there, as the user.
    ///
    /// # Panics
    /// As [`Self::program`].
    pub fn coracle<S: AsRef<OsStr>>(&self, words: impl IntoIterator<Item = S>) -> Command {
        let mut command = self.program([coracle_binary().unwrap()]);
        command.args(words);
        command
    }
}
