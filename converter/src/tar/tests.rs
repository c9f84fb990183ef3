use super::*;
use crate::test_tar::{TarBuilder, header, octal, seal};

/// Offsets and bytes of what is stored of a file.
type Stored = Vec<(u64, Vec<u8>)>;

fn read(tar: &[u8]) -> Result<Vec<(Entry, Stored)>, Error> {
    let mut reader = Reader::new(SliceInput(tar));
    let mut entry = Entry::default();
    let mut all = Vec::new();
    while reader.next(&mut entry)? {
        let (mut at, mut data) = (0, Vec::new());
        while let Some(piece) = reader.data()? {
            match piece {
                Piece::Data(bytes) => {
                    data.push((at, bytes.to_vec()));
                    at += bytes.len() as u64;
                }
                Piece::Hole(length) => at += length,
            }
        }
        if entry.kind == EntryKind::File {
            assert_eq!(at, entry.size, "{entry:?}");
        }
        all.push((entry.clone(), data));
    }
    Ok(all)
}

fn only(tar: &[u8]) -> (Entry, Stored) {
    let mut all = read(tar).unwrap();
    assert_eq!(all.len(), 1);
    all.remove(0)
}

fn problem(tar: &[u8]) -> Error {
    read(tar).unwrap_err()
}

#[test]
fn every_kind_of_entry_is_described() {
    let tar = TarBuilder::new()
        .meta(0o4755, 1000, 100, 1234)
        .file("a", "hello")
        .link("b", "a")
        .symlink("c", "../x")
        .device("d", b'3', 1, 3)
        .device("e", b'4', 259, 70_000)
        .entry("f/", b'5', "", b"")
        .entry("g", b'6', "", b"")
        .entry("h", b'7', "", b"contiguous")
        .finish();
    let all = read(&tar).unwrap();
    let kinds = all.iter().map(|(entry, _)| entry.kind).collect::<Vec<_>>();
    use EntryKind::*;
    assert_eq!(kinds, [File, HardLink, Symlink, CharDevice, BlockDevice, Directory, Fifo, File]);
    let (entry, data) = &all[0];
    assert_eq!((entry.mode, entry.uid, entry.gid, entry.mtime, entry.size), (0o4755, 1000, 100, 1234, 5));
    assert_eq!(data, &[(0, b"hello".to_vec())]);
    assert_eq!(all[2].0.link, b"../x");
    assert_eq!((all[4].0.major, all[4].0.minor), (259, 70_000));
    assert_eq!(all[1].0.offset, 1024);
}

#[test]
fn a_v7_directory_is_known_by_its_slash() {
    let mut block = header(b"old/", 0, 0, b"");
    block[257..345].fill(0);
    seal(&mut block);
    assert_eq!(only(&TarBuilder::new().raw(&block).finish()).0.kind, EntryKind::Directory);
}

#[test]
fn ustar_prefix_gnu_long_names_and_pax_paths_make_long_names() {
    let mut prefixed = header(b"name", b'0', 0, b"");
    prefixed[345..351].copy_from_slice(b"prefix");
    seal(&mut prefixed);
    let long = "n".repeat(300);
    let mut gnu_name = header(b"././@LongLink", b'L', 301, b"").to_vec();
    gnu_name.extend_from_slice(long.as_bytes());
    gnu_name.resize(1024, 0);
    let mut gnu_link = header(b"././@LongLink", b'K', 301, b"").to_vec();
    gnu_link.extend_from_slice(long.to_uppercase().as_bytes());
    gnu_link.resize(1024, 0);
    let tar = TarBuilder::new()
        .raw(&prefixed)
        .raw(&gnu_link)
        .raw(&gnu_name)
        .symlink("short", "short")
        .pax("path", "p/å")
        .pax("size", "3")
        .pax("uid", "4000000000")
        .pax("mtime", "12.75")
        .file("q", "abc")
        .finish();
    let all = read(&tar).unwrap();
    assert_eq!(all[0].0.path, b"prefix/name");
    assert_eq!(all[1].0.path, long.as_bytes());
    assert_eq!(all[1].0.link, long.to_uppercase().as_bytes());
    assert_eq!(all[2].0.path, "p/å".as_bytes());
    assert_eq!((all[2].0.uid, all[2].0.mtime, all[2].0.size), (4_000_000_000, 12, 3));
}

