//! Central's rules: what its records are, how one follows from another, and what a site is told.
//!
//! No I/O and no token: the daemon reads and writes the store, has the token do what a plan asks for, and signs. Time is
//! the caller's. Invariant: a record is written only by a transaction that also moves the head on by one.

mod certificates;
mod changes;
mod classes;
mod enforced;
mod keys;
mod mirror;
mod plan;
mod sites;
mod state_tree;
pub mod store_key;
mod transaction;

pub use changes::{Followed, HISTORY};
pub use enforced::{Acks, Heard};
pub use mirror::{Item, Mirror};
pub use plan::{Claim, Draft, Material, Plan, Rewrap, Rewrapped, Step, Work, WorkDone, csr_scheme};
pub use transaction::{Numbered, Sealed, SignError, Transaction, TransactionError};
