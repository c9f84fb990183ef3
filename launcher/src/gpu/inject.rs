//! Decides how a container gets a driver: which libraries, under which names, and what its loader is told.
//!
//! The libraries are shown in a directory of their own, and the loader is told of it by a cache (glibc) or a list of
//! directories (musl) that is bound over the image's. `LD_LIBRARY_PATH` would come before all that the image has, would be lost
//! to programs that clear or replace it, and is not seen by those that ask `ldconfig -p`.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::discover::{Found, HostFile, Layout, Library};
use super::image::{ImageLibraries, Libc, greatest};
use super::policy::Gpu;
use super::table::{self, Kind, Vendor, Whose};
use crate::image;
use crate::libraries::Abi;
use crate::libraries::cache::{self, Entry};
use crate::libraries::elf::Elf;
use crate::session::Bytes;

mod compat;
mod libraries;

pub use compat::Compat;
pub use libraries::HOST;

/// Where the libraries are in a container.
pub const LIBRARIES: &str = "/.coracle/gpu/lib";
/// Those for 32-bit programs.
pub const LIBRARIES_32: &str = "/.coracle/gpu/lib32";
/// What musl's loader searches where nothing else is said.
const MUSL_DEFAULT: &str = "/lib:/usr/local/lib:/usr/lib";

/// Why a container cannot have a driver.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The image's C library is too old.
    #[error(
        "cannot bring the {vendor} driver into the container: {} needs {version} of {library}, and the image's {library} {}; use an image with a newer {}, \
         one made for this host's generation of distributions, or run without the driver's libraries: --gpu=off",
        path.display(), greatest.as_ref().map_or("defines no such versions".to_owned(), |last| format!("ends at {last}")), package(library)
    )]
    TooOld {
        /// Whose driver.
        vendor: Vendor,
        /// The driver's library.
        path: PathBuf,
        /// What it needs a version of.
        library: String,
        /// The version.
        version: String,
        /// The greatest that there is.
        greatest: Option<String>,
    },
    /// The image's programs have another C library.
    #[error(
        "cannot bring the {vendor} driver into the container: its libraries, such as {}, are built for glibc, and the image has musl (as Alpine does); use an image with \
         glibc, such as one of Debian's or Rocky Linux's, install gcompat in the image, or run without the driver's libraries: --gpu=off", path.display()
    )]
    Musl {
        /// Whose driver.
        vendor: Vendor,
        /// One of its libraries.
        path: PathBuf,
    },
    /// The image is damaged.
    #[error(transparent)]
    Image(#[from] image::Error),
}

fn package(library: &str) -> &'static str {
    if library.starts_with("libstdc++") || library.starts_with("libgcc_s") {
        "GCC runtime (libstdc++)"
    } else {
        "glibc"
    }
}

/// What becomes of a library.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// The container gets the host's.
    Host,
    /// The image's own is used.
    Image(String),
    /// The container gets none.
    LeftOut(String),
}

/// A library, and what becomes of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decision {
    /// The name by which it is needed.
    pub soname: String,
    /// On the host.
    pub path: PathBuf,
    /// What.
    pub verdict: Verdict,
    /// What the library is for.
    pub reason: String,
}

/// Something of the host that a container shows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bind {
    /// On the host.
    pub source: PathBuf,
    /// In the container.
    pub destination: PathBuf,
    /// A device, which is needed only where the container's `/dev` is not the host's.
    pub device: bool,
    /// Whether it can be written to.
    pub writable: bool,
}

/// What the loader is told of a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ground {
    /// For which programs.
    pub abi: Abi,
    /// Whether the container's own files can be changed: programs such as `ldconfig` replace what would be bound over otherwise.
    pub writable: bool,
}

