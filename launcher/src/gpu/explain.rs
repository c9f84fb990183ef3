//! What `coracle gpu explain` prints: which drivers were found, what a container gets of them, and why.

use std::io::{self, Write};

use oci_spec::runtime::Spec;
use serde::Serialize;

use super::discover::{Device, Found, Root, discover};
use super::image::{ImageLibraries, Libc};
use super::inject::{Bind, Compat, Decision, Injection, Verdict};
use super::launch::{self, Error};
use super::policy::{self, Seen};
use super::table::{Capability, Vendor};
use crate::explanation::Explanation;
use crate::host::Host;
use crate::image::Tree;
use crate::options::{Gpu, Options};

/// All of it. The names are an interface.
#[derive(Debug, Serialize)]
pub struct Explained {
    /// What the container wants of a driver.
    capabilities: Vec<Capability>,
    /// Drivers of the host.
    drivers: Vec<Found>,
    /// Vendors that were asked for and are not there.
    absent: Vec<Vendor>,
    /// The image's C library.
    libc: String,
    /// What becomes of each library.
    libraries: Vec<Decision>,
    /// Libraries that neither the host's driver nor the image has, and what needs them.
    missing: Vec<Absent>,
    /// Who chose which GPUs are seen: a sentence each.
    choice: Vec<String>,
    /// Variables that get other values for it.
    variables: Vec<(String, String)>,
    /// What is bound.
    binds: Vec<Bind>,
    /// How the loader is told.
    loader: Vec<String>,
    /// The user side of a newer driver.
    compat: Option<Compat>,
    /// What a launch would warn of.
    warnings: Vec<String>,
    /// Why a launch would fail.
    error: Option<String>,
}

/// A library that something needs and nothing has.
#[derive(Debug, Serialize)]
struct Absent {
    library: String,
    needed_by: Vec<String>,
}

/// Looks at host and image as a launch would.
///
/// # Errors
/// When the image is damaged.
pub fn explain(root: &Root, spec: &Spec, options: &Options, tree: &dyn Tree, host: &Host) -> Result<Explained, Error> {
    let said = policy::environments(options, host, tree, spec);
    let wanted = policy::wanted(&said)?;
    let image = ImageLibraries::read(tree, wanted.abi)?;
    let decided = launch::decide(root, &options.gpu, &wanted, launch::ground(options, &wanted), tree);
    let mut seen = Seen::default();
    let (found, injection, error) = match decided {
        Ok((found, mut injection)) => {
            let error = match launch::select(spec, &mut injection, &said) {
                Ok(chosen) => {
                    seen = chosen;
                    None
                }
                Err(error) => Some(error.to_string()),
            };
            (found, injection, error)
        }
        // What was found is worth showing all the more.
        Err(error) => {
            let vendors: Vec<Vendor> = options.gpu.asked.keys().copied().collect();
            let found = discover(root, &vendors, &wanted).unwrap_or_default();
            (found, Injection::default(), Some(error.to_string()))
        }
    };
    let missing = missing(&found, &injection, &image)?;
    let Injection { binds, warnings, libraries, loader, compat, .. } = injection;
    Ok(Explained {
        capabilities: wanted.capabilities.iter().copied().collect(),
        absent: absent(&options.gpu, &found),
        drivers: found,
        libc: libc(&image)?,
        libraries,
        missing,
        choice: seen.reasons,
        variables: seen.set,
        binds,
        loader,
        compat,
        warnings,
        error,
    })
}

fn absent(gpu: &Gpu, found: &[Found]) -> Vec<Vendor> {
    let there = |vendor: &&Vendor| found.iter().any(|driver| driver.vendor == **vendor);
    gpu.asked.keys().filter(|vendor| !there(vendor)).copied().collect()
}

fn libc(image: &ImageLibraries<'_>) -> Result<String, Error> {
    let versions = image.defines("libc.so.6")?.unwrap_or_default();
    Ok(match image.libc {
        Libc::Glibc => {
            let last = super::image::greatest(&versions, "GLIBC_2.0").unwrap_or("GLIBC");
            format!("glibc {}", last.trim_start_matches("GLIBC_"))
        }
        Libc::Musl { compatible: true } => "musl with gcompat".to_owned(),
        Libc::Musl { compatible: false } => "musl".to_owned(),
        Libc::Unknown => "none where it would be looked for".to_owned(),
    })
}

