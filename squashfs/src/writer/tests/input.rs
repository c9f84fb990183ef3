//! Content that lies about its size, readers and outputs that fail, and what they leave behind.

use super::images::{ZSTD, options};
use super::support::{Build, Rng, skip};
use crate::compress::Compression;
use crate::writer::{Error, Tree, Writer, WriterOptions};
use std::fs::{self, File};
use std::io::{self, Read};
use std::process::Command;

const BLOCK: usize = 4096;

fn build() -> Build {
    Build::new(options(ZSTD, BLOCK as u32, 2))
}

fn threads() -> usize {
    fs::read_dir("/proc/self/task").unwrap().count()
}

/// A joined thread may show for a moment longer.
fn threads_become(count: usize) -> bool {
    (0..200).any(|_| {
        std::thread::sleep(std::time::Duration::from_millis(5));
        threads() == count
    })
}

#[test]
fn content_of_another_size_is_an_error_and_leaves_no_trace() {
    let mut rng = Rng::new(1);
    let good = [rng.text(100), rng.text(2000), rng.text(3 * BLOCK)];
    let plain = {
        let mut build = build();
        for (at, content) in good.iter().enumerate() {
            build.file(format!("f{at}"), content.clone());
        }
        build.finish()
    };
    let mut build = build();
    for (at, content) in good.iter().enumerate() {
        for size in [1, BLOCK - 1, BLOCK, 5 * BLOCK + 1] {
            let noise = rng.noise(size);
            let short = build.writer.add_file(size as u64 + 1, &mut &noise[..]);
            assert!(matches!(short, Err(Error::ContentShort { .. })), "{short:?}");
            let long = build.writer.add_file(size as u64 - 1, &mut &noise[..]);
            assert!(matches!(long, Err(Error::ContentLong { .. })), "{long:?}");
            let mut file = build.writer.begin_file(size as u64).unwrap();
            assert!(matches!(file.write(&[&noise[..], b"x"].concat()), Err(Error::ContentLong { .. })));
            file.write(&noise[1..]).unwrap();
            assert!(matches!(file.write_hole(2), Err(Error::ContentLong { .. })));
            assert!(matches!(file.finish(), Err(Error::ContentShort { .. })));
        }
        build.file(format!("f{at}"), content.clone());
    }
    let made = build.finish();
    made.check();
    assert!(made.bytes() == plain.bytes());
}

#[test]
fn messages_name_the_sizes() {
    let mut build = build();
    let error = build.writer.add_file(10, &mut &b"123"[..]).unwrap_err();
    assert_eq!(error.to_string(), "file content ends after 3 of 10 bytes");
    let error = build.writer.add_file(2, &mut &b"123"[..]).unwrap_err();
    assert_eq!(error.to_string(), "file content is longer than the 2 bytes announced");
}

#[test]
fn a_reader_that_fails_or_stutters() {
    struct Stutter<'a>(&'a [u8], u32);
    impl Read for Stutter<'_> {
        fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
            self.1 += 1;
            match self.1 % 3 {
                0 => Err(io::ErrorKind::Interrupted.into()),
                _ => {
                    let n = buf.len().min(self.0.len()).min(1 + self.1 as usize % 700);
                    buf[..n].copy_from_slice(&self.0[..n]);
                    self.0 = &self.0[n..];
                    Ok(n)
                }
            }
        }
    }
    struct Broken;
    impl Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::Error::other("tape torn"))
        }
    }
    let content = Rng::new(2).text(7 * BLOCK + 3);
    let mut build = build();
    let error = build.writer.add_file(5, &mut Broken).unwrap_err();
    assert_eq!(error.to_string(), "read the content of a file of 5 bytes: tape torn");
    let one = build.writer.add_file(content.len() as u64, &mut Stutter(&content, 0)).unwrap();
    build.file("f", content);
    let made = build.finish();
    made.check();
    assert_eq!(made.summary.duplicates, 1, "{one:?}");
}

#[test]
fn block_sizes_and_levels_outside_the_format_are_refused() {
    for block_size in [0, 1, 2048, 4097, 12288, 1 << 21, u32::MAX] {
        let options = WriterOptions { block_size, ..WriterOptions::default() };
        assert!(
            matches!(Writer::new(tempfile::tempfile().unwrap(), options), Err(Error::BlockSize(b)) if b == block_size)
        );
    }
    let options = WriterOptions { compression: Compression::Gzip { level: 10 }, ..WriterOptions::default() };
    assert!(matches!(Writer::new(tempfile::tempfile().unwrap(), options), Err(Error::Codec(_))));
}

#[test]
fn a_size_that_would_take_forever_is_refused() {
    let mut build = build();
    let max = (1u64 << 26) * BLOCK as u64;
    let Err(error) = build.writer.begin_file(u64::MAX) else { panic!("accepted") };
    assert!(matches!(error, Error::FileTooLarge { max: m, .. } if m == max), "{error}");
    assert!(build.writer.begin_file(max).is_ok());
}

#[test]
fn an_output_that_cannot_be_written_is_an_error_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("image");
    fs::write(&path, b"").unwrap();
    let result = Writer::new(File::open(&path).unwrap(), WriterOptions::default());
    assert!(matches!(result.err(), Some(Error::Output { action: "write", .. })));
    let full = File::options().read(true).write(true).open("/dev/full").unwrap();
    let error = Writer::new(full, WriterOptions::default()).err().unwrap();
    assert!(error.to_string().starts_with("write the image: No space left"), "{error}");
}

