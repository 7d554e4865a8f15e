//! What an established connection's client sends: records in, data and events out.
//!
//! Decrypts in place and says where the data lies; moving it is the pump's business. After a KeyUpdate nothing is
//! opened until the next key is installed, and a KeyUpdate ends its record (RFC 8446, section 5.1).

use std::{ops::Range, time::Instant};

use keyhaven_types::{TlsVersion, alert};
use zeroize::Zeroizing;

use super::{Caps, Fault, KeyUpdateBudget, NextKey, RekeyError};
use crate::{
    flight::Refused,
    record::{Bound, Generation, KeyError, ReadKey, content_type, next_record},
};

const KEY_UPDATE: u8 = 24;
const KEY_UPDATE_LEN: usize = 5;
const HELLO_REQUEST: u8 = 0;
const CLIENT_HELLO: u8 = 1;
const WARNING: u8 = 1;
/// Records opened in one go; more wait in the buffer.
const BATCH_RECORDS_MAX: usize = 64;

/// What one pass over the buffer found.
#[derive(Debug, Default)]
pub struct Batch {
    /// Where application data lies in the buffer, in order.
    pub data: Vec<Range<usize>>,
    /// How many bytes of the buffer are done with, once the data has been moved.
    pub consumed: usize,
}

/// What comes after the data of a [`Batch`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// No whole record is left.
    More,
    /// The batch is full; records may be left.
    Again,
    /// The client has sent all that it will send.
    CloseNotify,
    /// The client's next record has the next key.
    KeyUpdate {
        /// Whether the client wants our key to change, too.
        requested: bool,
    },
}

/// The reading half of an established connection.
pub struct Inbound {
    key: ReadKey,
    version: TlsVersion,
    caps: Caps,
    budget: KeyUpdateBudget,
    /// The client's own next KeyUpdate answers ours, and costs it nothing.
    is_update_awaited: bool,
    awaits_key: bool,
    /// The beginning of a handshake message that continues in the next record.
    partial: Zeroizing<Vec<u8>>,
}

impl Inbound {
    /// Reads with the key of the handshake.
    pub fn new(key: ReadKey, version: TlsVersion, now: Instant) -> Self {
        Self {
            key,
            version,
            caps: Caps::default(),
            budget: KeyUpdateBudget::new(now),
            is_update_awaited: false,
            awaits_key: false,
            partial: Zeroizing::new(Vec::new()),
        }
    }

    /// Opens whole records at the start of the buffer until something else than data comes. On a fault the batch
    /// still holds the data that came before it.
    pub fn read(
        &mut self,
        now: Instant,
        buffer: &mut [u8],
        batch: &mut Batch,
    ) -> Result<Event, Fault> {
        batch.data.clear();
        batch.consumed = 0;
        if self.awaits_key {
            return Ok(Event::More);
        }
        let bound = match self.version {
            TlsVersion::Tls12 => Bound::Tls12,
            TlsVersion::Tls13 => Bound::Tls13,
        };
        for _ in 0..BATCH_RECORDS_MAX {
            let start = batch.consumed;
            let Some(record) = next_record(&buffer[start..], bound)? else {
                return Ok(Event::More);
            };
            let bytes = &mut buffer[start..start + record.len];
            if self.version == TlsVersion::Tls13
                && record.content_type != content_type::APPLICATION_DATA
            {
                return Err(Refused::unexpected("an unprotected record after Finished").into());
            }
            let opened = self.key.open(bytes)?;
            batch.consumed += record.len;
            let content = &bytes[opened.plaintext.clone()];
            if opened.content_type != content_type::HANDSHAKE && !self.partial.is_empty() {
                return Err(Refused::unexpected("a record inside a handshake message").into());
            }
            let event = match opened.content_type {
                content_type::APPLICATION_DATA => {
                    self.caps.application_data(content.len())?;
                    if !content.is_empty() {
                        let Range { start: from, end } = opened.plaintext;
                        batch.data.push(start + from..start + end);
                    }
                    None
                }
                content_type::ALERT => self.alert(content)?,
                content_type::HANDSHAKE => self.handshake(now, content)?,
                _ => return Err(Refused::unexpected("a ChangeCipherSpec after Finished").into()),
            };
            if let Some(event) = event {
                return Ok(event);
            }
        }
        Ok(Event::Again)
    }

