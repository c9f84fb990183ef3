//! `run`, `exec`, `shell` and `spec`: from the command line to a plan, with the image's session where there is one.

use std::convert::Infallible;
use std::ffi::OsString;
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use anyhow::Context;
use coracle::cdi;
use coracle::cli::{self, Flags, Pull};
use coracle::config::{self, Asked, Config, Images, Settled};
use coracle::engine::{self, Decided, Detached, Ground, Guess, Session};
use coracle::exit::Exit;
use coracle::gpu;
use coracle::host::subordinate::Caller;
use coracle::host::{Disk, Foreseen, Host, Identification, Surroundings};
use coracle::ids::Ids;
use coracle::image::{self, Directory, ImageFile};
use coracle::instance;
use coracle::options::{Options, Verb};
use coracle::plan::{self, Plan, Step, Wanted, Way};
use coracle::session::{self, ContainerKey, Fingerprint, Identity, Joined, Meeting, Place, Remembered};
use coracle::spec::{self, Composed, ImageFacts};
use coracle::trace;

use oci_spec::runtime::{Mount, Spec};

use super::{images, instances, print, settings, warn};

mod workdir;

/// Switches sessions off (`off`) or on.
const SESSION: &str = "CORACLE_SESSION";
/// Seconds that a session waits for another launch.
const SESSION_IDLE: &str = "CORACLE_SESSION_IDLE";

/// Runs a program, whose words `verb` makes of what follows the image.
pub(super) fn run(
    flags: &Flags,
    words: &[OsString],
    verb: impl FnOnce(Vec<OsString>) -> anyhow::Result<Verb>,
) -> anyhow::Result<Exit> {
    let (image, rest) = cli::image_and_rest(words).context("no image given")?;
    let verb = verb(rest)?;
    if let Some(name) = instance::named(&image) {
        return instances::join(flags, name, verb);
    }
    if flags.dry_run {
        return show(flags, &image, verb, true);
    }
    let config = settings()?;
    let ready = ready(flags, image, verb, &config)?;
    match start(flags, ready, &config, None)? {}
}

/// Becomes the program, or for one in the background the process that waits for it.
pub(super) fn start(
    flags: &Flags,
    ready: Ready,
    config: &Config,
    detached: Option<Rc<Detached>>,
) -> anyhow::Result<Infallible> {
    let Ready { image, path, verb, options, env, .. } = ready;
    let caller = Caller::new(&options);
    caller.warnings.iter().for_each(|warning| warn(warning));
    let ids = caller.ids.clone();
    let collect = || Surroundings::of(env, &options);
    let launch = |around| Launch {
        image: image.clone(),
        path: path.clone(),
        verb,
        options: options.clone(),
        caller,
        allowed: config.images.clone(),
        around,
        detached,
    };
    // Layers may need fuse-overlayfs, which is not to be in reach of another launch's powerful program.
    let sessions = Sessions::read(flags, config)?.filter(|_| options.layers.is_empty() || !options.traces());
    let Some(sessions) = sessions else {
        return launch(collect()?).first(Way::Alone, None, Session::Without);
    };
    trace::mark("look for the image's session");
    let (mut around, mut collect) = (None, Some(collect));
    // A filter counts by what is in it.
    if options.seccomp.is_some() {
        around = collect.take().map(|collect| collect()).transpose()?.map(Ok);
    }
    let filter = around.as_ref().and_then(|around| around.as_ref().ok()?.seccomp.as_ref());
    let variant = options.shown_as() + &options.rights(filter.map(|filter| filter.content.as_slice()));
    let meeting = sessions.meet(&path, &ids, options.fakeroot, &variant, || {
        if let Some(collect) = collect.take() {
            around = Some(collect());
        }
    });
    let around = around.or_else(|| collect.take().map(|collect| collect()));
    let launch = launch(around.context("cannot look around twice")??);
    match meeting {
        Ok(Some(Meeting::Joined(joined))) => launch.join(joined),
        Ok(Some(Meeting::Founding(founding))) => {
            launch.first(Way::Found, None, Session::Found { founding, idle: sessions.idle })
        }
        Ok(None) => launch.first(Way::Alone, None, Session::Without),
        Err(error) => {
            warn(&format!(
                "cannot use a session for the image: {error}: going on without; CORACLE_SESSION_DIR=DIR names another place \
                 for its socket, --no-session wants none"
            ));
            launch.first(Way::Alone, None, Session::Without)
        }
    }
}

