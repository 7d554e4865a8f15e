//! The record layer (RFC 8446, section 5; RFC 5246, section 6.2): framing, and protection under session keys.
//!
//! Leaves to others what the records say: handshake messages, alerts and caps. Nothing here performs I/O, and no
//! input can make it panic. A record key is a move-only value whose sequence number only ever grows.

pub mod aead;
pub mod frame;
#[cfg(feature = "nonce-log")]
mod nonce_log;

pub use aead::{Generation, KeyError, Opened, ReadKey, WriteKey};
pub use frame::{Bound, Record, next_record, plain_alert};

use keyhaven_types::alert;

/// Length of a record header in bytes.
pub const HEADER_LEN: usize = 5;
/// The longest plaintext of one record in bytes.
pub const PLAINTEXT_MAX: usize = 1 << 14;
/// The longest protected record of any version, header included: TLS 1.2 allows 2,048 bytes of expansion.
pub const RECORD_MAX: usize = HEADER_LEN + PLAINTEXT_MAX + 2048;

/// Content types by the names of the standard.
pub mod content_type {
    #![allow(missing_docs)]
    pub const CHANGE_CIPHER_SPEC: u8 = 20;
    pub const ALERT: u8 = 21;
    pub const HANDSHAKE: u8 = 22;
    pub const APPLICATION_DATA: u8 = 23;
}

/// Why a record is not accepted, or cannot be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// A content type that TLS does not have.
    #[error("a record of unknown content type {0}")]
    ContentType(u8),
    /// Another major version than 3.
    #[error("a record of another protocol version")]
    Version,
    /// Longer than its version allows.
    #[error("a record longer than the protocol allows")]
    Overflow,
    /// It does not decrypt.
    #[error("a record that does not decrypt")]
    Mac,
    /// A TLS 1.3 record that is padding and nothing else.
    #[error("a record of padding only")]
    OnlyPadding,
    /// The key has protected as many records as its AEAD allows.
    #[error("the key's last record is used up")]
    KeySpent,
}

impl RecordError {
    /// The alert that the standard names for it.
    pub fn alert(self) -> u8 {
        match self {
            Self::ContentType(_) | Self::OnlyPadding => alert::UNEXPECTED_MESSAGE,
            Self::Version => alert::PROTOCOL_VERSION,
            Self::Overflow => alert::RECORD_OVERFLOW,
            Self::Mac => alert::BAD_RECORD_MAC,
            Self::KeySpent => alert::INTERNAL_ERROR,
        }
    }
}
