//! Derivations from a shared secret that stays in the token.
//!
//! Both need nothing but a handle: HKDF-Extract by C_DigestKey, the TLS 1.2 PRF by C_Sign with HMAC. What comes
//! out (a TLS 1.3 extract, a TLS 1.2 master secret) is in this process's memory; the shared secret is not.
//! Invariant: every intermediate value is wiped.

use aws_lc_rs::digest;
use cryptoki::{
    error::{Error as CryptokiError, RvError},
    mechanism::Mechanism,
    object::ObjectHandle,
};
use keyhaven_types::{HashAlgorithm, Secret};
use zeroize::Zeroizing;

use crate::{Error, TokenFault, session::OpenSession};

const EXTRACT: &str = "HKDF-Extract of the shared secret";
const PRF: &str = "the TLS 1.2 PRF keyed by the shared secret";

/// HKDF-Extract (RFC 5869, section 2.2) with the object as input key material: HMAC(salt, Z), whose inner hash
/// the token computes over the padded salt and Z. Four PKCS#11 calls.
pub(crate) fn extract(
    session: &OpenSession,
    hash: HashAlgorithm,
    salt: &[u8],
    prefix: &[u8],
    secret: ObjectHandle,
) -> Result<Secret, Error> {
    let (mechanism, software) = match hash {
        HashAlgorithm::Sha256 => (Mechanism::Sha256, &digest::SHA256),
        HashAlgorithm::Sha384 => (Mechanism::Sha384, &digest::SHA384),
    };
    // RFC 2104: a key longer than a block is hashed first.
    let mut key = Zeroizing::new([0u8; BLOCK_MAX]);
    if salt.len() > hash.block_len() {
        let short = digest::digest(software, salt);
        key[..short.as_ref().len()].copy_from_slice(short.as_ref());
    } else {
        key[..salt.len()].copy_from_slice(salt);
    }
    let pad = |byte: u8| {
        let mut block = Zeroizing::new([0u8; BLOCK_MAX]);
        for (out, key) in block.iter_mut().zip(key.iter()) {
            *out = key ^ byte;
        }
        block
    };
    let failed = |source| failure(EXTRACT, hash, source);
    session.digest_init(&mechanism).map_err(failed)?;
    let fed = session
        .digest_update(&pad(0x36)[..hash.block_len()])
        .and_then(|()| match prefix {
            [] => Ok(()),
            _ => session.digest_update(prefix),
        })
        .and_then(|()| session.digest_key(secret));
    if let Err(source) = fed {
        // A refused key leaves the digest active, and with it every later operation of the session refused.
        let _ = session.digest_final_once();
        return Err(failed(source));
    }
    let inner = session.digest_final_once().map_err(failed)?;
    if inner.len() != hash.output_len() {
        return Err(Error::answer(EXTRACT, "a digest of the wrong length"));
    }
    let mut outer = digest::Context::new(software);
    outer.update(&pad(0x5c)[..hash.block_len()]);
    outer.update(&inner);
    Ok(Secret::copy_from(outer.finish().as_ref()))
}

/// P_hash (RFC 5246, section 5) with the object as its secret. Two PKCS#11 calls for each HMAC; two HMACs for each
/// block of output.
pub(crate) fn prf(
    session: &OpenSession,
    hash: HashAlgorithm,
    secret: ObjectHandle,
    label: &[u8],
    seed: &[u8],
    out: &mut [u8],
) -> Result<(), Error> {
    let label_and_seed = [label, seed].concat();
    let mut a = Zeroizing::new(label_and_seed.clone());
    for block in out.chunks_mut(hash.output_len()) {
        a = hmac(session, PRF, hash, secret, &a)?;
        let mut input = Zeroizing::new(Vec::with_capacity(a.len() + label_and_seed.len()));
        input.extend_from_slice(&a);
        input.extend_from_slice(&label_and_seed);
        let output = hmac(session, PRF, hash, secret, &input)?;
        block.copy_from_slice(&output[..block.len()]);
    }
    Ok(())
}

/// One HMAC keyed by the object, of the hash's whole length.
pub(crate) fn hmac(
    session: &OpenSession,
    operation: &'static str,
    hash: HashAlgorithm,
    secret: ObjectHandle,
    data: &[u8],
) -> Result<Zeroizing<Vec<u8>>, Error> {
    let mechanism = match hash {
        HashAlgorithm::Sha256 => Mechanism::Sha256Hmac,
        HashAlgorithm::Sha384 => Mechanism::Sha384Hmac,
    };
    let mac = session
        .sign_once(&mechanism, secret, data)
        .map_err(|source| failure(operation, hash, source))?;
    if mac.len() != hash.output_len() {
        return Err(Error::answer(operation, "a MAC of the wrong length"));
    }
    Ok(mac)
}

/// Reads an object that was made to be read, and destroys it. Two PKCS#11 calls.
pub(crate) fn take_value(
    session: &OpenSession,
    operation: &'static str,
    object: ObjectHandle,
    out: &mut [u8],
) -> Result<(), Error> {
    let value = session.value(object);
    let destroyed = session.destroy_object(object);
    let value = value.map_err(|source| Error::token(operation, source))?;
    destroyed.map_err(|source| Error::token("destroying bytes that were read", source))?;
    if value.len() != out.len() {
        return Err(Error::answer(operation, "bytes of the wrong length"));
    }
    out.copy_from_slice(&value);
    Ok(())
}

/// A mechanism's limit is not a failure of the token: SoftHSM2 has no HMAC-SHA384 over 32 bytes.
pub(crate) fn failure(
    operation: &'static str,
    hash: HashAlgorithm,
    source: CryptokiError,
) -> Error {
    let is_limit = matches!(
        source,
        CryptokiError::NotSupported
            | CryptokiError::NullFunctionPointer
            | CryptokiError::Pkcs11(
                RvError::KeySizeRange | RvError::KeyIndigestible | RvError::MechanismInvalid,
                _,
            )
    );
    if is_limit {
        Error::Derivation {
            token: String::new(),
            hash,
            source: TokenFault::new(source),
        }
    } else {
        Error::token(operation, source)
    }
}

/// The longer of the two hashes' blocks.
const BLOCK_MAX: usize = 128;