/// A program in the container of a running instance.
pub(super) struct InInstance {
    /// The image that the instance was made of.
    pub(super) image: PathBuf,
    pub(super) verb: Verb,
    /// The instance's, and this program's own.
    pub(super) options: Options,
    /// Which images the site lets run.
    pub(super) allowed: Images,
    pub(super) around: Surroundings,
    /// Where to start, if the container shows what the host has there.
    pub(super) wish: Option<PathBuf>,
    /// Process 1, and its directory in `/proc`.
    pub(super) pid: i32,
    pub(super) process: OwnedFd,
}

impl InInstance {
    /// Runs it, or prints what would be done.
    pub(super) fn run(self, dry: bool) -> anyhow::Result<Exit> {
        let Self { image, verb, options, allowed, around, wish, pid, process } = self;
        let caller = Caller::new(&options);
        let ids = caller.ids.clone();
        let launch = Launch { path: image.clone(), image, verb, options, caller, allowed, around, detached: None };
        // Nothing may be open any more when descriptors are closed.
        let plan = match ImageFile::open(&launch.image) {
            Err(image::Error::Directory { .. }) => {
                let tree = Directory::open_root(&launch.path)?;
                launch.in_instance(wish, pid, |launch, who| launch.decide(&launch.directory(&tree), &ids, who))?
            }
            file => {
                let tree = Remembered::open(file?);
                launch.in_instance(wish, pid, |launch, who| launch.decide(&launch.file(&tree), &ids, who))?
            }
        };
        if dry {
            print(|out| Ok(write!(out, "{plan}")?))?;
            return Ok(Exit::Success);
        }
        let ground = Ground {
            image: None,
            session: Session::Without,
            program: None,
            record: None,
            detached: None,
            instance: Some(process),
        };
        let mut say = |warning: String| warn(&warning);
        match engine::Launch::begin(&[], ground, &mut say)?.finish(&plan, Decided::default())? {}
    }
}

/// Whether the container has at `path` what the host has there.
fn shows(spec: &Spec, path: &Path) -> bool {
    let above = spec.mounts().iter().flatten().filter(|mount| path.starts_with(mount.destination()));
    let nearest = above.max_by_key(|mount| mount.destination().components().count());
    let same = |mount: &Mount| mount.source().as_ref() == Some(mount.destination());
    nearest.is_some_and(|mount| mount.typ().as_deref() == Some("bind") && same(mount))
}

/// A launch of which all is known that does not take a look at the image.
pub(super) struct Ready {
    /// The image's file, as given or found.
    image: PathBuf,
    /// The same, absolute.
    pub(super) path: PathBuf,
    /// What it is called in the store, when it is there.
    pub(super) name: Option<String>,
    verb: Verb,
    pub(super) options: Options,
    env: Vec<(OsString, OsString)>,
}

/// Puts command line, configuration and environment together, and finds the image.
pub(super) fn ready(flags: &Flags, image: PathBuf, verb: Verb, config: &Config) -> anyhow::Result<Ready> {
    let env: Vec<(OsString, OsString)> = std::env::vars_os().collect();
    let Settled { image, verb, options, warnings } = config::apply(config, &env, Asked { flags, image, verb })?;
    warnings.iter().for_each(|warning| warn(warning));
    let options = with_site(options, config);
    let images::Found { path, name } = images::find(&image, flags.pull, config)?;
    let image = config.images.resolve(path)?;
    let path = std::path::absolute(&image).with_context(|| format!("cannot open image {}", image.display()))?;
    Ok(Ready { image, path, name, verb, options, env })
}

/// Runs a program in a mount of its own, whose server writes to `record` what is read.
pub(super) fn recorded(ready: Ready, config: &Config, record: OwnedFd) -> anyhow::Result<Infallible> {
    let Ready { image, path, verb, options, env, .. } = ready;
    let around = Surroundings::of(env, &options)?;
    let caller = Caller::new(&options);
    let launch = Launch { image, path, verb, options, caller, allowed: config.images.clone(), around, detached: None };
    launch.first(Way::Alone, Some(record), Session::Without)
}

