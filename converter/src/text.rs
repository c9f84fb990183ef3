//! Shows hostile byte strings in messages.

use std::fmt;

/// Longest part of a name that a message shows, in bytes.
const SHOWN: usize = 256;

/// A path or name from a layer: printable, on one line, bounded.
pub struct Name<'a>(pub &'a [u8]);

impl fmt::Display for Name<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = self.0.get(..SHOWN).unwrap_or(self.0);
        f.write_str("\"")?;
        for chunk in shown.utf8_chunks() {
            for character in chunk.valid().chars() {
                if character.is_control() || character == '"' || character == '\\' {
                    write!(f, "{}", character.escape_default())?;
                } else {
                    write!(f, "{character}")?;
                }
            }
            for byte in chunk.invalid() {
                write!(f, "\\x{byte:02x}")?;
            }
        }
        f.write_str(if shown.len() < self.0.len() { "…\"" } else { "\"" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_escaped_and_bounded() {
        assert_eq!(Name(b"a\n\"\xff").to_string(), "\"a\\n\\\"\\xff\"");
        assert!(Name(&[b'x'; 5000]).to_string().len() < 300);
    }
}
