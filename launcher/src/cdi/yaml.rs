//! YAML as JSON that has each value on the line on which the YAML has it, so that what is wrong with a value is said with
//! the file's own line. What JSON cannot say – tags, keys that are no texts – is refused.

use std::collections::{HashMap, HashSet};

use saphyr_parser::{Event, Parser, ScalarStyle};

/// Events of a file, aliases followed: far more than any device has, and few enough to stop a file that refers to itself
/// again and again.
const EVENTS_MAX: usize = 1 << 20;
/// Bytes of JSON that come of a file, likewise.
const BYTES_MAX: usize = 16 << 20;
/// How deep values may nest; the specification's own go to 6.
const DEPTH_MAX: usize = 64;

/// Why a text is no YAML that could be JSON.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason} at line {line}")]
pub struct Error {
    reason: String,
    /// From 1.
    line: usize,
}

/// What an [`Event`] comes to here.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    /// JSON text of a value.
    Value(String),
    /// A text; as a key, or as a value in quotation marks.
    Text(String),
    OpenList,
    CloseList,
    OpenTable,
    CloseTable,
}

/// Where a value stands.
enum Within {
    List {
        first: bool,
    },
    /// `keys` so far; `value` is due when a key stands before.
    Table {
        keys: HashSet<String>,
        value: bool,
    },
}

/// Writes the one document of `text` as JSON.
///
/// # Errors
/// When it is not YAML, has another number of documents, or says what JSON cannot.
pub fn to_json(text: &str) -> Result<String, Error> {
    let mut writer = Writer::default();
    let mut parser = Parser::new_from_str(text);
    let mut documents = 0;
    while let Some(event) = parser.next_event() {
        let (event, span) =
            event.map_err(|error| Error { reason: error.info().to_owned(), line: error.marker().line() })?;
        writer.at = span.start.line();
        let refused = |reason: &str| Err(Error { reason: reason.to_owned(), line: span.start.line() });
        match event {
            Event::DocumentStart(_) => documents += 1,
            Event::StreamEnd => break,
            Event::Nothing | Event::StreamStart | Event::DocumentEnd => {}
            _ if documents > 1 => return refused("a second document begins"),
            Event::Alias(anchor) => writer.alias(anchor)?,
            Event::Scalar(_, _, _, Some(_)) | Event::SequenceStart(_, Some(_)) | Event::MappingStart(_, Some(_)) => {
                return refused("a tag, which no value has here,");
            }
            Event::Scalar(text, style, anchor, None) => {
                let part = match style {
                    ScalarStyle::Plain => plain(&text),
                    _ => Part::Text(text.into_owned()),
                };
                writer.part(part, anchor)?;
            }
            Event::SequenceStart(anchor, None) => writer.part(Part::OpenList, anchor)?,
            Event::SequenceEnd => writer.part(Part::CloseList, 0)?,
            Event::MappingStart(anchor, None) => writer.part(Part::OpenTable, anchor)?,
            Event::MappingEnd => writer.part(Part::CloseTable, 0)?,
        }
    }
    if writer.out.trim().is_empty() {
        return Err(Error { reason: "there is nothing in it".to_owned(), line: 1 });
    }
    Ok(writer.out)
}

#[derive(Default)]
struct Writer {
    out: String,
    /// The line on which the end of `out` is, from 1.
    line: usize,
    /// The line of the file that is being read.
    at: usize,
    within: Vec<Within>,
    events: usize,
    /// The parts of each anchored value, complete or being collected.
    anchors: HashMap<usize, Vec<Part>>,
    /// Anchors whose values are being collected, and how deep each began.
    open: Vec<(usize, usize)>,
}

impl Writer {
    fn failed(&self, reason: impl Into<String>) -> Error {
        Error { reason: reason.into(), line: self.at }
    }

    fn alias(&mut self, anchor: usize) -> Result<(), Error> {
        if self.open.iter().any(|(open, _)| *open == anchor) {
            return Err(self.failed("a value that contains itself"));
        }
        let Some(parts) = self.anchors.get(&anchor).cloned() else {
            return Err(self.failed("a reference to what is not there"));
        };
        parts.into_iter().try_for_each(|part| self.part(part, 0))
    }

    /// Takes the next part, of which `anchor`, unless it is 0, is the name.
    fn part(&mut self, part: Part, anchor: usize) -> Result<(), Error> {
        self.events += 1;
        if self.events > EVENTS_MAX || self.out.len() > BYTES_MAX || self.within.len() > DEPTH_MAX {
            return Err(self.failed("it is unreasonably large or deep"));
        }
        if anchor != 0 {
            self.anchors.insert(anchor, Vec::new());
            self.open.push((anchor, self.within.len()));
        }
        for (open, _) in &self.open {
            if let Some(parts) = self.anchors.get_mut(open) {
                parts.push(part.clone());
            }
        }
        self.write(part)?;
        let depth = self.within.len();
        // A value is complete when the depth is again what it was before it.
        self.open.retain(|(_, began)| *began < depth);
        Ok(())
    }

    fn write(&mut self, part: Part) -> Result<(), Error> {
        match part {
            Part::CloseList | Part::CloseTable => {
                self.within.pop();
                self.out.push(if part == Part::CloseList { ']' } else { '}' });
                self.after();
                return Ok(());
            }
            Part::Text(_) | Part::Value(_) | Part::OpenList | Part::OpenTable => {}
        }
        self.before();
        if matches!(self.within.last(), Some(Within::Table { value: false, .. })) {
            return self.key(part);
        }
        match part {
            Part::Text(text) => self.out.push_str(&quoted(&text)),
            Part::Value(json) => self.out.push_str(&json),
            Part::OpenTable => {
                self.out.push('{');
                self.within.push(Within::Table { keys: HashSet::new(), value: false });
                return Ok(());
            }
            _ => {
                self.out.push('[');
                self.within.push(Within::List { first: true });
                return Ok(());
            }
        }
        self.after();
        Ok(())
    }

