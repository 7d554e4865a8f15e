//! Record protection with one direction's key: TLS 1.3 (RFC 8446, section 5.2) and the AEAD suites of TLS 1.2
//! (RFC 5288, RFC 7905).
//!
//! Leaves to others when a key is replaced and by which. A nonce is never used twice: a key is built once, cannot
//! be cloned, and its sequence number can only be advanced by using it, up to the last record its AEAD allows.

use std::ops::Range;

use aws_lc_rs::aead::{self, Aad, LessSafeKey, Nonce, UnboundKey};
use keyhaven_types::{AeadAlgorithm, TlsVersion};
use keyhaven_wire::TrafficKey;

use super::{HEADER_LEN, PLAINTEXT_MAX, RecordError, content_type};

/// Length of an authentication tag; the same for every AEAD that is served.
const TAG_LEN: usize = 16;
/// Length of the explicit part of a TLS 1.2 GCM nonce.
const EXPLICIT_NONCE_LEN: usize = 8;
/// Records that one AES-GCM key may protect (RFC 8446, section 5.5).
pub const GCM_RECORDS_MAX: u64 = (1 << 24) - 1;

/// Records that one ChaCha20-Poly1305 key may protect. Its standard has no limit below the sequence number's (RFC 8446,
/// section 5.5); this one is never met and keeps far away from the number's end.
pub const CHACHA_RECORDS_MAX: u64 = 1 << 48;

/// How many times the keys of one direction have been replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Generation(pub u32);

impl Generation {
    /// The keys that a handshake gives.
    pub const FIRST: Self = Self(0);

    /// The generation after this one, unless the count is exhausted.
    pub fn next(self) -> Option<Self> {
        self.0.checked_add(1).map(Self)
    }
}

/// Why a key cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// The key's length does not fit its AEAD.
    #[error("a traffic key of the wrong length")]
    KeyLen,
    /// The IV is not 12 bytes.
    #[error("a traffic IV of the wrong length")]
    IvLen,
}

/// The key that encrypts to the client.
pub struct WriteKey(RecordKey);

/// The key that decrypts from the client.
pub struct ReadKey(RecordKey);

/// An opened record: its type, and where in the record its plaintext lies.
#[derive(Debug, PartialEq, Eq)]
pub struct Opened {
    /// The inner content type.
    pub content_type: u8,
    /// The plaintext, as a range of the record's bytes.
    pub plaintext: Range<usize>,
}

impl WriteKey {
    /// Takes a key into use.
    pub fn new(
        version: TlsVersion,
        generation: Generation,
        key: &TrafficKey,
    ) -> Result<Self, KeyError> {
        let key = RecordKey::new(version, generation, key)?;
        // The signer's records under this key: tickets, or the Finished of TLS 1.2.
        #[cfg(feature = "nonce-log")]
        for seq in 0..key.seq.min(super::nonce_log::SIGNERS_RECORDS_MAX) {
            super::nonce_log::note(&key.fingerprint, &key.nonce(seq));
        }
        Ok(Self(key))
    }

    /// How many bytes stand before the plaintext of a record.
    pub fn prefix_len(&self) -> usize {
        HEADER_LEN + self.0.explicit_nonce_len
    }

    /// By how much a record is longer than its plaintext.
    pub fn overhead(&self) -> usize {
        let inner_type = usize::from(self.0.version == TlsVersion::Tls13);
        self.prefix_len() + inner_type + TAG_LEN
    }

    /// Protects the plaintext that stands in `slot` behind [`Self::prefix_len`] bytes and is `len` bytes long.
    /// Returns the record's length; the record starts at the start of the slot.
    pub fn seal_in_place(
        &mut self,
        content_type: u8,
        slot: &mut [u8],
        len: usize,
    ) -> Result<usize, RecordError> {
        let prefix = self.prefix_len();
        if len > PLAINTEXT_MAX || slot.len() < len + self.overhead() {
            return Err(RecordError::Overflow);
        }
        let key = &mut self.0;
        let nonce = key.next_nonce()?;
        let (outer_type, inner_len) = match key.version {
            TlsVersion::Tls13 => {
                slot[prefix + len] = content_type;
                (content_type::APPLICATION_DATA, len + 1)
            }
            TlsVersion::Tls12 => (content_type, len),
        };
        let fragment = (key.explicit_nonce_len + inner_len + TAG_LEN) as u16;
        let header = [outer_type, 3, 3, (fragment >> 8) as u8, fragment as u8];
        slot[..HEADER_LEN].copy_from_slice(&header);
        slot[HEADER_LEN..prefix].copy_from_slice(&nonce[12 - key.explicit_nonce_len..]);
        let aad = key.aad(&header, len);
        let body = &mut slot[prefix..prefix + inner_len];
        let tag = key
            .aead
            .seal_in_place_separate_tag(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(aad.as_ref()),
                body,
            )
            .map_err(|_| RecordError::Overflow)?;
        let end = prefix + inner_len;
        slot[end..end + TAG_LEN].copy_from_slice(tag.as_ref());
        key.seq += 1;
        #[cfg(feature = "nonce-log")]
        super::nonce_log::note(&key.fingerprint, &nonce);
        Ok(end + TAG_LEN)
    }

