//! What managed keys do: each operation for the one purpose that allows it.
//!
//! Who may ask, and whether the answer may still be given, is decided in `kms`. Invariant: an operation of another purpose
//! is refused before the token is asked (security rule K5), and what a caller sends is never the token's failure.

use cryptoki::{mechanism::Mechanism, object::ObjectHandle};
use keyhaven_types::{KeyAlgorithm, Purpose, SignatureScheme};
use zeroize::Zeroizing;

use super::{ManagedKey, data_key, gcm};
use crate::{
    Error, Token, Worker, key::SAMPLE, managed::part, session::OpenSession, sign, spki::PublicKey,
    worker::OwnSession,
};

impl Worker {
    /// Signs a message (which is hashed here) with a key for signatures: as TLS has it, RSA and Ed25519 as they are, ECDSA as
    /// DER. RSA signatures are verified each time, others at first use and now and then.
    ///
    /// # Errors
    /// [`Error::Scheme`]; [`Error::WrongSignature`], and the signature is thrown away; [`Error::UnsupportedKey`] for a key
    /// of another purpose; [`Error::Input`] over 1 MiB; failures of the token.
    pub fn managed_sign(
        &self,
        key: &ManagedKey,
        scheme: SignatureScheme,
        message: &[u8],
    ) -> Result<Vec<u8>, Error> {
        admit(key, &[Purpose::Sign], "signing", message.len())?;
        let Some(public) = key.verifier() else {
            return Err(unsupported(key, "signing"));
        };
        let algorithm = public.algorithm();
        if !key.schemes().contains(&scheme) {
            return Err(Error::Scheme { algorithm, scheme });
        }
        let signature = self.with_key(key, |session, handle| {
            sign::sign(session, handle, scheme, message)
        })?;
        let is_checked = matches!(algorithm, KeyAlgorithm::Rsa(_))
            || key.count_signature().is_multiple_of(SAMPLE);
        if is_checked && !public.verifies(scheme, message, &signature) {
            return Err(wrong_signature(key, public));
        }
        Ok(signature)
    }

    /// Encrypts with a key for data: 12 bytes of a random IV, the ciphertext, and 16 bytes of tag (AES-256-GCM).
    ///
    /// # Errors
    /// [`Error::UnsupportedKey`] for a key of another purpose; [`Error::Input`] over 1 MiB; failures of the token.
    pub fn managed_encrypt(
        &self,
        key: &ManagedKey,
        plaintext: &[u8],
        aad: &[u8],
    ) -> Result<Vec<u8>, Error> {
        let len = plaintext.len().saturating_add(aad.len());
        admit(key, &[Purpose::Data], "encrypting", len)?;
        self.with_key(key, |session, handle| {
            gcm::seal(session, handle, plaintext, aad)
        })
    }