#[test]
fn pax_size_replaces_the_header_s_and_content_follows_it() {
    // As for files of 8 GiB and more: the header's field is 0.
    let tar = TarBuilder::new().pax("size", "700").file("big", "").raw(&[7; 700]).raw(&[0; 324]).file("next", "x");
    let all = read(&tar.finish()).unwrap();
    assert_eq!(all[0].0.size, 700);
    assert_eq!(all[1].0.path, b"next");
}

#[test]
fn xattrs_come_in_both_spellings() {
    let tar = TarBuilder::new()
        .pax("LIBARCHIVE.xattr.user.a%3db", "AQI=")
        .pax("LIBARCHIVE.xattr.user.c", "AQI")
        .pax("SCHILY.xattr.user.c", [0, b'\n', b'=', 255])
        .file("f", "")
        .file("g", "")
        .finish();
    let all = read(&tar).unwrap();
    assert_eq!(all[0].0.xattrs, [(b"user.a=b".to_vec(), vec![1, 2]), (b"user.c".to_vec(), vec![0, b'\n', b'=', 255])]);
    assert!(all[1].0.xattrs.is_empty());
}

#[test]
fn base_256_numbers_are_read_and_negative_times_are_clamped() {
    let mut block = header(b"f", b'0', 0, b"");
    block[124..136].copy_from_slice(&[0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0]);
    block[108..116].copy_from_slice(&[0x80, 0, 0, 0, 0, 0x20, 0, 1]);
    block[136..148].fill(0xff);
    seal(&mut block);
    let tar = TarBuilder::new().raw(&block).raw(&[1; 512]).finish();
    let (entry, _) = only(&tar);
    assert_eq!((entry.size, entry.uid, entry.mtime), (512, 0x20_0001, 0));
}

fn sparse_content() -> Stored {
    vec![(1000, vec![b'a'; 10]), (5000, vec![b'b'; 20])]
}

#[test]
fn old_gnu_sparse_files_have_their_map_in_the_header_and_behind_it() {
    let segments = (0..10u64).map(|n| (n * 100, 1u64)).collect::<Vec<_>>();
    let mut block = header(b"s", b'S', 10, b"");
    block[257..265].copy_from_slice(b"ustar  \0");
    for (slot, (offset, length)) in segments[..4].iter().enumerate() {
        octal(&mut block[386 + slot * 24..][..12], *offset);
        octal(&mut block[398 + slot * 24..][..12], *length);
    }
    block[482] = 1;
    octal(&mut block[483..495], 1000);
    seal(&mut block);
    let mut more = [0; 512];
    for (slot, (offset, length)) in segments[4..].iter().enumerate() {
        octal(&mut more[slot * 24..][..12], *offset);
        octal(&mut more[12 + slot * 24..][..12], *length);
    }
    let mut content = b"0123456789".to_vec();
    content.resize(512, 0);
    let tar = TarBuilder::new().raw(&block).raw(&more).raw(&content).file("next", "n").finish();
    let all = read(&tar).unwrap();
    assert_eq!(all[0].0.size, 1000);
    assert!(all[0].0.sparse);
    let expected = (0..10u64).map(|n| (n * 100, vec![b'0' + n as u8])).collect::<Vec<_>>();
    assert_eq!(all[0].1, expected);
    assert_eq!(all[1].0.path, b"next");
}

#[test]
fn pax_sparse_files_of_all_three_versions() {
    let stored = [vec![b'a'; 10], vec![b'b'; 20]].concat();
    let v00 = TarBuilder::new()
        .pax("GNU.sparse.size", "6000")
        .pax("GNU.sparse.numblocks", "2")
        .pax("GNU.sparse.offset", "1000")
        .pax("GNU.sparse.numbytes", "10")
        .pax("GNU.sparse.offset", "5000")
        .pax("GNU.sparse.numbytes", "20")
        .file("s", &stored);
    let v01 = TarBuilder::new()
        .pax("GNU.sparse.size", "6000")
        .pax("GNU.sparse.numblocks", "2")
        .pax("GNU.sparse.map", "1000,10,5000,20")
        .pax("GNU.sparse.name", "s")
        .file("GNUSparseFile.1/s", &stored);
    let mut inline = b"2\n1000\n10\n5000\n20\n".to_vec();
    inline.resize(512, 0);
    inline.extend_from_slice(&stored);
    let v10 = TarBuilder::new()
        .pax("GNU.sparse.major", "1")
        .pax("GNU.sparse.minor", "0")
        .pax("GNU.sparse.name", "s")
        .pax("GNU.sparse.realsize", "6000")
        .file("GNUSparseFile.1/s", &inline);
    for tar in [v00, v01, v10] {
        let tar = tar.file("next", "n").finish();
        let all = read(&tar).unwrap();
        assert_eq!(all[0].0.path, b"s");
        assert_eq!(all[0].0.size, 6000);
        assert_eq!(all[0].1, sparse_content());
        assert_eq!(all[1].0.path, b"next");
    }
}

