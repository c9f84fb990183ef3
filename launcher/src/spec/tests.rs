//! Decisions on trees, hosts and options made up for them.

use super::*;
use crate::host::Identification;
use crate::host::Kind;
use crate::host::accounts::Account;
use crate::ids::Ids;
use crate::image::Fake;
use crate::options::{Bind, EnvSetting, Home};

/// A host with these directories and files (those with a dot in the last name).
pub(super) struct Paths(&'static [&'static str]);

impl Probe for Paths {
    fn kind(&self, path: &Path) -> Option<Kind> {
        let found = self.0.iter().any(|known| Path::new(known) == path);
        let file = path.file_name().is_some_and(|name| name.to_string_lossy().contains('.'));
        found.then_some(if file || path.ends_with("hosts") { Kind::File } else { Kind::Directory })
    }
}

pub(super) const PATHS: Paths = Paths(&[
    "/proc",
    "/sys",
    "/dev",
    "/tmp",
    "/var/tmp",
    "/home/ada",
    "/data",
    "/data/sub",
    "/data/x.txt",
    "/etc/resolv.conf",
    "/etc/hosts",
    "/home/ada/work",
    "/usr/lib",
]);

pub(super) fn host() -> Host {
    let env = [("PATH", "/host/bin"), ("HOME", "/home/ada"), ("LD_PRELOAD", "/x.so"), ("LD_LIBRARY_PATH", "/l")];
    let more = [("TMPDIR", "/scratch/1"), ("LANG", "C"), ("FOO", "host"), ("SHELL", "/bin/zsh"), ("TERM", "vt100")];
    Host {
        uid: 1000,
        gid: 100,
        who: Identification {
            account: Account {
                name: "ada".into(),
                uid: 1000,
                gid: 100,
                gecos: OsString::new(),
                home: "/home/ada".into(),
                shell: "/bin/zsh".into(),
            },
            group: "users".into(),
            groups: Vec::new(),
            ids: None,
        },
        ids: Ids::own(1000, 100),
        cwd: Some("/data/sub".into()),
        home: Some("/home/ada".into()),
        env: env.iter().chain(&more).map(|(name, value)| ((*name).into(), (*value).into())).collect(),
        file_settings: Vec::new(),
        seccomp: None,
        mount_point: "/tmp".into(),
        hosts: None,
    }
}

const CONFIG_JSON: &str = r#"{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]},
    "config":{"User":"postgres","Env":["PATH=/opt/bin:/bin","FOO=image","HOME=/root"],"Entrypoint":["/entry","-x"],
    "Cmd":["default"],"WorkingDir":"/work"}}"#;

pub(super) fn oci() -> Fake {
    Fake::new(&["/bin/sh", "/bin/bash", "/work/", "/usr/lib/"])
        .with(CONFIG, CONFIG_JSON)
        .with("/etc/passwd", "root:x:0:0::/:\n")
}

pub(super) fn try_with(tree: &Fake, verb: Verb, options: &Options, host: &Host) -> Result<Composed, Error> {
    let image = ImageFacts { path: Path::new("/images/my.sqfs"), offset: 0, directory: false, tree };
    compose(&image, &verb, options, host, &PATHS)
}

fn with(tree: &Fake, verb: Verb, options: &Options) -> Composed {
    try_with(tree, verb, options, &host()).unwrap()
}

fn run() -> Verb {
    Verb::Run(Vec::new())
}

fn args(composed: &Composed) -> Vec<String> {
    composed.spec.process().as_ref().unwrap().args().clone().unwrap()
}

fn cwd(composed: &Composed) -> &Path {
    composed.spec.process().as_ref().unwrap().cwd()
}

pub(super) fn var(composed: &Composed, name: &str) -> Option<String> {
    let env = composed.spec.process().as_ref().unwrap().env().clone().unwrap();
    env.iter().find_map(|entry| entry.strip_prefix(name)?.strip_prefix('=').map(str::to_owned))
}

/// `destination source options`, or the type in place of the source.
pub(super) fn mounts(composed: &Composed) -> Vec<String> {
    let show = |mount: &oci_spec::runtime::Mount| {
        let options = mount.options().as_deref().unwrap_or_default().join(",");
        let options = options.replace("rbind,rslave,", "");
        format!("{} {} {options}", mount.destination().display(), mount.source().as_ref().unwrap().display())
    };
    composed.spec.mounts().as_ref().unwrap().iter().map(show).collect()
}

