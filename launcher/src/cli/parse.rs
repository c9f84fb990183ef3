//! Values of options that clap has no type for: binds, environment settings, home, lists of mounts.
//!
//! Everything works on bytes, because paths and values need not be UTF-8.

use std::ffi::{OsStr, OsString};
use std::net::IpAddr;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use coracle_squashfs::compress::Compression;
use coracle_squashfs::format::{BLOCK_SIZE_MAX, BLOCK_SIZE_MIN};

use crate::cdi::Name;
use crate::gpu::table::Vendor;
use crate::options::{Bind, BindSource, DefaultMount, EnvSetting, Gpu, Home, Layer, Missing};

/// Why an option's value was refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Error {
    /// A bind without a source.
    #[error("bind {value:?} names no source: write SOURCE[:DESTINATION[:ro|rw]]")]
    BindSource {
        /// As given.
        value: OsString,
    },
    /// A bind whose destination is relative.
    #[error("bind {value:?} has the destination {destination:?}: write an absolute path")]
    BindDestination {
        /// As given.
        value: OsString,
        /// The offending part.
        destination: PathBuf,
    },
    /// A bind over `/`.
    #[error("bind {value:?} would cover the whole image: choose a destination below /")]
    BindRoot {
        /// As given.
        value: OsString,
    },
    /// An unknown third part of a bind.
    #[error(
        "bind {value:?} has the unknown option {option:?}: use ro, rw, nosuid, nodev, noexec, bind, rbind, a propagation such as rslave, \
         or image-src=PATH"
    )]
    BindOption {
        /// As given.
        value: OsString,
        /// The offending part.
        option: OsString,
    },
    /// A setting without a name.
    #[error("environment setting {value:?} has no valid name: write NAME=VALUE, or NAME to take the host's value")]
    Env {
        /// As given.
        value: OsString,
    },
    /// A home that is no absolute path inside.
    #[error("home {value:?} has the destination {destination:?}: write an absolute path below /")]
    Home {
        /// As given.
        value: OsString,
        /// The offending part.
        destination: PathBuf,
    },
    /// No size.
    #[error("{value:?} is no size: write a number and K, M, G or T, like 50G")]
    Size {
        /// As given.
        value: String,
    },
    /// No age.
    #[error("{value:?} is no age: write a number and s, m, h, d or w, like 30d")]
    Age {
        /// As given.
        value: String,
    },
    /// An unknown codec, or a level that it does not have.
    #[error("no such compression: use zstd, zstd:1 to zstd:22, gzip, gzip:1 to gzip:9, lz4 or xz")]
    Compression,
    /// A block size that squashfs does not have.
    #[error("no such block size: use a power of two from 4K to 1M")]
    BlockSize,
    /// A `--mount` that is not understood.
    #[error(
        "mount {value:?}: {problem}; write type=bind,source=SOURCE,destination=DESTINATION[,ro], or type=tmpfs,destination=DESTINATION"
    )]
    MountKeys {
        /// As given.
        value: OsString,
        /// What is wrong.
        problem: String,
    },
    /// A device that is none.
    #[error(
        "device {value:?}: write the absolute path of a device, like /dev/fuse[:DESTINATION], or the name of a CDI device, like nvidia.com/gpu=all; coracle cdi list shows them"
    )]
    Device {
        /// As given.
        value: OsString,
    },
    /// A name that looks like a CDI device's and is none.
    #[error("device {0}")]
    CdiDevice(#[from] crate::cdi::Unqualified),
    /// No annotation.
    #[error("annotation {value:?}: write NAME=VALUE; names that begin with org.coracle. are taken")]
    Annotation {
        /// As given.
        value: OsString,
    },
    /// A directory that is not absolute.
    #[error("scratch directory {value:?}: write an absolute path below /")]
    Scratch {
        /// As given.
        value: OsString,
    },
    /// An overlay without a path, or with an unknown option.
    #[error("overlay {value:?}: write PATH or PATH:ro")]
    Overlay {
        /// As given.
        value: OsString,
    },
    /// No host name.
    #[error("{value:?} is no host name: use letters, digits, dots and dashes, at most 64")]
    Hostname {
        /// As given.
        value: String,
    },
    /// No address.
    #[error("{value:?} is no address of a name server: write one like 192.0.2.53 or 2001:db8::53")]
    Address {
        /// As given.
        value: String,
    },
    /// No capability.
    #[error("{value:?} is no capability: write a name of capabilities(7), like CAP_NET_RAW, or ALL")]
    Capability {
        /// As given.
        value: String,
    },
    /// Of several filters, one would be left out.
    #[error("cannot use two seccomp profiles, {} and {second:?}: put what both refuse into one", first.display())]
    Securities {
        /// The file of the first.
        first: PathBuf,
        /// As given.
        second: OsString,
    },
    /// A restriction of another kind.
    #[error("security {value:?}: write seccomp:FILE; labels of SELinux and AppArmor are not changed")]
    Security {
        /// As given.
        value: OsString,
    },
    /// No choice of GPUs.
    #[error("gpu {value:?}: use auto, off, nvidia, amd or intel; CDI devices are asked for with --device")]
    Gpu {
        /// As given.
        value: OsString,
    },
    /// A choice of MPI that this version does not have.
    #[error("mpi {value:?}: use container or off; this version does not bring the host's MPI into the container")]
    Mpi {
        /// As given.
        value: String,
    },
    /// A network that only root could make.
    #[error(
        "network {value:?}: without privileges there is only none, a loopback device; leave --net out for the host's network"
    )]
    Network {
        /// As given.
        value: String,
    },
    /// An unknown default mount.
    #[error(
        "no default mount is called {name:?}: use proc, sys, dev, devpts, tmp, home, cwd, bind-paths, hostfs or an absolute path"
    )]
    Mount {
        /// The offending part.
        name: OsString,
    },
}

