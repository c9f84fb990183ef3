//! `instance` and what belongs to it.

use std::ffi::OsString;

use clap::{Args, Subcommand};

use super::{Flags, Pull};

#[doc = concat!("`instance`.")]
#[derive(Debug, Args)]
pub struct Instance {
    /// What to do.
    #[command(subcommand)]
    pub command: InstanceCommand,
}

#[doc = concat!("What can be done with instances.")]
#[derive(Debug, Subcommand)]
#[command(defer = true)]
pub enum InstanceCommand {
    /// Start a container in the background under a name, with a command or with nothing but an init
    ///
    /// Returns when the command runs, or fails as it would in the foreground. Programs join it with
    /// `coracle exec instance://NAME COMMAND`, and with run and shell.
    #[command(override_usage = "coracle instance start [OPTIONS] IMAGE NAME [COMMAND [ARG]...]")]
    Start(Start),
    /// Start the image's own program in the background under a name
    #[command(override_usage = "coracle instance run [OPTIONS] IMAGE NAME [ARG]...")]
    Run(Start),
    /// Execute a command in a running instance, as exec instance://NAME
    #[command(override_usage = "coracle instance exec [OPTIONS] NAME COMMAND [ARG]...")]
    Exec(InInstance),
    /// List the instances on this node
    List(List),
    /// End instances
    Stop(Stop),
    /// Show what an instance has written
    Logs(Logs),
    /// Start an instance again as it was started, after stopping it if it runs
    Restart(Restart),
}

#[doc = concat!("`instance start` and `instance run`.")]
#[derive(Debug, Args)]
pub struct Start {
    /// How to run it.
    #[command(flatten)]
    pub flags: Flags,
    /// An image, as for exec; the instance's name, of letters, digits, _, - and .; and the program
    #[arg(required = true, trailing_var_arg = true, value_name = "IMAGE NAME")]
    pub words: Vec<OsString>,
}

#[doc = concat!("`instance exec`.")]
#[derive(Debug, Args)]
pub struct InInstance {
    /// How to run it.
    #[command(flatten)]
    pub flags: Flags,
    /// The instance's name, and the command
    #[arg(required = true, trailing_var_arg = true, value_name = "NAME")]
    pub words: Vec<OsString>,
}

#[doc = concat!("`instance list`.")]
#[derive(Debug, Args)]
pub struct List {
    /// Print the list as JSON
    #[arg(long)]
    pub json: bool,
    /// Only those of such a name; `*` stands for any letters, `?` for one
    pub pattern: Option<String>,
}

#[doc = concat!("`instance stop`.")]
#[derive(Debug, Args)]
pub struct Stop {
    /// What to send to the program first: a name or a number
    #[arg(short, long, value_name = "SIGNAL", default_value = "TERM")]
    pub signal: String,
    /// Seconds after which all that is left is killed
    #[arg(short, long, value_name = "SECONDS", default_value_t = 10)]
    pub timeout: u32,
    /// The instances, by name; `*` stands for any letters, `?` for one
    #[arg(required_unless_present = "all")]
    pub names: Vec<String>,
    /// All instances
    #[arg(short, long, conflicts_with = "names")]
    pub all: bool,
}

#[doc = concat!("`instance logs`.")]
#[derive(Debug, Args)]
pub struct Logs {
    /// Go on until the instance ends
    #[arg(short, long)]
    pub follow: bool,
    /// Show standard error instead of standard output
    #[arg(long)]
    pub stderr: bool,
    /// The instance's name
    pub name: String,
}

#[doc = concat!("`instance restart`.")]
#[derive(Debug, Args)]
pub struct Restart {
    /// Seconds after which all that is left of a running one is killed
    #[arg(short, long, value_name = "SECONDS", default_value_t = 10)]
    pub timeout: u32,
    /// The instance's name
    pub name: String,
}

impl Flags {
    /// The first option given that a program which joins an instance cannot have for itself: mounts, namespaces and rights are
    /// the instance's.
    #[must_use]
    pub fn unfit_for_joining(&self) -> Option<&'static str> {
        // All fields, so that a new one cannot be passed over.
        let Self {
            bind,
            mount,
            no_mount,
            home,
            no_home,
            contain,
            containall,
            compat,
            workdir,
            scratch,
            device,
            cdi_dirs,
            annotation,
            nv,
            rocm,
            intel,
            gpu,
            mpi,
            no_mpi,
            writable_tmpfs,
            overlay,
            writable,
            fakeroot,
            userns,
            add_caps,
            drop_caps,
            keep_privs,
            no_privs,
            security,
            pid,
            no_pid,
            no_init,
            ipc,
            uts,
            hostname,
            net,
            network,
            dns,
            profile,
            no_session,
            // What concerns the program alone.
            pwd: _,
            shell: _,
            dry_run: _,
            env: _,
            env_file: _,
            cleanenv: _,
            no_env: _,
            pull,
            accepted: _,
        } = self;
        let asked = [
            (!bind.is_empty(), "--bind"),
            (!mount.is_empty(), "--mount"),
            (!no_mount.is_empty(), "--no-mount"),
            (home.is_some(), "--home"),
            (*no_home, "--no-home"),
            (*contain, "--contain"),
            (*containall, "--containall"),
            (*compat, "--compat"),
            (workdir.is_some(), "--workdir"),
            (!scratch.is_empty(), "--scratch"),
            (!device.is_empty(), "--device"),
            (!cdi_dirs.is_empty(), "--cdi-dirs"),
            (!annotation.is_empty(), "--annotation"),
            (*nv, "--nv"),
            (*rocm, "--rocm"),
            (*intel, "--intel"),
            (!gpu.is_empty(), "--gpu"),
            (mpi.is_some(), "--mpi"),
            (*no_mpi, "--no-mpi"),
            (writable_tmpfs.is_some(), "--writable-tmpfs"),
            (!overlay.is_empty(), "--overlay"),
            (*writable, "--writable"),
            (*fakeroot, "--fakeroot"),
            (*userns, "--userns"),
            (!add_caps.is_empty(), "--add-caps"),
            (!drop_caps.is_empty(), "--drop-caps"),
            (*keep_privs, "--keep-privs"),
            (*no_privs, "--no-privs"),
            (!security.is_empty(), "--security"),
            (*pid, "--pid"),
            (*no_pid, "--no-pid"),
            (*no_init, "--no-init"),
            (*ipc, "--ipc"),
            (*uts, "--uts"),
            (hostname.is_some(), "--hostname"),
            (*net, "--net"),
            (network.is_some(), "--network"),
            (!dns.is_empty(), "--dns"),
            (profile.is_some(), "--profile"),
            (*no_session, "--no-session"),
            (!matches!(pull, Pull::Missing), "--pull"),
        ];
        asked.into_iter().find_map(|(asked, what)| asked.then_some(what))
    }
}
