//! What etcd's errors mean for the store.
//!
//! etcd says some things by gRPC's code alone and others only in its words, so both are looked at. Invariant: where a
//! write may have been done, no error says that it was not.

use etcd_client::Error;

use crate::store::StoreError;

/// Whether another node, or the same one later, may answer. A write that ends so may have been done.
pub(super) fn is_transient(error: &Error) -> bool {
    match error {
        Error::TransportError(_) | Error::IoError(_) => true,
        Error::GRpcStatus(_) => {
            matches!(code(error), CANCELLED | UNKNOWN | DEADLINE | UNAVAILABLE) || is_busy(error)
        }
        _ => false,
    }
}

/// What an error means that is not transient. `at`: the revision that was asked for.
pub(super) fn judge(doing: &'static str, at: u64, error: Error) -> StoreError {
    let words = error.to_string();
    let says = |what: &str| words.contains(what);
    match code(&error) {
        INVALID if says("request is too large") => StoreError::TooLarge,
        OUT_OF_RANGE if says("compacted") => StoreError::Forgotten { at },
        OUT_OF_RANGE if says("future revision") => StoreError::NotYet { at },
        RESOURCES if says("space exceeded") => StoreError::Full {
            source: error.into(),
        },
        DENIED | UNAUTHENTICATED => StoreError::Denied {
            source: error.into(),
        },
        // A certificate without a name, where etcd asks for names.
        INVALID | PRECONDITION if says("user name") => StoreError::Denied {
            source: error.into(),
        },
        DATA_LOSS => StoreError::Corrupt {
            what: "an etcd node has lost data",
            source: Some(error.into()),
        },
        _ => StoreError::Unavailable {
            doing,
            source: error.into(),
        },
    }
}

/// Why etcd cancelled a watch, by its words: there is no code.
pub(super) fn judge_cancelled(reason: &str) -> StoreError {
    let source = reason.to_owned().into();
    if reason.contains("permission denied") {
        return StoreError::Denied { source };
    }
    StoreError::Unavailable {
        doing: "watching",
        source,
    }
}

/// Whether more came at once than we take: reading in pages helps.
pub(super) fn is_too_much(error: &Error) -> bool {
    code(error) == OUT_OF_RANGE && error.to_string().contains("message length too large")
}

/// Too many requests: the same code as a full disk, and another matter.
fn is_busy(error: &Error) -> bool {
    code(error) == RESOURCES && error.to_string().contains("too many requests")
}

/// gRPC's code; 0, which no error has, when it is another kind.
fn code(error: &Error) -> i32 {
    match error {
        Error::GRpcStatus(status) => status.code() as i32,
        _ => 0,
    }
}

// gRPC's status codes by number, since the crate with their names is a dependency of etcd-client alone.
const CANCELLED: i32 = 1;
const UNKNOWN: i32 = 2;
const INVALID: i32 = 3;
const DEADLINE: i32 = 4;
const DENIED: i32 = 7;
const RESOURCES: i32 = 8;
const PRECONDITION: i32 = 9;
const OUT_OF_RANGE: i32 = 11;
const UNAVAILABLE: i32 = 14;
const DATA_LOSS: i32 = 15;
const UNAUTHENTICATED: i32 = 16;
