//! One connection's line in the log: who, what, how much, and why it ended.
//!
//! Holds names and numbers only; no key, no content. Failures of ours are warnings, everything a client can cause by
//! itself is information.

use std::{net::SocketAddr, time::Instant};

use keyhaven_types::CustodyLevel;
use keyhaven_wire::Established;

use crate::signers::SignerName;

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
        self.facts = Some(Facts {
            version: established.version.to_string(),
            suite: suite_name(established.suite),
            level: established.level,
            alpn: alpn.escape_ascii().to_string(),
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
        let handshake_ms = facts.map(|facts| facts.handshake_ms);
        let (bytes_up, bytes_down) = (self.bytes_up, self.bytes_down);
        let duration_ms = self.elapsed_ms();
        if is_ours {
            tracing::warn!(
                %client, server_name, version, suite, custody, alpn, signer, signer_address, handshake_ms,
                bytes_up, bytes_down, duration_ms, end, "connection failed"
            );
        } else {
            tracing::info!(
                %client, server_name, version, suite, custody, alpn, signer, signer_address, handshake_ms,
                bytes_up, bytes_down, duration_ms, end, "connection ended"
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

/// The registered name of a suite (RFC 8446, B.4; RFC 5289; RFC 7905).
fn suite_name(suite: u16) -> &'static str {
    match suite {
        0x1301 => "TLS_AES_128_GCM_SHA256",
        0x1302 => "TLS_AES_256_GCM_SHA384",
        0x1303 => "TLS_CHACHA20_POLY1305_SHA256",
        0xc02b => "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
        0xc02c => "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384",
        0xc02f => "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
        0xc030 => "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384",
        0xcca8 => "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256",
        0xcca9 => "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
        _ => "unknown",
    }
}
