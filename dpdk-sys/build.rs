//! Placeholder until the bindings are generated.
fn main() {}
