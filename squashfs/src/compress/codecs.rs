//! One codec per variant. Decompression contexts live in thread-locals: making a zstd context costs more than
//! unpacking a metadata block with it.

use super::{CodecError, Compress, Compression};
use crate::format::compression;
use std::cell::RefCell;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Codec {
    Gzip,
    Lzo,
    Xz,
    Lz4,
    Zstd,
}

/// Memory that one xz block may claim: the largest dictionary `mksquashfs` makes is the block size, 1 MiB.
const XZ_MEMORY: u64 = 32 << 20;

thread_local! {
    static GZIP: RefCell<libdeflater::Decompressor> = RefCell::new(libdeflater::Decompressor::new());
    static ZSTD: RefCell<Option<zstd::bulk::Decompressor<'static>>> = const { RefCell::new(None) };
}

impl Codec {
    pub(super) fn from_id(id: u16) -> Result<Self, CodecError> {
        Ok(match id {
            compression::ZLIB => Self::Gzip,
            compression::LZO => Self::Lzo,
            compression::XZ => Self::Xz,
            compression::LZ4 => Self::Lz4,
            compression::ZSTD => Self::Zstd,
            _ => return Err(CodecError::Unsupported(id)),
        })
    }

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Lzo => "lzo",
            Self::Xz => "xz",
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
        }
    }

    pub(super) fn decompress(self, input: &[u8], output: &mut [u8]) -> Result<usize, CodecError> {
        match self {
            Self::Gzip => GZIP.with_borrow_mut(|d| d.zlib_decompress(input, output)).map_err(|e| self.corrupt(&e)),
            Self::Lzo => lzokay::decompress::decompress(input, output).map_err(|e| self.corrupt(&e)),
            Self::Lz4 => lz4_flex::block::decompress_into(input, output).map_err(|e| self.corrupt(&e)),
            Self::Xz => self.decompress_xz(input, output),
            Self::Zstd => ZSTD.with_borrow_mut(|slot| {
                let context = match slot {
                    Some(context) => context,
                    None => slot.insert(zstd::bulk::Decompressor::new().map_err(|e| self.corrupt(&e))?),
                };
                context.decompress_to_buffer(input, output).map_err(|e| self.corrupt(&e))
            }),
        }
    }

    fn decompress_xz(self, input: &[u8], output: &mut [u8]) -> Result<usize, CodecError> {
        use liblzma::stream::{Action, Status, Stream};
        let mut stream = Stream::new_stream_decoder(XZ_MEMORY, 0).map_err(|e| self.corrupt(&e))?;
        loop {
            let (read, written) = (stream.total_in() as usize, stream.total_out() as usize);
            let status =
                stream.process(&input[read..], &mut output[written..], Action::Finish).map_err(|e| self.corrupt(&e))?;
            match status {
                Status::StreamEnd => return Ok(stream.total_out() as usize),
                _ if stream.total_in() as usize == read && stream.total_out() as usize == written => {
                    return Err(self.corrupt(&"stream ends early or unpacks to more than a block"));
                }
                _ => {}
            }
        }
    }

    fn corrupt(self, reason: &dyn std::fmt::Display) -> CodecError {
        CodecError::Corrupt { codec: self.name(), reason: reason.to_string() }
    }
}

pub(super) fn compressor(compression: Compression, block_size: u32) -> Result<Box<dyn Compress>, CodecError> {
    match compression {
        Compression::Gzip { level } => {
            check_level("gzip", level, 1, 9)?;
            let level =
                libdeflater::CompressionLvl::new(level as i32).map_err(|e| failed("gzip", &format!("{e:?}")))?;
            Ok(Box::new(Gzip(libdeflater::Compressor::new(level))))
        }
        Compression::Zstd { level } => {
            check_level("zstd", level, 1, 22)?;
            let context = zstd::bulk::Compressor::new(level as i32).map_err(|e| failed("zstd", &e))?;
            Ok(Box::new(Zstd(context)))
        }
        Compression::Lz4 => Ok(Box::new(Lz4)),
        Compression::Xz => Ok(Box::new(Xz { dictionary: block_size.max(crate::format::METADATA_SIZE as u32) })),
    }
}

fn check_level(codec: &'static str, level: u32, min: u32, max: u32) -> Result<(), CodecError> {
    if (min..=max).contains(&level) { Ok(()) } else { Err(CodecError::Level { codec, level, min, max }) }
}

fn failed(codec: &'static str, reason: &dyn std::fmt::Display) -> CodecError {
    CodecError::Failed { codec, reason: reason.to_string() }
}

struct Gzip(libdeflater::Compressor);