/// How a container gets the drivers of a host.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Injection {
    /// What is bound.
    pub binds: Vec<Bind>,
    /// GPUs, among which the caller and others choose for each launch.
    pub gpus: Vec<Gpu>,
    /// Version of NVIDIA's driver.
    pub nvidia: Option<String>,
    /// Links that the container shows.
    pub links: Vec<(PathBuf, PathBuf)>,
    /// Directories of links that the container shows: names and targets.
    pub directories: Vec<(PathBuf, Vec<(String, PathBuf)>)>,
    /// Files that are bound over the image's.
    pub over: Vec<(PathBuf, Bytes)>,
    /// What comes before all others in `LD_LIBRARY_PATH`.
    pub first: Vec<PathBuf>,
    /// What comes after all others.
    pub last: Vec<PathBuf>,
    /// Variables, unless they are set.
    pub env: Vec<(String, String)>,
    /// For the caller, a sentence each.
    pub warnings: Vec<String>,
    /// What was decided about the libraries.
    pub libraries: Vec<Decision>,
    /// How the loader is told, and what was found about the C library: a sentence each.
    pub loader: Vec<String>,
    /// A newer driver's user side in the image that is used.
    pub compat: Option<Compat>,
}

/// Decides.
///
/// # Errors
/// When the driver could not work in this image.
pub fn inject(found: &[Found], image: &ImageLibraries<'_>, ground: Ground) -> Result<Injection, Error> {
    let mut injection = Injection::default();
    let mut chosen: Vec<&Library> = Vec::new();
    for driver in found {
        injection.warnings.extend(driver.warnings.iter().cloned());
        let before = chosen.len();
        choose(driver, image, ground.abi, &mut chosen, &mut injection)?;
        let groups: Vec<&str> = chosen.iter().skip(before).filter_map(|library| library.group.as_deref()).collect();
        for file in &driver.files {
            if file.group.as_deref().is_none_or(|group| groups.contains(&group)) {
                add_file(driver, file, image, &mut injection)?;
            }
        }
        if driver.vendor == Vendor::Amd && !has_rocm(image)? {
            injection.warnings.push(format!(
                "the image has no ROCm ({}): AMD's libraries come with the image, the host adds the devices",
                table::AMD_RUNTIME
            ));
        }
        for node in &driver.nodes {
            injection.add_device(&node.path);
        }
        injection.gpus.extend(Gpu::of(driver));
        if driver.vendor == Vendor::Nvidia {
            injection.nvidia.clone_from(&driver.driver_version);
        }
        injection.links.extend(driver.links.iter().map(|link| (link.path.clone(), link.target.clone())));
        injection.env.extend(driver.env.iter().cloned());
    }
    injection.compat = compat::find(found, image)?;
    libraries::show(&chosen, ground.abi, &mut injection);
    tell_loader(&chosen, image, ground, &mut injection)?;
    Ok(injection)
}

fn has_rocm(image: &ImageLibraries<'_>) -> Result<bool, image::Error> {
    let named = image
        .cache
        .entries()
        .iter()
        .any(|entry| entry.soname.to_str().is_some_and(|name| name.starts_with(table::AMD_RUNTIME)));
    Ok(named || image.real(Path::new("/opt/rocm"))?.is_some() || image.find("libhsa-runtime64.so.1")?.is_some())
}

/// The libraries of a driver that the container gets.
fn choose<'f>(
    driver: &'f Found,
    image: &ImageLibraries<'_>,
    abi: Abi,
    chosen: &mut Vec<&'f Library>,
    injection: &mut Injection,
) -> Result<(), Error> {
    let mut left_out = Vec::new();
    for library in &driver.libraries {
        let verdict = verdict(driver, library, image, abi)?;
        match &verdict {
            Verdict::Host => chosen.push(library),
            Verdict::LeftOut(why) => left_out.push(format!("{}: {why}", library.soname)),
            Verdict::Image(_) => {}
        }
        injection.libraries.push(Decision {
            soname: library.soname.clone(),
            path: library.path.clone(),
            verdict,
            reason: library.reason.clone(),
        });
    }
    if let Some(first) = left_out.first() {
        let others = match left_out.len() - 1 {
            0 => String::new(),
            more => format!(" (and {more} more, see coracle gpu explain)"),
        };
        let vendor = driver.vendor;
        injection.warnings.push(format!("the container gets the {vendor} driver without {first}{others}"));
    }
    Ok(())
}