    /// Installs the next key. Only an answered question for it gives one.
    pub fn install(&mut self, next: NextKey) -> Result<(), RekeyError> {
        let key = ReadKey::new(self.version, next.generation, &next.key)
            .map_err(|_: KeyError| RekeyError::Unfit)?;
        let is_next = self.key.generation().next() == Some(next.generation);
        if !self.awaits_key || !is_next || key.is_same_key(&self.key) {
            return Err(RekeyError::Unfit);
        }
        self.key = key;
        self.awaits_key = false;
        Ok(())
    }

    /// Whether no handshake message has begun that is not done with.
    pub fn is_between_messages(&self) -> bool {
        self.partial.is_empty() && !self.awaits_key
    }

    /// Whether the key in use has opened as many records as it should, with `records_per_key` for AES-GCM.
    pub fn is_key_spent(&self, records_per_key: u64) -> bool {
        self.key.records() >= self.key.records_allowed(records_per_key)
    }

    /// Which key is in use.
    pub fn generation(&self) -> Generation {
        self.key.generation()
    }

    /// Notes that the client has been asked for a KeyUpdate.
    pub fn expect_update(&mut self) {
        self.is_update_awaited = true;
    }

    fn alert(&mut self, content: &[u8]) -> Result<Option<Event>, Fault> {
        let (level, description) = match *content {
            [level, description] => (level, description),
            // RFC 8446, section 5.4, names this alert for it.
            [] => return Err(Refused::unexpected("an empty alert").into()),
            _ => return Err(Refused::malformed("a malformed alert").into()),
        };
        match (self.version, level, description) {
            (_, _, alert::CLOSE_NOTIFY) => Ok(Some(Event::CloseNotify)),
            // In TLS 1.3 the level says nothing, and user_canceled comes before a close_notify (section 6.1).
            (TlsVersion::Tls13, _, alert::USER_CANCELED) | (TlsVersion::Tls12, WARNING, _) => {
                self.caps.warning()?;
                Ok(None)
            }
            _ => Err(Fault::ClientAlert(description)),
        }
    }

    fn handshake(&mut self, now: Instant, fragment: &[u8]) -> Result<Option<Event>, Fault> {
        if fragment.is_empty() {
            return Err(Refused::unexpected("an empty handshake record").into());
        }
        if self.version == TlsVersion::Tls12 {
            return Err(tls12_handshake(fragment[0]).into());
        }
        let wanted = KEY_UPDATE_LEN - self.partial.len();
        let (taken, beyond) = fragment.split_at(wanted.min(fragment.len()));
        self.partial.extend_from_slice(taken);
        match self.partial.as_slice() {
            [KEY_UPDATE] | [KEY_UPDATE, 0] | [KEY_UPDATE, 0, 0] | [KEY_UPDATE, 0, 0, 1] => Ok(None),
            &[KEY_UPDATE, 0, 0, 1, request @ (0 | 1)] if beyond.is_empty() => {
                self.partial.clear();
                if !std::mem::take(&mut self.is_update_awaited) {
                    self.budget.take(now)?;
                }
                self.awaits_key = true;
                Ok(Some(Event::KeyUpdate {
                    requested: request == 1,
                }))
            }
            [KEY_UPDATE, 0, 0, 1, 0 | 1] => {
                Err(Refused::unexpected("bytes after the KeyUpdate in its record").into())
            }
            [KEY_UPDATE, 0, 0, 1, _] => Err(Refused {
                alert: alert::ILLEGAL_PARAMETER,
                what: "a KeyUpdate with an unknown request",
            }
            .into()),
            [KEY_UPDATE, ..] => Err(Refused::malformed("a KeyUpdate of the wrong length").into()),
            _ => Err(Refused::unexpected("a handshake message after the handshake").into()),
        }
    }
}

fn tls12_handshake(message: u8) -> Refused {
    match message {
        HELLO_REQUEST | CLIENT_HELLO => Refused {
            alert: alert::NO_RENEGOTIATION,
            what: "renegotiation, which is refused",
        },
        _ => Refused::unexpected("a handshake message after the handshake"),
    }
}

#[cfg(test)]
#[path = "inbound_tests.rs"]
mod tests;
