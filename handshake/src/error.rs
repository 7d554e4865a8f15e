//! Two ways a handshake ends early: something of ours failed, or the client is refused.

use keyhaven_types::alert;
use rustls::{AlertDescription, PeerMisbehaved};

/// Something of ours failed; the client gets internal_error and the operator the details.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The token failed.
    #[error("the token failed in the handshake")]
    Token(#[from] keyhaven_hsm::Error),
    /// rustls asked for a signature over something that is not this handshake.
    #[error("the signing guard refused: {0}")]
    Guard(&'static str),
    /// An invariant between this room and rustls does not hold.
    #[error("handshake engine: {0}")]
    Engine(&'static str),
    /// rustls failed where only we can be at fault.
    #[error("rustls failed")]
    Rustls(#[source] rustls::Error),
}

/// The client is refused, or refused us.
#[derive(Debug)]
pub struct Refusal {
    /// The alert sent, or the one received when `from_client`.
    pub alert: u8,
    /// Whether the client ended the handshake.
    pub from_client: bool,
    /// Why, for the log.
    pub reason: String,
}

impl Refusal {
    /// A refusal for a reason that rustls does not know.
    pub(crate) fn ours(alert: u8, reason: &str) -> Self {
        Self {
            alert,
            from_client: false,
            reason: reason.to_owned(),
        }
    }

    /// The refusal behind an error of rustls, with the alert it queued, if any.
    pub(crate) fn from_rustls(error: &rustls::Error, queued_alert: Option<u8>) -> Self {
        if let rustls::Error::AlertReceived(received) = error {
            return Self {
                alert: (*received).into(),
                from_client: true,
                reason: error.to_string(),
            };
        }
        Self {
            alert: queued_alert.unwrap_or_else(|| alert_for(error)),
            from_client: false,
            reason: error.to_string(),
        }
    }
}

/// The alert for an error whose own alert cannot be read: rustls queued none, or a protected one (RFC 8446, section
/// 6.2).
fn alert_for(error: &rustls::Error) -> u8 {
    match error {
        rustls::Error::InappropriateMessage { .. }
        | rustls::Error::InappropriateHandshakeMessage { .. } => alert::UNEXPECTED_MESSAGE,
        rustls::Error::InvalidMessage(_) => alert::DECODE_ERROR,
        rustls::Error::DecryptError => alert::BAD_RECORD_MAC,
        rustls::Error::PeerSentOversizedRecord => alert::RECORD_OVERFLOW,
        rustls::Error::NoCertificatesPresented => AlertDescription::CertificateRequired.into(),
        rustls::Error::InvalidCertificate(error) => AlertDescription::from(error.clone()).into(),
        rustls::Error::PeerMisbehaved(PeerMisbehaved::IncorrectBinder) => {
            AlertDescription::DecryptError.into()
        }
        rustls::Error::PeerMisbehaved(_) => alert::ILLEGAL_PARAMETER,
        rustls::Error::PeerIncompatible(_) => alert::HANDSHAKE_FAILURE,
        _ => alert::INTERNAL_ERROR,
    }
}
