//! `config show` and `config check`.

use std::ffi::OsString;

use coracle::cli::ConfigCommand;
use coracle::config::{self, Entry, Origin};
use coracle::exit::Exit;
use serde_json::{Value, json};

use super::{home, print};

pub(super) fn configuration(command: &ConfigCommand) -> anyhow::Result<Exit> {
    match command {
        ConfigCommand::Show { json, origin } => show(*json, *origin),
        ConfigCommand::Check { files } => {
            let problems = config::problems(files, home().as_deref());
            print(|out| {
                if problems.is_empty() {
                    return Ok(writeln!(out, "nothing is wrong")?);
                }
                Ok(problems.iter().try_for_each(|problem| writeln!(out, "{problem}"))?)
            })?;
            Ok(if problems.is_empty() { Exit::Success } else { Exit::Unfit })
        }
    }
}

fn show(json: bool, origin: bool) -> anyhow::Result<Exit> {
    let env: Vec<(OsString, OsString)> = std::env::vars_os().collect();
    let entries = config::show(home().as_deref(), &env)?;
    print(|out| {
        if json {
            serde_json::to_writer_pretty(&mut *out, &entries.iter().map(object).collect::<Vec<_>>())?;
            return Ok(writeln!(out)?);
        }
        for Entry { key, value, origin: from } in &entries {
            let from = if origin { format!("  # {from}") } else { String::new() };
            writeln!(out, "{key} = {}{from}", toml(value))?;
        }
        Ok(())
    })?;
    Ok(Exit::Success)
}

fn object(entry: &Entry) -> Value {
    let Entry { key, value, origin } = entry;
    match origin {
        Origin::File(path, line) => json!({ "key": key, "value": value, "file": path, "line": line }),
        other => json!({ "key": key, "value": value, "origin": other.to_string() }),
    }
}

/// As a file would have it, on one line.
fn toml(value: &Value) -> String {
    match value {
        Value::Array(values) => format!("[{}]", values.iter().map(toml).collect::<Vec<_>>().join(", ")),
        Value::Object(pairs) => {
            let pair = |(name, value): (&String, &Value)| format!("{} = {}", Value::from(name.as_str()), toml(value));
            format!("{{ {} }}", pairs.iter().map(pair).collect::<Vec<_>>().join(", "))
        }
        other => other.to_string(),
    }
}
