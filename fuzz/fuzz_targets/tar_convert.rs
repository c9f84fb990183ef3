//! Converts bytes as a root-file-system tar, and reads back whatever image comes out.
//!
//! Covers the tar reader, flattening, the writer, and the round trip: an image that our writer finished is one that our
//! reader takes without complaint.
#![no_main]

use coracle_converter::{Event, Options, Progress, Source, convert};
use coracle_squashfs::compress::Compression;
use coracle_squashfs::reader::{FileType, Image, OpenOptions};
use libfuzzer_sys::fuzz_target;
use std::fs::{self, File};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::LazyLock;

/// In memory, one folder for each process.
static FOLDER: LazyLock<PathBuf> = LazyLock::new(|| {
    let folder = PathBuf::from(format!("/dev/shm/coracle-fuzz-{}", std::process::id()));
    fs::create_dir_all(&folder).expect("/dev/shm takes files");
    folder
});

struct Silent;

impl Progress for Silent {
    fn event(&self, _: Event<'_>) {}
}

fuzz_target!(|bytes: &[u8]| {
    let (input, output) = (FOLDER.join("input"), FOLDER.join("output"));
    fs::write(&input, bytes).expect("/dev/shm takes files");
    let options = Options {
        compression: Compression::Lz4,
        block_size: 4096,
        threads: NonZeroUsize::MIN,
        force: true,
        max_entries: 5000,
        max_layer_bytes: 8 << 20,
        ..Options::default()
    };
    let _ = fs::remove_file(&output);
    if convert(&Source::Tar { file: input }, &output, &options, &Silent).is_err() {
        assert!(!output.exists(), "a conversion that failed left its output");
        return;
    }
    let image = Image::open(File::open(&output).expect("it was made"), OpenOptions::default()).expect("it is an image");
    for entry in image.walk() {
        let inode = entry.expect("every directory can be read").inode;
        image.xattrs(&inode).expect("attributes can be read");
        match inode.file_type() {
            FileType::File => {
                let mut content = vec![0; inode.size().min(1 << 16) as usize];
                let read = image.read(&inode, 0, &mut content).expect("content can be read");
                assert_eq!(read, content.len());
            }
            FileType::Symlink => drop(image.read_link(&inode).expect("links can be read")),
            _ => {}
        }
    }
});
