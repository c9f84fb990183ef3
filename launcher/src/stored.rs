//! What an image argument means: a file or directory, or an image in the store, by name or by the source that it comes from.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use coracle_converter::store::{self, Settings, Store};
use coracle_converter::{Source, host_architecture};

use crate::cli::Pull;
use crate::config;

/// Chooses the store's directory.
const DIRECTORY: &str = "CORACLE_STORE";

/// Why an image argument means nothing.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No place for a store.
    #[error("cannot tell where images are stored: HOME is not set: set {DIRECTORY} to a directory")]
    NoDirectory,
    /// A directory that depends on where one happens to be.
    #[error("cannot store images in {directory:?}, as {setting} says: write an absolute path")]
    Relative {
        /// Where that was set.
        setting: &'static str,
        /// As given, expanded.
        directory: String,
    },
    /// A directory with a variable that is not set.
    #[error("cannot store images in {directory:?}, as [store] says: {variable} is not set")]
    Variable {
        /// As given.
        directory: String,
        /// Which.
        variable: String,
    },
    /// Neither a file nor stored, and no source either.
    #[error(
        "cannot open image {word}: there is no such file, and no stored image of that name: coracle images lists those; \
         coracle pull and coracle build make one from a SOURCE"
    )]
    Absent {
        /// As given.
        word: String,
    },
    /// A source that may not be pulled.
    #[error("cannot open image {word}: it is not stored, and --pull=never was given: run coracle pull {word} first")]
    Never {
        /// As given.
        word: String,
    },
    /// The store cannot be read.
    #[error(transparent)]
    Store(#[from] store::Error),
}

/// What an image argument means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Meaning {
    /// This file or directory, which need not exist.
    File(PathBuf),
    /// A stored image.
    Stored {
        /// Its file.
        path: PathBuf,
        /// What it is called.
        name: String,
    },
    /// It has to be pulled first, and will have this name.
    ToPull {
        /// What to pull.
        source: String,
        /// What it will be called.
        name: String,
    },
}

/// Finds out what an image argument means.
///
/// What begins with `/`, `./` or `../` is a file or directory, and costs no look at anything. Else one of that name counts if
/// there is one, then the store.
///
/// # Errors
/// When it means nothing, or the store cannot be read.
pub fn meaning(word: &Path, pull: Pull, config: &config::Store) -> Result<Meaning, Error> {
    let file = || Ok(Meaning::File(word.to_path_buf()));
    let Some(text) = word.to_str() else { return file() };
    if is_path(text) || word.exists() {
        return file();
    }
    let source: Option<Source> = text.parse().ok();
    let name = source.as_ref().map_or_else(|| text.to_owned(), store::reference);
    // An image's own name leads nowhere but to what is stored.
    if pull != Pull::Always || source.is_none() {
        match open(config)?.get(&name, host_architecture())? {
            Some(stored) => return Ok(Meaning::Stored { path: stored.path, name }),
            None if source.is_none() => return Err(Error::Absent { word: text.to_owned() }),
            None if pull == Pull::Never => return Err(Error::Never { word: text.to_owned() }),
            None => {}
        }
    }
    Ok(Meaning::ToPull { source: text.to_owned(), name })
}

fn is_path(text: &str) -> bool {
    text.starts_with('/') || text.starts_with("./") || text.starts_with("../") || matches!(text, "" | "." | "..")
}

/// The store that the caller uses.
///
/// # Errors
/// When its directory is not known.
pub fn open(config: &config::Store) -> Result<Store, Error> {
    open_with(config, |name| std::env::var_os(name))
}

fn open_with(config: &config::Store, variable: impl Fn(&str) -> Option<OsString>) -> Result<Store, Error> {
    let shared = config.dirs.iter().flatten().map(|dir| configured("[store] dirs", dir, &variable));
    let settings = Settings {
        shared: shared.collect::<Result<_, _>>()?,
        max_size: config.max_size,
        lease: config.lease_seconds.map_or(Settings::default().lease, |seconds| Duration::from_secs(seconds.into())),
    };
    Ok(Store::new(directory(config, &variable)?, settings))
}

