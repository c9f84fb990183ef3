//! The verb `instance`, and programs that join one.

use std::ffi::OsString;
use std::fs::{DirBuilder, File};
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::str::FromStr;
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, bail, ensure};
use clap::Parser;
use coracle::capabilities::PTRACE;
use coracle::cli::{self, Cli, Command, Flags, InstanceCommand};
use coracle::config::{self, Asked, Config};
use coracle::engine::{self, Detached};
use coracle::exit::Exit;
use coracle::host::Surroundings;
use coracle::instance::{self, Directory, Process, Record, Rights, State};
use coracle::options::{Options, Verb};
use coracle::sys::process;
use coracle::sys::signals::{self, Change};
use nix::sys::signal::Signal;

use super::launch::{self, Ready};
use super::{complain, print, say, settings};

/// How often processes are looked at that are about to end.
const LOOK: Duration = Duration::from_millis(10);
/// How often a file is looked at that is about to grow.
const GROW: Duration = Duration::from_millis(200);

/// Does what `instance` was asked; the exit status.
pub(super) fn instance(command: &InstanceCommand) -> anyhow::Result<u8> {
    match command {
        InstanceCommand::Start(arguments) => {
            // No program is called `--`, so one in front is dropped, as for exec.
            let verb = |rest| cli::command(rest).unwrap_or(Verb::Stay);
            start("start", arguments, verb)
        }
        InstanceCommand::Run(arguments) => start("run", arguments, Verb::Run),
        InstanceCommand::Exec(arguments) => {
            let mut words = arguments.words.clone();
            if let Some(name) = words.first_mut() {
                let mut uri = OsString::from(instance::SCHEME);
                uri.push(&*name);
                *name = uri;
            }
            let verb = |rest| cli::command(rest).context("no command given: write coracle instance exec NAME COMMAND");
            launch::run(&arguments.flags, &words, verb).map(|exit| exit as u8)
        }
        InstanceCommand::List(arguments) => list(arguments).map(|exit| exit as u8),
        InstanceCommand::Stop(arguments) => stop(arguments).map(|exit| exit as u8),
        InstanceCommand::Logs(arguments) => logs(arguments).map(|exit| exit as u8),
        InstanceCommand::Restart(arguments) => restart(arguments),
    }
}

fn start(kind: &str, arguments: &cli::Start, verb: impl FnOnce(Vec<OsString>) -> Verb) -> anyhow::Result<u8> {
    let plan = Planned::read(kind, arguments, verb)?;
    if arguments.flags.dry_run {
        bail!("cannot print the steps of an instance: they are those of coracle exec --pid --dry-run");
    }
    let words: Option<Vec<String>> = std::env::args_os().skip(2).map(|word| word.into_string().ok()).collect();
    let words =
        words.context("cannot start an instance: an argument is not UTF-8, and could not be kept for a restart")?;
    let cwd = std::env::current_dir().context("the working directory is gone")?;
    plan.begin(&arguments.flags, words, &cwd, false)
}

/// A start as the command line has it.
struct Planned {
    name: String,
    /// What the program's words are.
    command: Vec<String>,
    config: Config,
    ready: Ready,
}

impl Planned {
    fn read(kind: &str, arguments: &cli::Start, verb: impl FnOnce(Vec<OsString>) -> Verb) -> anyhow::Result<Self> {
        let usage = || format!("write coracle instance {kind} [OPTIONS] IMAGE NAME");
        let (image, mut rest) = cli::image_and_rest(&arguments.words).context("no image given")?;
        ensure!(!rest.is_empty(), "no name given: {}", usage());
        let name = rest.remove(0);
        let name = name.to_string_lossy().into_owned();
        instance::check_name(&name)?;
        ensure!(instance::named(&image).is_none(), "cannot start an instance of an instance: {}", usage());
        for (asked, option) in [(arguments.flags.no_pid, "--no-pid"), (arguments.flags.no_init, "--no-init")] {
            ensure!(
                !asked,
                "cannot start instance {name} with {option}: its processes end with its init, which holds it"
            );
        }
        let verb = verb(rest);
        let command = match &verb {
            Verb::Exec(words) | Verb::Run(words) => {
                words.iter().map(|word| word.to_string_lossy().into_owned()).collect()
            }
            Verb::Shell(_) | Verb::Stay => Vec::new(),
        };
        let config = settings()?;
        let mut ready = launch::ready(&arguments.flags, image, verb, &config)?;
        ready.options.namespaces.pid = true;
        instance::guard_init(&name, &mut ready.options)?;
        Ok(Self { name, command, config, ready })
    }

