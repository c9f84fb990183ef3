//! Libraries that a compiler makes here, with what tells the real ones, and real ones where this machine has them.

use std::fs;
use std::os::unix::fs::symlink;
use std::process::Command;

use super::*;
use crate::files::HostFiles;

/// Makes a shared library; `false` where there is no compiler.
fn library(root: &Path, path: &str, soname: &str, code: &str, more: &[&str]) -> bool {
    let out = root.join(path.trim_start_matches('/'));
    fs::create_dir_all(out.parent().unwrap()).unwrap();
    let source = root.join("source.c");
    fs::write(&source, code).unwrap();
    let mut cc = Command::new("cc");
    cc.args(["-shared", "-fPIC", "-nostdlib"]).arg(format!("-Wl,-soname,{soname}")).arg("-o").arg(&out).arg(&source);
    let made = cc.args(more).status().is_ok_and(|status| status.success());
    fs::remove_file(source).unwrap();
    made
}

fn search() -> Search {
    Search { abi: Abi::OWN, prefixes: Vec::new(), library_path: String::new() }
}

const MPICH: &str = "const char MPII_Version_string[] = \"4.0.2\"; const char *a(void) { return \"PMI_FD\"; } \
                     int MPIR_x; int MPI_Init(void) { return 0; }";

#[test]
fn libraries_are_told_apart_by_what_is_in_them() {
    let root = tempfile::tempdir().unwrap();
    let lib = |prefix: &str, soname: &str, code: &str, more: &[&str]| {
        library(root.path(), &format!("/opt/{prefix}/lib/{soname}"), soname, code, more)
    };
    if !lib("a", "libmpi.so.12", MPICH, &[]) {
        return;
    }
    let intel = format!("{MPICH} const char *b = \"Intel(R) MPI Library 2021.1 for Linux* OS\";");
    assert!(lib("b", "libmpi.so.12", &intel, &[]));
    let five = format!("{MPICH} const char *b = \"PMIX_NAMESPACE\";");
    assert!(lib("c", "libmpi_abi.so.1", &five, &[]));
    let pal = "const char opal_version_string[] = \"4.1.4\";";
    assert!(lib("d", "libopen-pal.so.40", pal, &[]));
    assert!(lib("d", "libopen-rte.so.40", "int rte;", &[]));
    assert!(lib("d", "libmpi_mpifh.so.40", "int fortran;", &[]));
    let directory = root.path().join("opt/d/lib");
    let (pal, rte) = (directory.join("libopen-pal.so.40"), directory.join("libopen-rte.so.40"));
    let open = "int ompi_mpi_comm_world; int MPI_Init(void) { return 0; }";
    let needs = ["-Wl,--no-as-needed", rte.to_str().unwrap(), pal.to_str().unwrap()];
    assert!(lib("d", "libmpi.so.40", open, &needs));
    assert!(lib("e", "libmpi.so.40", open, &needs[..1]));
    // Something else of that name, and no library at all.
    assert!(lib("f", "libmpi.so.12", "int MPIR_x;", &[]));
    fs::create_dir_all(root.path().join("opt/g/lib")).unwrap();
    fs::write(root.path().join("opt/g/lib/libmpi.so.12"), "text").unwrap();
    let found = find(&HostFiles::new(root.path()), &search()).unwrap();
    let of = |prefix: &str| {
        let found = found.iter().find(|mpi| mpi.path.starts_with(format!("/opt/{prefix}")))?;
        Some((found.family, found.version.as_deref(), found.interface, found.speaks))
    };
    assert_eq!(of("a"), Some((Family::Mpich, Some("4.0.2"), Interface::Mpich, Speaks::Mpich4)));
    assert_eq!(of("b"), Some((Family::Intel, Some("4.0.2"), Interface::Mpich, Speaks::Mpich4)));
    assert_eq!(of("c"), Some((Family::Mpich, Some("4.0.2"), Interface::Standard, Speaks::Mpich5)));
    assert_eq!(of("d"), Some((Family::OpenMpi, Some("4.1.4"), Interface::OpenMpi, Speaks::OpenMpi4)));
    assert_eq!(of("e"), Some((Family::OpenMpi, None, Interface::OpenMpi, Speaks::OpenMpi5)));
    assert_eq!((of("f"), of("g")), (None, None));
    let fortran = found.iter().find(|mpi| mpi.path.starts_with("/opt/d")).map(|mpi| mpi.fortran.clone());
    assert_eq!(fortran, Some(vec!["libmpi_mpifh.so.40".to_owned()]));
}

#[test]
fn a_program_has_the_library_that_its_search_path_leads_to() {
    let root = tempfile::tempdir().unwrap();
    if !library(root.path(), "/opt/a/lib/libmpi.so.12", "libmpi.so.12", MPICH, &[]) {
        return;
    }
    assert!(library(root.path(), "/usr/lib/libmpi.so.12", "libmpi.so.12", MPICH, &[]));
    let by = root.path().join("opt/a/lib/libmpi.so.12");
    let program = "extern int MPI_Init(void); int _start(void) { return MPI_Init(); }";
    let with = |path: &str| vec!["-Wl,--no-as-needed".to_owned(), by.display().to_string(), path.to_owned()];
    let make = |name: &str, path: &str| {
        let options = with(path);
        let options: Vec<&str> = options.iter().map(String::as_str).collect();
        assert!(library(root.path(), name, "none", program, &options));
    };
    make("/bin/plain", "-Wl,-z,now");
    make("/bin/run", "-Wl,--enable-new-dtags,-rpath,/opt/a/lib");
    make("/bin/origin", "-Wl,--disable-new-dtags,-rpath,$ORIGIN/../opt/a/lib");
    symlink("origin", root.path().join("bin/link")).unwrap();
    let files = HostFiles::new(root.path());
    let of = |name: &str, library_path: &str| {
        let search = Search { library_path: library_path.to_owned(), ..search() };
        of_program(&search.loader(&files).unwrap(), &files, Path::new(name))
            .unwrap()
            .map(|mpi| mpi.path.display().to_string())
    };
    let (ours, usual) = (Some("/opt/a/lib/libmpi.so.12".to_owned()), Some("/usr/lib/libmpi.so.12".to_owned()));
    assert_eq!(of("/bin/plain", ""), usual);
    assert_eq!(of("/bin/plain", "/nowhere:/opt/a/lib"), ours);
    assert_eq!(of("/bin/run", ""), ours);
    assert_eq!(of("/bin/run", "/usr/lib"), usual, "LD_LIBRARY_PATH comes before DT_RUNPATH");
    assert_eq!(of("/bin/link", "/usr/lib"), ours, "DT_RPATH comes before LD_LIBRARY_PATH");
    assert_eq!(of("/bin/none", ""), None);
}

#[test]
fn the_libraries_of_this_machine_are_known() {
    for mpi in find(&HostFiles::new("/"), &search()).unwrap() {
        let path = mpi.path.display().to_string();
        if path.contains("/libmpich.so.12") {
            assert_eq!((mpi.family, mpi.interface, mpi.speaks), (Family::Mpich, Interface::Mpich, Speaks::Mpich4));
        }
        if path.contains("/libmpi.so.40") {
            assert_eq!((mpi.family, mpi.interface), (Family::OpenMpi, Interface::OpenMpi));
            assert!(mpi.version.is_some(), "{mpi:?}");
        }
    }
}