    /// Appends a record with a copy of `plaintext` to `out`: for alerts and KeyUpdates.
    pub fn seal(
        &mut self,
        content_type: u8,
        plaintext: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(), RecordError> {
        let start = out.len();
        let body = start + self.prefix_len();
        out.resize(start + plaintext.len() + self.overhead(), 0);
        out[body..body + plaintext.len()].copy_from_slice(plaintext);
        let sealed = self.seal_in_place(content_type, &mut out[start..], plaintext.len());
        out.truncate(start + sealed.as_ref().map_or(0, |&len| len));
        sealed.map(|_| ())
    }

    /// How many records the key has protected.
    pub fn records(&self) -> u64 {
        self.0.seq
    }

    /// How many records the key may have when AES-GCM keys have `gcm_records` at most.
    pub fn records_allowed(&self, gcm_records: u64) -> u64 {
        self.0.records_allowed(gcm_records)
    }

    /// Which key of its direction this is.
    pub fn generation(&self) -> Generation {
        self.0.generation
    }

    /// Whether two values hold the same key.
    pub(crate) fn is_same_key(&self, other: &Self) -> bool {
        self.0.fingerprint == other.0.fingerprint
    }
}

impl ReadKey {
    /// Takes a key into use.
    pub fn new(
        version: TlsVersion,
        generation: Generation,
        key: &TrafficKey,
    ) -> Result<Self, KeyError> {
        RecordKey::new(version, generation, key).map(Self)
    }

    /// Opens one whole record in place. A record that does not open leaves the sequence number as it was, and its
    /// bytes in no particular state.
    pub fn open(&mut self, record: &mut [u8]) -> Result<Opened, RecordError> {
        let key = &mut self.0;
        let Some((header, fragment)) = record.split_first_chunk_mut::<HEADER_LEN>() else {
            return Err(RecordError::Mac);
        };
        let outer_type = header[0];
        if key.version == TlsVersion::Tls13 && outer_type != content_type::APPLICATION_DATA {
            return Err(RecordError::ContentType(outer_type));
        }
        let mut nonce = key.next_nonce()?;
        let explicit = key.explicit_nonce_len;
        let Some(inner_len) = fragment.len().checked_sub(explicit + TAG_LEN) else {
            return Err(RecordError::Mac);
        };
        // In TLS 1.2 GCM the sender alone chooses the explicit part (RFC 5288, section 3).
        nonce[12 - explicit..].copy_from_slice(&fragment[..explicit]);
        let aad = key.aad(header, inner_len);
        let plain = key
            .aead
            .open_in_place(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(aad.as_ref()),
                &mut fragment[explicit..],
            )
            .map_err(|_| RecordError::Mac)?;
        key.seq += 1;
        let start = HEADER_LEN + explicit;
        match key.version {
            TlsVersion::Tls13 => {
                if plain.len() > PLAINTEXT_MAX + 1 {
                    return Err(RecordError::Overflow);
                }
                let last = plain
                    .iter()
                    .rposition(|&byte| byte != 0)
                    .ok_or(RecordError::OnlyPadding)?;
                Ok(Opened {
                    content_type: plain[last],
                    plaintext: start..start + last,
                })
            }
            TlsVersion::Tls12 if plain.len() > PLAINTEXT_MAX => Err(RecordError::Overflow),
            TlsVersion::Tls12 => Ok(Opened {
                content_type: outer_type,
                plaintext: start..start + plain.len(),
            }),
        }
    }

