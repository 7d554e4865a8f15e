//! The hashes of cipher suites, with HMAC, HKDF and the PRF of TLS 1.2 (RFC 5869, RFC 8446 section 7.1, RFC 5246
//! section 5).
//!
//! Written apart from the product's own code, so that the two check each other.

use aws_lc_rs::{digest, hmac};

/// The hash of a cipher suite.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Hash {
    /// SHA-256.
    Sha256,
    /// SHA-384.
    Sha384,
}

impl Hash {
    /// The hash of a cipher suite.
    pub fn of_suite(suite: u16) -> Hash {
        match suite {
            0x1302 | 0xc02c | 0xc030 => Hash::Sha384,
            _ => Hash::Sha256,
        }
    }

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
