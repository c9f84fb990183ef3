//! The options of everything that runs a program in an image.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::Args;

use super::accepted::Accepted;
use super::{Pull, parse, units};
use crate::gpu::table::Vendor;
use crate::options::{Capabilities, Home, Layer, Missing, Mpi, Namespaces, Options};

#[doc = concat!("Options of everything that runs a program in an image.")]
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Options")]
pub struct Flags {
    /// Show a file, directory or device of the host, or what a squashfs file holds (image-src=/); a comma separates several
    #[arg(short = 'B', long, value_name = "SOURCE[:DESTINATION[:OPTIONS]]", help_heading = "Mounts")]
    pub bind: Vec<OsString>,
    /// Mount by keys: type=bind|tmpfs,source=,destination=,ro,image-src=,tmpfs-size=
    #[arg(long, value_name = "KEY=VALUE,...", help_heading = "Mounts")]
    pub mount: Vec<OsString>,
    /// Leave out default mounts: proc, sys, dev, devpts, tmp, home, cwd, bind-paths or an absolute path
    #[arg(long, value_name = "LIST", help_heading = "Mounts")]
    pub no_mount: Vec<OsString>,
    /// Use another home directory
    #[arg(short = 'H', long, value_name = "SOURCE[:DESTINATION]", help_heading = "Mounts")]
    pub home: Option<OsString>,
    /// Mount no home directory
    #[arg(long, conflicts_with = "home", help_heading = "Mounts")]
    pub no_home: bool,
    /// Minimal /dev, empty private /tmp and home directory, no working directory of the host
    #[arg(short, long, help_heading = "Mounts")]
    pub contain: bool,
    /// --contain, --cleanenv, --pid and --ipc
    #[arg(short = 'C', long, help_heading = "Mounts")]
    pub containall: bool,
    /// As Docker does: --containall and --writable-tmpfs
    #[arg(long, help_heading = "Mounts")]
    pub compat: bool,
    /// With --contain or --scratch: where on the host /tmp, /var/tmp, home and scratch directories are, instead of in memory
    #[arg(short = 'W', long, value_name = "DIRECTORY", help_heading = "Mounts")]
    pub workdir: Option<PathBuf>,
    /// Show an empty, writable directory there; a comma separates several
    #[arg(short = 'S', long, value_name = "DIRECTORY", help_heading = "Mounts")]
    pub scratch: Vec<OsString>,
    /// Show a device of the host, where /dev is minimal, or give the container CDI devices; a comma separates several
    #[arg(long, value_name = "DEVICE[:DESTINATION]|VENDOR/CLASS=NAME", help_heading = "Mounts")]
    pub device: Vec<OsString>,
    /// Look for CDI devices in these directories as well; a comma separates several
    #[arg(long, value_name = "DIRECTORY", help_heading = "Mounts")]
    pub cdi_dirs: Vec<OsString>,

    /// Bring NVIDIA's driver into the container, with a warning where there is none
    #[arg(long, help_heading = "GPU and MPI")]
    pub nv: bool,
    /// Bring AMD's devices into the container, with a warning where there are none
    #[arg(long, help_heading = "GPU and MPI")]
    pub rocm: bool,
    /// Bring Intel's driver into the container, with a warning where there is none
    #[arg(long, help_heading = "GPU and MPI")]
    pub intel: bool,
    /// Which GPU drivers to bring: auto for those that are there, off for none, or nvidia, amd or intel, which must be there; a
    /// comma separates several
    #[arg(long, value_name = "WHICH", help_heading = "GPU and MPI")]
    pub gpu: Vec<OsString>,
    /// What is done for ranks of MPI programs: auto, container for the image's MPI, or off
    #[arg(long, value_name = "WHICH", help_heading = "GPU and MPI", conflicts_with = "no_mpi")]
    pub mpi: Option<String>,
    /// Leave the container's MPI alone, as --mpi=off
    #[arg(long, help_heading = "GPU and MPI")]
    pub no_mpi: bool,

    /// Have what the program writes to the image kept in memory (at most SIZE, half of it by default) and forgotten
    #[arg(long, value_name = "SIZE", num_args = 0..=1, require_equals = true, default_missing_value = "", help_heading = "Writing")]
    pub writable_tmpfs: Option<String>,
    /// Put a directory over the image, in which changes are kept, or a squashfs file; with :ro it is only read
    #[arg(short, long, value_name = "PATH[:ro]", help_heading = "Writing")]
    pub overlay: Vec<OsString>,
    /// Write to the image itself, which must be a directory
    #[arg(short, long, help_heading = "Writing", conflicts_with_all = ["writable_tmpfs", "overlay"])]
    pub writable: bool,

