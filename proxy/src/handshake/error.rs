//! Why a handshake ends without a connection, and what the client is still told.
//!
//! Only unprotected alerts are decided here; sealed ones come from the signer. An alert that the client could not read
//! is never sent.

use std::io;

use keyhaven_types::alert;

use crate::{
    flight::{FlightError, Refused},
    record::{KeyError, RecordError},
    signers::SignerError,
};

/// A handshake that has failed.
#[derive(Debug)]
pub(crate) struct Failed {
    /// Why.
    pub(crate) error: HandshakeError,
    /// The unprotected alert that the client is still to get.
    pub(crate) alert: Option<u8>,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HandshakeError {
    /// The client broke a rule.
    #[error("the client sent {0}")]
    Refused(Refused),
    /// The signer refused the client and its alert has been sent.
    #[error("the signer refused the handshake with alert {0} {name}", name = alert::name(*.0))]
    SignerRefused(u8),
    /// The client sent an alert.
    #[error("the client left with alert {0} {name}", name = alert::name(*.0))]
    ClientAlert(u8),
    /// The client was too slow with its ClientHello.
    #[error("no whole ClientHello within client_hello_timeout_ms")]
    SlowHello,
    /// The handshake took too long.
    #[error("no whole handshake within handshake_timeout_ms")]
    Slow,
    /// The proxy is stopping and the grace is over.
    #[error("the proxy is stopping")]
    Stopping,
    /// The client's connection broke or ended.
    #[error("the client's connection ended in the handshake")]
    Client(#[source] io::Error),
    /// The signer could not do it.
    #[error(transparent)]
    Signer(#[from] SignerError),
    /// The signer's answer cannot be used.
    #[error("the signer's answer cannot be used: {0}")]
    Answer(&'static str),
}

impl HandshakeError {
    /// With the alert that fits, if the client can read one that is not protected.
    pub(super) fn failed(self, is_plain: bool) -> Failed {
        let alert = match &self {
            Self::Refused(refused) => Some(refused.alert),
            Self::Signer(_) | Self::Answer(_) => Some(alert::INTERNAL_ERROR),
            Self::SlowHello | Self::Slow => Some(alert::USER_CANCELED),
            Self::SignerRefused(_) | Self::ClientAlert(_) | Self::Stopping | Self::Client(_) => {
                None
            }
        };
        Failed {
            alert: alert.filter(|_| is_plain),
            error: self,
        }
    }

    /// Whether something of ours failed, and not the client.
    pub(crate) fn is_ours(&self) -> bool {
        matches!(self, Self::Signer(_) | Self::Answer(_))
    }
}

impl From<Refused> for HandshakeError {
    fn from(refused: Refused) -> Self {
        Self::Refused(refused)
    }
}

impl From<FlightError> for HandshakeError {
    fn from(error: FlightError) -> Self {
        match error {
            FlightError::Refused(refused) => Self::Refused(refused),
            FlightError::ClientAlert(description) => Self::ClientAlert(description),
        }
    }
}

impl From<KeyError> for HandshakeError {
    fn from(_: KeyError) -> Self {
        Self::Answer("a key or IV has the wrong length")
    }
}

impl From<RecordError> for HandshakeError {
    fn from(error: RecordError) -> Self {
        Self::Refused(error.into())
    }
}
