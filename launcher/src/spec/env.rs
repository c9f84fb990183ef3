//! The program's environment: the host's, the image's on top, then what the caller sets.
//!
//! Left out of the host's are variables that name the host's libraries and programs, because the container's loader and
//! shells would act on them: `PATH`, `LD_*` and others in [`HOST_ONLY`]. Variables that name a directory or a
//! script ([`PATHS`]) are kept only if it is there in the container.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::Error;
use crate::config::expand;
use crate::host::Host;
use crate::options::{EnvSetting, Options};

/// For images that set no `PATH`.
pub(super) const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Paths of the host that the C library, the shell or Python would follow.
const HOST_ONLY: [&str; 9] =
    ["PATH", "PWD", "OLDPWD", "_", "GCONV_PATH", "LOCPATH", "LOCALE_ARCHIVE", "NLSPATH", "PYTHONHOME"];
/// Kept if the container has what they name: programs fail when `TMPDIR` is missing, and each shell complains about
/// `BASH_ENV`.
const PATHS: [&str; 6] = ["TMPDIR", "TMP", "TEMP", "BASH_ENV", "ENV", "XDG_RUNTIME_DIR"];
/// What `--cleanenv` keeps of the host's, besides `LC_*`.
const CLEAN: [&str; 7] = ["HOME", "USER", "LOGNAME", "TERM", "COLORTERM", "LANG", "TZ"];
/// The caller's even when the image sets them: they speak of the user, who is not the image's.
const CALLERS: [&str; 4] = ["HOME", "USER", "LOGNAME", "SHELL"];

/// Which shell will show a prompt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Prompt {
    /// Knows `\w`.
    Bash,
    /// Knows nothing.
    Plain,
}

/// What else the environment depends on.
pub(super) struct Context<'a> {
    pub(super) image_env: &'a [String],
    pub(super) image_path: &'a Path,
    pub(super) cwd: &'a Path,
    /// In the container.
    pub(super) home: Option<&'a Path>,
    pub(super) shell: &'a Path,
    pub(super) prompt: Option<Prompt>,
    /// Whether a path exists in the container.
    pub(super) visible: &'a dyn Fn(&Path) -> bool,
}

type Variables = BTreeMap<OsString, OsString>;

/// Composes the environment, sorted by name.
pub(super) fn compose(host: &Host, options: &Options, context: &Context<'_>) -> Result<Variables, Error> {
    let mut env: Variables = BTreeMap::new();
    let inherited = host.env.iter().filter(|(name, value)| keep(name, value, options, context));
    env.extend(inherited.cloned());
    for variable in context.image_env {
        if let Some((name, value)) = variable.split_once('=').filter(|(name, _)| !name.is_empty())
            && !(CALLERS.contains(&name) && env.contains_key(OsStr::new(name)))
        {
            env.insert(name.into(), value.into());
        }
    }
    let mut set = |name: &str, value: &OsStr| env.insert(name.into(), value.to_owned());
    if let Some(home) = context.home {
        set("HOME", home.as_os_str());
    }
    set("SHELL", context.shell.as_os_str());
    set("PWD", context.cwd.as_os_str());
    set("CORACLE_IMAGE", context.image_path.as_os_str());
    let stem = context.image_path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    match context.prompt {
        Some(Prompt::Bash) => drop(set("PS1", OsStr::new(&format!("[{stem}] \\w\\$ ")))),
        Some(Prompt::Plain) => drop(set("PS1", OsStr::new(&format!("[{stem}] $ ")))),
        None => {}
    }
    if options.fakeroot {
        // As `whoami` says.
        set("USER", OsStr::new("root"));
        set("LOGNAME", OsStr::new("root"));
    }
    for (name, value) in
        [("USER", &host.who.account.name), ("LOGNAME", &host.who.account.name), ("PATH", &PATH.to_owned())]
    {
        env.entry(name.into()).or_insert_with(|| value.into());
    }
    env.entry("HOME".into()).or_insert_with(|| host.who.account.home.clone().into_os_string());
    for setting in options.early_env.iter().chain(&host.file_settings).chain(&options.env) {
        apply(setting, &mut env, host, context.image_env)?;
    }
    Ok(env)
}

