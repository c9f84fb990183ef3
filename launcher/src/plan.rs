//! Turns a specification into the list of steps that carry it out, in their order.
//!
//! Pure, so that the order and the content of security steps are tested without privileges, and can be printed before
//! anything happens. [`crate::engine`] executes the list and decides nothing.

use std::collections::HashSet;
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::mount::MsFlags;
use oci_spec::runtime::{LinuxNamespaceType, Spec};

use crate::capabilities::Capabilities;
use crate::fuse::{Synthetic, SyntheticFile};
use crate::host::Probe;
use crate::ids::Ids;
use crate::seccomp::{self, Filter};
use crate::spec;

mod descriptors;
mod display;
mod identity;
mod isolation;
mod layers;
mod mounts;
mod options;
mod shown;
#[cfg(test)]
mod tests;

pub use isolation::Isolation;
pub use layers::{Layers, Upper};
use mounts::Mounts;
pub(crate) use mounts::SYSFS;

/// Permission bits of generated files.
const FILE_MODE: u16 = 0o644;

/// Why a specification cannot be carried out.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    /// A part without which nothing can run.
    #[error("cannot carry out the specification: it has no {0}")]
    Missing(&'static str),
    /// Something the engine does not do. It is refused, because leaving it out would be less than was asked for.
    #[error("cannot carry out the specification: {0} is not supported")]
    Unsupported(String),
    /// A mount whose destination is not absolute.
    #[error("cannot mount on {}: the destination is not an absolute path below /", destination.display())]
    Destination {
        /// As written.
        destination: PathBuf,
    },
    /// A bind without source, or whose source is relative.
    #[error("cannot bind on {}: its source is not an absolute path", destination.display())]
    Source {
        /// Where it was to go.
        destination: PathBuf,
    },
    /// A filter of system calls.
    #[error(transparent)]
    Seccomp(#[from] seccomp::Error),
    /// An annotation of ours that says nothing.
    #[error("cannot carry out the specification: annotation {name}: {reason}")]
    Annotation {
        /// Its name.
        name: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// A word that is no option of a bind.
    #[error("cannot bind on {}: unknown option {option:?}", destination.display())]
    Option {
        /// Where it was to go.
        destination: PathBuf,
        /// As written.
        option: String,
    },
}

/// One step. The fields are all that it depends on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Enter a new user namespace that knows these ids alone.
    UnshareUser(Ids),
    /// Open `/dev/fuse` in the new user namespace.
    OpenFuse,
    /// Start the process that answers for the image. It gets ready while the rest is being decided.
    StartServer,
    /// Have the server, this launch's own or a session's, show what this launch needs besides the image.
    AskServer {
        /// Directories to show that the image lacks.
        directories: Vec<PathBuf>,
        /// Files to show that the image lacks or that replace its own.
        files: Vec<(PathBuf, SyntheticFile)>,
    },
    /// Start a process for each of these image files, besides the image's own, to answer for it.
    StartImages(Vec<PathBuf>),
    /// Enter a new mount namespace, into which the host's later mounts are passed on and out of which nothing is.
    UnshareMount,
    /// Mount the image over a directory of the host.
    MountImage {
        /// The directory.
        at: PathBuf,
    },
    /// Show a directory of the host, which is the image, over another.
    BindDirectory {
        /// The image.
        source: PathBuf,
        /// The other.
        at: PathBuf,
        /// Writes go into it.
        writable: bool,
    },
    /// Leave the namespaces to the server, for launches to come.
    KeepNamespaces,
    /// Enter the user namespace of a running session, ahead of the rest.
    JoinUser,
    /// Enter the namespaces of a running session: the host's tree, with the image mounted over a directory.
    JoinSession,
    /// Enter the namespaces of a running session, in which all mounts are as this launch wants them.
    JoinContainer,
    /// Go on in a copy of the mount namespace.
    CopyMount,
    /// Make the image the root, with the host's root stacked on it, out of the way of paths.
    PivotRoot {
        /// Where the image is mounted.
        from: PathBuf,
    },
    /// Hold on to the sources of all binds, in the host's tree.
    OpenSources(Vec<PathBuf>),
    /// Put layers over the image, and make that the root.
    StackLayers {
        /// Which.
        layers: Layers,
        /// A directory of the host's tree over which helpers can be mounted; it goes with that tree.
        at: PathBuf,
    },
    /// Make a directory, with its parents, on a file system that an earlier step mounted.
    MakeDirectory(PathBuf),
    /// Make an empty file on a file system that an earlier step mounted.
    MakeFile(PathBuf),
    /// Write a new file into a directory that is the image, unless something is there.
    WriteFile {
        /// Where.
        path: PathBuf,
        /// What.
        content: Vec<u8>,
    },
    /// Make a symbolic link on a file system that an earlier step mounted.
    MakeLink {
        /// Where.
        path: PathBuf,
        /// To where.
        target: PathBuf,
    },
    /// Set the permission bits of what is on a file system that an earlier step mounted.
    SetMode {
        /// In the new root.
        path: PathBuf,
        /// The bits.
        mode: u32,
    },
    /// Show a file or directory that the server shows in another place as well.
    BindShown {
        /// In the new root.
        source: PathBuf,
        /// In the new root.
        destination: PathBuf,
    },
    /// Show a directory or file of the host.
    Bind {
        /// On the host; one of those of [`Step::OpenSources`].
        source: PathBuf,
        /// In the new root.
        destination: PathBuf,
        /// With what is mounted below it.
        recursive: bool,
        /// Restrictions, put on everything that is bound.
        restrict: MsFlags,
        /// A refusal is a warning.
        optional: bool,
    },
    /// Show what an image file holds.
    BindImage {
        /// One of those of [`Step::StartImages`].
        file: PathBuf,
        /// In it.
        inside: PathBuf,
        /// In the new root.
        destination: PathBuf,
        /// As for [`Step::StackLayers`].
        at: PathBuf,
        /// Restrictions.
        restrict: MsFlags,
        /// A refusal is a warning.
        optional: bool,
    },
    /// Mount a new file system.
    Mount {
        /// Its type.
        kind: String,
        /// In the new root.
        destination: PathBuf,
        /// Flags.
        flags: MsFlags,
        /// What the file system itself understands.
        data: String,
    },
    /// Set the container further apart from the host.
    Isolate(Isolation),
    /// Let go of the host's root.
    DetachHost,
    /// Leave the mounts as they are now to the server, for launches that want the same.
    KeepContainer,
    /// Go to the working directory.
    ChangeDirectory {
        /// Absolute.
        path: PathBuf,
        /// Where to go instead, with a warning.
        fallback: Option<PathBuf>,
    },
    /// Give up gaining privileges by `execve`.
    NoNewPrivileges,
    /// Keep these capabilities alone.
    Capabilities(Capabilities),
    /// Close all descriptors except the standard ones, and those of these that were inherited and are sockets or pipes.
    CloseDescriptors(Vec<i32>),
    /// Install a filter of system calls.
    Filter(Filter),
    /// Become the program.
    Execute {
        /// Its name and arguments.
        args: Vec<OsString>,
        /// `NAME=VALUE`.
        env: Vec<OsString>,
    },
}

/// How a launch comes by the image's mount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// By a mount of its own, which nobody else uses.
    Alone,
    /// By making the session.
    Found,
    /// By joining the session.
    Join,
    /// By joining a launch that wanted the same mounts.
    JoinContainer,
}

