//! A container's files as an injection would have them.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use super::{Bind, Injection, Question};
use crate::files::{Files, Found, Kind};
use crate::loader::{Closure, Loader};

/// The container, and over it what is brought.
pub struct Overlay<'a> {
    /// Without it.
    pub container: &'a dyn Files,
    /// Where the binds come from.
    pub host: &'a dyn Files,
    /// What is brought.
    pub injection: &'a Injection,
}

impl Overlay<'_> {
    /// What the program would have in its memory.
    pub(super) fn closure(question: &Question<'_>, injection: &Injection) -> io::Result<Closure> {
        let overlay = Overlay { container: question.container, host: question.host, injection };
        Loader::new(&overlay, question.abi, question.library_path)?.closure(question.program)
    }

    /// Where on the host something bound is.
    pub(super) fn source(&self, path: &Path) -> Option<PathBuf> {
        let on_top = |bind: &&Bind| path.starts_with(&bind.destination);
        let bind = self.injection.binds.iter().rev().find(on_top)?;
        let rest = path.strip_prefix(&bind.destination).ok()?;
        Some(if rest.as_os_str().is_empty() { bind.source.clone() } else { bind.source.join(rest) })
    }

    fn generated(&self, path: &Path) -> Option<&[u8]> {
        self.injection.over.iter().find(|(over, _)| over == path).map(|(_, content)| content.as_slice())
    }

    fn at(&self, path: &Path) -> io::Result<Option<Found>> {
        if self.generated(path).is_some() {
            return Ok(Some(Found { path: path.to_path_buf(), kind: Kind::File }));
        }
        let Some(source) = self.source(path) else { return Ok(None) };
        let found = self.host.find(&source)?;
        Ok(found.map(|found| Found { path: path.to_path_buf(), kind: found.kind }))
    }
}

impl Files for Overlay<'_> {
    fn find(&self, path: &Path) -> io::Result<Option<Found>> {
        if let Some(found) = self.at(path)? {
            return Ok(Some(found));
        }
        let Some(found) = self.container.find(path)? else { return Ok(None) };
        Ok(Some(self.at(&found.path)?.unwrap_or(found)))
    }

    fn read_at(&self, path: &Path, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        if let Some(content) = self.generated(path) {
            let rest = usize::try_from(offset).ok().and_then(|offset| content.get(offset..)).unwrap_or_default();
            buffer.iter_mut().zip(rest).for_each(|(to, from)| *to = *from);
            return Ok(rest.len().min(buffer.len()));
        }
        match self.source(path) {
            Some(source) => match self.host.find(&source)? {
                Some(found) => self.host.read_at(&found.path, offset, buffer),
                None => Ok(0),
            },
            None => self.container.read_at(path, offset, buffer),
        }
    }

    fn list(&self, path: &Path) -> io::Result<Vec<OsString>> {
        match self.source(path) {
            Some(source) => self.host.list(&source),
            None => self.container.list(path),
        }
    }
}