    /// What stands before a value or key: a comma, and as many line feeds as bring it to its line.
    fn before(&mut self) {
        let comma = match self.within.last_mut() {
            Some(Within::List { first }) => !std::mem::replace(first, false),
            Some(Within::Table { keys, value }) => !*value && !keys.is_empty(),
            None => false,
        };
        if comma {
            self.out.push(',');
        }
        self.line = self.line.max(1);
        while self.line < self.at {
            self.out.push('\n');
            self.line += 1;
        }
    }

    fn after(&mut self) {
        if let Some(Within::Table { value, .. }) = self.within.last_mut() {
            *value = false;
        }
    }

    fn key(&mut self, part: Part) -> Result<(), Error> {
        let key = match part {
            Part::Text(text) => text,
            // A number or truth value as the name of an annotation.
            Part::Value(json) => json.trim_matches('"').to_owned(),
            _ => return Err(self.failed("a key that is no text")),
        };
        let Some(Within::Table { keys, value }) = self.within.last_mut() else {
            return Err(self.failed("a key outside of a table"));
        };
        *value = true;
        if !keys.insert(key.clone()) {
            return Err(self.failed(format!("the key {key:?} comes a second time")));
        }
        self.out.push_str(&quoted(&key));
        self.out.push(':');
        Ok(())
    }
}

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// What a word without quotation marks means, by the core schema and, for octal numbers, as the common Go library has it.
fn plain(word: &str) -> Part {
    match word {
        "" | "~" | "null" | "Null" | "NULL" => return Part::Value("null".to_owned()),
        "true" | "True" | "TRUE" => return Part::Value("true".to_owned()),
        "false" | "False" | "FALSE" => return Part::Value("false".to_owned()),
        _ => {}
    }
    let (sign, digits) = word.strip_prefix('-').map_or(("", word), |rest| ("-", rest));
    let radix = |prefix: &str, radix| digits.strip_prefix(prefix).map(|digits| (digits, radix));
    let octal = || radix("0", 8).filter(|(digits, _)| !digits.is_empty());
    let (digits, radix) = radix("0x", 16).or_else(|| radix("0o", 8)).or_else(octal).unwrap_or((digits, 10));
    let is_number = digits.chars().all(|digit| digit.is_digit(radix));
    match i64::from_str_radix(digits, radix) {
        Ok(number) if is_number => Part::Value(format!("{sign}{number}")),
        // No field of the specification is a fraction, so `0.5` is a text.
        _ => Part::Text(word.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(yaml: &str) -> serde_json::Value {
        serde_json::from_str(&to_json(yaml).unwrap()).unwrap()
    }

    #[test]
    fn values_are_what_the_common_library_takes_them_for() {
        let yaml = "---\na: 0.5\nb: 010\nc: 0o10\nd: 0x10\ne: yes\nf: ~\ng: true\nh: '7'\ni: [1, -2]\nj: {k: l}\nm:\n";
        let expected = serde_json::json!({
            "a": "0.5", "b": 8, "c": 8, "d": 16, "e": "yes", "f": null, "g": true, "h": "7", "i": [1, -2],
            "j": {"k": "l"}, "m": null
        });
        assert_eq!(value(yaml), expected);
        assert_eq!(value("- a\n- - b\n  - \"c\\n\"\n"), serde_json::json!(["a", ["b", "c\n"]]));
        assert_eq!(value("{\"a\": [1,2], \"b\": {}}"), serde_json::json!({"a": [1, 2], "b": {}}));
    }

    #[test]
    fn lines_are_kept() {
        let json = to_json("# first\na: 1\n\nb:\n  - c\n  - d: 2\n").unwrap();
        let line = |needle: &str| json.lines().position(|line| line.contains(needle)).unwrap() + 1;
        assert_eq!((line("\"a\""), line("\"b\""), line("\"c\""), line("\"d\"")), (2, 4, 5, 6));
    }

    #[test]
    fn aliases_are_followed_and_bounded() {
        assert_eq!(
            value("a: &x {b: [1]}\nc: *x\nd: &y 5\ne: *y\n"),
            serde_json::json!({"a": {"b": [1]}, "c": {"b": [1]}, "d": 5, "e": 5})
        );
        let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for level in 1..9 {
            let before = level - 1;
            bomb += &format!("a{level}: &a{level} [{}]\n", vec![format!("*a{before}"); 10].join(", "));
        }
        assert!(to_json(&bomb).unwrap_err().reason.contains("unreasonably"));
        assert!(to_json(&"[".repeat(100)).is_err());
    }

    #[test]
    fn what_json_cannot_say_is_refused_with_the_line() {
        let text = |yaml: &str| to_json(yaml).unwrap_err().to_string();
        assert_eq!(text("a: 1\na: 2\n"), "the key \"a\" comes a second time at line 2");
        assert!(text("a: !x 1\n").starts_with("a tag"));
        assert!(text("a: 1\n---\nb: 2\n").starts_with("a second document"));
        assert!(text("? [a]\n: b\n").starts_with("a key that is no text"));
        assert!(text("").starts_with("there is nothing"));
        assert!(text("a: [1\n").contains("line "));
        assert!(text("a: &x [*x]\n").contains("itself"));
    }
}
