//! From the handshake room's values to the protocol's messages.
//!
//! Here the keys of a TLS 1.3 handshake go behind the Finished-lock; nothing here decides anything.

use std::time::{Duration, SystemTime};

use aws_lc_rs::digest;
use keyhaven_handshake::{
    Established, Expect, RekeyBinding, RekeyError, RekeyFacts, Released, Sealer, SessionKey,
};
use keyhaven_types::{Direction, Identity, TlsVersion};
use keyhaven_wire::{self as wire, ConnectionId, HandshakeId, Locked, TrafficKey, lock};

/// What a TLS 1.3 handshake is answered with, and what the signer keeps of it.
pub(crate) struct LockedRelease {
    pub(crate) locked: Locked,
    /// The proof that only the client's Finished gives.
    pub(crate) proof: [u8; 32],
    /// For the one alert that refuses a Finished.
    pub(crate) refusal_key: SessionKey,
}

/// Why keys could not be locked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LockError {
    #[error("cannot seal the rekey state")]
    Seal(#[from] RekeyError),
    #[error("cannot lock the keys behind the client's Finished")]
    Lock(#[from] lock::LockError),
}

/// Who and what a release is for.
pub(crate) struct ReleaseTo<'a> {
    pub(crate) handshake: &'a HandshakeId,
    pub(crate) proxy: &'a Identity,
    pub(crate) site: [u8; 32],
    pub(crate) lifetime: Duration,
    pub(crate) now: SystemTime,
}

/// Locks a TLS 1.3 handshake's keys behind the client's Finished. `flight` is what goes to the client.
pub(crate) fn lock_release(
    released: Released,
    flight: &[u8],
    to: &ReleaseTo<'_>,
    sealer: &Sealer,
) -> Result<LockedRelease, LockError> {
    let connection = connection_id(&released.transcript_hash);
    let facts = RekeyFacts {
        site: to.site,
        aead: released.established.write.aead,
        hash: released.hash,
        not_after: to.now + to.lifetime,
    };
    let seal = |direction, secret| {
        let binding = RekeyBinding {
            connection: &connection.0,
            proxy: to.proxy.as_str(),
            direction,
        };
        sealer.seal(to.now, binding, facts, 1, secret)
    };
    let rekey_write = seal(Direction::Write, &released.server_application)?;
    let rekey_read = seal(Direction::Read, &released.client_application)?;
    let verify_data = released.verify_data.expose_secret();
    let content = established(
        released.established,
        connection,
        to.lifetime,
        rekey_write,
        rekey_read,
    );
    Ok(LockedRelease {
        proof: lock::outcome_proof(to.handshake, verify_data)?,
        locked: Locked {
            handshake_read: traffic_key(released.handshake_read),
            verify_data_len: verify_data.len() as u8,
            sealed_box: lock::seal(to.handshake, verify_data, flight, to.proxy, &content)?,
        },
        refusal_key: released.refusal_key,
    })
}

/// A TLS 1.2 connection's keys; they have no successors.
pub(crate) fn open_release(
    content: Established,
    handshake: &HandshakeId,
    lifetime: Duration,
) -> wire::Established {
    established(
        content,
        connection_id(&handshake.0),
        lifetime,
        Vec::new(),
        Vec::new(),
    )
}

/// The protocol's word for what comes next.
pub(crate) fn expect(expect: Expect) -> wire::Expect {
    match expect {
        Expect::ClientHello => wire::Expect::ClientHello,
        Expect::KeyExchange => wire::Expect::KeyExchange,
    }
}

/// A key on its way to the proxy.
pub(crate) fn traffic_key(key: SessionKey) -> TrafficKey {
    TrafficKey {
        aead: key.aead,
        key: key.key,
        iv: key.iv,
        seq: key.seq,
    }
}

fn established(
    content: Established,
    connection: ConnectionId,
    lifetime: Duration,
    rekey_write: Vec<u8>,
    rekey_read: Vec<u8>,
) -> wire::Established {
    wire::Established {
        connection,
        version: if content.is_tls13 {
            TlsVersion::Tls13
        } else {
            TlsVersion::Tls12
        },
        suite: content.suite,
        write: traffic_key(content.write),
        read: traffic_key(content.read),
        rekey_write,
        rekey_read,
        lifetime_s: u32::try_from(lifetime.as_secs()).unwrap_or(u32::MAX),
        server_name: content.server_name,
        alpn: content.alpn,
        level: content.level,
        tickets: Vec::new(),
        resumed: false,
        client: None,
    }
}

fn connection_id(unique: &[u8]) -> ConnectionId {
    let hash = digest::digest(
        &digest::SHA256,
        &[b"keyhaven connection\0", unique].concat(),
    );
    let mut id = [0; 32];
    id.copy_from_slice(hash.as_ref());
    ConnectionId(id)
}