/// `spec`.
pub(super) fn specification(arguments: &cli::Spec) -> anyhow::Result<Exit> {
    let (image, rest) = cli::image_and_rest(&arguments.words).context("no image given")?;
    let verb = cli::command(rest).unwrap_or(Verb::Run(Vec::new()));
    show(&arguments.flags, &image, verb, arguments.steps || arguments.flags.dry_run)
}

/// The caller's directories of CDI files count before the site's.
pub(super) fn with_site(options: Options, config: &Config) -> Options {
    Options { cdi_dirs: config.cdi_dirs().iter().cloned().chain(options.cdi_dirs).collect(), ..options }
}

/// Prints what would happen.
fn show(flags: &Flags, image: &Path, verb: Verb, steps: bool) -> anyhow::Result<Exit> {
    let config = settings()?;
    let Ready { image, path, verb, options, env, .. } = ready(flags, image.to_path_buf(), verb, &config)?;
    let file = ImageFile::open(&image);
    let around = Surroundings::of(env, &options)?;
    let caller = Caller::new(&options);
    caller.warnings.iter().for_each(|warning| warn(warning));
    let ids = caller.ids.clone();
    let launch = Launch { image, path, verb, options, caller, allowed: config.images.clone(), around, detached: None };
    let Prepared { composed, wanted, .. } = match file {
        Err(image::Error::Directory { .. }) => {
            let directory = Directory::open_root(&launch.path)?;
            launch.allowed.check(&directory, &launch.image)?;
            launch.prepare(&launch.directory(&directory), &ids, None)?
        }
        file => {
            let file = file?;
            launch.allowed.check(file.image.source(), &launch.image)?;
            launch.prepare(&launch.file(&Remembered::open(file)), &ids, None)?
        }
    };
    let way = if Sessions::read(flags, &config)?.is_some() { Way::Found } else { Way::Alone };
    print(|out| {
        if steps {
            write!(out, "{}", wanted.plan(way))?;
        } else {
            // By way of a value, whose keys are sorted: the specification's own maps come in any order.
            let mut value = serde_json::to_value(&composed.spec).context("cannot print the specification")?;
            for set in value
                .pointer_mut("/process/capabilities")
                .and_then(serde_json::Value::as_object_mut)
                .into_iter()
                .flatten()
            {
                set.1.as_array_mut().into_iter().for_each(|names| names.sort_by_key(ToString::to_string));
            }
            serde_json::to_writer_pretty(&mut *out, &value)?;
            writeln!(out)?;
        }
        Ok(())
    })?;
    Ok(Exit::Success)
}

/// `gpu explain`.
pub(super) fn explain(arguments: &cli::Explain) -> anyhow::Result<Exit> {
    let mut options = arguments.flags.options()?;
    if options.gpu.asked.is_empty() {
        options.gpu = coracle::options::Gpu::auto();
    }
    let image = images::find(&arguments.image, arguments.flags.pull, &settings()?)?.path;
    let path = std::path::absolute(&image)?;
    let caller = Caller::new(&options);
    let host = Host::new(Surroundings::collect(&options)?, caller.ids, None);
    let look = |facts: &ImageFacts<'_>| {
        // No program is looked for: only the environment matters.
        let verb = Verb::Exec(vec!["true".into()]);
        let composed = spec::compose(facts, &verb, &options, &host, &Disk::default())?;
        Ok::<_, anyhow::Error>(gpu::explain::explain(
            &gpu::discover::Root::host(),
            &composed.spec,
            &options,
            facts.tree,
            &host,
        )?)
    };
    let explained = match ImageFile::open(&image) {
        Err(image::Error::Directory { .. }) => {
            let tree = Directory::open_root(&path)?;
            look(&ImageFacts { path: &path, offset: 0, directory: true, tree: &tree })
        }
        file => look(&ImageFacts::from(&file?)),
    }?;
    print(|out| {
        let written = if arguments.json { explained.write_json(out) } else { explained.write(out) };
        Ok(written?)
    })?;
    Ok(if explained.works() { Exit::Success } else { Exit::Failure })
}

