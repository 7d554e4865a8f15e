//! Derivations whose results stay in the token: the key schedules of TLS 1.3 and TLS 1.2 on handles.
//!
//! What comes out is said by name: bytes by [`Worker::expand_bytes`], [`Worker::hmac`], [`Worker::tls12_key_block`]
//! and [`Worker::tls12_finished`], and nothing else. Which derivations a token can do is in its profile.
//! Invariant: a derived secret is sensitive, and extractable only when it is asked to be [`Kept::Wrappable`].

use cryptoki::{mechanism::hkdf::HkdfSalt, object::ObjectHandle};
use keyhaven_types::HashAlgorithm;

use crate::{
    Error, Token, TokenSecret, Worker, exchange::Ephemeral, generation::Counted, hkdf, hybrid,
    raw::Randoms, tls12, worker::OwnSession,
};

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
    /// It may leave wrapped, for a ticket or a rekey state: CKA_EXTRACTABLE is true beside CKA_SENSITIVE, but in a
    /// module that wraps without.
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
    /// HKDF-Extract with a secret as input key material, to a secret (RFC 5869, section 2.2). One PKCS#11 call.
    ///
    /// # Errors
    /// [`Error::Derivation`] when the token cannot; see [`crate::Profile::master13`].
    pub fn extract_secret(
        &self,
        hash: HashAlgorithm,
        salt: Salt<'_>,
        secret: &TokenSecret,
    ) -> Result<TokenSecret, Error> {
        self.derive(secret, |own, base| {
            let salt = match salt {
                Salt::Bytes(salt) => HkdfSalt::Data(salt),
                Salt::Secret(salt) => HkdfSalt::Key(beside(secret, salt)?),
            };
            let ways = secret.object().token().ways();
            hkdf::extract(&own.session, &ways, hash, salt, base)
        })
    }

    /// HKDF-Extract of zeros with a secret as salt: the master secret of TLS 1.3 (RFC 8446, section 7.1). One
    /// PKCS#11 call, and one more in a login's first.
    ///
    /// # Errors
    /// [`Error::Derivation`] when the token cannot; see [`crate::Profile::master13`].
    pub fn extract_zeros(
        &self,
        hash: HashAlgorithm,
        salt: &TokenSecret,
    ) -> Result<TokenSecret, Error> {
        self.derive(salt, |own, salt_handle| {
            let zeros = own.owner.generation.zeros(hash)?;
            let ways = salt.object().token().ways();
            hkdf::extract(&own.session, &ways, hash, HkdfSalt::Key(salt_handle), zeros)
        })
    }

    /// HKDF-Expand to a secret of `len` bytes (RFC 5869, section 2.3). `info` is a whole HkdfLabel: a Finished key
    /// can make MACs alone, and every other secret can be derived from alone. One PKCS#11 call.
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
        self.derive(secret, |own, base| {
            let ways = secret.object().token().ways();
            hkdf::expand(&own.session, &ways, hash, base, info, len, kept)
        })
    }

    /// HKDF-Expand to bytes that leave the token. Three PKCS#11 calls.
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
        self.on_object(secret.object(), |own, base| {
            hkdf::expand_bytes(&own.session, hash, base.handle, info, out)
        })
    }

    /// HMAC keyed by a secret, into `out` of the hash's length: a Finished of TLS 1.3. Two PKCS#11 calls.
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
        self.on_object(secret.object(), |own, key| {
            hkdf::hmac(&own.session, hash, key.handle, message, out)
        })
    }

    /// The extended master secret of TLS 1.2 (RFC 7627, section 4), 48 bytes that stay in the token. One PKCS#11
    /// call.
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
        self.derive(premaster, |own, base| {
            let ways = premaster.object().token().ways();
            tls12::extended_master(&own.session, &ways, hash, base, session_hash, kept)
        })
    }

    /// The key block of TLS 1.2 (RFC 5246, section 6.3) as bytes that leave the token. Three PKCS#11 calls, or four
    /// for each 32 or 48 bytes where a token has HMACs alone.
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
        let randoms = Randoms {
            client: client_random,
            server: server_random,
        };
        self.on_object(master.object(), |own, base| {
            let ways = master.object().token().ways();
            tls12::key_block(&own.session, &ways, hash, base.handle, randoms, out)
        })
    }

    /// The 12 bytes of a Finished of TLS 1.2 (RFC 5246, section 7.4.9). Two PKCS#11 calls, or four where a token has
    /// HMACs alone.
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
        self.on_object(master.object(), |own, base| {
            let ways = master.object().token().ways();
            let (session, master) = (&own.session, base.handle);
            tls12::finished(session, &ways, hash, master, whose, handshake_hash, out)
        })
    }

    /// `first || second` as one secret: both halves of a hybrid exchange are in the token. One PKCS#11 call.
    ///
    /// # Errors
    /// [`Error::Derivation`] when the token cannot; see [`crate::Profile::ml_kem`].
    pub fn concatenate(
        &self,
        first: &TokenSecret,
        second: &TokenSecret,
    ) -> Result<TokenSecret, Error> {
        self.derive(first, |own, base| {
            let ways = first.object().token().ways();
            hybrid::concatenate(&own.session, &ways, base, beside(first, second)?)
        })
    }

    /// `prefix || secret` as one secret: one half of a hybrid exchange was made outside. One PKCS#11 call.
    ///
    /// # Errors
    /// [`Error::Derivation`] when the token cannot; see [`crate::Profile::prepends`].
    pub fn prepend(&self, prefix: &[u8], secret: &TokenSecret) -> Result<TokenSecret, Error> {
        self.derive(secret, |own, base| {
            let ways = secret.object().token().ways();
            hybrid::prepend(&own.session, &ways, prefix, base)
        })
    }

    /// ML-KEM-768 encapsulation to the peer's key (FIPS 203, 1,184 bytes): the ciphertext (1,088 bytes) and the
    /// shared secret, which stays in the token. Four PKCS#11 calls.
    ///
    /// # Errors
    /// [`Error::PeerKey`] when the peer's key is not a good one; every other failure is the token's.
    pub fn encapsulate(
        &self,
        token: &Token,
        peer_key: &[u8],
    ) -> Result<(Vec<u8>, TokenSecret), Error> {
        if !hybrid::is_encapsulation_key(peer_key) {
            return Err(Error::PeerKey);
        }
        self.twice(token, |own| {
            let (ciphertext, handle) = hybrid::encapsulate(&own.session, &token.ways(), peer_key)?;
            let object = Ephemeral::new(token, Counted::new(handle, &own.owner));
            Ok((ciphertext, TokenSecret::new(object)))
        })
    }

    /// One derivation from a secret to another one of the same token.
    fn derive(
        &self,
        from: &TokenSecret,
        derivation: impl FnOnce(&OwnSession, ObjectHandle) -> Result<ObjectHandle, Error>,
    ) -> Result<TokenSecret, Error> {
        self.on_object(from.object(), |own, base| {
            let handle = derivation(own, base.handle)?;
            let token = from.object().token();
            let object = Ephemeral::new(token, Counted::new(handle, &own.owner));
            Ok(TokenSecret::new(object))
        })
    }
}

/// The handle of a second secret, which must be of the same login at the same token as the first.
fn beside(first: &TokenSecret, second: &TokenSecret) -> Result<ObjectHandle, Error> {
    let (here, there) = (first.object(), second.object());
    let same = here.token().id() == there.token().id()
        && here.counted().owner.generation.number == there.counted().owner.generation.number;
    if same {
        Ok(there.counted().handle)
    } else {
        Err(here
            .token()
            .unavailable("a second secret is not of this login"))
    }
}