    /// How many records the key has opened.
    pub fn records(&self) -> u64 {
        self.0.seq
    }

    /// How many records the key may have when AES-GCM keys have `gcm_records` at most.
    pub fn records_allowed(&self, gcm_records: u64) -> u64 {
        self.0.records_allowed(gcm_records)
    }

    /// Which key of its direction this is.
    pub fn generation(&self) -> Generation {
        self.0.generation
    }

    /// Whether two values hold the same key.
    pub(crate) fn is_same_key(&self, other: &Self) -> bool {
        self.0.fingerprint == other.0.fingerprint
    }
}

struct RecordKey {
    aead: LessSafeKey,
    iv: [u8; 12],
    seq: u64,
    records_max: u64,
    version: TlsVersion,
    generation: Generation,
    explicit_nonce_len: usize,
    fingerprint: [u8; 8],
}

impl RecordKey {
    fn new(
        version: TlsVersion,
        generation: Generation,
        key: &TrafficKey,
    ) -> Result<Self, KeyError> {
        let (algorithm, is_gcm) = match key.aead {
            AeadAlgorithm::Aes128Gcm => (&aead::AES_128_GCM, true),
            AeadAlgorithm::Aes256Gcm => (&aead::AES_256_GCM, true),
            AeadAlgorithm::Chacha20Poly1305 => (&aead::CHACHA20_POLY1305, false),
        };
        let bytes = key.key.expose_secret();
        let unbound = UnboundKey::new(algorithm, bytes).map_err(|_| KeyError::KeyLen)?;
        let iv = key
            .iv
            .expose_secret()
            .try_into()
            .map_err(|_| KeyError::IvLen)?;
        Ok(Self {
            aead: LessSafeKey::new(unbound),
            iv,
            seq: key.seq,
            records_max: if is_gcm {
                GCM_RECORDS_MAX
            } else {
                CHACHA_RECORDS_MAX
            },
            version,
            generation,
            explicit_nonce_len: if is_gcm && version == TlsVersion::Tls12 {
                EXPLICIT_NONCE_LEN
            } else {
                0
            },
            fingerprint: fingerprint(bytes),
        })
    }

    /// How many records the key may have when AES-GCM keys have `gcm_records` at most.
    fn records_allowed(&self, gcm_records: u64) -> u64 {
        if self.records_max == GCM_RECORDS_MAX {
            gcm_records.min(GCM_RECORDS_MAX)
        } else {
            self.records_max
        }
    }

    /// The nonce of the next record, if the key may still be used.
    fn next_nonce(&self) -> Result<[u8; 12], RecordError> {
        if self.seq >= self.records_max {
            return Err(RecordError::KeySpent);
        }
        Ok(self.nonce(self.seq))
    }

    fn nonce(&self, seq: u64) -> [u8; 12] {
        let mut nonce = self.iv;
        for (byte, seq) in nonce[4..].iter_mut().zip(seq.to_be_bytes()) {
            *byte ^= seq;
        }
        nonce
    }

    fn aad(&self, header: &[u8; HEADER_LEN], plaintext_len: usize) -> AadBytes {
        match self.version {
            TlsVersion::Tls13 => AadBytes::Tls13(*header),
            TlsVersion::Tls12 => {
                let mut aad = [0; 13];
                aad[..8].copy_from_slice(&self.seq.to_be_bytes());
                aad[8..11].copy_from_slice(&header[..3]);
                aad[11..].copy_from_slice(&(plaintext_len as u16).to_be_bytes());
                AadBytes::Tls12(aad)
            }
        }
    }
}

impl Drop for RecordKey {
    fn drop(&mut self) {
        zeroize::Zeroize::zeroize(&mut self.iv);
    }
}

enum AadBytes {
    Tls13([u8; HEADER_LEN]),
    Tls12([u8; 13]),
}

impl AsRef<[u8]> for AadBytes {
    fn as_ref(&self) -> &[u8] {
        match self {
            Self::Tls13(bytes) => bytes,
            Self::Tls12(bytes) => bytes,
        }
    }
}

/// Tells keys apart without showing them: the first bytes of the key's SHA-256.
fn fingerprint(key: &[u8]) -> [u8; 8] {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, key);
    let mut short = [0; 8];
    short.copy_from_slice(&digest.as_ref()[..8]);
    short
}

#[cfg(test)]
#[path = "aead_tests.rs"]
mod tests;