    /// Be root in the container, with subordinate ids where you have them
    #[arg(short, long, help_heading = "Identity")]
    pub fakeroot: bool,
    /// Map your supplementary groups, where /etc/subgid lets you (a user namespace is always used)
    #[arg(short, long, help_heading = "Identity")]
    pub userns: bool,
    /// Keep capabilities within the container's user namespace; a comma separates several
    #[arg(long, value_name = "LIST", help_heading = "Identity")]
    pub add_caps: Vec<String>,
    /// Do without capabilities that --fakeroot or --add-caps gives
    #[arg(long, value_name = "LIST", help_heading = "Identity")]
    pub drop_caps: Vec<String>,
    /// Keep all capabilities within the container's user namespace
    #[arg(long, help_heading = "Identity", conflicts_with = "no_privs")]
    pub keep_privs: bool,
    /// Keep no capabilities, not even with --fakeroot
    #[arg(long, help_heading = "Identity")]
    pub no_privs: bool,
    /// Restrict the program: seccomp:FILE
    #[arg(long, value_name = "KIND:VALUE", help_heading = "Identity")]
    pub security: Vec<OsString>,

    /// Processes of its own: the program sees no others, and all end with it
    #[arg(short, long, help_heading = "Namespaces")]
    pub pid: bool,
    /// Share the host's processes, as is the default, in spite of --containall, --compat or the site
    #[arg(long, help_heading = "Namespaces", conflicts_with = "pid")]
    pub no_pid: bool,
    /// With processes of its own: have the program be process 1 itself, which must then reap what others leave behind
    #[arg(long, help_heading = "Namespaces")]
    pub no_init: bool,
    /// System V IPC and message queues of its own
    #[arg(short, long, help_heading = "Namespaces")]
    pub ipc: bool,
    /// A host name of its own
    #[arg(long, help_heading = "Namespaces")]
    pub uts: bool,
    /// The container's host name; implies --uts
    #[arg(long, value_name = "NAME", help_heading = "Namespaces")]
    pub hostname: Option<String>,
    /// A network of its own, which has nothing but a loopback device
    #[arg(short, long, help_heading = "Namespaces")]
    pub net: bool,
    /// Which network --net makes; there is only none
    #[arg(long, value_name = "none", help_heading = "Namespaces", requires = "net")]
    pub network: Option<String>,
    /// Name servers, instead of the host's; a comma separates several
    #[arg(long, value_name = "ADDRESSES", help_heading = "Namespaces")]
    pub dns: Vec<String>,

    /// Start in this directory of the container
    #[arg(long, visible_alias = "cwd", value_name = "DIRECTORY")]
    pub pwd: Option<PathBuf>,
    /// With shell: start this one
    #[arg(short, long, value_name = "PATH")]
    pub shell: Option<PathBuf>,
    /// Annotate the container; cdi.k8s.io/KEY=VENDOR/CLASS=NAME,... asks for CDI devices
    #[arg(long, value_name = "NAME=VALUE")]
    pub annotation: Vec<OsString>,
    /// Use a profile of the site's or your configuration
    #[arg(long, value_name = "NAME")]
    pub profile: Option<String>,
    /// Print the steps that would be taken, and take none
    #[arg(long)]
    pub dry_run: bool,
    /// Mount the image for this launch alone, without joining or making a session
    #[arg(long)]
    pub no_session: bool,
    /// When to bring an image that is not given as a file into the store
    #[arg(long, value_enum, default_value_t, value_name = "WHEN")]
    pub pull: Pull,

    /// Set a variable, or take the host's value when there is no `=`; a comma before a NAME= separates several
    #[arg(long, value_name = "NAME[=VALUE]", help_heading = "Environment")]
    pub env: Vec<OsString>,
    /// Set the variables in a file of NAME=VALUE lines
    #[arg(long, value_name = "FILE", help_heading = "Environment")]
    pub env_file: Vec<PathBuf>,
    /// Start from the image's environment instead of the host's
    #[arg(short = 'e', long, help_heading = "Environment")]
    pub cleanenv: bool,
    /// Do not take these variables from the host; `*` stands for any letters, and a comma separates several
    #[arg(long, value_name = "NAMES", help_heading = "Environment")]
    pub no_env: Vec<OsString>,

