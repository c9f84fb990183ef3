//! Composes the OCI runtime specification: the image's configuration, the caller's options and the host's facts go in,
//! everything that will happen comes out. Nothing is changed here, and only what the arguments show is looked at.
//!
//! What the specification has no field for is in annotations, whose names are constants of this module.

use std::collections::{BTreeMap, HashMap};
use std::ffi::{OsStr, OsString};
use std::fmt::Write;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use coracle_converter::image_info::CONFIG;
use oci_spec::OciSpecError;
use oci_spec::image::ImageConfiguration;
use oci_spec::runtime::{
    LinuxBuilder, LinuxNamespaceBuilder, LinuxNamespaceType, ProcessBuilder, RootBuilder, Spec, SpecBuilder,
};

use crate::config::Unexpandable;
use crate::host::{Host, Probe};
use crate::image::{self, Entry, ImageFile, Tree, is_executable, locate};
use crate::options::{DefaultMount, Options, Verb};
use crate::seccomp;

mod env;
pub(crate) mod hex;
mod identity;
mod isolation;
mod layers;
mod mounts;
#[cfg(test)]
mod tests;

pub use layers::{Error as LayersError, work_directories};
pub(crate) use layers::{MEMORY, READ_ONLY, WRITABLE};
pub(crate) use mounts::{INSIDE, SQUASHFS, is_below};
pub use mounts::{keep_forced, shows};

/// Absolute path of the image file.
pub const IMAGE: &str = "org.coracle.image";
/// First byte of the squashfs in the image file, when that is not 0.
pub const IMAGE_OFFSET: &str = "org.coracle.image.offset";
/// Followed by a path: the content of a file that replaces the image's.
pub const FILE: &str = "org.coracle.file.";
/// Followed by a path: the target of a symbolic link that is to be there.
pub const LINK: &str = "org.coracle.link.";
/// Followed by a path: a directory of symbolic links to be shown there, a line each: name, blank, target.
pub const LINKS: &str = "org.coracle.links.";
/// Followed by a path: the content of a file that is bound over what the mounts show there.
pub const OVER: &str = "org.coracle.over.";
/// Followed by a path: the same, its bytes in hexadecimal.
pub const RAW_OVER: &str = "org.coracle.raw.over.";
/// Followed by a path: the octal permission bits of what is there, on a new file system.
pub const MODE: &str = "org.coracle.mode.";
/// Destinations, one a line, of mounts that are left out with a warning when the host refuses them.
pub const OPTIONAL: &str = "org.coracle.optional";
/// Layers over the image from the bottom up, one a line: `memory`, `memory BYTES`, `rw PATH`, `ro PATH`.
pub const LAYERS: &str = "org.coracle.layers";
/// Followed by a path: the content of a file that this launch alone sees there. The server knows nothing of it, so that launches
/// that differ in it share the image's mount all the same.
pub const MOUNTED_FILE: &str = "org.coracle.mounted-file.";
/// `true` when process 1 of the PID namespace is Coracle's init, and the program its child.
pub const INIT: &str = "org.coracle.init";
/// `true` when there is no program: the init stays until it is told to end.
pub const STAY: &str = "org.coracle.stay";
/// Where to start when the working directory cannot be entered.
pub const CWD_FALLBACK: &str = "org.coracle.cwd.fallback";
/// Annotation: numbers of inherited descriptors that stay open if they are sockets or pipes, with commas between them.
pub const DESCRIPTORS: &str = "org.coracle.descriptors";
/// A filter of system calls besides the specification's, in the same form, which lets programs believe that they are root.
pub const ROOT_FILTER: &str = "org.coracle.seccomp.root";
/// Followed by an index: the argument's bytes in hexadecimal, when they are not UTF-8.
pub const RAW_ARGUMENT: &str = "org.coracle.raw.args.";
/// Followed by an index: the `NAME=VALUE` bytes in hexadecimal, when they are not UTF-8.
pub const RAW_ENV: &str = "org.coracle.raw.env.";

/// Version of the runtime specification that the result follows.
const VERSION: &str = "1.2.0";
/// What `run` means to an image that Apptainer built.
const RUNSCRIPT: &str = "/.singularity.d/runscript";

