//! The order of steps, and what is made for mounts to stand on.

use super::*;
use crate::host::Kind;
use crate::ids::Range;
use oci_spec::runtime::{
    LinuxBuilder, LinuxCapabilitiesBuilder, LinuxIdMappingBuilder, LinuxNamespaceBuilder, Mount, MountBuilder,
    ProcessBuilder, SpecBuilder, UserBuilder,
};
use std::collections::HashMap;

/// Everything below `/dev` and with a dot is a file.
pub(super) struct Everything;

impl Probe for Everything {
    fn kind(&self, path: &Path) -> Option<Kind> {
        let file = path.starts_with("/dev/") || path.to_string_lossy().contains('.');
        Some(if file { Kind::File } else { Kind::Directory })
    }
}

fn bind(source: &str, destination: &str, options: &[&str]) -> Mount {
    let options: Vec<String> = options.iter().map(|&option| option.to_owned()).collect();
    MountBuilder::default().typ("bind").source(source).destination(destination).options(options).build().unwrap()
}

fn fs(kind: &str, destination: &str, options: &[&str]) -> Mount {
    let options: Vec<String> = options.iter().map(|&option| option.to_owned()).collect();
    MountBuilder::default().typ(kind).source(kind).destination(destination).options(options).build().unwrap()
}

pub(super) fn spec(mounts: Vec<Mount>, annotations: &[(&str, &str)]) -> Spec {
    let annotations: HashMap<String, String> =
        annotations.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let mut process = ProcessBuilder::default()
        .user(UserBuilder::default().uid(7_u32).gid(8_u32).build().unwrap())
        .args(vec!["prog".to_owned(), "a b".to_owned()])
        .env(vec!["A=1".to_owned()])
        .cwd("/w")
        .build()
        .unwrap();
    process.set_rlimits(None);
    process.set_capabilities(None);
    let mut linux = LinuxBuilder::default().namespaces(Vec::new()).build().unwrap();
    linux.set_masked_paths(None);
    linux.set_readonly_paths(None);
    linux.set_resources(None);
    let mut spec =
        SpecBuilder::default().process(process).mounts(mounts).annotations(annotations).linux(linux).build().unwrap();
    spec.set_hostname(None);
    spec
}

fn plan(spec: &Spec) -> Result<Vec<Step>, Error> {
    Wanted::new(spec, Path::new("/mnt"), &Everything).map(|wanted| wanted.plan(Way::Alone).steps)
}

fn added(steps: &[Step]) -> (&[PathBuf], &[(PathBuf, SyntheticFile)]) {
    let Some(Step::AskServer { directories, files }) = steps.get(3) else { panic!("{steps:?}") };
    (directories, files)
}

#[test]
fn security_steps_come_in_the_order_the_kernel_and_safety_demand() {
    let steps = plan(&spec(vec![bind("/data", "/d", &["rbind", "ro"])], &[])).unwrap();
    let expected = vec![
        Step::UnshareUser(Ids::own(7, 8)),
        Step::OpenFuse,
        Step::StartServer,
        Step::AskServer { directories: vec!["/d".into()], files: Vec::new() },
        Step::UnshareMount,
        Step::MountImage { at: "/mnt".into() },
        Step::PivotRoot { from: "/mnt".into() },
        Step::OpenSources(vec!["/data".into()]),
        Step::Bind {
            source: "/data".into(),
            destination: "/d".into(),
            recursive: true,
            restrict: MsFlags::MS_RDONLY,
            optional: false,
        },
        Step::DetachHost,
        Step::ChangeDirectory { path: "/w".into(), fallback: None },
        Step::NoNewPrivileges,
        Step::Capabilities(Capabilities::default()),
        Step::CloseDescriptors(vec![]),
        Step::Execute { args: vec!["prog".into(), "a b".into()], env: vec!["A=1".into()] },
    ];
    assert_eq!(steps, expected);
}

