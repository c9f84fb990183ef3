//! `profile record`: runs a program and writes down which blocks of the image it reads, in order.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::path::Path;

use anyhow::Context;
use coracle::cli::{self, Record};
use coracle::engine::{Touches, touches};
use coracle::image::ImageFile;
use coracle::options::Verb;
use coracle::sys::process;
use coracle_converter::output::Output;
use coracle_converter::profile::{Profile, ProfiledImage, Touched};
use coracle_squashfs::format::InodeRef;
use nix::sys::wait::{WaitStatus, waitpid};

use super::{complain, launch, settings};

/// What a profile's name ends in, unless it was given one.
const EXTENSION: &str = "profile.json";

/// Runs the program and writes its profile. The exit status is the program's own.
pub(super) fn record(arguments: &Record) -> anyhow::Result<u8> {
    let (image, rest) = cli::image_and_rest(&arguments.words).context("no image given")?;
    let command: Vec<String> =
        rest.iter().filter(|word| *word != "--").map(|word| word.to_string_lossy().into_owned()).collect();
    let verb = cli::command(rest).unwrap_or(Verb::Run(Vec::new()));
    let config = settings()?;
    let ready = launch::ready(&arguments.flags, image.clone(), verb, &config)?;
    let (path, name) = (ready.path.clone(), ready.name.clone());
    let output = arguments.output.clone().unwrap_or_else(|| match name {
        None => path.with_extension(EXTENSION),
        // The store is no place for it.
        Some(name) => format!("{}.{EXTENSION}", name.rsplit('/').next().unwrap_or("image").replace(':', "-")).into(),
    });

    let (mut report, write) = io::pipe().context("cannot make a pipe")?;
    let child = process::spawn_child(|| match launch::recorded(ready, &config, write.into()) {
        Ok(never) => match never {},
        Err(error) => complain(&error) as u8,
    });
    let child = child.context("cannot start a process")?;
    // The server writes when the mount ends, which is when the last process of the container has ended.
    let mut text = String::new();
    report.read_to_string(&mut text).context("cannot read from the file system server")?;
    let status = match waitpid(child, None).context("cannot wait for the program")? {
        WaitStatus::Exited(_, status) => u8::try_from(status).unwrap_or(u8::MAX),
        WaitStatus::Signaled(_, signal, _) => 128_u8.saturating_add(signal as u8),
        _ => u8::MAX,
    };
    let touches = touches(&text);
    if touches.is_empty() {
        anyhow::ensure!(status >= 125, "cannot record {}: the program read nothing of the image", image.display());
        return Ok(status);
    }
    let profile = profile(&ImageFile::open(&path)?, command, &touches)?;
    let json = profile.to_json().context("cannot write the profile")?;
    publish(&output, &json)?;
    super::say(&format!("{}: {} files", output.display(), profile.touched.len()));
    Ok(status)
}

/// Names what was touched, which the server knows by inode.
fn profile(image: &ImageFile, command: Vec<String>, touches: &Touches) -> anyhow::Result<Profile> {
    let mut places: HashMap<InodeRef, usize> = HashMap::new();
    let mut files: Vec<Vec<u32>> = Vec::new();
    for (inode, block) in touches {
        let place = *places.entry(*inode).or_insert_with(|| {
            files.push(Vec::new());
            files.len() - 1
        });
        if let (Some(blocks), Ok(block)) = (files.get_mut(place), u32::try_from(*block)) {
            blocks.push(block);
        }
    }
    let mut named: Vec<Touched> = files.into_iter().map(|blocks| Touched { path: Vec::new(), blocks }).collect();
    for entry in image.image.walk() {
        let entry = entry.with_context(|| format!("cannot read image {}", image.path.display()))?;
        // Of several names, the first.
        let place = places.remove(&entry.inode.reference);
        if let Some(touched) = place.and_then(|place| named.get_mut(place)) {
            touched.path = entry.path;
        }
    }
    named.retain(|touched| !touched.path.is_empty());
    let superblock = image.image.superblock();
    let of = ProfiledImage { size: superblock.bytes_used.get(), mkfs_time: Some(superblock.mkfs_time.get()) };
    Ok(Profile { command, image: Some(of), touched: named })
}

/// Under its name, the file is there as a whole or not at all; an older one is replaced.
fn publish(path: &Path, content: &[u8]) -> anyhow::Result<()> {
    let file = Output::create(path, true)?;
    file.writer()?.write_all(content).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(file.publish()?)
}
