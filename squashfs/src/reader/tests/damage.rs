//! Damaged images: whatever is done to one, everything ends soon and without a panic.

use super::support::noise;
use super::*;
use std::io::Write;
use std::time::{Duration, Instant};

/// Does everything that can be done with an image, within bounds.
fn exercise(bytes: &[u8]) {
    let options = OpenOptions { cache_bytes: 1 << 20, ..OpenOptions::default() };
    let Ok(image) = Image::open(bytes, options) else { return };
    let mut buf = vec![0; 40_000];
    for entry in image.walk().take(2000) {
        let Ok(WalkEntry { path, inode }) = entry else { continue };
        let _ = image.xattrs(&inode);
        let _ = image.read_link(&inode);
        let _ = image.lookup(&inode, b"small-3");
        let _ = image.read_dir_from(&inode, 100).map(|entries| entries.take(100).count());
        let _ = image.inode_by_number(inode.number);
        let _ = image.resolve(&path);
        for offset in [0, 1000, inode.size().saturating_sub(20_000), inode.size() / 2] {
            let _ = image.read(&inode, offset, &mut buf);
        }
        let _ = image.block(&inode, image.block_count(&inode).saturating_sub(1));
    }
    let mut text = Vec::new();
    crate::dump::superblock(&image, &mut text).unwrap();
    let _ = crate::dump::tree(&image, &mut Bounded(1 << 20));
}

/// Takes so many bytes and then fails.
struct Bounded(usize);

impl Write for Bounded {
    fn write(&mut self, buf: &[u8]) -> std::io::Result<usize> {
        self.0 = self.0.checked_sub(buf.len()).ok_or(std::io::ErrorKind::StorageFull)?;
        Ok(buf.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// A small image with everything in it.
fn small_image(options: &[&str]) -> Option<Vec<u8>> {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("source");
    std::fs::create_dir_all(source.join("dir/deeper")).unwrap();
    for index in 0..40u64 {
        let content = noise(index, 10).repeat(index as usize);
        std::fs::write(source.join(format!("dir/small-{index}")), content).unwrap();
    }
    std::fs::write(source.join("blocks"), noise(1, 600).repeat(70)).unwrap();
    std::fs::write(source.join("noise"), noise(2, 5000)).unwrap();
    std::fs::write(source.join("hole"), vec![0; 20_000]).unwrap();
    std::os::unix::fs::symlink("dir/small-3", source.join("link")).unwrap();
    for (path, value) in [("blocks", noise(3, 300)), ("noise", noise(3, 300)), ("dir", b"v".to_vec())] {
        let _ = ::xattr::set(source.join(path), "user.attribute", &value);
    }
    let file = dir.path().join("image");
    mksquashfs(&source, &file, options)?;
    Some(std::fs::read(file).unwrap())
}

/// Runs `exercise` on damaged copies and checks that none takes long.
fn damage(image: &[u8], places: impl Iterator<Item = (usize, u8)>) {
    exercise(image);
    let mut copy = image.to_vec();
    for (place, pattern) in places {
        copy[place] ^= pattern;
        let start = Instant::now();
        exercise(&copy);
        let took = start.elapsed();
        assert!(took < Duration::from_secs(5), "byte {place} ^ {pattern:#x} took {took:?}");
        copy[place] ^= pattern;
    }
}

/// All of the superblock and of the tables, where the structure is.
fn tables(image: &[u8], step: usize) -> impl Iterator<Item = usize> + use<> {
    let superblock = Image::open(image.to_vec(), OpenOptions::default()).unwrap();
    let start = superblock.superblock().inode_table_start.get() as usize;
    let end = superblock.superblock().bytes_used.get() as usize;
    (0..96).chain((start..end).step_by(step))
}

#[test]
fn flipped_bits_in_plain_tables() {
    let Some(image) = small_image(&["-b", "4096", "-noI", "-noX", "-noId"]) else { return };
    damage(&image, tables(&image, 1).enumerate().map(|(index, place)| (place, [0x01, 0x80, 0xff][index % 3])));
}

#[test]
fn flipped_bits_in_compressed_images() {
    for compressor in ["gzip", "lzo", "xz", "lz4", "zstd"] {
        let Some(image) = small_image(&["-b", "4096", "-comp", compressor]) else { return };
        damage(&image, tables(&image, 7).map(|place| (place, 0x10)));
        damage(&image, (0..image.len()).step_by(83).map(|place| (place, 0x81)));
    }
}

#[test]
fn random_bytes_in_plain_tables() {
    let Some(image) = small_image(&["-b", "4096", "-noI", "-noX", "-noId", "-noD", "-noF"]) else { return };
    let places: Vec<_> = tables(&image, 1).collect();
    let dice = noise(77, 4 * 4 * 700);
    for round in dice.chunks_exact(16) {
        let mut copy = image.clone();
        for die in round.chunks_exact(4) {
            let place = places[usize::from(u16::from_le_bytes([die[0], die[1]])) % places.len()];
            // Extreme values find more than random ones do.
            copy[place] = match die[2] % 4 {
                0 => 0,
                1 => 0xff,
                2 => 0x7f,
                _ => die[3],
            };
        }
        exercise(&copy);
    }
}

#[test]
fn truncated_images_are_refused_by_name() {
    let Some(image) = small_image(&["-b", "4096", "-nopad"]) else { return };
    for len in (0..image.len()).step_by(97) {
        let error = Image::open(image[..len].to_vec(), OpenOptions::default()).err().unwrap();
        if len < 96 {
            assert!(matches!(error, Error::NotSquashfs { offset: 0 }), "{len}: {error}");
        } else {
            assert!(matches!(error, Error::Truncated { .. }), "{len}: {error}");
            let needs = image.len();
            assert_eq!(
                error.to_string(),
                format!(
                    "open image: {needs} bytes are in use, but the file has {len} from there: it is truncated, copy it again"
                )
            );
        }
    }
    // A file that shrinks after it was opened fails at the read.
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("image");
    std::fs::write(&path, &image).unwrap();
    let opened = Image::open(File::open(&path).unwrap(), OpenOptions::default()).unwrap();
    File::options().write(true).open(&path).unwrap().set_len(200).unwrap();
    let error = opened.inode(opened.root()).unwrap_err();
    assert!(matches!(error, Error::Io { table: Table::Inodes, .. }), "{error}");
}
