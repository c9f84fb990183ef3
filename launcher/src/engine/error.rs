//! Why a launch failed, with what the person at the terminal, or the administrator, can do about it.
//!
//! The kernel's own words mislead here more often than not, so the usual causes are named beside them.

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;

use rustix::io::Errno;

use crate::exit::Exit;
use crate::fuse;
use crate::host::refusal::Circumstances;

/// Why a launch failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// `unshare(CLONE_NEWUSER)`
    #[error("cannot create a user namespace: {cause}{}", user_namespace(cause))]
    UserNamespace {
        /// The kernel's reason.
        cause: io::Error,
    },
    /// Writing the maps.
    #[error("cannot map the caller's ids, writing {file}: {cause}{}", map_ids(cause))]
    MapIds {
        /// Below `/proc`.
        file: &'static str,
        /// The kernel's reason.
        cause: io::Error,
    },
    /// Writing a map with uid 0 in it.
    #[error(
        "cannot map the caller's user id, 0: {cause}; the kernel (since 5.12) wants CAP_SETFCAP of whoever maps it, which this container's root lacks: run the outer container as another user id, or give it that capability"
    )]
    MapRoot {
        /// The kernel's reason.
        cause: io::Error,
    },
    /// `/dev/fuse`
    #[error("cannot open /dev/fuse: {cause}{}", open_fuse(cause))]
    OpenFuse {
        /// The kernel's reason.
        cause: io::Error,
    },
    /// Creating the process.
    #[error(
        "cannot start the file system server: {cause}; the limits on processes (ulimit -u, pids.max of the job) may be reached"
    )]
    StartServer {
        /// The kernel's reason.
        cause: io::Error,
    },
    /// The server's log.
    #[error("cannot open {} for the server's log: {cause}", path.display())]
    Log {
        /// As given.
        path: PathBuf,
        /// The system's reason.
        cause: io::Error,
    },
    /// The image cannot be served.
    #[error(transparent)]
    Serve(#[from] fuse::Error),
    /// The server says why it cannot go on.
    #[error("the file system server failed: {report}")]
    Server {
        /// In its words.
        report: String,
    },
    /// The server cannot show what the launch needs besides the image.
    #[error("{0}")]
    Show(String),
    /// The server is gone.
    #[error("the file system server ended unexpectedly: it may have been killed, for memory or by hand")]
    ServerEnded,
    /// `unshare(CLONE_NEWNS)`, or making it a slave.
    #[error("cannot create a mount namespace: {cause}{}", mount_namespace(cause))]
    MountNamespace {
        /// The kernel's reason.
        cause: io::Error,
    },
    /// The image's session.
    #[error(transparent)]
    Session(#[from] crate::session::Error),
    /// `setns(2)`
    #[error("cannot join the image's session: {cause}; --no-session does without")]
    Join {
        /// The kernel's reason.
        cause: io::Error,
    },
    /// `unshare(2)` of any other namespace.
    #[error("cannot create a {kind} namespace: {cause}{}", namespace(kind, cause))]
    Namespace {
        /// As `/proc` calls it.
        kind: &'static str,
        /// The kernel's reason.
        cause: io::Error,
    },
    /// `sethostname(2)`
    #[error("cannot set the container's host name: {cause}")]
    Hostname {
        /// The kernel's reason.
        cause: io::Error,
    },
    /// The loopback device.
    #[error("cannot bring up the container's loopback device: {cause}")]
    Loopback {
        /// The kernel's reason.
        cause: io::Error,
    },
    /// A generated file.
    #[error("cannot show a generated {} in the container: {cause}", path.display())]
    File {
        /// In the container.
        path: PathBuf,
        /// The kernel's reason.
        cause: io::Error,
    },
    /// The process that becomes the program, and the one that waits for it.
    #[error(
        "cannot start the container's first process: {cause}; the limits on processes (ulimit -u, pids.max of the job) may be reached"
    )]
    Fork {
        /// The kernel's reason.
        cause: io::Error,
    },
    /// What a start in the background has to note.
    #[error("cannot note that the instance runs: {cause}")]
    Started {
        /// The system's reason.
        cause: io::Error,
    },
    /// The namespaces of an instance.
    #[error("cannot join the instance of process {pid}: {cause}{}", instance(cause))]
    Instance {
        /// Its process 1.
        pid: i32,
        /// The kernel's reason.
        cause: io::Error,
    },
    /// Leaving the namespaces to the server.
    #[error("cannot leave the image's mount to its session: {0}; --no-session does without")]
    Keep(#[source] io::Error),
    /// Mounting FUSE.
    #[error("cannot mount the image over {}: {cause}{}", at.display(), mount_image(cause))]
    MountImage {
        /// On the host.
        at: PathBuf,
        /// The kernel's reason.
        cause: io::Error,
    },
    /// An image file besides the image's own.
    #[error(transparent)]
    Image(#[from] crate::image::Error),
    /// Layers over the image.
    #[error(transparent)]
    Layers(#[from] super::layers::Error),
    /// A directory that is the image.
    #[error("cannot bind the image {} over {}: {cause}", source_path.display(), at.display())]
    BindDirectory {
        /// On the host.
        source_path: PathBuf,
        /// On the host.
        at: PathBuf,
        /// The kernel's reason.
        cause: io::Error,
    },
    /// The mounted image's root.
    #[error("cannot open the mounted image: {cause}")]
    Root {
        /// The kernel's reason.
        cause: Errno,
    },
    /// The source of a bind.
    #[error("cannot bind {}: cannot open it on the host: {cause}", path.display())]
    Source {
        /// On the host.
        path: PathBuf,
        /// The kernel's reason.
        cause: io::Error,
    },
    /// A mount's destination.
    #[error("cannot mount on {} in the container: {cause}{}", path.display(), target(cause))]
    Target {
        /// In the container.
        path: PathBuf,
        /// The kernel's reason.
        cause: io::Error,
    },
    /// A bind.
    #[error("cannot bind {} on {}: {cause}{}", source_path.display(), destination.display(), bind(cause))]
    Bind {
        /// On the host.
        source_path: PathBuf,
        /// In the container.
        destination: PathBuf,
        /// The kernel's reason.
        cause: io::Error,
    },
    /// A new file system.
    #[error("cannot mount {kind} on {}: {cause}{}", destination.display(), mount(kind, cause))]
    Mount {
        /// Its type.
        kind: String,
        /// In the container.
        destination: PathBuf,
        /// The kernel's reason.
        cause: io::Error,
    },
    /// A mount point on a new file system.
    #[error("cannot make {} in the container: {cause}", path.display())]
    Make {
        /// In the container.
        path: PathBuf,
        /// The kernel's reason.
        cause: io::Error,
    },
    /// Changing roots.
    #[error("cannot {what} the new root: {cause}")]
    Pivot {
        /// A verb.
        what: &'static str,
        /// The kernel's reason.
        cause: io::Error,
    },
    /// The working directory.
    #[error("cannot enter {} in the container: {cause}", path.display())]
    ChangeDirectory {
        /// In the container.
        path: PathBuf,
        /// The kernel's reason.
        cause: io::Error,
    },
    /// Giving up privileges.
    #[error("cannot set {what}: {cause}")]
    Privileges {
        /// What was to be set.
        what: &'static str,
        /// The kernel's reason.
        cause: io::Error,
    },
    /// Closing descriptors or restoring signals.
    #[error("cannot close inherited descriptors")]
    Descriptors(#[source] io::Error),
    /// The program is not there.
    #[error("cannot find {} in the container{}", program.display(), searched(searched_in.as_ref()))]
    NotFound {
        /// As given.
        program: OsString,
        /// The container's `PATH`, if it was searched.
        searched_in: Option<OsString>,
    },
    /// The program is there.
    #[error("cannot execute {} in the container: {reason}", path.display())]
    NotExecutable {
        /// In the container.
        path: PathBuf,
        /// Why not.
        reason: Reason,
    },
    /// A plan without a program.
    #[error("cannot execute anything: the plan names no program")]
    NothingToExecute,
    /// A plan whose steps do not follow from one another.
    #[error("cannot {0}: the plan's steps are out of order")]
    OutOfOrder(&'static str),
}

/// Why a file cannot be executed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Reason {
    /// What `#!` names is missing.
    #[error("its interpreter {} is not in the container{}", name.display(), carriage(*carriage_return))]
    ScriptInterpreter {
        /// As written in the script.
        name: PathBuf,
        /// The line ends as on Windows.
        carriage_return: bool,
    },
    /// The ELF interpreter is missing.
    #[error(
        "its loader {} is not in the container: it was built for another distribution or C library",
        name.display()
    )]
    Loader {
        /// As written in the program.
        name: PathBuf,
    },
    /// The kernel knows no way to execute it.
    #[error("{0}")]
    Format(String),
    /// A directory.
    #[error("it is a directory")]
    Directory,
    /// The mode.
    #[error("it has no execute permission")]
    NoExecuteBit,
    /// Another reason for `EACCES`.
    #[error("permission denied: you may not execute it, or it is on a file system mounted noexec")]
    Refused,
    /// `E2BIG`
    #[error("arguments and environment together are too long; see ulimit -s")]
    TooLong,
    /// A NUL byte.
    #[error("an argument or a variable has a NUL byte")]
    NulByte,
    /// Anything else.
    #[error("{0}")]
    Errno(io::Error),
}

impl Error {
    /// The exit status that it calls for.
    #[must_use]
    pub const fn exit(&self) -> Exit {
        match self {
            Self::NotFound { .. } => Exit::NotFound,
            Self::NotExecutable { .. } => Exit::NotExecutable,
            _ => Exit::Failure,
        }
    }
}

fn carriage(present: bool) -> &'static str {
    if present { "; its first line ends in a carriage return: convert it with dos2unix" } else { "" }
}

