//! Where a key can be used: which servers can do an operation, how fast, and having it done there.
//!
//! The core (`capable`, `answer`, `plan`, `measured`, `marks`, `proof`) decides without I/O; the shell (`router`, `watch`,
//! `passing`) asks peers and carries batches. Doing an operation is `intermediate`'s business. Invariant: who has no grant
//! gets the answer that fits a key which does not exist, by the same way.

mod answer;
mod measured;

mod directory;
mod marks;
mod plan;
mod proof;

mod router;

mod ask;
mod passing;
mod shared;
mod watch;

pub mod testing;

pub use self::{
    directory::{Directory, Local},
    router::{Counts, Operate, Router, RouterParts},
};
