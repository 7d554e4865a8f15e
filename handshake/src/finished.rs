//! TLS 1.3 in one round trip: the Finished that the client will send is computed, and rustls is given it.
//!
//! After this the server's side of the handshake is complete although the client has proven nothing. What is
//! released here must therefore leave the signer only behind the Finished-lock.

use keyhaven_types::{AeadAlgorithm, HashAlgorithm, Secret};
use rustls::{CipherSuite, SupportedCipherSuite};

use crate::{
    connection::{Connection, Pumped},
    context::{self, Shown},
    error::Failure,
    keys::{self, SessionKey},
    schedule13,
};

/// What the client's Finished must be, and what reads it.
pub(crate) struct Expected {
    pub(crate) handshake_read: SessionKey,
    pub(crate) verify_data: Secret,
}

/// A TLS 1.3 suite.
#[derive(Clone, Copy)]
pub(crate) struct Parameters {
    pub(crate) aead: AeadAlgorithm,
    pub(crate) hash: HashAlgorithm,
}

/// Completes rustls' handshake with the Finished that the client should send; gives what it must be, and the records
/// that rustls sends after it: tickets.
pub(crate) fn complete(
    connection: &mut Connection,
    client_handshake: &Shown,
    transcript_hash: &[u8],
) -> Result<(Expected, Vec<u8>), Failure> {
    let Parameters { aead, hash } = parameters(connection)?;
    let (handshake_read, verify_data) = match client_handshake {
        Shown::Bytes(secret) => (
            SessionKey::from_traffic_secret(aead, hash, secret),
            keys::verify_data(hash, secret, transcript_hash),
        ),
        Shown::Handle(secret) => {
            let label = keys::label_info(b"finished", hash.output_len());
            let key = match context::expand(*secret, hash, b"finished", label)? {
                Shown::Handle(key) => key,
                Shown::Bytes(_) => return Err(Failure::Engine("a Finished key came out")),
            };
            (
                traffic_key(aead, hash, *secret)?,
                schedule13::hmac(hash, key, transcript_hash)?,
            )
        }
    };
    let record = keys::finished_record(&handshake_read, &verify_data);
    let mut tickets = Vec::new();
    match connection.pump(&record, &mut tickets) {
        Ok(Pumped::Done) => {}
        Ok(Pumped::Blocked) => {
            return Err(Failure::Engine("rustls waits for more than the Finished"));
        }
        Err(error) => return Err(Failure::Rustls(error)),
    }
    let expected = Expected {
        handshake_read,
        verify_data,
    };
    Ok((expected, tickets))
}

/// The key of a traffic secret in the token: it and its IV come out (RFC 8446, section 7.3).
fn traffic_key(
    aead: AeadAlgorithm,
    hash: HashAlgorithm,
    secret: crate::secrets::Index,
) -> Result<SessionKey, Failure> {
    let take = |label: &[u8], len: usize| {
        let mut bytes = zeroize::Zeroizing::new(vec![0; len]);
        schedule13::expand_bytes(hash, secret, &keys::label_info(label, len), &mut bytes)?;
        Ok::<_, Failure>(Secret::copy_from(&bytes))
    };
    Ok(SessionKey {
        aead,
        key: take(b"key", aead.key_len())?,
        iv: take(b"iv", 12)?,
        seq: 0,
    })
}

/// The suite that was agreed on.
pub(crate) fn parameters(connection: &Connection) -> Result<Parameters, Failure> {
    let Some(SupportedCipherSuite::Tls13(suite)) = connection.suite() else {
        return Err(Failure::Engine(
            "no TLS 1.3 suite after the server's flight",
        ));
    };
    let (aead, hash) = match suite.common.suite {
        CipherSuite::TLS13_AES_128_GCM_SHA256 => (AeadAlgorithm::Aes128Gcm, HashAlgorithm::Sha256),
        CipherSuite::TLS13_AES_256_GCM_SHA384 => (AeadAlgorithm::Aes256Gcm, HashAlgorithm::Sha384),
        CipherSuite::TLS13_CHACHA20_POLY1305_SHA256 => {
            (AeadAlgorithm::Chacha20Poly1305, HashAlgorithm::Sha256)
        }
        _ => return Err(Failure::Engine("a TLS 1.3 suite that was not offered")),
    };
    Ok(Parameters { aead, hash })
}