/// Splits at each `separator` that no backslash precedes; the backslashes that protect one are removed.
pub(crate) fn split(value: &[u8], separator: u8, escapable: &[u8], keep_escapes: bool) -> Vec<Vec<u8>> {
    let mut parts = vec![Vec::new()];
    let mut bytes = value.iter().copied().peekable();
    while let Some(byte) = bytes.next() {
        let escaped = (byte == b'\\').then(|| bytes.next_if(|next| escapable.contains(next))).flatten();
        match (escaped, parts.last_mut()) {
            (Some(next), Some(part)) => {
                if keep_escapes {
                    part.push(byte);
                }
                part.push(next);
            }
            (None, Some(_)) if byte == separator => parts.push(Vec::new()),
            (None, Some(part)) => part.push(byte),
            (_, None) => {}
        }
    }
    parts
}

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
            b"tmpfs-size" => size = Some(super::units::size(&text())?),
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

/// Parses a list of names of CDI devices; `None` when it is none.
///
/// # Errors
/// [`Error::CdiDevice`]
pub fn cdi_devices(value: &OsStr) -> Result<Option<Vec<Name>>, Error> {
    let Some(text) = value.to_str().filter(|text| !text.starts_with('/') && text.contains('=')) else {
        return Ok(None);
    };
    Ok(Some(text.split(',').map(Name::parse).collect::<Result<_, _>>()?))
}

/// Parses `NAME=VALUE`.
///
/// # Errors
/// [`Error::Annotation`]
pub fn annotation(value: &OsStr) -> Result<(String, String), Error> {
    let refused = || Error::Annotation { value: value.to_owned() };
    let (name, content) = value.to_str().and_then(|text| text.split_once('=')).ok_or_else(refused)?;
    // What the program itself says to its engine is said by these.
    if name.is_empty() || name.starts_with("org.coracle.") {
        return Err(refused());
    }
    Ok((name.to_owned(), content.to_owned()))
}

/// Parses a list of GPU drivers into what is asked for. `off` takes back what came before.
///
/// # Errors
/// [`Error::Gpu`]
pub fn gpu(value: &OsStr, gpu: &mut Gpu) -> Result<(), Error> {
    let refused = || Error::Gpu { value: value.to_owned() };
    for word in value.to_str().ok_or_else(refused)?.split(',') {
        match word {
            "auto" => Vendor::ALL.into_iter().for_each(|vendor| gpu.ask(vendor, Missing::Silent)),
            "off" => *gpu = Gpu { alone: true, ..Gpu::default() },
            "nvidia" => gpu.ask(Vendor::Nvidia, Missing::Fail),
            "amd" => gpu.ask(Vendor::Amd, Missing::Fail),
            "intel" => gpu.ask(Vendor::Intel, Missing::Fail),
            _ => return Err(refused()),
        }
    }
    Ok(())
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

/// Checks a host name.
///
/// # Errors
/// [`Error::Hostname`]
pub fn hostname(value: &str) -> Result<String, Error> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-.".contains(&byte);
    let valid = (1..=64).contains(&value.len()) && !value.starts_with('-') && value.bytes().all(plain);
    if valid { Ok(value.to_owned()) } else { Err(Error::Hostname { value: value.to_owned() }) }
}