pub(super) fn annotation(composed: &Composed, name: &str) -> Option<String> {
    composed.spec.annotations().as_ref().unwrap().get(name).cloned()
}

#[test]
fn run_takes_entrypoint_and_arguments_replace_the_command() {
    assert_eq!(args(&with(&oci(), run(), &Options::default())), ["/entry", "-x", "default"]);
    let composed = with(&oci(), Verb::Run(vec!["a".into(), "-b".into()]), &Options::default());
    assert_eq!(args(&composed), ["/entry", "-x", "a", "-b"]);
}

#[test]
fn run_without_configuration() {
    let plain = Fake::new(&["/bin/sh"]);
    let error = try_with(&plain, run(), &Options::default(), &host()).unwrap_err().to_string();
    assert!(error.contains("coracle exec IMAGE COMMAND"), "{error}");
    assert_eq!(args(&with(&plain, Verb::Run(vec!["ls".into()]), &Options::default())), ["ls"]);
    let sif = Fake::new(&[RUNSCRIPT]);
    assert_eq!(args(&with(&sif, Verb::Run(vec!["a".into()]), &Options::default())), [RUNSCRIPT, "a"]);
}

#[test]
fn a_configuration_that_is_none_is_an_error() {
    let error = try_with(&Fake::new(&[]).with(CONFIG, "{"), run(), &Options::default(), &host()).unwrap_err();
    assert!(error.to_string().contains(CONFIG), "{error}");
}

#[test]
fn shells() {
    let bash = with(&oci(), Verb::Shell(Vec::new()), &Options::default());
    assert_eq!(args(&bash), ["/bin/bash", "--norc"]);
    assert_eq!(var(&bash, "PS1").as_deref(), Some("[my] \\w\\$ "));
    let sh =
        with(&Fake::new(&["/bin/sh -> busybox", "/bin/busybox"]), Verb::Shell(vec!["-c".into()]), &Options::default());
    assert_eq!(args(&sh), ["/bin/sh", "-c"]);
    assert!(try_with(&Fake::new(&[]), Verb::Shell(Vec::new()), &Options::default(), &host()).is_err());
}

#[test]
fn the_images_environment_wins_except_for_who_the_caller_is() {
    let composed = with(&oci(), run(), &Options::default());
    let is = |name: &str, value: Option<&str>| assert_eq!(var(&composed, name).as_deref(), value, "{name}");
    is("PATH", Some("/opt/bin:/bin"));
    is("FOO", Some("image"));
    is("HOME", Some("/home/ada"));
    is("USER", Some("ada"));
    is("LANG", Some("C"));
    is("SHELL", Some("/bin/sh"));
    is("PWD", Some("/data/sub"));
    is("CORACLE_IMAGE", Some("/images/my.sqfs"));
    for host_only in ["LD_PRELOAD", "LD_LIBRARY_PATH", "TMPDIR"] {
        is(host_only, None);
    }
    let plain = with(&Fake::new(&["/bin/sh"]), Verb::Exec(vec!["x".into()]), &Options::default());
    assert!(var(&plain, "PATH").unwrap().starts_with("/usr/local/sbin:"), "not the host's");
}

#[test]
fn settings_come_last_and_files_before_options() {
    let mut host = host();
    host.file_settings = vec![EnvSetting::Set("A".into(), "file".into()), EnvSetting::Set("B".into(), "file".into())];
    let env = vec![
        EnvSetting::Set("B".into(), "option".into()),
        EnvSetting::Set("FOO".into(), "mine".into()),
        EnvSetting::Inherit("LD_PRELOAD".into()),
        EnvSetting::Inherit("ABSENT".into()),
    ];
    let options = Options { env, clean_env: true, ..Options::default() };
    let composed = try_with(&oci(), run(), &options, &host).unwrap();
    let is = |name: &str, value: Option<&str>| assert_eq!(var(&composed, name).as_deref(), value, "{name}");
    is("A", Some("file"));
    is("B", Some("option"));
    is("FOO", Some("mine"));
    is("LD_PRELOAD", Some("/x.so"));
    is("ABSENT", None);
    is("TERM", Some("vt100"));
    is("LANG", Some("C"));
}

