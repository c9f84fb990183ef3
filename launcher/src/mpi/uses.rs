//! Which MPI library a program uses, as far as its files tell.

use std::io;
use std::path::{Path, PathBuf};

use coracle_mpi_hooks::files;
use coracle_mpi_hooks::libraries::Abi;
use coracle_mpi_hooks::mpi::{self, Mpi, Search};
use oci_spec::runtime::Spec;
use serde::{Deserialize, Serialize};

use super::shown::Shown;
use super::{Error, program, variable};
use crate::image::Tree;
use crate::session::Fingerprint;

/// What a session remembers it under.
const NOTE: &str = "mpi";
/// Programs that start others, or load libraries at will. Versions and such may follow the name: `python3.11`.
const OPEN_ENDED: [&str; 27] = [
    "R", "Rscript", "ash", "bash", "busybox", "conda", "csh", "dash", "env", "fish", "gdb", "java", "julia", "ksh",
    "lua", "nice", "node", "numactl", "octave", "perl", "python", "ruby", "sh", "strace", "taskset", "time", "zsh",
];
/// First bytes of what names its interpreter.
const SCRIPT: &[u8] = b"#!";

/// What a program uses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Uses {
    /// No MPI library, as it is bound to none.
    Nothing,
    /// This one, which it is bound to.
    Library(Mpi),
    /// Perhaps one of these, which the image has: it can start or load what it wants.
    Perhaps(Vec<Mpi>),
}

/// Of a launch's program. An earlier launch's conclusion is used where all of it rests on the image.
pub(super) fn remembered(spec: &Spec, tree: &dyn Tree) -> Result<(PathBuf, Uses), Error> {
    let key = key(spec);
    if let Some((of, program, uses)) = tree.note(NOTE).and_then(|note| postcard::from_bytes::<Note>(note).ok())
        && of == key
    {
        return Ok((program, uses));
    }
    let shown = Shown::new(tree, spec);
    let (program, uses) = look(spec, &shown)?;
    let of_image = match &uses {
        Uses::Nothing => true,
        Uses::Library(mpi) => shown.on_host(&mpi.path).is_none(),
        Uses::Perhaps(mpis) => mpis.iter().all(|mpi| shown.on_host(&mpi.path).is_none()),
    };
    // What is of the host may be another by the next launch.
    if of_image
        && shown.on_host(&program).is_none()
        && let Ok(note) = postcard::to_stdvec(&(key, &program, &uses))
    {
        tree.keep_note(NOTE, note);
    }
    Ok((program, uses))
}

type Note = ([u8; 16], PathBuf, Uses);

/// Stands for what a conclusion depends on besides the image.
fn key(spec: &Spec) -> [u8; 16] {
    let mut print = Fingerprint::new();
    let process = spec.process().as_ref();
    let first = process.and_then(|process| process.args().as_ref()?.first().cloned()).unwrap_or_default();
    print.bytes(first.as_bytes());
    print.bytes(process.map(|process| process.cwd().as_os_str().as_encoded_bytes()).unwrap_or_default());
    for name in ["PATH", "LD_LIBRARY_PATH"].into_iter().chain(mpi::PREFIX_VARIABLES) {
        print.bytes(variable(spec, name).unwrap_or_default().as_bytes());
    }
    for mount in spec.mounts().iter().flatten() {
        print.bytes(mount.destination().as_os_str().as_encoded_bytes());
        print.bytes(mount.source().as_ref().map(|source| source.as_os_str().as_encoded_bytes()).unwrap_or_default());
    }
    print.finish()
}

/// Looks, in any case.
pub(super) fn look(spec: &Spec, shown: &Shown<'_>) -> Result<(PathBuf, Uses), Error> {
    let first = || spec.process().as_ref().and_then(|process| process.args().as_ref()?.first().cloned());
    let name = PathBuf::from(first().unwrap_or_default());
    let failed = |cause| Error::Look { program: name.clone(), cause };
    // What is not there fails in its own way.
    let Some(path) = program(spec, shown).map_err(failed)? else { return Ok((name, Uses::Nothing)) };
    let search = search(spec);
    let uses = of_file(shown, &path, &search).map_err(failed)?;
    Ok((path, uses))
}

/// Where the container's programs look for libraries.
pub(super) fn search(spec: &Spec) -> Search {
    Search::of(Abi::OWN, |name| variable(spec, name))
}

fn of_file(shown: &Shown<'_>, path: &Path, search: &Search) -> io::Result<Uses> {
    let Some(real) = files::file(shown, path)? else { return Ok(Uses::Nothing) };
    let loader = search.loader(shown)?;
    if let Some(mpi) = mpi::of_program(&loader, shown, &real)? {
        return Ok(Uses::Library(mpi));
    }
    let script = files::content(shown, &real, SCRIPT.len())?.is_some_and(|start| start == SCRIPT);
    if script || is_open_ended(path) || is_open_ended(&real) {
        let mpis = mpi::find_with(&loader, shown, search)?;
        return Ok(if mpis.is_empty() { Uses::Nothing } else { Uses::Perhaps(mpis) });
    }
    Ok(Uses::Nothing)
}

/// Whether a program can come to use any library.
fn is_open_ended(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let plain = name.trim_end_matches(|letter: char| letter.is_ascii_digit() || letter == '.' || letter == '-');
    OPEN_ENDED.contains(&name) || OPEN_ENDED.contains(&plain)
}
