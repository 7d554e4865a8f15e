//! What travels around managed keys: records, replication, operations, lookup, administration.
//!
//! Form and bounds only. What a record proves is judged in the `kms` room. As everywhere in the protocol, the order of
//! variants and fields is part of it: append, never reorder.

pub mod admin;
mod bounds;
mod lookup;
mod operations;
mod records;
mod replication;

pub(crate) use bounds::validate_results;
pub use bounds::*;
pub use lookup::*;
pub use operations::*;
pub use records::*;
pub use replication::*;
