//! Exit statuses, which scripts rely on: the program's own, or one of these.
//!
//! 125 to 127 are what other container tools and the shells use for the same reasons.

/// Why `coracle` ended without becoming the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// A command that runs no program did what it was asked.
    Success = 0,
    /// `doctor` found something that keeps images from running.
    Unfit = 1,
    /// Coracle itself failed, or did not understand its arguments.
    Failure = 125,
    /// The program is in the image, but cannot be executed.
    NotExecutable = 126,
    /// The program is not in the image.
    NotFound = 127,
}
