//! A plan as text, a line for each step.

use std::ffi::OsString;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use super::{Plan, Step, options};
use crate::fuse::SyntheticFile;
use crate::ids::Ids;

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.steps.iter().enumerate().try_for_each(|(index, step)| writeln!(f, "{:3}  {step}", index + 1))
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnshareUser(ids) => mapped(f, ids),
            Self::OpenFuse => f.write_str("open /dev/fuse"),
            Self::StartServer => f.write_str("start the file system server"),
            Self::AskServer { directories, files } => {
                f.write_str("ask the server to show")?;
                shown(f, directories, files)
            }
            Self::UnshareMount => f.write_str("enter a new mount namespace that receives mounts and passes none on"),
            Self::OpenSources(sources) => {
                f.write_str("hold")?;
                sources.iter().try_for_each(|source| write!(f, " {}", source.display()))
            }
            Self::StartImages(images) => {
                f.write_str("start a file system server for each of")?;
                images.iter().try_for_each(|image| write!(f, " {}", image.display()))
            }
            Self::BindDirectory { source, at, writable } => {
                let how = if *writable { "" } else { ", read-only" };
                write!(f, "bind the image {} over {}{how}, nosuid, nodev", source.display(), at.display())
            }
            Self::JoinUser => f.write_str("join the session's user namespace"),
            Self::StackLayers { layers, .. } => layers.fmt(f),
            Self::BindImage { file, inside, destination, restrict, .. } => {
                let (inside, destination) = (inside.display(), destination.display());
                write!(f, "bind {inside} of image {} on {destination}{}", file.display(), options::Names(*restrict))
            }
            Self::MountImage { at } => {
                write!(f, "mount the image over {}, read-only, nosuid, nodev", at.display())
            }
            Self::MakeDirectory(path) => write!(f, "make directory {}", path.display()),
            Self::MakeFile(path) => write!(f, "make file {}", path.display()),
            Self::WriteFile { path, content } => {
                write!(f, "write file {} of {} bytes, unless it is there", path.display(), content.len())
            }
            Self::MakeLink { path, target } => write!(f, "make link {} to {}", path.display(), target.display()),
            Self::SetMode { path, mode } => write!(f, "set the mode of {} to {mode:o}", path.display()),
            Self::BindShown { source, destination } => {
                write!(f, "bind {} of the container on {}", source.display(), destination.display())
            }
            Self::Bind { source, destination, recursive, restrict, optional } => {
                let deep = if *recursive { " and what is mounted below it" } else { "" };
                write!(f, "bind {}{deep} on {}{}", source.display(), destination.display(), options::Names(*restrict))?;
                if *optional { f.write_str(", if possible") } else { Ok(()) }
            }
            Self::Mount { kind, destination, flags, data } => {
                let comma = if data.is_empty() { "" } else { ", " };
                write!(f, "mount {kind} on {}{}{comma}{data}", destination.display(), options::Names(*flags))
            }
            Self::KeepNamespaces => f.write_str("leave the namespaces to the server, for launches to come"),
            Self::JoinSession => {
                f.write_str("join the session: its user namespace, and its mounts without a container's")
            }
            Self::JoinContainer => f.write_str("join a container of the session that has the same mounts"),
            Self::CopyMount => f.write_str("go on in a copy of the mount namespace"),
            Self::PivotRoot { from } => {
                write!(f, "make the image at {} the root, with the host's root stacked on it", from.display())
            }
            Self::Isolate(step) => step.fmt(f),
            Self::DetachHost => f.write_str("detach the host's root"),
            Self::KeepContainer => f.write_str("leave these mounts to the server, for launches that want the same"),
            Self::ChangeDirectory { path, fallback } => {
                write!(f, "go to {}", path.display())?;
                fallback.iter().try_for_each(|fallback| write!(f, ", or else {}", fallback.display()))
            }
            Self::NoNewPrivileges => f.write_str("set no_new_privs"),
            Self::Capabilities(sets) if sets.is_empty() => {
                f.write_str("empty the bounding, ambient, effective, permitted and inheritable capabilities")
            }
            Self::Capabilities(sets) => {
                write!(f, "keep capabilities: {}", sets.permitted)?;
                if sets.ambient.is_empty() { Ok(()) } else { write!(f, "; through any execve: {}", sets.ambient) }
            }
            Self::Filter(filter) => {
                write!(f, "install a filter of system calls with {} instructions", filter.instructions.len())?;
                match filter.unknown.len() {
                    0 => Ok(()),
                    unknown => write!(f, "; {unknown} names that are no calls here are left out"),
                }
            }
            Self::CloseDescriptors(kept) => {
                f.write_str("close all descriptors except 0, 1 and 2")?;
                kept.iter().try_for_each(|kept| write!(f, ", and {kept} if it is a socket or a pipe"))
            }
            Self::Execute { args, env } => {
                write!(f, "execute")?;
                args.iter().try_for_each(|arg| write!(f, " {}", Quoted(arg)))?;
                write!(f, " with {} variables", env.len())
            }
        }
    }
}

fn mapped(f: &mut fmt::Formatter<'_>, ids: &Ids) -> fmt::Result {
    f.write_str("enter a new user namespace; map ")?;
    if let (true, [user], [group]) = (ids.is_alone(), ids.users.as_slice(), ids.groups.as_slice())
        && (user.inside, group.inside) == (user.outside, group.outside)
    {
        return write!(f, "uid {} and gid {} to themselves, nothing else", user.inside, group.inside);
    }
    for (what, ranges) in [("uids", &ids.users), (" and gids", &ids.groups)] {
        f.write_str(what)?;
        for range in ranges {
            write!(f, " {} to {}", range.outside, range.inside)?;
            if range.length > 1 {
                write!(f, " ({} ids)", range.length)?;
            }
        }
    }
    Ok(())
}

/// What the server shows besides the image.
fn shown(f: &mut fmt::Formatter<'_>, directories: &[PathBuf], files: &[(PathBuf, SyntheticFile)]) -> fmt::Result {
    let mut before = "";
    for (content, what) in [(false, " if missing"), (true, " in place of the image's")] {
        let chosen = files.iter().filter(|(_, file)| !matches!(file, SyntheticFile::Empty) == content);
        let directories = if content { &[] } else { directories };
        let mut paths = directories.iter().chain(chosen.map(|(path, _)| path)).peekable();
        if paths.peek().is_some() {
            f.write_str(before)?;
            paths.try_for_each(|path| write!(f, " {}", path.display()))?;
            f.write_str(what)?;
            before = ",";
        }
    }
    if before.is_empty() { f.write_str(" nothing else") } else { Ok(()) }
}

/// A word as a shell would want it, if it is not plain.
struct Quoted<'a>(&'a OsString);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"_-./=:,@%+".contains(byte);
        let bytes = self.0.as_bytes();
        if !bytes.is_empty() && bytes.iter().all(plain) {
            write!(f, "{}", self.0.display())
        } else {
            write!(f, "{:?}", self.0)
        }
    }
}
