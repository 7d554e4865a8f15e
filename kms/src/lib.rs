//! Managed keys: what central decides, what an intermediate serves, and where a key can be used.
//!
//! Each of the three is a core without I/O, and a tokio shell beside it. Tokens are `hsm`'s business, frames `wire`'s.
//! Invariant: nothing that is not signed by central is believed.

pub mod central;
pub mod intermediate;
pub mod lookup;
pub mod records;
