//! What goes to an established connection's client: data, alerts and KeyUpdates, sealed into one bounded buffer.
//!
//! Survives being interrupted at any point: what is sealed stays in the buffer, in order, until it is sent. Once
//! close_notify or a fatal alert is in, nothing else gets in.

use keyhaven_types::{TlsVersion, alert};

use super::{NextKey, RekeyError};
use crate::record::{
    Generation, HEADER_LEN, KeyError, PLAINTEXT_MAX, RecordError, WriteKey, content_type,
};

/// Full records that fit the buffer at once.
pub const SLOTS: usize = 4;
/// The most that a record of any version is longer than its plaintext.
const OVERHEAD_MAX: usize = HEADER_LEN + 8 + 1 + 16;
/// Room in the buffer for a KeyUpdate and an alert behind full records.
const RESERVE_LEN: usize = 256;
/// Length of the one buffer of a direction.
pub const BUFFER_LEN: usize = SLOTS * (PLAINTEXT_MAX + OVERHEAD_MAX) + RESERVE_LEN;
/// Records that a key keeps for a KeyUpdate and an alert.
const RECORDS_RESERVED: u64 = 2;
const FATAL: u8 = 2;
const WARNING: u8 = 1;

/// Why something cannot be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OutboundError {
    /// The writing side is closed.
    #[error("the connection's writing side is closed")]
    Closed,
    /// Unsent records are in the way.
    #[error("the send buffer is full")]
    Full,
    /// The record cannot be made.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// The next key cannot be used.
    #[error(transparent)]
    Rekey(#[from] RekeyError),
}

/// The writing half of an established connection.
pub struct Outbound {
    key: WriteKey,
    version: TlsVersion,
    records_per_key: u64,
    buffer: Vec<u8>,
    sent: usize,
    filled: usize,
    is_closed: bool,
}

impl Outbound {
    /// Writes with the key of the handshake, at most `records_per_key` records with each AES-GCM key. The buffer is taken
    /// when there is something to write.
    pub fn new(key: WriteKey, version: TlsVersion, records_per_key: u64) -> Self {
        Self {
            key,
            version,
            records_per_key,
            buffer: Vec::new(),
            sent: 0,
            filled: 0,
            is_closed: false,
        }
    }

    /// Puts records in front that the signer has sealed under the same key: its sequence number counts them already.
    pub fn start_with(&mut self, sealed: Vec<u8>) {
        self.filled = sealed.len();
        self.buffer = sealed;
    }

    /// What is still to be sent.
    pub fn pending(&self) -> &[u8] {
        &self.buffer[self.sent..self.filled]
    }

    /// Notes that the first `bytes` of [`Self::pending`] have been sent.
    pub fn advance(&mut self, bytes: usize) {
        self.sent = self.sent.saturating_add(bytes).min(self.filled);
        if self.sent == self.filled {
            self.sent = 0;
            self.filled = 0;
            // Of the size of the records that it started with.
            if self.buffer.len() < BUFFER_LEN {
                self.buffer = Vec::new();
            }
        }
    }

    /// Free places for plaintext, one a record, to be filled in order. Empty while something is pending (there is
    /// nothing to gain from reading more then) and when the key is spent.
    pub fn slots(&mut self) -> Vec<&mut [u8]> {
        if self.is_closed || self.filled > 0 {
            return Vec::new();
        }
        let count = self.data_records_left().min(SLOTS as u64) as usize;
        let prefix = self.key.prefix_len();
        let stride = self.stride();
        self.buffer_mut()
            .chunks_exact_mut(stride)
            .take(count)
            .map(|slot| &mut slot[prefix..prefix + PLAINTEXT_MAX])
            .collect()
    }

    /// Seals the first `bytes` of plaintext that were put into [`Self::slots`]. A full record exactly fills its
    /// place, so that nothing is moved.
    pub fn seal_slots(&mut self, bytes: usize) -> Result<(), OutboundError> {
        let stride = self.stride();
        let mut left = bytes;
        while left > 0 {
            let len = left.min(PLAINTEXT_MAX);
            let place = self
                .buffer
                .get_mut(self.filled..self.filled + stride)
                .ok_or(OutboundError::Full)?;
            self.filled += self
                .key
                .seal_in_place(content_type::APPLICATION_DATA, place, len)?;
            left -= len;
        }
        Ok(())
    }

