//! Derivations from a shared secret that stays in the token.
//!
//! Both need nothing but a handle: HKDF-Extract by C_DigestKey, the TLS 1.2 PRF by C_Sign with HMAC. What comes
//! out (a TLS 1.3 extract, a TLS 1.2 master secret) is in this process's memory; the shared secret is not.
//! Invariant: every intermediate value is wiped.

use aws_lc_rs::digest;
use cryptoki::{error::RvError, mechanism::Mechanism, object::ObjectHandle, session::Session};
use keyhaven_types::{HashAlgorithm, Secret};
use zeroize::Zeroizing;

use crate::Error;

const EXTRACT: &str = "HKDF-Extract of the shared secret";
const PRF: &str = "the TLS 1.2 PRF keyed by the shared secret";

/// HKDF-Extract (RFC 5869, section 2.2) with the object as input key material: HMAC(salt, Z), whose inner hash
/// the token computes over the padded salt and Z. Five PKCS#11 calls, of which one asks for the digest's length.
pub(crate) fn extract(
    session: &Session,
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
    session
        .digest_update(&pad(0x36)[..hash.block_len()])
        .map_err(failed)?;
    if !prefix.is_empty() {
        session.digest_update(prefix).map_err(failed)?;
    }
    session.digest_key(secret).map_err(failed)?;
    let inner = Zeroizing::new(session.digest_final().map_err(failed)?);
    if inner.len() != hash.output_len() {
        return Err(Error::answer(EXTRACT, "a digest of the wrong length"));
    }
    let mut outer = digest::Context::new(software);
    outer.update(&pad(0x5c)[..hash.block_len()]);
    outer.update(&inner);
    Ok(Secret::copy_from(outer.finish().as_ref()))
}

/// P_hash (RFC 5246, section 5) with the object as its secret. Three PKCS#11 calls for each HMAC, of which one
/// asks for its length; two HMACs for each block of output.
pub(crate) fn prf(
    session: &Session,
    hash: HashAlgorithm,
    secret: ObjectHandle,
    label: &[u8],
    seed: &[u8],
    out: &mut [u8],
) -> Result<(), Error> {
    let mechanism = match hash {
        HashAlgorithm::Sha256 => Mechanism::Sha256Hmac,
        HashAlgorithm::Sha384 => Mechanism::Sha384Hmac,
    };
    let hmac = |data: &[u8]| {
        let mac = session
            .sign(&mechanism, secret, data)
            .map(Zeroizing::new)
            .map_err(|source| failure(PRF, hash, source))?;
        if mac.len() != hash.output_len() {
            return Err(Error::answer(PRF, "a MAC of the wrong length"));
        }
        Ok(mac)
    };
    let label_and_seed = [label, seed].concat();
    let mut a = Zeroizing::new(label_and_seed.clone());
    for block in out.chunks_mut(hash.output_len()) {
        a = hmac(&a)?;
        let mut input = Zeroizing::new(Vec::with_capacity(a.len() + label_and_seed.len()));
        input.extend_from_slice(&a);
        input.extend_from_slice(&label_and_seed);
        block.copy_from_slice(&hmac(&input)?[..block.len()]);
    }
    Ok(())
}

/// A mechanism's limit is not a failure of the token: SoftHSM2 has no HMAC-SHA384 over 32 bytes.
fn failure(operation: &'static str, hash: HashAlgorithm, source: cryptoki::error::Error) -> Error {
    match source {
        cryptoki::error::Error::Pkcs11(
            RvError::KeySizeRange | RvError::KeyIndigestible | RvError::MechanismInvalid,
            _,
        ) => Error::Derivation {
            token: String::new(),
            hash,
        },
        other => Error::token(operation, other),
    }
}

/// The longer of the two hashes' blocks.
const BLOCK_MAX: usize = 128;
