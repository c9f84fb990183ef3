//! Binds, and what else decides what a container shows where.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use super::{Error, split};
use crate::cli::units;
use crate::options::{Bind, BindSource, DefaultMount, Home, Layer};

/// Parses `SOURCE[:DESTINATION[:OPTIONS]]`, several of them joined by commas; `\:` and `\,` are literal. A comma after which
/// only mount options follow is one of the list of options.
///
/// # Errors
/// An [`Error`] that names the part which is wrong.
pub fn binds(value: &OsStr) -> Result<Vec<Bind>, Error> {
    let mut pieces: Vec<Vec<u8>> = Vec::new();
    for piece in split(value.as_bytes(), b',', b",:\\", true) {
        match pieces.last_mut() {
            // `/a:/b:ro,nosuid` is one bind; a source called `ro` is written `./ro`.
            Some(last) if is_option(&piece) && split(last, b':', b",:\\", true).len() > 2 => {
                last.push(b',');
                last.extend_from_slice(&piece);
            }
            _ => pieces.push(piece),
        }
    }
    pieces.into_iter().map(|one| bind(&one)).collect()
}

/// Options of a bind, by the names that the runtime specification has for them.
const BIND_OPTIONS: [&str; 18] = [
    "ro",
    "rw",
    "nosuid",
    "suid",
    "nodev",
    "dev",
    "noexec",
    "exec",
    "bind",
    "rbind",
    "private",
    "rprivate",
    "slave",
    "rslave",
    "noatime",
    "nodiratime",
    "relatime",
    "strictatime",
];
const IMAGE_SOURCE: &[u8] = b"image-src=";

fn is_option(word: &[u8]) -> bool {
    BIND_OPTIONS.iter().any(|option| option.as_bytes() == word) || word.starts_with(IMAGE_SOURCE)
}

fn bind(value: &[u8]) -> Result<Bind, Error> {
    let whole = || OsString::from_vec(value.to_vec());
    let mut parts = split(value, b':', b",:\\", false).into_iter().map(OsString::from_vec);
    let source = match parts.next() {
        Some(source) if !source.is_empty() => PathBuf::from(source),
        _ => return Err(Error::BindSource { value: whole() }),
    };
    let destination = parts.next().filter(|part| !part.is_empty()).map(PathBuf::from);
    check_destination(destination.as_deref(), &source, &whole)?;
    let mut bind = Bind::of_host(source, destination);
    for option in parts.flat_map(|part| split(part.as_bytes(), b',', b"", false)).filter(|option| !option.is_empty()) {
        add_option(&mut bind, &option)
            .ok_or_else(|| Error::BindOption { value: whole(), option: OsString::from_vec(option) })?;
    }
    Ok(bind)
}

fn check_destination(destination: Option<&Path>, source: &Path, whole: &dyn Fn() -> OsString) -> Result<(), Error> {
    match destination {
        Some(path) if !path.is_absolute() => {
            Err(Error::BindDestination { value: whole(), destination: path.to_path_buf() })
        }
        Some(path) if is_root(path) => Err(Error::BindRoot { value: whole() }),
        None if is_root(source) => Err(Error::BindRoot { value: whole() }),
        _ => Ok(()),
    }
}

pub(crate) fn add_option(bind: &mut Bind, option: &[u8]) -> Option<()> {
    if let Some(inside) = option.strip_prefix(IMAGE_SOURCE) {
        let BindSource::Host(file) = &bind.source else { return None };
        let inside = PathBuf::from(OsString::from_vec(inside.to_vec()));
        bind.source = BindSource::Image { file: file.clone(), inside: Path::new("/").join(inside) };
        return Some(());
    }
    let option = BIND_OPTIONS.iter().find(|known| known.as_bytes() == option)?;
    bind.options.push((*option).to_owned());
    Some(())
}

