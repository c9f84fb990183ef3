//! `run`, `exec` and `shell`: from the command line to a plan, with the image's session where there is one.

use std::convert::Infallible;
use std::ffi::OsString;
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::rc::Rc;

use anyhow::Context;
use coracle::cdi;
use coracle::cli::{self, Flags};
use coracle::config::{self, Asked, Config, Images, Settled};
use coracle::engine::{self, Decided, Detached, Ground, Guess, Session};
use coracle::exit::Exit;
use coracle::gpu;
use coracle::host::subordinate::Caller;
use coracle::host::{Disk, Foreseen, Host, Identification, Surroundings};
use coracle::ids::Ids;
use coracle::image::{self, ImageFile};
use coracle::instance;
use coracle::mpi;
use coracle::options::{Options, Verb};
use coracle::plan::{self, Step, Wanted, Way};
use coracle::session::{ContainerKey, Fingerprint, Joined, Meeting, Remembered};
use coracle::spec::{self, Composed, ImageFacts};
use coracle::trace;

use super::{images, instances, settings, warn};

mod explain;
mod inside;
mod look;
mod sessions;
mod show;
mod workdir;

pub(super) use explain::{explain, explain_mpi};
pub(super) use inside::InInstance;
use look::{Looked, file};
use sessions::Sessions;
pub(super) use sessions::sessions;
use show::show;
pub(super) use show::specification;

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

impl Ready {
    /// Looks around for it.
    fn launch(self, config: &Config) -> anyhow::Result<Launch> {
        let Self { image, path, verb, options, env, .. } = self;
        let around = Surroundings::of(env, &options)?;
        let caller = Caller::new(&options);
        Ok(Launch { image, path, verb, options, caller, allowed: config.images.clone(), around, detached: None })
    }
}

/// Puts command line, configuration and environment together, and finds the image.
pub(super) fn ready(flags: &Flags, image: PathBuf, verb: Verb, config: &Config) -> anyhow::Result<Ready> {
    let env: Vec<(OsString, OsString)> = std::env::vars_os().collect();
    let Settled { image, verb, options, warnings } = config::apply(config, &env, Asked { flags, image, verb })?;
    warnings.iter().for_each(|warning| warn(warning));
    let images::Found { path, name } = images::find(&image, flags.pull, config)?;
    let image = config.images.resolve(path)?;
    let path = std::path::absolute(&image).with_context(|| format!("cannot open image {}", image.display()))?;
    Ok(Ready { image, path, name, verb, options, env })
}

/// Runs a program in a mount of its own, whose server writes to `record` what is read.
pub(super) fn recorded(ready: Ready, config: &Config, record: OwnedFd) -> anyhow::Result<Infallible> {
    ready.launch(config)?.first(Way::Alone, Some(record), Session::Without)
}

/// Everything that is decided before anything happens.
struct Prepared {
    host: Host,
    composed: Composed,
    wanted: Wanted,
    disk: Disk,
    /// What `--workdir` is to hold.
    work_directories: Vec<(PathBuf, u32)>,
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
        mpi::apply(&mut composed, &self.options, facts.tree, &host)?;
        cdi::inject(&mut composed, &self.options, facts.tree, &host)?;
        spec::keep_forced(&mut composed.spec, &self.options, &host, &disk)?;
        trace::mark("plan");
        let work = self.options.work_dir.as_ref().and_then(|work| std::path::absolute(work).ok());
        let work_directories = work.map(|work| spec::work_directories(&composed.spec, &work)).unwrap_or_default();
        let wanted = if work_directories.is_empty() {
            Wanted::new(&composed.spec, &host.mount_point, &disk)?
        } else {
            let directories = work_directories.iter().map(|(path, _)| path.clone()).collect();
            Wanted::new(&composed.spec, &host.mount_point, &Foreseen { disk: &disk, directories })?
        };
        Ok(Prepared { host, composed, wanted, disk, work_directories })
    }

    /// Makes what the launch needs on the host, once it is certain that it will be made.
    fn make_directories(&self, directories: &[(PathBuf, u32)]) -> anyhow::Result<()> {
        match &self.options.work_dir {
            Some(work) if !directories.is_empty() => workdir::make(work, directories),
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
            ..Ground::default()
        };
        let mut say = |warning: String| warn(&warning);
        let opening = plan::opening(self.caller.ids.clone());
        let launch = engine::Launch::begin(&opening, ground, &mut say)?;
        let tree = Remembered::open(image);
        let ids = launch.ids().clone();
        let Prepared { mut host, wanted, disk, work_directories, .. } =
            self.prepare(&file(&self.path, &tree), &ids, self.caller.who.clone())?;
        host.who.ids = (ids != self.caller.ids).then_some(ids);
        self.make_directories(&work_directories)?;
        let (memo, _) = tree.finish();
        let key = if way == Way::Alone { ContainerKey::default() } else { key(&wanted, &disk) };
        Ok(launch.finish(&wanted.plan(way), Decided { key, memo, who: Some(host.who) })?)
    }

    /// The image is a directory: there is nothing to mount, and so nothing to share.
    fn in_directory(&self) -> anyhow::Result<Infallible> {
        let tree = Looked::directory(&self.image, &self.path, Some(&self.allowed))?;
        let ground = Ground { detached: self.detached.clone(), ..Ground::default() };
        let mut say = |warning: String| warn(&warning);
        let launch = engine::Launch::begin(&[Step::UnshareUser(self.caller.ids.clone())], ground, &mut say)?;
        let ids = launch.ids().clone();
        let Prepared { wanted, work_directories, .. } =
            self.prepare(&tree.facts(&self.path), &ids, self.caller.who.clone())?;
        self.make_directories(&work_directories)?;
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
        let Prepared { wanted, disk, work_directories, .. } =
            self.prepare(&file(&self.path, &tree), &ids, Some(joined.who.clone()))?;
        self.make_directories(&work_directories)?;
        let (memo, _) = tree.finish();
        let key = key(&wanted, &disk);
        let container: Option<OwnedFd> = joined.container(&key).filter(|_| wanted.is_common());
        let (way, session) = match container {
            Some(container) => (Way::JoinContainer, Session::JoinContainer(joined, container)),
            None => (Way::Join, Session::Join(joined)),
        };
        let ground = Ground { session, detached: self.detached.clone(), ..Ground::default() };
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