/// Why no specification could be composed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The image is damaged.
    #[error(transparent)]
    Image(#[from] image::Error),
    /// The image's configuration is not what the OCI specification says.
    #[error("cannot read the image's configuration, {CONFIG}")]
    Config(#[source] OciSpecError),
    /// The parts do not make a specification.
    #[error("cannot compose the runtime specification")]
    Spec(#[from] OciSpecError),
    /// The image does not say what it runs.
    #[error("cannot run image {}: it names no program of its own; name one: coracle exec IMAGE COMMAND", image.display())]
    NoProgram {
        /// The image file.
        image: PathBuf,
    },
    /// `shell`, but the image has none.
    #[error("cannot start a shell in image {}: it has neither /bin/bash nor /bin/sh", image.display())]
    NoShell {
        /// The image file.
        image: PathBuf,
    },
    /// The source of a bind.
    #[error("cannot bind {}: there is no such file or directory on this host, or you may not reach it", source_path.display())]
    NoSource {
        /// On the host.
        source_path: PathBuf,
    },
    /// A relative path when the working directory is gone.
    #[error("cannot bind {}: it is relative, and the working directory is gone", source_path.display())]
    NoCwd {
        /// As given.
        source_path: PathBuf,
    },
    /// The layers over the image.
    #[error(transparent)]
    Layers(#[from] layers::Error),
    /// The directory of `--workdir`.
    #[error("cannot use {} for --workdir: it is not a directory of this host; make it first: mkdir {}", path.display(), path.display())]
    NoWorkDir {
        /// Absolute.
        path: PathBuf,
    },
    /// A bind of what an image lacks.
    #[error("cannot bind {} of image {}: the image has no such file or directory", inside.display(), image.display())]
    NotInImage {
        /// The image file.
        image: PathBuf,
        /// In it.
        inside: PathBuf,
    },
    /// What would hide what the site forces.
    #[error(
        "cannot mount anything on {}: it would hide {}, which this site's [mounts] force-bind = true puts on top of everything; choose another place",
        destination.display(), forced.display()
    )]
    Forced {
        /// In the container.
        destination: PathBuf,
        /// The site's.
        forced: PathBuf,
    },
    /// A writable bind of an image.
    #[error("cannot bind image {} to write to it: an image can only be read; leave rw out", image.display())]
    ImageIsReadOnly {
        /// The image file.
        image: PathBuf,
    },
    /// A seccomp profile.
    #[error(transparent)]
    Seccomp(#[from] seccomp::Error),
    /// A setting of the environment.
    #[error("{origin}: {problem}")]
    Expand {
        /// Where it was written.
        origin: String,
        /// What is wrong with it.
        problem: Unexpandable,
    },
    /// `--pwd`
    #[error("cannot start in {}: write an absolute path of the container", path.display())]
    RelativeCwd {
        /// As given.
        path: PathBuf,
    },
}

/// The image, as far as the decisions need it.
pub struct ImageFacts<'a> {
    /// Absolute path on the host.
    pub path: &'a Path,
    /// First byte of the squashfs.
    pub offset: u64,
    /// It is a directory, not a file.
    pub directory: bool,
    /// Its files.
    pub tree: &'a dyn Tree,
}

impl<'a> From<&'a ImageFile> for ImageFacts<'a> {
    fn from(image: &'a ImageFile) -> Self {
        Self { path: &image.path, offset: image.offset, directory: false, tree: image }
    }
}

/// A specification, and what the caller should be told.
#[derive(Debug)]
pub struct Composed {
    /// What will happen.
    pub spec: Spec,
    /// What will not be as expected, a sentence each.
    pub warnings: Vec<String>,
}

