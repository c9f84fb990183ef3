//! Environment definition files, as CSCS's container engine has them: a TOML file that names an image and says how to run it.
//!
//! What the engine would do and this program does not is an error or a warning, never left out without a word.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use coracle_converter::Source;
use coracle_squashfs::format::MAGIC;

use crate::cli::{parse, units};
use crate::config::{Unexpandable, expand, expand_part};
use crate::options::{Bind, BindSource, EnvSetting, Options};

mod document;
#[cfg(test)]
mod tests;

use document::{Document, Located};

/// Before a name that is looked for in [`SEARCH`] and `~/.edf`.
pub const SCHEME: &str = "edf://";
/// Directories with colons between them.
pub const SEARCH: &str = "EDF_PATH";
/// What the files' names end in.
const EXTENSION: &str = "toml";
/// As many files may build on one another.
const LEVELS: usize = 10;
/// Annotations that switch a hook of the engine on: between these is its name.
const HOOK: (&str, &str) = ("com.hooks.", ".enabled");
/// Our own annotations are the specification's, and not a file's to set.
const OURS: &str = "org.coracle.";
/// Ends of image names that are files for sure.
const IMAGE_FILES: [&str; 4] = [".sqsh", ".sqfs", ".squashfs", ".sif"];

/// Looks up a variable of the caller.
type Lookup<'a> = &'a dyn Fn(&str) -> Option<OsString>;

/// Why an environment cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file cannot be read.
    #[error("cannot read environment {}: {cause}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        cause: io::Error,
    },
    /// A name that leads to no file.
    #[error("cannot find environment {name}: there is no {name}.{EXTENSION} in {places}")]
    Absent {
        /// As given.
        name: String,
        /// Where it was looked for.
        places: String,
    },
    /// Something in a file.
    #[error("cannot use environment {}: line {line}: {problem}", path.display())]
    At {
        /// The file.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// What is wrong there.
        problem: String,
    },
    /// No image in the file or its bases.
    #[error("cannot use environment {}: it names no image: write image = \"NAME:TAG\" or a path", path.display())]
    NoImage {
        /// The file.
        path: PathBuf,
    },
    /// `run` without arguments where the image's program is not to be run.
    #[error("cannot run environment {}: entrypoint = false leaves the image's program out; give a command", path.display())]
    NothingToRun {
        /// The file.
        path: PathBuf,
    },
}

/// What an environment definition file asks for.
#[derive(Debug)]
pub struct Environment {
    /// The file.
    pub path: PathBuf,
    /// An image argument.
    pub image: PathBuf,
    /// Mounts, variables, working directory, annotations.
    pub options: Options,
    /// Whether the image's entrypoint is run.
    pub entrypoint: bool,
    /// Whether the image can be written to, if the file says so.
    pub writable: Option<bool>,
    /// What is asked for and not done.
    pub warning: Option<String>,
}

/// The file that an image argument means, if it means an environment: `edf://NAME`, or a file `*.toml` that is no image.
///
/// # Errors
/// When there is no file of that name.
pub fn locate(word: &Path, value: Lookup<'_>) -> Result<Option<PathBuf>, Error> {
    let bytes = word.as_os_str().as_bytes();
    if let Some(name) = bytes.strip_prefix(SCHEME.as_bytes()) {
        return search(OsStr::from_bytes(name), value).map(Some);
    }
    if !bytes.ends_with(b".toml") {
        return Ok(None);
    }
    let mut head = [0; 4];
    let image = File::open(word).and_then(|mut file| file.read_exact(&mut head)).is_ok() && head == MAGIC.to_le_bytes();
    Ok((!image).then(|| word.to_path_buf()))
}

/// What is named in [`SEARCH`] first, then the caller's own.
fn search(name: &OsStr, value: Lookup<'_>) -> Result<PathBuf, Error> {
    let set = |name: &str| value(name).filter(|value| !value.is_empty());
    let mut places: Vec<PathBuf> = set(SEARCH).iter().flat_map(std::env::split_paths).collect();
    places.retain(|place| place.is_absolute());
    places.extend(set("HOME").map(|home| Path::new(&home).join(".edf")));
    let mut file = name.to_owned();
    file.push(".");
    file.push(EXTENSION);
    // A name, not a way to somewhere else.
    let plain = !name.is_empty() && !name.as_bytes().contains(&b'/');
    if let Some(found) = places.iter().map(|place| place.join(&file)).find(|path| plain && path.is_file()) {
        return Ok(found);
    }
    let list: Vec<_> = places.iter().map(|place| place.display().to_string()).collect();
    let places = if list.is_empty() { format!("{SEARCH}, which is not set") } else { list.join(", ") };
    Err(Error::Absent { name: name.to_string_lossy().into_owned(), places })
}

