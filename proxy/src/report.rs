//! One connection's line in the log: who, what, how much, and why it ended.
//!
//! Holds names and numbers only; no key, no content. Failures of ours are warnings, everything a client can cause by
//! itself is information.

use std::{fmt::Write as _, net::SocketAddr, time::Instant};

use aws_lc_rs::digest;
use keyhaven_types::CustodyLevel;
use keyhaven_wire::Established;

use crate::{signers::SignerName, suite};

/// What is known of a connection so far.
pub(crate) struct Report {
    client: SocketAddr,
    accepted: Instant,
    /// The name that the client asked for.
    pub(crate) server_name: String,
    /// The signer.
    pub(crate) signer: Option<SignerName>,
    /// Application bytes from the client.
    pub(crate) bytes_up: u64,
    /// Application bytes to the client.
    pub(crate) bytes_down: u64,
    facts: Option<Facts>,
}

struct Facts {
    version: String,
    suite: &'static str,
    level: CustodyLevel,
    alpn: String,
    resumed: bool,
    /// The common name in the client's certificate, as far as it may stand in a log.
    client_name: String,
    /// The client's certificate, by its hash.
    client_certificate: String,
    handshake_ms: u64,
}

impl Report {
    /// A connection that has just been accepted.
    pub(crate) fn new(client: SocketAddr) -> Self {
        Self {
            client,
            accepted: Instant::now(),
            server_name: String::new(),
            signer: None,
            bytes_up: 0,
            bytes_down: 0,
            facts: None,
        }
    }

    /// Notes what the handshake has come to.
    pub(crate) fn established(&mut self, established: &Established) {
        self.server_name.clone_from(&established.server_name);
        let alpn = established.alpn.as_deref().unwrap_or_default();
        let client = established.client.as_ref();
        self.facts = Some(Facts {
            version: established.version.to_string(),
            suite: suite::name(established.suite).standard,
            level: established.level,
            alpn: alpn.escape_ascii().to_string(),
            resumed: established.resumed,
            client_name: client.map_or_else(String::new, |client| {
                client.common_name.escape_debug().to_string()
            }),
            client_certificate: client.map_or_else(String::new, |client| fingerprint(&client.leaf)),
            handshake_ms: self.elapsed_ms(),
        });
    }

    /// Writes the line.
    pub(crate) fn write(&self, end: &str, is_ours: bool) {
        let facts = self.facts.as_ref();
        let client = self.client;
        let server_name = self.server_name.as_str();
        let name = self.signer.as_ref();
        let signer = name.map_or("", |name| name.identity.as_str());
        let signer_address = name.map_or("", |name| name.address.as_str());
        let version = facts.map_or("", |facts| facts.version.as_str());
        let suite = facts.map_or("", |facts| facts.suite);
        // Not `level`: that is the line's own in JSON.
        let custody = facts.map_or("", |facts| facts.level.as_str());
        let alpn = facts.map_or("", |facts| facts.alpn.as_str());
        let resumed = facts.map(|facts| facts.resumed);
        let client_name = facts.map_or("", |facts| facts.client_name.as_str());
        let client_certificate = facts.map_or("", |facts| facts.client_certificate.as_str());
        let handshake_ms = facts.map(|facts| facts.handshake_ms);
        let (bytes_up, bytes_down) = (self.bytes_up, self.bytes_down);
        let duration_ms = self.elapsed_ms();
        if is_ours {
            tracing::warn!(
                %client, server_name, version, suite, custody, alpn, resumed, client_name, client_certificate,
                signer, signer_address, handshake_ms, bytes_up, bytes_down, duration_ms, end, "connection failed"
            );
        } else {
            tracing::info!(
                %client, server_name, version, suite, custody, alpn, resumed, client_name, client_certificate,
                signer, signer_address, handshake_ms, bytes_up, bytes_down, duration_ms, end, "connection ended"
            );
        }
    }

    fn elapsed_ms(&self) -> u64 {
        self.accepted.elapsed().as_millis() as u64
    }
}

/// An error with all of its causes, in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

/// The SHA-256 of a certificate in hexadecimal, as tools show it.
fn fingerprint(certificate: &[u8]) -> String {
    let digest = digest::digest(&digest::SHA256, certificate);
    digest
        .as_ref()
        .iter()
        .fold(String::new(), |mut text, byte| {
            // Writing to a text cannot fail.
            let _ = write!(text, "{byte:02x}");
            text
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use keyhaven_types::{AeadAlgorithm, Secret, TlsVersion};
    use keyhaven_wire::{ClientCertificate, ConnectionId, TrafficKey};

    #[test]
    fn a_certificate_is_shown_by_its_sha_256() {
        // FIPS 180-4, "abc".
        assert_eq!(
            fingerprint(b"abc"),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
    }

    #[test]
    fn a_common_name_cannot_break_the_line() {
        let key = || TrafficKey {
            aead: AeadAlgorithm::Aes128Gcm,
            key: Secret::new(vec![1; 16]),
            iv: Secret::new(vec![1; 12]),
            seq: 0,
        };
        let mut report = Report::new(([127, 0, 0, 1], 1).into());
        report.established(&Established {
            connection: ConnectionId([1; 32]),
            version: TlsVersion::Tls13,
            suite: 0x1301,
            write: key(),
            read: key(),
            rekey_write: Vec::new(),
            rekey_read: Vec::new(),
            lifetime_s: 60,
            server_name: String::new(),
            alpn: None,
            level: CustodyLevel::Premaster,
            tickets: Vec::new(),
            resumed: true,
            client: Some(ClientCertificate {
                leaf: b"abc".to_vec(),
                common_name: "Zo\u{eb}\n\u{1b}[31m\u{202e}".to_owned(),
            }),
        });
        let facts = report.facts.unwrap();
        assert_eq!(facts.client_name, "Zo\u{eb}\\n\\u{1b}[31m\\u{202e}");
        assert_eq!(facts.client_certificate, fingerprint(b"abc"));
        assert!(facts.resumed);
    }
}
