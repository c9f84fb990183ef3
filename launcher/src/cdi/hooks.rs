//! Hooks of CDI files, recognised by their arguments: what NVIDIA's tool does as root in the container's directory is
//! done here by the launch itself. What is not recognised is refused, because a device without it may be half a device.

use std::path::{Path, PathBuf};

use super::spec::Hook;

/// Names of the program that the known hooks run. It is never run itself.
const PROGRAMS: [&str; 2] = ["nvidia-ctk", "nvidia-cdi-hook"];
/// Points of a container's life at which what a hook does can be done before the program starts.
const BEFORE: [&str; 4] = ["prestart", "createRuntime", "createContainer", "startContainer"];
/// Where an image has the libraries of a newer driver.
const COMPAT: &str = "/usr/local/cuda/compat";

/// What a hook does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Native {
    /// Make symbolic links, each a target and a path.
    Links(Vec<(PathBuf, PathBuf)>),
    /// Make libraries in these directories known to the loader, with the links that they are asked for by.
    Libraries(Vec<PathBuf>),
    /// Make the links by which libraries in these directories are asked for.
    SonameLinks(Vec<PathBuf>),
    /// Set permission bits.
    Mode {
        /// The bits.
        mode: u32,
        /// In the container.
        paths: Vec<PathBuf>,
    },
    /// Use the libraries of a newer driver that the image has.
    CudaCompat {
        /// Version of the host's driver.
        driver: Option<String>,
        /// The CUDA version that it supports.
        cuda: Option<String>,
        /// Where they are in the image.
        directory: PathBuf,
    },
    /// Have the driver's tools leave device nodes alone.
    KeepDeviceNodes,
    /// Tell the graphics libraries which devices there are.
    ApplicationProfile,
    /// Nothing.
    Nothing,
}

/// Why a hook cannot be done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Another program, or another of its commands.
    #[error("it is none that this version does by itself")]
    Unknown,
    /// When it is to run.
    #[error("it is to run at {0}, when the program has already started")]
    TooLate(String),
    /// An option that the command does not have here.
    #[error("its option {0} is none that this version knows")]
    Option(String),
    /// A value that cannot be used.
    #[error("{0}")]
    Value(String),
}

/// A hook as people know it: its program and the words that say what it does.
#[must_use]
pub fn title(hook: &Hook) -> String {
    let words = hook.args.iter().skip(1).take_while(|word| !word.starts_with("--")).take(3);
    words.fold(hook.path.clone(), |title, word| format!("{title} {word}"))
}

/// Finds out what a hook does.
///
/// # Errors
/// When that cannot be done here.
pub fn recognise(hook: &Hook) -> Result<Native, Refused> {
    let base = |word: &str| Path::new(word).file_name().and_then(|name| name.to_str()).map(str::to_owned);
    // Packages for Kubernetes wrap the program: nvidia-cdi-hook.real.
    let known = |word: &str| {
        base(word)
            .is_some_and(|name| PROGRAMS.iter().any(|known| name.strip_suffix(".real").unwrap_or(&name) == *known))
    };
    if !known(&hook.path) && !hook.args.first().is_some_and(|name| known(name)) {
        return Err(Refused::Unknown);
    }
    let mut words = hook.args.iter().skip(1).map(String::as_str).filter(|word| {
        // They only say how much it prints.
        !["--debug", "-d", "--quiet", "-q"].contains(word)
    });
    let command = words.next().map_or(Ok("noop"), |word| match word {
        "hook" => words.next().ok_or(Refused::Unknown),
        word => Ok(word),
    })?;
    let mut options = Options::read(words)?;
    let native = match command {
        "create-symlinks" => Native::Links(links(options.list("link"))?),
        "update-ldcache" => {
            // The cache is written by this program, in the format that all loaders read.
            options.list("ldconfig-path");
            Native::Libraries(options.paths("folder")?)
        }
        "create-soname-symlinks" => {
            options.list("ldconfig-path");
            Native::SonameLinks(options.paths("folder")?)
        }
        "chmod" => Native::Mode { mode: mode(options.last("mode"))?, paths: options.paths("path")? },
        "enable-cuda-compat" => Native::CudaCompat {
            driver: options.last("host-driver-version").filter(|text| !text.is_empty()),
            cuda: options.last("host-cuda-version").filter(|text| !text.is_empty()),
            directory: options.last("cuda-compat-container-root").unwrap_or_else(|| COMPAT.to_owned()).into(),
        },
        "disable-device-node-modification" => Native::KeepDeviceNodes,
        "update-application-profile" => Native::ApplicationProfile,
        "noop" => Native::Nothing,
        _ => return Err(Refused::Unknown),
    };
    options.finish()?;
    match BEFORE.contains(&hook.hook_name.as_str()) {
        true => Ok(native),
        false => Err(Refused::TooLate(hook.hook_name.clone())),
    }
}

/// `--name value` or `--name=value`, in order.
struct Options(Vec<(String, String)>);

