//! Entering a user namespace with more ids than the caller's: only programs of the administrator's may write such maps.

use std::io::{self, Read, Write};
use std::process::{Command, Stdio};

use nix::sys::wait::waitpid;
use nix::unistd::Pid;

use super::{Error, namespace};
use crate::host::subordinate::{MAP_GROUPS, MAP_USERS, helper};
use crate::ids::{Ids, Range};
use crate::sys::process;

/// Says in the helper's report that a map has been written.
const DONE: &str = "done";

/// Enters a new user namespace with these maps, or with the caller's own ids alone in the place of a map that cannot be had.
/// Returns what it has become; `warn` is told what could not be had.
pub(super) fn enter(ids: &Ids, warn: &mut dyn FnMut(String)) -> Result<Ids, Error> {
    let mut ids = ids.clone();
    let (mut user, mut group) = (namespace::OwnId::Write, namespace::OwnId::Write);
    if ids.is_alone() {
        namespace::unshare_user()?;
    } else {
        let failed = |cause| Error::MapIds { file: "/proc/self/uid_map", cause };
        let helper = Helper::start(&ids).map_err(failed)?;
        namespace::unshare_user()?;
        let report = helper.map().map_err(failed)?;
        let mut take = |program: &str, map: &mut Vec<Range>, own: &mut namespace::OwnId| {
            if map.len() == 1 {
                return;
            }
            match report.iter().find_map(|(name, said)| (name == program).then_some(said.as_str())) {
                Some(DONE) => *own = namespace::OwnId::Written,
                said => {
                    map.truncate(1);
                    let said = said.unwrap_or("it ended without a word");
                    warn(format!("cannot map subordinate ids: {program}: {said}: going on with your own id alone"));
                }
            }
        };
        take(MAP_USERS, &mut ids.users, &mut user);
        take(MAP_GROUPS, &mut ids.groups, &mut group);
    }
    let [users, groups] = [&ids.users, &ids.groups].map(|map| map.first().copied().unwrap_or(Range::one(0, 0)));
    namespace::map_own((users, user), (groups, group))?;
    Ok(ids)
}

/// A process that stays in the parent namespace, where the programs have to be started.
struct Helper {
    child: Pid,
    go: io::PipeWriter,
    report: io::PipeReader,
}

impl Helper {
    fn start(ids: &Ids) -> io::Result<Self> {
        let (mut wait, go) = io::pipe()?;
        let mut go = Some(go);
        let (report, mut write) = io::pipe()?;
        let launcher = std::process::id();
        let child = process::spawn_child(|| {
            // The copy's, else it would wait for itself.
            drop(go.take());
            let mut word = [0];
            if !matches!(wait.read(&mut word), Ok(1)) {
                return 0;
            }
            for (program, map) in [(MAP_USERS, &ids.users), (MAP_GROUPS, &ids.groups)] {
                if map.len() > 1 {
                    let said =
                        write_map(program, launcher, map).map_or_else(|error| error.to_string(), |()| DONE.into());
                    let said = said.trim().replace(['\n', '\0'], "; ");
                    let _ = writeln!(write, "{program}\0{said}");
                }
            }
            0
        })?;
        let go = go.ok_or(io::ErrorKind::BrokenPipe)?;
        Ok(Self { child, go, report })
    }

    /// Has the maps of this process written, and returns for each program what it said.
    fn map(mut self) -> io::Result<Vec<(String, String)>> {
        self.go.write_all(&[1])?;
        let mut text = String::new();
        self.report.read_to_string(&mut text)?;
        // Its status says nothing more; where SIGCHLD is ignored there is none.
        let _ = waitpid(self.child, None);
        let pair = |line: &str| line.split_once('\0').map(|(name, said)| (name.to_owned(), said.to_owned()));
        Ok(text.lines().filter_map(pair).collect())
    }
}

fn write_map(program: &str, process: u32, map: &[Range]) -> io::Result<()> {
    let path = helper(program).ok_or_else(|| io::Error::other("it is not installed"))?;
    let mut command = Command::new(path);
    command.arg(process.to_string());
    command.args(map.iter().flat_map(|range| [range.inside, range.outside, range.length].map(|id| id.to_string())));
    let output = command.stdin(Stdio::null()).stdout(Stdio::null()).output()?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    let said = said.strip_prefix(&format!("{program}: ")).map_or(said.clone(), str::to_owned);
    Err(io::Error::other(if said.is_empty() { output.status.to_string() } else { said }))
}
