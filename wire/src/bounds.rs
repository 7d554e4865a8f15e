//! The bounds of every field, checked on both ends of the wire.
//!
//! Says whether a message is well formed, never whether it may be acted on. A message that fails here was not
//! made by our own programs, so the connection it came on is closed.

use keyhaven_types::TlsVersion;
use serde::{Serialize, de::DeserializeOwned};

use crate::kms;
use crate::message::{
    CLIENT_HELLO_BYTES_MAX, CONTINUE_BYTES_MAX, ClientCertificate, Continue, Established,
    HandshakeReply, Locked, Next, REKEY_STATE_BYTES_MAX, Rekey, Rekeyed, Reply, Request, Start,
    TrafficKey,
};

/// The longest text of [`Start::client`]: any IPv6 address with scope and port fits.
pub const CLIENT_TEXT_BYTES_MAX: usize = 64;
/// The longest box behind the Finished-lock.
pub const SEALED_BOX_BYTES_MAX: usize = 8 * 1024;
/// The longest encrypted alert record.
pub const ALERT_RECORD_BYTES_MAX: usize = 64;
/// The longest life of a connection in seconds: one day.
pub const LIFETIME_S_MAX: u32 = 86_400;
/// The most bytes of ticket records, headers included.
pub const TICKETS_BYTES_MAX: usize = 4 * 1024;
/// The longest certificate of a client, DER.
pub const CLIENT_LEAF_BYTES_MAX: usize = 8 * 1024;
/// The longest common name of a client: X.520 allows 64 characters, and some go beyond it.
pub const COMMON_NAME_BYTES_MAX: usize = 255;
/// A host name (RFC 1035, section 2.3.4).
pub const SERVER_NAME_BYTES_MAX: usize = 255;
/// A protocol name (RFC 7301, section 3.1).
pub const ALPN_BYTES_MAX: usize = 255;

/// The largest flight to a client: what a frame can carry beside the box, or beside the largest [`Established`].
const TO_CLIENT_BYTES_MAX: usize = 112 * 1024;
/// The tag that every sealed thing ends with.
const TAG_BYTES: usize = 16;
/// The IV of every AEAD that is served (RFC 8446, section 5.3).
const IV_BYTES: usize = 12;

/// A message of the protocol: what goes into a frame.
pub trait Message: Serialize + DeserializeOwned {
    /// Checks the bounds of every field.
    fn validate(&self) -> Result<(), Invalid>;
}

/// Which field of a message is out of its bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field} is out of bounds: {rule}")]
pub struct Invalid {
    /// The field.
    pub field: &'static str,
    /// What `PROTOCOL.md` asks of it.
    pub rule: &'static str,
}

impl Message for Request {
    fn validate(&self) -> Result<(), Invalid> {
        match self {
            Self::Start(start) => start.validate(),
            Self::Continue(next) => next.validate(),
            Self::Rekey(rekey) => rekey.validate(),
            Self::Outcome(_) | Self::Refuse(_) | Self::Ping | Self::Status => Ok(()),
            Self::Operate(batch) => batch.validate(),
            Self::OperateSigned(batch) => batch.validate(),
            Self::OperatePassed(passed) => passed.validate(),
            Self::Lookup(lookup) => lookup.validate(),
            Self::Follow(follow) => follow.validate(),
            Self::Fetch(fetch) => fetch.validate(),
            Self::Lease(_) => Ok(()),
            Self::Admin(ask) => ask.validate(),
        }
    }
}

impl Message for Reply {
    fn validate(&self) -> Result<(), Invalid> {
        match self {
            Self::Handshake(reply) => reply.validate(),
            Self::Rekeyed(rekeyed) => rekeyed.validate(),
            Self::Alert { record, .. } => check(
                (1..=ALERT_RECORD_BYTES_MAX).contains(&record.len()),
                "record",
                "1 to 64 bytes",
            ),
            Self::Results(results) => kms::validate_results(results),
            Self::Found(found) => found.validate(),
            Self::Changes(changes) => changes.validate(),
            Self::Fetched(fetched) => fetched.validate(),
            Self::Leased(grant) => grant.validate(),
            Self::Status(status) => status.validate(),
            // What an operator's program is told by central is bounded by the frame.
            Self::Admin(_) | Self::Noted | Self::Pong | Self::Error(_) => Ok(()),
        }
    }
}

impl Start {
    fn validate(&self) -> Result<(), Invalid> {
        check(
            self.client.len() <= CLIENT_TEXT_BYTES_MAX,
            "client",
            "at most 64 bytes",
        )?;
        check(
            (1..=CLIENT_HELLO_BYTES_MAX).contains(&self.records.len()),
            "records",
            "1 to 16,384 bytes",
        )
    }
}

impl Continue {
    fn validate(&self) -> Result<(), Invalid> {
        check(
            (1..=CONTINUE_BYTES_MAX).contains(&self.records.len()),
            "records",
            "1 to 34,816 bytes",
        )
    }
}

impl Rekey {
    fn validate(&self) -> Result<(), Invalid> {
        check(self.generation > 0, "generation", "1 or more")?;
        check(
            (1..=REKEY_STATE_BYTES_MAX).contains(&self.state.len()),
            "state",
            "1 to 1,024 bytes",
        )
    }
}

