//! TLS 1.3 in one round trip: the Finished that the client will send is computed, and rustls is given it.
//!
//! After this the server's side of the handshake is complete although the client has proven nothing. What is
//! released here must therefore leave the signer only behind the Finished-lock.

use keyhaven_types::{AeadAlgorithm, CustodyLevel, HashAlgorithm};
use rustls::{CipherSuite, SupportedCipherSuite};

use crate::{
    connection::{Connection, Pumped},
    context::Captured,
    engine::{Established, Released},
    error::Failure,
    keys::{self, SessionKey},
};

/// Completes rustls' handshake and takes the keys out. `captured` comes from the step that made the flight.
pub(crate) fn release(
    mut connection: Connection,
    captured: Captured,
    level: CustodyLevel,
    server_name: String,
) -> Result<Released, Failure> {
    let Captured {
        client_handshake: Some(client_handshake),
        client_application: Some(client_application),
        server_application: Some(server_application),
        transcript_hash,
    } = captured
    else {
        return Err(Failure::Engine(
            "the key schedule did not show its traffic secrets",
        ));
    };
    let (suite, aead, hash) = parameters(&connection)?;

    let verify_data = keys::verify_data(hash, &client_handshake, &transcript_hash);
    let handshake_read = SessionKey::from_traffic_secret(aead, hash, &client_handshake);
    let record = keys::finished_record(&handshake_read, &verify_data);
    let mut after_finished = Vec::new();
    match connection.pump(&record, &mut after_finished) {
        Ok(Pumped::Done) => {}
        Ok(Pumped::Blocked) => {
            return Err(Failure::Engine("rustls waits for more than the Finished"));
        }
        Err(error) => return Err(Failure::Rustls(error)),
    }
    if !after_finished.is_empty() {
        return Err(Failure::Engine(
            "rustls sent records after the Finished, yet tickets are off",
        ));
    }

    let alpn = connection.alpn();
    let (write, read) = connection.into_keys()?;
    Ok(Released {
        handshake_read,
        verify_data,
        refusal_key: write.duplicate(),
        server_application,
        client_application,
        hash,
        transcript_hash,
        established: Established {
            is_tls13: true,
            suite,
            write,
            read,
            server_name,
            alpn,
            level,
        },
    })
}

fn parameters(connection: &Connection) -> Result<(u16, AeadAlgorithm, HashAlgorithm), Failure> {
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
    Ok((suite.common.suite.into(), aead, hash))
}
