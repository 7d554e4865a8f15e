//! Words for the log and for operators.

use keyhaven_wire::kms::admin::{Refused, RefusedCode};

use crate::store::StoreError;

/// An error and its sources on one line.
pub(crate) fn error_chain(error: &dyn std::error::Error) -> String {
    let mut line = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        line = format!("{line}: {inner}");
        source = inner.source();
    }
    line
}

/// A refusal.
pub(crate) fn refused(code: RefusedCode, why: impl Into<String>) -> Refused {
    Refused {
        code,
        why: why.into(),
    }
}

/// The store's refusal.
pub(crate) fn refused_by_store(error: &StoreError) -> Refused {
    let code = match error {
        StoreError::Unknown { .. } => RefusedCode::Unknown,
        _ => RefusedCode::Store,
    };
    refused(code, error_chain(error))
}

/// The token's refusal.
pub(crate) fn refused_by_token(error: &keyhaven_hsm::Error) -> Refused {
    refused(RefusedCode::Token, error_chain(error))
}
