//! Key schedules and record protection, from RFC 8446 section 7 and RFC 5246 sections 5 and 6.
//!
//! Written apart from the product's own code, so that the two check each other.

use std::collections::HashSet;

use aws_lc_rs::aead::{
    AES_128_GCM, AES_256_GCM, Aad, Algorithm, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey,
};
use aws_lc_rs::{digest, hmac};

use super::record::{Incoming, Stop};

/// The hash of a cipher suite.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hash {
    /// SHA-256.
    Sha256,
    /// SHA-384.
    Sha384,
}

impl Hash {
    /// Bytes of a digest.
    pub fn len(self) -> usize {
        match self {
            Hash::Sha256 => 32,
            Hash::Sha384 => 48,
        }
    }

    /// Never: a digest has bytes.
    pub fn is_empty(self) -> bool {
        false
    }

    /// The digest of `data`.
    pub fn digest(self, data: &[u8]) -> Vec<u8> {
        let algorithm = match self {
            Hash::Sha256 => &digest::SHA256,
            Hash::Sha384 => &digest::SHA384,
        };
        digest::digest(algorithm, data).as_ref().to_vec()
    }

    /// HMAC.
    pub fn hmac(self, key: &[u8], data: &[u8]) -> Vec<u8> {
        let algorithm = match self {
            Hash::Sha256 => hmac::HMAC_SHA256,
            Hash::Sha384 => hmac::HMAC_SHA384,
        };
        hmac::sign(&hmac::Key::new(algorithm, key), data)
            .as_ref()
            .to_vec()
    }

    /// HKDF-Expand-Label (RFC 8446, section 7.1).
    pub fn expand_label(
        self,
        secret: &[u8],
        label: &str,
        context: &[u8],
        length: usize,
    ) -> Vec<u8> {
        let mut info = (length as u16).to_be_bytes().to_vec();
        info.push(6 + label.len() as u8);
        info.extend_from_slice(b"tls13 ");
        info.extend_from_slice(label.as_bytes());
        info.push(context.len() as u8);
        info.extend_from_slice(context);
        // One block is enough for every length of TLS 1.3 with the same hash.
        info.push(1);
        let mut block = self.hmac(secret, &info);
        block.truncate(length);
        block
    }

    /// Derive-Secret with the transcript's hash.
    pub fn derive_secret(self, secret: &[u8], label: &str, transcript: &[u8]) -> Vec<u8> {
        self.expand_label(secret, label, &self.digest(transcript), self.len())
    }

    /// The PRF of TLS 1.2.
    pub fn prf(self, secret: &[u8], label: &str, seed: &[u8], length: usize) -> Vec<u8> {
        let seed = [label.as_bytes(), seed].concat();
        let mut out = Vec::new();
        let mut a = seed.clone();
        while out.len() < length {
            a = self.hmac(secret, &a);
            out.extend(self.hmac(secret, &[a.as_slice(), &seed].concat()));
        }
        out.truncate(length);
        out
    }
}

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

    /// From the key block of TLS 1.2 with AES-128-GCM.
    pub fn tls12(key: &[u8], salt: &[u8]) -> RecordKeys {
        let iv = [salt, &[0; 8]].concat();
        RecordKeys::new(&AES_128_GCM, key, &iv, true)
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
        let mut payload = if self.tls12 {
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
        let refused = |_| Stop::Nonsense("a record that does not decrypt");
        let opened = if self.tls12 {
            if record.bytes.len() < 24 {
                return Err(Stop::Nonsense("a short record"));
            }
            let mut body = record.bytes.split_off(8);
            let explicit: [u8; 8] = record.bytes.as_slice().try_into().expect("8 were left");
            let mut nonce = self.iv;
            nonce[4..].copy_from_slice(&explicit);
            let aad = self.aad12(record.kind, body.len() - 16);
            let nonce = Nonce::assume_unique_for_key(nonce);
            let length = self
                .key
                .open_in_place(nonce, Aad::from(aad), &mut body)
                .map_err(refused)?
                .len();
            body.truncate(length);
            assert!(
                self.seen.insert(explicit),
                "two records of one key have the nonce {explicit:02x?}"
            );
            Incoming {
                kind: record.kind,
                bytes: body,
            }
        } else {
            let aad = [
                &[23, 3, 3],
                (record.bytes.len() as u16).to_be_bytes().as_slice(),
            ]
            .concat();
            let length = self
                .key
                .open_in_place(self.nonce(), Aad::from(aad), &mut record.bytes)
                .map_err(refused)?
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

fn algorithm(suite: u16) -> &'static Algorithm {
    match suite {
        0x1302 => &AES_256_GCM,
        0x1303 => &CHACHA20_POLY1305,
        _ => &AES_128_GCM,
    }
}