#[test]
fn targets_are_made_where_they_can_be() {
    let mounts = vec![
        fs("tmpfs", "/scratch", &["size=1m"]),
        bind("/data", "/scratch/x/y", &["rbind"]),
        bind("/f.txt", "/scratch/f", &["bind"]),
        bind("/home", "/home", &["rbind"]),
        bind("/data", "/home/in", &["rbind"]),
        bind("/f.txt", "/etc/f.conf", &["bind"]),
        bind("/data", "/home2", &["rbind"]),
    ];
    let annotations = [("org.coracle.file./etc/passwd", "x"), ("org.coracle.optional", "/home2\n/other")];
    let steps = plan(&spec(mounts, &annotations)).unwrap();
    let (directories, files) = added(&steps);
    assert_eq!(directories, [Path::new("/scratch"), Path::new("/home"), Path::new("/home2")], "/home2 is not in /home");
    let content = SyntheticFile::Content(b"x".to_vec(), 0o644);
    assert_eq!(files, [("/etc/f.conf".into(), SyntheticFile::Empty), ("/etc/passwd".into(), content)]);
    let made: Vec<&Step> =
        steps.iter().filter(|step| matches!(step, Step::MakeDirectory(_) | Step::MakeFile(_))).collect();
    assert_eq!(made, [&Step::MakeDirectory("/scratch/x/y".into()), &Step::MakeFile("/scratch/f".into())]);
    let optional = |wanted: &str| {
        steps.iter().any(
            |step| matches!(step, Step::Bind { destination, optional: true, .. } if destination == Path::new(wanted)),
        )
    };
    assert!(optional("/home2") && !optional("/home"));
    assert!(matches!(&steps[7], Step::OpenSources(sources) if sources.len() == 3), "each source once");
}

#[test]
fn a_new_dev_has_the_default_devices() {
    let steps =
        plan(&spec(vec![fs("tmpfs", "/dev", &["nosuid", "mode=755"]), fs("devpts", "/dev/pts", &[])], &[])).unwrap();
    let position =
        |step: &Step| steps.iter().position(|one| one == step).unwrap_or_else(|| panic!("{step} in {steps:?}"));
    let data = "mode=755".to_owned();
    let dev = Step::Mount { kind: "tmpfs".into(), destination: "/dev".into(), flags: MsFlags::MS_NOSUID, data };
    let null = Step::MakeFile("/dev/null".into());
    assert!(position(&dev) < position(&null));
    assert!(position(&null) < position(&Step::MakeDirectory("/dev/pts".into())));
    position(&Step::MakeLink { path: "/dev/ptmx".into(), target: "pts/ptmx".into() });
    assert_eq!(steps.iter().filter(|step| matches!(step, Step::Bind { .. })).count(), super::mounts::DEVICES.len());
}

#[test]
fn what_the_engine_does_not_do_is_refused() {
    let refused = |change: &dyn Fn(&mut Spec)| {
        let mut spec = spec(Vec::new(), &[]);
        change(&mut spec);
        plan(&spec).unwrap_err().to_string()
    };
    let cgroup = refused(&|spec| {
        let namespace = LinuxNamespaceBuilder::default().typ(LinuxNamespaceType::Cgroup).build().unwrap();
        spec.linux_mut().as_mut().unwrap().set_namespaces(Some(vec![namespace]));
    });
    assert_eq!(cgroup, "cannot carry out the specification: the cgroup namespace is not supported");
    let other = refused(&|spec| {
        let namespace = LinuxNamespaceBuilder::default().typ(LinuxNamespaceType::Pid).path("/proc/1/ns/pid");
        spec.linux_mut().as_mut().unwrap().set_namespaces(Some(vec![namespace.build().unwrap()]));
    });
    assert_eq!(other, "cannot carry out the specification: the pid namespace is not supported");
    assert!(
        refused(&|spec| _ = spec.set_annotations(Some([(spec::STAY.into(), "true".into())].into()))).contains("pid")
    );
    let masked = refused(&|spec| {
        spec.linux_mut().as_mut().unwrap().set_masked_paths(Some(vec!["/proc/kcore".into()]));
    });
    assert!(masked.contains("masked paths"));
    assert!(refused(&|spec| _ = spec.set_hostname(Some("x".into()))).contains("host name"));
    let label = refused(&|spec| _ = spec.process_mut().as_mut().unwrap().set_selinux_label(Some("x".into())));
    assert!(label.contains("security label"));
}

#[test]
fn broken_specifications_are_refused() {
    let error = |mount: Mount| plan(&spec(vec![mount], &[])).unwrap_err();
    assert_eq!(error(bind("/a", "rel", &[])), Error::Destination { destination: "rel".into() });
    assert_eq!(error(bind("/a", "/", &[])), Error::Destination { destination: "/".into() });
    assert_eq!(error(bind("a", "/b", &[])), Error::Source { destination: "/b".into() });
    let option = Error::Option { destination: "/b".into(), option: "shared".into() };
    assert_eq!(error(bind("/a", "/b", &["rbind", "shared"])), option);
    let mut nothing = spec(Vec::new(), &[]);
    nothing.process_mut().as_mut().unwrap().set_args(Some(Vec::new()));
    assert_eq!(plan(&nothing), Err(Error::Missing("program to execute")));
}

