//! Puts layers over the image and makes that the root: by the kernel's overlayfs, or by the fuse-overlayfs program.
//!
//! All that helps is on a `tmpfs` that is mounted in the host's tree, which is stacked on the new root by then and will be
//! detached: the overlay keeps what it needs by itself. So nothing of it can be seen in the container, nor by the host.

use std::os::fd::OwnedFd;
use std::path::Path;

use nix::mount::{MsFlags, mount};
use rustix::fs::{Mode, OFlags, mkdirat, open, openat};
use rustix::io::Errno;

use super::images::hide;
use super::{Engine, Error as LaunchError, magic_link};
use crate::capabilities::{Capabilities, PTRACE};
use crate::image;
use crate::plan::{Layers, Upper};
use crate::sys::attributes;

mod error;
pub(crate) mod fuse_overlayfs;
mod generated;
mod kernel;
mod writable;

pub use error::Error;

/// Chooses for tests what makes the overlay: `kernel`, `fuse`, or `none`.
const SWITCH: &str = "CORACLE_OVERLAYFS";
/// Where on the helpers' file system the overlay is mounted.
const ROOT: &str = "root";
const DIRECTORY: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
/// What the root of a container never has.
const RESTRICT: MsFlags = MsFlags::MS_NOSUID.union(MsFlags::MS_NODEV);

/// What an overlay is made of.
struct Parts {
    /// The helpers' file system.
    memory: OwnedFd,
    /// From the bottom up.
    lower: Vec<OwnedFd>,
    upper: Option<writable::Writable>,
}

impl Parts {
    fn flags(&self) -> MsFlags {
        if self.upper.is_some() { RESTRICT } else { RESTRICT | MsFlags::MS_RDONLY }
    }
}

