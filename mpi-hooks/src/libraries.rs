//! Shared libraries of hosts and images: what the loader would find, and what a library needs and offers.
//!
//! Nothing here starts a program or loads a library. Files of images are untrusted; a damaged one is an error, never a
//! panic, and costs no more memory than its real size warrants.

pub mod cache;
pub mod elf;
mod format;

pub use format::{Dyn64, Ehdr64, Phdr64, d_tag, p_type};

use serde::{Deserialize, Serialize};

/// Size of a file's addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Class {
    /// `ELFCLASS32`
    #[serde(rename = "32")]
    Elf32,
    /// `ELFCLASS64`
    #[serde(rename = "64")]
    Elf64,
}

/// For what a library is built: two that differ in it cannot be in one process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Abi {
    /// Size of addresses.
    pub class: Class,
    /// `e_machine`
    pub machine: u16,
}

impl Abi {
    /// x86-64
    pub const X86_64: Self = Self { class: Class::Elf64, machine: 62 };
    /// 32-bit x86
    pub const I386: Self = Self { class: Class::Elf32, machine: 3 };
    /// 64-bit Arm
    pub const AARCH64: Self = Self { class: Class::Elf64, machine: 183 };
    /// 32-bit Arm, with floating-point registers for arguments
    pub const ARM: Self = Self { class: Class::Elf32, machine: 40 };
    /// Of this program.
    #[cfg(target_arch = "x86_64")]
    pub const OWN: Self = Self::X86_64;
    /// Of this program.
    #[cfg(target_arch = "aarch64")]
    pub const OWN: Self = Self::AARCH64;

    /// What 32-bit programs on the same machine are built for.
    #[must_use]
    pub fn compat32(self) -> Option<Self> {
        match self {
            Self::X86_64 => Some(Self::I386),
            Self::AARCH64 => Some(Self::ARM),
            _ => None,
        }
    }

    /// Directories that the C library's loader searches by itself, on Debian's kin and on others.
    #[must_use]
    pub fn directories(self) -> &'static [&'static str] {
        match self {
            Self::X86_64 => {
                &["/lib/x86_64-linux-gnu", "/usr/lib/x86_64-linux-gnu", "/lib64", "/usr/lib64", "/lib", "/usr/lib"]
            }
            Self::AARCH64 => {
                &["/lib/aarch64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/lib64", "/usr/lib64", "/lib", "/usr/lib"]
            }
            Self::I386 => {
                &["/lib/i386-linux-gnu", "/usr/lib/i386-linux-gnu", "/lib32", "/usr/lib32", "/lib", "/usr/lib"]
            }
            Self::ARM => &["/lib/arm-linux-gnueabihf", "/usr/lib/arm-linux-gnueabihf", "/lib", "/usr/lib"],
            _ => &["/lib64", "/usr/lib64", "/lib", "/usr/lib"],
        }
    }

    /// As musl's and glibc's file names have it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::X86_64 => "x86_64",
            Self::I386 => "i386",
            Self::AARCH64 => "aarch64",
            Self::ARM => "armhf",
            _ => "unknown",
        }
    }
}