impl Compress for Gzip {
    fn compress(&mut self, input: &[u8], output: &mut Vec<u8>) -> Result<bool, CodecError> {
        output.clear();
        output.resize(input.len(), 0);
        match self.0.zlib_compress(input, output) {
            Ok(n) => {
                output.truncate(n);
                Ok(n < input.len())
            }
            Err(libdeflater::CompressionError::InsufficientSpace) => Ok(false),
        }
    }
}

struct Zstd(zstd::bulk::Compressor<'static>);

impl Compress for Zstd {
    fn compress(&mut self, input: &[u8], output: &mut Vec<u8>) -> Result<bool, CodecError> {
        output.clear();
        output.reserve(zstd::zstd_safe::compress_bound(input.len()));
        let n = self.0.compress_to_buffer(input, output).map_err(|e| failed("zstd", &e))?;
        Ok(n < input.len())
    }
}

struct Lz4;

impl Compress for Lz4 {
    fn compress(&mut self, input: &[u8], output: &mut Vec<u8>) -> Result<bool, CodecError> {
        output.clear();
        output.resize(lz4_flex::block::get_maximum_output_size(input.len()), 0);
        let n = lz4_flex::block::compress_into(input, output).map_err(|e| failed("lz4", &e))?;
        output.truncate(n);
        Ok(n < input.len())
    }
}

struct Xz {
    dictionary: u32,
}

impl Compress for Xz {
    fn compress(&mut self, input: &[u8], output: &mut Vec<u8>) -> Result<bool, CodecError> {
        use liblzma::stream::{Action, Check, Filters, LzmaOptions, Status, Stream};
        let mut options = LzmaOptions::new_preset(6).map_err(|e| failed("xz", &e))?;
        options.dict_size(self.dictionary);
        // The kernel's decoder knows CRC-32 alone.
        let mut stream =
            Stream::new_stream_encoder(Filters::new().lzma2(&options), Check::Crc32).map_err(|e| failed("xz", &e))?;
        output.clear();
        output.resize(input.len(), 0);
        let status = stream.process(input, output, Action::Finish).map_err(|e| failed("xz", &e))?;
        let n = stream.total_out() as usize;
        output.truncate(n);
        Ok(status == Status::StreamEnd && n < input.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compress::Decompressor;

    fn sample() -> Vec<u8> {
        (0..100_000u32).flat_map(|i| (i / 7 % 251).to_le_bytes()).take(131_072).collect()
    }

    #[test]
    fn every_codec_returns_what_it_packed() {
        for compression in [
            Compression::Gzip { level: 9 },
            Compression::Gzip { level: 1 },
            Compression::Zstd { level: 3 },
            Compression::Zstd { level: 19 },
            Compression::Lz4,
            Compression::Xz,
        ] {
            let mut packer = compression.compressor(131_072).unwrap();
            let mut packed = Vec::new();
            assert!(packer.compress(&sample(), &mut packed).unwrap(), "{compression:?}");
            let mut out = vec![0; 131_072];
            let n = Decompressor::new(compression.id()).unwrap().decompress(&packed, &mut out).unwrap();
            assert_eq!(&out[..n], sample(), "{compression:?}");
        }
    }

    #[test]
    fn incompressible_input_is_refused_and_short_output_is_an_error() {
        let mut state = 1u64;
        let noise: Vec<u8> = std::iter::repeat_with(|| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8
        })
        .take(65_536)
        .collect();
        for compression in
            [Compression::Gzip { level: 6 }, Compression::Zstd { level: 3 }, Compression::Lz4, Compression::Xz]
        {
            let mut packer = compression.compressor(65_536).unwrap();
            let mut packed = Vec::new();
            assert!(!packer.compress(&noise, &mut packed).unwrap(), "{compression:?}");
            assert!(packer.compress(&sample(), &mut packed).unwrap());
            let error = Decompressor::new(compression.id()).unwrap().decompress(&packed, &mut [0; 1000]);
            assert!(matches!(error, Err(CodecError::Corrupt { .. })), "{compression:?}: {error:?}");
        }
    }

    #[test]
    fn garbage_is_an_error_in_every_codec() {
        for id in [1, 3, 4, 5, 6] {
            let result = Decompressor::new(id).unwrap().decompress(b"\xff\xff\x17garbage garbage", &mut [0; 4096]);
            assert!(result.is_err(), "codec {id}");
        }
    }

    #[test]
    fn levels_out_of_range_and_unknown_ids_are_named() {
        let error = Compression::Zstd { level: 23 }.compressor(4096).err().unwrap();
        assert_eq!(error.to_string(), "zstd has no level 23: use 1 to 22");
        assert_eq!(Decompressor::new(2).unwrap_err().to_string(), "compressor 2 is not supported");
    }
}
