//! What a container shows: the image, and over it what is bound.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use coracle_mpi_hooks::files::{Files, Found, HostFiles, Kind};
use oci_spec::runtime::Spec;

use crate::image::{Entry, Tree, locate};

/// A container's files, before there is one.
pub(super) struct Shown<'a> {
    tree: &'a dyn Tree,
    host: HostFiles,
    /// Where something of the host is, and what; the deepest first.
    binds: Vec<(PathBuf, PathBuf)>,
}

impl<'a> Shown<'a> {
    pub(super) fn new(tree: &'a dyn Tree, spec: &Spec) -> Self {
        let mounts = spec.mounts().iter().flatten();
        let bound = mounts.filter(|mount| mount.typ().as_deref() == Some("bind"));
        let mut binds: Vec<(PathBuf, PathBuf)> =
            bound.filter_map(|mount| Some((mount.destination().clone(), mount.source().clone()?))).collect();
        // Of those at one place the last is on top.
        binds.reverse();
        binds.sort_by_key(|(destination, _)| std::cmp::Reverse(destination.components().count()));
        Self { tree, host: HostFiles::new("/"), binds }
    }

    /// Where on the host a path of the container is; `None` where the image shows.
    pub(super) fn on_host(&self, path: &Path) -> Option<PathBuf> {
        let (destination, source) = self.binds.iter().find(|(destination, _)| path.starts_with(destination))?;
        let rest = path.strip_prefix(destination).ok()?;
        Some(if rest.as_os_str().is_empty() { source.clone() } else { source.join(rest) })
    }
}

impl Files for Shown<'_> {
    fn find(&self, path: &Path) -> io::Result<Option<Found>> {
        if let Some(there) = self.on_host(path) {
            // The name is the container's: what `$ORIGIN` means, and what is read below.
            let found = self.host.find(&there)?;
            return Ok(found.map(|found| Found { path: path.to_path_buf(), kind: found.kind }));
        }
        let located = locate(self.tree, path).map_err(io::Error::other)?;
        if located.path != path && self.on_host(&located.path).is_some() {
            return self.find(&located.path);
        }
        Ok(located.entry.and_then(|entry| {
            let kind = match entry {
                Entry::Directory => Kind::Directory,
                Entry::File { .. } => Kind::File,
                Entry::Special => Kind::Special,
                Entry::Link(_) => return None,
            };
            Some(Found { path: located.path, kind })
        }))
    }

    fn read_at(&self, path: &Path, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        match self.on_host(path) {
            Some(there) => self.host.read_at(&there, offset, buffer),
            None => self.tree.read_at(path, offset, buffer).map_err(io::Error::other),
        }
    }

    fn list(&self, path: &Path) -> io::Result<Vec<OsString>> {
        match self.on_host(path) {
            Some(there) => self.host.list(&there),
            None => self.tree.names(&locate(self.tree, path).map_err(io::Error::other)?.path).map_err(io::Error::other),
        }
    }
}
