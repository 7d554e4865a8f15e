//! The `signer` program.
fn main() {}
