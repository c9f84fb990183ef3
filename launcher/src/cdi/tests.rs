//! CDI files on hosts, images and specifications made up for them.

use std::fs;

use super::look::{Imagined, Kind};
use super::*;
use crate::image::Fake;
use crate::spec::{FILE, LINK, MODE, OPTIONAL, OVER};
use oci_spec::runtime::{MountBuilder, ProcessBuilder, Spec as Runtime, SpecBuilder};

/// A specification with these mounts: type, source, destination.
fn composed(mounts: &[(&str, &str, &str)], env: &[&str]) -> Composed {
    let mount = |(kind, source, destination): &(&str, &str, &str)| {
        let options = vec![if *kind == "bind" { "rbind" } else { "mode=755" }.to_owned()];
        MountBuilder::default().typ(*kind).source(*source).destination(*destination).options(options).build().unwrap()
    };
    let env: Vec<String> = env.iter().map(|one| (*one).to_owned()).collect();
    let process = ProcessBuilder::default().env(env).args(vec!["x".to_owned()]).cwd("/").build().unwrap();
    let spec =
        SpecBuilder::default().process(process).mounts(mounts.iter().map(mount).collect::<Vec<_>>()).build().unwrap();
    Composed { spec, warnings: Vec::new() }
}

struct Bench {
    dir: tempfile::TempDir,
    host: Imagined,
    tree: Fake,
}

impl Bench {
    fn new(file: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("vendor.yaml"), file).unwrap();
        Self { dir, host: Imagined::default(), tree: Fake::default() }
    }

    fn inject(&self, composed: &mut Composed, devices: &[&str]) -> Result<(), Error> {
        self.inject_for(composed, devices, &Caller::default())
    }

    fn inject_for(&self, composed: &mut Composed, devices: &[&str], caller: &Caller<'_>) -> Result<(), Error> {
        let names: Vec<Name> = devices.iter().map(|name| Name::parse(name).unwrap()).collect();
        let registry = Registry::of(vec![self.dir.path().to_path_buf()]);
        apply(composed, &names, &registry, &self.tree, &self.host, caller)
    }

    fn refused(&self, mounts: &[(&str, &str, &str)]) -> String {
        self.inject(&mut composed(mounts, &[]), &["v.com/c=d"]).unwrap_err().to_string()
    }
}

fn mounts(spec: &Runtime) -> Vec<String> {
    let text = |mount: &oci_spec::runtime::Mount| {
        let options = mount.options().as_ref().map(|words| words.join(",")).unwrap_or_default();
        let source = mount.source().as_ref().unwrap().display().to_string();
        format!("{} {source} {} {options}", mount.typ().as_deref().unwrap(), mount.destination().display())
    };
    spec.mounts().iter().flatten().map(text).collect()
}

fn env(spec: &Runtime) -> Vec<String> {
    spec.process().as_ref().unwrap().env().clone().unwrap()
}

fn annotation(spec: &Runtime, key: &str) -> Option<String> {
    spec.annotations().as_ref()?.get(key).cloned()
}

fn device(edits: &str) -> String {
    format!("cdiVersion: 1.1.0\nkind: v.com/c\ndevices:\n- name: d\n  containerEdits:\n{edits}")
}

const GPU: &str = "\
cdiVersion: 0.7.0
kind: v.com/c
containerEdits:
  env: [COMMON=1, MINE=no, OLD=new]
  deviceNodes:
  - {path: /dev/ctl}
  mounts:
  - {hostPath: /h/lib.so.5, containerPath: /usr/lib/lib.so.5, options: [rro, nosuid, rbind, rprivate, async]}
  - {hostPath: tmpfs, containerPath: /run/v, type: tmpfs, options: [nosuid, size=1m]}
devices:
- name: 0
  containerEdits:
    deviceNodes: [{path: /dev/v0, hostPath: /dev/host/v0, type: c, major: 195}]
- name: 1
  containerEdits:
    deviceNodes: [{path: /dev/v1, fileMode: 0600, permissions: r, uid: 7}]