/// The steps of a launch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// In the order in which they are taken.
    pub steps: Vec<Step>,
}

/// What a launch wants, before it is known how it will come by the image's mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    ids: Ids,
    /// Whether the program can change its mounts.
    powerful: bool,
    mount_point: PathBuf,
    /// What the server has to show besides the image.
    pub synthetic: Synthetic,
    /// What is bound.
    pub sources: Vec<PathBuf>,
    /// What the root is made of, and image files besides the image's own.
    root: layers::Root,
    /// The steps that come before all mounts but the image's.
    isolation: Vec<Step>,
    /// The steps that make the mounts, once the image is the root.
    mounts: Vec<Step>,
    /// What follows.
    last: Vec<Step>,
}

impl Wanted {
    /// Reads `spec` for a host on which `probe` looks, with the image mounted over `mount_point`.
    ///
    /// # Errors
    /// When the specification lacks something, or asks for what the engine does not do.
    pub fn new(spec: &Spec, mount_point: &Path, probe: &dyn Probe) -> Result<Self, Error> {
        let process = spec.process().as_ref().ok_or(Error::Missing("process"))?;
        refuse_unsupported(spec)?;
        let mut root = layers::Root::new(spec, probe)?;
        let mut mounts = Mounts { optional: optional(spec), hidden: mount_point.to_path_buf(), ..Mounts::default() };
        for mount in spec.mounts().iter().flatten() {
            mounts.add(mount, probe)?;
        }
        let annotations = spec.annotations().as_ref();
        for (name, content) in annotations.into_iter().flatten() {
            if let Some(path) = name.strip_prefix(spec::FILE) {
                let content = SyntheticFile::Content(content.clone().into_bytes(), FILE_MODE);
                mounts.files.push((PathBuf::from(path), content));
            }
        }
        mounts.add_files(annotations);
        if let Some(annotations) = annotations {
            mounts.show(annotations)?;
        }
        mounts.files.sort_by(|one, other| one.0.cmp(&other.0));
        let args = process.args().as_deref().unwrap_or_default();
        if args.is_empty() {
            return Err(Error::Missing("program to execute"));
        }
        let env = process.env().as_deref().unwrap_or_default();
        let fallback = annotations.and_then(|all| all.get(spec::CWD_FALLBACK)).map(PathBuf::from);
        let capabilities = identity::capabilities(spec);
        let mut program: Vec<Step> = identity::filters(spec)?.into_iter().map(Step::Filter).collect();
        program.push(Step::Execute {
            args: spec::words(args, spec::RAW_ARGUMENT, annotations),
            env: spec::words(env, spec::RAW_ENV, annotations),
        });
        let mut last = vec![
            Step::ChangeDirectory { path: process.cwd().clone(), fallback },
            Step::NoNewPrivileges,
            Step::Capabilities(capabilities),
            Step::CloseDescriptors(descriptors::kept(annotations)?),
        ];
        last.extend(isolation::last(spec, program));
        let mut synthetic = Synthetic { directories: mounts.directories, files: mounts.files };
        let mut steps = root.settle(&mut synthetic);
        steps.append(&mut mounts.steps);
        root.images.append(&mut mounts.images);
        root.images.sort();
        root.images.dedup();
        Ok(Self {
            ids: identity::ids(spec)?,
            powerful: !capabilities.is_empty(),
            mount_point: mount_point.to_path_buf(),
            synthetic,
            sources: mounts.sources,
            root,
            isolation: isolation::first(spec),
            mounts: steps,
            last,
        })
    }

