//! Record protection, from RFC 8446 section 5, RFC 5246 section 6, RFC 5288 and RFC 7905.
//!
//! Written apart from the product's own code, so that the two check each other. A nonce that comes twice fails the
//! test.

use std::collections::HashSet;

use super::hash::Hash;
use super::record::{Incoming, Stop};
use aws_lc_rs::aead::{
    AES_128_GCM, AES_256_GCM, Aad, Algorithm, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey,
};

/// One direction's record protection.
#[derive(Debug)]
pub struct RecordKeys {
    key: LessSafeKey,
    iv: [u8; 12],
    /// Sequence number of the next record.
    pub seq: u64,
    tls12: bool,
    /// The explicit nonces of TLS 1.2 that the other side has used: signer and proxy, one after the other.
    seen: HashSet<[u8; 8]>,
}

impl RecordKeys {
    /// From a TLS 1.3 traffic secret.
    pub fn tls13(suite: u16, hash: Hash, secret: &[u8]) -> RecordKeys {
        let algorithm = algorithm(suite);
        let key = hash.expand_label(secret, "key", &[], algorithm.key_len());
        let iv = hash.expand_label(secret, "iv", &[], 12);
        RecordKeys::new(algorithm, &key, &iv, false)
    }

    /// From the key block of TLS 1.2; `iv` has [`iv12_len`] bytes.
    pub fn tls12(suite: u16, key: &[u8], iv: &[u8]) -> RecordKeys {
        let mut whole = iv.to_vec();
        whole.resize(12, 0);
        RecordKeys::new(algorithm(suite), key, &whole, true)
    }

    fn new(algorithm: &'static Algorithm, key: &[u8], iv: &[u8], tls12: bool) -> RecordKeys {
        RecordKeys {
            key: LessSafeKey::new(
                UnboundKey::new(algorithm, key).expect("the length is the algorithm's"),
            ),
            iv: iv.try_into().expect("12 bytes"),
            seq: 0,
            tls12,
            seen: HashSet::new(),
        }
    }

    /// Bytes of the key.
    pub fn key_len(&self) -> usize {
        self.key.algorithm().key_len()
    }

    /// An encrypted record.
    pub fn seal(&mut self, kind: u8, content: &[u8]) -> Vec<u8> {
        let mut sealed = content.to_vec();
        let (outer, aad) = if self.tls12 {
            (kind, self.aad12(kind, content.len()))
        } else {
            sealed.push(kind);
            let length = (sealed.len() + 16) as u16;
            (23, [&[23, 3, 3], length.to_be_bytes().as_slice()].concat())
        };
        self.key
            .seal_in_place_append_tag(self.nonce(), Aad::from(aad), &mut sealed)
            .expect("a record is short enough");
        let mut payload = if self.has_explicit_nonce() {
            self.seq.to_be_bytes().to_vec()
        } else {
            Vec::new()
        };
        payload.extend(sealed);
        self.seq += 1;
        super::record::record(outer, &payload)
    }

    /// Opens an encrypted record.
    ///
    /// # Panics
    /// When its nonce was used before. That of TLS 1.3 is not sent: what opens has the next one.
    pub fn open(&mut self, mut record: Incoming) -> Result<Incoming, Stop> {
        let opened = if self.tls12 {
            self.open12(record)?
        } else {
            let aad = [
                &[23, 3, 3],
                (record.bytes.len() as u16).to_be_bytes().as_slice(),
            ]
            .concat();
            let length = self
                .key
                .open_in_place(self.nonce(), Aad::from(aad), &mut record.bytes)
                .map_err(|_| REFUSED)?
                .len();
            record.bytes.truncate(length);
            while record.bytes.last() == Some(&0) {
                record.bytes.pop();
            }
            let kind = record
                .bytes
                .pop()
                .ok_or(Stop::Nonsense("a record of padding alone"))?;
            Incoming {
                kind,
                bytes: record.bytes,
            }
        };
        self.seq += 1;
        Ok(opened)
    }

    fn open12(&mut self, mut record: Incoming) -> Result<Incoming, Stop> {
        let explicit = if self.has_explicit_nonce() { 8 } else { 0 };
        if record.bytes.len() < explicit + 16 {
            return Err(Stop::Nonsense("a short record"));
        }
        let mut body = record.bytes.split_off(explicit);
        let nonce = match <[u8; 8]>::try_from(record.bytes.as_slice()) {
            Ok(explicit) => {
                let mut nonce = self.iv;
                nonce[4..].copy_from_slice(&explicit);
                Nonce::assume_unique_for_key(nonce)
            }
            Err(_) => self.nonce(),
        };
        let aad = self.aad12(record.kind, body.len() - 16);
        let opened = self.key.open_in_place(nonce, Aad::from(aad), &mut body);
        let length = opened.map_err(|_| REFUSED)?.len();
        body.truncate(length);
        if let Ok(explicit) = <[u8; 8]>::try_from(record.bytes.as_slice()) {
            assert!(
                self.seen.insert(explicit),
                "two records of one key have the nonce {explicit:02x?}"
            );
        }
        Ok(Incoming {
            kind: record.kind,
            bytes: body,
        })
    }

    /// AES-GCM in TLS 1.2 sends half of its nonce.
    fn has_explicit_nonce(&self) -> bool {
        self.tls12 && self.key.algorithm() != &CHACHA20_POLY1305
    }

    fn nonce(&self) -> Nonce {
        let mut nonce = self.iv;
        for (byte, seq) in nonce[4..].iter_mut().zip(self.seq.to_be_bytes()) {
            *byte ^= seq;
        }
        Nonce::assume_unique_for_key(nonce)
    }

    fn aad12(&self, kind: u8, length: usize) -> Vec<u8> {
        let mut aad = self.seq.to_be_bytes().to_vec();
        aad.extend([kind, 3, 3]);
        aad.extend_from_slice(&(length as u16).to_be_bytes());
        aad
    }
}

/// Bytes of a suite's key.
pub(crate) fn key_len(suite: u16) -> usize {
    algorithm(suite).key_len()
}

/// Bytes of IV that TLS 1.2 takes from the key block: the salt of AES-GCM, or all of it.
pub(crate) fn iv12_len(suite: u16) -> usize {
    if algorithm(suite) == &CHACHA20_POLY1305 {
        12
    } else {
        4
    }
}

fn algorithm(suite: u16) -> &'static Algorithm {
    match suite {
        0x1302 | 0xc02c | 0xc030 => &AES_256_GCM,
        0x1303 | 0xcca8 | 0xcca9 => &CHACHA20_POLY1305,
        _ => &AES_128_GCM,
    }
}

const REFUSED: Stop = Stop::Nonsense("a record that does not decrypt");
