//! What the verbs print that explain a launch before there is one.

use std::io::{self, Write};

use serde::Serialize;

/// What a launch would do, and why. As JSON its names are an interface.
pub trait Explanation: Serialize {
    /// Whether the launch would start.
    fn works(&self) -> bool;

    /// Writes it for people.
    ///
    /// # Errors
    /// When `out` takes no more.
    fn write(&self, out: &mut dyn Write) -> io::Result<()>;
}
