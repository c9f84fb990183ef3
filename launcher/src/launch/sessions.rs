//! Which session a launch is to use, and the verb `session`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use coracle::cli::{self, Flags, Pull};
use coracle::config::Config;
use coracle::exit::Exit;
use coracle::ids::Ids;
use coracle::session::{self, Identity, Meeting, Place};

use crate::{images, print, settings};

/// Switches sessions off (`off`) or on.
const SESSION: &str = "CORACLE_SESSION";
/// Seconds that a session waits for another launch.
const SESSION_IDLE: &str = "CORACLE_SESSION_IDLE";

/// How sessions are to be used.
pub(super) struct Sessions {
    pub(super) idle: Duration,
}

impl Sessions {
    /// `None` when they are switched off.
    pub(super) fn read(flags: &Flags, config: &Config) -> anyhow::Result<Option<Self>> {
        let config = &config.session;
        let idle = match std::env::var(SESSION_IDLE) {
            Ok(text) => {
                let seconds = text.parse::<u32>();
                let seconds = seconds.with_context(|| format!("{SESSION_IDLE}={text}: write a number of seconds"))?;
                Duration::from_secs(seconds.into())
            }
            Err(_) => config.idle().unwrap_or(session::IDLE),
        };
        let enabled = match std::env::var(SESSION).as_deref() {
            Ok("off" | "0" | "false" | "no") => false,
            Ok("on" | "1" | "true" | "yes") => true,
            Ok("") | Err(_) => config.enabled.unwrap_or(true),
            Ok(text) => anyhow::bail!("{SESSION}={text}: write on or off"),
        };
        Ok((enabled && !flags.no_session).then_some(Self { idle }))
    }

    /// The image's session; `None` when the image itself has to say what is wrong with it.
    pub(super) fn meet(
        &self,
        path: &Path,
        ids: &Ids,
        root: bool,
        variant: &str,
        meanwhile: impl FnOnce(),
    ) -> std::io::Result<Option<Meeting>> {
        let Ok(identity) = Identity::of(path, ids, root) else { return Ok(None) };
        let identity = identity.shown_as(variant);
        Place::open(&identity)?.map(|place| session::meet(place, &identity, meanwhile)).transpose()
    }
}

/// The image's absolute path, under which its session is known. The file may be gone.
fn image_path(image: &Path) -> anyhow::Result<PathBuf> {
    let found = images::find(image, Pull::Never, &settings()?).map(|found| found.path);
    Ok(std::path::absolute(found.unwrap_or_else(|_| image.to_path_buf()))?)
}

/// `session list`, `session stop` and `session stats`.
pub(crate) fn sessions(command: &cli::SessionCommand) -> anyhow::Result<Exit> {
    match command {
        cli::SessionCommand::List { json } => {
            let reports = session::reports().context("cannot ask the sessions")?;
            print(|out| {
                if *json {
                    serde_json::to_writer_pretty(&mut *out, &reports)?;
                    return Ok(writeln!(out)?);
                }
                if reports.is_empty() {
                    return Ok(writeln!(out, "no sessions")?);
                }
                writeln!(out, "{:>9} {:>9} {:>7}  IMAGE", "SERVER", "PROGRAMS", "AGE")?;
                for report in &reports {
                    let (programs, age) = (report.programs.len(), format!("{} s", report.age));
                    writeln!(out, "{:>9} {programs:>9} {age:>7}  {}", report.server, report.image.display())?;
                }
                Ok(())
            })?;
        }
        cli::SessionCommand::Stats { image } => {
            let path = image.as_deref().map(image_path).transpose()?;
            let mut reports = session::reports().context("cannot ask the sessions")?;
            reports.retain(|report| path.as_ref().is_none_or(|path| *path == report.image));
            print(|out| {
                let value = |report: &session::Report| {
                    let stats: serde_json::Value = serde_json::from_str(&report.stats).unwrap_or_default();
                    serde_json::json!({ "image": report.image, "server": report.server, "stats": stats })
                };
                serde_json::to_writer_pretty(&mut *out, &reports.iter().map(value).collect::<Vec<_>>())?;
                Ok(writeln!(out)?)
            })?;
        }
        cli::SessionCommand::Stop { image, all: _ } => {
            let path: Option<PathBuf> = image.as_deref().map(image_path).transpose()?;
            let stopped = session::stop(path.as_deref()).context("cannot ask the sessions")?;
            if let (0, Some(path)) = (stopped, path) {
                anyhow::bail!("cannot stop the session of {}: there is none; see coracle session list", path.display());
            }
        }
    }
    Ok(Exit::Success)
}