#[test]
fn cleanenv_keeps_who_and_where_the_caller_is() {
    let mut host = host();
    host.env.extend([("SECRET".into(), "s".into()), ("LC_ALL".into(), "C".into())]);
    let options = Options { clean_env: true, ..Options::default() };
    let composed = try_with(&oci(), run(), &options, &host).unwrap();
    assert_eq!((var(&composed, "SECRET"), var(&composed, "LC_ALL").as_deref()), (None, Some("C")));
    assert_eq!(
        (var(&composed, "HOME").as_deref(), var(&composed, "USER").as_deref()),
        (Some("/home/ada"), Some("ada"))
    );
}

#[test]
fn default_mounts_and_the_working_directory() {
    let composed = with(&oci(), run(), &Options::default());
    let expected = [
        "/proc /proc rw",
        "/sys /sys rw",
        "/dev /dev rw",
        "/tmp /tmp rw",
        "/var/tmp /var/tmp rw",
        "/home/ada /home/ada rw",
        "/etc/resolv.conf /etc/resolv.conf rw",
        "/etc/hosts /etc/hosts rw",
        "/data/sub /data/sub rw",
    ];
    assert_eq!(mounts(&composed), expected);
    assert_eq!(cwd(&composed), Path::new("/data/sub"));
    assert_eq!(annotation(&composed, CWD_FALLBACK).as_deref(), Some("/work"));
    assert!(annotation(&composed, OPTIONAL).unwrap().contains("/home/ada") && composed.warnings.is_empty());
}

#[test]
fn a_working_directory_that_is_shown_already_is_not_bound_again() {
    let mut at = host();
    at.cwd = Some("/home/ada/work".into());
    let composed = try_with(&oci(), run(), &Options::default(), &at).unwrap();
    assert_eq!(cwd(&composed), Path::new("/home/ada/work"));
    assert!(!mounts(&composed).iter().any(|mount| mount.contains("/work")));
}

#[test]
fn system_directories_are_the_images() {
    let mut at = host();
    at.cwd = Some("/usr/lib".into());
    let composed = try_with(&oci(), run(), &Options::default(), &at).unwrap();
    assert_eq!(cwd(&composed), Path::new("/usr/lib"), "the image has one, too");
    assert!(!mounts(&composed).iter().any(|mount| mount.starts_with("/usr")));
    at.cwd = Some("/opt".into());
    let composed = try_with(&oci(), run(), &Options::default(), &at).unwrap();
    assert_eq!(cwd(&composed), Path::new("/work"));
    assert!(composed.warnings[0].contains("/opt"), "{:?}", composed.warnings);
    at.cwd = None;
    let composed = try_with(&Fake::new(&[]), Verb::Exec(vec!["x".into()]), &Options::default(), &at).unwrap();
    assert_eq!((cwd(&composed), composed.warnings.len()), (Path::new("/"), 1));
}

#[test]
fn a_bind_takes_the_place_of_a_default_and_parents_come_first() {
    let bind = |source: &str, destination: Option<&str>, read_only| Bind {
        options: if read_only { vec!["ro".to_owned()] } else { Vec::new() },
        ..Bind::of_host(source, destination.map(PathBuf::from))
    };
    let binds =
        vec![bind("/data", Some("/a/b/c/d"), true), bind("/data", Some("/tmp"), false), bind("x.txt", None, false)];
    let mut at = host();
    at.cwd = Some("/data".into());
    let composed = try_with(&oci(), run(), &Options { binds, ..Options::default() }, &at).unwrap();
    let mounts = mounts(&composed);
    assert!(mounts.contains(&"/tmp /data rw".to_owned()) && !mounts.contains(&"/tmp /tmp rw".to_owned()), "{mounts:?}");
    assert!(mounts.contains(&"/data/x.txt /data/x.txt rw".to_owned()), "relative to the working directory");
    assert_eq!(mounts.last().unwrap(), "/a/b/c/d /data ro");
    let place = |wanted: &str| mounts.iter().position(|mount| mount.starts_with(wanted)).unwrap();
    assert!(place("/data ") < place("/data/x.txt "), "{mounts:?}");
    assert!(!annotation(&composed, OPTIONAL).unwrap().contains("/a/b/c/d"), "what was asked for must not go missing");
}

