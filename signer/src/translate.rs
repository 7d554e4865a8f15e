//! From the handshake room's values to the protocol's messages.
//!
//! Here the keys of a TLS 1.3 handshake go behind the Finished-lock, and traffic secrets into sealed states; it runs
//! on a token worker, where those that are in a token can be wrapped. Nothing here decides anything.

use std::time::{Duration, SystemTime};

use aws_lc_rs::digest;
use keyhaven_handshake::{
    Established, Expect, RekeyBinding, RekeyError, RekeyFacts, RekeySecrets, Released, Sealer,
    SessionKey, TrafficSecret,
};
use keyhaven_hsm::Worker;
use keyhaven_types::{Direction, Identity, TlsVersion};
use keyhaven_wire::{
    self as wire, CLIENT_LEAF_BYTES_MAX, ClientCertificate, ConnectionId, HandshakeId, Locked,
    TrafficKey, lock,
};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::policy::ServedSite;

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
    #[error(
        "the client's certificate has {0} bytes; at most {CLIENT_LEAF_BYTES_MAX} can be passed on"
    )]
    ClientCertificate(usize),
}

impl LockError {
    /// Whether the token is to blame, so that another signer may do better.
    pub(crate) fn is_token(&self) -> bool {
        matches!(self, Self::Seal(RekeyError::Token(_)))
    }
}

/// Who and what a release is for.
pub(crate) struct ReleaseTo<'a> {
    pub(crate) handshake: HandshakeId,
    pub(crate) proxy: &'a Identity,
    pub(crate) served: &'a ServedSite,
    pub(crate) lifetime: Duration,
    pub(crate) now: SystemTime,
    pub(crate) sealer: &'a Sealer,
}

/// Locks a TLS 1.3 handshake's keys behind the client's Finished. `flight` is what goes to the client.
pub(crate) fn lock_release(
    worker: &Worker,
    released: Released,
    flight: &[u8],
    to: &ReleaseTo<'_>,
) -> Result<LockedRelease, LockError> {
    let verify_data = released.verify_data.expose_secret();
    let content = open_release(worker, released.established, to)?;
    Ok(LockedRelease {
        proof: lock::outcome_proof(&to.handshake, verify_data)?,
        locked: Locked {
            handshake_read: traffic_key(released.handshake_read),
            verify_data_len: verify_data.len() as u8,
            sealed_box: lock::seal(&to.handshake, verify_data, flight, to.proxy, &content)?,
        },
        refusal_key: released.refusal_key,
    })
}

/// A connection's keys, with sealed states for the next ones where there are any.
pub(crate) fn open_release(
    worker: &Worker,
    content: Established,
    to: &ReleaseTo<'_>,
) -> Result<wire::Established, LockError> {
    if let Some(leaf) = &content.client_certificate
        && leaf.len() > CLIENT_LEAF_BYTES_MAX
    {
        return Err(LockError::ClientCertificate(leaf.len()));
    }
    let unique = match &content.rekey {
        Some(rekey) => &rekey.transcript_hash,
        None => &to.handshake.0[..],
    };
    let connection = connection_id(unique);
    let (rekey_write, rekey_read) = match &content.rekey {
        Some(secrets) => {
            let site = to.served.seal_id(&content.key_hash);
            seal_both(worker, secrets, site, connection, to)?
        }
        None => (Vec::new(), Vec::new()),
    };
    Ok(wire::Established {
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
        lifetime_s: u32::try_from(to.lifetime.as_secs()).unwrap_or(u32::MAX),
        server_name: content.server_name,
        alpn: content.alpn,
        level: content.custody.level,
        tickets: content.tickets,
        resumed: content.is_resumed,
        client: content.client_certificate.map(client_certificate),
    })
}

fn seal_both(
    worker: &Worker,
    secrets: &RekeySecrets,
    site: [u8; 32],
    connection: ConnectionId,
    to: &ReleaseTo<'_>,
) -> Result<(Vec<u8>, Vec<u8>), RekeyError> {
    let facts = RekeyFacts {
        site,
        aead: secrets.aead,
        hash: secrets.hash,
        not_after: to.now + to.lifetime,
    };
    let with = to.served.site.rekey_vault().map(|vault| (worker, vault));
    let seal = |direction, secret: &TrafficSecret| {
        let binding = RekeyBinding {
            connection: &connection.0,
            proxy: to.proxy.as_str(),
            direction,
        };
        to.sealer.seal(with, to.now, binding, facts, 1, secret)
    };
    Ok((
        seal(Direction::Write, &secrets.write)?,
        seal(Direction::Read, &secrets.read)?,
    ))
}

/// The leaf with what backends like to know of it.
fn client_certificate(leaf: Vec<u8>) -> ClientCertificate {
    let common_name = X509Certificate::from_der(&leaf)
        .ok()
        .and_then(|(_, certificate)| {
            let name = certificate.subject().iter_common_name().next()?;
            Some(name.as_str().ok()?.to_owned())
        })
        .filter(|name| name.len() <= COMMON_NAME_BYTES_MAX)
        .unwrap_or_default();
    ClientCertificate { leaf, common_name }
}

/// RFC 5280 allows 64 characters; a longer one is left out and not cut.
const COMMON_NAME_BYTES_MAX: usize = 255;

/// The protocol's word for what comes next.
pub(crate) fn expect(expect: Expect) -> wire::Expect {
    match expect {
        Expect::ClientHello => wire::Expect::ClientHello,
        Expect::KeyExchange => wire::Expect::KeyExchange,
        Expect::ClientFlight => wire::Expect::ClientFlight,
        Expect::Finished => wire::Expect::Finished,
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

fn connection_id(unique: &[u8]) -> ConnectionId {
    let hash = digest::digest(
        &digest::SHA256,
        &[b"keyhaven connection\0", unique].concat(),
    );
    let mut id = [0; 32];
    id.copy_from_slice(hash.as_ref());
    ConnectionId(id)
}
