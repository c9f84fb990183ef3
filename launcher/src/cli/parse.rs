//! Values of options that clap has no type for: binds, environment settings, home, lists of mounts.
//!
//! Everything works on bytes, because paths and values need not be UTF-8.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use coracle_squashfs::compress::Compression;
use coracle_squashfs::format::{BLOCK_SIZE_MAX, BLOCK_SIZE_MIN};

use crate::options::{Bind, DefaultMount, EnvSetting, Home};

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
    #[error("bind {value:?} has the unknown option {option:?}: use ro or rw")]
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
fn split(value: &[u8], separator: u8, escapable: &[u8], keep_escapes: bool) -> Vec<Vec<u8>> {
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

/// Parses `SOURCE[:DESTINATION[:ro|rw]]`, several of them joined by commas; `\:` and `\,` are literal.
///
/// # Errors
/// An [`Error`] that names the part which is wrong.
pub fn binds(value: &OsStr) -> Result<Vec<Bind>, Error> {
    split(value.as_bytes(), b',', b",:\\", true).into_iter().map(|one| bind(&one)).collect()
}

fn bind(value: &[u8]) -> Result<Bind, Error> {
    let whole = || OsString::from_vec(value.to_vec());
    let mut parts = split(value, b':', b",:\\", false).into_iter().map(OsString::from_vec);
    let source = match parts.next() {
        Some(source) if !source.is_empty() => PathBuf::from(source),
        _ => return Err(Error::BindSource { value: whole() }),
    };
    let destination = parts.next().filter(|part| !part.is_empty()).map(PathBuf::from);
    if let Some(destination) = &destination {
        if !destination.is_absolute() {
            return Err(Error::BindDestination { value: whole(), destination: destination.clone() });
        }
        if is_root(destination) {
            return Err(Error::BindRoot { value: whole() });
        }
    } else if is_root(&source) {
        return Err(Error::BindRoot { value: whole() });
    }
    let mut read_only = false;
    for option in parts {
        match option.as_bytes() {
            b"ro" => read_only = true,
            b"rw" | b"" => read_only = false,
            _ => return Err(Error::BindOption { value: whole(), option }),
        }
    }
    Ok(Bind { source, destination, read_only })
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
        Bind { source: source.into(), destination: destination.map(PathBuf::from), read_only }
    }

    fn set(name: &str, value: &str) -> EnvSetting {
        EnvSetting::Set(name.into(), value.into())
    }

    #[test]
    fn binds_are_split_as_apptainer_splits_them() {
        assert_eq!(binds(OsStr::new("/a")).unwrap(), [bind_of("/a", None, false)]);
        assert_eq!(
            binds(OsStr::new("/a:/b:ro,c:/d:rw,/e::ro")).unwrap(),
            [bind_of("/a", Some("/b"), true), bind_of("c", Some("/d"), false), bind_of("/e", None, true)]
        );
        assert_eq!(binds(OsStr::new(r"/a\:b\,c:/d")).unwrap(), [bind_of("/a:b,c", Some("/d"), false)]);
        assert_eq!(binds(OsStr::new(r"/a\x:/d")).unwrap(), [bind_of(r"/a\x", Some("/d"), false)]);
        let raw = OsString::from_vec(b"/\xff:/d".to_vec());
        assert_eq!(binds(&raw).unwrap()[0].source.as_os_str().as_bytes(), b"/\xff");
    }

    #[test]
    fn bad_binds_name_the_bad_part() {
        let text = |value: &str| binds(OsStr::new(value)).unwrap_err().to_string();
        assert_eq!(text(""), "bind \"\" names no source: write SOURCE[:DESTINATION[:ro|rw]]");
        assert_eq!(text("/a:b"), "bind \"/a:b\" has the destination \"b\": write an absolute path");
        assert_eq!(text("/a:/b:rx"), "bind \"/a:/b:rx\" has the unknown option \"rx\": use ro or rw");
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
