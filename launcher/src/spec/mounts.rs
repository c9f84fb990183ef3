//! The mounts of a container: the defaults, what options take from them, and the caller's binds.

use std::collections::HashSet;
use std::path::{Component, Path, PathBuf};

use oci_spec::runtime::{Mount, MountBuilder, Spec};

use super::identity::ROOT_HOME;
use super::{Error, isolation};
use crate::host::{Host, Kind, Probe};
use crate::image::{Entry, Tree};
use crate::options::{Bind, BindSource, DefaultMount, Home, Options};

/// Single directories that hold the host's system or everyone's homes: showing the host's would hide the image's.
const NEVER: [&str; 10] = ["/", "/home", "/media", "/mnt", "/opt", "/root", "/run", "/srv", "/tmp", "/var"];
/// Trees that belong to the system: the container has its own.
const NEVER_BELOW: [&str; 11] =
    ["/bin", "/boot", "/dev", "/etc", "/lib", "/lib32", "/lib64", "/proc", "/sbin", "/sys", "/usr"];
/// Files of the host's network that programs need to reach it.
const FILES: [&str; 3] = ["/etc/resolv.conf", "/etc/hosts", "/etc/localtime"];

/// Where message queues are, where they are.
const QUEUES: &str = "/dev/mqueue";

/// Type of a mount that shows what a squashfs or SIF file holds.
pub(crate) const SQUASHFS: &str = "squashfs";
/// Begins the option that says what of it.
pub(crate) const INSIDE: &str = "image-src=";

/// What stands at a destination.
#[derive(Clone, Debug)]
enum What {
    Bind {
        source: PathBuf,
        options: Vec<String>,
    },
    New {
        kind: &'static str,
        options: Vec<String>,
    },
    /// What the squashfs in `file` has at `inside`.
    Image {
        file: PathBuf,
        inside: PathBuf,
        options: Vec<String>,
    },
}

#[derive(Clone, Debug)]
struct Item {
    destination: PathBuf,
    what: What,
    optional: bool,
    forced: bool,
}

/// Mounts being collected.
#[derive(Default)]
pub(super) struct Mounts {
    items: Vec<Item>,
    /// Home directory in the container, when there is one.
    pub(super) home: Option<PathBuf>,
    /// What the caller should be told.
    pub(super) warnings: Vec<String>,
    /// Whether what is added was asked for, and is no default.
    asked: bool,
    /// What was asked for and would hide what the site forces.
    refused: Option<Error>,
}

/// Whether `path` is `base` or below it. Compares components, never strings: `/scratch2` is not below `/scratch`.
pub(crate) fn is_below(path: &Path, base: &Path) -> bool {
    path.starts_with(base)
}

/// Whether the container of a specification has at `path` what the host has there.
#[must_use]
pub fn shows(spec: &Spec, path: &Path) -> bool {
    let mounts = spec.mounts().iter().flatten().map(|mount| {
        let source = mount.source().as_deref().filter(|_| mount.typ().as_deref() == Some("bind"));
        (mount.destination().as_path(), source)
    });
    top_is_of_host(mounts, path)
}

/// Whether the nearest of `mounts`, each with what it binds, shows at `path` what the host has there.
fn top_is_of_host<'a>(mounts: impl Iterator<Item = (&'a Path, Option<&'a Path>)>, path: &Path) -> bool {
    let nearest = mounts.filter(|(destination, _)| is_below(path, destination));
    // The last of equals is the one on top.
    let top = nearest.max_by_key(|(destination, _)| destination.components().count());
    top.is_some_and(|(destination, source)| source == Some(destination))
}

impl Mounts {
    /// Whether the container shows at `path` what the host has there.
    pub(super) fn shows(&self, path: &Path) -> bool {
        let mounts = self.items.iter().map(|item| match &item.what {
            What::Bind { source, .. } => (item.destination.as_path(), Some(source.as_path())),
            _ => (item.destination.as_path(), None),
        });
        top_is_of_host(mounts, path)
    }

    /// Whether something is mounted over `path` or a directory that it is in.
    pub(super) fn cover(&self, path: &Path) -> bool {
        self.items.iter().any(|item| is_below(path, &item.destination))
    }