#[test]
fn a_plan_can_be_read() {
    let mounts = vec![bind("/data", "/d", &["rbind", "ro"]), fs("tmpfs", "/t", &["nosuid", "size=1m"])];
    let spec = spec(mounts, &[("org.coracle.cwd.fallback", "/"), ("org.coracle.optional", "/d")]);
    let text = Wanted::new(&spec, Path::new("/mnt"), &Everything).unwrap().plan(Way::Alone).to_string();
    for line in [
        "  4  ask the server to show /d /t if missing\n",
        "  9  bind /data and what is mounted below it on /d, ro, if possible\n",
        " 10  mount tmpfs on /t, nosuid, size=1m\n",
        " 12  go to /w, or else /\n",
        " 16  execute prog \"a b\" with 1 variables\n",
    ] {
        assert!(text.contains(line), "{line}\n{text}");
    }
}

#[test]
fn a_session_is_founded_joined_and_joined_as_it_is() {
    let wanted = |mounts| Wanted::new(&spec(mounts, &[]), Path::new("/mnt"), &Everything).unwrap();
    let common = wanted(vec![bind("/data", "/d", &["rbind"])]);
    let own = wanted(vec![bind("/data", "/d", &["rbind"]), fs("tmpfs", "/scratch", &[])]);
    let kinds = |wanted: &Wanted, way| -> Vec<&'static str> {
        let name = |step: &Step| match step {
            Step::StartServer => Some("start"),
            Step::KeepNamespaces => Some("keep"),
            Step::AskServer { .. } => Some("ask"),
            Step::JoinSession => Some("join"),
            Step::JoinContainer => Some("join container"),
            Step::CopyMount => Some("copy"),
            Step::PivotRoot { .. } => Some("pivot"),
            Step::DetachHost => Some("detach"),
            Step::KeepContainer => Some("keep container"),
            _ => None,
        };
        wanted.plan(way).steps.iter().filter_map(name).collect()
    };
    assert_eq!(kinds(&common, Way::Found), ["start", "ask", "keep", "copy", "pivot", "detach", "keep container"]);
    assert_eq!(kinds(&common, Way::Join), ["ask", "join", "copy", "pivot", "detach", "keep container"]);
    assert_eq!(kinds(&common, Way::JoinContainer), ["join container"]);
    assert_eq!(
        kinds(&own, Way::Found),
        ["start", "ask", "keep", "copy", "pivot", "detach"],
        "a tmpfs is one launch's own"
    );
    let described = |wanted: &Wanted| {
        let mut parts = Vec::new();
        wanted.describe_mounts(&mut |part| parts.push(part.to_vec()));
        parts
    };
    assert_ne!(described(&common), described(&own));
    // What has been done before the rest was decided is what the plan begins with.
    assert!(
        [Way::Alone, Way::Found].into_iter().all(|way| common.plan(way).steps.starts_with(&opening(Ids::own(7, 8))))
    );
    // Whatever the way, privileges go in the same order, right before the program.
    let last = |way| common.plan(way).steps.into_iter().rev().take(5).collect::<Vec<_>>();
    assert!([Way::Found, Way::Join, Way::JoinContainer].into_iter().all(|way| last(way) == last(Way::Alone)));
}