    /// The opposite.
    ///
    /// # Errors
    /// [`Error::Blob`] when it does not open with this key and `aad`; as [`Worker::managed_encrypt`].
    pub fn managed_decrypt(
        &self,
        key: &ManagedKey,
        sealed: &[u8],
        aad: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, Error> {
        let len = sealed.len().saturating_add(aad.len());
        admit(key, &[Purpose::Data], "decrypting", len)?;
        self.with_key(key, |session, handle| {
            gcm::open(session, handle, sealed, aad)
        })
    }

    /// Opens RSA-OAEP with the hash that the site's token has ([`super::SiteToken::oaep_hash`]) and an empty label.
    ///
    /// # Errors
    /// [`Error::Blob`] when it does not open, all causes alike; [`Error::UnsupportedKey`] for a key of another purpose or
    /// where the token opens none; failures of the token.
    pub fn managed_oaep_decrypt(
        &self,
        key: &ManagedKey,
        ciphertext: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, Error> {
        let operation = "decrypting by RSA-OAEP";
        admit(key, &[Purpose::Decrypt], operation, ciphertext.len())?;
        let modulus = key.verifier().and_then(PublicKey::modulus);
        let (Some(modulus), Some(hash)) = (modulus, key.site().oaep_hash()) else {
            return Err(unsupported(key, operation));
        };
        if ciphertext.len() != modulus.len() {
            return Err(Error::Blob { operation });
        }
        self.with_key(key, |session, handle| {
            let mut out = Zeroizing::new(vec![0; modulus.len()]);
            let opened = session.raw().and_then(|raw| {
                raw.decrypt(session, &hash.mechanism(), handle, ciphertext, &mut out)
            });
            let len = opened.map_err(|source| part::blame(session, operation, source))?;
            out.truncate(len);
            Ok(out)
        })
    }

    /// HMAC-SHA-256 of a message, by a key for MACs or for tickets.
    ///
    /// # Errors
    /// [`Error::UnsupportedKey`] for a key of another purpose; [`Error::Input`] over 1 MiB; failures of the token.
    pub fn managed_mac(&self, key: &ManagedKey, message: &[u8]) -> Result<[u8; 32], Error> {
        let operation = "an HMAC";
        let purposes = [Purpose::Mac, Purpose::Tickets];
        admit(key, &purposes, operation, message.len())?;
        self.with_key(key, |session, handle| {
            let mac = session
                .sign_once(&Mechanism::Sha256Hmac, handle, message)
                .map_err(|source| Error::token(operation, source))?;
            let mac = mac[..].try_into();
            mac.map_err(|_| Error::answer(operation, "a MAC of the wrong length"))
        })
    }

    /// Makes a data key (AES-256) in the token and gives it wrapped: 40 bytes (RFC 5649).
    ///
    /// # Errors
    /// [`Error::UnsupportedKey`] for a key of another purpose; failures of the token.
    pub fn managed_wrap(&self, key: &ManagedKey) -> Result<Vec<u8>, Error> {
        admit(key, &[Purpose::Wrap], "wrapping a data key", 0)?;
        self.with_key(key, |session, handle| {
            data_key::make(session, key.site().kwp(), handle)
        })
    }

    /// Encrypts as [`Worker::managed_encrypt`] does, with a data key that [`Worker::managed_wrap`] gave.
    ///
    /// # Errors
    /// [`Error::Blob`] when the data key does not open; as [`Worker::managed_encrypt`].
    pub fn managed_unwrap_encrypt(
        &self,
        key: &ManagedKey,
        wrapped: &[u8],
        plaintext: &[u8],
        aad: &[u8],
    ) -> Result<Vec<u8>, Error> {
        let len = plaintext.len().saturating_add(aad.len());
        admit(key, &[Purpose::Wrap], "encrypting with a data key", len)?;
        self.with_data_key(key, wrapped, |session, handle| {
            gcm::seal(session, handle, plaintext, aad)
        })
    }

    /// The opposite.
    ///
    /// # Errors
    /// [`Error::Blob`] when the data key or the ciphertext does not open; as [`Worker::managed_encrypt`].
    pub fn managed_unwrap_decrypt(
        &self,
        key: &ManagedKey,
        wrapped: &[u8],
        sealed: &[u8],
        aad: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, Error> {
        let len = sealed.len().saturating_add(aad.len());
        admit(key, &[Purpose::Wrap], "decrypting with a data key", len)?;
        self.with_data_key(key, wrapped, |session, handle| {
            gcm::open(session, handle, sealed, aad)
        })
    }

    /// Random bytes of the token (C_GenerateRandom), 1 to 1,024.
    ///
    /// # Errors
    /// [`Error::Input`] for another number; failures of the token.
    pub fn token_random(&self, token: &Token, len: usize) -> Result<Zeroizing<Vec<u8>>, Error> {
        let operation = "random bytes";
        if !(1..=RANDOM_MAX).contains(&len) {
            return Err(Error::Input {
                operation,
                reason: "1 to 1024 bytes can be had at once",
            });
        }
        self.twice(token, |own| {
            let mut out = Zeroizing::new(vec![0; len]);
            own.session
                .generate_random_slice(&mut out)
                .map_err(|source| Error::token(operation, source))?;
            Ok(out)
        })
    }

    fn with_data_key<T>(
        &self,
        key: &ManagedKey,
        wrapped: &[u8],
        operation: impl Fn(&OpenSession, ObjectHandle) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let site = key.site();
        self.with_key(key, |session, handle| {
            let data = data_key::bring(session, site.quirks(), site.kwp(), handle, wrapped)?;
            operation(session, data.handle())
        })
    }

    /// Works with the key's object in this login; after a lost session once more, with the key unwrapped anew.
    fn with_key<T>(
        &self,
        key: &ManagedKey,
        operation: impl Fn(&OpenSession, ObjectHandle) -> Result<T, Error>,
    ) -> Result<T, Error> {
        self.twice(key.site().token(), |own: &OwnSession| {
            let (handle, _) = key.handle(&own.owner.generation, &own.session)?;
            operation(&own.session, handle)
        })
    }
}

/// Whether the key is for this, and the input is not too long.
fn admit(
    key: &ManagedKey,
    purposes: &[Purpose],
    operation: &'static str,
    len: usize,
) -> Result<(), Error> {
    if !purposes.contains(&key.spec().purpose) {
        return Err(unsupported(key, operation));
    }
    if len > INPUT_MAX {
        return Err(Error::Input {
            operation,
            reason: "the input is longer than 1 MiB",
        });
    }
    Ok(())
}

fn unsupported(key: &ManagedKey, operation: &str) -> Error {
    Error::UnsupportedKey {
        key: key.spec().id.to_string(),
        reason: format!("its purpose is {}, and not {operation}", key.spec().purpose),
    }
}

fn wrong_signature(key: &ManagedKey, public: &PublicKey) -> Error {
    let token = key.site().token().info().label.clone();
    let (label, algorithm) = (key.label(), public.algorithm());
    tracing::error!(token, key = label, %algorithm, "the token made a wrong signature");
    Error::WrongSignature { token, key: label }
}

/// More than a frame of the wire carries.
const INPUT_MAX: usize = 1 << 20;
const RANDOM_MAX: usize = 1024;