    pub(super) fn has(&self, destination: &Path) -> bool {
        self.items.iter().any(|item| item.destination == destination)
    }

    fn add(&mut self, destination: &Path, what: What, optional: bool) {
        if let Some(forced) = self.forced_at(destination) {
            return self.leave_out(destination, forced);
        }
        self.items.push(Item { destination: destination.to_path_buf(), what, optional, forced: false });
    }

    /// A forced mount that something at `destination` would hide.
    fn forced_at(&self, destination: &Path) -> Option<PathBuf> {
        let mut forced = self.items.iter().filter(|item| item.forced).map(|item| &item.destination).peekable();
        forced.peek()?;
        let destination = plain(destination);
        forced.find(|forced| is_below(&destination, &plain(forced))).cloned()
    }

    fn leave_out(&mut self, destination: &Path, forced: PathBuf) {
        let destination = destination.to_path_buf();
        let error = Error::Forced { destination, forced };
        if self.asked {
            self.refused.get_or_insert(error);
        } else {
            self.warnings.push(error.to_string());
        }
    }

    /// Nothing but a directory may stand above a forced mount.
    fn check_above(&mut self, destination: &Path, directory: bool) {
        let above = |item: &&Item| item.forced && is_below(&plain(&item.destination), &plain(destination));
        if let Some(forced) = self.items.iter().find(above).filter(|_| !directory) {
            let forced = forced.destination.clone();
            self.leave_out(destination, forced);
        }
    }

    fn bind(&mut self, source: &Path, destination: &Path, options: &[String], optional: bool) {
        let what = What::Bind { source: source.to_path_buf(), options: options.to_vec() };
        self.add(destination, what, optional);
    }

    fn new_fs(&mut self, kind: &'static str, destination: &Path, options: &[&str]) {
        let options = options.iter().map(|&option| option.to_owned()).collect();
        self.add(destination, What::New { kind, options }, false);
    }

    /// An empty directory: on the host, in the directory that the caller chose, or else in memory.
    fn empty(&mut self, destination: &Path, host_side: Option<PathBuf>, options: &[&str]) {
        match host_side {
            Some(source) => self.bind(&source, destination, &["nosuid", "nodev"].map(str::to_owned), false),
            None => self.new_fs("tmpfs", destination, options),
        }
    }

    /// Binds the working directory unless that would hide the image's own system.
    pub(super) fn add_cwd(&mut self, cwd: &Path) -> bool {
        let system = NEVER.iter().any(|dir| cwd == Path::new(dir))
            || NEVER_BELOW.iter().any(|dir| is_below(cwd, Path::new(dir)))
            || self.has(cwd);
        let before = self.items.len();
        if !system {
            self.bind(cwd, cwd, &[], true);
        }
        self.items.len() > before
    }

    /// The specification's mounts, and the destinations of those that may fail. Parents come before what is below
    /// them, else they would hide it; equals stay in order.
    pub(super) fn finish(self) -> Result<(Vec<Mount>, Vec<String>), Error> {
        if let Some(refused) = self.refused {
            return Err(refused);
        }
        let mut items = self.items;
        // Forced ones come last: whatever way leads to their place or below, they are on top.
        items.sort_by_key(|item| (item.forced, item.destination.components().count()));
        // Places are what the annotation names: where something must be, nothing may go missing. One of the two hides the other.
        let required: HashSet<PathBuf> =
            items.iter().filter(|item| !item.optional).map(|item| item.destination.clone()).collect();
        items.retain(|item| !(item.optional && required.contains(&item.destination)));
        let optional =
            items.iter().filter(|item| item.optional).map(|item| item.destination.display().to_string()).collect();
        let mount = |item: Item| {
            let builder = MountBuilder::default().destination(item.destination);
            let builder = match item.what {
                What::Bind { source, options } => builder.typ("bind").source(source).options(bind_options(options)),
                What::Image { file, inside, options } => {
                    let inside = format!("{INSIDE}{}", inside.display());
                    builder.typ(SQUASHFS).source(file).options(options.into_iter().chain([inside]).collect::<Vec<_>>())
                }
                What::New { kind, options } => builder.typ(kind).source(kind).options(options),
            };
            builder.build().map_err(Error::from)
        };
        Ok((items.into_iter().map(mount).collect::<Result<_, _>>()?, optional))
    }
}

