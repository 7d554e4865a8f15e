//! The client's flights during a handshake, as bytes in a receive buffer.
//!
//! Decides where a flight ends and what can never be one; the signer judges the rest. No I/O: each reader is asked
//! again whenever the buffer has grown. Nothing here trusts a length before it has been bounded.

mod client_flight;
mod client_hello;
mod finished;
mod key_exchange;

pub use client_flight::{ClientFlightReader, FlightPart};
pub use client_hello::{Hello, HelloFacts, HelloReader};
pub use finished::{FinishedReader, FinishedStep, VerifyData};
pub use key_exchange::KeyExchangeReader;

use crate::record::{RecordError, content_type};
use keyhaven_types::alert;

/// Compatibility ChangeCipherSpec records that a TLS 1.3 client may send (RFC 8446, appendix D.4, asks for one).
const COMPAT_CCS_MAX: u8 = 2;
/// Bytes of early data, with record headers and tags, that are skipped: 2^14 of content and its wrapping.
const SKIPPED_BYTES_MAX: usize = (1 << 14) + (1 << 12);

/// Why a flight is refused. The alert goes to the client, the words to the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what}")]
pub struct Refused {
    /// The alert description.
    pub alert: u8,
    /// What the client did.
    pub what: &'static str,
}

impl Refused {
    pub(crate) const fn unexpected(what: &'static str) -> Self {
        Self {
            alert: alert::UNEXPECTED_MESSAGE,
            what,
        }
    }

    pub(crate) const fn malformed(what: &'static str) -> Self {
        Self {
            alert: alert::DECODE_ERROR,
            what,
        }
    }
}

impl From<RecordError> for Refused {
    fn from(error: RecordError) -> Self {
        Self {
            alert: error.alert(),
            what: match error {
                RecordError::ContentType(_) => "a record of unknown content type",
                RecordError::Version => "a record of another protocol version",
                RecordError::Overflow => "a record longer than the protocol allows",
                RecordError::Mac => "a record that does not decrypt",
                RecordError::OnlyPadding => "a record of padding only",
                RecordError::KeySpent => "the key's last record is used up",
            },
        }
    }
}

/// Why reading a flight ended without one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FlightError {
    /// The client broke a rule and gets an alert.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// The client sent an alert of its own and gets no answer.
    #[error("the client left with alert {0} {name}", name = alert::name(*.0))]
    ClientAlert(u8),
}

impl From<RecordError> for FlightError {
    fn from(error: RecordError) -> Self {
        Self::Refused(error.into())
    }
}

/// What one connection may still send that is tolerated and ignored, over all of its flights.
#[derive(Debug)]
pub struct Tolerance {
    compat_ccs: u8,
    skipped_bytes: usize,
    early_data: bool,
}

impl Default for Tolerance {
    fn default() -> Self {
        Self {
            compat_ccs: COMPAT_CCS_MAX,
            skipped_bytes: SKIPPED_BYTES_MAX,
            early_data: false,
        }
    }
}

impl Tolerance {
    /// Whether the last ClientHello offered early data, which is never accepted and must be skipped.
    pub fn set_early_data(&mut self, offered: bool) {
        self.early_data = offered;
    }

    /// Counts a compatibility ChangeCipherSpec.
    fn compat_ccs(&mut self, fragment: &[u8]) -> Result<(), Refused> {
        if fragment != [1] {
            return Err(Refused::unexpected("a malformed ChangeCipherSpec"));
        }
        self.compat_ccs = self
            .compat_ccs
            .checked_sub(1)
            .ok_or(Refused::unexpected("too many ChangeCipherSpec records"))?;
        Ok(())
    }

    /// Counts a record of early data; `false` when it may not be skipped.
    fn skip(&mut self, record_len: usize) -> bool {
        match self.skipped_bytes.checked_sub(record_len) {
            Some(left) if self.early_data => {
                self.skipped_bytes = left;
                true
            }
            _ => false,
        }
    }
}

/// The description of an unprotected alert record's fragment.
fn plain_alert_description(fragment: &[u8]) -> Result<u8, Refused> {
    match *fragment {
        [1 | 2, description] => Ok(description),
        [] => Err(Refused::unexpected("an empty alert")),
        _ => Err(Refused::malformed("a malformed alert")),
    }
}

/// Whether the byte could start a TLS record.
fn is_content_type(byte: u8) -> bool {
    (content_type::CHANGE_CIPHER_SPEC..=content_type::APPLICATION_DATA).contains(&byte)
}
