//! The program's environment: the host's, the image's on top, then what the caller sets.
//!
//! Left out of the host's are variables that name the host's libraries and programs, because the container's loader and
//! shells would act on them: `PATH`, `LD_*` and others in [`HOST_ONLY`]. Variables that name a directory or a
//! script ([`PATHS`]) are kept only if it is there in the container.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

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

/// Composes the environment, sorted by name.
pub(super) fn compose(host: &Host, options: &Options, context: &Context<'_>) -> BTreeMap<OsString, OsString> {
    let mut env: BTreeMap<OsString, OsString> = BTreeMap::new();
    let inherited = host.env.iter().filter(|(name, value)| keep(name, value, options.clean_env, context));
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
    for setting in host.file_settings.iter().chain(&options.env) {
        match setting {
            EnvSetting::Set(name, value) => {
                env.insert(name.clone(), value.clone());
            }
            EnvSetting::Inherit(name) => {
                if let Some(value) = host.var(name) {
                    env.insert(name.clone(), value.to_owned());
                }
            }
        }
    }
    env
}

fn keep(name: &OsStr, value: &OsStr, clean: bool, context: &Context<'_>) -> bool {
    let among = |list: &[&str]| list.iter().any(|one| name == *one);
    let starts = |prefix: &str| name.as_bytes().starts_with(prefix.as_bytes());
    if clean {
        return among(&CLEAN) || starts("LC_");
    }
    !among(&HOST_ONLY) && !starts("LD_") && (!among(&PATHS) || (context.visible)(Path::new(value)))
}
