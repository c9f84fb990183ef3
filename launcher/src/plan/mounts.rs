//! The steps of a specification's mounts, and what must be there for them.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use nix::mount::MsFlags;
use oci_spec::runtime::Mount;

use super::{Error, Isolation, Step, layers, options};
use crate::fuse::SyntheticFile;
use crate::host::{Kind, Probe};
use crate::spec::{self, is_below};

/// What every container's `/dev` has, by the runtime specification, besides `ptmx` and the links.
pub(super) const DEVICES: [&str; 6] =
    ["/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty"];
/// Links that the runtime specification wants in a `/dev`.
const DEVICE_LINKS: [(&str, &str); 5] = [
    ("/dev/fd", "/proc/self/fd"),
    ("/dev/stdin", "/proc/self/fd/0"),
    ("/dev/stdout", "/proc/self/fd/1"),
    ("/dev/stderr", "/proc/self/fd/2"),
    ("/dev/ptmx", "pts/ptmx"),
];

/// Where the host has what the kernel says about devices.
pub(crate) const SYSFS: &str = "/sys";

/// Collects the steps of the specification's mounts, and what must be there for them.
#[derive(Default)]
pub(super) struct Mounts {
    pub(super) optional: HashSet<PathBuf>,
    /// Where in the host's tree helpers can be mounted.
    pub(super) hidden: PathBuf,
    pub(super) images: Vec<PathBuf>,
    pub(super) steps: Vec<Step>,
    pub(super) sources: Vec<PathBuf>,
    pub(super) directories: Vec<PathBuf>,
    pub(super) files: Vec<(PathBuf, SyntheticFile)>,
    /// Destinations so far, and whether a new writable file system is there.
    pub(super) covered: Vec<(PathBuf, bool)>,
}

impl Mounts {
    pub(super) fn add(&mut self, mount: &Mount, probe: &dyn Probe) -> Result<(), Error> {
        let destination = mount.destination().clone();
        if !destination.is_absolute() || destination.components().count() < 2 {
            return Err(Error::Destination { destination });
        }
        if mount.typ().as_deref() == Some(spec::SQUASHFS) {
            return self.image(layers::bind_image(mount, &self.hidden, &self.optional)?, probe);
        }
        let words = mount.options().as_deref().unwrap_or_default();
        let parsed = options::parse(words);
        if mount.typ().as_deref() == Some("bind") || parsed.bind {
            let source = mount.source().clone().filter(|source| source.is_absolute());
            let source = source.ok_or_else(|| Error::Source { destination: destination.clone() })?;
            if let Some(option) = parsed.other.into_iter().next() {
                return Err(Error::Option { destination, option });
            }
            self.bind(source, destination, parsed.recursive, parsed.flags, probe);
        } else {
            let kind = mount.typ().clone().ok_or(Error::Missing("type of a mount"))?;
            self.target(&destination, Kind::Directory);
            if kind == "sysfs" {
                self.sysfs(destination, parsed.flags);
                return Ok(());
            }
            let writable = kind == "tmpfs" && !parsed.flags.contains(MsFlags::MS_RDONLY);
            self.covered.push((destination.clone(), writable));
            let step = Step::Mount {
                kind,
                destination: destination.clone(),
                flags: parsed.flags,
                data: parsed.other.join(","),
            };
            self.steps.push(step);
            if writable && destination == Path::new("/dev") {
                self.devices(probe);
            }
        }
        Ok(())
    }

    pub(super) fn bind(
        &mut self,
        source: PathBuf,
        destination: PathBuf,
        recursive: bool,
        restrict: MsFlags,
        probe: &dyn Probe,
    ) {
        self.target(&destination, probe.kind(&source).unwrap_or(Kind::File));
        if !self.sources.contains(&source) {
            self.sources.push(source.clone());
        }
        self.covered.push((destination.clone(), false));
        let optional = self.optional.contains(&destination);
        self.steps.push(Step::Bind { source, destination, recursive, restrict, optional });
    }

    pub(super) fn image(&mut self, step: Step, probe: &dyn Probe) -> Result<(), Error> {
        if let Step::BindImage { file, inside, destination, .. } = &step {
            // What is wrong with it is said by whoever opens it.
            let kind = probe.kind_in_image(file, inside).ok().flatten().unwrap_or(Kind::Directory);
            self.target(destination, kind);
            self.images.push(file.clone());
            self.covered.push((destination.clone(), false));
            self.steps.push(step);
        }
        Ok(())
    }

    /// The host's is what there is where the kernel lets no new one be mounted.
    pub(super) fn sysfs(&mut self, destination: PathBuf, flags: MsFlags) {
        self.sources.push(SYSFS.into());
        self.covered.push((destination.clone(), false));
        self.steps.push(Step::Isolate(Isolation::Sysfs { destination, flags }));
    }

    /// Files that this launch alone sees, on top of all that is mounted.
    pub(super) fn add_files(&mut self, annotations: Option<&HashMap<String, String>>) {
        let path = |name: &str| name.strip_prefix(spec::MOUNTED_FILE).map(PathBuf::from);
        let mut files: Vec<(PathBuf, Vec<u8>)> = annotations
            .into_iter()
            .flatten()
            .filter_map(|(name, content)| Some((path(name)?, content.clone().into_bytes())))
            .collect();
        files.sort();
        for (destination, content) in files {
            self.target(&destination, Kind::File);
            self.covered.push((destination.clone(), false));
            self.steps.push(Step::Isolate(Isolation::File { destination, content }));
        }
    }

    /// Sees to it that something is there to mount on: in the image by the server, on a new file system by a step. In
    /// a directory of the host nothing is made.
    pub(super) fn target(&mut self, destination: &Path, kind: Kind) {
        let holder = self.covered.iter().rev().find(|(covered, _)| is_below(destination, covered));
        match (holder, kind) {
            (None, Kind::Directory) => self.directories.push(destination.to_path_buf()),
            (None, Kind::File) => self.files.push((destination.to_path_buf(), SyntheticFile::Empty)),
            (Some((covered, true)), _) if covered == destination => {}
            (Some((_, true)), Kind::Directory) => self.steps.push(Step::MakeDirectory(destination.to_path_buf())),
            (Some((_, true)), Kind::File) => self.steps.push(Step::MakeFile(destination.to_path_buf())),
            (Some((_, false)), _) => {}
        }
    }

    pub(super) fn devices(&mut self, probe: &dyn Probe) {
        for device in DEVICES {
            if probe.kind(Path::new(device)).is_some() {
                self.bind(device.into(), device.into(), false, MsFlags::empty(), probe);
            }
        }
        for (path, target) in DEVICE_LINKS {
            self.steps.push(Step::MakeLink { path: path.into(), target: target.into() });
        }
    }
}
