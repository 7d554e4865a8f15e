//! Derivations whose results stay in the token: the key schedules of TLS 1.3 and TLS 1.2 on handles.
//!
//! What comes out is said by name: bytes by [`Worker::expand_bytes`], [`Worker::hmac`], [`Worker::tls12_key_block`]
//! and [`Worker::tls12_finished`], and nothing else. Which derivations a token can do is in its profile.
//! Invariant: a derived secret is sensitive, and extractable only when it is asked to be [`Kept::Wrappable`].

use keyhaven_types::HashAlgorithm;

use crate::{Error, Token, TokenSecret, Worker};

/// The salt of an HKDF-Extract (RFC 5869, section 2.2).
#[derive(Clone, Copy, Debug)]
pub enum Salt<'a> {
    /// Bytes that are no secret.
    Bytes(&'a [u8]),
    /// A secret of the same token.
    Secret(&'a TokenSecret),
}

/// Whether a derived secret may leave the token wrapped under a key of the token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    /// CKA_EXTRACTABLE is false: it never leaves.
    Never,
    /// CKA_SENSITIVE and CKA_EXTRACTABLE are both true: it may be wrapped, for a ticket or a rekey state.
    Wrappable,
}

/// Whose Finished of TLS 1.2 (RFC 5246, section 7.4.9).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finished12 {
    /// "client finished".
    Client,
    /// "server finished".
    Server,
}

impl Worker {
    /// HKDF-Extract with a secret as input key material, to a secret (RFC 5869, section 2.2).
    ///
    /// # Errors
    /// [`Error::Derivation`] when the token cannot; see [`crate::Profile::master13`].
    pub fn extract_secret(
        &self,
        hash: HashAlgorithm,
        salt: Salt<'_>,
        secret: &TokenSecret,
    ) -> Result<TokenSecret, Error> {
        let _ = (hash, salt);
        Err(unsupported(secret, hash))
    }

    /// HKDF-Extract of zeros with a secret as salt: the master secret of TLS 1.3 (RFC 8446, section 7.1).
    ///
    /// # Errors
    /// [`Error::Derivation`] when the token cannot; see [`crate::Profile::master13`].
    pub fn extract_zeros(
        &self,
        hash: HashAlgorithm,
        salt: &TokenSecret,
    ) -> Result<TokenSecret, Error> {
        Err(unsupported(salt, hash))
    }

    /// HKDF-Expand to a secret of `len` bytes (RFC 5869, section 2.3). `info` is a whole HkdfLabel.
    ///
    /// # Errors
    /// [`Error::Derivation`] when the token cannot; see [`crate::Profile::master13`].
    pub fn expand_secret(
        &self,
        hash: HashAlgorithm,
        secret: &TokenSecret,
        info: &[u8],
        len: usize,
        kept: Kept,
    ) -> Result<TokenSecret, Error> {
        let _ = (info, len, kept);
        Err(unsupported(secret, hash))
    }

    /// HKDF-Expand to bytes that leave the token.
    ///
    /// # Errors
    /// [`Error::Derivation`] when the token cannot. `out` is then to be ignored.
    pub fn expand_bytes(
        &self,
        hash: HashAlgorithm,
        secret: &TokenSecret,
        info: &[u8],
        out: &mut [u8],
    ) -> Result<(), Error> {
        let _ = (info, out);
        Err(unsupported(secret, hash))
    }

    /// HMAC keyed by a secret, into `out` of the hash's length: a Finished of TLS 1.3.
    ///
    /// # Errors
    /// [`Error::Derivation`] when the token cannot. `out` is then to be ignored.
    pub fn hmac(
        &self,
        hash: HashAlgorithm,
        secret: &TokenSecret,
        message: &[u8],
        out: &mut [u8],
    ) -> Result<(), Error> {
        let _ = (message, out);
        Err(unsupported(secret, hash))
    }

    /// The extended master secret of TLS 1.2 (RFC 7627, section 4), 48 bytes that stay in the token.
    ///
    /// # Errors
    /// [`Error::Derivation`] when the token cannot; see [`crate::Profile::schedule12`].
    pub fn tls12_extended_master(
        &self,
        hash: HashAlgorithm,
        premaster: &TokenSecret,
        session_hash: &[u8],
        kept: Kept,
    ) -> Result<TokenSecret, Error> {
        let _ = (session_hash, kept);
        Err(unsupported(premaster, hash))
    }

    /// The key block of TLS 1.2 (RFC 5246, section 6.3) as bytes that leave the token.
    ///
    /// # Errors
    /// [`Error::Derivation`] when the token cannot. `out` is then to be ignored.
    pub fn tls12_key_block(
        &self,
        hash: HashAlgorithm,
        master: &TokenSecret,
        client_random: &[u8; 32],
        server_random: &[u8; 32],
        out: &mut [u8],
    ) -> Result<(), Error> {
        let _ = (client_random, server_random, out);
        Err(unsupported(master, hash))
    }

    /// The 12 bytes of a Finished of TLS 1.2 (RFC 5246, section 7.4.9).
    ///
    /// # Errors
    /// [`Error::Derivation`] when the token cannot. `out` is then to be ignored.
    pub fn tls12_finished(
        &self,
        hash: HashAlgorithm,
        master: &TokenSecret,
        whose: Finished12,
        handshake_hash: &[u8],
        out: &mut [u8; 12],
    ) -> Result<(), Error> {
        let _ = (whose, handshake_hash, out);
        Err(unsupported(master, hash))
    }

    /// `first || second` as one secret: both halves of a hybrid exchange are in the token.
    ///
    /// # Errors
    /// [`Error::Derivation`] when the token cannot; see [`crate::Profile::ml_kem`].
    pub fn concatenate(
        &self,
        first: &TokenSecret,
        second: &TokenSecret,
    ) -> Result<TokenSecret, Error> {
        let _ = second;
        Err(unsupported(first, HashAlgorithm::Sha256))
    }

    /// `prefix || secret` as one secret: one half of a hybrid exchange was made outside.
    ///
    /// # Errors
    /// [`Error::Derivation`] when the token cannot; see [`crate::Profile::prepends`].
    pub fn prepend(&self, prefix: &[u8], secret: &TokenSecret) -> Result<TokenSecret, Error> {
        let _ = prefix;
        Err(unsupported(secret, HashAlgorithm::Sha256))
    }

    /// ML-KEM-768 encapsulation to the peer's key (FIPS 203, 1,184 bytes): the ciphertext (1,088 bytes) and the
    /// shared secret, which stays in the token.
    ///
    /// # Errors
    /// [`Error::PeerPoint`] when the peer's key is not a good one; every other failure is the token's.
    pub fn encapsulate(
        &self,
        token: &Token,
        peer_key: &[u8],
    ) -> Result<(Vec<u8>, TokenSecret), Error> {
        let _ = peer_key;
        Err(Error::Derivation {
            token: token.info().label.clone(),
            hash: HashAlgorithm::Sha256,
        })
    }
}

fn unsupported(secret: &TokenSecret, hash: HashAlgorithm) -> Error {
    Error::Derivation {
        token: secret.object().token().info().label.clone(),
        hash,
    }
}
