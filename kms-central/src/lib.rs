//! The central KMS server: the store of state, the root token, and the requests of sites and operators.
//!
//! What may be done to a key is decided in `kms`; here it is done and remembered. Invariant: nothing is acknowledged
//! before the store has it for good.

pub mod store;