#[test]
fn sparse_maps_that_lie_are_refused() {
    for (size, map, reason) in [
        ("6000", "5000,10,1000,20", "overlap"),
        ("6000", "1000,10,1005,20", "overlap"),
        ("6000", "1000,10,5990,20", "behind the file's end"),
        ("6000", "1000,10,5000,21", "add up"),
        ("6000", "1000,10,5000", "without length"),
        ("6000", "1000,10,x,20", "list of numbers"),
        ("6000", "18446744073709551615,1", "out of range"),
    ] {
        let tar = TarBuilder::new().pax("GNU.sparse.size", size).pax("GNU.sparse.map", map).file("s", [1; 30]).finish();
        let error = problem(&tar);
        assert!(error.to_string().contains(reason), "{map}: {error}");
        // A record that cannot be read precedes the entry's name.
        assert!(error.to_string().contains("entry \"s\"") || reason == "list of numbers", "{error}");
    }
}

#[test]
fn a_huge_sparse_file_costs_one_hole() {
    let size = (1u64 << 60).to_string();
    let tar = TarBuilder::new().pax("GNU.sparse.size", size).pax("GNU.sparse.map", "").file("bomb", "").finish();
    let mut reader = Reader::new(SliceInput(&tar));
    let mut entry = Entry::default();
    assert!(reader.next(&mut entry).unwrap());
    assert_eq!(reader.data().unwrap(), Some(Piece::Hole(1 << 60)));
    assert_eq!(reader.data().unwrap(), None);
}

#[test]
fn damage_is_named_with_its_place() {
    let good = TarBuilder::new().file("first", "1").file("second", vec![2; 600]).finish();
    let mut flipped = good.clone();
    flipped[1024] ^= 1;
    let error = problem(&flipped);
    assert!(matches!(error.problem, Problem::Checksum { .. }));
    assert_eq!(error.offset, 1024);
    for (length, offset) in [(1024 + 100, 1124), (1536 + 513, 2049), (1536 + 601, 2137)] {
        let error = problem(&good[..length]);
        assert!(matches!(error.problem, Problem::Truncated), "{length}");
        assert_eq!(error.offset, offset as u64, "{length}");
    }
    let error = problem(&good[..1536 + 513]);
    assert_eq!(error.entry.as_deref(), Some(&b"second"[..]));
    let text = error.to_string();
    assert_eq!(
        text,
        "the archive ends in the middle of an entry (at byte 2049 of the uncompressed tar, entry \"second\")"
    );
}

#[test]
fn bad_headers_are_refused() {
    let with = |range: std::ops::Range<usize>, bytes: &[u8]| {
        let mut block = header(b"f", b'0', 0, b"");
        block[range].copy_from_slice(bytes);
        seal(&mut block);
        TarBuilder::new().raw(&block).finish()
    };
    assert!(matches!(problem(&with(124..136, &[0xff; 12])).problem, Problem::Number("size")));
    assert!(matches!(problem(&with(124..128, b"9999")).problem, Problem::Number("size")));
    assert!(matches!(problem(&with(108..116, &[0x80, 1, 0, 0, 0, 0, 0, 0])).problem, Problem::Number("uid")));
    assert!(matches!(problem(&with(156..157, b"M")).problem, Problem::Type('M')));
    assert!(matches!(problem(&with(156..157, b"S")).problem, Problem::Type('S')));
    let device = TarBuilder::new().device("d", b'3', 4096, 0).finish();
    assert!(matches!(problem(&device).problem, Problem::Number("device")));
    let nul = TarBuilder::new().pax("path", "a\0b").file("f", "").finish();
    assert!(matches!(problem(&nul).problem, Problem::Nul));
    let large = TarBuilder::new().raw(&header(b"x", b'x', (1 << 20) + 1, b"")).finish();
    assert!(matches!(problem(&large).problem, Problem::ExtensionTooLarge(1_048_577)));
    let lone = TarBuilder::new().raw(&[0; 512]).file("f", "").finish();
    assert!(matches!(problem(&lone).problem, Problem::LoneZeroBlock));
}