/// Reads an environment, with those that it builds on.
///
/// # Errors
/// When a file cannot be used; with the line.
pub fn read(path: &Path, value: Lookup<'_>) -> Result<Environment, Error> {
    let mut document = Document::default();
    collect(path, value, &mut Vec::new(), &mut document)?;
    let Some(image) = &document.image else { return Err(Error::NoImage { path: path.to_path_buf() }) };
    let mut options = Options::default();
    for mount in &document.mounts {
        options.binds.push(bind(mount, value)?);
    }
    for device in &document.devices {
        let text = device.expand(value)?;
        options.binds.push(parse::device(&text).map_err(|problem| device.error(&problem))?);
    }
    if let Some(workdir) = &document.workdir {
        options.working_dir = Some(absolute(workdir, &workdir.expand(value)?)?);
    }
    for (name, text) in &document.env {
        options.early_env.push(setting(name, text)?);
    }
    for (name, text) in &document.annotations {
        if name.starts_with(OURS) {
            return Err(text.error(&format!("annotations that begin with {OURS} are not a file's to set")));
        }
        let value = text.expand(value)?.to_string_lossy().into_owned();
        options.annotations.insert(name.clone(), value);
    }
    Ok(Environment {
        path: path.to_path_buf(),
        image: image_argument(image, &image.expand(value)?)?,
        entrypoint: document.entrypoint.unwrap_or(true),
        writable: document.writable,
        warning: not_done(path, &options.annotations),
        options,
    })
}

/// Bases first, so that what a file says itself counts more.
fn collect(path: &Path, value: Lookup<'_>, above: &mut Vec<PathBuf>, into: &mut Document) -> Result<(), Error> {
    let failed = |cause| Error::Read { path: path.to_path_buf(), cause };
    let text = std::fs::read_to_string(path).map_err(failed)?;
    let (bases, own) = document::parse(path, &text)?;
    above.push(path.canonicalize().map_err(failed)?);
    for base in bases {
        let name = base.expand(value)?;
        let path = match name.as_bytes() {
            [b'/' | b'.', ..] => PathBuf::from(name),
            bytes if bytes.ends_with(b".toml") => PathBuf::from(name),
            _ => search(&name, value).map_err(|error| base.error(&error))?,
        };
        if above.contains(&path.canonicalize().map_err(|cause| base.error(&format!("{}: {cause}", path.display())))?) {
            return Err(base.error(&format!("{} builds on itself", path.display())));
        }
        if above.len() >= LEVELS {
            return Err(base.error(&format!("more than {LEVELS} environments build on one another")));
        }
        collect(&path, value, above, into)?;
    }
    above.pop();
    into.extend(own);
    Ok(())
}

impl Located {
    /// Says what is wrong with it.
    fn error(&self, problem: &dyn std::fmt::Display) -> Error {
        Error::At { path: self.path.to_path_buf(), line: self.line, problem: problem.to_string() }
    }

    fn expand(&self, value: Lookup<'_>) -> Result<OsString, Error> {
        expand(&self.text, value).map_err(|problem| self.error(&problem))
    }
}

/// A path as the engine takes it: absolute, or relative to where the program is started when it begins with a dot.
fn absolute(at: &Located, text: &OsStr) -> Result<PathBuf, Error> {
    let path = Path::new(text);
    match text.as_bytes() {
        [b'/', ..] => Ok(path.to_path_buf()),
        [b'.', ..] => std::env::current_dir()
            .map(|cwd| cwd.join(path).components().collect())
            .map_err(|_| at.error(&format!("{} is relative, and the working directory is gone", path.display()))),
        [b'~', ..] => Err(at.error(&format!("{}: write ${{HOME}} for ~", path.display()))),
        _ => Err(at.error(&format!("{}: write an absolute path, or one that begins with ./", path.display()))),
    }
}

/// `[REGISTRY#]IMAGE[:TAG]`, or a file.
fn image_argument(at: &Located, text: &OsStr) -> Result<PathBuf, Error> {
    let bytes = text.as_bytes();
    let file = matches!(bytes, [b'/' | b'.' | b'~', ..]);
    let transport = text.to_string_lossy().contains("://");
    match (file, transport) {
        (true, _) => absolute(at, text),
        (_, true) => Ok(PathBuf::from(text)),
        _ if IMAGE_FILES.iter().any(|end| bytes.ends_with(end.as_bytes())) => Ok(PathBuf::from(text)),
        _ => {
            let reference = format!("docker://{}", text.to_string_lossy());
            reference.parse::<Source>().map_err(|problem| at.error(&problem))?;
            Ok(reference.into())
        }
    }
}