/// How sessions are to be used.
struct Sessions {
    idle: Duration,
}

impl Sessions {
    /// `None` when they are switched off.
    fn read(flags: &Flags, config: &Config) -> anyhow::Result<Option<Self>> {
        let config = &config.session;
        let idle = match std::env::var(SESSION_IDLE) {
            Ok(text) => {
                let seconds = text.parse::<u32>();
                let seconds = seconds.with_context(|| format!("{SESSION_IDLE}={text}: write a number of seconds"))?;
                Duration::from_secs(seconds.into())
            }
            Err(_) => config.idle().unwrap_or(session::IDLE),
        };
        let enabled = match std::env::var(SESSION).as_deref() {
            Ok("off" | "0" | "false" | "no") => false,
            Ok("on" | "1" | "true" | "yes") => true,
            Ok("") | Err(_) => config.enabled.unwrap_or(true),
            Ok(text) => anyhow::bail!("{SESSION}={text}: write on or off"),
        };
        Ok((enabled && !flags.no_session).then_some(Self { idle }))
    }

    /// The image's session; `None` when the image itself has to say what is wrong with it.
    fn meet(
        &self,
        path: &Path,
        ids: &Ids,
        root: bool,
        variant: &str,
        meanwhile: impl FnOnce(),
    ) -> std::io::Result<Option<Meeting>> {
        let Ok(identity) = Identity::of(path, ids, root) else { return Ok(None) };
        let identity = identity.shown_as(variant);
        Place::open(&identity)?.map(|place| session::meet(place, &identity, meanwhile)).transpose()
    }
}

/// Everything that is decided before anything happens.
struct Prepared {
    host: Host,
    composed: Composed,
    wanted: Wanted,
    disk: Disk,
}

/// A launch before it is known how it comes by the image's mount.
struct Launch {
    /// The image, as given: what is wrong with it is said of that.
    image: PathBuf,
    /// The same, absolute.
    path: PathBuf,
    verb: Verb,
    options: Options,
    caller: Caller,
    /// Which images the site lets run.
    allowed: Images,
    around: Surroundings,
    /// What a program in the background needs.
    detached: Option<Rc<Detached>>,
}

impl Launch {
    fn file<'a>(&'a self, tree: &'a Remembered) -> ImageFacts<'a> {
        ImageFacts { path: &self.path, offset: tree.offset(), directory: false, tree }
    }

    fn directory<'a>(&'a self, tree: &'a Directory) -> ImageFacts<'a> {
        ImageFacts { path: &self.path, offset: 0, directory: true, tree }
    }

    /// The steps in an instance. What is to be said of its mounts was said when it was started.
    fn in_instance(
        mut self,
        wish: Option<PathBuf>,
        pid: i32,
        decide: impl Fn(&Self, Option<Identification>) -> anyhow::Result<Prepared>,
    ) -> anyhow::Result<Plan> {
        let mut prepared = decide(&self, None)?;
        if let Some(wish) = wish.filter(|wish| shows(&prepared.composed.spec, wish)) {
            self.options.working_dir = Some(wish);
            prepared = decide(&self, Some(prepared.host.who))?;
        }
        Ok(prepared.wanted.plan_in_instance(pid))
    }

    fn prepare(&self, facts: &ImageFacts<'_>, ids: &Ids, who: Option<Identification>) -> anyhow::Result<Prepared> {
        let prepared = self.decide(facts, ids, who)?;
        prepared.composed.warnings.iter().for_each(|warning| warn(warning));
        Ok(prepared)
    }

    /// Decides for a container that knows these ids.
    fn decide(&self, facts: &ImageFacts<'_>, ids: &Ids, who: Option<Identification>) -> anyhow::Result<Prepared> {
        trace::mark("compose the specification");
        let host = Host::new(self.around.clone(), ids.clone(), who);
        let disk = Disk::default();
        let mut composed = spec::compose(facts, &self.verb, &self.options, &host, &disk)?;
        gpu::launch::apply(&mut composed, &self.options, facts.tree, &host)?;
        cdi::inject(&mut composed, &self.options, facts.tree, &host)?;
        spec::keep_forced(&mut composed.spec, &self.options, &host, &disk)?;
        trace::mark("plan");
        let to_make = self.work_directories(&composed);
        let wanted = if to_make.is_empty() {
            Wanted::new(&composed.spec, &host.mount_point, &disk)?
        } else {
            let directories = to_make.iter().map(|(path, _)| path.clone()).collect();
            Wanted::new(&composed.spec, &host.mount_point, &Foreseen { disk: &disk, directories })?
        };
        Ok(Prepared { host, composed, wanted, disk })
    }

