//! Images in the stores of other tools, by those tools' own export commands.
//!
//! What they write is a docker archive that cannot be sought in, so it is treated as any other [`super::stream`]: the
//! command runs once for the index, and again for large layers, and what it writes goes to no disk of ours.

use crate::error::Error;
use std::io::{self, Read};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;

/// Bytes of a command's complaints that a message shows.
const COMPLAINT: usize = 2048;

/// A command that writes a docker archive to its standard output.
#[derive(Clone, Debug)]
pub struct Export {
    words: Arc<[String]>,
}

impl Export {
    /// From the Docker daemon that the `docker` command finds.
    ///
    /// # Errors
    /// When there is no such command.
    pub fn docker(name: &str) -> Result<Self, Error> {
        let name = tagged(name);
        first("docker-daemon:", &[("docker", &["save", "--", &name])])
    }

    /// From the caller's image store of podman and buildah.
    ///
    /// # Errors
    /// When none of the commands that can read it is there.
    pub fn containers(name: &str) -> Result<Self, Error> {
        let (source, name) = (format!("containers-storage:{name}"), name.to_owned());
        let to = "docker-archive:/dev/stdout";
        first(
            "containers-storage:",
            &[
                ("podman", &["save", "--quiet", "--format", "docker-archive", "--", &name]),
                ("buildah", &["push", "--quiet", "--", &name, to]),
                ("skopeo", &["copy", "--quiet", "--insecure-policy", "--", &source, to]),
            ],
        )
    }

    /// Runs it.
    pub fn start(&self) -> io::Result<Output> {
        let (program, arguments) = self.words.split_first().ok_or(io::ErrorKind::InvalidInput)?;
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn()?;
        let output = child.stdout.take();
        let mut complaints = child.stderr.take();
        // Read at once: a command that cannot complain would wait for it.
        let listener = std::thread::Builder::new().name("export-errors".into()).spawn(move || {
            let mut text = Vec::new();
            if let Some(complaints) = &mut complaints {
                // What it still had to say is not worth a failure.
                let _ = complaints.by_ref().take(COMPLAINT as u64).read_to_end(&mut text);
                let _ = io::copy(complaints, &mut io::sink());
            }
            text
        });
        let mut running = Output { words: Arc::clone(&self.words), child, output, listener: None };
        running.listener = Some(listener?);
        Ok(running)
    }
}

/// `docker save` of a bare repository would write all of its tags.
fn tagged(name: &str) -> String {
    let last = name.rsplit('/').next().unwrap_or(name);
    if last.contains(':') || name.contains('@') { name.to_owned() } else { format!("{name}:latest") }
}

fn first(form: &'static str, candidates: &[(&'static str, &[&str])]) -> Result<Export, Error> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let there = |program: &str| std::env::split_paths(&path).any(|dir| is_program(&dir.join(program)));
    let found = candidates.iter().find(|(program, _)| there(program)).ok_or_else(|| Error::NoExporter {
        form,
        programs: candidates.iter().map(|(program, _)| *program).collect(),
    })?;
    let words = std::iter::once(found.0).chain(found.1.iter().copied()).map(str::to_owned);
    Ok(Export { words: words.collect() })
}

fn is_program(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    path.metadata().is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}

/// The standard output of a command that runs. Its failure is an error at the end of its output; it is ended when
/// nobody wants more.
pub struct Output {
    words: Arc<[String]>,
    child: Child,
    output: Option<ChildStdout>,
    listener: Option<std::thread::JoinHandle<Vec<u8>>>,
}

impl Output {
    fn complaint(&mut self) -> String {
        let text = self.listener.take().and_then(|listener| listener.join().ok()).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        text.trim().chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
    }
}

impl Read for Output {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(output) = &mut self.output else { return Ok(0) };
        let count = output.read(buffer)?;
        if count == 0 && !buffer.is_empty() {
            self.output = None;
            let status = self.child.wait()?;
            if !status.success() {
                let (command, complaint) = (self.words.join(" "), self.complaint());
                return Err(io::Error::other(format!("{command:?} failed with {status}: {complaint}")));
            }
        }
        Ok(count)
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        self.output = None;
        // It may have ended long ago, and then neither matters.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Export {
        Export { words: ["sh", "-c", script].map(str::to_owned).into() }
    }

    #[test]
    fn bare_names_get_the_tag_that_everyone_means() {
        for (name, expected) in [
            ("alpine", "alpine:latest"),
            ("host:5000/a", "host:5000/a:latest"),
            ("a:1", "a:1"),
            ("sha256:ab", "sha256:ab"),
            ("a@sha256:ab", "a@sha256:ab"),
        ] {
            assert_eq!(tagged(name), expected);
        }
    }

    #[test]
    fn a_failure_is_told_with_what_the_command_said() {
        let mut output = shell("echo some; echo 'no such\timage' >&2; exit 3").start().unwrap();
        let mut text = String::new();
        let error = output.read_to_string(&mut text).unwrap_err().to_string();
        assert!(text == "some\n" && error.contains("exit status: 3: no such image"), "{error}");
    }

    #[test]
    fn a_command_that_is_not_wanted_any_more_ends() {
        let mut output = shell("exec yes").start().unwrap();
        output.read_exact(&mut [0; 10]).unwrap();
        let process = output.child.id();
        drop(output);
        assert!(!Path::new(&format!("/proc/{process}")).exists());
    }
}