impl HandshakeReply {
    fn validate(&self) -> Result<(), Invalid> {
        check(
            self.consumed as usize <= CONTINUE_BYTES_MAX,
            "consumed",
            "no more than a request can carry",
        )?;
        check(
            self.to_client.len() <= TO_CLIENT_BYTES_MAX,
            "to_client",
            "at most 114,688 bytes",
        )?;
        match &self.next {
            Next::More(_) | Next::Refused { .. } => Ok(()),
            Next::Locked(locked) => locked.validate(),
            Next::Open(established) => established.validate(),
        }
    }
}

impl Locked {
    fn validate(&self) -> Result<(), Invalid> {
        self.handshake_read.validate()?;
        check(
            matches!(self.verify_data_len, 32 | 48),
            "verify_data_len",
            "32 or 48",
        )?;
        check(
            (TAG_BYTES + 1..=SEALED_BOX_BYTES_MAX).contains(&self.sealed_box.len()),
            "sealed_box",
            "17 to 8,192 bytes",
        )
    }
}

impl TrafficKey {
    fn validate(&self) -> Result<(), Invalid> {
        check(
            self.key.len() == self.aead.key_len(),
            "key",
            "as long as its AEAD asks",
        )?;
        check(self.iv.len() == IV_BYTES, "iv", "12 bytes")
    }
}

impl Established {
    /// Checks the bounds; the lock calls it too, since a box is opened after its frame was checked.
    pub(crate) fn validate(&self) -> Result<(), Invalid> {
        self.write.validate()?;
        self.read.validate()?;
        check(
            self.write.aead == self.read.aead,
            "aead",
            "the same both ways",
        )?;
        let state_bytes_max = match self.version {
            TlsVersion::Tls12 => 0,
            TlsVersion::Tls13 => REKEY_STATE_BYTES_MAX,
        };
        for state in [&self.rekey_write, &self.rekey_read] {
            check(
                state.len() <= state_bytes_max,
                "rekey state",
                "at most 1,024 bytes, and none in TLS 1.2",
            )?;
        }
        check(
            (1..=LIFETIME_S_MAX).contains(&self.lifetime_s),
            "lifetime_s",
            "1 to 86,400 seconds",
        )?;
        check(
            self.server_name.len() <= SERVER_NAME_BYTES_MAX,
            "server_name",
            "at most 255 bytes",
        )?;
        check(
            self.alpn
                .as_ref()
                .is_none_or(|name| (1..=ALPN_BYTES_MAX).contains(&name.len())),
            "alpn",
            "1 to 255 bytes when there is one",
        )?;
        self.validate_tickets()?;
        self.client
            .as_ref()
            .map_or(Ok(()), ClientCertificate::validate)
    }

    /// A TLS 1.3 key that has protected something else than these tickets, or not all of them, would use a nonce
    /// twice or skip one.
    fn validate_tickets(&self) -> Result<(), Invalid> {
        check(
            self.tickets.len() <= TICKETS_BYTES_MAX,
            "tickets",
            "at most 4,096 bytes",
        )?;
        let records = protected_records(&self.tickets);
        check(records.is_some(), "tickets", "whole protected records")?;
        match self.version {
            TlsVersion::Tls12 => check(
                self.tickets.is_empty(),
                "tickets",
                "none in TLS 1.2, where they travel in the handshake",
            ),
            TlsVersion::Tls13 => check(
                records == Some(self.write.seq) && self.read.seq == 0,
                "seq",
                "0 in TLS 1.3, and as many as there are ticket records in `write`",
            ),
        }
    }
}

impl ClientCertificate {
    fn validate(&self) -> Result<(), Invalid> {
        check(
            (1..=CLIENT_LEAF_BYTES_MAX).contains(&self.leaf.len()),
            "leaf",
            "1 to 8,192 bytes",
        )?;
        check(
            self.common_name.len() <= COMMON_NAME_BYTES_MAX,
            "common_name",
            "at most 255 bytes",
        )
    }
}

impl Rekeyed {
    fn validate(&self) -> Result<(), Invalid> {
        check(self.generation > 0, "generation", "1 or more")?;
        check(self.key.seq == 0, "seq", "0 in a new key")?;
        self.key.validate()?;
        check(
            (1..=REKEY_STATE_BYTES_MAX).contains(&self.state.len()),
            "state",
            "1 to 1,024 bytes",
        )
    }
}

/// How many records of TLS 1.3 application data these bytes are, or `None` when they are something else, too
/// (RFC 8446, section 5.2).
fn protected_records(mut bytes: &[u8]) -> Option<u64> {
    const APPLICATION_DATA: u8 = 23;
    const FRAGMENT_BYTES_MAX: usize = (1 << 14) + 256;
    let mut records = 0;
    while let Some((header, rest)) = bytes.split_first_chunk() {
        let &[APPLICATION_DATA, 3, 3, high, low] = header else {
            return None;
        };
        let len = usize::from(u16::from_be_bytes([high, low]));
        if !(TAG_BYTES + 1..=FRAGMENT_BYTES_MAX).contains(&len) {
            return None;
        }
        bytes = rest.get(len..)?;
        records += 1;
    }
    bytes.is_empty().then_some(records)
}

pub(crate) fn check(holds: bool, field: &'static str, rule: &'static str) -> Result<(), Invalid> {
    if holds {
        Ok(())
    } else {
        Err(Invalid { field, rule })
    }
}