    /// What `--workdir` is to hold.
    fn work_directories(&self, composed: &Composed) -> Vec<(PathBuf, u32)> {
        let work = self.options.work_dir.as_ref().and_then(|work| std::path::absolute(work).ok());
        work.map(|work| spec::work_directories(&composed.spec, &work)).unwrap_or_default()
    }

    /// Makes what the launch needs on the host, once it is certain that it will be made.
    fn make_directories(&self, composed: &Composed) -> anyhow::Result<()> {
        let directories = self.work_directories(composed);
        match &self.options.work_dir {
            Some(work) if !directories.is_empty() => workdir::make(work, &directories),
            _ => Ok(()),
        }
    }

    /// Mounts the image. The server gets ready in its process while the rest is decided in this one.
    fn first(&self, way: Way, record: Option<OwnedFd>, session: Session) -> anyhow::Result<Infallible> {
        trace::mark("open the image");
        let image = match ImageFile::open(&self.image) {
            Err(image::Error::Directory { .. }) if record.is_none() => return self.in_directory(),
            image => image?,
        };
        self.allowed.check(image.image.source(), &self.image)?;
        let (verb, shell) = (self.verb.clone(), self.options.shell.clone());
        let program: Guess = Box::new(move |image| spec::first_program(image, &verb, shell.as_deref()));
        let handle = image.handle().with_context(|| format!("cannot open image {}", self.image.display()))?;
        let ground = Ground {
            image: Some(handle),
            session,
            program: Some(program),
            record,
            detached: self.detached.clone(),
            instance: None,
        };
        let mut say = |warning: String| warn(&warning);
        let opening = plan::opening(self.caller.ids.clone());
        let launch = engine::Launch::begin(&opening, ground, &mut say)?;
        let tree = Remembered::open(image);
        let ids = launch.ids().clone();
        let Prepared { mut host, composed, wanted, disk } =
            self.prepare(&self.file(&tree), &ids, self.caller.who.clone())?;
        host.who.ids = (ids != self.caller.ids).then_some(ids);
        self.make_directories(&composed)?;
        let (memo, _) = tree.finish();
        let key = if way == Way::Alone { ContainerKey::default() } else { key(&wanted, &disk) };
        Ok(launch.finish(&wanted.plan(way), Decided { key, memo, who: Some(host.who) })?)
    }

    /// The image is a directory: there is nothing to mount, and so nothing to share.
    fn in_directory(&self) -> anyhow::Result<Infallible> {
        let tree = Directory::open_root(&self.path)?;
        self.allowed.check(&tree, &self.image)?;
        let ground = Ground {
            image: None,
            session: Session::Without,
            program: None,
            record: None,
            detached: self.detached.clone(),
            instance: None,
        };
        let mut say = |warning: String| warn(&warning);
        let launch = engine::Launch::begin(&[Step::UnshareUser(self.caller.ids.clone())], ground, &mut say)?;
        let ids = launch.ids().clone();
        let Prepared { composed, wanted, .. } = self.prepare(&self.directory(&tree), &ids, self.caller.who.clone())?;
        self.make_directories(&composed)?;
        drop(tree);
        Ok(launch.finish(&wanted.plan(Way::Alone), Decided::default())?)
    }