#[test]
fn who_the_program_is_comes_from_the_specification() {
    let mut spec = spec(vec![bind("/data", "/d", &["rbind"])], &[]);
    let map = |lines: &[(u32, u32, u32)]| {
        let line = |&(inside, outside, length): &(u32, u32, u32)| {
            LinuxIdMappingBuilder::default().container_id(inside).host_id(outside).size(length).build().unwrap()
        };
        Some(lines.iter().map(line).collect::<Vec<_>>())
    };
    let mut linux = spec.linux().clone().unwrap();
    linux.set_uid_mappings(map(&[(7, 1000, 1), (8, 5000, 10)])).set_gid_mappings(map(&[(8, 8, 1)]));
    let profile = r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["mount"],"action":"SCMP_ACT_ERRNO"}]}"#;
    linux.set_seccomp(Some(serde_json::from_str(profile).unwrap()));
    spec.set_linux(Some(linux.clone()));
    let mut annotations = HashMap::new();
    annotations.insert(spec::ROOT_FILTER.to_owned(), r#"{"defaultAction":"SCMP_ACT_ALLOW"}"#.to_owned());
    spec.set_annotations(Some(annotations));
    let mut process = spec.process().clone().unwrap();
    let all = crate::capabilities::CapabilitySet::ALL.to_spec();
    let sets = LinuxCapabilitiesBuilder::default().bounding(all.clone()).permitted(all.clone()).effective(all);
    process.set_capabilities(Some(sets.inheritable(HashSet::new()).ambient(HashSet::new()).build().unwrap()));
    spec.set_process(Some(process));

    let wanted = Wanted::new(&spec, Path::new("/mnt"), &Everything).unwrap();
    assert!(!wanted.is_common(), "its program can change its mounts");
    let steps = wanted.plan(Way::Found).steps;
    let Some(Step::UnshareUser(ids)) = steps.first() else { panic!("{steps:?}") };
    assert_eq!(ids.users, [Range::one(7, 1000), Range { inside: 8, outside: 5000, length: 10 }]);
    assert!(!steps.contains(&Step::KeepContainer));
    let [
        ..,
        Step::Capabilities(sets),
        Step::CloseDescriptors(_),
        Step::Filter(_),
        Step::Filter(last),
        Step::Execute { .. },
    ] = steps.as_slice()
    else {
        panic!("{steps:?}")
    };
    assert!(sets.ambient.is_empty() && !sets.permitted.is_empty());
    assert_eq!(*last, seccomp::compile(linux.seccomp().as_ref().unwrap(), seccomp::Foreign::Kill).unwrap());

    linux.set_uid_mappings(map(&[(0, 1000, 1), (7, 5000, 10)]));
    spec.set_linux(Some(linux));
    let error = plan(&spec).unwrap_err().to_string();
    assert!(error.contains("users that does not begin with the program's own"), "{error}");
}

fn with_root(mut spec: Spec, path: &str, read_only: bool, layers: Option<&str>) -> Spec {
    let root = oci_spec::runtime::RootBuilder::default().path(path).readonly(read_only).build().unwrap();
    spec.set_root(Some(root));
    let mut annotations = spec.annotations().clone().unwrap_or_default();
    annotations.extend(layers.map(|lines| (spec::LAYERS.to_owned(), lines.to_owned())));
    spec.set_annotations(Some(annotations));
    spec
}

#[test]
fn layers_are_put_over_the_image_before_anything_is_mounted_in_it() {
    let mounts = vec![bind("/data", "/d", &["rbind"]), bind("/data", "/e.txt/f", &["rbind"])];
    let over = |lines| with_root(spec(mounts.clone(), &[]), "rootfs", false, Some(lines));
    let wanted = Wanted::new(&over("ro /x.sqfs\nro /dir\nmemory 4096"), Path::new("/mnt"), &Everything).unwrap();
    assert!(!wanted.is_common());
    let layers = Layers {
        generated: None,
        lower: vec!["/x.sqfs".into(), "/dir".into()],
        upper: Upper::Memory { size: Some(4096) },
    };
    let stack = Step::StackLayers { layers, at: "/mnt".into() };
    for way in [Way::Alone, Way::Found, Way::Join] {
        let steps = wanted.plan(way).steps;
        let at =
            |wanted: &Step| steps.iter().position(|step| step == wanted).unwrap_or_else(|| panic!("{wanted} {way:?}"));
        assert!(at(&Step::PivotRoot { from: "/mnt".into() }) < at(&stack));
        let sources = ["/data", "/dir"].map(PathBuf::from).to_vec();
        assert_eq!(at(&Step::OpenSources(sources)) + 1, at(&stack));
        // A layer may hide what the server shows.
        assert_eq!(at(&stack) + 1, at(&Step::MakeDirectory("/d".into())));
        // Servers live in the container's user namespace and outside its mounts.
        let start = at(&Step::StartImages(vec!["/x.sqfs".into()]));
        let (before, after) = match way {
            Way::Join => (Step::JoinUser, Step::JoinSession),
            _ => (Step::UnshareUser(Ids::own(7, 8)), Step::UnshareMount),
        };
        assert!(at(&before) < start && start < at(&after), "{way:?}");
        assert!(!steps.contains(&Step::KeepContainer));
    }
    let error = |lines| Wanted::new(&over(lines), Path::new("/mnt"), &Everything).unwrap_err().to_string();
    assert!(error("rw /dir\nmemory").contains("a layer over one that is written to"));
    assert!(error("what").contains("the layer \"what\"") && error("memory x").contains("memory x"));
}