fn verdict(driver: &Found, library: &Library, image: &ImageLibraries<'_>, abi: Abi) -> Result<Verdict, Error> {
    if library.whose == Whose::Image {
        let same = |other: &&Library| other.group.is_some() && other.group == library.group;
        for other in driver.libraries.iter().filter(same) {
            if let Some(path) = image.find(&other.soname)? {
                return Ok(Verdict::Image(format!("the image has its own, {}", path.display())));
            }
        }
    }
    // The libraries for 32-bit programs are for a C library that was not looked at.
    if library.abi != abi {
        return Ok(Verdict::Host);
    }
    match image.libc {
        Libc::Musl { compatible: false } if library.essential => {
            Err(Error::Musl { vendor: driver.vendor, path: library.path.clone() })
        }
        Libc::Musl { compatible: false } => {
            Ok(Verdict::LeftOut("it is built for glibc, and the image has musl".into()))
        }
        // Versions are not looked at by musl's loader.
        Libc::Musl { compatible: true } | Libc::Unknown => Ok(Verdict::Host),
        Libc::Glibc => check_versions(driver, library, image),
    }
}

/// Compares what a library needs with what the image's libraries define.
fn check_versions(driver: &Found, library: &Library, image: &ImageLibraries<'_>) -> Result<Verdict, Error> {
    let Some(lack) = Lack::find(driver, &library.elf, image)? else { return Ok(Verdict::Host) };
    if library.essential {
        let Lack { library: needed, version, greatest } = lack;
        let (vendor, path) = (driver.vendor, library.path.clone());
        return Err(Error::TooOld { vendor, path, library: needed, version, greatest });
    }
    Ok(Verdict::LeftOut(lack.to_string()))
}

/// A version that an image's library does not define.
struct Lack {
    library: String,
    version: String,
    greatest: Option<String>,
}

impl Lack {
    /// The first that a file of the host needs.
    fn find(driver: &Found, elf: &Elf, image: &ImageLibraries<'_>) -> Result<Option<Self>, Error> {
        for (needed, versions) in &elf.needs {
            if driver.libraries.iter().any(|other| other.soname == *needed && other.whose == Whose::Host) {
                continue;
            }
            // A library that is missing altogether, such as X's in an image for computing, is a matter of those who want it.
            let Some(defined) = image.defines(needed)? else { continue };
            if let Some(version) = versions.iter().find(|version| !defined.contains(version)) {
                let greatest = greatest(&defined, version).map(str::to_owned);
                return Ok(Some(Self { library: needed.clone(), version: version.clone(), greatest }));
            }
        }
        Ok(None)
    }
}

impl fmt::Display for Lack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "it needs {} of {}, and the image's ", self.version, self.library)?;
        match &self.greatest {
            Some(last) => write!(f, "ends at {last}"),
            None => f.write_str("defines no such versions"),
        }
    }
}

fn add_file(
    driver: &Found,
    file: &HostFile,
    image: &ImageLibraries<'_>,
    injection: &mut Injection,
) -> Result<(), Error> {
    let mut destination = file.destination.clone();
    if file.kind == Kind::Utility {
        // The driver's programs speak to the driver's libraries: one that the image has is of another version.
        destination = image.real(&file.destination)?.unwrap_or(destination);
        if let (Libc::Glibc, Some(elf)) = (image.libc, &file.elf)
            && let Some(lack) = Lack::find(driver, elf, image)?
        {
            injection.loader.push(format!("left out {}: {lack}", file.path.display()));
            return Ok(());
        }
    }
    let writable = file.kind == Kind::Socket;
    injection.binds.push(Bind { source: file.path.clone(), destination, device: false, writable });
    Ok(())
}

impl Injection {
    /// Shows a device node.
    pub(super) fn add_device(&mut self, path: &Path) {
        if self.binds.iter().all(|bind| bind.destination != path) {
            let (source, destination) = (path.to_path_buf(), path.to_path_buf());
            self.binds.push(Bind { source, destination, device: true, writable: true });
        }
    }
}

