//! Reads everything in an image and says how fast: `scan IMAGE [THREADS]`.
#![allow(clippy::print_stdout, reason = "a program")]

use coracle_squashfs::reader::{FileType, Image, InodeRef, OpenOptions};
use std::error::Error;
use std::fs::File;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::Instant;

type Failure = Box<dyn Error + Send + Sync>;

fn main() -> Result<(), Failure> {
    let mut args = std::env::args().skip(1);
    let path = args.next().ok_or("usage: scan IMAGE [THREADS]")?;
    let threads = args.next().map_or(Ok(1), |count| count.parse())?;
    let image = Image::open(File::open(path)?, OpenOptions::default())?;
    for round in ["cold", "warm"] {
        timed(&format!("walk, metadata {round}"), || Ok(image.walk().count() as u64))?;
    }
    let entries = image.walk().collect::<Result<Vec<_>, _>>()?;
    timed("inodes by reference", || {
        entries.iter().try_for_each(|entry| image.inode(entry.inode.reference).map(drop))?;
        Ok(entries.len() as u64)
    })?;
    timed("paths resolved from the root", || {
        entries.iter().try_for_each(|entry| image.resolve(&entry.path).map(drop))?;
        Ok(entries.len() as u64)
    })?;
    let files: Vec<InodeRef> = entries
        .iter()
        .filter(|entry| entry.inode.file_type() == FileType::File)
        .map(|entry| entry.inode.reference)
        .collect();
    let start = Instant::now();
    let bytes = read_all(&image, &files, threads)?;
    let seconds = start.elapsed().as_secs_f64();
    let mib = bytes as f64 / f64::from(1 << 20);
    println!("{} files, {mib:.0} MiB by {threads} threads: {seconds:.2} s, {:.0} MiB/s", files.len(), mib / seconds);
    println!("{:?}", image.stats());
    Ok(())
}

fn timed(what: &str, work: impl FnOnce() -> Result<u64, Failure>) -> Result<(), Failure> {
    let start = Instant::now();
    let count = work()?;
    let seconds = start.elapsed().as_secs_f64();
    println!("{what}: {count} in {:.1} ms, {:.2} million/s", seconds * 1e3, count as f64 / seconds / 1e6);
    Ok(())
}

/// Reads all files in requests of the size that FUSE makes.
fn read_all(image: &Image<File>, files: &[InodeRef], threads: usize) -> Result<u64, Failure> {
    let (next, total) = (AtomicUsize::new(0), AtomicU64::new(0));
    let work = || -> Result<(), Failure> {
        let mut buf = vec![0; 128 << 10];
        while let Some(at) = files.get(next.fetch_add(1, Relaxed)) {
            let file = image.inode(*at)?;
            let mut offset = 0;
            while offset < file.size() {
                offset += image.read(&file, offset, &mut buf)? as u64;
            }
            total.fetch_add(offset, Relaxed);
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        workers.into_iter().try_for_each(|worker| worker.join().map_err(|_| "a thread panicked")?)
    })?;
    Ok(total.into_inner())
}