#[test]
fn bad_pax_records_are_refused() {
    let all = [&b"5 a\n"[..], b"99 path=x\n", b"x path=x\n", b"9 path=x\n\n", b"6 =b\n\n", b"0 path=x\n", b"path=x\n"];
    for records in all {
        let mut content = records.to_vec();
        content.resize(512, 0);
        let tar = TarBuilder::new().raw(&header(b"x", b'x', records.len() as u64, b"")).raw(&content).file("f", "");
        let error = problem(&tar.finish());
        assert!(matches!(error.problem, Problem::Pax(_)), "{}: {error}", records.escape_ascii());
    }
    let mut many = TarBuilder::new();
    for number in 0..1025 {
        many = many.pax(&format!("SCHILY.xattr.user.{number}"), "");
    }
    assert!(matches!(problem(&many.file("f", "").finish()).problem, Problem::Pax("extended attribute")));
}

#[test]
fn global_headers_and_volume_labels_are_passed_over() {
    let mut global = header(b"g", b'g', 12, b"").to_vec();
    global.extend_from_slice(b"12 path=abc\n");
    global.resize(1024, 0);
    let tar = TarBuilder::new().raw(&global).raw(&header(b"label", b'V', 0, b"")).file("f", "").finish();
    assert_eq!(only(&tar).0.path, b"f");
}

#[test]
fn the_end_is_told_apart_from_a_cut() {
    for (tar, end) in [
        (TarBuilder::new().file("f", "").finish(), End::Marked),
        (TarBuilder::new().file("f", "").unfinished(), End::Unmarked),
        (TarBuilder::new().file("f", "").raw(&[0; 512]).unfinished(), End::Marked),
    ] {
        let mut reader = Reader::new(SliceInput(&tar));
        let mut entry = Entry::default();
        assert!(reader.next(&mut entry).unwrap());
        assert!(!reader.next(&mut entry).unwrap());
        assert_eq!(reader.end(), Some(end));
    }
}

/// Not random, so that a failure can be repeated.
fn xorshift(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

#[test]
fn mutations_never_panic_and_never_read_past_the_end() {
    let tar = TarBuilder::new()
        .pax("SCHILY.xattr.user.a", "b")
        .pax("GNU.sparse.size", "6000")
        .pax("GNU.sparse.map", "1000,10,5000,20")
        .file("s", [1; 30])
        .symlink("l", "s")
        .file("f", [2; 700])
        .finish();
    let mut state = 0x9e37_79b9_7f4a_7c15;
    let mut failed = 0;
    for _ in 0..20_000 {
        let mut mutated = tar.clone();
        for _ in 0..1 + xorshift(&mut state) % 4 {
            let at = xorshift(&mut state) as usize % mutated.len();
            mutated[at] = xorshift(&mut state) as u8;
        }
        // Half of them with checksums made right, so that what lies behind is reached.
        if xorshift(&mut state).is_multiple_of(2) {
            for block in mutated.chunks_exact_mut(512) {
                let block: &mut [u8; 512] = block.try_into().unwrap();
                if &block[257..262] == b"ustar" {
                    seal(block);
                }
            }
        }
        mutated.truncate(xorshift(&mut state) as usize % (2 * tar.len()));
        let mut reader = Reader::new(SliceInput(&mutated));
        let mut entry = Entry::default();
        let outcome = (|| {
            while reader.next(&mut entry)? {
                while reader.data()?.is_some() {}
            }
            Ok::<_, Error>(())
        })();
        if let Err(error) = outcome {
            assert!(error.offset <= mutated.len() as u64);
            failed += 1;
        }
    }
    assert!(failed > 1000, "mutations had no effect");
}