/// With what is mounted below it, receiving what the host mounts there later, and writable, unless told otherwise.
fn bind_options(given: Vec<String>) -> Vec<String> {
    let defaults = [
        ("rbind", ["bind", "rbind"].as_slice()),
        ("rslave", &["private", "rprivate", "slave", "rslave"]),
        ("rw", &["ro", "rw"]),
    ];
    let missing = |others: &[&str]| !given.iter().any(|option| others.contains(&option.as_str()));
    let mut options: Vec<String> =
        defaults.iter().filter(|(_, others)| missing(others)).map(|(default, _)| (*default).to_owned()).collect();
    options.extend(given);
    options
}

/// The mounts that `options` ask for on this host, except the working directory's.
pub(super) fn collect(tree: &dyn Tree, options: &Options, host: &Host, probe: &dyn Probe) -> Result<Mounts, Error> {
    // The caller's come first here so that defaults give way to them.
    let mut mounts = Mounts { asked: true, ..Mounts::default() };
    for forced in [true, false] {
        for bind in options.binds.iter().filter(|bind| bind.forced == forced) {
            add_bind(&mut mounts, bind, host, probe)?;
        }
    }
    mounts.asked = false;
    let without = |name: DefaultMount| options.no_mount.contains(&name);
    let wanted = |mounts: &Mounts, group: &DefaultMount, path: &Path| {
        !without(group.clone()) && !without(DefaultMount::Path(path.to_path_buf())) && !mounts.has(path)
    };
    let host_dirs = [("/proc", DefaultMount::Proc), ("/sys", DefaultMount::Sys), ("/dev", DefaultMount::Dev)];
    for (path, group) in host_dirs {
        let path = Path::new(path);
        if group == DefaultMount::Dev && options.contain {
            if wanted(&mounts, &group, path) {
                minimal_dev(&mut mounts, !without(DefaultMount::Devpts));
                add_queues(&mut mounts, options, probe, &isolation::message_queues());
            }
        } else if let Some((kind, words)) = isolation::file_systems(options, path) {
            if wanted(&mounts, &group, path) {
                mounts.new_fs(kind, path, words);
                add_cgroups(&mut mounts, path, probe);
            }
        } else if wanted(&mounts, &group, path) && probe.kind(path).is_some() {
            mounts.bind(path, path, &[], false);
            if group == DefaultMount::Dev {
                add_queues(&mut mounts, options, probe, Path::new(QUEUES));
            }
        }
    }
    let work = options.work_dir.as_deref().map(|dir| absolute(dir, host)).transpose()?;
    if let Some(path) = work.as_ref().filter(|work| probe.kind(work) != Some(Kind::Directory)) {
        return Err(Error::NoWorkDir { path: path.clone() });
    }
    let beside = |name: &str| work.as_ref().map(|work| work.join(name));
    for (path, name) in [("/tmp", "tmp"), ("/var/tmp", "var_tmp")] {
        let path = Path::new(path);
        if !wanted(&mounts, &DefaultMount::Tmp, path) {
            continue;
        }
        if options.contain {
            mounts.empty(path, beside(name), &["nosuid", "nodev", "mode=1777"]);
        } else if probe.kind(path) == Some(Kind::Directory) {
            mounts.bind(path, path, &[], true);
        }
    }
    // A private home is needed only once.
    if !(options.fakeroot && options.contain && options.home == Home::Own) {
        add_home(&mut mounts, options, host, probe, beside("home"))?;
    }
    if options.fakeroot {
        add_root_home(&mut mounts, options, host, beside("home"));
    }
    mounts.asked = true;
    for path in &options.scratch {
        let name = path.strip_prefix("/").unwrap_or(path);
        mounts.empty(path, work.as_ref().map(|work| work.join("scratch").join(name)), &["nosuid", "nodev", "mode=755"]);
    }
    mounts.asked = false;
    for name in FILES {
        let path = Path::new(name);
        // Following the image's link would put the host's time zone over the image's file for UTC.
        if isolation::generates(options, path) {
            continue;
        }
        let linked = name == "/etc/localtime" && matches!(tree.entry(path)?, Some(Entry::Link(_)));
        if wanted(&mounts, &DefaultMount::BindPaths, path) && !linked && probe.kind(path) == Some(Kind::File) {
            mounts.bind(path, path, &[], true);
        }
    }
    Ok(mounts)
}

