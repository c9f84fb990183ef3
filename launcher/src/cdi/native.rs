//! Does what known hooks do, by what the launch itself can show: links and files from the server, mounts, variables.

use std::path::{Path, PathBuf};

use super::container::{Container, Shown};
use super::hooks::{Native, recognise, title};
use super::look::{Kind, Look};
use super::spec::Hook;
use super::{Error, Origin};
use crate::image::{Tree, locate};
use crate::spec::{FILE, LINK, MODE, OVER};

/// The NVIDIA driver's parameters.
const PARAMS: &str = "/proc/driver/nvidia/params";
/// Where NVIDIA's graphics libraries look for settings.
const PROFILE: &str = "/etc/nvidia/nvidia-application-profiles-rc.d/10-container.conf";
/// The loader's search path.
const LIBRARY_PATH: &str = "LD_LIBRARY_PATH";
/// Permission bits of the directories that the server shows.
const DIRECTORY_MODE: u32 = 0o755;

/// What the loader is to be told, once all hooks have been seen.
#[derive(Debug, Default)]
pub(super) struct Libraries {
    /// Directories with libraries of a newer driver, which come first.
    first: Vec<PathBuf>,
    /// Directories with the host's libraries.
    folders: Vec<PathBuf>,
    /// Whether libraries are to be found by their SONAMEs.
    links: bool,
}

/// Applies hooks.
pub(super) struct Applier<'a> {
    pub(super) container: &'a mut Container,
    pub(super) tree: &'a dyn Tree,
    pub(super) host: &'a dyn Look,
    pub(super) warnings: &'a mut Vec<String>,
    pub(super) libraries: Libraries,
}

