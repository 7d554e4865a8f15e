//! The `signer-admin` program.
fn main() {}
