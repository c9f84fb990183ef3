//! Versions: numbers with dots between.

use std::cmp::Ordering;
use std::fmt;

/// Most numbers that a version has.
const PARTS_MAX: usize = 8;

/// A version. Missing numbers are 0: `12` is `12.0`.
#[derive(Clone, Debug, Eq)]
pub struct Version {
    parts: Vec<u32>,
    /// As it was written: drivers have leading zeros.
    text: String,
}

impl Version {
    /// Reads it; `None` when it is something else.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let parts: Vec<&str> = text.split('.').collect();
        let number =
            |part: &&str| part.bytes().all(|digit| digit.is_ascii_digit()).then(|| part.parse().ok()).flatten();
        if parts.len() > PARTS_MAX {
            return None;
        }
        let parts = parts.iter().map(number).collect::<Option<Vec<u32>>>()?;
        Some(Self { parts, text: text.to_owned() })
    }

    /// Of numbers.
    #[must_use]
    pub fn of(parts: &[u32]) -> Self {
        let text: Vec<String> = parts.iter().map(ToString::to_string).collect();
        Self { parts: parts.to_vec(), text: text.join(".") }
    }

    /// The first number.
    #[must_use]
    pub fn major(&self) -> u32 {
        self.parts.first().copied().unwrap_or_default()
    }
}

impl PartialEq for Version {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl PartialOrd for Version {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Version {
    fn cmp(&self, other: &Self) -> Ordering {
        let part = |version: &Self, index| version.parts.get(index).copied().unwrap_or_default();
        let parts = 0..self.parts.len().max(other.parts.len());
        parts
            .map(|index| part(self, index).cmp(&part(other, index)))
            .find(|order| order.is_ne())
            .unwrap_or(Ordering::Equal)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_ordered_by_number() {
        let of = |text: &str| Version::parse(text).unwrap();
        assert!(of("12.10") > of("12.9") && of("12") == of("12.0") && of("470.1") > of("470") && of("9") < of("10"));
        assert_eq!(of("535.54.03").to_string(), "535.54.03");
        for wrong in ["", "a", "1.", "1..2", "-1", "+1", "1.2.3.4.5.6.7.8.9", "99999999999"] {
            assert!(Version::parse(wrong).is_none(), "{wrong}");
        }
    }
}
