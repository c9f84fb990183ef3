//! Sizes and ages as people write them.

use std::time::Duration;

use super::parse::Error;

/// Parses a number of bytes: `500M`, `1.5T`, `1024`. Units are powers of 1024.
///
/// # Errors
/// When it is no such number, or more than 64 bits hold.
pub fn size(text: &str) -> Result<u64, Error> {
    let unit = |unit: &str| match unit {
        "" | "B" => Some(0),
        "K" | "k" | "KiB" => Some(10),
        "M" | "m" | "MiB" => Some(20),
        "G" | "g" | "GiB" => Some(30),
        "T" | "t" | "TiB" => Some(40),
        _ => None,
    };
    let refused = || Error::Size { value: text.to_owned() };
    let (number, shift) = split(text).and_then(|(number, rest)| Some((number, unit(rest)?))).ok_or_else(refused)?;
    let bytes = number * (1_u64 << shift) as f64;
    // Beyond that a float skips numbers, and no store is so large.
    if bytes < (1_u64 << 60) as f64 { Ok(bytes as u64) } else { Err(refused()) }
}

/// Parses an age: `30d`, `12h`, `90m`, `45s`, `2w`.
///
/// # Errors
/// When it is no such age.
pub fn age(text: &str) -> Result<Duration, Error> {
    let unit = |unit: &str| match unit {
        "s" => Some(1_u64),
        "m" => Some(60),
        "h" => Some(3600),
        "d" => Some(24 * 3600),
        "w" => Some(7 * 24 * 3600),
        _ => None,
    };
    let refused = || Error::Age { value: text.to_owned() };
    let (number, seconds) = split(text).and_then(|(number, rest)| Some((number, unit(rest)?))).ok_or_else(refused)?;
    let seconds = number * seconds as f64;
    if seconds < 1e11 { Ok(Duration::from_secs(seconds as u64)) } else { Err(refused()) }
}

/// A number without sign or exponent, and what follows.
fn split(text: &str) -> Option<(f64, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, rest) = text.split_at(end);
    Some((number.parse().ok()?, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_ages() {
        assert_eq!(["0", "7B", "2K", "1.5G", "1TiB"].map(|text| size(text).unwrap()), [0, 7, 2048, 3 << 29, 1 << 40]);
        for bad in ["", "G", "-1", "1e3", "1P", "1 G", "9999999999T", "1..2", "nan", "inf"] {
            assert!(size(bad).is_err(), "{bad}");
        }
        let ages = ["45s", "1.5m", "2h", "30d", "1w"].map(|text| age(text).unwrap().as_secs());
        assert_eq!(ages, [45, 90, 7200, 2_592_000, 604_800]);
        for bad in ["", "30", "d", "-1d", "1y", "99999999999999w"] {
            assert!(age(bad).is_err(), "{bad}");
        }
        assert!(age("30").unwrap_err().to_string().contains("30d"));
    }
}