#[test]
fn nothing_hides_what_the_site_forces() {
    let forced = Bind { optional: true, forced: true, ..Bind::of_host("/data", Some("/opt/sw".into())) };
    let of = |options: Options| {
        let binds = options.binds.iter().cloned().chain([forced.clone()]).collect();
        try_with(&oci(), run(), &Options { binds, ..options }, &host())
    };
    let bind =
        |source: &str, at: &str| Options { binds: vec![Bind::of_host(source, Some(at.into()))], ..Options::default() };
    let home = crate::options::Home::At { source: "/tmp".into(), destination: Some("/opt/sw/home".into()) };
    for options in [
        bind("/tmp", "/opt/sw"),
        bind("/tmp", "/opt/sw/app"),
        bind("/tmp", "/srv/../opt/./sw"),
        bind("/data/x.txt", "/opt"),
        Options { scratch: vec!["/opt/sw".into()], ..Options::default() },
        Options { home, ..Options::default() },
    ] {
        let error = of(options.clone()).map(|composed| mounts(&composed)).unwrap_err().to_string();
        assert!(error.contains("[mounts] force-bind") && error.contains("/opt/sw"), "{options:?} {error}");
    }
    let composed = of(bind("/tmp", "/opt/sw2/a/b")).unwrap();
    assert_eq!(mounts(&composed).last().unwrap(), "/opt/sw /data rw", "on top");
    assert!(!annotation(&composed, OPTIONAL).unwrap().contains("/opt/sw"));
    of(bind("/tmp", "/opt")).unwrap();
    // Defaults give way.
    let at_home = Bind { optional: true, forced: true, ..Bind::of_host("/tmp", Some("/home".into())) };
    let composed = with(&oci(), run(), &Options { binds: vec![at_home], ..Options::default() });
    assert!(composed.warnings[0].contains("/home/ada"), "{:?}", composed.warnings);
}

#[test]
fn what_was_asked_for_is_required_at_the_place_of_what_is_optional() {
    let optional = Bind { optional: true, ..Bind::of_host("/tmp", Some("/opt/sw".into())) };
    let home = crate::options::Home::At { source: "/data".into(), destination: Some("/opt/sw".into()) };
    let composed = with(&oci(), run(), &Options { binds: vec![optional], home, ..Options::default() });
    assert!(!annotation(&composed, OPTIONAL).unwrap().lines().any(|line| line == "/opt/sw"));
    let there: Vec<_> = mounts(&composed).into_iter().filter(|mount| mount.starts_with("/opt/sw")).collect();
    assert_eq!(there, ["/opt/sw /data rw"]);
}

#[test]
fn binds_need_a_source() {
    let binds = vec![Bind::of_host("/absent", None)];
    let error = try_with(&oci(), run(), &Options { binds, ..Options::default() }, &host()).unwrap_err().to_string();
    assert!(error.starts_with("cannot bind /absent: there is no such file"), "{error}");
}

#[test]
fn contain_turns_the_defaults_around() {
    let options = Options { contain: true, ..Options::default() };
    let composed = with(&oci(), run(), &options);
    let mounts = mounts(&composed);
    let has = |start: &str| mounts.iter().any(|mount| mount.starts_with(start));
    assert!(has("/dev tmpfs ") && has("/dev/pts devpts ") && has("/dev/shm tmpfs "), "{mounts:?}");
    assert!(has("/tmp tmpfs ") && has("/home/ada tmpfs ") && has("/proc /proc "), "{mounts:?}");
    assert!(!has("/data"), "{mounts:?}");
    assert_eq!(cwd(&composed), Path::new("/work"));
}