/// Decides everything about a launch.
///
/// # Errors
/// When the image is damaged, does not say what to run, or a bind has no source.
pub fn compose(
    image: &ImageFacts<'_>,
    verb: &Verb,
    options: &Options,
    host: &Host,
    probe: &dyn Probe,
) -> Result<Composed, Error> {
    let config = configuration(image.tree)?;
    let over = layers::decide(image, options, host, probe)?;
    let mut warnings = Vec::new();
    if options.work_dir.is_some() && !options.contain && options.scratch.is_empty() {
        warnings.push("--workdir has no effect without --contain or --scratch".to_owned());
    }
    let shell = login_shell(image.tree, &host.who.account.shell)?;
    let (program, interactive) = program(image, verb, options.shell.as_deref(), config.as_ref())?;

    let mut mounts = mounts::collect(image.tree, options, host, probe)?;
    let start = working_dir(image.tree, options, host, config.as_ref(), &mut mounts, &mut warnings)?;
    let visible = |path: &Path| mounts.shows(path) || matches!(locate(image.tree, path), Ok(at) if at.entry.is_some());
    let image_env = config.as_ref().and_then(|config| config.config().as_ref()).and_then(|c| c.env().as_deref());
    let context = env::Context {
        image_env: image_env.unwrap_or_default(),
        image_path: image.path,
        cwd: &start.path,
        home: mounts.home.as_deref(),
        shell: &shell,
        prompt: interactive,
        visible: &visible,
    };
    let mut variables = env::compose(host, options, &context)?;

    let mut annotations: HashMap<String, String> = options.annotations.clone().into_iter().collect();
    annotations.insert(IMAGE.to_owned(), image.path.display().to_string());
    if image.offset != 0 {
        annotations.insert(IMAGE_OFFSET.to_owned(), image.offset.to_string());
    }
    if let Some(fallback) = &start.fallback {
        annotations.insert(CWD_FALLBACK.to_owned(), fallback.display().to_string());
    }
    let home = mounts.home.clone().unwrap_or_else(|| host.who.account.home.clone());
    // What is written to is the caller's to keep as it is.
    if !options.writable {
        identity::account_files(image.tree, options, host, &home, &shell, &mut annotations)?;
    }
    let apt = identity::covers_apt(&mounts);
    identity::pretend(image.tree, options, host, apt, &mut variables, &mut annotations, &mut warnings)?;
    if !over.lines.is_empty() {
        annotations.insert(LAYERS.to_owned(), over.lines.join("\n"));
    }
    isolation::annotate(verb, options, host, &mounts, &mut annotations);
    warnings.extend(isolation::warning(options));
    let (args, raw_args) = texts(program);
    let (env, raw_env) = texts(variables.into_iter().map(joined));
    annotations.extend(raw_args.into_iter().map(|(index, hex)| (format!("{RAW_ARGUMENT}{index}"), hex)));
    annotations.extend(raw_env.into_iter().map(|(index, hex)| (format!("{RAW_ENV}{index}"), hex)));
    warnings.append(&mut mounts.warnings);
    let (mounts, optional) = mounts.finish()?;
    if !optional.is_empty() {
        annotations.insert(OPTIONAL.to_owned(), optional.join("\n"));
    }

    let spec = SpecBuilder::default()
        .version(VERSION)
        // Of an image file, the directory that another runtime would have it mounted on.
        .root(
            RootBuilder::default()
                .path(if image.directory { image.path } else { Path::new("rootfs") })
                .readonly(over.read_only)
                .build()?,
        )
        .process(process(host, options, args, env, start.path)?)
        .mounts(mounts)
        .linux(linux(host, options)?)
        .annotations(annotations)
        .build()?;
    let mut spec = spec;
    // Sets the host name, too, which the builder has filled in.
    isolation::apply(&mut spec, options)?;
    Ok(Composed { spec, warnings })
}

fn process(
    host: &Host,
    options: &Options,
    args: Vec<String>,
    env: Vec<String>,
    cwd: PathBuf,
) -> Result<oci_spec::runtime::Process, Error> {
    let mut process = ProcessBuilder::default()
        .user(identity::user(host)?)
        .args(args)
        .env(env)
        .cwd(cwd)
        .capabilities(identity::capabilities(identity::wanted(options), host)?)
        .no_new_privileges(true)
        .build()?;
    // Limits are the caller's, not the builder's.
    process.set_rlimits(None);
    Ok(process)
}

/// The ids that there are, in a user and a mount namespace; network, processes and the rest are the host's.
fn linux(host: &Host, options: &Options) -> Result<oci_spec::runtime::Linux, Error> {
    let namespace = |kind| LinuxNamespaceBuilder::default().typ(kind).build();
    let mut linux = LinuxBuilder::default()
        .namespaces(vec![namespace(LinuxNamespaceType::User)?, namespace(LinuxNamespaceType::Mount)?])
        .uid_mappings(identity::mappings(&host.ids.users)?)
        .gid_mappings(identity::mappings(&host.ids.groups)?)
        .rootfs_propagation("rslave")
        .build()?;
    linux.set_masked_paths(None);
    linux.set_readonly_paths(None);
    linux.set_resources(None);
    let profile = |file| identity::profile(file, identity::wanted(options));
    linux.set_seccomp(host.seccomp.as_ref().map(profile).transpose()?);
    Ok(linux)
}