impl Engine<'_> {
    pub(super) fn stack(&mut self, layers: &Layers, at: &Path) -> Result<(), LaunchError> {
        // Ahead of the memory, which is to be on top for programs that look for its names.
        let mut shown = Vec::new();
        for path in &layers.lower {
            shown.push(match self.sources.get(path) {
                Some(_) => self.layer_source(path)?,
                None => self.image_root(path, at)?,
            });
        }
        let memory = self.memory(&layers.upper, at)?;
        let mut lower = vec![self.root()?.try_clone_to_owned().map_err(LaunchError::Descriptors)?];
        if let Some(content) = &layers.generated {
            let tree = image::Directory::of(self.root()?, Path::new("/")).map_err(LaunchError::Descriptors)?;
            lower.push(generated::prepare(&tree, &memory, content)?);
        }
        lower.extend(shown.into_iter().map(writable::kept_in));
        let upper = match &layers.upper {
            Upper::None => None,
            Upper::Memory { .. } => Some(writable::Writable::in_memory(&memory)?),
            Upper::Directory(path) => Some(writable::Writable::at(&self.layer_source(path)?, path)?),
        };
        let parts = Parts { memory, lower, upper };
        match self.overlay(&parts, at, layers.is_only_generated()) {
            Err(LaunchError::Layers(error)) if error.is_refusal() && layers.is_only_generated() => {
                (self.warn)(format!("{error}: only what the image has is mounted on"));
                let Some(content) = &layers.generated else { return Ok(()) };
                self.bind_generated(&parts.memory, content)
            }
            result => {
                result?;
                self.enter_overlay(&parts.memory)?;
                layers.lower.iter().try_for_each(|path| self.hide_image(path))?;
                hide(&parts.memory).map_err(|cause| Error::Memory { cause }.into())
            }
        }
    }

    /// A new file system for helpers, and for what is written to memory.
    fn memory(&self, upper: &Upper, at: &Path) -> Result<OwnedFd, LaunchError> {
        let size = match upper {
            Upper::Memory { size: Some(size) } => format!(",size={size}"),
            _ => String::new(),
        };
        let data = format!("mode=755{size}");
        let made = self.on_host(|| {
            mount(Some("coracle"), at, Some("tmpfs"), RESTRICT, Some(data.as_str())).map_err(std::io::Error::from)?;
            Ok(open(at, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?)
        })?;
        let memory = made.map_err(|cause| Error::Memory { cause })?;
        mkdirat(&memory, ROOT, Mode::RWXU).map_err(|cause| Error::Memory { cause: cause.into() })?;
        Ok(memory)
    }

    fn layer_source(&self, path: &Path) -> Result<OwnedFd, LaunchError> {
        match self.sources.get(path) {
            Some(Ok(descriptor)) => descriptor.try_clone().map_err(LaunchError::Descriptors),
            Some(Err(cause)) => Err(Error::Open { path: path.to_path_buf(), cause: (*cause).into() }.into()),
            None => Err(LaunchError::OutOfOrder("use a layer that was not opened")),
        }
    }

    /// The program's capabilities. It must not get at the host by way of what makes its root.
    pub(super) fn without_trace(&mut self, sets: Capabilities) -> Capabilities {
        if !self.overlay_by_program {
            return sets;
        }
        // A root has what there is; whoever else has it asked for it.
        if sets.ambient.has(PTRACE) {
            (self.warn)(format!(
                "fuse-overlayfs makes the container's root: going on without {PTRACE}, which would lead to the host by way of it"
            ));
        }
        sets.without(PTRACE)
    }

    /// Mounts the overlay on the helpers' file system.
    fn overlay(&mut self, parts: &Parts, at: &Path, only_generated: bool) -> Result<(), LaunchError> {
        let switch = std::env::var_os(SWITCH).unwrap_or_default();
        let refused = match switch.to_str() {
            Some("none") => return Err(Error::Refused { cause: Errno::PERM.into() }.into()),
            Some("fuse") => Error::Refused { cause: Errno::PERM.into() },
            Some("" | "kernel") => match kernel::mount_overlay(parts) {
                Ok(()) => return Ok(()),
                Err(error) if error.is_refusal() => error,
                Err(error) => return Err(error.into()),
            },
            _ => return Err(Error::Switch { value: switch }.into()),
        };
        let found = self.on_host(fuse_overlayfs::find)?;
        // What can go wrong with attributes alone is worse than nothing only where there is something better.
        match (found, &refused) {
            // Other programs of the session have this right as well, and keep it.
            (Some(_), _) if self.traces && only_generated => Err(refused.into()),
            (Some(program), _) if switch != *"kernel" => {
                kernel::wait_until_free(parts)?;
                self.by_program(&program, parts, at)
            }
            (_, Error::Attributes) => {
                (self.warn)(refused.to_string());
                Ok(kernel::mount_anyway(parts)?)
            }
            _ => Err(refused.into()),
        }
    }

    /// Makes the overlay the root, with the image and the host's root stacked on it.
    fn enter_overlay(&mut self, memory: &OwnedFd) -> Result<(), LaunchError> {
        let failed = |what| move |cause: nix::Error| LaunchError::Pivot { what, cause: cause.into() };
        let misplaced = || LaunchError::OutOfOrder("make layers the root");
        // The last step of a walk goes onto what is mounted there.
        let root = openat(memory, ROOT, DIRECTORY, Mode::empty()).map_err(|cause| LaunchError::Root { cause })?;
        nix::unistd::fchdir(&root).map_err(failed("enter"))?;
        nix::unistd::pivot_root(".", ".").map_err(failed("change to"))?;
        nix::unistd::fchdir(self.proc.as_ref().ok_or_else(misplaced)?).map_err(failed("prepare"))?;
        self.below = self.root.replace(root);
        Ok(())
    }

    /// Without an overlay: generated files are bound over those that the image has.
    fn bind_generated(&mut self, memory: &OwnedFd, content: &crate::fuse::Synthetic) -> Result<(), LaunchError> {
        for (index, (path, file)) in content.files.iter().enumerate() {
            if matches!(file, crate::fuse::SyntheticFile::Link(_)) && self.target(path).is_err() {
                let cause = std::io::Error::other("this kernel lets no user put a link over a directory");
                return Err(generated::failed(path, cause).into());
            }
            let Some(source) = generated::single_file(memory, index, file)? else { continue };
            let Ok(target) = self.target(path) else { continue };
            let failed = |cause: std::io::Error| LaunchError::Bind {
                source_path: "a generated file".into(),
                destination: path.clone(),
                cause,
            };
            let (from, to) = (magic_link(&source), magic_link(&target));
            mount(Some(from.as_str()), to.as_str(), None::<&str>, MsFlags::MS_BIND, None::<&str>)
                .map_err(|cause| failed(cause.into()))?;
            let mounted = self.target(path)?;
            attributes::restrict(&mounted, RESTRICT | MsFlags::MS_RDONLY, Path::new(".")).map_err(failed)?;
        }
        Ok(())
    }
}
