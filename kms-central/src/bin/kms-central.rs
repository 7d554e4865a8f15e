//! The central KMS server.
//!
//! Reads the command line; the daemon's life is in the library.

fn main() {}
