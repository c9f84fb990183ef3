//! Programs in the container of an instance.

use std::os::fd::OwnedFd;
use std::path::PathBuf;

use coracle::config::Images;
use coracle::engine::{self, Decided, Ground};
use coracle::exit::Exit;
use coracle::host::Surroundings;
use coracle::host::subordinate::Caller;
use coracle::ids::Ids;
use coracle::options::{Options, Verb};
use coracle::plan::Plan;
use coracle::spec;

use super::{Launch, Looked};
use crate::{print, warn};

/// A program in the container of a running instance.
pub(crate) struct InInstance {
    /// The image that the instance was made of.
    pub(crate) image: PathBuf,
    pub(crate) verb: Verb,
    /// The instance's, and this program's own.
    pub(crate) options: Options,
    /// Which images the site lets run.
    pub(crate) allowed: Images,
    pub(crate) around: Surroundings,
    /// Where to start, if the container shows what the host has there.
    pub(crate) wish: Option<PathBuf>,
    /// Process 1, and its directory in `/proc`.
    pub(crate) pid: i32,
    pub(crate) process: OwnedFd,
}

impl InInstance {
    /// Runs it, or prints what would be done.
    pub(crate) fn run(self, dry: bool) -> anyhow::Result<Exit> {
        let Self { image, verb, options, allowed, around, wish, pid, process } = self;
        let caller = Caller::new(&options);
        let ids = caller.ids.clone();
        let launch = Launch { path: image.clone(), image, verb, options, caller, allowed, around, detached: None };
        let plan = {
            // Nothing may be open any more when descriptors are closed.
            let tree = Looked::open(&launch.image, &launch.path, None)?;
            in_instance(launch, &tree, &ids, wish, pid)?
        };
        if dry {
            print(|out| Ok(write!(out, "{plan}")?))?;
            return Ok(Exit::Success);
        }
        let ground = Ground { instance: Some(process), ..Ground::default() };
        let mut say = |warning: String| warn(&warning);
        match engine::Launch::begin(&[], ground, &mut say)?.finish(&plan, Decided::default())? {}
    }
}

/// The steps in an instance. What is to be said of its mounts was said when it was started.
fn in_instance(mut launch: Launch, tree: &Looked, ids: &Ids, wish: Option<PathBuf>, pid: i32) -> anyhow::Result<Plan> {
    let path = launch.path.clone();
    let mut prepared = launch.decide(&tree.facts(&path), ids, None)?;
    if let Some(wish) = wish.filter(|wish| spec::shows(&prepared.composed.spec, wish)) {
        launch.options.working_dir = Some(wish);
        prepared = launch.decide(&tree.facts(&path), ids, Some(prepared.host.who))?;
    }
    Ok(prepared.wanted.plan_in_instance(pid))
}
