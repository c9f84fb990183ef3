//! Other things than a squashfs file that an image can become.

pub mod oci;
mod sandbox;

use crate::convert::{Input, write};
use crate::error::Error;
use crate::options::{Event, Options, Progress, Report};
use crate::output::Output;
use crate::repack::Packed;
use crate::source::Source;
use coracle_squashfs::compress::Compression;
use oci::LayerPacking;
use sandbox::Sandbox;
use std::path::Path;

/// Unpacks `source` into a new directory at `output`, which appears there complete or not at all.
///
/// No privilege is needed: everything belongs to the caller, who can read and write all of it. What that leaves no place for
/// is counted in [`Report::left_out`].
///
/// # Errors
/// When the source is damaged, or the directory cannot be made.
pub fn to_sandbox(source: &Source, output: &Path, options: &Options, progress: &dyn Progress) -> Result<Report, Error> {
    let input = Input::open(source, options)?;
    let mut sandbox = Sandbox::create(output, options.force)?;
    let (mut tree, mut report) = input.gather(&sandbox.directory()?, &mut sandbox, options, progress)?;
    input.add_own_files(&mut tree, &mut sandbox, options, &mut report)?;
    progress.event(Event::Finishing);
    sandbox.fill(&tree, &mut report)?;
    sandbox.publish()?;
    Ok(report)
}

/// Packs `source` into an OCI image layout in a tar at `output`, with one layer.
///
/// The bytes depend on the image and `packing` alone. Layers of a source are flattened into a squashfs file without a name
/// beside the output first, for a tar wants a file's size and place before its content.
///
/// # Errors
/// When the source is damaged, or the output cannot be written.
pub fn to_oci_archive(
    source: &Source,
    output: &Path,
    packing: LayerPacking,
    options: &Options,
    progress: &dyn Progress,
) -> Result<Report, Error> {
    let input = Input::open(source, options)?;
    let archive = Output::create(output, options.force)?;
    let passing;
    let (packed, mut report) = match &input {
        Input::Squashfs(packed, _) => (&**packed, Report::default()),
        _ => {
            let options = Options { compression: Compression::Zstd { level: 1 }, ..options.clone() };
            let file = Output::create(output, true)?;
            let report = write(&input, &file, &options, progress).map_err(|error| match error {
                Error::Sink(source) => Error::Write { path: output.into(), source },
                other => other,
            })?;
            passing = Packed::of(output, file.writer()?)?;
            (&passing, report)
        }
    };
    oci::write(packed, &archive, packing, options, progress, &mut report)?;
    archive.publish()?;
    Ok(report)
}
