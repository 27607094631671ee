//! The `flyover` binary.
fn main() {}