fn searched(path: Option<&OsString>) -> String {
    path.map(|path| format!(": searched {}", path.display())).unwrap_or_default()
}

fn user_namespace(cause: &io::Error) -> String {
    let remedy = match cause.raw_os_error() {
        Some(libc::ENOSPC) => {
            "; their number is limited: raise user.max_user_namespaces (sysctl), or leave some of the nested namespaces"
        }
        Some(libc::EUSERS) => "; namespaces are nested too deep",
        Some(libc::EPERM | libc::EACCES) => return format!("; {}", Circumstances::read().explain()),
        Some(libc::EINVAL | libc::ENOSYS) => "; this kernel is built without CONFIG_USER_NS",
        _ => "; see coracle doctor",
    };
    remedy.to_owned()
}

fn map_ids(cause: &io::Error) -> &'static str {
    match cause.raw_os_error() {
        Some(libc::EACCES | libc::EPERM) => {
            "; AppArmor may restrict user namespaces (kernel.apparmor_restrict_unprivileged_userns), or the coracle file may not be readable: see coracle doctor"
        }
        _ => "",
    }
}

fn open_fuse(cause: &io::Error) -> &'static str {
    match cause.raw_os_error() {
        Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) => {
            "; an administrator can load the module: modprobe fuse; in a container: run the outer one with --device /dev/fuse (Docker, Podman and coracle --contain alike)"
        }
        Some(libc::EACCES) => "; an administrator can open it to users: chmod 0666 /dev/fuse",
        // Whatever its mode says.
        Some(libc::EPERM) => {
            "; a control group for devices forbids it; in a container: run the outer one with --device /dev/fuse, a bind of the device does not do"
        }
        _ => "",
    }
}