/// Parses a list of addresses.
///
/// # Errors
/// [`Error::Address`]
pub fn addresses(value: &str) -> Result<Vec<IpAddr>, Error> {
    let address = |text: &str| text.trim().parse().map_err(|_| Error::Address { value: text.to_owned() });
    value.split(',').map(address).collect()
}

/// A list of names, or patterns of names.
#[must_use]
pub fn names(value: &OsStr) -> Vec<OsString> {
    let names = value.as_bytes().split(|byte| *byte == b',').filter(|name| !name.is_empty());
    names.map(|name| OsString::from_vec(name.to_vec())).collect()
}

/// All capabilities.
pub const ALL: &str = "ALL";
/// By number, as capabilities(7) names them.
pub const CAPABILITIES: [&str; 41] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
];

/// Parses a list of capabilities, in any case and with or without `CAP_`.
///
/// # Errors
/// [`Error::Capability`]
pub fn capabilities(value: &str) -> Result<Vec<String>, Error> {
    let one = |text: &str| {
        let name = text.trim().to_ascii_uppercase();
        if name == ALL {
            return Ok(name);
        }
        let name = if name.starts_with("CAP_") { name } else { format!("CAP_{name}") };
        if CAPABILITIES.contains(&name.as_str()) { Ok(name) } else { Err(Error::Capability { value: text.to_owned() }) }
    };
    value.split(',').map(one).collect()
}

/// Parses `seccomp:FILE`.
///
/// # Errors
/// [`Error::Security`]
pub fn security(value: &OsStr) -> Result<PathBuf, Error> {
    let file = value.as_bytes().strip_prefix(b"seccomp:").filter(|file| !file.is_empty());
    let file = file.ok_or_else(|| Error::Security { value: value.to_owned() })?;
    Ok(PathBuf::from(OsString::from_vec(file.to_vec())))
}

fn is_root(path: &Path) -> bool {
    path.is_absolute() && path.components().count() == 1
}

/// Parses `NAME=VALUE[,NAME=VALUE…]` or `NAME`. A comma that no `NAME=` follows is part of the value, so that
/// `UCX_TLS=rc,self` is one setting.
///
/// # Errors
/// [`Error::Env`] when a name is empty or holds bytes that no variable name has.
pub fn env(value: &OsStr) -> Result<Vec<EnvSetting>, Error> {
    let mut pieces: Vec<Vec<u8>> = Vec::new();
    for piece in value.as_bytes().split(|byte| *byte == b',') {
        let starts = piece.iter().position(|byte| *byte == b'=').is_some_and(|at| is_name(&piece[..at]));
        match pieces.last_mut() {
            Some(last) if !starts => {
                last.push(b',');
                last.extend_from_slice(piece);
            }
            _ => pieces.push(piece.to_vec()),
        }
    }
    pieces.iter().map(|piece| setting(piece).ok_or_else(|| Error::Env { value: value.to_owned() })).collect()
}

/// One setting, taken literally.
pub(crate) fn setting(line: &[u8]) -> Option<EnvSetting> {
    match line.iter().position(|byte| *byte == b'=') {
        Some(at) if is_settable(&line[..at]) => {
            let (name, value) = (line[..at].to_vec(), line[at + 1..].to_vec());
            Some(EnvSetting::Set(OsString::from_vec(name), OsString::from_vec(value)))
        }
        None if is_settable(line) => Some(EnvSetting::Inherit(OsString::from_vec(line.to_vec()))),
        _ => None,
    }
}

/// Whether a shell could have set the name; what follows a comma must look like this to start a new setting.
fn is_name(name: &[u8]) -> bool {
    name.first().is_some_and(|byte| byte.is_ascii_alphabetic() || *byte == b'_')
        && name.iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'_')
}