    /// Starts it, and returns when the program runs, or with the status that it would have had in the foreground.
    fn begin(self, flags: &Flags, words: Vec<String>, cwd: &Path, append: bool) -> anyhow::Result<u8> {
        let (mut told, starter) = io::pipe().context("cannot make a pipe")?;
        let record = self.record(words, cwd)?;
        let name = self.name.clone();
        let child = process::spawn_child(|| match self.in_background(flags, record, starter.into(), append) {
            Ok(never) => match never {},
            Err(error) => complain(&error) as u8,
        });
        let child = child.context("cannot start a process")?;
        let mut words = Vec::new();
        told.read_to_end(&mut words).context("cannot hear from the instance")?;
        if engine::runs(&words) {
            return Ok(Exit::Success as u8);
        }
        let end = signals::end_of(child.as_raw());
        // Without a directory there is no state in it, and why there is none has been said.
        let _ = forget_failed(&name, child.as_raw());
        match end {
            Change::Exited(status) => Ok(status),
            end => bail!("cannot start instance {name}: its process was ended ({end:?})"),
        }
    }

    fn record(&self, words: Vec<String>, cwd: &Path) -> anyhow::Result<Record> {
        let directory = log_directory()?;
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let nobody = Process { pid: 0, start: 0 };
        Ok(Record {
            name: self.name.clone(),
            image: self.ready.path.clone(),
            process: nobody,
            supervisor: nobody,
            starting: true,
            namespaces: std::collections::BTreeMap::new(),
            command: self.command.clone(),
            words,
            cwd: cwd.to_path_buf(),
            user: user(),
            started: now.as_secs(),
            output: directory.join(format!("{}.out", self.name)),
            errors: directory.join(format!("{}.err", self.name)),
            boot: String::new(),
            rights: Some(Rights::of(&self.ready.options)?),
        })
    }

    /// In a process of its own, which becomes the one that waits for the container.
    fn in_background(
        self,
        flags: &Flags,
        record: Record,
        starter: OwnedFd,
        append: bool,
    ) -> anyhow::Result<std::convert::Infallible> {
        // Neither the terminal nor the shell knows it any more.
        nix::unistd::setsid().context("cannot leave the terminal")?;
        let directory = Directory::open()?;
        let record = record.by_this_process().context("cannot look at /proc")?;
        directory.claim(&record)?;
        let log = |path: &Path| -> anyhow::Result<OwnedFd> {
            let file = File::options().append(true).create(true).mode(0o600).open(path);
            let file = file.with_context(|| format!("cannot write {}", path.display()))?;
            if !append {
                file.set_len(0).with_context(|| format!("cannot empty {}", path.display()))?;
            }
            Ok(file.into())
        };
        let (output, errors) = (log(&record.output)?, log(&record.errors)?);
        let null = File::options().read(true).open("/dev/null").context("cannot open /dev/null")?;
        process::redirect_input(&null.into()).context("cannot leave the terminal")?;
        let note = directory.note(record).context("cannot look at /proc")?;
        let detached = Detached::new(output, errors, starter, note);
        launch::start(flags, self.ready, &self.config, Some(Rc::new(detached)))
    }
}

/// Removes the state of an instance that never ran.
fn forget_failed(name: &str, starter: i32) -> anyhow::Result<()> {
    let directory = Directory::open()?;
    if let Some(record) = directory.read(name)?
        && record.supervisor.pid == starter
    {
        directory.remove(&record)?;
    }
    Ok(())
}

fn user() -> String {
    let id = nix::unistd::geteuid();
    std::env::var("USER").unwrap_or_else(|_| id.to_string())
}

/// Where instances on this node write, made if it is not there.
fn log_directory() -> anyhow::Result<PathBuf> {
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let state = absolute("XDG_STATE_HOME").or_else(|| absolute("HOME").map(|home| home.join(".local/state")));
    let state = state.context("there is no place for logs: set HOME or XDG_STATE_HOME to an absolute path")?;
    let directory = state.join("coracle/instances").join(instance::host());
    let made = DirBuilder::new().recursive(true).mode(0o700).create(&directory);
    made.with_context(|| {
        format!("cannot make {} for logs; XDG_STATE_HOME chooses another place", directory.display())
    })?;
    Ok(directory)
}