impl Options {
    fn read<'a>(mut words: impl Iterator<Item = &'a str>) -> Result<Self, Refused> {
        let mut options = Vec::new();
        while let Some(word) = words.next() {
            let name = word.strip_prefix("--").or_else(|| word.strip_prefix('-'));
            let name = name.ok_or_else(|| Refused::Option(word.to_owned()))?;
            let (name, value) = match name.split_once('=') {
                Some((name, value)) => (name, value),
                None => (name, words.next().ok_or_else(|| Refused::Option(word.to_owned()))?),
            };
            options.push((name.to_owned(), value.to_owned()));
        }
        Ok(Self(options))
    }

    /// All values of an option; a comma separates several in one.
    fn list(&mut self, name: &str) -> Vec<String> {
        let (mine, others) = std::mem::take(&mut self.0).into_iter().partition(|(other, _)| other == name);
        self.0 = others;
        let mine: Vec<(String, String)> = mine;
        mine.iter().flat_map(|(_, value)| value.split(',')).map(|value| value.trim().to_owned()).collect()
    }

    fn last(&mut self, name: &str) -> Option<String> {
        self.list(name).pop()
    }

    fn paths(&mut self, name: &str) -> Result<Vec<PathBuf>, Refused> {
        let paths = self.list(name).into_iter().map(|path| absolute(&path));
        paths.collect()
    }

    fn finish(self) -> Result<(), Refused> {
        self.0.into_iter().next().map_or(Ok(()), |(name, _)| Err(Refused::Option(format!("--{name}"))))
    }
}

/// The hooks take what they are given below the container's root, with or without a slash before.
fn absolute(path: &str) -> Result<PathBuf, Refused> {
    if path.is_empty() {
        return Err(Refused::Value("one of its paths is empty".to_owned()));
    }
    Ok(Path::new("/").join(path))
}

fn links(values: Vec<String>) -> Result<Vec<(PathBuf, PathBuf)>, Refused> {
    let link = |value: String| {
        let (target, path) = value
            .split_once("::")
            .filter(|(target, path)| !target.is_empty() && !path.is_empty() && !path.contains("::"))?;
        Some((PathBuf::from(target), absolute(path).ok()?))
    };
    let mut links: Vec<(PathBuf, PathBuf)> = Vec::new();
    for value in values {
        let pair = link(value.clone())
            .ok_or_else(|| Refused::Value(format!("its link {value:?} is not of the form target::path")))?;
        if !links.contains(&pair) {
            links.push(pair);
        }
    }
    Ok(links)
}

fn mode(value: Option<String>) -> Result<u32, Refused> {
    let value = value.unwrap_or_default();
    let mode = u32::from_str_radix(&value, 8).ok().filter(|mode| *mode <= 0o7777);
    mode.ok_or_else(|| Refused::Value(format!("its mode {value:?} is no octal number")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hook(path: &str, args: &[&str]) -> Hook {
        let args = args.iter().map(|word| (*word).to_owned()).collect();
        Hook { hook_name: "createContainer".into(), path: path.into(), args, ..Hook::default() }
    }

    #[test]
    fn both_programs_and_forms_are_known() {
        let links = Native::Links(vec![("libcuda.so.1".into(), "/usr/lib64/libcuda.so".into())]);
        let args = ["nvidia-ctk", "hook", "create-symlinks", "--link", "libcuda.so.1::/usr/lib64/libcuda.so"];
        assert_eq!(recognise(&hook("/usr/bin/nvidia-ctk", &args)).unwrap(), links);
        let args = ["nvidia-cdi-hook", "create-symlinks", "--link=libcuda.so.1::/usr/lib64/libcuda.so"];
        assert_eq!(recognise(&hook("/usr/local/nvidia/toolkit/nvidia-cdi-hook.real", &args)).unwrap(), links);
        let args = ["nvidia-cdi-hook", "update-ldcache", "--folder", "/a,/b", "--folder", "c"];
        let folders = Native::Libraries(vec!["/a".into(), "/b".into(), "/c".into()]);
        assert_eq!(recognise(&hook("/x", &args)).unwrap(), folders);
        let args = ["nvidia-ctk", "--quiet", "hook", "chmod", "--mode", "755", "--path", "/dev/dri"];
        let mode = Native::Mode { mode: 0o755, paths: vec!["/dev/dri".into()] };
        assert_eq!(recognise(&hook("/x", &args)).unwrap(), mode);
        let args = ["nvidia-cdi-hook", "enable-cuda-compat", "--host-driver-version=550.54.14"];
        let compat = Native::CudaCompat { driver: Some("550.54.14".into()), cuda: None, directory: COMPAT.into() };
        assert_eq!(recognise(&hook("/x", &args)).unwrap(), compat);
        for (command, native) in [
            ("disable-device-node-modification", Native::KeepDeviceNodes),
            ("update-application-profile", Native::ApplicationProfile),
        ] {
            assert_eq!(recognise(&hook("/x", &["nvidia-cdi-hook", command])).unwrap(), native);
        }
    }

    #[test]
    fn what_is_not_known_is_refused() {
        let refused = |path: &str, args: &[&str]| recognise(&hook(path, args)).unwrap_err();
        assert_eq!(refused("/usr/bin/other", &["other", "create-symlinks"]), Refused::Unknown);
        assert_eq!(refused("/usr/bin/nvidia-ctk", &["nvidia-ctk", "hook", "new-thing"]), Refused::Unknown);
        let option = refused("/usr/bin/nvidia-ctk", &["nvidia-ctk", "hook", "create-symlinks", "--csv", "x"]);
        assert_eq!(option, Refused::Option("--csv".into()));
        let value = refused("/usr/bin/nvidia-ctk", &["nvidia-ctk", "hook", "create-symlinks", "--link", "x"]);
        assert!(value.to_string().contains("target::path"));
        assert!(matches!(refused("/usr/bin/nvidia-ctk", &["nvidia-ctk", "hook", "chmod"]), Refused::Value(_)));
        let late = Hook { hook_name: "poststop".into(), ..hook("/nvidia-ctk", &["x", "hook", "noop"]) };
        assert_eq!(recognise(&late).unwrap_err(), Refused::TooLate("poststop".into()));
        assert_eq!(title(&hook("/b/x", &["x", "hook", "new", "--a", "b"])), "/b/x hook new");
    }
}