";

fn gpu() -> Bench {
    let mut bench = Bench::new(GPU);
    let host = Imagined::default().with("/dev/ctl", Kind::Char, 255).with("/dev/host/v0", Kind::Char, 0);
    bench.host = host.with("/dev/v1", Kind::Char, 1).with("/h/lib.so.5", Kind::File, 0);
    bench
}

#[test]
fn edits_of_files_and_devices_are_applied_once() {
    let bench = gpu();
    let mut composed =
        composed(&[("tmpfs", "tmpfs", "/dev"), ("bind", "/x", "/usr/lib/lib.so.5")], &["MINE=yes", "OLD=1"]);
    let annotations = [(OPTIONAL.to_owned(), "/a\n/usr/lib/lib.so.5\n/b".to_owned())];
    composed.spec.set_annotations(Some(annotations.into()));
    let caller = Caller { variables: vec!["MINE"], ..Caller::default() };
    bench.inject_for(&mut composed, &["v.com/c=all", "v.com/c=0"], &caller).unwrap();
    assert_eq!(
        mounts(&composed.spec),
        [
            "tmpfs tmpfs /dev mode=755",
            "bind /dev/ctl /dev/ctl bind,nosuid,noexec",
            "tmpfs tmpfs /run/v nosuid,size=1m",
            "bind /dev/host/v0 /dev/v0 bind,nosuid,noexec",
            "bind /dev/v1 /dev/v1 bind,nosuid,noexec",
            "bind /h/lib.so.5 /usr/lib/lib.so.5 ro,nosuid,rbind,rprivate",
        ]
    );
    assert_eq!(env(&composed.spec), ["MINE=yes", "OLD=new", "COMMON=1"], "what the caller sets counts");
    assert_eq!(annotation(&composed.spec, OPTIONAL).unwrap(), "/a\n/b", "a device's mount may not fail");
    let warnings = composed.warnings.join("\n");
    for said in ["mode 600", "permits r", "owner 7"] {
        assert!(warnings.contains(said), "{said}\n{warnings}");
    }
    assert_eq!(composed.warnings.len(), 3, "{warnings}");
}

#[test]
fn the_hosts_dev_has_its_nodes_already() {
    let bench = gpu();
    let mut whole = composed(&[("bind", "/dev", "/dev")], &[]);
    let error = bench.inject(&mut whole, &["v.com/c=0"]).unwrap_err().to_string();
    assert!(error.contains("/dev/v0") && error.contains("--contain"), "{error}");
    let mut whole = composed(&[("bind", "/dev", "/dev")], &[]);
    bench.inject(&mut whole, &["v.com/c=1"]).unwrap();
    assert!(!mounts(&whole.spec).iter().any(|mount| mount.contains("/dev/v1")));
}

#[test]
fn what_the_host_lacks_is_named_with_the_file() {
    let mut bench = gpu();
    bench.host.facts.remove(Path::new("/h/lib.so.5"));
    let error = bench.inject(&mut composed(&[], &[]), &["v.com/c=1"]).unwrap_err().to_string();
    assert!(error.contains("/h/lib.so.5") && error.contains("vendor.yaml") && error.contains("v.com/c=1"), "{error}");
    let mut bench = gpu();
    bench.host = bench.host.with("/dev/v1", Kind::File, 0);
    let error = bench.inject(&mut composed(&[], &[]), &["v.com/c=1"]).unwrap_err().to_string();
    assert!(error.contains("/dev/v1 is no device"), "{error}");
}

#[test]
fn a_bind_of_the_callers_gives_way_with_a_word() {
    let bench = gpu();
    let mut composed = composed(&[("bind", "/mine", "/usr/lib/lib.so.5")], &[]);
    let caller = Caller { destinations: vec!["/usr/lib/lib.so.5".into()], ..Caller::default() };
    bench.inject_for(&mut composed, &["v.com/c=1"], &caller).unwrap();
    assert!(
        composed.warnings.iter().any(|text| text.contains("in place of what you bound")),
        "{:?}",
        composed.warnings
    );
}

