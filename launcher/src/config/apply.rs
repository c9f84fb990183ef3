//! From what was asked for on the command line to what a launch does: configuration, profile, environment definition file,
//! variables and flags become one.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use super::layering::{destination, over};
use super::{Config, NONE, Part, ProfileError, Refused, Unexpandable, VariableError, expand_part, variables};
use crate::cli::{Flags, parse};
use crate::edf;
use crate::options::{DefaultMount, Layer, Options, Verb};

/// What the command line says.
pub struct Asked<'a> {
    /// Options.
    pub flags: &'a Flags,
    /// The image argument.
    pub image: PathBuf,
    /// What to execute.
    pub verb: Verb,
}

/// What a launch does.
#[derive(Debug)]
pub struct Settled {
    /// An image argument that is no environment definition file.
    pub image: PathBuf,
    /// What to execute.
    pub verb: Verb,
    /// All options.
    pub options: Options,
    /// What the caller should be told, a sentence each.
    pub warnings: Vec<String>,
}

/// Why it cannot be done.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A flag's value.
    #[error(transparent)]
    Flag(#[from] parse::Error),
    /// A variable's.
    #[error(transparent)]
    Variable(#[from] VariableError),
    /// A profile.
    #[error(transparent)]
    Profile(#[from] ProfileError),
    /// A setting with a variable that is not set.
    #[error("cannot use [{section}] of {}: {problem}", path.display())]
    Expand {
        /// Where it is in the file.
        section: &'static str,
        /// The file.
        path: PathBuf,
        /// What is missing.
        problem: Unexpandable,
    },
    /// A bind that does not parse with the variables that there are.
    #[error("cannot use [mounts] of {}: {problem}", path.display())]
    Bind {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: parse::Error,
    },
    /// What the site does not let.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// An environment definition file.
    #[error(transparent)]
    Edf(#[from] edf::Error),
    /// Of several filters, one would be left out.
    #[error(
        "cannot use two seccomp profiles, {} of {} and {} of {}: put what both refuse into one",
        upper.1.display(), upper.0, under.1.display(), under.0
    )]
    Filters {
        /// What asks for the one, and its file.
        upper: Box<(String, PathBuf)>,
        /// What asks for the other.
        under: Box<(String, PathBuf)>,
    },
    /// Another verb has no shell.
    #[error("cannot use --shell here: it names the shell of coracle shell")]
    Shell,
}

/// Settles a launch. `env` is the caller's environment.
///
/// # Errors
/// When something that was asked for cannot be understood, or the site does not let it.
pub fn apply(config: &Config, env: &[(OsString, OsString)], asked: Asked<'_>) -> Result<Settled, Error> {
    let Asked { flags, image, verb } = asked;
    let mut options = flags.options()?;
    if flags.shell.is_some() && !matches!(verb, Verb::Shell(_)) {
        return Err(Error::Shell);
    }
    let value = |name: &str| env.iter().find(|(one, _)| one == name).map(|(_, value)| value.clone());
    let of_variables = variables::read(env, config.apptainer_variables)?;
    let mut filters = vec![("the command line's --security".to_owned(), options.seccomp.clone())];
    filters.push(("a variable for --security".to_owned(), of_variables.options.seccomp.clone()));
    if of_variables.options != Options::default() {
        options = over(options, of_variables.options);
    }
    let mut settled = Settled { image, verb, options, warnings: Vec::new() };
    if let Some(path) = edf::locate(&settled.image, &value)? {
        settled.define(edf::read(&path, &value)?, config)?;
    }
    let profile = flags.profile.as_deref().or(of_variables.profile.as_deref()).or(config.default_profile.as_deref());
    if let Some(name) = profile.filter(|name| *name != NONE) {
        let profile = config.profiles.options(name, &value)?;
        filters.push((format!("profile {name}"), profile.seccomp.clone()));
        settled.options = over(settled.options, profile);
    }
    one_filter(filters)?;
    config.add_parts(&mut settled.options, &value)?;
    config.add_drivers(&mut settled.options);
    if flags.no_pid {
        settled.options.namespaces.pid = false;
    }
    // The caller's directories of CDI files count before the site's.
    settled.options.cdi_dirs.splice(0..0, config.cdi_dirs().iter().cloned());
    settled.options.mpi = settled.options.mpi.or(config.mpi);
    config.images.check_options(&settled.options)?;
    Ok(settled)
}

/// Of several files of filters, none is left out silently.
fn one_filter(filters: Vec<(String, Option<PathBuf>)>) -> Result<(), Error> {
    let mut asked = filters.into_iter().filter_map(|(origin, file)| Some((origin, file?)));
    let Some(upper) = asked.next() else { return Ok(()) };
    match asked.find(|under| under.1 != upper.1) {
        Some(under) => Err(Error::Filters { upper: Box::new(upper), under: Box::new(under) }),
        None => Ok(()),
    }
}

/// Whether GPUs are asked for by their names, which bring a driver along.
fn names_gpu(options: &Options) -> bool {
    let asking = options.annotations.iter().filter(|(name, _)| name.starts_with(crate::cdi::ANNOTATION));
    options.devices.iter().any(|device| device.class == "gpu")
        || asking.flat_map(|(_, value)| value.split(',')).any(|device| device.contains("/gpu="))
}

impl Settled {
    /// Takes in an environment definition file.
    fn define(&mut self, environment: edf::Environment, config: &Config) -> Result<(), Error> {
        let mut options = environment.options;
        // Its default gives way to a site that forbids it; what it says aloud does not.
        if environment.writable.unwrap_or(!config.images.read_only()) {
            options.layers.push(Layer::Memory { size: None });
        }
        self.image = environment.image;
        self.warnings.extend(environment.warning);
        if let (false, Verb::Run(words)) = (environment.entrypoint, &self.verb) {
            if words.is_empty() {
                return Err(edf::Error::NothingToRun { path: environment.path }.into());
            }
            self.verb = Verb::Exec(words.clone());
        }
        let upper = std::mem::take(&mut self.options);
        self.options = over(upper, options);
        Ok(())
    }
}

impl Config {
    /// The drivers that the files name for launches that say nothing about GPUs.
    fn add_drivers(&self, options: &mut Options) {
        if self.gpu.asked.is_empty() || options.gpu.alone || !options.gpu.asked.is_empty() || names_gpu(options) {
            return;
        }
        options.gpu = self.gpu.clone();
    }

    /// Adds what the files say of every container, under all that was asked for.
    fn add_parts(&self, options: &mut Options, value: &dyn Fn(&str) -> Option<OsString>) -> Result<(), Error> {
        if self.parts.is_empty() {
            return Ok(());
        }
        let (mut first, mut last, mut early_env) = (Vec::new(), Vec::new(), Vec::new());
        for part in &self.parts {
            for list in &part.mounts.no_mount {
                options.no_mount.extend(parse::no_mount(OsStr::new(list))?);
            }
        }
        for part in &self.parts {
            let forced = part.of_site && self.force_bind;
            for mut bind in part.binds(value)? {
                let place = destination(&bind);
                if forced {
                    bind.forced = true;
                    last.push(bind);
                    continue;
                }
                let refused = options.contain
                    || options.no_mount.contains(&DefaultMount::BindPaths)
                    || place.clone().is_some_and(|place| options.no_mount.contains(&DefaultMount::Path(place)))
                    || options.binds.iter().any(|other| destination(other) == place);
                if !refused {
                    first.push(bind);
                }
            }
            let section = "environment";
            let expanding = |problem| Error::Expand { section, path: part.path.clone(), problem };
            early_env.extend(part.environment.settings(value).map_err(expanding)?);
        }
        first.append(&mut options.binds);
        first.append(&mut last);
        options.binds = first;
        early_env.append(&mut options.early_env);
        options.early_env = early_env;
        Ok(())
    }
}

impl Part {
    /// The binds that this node may have. What is below a variable that is not set is not there.
    fn binds(&self, value: &dyn Fn(&str) -> Option<OsString>) -> Result<Vec<crate::options::Bind>, Error> {
        let mut binds = Vec::new();
        for text in &self.mounts.bind {
            match expand_part(text, value) {
                Ok(text) => {
                    let parsed = parse::binds(&text);
                    binds.extend(parsed.map_err(|problem| Error::Bind { path: self.path.clone(), problem })?);
                }
                Err(Unexpandable::Unset { .. }) => {}
                Err(problem) => return Err(Error::Expand { section: "mounts", path: self.path.clone(), problem }),
            }
        }
        binds.iter_mut().for_each(|bind| bind.optional = true);
        Ok(binds)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::options::{Bind, EnvSetting, Home};

    fn config(site: &str, user: &str) -> Config {
        let mut config = Config::default();
        for (name, of_site, text) in [("site", true, site), ("user", false, user)] {
            config.merge(name.into(), of_site, text, toml::from_str(text).unwrap()).unwrap();
        }
        config
    }

    fn settle(config: &Config, flags: &[&str], env: &[(&str, &str)]) -> Result<Options, String> {
        use clap::Parser;
        let words = ["coracle", "exec"].iter().chain(flags).chain(&["image", "true"]);
        let crate::cli::Command::Exec(launch) = crate::cli::Cli::try_parse_from(words).unwrap().command else {
            panic!()
        };
        let env: Vec<_> = env.iter().map(|(name, value)| (name.into(), value.into())).collect();
        let asked = Asked { flags: &launch.flags, image: "image".into(), verb: Verb::Exec(vec!["true".into()]) };
        apply(config, &env, asked).map(|settled| settled.options).map_err(|error| error.to_string())
    }

    fn places(options: &Options) -> Vec<String> {
        options.binds.iter().map(|bind| destination(bind).unwrap().display().to_string()).collect()
    }

    #[test]
    fn nothing_set_is_the_flags_alone() {
        let options = settle(&Config::default(), &["-c", "--bind", "/a"], &[("HOME", "/h")]).unwrap();
        let plain = Options { contain: true, binds: vec![Bind::of_host("/a", None)], ..Options::default() };
        assert_eq!(options, plain);
    }

    #[test]
    fn the_sites_binds_can_be_refused_unless_forced() {
        let site = "[mounts]\nbind = [\"/scratch/${USER}\", \"/sw:/opt/sw:ro\", \"${ABSENT}/x\"]\n";
        let user = "[mounts]\nbind = [\"/mine\"]\n";
        let env = [("USER", "a:b")];
        let of = |site: &str, flags: &[&str]| places(&settle(&config(site, user), flags, &env).unwrap());
        assert_eq!(of(site, &["--bind", "/data"]), ["/scratch/a:b", "/opt/sw", "/mine", "/data"]);
        assert_eq!(of(site, &["--no-mount", "/opt/sw"]), ["/scratch/a:b", "/mine"]);
        assert_eq!(of(site, &["--no-mount", "bind-paths", "--bind", "/d"]), ["/d"]);
        assert_eq!(of(site, &["--bind", "/other:/opt/sw/"]), ["/scratch/a:b", "/mine", "/opt/sw"]);
        assert_eq!(of(site, &["--contain"]), Vec::<String>::new());
        let forced = format!("{site}force-bind = true\n");
        assert_eq!(of(&forced, &["--no-mount", "bind-paths,/opt/sw", "--contain"]), ["/scratch/a:b", "/opt/sw"]);
        let options = settle(&config(site, ""), &[], &env).unwrap();
        assert!(options.binds.iter().all(|bind| bind.optional) && options.binds[1].options == ["ro"]);
    }

    #[test]
    fn the_order_is_files_profile_variables_flags() {
        let site = "[environment]\nset = { A = \"site $USER\" }\nunset = [\"X*\"]\n[defaults]\nprofile = \"p\"\n\
                    [profile.p]\npwd = \"/site\"\nhome = \"/h:/home/x\"\nenvironment.set.A = \"p\"\n[profile.q]\npwd = \"/q\"\n";
        let user = "[environment]\nprepend = { PATH = \"/u\" }\n[profile.r]\ninherit = [\"p\"]\ncontain = true\n";
        let config = config(site, user);
        let settle =
            |flags: &[&str], env: &[(&str, &str)]| settle(&config, flags, &[&[("USER", "u")], env].concat()).unwrap();
        let set = |value: &str| EnvSetting::Set("A".into(), value.into());
        let options = settle(&["--env", "A=flag"], &[("CORACLEENV_A", "v")]);
        let path = EnvSetting::Prepend("PATH".into(), "/u".into());
        assert_eq!(options.early_env, [EnvSetting::Unset("X*".into()), set("site u"), path, set("p"), set("v")]);
        assert_eq!((options.env, options.working_dir.as_deref()), (vec![set("flag")], Some(Path::new("/site"))));
        let pwd = |flags: &[&str], env: &[(&str, &str)]| settle(flags, env).working_dir;
        assert_eq!(pwd(&["--profile", "q"], &[("CORACLE_PROFILE", "p")]), Some("/q".into()));
        assert_eq!(pwd(&[], &[("CORACLE_PROFILE", "q")]), Some("/q".into()));
        assert_eq!(pwd(&["--profile", "q"], &[("CORACLE_PWD", "/v")]), Some("/v".into()));
        assert_eq!(pwd(&["--profile", "q", "--pwd", "/f"], &[("CORACLE_PWD", "/v")]), Some("/f".into()));
        assert_eq!(pwd(&["--profile", "none"], &[]), None);
        let inherits = settle(&["--profile", "r", "--no-home"], &[]);
        assert!(inherits.contain && inherits.home == Home::Without && inherits.working_dir.is_some());
    }

    #[test]
    fn the_namespace_that_is_switched_off_stays_off() {
        let config = config("[defaults]\nprofile = \"p\"\n[profile.p]\npid = true\n", "");
        assert!(settle(&config, &[], &[]).unwrap().namespaces.pid);
        assert!(!settle(&config, &["--no-pid"], &[]).unwrap().namespaces.pid);
    }

    #[test]
    fn what_is_wrong_names_its_origin() {
        let config = config(
            "[profile.a]\n[profile.b]\ninherit = [\"b\"]\n[images]\nread-only = true\n",
            "[environment]\nset = { A = \"$B\" }\n",
        );
        let says = |flags: &[&str], env: &[(&str, &str)]| settle(&config, flags, env).unwrap_err();
        assert!(says(&["--profile", "x"], &[]).contains("no profile \"x\": there are a, b"));
        assert!(says(&["--profile", "b"], &[]).contains("b -> b inherits itself"));
        assert!(says(&[], &[]).contains("[environment] of user: variable B is not set"));
        let b = [("B", "1")];
        assert!(says(&["--writable-tmpfs"], &b).contains("[images] read-only = true"));
        assert!(says(&["--overlay", "x"], &b).contains("[images] read-only = true"));
        assert!(says(&["--shell", "/bin/zsh"], &b).contains("coracle shell"));
        assert!(says(&["--bind", "/a:b"], &b).starts_with("bind"));
        settle(&config, &["--overlay", "x.sqfs:ro"], &b).unwrap();
    }

    #[test]
    fn the_sites_directories_of_cdi_files_come_first() {
        let config = config("[gpu]\ncdi-dirs = [\"/site\"]\n", "");
        let dirs = settle(&config, &["--cdi-dirs", "/mine"], &[("CORACLE_CDI_DIRS", "/set")]).unwrap().cdi_dirs;
        assert_eq!(dirs, ["/site", "/set", "/mine"].map(std::path::PathBuf::from));
    }

    #[test]
    fn the_files_drivers_count_where_a_launch_says_nothing() {
        use crate::gpu::table::Vendor;
        use crate::options::Missing;
        let site = "[gpu]\ndefault = \"auto\"\n";
        let of = |site: &str, user: &str, flags: &[&str], env: &[(&str, &str)]| {
            settle(&config(site, user), flags, env).unwrap().gpu.asked.into_iter().collect::<Vec<_>>()
        };
        let auto: Vec<_> = Vendor::ALL.map(|vendor| (vendor, Missing::Silent)).to_vec();
        assert_eq!(of(site, "", &[], &[]), auto);
        assert_eq!(of(site, "[gpu]\ncdi-dirs = [\"/mine\"]\n", &[], &[]), auto, "the user says nothing of it");
        assert_eq!(of(site, "[gpu]\ndefault = \"off\"\n", &[], &[]), []);
        assert_eq!(of("", "[gpu]\ndefault = \"amd,nvidia\"\n", &[], &[]).len(), 2);
        assert_eq!(of(site, "", &["--rocm"], &[]), [(Vendor::Amd, Missing::Warn)]);
        assert_eq!(of(site, "", &["--gpu=off"], &[]), []);
        assert_eq!(of(site, "", &[], &[("CORACLE_GPU", "intel")]), [(Vendor::Intel, Missing::Fail)]);
        assert_eq!(of(site, "", &[], &[("CORACLE_GPU", "off")]), []);
        assert_eq!(of(site, "", &["--nv"], &[("CORACLE_GPU", "off")]), [(Vendor::Nvidia, Missing::Warn)]);
        assert_eq!(of(site, "", &["--device", "nvidia.com/gpu=0"], &[]), [], "its file brings the driver");
        assert_eq!(of(site, "", &["--device", "vendor.com/fpga=0"], &[]), auto);
        assert_eq!(of(site, "", &["--annotation", "cdi.k8s.io/x=vendor.com/nic=1,amd.com/gpu=0"], &[]), []);
        let profile = format!("{site}[defaults]\nprofile = \"p\"\n[profile.p]\ndevice = [\"nvidia.com/gpu=0\"]\n");
        assert_eq!(of(&profile, "", &[], &[]), []);
    }
}