/// Where a library is in the container.
fn directory(library: &Library, abi: Abi) -> &'static Path {
    Path::new(if library.abi == abi { LIBRARIES } else { LIBRARIES_32 })
}

/// Makes the loader find the libraries. None of them is one that the image has, save those of the driver that it cannot have,
/// so their place in the order matters only for these.
fn tell_loader(
    chosen: &[&Library],
    image: &ImageLibraries<'_>,
    ground: Ground,
    injection: &mut Injection,
) -> Result<(), Error> {
    if chosen.is_empty() && injection.compat.is_none() {
        return Ok(());
    }
    if let Some(compat) = &injection.compat {
        injection.loader.push(format!(
            "the image's CUDA compatibility package {} is used in place of the libraries of the host's driver {}",
            compat.version, compat.driver
        ));
    }
    let why = match image.libc {
        Libc::Glibc if !ground.writable => {
            replace_cache(chosen, image, ground.abi, injection);
            return Ok(());
        }
        Libc::Musl { .. } if !ground.writable => return replace_path(image, ground.abi, injection),
        Libc::Unknown => {
            injection.warnings.push(
                "the image has no C library where it would be looked for: whether the driver works with it could not be checked".into(),
            );
            "the image has no loader that is known"
        }
        _ => "the container can be written to, and ldconfig would replace what is bound over its cache",
    };
    injection.loader.push(format!("the libraries are added to LD_LIBRARY_PATH: {why}"));
    injection.first.extend(injection.compat.iter().map(|_| PathBuf::from(compat::DIRECTORY)));
    injection.last.push(LIBRARIES.into());
    if chosen.iter().any(|library| library.abi != ground.abi) {
        injection.last.push(LIBRARIES_32.into());
    }
    Ok(())
}

/// glibc
fn replace_cache(chosen: &[&Library], image: &ImageLibraries<'_>, abi: Abi, injection: &mut Injection) {
    if let Some(problem) = &image.cache_problem {
        injection
            .warnings
            .push(format!("cannot use the image's {}, a new one takes its place: {problem}", cache::PATH));
    }
    let mut new = image.cache.clone();
    let mut put = |name: &str, path: PathBuf, abi: Abi| {
        new.remove(|entry| entry.soname == name && entry.is_for(abi));
        new.add(Entry::new(name, path, abi));
    };
    for library in chosen {
        for name in std::iter::once(&library.soname).chain(&library.also) {
            put(name, directory(library, abi).join(name), library.abi);
        }
    }
    for (name, path) in injection.compat.iter().flat_map(|compat| &compat.libraries) {
        put(name, path.clone(), abi);
    }
    injection.loader.push(format!(
        "{} libraries are added to a copy of the image's {}, which is bound over it",
        chosen.len(),
        cache::PATH
    ));
    injection.over.push((PathBuf::from(cache::PATH), Bytes(new.write())));
}

/// musl
fn replace_path(image: &ImageLibraries<'_>, abi: Abi, injection: &mut Injection) -> Result<(), Error> {
    let path = PathBuf::from(format!("/etc/ld-musl-{}.path", abi.name()));
    let content = image.content(&path)?.unwrap_or_else(|| MUSL_DEFAULT.into());
    let mut content = String::from_utf8_lossy(&content).trim_end().to_owned();
    content.push('\n');
    content.push_str(LIBRARIES);
    content.push('\n');
    injection.loader.push(format!("{LIBRARIES} is added to a copy of {}, which is bound over it", path.display()));
    injection.warnings.push(
        "the image has musl, and the driver's libraries are built for glibc: programs may fail, though gcompat is there".into(),
    );
    injection.over.push((path, Bytes(content.into_bytes())));
    Ok(())
}

/// Whether a driver is Windows' or a board's, which no package of CUDA's replaces.
fn is_plain(driver: &Found) -> bool {
    driver.vendor == Vendor::Nvidia && driver.layout == Layout::Native
}
