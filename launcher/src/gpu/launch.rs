//! A launch's drivers: what was asked for is looked for, decided on, and put into the composed specification.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use oci_spec::OciSpecError;
use oci_spec::runtime::{Mount, MountBuilder, Spec};

use super::discover::{self, Found, Root, Wanted, discover};
use super::image::ImageLibraries;
use super::inject::{self, Bind, Ground, Injection, inject};
use super::policy::{self, Seen};
use super::table::Vendor;
use crate::gpu_policy::Environments;
use crate::host::Host;
use crate::image::{self, Tree};
use crate::libraries::cache;
use crate::options::{Gpu, Missing, Options};
use crate::session::Fingerprint;
use crate::spec::{Composed, LINK, LINKS, OPTIONAL, RAW_OVER, hex, is_below};

/// The loader's search path.
const LIBRARY_PATH: &str = "LD_LIBRARY_PATH";
/// What a session remembers a decision under.
const NOTE: &str = "gpu";
/// What changes when a driver, its devices or its services do, besides the loader's cache.
const WATCHED: [&str; 12] = [
    cache::PATH,
    "/dev",
    "/dev/dri",
    "/dev/nvidia-caps",
    "/dev/nvidia-caps-imex-channels",
    "/dev/nvidiactl",
    "/dev/dxg",
    "/dev/kfd",
    "/run/nvidia-persistenced",
    "/run/nvidia-fabricmanager",
    "/etc/OpenCL/vendors",
    "/tmp/nvidia-mps",
];