    /// Whether the key may protect no more data: `records_per_key` is reached, but for a small reserve.
    pub fn is_key_spent(&self) -> bool {
        self.data_records_left() == 0
    }

    fn data_records_left(&self) -> u64 {
        self.key
            .records_allowed(self.records_per_key)
            .saturating_sub(self.key.records() + RECORDS_RESERVED)
    }

    fn stride(&self) -> usize {
        PLAINTEXT_MAX + self.key.overhead()
    }

    /// Says under the old key that the next record has the next key (RFC 8446, section 4.6.3), and installs it.
    pub fn update_key(&mut self, next: NextKey, request_update: bool) -> Result<(), OutboundError> {
        let key = WriteKey::new(self.version, next.generation, &next.key)
            .map_err(|_: KeyError| RekeyError::Unfit)?;
        let is_next = self.key.generation().next() == Some(next.generation);
        if !is_next || key.is_same_key(&self.key) {
            return Err(RekeyError::Unfit.into());
        }
        self.seal(
            content_type::HANDSHAKE,
            &[24, 0, 0, 1, u8::from(request_update)],
        )?;
        self.key = key;
        Ok(())
    }

    /// Ends the writing side in order.
    pub fn close_notify(&mut self) -> Result<(), OutboundError> {
        self.seal(content_type::ALERT, &[WARNING, alert::CLOSE_NOTIFY])?;
        self.is_closed = true;
        Ok(())
    }

    /// Ends the connection with a fatal alert. no_renegotiation is never one (RFC 5246, section 7.2.2): it goes out as
    /// the warning that it is, and a handshake_failure ends the connection.
    pub fn fatal_alert(&mut self, mut description: u8) -> Result<(), OutboundError> {
        if description == alert::NO_RENEGOTIATION {
            self.seal(content_type::ALERT, &[WARNING, description])?;
            description = alert::HANDSHAKE_FAILURE;
        }
        self.seal(content_type::ALERT, &[FATAL, description])?;
        self.is_closed = true;
        Ok(())
    }

    /// Whether nothing more can be written.
    pub fn is_closed(&self) -> bool {
        self.is_closed
    }

    /// Which key is in use.
    pub fn generation(&self) -> Generation {
        self.key.generation()
    }

    /// Gives the buffer back while nothing is pending.
    pub fn take_buffer(&mut self) -> Vec<u8> {
        if self.filled > 0 {
            return Vec::new();
        }
        std::mem::take(&mut self.buffer)
    }

    /// Whether the next record needs a buffer first.
    pub fn lacks_buffer(&self) -> bool {
        self.buffer.is_empty()
    }

    /// Takes a buffer over that [`Self::take_buffer`] gave, of this or of another connection.
    pub fn give_buffer(&mut self, buffer: Vec<u8>) {
        if self.buffer.is_empty() {
            self.buffer = buffer;
        }
    }

    fn seal(&mut self, content_type: u8, plaintext: &[u8]) -> Result<(), OutboundError> {
        if self.is_closed {
            return Err(OutboundError::Closed);
        }
        self.buffer_mut();
        let prefix = self.key.prefix_len();
        let end = self.filled + plaintext.len() + self.key.overhead();
        let place = self
            .buffer
            .get_mut(self.filled..end)
            .ok_or(OutboundError::Full)?;
        place[prefix..prefix + plaintext.len()].copy_from_slice(plaintext);
        self.filled += self
            .key
            .seal_in_place(content_type, place, plaintext.len())?;
        Ok(())
    }

