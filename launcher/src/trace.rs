//! A launch's timeline, for those who ask for it: with `CORACLE_TRACE=1` it goes to standard error right before the
//! program is executed, with any other value to the file of that name.
//!
//! Each line has microseconds since the process began its work, microseconds since the line before, and what came next.

use std::cell::RefCell;
use std::fmt::{Display, Write as _};
use std::fs::File;
use std::io::{self, Write};
use std::time::Instant;

/// Names the variable.
pub const VARIABLE: &str = "CORACLE_TRACE";

thread_local! {
    static TRACE: RefCell<Option<Trace>> = const { RefCell::new(None) };
}

struct Trace {
    /// Standard error when `None`.
    target: Option<File>,
    start: Instant,
    marks: Vec<(Instant, String)>,
}

/// Starts the timeline, if the environment asks for one.
///
/// # Errors
/// When the file that it names cannot be opened.
pub fn start() -> io::Result<()> {
    let Some(name) = std::env::var_os(VARIABLE).filter(|value| !value.is_empty()) else { return Ok(()) };
    let start = Instant::now();
    let target = if name == "1" { None } else { Some(File::options().create(true).append(true).open(name)?) };
    TRACE.set(Some(Trace { target, start, marks: Vec::new() }));
    Ok(())
}

/// Notes what comes next. Costs next to nothing when there is no timeline.
pub fn mark(what: impl Display) {
    TRACE.with_borrow_mut(|trace| {
        if let Some(trace) = trace {
            trace.marks.push((Instant::now(), what.to_string()));
        }
    });
}

/// Writes the timeline and ends it. One that cannot be written is no reason not to run the program.
pub fn finish() {
    let Some(trace) = TRACE.take() else { return };
    let text = render(&trace);
    let _ = match trace.target {
        Some(mut file) => file.write_all(text.as_bytes()),
        None => io::stderr().write_all(text.as_bytes()),
    };
}

fn render(trace: &Trace) -> String {
    let mut text = String::new();
    let mut last = trace.start;
    for (at, what) in &trace.marks {
        let (since_start, since_last) = (at.duration_since(trace.start), at.duration_since(last));
        // Writing to a string does not fail.
        let _ = writeln!(text, "{:>8} {:>+8}  {what}", since_start.as_micros(), since_last.as_micros());
        last = *at;
    }
    text
}
