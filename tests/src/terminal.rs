//! A program on a terminal of its own, by way of `script`.

use std::fmt::Write as _;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::process::{User, wait_within};

/// Longer than anything takes on a machine with other things to do.
const LIMIT: Duration = Duration::from_secs(120);

/// A shell command on a terminal, which is the controlling one of a session of its own.
#[derive(Debug)]
pub struct Terminal {
    child: Child,
    shown: Arc<Mutex<String>>,
}

impl Terminal {
    /// Starts `bash -c script` as `user` with `arguments`; the exit status of `script` will be its own.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn start(user: &User, cwd: &Path, envs: &[(&str, &str)], script: &str, arguments: &[&Path]) -> Self {
        let mut command = user.command("/usr/bin/script");
        let mut words = String::from("exec /bin/bash -c \"$SCRIPT\" bash");
        for index in 0..arguments.len() {
            let _ = write!(words, " \"$ARGUMENT{index}\"");
        }
        command.current_dir(cwd).args(["-qec", &words, "/dev/null"]).env("SHELL", "/bin/bash").env("SCRIPT", script);
        command.envs(envs.iter().copied());
        for (index, argument) in arguments.iter().enumerate() {
            command.env(format!("ARGUMENT{index}"), argument);
        }
        Self::of(command)
    }

    fn of(mut command: Command) -> Self {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        let shown = Arc::new(Mutex::new(String::new()));
        let (mut output, seen) = (child.stdout.take().unwrap(), Arc::clone(&shown));
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(count @ 1..) = output.read(&mut bytes) {
                seen.lock().unwrap().push_str(&String::from_utf8_lossy(&bytes[..count]));
            }
        });
        Self { child, shown }
    }

    /// What has been shown so far.
    ///
    /// # Panics
    /// When the thread that reads it did.
    #[must_use]
    pub fn shown(&self) -> String {
        self.shown.lock().unwrap().clone()
    }

    /// Waits until this is shown.
    ///
    /// # Panics
    /// When it does not come.
    #[track_caller]
    pub fn wait_for(&self, text: &str) {
        let until = Instant::now() + LIMIT;
        while !self.shown().contains(text) {
            assert!(Instant::now() < until, "{text:?} does not come: {:?}", self.shown());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Types these.
    ///
    /// # Panics
    /// When nobody reads them any more.
    pub fn type_in(&mut self, keys: &str) {
        let input = self.child.stdin.as_mut().unwrap();
        input.write_all(keys.as_bytes()).unwrap();
        input.flush().unwrap();
    }

    /// Waits for the end.
    ///
    /// # Panics
    /// When it does not come.
    #[track_caller]
    pub fn end(mut self) -> (ExitStatus, String) {
        let status = wait_within(&mut self.child, LIMIT);
        let status = status.unwrap_or_else(|| {
            let _ = self.child.kill();
            panic!("it does not end: {:?}", self.shown())
        });
        // The last of it may still be on the way to the thread.
        std::thread::sleep(Duration::from_millis(100));
        (status, self.shown())
    }
}
