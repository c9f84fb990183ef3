//! Options of what talks to registries.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::Showing;

#[doc = concat!("Which image of several to take from a registry or layout, and where its blobs are kept.")]
#[derive(Debug, Default, Args)]
pub struct Fetch {
    /// Architecture to take when there are several, in Go's or the kernel's spelling [default: this machine's]
    #[arg(long, value_name = "ARCH", value_parser = architecture, conflicts_with = "platform")]
    pub arch: Option<String>,
    /// Platform to take when there are several, such as linux/arm/v7
    #[arg(long, value_name = "linux/ARCH[/VARIANT]", value_parser = platform)]
    pub platform: Option<String>,
    /// Keep the blobs of registries in this directory, and look for them there
    ///
    /// Several connections fetch ahead then, and a download that was cut short is taken up again.
    #[arg(long, value_name = "DIRECTORY")]
    pub blob_cache: Option<PathBuf>,
}

/// An architecture as image indexes spell it.
fn architecture(value: &str) -> Result<String, String> {
    let spelt = |name: &str| name.bytes().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'_');
    if value.is_empty() || !value.split('/').all(|part| !part.is_empty() && spelt(part)) || value.split('/').count() > 2
    {
        return Err("write ARCH, or ARCH/VARIANT, such as amd64 or arm/v7".to_owned());
    }
    let (name, variant) = value.split_once('/').map_or((value, None), |(name, variant)| (name, Some(variant)));
    let name = match name {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "i386" | "i686" => "386",
        "loongarch64" => "loong64",
        other => other,
    };
    Ok(variant.map_or_else(|| name.to_owned(), |variant| format!("{name}/{variant}")))
}

/// A platform as other tools write it; containers are Linux here.
fn platform(value: &str) -> Result<String, String> {
    match value.split_once('/') {
        Some(("linux", rest)) => architecture(rest),
        None if value != "linux" => architecture(value),
        _ => Err("write linux/ARCH or linux/ARCH/VARIANT: only Linux images can run".to_owned()),
    }
}

#[doc = concat!("`push`.")]
#[derive(Debug, Args)]
pub struct Push {
    /// A squashfs or SIF file, or a stored image's name
    pub image: PathBuf,
    /// Where to, with a tag of its own: oras://HOST/NAME:TAG
    #[arg(value_name = "REFERENCE")]
    pub reference: String,
    /// What is shown.
    #[command(flatten)]
    pub showing: Showing,
}

#[doc = concat!("`registry`.")]
#[derive(Debug, Args)]
pub struct Registry {
    /// What to do.
    #[command(subcommand)]
    pub command: RegistryCommand,
}

#[doc = concat!("What can be done about registries.")]
#[derive(Debug, Subcommand)]
pub enum RegistryCommand {
    /// Check a user name and password with a registry, and keep them for later
    ///
    /// They are kept in $REGISTRY_AUTH_FILE or ~/.config/containers/auth.json, which podman and skopeo read as well and only
    /// the user can.
    Login {
        /// `HOST[:PORT]`, perhaps with /NAMESPACE; Docker Hub is docker.io
        registry: String,
        /// User name
        #[arg(short, long)]
        username: Option<String>,
        /// Read the password from standard input, not from the terminal
        #[arg(long)]
        password_stdin: bool,
    },
    /// Forget the credentials of a registry
    Logout {
        /// As for login
        #[arg(required_unless_present = "all")]
        registry: Option<String>,
        /// Of all registries
        #[arg(short, long, conflicts_with = "registry")]
        all: bool,
    },
    /// List the registries that there are credentials for
    List {
        /// Print the list as JSON
        #[arg(long)]
        json: bool,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn platforms_are_spelt_in_one_way() {
        assert_eq!(architecture("x86_64").unwrap(), "amd64");
        assert_eq!(platform("linux/aarch64/v8").unwrap(), "arm64/v8");
        assert_eq!(platform("riscv64").unwrap(), "riscv64");
        for bad in ["", "linux", "linux/", "windows/amd64", "linux/a/b/c", "AMD64"] {
            assert!(platform(bad).is_err(), "{bad}");
        }
    }
}
