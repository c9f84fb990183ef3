//! Checks whether a host can run images, and says what to change where it cannot.
//!
//! Nothing is concluded from version numbers alone: what counts is tried, in child processes.

use std::borrow::Cow;
use std::fmt;
use std::io::{self, Write};

use serde::{Deserialize, Serialize};

mod attempt;
mod checks;
mod container;
mod fabric;
mod filesystems;
mod gpu;
mod groups;
mod identity;
mod kernel;
mod limits;
mod mounts;
mod namespaces;
mod places;
mod slurm;
mod terminal;

/// The outcome of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// As it should be.
    Ok,
    /// Images run, but something is lost.
    Degraded,
    /// Images do not run.
    Broken,
}

/// One thing that was looked at. The names are an interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// What.
    pub name: Cow<'static, str>,
    /// How it stands.
    pub verdict: Verdict,
    /// What was found.
    pub found: String,
    /// What to change; absent when nothing needs to be.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub remedy: Option<String>,
}

impl Check {
    fn ok(name: &'static str, found: impl Into<String>) -> Self {
        Self { name: Cow::Borrowed(name), verdict: Verdict::Ok, found: found.into(), remedy: None }
    }

    fn degraded(name: &'static str, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { name: Cow::Borrowed(name), verdict: Verdict::Degraded, found: found.into(), remedy: Some(remedy.into()) }
    }

    fn broken(name: &'static str, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { name: Cow::Borrowed(name), verdict: Verdict::Broken, found: found.into(), remedy: Some(remedy.into()) }
    }
}

/// All checks.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Whether images run.
    pub fit: bool,
    /// In the order in which a launch needs them.
    pub checks: Vec<Check>,
}

impl Report {
    /// Looks at this host. Forks, so the process must have one thread.
    #[must_use]
    pub fn collect() -> Self {
        let checks = checks::all();
        Self { fit: checks.iter().all(|check| check.verdict != Verdict::Broken), checks }
    }

    /// Writes the report, as JSON or for people.
    ///
    /// # Errors
    /// When `out` cannot be written.
    pub fn write(&self, json: bool, out: &mut dyn Write) -> io::Result<()> {
        if json {
            serde_json::to_writer_pretty(&mut *out, self)?;
            writeln!(out)
        } else {
            write!(out, "{self}")
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for check in &self.checks {
            let verdict = match check.verdict {
                Verdict::Ok => "ok",
                Verdict::Degraded => "degraded",
                Verdict::Broken => "broken",
            };
            writeln!(f, "{verdict:<10}{:<22}{}", check.name, check.found)?;
            if let Some(remedy) = &check.remedy {
                writeln!(f, "{:<32}-> {remedy}", "")?;
            }
        }
        writeln!(f, "{}", if self.fit { "this host can run images" } else { "this host cannot run images yet" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_broken_check_is_enough() {
        let checks =
            vec![Check::ok("a", "fine"), Check::degraded("b", "slow", "x"), Check::broken("c", "gone", "run y")];
        let report = Report { fit: false, checks };
        let text = report.to_string();
        assert!(text.contains("broken    c                     gone\n") && text.contains("-> run y\n"), "{text}");
        assert!(text.ends_with("cannot run images yet\n"));
        let mut json = Vec::new();
        report.write(true, &mut json).unwrap();
        let json: serde_json::Value = serde_json::from_slice(&json).unwrap();
        assert_eq!(json["checks"][2]["verdict"], "broken");
        assert_eq!(json["checks"][0].get("remedy"), None);
    }
}