/// `exec`, `run` and `shell` of `instance://NAME`.
pub(super) fn join(flags: &Flags, name: &str, verb: Verb) -> anyhow::Result<Exit> {
    if let Some(option) = flags.unfit_for_joining() {
        bail!("cannot use {option} in instance {name}: it has to be given when the instance is started");
    }
    let (record, process) = Directory::open()?.running(name)?;
    let config = settings()?;
    let env: Vec<(OsString, OsString)> = std::env::vars_os().collect();
    let mut options = recorded(&record, &config, &env)?;
    let mine = flags.options()?;
    options.env.extend(mine.env);
    options.env_files.retain(|file| file.exists());
    options.env_files.extend(mine.env_files);
    options.clean_env |= mine.clean_env;
    options.no_env.extend(mine.no_env);
    options.shell = mine.shell.or(options.shell);
    let mut around = Surroundings::of(env, &options)?;
    if let Some(profile) = record.rights.as_ref().and_then(|rights| rights.seccomp.as_ref()) {
        around = around.filtered(profile.path.clone(), profile.content.clone().into());
    }
    options.working_dir = mine.working_dir.or(options.working_dir);
    let wish = around.cwd().filter(|_| options.working_dir.is_none());
    let around = around.at(record.cwd.clone());
    let pid = record.process.pid;
    let (image, allowed) = (record.image, config.images);
    launch::InInstance { image, verb, options, allowed, around, wish, pid, process }.run(flags.dry_run)
}

/// The options that an instance was started with. What has gone from the host since was there then.
fn recorded(record: &Record, config: &Config, env: &[(OsString, OsString)]) -> anyhow::Result<Options> {
    let (_, arguments) = parse(record)?;
    let (image, _) = cli::image_and_rest(&arguments.words).context("no image given")?;
    // A definition file is named from where it was.
    let image = if image.is_relative() && record.cwd.join(&image).exists() { record.cwd.join(image) } else { image };
    let asked = Asked { flags: &arguments.flags, image, verb: Verb::Stay };
    let mut options = config::apply(config, env, asked)?.options;
    options.cdi_dirs.iter_mut().for_each(|directory| *directory = record.cwd.join(&*directory));
    options.namespaces.pid = true;
    let rights = record.rights.as_ref();
    let rights = rights.with_context(|| {
        let name = &record.name;
        format!(
            "cannot join instance {name}: another version of coracle started it; write coracle instance restart {name}"
        )
    })?;
    rights.settle(&mut options);
    options.binds.iter_mut().for_each(|bind| bind.optional = true);
    // As for the instance's own program where fuse-overlayfs makes its root.
    if !options.layers.is_empty() && options.traces() {
        options.capabilities.drop.insert(PTRACE.to_owned());
    }
    // They are mounted.
    options.layers.clear();
    options.writable = false;
    for file in &mut options.env_files {
        *file = record.cwd.join(&*file);
    }
    Ok(options)
}

/// Reads the words of a start again.
fn parse(record: &Record) -> anyhow::Result<(bool, cli::Start)> {
    let words = ["coracle", "instance"].into_iter().chain(record.words.iter().map(String::as_str));
    let cli = Cli::try_parse_from(words).ok();
    match cli.map(|cli| cli.command) {
        Some(Command::Instance(cli::Instance { command: InstanceCommand::Start(arguments) })) => Ok((false, arguments)),
        Some(Command::Instance(cli::Instance { command: InstanceCommand::Run(arguments) })) => Ok((true, arguments)),
        _ => bail!("cannot understand how instance {} was started: another version of coracle may have", record.name),
    }
}

fn list(arguments: &cli::List) -> anyhow::Result<Exit> {
    let mut records = Directory::open()?.all()?;
    records.retain(|record| arguments.pattern.as_ref().is_none_or(|pattern| instance::matches(pattern, &record.name)));
    print(|out| {
        if arguments.json {
            let values: Vec<serde_json::Value> = records.iter().map(described).collect::<anyhow::Result<_>>()?;
            serde_json::to_writer_pretty(&mut *out, &values)?;
            return Ok(writeln!(out)?);
        }
        if records.is_empty() {
            return Ok(writeln!(out, "no instances")?);
        }
        let width = records.iter().map(|record| record.name.len()).max().unwrap_or_default().max(4);
        writeln!(out, "{:<width$}  {:>9}  {:<8}  {:>7}  IMAGE", "NAME", "PID", "STATE", "AGE")?;
        for record in &records {
            let state = format!("{:?}", record.state()).to_lowercase();
            let (age, image) = (age(record.started), record.image.display());
            writeln!(out, "{:<width$}  {:>9}  {state:<8}  {age:>7}  {image}", record.name, record.process.pid)?;
        }
        Ok(())
    })?;
    Ok(Exit::Success)
}

/// An instance for other programs.
fn described(record: &Record) -> anyhow::Result<serde_json::Value> {
    let mut value = serde_json::to_value(record)?;
    if let Some(fields) = value.as_object_mut() {
        // What the id and the start make together is of use to nobody else.
        for name in ["process", "supervisor", "starting", "boot", "rights"] {
            fields.remove(name);
        }
        fields.insert("pid".into(), record.process.pid.into());
        fields.insert("start_time".into(), record.process.start.into());
        fields.insert("supervisor".into(), record.supervisor.pid.into());
        fields.insert("state".into(), serde_json::to_value(record.state())?);
    }
    Ok(value)
}