    /// Whether other launches may use the same mounts: all are of the host or of images, none is this launch's own, and its
    /// program cannot change them.
    #[must_use]
    pub fn is_common(&self) -> bool {
        let shared = |step: &Step| {
            matches!(
                step,
                Step::Bind { .. }
                    | Step::BindImage { .. }
                    | Step::BindShown { .. }
                    | Step::Isolate(Isolation::File { .. })
            )
        };
        !self.powerful && !self.root.is_own() && self.mounts.iter().all(shared)
    }

    /// Image files besides the image's own.
    #[must_use]
    pub fn images(&self) -> &[PathBuf] {
        &self.root.images
    }

    /// Gives `take` all that the mounts depend on, besides what is at their sources, part by part.
    pub fn describe_mounts(&self, take: &mut dyn FnMut(&[u8])) {
        for directory in &self.synthetic.directories {
            take(directory.as_os_str().as_bytes());
        }
        for (path, file) in &self.synthetic.files {
            take(path.as_os_str().as_bytes());
            match file {
                SyntheticFile::Empty => take(b"empty"),
                SyntheticFile::Content(content, mode) => {
                    take(content);
                    take(&mode.to_le_bytes());
                }
                SyntheticFile::Link(target) => {
                    take(b"link");
                    take(target.as_os_str().as_bytes());
                }
            }
        }
        for step in &self.mounts {
            take(format!("{step:?}").as_bytes());
        }
    }

    /// The steps for a program that runs in an instance, whose process 1 is `pid`: what that has mounted is there.
    #[must_use]
    pub fn plan_in_instance(&self, pid: i32) -> Plan {
        let enter = [Isolation::Join { pid }, Isolation::Fork { new: false }].map(Step::Isolate);
        let last = self.last.iter().filter(|step| !matches!(step, Step::Isolate(_))).cloned();
        Plan { steps: enter.into_iter().chain(last).collect() }
    }

