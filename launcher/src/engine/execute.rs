//! Becoming the program, and explaining why not: the kernel's `ENOENT` can mean five different things.

use std::ffi::{CString, OsStr, OsString};
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::unistd::execve;

use super::{Error, Reason};

/// Bytes looked at for an interpreter: the kernel itself reads 256 of a script and a page of an ELF file.
const HEAD: u64 = 4096;
/// `e_machine` of this build's target, and what people call the others.
const MACHINES: [(u16, &str); 6] =
    [(62, "x86_64"), (183, "aarch64"), (21, "ppc64le"), (243, "riscv64"), (3, "i386"), (40, "arm")];

/// Executes the first argument, looked up in the `PATH` of `env`. Returns only if that fails.
pub(super) fn become_program(args: &[OsString], env: &[OsString]) -> Error {
    let Some(program) = args.first() else { return Error::NothingToExecute };
    let c_string = |word: &OsString| CString::new(word.as_bytes());
    let (Ok(arguments), Ok(variables)) = (
        args.iter().map(c_string).collect::<Result<Vec<_>, _>>(),
        env.iter().map(c_string).collect::<Result<Vec<_>, _>>(),
    ) else {
        return Error::NotExecutable { path: PathBuf::from(program), reason: Reason::NulByte };
    };
    let search = env.iter().find_map(|variable| variable.as_bytes().strip_prefix(b"PATH="));
    let mut refused = None;
    for candidate in candidates(program, search.unwrap_or_default()) {
        let Ok(path) = CString::new(candidate.as_os_str().as_bytes()) else { continue };
        let Err(errno) = execve(&path, &arguments, &variables);
        match errno {
            Errno::ENOENT | Errno::ENOTDIR if fs::metadata(&candidate).is_err() => {}
            // As execvp(3) does: a later directory may have one that can be executed.
            Errno::EACCES => {
                if refused.is_none() && fs::symlink_metadata(&candidate).is_ok() {
                    refused = Some(Error::NotExecutable { reason: refusal(&candidate), path: candidate });
                }
            }
            errno => return Error::NotExecutable { reason: explain(&candidate, errno), path: candidate },
        }
    }
    refused.unwrap_or_else(|| {
        let searched = (!program.as_bytes().contains(&b'/')).then(|| os(search.unwrap_or_default()));
        Error::NotFound { program: program.clone(), searched_in: searched }
    })
}

/// Paths to try.
fn candidates(program: &OsStr, search: &[u8]) -> Vec<PathBuf> {
    if program.is_empty() {
        return Vec::new();
    }
    if program.as_bytes().contains(&b'/') {
        return vec![PathBuf::from(program)];
    }
    let directory = |bytes: &[u8]| if bytes.is_empty() { PathBuf::from(".") } else { PathBuf::from(os(bytes)) };
    search.split(|byte| *byte == b':').map(|bytes| directory(bytes).join(program)).collect()
}

fn os(bytes: &[u8]) -> OsString {
    OsString::from_vec(bytes.to_vec())
}

fn refusal(path: &Path) -> Reason {
    match fs::metadata(path) {
        Ok(metadata) if metadata.is_dir() => Reason::Directory,
        Ok(metadata) if metadata.permissions().mode() & 0o111 == 0 => Reason::NoExecuteBit,
        _ => Reason::Refused,
    }
}

fn explain(path: &Path, errno: Errno) -> Reason {
    let mut head = Vec::new();
    let read = File::open(path).and_then(|file| file.take(HEAD).read_to_end(&mut head));
    match errno {
        Errno::ENOENT | Errno::ENOTDIR if read.is_ok() => interpreter(&head).unwrap_or(Reason::Errno(errno.into())),
        Errno::ENOEXEC if read.is_ok() => Reason::Format(format(&head)),
        Errno::E2BIG => Reason::TooLong,
        errno => Reason::Errno(errno.into()),
    }
}

