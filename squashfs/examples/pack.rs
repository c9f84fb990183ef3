//! Packs a directory, to measure the writer: `pack DIR OUT [gzip|zstd|lz4|xz] [LEVEL] [THREADS] [BLOCK_SIZE]`.
#![allow(clippy::print_stdout, reason = "a program")]

use coracle_squashfs::compress::Compression;
use coracle_squashfs::writer::{FileId, Metadata, Node, NodeId, NodeKind, Tree, Writer, WriterOptions, clamp_time};
use std::collections::HashMap;
use std::error::Error;
use std::fs::{self, File};
use std::io;
use std::num::NonZeroUsize;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::time::Instant;

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [dir, out, rest @ ..] = &args[..] else {
        return Err("usage: pack DIR OUT [CODEC [LEVEL [THREADS [BLOCK]]]]".into());
    };
    let number = |at: usize, default: usize| rest.get(at).map_or(Ok(default), |text| text.parse());
    let codec = rest.first().map_or("zstd", String::as_str);
    let compression = match codec {
        "gzip" => Compression::Gzip { level: number(1, 9)? as u32 },
        "zstd" => Compression::Zstd { level: number(1, 15)? as u32 },
        "lz4" => Compression::Lz4,
        "xz" => Compression::Xz,
        other => return Err(format!("unknown codec {other}").into()),
    };
    let options = WriterOptions {
        compression,
        threads: NonZeroUsize::new(number(2, 2)?).ok_or("no threads")?,
        block_size: number(3, 128 << 10)? as u32,
        ..WriterOptions::default()
    };
    let begin = Instant::now();
    let output = File::options().read(true).write(true).create(true).truncate(true).open(out)?;
    let mut writer = Writer::new(output, options)?;
    let root = Path::new(dir);
    let mut tree = Tree::new(metadata(&fs::symlink_metadata(root)?));
    let mut links = HashMap::new();
    let mut stack = vec![(root.to_path_buf(), Tree::ROOT)];
    while let Some((path, parent)) = stack.pop() {
        let mut entries = fs::read_dir(&path)?.collect::<Result<Vec<_>, _>>()?;
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            let (path, name) = (entry.path(), entry.file_name());
            if let Some(id) = add(&mut writer, &mut tree, &mut links, parent, name.as_bytes(), &path)? {
                stack.push((path, id));
            }
        }
    }
    let scanned = begin.elapsed();
    let summary = writer.finish(&tree)?;
    println!("{codec}: {:.2} s, content taken in after {:.2} s", begin.elapsed().as_secs_f64(), scanned.as_secs_f64());
    println!("{summary:?}");
    Ok(())
}

/// Adds one entry; returns its id when it is a directory.
fn add(
    writer: &mut Writer,
    tree: &mut Tree,
    links: &mut HashMap<(u64, u64), NodeId>,
    parent: NodeId,
    name: &[u8],
    path: &Path,
) -> Result<Option<NodeId>, Box<dyn Error>> {
    let stat = fs::symlink_metadata(path)?;
    let linked = stat.nlink() > 1 && !stat.is_dir();
    if let Some(&id) = links.get(&(stat.dev(), stat.ino())).filter(|_| linked) {
        tree.link(parent, name, id)?;
        return Ok(None);
    }
    let rdev = stat.rdev();
    let (major, minor) = ((rdev >> 8 & 0xfff) as u32, (rdev & 0xff | rdev >> 12 & 0xfff00) as u32);
    let kind = stat.file_type();
    let kind = if kind.is_dir() {
        NodeKind::Directory
    } else if kind.is_file() {
        NodeKind::File(content(writer, path, stat.len())?)
    } else if kind.is_symlink() {
        NodeKind::Symlink(fs::read_link(path)?.as_os_str().as_bytes().to_vec())
    } else if kind.is_block_device() {
        NodeKind::BlockDevice { major, minor }
    } else if kind.is_char_device() {
        NodeKind::CharDevice { major, minor }
    } else if kind.is_fifo() {
        NodeKind::Fifo
    } else {
        NodeKind::Socket
    };
    let id = tree.add(parent, name, Node { metadata: metadata(&stat), kind })?;
    if linked {
        links.insert((stat.dev(), stat.ino()), id);
    }
    Ok(stat.is_dir().then_some(id))
}

fn content(writer: &mut Writer, path: &Path, size: u64) -> Result<FileId, Box<dyn Error>> {
    match size {
        0 => Ok(writer.add_file(0, &mut io::empty())?),
        _ => Ok(writer.add_file(size, &mut File::open(path)?)?),
    }
}

fn metadata(stat: &fs::Metadata) -> Metadata {
    Metadata {
        mode: (stat.mode() & 0o7777) as u16,
        uid: stat.uid(),
        gid: stat.gid(),
        mtime: clamp_time(stat.mtime()),
        xattrs: Vec::new(),
    }
}