fn age(since: u64) -> String {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    match now.as_secs().saturating_sub(since) {
        seconds @ 0..=119 => format!("{seconds} s"),
        seconds @ 120..=7199 => format!("{} min", seconds / 60),
        seconds @ 7200..=172_799 => format!("{} h", seconds / 3600),
        seconds => format!("{} d", seconds / 86_400),
    }
}

fn stop(arguments: &cli::Stop) -> anyhow::Result<Exit> {
    let number = signal(&arguments.signal)?;
    let directory = Directory::open()?;
    let all = directory.all()?;
    let mut chosen: Vec<Record> = Vec::new();
    if arguments.all {
        chosen = all;
    } else {
        for pattern in &arguments.names {
            let found: Vec<&Record> = all.iter().filter(|one| instance::matches(pattern, &one.name)).collect();
            ensure!(!found.is_empty(), instance::Error::Unknown { name: pattern.clone() });
            chosen.extend(found.into_iter().cloned());
        }
        chosen.dedup();
    }
    end_all(&directory, &chosen, number, arguments.timeout)?;
    Ok(Exit::Success)
}

/// Ends instances, all at once, and returns when nothing is left of them.
fn end_all(directory: &Directory, records: &[Record], signal: i32, timeout: u32) -> anyhow::Result<()> {
    records.iter().filter(|record| record.state() != State::Dead).for_each(|record| record.process.send(signal));
    let until = Instant::now() + Duration::from_secs(timeout.into());
    for record in records {
        while record.is_there() && Instant::now() < until {
            sleep(LOOK);
        }
        if record.is_there() {
            record.process.send(libc::SIGKILL);
            record.supervisor.send(libc::SIGCONT);
        }
    }
    for record in records {
        // The kernel ends them; a process that waits for a file system is ended when that answers.
        while record.is_there() {
            sleep(LOOK);
        }
        directory.remove(record)?;
    }
    Ok(())
}

/// A signal by name, with or without SIG, or by number.
fn signal(text: &str) -> anyhow::Result<i32> {
    let upper = text.to_ascii_uppercase();
    let name = if upper.starts_with("SIG") { upper } else { format!("SIG{upper}") };
    let number = text.parse::<i32>().ok().filter(|number| (1..=libc::SIGRTMAX()).contains(number));
    let number = number.or_else(|| Signal::from_str(&name).ok().map(|signal| signal as i32));
    number.with_context(|| format!("there is no signal {text}: write a name such as TERM, or a number"))
}

fn restart(arguments: &cli::Restart) -> anyhow::Result<u8> {
    let name = &arguments.name;
    instance::check_name(name)?;
    let directory = Directory::open()?;
    let record = directory.read(name)?.ok_or_else(|| instance::Error::Unknown { name: name.clone() })?;
    let (runs, start) = parse(&record)?;
    let verb = |rest| if runs { Verb::Run(rest) } else { cli::command(rest).unwrap_or(Verb::Stay) };
    // What is named relative to a directory is found there.
    std::env::set_current_dir(&record.cwd).with_context(|| format!("cannot enter {}", record.cwd.display()))?;
    let planned = Planned::read("start", &start, verb)?;
    if record.is_there() {
        end_all(&directory, std::slice::from_ref(&record), libc::SIGTERM, arguments.timeout)?;
        say(&format!("coracle: stopped instance {name}"));
    }
    planned.begin(&start.flags, record.words.clone(), &record.cwd, true)
}

fn logs(arguments: &cli::Logs) -> anyhow::Result<Exit> {
    let name = &arguments.name;
    instance::check_name(name)?;
    let record = Directory::open()?.read(name)?;
    let path = match &record {
        Some(record) if arguments.stderr => record.errors.clone(),
        Some(record) => record.output.clone(),
        // What one has written that was stopped is still there.
        None => log_directory()?.join(format!("{name}.{}", if arguments.stderr { "err" } else { "out" })),
    };
    let mut file = match File::open(&path) {
        Err(error) if record.is_none() && error.kind() == io::ErrorKind::NotFound => {
            return Err(instance::Error::Unknown { name: name.clone() }.into());
        }
        result => result.with_context(|| format!("cannot read {}", path.display()))?,
    };
    loop {
        // Asked first: what it writes until its end is shown.
        let over = !arguments.follow || !record.as_ref().is_some_and(Record::is_there);
        print(|out| Ok(io::copy(&mut file, out).map(drop)?))?;
        if over {
            return Ok(Exit::Success);
        }
        sleep(GROW);
    }
}