pub(crate) fn configuration(tree: &dyn Tree) -> Result<Option<ImageConfiguration>, Error> {
    match tree.content(Path::new(CONFIG))? {
        Some(json) => ImageConfiguration::from_reader(json.as_slice()).map(Some).map_err(Error::Config),
        None => Ok(None),
    }
}

/// Where in the image the program is that a launch will start, as far as the image alone tells: for reading ahead.
#[must_use]
pub fn first_program(image: &ImageFile, verb: &Verb, shell: Option<&Path>) -> Option<PathBuf> {
    let config = configuration(image).ok()?;
    let (words, _) = program(&image.into(), verb, shell, config.as_ref()).ok()?;
    let name = words.first()?;
    let executable = |path: &Path| is_executable(image, path.as_os_str()).unwrap_or(false);
    if name.as_bytes().contains(&b'/') {
        return Some(PathBuf::from(name)).filter(|path| path.is_absolute() && executable(path));
    }
    let variables =
        config.as_ref().and_then(|config| config.config().as_ref()).and_then(|config| config.env().as_deref());
    let search = variables.into_iter().flatten().find_map(|variable| variable.strip_prefix("PATH="));
    let paths = std::env::split_paths(search.unwrap_or(env::PATH)).map(|directory| directory.join(name));
    paths.filter(|path| path.is_absolute()).find(|path| executable(path))
}

/// The command to execute, and the prompt when it is an interactive shell.
fn program(
    image: &ImageFacts<'_>,
    verb: &Verb,
    shell: Option<&Path>,
    config: Option<&ImageConfiguration>,
) -> Result<(Vec<OsString>, Option<env::Prompt>), Error> {
    match verb {
        Verb::Exec(command) => Ok((command.clone(), None)),
        // What process 1 is called in the container; nothing is executed.
        Verb::Stay => Ok((vec!["coracle-init".into()], None)),
        Verb::Shell(arguments) => {
            if let Some(shell) = shell {
                return Ok(chosen_shell(shell, arguments));
            }
            let bash = ["/bin/bash", "/usr/bin/bash"];
            let sh = ["/bin/sh", "/usr/bin/sh", "/bin/busybox"];
            for (shells, prompt) in [(bash.as_slice(), env::Prompt::Bash), (sh.as_slice(), env::Prompt::Plain)] {
                for shell in shells {
                    if !is_executable(image.tree, OsStr::new(shell))? {
                        continue;
                    }
                    let mut command = vec![OsString::from(shell)];
                    match (prompt, *shell) {
                        // The caller's ~/.bashrc is written for the host: modules, host paths, a prompt without the image.
                        (env::Prompt::Bash, _) => command.push("--norc".into()),
                        (_, "/bin/busybox") => command.push("sh".into()),
                        _ => {}
                    }
                    command.extend(arguments.iter().cloned());
                    return Ok((command, Some(prompt)));
                }
            }
            Err(Error::NoShell { image: image.path.to_path_buf() })
        }
        Verb::Run(arguments) => {
            let config = config.and_then(|config| config.config().as_ref());
            let words = |list: Option<&Vec<String>>| list.into_iter().flatten().map(OsString::from).collect::<Vec<_>>();
            let mut command = words(config.and_then(|config| config.entrypoint().as_ref()));
            if config.is_none() && is_executable(image.tree, OsStr::new(RUNSCRIPT))? {
                command.push(RUNSCRIPT.into());
            }
            if arguments.is_empty() {
                command.extend(words(config.and_then(|config| config.cmd().as_ref())));
            } else {
                command.extend(arguments.iter().cloned());
            }
            if command.is_empty() {
                return Err(Error::NoProgram { image: image.path.to_path_buf() });
            }
            Ok((command, None))
        }
    }
}

