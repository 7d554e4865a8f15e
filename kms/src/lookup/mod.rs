//! Where a key can be used: which servers can do an operation, how fast, and having it done there.
//!
//! The core (`capable`, `answer`, `plan`, `measured`, `marks`, `proof`) decides without I/O; the shell (`router`, `watch`,
//! `passing`) asks peers and carries batches. Doing an operation is `intermediate`'s business. Invariant: who has no grant
//! gets the answer that fits a key which does not exist, by the same way.

mod directory;
mod router;

pub use self::{
    directory::{Directory, Local},
    router::{Counts, Operate, Router, RouterParts},
};