/// Why a launch cannot have a driver.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// There is none, and it had to be.
    #[error(
        "cannot bring the {vendor} driver into the container: this host has no {vendor} GPU that you can use ({looked}); use a node that has one, or leave \
         --gpu={} out", vendor.name().to_lowercase()
    )]
    Absent {
        /// Whose.
        vendor: Vendor,
        /// What was looked for.
        looked: &'static str,
    },
    /// It cannot work on this host.
    #[error(transparent)]
    Discover(#[from] discover::Error),
    /// It cannot work in this image.
    #[error(transparent)]
    Inject(#[from] inject::Error),
    /// The choice of GPUs is wrong, or the image needs another driver.
    #[error(transparent)]
    Policy(#[from] policy::Error),
    /// The image is damaged.
    #[error(transparent)]
    Image(#[from] image::Error),
    /// The parts do not make a specification.
    #[error("cannot compose the runtime specification")]
    Spec(#[from] OciSpecError),
}

/// By what a vendor's GPU is known.
fn looked(vendor: Vendor) -> &'static str {
    match vendor {
        Vendor::Nvidia => "neither /proc/driver/nvidia/version nor /dev/nvidiactl is there",
        Vendor::Amd => "there is neither /dev/kfd nor a /dev/dri/renderD* of AMD's",
        Vendor::Intel => "there is no /dev/dri/renderD* of Intel's",
    }
}

/// Brings the drivers that options ask for into what was composed. Without any it looks at nothing.
///
/// # Errors
/// When a driver that had to be there is not, or could not work.
pub fn apply(composed: &mut Composed, options: &Options, tree: &dyn Tree, host: &Host) -> Result<(), Error> {
    if options.gpu.asked.is_empty() {
        return Ok(());
    }
    let said = policy::environments(options, host, tree, &composed.spec);
    let wanted = policy::wanted(&said)?;
    let ground = ground(options, &wanted);
    let state = state(&options.gpu, &wanted, ground);
    let remembered = tree.note(NOTE).and_then(|note| postcard::from_bytes::<([u8; 16], Injection)>(note).ok());
    let mut injection = match remembered.filter(|(of, _)| *of == state) {
        Some((_, injection)) => injection,
        None => {
            let (_, injection) = decide(&Root::host(), &options.gpu, &wanted, ground, tree)?;
            if let Ok(note) = postcard::to_stdvec(&(state, &injection)) {
                tree.keep_note(NOTE, note);
            }
            injection
        }
    };
    let seen = select(&composed.spec, &mut injection, &said)?;
    edit(composed, &injection, &seen)
}

/// Chooses among the GPUs, and holds the image's requirements against the driver.
///
/// # Errors
/// When something is asked for that is not there, or a requirement is not met.
pub fn select(spec: &Spec, injection: &mut Injection, said: &Environments) -> Result<Seen, Error> {
    let seen = policy::choose(&injection.gpus, said, policy::own_dev(spec))?;
    seen.nodes.iter().for_each(|node| injection.add_device(node));
    injection.warnings.extend(seen.warnings.iter().cloned());
    if let Some(driver) = &injection.nvidia {
        injection.warnings.extend(policy::require(spec, Some(driver), &injection.gpus)?);
    }
    Ok(seen)
}

/// On what the loader's way depends.
#[must_use]
pub fn ground(options: &Options, wanted: &Wanted) -> Ground {
    Ground { abi: wanted.abi, writable: options.writable || !options.layers.is_empty() }
}

/// Looks at host and image.
///
/// # Errors
/// As for [`apply`].
pub fn decide(
    root: &Root,
    gpu: &Gpu,
    wanted: &Wanted,
    ground: Ground,
    tree: &dyn Tree,
) -> Result<(Vec<Found>, Injection), Error> {
    let vendors: Vec<Vendor> = gpu.asked.keys().copied().collect();
    let found = discover(root, &vendors, wanted)?;
    let mut absent = Vec::new();
    for (vendor, missing) in &gpu.asked {
        if found.iter().any(|driver| driver.vendor == *vendor) {
            continue;
        }
        match missing {
            Missing::Fail => return Err(Error::Absent { vendor: *vendor, looked: looked(*vendor) }),
            Missing::Warn => absent.push(format!(
                "this host has no {vendor} GPU that you can use ({}): going on without its driver",
                looked(*vendor)
            )),
            Missing::Silent => {}
        }
    }
    let mut injection = if found.is_empty() {
        Injection::default()
    } else {
        inject(&found, &ImageLibraries::read(tree, wanted.abi)?, ground)?
    };
    injection.warnings.splice(0..0, absent);
    Ok((found, injection))
}

/// Stands for all that a decision depends on besides the image.
fn state(gpu: &Gpu, wanted: &Wanted, ground: Ground) -> [u8; 16] {
    let mut print = Fingerprint::new();
    print.bytes(format!("{gpu:?} {wanted:?} {ground:?}").as_bytes());
    print.bytes(&std::fs::read("/proc/driver/nvidia/version").unwrap_or_default());
    let watched = WATCHED.iter().map(Path::new).chain(wanted.mps.as_deref());
    for metadata in watched.map(std::fs::metadata) {
        let Ok(metadata) = metadata else {
            print.number(0);
            continue;
        };
        print.number(metadata.ino());
        print.number(metadata.dev());
        print.number(metadata.size());
        print.number(metadata.mtime() as u64);
        print.number(metadata.mtime_nsec() as u64);
    }
    print.finish()
}

/// Puts a decision into a specification.
///
/// # Errors
/// When the parts do not make one.
pub fn edit(composed: &mut Composed, injection: &Injection, seen: &Seen) -> Result<(), Error> {
    composed.warnings.extend(injection.warnings.iter().cloned());
    let spec = &mut composed.spec;
    let mounts = spec.mounts().clone().unwrap_or_default();
    add_binds(spec, injection.binds.iter().filter(|bind| !is_shown(&mounts, bind)))?;
    let mut annotations = spec.annotations().clone().unwrap_or_default();
    for (path, target) in &injection.links {
        annotations.insert(format!("{LINK}{}", path.display()), target.display().to_string());
    }
    for (path, links) in &injection.directories {
        let lines: Vec<String> = links.iter().map(|(name, target)| format!("{name} {}", target.display())).collect();
        annotations.insert(format!("{LINKS}{}", path.display()), lines.join("\n"));
    }
    for (path, content) in &injection.over {
        annotations.insert(format!("{RAW_OVER}{}", path.display()), hex::encode(&content.0));
    }
    spec.set_annotations(Some(annotations));
    set_variables(spec, injection, seen);
    Ok(())
}

/// Adds what is shown of the host behind what a container shows already.
///
/// # Errors
/// When the parts do not make a mount.
pub(crate) fn add_binds<'b>(spec: &mut Spec, binds: impl Iterator<Item = &'b Bind>) -> Result<(), OciSpecError> {
    let mut mounts = spec.mounts().clone().unwrap_or_default();
    let mut annotations = spec.annotations().clone().unwrap_or_default();
    let mut optional: Vec<String> =
        annotations.get(OPTIONAL).map(|lines| lines.lines().map(str::to_owned).collect()).unwrap_or_default();
    for bind in binds {
        // What has a directory of its own can always be bound; elsewhere the caller may have put something.
        if !is_below(&bind.destination, Path::new("/.coracle")) {
            optional.push(bind.destination.display().to_string());
        }
        mounts.push(bind_mount(bind)?);
    }
    if !optional.is_empty() {
        annotations.insert(OPTIONAL.to_owned(), optional.join("\n"));
    }
    spec.set_mounts(Some(mounts));
    spec.set_annotations(Some(annotations));
    Ok(())
}

/// Whether the container shows this already, or the caller has something else there.
fn is_shown(mounts: &[Mount], bind: &Bind) -> bool {
    if mounts.iter().any(|mount| *mount.destination() == bind.destination) {
        return true;
    }
    let over = mounts.iter().filter(|mount| is_below(&bind.destination, mount.destination()));
    let Some(nearest) = over.max_by_key(|mount| mount.destination().components().count()) else { return false };
    let here = nearest.typ().as_deref() == Some("bind") && nearest.source().as_ref() == Some(nearest.destination());
    here && bind.source == bind.destination
}

/// The mount that shows something of the host.
fn bind_mount(bind: &Bind) -> Result<Mount, OciSpecError> {
    let access = if bind.writable { "rw" } else { "ro" };
    let mut options = vec!["rbind", "rslave", access, "nosuid"];
    if bind.device {
        options.push("noexec");
    } else {
        options.push("nodev");
    }
    MountBuilder::default()
        .typ("bind")
        .source(bind.source.clone())
        .destination(bind.destination.clone())
        .options(options.into_iter().map(str::to_owned).collect::<Vec<_>>())
        .build()
}

fn set_variables(spec: &mut Spec, injection: &Injection, seen: &Seen) {
    let Some(process) = spec.process_mut() else { return };
    let mut env = process.env().clone().unwrap_or_default();
    let has = |env: &[String], name: &str| {
        env.iter().any(|one| one.strip_prefix(name).is_some_and(|rest| rest.starts_with('=')))
    };
    for (name, value) in &injection.env {
        if !has(&env, name) {
            env.push(format!("{name}={value}"));
        }
    }
    for (name, value) in &seen.set {
        env.retain(|one| !one.strip_prefix(name.as_str()).is_some_and(|rest| rest.starts_with('=')));
        env.push(format!("{name}={value}"));
    }
    if !injection.first.is_empty() || !injection.last.is_empty() {
        let there = env.iter().position(|one| one.starts_with(&format!("{LIBRARY_PATH}=")));
        let old = there.map(|at| env.remove(at)).and_then(|one| one.split_once('=').map(|(_, value)| value.to_owned()));
        let shown = |paths: &[PathBuf]| paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>();
        let mut paths = shown(&injection.first);
        paths.extend(old.filter(|old| !old.is_empty()));
        paths.extend(shown(&injection.last));
        env.push(format!("{LIBRARY_PATH}={}", paths.join(":")));
    }
    process.set_env(Some(env));
}

#[cfg(test)]
mod tests {
    use oci_spec::runtime::{ProcessBuilder, SpecBuilder};

    use super::*;
    use crate::session::Bytes;

    fn composed(mounts: &[(&str, &str, &str)], env: &[&str]) -> Composed {
        let mount = |(kind, source, destination): &(&str, &str, &str)| {
            MountBuilder::default().typ(*kind).source(*source).destination(*destination).build().unwrap()
        };
        let env: Vec<String> = env.iter().map(|one| (*one).to_owned()).collect();
        let process = ProcessBuilder::default().env(env).cwd("/").build().unwrap();
        let mounts: Vec<Mount> = mounts.iter().map(mount).collect();
        Composed { spec: SpecBuilder::default().mounts(mounts).process(process).build().unwrap(), warnings: Vec::new() }
    }

    fn bind(source: &str, destination: &str) -> Bind {
        Bind { source: source.into(), destination: destination.into(), device: false, writable: false }
    }

    fn destinations(composed: &Composed) -> Vec<&str> {
        composed.spec.mounts().iter().flatten().map(|mount| mount.destination().to_str().unwrap()).collect()
    }

    #[test]
    fn what_the_container_shows_anyway_is_not_bound() {
        let injection = Injection {
            binds: vec![
                bind("/usr/lib/libcuda.so.550", "/.coracle/gpu/lib/libcuda.so.1"),
                bind("/dev/nvidia0", "/dev/nvidia0"),
                bind("/tmp/nvidia-mps", "/tmp/nvidia-mps"),
                bind("/usr/bin/nvidia-smi", "/usr/bin/nvidia-smi"),
            ],
            ..Injection::default()
        };
        let hosts = [("bind", "/dev", "/dev"), ("bind", "/tmp", "/tmp"), ("bind", "/my/smi", "/usr/bin/nvidia-smi")];
        let mut one = composed(&hosts, &[]);
        edit(&mut one, &injection, &Seen::default()).unwrap();
        assert_eq!(destinations(&one), ["/dev", "/tmp", "/usr/bin/nvidia-smi", "/.coracle/gpu/lib/libcuda.so.1"]);
        assert_eq!(one.spec.annotations().as_ref().unwrap().get(OPTIONAL), None, "a library is no option");
        let mut own = composed(&[("tmpfs", "tmpfs", "/dev"), ("bind", "/scratch", "/tmp")], &[]);
        edit(&mut own, &injection, &Seen::default()).unwrap();
        assert_eq!(destinations(&own).len(), 6);
        let optional = own.spec.annotations().as_ref().unwrap()[OPTIONAL].clone();
        assert_eq!(optional, "/dev/nvidia0\n/tmp/nvidia-mps\n/usr/bin/nvidia-smi");
        let library = own.spec.mounts().as_ref().unwrap()[2].options().clone().unwrap();
        assert_eq!(library, ["rbind", "rslave", "ro", "nosuid", "nodev"]);
    }

    #[test]
    fn variables_and_files_reach_the_specification() {
        let injection = Injection {
            over: vec![("/etc/ld.so.cache".into(), Bytes(vec![0, 0xff]))],
            first: vec!["/compat".into()],
            last: vec!["/ours".into()],
            env: vec![("A".into(), "1".into()), ("B".into(), "2".into())],
            ..Injection::default()
        };
        let mut one = composed(&[], &["LD_LIBRARY_PATH=/image", "B=mine", "CUDA_VISIBLE_DEVICES=3"]);
        let set = vec![("CUDA_VISIBLE_DEVICES".to_owned(), "0".to_owned())];
        edit(&mut one, &injection, &Seen { set, ..Seen::default() }).unwrap();
        let mut env = one.spec.process().as_ref().unwrap().env().clone().unwrap();
        env.sort();
        assert_eq!(env, ["A=1", "B=mine", "CUDA_VISIBLE_DEVICES=0", "LD_LIBRARY_PATH=/compat:/image:/ours"]);
        let annotations = one.spec.annotations().clone().unwrap();
        assert_eq!(annotations[&format!("{RAW_OVER}/etc/ld.so.cache")], "00ff");
    }

    #[test]
    fn a_decision_survives_the_way_to_the_next_launch() {
        let decision = inject::Decision {
            soname: "libcuda.so.1".into(),
            path: "/lib/libcuda.so.550.54.15".into(),
            verdict: inject::Verdict::LeftOut("why".into()),
            reason: "reason".into(),
        };
        let injection = Injection {
            binds: vec![bind("/a", "/b")],
            over: vec![("/c".into(), Bytes(vec![1, 2, 3]))],
            libraries: vec![decision],
            nvidia: Some("550.54.15".into()),
            ..Injection::default()
        };
        let note = postcard::to_stdvec(&([7_u8; 16], &injection)).unwrap();
        assert_eq!(postcard::from_bytes::<([u8; 16], Injection)>(&note).unwrap(), ([7; 16], injection));
    }
}