/// Needed by libraries that the container gets.
fn missing(found: &[Found], injection: &Injection, image: &ImageLibraries<'_>) -> Result<Vec<Absent>, Error> {
    let mut missing: Vec<Absent> = Vec::new();
    let given = |soname: &str, path: &std::path::Path| {
        let same = |one: &&Decision| one.soname == soname && one.path == path;
        injection.libraries.iter().find(same).is_some_and(|one| one.verdict == Verdict::Host)
    };
    let libraries = || found.iter().flat_map(|driver| &driver.libraries);
    for library in libraries().filter(|library| given(&library.soname, &library.path)) {
        for needed in &library.elf.needed {
            if libraries().any(|other| other.soname == *needed) || image.find(needed)?.is_some() {
                continue;
            }
            match missing.iter_mut().find(|absent| absent.library == *needed) {
                Some(absent) => absent.needed_by.push(library.soname.clone()),
                None => missing.push(Absent { library: needed.clone(), needed_by: vec![library.soname.clone()] }),
            }
        }
    }
    Ok(missing)
}

impl Explanation for Explained {
    fn works(&self) -> bool {
        self.error.is_none()
    }

    fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        for driver in &self.drivers {
            write_driver(driver, out)?;
        }
        for vendor in &self.absent {
            writeln!(out, "{vendor}: no GPU that you can use")?;
        }
        writeln!(out)?;
        writeln!(out, "The image has {}.", self.libc)?;
        let wanted: Vec<&str> = self.capabilities.iter().map(|capability| capability.name()).collect();
        writeln!(out, "The container wants {}.", wanted.join(", "))?;
        for line in &self.loader {
            writeln!(out, "  {line}")?;
        }
        for line in &self.choice {
            writeln!(out, "  {line}")?;
        }
        for (name, value) in &self.variables {
            writeln!(out, "  {name}={value} in the container")?;
        }
        self.write_libraries(out)?;
        let files = self.binds.iter().filter(|bind| !bind.destination.starts_with("/.coracle"));
        let (devices, files): (Vec<&Bind>, Vec<&Bind>) = files.partition(|bind| bind.device);
        for (title, binds) in [("Files:", files), ("Devices, where /dev is not the host's:", devices)] {
            if !binds.is_empty() {
                writeln!(out, "{title}")?;
            }
            for bind in binds {
                let reason = self.reason(bind).map(|reason| format!("  ({reason})")).unwrap_or_default();
                if bind.source == bind.destination {
                    writeln!(out, "  {}{reason}", bind.destination.display())?;
                } else {
                    writeln!(out, "  {} from {}{reason}", bind.destination.display(), bind.source.display())?;
                }
            }
        }
        for note in self.drivers.iter().flat_map(|driver| &driver.notes) {
            writeln!(out, "note: {note}")?;
        }
        for warning in &self.warnings {
            writeln!(out, "warning: {warning}")?;
        }
        match &self.error {
            Some(error) => writeln!(out, "error: {error}"),
            None => Ok(()),
        }
    }
}

impl Explained {
    fn write_libraries(&self, out: &mut dyn Write) -> io::Result<()> {
        let width = self.libraries.iter().map(|library| library.soname.len()).max().unwrap_or_default();
        if !self.libraries.is_empty() {
            writeln!(out, "Libraries:")?;
        }
        for Decision { soname, path, verdict, reason } in &self.libraries {
            match verdict {
                Verdict::Host => writeln!(out, "  {soname:width$}  {} ({reason})", path.display())?,
                Verdict::Image(why) => writeln!(out, "  {soname:width$}  the image's: {why}")?,
                Verdict::LeftOut(why) => writeln!(out, "  {soname:width$}  left out: {why}")?,
            }
        }
        for Absent { library, needed_by } in &self.missing {
            writeln!(out, "  {library:width$}  is in neither, and needed by {}", needed_by.join(", "))?;
        }
        Ok(())
    }

    /// Why something is bound.
    fn reason(&self, bind: &Bind) -> Option<&str> {
        self.drivers.iter().find_map(|driver| {
            let file = driver.files.iter().find(|file| file.path == bind.source).map(|file| file.reason.as_str());
            let nodes = driver.nodes.iter().chain(driver.devices.iter().flat_map(|device| &device.nodes));
            file.or_else(|| nodes.into_iter().find(|node| node.path == bind.source).map(|node| node.reason.as_str()))
        })
    }
}

fn write_driver(driver: &Found, out: &mut dyn Write) -> io::Result<()> {
    let version = driver.driver_version.as_deref().unwrap_or("of unknown version");
    let layout = match driver.layout {
        super::discover::Layout::Native => "",
        super::discover::Layout::Wsl => " of Windows",
        super::discover::Layout::Tegra => " of a Jetson board",
    };
    writeln!(out, "{}: driver {version}{layout}", driver.vendor)?;
    for Device { name, model, uuid, pci, mig, .. } in &driver.devices {
        let kind = if *mig { "instance" } else { "GPU" };
        let more = [model, uuid, pci].into_iter().flatten().map(String::as_str).collect::<Vec<_>>().join(", ");
        writeln!(out, "  {kind} {name}{}{more}", if more.is_empty() { "" } else { ": " })?;
    }
    Ok(())
}