#[test]
fn what_takes_privileges_is_refused_by_name() {
    let refused = |edits: &str| Bench::new(&device(edits)).refused(&[]);
    assert!(refused("    intelRdt: {closID: x}\n").contains("intelRdt"));
    assert!(refused("    netDevices: [{hostInterfaceName: ib0, name: ib0}]\n").contains("ib0"));
    let hook = refused("    hooks: [{hookName: createContainer, path: /opt/v/bin/setup, args: [setup, gpu, --now]}]\n");
    assert!(hook.contains("/opt/v/bin/setup gpu") && hook.contains("vendor.yaml"), "{hook}");
    let mut bench = Bench::new(&device("    additionalGids: [0, 44]\n"));
    assert!(bench.refused(&[]).contains("the group 44"));
    bench.host.groups = vec![44];
    bench.inject(&mut composed(&[], &[]), &["v.com/c=d"]).unwrap();
}

fn hooks(lines: &[&str]) -> String {
    let lines = lines.iter().map(|args| {
        format!("    - {{hookName: createContainer, path: /usr/bin/nvidia-cdi-hook, args: [x, {args}]}}\n")
    });
    device(&format!("    hooks:\n{}", lines.collect::<String>()))
}

#[test]
fn links_go_where_the_container_has_room() {
    let file = hooks(&["create-symlinks, --link, 'a.so.1::/usr/lib/a.so', --link, '../card0::/dev/dri/by-path/p'"]);
    let mut bench = Bench::new(&file);
    let mut own = composed(&[("tmpfs", "tmpfs", "/dev")], &[]);
    bench.inject(&mut own, &["v.com/c=d"]).unwrap();
    assert_eq!(annotation(&own.spec, &format!("{LINK}/usr/lib/a.so")).unwrap(), "a.so.1");
    assert_eq!(annotation(&own.spec, &format!("{LINK}/dev/dri/by-path/p")).unwrap(), "../card0");
    assert!(bench.refused(&[("bind", "/dev", "/dev")]).contains("/dev/dri/by-path/p"));
    bench.host = bench.host.with("/dev/dri/by-path/p", Kind::Char, 0);
    let mut whole = composed(&[("bind", "/dev", "/dev")], &[]);
    bench.inject(&mut whole, &["v.com/c=d"]).unwrap();
    assert_eq!(annotation(&whole.spec, &format!("{LINK}/dev/dri/by-path/p")), None);
}

#[test]
fn libraries_are_found_by_name_and_after_the_containers_own() {
    let mut file = hooks(&["update-ldcache, --folder, /usr/lib64", "enable-cuda-compat, --host-driver-version=535.1"]);
    file += "    mounts: [{hostPath: /h/libv.so.5.1, containerPath: /usr/lib64/libv.so.5.1, options: [ro, bind]}]\n";
    let mut bench = Bench::new(&file);
    bench.host = bench.host.with("/h/libv.so.5.1", Kind::File, 0);
    bench.host.sonames.insert("/h/libv.so.5.1".into(), "libv.so.5".to_owned());
    bench.tree = Fake::new(&[
        "/usr/local/cuda/compat/libcuda.so.1 -> libcuda.so.550.54",
        "/usr/local/cuda/compat/libcuda.so.550.54",
    ]);
    let mut composed = composed(&[], &["LD_LIBRARY_PATH=/own"]);
    bench.inject(&mut composed, &["v.com/c=d"]).unwrap();
    assert_eq!(annotation(&composed.spec, &format!("{LINK}/usr/lib64/libv.so.5")).unwrap(), "libv.so.5.1");
    assert_eq!(env(&composed.spec), ["LD_LIBRARY_PATH=/own:/usr/local/cuda/compat:/usr/lib64"]);
}

