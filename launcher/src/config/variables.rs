//! Variables that stand for flags of a launch: `CORACLE_BIND` for `--bind`, and Apptainer's names where the site lets them.
//!
//! A flag that is given counts more, except that lists add up. An empty variable is as if it were not set.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use super::layering::over;
use crate::cli::{Flags, parse};
use crate::options::{EnvSetting, Options};

/// Begins the variables of this program.
pub const OWN: &str = "CORACLE_";
/// Begin Apptainer's; the first counts more.
pub const APPTAINER: [&str; 2] = ["APPTAINER_", "SINGULARITY_"];
/// Followed by a variable's name: sets it in the container.
const ENV: [(&str, bool); 3] = [("SINGULARITYENV_", true), ("APPTAINERENV_", true), ("CORACLEENV_", false)];

/// How a variable sets its flag.
#[derive(Clone, Copy)]
enum Set {
    /// To yes or no.
    Switch(fn(&mut Flags) -> &mut bool),
    /// To the value.
    Value(fn(&mut Flags, OsString)),
    /// To each line of the value.
    Lines(fn(&mut Flags, OsString)),
}

/// One flag's variables.
pub struct Variable {
    /// After [`OWN`].
    pub name: &'static str,
    /// The flag, without dashes.
    pub flag: &'static str,
    /// After [`APPTAINER`]'s; none where Apptainer has no such variable.
    pub apptainer: &'static [&'static str],
    set: Set,
}

const fn switch(
    name: &'static str,
    flag: &'static str,
    apptainer: &'static [&'static str],
    set: fn(&mut Flags) -> &mut bool,
) -> Variable {
    Variable { name, flag, apptainer, set: Set::Switch(set) }
}

const fn value(
    name: &'static str,
    flag: &'static str,
    apptainer: &'static [&'static str],
    set: fn(&mut Flags, OsString),
) -> Variable {
    Variable { name, flag, apptainer, set: Set::Value(set) }
}

/// A value for what takes text only; other bytes are refused where it is parsed.
fn text(value: &OsStr) -> String {
    value.to_string_lossy().into_owned()
}