/// A shell that the caller names. That it is missing is said when it is started: a bind may show it.
fn chosen_shell(shell: &Path, arguments: &[OsString]) -> (Vec<OsString>, Option<env::Prompt>) {
    let mut command = vec![shell.into()];
    let prompt = if shell.file_name() == Some(OsStr::new("bash")) {
        command.push("--norc".into());
        env::Prompt::Bash
    } else {
        env::Prompt::Plain
    };
    command.extend(arguments.iter().cloned());
    (command, Some(prompt))
}

/// The caller's login shell if the image has it, for the user database and `SHELL`.
fn login_shell(tree: &dyn Tree, wanted: &Path) -> Result<PathBuf, Error> {
    let has = is_executable(tree, wanted.as_os_str())?;
    Ok(if has { wanted.to_path_buf() } else { PathBuf::from("/bin/sh") })
}

struct Start {
    path: PathBuf,
    fallback: Option<PathBuf>,
}

/// Where the program starts; binds the host's working directory when nothing else shows it.
fn working_dir(
    tree: &dyn Tree,
    options: &Options,
    host: &Host,
    config: Option<&ImageConfiguration>,
    mounts: &mut mounts::Mounts,
    warnings: &mut Vec<String>,
) -> Result<Start, Error> {
    if let Some(path) = &options.working_dir {
        if !path.is_absolute() {
            return Err(Error::RelativeCwd { path: path.clone() });
        }
        return Ok(Start { path: path.clone(), fallback: None });
    }
    let config = config.and_then(|config| config.config().as_ref());
    let image_dir = config.and_then(|config| config.working_dir().as_deref()).filter(|dir| dir.starts_with('/'));
    let image_dir = PathBuf::from(image_dir.unwrap_or("/"));
    // The image may name a working directory that it does not have.
    let in_image = locate(tree, &image_dir)?.entry == Some(Entry::Directory) || mounts.shows(&image_dir);
    let image_dir = if in_image { image_dir } else { PathBuf::from("/") };
    if options.contain {
        return Ok(Start { path: image_dir, fallback: None });
    }
    let Some(cwd) = &host.cwd else {
        warnings.push(format!("the working directory is gone: starting in {}", image_dir.display()));
        return Ok(Start { path: image_dir, fallback: None });
    };
    let bound = mounts.shows(cwd)
        || (!options.no_mount.contains(&DefaultMount::Cwd)
            && !options.no_mount.contains(&DefaultMount::Path(cwd.clone()))
            && mounts.add_cwd(cwd));
    if bound || locate(tree, cwd)?.entry == Some(Entry::Directory) {
        return Ok(Start { path: cwd.clone(), fallback: Some(image_dir) });
    }
    warnings.push(format!(
        "the working directory {} is not shown in the container: starting in {}; bind it with --bind or choose with --pwd",
        cwd.display(),
        image_dir.display()
    ));
    Ok(Start { path: image_dir, fallback: None })
}

fn joined((name, value): (OsString, OsString)) -> OsString {
    let mut bytes = name.into_vec();
    bytes.push(b'=');
    bytes.extend(value.into_vec());
    OsString::from_vec(bytes)
}

/// Words as the specification's strings, and in hexadecimal those that are not UTF-8, by index.
fn texts(words: impl IntoIterator<Item = OsString>) -> (Vec<String>, BTreeMap<usize, String>) {
    let mut raw = BTreeMap::new();
    let mut texts = Vec::new();
    for (index, word) in words.into_iter().enumerate() {
        texts.push(word.into_string().unwrap_or_else(|word| {
            let mut hex = String::with_capacity(2 * word.len());
            for byte in word.as_bytes() {
                // Writing to a String cannot fail.
                let _ = write!(hex, "{byte:02x}");
            }
            raw.insert(index, hex);
            word.to_string_lossy().into_owned()
        }));
    }
    (texts, raw)
}

/// The reverse of [`texts`].
pub(crate) fn words(texts: &[String], prefix: &str, annotations: Option<&HashMap<String, String>>) -> Vec<OsString> {
    let raw = |index: usize| annotations?.get(&format!("{prefix}{index}")).and_then(|hex| hex::decode_word(hex));
    texts.iter().enumerate().map(|(index, text)| raw(index).unwrap_or_else(|| OsString::from(text))).collect()
}