/// What the file needs to be executed and the container lacks.
fn interpreter(head: &[u8]) -> Option<Reason> {
    if let Some(line) = head.strip_prefix(b"#!") {
        let line = line.split(|byte| *byte == b'\n').next()?;
        let carriage_return = line.ends_with(b"\r");
        let name = line.trim_ascii().split(u8::is_ascii_whitespace).next()?;
        return Some(Reason::ScriptInterpreter { name: PathBuf::from(os(name)), carriage_return });
    }
    elf_interpreter(head).map(|name| Reason::Loader { name })
}

/// `PT_INTERP` of a 64-bit little-endian file, if it lies in what was read.
fn elf_interpreter(head: &[u8]) -> Option<PathBuf> {
    const PT_INTERP: u32 = 3;
    if !head.starts_with(b"\x7fELF\x02\x01") {
        return None;
    }
    let number = |at: usize, size: usize| -> Option<u64> {
        let bytes = head.get(at..at.checked_add(size)?)?;
        Some(bytes.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte)))
    };
    let (offset, size, count) = (number(32, 8)?, number(54, 2)?, number(56, 2)?);
    for index in 0..count {
        let at = usize::try_from(offset.checked_add(index.checked_mul(size)?)?).ok()?;
        if number(at, 4)? == u64::from(PT_INTERP) {
            let start = usize::try_from(number(at.checked_add(8)?, 8)?).ok()?;
            let name = head.get(start..)?.split(|byte| *byte == 0).next()?;
            return Some(PathBuf::from(os(name)));
        }
    }
    None
}

/// What a file is that the kernel cannot execute.
fn format(head: &[u8]) -> String {
    if let (true, Some(&[low, high])) = (head.starts_with(b"\x7fELF"), head.get(18..20)) {
        let machine = u16::from_le_bytes([low, high]);
        let name = MACHINES.iter().find(|(number, _)| *number == machine);
        let name = name.map_or_else(|| format!("machine {machine}"), |(_, name)| (*name).to_owned());
        return format!(
            "it is built for {name}, and this host is {}: use an image for this host",
            std::env::consts::ARCH
        );
    }
    if head.is_empty() {
        return "it is empty".to_owned();
    }
    "it is neither a program nor a script that begins with #!: run it with its interpreter, such as sh".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_path_is_searched_as_execvp_does() {
        let paths = |program: &str, search: &str| candidates(OsStr::new(program), search.as_bytes());
        assert_eq!(paths("ls", "/a::/b"), [Path::new("/a/ls"), Path::new("./ls"), Path::new("/b/ls")]);
        assert_eq!(paths("./ls", "/a"), [Path::new("./ls")]);
        assert!(paths("", "/a").is_empty());
    }

    #[test]
    fn missing_interpreters_are_named() {
        let text = |head: &[u8]| interpreter(head).unwrap().to_string();
        assert!(text(b"#! /opt/x -w\nrest").contains("/opt/x"));
        assert!(text(b"#!/bin/sh\r\nrest").contains("carriage return"));
        let mut elf = b"\x7fELF\x02\x01".to_vec();
        elf.resize(300, 0);
        elf[32] = 64;
        elf[54] = 56;
        elf[56] = 2;
        elf[64 + 56] = 3;
        elf[64 + 56 + 8] = 200;
        elf[200..210].copy_from_slice(b"/lib/ld.so");
        assert!(text(&elf).contains("/lib/ld.so"), "{}", text(&elf));
        elf[32..40].fill(0xff);
        assert!(interpreter(&elf).is_none(), "a table beyond the end");
        assert!(interpreter(b"").is_none());
    }

    #[test]
    fn formats_are_explained() {
        let mut elf = b"\x7fELF\x02\x01".to_vec();
        elf.resize(64, 0);
        elf[18] = 183;
        assert!(format(&elf).contains("aarch64"));
        assert!(format(b"echo").contains("#!"));
        assert!(format(b"").contains("empty"));
    }
}