/// Parses Docker's and Apptainer's `--mount`: `type=bind|tmpfs`, `source` (`src`), `destination` (`dst`, `target`), `ro`
/// (`readonly`), `image-src`, `bind-propagation`, `bind-nonrecursive`, `tmpfs-size`; a value in double quotes may have commas.
///
/// # Errors
/// [`Error::MountKeys`], and those of a bind.
pub fn mount(value: &OsStr) -> Result<Bind, Error> {
    let wrong = |problem: String| Error::MountKeys { value: value.to_owned(), problem };
    let mut kind = None;
    let (mut source, mut destination, mut size) = (None, None, None);
    let mut words: Vec<Vec<u8>> = Vec::new();
    for field in fields(value.as_bytes()) {
        let (key, content) = match field.iter().position(|byte| *byte == b'=') {
            Some(at) => (field[..at].to_vec(), field[at + 1..].to_vec()),
            None => (field, Vec::new()),
        };
        let path = || PathBuf::from(OsString::from_vec(content.clone()));
        let text = || String::from_utf8_lossy(&content).into_owned();
        match key.as_slice() {
            b"type" => kind = Some(text()),
            b"source" | b"src" => source = Some(path()),
            b"destination" | b"dst" | b"target" => destination = Some(path()),
            b"ro" | b"readonly" if !matches!(content.as_slice(), b"" | b"true" | b"1") => words.push(b"rw".to_vec()),
            b"ro" | b"readonly" => words.push(b"ro".to_vec()),
            b"rw" => words.push(b"rw".to_vec()),
            b"bind-propagation" => words.push(content),
            b"bind-nonrecursive" if matches!(content.as_slice(), b"" | b"true" | b"1") => words.push(b"bind".to_vec()),
            b"bind-nonrecursive" => {}
            b"image-src" => words.push([IMAGE_SOURCE, &content].concat()),
            b"tmpfs-size" => size = Some(units::size(&text())?),
            _ => return Err(wrong(format!("there is no key {}", String::from_utf8_lossy(&key)))),
        }
    }
    let whole = || value.to_owned();
    let mut bind = match (kind.as_deref(), source) {
        (Some("bind"), Some(source)) => {
            check_destination(destination.as_deref(), &source, &whole)?;
            Bind::of_host(source, destination)
        }
        (Some("bind"), None) => return Err(wrong("it has no source".to_owned())),
        (Some("tmpfs"), None) => {
            let destination = destination.ok_or_else(|| wrong("it has no destination".to_owned()))?;
            check_destination(Some(&destination), Path::new("."), &whole)?;
            let source = BindSource::Empty { size };
            Bind { source, destination: Some(destination), options: Vec::new(), optional: false, forced: false }
        }
        (Some("tmpfs"), Some(_)) => return Err(wrong("a tmpfs has no source".to_owned())),
        (Some(other), _) => return Err(wrong(format!("there is no type {other}"))),
        (None, _) => return Err(wrong("it has no type".to_owned())),
    };
    for word in words {
        let unknown = || wrong(format!("{} is no option of it", String::from_utf8_lossy(&word)));
        add_option(&mut bind, &word).ok_or_else(unknown)?;
    }
    Ok(bind)
}

/// Fields of a line of comma-separated values.
fn fields(line: &[u8]) -> Vec<Vec<u8>> {
    let mut fields = vec![Vec::new()];
    let mut quoted = false;
    for byte in line {
        match (byte, fields.last_mut()) {
            (b'"', _) => quoted = !quoted,
            (b',', _) if !quoted => fields.push(Vec::new()),
            (byte, Some(field)) => field.push(*byte),
            (_, None) => {}
        }
    }
    fields
}

