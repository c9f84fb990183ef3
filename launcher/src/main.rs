//! The `coracle` program.

fn main() {}