    /// What need not be asked for.
    #[command(flatten)]
    pub accepted: Accepted,
}

/// Whether a layer is there to be read alone.
fn only_read(layer: &Layer) -> bool {
    matches!(layer, Layer::At { read_only: true, .. })
}

impl Flags {
    /// The typed options.
    ///
    /// # Errors
    /// The first value that does not parse.
    pub fn options(&self) -> Result<Options, parse::Error> {
        let contain_all = self.containall || self.compat;
        let mut options = Options {
            env_files: self.env_file.clone(),
            clean_env: self.cleanenv || contain_all,
            working_dir: self.pwd.clone(),
            contain: self.contain || contain_all,
            work_dir: self.workdir.clone(),
            writable: self.writable,
            namespaces: Namespaces {
                pid: (self.pid || contain_all) && !self.no_pid,
                ipc: self.ipc || contain_all,
                uts: self.uts || self.hostname.is_some(),
                net: self.net,
            },
            no_init: self.no_init,
            hostname: self.hostname.as_deref().map(parse::hostname).transpose()?,
            fakeroot: self.fakeroot,
            map_groups: self.userns,
            capabilities: self.capabilities()?,
            shell: self.shell.clone(),
            ..Options::default()
        };
        for value in &self.bind {
            options.binds.extend(parse::binds(value)?);
        }
        for value in &self.mount {
            options.binds.push(parse::mount(value)?);
        }
        for value in &self.device {
            match parse::cdi_devices(value)? {
                Some(names) => options.devices.extend(names),
                None => options.binds.push(parse::device(value)?),
            }
        }
        for value in &self.cdi_dirs {
            options.cdi_dirs.extend(parse::names(value).into_iter().map(PathBuf::from));
        }
        for value in &self.annotation {
            let (name, value) = parse::annotation(value)?;
            options.annotations.insert(name, value);
        }
        for value in &self.scratch {
            options.scratch.extend(parse::scratch(value)?);
        }
        for value in &self.env {
            options.env.extend(parse::env(value)?);
        }
        for value in &self.no_env {
            options.no_env.extend(parse::names(value));
        }
        for value in &self.no_mount {
            options.no_mount.extend(parse::no_mount(value)?);
        }
        for value in &self.dns {
            options.dns.extend(parse::addresses(value)?);
        }
        for value in &self.security {
            let file = parse::security(value)?;
            if let Some(first) = options.seccomp.replace(file) {
                return Err(parse::Error::Securities { first, second: value.clone() });
            }
        }
        for value in &self.overlay {
            options.layers.push(parse::overlay(value)?);
        }
        if let Some(size) = &self.writable_tmpfs {
            let size = if size.is_empty() { None } else { Some(units::size(size)?) };
            options.layers.push(Layer::Memory { size });
        } else if self.compat && !self.writable && options.layers.iter().all(only_read) {
            options.layers.push(Layer::Memory { size: None });
        }
        for (asked, vendor) in [(self.nv, Vendor::Nvidia), (self.rocm, Vendor::Amd), (self.intel, Vendor::Intel)] {
            if asked {
                options.gpu.ask(vendor, Missing::Warn);
            }
        }
        for value in &self.gpu {
            parse::gpu(value, &mut options.gpu)?;
        }
        options.mpi = match self.mpi.as_deref() {
            None => self.no_mpi.then_some(Mpi::Off),
            Some(value) => Some(parse::mpi(value)?),
        };
        if let Some(other) = self.network.as_deref().filter(|network| *network != "none") {
            return Err(parse::Error::Network { value: other.to_owned() });
        }
        options.home = match &self.home {
            Some(value) => parse::home(value)?,
            None if self.no_home => Home::Without,
            None => Home::Own,
        };
        Ok(options)
    }

    fn capabilities(&self) -> Result<Capabilities, parse::Error> {
        let mut capabilities = Capabilities::default();
        for (lists, set) in [(&self.add_caps, &mut capabilities.add), (&self.drop_caps, &mut capabilities.drop)] {
            for list in lists {
                set.extend(parse::capabilities(list)?);
            }
        }
        for (all, set) in [(self.keep_privs, &mut capabilities.add), (self.no_privs, &mut capabilities.drop)] {
            if all {
                set.insert(parse::ALL.to_owned());
            }
        }
        Ok(capabilities)
    }
}
