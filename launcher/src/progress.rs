//! How far a conversion is: bars on a terminal, a line for each phase elsewhere, JSON for programs, or nothing.

mod bars;
mod json;
mod lines;

use std::io::IsTerminal;

use coracle::cli::Showing;
use coracle_converter::{Event, Progress};

pub(super) use json::write as write_json;

/// Hears what happens, and at last that nothing more will.
pub(super) trait Shown: Progress {
    /// Takes away what is on the terminal for the moment only.
    fn end(&self) {}
}

/// Shows nothing.
struct Nothing;

impl Progress for Nothing {
    fn event(&self, _: Event<'_>) {}
}

impl Shown for Nothing {}

/// What the caller wants to see.
pub(super) fn start(showing: &Showing) -> Box<dyn Shown> {
    if showing.quiet {
        Box::new(Nothing)
    } else if showing.json {
        Box::<json::Json>::default()
    } else if std::io::stderr().is_terminal() {
        Box::new(bars::Bars::new())
    } else {
        Box::<lines::Lines>::default()
    }
}

/// `layer sha256:0123456789ab` of a layer's name, which may be a path.
fn short(name: &str) -> String {
    let hex = |part: &str| part.len() == 64 && part.bytes().all(|digit| digit.is_ascii_hexdigit());
    let name: String = name.chars().filter(|c| !c.is_control()).collect();
    match name.rsplit_once([':', '/']) {
        Some((_, digest)) if hex(digest) => digest[..12].to_owned(),
        _ => name.rsplit('/').next().unwrap_or(&name).to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_layers_are_short() {
        let hex = "0123456789abcdef".repeat(4);
        assert_eq!(short(&format!("layer sha256:{hex}")), "0123456789ab");
        assert_eq!(short(&format!("layer blobs/sha256/{hex}")), "0123456789ab");
        assert_eq!(short("/data/root.tar.gz"), "root.tar.gz");
        assert_eq!(short("layer a\x1b[2J"), "layer a[2J");
    }
}