fn directory(config: &config::Store, variable: &impl Fn(&str) -> Option<OsString>) -> Result<PathBuf, Error> {
    let set = |name: &str| variable(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    if let Some(chosen) = set(DIRECTORY) {
        return absolute(DIRECTORY, chosen);
    }
    if let Some(dir) = &config.dir {
        return configured("[store] dir", dir, variable);
    }
    let data = set("XDG_DATA_HOME").filter(|dir| dir.is_absolute());
    let data = data.or_else(|| Some(set("HOME").filter(|dir| dir.is_absolute())?.join(".local/share")));
    data.map(|data| data.join("coracle/images")).ok_or(Error::NoDirectory)
}

/// A directory of the settings, which a site writes once for all users.
fn configured(
    setting: &'static str,
    directory: &str,
    variable: &impl Fn(&str) -> Option<OsString>,
) -> Result<PathBuf, Error> {
    let mut path = PathBuf::new();
    for (at, part) in directory.split_inclusive('/').enumerate() {
        let name = part.trim_end_matches('/');
        let name = if at == 0 && name == "~" { Some("HOME") } else { name.strip_prefix('$') };
        match name {
            None => path.push(part),
            Some(name) => {
                let name = name.trim_start_matches('{').trim_end_matches('}');
                let value = variable(name).filter(|value| !value.is_empty());
                let unset = || Error::Variable { directory: directory.to_owned(), variable: name.to_owned() };
                path.push(value.ok_or_else(unset)?);
            }
        }
    }
    absolute(setting, path)
}

fn absolute(setting: &'static str, path: PathBuf) -> Result<PathBuf, Error> {
    if path.is_absolute() { Ok(path) } else { Err(Error::Relative { setting, directory: path.display().to_string() }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stores_directory_is_found_in_its_order() {
        let place = |config: &config::Store, set: &[(&str, &str)]| {
            let variable =
                |name: &str| set.iter().find(|(one, _)| *one == name).map(|(_, value)| OsString::from(value));
            open_with(config, variable)
                .map(|store| store.dir().display().to_string())
                .map_err(|error| error.to_string())
        };
        let none = config::Store::default();
        assert_eq!(place(&none, &[("HOME", "/h")]).unwrap(), "/h/.local/share/coracle/images");
        assert_eq!(place(&none, &[("HOME", "/h"), ("XDG_DATA_HOME", "/x")]).unwrap(), "/x/coracle/images");
        assert!(place(&none, &[]).unwrap_err().contains("CORACLE_STORE"));
        let set = |dir: &str| config::Store { dir: Some(dir.into()), ..config::Store::default() };
        let all = [("HOME", "/h"), ("XDG_DATA_HOME", "/x"), ("USER", "u")];
        assert_eq!(place(&set("/s/$USER/i"), &all).unwrap(), "/s/u/i");
        assert_eq!(place(&set("/s/${USER}"), &all).unwrap(), "/s/u");
        assert_eq!(place(&set("~/i"), &all).unwrap(), "/h/i");
        assert_eq!(place(&set("/s"), &[("CORACLE_STORE", "/c")]).unwrap(), "/c");
        assert!(place(&set("s"), &all).unwrap_err().contains("[store] dir says: write an absolute path"));
        assert!(place(&none, &[("CORACLE_STORE", "c")]).unwrap_err().contains("CORACLE_STORE says"));
        assert!(place(&set("/s/$SCRATCH"), &all).unwrap_err().contains("SCRATCH is not set"));
    }

    #[test]
    fn a_word_means_a_file_first() {
        let dir = tempfile::tempdir().unwrap();
        let config = config::Store { dir: Some(dir.path().display().to_string()), ..config::Store::default() };
        let mean = |word: &str, pull| meaning(Path::new(word), pull, &config);
        for word in ["/absent", "./absent", "../absent", ".", "Cargo.toml", "src/lib.rs"] {
            assert_eq!(mean(word, Pull::Always).unwrap(), Meaning::File(word.into()), "{word}");
        }
        assert!(matches!(mean("absent", Pull::Missing), Err(Error::Absent { .. })));
        assert!(matches!(mean("tar:/absent", Pull::Never), Err(Error::Never { .. })));
        let to_pull = Meaning::ToPull { source: "tar:/absent".into(), name: "tar:/absent".into() };
        assert_eq!(mean("tar:/absent", Pull::Missing).unwrap(), to_pull);
    }
}