fn add_bind(mounts: &mut Mounts, bind: &Bind, host: &Host, probe: &dyn Probe) -> Result<(), Error> {
    if bind.forced {
        // The site's own do not stand in each other's way.
        let mut own = Mounts { asked: true, ..Mounts::default() };
        add_source(&mut own, bind, host, probe)?;
        mounts.items.extend(own.items.into_iter().map(|item| Item { optional: false, forced: true, ..item }));
        return Ok(());
    }
    add_source(mounts, bind, host, probe)
}

/// Where a path leads, without asking for links.
fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => _ = plain.pop(),
            Component::CurDir => {}
            part => plain.push(part),
        }
    }
    plain
}

/// Puts what the site forces on top of what was added to the specification since it was composed.
///
/// # Errors
/// When something would hide it.
pub fn keep_forced(spec: &mut Spec, options: &Options, host: &Host, probe: &dyn Probe) -> Result<(), Error> {
    let mut forced = Mounts::default();
    for bind in options.binds.iter().filter(|bind| bind.forced) {
        add_bind(&mut forced, bind, host, probe)?;
    }
    if forced.items.is_empty() {
        return Ok(());
    }
    let is_forced = |mount: &Mount| {
        forced.items.iter().any(|item| {
            let source = match &item.what {
                What::Bind { source, .. } | What::Image { file: source, .. } => source.as_path(),
                What::New { kind, .. } => Path::new(*kind),
            };
            item.destination == *mount.destination() && Some(source) == mount.source().as_deref()
        })
    };
    let (last, mut mounts): (Vec<Mount>, Vec<Mount>) =
        spec.mounts().clone().unwrap_or_default().into_iter().partition(is_forced);
    for mount in &mounts {
        if let Some(forced) = forced.forced_at(mount.destination()) {
            return Err(Error::Forced { destination: mount.destination().clone(), forced });
        }
    }
    mounts.extend(last);
    spec.set_mounts(Some(mounts));
    Ok(())
}

fn add_source(mounts: &mut Mounts, bind: &Bind, host: &Host, probe: &dyn Probe) -> Result<(), Error> {
    let at = |source: &Path| bind.destination.clone().unwrap_or_else(|| source.to_path_buf());
    let words = || bind.options.clone();
    match &bind.source {
        BindSource::Empty { size } => {
            let size = size.map(|size| format!("size={size}"));
            let options =
                ["nosuid", "nodev", "mode=1777"].map(str::to_owned).into_iter().chain(size).chain(words()).collect();
            mounts.add(&at(Path::new("/")), What::New { kind: "tmpfs", options }, false);
        }
        BindSource::Host(source) => {
            let source = absolute(source, host)?;
            match probe.kind(&source) {
                Some(kind) => {
                    mounts.check_above(&at(&source), kind == Kind::Directory);
                    mounts.bind(&source, &at(&source), &bind.options, bind.optional);
                }
                None if bind.optional => {}
                None => return Err(Error::NoSource { source_path: source }),
            }
        }
        BindSource::Image { file, inside } => {
            let file = absolute(file, host)?;
            match probe.kind(&file) {
                Some(_) => {
                    if bind.options.iter().any(|option| option == "rw") {
                        return Err(Error::ImageIsReadOnly { image: file });
                    }
                    let Some(kind) = probe.kind_in_image(&file, inside)? else {
                        return Err(Error::NotInImage { image: file, inside: inside.clone() });
                    };
                    let destination = at(&file);
                    mounts.check_above(&destination, kind == Kind::Directory);
                    mounts.add(&destination, What::Image { file, inside: inside.clone(), options: words() }, false);
                }
                None if bind.optional => {}
                None => return Err(Error::NoSource { source_path: file }),
            }
        }
    }
    Ok(())
}

