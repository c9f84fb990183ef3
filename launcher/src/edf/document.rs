//! The keys of an environment definition file, with their lines, and how files that build on others add to them.

use std::collections::BTreeMap;
use std::path::Path;
use std::rc::Rc;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::Error;
use crate::config::line_at;

/// A text, and where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Located {
    pub(super) text: String,
    pub(super) path: Rc<Path>,
    /// From 1.
    pub(super) line: usize,
}

/// What files say, variables not yet filled in.
#[derive(Debug, Default)]
pub(super) struct Document {
    pub(super) image: Option<Located>,
    pub(super) workdir: Option<Located>,
    pub(super) entrypoint: Option<bool>,
    pub(super) writable: Option<bool>,
    pub(super) mounts: Vec<Located>,
    pub(super) devices: Vec<Located>,
    pub(super) env: BTreeMap<String, Located>,
    /// Names of nested tables with dots between them.
    pub(super) annotations: BTreeMap<String, Located>,
}

impl Document {
    /// Takes in a file that counts more: lists and tables add up.
    pub(super) fn extend(&mut self, later: Self) {
        self.image = later.image.or(self.image.take());
        self.workdir = later.workdir.or(self.workdir.take());
        self.entrypoint = later.entrypoint.or(self.entrypoint);
        self.writable = later.writable.or(self.writable);
        for (mine, theirs) in [(&mut self.mounts, later.mounts), (&mut self.devices, later.devices)] {
            for one in theirs {
                // Two bases may have a base in common.
                if !mine.iter().any(|other| other.text == one.text) {
                    mine.push(one);
                }
            }
        }
        self.env.extend(later.env);
        self.annotations.extend(later.annotations);
    }
}

/// A file being read.
struct Source<'a> {
    path: Rc<Path>,
    text: &'a str,
}

type Value<'i> = Spanned<DeValue<'i>>;

/// The files that this one builds on, and what it says itself.
pub(super) fn parse(path: &Path, text: &str) -> Result<(Vec<Located>, Document), Error> {
    let source = Source { path: path.into(), text };
    let table = DeTable::parse(text).map_err(|error| {
        let at = error.span().map_or(0, |span| span.start);
        source.error(at, error.message().replace('\n', "; "))
    })?;
    let (mut bases, mut document) = (Vec::new(), Document::default());
    for (key, value) in table.get_ref() {
        let name = key.get_ref().as_ref();
        match name {
            "base_environment" if value.get_ref().is_str() => bases.push(source.text(name, value)?),
            "base_environment" => bases = source.texts(name, value)?,
            "image" => document.image = Some(source.text(name, value)?).filter(|image| !image.text.is_empty()),
            "workdir" => document.workdir = Some(source.text(name, value)?).filter(|dir| !dir.text.is_empty()),
            "entrypoint" => document.entrypoint = Some(source.truth(name, value)?),
            "writable" => document.writable = Some(source.truth(name, value)?),
            "mounts" => document.mounts = source.texts(name, value)?,
            "devices" => document.devices = source.texts(name, value)?,
            "env" => {
                for (key, value) in source.table(name, value)? {
                    document.env.insert(key.get_ref().to_string(), source.text(key.get_ref(), value)?);
                }
            }
            "annotations" => source.flatten("", source.table(name, value)?, &mut document.annotations)?,
            _ => {
                let keys =
                    "base_environment, image, workdir, entrypoint, writable, mounts, devices, env or annotations";
                return Err(source.error(key.span().start, format!("unknown key {name}: use {keys}")));
            }
        }
    }
    Ok((bases, document))
}

impl Source<'_> {
    fn error(&self, at: usize, problem: String) -> Error {
        Error::At { path: self.path.to_path_buf(), line: line_at(self.text, at), problem }
    }

    fn wrong(&self, name: &str, value: &Value<'_>, kind: &str) -> Error {
        self.error(value.span().start, format!("{name} is {kind}, and not {}", value.get_ref().type_str()))
    }

    fn text(&self, name: &str, value: &Value<'_>) -> Result<Located, Error> {
        match value.get_ref() {
            DeValue::String(text) => Ok(self.located(text, value)),
            _ => Err(self.wrong(name, value, "a text")),
        }
    }

    fn located(&self, text: &str, value: &Value<'_>) -> Located {
        Located { text: text.to_owned(), path: Rc::clone(&self.path), line: line_at(self.text, value.span().start) }
    }

    fn texts(&self, name: &str, value: &Value<'_>) -> Result<Vec<Located>, Error> {
        match value.get_ref() {
            DeValue::Array(values) => values.iter().map(|value| self.text(name, value)).collect(),
            _ => Err(self.wrong(name, value, "a list of texts")),
        }
    }

    fn truth(&self, name: &str, value: &Value<'_>) -> Result<bool, Error> {
        value.get_ref().as_bool().ok_or_else(|| self.wrong(name, value, "true or false"))
    }

    fn table<'a, 'i>(&self, name: &str, value: &'a Value<'i>) -> Result<&'a DeTable<'i>, Error> {
        value.get_ref().as_table().ok_or_else(|| self.wrong(name, value, "a table"))
    }

    fn flatten(&self, above: &str, table: &DeTable<'_>, into: &mut BTreeMap<String, Located>) -> Result<(), Error> {
        for (key, value) in table {
            let name = if above.is_empty() { key.get_ref().to_string() } else { format!("{above}.{}", key.get_ref()) };
            let text = match value.get_ref() {
                DeValue::Table(inner) => {
                    self.flatten(&name, inner, into)?;
                    continue;
                }
                DeValue::Boolean(whether) => whether.to_string(),
                DeValue::Integer(number) => number.as_str().to_owned(),
                DeValue::Float(number) => number.as_str().to_owned(),
                _ => self.text(&name, value)?.text,
            };
            into.insert(name, self.located(&text, value));
        }
        Ok(())
    }
}