#[test]
fn an_older_drivers_libraries_in_the_image_are_left_alone() {
    let mut bench = Bench::new(&hooks(&["enable-cuda-compat, --host-driver-version=570.1"]));
    bench.tree = Fake::new(&[
        "/usr/local/cuda/compat/libcuda.so.1 -> libcuda.so.550.54",
        "/usr/local/cuda/compat/libcuda.so.550.54",
    ]);
    let mut composed = composed(&[], &["A=1"]);
    bench.inject(&mut composed, &["v.com/c=d"]).unwrap();
    assert_eq!(env(&composed.spec), ["A=1"]);
}

#[test]
fn modes_parameters_and_profiles() {
    let mut file = hooks(&[
        "chmod, --mode, 750, --path, /dev/dri, --path, /dev/absent",
        "disable-device-node-modification",
        "update-application-profile",
    ]);
    file += "    deviceNodes: [{path: /dev/dri/card0}, {path: /dev/nvidia1}, {path: /dev/nvidiactl}]\n";
    let mut bench = Bench::new(&file);
    bench.host = bench.host.with("/dev/dri/card0", Kind::Char, 0).with("/dev/nvidia1", Kind::Char, 1);
    bench.host = bench.host.with("/dev/nvidiactl", Kind::Char, 255).with("/dev/nvidia0", Kind::Char, 0);
    bench.host.texts.insert("/proc/driver/nvidia/params".into(), "A: 1\nModifyDeviceFiles: 1\n".to_owned());
    let minimal = [("tmpfs", "tmpfs", "/dev"), ("bind", "/proc", "/proc")];
    let mut own = composed(&minimal, &[]);
    bench.inject(&mut own, &["v.com/c=d"]).unwrap();
    let of = |key: String| annotation(&own.spec, &key);
    assert_eq!(of(format!("{MODE}/dev/dri")).unwrap(), "750");
    assert_eq!(of(format!("{MODE}/dev/absent")), None);
    assert_eq!(of(format!("{OVER}/proc/driver/nvidia/params")).unwrap(), "A: 1\nModifyDeviceFiles: 0\n");
    let profile = of(format!("{FILE}/etc/nvidia/nvidia-application-profiles-rc.d/10-container.conf")).unwrap();
    assert!(profile.contains("EGLVisibleDGPUDevices\",0x2]"), "only what the container has: {profile}");
}

#[test]
fn files_are_held_to_the_specification() {
    let text = |file: &str| spec::Spec::parse(file.as_bytes()).unwrap_err().to_string();
    let with = |version: &str, edits: &str| {
        format!("cdiVersion: {version}\nkind: v.com/c\ndevices:\n- name: d\n  containerEdits:\n    {edits}\n")
    };
    assert!(spec::Spec::parse(with("0.3.0", "env: [A=1]").as_bytes()).is_ok());
    assert!(spec::Spec::parse(with("v1.1.0", "env: [A=1]").as_bytes()).is_ok());
    for (version, edits, said) in [
        ("0.3.0", "mounts: [{hostPath: a, containerPath: b, type: bind}]", "type of a mount needs 0.4.0"),
        ("0.4.0", "deviceNodes: [{path: /a, hostPath: /b}]", "hostPath of a device node needs 0.5.0"),
        ("0.6.0", "additionalGids: [1]", "additionalGids needs 0.7.0"),
        ("1.0.0", "netDevices: [{hostInterfaceName: a, name: b}]", "netDevices needs 1.1.0"),
        ("0.2.0", "env: [A=1]", "needs 0.3.0"),
        ("2.0.0", "env: [A=1]", "cdiVersion"),
        ("0.6.0", "env: [A]", "NAME=value"),
        ("0.6.0", "env: []", "no containerEdits"),
        ("0.6.0", "deviceNodes: [{path: /a, type: x}]", "type"),
        ("0.6.0", "deviceNodes: [{path: /a, permissions: rx}]", "permissions"),
        ("0.6.0", "hooks: [{hookName: later, path: /x}]", "hookName"),
        ("0.6.0", "hooks: [{hookName: prestart, path: x}]", "absolute"),
        ("0.6.0", "mounts: [{hostPath: '', containerPath: b}]", "empty hostPath"),
        ("0.6.0", "devicenodes: []", "unknown field `devicenodes`"),
    ] {
        let text = text(&with(version, edits));
        assert!(text.contains(said), "{said}\n{text}");
    }
    assert!(text(&with("0.6.0", "devicenodes: []")).contains("line 6"), "the line is the file's");
    assert!(text("cdiVersion: 0.6.0\nkind: v.com/c\ndevices: []\n").contains("no devices"));
    assert!(text("cdiVersion: 0.6.0\nkind: vcom\ndevices: []\n").contains("vendor.com/class"));
    assert!(text("{\"cdiVersion\": \"0.6.0\", \"kind\": 1, \"kind\": 2}").contains("duplicate field"));
    let twice = with("0.6.0", "env: [A=1]") + "- name: d\n  containerEdits: {env: [A=1]}\n";
    assert!(text(&twice).contains("two devices"));
    let annotated = "annotations: {a: 1}\n".to_owned() + &with("0.5.0", "env: [A=1]");
    assert!(text(&annotated).contains("annotations needs 0.6.0"));
}