    fn buffer_mut(&mut self) -> &mut [u8] {
        if self.buffer.len() < BUFFER_LEN {
            self.buffer.resize(BUFFER_LEN, 0);
        }
        &mut self.buffer
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::ReadKey;
    use keyhaven_types::{AeadAlgorithm, Secret};
    use keyhaven_wire::TrafficKey;

    fn key() -> TrafficKey {
        TrafficKey {
            aead: AeadAlgorithm::Aes128Gcm,
            key: Secret::new(vec![1; 16]),
            iv: Secret::new(vec![1; 12]),
            seq: 0,
        }
    }

    fn outbound() -> Outbound {
        let key = WriteKey::new(TlsVersion::Tls13, Generation::FIRST, &key()).unwrap();
        let mut outbound = Outbound::new(key, TlsVersion::Tls13, 1 << 20);
        outbound.give_buffer(vec![0; BUFFER_LEN]);
        outbound
    }

    #[test]
    fn only_gcm_keys_are_spent_after_their_records() {
        for (aead, key_len, is_spent) in [
            (AeadAlgorithm::Aes128Gcm, 16, true),
            (AeadAlgorithm::Aes256Gcm, 32, true),
            (AeadAlgorithm::Chacha20Poly1305, 32, false),
        ] {
            let key = TrafficKey {
                aead,
                key: Secret::new(vec![1; key_len]),
                ..key()
            };
            let key = WriteKey::new(TlsVersion::Tls12, Generation::FIRST, &key).unwrap();
            let mut outbound = Outbound::new(key, TlsVersion::Tls12, 6);
            outbound.seal_slots(0).unwrap();
            assert!(!outbound.is_key_spent());
            outbound.give_buffer(vec![0; BUFFER_LEN]);
            outbound.seal_slots(SLOTS * PLAINTEXT_MAX).unwrap();
            assert_eq!(outbound.is_key_spent(), is_spent, "{aead:?}");
        }
    }

    #[test]
    fn no_renegotiation_is_a_warning_before_the_end() {
        let alerts = |description| {
            let mut outbound = outbound();
            outbound.fatal_alert(description).unwrap();
            let mut bytes = outbound.pending().to_vec();
            let mut read = ReadKey::new(TlsVersion::Tls13, Generation::FIRST, &key()).unwrap();
            let mut alerts = Vec::new();
            for record in bytes.chunks_mut(HEADER_LEN + 2 + 1 + 16) {
                let opened = read.open(record).unwrap();
                alerts.push(record[opened.plaintext].to_vec());
            }
            alerts
        };
        let refused = alerts(alert::NO_RENEGOTIATION);
        assert_eq!(refused, [[1, 100], [2, alert::HANDSHAKE_FAILURE]]);
        assert_eq!(alerts(alert::DECODE_ERROR), [[2, alert::DECODE_ERROR]]);
    }

    #[test]
    fn records_that_the_signer_sealed_go_first_and_count() {
        let mut sealed = Vec::new();
        let mut signer = WriteKey::new(TlsVersion::Tls13, Generation::FIRST, &key()).unwrap();
        for ticket in [&[4, 0, 0, 1, 7], &[4, 0, 0, 1, 8]] {
            signer.seal(22, ticket, &mut sealed).unwrap();
        }
        for sent_first in [0, 9, sealed.len()] {
            let after = TrafficKey { seq: 2, ..key() };
            let write = WriteKey::new(TlsVersion::Tls13, Generation::FIRST, &after).unwrap();
            let mut outbound = Outbound::new(write, TlsVersion::Tls13, 1 << 20);
            outbound.start_with(sealed.clone());
            assert_eq!(outbound.slots().len(), 0, "data waits behind them");
            let mut sent = outbound.pending()[..sent_first].to_vec();
            outbound.advance(sent_first);
            assert_eq!(outbound.lacks_buffer(), sent_first == sealed.len());
            outbound.close_notify().unwrap();
            sent.extend_from_slice(outbound.pending());
            let mut read = ReadKey::new(TlsVersion::Tls13, Generation::FIRST, &key()).unwrap();
            let mut types = Vec::new();
            let mut rest = sent.as_mut_slice();
            while !rest.is_empty() {
                let len = HEADER_LEN + usize::from(rest[4]);
                let (record, behind) = rest.split_at_mut(len);
                types.push(read.open(record).unwrap().content_type);
                rest = behind;
            }
            assert_eq!(types, [22, 22, 21]);
        }
    }

    #[test]
    fn a_half_sent_batch_can_be_given_up() {
        let mut outbound = outbound();
        outbound.seal_slots(3 * PLAINTEXT_MAX).unwrap();
        outbound.advance(100);
        outbound.fatal_alert(alert::INTERNAL_ERROR).unwrap();
        outbound.advance(usize::MAX);
        assert!(outbound.pending().is_empty());
        assert_eq!(outbound.take_buffer().len(), BUFFER_LEN);
    }
}
