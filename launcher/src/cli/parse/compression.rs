//! How an image is to be packed.

use coracle_squashfs::compress::Compression;
use coracle_squashfs::format::{BLOCK_SIZE_MAX, BLOCK_SIZE_MIN};

use super::Error;

/// Parses `CODEC[:LEVEL]`; without a level it is gzip's highest, and for zstd the converter's default.
///
/// # Errors
/// [`Error::Compression`]
pub fn compression(value: &str) -> Result<Compression, Error> {
    let (codec, level) = match value.split_once(':') {
        Some((codec, level)) => (codec, Some(level.parse::<u32>().map_err(|_| Error::Compression)?)),
        None => (value, None),
    };
    match (codec, level) {
        ("zstd", None) => Ok(Compression::default()),
        ("zstd", Some(level)) => ranged(level, 22).map(|level| Compression::Zstd { level }),
        ("gzip", level) => ranged(level.unwrap_or(9), 9).map(|level| Compression::Gzip { level }),
        ("lz4", None) => Ok(Compression::Lz4),
        ("xz", None) => Ok(Compression::Xz),
        _ => Err(Error::Compression),
    }
}

fn ranged(level: u32, max: u32) -> Result<u32, Error> {
    if (1..=max).contains(&level) { Ok(level) } else { Err(Error::Compression) }
}

/// Parses a number of bytes, with `K` or `M` for the powers of 1024.
///
/// # Errors
/// [`Error::BlockSize`]
pub fn block_size(value: &str) -> Result<u32, Error> {
    let (digits, unit) = match value.strip_suffix(['k', 'K']) {
        Some(digits) => (digits, 1 << 10),
        None => value.strip_suffix(['m', 'M']).map_or((value, 1), |digits| (digits, 1 << 20)),
    };
    let size = digits.parse::<u32>().ok().and_then(|number| number.checked_mul(unit)).ok_or(Error::BlockSize)?;
    let valid = size.is_power_of_two() && (BLOCK_SIZE_MIN..=BLOCK_SIZE_MAX).contains(&size);
    if valid { Ok(size) } else { Err(Error::BlockSize) }
}
