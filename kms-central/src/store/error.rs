//! Why the store did not do something, and what to do about it.

use std::path::PathBuf;

/// One error.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file cannot be had.
    #[error("the store {} cannot be opened; {remedy}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// What to do.
        remedy: &'static str,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Nobody answers, or there is no majority.
    #[error(
        "the store does not answer while {doing}; nothing was written. Are its nodes up and reachable?"
    )]
    Unavailable {
        /// What was being done.
        doing: &'static str,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// It may or may not have been done.
    #[error("the store did not say whether a write was done")]
    Unknown {
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// No room.
    #[error(
        "the store has no room; nothing was written. Make room on its disk, or raise etcd's quota and compact it"
    )]
    Full {
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// It does not let us.
    #[error(
        "the store refuses central's certificate; its user needs read and write below the prefix"
    )]
    Denied {
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// What was asked for was compacted away.
    #[error("the store has forgotten its state at revision {at}")]
    Forgotten {
        /// The revision.
        at: u64,
    },
    /// What was asked for has not come.
    #[error(
        "the store has not come to revision {at}: was a backup restored, or is it another cluster?"
    )]
    NotYet {
        /// The revision.
        at: u64,
    },
    /// What is in there is not what we wrote.
    #[error("the store is damaged: {what}; restore a backup")]
    Corrupt {
        /// What.
        what: &'static str,
        /// Why.
        source: Option<Box<dyn std::error::Error + Send + Sync>>,
    },
    /// Too much at once: a mistake of ours.
    #[error("a transaction is too large for the store")]
    TooLarge,
    /// Writes nothing, or one key twice: a mistake of ours.
    #[error("a transaction writes nothing, or a key twice")]
    Malformed,
}