pub(super) fn absolute(path: &Path, host: &Host) -> Result<PathBuf, Error> {
    match (path.is_absolute(), &host.cwd) {
        (true, _) => Ok(path.to_path_buf()),
        (false, Some(cwd)) => Ok(cwd.join(path).components().collect()),
        (false, None) => Err(Error::NoCwd { source_path: path.to_path_buf() }),
    }
}

/// Message queues of the namespace, if `sign` says that there can be any.
fn add_queues(mounts: &mut Mounts, options: &Options, probe: &dyn Probe, sign: &Path) {
    let path = Path::new(QUEUES);
    if let Some((kind, words)) = isolation::file_systems(options, path)
        && !mounts.has(path)
        && probe.kind(sign) == Some(Kind::Directory)
    {
        mounts.new_fs(kind, path, words);
    }
}

/// Limits of memory and processors, which programs look up; a new `/sys` has none.
fn add_cgroups(mounts: &mut Mounts, path: &Path, probe: &dyn Probe) {
    let cgroups = Path::new("/sys/fs/cgroup");
    if path == Path::new("/sys") && !mounts.has(cgroups) && probe.kind(cgroups) == Some(Kind::Directory) {
        mounts.bind(cgroups, cgroups, &[], true);
    }
}

/// The devices that the runtime specification promises come with a `tmpfs` on `/dev`; the plan adds them.
fn minimal_dev(mounts: &mut Mounts, terminals: bool) {
    mounts.new_fs("tmpfs", Path::new("/dev"), &["nosuid", "strictatime", "mode=755", "size=65536k"]);
    if terminals {
        let options = ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"];
        mounts.new_fs("devpts", Path::new("/dev/pts"), &options);
    }
    mounts.new_fs("tmpfs", Path::new("/dev/shm"), &["nosuid", "nodev", "noexec", "mode=1777"]);
}

fn add_home(
    mounts: &mut Mounts,
    options: &Options,
    host: &Host,
    probe: &dyn Probe,
    private: Option<PathBuf>,
) -> Result<(), Error> {
    match &options.home {
        Home::At { source, destination } => {
            let source = absolute(source, host)?;
            if probe.kind(&source) != Some(Kind::Directory) {
                return Err(Error::NoSource { source_path: source });
            }
            let destination = destination.clone().unwrap_or_else(|| source.clone());
            mounts.asked = true;
            mounts.bind(&source, &destination, &[], false);
            mounts.asked = false;
            mounts.home = Some(destination);
        }
        Home::Own => {
            let Some(home) = host.home.as_deref().filter(|home| *home != Path::new("/")) else { return Ok(()) };
            mounts.home = Some(home.to_path_buf());
            let left_out = options.no_mount.contains(&DefaultMount::Home)
                || options.no_mount.contains(&DefaultMount::Path(home.to_path_buf()));
            if left_out || mounts.has(home) {
                return Ok(());
            }
            if options.contain {
                mounts.empty(home, private, &["nosuid", "nodev", "mode=700"]);
            } else if !mounts.shows(home) {
                mounts.bind(home, home, &[], true);
            }
        }
        Home::Without => {}
    }
    Ok(())
}

/// The home directory of a container's root: the caller's, which is at its own path as well.
fn add_root_home(mounts: &mut Mounts, options: &Options, host: &Host, private: Option<PathBuf>) {
    let root = Path::new(ROOT_HOME);
    if mounts.home.is_some() && options.home != Home::Own {
        return;
    }
    mounts.home = Some(root.to_path_buf());
    let left_out = options.no_mount.contains(&DefaultMount::Home)
        || options.no_mount.contains(&DefaultMount::Path(root.to_path_buf()));
    if left_out || options.home == Home::Without || mounts.has(root) {
        return;
    }
    if options.contain {
        mounts.empty(root, private, &["nosuid", "nodev", "mode=700"]);
    } else if let Some(home) = host.home.as_deref().filter(|home| *home != Path::new("/")) {
        mounts.bind(home, root, &[], true);
    }
}