/// All of them. The guide has the same table, which a test checks.
pub const VARIABLES: &[Variable] = &[
    value("ADD_CAPS", "add-caps", &["ADD_CAPS"], |flags, value| flags.add_caps.push(text(&value))),
    value("BIND", "bind", &["BIND", "BINDPATH"], |flags, value| flags.bind.push(value)),
    value("CDI_DIRS", "cdi-dirs", &[], |flags, value| flags.cdi_dirs.push(value)),
    switch("CLEANENV", "cleanenv", &["CLEANENV"], |flags| &mut flags.cleanenv),
    switch("COMPAT", "compat", &["COMPAT"], |flags| &mut flags.compat),
    switch("CONTAIN", "contain", &["CONTAIN"], |flags| &mut flags.contain),
    switch("CONTAINALL", "containall", &["CONTAINALL"], |flags| &mut flags.containall),
    value("DEVICE", "device", &[], |flags, value| flags.device.push(value)),
    value("DNS", "dns", &["DNS"], |flags, value| flags.dns.push(text(&value))),
    value("DROP_CAPS", "drop-caps", &["DROP_CAPS"], |flags, value| flags.drop_caps.push(text(&value))),
    value("ENV_FILE", "env-file", &["ENV_FILE"], |flags, value| flags.env_file.push(value.into())),
    switch("FAKEROOT", "fakeroot", &["FAKEROOT"], |flags| &mut flags.fakeroot),
    value("GPU", "gpu", &[], |flags, value| flags.gpu.push(value)),
    value("HOME", "home", &["HOME"], |flags, value| flags.home = Some(value)),
    value("HOSTNAME", "hostname", &["HOSTNAME"], |flags, value| flags.hostname = Some(text(&value))),
    switch("INTEL", "intel", &[], |flags| &mut flags.intel),
    switch("IPC", "ipc", &["IPC", "UNSHARE_IPC"], |flags| &mut flags.ipc),
    switch("KEEP_PRIVS", "keep-privs", &["KEEP_PRIVS"], |flags| &mut flags.keep_privs),
    Variable {
        name: "MOUNT",
        flag: "mount",
        apptainer: &["MOUNT"],
        set: Set::Lines(|flags, value| flags.mount.push(value)),
    },
    value("MPI", "mpi", &[], |flags, value| flags.mpi = Some(text(&value))),
    switch("NET", "net", &["NET", "UNSHARE_NET"], |flags| &mut flags.net),
    value("NO_ENV", "no-env", &[], |flags, value| flags.no_env.push(value)),
    switch("NO_HOME", "no-home", &["NO_HOME"], |flags| &mut flags.no_home),
    value("NO_MOUNT", "no-mount", &["NO_MOUNT"], |flags, value| flags.no_mount.push(value)),
    switch("NO_PRIVS", "no-privs", &["NO_PRIVS"], |flags| &mut flags.no_privs),
    switch("NV", "nv", &["NV"], |flags| &mut flags.nv),
    value("OVERLAY", "overlay", &["OVERLAY", "OVERLAYIMAGE"], |flags, value| flags.overlay.push(value)),
    switch("PID", "pid", &["PID", "UNSHARE_PID"], |flags| &mut flags.pid),
    value("PROFILE", "profile", &[], |flags, value| flags.profile = Some(text(&value))),
    value("PWD", "pwd", &["PWD", "CWD", "TARGET_PWD", "TARGET_CWD"], |flags, value| flags.pwd = Some(value.into())),
    switch("ROCM", "rocm", &["ROCM"], |flags| &mut flags.rocm),
    value("SCRATCH", "scratch", &["SCRATCH", "SCRATCHDIR"], |flags, value| flags.scratch.push(value)),
    value("SECURITY", "security", &["SECURITY"], |flags, value| flags.security.push(value)),
    value("SHELL", "shell", &["SHELL"], |flags, value| flags.shell = Some(value.into())),
    switch("USERNS", "userns", &["USERNS", "UNSHARE_USERNS"], |flags| &mut flags.userns),
    switch("UTS", "uts", &["UTS", "UNSHARE_UTS"], |flags| &mut flags.uts),
    value("WORKDIR", "workdir", &["WORKDIR"], |flags, value| flags.workdir = Some(value.into())),
    switch("WRITABLE", "writable", &["WRITABLE"], |flags| &mut flags.writable),
    Variable {
        name: "WRITABLE_TMPFS",
        flag: "writable-tmpfs",
        apptainer: &["WRITABLE_TMPFS"],
        // A switch, or a size.
        set: Set::Value(|flags, value| {
            flags.writable_tmpfs = match truth(&value) {
                Some(whether) => whether.then(String::new),
                None => Some(text(&value)),
            };
        }),
    },
];

/// Variables of this program that stand for no flag, and what they are for.
pub const OTHERS: &[(&str, &str)] = &[
    ("CORACLE_SESSION", "on or off: whether launches of an image share its mount"),
    ("CORACLE_SESSION_IDLE", "seconds that a session waits for another launch"),
    ("CORACLE_SESSION_SCOPE", "launches with different words share no session"),
    ("CORACLE_SESSION_DIR", "where the sessions' sockets are"),
    ("CORACLE_STORE", "where images are kept"),
    ("CORACLE_TRACE", "prints a launch's timeline, or appends it to a file"),
    ("CORACLE_SERVER_LOG", "where the file system server says what it could not do"),
    ("CORACLE_FUSE", "switches parts of the file system server off, to find faults"),
    ("EDF_PATH", "directories in which environment definition files are looked for"),
];

/// A variable that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot use variable {name}: {problem}")]
pub struct Error {
    /// Its whole name.
    name: String,
    problem: Problem,
}

#[derive(Debug, thiserror::Error)]
enum Problem {
    #[error(transparent)]
    Parse(#[from] parse::Error),
    #[error("{0:?} is neither yes nor no: write 1 or 0")]
    Truth(OsString),
}

/// What the variables ask for.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Asked {
    pub(super) options: Options,
    pub(super) profile: Option<String>,
}

/// The table's row, and how much it counts.
fn row(name: &[u8], apptainer: bool) -> Option<(&'static Variable, usize)> {
    let find = |named: &dyn Fn(&Variable) -> bool| VARIABLES.iter().find(|variable| named(variable));
    if let Some(rest) = name.strip_prefix(OWN.as_bytes()) {
        return find(&|variable| variable.name.as_bytes() == rest).map(|variable| (variable, 0));
    }
    if !apptainer {
        return None;
    }
    let after = |prefix: &str| name.strip_prefix(prefix.as_bytes());
    let (at, rest) = APPTAINER.iter().enumerate().find_map(|(at, prefix)| Some((at, after(prefix)?)))?;
    find(&|variable| variable.apptainer.iter().any(|one| one.as_bytes() == rest)).map(|variable| (variable, at + 1))
}