impl Applier<'_> {
    /// Does what a hook does.
    pub(super) fn hook(&mut self, hook: &Hook, origin: &Origin<'_>) -> Result<(), Error> {
        let native = recognise(hook).map_err(|reason| Error::Hook {
            hook: title(hook),
            device: origin.device.to_owned(),
            path: origin.path.into(),
            reason,
        })?;
        match native {
            Native::Links(links) => links.iter().try_for_each(|(target, path)| self.link(target, path, origin))?,
            Native::Libraries(folders) => {
                self.libraries.links = true;
                for folder in folders {
                    if !self.libraries.folders.contains(&folder) {
                        self.libraries.folders.push(folder);
                    }
                }
            }
            Native::SonameLinks(_) => self.libraries.links = true,
            Native::Mode { mode, paths } => paths.iter().for_each(|path| self.mode(path, mode)),
            Native::CudaCompat { driver, cuda, directory } => {
                self.compat(driver.as_deref(), cuda.as_deref(), &directory)?;
            }
            Native::KeepDeviceNodes => self.keep_nodes(),
            Native::ApplicationProfile => self.profile(),
            Native::Nothing => {}
        }
        Ok(())
    }

    fn link(&mut self, target: &Path, path: &Path, origin: &Origin<'_>) -> Result<(), Error> {
        match self.container.shown(path) {
            Shown::Image | Shown::New => {
                self.container.annotations.insert(format!("{LINK}{}", path.display()), target.display().to_string());
                Ok(())
            }
            // The host has it at its own place, as for /dev/dri/by-path.
            Shown::Host(shown) if self.host.is_there(&shown) => Ok(()),
            Shown::Host(_) | Shown::Fixed => {
                Err(Error::NoPlace { at: path.into(), device: origin.device.to_owned(), path: origin.path.into() })
            }
        }
    }

    /// The hook passes over what is not there, and over what it has no right to change.
    fn mode(&mut self, path: &Path, mode: u32) {
        let keeps = match self.container.shown(path) {
            Shown::New if self.container.mounts_below(path) => {
                self.container.annotations.insert(format!("{MODE}{}", path.display()), format!("{mode:o}"));
                None
            }
            Shown::New | Shown::Fixed => None,
            Shown::Host(shown) => self
                .host
                .facts(&shown)
                .filter(|facts| facts.mode != mode)
                .map(|_| "the host's, which nobody may change here"),
            Shown::Image => {
                let there = self.tree.entry(path).ok().flatten().is_some();
                let made = !there && self.container.mounts_below(path);
                (there || (made && mode != DIRECTORY_MODE)).then_some("the image's, which is not written to")
            }
        };
        if let Some(whose) = keeps {
            self.warnings.push(format!("{} keeps its mode, in place of {mode:o}: it is {whose}", path.display()));
        }
    }

    /// The libraries are used if they are of a newer driver: an older one would not know the kernel's.
    fn compat(&mut self, driver: Option<&str>, cuda: Option<&str>, directory: &Path) -> Result<(), Error> {
        let Some(host) = driver.and_then(major) else {
            if cuda.is_some() && locate(self.tree, &directory.join("libcuda.so.1"))?.entry.is_some() {
                self.warnings.push(format!(
                    "{} of the image is left alone: the CDI file does not say which version the driver has",
                    directory.display()
                ));
            }
            return Ok(());
        };
        let found = locate(self.tree, &directory.join("libcuda.so.1"))?;
        let name = found.path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let version = name.strip_prefix("libcuda.so.").and_then(major);
        let parent = found.path.parent().filter(|_| found.entry.is_some());
        if let (Some(version), Some(parent)) = (version, parent)
            && version > host
            && !self.libraries.first.iter().any(|first| first == parent)
        {
            self.libraries.first.push(parent.to_path_buf());
        }
        Ok(())
    }

    /// The tools that make missing nodes are told not to by the driver's own parameters.
    fn keep_nodes(&mut self) {
        let Some(params) = self.host.text(Path::new(PARAMS)) else { return };
        let shown = matches!(self.container.shown(Path::new(PARAMS)), Shown::Host(_) | Shown::Fixed);
        if shown && params.lines().any(|line| line == "ModifyDeviceFiles: 1") {
            let changed = params.replace("ModifyDeviceFiles: 1", "ModifyDeviceFiles: 0");
            self.container.annotations.insert(format!("{OVER}{PARAMS}"), changed);
        }
    }

    fn profile(&mut self) {
        let devices = Path::new("/dev");
        let names = match self.container.shown(devices) {
            Shown::Host(shown) => self.host.names(&shown),
            _ => {
                let below = self.container.mounts.iter().map(|mount| mount.destination());
                let nodes = below.filter(|path| path.parent() == Some(devices));
                nodes.filter_map(|path| path.file_name()?.to_str().map(str::to_owned)).collect()
            }
        };
        let is_gpu = |name: &&String| {
            let number = name.strip_prefix("nvidia").unwrap_or_default();
            !number.is_empty() && number.bytes().all(|digit| digit.is_ascii_digit())
        };
        let minor = |name: &String| {
            let facts = self.host.facts(&devices.join(name)).filter(|facts| facts.kind == Kind::Char)?;
            u32::try_from(facts.device.1).ok().filter(|minor| *minor < 64)
        };
        let mask = names.iter().filter(is_gpu).filter_map(minor).fold(0_u64, |mask, minor| mask | 1 << minor);
        if mask == 0 {
            return;
        }
        let settings = format!(
            r#"{{"profiles":[{{"name":"_container_","settings":["EGLVisibleDGPUDevices",0x{mask:x}]}}],"rules":[{{"pattern":[],"profile":"_container_"}}]}}"#
        );
        match self.container.shown(Path::new(PROFILE)) {
            Shown::Image => drop(self.container.annotations.insert(format!("{FILE}{PROFILE}"), settings)),
            _ => self.warnings.push(format!("{PROFILE} is not made: the host's directory is bound there")),
        }
    }

    /// Tells the loader where the libraries are: the container's own directories first, whatever they are; then those of
    /// a newer driver, then the host's.
    pub(super) fn finish(self) {
        let Libraries { first, folders, links } = self.libraries;
        if links {
            let libraries: Vec<(PathBuf, PathBuf)> = self
                .container
                .mounts
                .iter()
                .filter(|mount| mount.typ().as_deref() == Some("bind"))
                .filter(|mount| mount.destination().to_str().is_some_and(|path| path.contains(".so")))
                .filter_map(|mount| Some((mount.source().clone()?, mount.destination().clone())))
                .collect();
            for (source, destination) in libraries {
                self.container.soname_link(&source, &destination, self.host);
            }
        }
        let mut paths: Vec<String> = self.container.variable(LIBRARY_PATH).map(str::to_owned).into_iter().collect();
        paths.retain(|path| !path.is_empty());
        paths.extend(first.iter().chain(&folders).map(|path| path.display().to_string()));
        if !first.is_empty() || !folders.is_empty() {
            self.container.set(LIBRARY_PATH, &paths.join(":"));
        }
    }
}

impl Container {
    /// The link by which a library is asked for, beside it, if it is called otherwise.
    fn soname_link(&mut self, source: &Path, destination: &Path, host: &dyn Look) {
        let (Some(soname), Some(directory)) = (host.soname(source), destination.parent()) else { return };
        let (link, Some(name)) = (directory.join(&soname), destination.file_name()) else { return };
        if link != destination && matches!(self.shown(&link), Shown::Image | Shown::New) {
            let key = format!("{LINK}{}", link.display());
            self.annotations.entry(key).or_insert_with(|| name.to_string_lossy().into_owned());
        }
    }
}

/// The first number of a version.
fn major(version: &str) -> Option<u32> {
    version.split('.').next()?.parse().ok()
}
