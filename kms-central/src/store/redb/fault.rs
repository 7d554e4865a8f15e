//! What redb's errors mean for the store.
//!
//! Leaves to the store whether a failed commit came through after all. Invariant: a full disk is told from a broken one.

use redb::{CommitError, DatabaseError, StorageError, TableError, TransactionError};

use crate::store::StoreError;

/// What to do about a file that does not open.
pub(super) fn remedy_for(error: &DatabaseError) -> &'static str {
    match error {
        DatabaseError::DatabaseAlreadyOpen => {
            "another process has it: one kms-central for each file; several need etcd"
        }
        DatabaseError::UpgradeRequired(_) => {
            "it is of an older format: restore a backup with the old program"
        }
        DatabaseError::Storage(StorageError::Corrupted(_)) => "it is damaged: restore a backup",
        DatabaseError::Storage(StorageError::Io(error))
            if error.kind() == std::io::ErrorKind::InvalidData =>
        {
            "it is another kind of file: check the path in [store]"
        }
        _ => "check its disk and permissions",
    }
}

pub(super) fn storage(error: StorageError) -> StoreError {
    match error {
        StorageError::Io(source) if is_full(&source) => StoreError::Full {
            source: source.into(),
        },
        StorageError::Corrupted(_) => StoreError::Corrupt {
            what: "its pages do not check",
            source: Some(error.into()),
        },
        // After a failed write redb wants to be opened anew before it goes on.
        other => StoreError::Unavailable {
            doing: "reading or writing its file",
            source: other.into(),
        },
    }
}

pub(super) fn begin(error: TransactionError) -> StoreError {
    match error {
        TransactionError::Storage(error) => storage(error),
        other => StoreError::Unavailable {
            doing: "beginning a transaction",
            source: other.into(),
        },
    }
}

pub(super) fn table(error: TableError) -> StoreError {
    match error {
        TableError::Storage(error) => storage(error),
        other => StoreError::Corrupt {
            what: "a table is missing or another one",
            source: Some(other.into()),
        },
    }
}

pub(super) fn commit(error: CommitError) -> StoreError {
    match error {
        CommitError::Storage(error) => storage(error),
        other => StoreError::Unavailable {
            doing: "committing a transaction",
            source: other.into(),
        },
    }
}

fn is_full(error: &std::io::Error) -> bool {
    matches!(
        error.kind(),
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded
    )
}
