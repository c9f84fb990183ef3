//! Written with the sources.
