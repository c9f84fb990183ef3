//! The verb `cdi`.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use coracle::cdi::generate::{self, Driver};
use coracle::cdi::{Listed, Registry, hooks, read, spec::Spec};
use coracle::cli::{Cdi, CdiCommand};
use coracle::exit::Exit;
use coracle::gpu::discover::{Found, Root, Wanted, discover};
use coracle::gpu::table::{Kind, Vendor, Whose};

use super::{print, settings, warn};

/// Carries it out.
pub(super) fn cdi(arguments: &Cdi) -> anyhow::Result<Exit> {
    match &arguments.command {
        CdiCommand::List { json } => list(&registry()?, *json),
        CdiCommand::Validate { files } if files.is_empty() => {
            let files: Vec<PathBuf> = registry()?.files.into_iter().map(|file| file.path).collect();
            if files.is_empty() {
                print(|out| Ok(writeln!(out, "no CDI files")?))?;
            }
            validate(&files)
        }
        CdiCommand::Validate { files } => validate(files),
        CdiCommand::Generate { vendor, output } => generate_file(vendor.map(generate::Vendor::from), output.as_deref()),
    }
}

fn registry() -> anyhow::Result<Registry> {
    Ok(Registry::read(settings()?.cdi_dirs()))
}

fn list(registry: &Registry, json: bool) -> anyhow::Result<Exit> {
    let listed = registry.list();
    registry.complaints().for_each(|complaint| warn(&complaint));
    print(|out| {
        if json {
            let value = |(name, listed): (&coracle::cdi::Name, &Listed<'_>)| match listed {
                Listed::Usable(entry) => serde_json::json!({
                    "name": name.to_string(),
                    "file": entry.path,
                    "annotations": entry.device.annotations,
                    "usable": true,
                }),
                Listed::Conflict(one, other) => serde_json::json!({
                    "name": name.to_string(),
                    "files": [one, other],
                    "usable": false,
                }),
            };
            serde_json::to_writer_pretty(&mut *out, &listed.iter().map(value).collect::<Vec<_>>())?;
            return Ok(writeln!(out)?);
        }
        if listed.is_empty() {
            return Ok(writeln!(out, "no CDI devices")?);
        }
        let width = listed.keys().map(|name| name.to_string().len()).max().unwrap_or(0).max("DEVICE".len());
        writeln!(out, "{:width$}  FILE", "DEVICE")?;
        for (name, listed) in &listed {
            let name = name.to_string();
            match listed {
                Listed::Usable(entry) => writeln!(out, "{name:width$}  {}", entry.path.display())?,
                Listed::Conflict(one, other) => {
                    writeln!(out, "{name:width$}  unusable: in {} and {}", one.display(), other.display())?;
                }
            }
        }
        Ok(())
    })?;
    Ok(Exit::Success)
}

/// What a launch would refuse of a valid file.
fn refusals(spec: &Spec) -> Vec<String> {
    let mut refusals = Vec::new();
    let devices = spec.devices.iter().map(|device| (device.name.as_str(), &device.container_edits));
    for (name, edits) in std::iter::once(("all devices", &spec.container_edits)).chain(devices) {
        for hook in &edits.hooks {
            if let Err(reason) = hooks::recognise(hook) {
                refusals.push(format!("{name}: the hook {}: {reason}", hooks::title(hook)));
            }
        }
        for (asked, what) in [(edits.intel_rdt.is_some(), "intelRdt"), (!edits.net_devices.is_empty(), "netDevices")] {
            if asked {
                refusals.push(format!("{name}: {what}, which takes root"));
            }
        }
    }
    refusals
}

fn validate(files: &[PathBuf]) -> anyhow::Result<Exit> {
    let mut exit = Exit::Success;
    print(|out| {
        for path in files {
            match read(path) {
                Ok(spec) => {
                    let (version, devices) = (&spec.cdi_version, spec.devices.len());
                    writeln!(
                        out,
                        "{}: valid, version {version}, {} with {devices} devices",
                        path.display(),
                        spec.kind
                    )?;
                    for refusal in refusals(&spec) {
                        writeln!(out, "  refused by launches: {refusal}")?;
                    }
                }
                Err(error) => {
                    exit = Exit::Unfit;
                    writeln!(out, "{}: not valid: {error}", path.display())?;
                }
            }
        }
        Ok(())
    })?;
    Ok(exit)
}

/// The drivers of this host.
fn drivers() -> anyhow::Result<Vec<Driver>> {
    let found = discover(&Root::host(), &Vendor::ALL, &Wanted::default())?;
    found.iter().flat_map(|driver| &driver.warnings).for_each(|warning| warn(warning));
    Ok(found.iter().map(driver).collect())
}

/// What a CDI file says of a driver that was found.
fn driver(found: &Found) -> Driver {
    let own = Wanted::default().abi;
    Driver {
        vendor: match found.vendor {
            Vendor::Nvidia => generate::Vendor::Nvidia,
            Vendor::Amd => generate::Vendor::Amd,
            Vendor::Intel => generate::Vendor::Intel,
        },
        version: found.driver_version.clone(),
        gpus: found
            .devices
            .iter()
            .map(|device| generate::Gpu {
                name: device.name.clone(),
                // A part has none of its own.
                uuid: device.uuid.clone(),
                nodes: device.nodes.iter().map(|node| node.path.clone()).collect(),
            })
            .collect(),
        nodes: found.nodes.iter().map(|node| node.path.clone()).collect(),
        // Which libraries an image has cannot be known here: only the driver's own are certain to be missing.
        libraries: found
            .libraries
            .iter()
            .filter(|library| library.abi == own && library.whose == Whose::Host)
            .map(|library| generate::Library {
                path: library.path.clone(),
                soname: library.soname.clone(),
                also: library.also.clone(),
            })
            .collect(),
        files: found
            .files
            .iter()
            .filter(|file| file.group.is_none())
            .map(|file| (file.path.clone(), file.destination.clone(), file.kind == Kind::Socket))
            .collect(),
        links: found.links.iter().map(|link| (link.path.clone(), link.target.clone())).collect(),
        env: found.env.clone(),
    }
}

fn generate_file(vendor: Option<generate::Vendor>, output: Option<&Path>) -> anyhow::Result<Exit> {
    let mut found = drivers()?;
    found.retain(|driver| vendor.is_none_or(|vendor| driver.vendor == vendor));
    let mut specs: Vec<Spec> = found.iter().filter_map(generate::describe).collect();
    let kinds: Vec<&str> = specs.iter().map(|spec| spec.kind.as_str()).collect();
    if kinds.len() > 1 {
        bail!("cannot write one CDI file for {}: choose with --vendor", kinds.join(" and "));
    }
    let spec = specs.pop().context("cannot write a CDI file: no GPU was found on this host; see coracle doctor")?;
    spec.check().context("cannot write a CDI file for what was found")?;
    let text = serde_json::to_string_pretty(&spec).context("cannot write the CDI file")?;
    match output {
        None => print(|out| Ok(writeln!(out, "{text}")?))?,
        Some(path) => write(path, &text).with_context(|| format!("cannot write {}", path.display()))?,
    }
    Ok(Exit::Success)
}

/// In one go: runtimes may be reading the directory.
fn write(path: &Path, text: &str) -> std::io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.new", std::process::id()));
    let temporary = path.with_file_name(name);
    let written = fs::File::create_new(&temporary)
        .and_then(|mut file| writeln!(file, "{text}").and_then(|()| file.sync_all()))
        .and_then(|()| fs::rename(&temporary, path));
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    written
}