#[test]
fn mounts_can_be_left_out() {
    let no_mount =
        ["home", "tmp", "cwd", "bind-paths"].map(|name| crate::cli::parse::no_mount(OsStr::new(name)).unwrap());
    let options = Options { no_mount: no_mount.into_iter().flatten().collect(), ..Options::default() };
    let composed = with(&oci(), run(), &options);
    assert_eq!(mounts(&composed), ["/proc /proc rw", "/sys /sys rw", "/dev /dev rw"]);
    assert_eq!((cwd(&composed), composed.warnings.len()), (Path::new("/work"), 1));
    let no_mount = [DefaultMount::Path("/etc/hosts".into()), DefaultMount::Path("/etc/passwd".into())].into();
    let composed = with(&oci(), run(), &Options { no_mount, ..Options::default() });
    assert!(!mounts(&composed).iter().any(|mount| mount.starts_with("/etc/hosts")));
    assert_eq!(annotation(&composed, "org.coracle.file./etc/passwd"), None);
}

#[test]
fn another_home() {
    let home = Home::At { source: "/data".into(), destination: Some("/home/x".into()) };
    let composed = with(&oci(), run(), &Options { home, ..Options::default() });
    assert!(mounts(&composed).contains(&"/home/x /data rw".to_owned()));
    assert_eq!(var(&composed, "HOME").as_deref(), Some("/home/x"));
    assert!(annotation(&composed, "org.coracle.file./etc/passwd").unwrap().contains("ada:x:1000:100::/home/x:/bin/sh"));
    let composed = with(&oci(), run(), &Options { home: Home::Without, ..Options::default() });
    assert!(!mounts(&composed).iter().any(|mount| mount.contains("/home/ada")));
}

#[test]
fn pwd_is_taken_as_it_is_but_must_be_absolute() {
    let at = |path: &str| Options { working_dir: Some(path.into()), ..Options::default() };
    let composed = with(&oci(), run(), &at("/nowhere"));
    assert_eq!((cwd(&composed), annotation(&composed, CWD_FALLBACK)), (Path::new("/nowhere"), None));
    assert!(try_with(&oci(), run(), &at("rel"), &host()).is_err());
}

#[test]
fn time_zone_files_are_not_bound_over_their_targets() {
    const ZONED: Paths = Paths(&["/etc/localtime.", "/proc"]);
    let probe = |path: &Path| (path == Path::new("/etc/localtime")).then_some(Kind::File).or_else(|| ZONED.kind(path));
    struct Probing<F>(F);
    impl<F: Fn(&Path) -> Option<Kind>> Probe for Probing<F> {
        fn kind(&self, path: &Path) -> Option<Kind> {
            (self.0)(path)
        }
    }
    let bound = |tree: &Fake| {
        let image = ImageFacts { path: Path::new("/i"), offset: 0, directory: false, tree };
        let verb = Verb::Exec(vec!["x".into()]);
        let composed = compose(&image, &verb, &Options::default(), &host(), &Probing(probe)).unwrap();
        mounts(&composed).iter().any(|mount| mount.starts_with("/etc/localtime"))
    };
    assert!(bound(&Fake::new(&["/etc/"])));
    assert!(!bound(&Fake::new(&["/etc/localtime -> /usr/share/zoneinfo/UTC"])));
}

#[test]
fn bytes_that_are_no_text_survive() {
    let raw = OsString::from_vec(b"a\xffb".to_vec());
    let composed = with(&oci(), Verb::Exec(vec!["echo".into(), raw.clone()]), &Options::default());
    assert_eq!(annotation(&composed, "org.coracle.raw.args.1").as_deref(), Some("61ff62"));
    let annotations = composed.spec.annotations().as_ref();
    assert_eq!(words(&args(&composed), RAW_ARGUMENT, annotations), [OsString::from("echo"), raw]);
}

#[test]
fn what_is_printed_can_be_read_again() {
    let composed = with(&oci(), run(), &Options::default());
    let json = serde_json::to_string(&composed.spec).unwrap();
    assert_eq!(serde_json::from_str::<Spec>(&json).unwrap(), composed.spec);
    let value: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(value["process"]["noNewPrivileges"], true);
    assert_eq!(value["process"]["capabilities"]["bounding"], serde_json::json!([]));
    assert_eq!(value["linux"]["uidMappings"], serde_json::json!([{"hostID": 1000, "containerID": 1000, "size": 1}]));
    assert_eq!(value["annotations"]["org.coracle.image"], "/images/my.sqfs");
    assert_eq!(value.get("hostname"), None);
}
