//! A short name for what makes two launches equal.

use std::hash::{DefaultHasher, Hasher};

/// Bytes of a fingerprint.
pub const BYTES: usize = 16;

/// Takes parts in, and ends as 16 bytes that tell them from others.
///
/// It guards against chance, not against an attacker: what goes in is the caller's own. A hash that looks for the
/// processor's fastest instructions first would take longer over that than over the hashing: a virtual machine has to
/// ask its host each time (`cpuid`).
pub struct Fingerprint([DefaultHasher; 2]);

impl Fingerprint {
    /// Of nothing yet.
    #[must_use]
    pub fn new() -> Self {
        let mut halves = [DefaultHasher::new(), DefaultHasher::new()];
        halves.iter_mut().zip([1, 2]).for_each(|(half, seed)| half.write_u8(seed));
        Self(halves)
    }

    /// Takes in bytes, and where they end.
    pub fn bytes(&mut self, bytes: &[u8]) {
        self.number(bytes.len() as u64);
        self.0.iter_mut().for_each(|half| half.write(bytes));
    }

    /// Takes in a number.
    pub fn number(&mut self, number: u64) {
        self.0.iter_mut().for_each(|half| half.write_u64(number));
    }

    /// What it comes to.
    #[must_use]
    pub fn finish(self) -> [u8; BYTES] {
        let [low, high] = self.0.map(|half| half.finish());
        (u128::from(low) | u128::from(high) << 64).to_le_bytes()
    }
}

impl Default for Fingerprint {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(parts: &[&str]) -> [u8; BYTES] {
        let mut fingerprint = Fingerprint::new();
        parts.iter().for_each(|part| fingerprint.bytes(part.as_bytes()));
        fingerprint.finish()
    }

    #[test]
    fn parts_and_their_bounds_count() {
        assert_eq!(of(&["a", "bc"]), of(&["a", "bc"]));
        assert_ne!(of(&["a", "bc"]), of(&["ab", "c"]));
        assert_ne!(of(&[]), of(&[""]));
        let whole = of(&["a"]);
        let (low, high) = whole.split_at(8);
        assert_ne!(low, high, "the halves are independent");
    }
}