/// Whether a variable is one of the table's that counts.
pub(super) fn is_known(name: &OsStr, apptainer: bool) -> bool {
    let bytes = name.as_bytes();
    row(bytes, apptainer).is_some()
        || ENV.iter().any(|(prefix, theirs)| (apptainer || !theirs) && bytes.starts_with(prefix.as_bytes()))
        || OTHERS.iter().any(|(other, _)| name == *other)
}

/// Reads the environment once; what is not there costs nothing.
pub(super) fn read(env: &[(OsString, OsString)], apptainer: bool) -> Result<Asked, Error> {
    let mut found: Vec<(usize, &'static Variable, &OsString, &OsString)> = Vec::new();
    let mut settings: Vec<(usize, EnvSetting)> = Vec::new();
    for (name, value) in env {
        let bytes = name.as_bytes();
        let candidate = match bytes.first() {
            Some(b'C') => bytes.starts_with(b"CORACLE"),
            Some(b'A' | b'S') => apptainer,
            _ => false,
        };
        if !candidate {
            continue;
        }
        let prefix = |(at, (prefix, theirs)): (usize, &(&str, bool))| {
            let name = bytes.strip_prefix(prefix.as_bytes()).filter(|name| !name.is_empty())?;
            (apptainer || !theirs).then(|| (at, setting(name, value)))
        };
        if let Some(setting) = ENV.iter().enumerate().find_map(prefix) {
            settings.push(setting);
        } else if let Some((variable, rank)) = row(bytes, apptainer).filter(|_| !value.is_empty()) {
            found.push((rank, variable, name, value));
        }
    }
    let mut asked = Asked::default();
    if found.is_empty() && settings.is_empty() {
        return Ok(asked);
    }
    // What counts more comes later, and goes over the rest.
    found.sort_by_key(|(rank, variable, name, _)| (std::cmp::Reverse(*rank), variable.name, *name));
    for (_, variable, name, value) in found {
        let mut flags = Flags::default();
        let failed = |problem| Error { name: text(name), problem };
        variable.fill(&mut flags, value).map_err(failed)?;
        asked.profile = flags.profile.take().or(asked.profile);
        asked.options = over(flags.options().map_err(|problem| failed(problem.into()))?, asked.options);
    }
    settings.sort_by_key(|(rank, _)| *rank);
    asked.options.early_env.extend(settings.into_iter().map(|(_, setting)| setting));
    Ok(asked)
}

impl Variable {
    fn fill(&self, flags: &mut Flags, value: &OsStr) -> Result<(), Problem> {
        match self.set {
            Set::Switch(field) => *field(flags) = truth(value).ok_or_else(|| Problem::Truth(value.to_owned()))?,
            Set::Value(set) => set(flags, value.to_owned()),
            Set::Lines(set) => {
                let lines = value.as_bytes().split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
                lines.for_each(|line| set(flags, OsString::from_vec(line.to_vec())));
            }
        }
        Ok(())
    }
}

/// What programs write for yes and no.
fn truth(value: &OsStr) -> Option<bool> {
    let value = value.to_str()?.to_ascii_lowercase();
    match value.as_str() {
        "1" | "yes" | "y" | "true" | "t" | "on" => Some(true),
        "0" | "no" | "n" | "false" | "f" | "off" => Some(false),
        _ => None,
    }
}

/// `PREPEND_PATH` and `APPEND_PATH` are Apptainer's way to add to `PATH`.
fn setting(name: &[u8], value: &OsStr) -> EnvSetting {
    match name {
        b"PREPEND_PATH" => EnvSetting::Prepend("PATH".into(), value.to_owned()),
        b"APPEND_PATH" => EnvSetting::Append("PATH".into(), value.to_owned()),
        name => EnvSetting::Set(OsString::from_vec(name.to_vec()), value.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::options::{Bind, Home, Layer};

    fn read_with(apptainer: bool, variables: &[(&str, &str)]) -> Result<Asked, Error> {
        let env: Vec<_> = variables.iter().map(|(name, value)| (name.into(), value.into())).collect();
        read(&env, apptainer)
    }

    #[test]
    fn each_variable_sets_its_flag() {
        let command = crate::cli::Cli::command();
        let mut run = command.find_subcommand("run").unwrap().clone();
        run.build();
        let flags: Vec<_> =
            run.get_arguments().filter(|arg| !arg.is_hide_set()).filter_map(clap::Arg::get_long).collect();
        for Variable { name, flag, .. } in VARIABLES {
            assert!(flags.contains(flag), "{flag}");
            assert_eq!(*name, flag.to_uppercase().replace('-', "_"));
        }
        // These have no variable: they are for one launch, or say the opposite of another.
        let without =
            ["annotation", "env", "dry-run", "no-session", "pull", "no-pid", "no-init", "no-mpi", "network", "help"];
        for flag in flags {
            let has = VARIABLES.iter().any(|variable| variable.flag == flag);
            assert_ne!(has, without.contains(&flag), "{flag}");
        }
        assert!(VARIABLES.is_sorted_by_key(|variable| variable.name));
    }

    #[test]
    fn variables_are_as_flags() {
        let asked = read_with(
            false,
            &[
                ("CORACLE_BIND", "/a,/b:/c:ro"),
                ("CORACLE_MOUNT", "type=tmpfs,dst=/t\ntype=tmpfs,dst=/u\n"),
                ("CORACLE_CONTAIN", "yes"),
                ("CORACLE_CLEANENV", "0"),
                ("CORACLE_HOME", ""),
                ("CORACLE_WRITABLE_TMPFS", "1G"),
                ("CORACLE_PROFILE", "ml"),
                ("CORACLEENV_A", "b"),
                ("CORACLEENV_PREPEND_PATH", "/p"),
                ("CORACLE_IMAGE", "/other"),
                ("APPTAINER_BIND", "/no"),
                ("APPTAINERENV_A", "no"),
            ],
        );
        let Asked { options, profile } = asked.unwrap();
        assert_eq!(options.binds.len(), 4);
        assert_eq!(options.binds[0], Bind::of_host("/a", None));
        assert!(options.contain && !options.clean_env && options.home == Home::Own);
        assert_eq!(options.layers, [Layer::Memory { size: Some(1 << 30) }]);
        let path = EnvSetting::Prepend("PATH".into(), "/p".into());
        assert_eq!(options.early_env, [EnvSetting::Set("A".into(), "b".into()), path]);
        assert_eq!(profile.as_deref(), Some("ml"));
        assert_eq!(read_with(true, &[("HOME", "/h"), ("SLURM_JOB_ID", "1")]).unwrap(), Asked::default());
    }

    #[test]
    fn apptainers_count_less_than_ours() {
        let asked = read_with(
            true,
            &[
                ("CORACLE_PWD", "/ours"),
                ("APPTAINER_PWD", "/a"),
                ("SINGULARITY_CWD", "/s"),
                ("SINGULARITY_BINDPATH", "/x:/y"),
                ("APPTAINER_BIND", "/z:/y,/q"),
                ("SINGULARITYENV_A", "s"),
                ("APPTAINERENV_A", "a"),
                ("APPTAINER_CACHEDIR", "/c"),
            ],
        );
        let options = asked.unwrap().options;
        assert_eq!(options.working_dir, Some("/ours".into()));
        assert_eq!(options.binds, [Bind::of_host("/z", Some("/y".into())), Bind::of_host("/q", None)]);
        assert_eq!(options.early_env.last(), Some(&EnvSetting::Set("A".into(), "a".into())));
    }

    #[test]
    fn mistakes_name_the_variable() {
        let says = |name: &str, value: &str| read_with(true, &[(name, value)]).unwrap_err().to_string();
        assert_eq!(
            says("CORACLE_CONTAIN", "maybe"),
            "cannot use variable CORACLE_CONTAIN: \"maybe\" is neither yes nor no: write 1 or 0"
        );
        assert!(says("APPTAINER_BIND", "/a:b").starts_with("cannot use variable APPTAINER_BIND: bind \"/a:b\""));
        assert!(says("CORACLE_WRITABLE_TMPFS", "lots").contains("no size"));
        assert!(says("CORACLE_GPU", "all").contains("auto, off, nvidia"));
        assert!(says("SINGULARITY_NV", "maybe").contains("SINGULARITY_NV"));
    }
}
