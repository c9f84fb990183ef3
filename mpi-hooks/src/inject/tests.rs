//! Hosts and containers that a compiler makes here.

use std::fs;
use std::process::Command;

use super::*;
use crate::files::HostFiles;
use crate::mpi::Search;

const OPEN: &str = "int ompi_mpi_comm_world; int helper(void); int MPI_Init(void) { return helper(); } int MPI_Send(void) { return 0; }";

/// Makes a library or program that needs others; `false` where there is no compiler.
fn make(root: &Path, path: &str, soname: &str, code: &str, needs: &[&str], more: &[&str]) -> bool {
    let out = root.join(path.trim_start_matches('/'));
    fs::create_dir_all(out.parent().unwrap()).unwrap();
    let source = root.join("source.c");
    fs::write(&source, code).unwrap();
    let mut cc = Command::new("cc");
    cc.args(["-shared", "-fPIC", "-nostdlib", "-Wl,--no-as-needed"]).arg(format!("-Wl,-soname,{soname}"));
    cc.arg("-o").arg(&out).arg(&source).args(needs.iter().map(|need| root.join(need))).args(more);
    cc.status().is_ok_and(|status| status.success())
}

struct World {
    host: tempfile::TempDir,
    container: tempfile::TempDir,
}

impl World {
    /// A host whose MPI needs a helper, and a container with another.
    fn new(program: &str, more: &[&str]) -> Option<Self> {
        let (host, container) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let helper = "int helper(void) { return 1; }";
        if !make(host.path(), "opt/mpi/lib/libhelper.so.1", "libhelper.so.1", helper, &[], &[]) {
            return None;
        }
        let needs = ["opt/mpi/lib/libhelper.so.1"];
        assert!(make(host.path(), "opt/mpi/lib/libmpi.so.40", "libmpi.so.40", OPEN, &needs, &["-Wl,-rpath,$ORIGIN"]));
        fs::create_dir_all(host.path().join("opt/mpi/lib/openmpi")).unwrap();
        let theirs = format!("{} int MPI_Odd(void) {{ return 0; }}", OPEN.replace("return helper()", "return 0"));
        assert!(make(container.path(), "usr/lib/libmpi.so.40", "libmpi.so.40", &theirs, &[], &[]));
        assert!(make(container.path(), "bin/app", "app", program, &["usr/lib/libmpi.so.40"], more));
        Some(Self { host, container })
    }

    fn inject(&self) -> Result<Injection, Error> {
        let (host, container) = (HostFiles::new(self.host.path()), HostFiles::new(self.container.path()));
        let search = Search { abi: Abi::OWN, prefixes: Vec::new(), library_path: String::new() };
        let mpis = mpi::find(&host, &search).unwrap();
        let question = Question {
            abi: Abi::OWN,
            host: &host,
            mpi: mpis.first().unwrap(),
            host_library_path: "",
            container: &container,
            program: Path::new("/bin/app"),
            library_path: "",
        };
        inject(&question)
    }
}

const APP: &str = "int MPI_Init(void); int MPI_Send(void); int start(void) { return MPI_Init() + MPI_Send(); }";

#[test]
fn the_hosts_library_comes_with_what_it_needs() {
    let Some(world) = World::new(APP, &[]) else { return };
    let injection = world.inject().unwrap();
    let bound = |source: &str, destination: &str| {
        let (source, destination) = (PathBuf::from(source), PathBuf::from(destination));
        injection.binds.contains(&Bind { source, destination })
    };
    for name in ["libmpi.so.40", "libhelper.so.1"] {
        assert!(bound(&format!("/opt/mpi/lib/{name}"), &format!("{LIBRARIES}/{name}")), "{injection:?}");
    }
    assert!(bound("/opt/mpi/lib/openmpi", "/opt/mpi/lib/openmpi"));
    assert!(injection.binds.iter().all(|bind| bind.destination != Path::new("/usr/lib/libmpi.so.40")));
    assert!(injection.env.contains(&("OPAL_PREFIX".into(), "/opt/mpi".into())));
    let cache = cache::Cache::parse(&injection.over.first().unwrap().1).unwrap();
    let first = cache.find("libmpi.so.40".as_ref(), Abi::OWN).next().map(Path::to_path_buf);
    assert_eq!(first, Some(Path::new(LIBRARIES).join("libmpi.so.40")));
}

#[test]
fn a_search_path_is_bound_over() {
    let Some(world) = World::new(APP, &["-Wl,-rpath,/usr/lib"]) else { return };
    let injection = world.inject().unwrap();
    let over = Bind { source: "/opt/mpi/lib/libmpi.so.40".into(), destination: "/usr/lib/libmpi.so.40".into() };
    assert!(injection.binds.contains(&over), "{injection:?}");
}

#[test]
fn what_the_hosts_library_lacks_is_named() {
    let odd = APP.replace("MPI_Send", "MPI_Odd");
    let Some(world) = World::new(&odd, &[]) else { return };
    let error = world.inject().unwrap_err();
    assert!(matches!(&error, Error::Symbol { symbol, .. } if symbol == "MPI_Odd"), "{error}");
}

#[test]
fn other_interfaces_and_programs_without_mpi_are_refused() {
    let Some(world) = World::new(APP, &[]) else { return };
    let root = world.container.path();
    assert!(make(root, "usr/lib/libmpi.so.12", "libmpi.so.12", "int MPI_Init(void) { return 0; }", &[], &[]));
    let app = "int MPI_Init(void); int start(void) { return MPI_Init(); }";
    assert!(make(root, "bin/app", "app", app, &["usr/lib/libmpi.so.12"], &[]));
    let error = world.inject().unwrap_err().to_string();
    assert!(error.contains("libmpi.so.12") && error.contains("libmpi.so.40"), "{error}");
    assert!(make(root, "bin/app", "app", "int start(void) { return 0; }", &[], &[]));
    assert!(matches!(world.inject(), Err(Error::NoMpi { .. })));
    fs::remove_file(world.host.path().join("opt/mpi/lib/libhelper.so.1")).unwrap();
    let fresh = World { host: world.host, container: World::new(APP, &[]).unwrap().container };
    assert!(matches!(fresh.inject(), Err(Error::HostLacks { library, .. }) if library == "libhelper.so.1"));
}

#[test]
fn a_library_that_the_container_has_is_kept_if_it_serves() {
    let Some(world) = World::new(APP, &[]) else { return };
    let helper = |code: &str| {
        assert!(make(world.container.path(), "usr/lib/libhelper.so.1", "libhelper.so.1", code, &[], &[]));
        let injection = world.inject().unwrap();
        let served = injection.libraries.iter().find(|one| one.soname == "libhelper.so.1").unwrap();
        let bound = injection.binds.iter().any(|bind| bind.destination == Path::new(LIBRARIES).join("libhelper.so.1"));
        assert_eq!(bound, served.host);
        served.host
    };
    assert!(!helper("int helper(void) { return 2; }"));
    assert!(helper("int another(void) { return 2; }"), "it lacks what the host's MPI wants of it");
}
