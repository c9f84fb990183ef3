//! Docker's credential helpers: programs `docker-credential-NAME` that keep credentials elsewhere.

use super::credentials::{Credential, TOKEN_USER};
use super::error::{Error, words};
use serde::Deserialize;
use std::io::{self, Read, Write};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

/// A helper may ask the user something; one that hangs must not hang a batch job.
const LIMIT: Duration = Duration::from_secs(60);
/// Most bytes that are read of what it says.
const OUTPUT_MAX: u64 = 1 << 20;
/// What a helper says when it has none, which is no failure.
const NONE: &str = "credentials not found";

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    username: String,
    secret: String,
}

/// Asks a helper for the credentials of a server.
///
/// # Errors
/// When it cannot be run, or fails.
pub fn get(name: &str, server: &str) -> Result<Option<Credential>, Error> {
    let program = format!("docker-credential-{name}");
    let failed = |reason: String| Error::Credentials { place: program.clone(), reason };
    if name.is_empty() || !name.bytes().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_' | b'.')) {
        return Err(Error::Credentials { place: format!("helper {name:?}"), reason: "that is no name of one".into() });
    }
    let (success, output) = run(&program, server).map_err(|error| failed(error.to_string()))?;
    if !success {
        let said = String::from_utf8_lossy(&output);
        return if said.to_ascii_lowercase().contains(NONE) { Ok(None) } else { Err(failed(words(&said))) };
    }
    let answer: Answer =
        serde_json::from_slice(&output).map_err(|_| failed("it answers with something else than JSON".into()))?;
    Ok(match (answer.username.as_str(), answer.secret.as_str()) {
        (_, "") => None,
        (TOKEN_USER, token) => Some(Credential::Identity(token.to_owned())),
        (user, secret) => Some(Credential::Password(user.to_owned(), secret.to_owned())),
    })
}

/// Whether it succeeded, and its output.
fn run(program: &str, server: &str) -> io::Result<(bool, Vec<u8>)> {
    let mut child = Command::new(program).arg("get").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        // One that has read enough may have closed it.
        let _ = stdin.write_all(server.as_bytes());
    }
    let stdout = child.stdout.take();
    let (tell, hear) = mpsc::channel();
    thread::Builder::new().name("credential-helper".into()).spawn(move || {
        let mut output = Vec::new();
        let read = stdout.map(|stdout| stdout.take(OUTPUT_MAX).read_to_end(&mut output));
        // Nobody listens any more when it took too long.
        let _ = tell.send(read.transpose().map(|_| output));
    })?;
    let until = Instant::now() + LIMIT;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if Instant::now() >= until {
            child.kill()?;
            child.wait()?;
            return Err(io::Error::new(io::ErrorKind::TimedOut, "it did not answer within a minute"));
        }
        thread::sleep(Duration::from_millis(5));
    };
    // What it started may hold its output open.
    let output = hear.recv_timeout(LIMIT).map_err(|_| io::Error::other("its output does not end"))?;
    Ok((status.success(), output?))
}