    /// Finds the image mounted.
    fn join(&self, joined: Box<Joined>) -> anyhow::Result<Infallible> {
        let mut joined = joined;
        let tree = Remembered::new(self.path.clone(), std::mem::take(&mut joined.memo));
        if joined.who.ids.is_some() {
            warn("subordinate ids could not be mapped when the image's session began: going on with your own id alone");
        }
        let ids = joined.who.ids.as_ref().unwrap_or(&self.caller.ids).clone();
        let Prepared { composed, wanted, disk, .. } =
            self.prepare(&self.file(&tree), &ids, Some(joined.who.clone()))?;
        self.make_directories(&composed)?;
        let (memo, _) = tree.finish();
        let key = key(&wanted, &disk);
        let container: Option<OwnedFd> = joined.container(&key).filter(|_| wanted.is_common());
        let (way, session) = match container {
            Some(container) => (Way::JoinContainer, Session::JoinContainer(joined, container)),
            None => (Way::Join, Session::Join(joined)),
        };
        let ground = Ground {
            image: None,
            session,
            program: None,
            record: None,
            detached: self.detached.clone(),
            instance: None,
        };
        let mut say = |warning: String| warn(&warning);
        let launch = engine::Launch::begin(&[], ground, &mut say)?;
        match launch.finish(&wanted.plan(way), Decided { key, memo, who: None }) {
            Err(engine::Error::Session(error)) => {
                warn(&format!("{error}: mounting the image once more for this launch"));
                self.first(Way::Alone, None, Session::Without)
            }
            result => Ok(result?),
        }
    }
}

/// What must be equal for two launches to have the same mounts: the steps, and which files and directories they find.
fn key(wanted: &Wanted, disk: &Disk) -> ContainerKey {
    let mut print = Fingerprint::new();
    wanted.describe_mounts(&mut |part| print.bytes(part));
    for source in &wanted.sources {
        let (device, inode) = disk.identity(source).unwrap_or_default();
        print.number(device);
        print.number(inode);
    }
    // Of a file that was written over, a server knows what it was.
    for image in wanted.images() {
        let Ok(found) = fs::metadata(image) else { continue };
        for part in [found.dev(), found.ino(), found.len(), found.mtime().cast_unsigned()] {
            print.number(part);
        }
    }
    print.finish()
}

/// The image's absolute path, under which its session is known. The file may be gone.
fn image_path(image: &Path) -> anyhow::Result<PathBuf> {
    let found = images::find(image, Pull::Never, &settings()?).map(|found| found.path);
    Ok(std::path::absolute(found.unwrap_or_else(|_| image.to_path_buf()))?)
}

/// `session list`, `session stop` and `session stats`.
pub(super) fn sessions(command: &cli::SessionCommand) -> anyhow::Result<Exit> {
    match command {
        cli::SessionCommand::List { json } => {
            let reports = session::reports().context("cannot ask the sessions")?;
            print(|out| {
                if *json {
                    serde_json::to_writer_pretty(&mut *out, &reports)?;
                    return Ok(writeln!(out)?);
                }
                if reports.is_empty() {
                    return Ok(writeln!(out, "no sessions")?);
                }
                writeln!(out, "{:>9} {:>9} {:>7}  IMAGE", "SERVER", "PROGRAMS", "AGE")?;
                for report in &reports {
                    let (programs, age) = (report.programs.len(), format!("{} s", report.age));
                    writeln!(out, "{:>9} {programs:>9} {age:>7}  {}", report.server, report.image.display())?;
                }
                Ok(())
            })?;
        }
        cli::SessionCommand::Stats { image } => {
            let path = image.as_deref().map(image_path).transpose()?;
            let mut reports = session::reports().context("cannot ask the sessions")?;
            reports.retain(|report| path.as_ref().is_none_or(|path| *path == report.image));
            print(|out| {
                let value = |report: &session::Report| {
                    let stats: serde_json::Value = serde_json::from_str(&report.stats).unwrap_or_default();
                    serde_json::json!({ "image": report.image, "server": report.server, "stats": stats })
                };
                serde_json::to_writer_pretty(&mut *out, &reports.iter().map(value).collect::<Vec<_>>())?;
                Ok(writeln!(out)?)
            })?;
        }
        cli::SessionCommand::Stop { image, all: _ } => {
            let path: Option<PathBuf> = image.as_deref().map(image_path).transpose()?;
            let stopped = session::stop(path.as_deref()).context("cannot ask the sessions")?;
            if let (0, Some(path)) = (stopped, path) {
                anyhow::bail!("cannot stop the session of {}: there is none; see coracle session list", path.display());
            }
        }
    }
    Ok(Exit::Success)
}