    /// The steps for a launch that comes by the image's mount in this way. For a directory there is one way.
    #[must_use]
    pub fn plan(&self, way: Way) -> Plan {
        let way = if self.root.directory.is_some() { Way::Alone } else { way };
        let at = self.mount_point.clone();
        let mut steps = self.beginning(way);
        if way == Way::Found {
            steps.push(Step::KeepNamespaces);
        }
        if matches!(way, Way::Found | Way::Join) {
            steps.push(Step::CopyMount);
        }
        steps.extend(self.isolation.iter().cloned());
        if way != Way::JoinContainer {
            let sources = self.sources.iter().chain(&self.root.sources).cloned().collect();
            steps.extend([Step::PivotRoot { from: at.clone() }, Step::OpenSources(sources)]);
            steps.extend(self.root.layers.clone().map(|layers| Step::StackLayers { layers, at }));
            steps.extend(self.mounts.iter().cloned());
            steps.push(Step::DetachHost);
        }
        if matches!(way, Way::Found | Way::Join) && self.is_common() {
            steps.push(Step::KeepContainer);
        }
        steps.extend(self.last.iter().cloned());
        Plan { steps }
    }

    /// Until the image is mounted.
    fn beginning(&self, way: Way) -> Vec<Step> {
        let at = self.mount_point.clone();
        // In the user namespace, for the sake of their /dev/fuse, and before the mount namespace, as for the image's server.
        let images = (!self.root.images.is_empty()).then(|| Step::StartImages(self.root.images.clone()));
        if let Some(layers::Directory { path, writable }) = self.root.directory.clone() {
            let rest = [Step::UnshareMount, Step::BindDirectory { source: path, at, writable }];
            return [Step::UnshareUser(self.ids.clone())].into_iter().chain(images).chain(rest).collect();
        }
        let Synthetic { directories, files } = self.synthetic.clone();
        let ask = Step::AskServer { directories, files };
        match way {
            Way::Alone | Way::Found => {
                let mount = [Step::UnshareMount, Step::MountImage { at }];
                opening(self.ids.clone()).into_iter().chain([ask]).chain(images).chain(mount).collect()
            }
            Way::Join => {
                let ahead = images.into_iter().flat_map(|images| [Step::JoinUser, images]);
                [ask].into_iter().chain(ahead).chain([Step::JoinSession]).collect()
            }
            Way::JoinContainer => vec![Step::JoinContainer],
        }
    }
}

/// The first steps of every launch that mounts the image: they depend on nothing else, so they are taken before the rest
/// is decided, and the server gets ready meanwhile.
#[must_use]
pub fn opening(ids: Ids) -> [Step; 3] {
    [Step::UnshareUser(ids), Step::OpenFuse, Step::StartServer]
}

/// A confinement that is asked for is applied or refused, never passed over.
fn refuse_unsupported(spec: &Spec) -> Result<(), Error> {
    let unsupported = |what: &str| Err(Error::Unsupported(what.to_owned()));
    if let Some(linux) = spec.linux() {
        for namespace in linux.namespaces().iter().flatten() {
            use LinuxNamespaceType::{Ipc, Mount, Network, Pid, User, Uts};
            let known = matches!(namespace.typ(), User | Mount | Pid | Ipc | Uts | Network);
            if !known || namespace.path().is_some() {
                return unsupported(&format!("the {} namespace", namespace.typ()));
            }
        }
        let asked = [
            (linux.rootfs_propagation().as_ref().is_some_and(|kind| kind.contains("shared")), "shared propagation"),
            (linux.resources().is_some(), "resource limits by cgroup"),
            (linux.masked_paths().is_some(), "masked paths"),
            (linux.readonly_paths().is_some(), "read-only paths"),
            (linux.devices().as_ref().is_some_and(|devices| !devices.is_empty()), "a device node"),
        ];
        if let Some((_, what)) = asked.iter().find(|(asked, _)| *asked) {
            return unsupported(what);
        }
    }
    if let Some(process) = spec.process() {
        if process.selinux_label().is_some() || process.apparmor_profile().is_some() {
            return unsupported("a security label");
        }
        if process.rlimits().as_ref().is_some_and(|limits| !limits.is_empty()) {
            return unsupported("a resource limit");
        }
    }
    if spec.hooks().is_some() {
        return unsupported("a hook");
    }
    isolation::check(spec)
}

fn optional(spec: &Spec) -> HashSet<PathBuf> {
    let lines = spec.annotations().as_ref().and_then(|all| all.get(spec::OPTIONAL));
    lines.into_iter().flat_map(|lines| lines.lines()).map(PathBuf::from).collect()
}
