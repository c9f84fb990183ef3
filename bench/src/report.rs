//! Figures as JSON, tables as Markdown.

use crate::machine::Machine;
use crate::rounds::Table;
use anyhow::{Context, Result};
use serde_json::json;
use std::fmt::Write;
use std::fs;
use std::path::Path;

const BEGIN: &str = "<!-- figures: begin -->";
const END: &str = "<!-- figures: end -->";

/// Every figure of a table.
pub fn write_json(dir: &Path, machine: &Machine, table: &Table) -> Result<()> {
    fs::create_dir_all(dir).with_context(|| format!("make {}", dir.display()))?;
    let path = dir.join(format!("{}.json", table.name));
    let text = serde_json::to_string_pretty(&json!({ "machine": machine, "table": table })).context("write figures")?;
    fs::write(&path, text + "\n").with_context(|| format!("write {}", path.display()))
}

/// A table of medians; behind each peer's, coracle's time by the peer's.
pub fn markdown(table: &Table) -> String {
    let mut text = format!("### {}\n\n", table.title);
    for note in &table.notes {
        let _ = writeln!(text, "{note}");
    }
    let measures = !table.sizes.is_empty();
    let _ = write!(text, "\n| |");
    if measures {
        text.push_str(" size |");
    }
    for contender in &table.contenders {
        let _ = write!(text, " {contender} |");
    }
    let _ = writeln!(text, "\n|---|{}", "---|".repeat(table.contenders.len() + usize::from(measures)));
    let first = table.contenders.first().map(String::as_str).unwrap_or_default();
    for row in &table.rows {
        let _ = write!(text, "| {row} |");
        if let Some(size) = table.sizes.get(row) {
            let _ = write!(text, " {:.1} MiB |", *size as f64 / 1_048_576.0);
        }
        for contender in &table.contenders {
            let _ = write!(text, " {} |", cell(table, row, contender, first));
        }
        text.push('\n');
    }
    text
}

fn cell(table: &Table, row: &str, contender: &str, first: &str) -> String {
    let Some(seconds) = table.median(row, contender) else { return "–".into() };
    let mut text = if seconds < 0.2 { format!("{:.1} ms", seconds * 1e3) } else { format!("{seconds:.2} s") };
    if let Some(kib) = table.peak_kib(row, contender) {
        let _ = write!(text, ", {} MiB", kib >> 10);
    }
    match table.ratio(row, first, contender) {
        Some(ratio) if contender != first && table.sizes.is_empty() => text + &format!(" ({ratio:.2})"),
        _ => text,
    }
}

/// Replaces what is between the marks of the page, table by table: those not measured this time stay.
pub fn replace_in_page(page: &Path, machine: &Machine, tables: &[Table]) -> Result<()> {
    let old = fs::read_to_string(page).unwrap_or_else(|_| format!("# Benchmarks\n\n{BEGIN}\n{END}\n"));
    let (before, rest) = old.split_once(BEGIN).with_context(|| format!("find {BEGIN} in {}", page.display()))?;
    let (between, after) = rest.split_once(END).with_context(|| format!("find {END} in {}", page.display()))?;
    let mut sections: Vec<(String, String)> = sections(between);
    for table in tables {
        let body = format!("{}\nMeasured on: {}\n", markdown(table), machine.describe());
        match sections.iter_mut().find(|(title, _)| *title == table.title) {
            Some((_, old)) => *old = body,
            None => sections.push((table.title.clone(), body)),
        }
    }
    let bodies: Vec<_> = sections.iter().map(|(_, body)| body.trim_end()).collect();
    let new = format!("{before}{BEGIN}\n\n{}\n\n{END}{after}", bodies.join("\n\n"));
    fs::write(page, new).with_context(|| format!("write {}", page.display()))
}

/// Title and whole text of each `###` section.
fn sections(text: &str) -> Vec<(String, String)> {
    let mut found: Vec<(String, String)> = Vec::new();
    for line in text.lines() {
        if let Some(title) = line.strip_prefix("### ") {
            found.push((title.to_owned(), String::new()));
        }
        if let Some((_, body)) = found.last_mut() {
            body.push_str(line);
            body.push('\n');
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rounds::Sample;

    fn table(title: &str, seconds: f64) -> Table {
        let sample = |contender: &str, seconds| Sample {
            row: "r".into(),
            contender: contender.into(),
            round: 0,
            turn: 0,
            seconds,
            peak_kib: None,
        };
        Table {
            name: "t".into(),
            title: title.into(),
            notes: vec!["Note.".into()],
            contenders: vec!["coracle".into(), "peer".into(), "absent".into()],
            rows: vec!["r".into()],
            samples: vec![sample("coracle", seconds), sample("peer", 2.0)],
            ..Table::default()
        }
    }

    #[test]
    fn a_table_shows_medians_and_ratios() {
        let text = markdown(&table("Title", 0.1));
        assert!(text.contains("| r | 100.0 ms | 2.00 s (0.05) | – |"), "{text}");
    }

    #[test]
    fn a_page_keeps_what_was_not_measured() {
        let machine = Machine::look(Path::new("/bin/true")).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let page = dir.path().join("page.md");
        fs::write(&page, format!("intro\n{BEGIN}\n{END}\noutro\n")).unwrap();
        replace_in_page(&page, &machine, &[table("One", 1.0), table("Two", 1.0)]).unwrap();
        replace_in_page(&page, &machine, &[table("Two", 4.0)]).unwrap();
        let text = fs::read_to_string(&page).unwrap();
        assert!(text.starts_with("intro\n") && text.ends_with("\noutro\n"));
        assert_eq!(text.matches("### ").count(), 2);
        assert!(text.contains("| r | 1.00 s |") && text.contains("| r | 4.00 s |"), "{text}");
    }
}
