//! Why the replica could not be read or written.

use std::io;

#[derive(Debug, thiserror::Error)]
pub(crate) enum ReplicaError {
    #[error("cannot open the file")]
    Open(#[source] io::Error),
    #[error("another process uses the file")]
    Locked,
    #[error("the database fails")]
    Database(#[source] Box<redb::Error>),
    #[error("the file belongs to site {found}, or to another central")]
    Foreign { found: String },
    #[error("the file was made by another version of the program")]
    Format,
    #[error("nothing can be written now: the disk did not take what was written before")]
    ReadOnly,
    #[error("it is closed")]
    Closed,
}

macro_rules! from_redb {
    ($($kind:ident),*) => {
        $(impl From<redb::$kind> for ReplicaError {
            fn from(error: redb::$kind) -> Self {
                Self::Database(Box::new(error.into()))
            }
        })*
    };
}

from_redb!(
    CommitError,
    DatabaseError,
    StorageError,
    TableError,
    TransactionError
);