#[test]
fn an_output_that_fills_up_is_an_error_soon() {
    let directory = tempfile::tempdir().unwrap();
    let mount = Command::new("mount").args(["-t", "tmpfs", "-o", "size=1m", "tmpfs"]).arg(directory.path()).output();
    if !mount.is_ok_and(|output| output.status.success()) {
        return skip("mounting a small tmpfs takes root");
    }
    let file = File::options().read(true).write(true).create_new(true).open(directory.path().join("i")).unwrap();
    let mut writer = Writer::new(file, options(Compression::Lz4, 128 << 10, 2)).unwrap();
    let noise = Rng::new(3).noise(64 << 20);
    let result = writer.add_file(noise.len() as u64, &mut &noise[..]);
    let error = result.unwrap_err();
    assert!(matches!(&error, Error::Output { cause, .. } if cause.kind() == io::ErrorKind::StorageFull), "{error:?}");
    // And stays one.
    let again = writer.add_file(1 << 20, &mut &noise[..1 << 20]);
    assert!(matches!(again, Err(Error::Failed)), "{again:?}");
    let last = writer.finish(&Tree::new(super::support::meta(0o755)));
    assert!(last.is_err());
    let unmount = Command::new("umount").arg(directory.path()).status().unwrap();
    assert!(unmount.success());
}

#[test]
fn an_output_that_can_only_be_written_still_finds_copies() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("image");
    let content = Rng::new(4).text(300 * BLOCK);
    let image = |read: bool| {
        let file = File::options().read(read).write(true).create(true).truncate(true).open(&path).unwrap();
        let mut writer = Writer::new(file, options(ZSTD, BLOCK as u32, 2)).unwrap();
        let mut tree = Tree::new(super::support::meta(0o755));
        for name in [b"a", b"b", b"c"] {
            let id = writer.add_file(content.len() as u64, &mut &content[..]).unwrap();
            let kind = crate::writer::NodeKind::File(id);
            tree.add(Tree::ROOT, name, crate::writer::Node { metadata: super::support::meta(0o600), kind }).unwrap();
        }
        let summary = writer.finish(&tree).unwrap();
        assert_eq!(summary.duplicates, 2);
        assert!(read || summary.blocks_reused == 0);
        fs::read(&path).unwrap()
    };
    assert!(image(true) == image(false));
}

/// In a process of its own, where no other test has writers.
#[test]
fn nothing_is_left_of_a_writer_that_is_dropped() {
    const CHILD: &str = "CORACLE_TEST_DROPPED_WRITER";
    if std::env::var_os(CHILD).is_none() {
        let me = std::env::current_exe().unwrap();
        let name = "nothing_is_left_of_a_writer_that_is_dropped";
        let status = Command::new(me).args([name, "--test-threads=1"]).env(CHILD, "1").status().unwrap();
        assert!(status.success());
        return;
    }
    let before = threads();
    for content in [0, 100, 3 * BLOCK, 1 << 20] {
        let mut build = build();
        let noise = Rng::new(5).noise(content);
        build.writer.add_file(content as u64, &mut &noise[..]).unwrap();
        let mut file = build.writer.begin_file(content as u64 + 9).unwrap();
        file.write(&noise).unwrap();
        drop(file);
        assert_eq!(threads(), before + 3);
        drop(build);
        assert!(threads_become(before));
    }
    build().finish();
    assert!(threads_become(before));
}

/// In a process of its own, for the kernel's high-water mark to mean something.
#[test]
fn memory_is_bounded_however_much_comes() {
    const CHILD: &str = "CORACLE_TEST_MEMORY";
    if std::env::var_os(CHILD).is_none() {
        let me = std::env::current_exe().unwrap();
        let name = "memory_is_bounded_however_much_comes";
        let status = Command::new(me).args([name, "--test-threads=1"]).env(CHILD, "1").status().unwrap();
        assert!(status.success());
        return;
    }
    let peak = || -> u64 {
        let status = fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    };
    let noise = Rng::new(6).noise(8 << 20);
    let before = peak();
    let mut build = Build::new(options(Compression::Zstd { level: 1 }, 128 << 10, 2));
    for at in 0..40u64 {
        let mut file = build.writer.begin_file(8 + noise.len() as u64).unwrap();
        file.write(&at.to_le_bytes()).unwrap();
        file.write(&noise).unwrap();
        file.finish().unwrap();
    }
    let made = build.finish();
    assert_eq!(made.summary.duplicates, 0);
    let grown = peak() - before;
    assert!(grown < 64 << 10, "{grown} KiB for {} bytes", made.summary.data_in);
}

#[test]
fn many_abandoned_files_use_up_no_buffers() {
    let mut build = build();
    for _ in 0..1000 {
        let mut file = build.writer.begin_file(2 * BLOCK as u64).unwrap();
        file.write(&[1; BLOCK + 5]).unwrap();
    }
    build.file("f", vec![2; 3 * BLOCK]);
    let made = build.finish();
    made.check();
    assert_eq!(made.summary.blocks, 3);
}