/// `SOURCE:DESTINATION[:FLAGS]`, with `+` between flags; `sqsh` alone shows what a squashfs file holds.
fn bind(mount: &Located, value: Lookup<'_>) -> Result<Bind, Error> {
    let text = expand_part(&mount.text, value).map_err(|problem| mount.error(&problem))?;
    let parts = parse::split(text.as_bytes(), b':', b":,\\", false);
    let (source, destination, flags) = match parts.as_slice() {
        [source, destination] => (source, destination, [].as_slice()),
        [source, destination, flags] => (source, destination, flags.as_slice()),
        _ => return Err(mount.error(&format!("{:?}: write SOURCE:DESTINATION[:FLAGS]", mount.text))),
    };
    let destination = absolute(mount, OsStr::from_bytes(destination))?;
    if destination.parent().is_none() {
        return Err(mount.error(&format!("{:?} would cover the whole image", mount.text)));
    }
    let flags: Vec<&[u8]> = flags.split(|c| b"+,".contains(c)).filter(|flag| !flag.is_empty()).collect();
    if source.as_slice() == b"tmpfs" {
        return memory(mount, destination, &flags);
    }
    let source = absolute(mount, OsStr::from_bytes(source))?;
    if flags == [b"sqsh"] {
        let source = BindSource::Image { file: source, inside: "/".into() };
        return Ok(Bind {
            source,
            destination: Some(destination),
            options: Vec::new(),
            optional: false,
            forced: false,
        });
    }
    let mut bind = Bind::of_host(source, Some(destination));
    add(mount, &mut bind, &flags)?;
    Ok(bind)
}

fn memory(mount: &Located, destination: PathBuf, flags: &[&[u8]]) -> Result<Bind, Error> {
    let (sizes, flags): (Vec<&[u8]>, Vec<&[u8]>) = flags.iter().partition(|flag| flag.starts_with(b"size="));
    let size = |size: &&[u8]| units::size(&String::from_utf8_lossy(&size[b"size=".len()..]));
    let size = sizes.last().map(size).transpose().map_err(|problem| mount.error(&problem))?;
    let source = BindSource::Empty { size };
    let mut bind = Bind { source, destination: Some(destination), options: Vec::new(), optional: false, forced: false };
    add(mount, &mut bind, &flags)?;
    Ok(bind)
}

fn add(mount: &Located, bind: &mut Bind, flags: &[&[u8]]) -> Result<(), Error> {
    for flag in flags {
        let text = String::from_utf8_lossy(flag);
        // An image's part is another key in these files, and a missing destination is always made.
        if text.starts_with("x-create=") {
            continue;
        }
        let known = !text.contains('=') && parse::add_option(bind, flag).is_some();
        if !known {
            let problem = format!(
                "{:?} has the flag {text:?}: use ro, rw, nosuid, nodev, noexec, bind, rbind, private, slave, or sqsh alone, with + between them",
                mount.text
            );
            return Err(mount.error(&problem));
        }
    }
    Ok(())
}

/// An empty value unsets. The image's variables are known when it is open.
fn setting(name: &str, text: &Located) -> Result<EnvSetting, Error> {
    if name.contains(['=', '*']) || parse::setting(name.as_bytes()).is_none() {
        return Err(text.error(&format!("{name:?} is no name of a variable")));
    }
    if text.text.is_empty() {
        return Ok(EnvSetting::Unset(name.into()));
    }
    // A mistake in it is one whatever the variables are.
    if let Err(problem @ Unexpandable::Syntax { .. }) = expand(&text.text, &|_| None) {
        return Err(text.error(&problem));
    }
    let origin = format!("cannot set {name} as line {} of environment {} says", text.line, text.path.display());
    Ok(EnvSetting::Expand { name: name.into(), text: text.text.clone(), origin })
}

/// The engine's hooks that are switched on, none of which there is here.
fn not_done(path: &Path, annotations: &BTreeMap<String, String>) -> Option<String> {
    let on = |(name, value): (&String, &String)| {
        let hook = name.strip_prefix(HOOK.0)?.strip_suffix(HOOK.1)?;
        value.eq_ignore_ascii_case("true").then(|| hook.to_owned())
    };
    let hooks: Vec<String> = annotations.iter().filter_map(on).collect();
    (!hooks.is_empty()).then(|| {
        format!(
            "environment {}: hooks that are not supported yet: {}; starting without them",
            path.display(),
            hooks.join(", ")
        )
    })
}
