use super::*;
use crate::tar::{Entry, Reader};
use crate::test_tar::TarBuilder;
use flate2::write::GzEncoder;
use std::io::Write;
use std::sync::atomic::AtomicU64;

struct Bytes(Vec<u8>);

impl Blob for Bytes {
    fn open(&self) -> io::Result<Box<dyn Read + Send + '_>> {
        Ok(Box::new(&self.0[..]))
    }
}

fn tar() -> Vec<u8> {
    // Noise, so that compressors keep its size, over several buffers.
    let mut state = 1u32;
    let noise = (0..3 * CHUNK)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        })
        .collect::<Vec<_>>();
    TarBuilder::new().file("noise", noise).file("last", "x").finish()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn layer(blob: &[u8], tar: &[u8]) -> Layer {
    Layer {
        name: "layer x".into(),
        blob: Box::new(Bytes(blob.to_vec())),
        digest: Some(Digest::of(blob)),
        size: Some(blob.len() as u64),
        diff_id: Some(Digest::of(tar)),
        estargz: false,
    }
}

fn count(layer: &Layer) -> Result<usize, Error> {
    read(layer, 1 << 30, &|_| {}, |input| {
        let mut reader = Reader::new(input);
        let mut entry = Entry::default();
        let mut count = 0;
        while reader.next(&mut entry).map_err(|source| Error::Tar { layer: layer.name.clone(), source })? {
            count += 1;
        }
        Ok(count)
    })
}

fn packed() -> Vec<(Vec<u8>, &'static str)> {
    let tar = tar();
    let (front, back) = tar.split_at(100_000);
    let members = [gzip(front), gzip(back)].concat();
    let frames = [zstd::encode_all(front, 1).unwrap(), zstd::encode_all(back, 1).unwrap()].concat();
    // As zstd:chunked has: a skippable frame that is not part of the content.
    let skippable = [&[0x50, 0x2a, 0x4d, 0x18, 4, 0, 0, 0, 1, 2, 3, 4][..], &frames].concat();
    vec![(tar.clone(), "plain"), (gzip(&tar), "gzip"), (members, "gzip"), (frames, "zstd"), (skippable, "zstd")]
}

#[test]
fn layers_are_unpacked_by_what_they_contain() {
    let tar = tar();
    for (blob, form) in packed() {
        assert_eq!(count(&layer(&blob, &tar)).unwrap(), 2, "{form}");
    }
}

#[test]
fn all_bytes_of_the_blob_are_reported() {
    let (tar, blob) = (tar(), gzip(&tar()));
    let seen = AtomicU64::new(0);
    let advanced = |bytes| {
        seen.fetch_add(bytes, Ordering::Relaxed);
    };
    read(&layer(&blob, &tar), 1 << 30, &advanced, |_| Ok(())).unwrap();
    assert_eq!(seen.into_inner(), blob.len() as u64);
}

#[test]
fn a_truncated_layer_is_said_to_be_cut() {
    let tar = tar();
    for (blob, form) in packed() {
        for length in [0, 5, 300, blob.len() / 2, blob.len() - 1] {
            let mut layer = layer(&blob, &tar);
            layer.blob = Box::new(Bytes(blob[..length].to_vec()));
            let error = count(&layer).unwrap_err();
            let Error::BlobSize { expected, found, .. } = error else { panic!("{form} at {length}: {error:?}") };
            assert_eq!((expected, found), (blob.len() as u64, length as u64));
        }
    }
}

#[test]
fn a_layer_with_more_behind_it_is_refused() {
    let tar = tar();
    for (blob, form) in packed() {
        let mut layer = layer(&blob, &tar);
        layer.blob = Box::new(Bytes([&blob[..], &[0; 100]].concat()));
        let error = count(&layer).unwrap_err();
        assert!(matches!(error, Error::BlobSize { .. }), "{form}: {error:?}");
        assert!(error.to_string().contains("has more bytes instead of"), "{error}");
    }
}

#[test]
fn a_flipped_bit_is_found_wherever_it_is() {
    let tar = tar();
    for (blob, form) in packed() {
        for at in [0, 20, 150, 600, blob.len() / 3, blob.len() - 2] {
            let mut bad = blob.clone();
            bad[at] ^= 0x10;
            let mut layer = layer(&blob, &tar);
            layer.blob = Box::new(Bytes(bad.clone()));
            let error = count(&layer).unwrap_err();
            let Error::BlobDigest { found, noticed, .. } = &error else { panic!("{form} at {at}: {error:?}") };
            assert_eq!(*found, Digest::of(&bad));
            // In the first header of a plain tar it is the checksum that shows it.
            if form == "plain" && at == 20 {
                assert!(noticed.is_some());
                let text = error.to_string();
                assert!(text.contains("first sign: layer x: header checksum is"), "{text}");
                assert!(text.contains("at byte 0 of the uncompressed tar"), "{text}");
            }
        }
    }
}

#[test]
fn a_layer_that_is_whole_but_not_valid_is_refused() {
    let tar = tar();
    let good = gzip(&tar);
    let bad = [&good[..good.len() / 2], &[0xff; 64]].concat();
    let error = count(&layer(&bad, &tar)).unwrap_err();
    assert!(matches!(error, Error::Decompress { compression: "gzip", .. }), "{error:?}");
    let other = count(&layer(&good, b"other")).unwrap_err();
    let Error::DiffId { expected, found, .. } = other else { panic!("{other:?}") };
    assert_eq!((expected, found), (Digest::of(b"other"), Digest::of(&tar)));
    let xz = layer(b"\xfd7zXZ\0\0\0\0\0\0\0", &tar);
    assert!(matches!(count(&xz), Err(Error::Compression { compression: "xz", .. })));
}

#[test]
fn a_bomb_stops_at_the_limit() {
    let zeros = vec![0; 8 << 20];
    for blob in [gzip(&zeros), zstd::encode_all(&zeros[..], 1).unwrap(), zeros.clone()] {
        let result = read(&layer(&blob, &zeros), 1 << 20, &|_| {}, |input| {
            let mut total = 0;
            loop {
                let count = input.fill().unwrap().len();
                if count == 0 {
                    break Ok(total);
                }
                total += count;
                input.consume(count);
                assert!(total <= 1 << 20);
            }
        });
        assert!(matches!(result, Err(Error::LayerTooLarge { limit: 1_048_576, .. })), "{result:?}");
    }
}

#[test]
fn the_parser_s_own_failure_comes_through_a_good_layer() {
    let tar = tar();
    let blob = gzip(&tar);
    let failed = || Error::DigestForm("mark".into());
    let result = read(&layer(&blob, &tar), 1 << 30, &|_| {}, |_| Err::<(), _>(failed()));
    assert!(matches!(result, Err(Error::DigestForm(_))));
    // One that damage could explain has the layer checked to its end.
    let whole = read(&layer(&blob, &tar), 1 << 30, &|_| {}, |input| {
        let problem = Reader::new(input).fail(crate::tar::Problem::NoEndMarker);
        Err::<(), _>(Error::Tar { layer: String::new(), source: problem })
    });
    assert!(matches!(whole, Err(Error::Tar { .. })), "{whole:?}");
}