#[test]
fn an_image_that_needs_a_newer_driver_is_said_to() {
    let file = "cdiVersion: 0.5.0\nkind: nvidia.com/gpu\ndevices: [{name: 0, containerEdits: {env: [A=1]}}]\n";
    let mut bench = Bench::new(file);
    let words = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.54.03  Tue Jun  6\nGCC version: gcc 12.2.0\n";
    bench.host.texts.insert("/proc/driver/nvidia/version".into(), words.to_owned());
    let required = ["NVIDIA_REQUIRE_CUDA=cuda>=12.4 driver>=999"];
    let error = bench.inject(&mut composed(&[], &required), &["nvidia.com/gpu=0"]).unwrap_err().to_string();
    assert!(error.contains("driver 535.54.03 supports CUDA up to 12.2"), "{error}");
    bench.inject(&mut composed(&[], &["NVIDIA_REQUIRE_CUDA=cuda>=12.2"]), &["nvidia.com/gpu=0"]).unwrap();
    bench.host.texts.clear();
    let mut unknown = composed(&[], &required);
    bench.inject(&mut unknown, &["nvidia.com/gpu=0"]).unwrap();
    assert!(unknown.warnings[0].contains("not checked"), "{:?}", unknown.warnings);
}

/// A file that is taken after some of its bytes were changed means the same when it is written and read again.
#[test]
fn damaged_files_are_refused_or_mean_something() {
    let mut number = crate::repeatable::numbers();
    let aliased = GPU.replacen("- name: 0\n  containerEdits:", "- name: 0\n  containerEdits: &e", 1)
        + "- name: two\n  containerEdits: *e\n";
    let json = serde_json::to_string(&spec::Spec::parse(GPU.as_bytes()).unwrap()).unwrap();
    let mut taken = 0;
    for seed in [GPU, &aliased, &json] {
        spec::Spec::parse(seed.as_bytes()).unwrap();
        for _ in 0..2000 {
            let mut bytes = seed.as_bytes().to_vec();
            for _ in 0..=number(3) {
                let at = number(bytes.len());
                match number(4) {
                    0 => bytes[at] = b"\n :-{}[]&*!'\"#0a~"[number(16)],
                    1 => drop(bytes.remove(at)),
                    2 => bytes.truncate(at.max(1)),
                    _ => bytes.insert(at, bytes[number(bytes.len())]),
                }
            }
            let Ok(spec) = spec::Spec::parse(&bytes) else { continue };
            taken += 1;
            let text = serde_json::to_string(&spec).unwrap();
            assert_eq!(spec::Spec::parse(text.as_bytes()).unwrap(), spec, "{}", String::from_utf8_lossy(&bytes));
        }
    }
    assert!(taken > 100, "{taken} were taken");
}
