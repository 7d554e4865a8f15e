//! Words for the log: names that can be told, errors with their causes.
//!
//! Nothing here is secret: a handshake is named by a part of its random name.

use keyhaven_wire::HandshakeId;

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

/// Enough of a handshake's name to find its lines.
pub(crate) fn short_name(handshake: &HandshakeId) -> String {
    handshake.0[..8]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}