#[test]
fn a_directory_has_no_server() {
    let annotations = [("org.coracle.file./etc/passwd", "x")];
    let spec = |read_only, layers| {
        with_root(spec(vec![bind("/data", "/d", &["rbind"])], &annotations), "/images/dir", read_only, layers)
    };
    let steps = |read_only, layers| plan(&spec(read_only, layers)).unwrap();
    let bound = |writable| Step::BindDirectory { source: "/images/dir".into(), at: "/mnt".into(), writable };
    let read_only = steps(true, None);
    assert_eq!(read_only[..3], [Step::UnshareUser(Ids::own(7, 8)), Step::UnshareMount, bound(false)]);
    let generated = |steps: &[Step]| match &steps[5] {
        Step::StackLayers { layers, .. } => layers.generated.clone().unwrap(),
        step => panic!("{step}"),
    };
    assert_eq!(generated(&read_only).directories, [Path::new("/d")]);
    assert_eq!(generated(&read_only).files.len(), 1);
    let kept = steps(false, Some("rw /kept"));
    assert!(kept.contains(&bound(false)) && generated(&kept).files.len() == 1, "writes go to the layer");
    let writable = steps(false, None);
    assert!(writable.contains(&bound(true)) && writable.contains(&Step::MakeDirectory("/d".into())));
    assert!(!writable.iter().any(|step| matches!(step, Step::StackLayers { .. })));
    let wanted = Wanted::new(&spec(true, None), Path::new("/mnt"), &Everything).unwrap();
    assert_eq!(wanted.plan(Way::Found), wanted.plan(Way::Alone));
}

#[test]
fn images_that_are_bound_can_be_shared() {
    let image = |options: &[&str]| spec(vec![fs("squashfs", "/data", options)], &[]);
    let mut spec = image(&["image-src=/sub", "noexec"]);
    spec.mounts_mut().as_mut().unwrap()[0].set_source(Some("/x.sqfs".into()));
    let wanted = Wanted::new(&spec, Path::new("/mnt"), &Everything).unwrap();
    assert!(wanted.is_common());
    assert_eq!(wanted.images(), [Path::new("/x.sqfs")]);
    let text = wanted.plan(Way::Alone).to_string();
    assert!(text.contains("bind /sub of image /x.sqfs on /data, ro, nosuid, nodev, noexec\n"), "{text}");
    assert!(text.contains("start a file system server for each of /x.sqfs\n"), "{text}");
    assert_eq!(plan(&image(&["image-src=/"])), Err(Error::Source { destination: "/data".into() }));
    spec.mounts_mut().as_mut().unwrap()[0].set_options(Some(vec!["rw".into()]));
    assert!(plan(&spec).unwrap_err().to_string().contains("writing to an image"));
    spec.mounts_mut().as_mut().unwrap()[0].set_options(Some(vec!["size=1".into()]));
    assert!(matches!(plan(&spec), Err(Error::Option { .. })));
}

#[test]
fn links_files_and_modes_come_to_be_where_there_is_room() {
    let mounts = vec![fs("tmpfs", "/dev", &["mode=755"]), bind("/proc", "/proc", &["rbind"])];
    let annotations = [
        ("org.coracle.link./usr/lib/a.so", "a.so.1"),
        ("org.coracle.link./dev/by/x", "../x"),
        ("org.coracle.over./proc/driver/params", "A: 0"),
        ("org.coracle.mode./dev/by", "750"),
    ];
    let wanted = Wanted::new(&spec(mounts.clone(), &annotations), Path::new("/mnt"), &Everything).unwrap();
    let link = SyntheticFile::Link("a.so.1".into());
    let shown = wanted.synthetic.files.iter().find(|(path, _)| path.starts_with("/.coracle/shown")).unwrap();
    assert_eq!(shown.1, SyntheticFile::Content(b"A: 0".to_vec(), 0o444));
    assert!(wanted.synthetic.files.contains(&("/usr/lib/a.so".into(), link)));
    let last: Vec<&Step> = wanted.mounts.iter().rev().take(3).collect();
    assert_eq!(
        last,
        [
            &Step::BindShown { source: shown.0.clone(), destination: "/proc/driver/params".into() },
            &Step::SetMode { path: "/dev/by".into(), mode: 0o750 },
            &Step::MakeLink { path: "/dev/by/x".into(), target: "../x".into() },
        ]
    );
    for wrong in
        [("org.coracle.link./proc/x", "y"), ("org.coracle.mode./proc", "755"), ("org.coracle.mode./dev", "999")]
    {
        let error = Wanted::new(&spec(mounts.clone(), &[wrong]), Path::new("/mnt"), &Everything).unwrap_err();
        assert!(matches!(error, Error::Unsupported(_)), "{wrong:?}");
    }
}
