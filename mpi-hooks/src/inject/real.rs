//! The MPIs of this machine, brought to programs that were built for each of them.

use std::fs;
use std::process::Command;

use super::*;
use crate::files::HostFiles;
use crate::mpi::Search;

/// Builds a program; its directory is gone with the first.
fn program(compiler: &str) -> Option<(tempfile::TempDir, PathBuf)> {
    let place = tempfile::tempdir().unwrap();
    let (source, out) = (place.path().join("a.c"), place.path().join("app"));
    fs::write(&source, "#include <mpi.h>\nint main(int c, char **v) { MPI_Init(&c, &v); return MPI_Finalize(); }\n")
        .unwrap();
    let made = Command::new(compiler).arg("-o").arg(&out).arg(&source).output().ok()?.status.success();
    made.then_some((place, out))
}

#[test]
fn real_programs_get_real_libraries_or_the_reason() {
    let files = HostFiles::new("/");
    let search = Search { abi: Abi::OWN, prefixes: Vec::new(), library_path: String::new() };
    let mpis = mpi::find(&files, &search).unwrap();
    for (compiler, interface) in [("mpicc.openmpi", mpi::Interface::OpenMpi), ("mpicc.mpich", mpi::Interface::Mpich)] {
        let Some((_place, program)) = program(compiler) else { continue };
        for mpi in &mpis {
            let result = inject(&Question {
                abi: Abi::OWN,
                host: &files,
                mpi,
                host_library_path: "",
                container: &files,
                program: &program,
                library_path: "",
            });
            match result {
                Ok(injection) => {
                    assert_eq!(mpi.interface, interface);
                    let served = injection.libraries.iter().find(|one| one.path == mpi.path).unwrap();
                    assert!(served.host);
                    assert!(injection.libraries.iter().any(|one| one.soname == "libc.so.6" && !one.host));
                }
                Err(Error::Interface { .. }) => assert_ne!(mpi.interface, interface),
                Err(other) => panic!("{compiler} {}: {other}", mpi.path.display()),
            }
        }
    }
}