fn mount_namespace(cause: &io::Error) -> &'static str {
    match cause.raw_os_error() {
        Some(libc::ENOSPC) => "; their number is limited: raise user.max_mnt_namespaces (sysctl)",
        Some(libc::EPERM | libc::EACCES) => {
            "; a security module takes the rights away that a user namespace gives (AppArmor since Ubuntu 23.10): see coracle doctor"
        }
        _ => "",
    }
}

fn namespace(kind: &str, cause: &io::Error) -> String {
    match cause.raw_os_error() {
        Some(libc::ENOSPC) => format!(
            "; their number is limited: raise user.max_{kind}_namespaces (sysctl), or leave some of the nested namespaces"
        ),
        Some(libc::EINVAL | libc::ENOSYS) => {
            format!("; this kernel is built without CONFIG_{}_NS", kind.to_uppercase())
        }
        Some(libc::EPERM | libc::EACCES) => {
            "; a security module or a container's seccomp filter does not permit it: see coracle doctor".to_owned()
        }
        _ => String::new(),
    }
}

fn mount(kind: &str, cause: &io::Error) -> &'static str {
    match (kind, cause.raw_os_error()) {
        ("proc", Some(libc::EPERM)) => {
            "; this host hides parts of its own /proc, as containers of Docker and Kubernetes do, and then the kernel lets no other be mounted: do without processes of its own (--no-pid after --containall or --compat), or start the outer container with --security-opt systempaths=unconfined (Kubernetes: procMount: Unmasked)"
        }
        _ => "",
    }
}

fn instance(cause: &io::Error) -> &'static str {
    match cause.raw_os_error() {
        Some(libc::ESRCH | libc::ENOENT) => "; it has just ended",
        Some(libc::EPERM | libc::EACCES) => {
            "; it is another user's, or this process is in a container of its own: join from where it was started"
        }
        _ => "",
    }
}

fn mount_image(cause: &io::Error) -> &'static str {
    match cause.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => {
            "; FUSE in user namespaces needs Linux 4.18, and AppArmor or SELinux to permit it: see coracle doctor"
        }
        Some(libc::ENODEV) => "; an administrator can load the module: modprobe fuse",
        _ => "",
    }
}

fn target(cause: &io::Error) -> &'static str {
    match cause.raw_os_error() {
        Some(libc::ENOENT) => {
            "; it lies in a directory of the host that is bound there, in which nothing is made: make it on the host, or bind elsewhere"
        }
        Some(libc::ENOTDIR) => "; a file is on the way",
        Some(libc::EACCES) => "; the directory of the host that is bound there does not let you in",
        _ => "",
    }
}

fn bind(cause: &io::Error) -> &'static str {
    match cause.raw_os_error() {
        Some(libc::ENOTDIR) => {
            "; one is a directory and the other is not: bind a directory on a directory, a file on a file"
        }
        Some(libc::ENOSPC) => "; the number of mounts is limited: raise fs.mount-max (sysctl), or bind less",
        _ => "",
    }
}
