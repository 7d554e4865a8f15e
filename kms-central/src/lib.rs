//! The central KMS server: the store of state, the root token, and the requests of sites and operators.
//!
//! What may be done to a key is decided in `kms`; here it is done and remembered. Invariant: nothing is acknowledged
//! before the store has it for good.

mod commit;
pub mod config;
pub mod daemon;
mod desk;
mod feed;
mod serve;
pub mod store;
mod work;