fn apply(setting: &EnvSetting, env: &mut Variables, host: &Host, image_env: &[String]) -> Result<(), Error> {
    match setting {
        EnvSetting::Set(name, value) => drop(env.insert(name.clone(), value.clone())),
        EnvSetting::Inherit(name) => {
            if let Some(value) = host.var(name) {
                env.insert(name.clone(), value.to_owned());
            }
        }
        EnvSetting::Prepend(name, value) => join(env, name, value, true),
        EnvSetting::Append(name, value) => join(env, name, value, false),
        EnvSetting::Unset(pattern) => env.retain(|name, _| !matches(pattern, name)),
        EnvSetting::Expand { name, text, origin } => {
            let of_image = |name: &str| {
                let found = image_env.iter().rev().filter_map(|variable| variable.split_once('='));
                found.into_iter().find(|(one, _)| *one == name).map(|(_, value)| OsString::from(value))
            };
            let value = |name: &str| of_image(name).or_else(|| host.var(OsStr::new(name)).map(OsStr::to_owned));
            let text = expand(text, &value).map_err(|problem| Error::Expand { origin: origin.clone(), problem })?;
            env.insert(name.clone(), text);
        }
    }
    Ok(())
}

/// Puts one before the other. An empty part of a list of directories would mean the working directory.
fn join(env: &mut Variables, name: &OsStr, value: &OsStr, first: bool) {
    let joined = match env.get(name).filter(|old| !old.is_empty()) {
        None => value.to_owned(),
        Some(old) => {
            let [before, after] = if first { [value, old] } else { [old.as_os_str(), value] };
            let mut joined = before.to_owned();
            joined.push(":");
            joined.push(after);
            joined
        }
    };
    env.insert(name.to_owned(), joined);
}

/// Whether a pattern, in which `*` stands for any letters, is the name's.
pub(crate) fn matches(pattern: &OsStr, name: &OsStr) -> bool {
    let mut parts = pattern.as_bytes().split(|byte| *byte == b'*');
    let Some(mut rest) = parts.next().and_then(|first| name.as_bytes().strip_prefix(first)) else { return false };
    let Some(last) = parts.next_back() else { return rest.is_empty() };
    for part in parts {
        match rest.windows(part.len().max(1)).position(|window| window == part) {
            Some(at) => rest = &rest[at + part.len()..],
            None if part.is_empty() => {}
            None => return false,
        }
    }
    rest.ends_with(last)
}

fn keep(name: &OsStr, value: &OsStr, options: &Options, context: &Context<'_>) -> bool {
    let among = |list: &[&str]| list.iter().any(|one| name == *one);
    let starts = |prefix: &str| name.as_bytes().starts_with(prefix.as_bytes());
    if options.no_env.iter().any(|pattern| matches(pattern, name)) {
        return false;
    }
    if options.clean_env {
        return among(&CLEAN) || starts("LC_");
    }
    !among(&HOST_ONLY) && !starts("LD_") && (!among(&PATHS) || (context.visible)(Path::new(value)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_any_letters() {
        let fits = |pattern: &str, name: &str| matches(OsStr::new(pattern), OsStr::new(name));
        for (pattern, name) in [
            ("A", "A"),
            ("*", ""),
            ("*", "A"),
            ("A*", "A"),
            ("A*", "AB"),
            ("*B", "AB"),
            ("A*B*C", "AxBBxC"),
            ("A**B", "AB"),
        ] {
            assert!(fits(pattern, name), "{pattern} {name}");
        }
        for (pattern, name) in [("A", "AB"), ("A*", "BA"), ("A*A", "A"), ("A*B*C", "AxC"), ("*B", "BA"), ("", "A")] {
            assert!(!fits(pattern, name), "{pattern} {name}");
        }
    }
}