/// Parses `DEVICE[:DESTINATION[:rwm]]`.
///
/// # Errors
/// [`Error::Device`]
pub fn device(value: &OsStr) -> Result<Bind, Error> {
    let refused = || Error::Device { value: value.to_owned() };
    let parts: Vec<Vec<u8>> = split(value.as_bytes(), b':', b":\\", false);
    let path =
        |bytes: &Vec<u8>| Some(PathBuf::from(OsString::from_vec(bytes.clone()))).filter(|path| path.is_absolute());
    let (source, rest) = parts.split_first().ok_or_else(refused)?;
    let source = path(source).filter(|path| path.starts_with("/dev")).ok_or_else(refused)?;
    let destination = match rest {
        [] => None,
        [destination] => Some(path(destination).ok_or_else(refused)?),
        [destination, access] if access.iter().all(|letter| b"rwm".contains(letter)) => {
            Some(path(destination).ok_or_else(refused)?)
        }
        _ => return Err(refused()),
    };
    Ok(Bind::of_host(source, destination))
}

/// Parses a list of directories of the container.
///
/// # Errors
/// [`Error::Scratch`]
pub fn scratch(value: &OsStr) -> Result<Vec<PathBuf>, Error> {
    let refused = || Error::Scratch { value: value.to_owned() };
    let paths =
        split(value.as_bytes(), b',', b",\\", false).into_iter().map(|path| PathBuf::from(OsString::from_vec(path)));
    paths.map(|path| if path.is_absolute() && !is_root(&path) { Ok(path) } else { Err(refused()) }).collect()
}

/// Parses `PATH[:ro|:rw]`.
///
/// # Errors
/// [`Error::Overlay`]
pub fn overlay(value: &OsStr) -> Result<Layer, Error> {
    let refused = || Error::Overlay { value: value.to_owned() };
    let parts = split(value.as_bytes(), b':', b":\\", false);
    let read_only = match parts.get(1..).unwrap_or_default() {
        [] => false,
        [word] if word == b"ro" => true,
        [word] if word == b"rw" => false,
        _ => return Err(refused()),
    };
    let path = parts.into_iter().next().filter(|path| !path.is_empty()).ok_or_else(refused)?;
    Ok(Layer::At { path: PathBuf::from(OsString::from_vec(path)), read_only })
}

/// Parses `SOURCE[:DESTINATION]`.
///
/// # Errors
/// [`Error::Home`] when the destination is relative or `/`, [`Error::BindSource`] when the source is empty.
pub fn home(value: &OsStr) -> Result<Home, Error> {
    let mut parts = split(value.as_bytes(), b':', b":\\", false).into_iter().map(OsString::from_vec);
    let source = match parts.next() {
        Some(source) if !source.is_empty() => PathBuf::from(source),
        _ => return Err(Error::BindSource { value: value.to_owned() }),
    };
    let destination = parts.next().filter(|part| !part.is_empty()).map(PathBuf::from);
    match &destination {
        Some(path) if !path.is_absolute() || is_root(path) => {
            Err(Error::Home { value: value.to_owned(), destination: path.clone() })
        }
        None if is_root(&source) => Err(Error::Home { value: value.to_owned(), destination: source }),
        _ => Ok(Home::At { source, destination }),
    }
}

/// Parses a comma list of default mounts.
///
/// # Errors
/// [`Error::Mount`] for a name that is none of them.
pub fn no_mount(value: &OsStr) -> Result<Vec<DefaultMount>, Error> {
    let mut mounts = Vec::new();
    for name in value.as_bytes().split(|byte| *byte == b',') {
        mounts.push(match name {
            b"proc" => DefaultMount::Proc,
            b"sys" => DefaultMount::Sys,
            b"dev" => DefaultMount::Dev,
            b"devpts" => DefaultMount::Devpts,
            b"tmp" => DefaultMount::Tmp,
            b"home" => DefaultMount::Home,
            b"cwd" => DefaultMount::Cwd,
            b"bind-paths" => DefaultMount::BindPaths,
            // Apptainer's name for other file systems of the host, of which none is mounted by default.
            b"hostfs" => continue,
            [b'/', ..] => DefaultMount::Path(PathBuf::from(OsString::from_vec(name.to_vec()))),
            _ => return Err(Error::Mount { name: OsString::from_vec(name.to_vec()) }),
        });
    }
    Ok(mounts)
}

fn is_root(path: &Path) -> bool {
    path.is_absolute() && path.components().count() == 1
}