/// Whether the environment can hold the name at all, which is more than what shells can set.
fn is_settable(name: &[u8]) -> bool {
    !name.is_empty() && !name.iter().any(|byte| byte.is_ascii_whitespace() || *byte == 0)
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

/// Parses `CODEC[:LEVEL]`; without a level it is gzip's highest, and for zstd the converter's default.
///
/// # Errors
/// [`Error::Compression`]
pub fn compression(value: &str) -> Result<Compression, Error> {
    let (codec, level) = match value.split_once(':') {
        Some((codec, level)) => (codec, Some(level.parse::<u32>().map_err(|_| Error::Compression)?)),
        None => (value, None),
    };
    match (codec, level) {
        ("zstd", None) => Ok(Compression::default()),
        ("zstd", Some(level)) => ranged(level, 22).map(|level| Compression::Zstd { level }),
        ("gzip", level) => ranged(level.unwrap_or(9), 9).map(|level| Compression::Gzip { level }),
        ("lz4", None) => Ok(Compression::Lz4),
        ("xz", None) => Ok(Compression::Xz),
        _ => Err(Error::Compression),
    }
}

fn ranged(level: u32, max: u32) -> Result<u32, Error> {
    if (1..=max).contains(&level) { Ok(level) } else { Err(Error::Compression) }
}

/// Parses a number of bytes, with `K` or `M` for the powers of 1024.
///
/// # Errors
/// [`Error::BlockSize`]
pub fn block_size(value: &str) -> Result<u32, Error> {
    let (digits, unit) = match value.strip_suffix(['k', 'K']) {
        Some(digits) => (digits, 1 << 10),
        None => value.strip_suffix(['m', 'M']).map_or((value, 1), |digits| (digits, 1 << 20)),
    };
    let size = digits.parse::<u32>().ok().and_then(|number| number.checked_mul(unit)).ok_or(Error::BlockSize)?;
    let valid = size.is_power_of_two() && (BLOCK_SIZE_MIN..=BLOCK_SIZE_MAX).contains(&size);
    if valid { Ok(size) } else { Err(Error::BlockSize) }
}

/// Parses a file of settings: one a line, empty lines and lines that start with `#` skipped, an `export ` before the
/// name and a pair of quotes around the value removed; nothing is expanded. The error is the number of the bad line.
///
/// # Errors
/// The number, from 1, of the first line that is no setting.
pub fn env_file(content: &[u8]) -> Result<Vec<EnvSetting>, usize> {
    let mut settings = Vec::new();
    for (number, line) in content.split(|byte| *byte == b'\n').enumerate() {
        let line = line.trim_ascii();
        if line.is_empty() || line.starts_with(b"#") {
            continue;
        }
        let line = line.strip_prefix(b"export ").unwrap_or(line).trim_ascii_start();
        match setting(line) {
            Some(EnvSetting::Set(name, value)) => settings.push(EnvSetting::Set(name, unquote(value))),
            Some(inherit) => settings.push(inherit),
            None => return Err(number + 1),
        }
    }
    Ok(settings)
}

fn unquote(value: OsString) -> OsString {
    match value.as_bytes() {
        [b'"', inner @ .., b'"'] | [b'\'', inner @ .., b'\''] => OsString::from_vec(inner.to_vec()),
        _ => value,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bind_of(source: &str, destination: Option<&str>, read_only: bool) -> Bind {
        let options = if read_only { vec!["ro".to_owned()] } else { Vec::new() };
        Bind { options, ..Bind::of_host(source, destination.map(PathBuf::from)) }
    }

    fn raw_source() -> OsString {
        OsString::from_vec(b"/\xff".to_vec())
    }

    #[test]
    fn mounts_are_read_by_keys() {
        let parse = |value: &str| mount(OsStr::new(value));
        let bind = parse("type=bind,\"source=/a,b\",dst=/c,ro,bind-propagation=rslave").unwrap();
        assert_eq!(bind.source, BindSource::Host("/a,b".into()));
        assert_eq!((bind.destination, bind.options), (Some("/c".into()), vec!["ro".into(), "rslave".into()]));
        let tmpfs = parse("type=tmpfs,target=/t,tmpfs-size=1M").unwrap();
        assert_eq!(tmpfs.source, BindSource::Empty { size: Some(1 << 20) });
        for bad in [
            "source=/a",
            "type=bind,dst=/b",
            "type=tmpfs",
            "type=bind,src=/a,x=1",
            "type=volume,src=a,dst=/b",
            "type=bind,src=/a,dst=/",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn gpus_are_chosen() {
        let choose = |words: &[&str]| {
            let mut asked = Gpu::default();
            words.iter().try_for_each(|word| gpu(OsStr::new(word), &mut asked)).map(|()| asked)
        };
        assert_eq!(choose(&["auto"]), Ok(Gpu::auto()));
        assert_eq!(choose(&["auto", "off"]).unwrap().over(Gpu::auto()).asked.len(), 0, "a profile has no say");
        assert_eq!(choose(&["intel"]).unwrap().over(Gpu::auto()).asked.len(), 3);
        let strict = choose(&["nvidia,auto"]).unwrap();
        assert_eq!((strict.asked[&Vendor::Nvidia], strict.asked[&Vendor::Amd]), (Missing::Fail, Missing::Silent));
        assert!(choose(&["all"]).unwrap_err().to_string().contains("--device"));
    }

    #[test]
    fn devices_overlays_names_and_capabilities() {
        assert_eq!(device(OsStr::new("/dev/fuse")).unwrap(), Bind::of_host("/dev/fuse", None));
        assert_eq!(device(OsStr::new("/dev/a:/dev/b:rw")).unwrap(), Bind::of_host("/dev/a", Some("/dev/b".into())));
        assert!(device(OsStr::new("fuse")).unwrap_err().to_string().contains("CDI"));
        let names = cdi_devices(OsStr::new("nvidia.com/gpu=0,nvidia.com/gpu=1")).unwrap().unwrap();
        assert_eq!(names.iter().map(ToString::to_string).collect::<Vec<_>>(), ["nvidia.com/gpu=0", "nvidia.com/gpu=1"]);
        assert!(cdi_devices(OsStr::new("/dev/a=b")).unwrap().is_none());
        assert!(cdi_devices(OsStr::new("gpu=0")).unwrap_err().to_string().contains("vendor.com/class=name"));
        assert_eq!(annotation(OsStr::new("a/b=c=d")).unwrap(), ("a/b".to_owned(), "c=d".to_owned()));
        assert!(annotation(OsStr::new("org.coracle.link./x=y")).is_err() && annotation(OsStr::new("x")).is_err());
        let layer = |path: &str, read_only| Layer::At { path: path.into(), read_only };
        assert_eq!(overlay(OsStr::new("a:ro")).unwrap(), layer("a", true));
        assert_eq!(overlay(OsStr::new("a")).unwrap(), layer("a", false));
        assert!(overlay(OsStr::new("a:x")).is_err() && overlay(OsStr::new("")).is_err());
        assert_eq!(capabilities("net_raw,CAP_CHOWN,all").unwrap(), ["CAP_NET_RAW", "CAP_CHOWN", "ALL"]);
        assert!(capabilities("nonsense").is_err() && hostname("a b").is_err() && hostname("").is_err());
        assert!(addresses("192.0.2.1,x").is_err() && security(OsStr::new("selinux:x")).is_err());
        assert!(scratch(OsStr::new("/a,b")).is_err() && scratch(OsStr::new("/")).is_err());
    }

    fn set(name: &str, value: &str) -> EnvSetting {
        EnvSetting::Set(name.into(), value.into())
    }

    #[test]
    fn binds_are_split_as_apptainer_splits_them() {
        assert_eq!(binds(OsStr::new("/a")).unwrap(), [bind_of("/a", None, false)]);
        assert_eq!(
            binds(OsStr::new("/a:/b:ro,c:/d:rw,/e::ro")).unwrap(),
            [
                bind_of("/a", Some("/b"), true),
                Bind { options: vec!["rw".into()], ..bind_of("c", Some("/d"), false) },
                bind_of("/e", None, true)
            ]
        );
        assert_eq!(binds(OsStr::new(r"/a\:b\,c:/d")).unwrap(), [bind_of("/a:b,c", Some("/d"), false)]);
        assert_eq!(binds(OsStr::new(r"/a\x:/d")).unwrap(), [bind_of(r"/a\x", Some("/d"), false)]);
        let raw = OsString::from_vec(b"/\xff:/d".to_vec());
        assert_eq!(binds(&raw).unwrap()[0].source, BindSource::Host(PathBuf::from(raw_source())));
        let words = |bind: &Bind| bind.options.join(" ");
        let parsed = binds(OsStr::new("/a:/b:ro,nosuid,/c:/d,x.sqfs:/e:image-src=/f,ro")).unwrap();
        assert_eq!(parsed.iter().map(words).collect::<Vec<_>>(), ["ro nosuid", "", "ro"]);
        assert_eq!(parsed[2].source, BindSource::Image { file: "x.sqfs".into(), inside: "/f".into() });
    }

    #[test]
    fn bad_binds_name_the_bad_part() {
        let text = |value: &str| binds(OsStr::new(value)).unwrap_err().to_string();
        assert_eq!(text(""), "bind \"\" names no source: write SOURCE[:DESTINATION[:ro|rw]]");
        assert_eq!(text("/a:b"), "bind \"/a:b\" has the destination \"b\": write an absolute path");
        assert!(text("/a:/b:rx").starts_with("bind \"/a:/b:rx\" has the unknown option \"rx\": use ro, rw"));
        assert!(text("/a:/").contains("cover the whole image"));
        assert!(text("/").contains("cover the whole image"));
    }

    #[test]
    fn a_comma_starts_a_setting_only_before_a_name() {
        assert_eq!(env(OsStr::new("A=1,B_2=x y")).unwrap(), [set("A", "1"), set("B_2", "x y")]);
        assert_eq!(env(OsStr::new("UCX_TLS=rc,self")).unwrap(), [set("UCX_TLS", "rc,self")]);
        assert_eq!(env(OsStr::new("A=1,,b=c=d")).unwrap(), [set("A", "1,"), set("b", "c=d")]);
        assert_eq!(env(OsStr::new("A=")).unwrap(), [set("A", "")]);
        assert_eq!(env(OsStr::new("A")).unwrap(), [EnvSetting::Inherit("A".into())]);
        assert!(env(OsStr::new("=x")).is_err());
        assert!(env(OsStr::new("a b=x")).is_err());
    }

    #[test]
    fn env_files_take_quotes_and_export() {
        let file = b"# note\n\nexport A=1\nB=\"x y\"\nC='z'\n D = 1\nE=a=b\nF";
        assert_eq!(env_file(file), Err(6), "a space in a name is an error");
        let file = b"# note\n\nexport A=1\nB=\"x y\"\r\nC='z'\nE=a=b\nF";
        let expected =
            [set("A", "1"), set("B", "x y"), set("C", "z"), set("E", "a=b"), EnvSetting::Inherit("F".into())];
        assert_eq!(env_file(file).unwrap(), expected);
    }

    #[test]
    fn compressions_and_block_sizes() {
        assert_eq!(compression("zstd:19"), Ok(Compression::Zstd { level: 19 }));
        assert!(matches!(compression("zstd"), Ok(Compression::Zstd { .. })));
        assert_eq!(compression("gzip"), Ok(Compression::Gzip { level: 9 }));
        assert_eq!(compression("xz"), Ok(Compression::Xz));
        for bad in ["zstd:0", "zstd:23", "gzip:10", "lz4:1", "lzo", "", "zstd:", "zstd:x"] {
            assert_eq!(compression(bad), Err(Error::Compression), "{bad}");
        }
        assert_eq!((block_size("4096"), block_size("128K"), block_size("1m")), (Ok(4096), Ok(1 << 17), Ok(1 << 20)));
        for bad in ["2K", "2M", "100000", "", "K", "-4K", "4194304K"] {
            assert_eq!(block_size(bad), Err(Error::BlockSize), "{bad}");
        }
    }

    #[test]
    fn homes_and_mount_lists() {
        let at = |source: &str, destination: Option<&str>| Home::At {
            source: source.into(),
            destination: destination.map(PathBuf::from),
        };
        assert_eq!(home(OsStr::new("/x")).unwrap(), at("/x", None));
        assert_eq!(home(OsStr::new("x:/home/y")).unwrap(), at("x", Some("/home/y")));
        assert!(home(OsStr::new("/x:y")).is_err());
        assert!(home(OsStr::new("/")).is_err());
        assert_eq!(
            no_mount(OsStr::new("home,tmp,/etc/hosts,hostfs")).unwrap(),
            [DefaultMount::Home, DefaultMount::Tmp, DefaultMount::Path("/etc/hosts".into())]
        );
        assert!(no_mount(OsStr::new("homes")).unwrap_err().to_string().contains("\"homes\""));
    }
}
