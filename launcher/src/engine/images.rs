//! What the root is made of besides the image file: image files that are layers or bound, and a directory as the image.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount};
use rustix::fs::{Mode, OFlags, open};

use super::{Engine, Error, magic_link, namespace, open_log, open_source, server};
use crate::fuse::{self, ServeOptions, Synthetic};
use crate::image::ImageFile;
use crate::sys::{attributes, resolve};

/// An image file with a server of its own.
pub(super) struct Served {
    fuse: Option<OwnedFd>,
    server: server::Handle,
    /// What it holds, once that is mounted.
    root: Option<OwnedFd>,
}

impl Engine<'_> {
    pub(super) fn start_images(&mut self, paths: &[PathBuf]) -> Result<(), Error> {
        let (uid, gid) = (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw());
        for path in paths {
            let image = ImageFile::open(path)?.handle().map_err(|cause| Error::StartServer { cause })?;
            let fuse = namespace::open_fuse()?;
            let switches = fuse::Switches::from_environment().map_err(fuse::Error::Switches)?;
            let equipment = server::Equipment {
                image,
                options: ServeOptions { switches, ..ServeOptions::new(uid, gid) },
                program: None,
                fuse: fuse.try_clone().map_err(|cause| Error::StartServer { cause })?,
                keeper: None,
                log: open_log()?,
                record: None,
            };
            let server = server::start(equipment)?;
            server.show(&Synthetic::default())?;
            self.images.insert(path.clone(), Served { fuse: Some(fuse), server, root: None });
        }
        Ok(())
    }

    /// What an image file holds: mounted over a directory of the host's tree, with which it will go.
    pub(super) fn image_root(&mut self, file: &Path, at: &Path) -> Result<OwnedFd, Error> {
        let misplaced = || Error::OutOfOrder("mount an image that is not served");
        let mut served = self.images.remove(file).ok_or_else(misplaced)?;
        if let Some(fuse) = served.fuse.take() {
            let ids = (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw());
            let root = self.on_host(|| {
                namespace::mount_fuse(fuse.as_fd(), at, ids)?;
                // A copy in this process would keep requests waiting forever if the server died.
                drop(fuse);
                served.server.mounted()?;
                let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
                open(at, flags, Mode::empty()).map_err(|cause| Error::Root { cause })
            })?;
            served.root = Some(root?);
        }
        let root = served.root.as_ref().ok_or_else(misplaced)?.try_clone();
        if let Ok(root) = &root {
            propagate(root, MsFlags::MS_PRIVATE).map_err(|cause| Error::MountImage { at: at.to_path_buf(), cause })?;
        }
        self.images.insert(file.to_path_buf(), served);
        root.map_err(Error::Descriptors)
    }

    pub(super) fn bind_image(
        &mut self,
        (file, inside): (&Path, &Path),
        destination: &Path,
        at: &Path,
        restrict: MsFlags,
    ) -> Result<(), Error> {
        let failed = |cause: io::Error| Error::Bind {
            source_path: file.join(inside.strip_prefix("/").unwrap_or(inside)),
            destination: destination.to_path_buf(),
            cause,
        };
        let root = self.image_root(file, at)?;
        let source = resolve::in_root(&root, inside).map_err(|cause| failed(cause.into()))?;
        let target = self.target(destination)?;
        let (from, to) = (magic_link(&source), magic_link(&target));
        mount(Some(from.as_str()), to.as_str(), None::<&str>, MsFlags::MS_BIND, None::<&str>)
            .map_err(|cause| failed(cause.into()))?;
        self.hide_image(file)?;
        let mounted = self.target(destination)?;
        attributes::restrict(&mounted, restrict, Path::new(".")).map_err(failed)
    }

    /// Has binds leave out the place where the image is mounted, until the next [`image_root`](Self::image_root).
    pub(super) fn hide_image(&self, file: &Path) -> Result<(), Error> {
        let Some(root) = self.images.get(file).and_then(|served| served.root.as_ref()) else { return Ok(()) };
        hide(root).map_err(|cause| Error::MountImage { at: file.to_path_buf(), cause })
    }

    /// The host's tree is still there, and nothing is covered yet.
    pub(super) fn bind_directory(source: &Path, at: &Path, writable: bool) -> Result<(), Error> {
        let failed =
            |cause: io::Error| Error::BindDirectory { source_path: source.to_path_buf(), at: at.to_path_buf(), cause };
        let from = open_source(source).map_err(|cause| failed(cause.into()))?;
        let from = format!("/proc/{}", magic_link(&from));
        let bind = |flags| mount(Some(from.as_str()), at, None::<&str>, MsFlags::MS_BIND | flags, None::<&str>);
        match bind(MsFlags::empty()) {
            // What the host has mounted in it may not be uncovered by an ordinary user; it comes along.
            Err(nix::Error::EINVAL) => bind(MsFlags::MS_REC),
            result => result,
        }
        .map_err(|cause| failed(cause.into()))?;
        let mounted = open_source(at).map_err(|cause| failed(cause.into()))?;
        let read_only = if writable { MsFlags::empty() } else { MsFlags::MS_RDONLY };
        let restrict = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | read_only;
        attributes::restrict(&mounted, restrict, Path::new("/proc")).map_err(failed)
    }
}

/// Has recursive binds of the host's tree leave out a mount that is there for a while.
pub(super) fn hide(mounted: &OwnedFd) -> io::Result<()> {
    propagate(mounted, MsFlags::MS_UNBINDABLE)
}

/// The host's `/proc` is the working directory.
fn propagate(mounted: &OwnedFd, how: MsFlags) -> io::Result<()> {
    Ok(mount(None::<&str>, magic_link(mounted).as_str(), None::<&str>, how, None::<&str>)?)
}
