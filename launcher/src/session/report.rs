//! Looking at sessions and ending them.

use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::client::{dial, is_gone, misunderstood};
use super::message::{Answer, Request, receive, send};
use super::place::Place;

/// How a session is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// The image file, as its first launch found it.
    pub image: PathBuf,
    /// Process id of the server.
    pub server: u32,
    /// Process ids of the launched programs that are still running.
    pub programs: Vec<i32>,
    /// Sets of mounts that are kept ready.
    pub containers: usize,
    /// Seconds since the server started.
    pub age: u64,
    /// Seconds that the session waits for another launch after its last program.
    pub idle: u64,
    /// What the server has done, as JSON.
    pub stats: String,
}

/// The caller's sessions on this node.
///
/// # Errors
/// When a server cannot be asked; one that ends meanwhile is left out.
pub fn reports() -> io::Result<Vec<Report>> {
    let mut reports = Vec::new();
    each(|socket| {
        send(socket, &Request::Report, &[])?;
        let (Answer::Report(report), _) = receive(socket)? else { return Err(misunderstood()) };
        reports.push(*report);
        Ok(())
    })?;
    Ok(reports)
}

/// Lets no more launches join the sessions of the image at `path`, or any session when there is no path. A session's mount
/// ends with the last program that uses it. Returns how many sessions there were.
///
/// # Errors
/// When a server cannot be asked.
pub fn stop(path: Option<&Path>) -> io::Result<usize> {
    let mut stopped = 0;
    each(|socket| {
        send(socket, &Request::Report, &[])?;
        let (Answer::Report(report), _) = receive(socket)? else { return Err(misunderstood()) };
        if path.is_none_or(|path| path == report.image) {
            send(socket, &Request::Stop, &[])?;
            // It answers by hanging up.
            let _ = receive::<Answer>(socket);
            stopped += 1;
        }
        Ok(())
    })?;
    Ok(stopped)
}

fn each(mut visit: impl FnMut(&std::os::fd::OwnedFd) -> io::Result<()>) -> io::Result<()> {
    for place in Place::existing() {
        for name in place.names()? {
            let Some(socket) = dial(&place, &name)? else { continue };
            match visit(&socket) {
                Err(error) if is_gone(&error) => {}
                result => result?,
            }
        }
    }
    Ok(())
}
