//! What `coracle mpi explain` prints: the MPI libraries of host and image, which one a program uses, and whether ranks find
//! each other.

use std::io::{self, Write};
use std::path::PathBuf;

use coracle_mpi_hooks::files::HostFiles;
use coracle_mpi_hooks::libraries::Abi;
use coracle_mpi_hooks::mpi::{self, Mpi, Search};
use coracle_mpi_hooks::starter::Starter;
use serde::Serialize;

use super::shown::Shown;
use super::uses::{self, Uses};
use super::{Error, Verdict, judge, starter};
use crate::explanation::Explanation;
use crate::host::Host;
use crate::image::Tree;
use crate::options;
use crate::spec::Composed;

/// All of it. The names are an interface.
#[derive(Debug, Serialize)]
pub struct Explained {
    /// Who starts the ranks, if this is one of several.
    starter: Option<Starter>,
    /// Of the host.
    host: Vec<Mpi>,
    /// Of the image.
    image: Vec<Mpi>,
    /// The program, where the container has it.
    program: Option<PathBuf>,
    /// What it uses.
    uses: Option<Uses>,
    /// What a launch would warn of.
    warning: Option<String>,
    /// Why a launch would fail.
    error: Option<String>,
}

/// Looks at host, image and program (if one is asked about) as a launch would.
///
/// # Errors
/// When the image is damaged.
pub fn explain(composed: &Composed, asked: bool, tree: &dyn Tree, host: &Host) -> Result<Explained, Error> {
    let spec = &composed.spec;
    let shown = Shown::new(tree, spec);
    let failed = |cause| Error::Look { program: "image and host".into(), cause };
    let image = mpi::find(&shown, &uses::search(spec)).map_err(failed)?;
    let value = |name: &str| host.env.iter().find(|(one, _)| one == name).and_then(|(_, value)| value.to_str());
    let of_host = mpi::find(&HostFiles::new("/"), &Search::of(Abi::OWN, value)).map_err(failed)?;
    let starter = starter(host);
    let (program, uses) = if asked {
        let (program, uses) = uses::look(spec, &shown)?;
        (Some(program), Some(uses))
    } else {
        (None, None)
    };
    let (mut warning, mut error) = (None, None);
    if let (Some(starter), Some(program), Some(uses)) = (&starter, &program, &uses) {
        match judge(starter, uses, options::Mpi::Auto, program.clone()) {
            Ok(Verdict::Start) => {}
            Ok(Verdict::Trap { warning: text, .. }) => warning = Some(text),
            Err(refused) => error = Some(refused.to_string()),
        }
    }
    Ok(Explained { starter, host: of_host, image, program, uses, warning, error })
}

impl Explanation for Explained {
    fn works(&self) -> bool {
        self.error.is_none()
    }

    fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        match &self.starter {
            Some(starter) => writeln!(
                out,
                "Started by {}, rank {} of {}; ranks find each other over {}.",
                starter.kind, starter.rank, starter.size, starter.protocol
            )?,
            None => writeln!(out, "Nothing starts several ranks here.")?,
        }
        for (whose, mpis) in [("host", &self.host), ("image", &self.image)] {
            if mpis.is_empty() {
                writeln!(out, "The {whose} has no MPI library where one would be looked for.")?;
                continue;
            }
            writeln!(out, "MPI libraries of the {whose}:")?;
            for mpi in mpis {
                let fortran = if mpi.fortran.is_empty() { "" } else { ", with Fortran's" };
                writeln!(out, "  {}, for programs that need {} ({}){fortran}", mpi, mpi.soname, mpi.interface)?;
            }
        }
        if let (Some(program), Some(uses)) = (&self.program, &self.uses) {
            let program = program.display();
            match uses {
                Uses::Nothing => writeln!(out, "{program} uses no MPI library.")?,
                Uses::Library(mpi) => writeln!(out, "{program} uses {}.", mpi)?,
                Uses::Perhaps(_) => writeln!(out, "{program} can start or load any program or library of the image.")?,
            }
        }
        if let Some(warning) = &self.warning {
            writeln!(out, "A launch warns: {warning}")?;
        }
        if let Some(error) = &self.error {
            writeln!(out, "A launch fails: {error}")?;
        }
        Ok(())
    }
}
