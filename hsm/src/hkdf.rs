//! HKDF on secrets that stay in the token (RFC 5869), and what comes out of them by name.
//!
//! CKM_HKDF_DERIVE makes secrets, CKM_HKDF_DATA makes bytes that are read and destroyed at once. Which of the two is
//! wanted is said by the caller. Invariant: a secret is never asked for by CKM_HKDF_DATA alone with nothing expanded.

use cryptoki::{
    mechanism::{
        Mechanism, MechanismType,
        hkdf::{HkdfParams, HkdfSalt},
    },
    object::{Attribute, KeyType, ObjectClass, ObjectHandle},
};
use keyhaven_types::HashAlgorithm;

use crate::{
    Error, Kept, kdf,
    quirks::Ways,
    session::OpenSession,
    template::{self, Usage},
};

const EXTRACT: &str = "HKDF-Extract to a secret";
const EXPAND: &str = "HKDF-Expand to a secret";
const EXPAND_BYTES: &str = "HKDF-Expand to bytes";
const HMAC: &str = "an HMAC keyed by a secret";

/// HKDF-Extract to a secret. One PKCS#11 call.
pub(crate) fn extract(
    session: &OpenSession,
    ways: &Ways,
    hash: HashAlgorithm,
    salt: HkdfSalt<'_>,
    secret: ObjectHandle,
) -> Result<ObjectHandle, Error> {
    let mechanism = Mechanism::HkdfDerive(HkdfParams::new(prf(hash), Some(salt), None));
    let template = template::secret(ways, Some(hash.output_len()), Usage::Derive, Kept::Never);
    session
        .derive_key(&mechanism, secret, &template)
        .map_err(|source| kdf::failure(EXTRACT, hash, source))
}

/// HKDF-Expand to a secret. One PKCS#11 call.
pub(crate) fn expand(
    session: &OpenSession,
    ways: &Ways,
    hash: HashAlgorithm,
    secret: ObjectHandle,
    info: &[u8],
    len: usize,
    kept: Kept,
) -> Result<ObjectHandle, Error> {
    let mechanism = Mechanism::HkdfDerive(HkdfParams::new(prf(hash), None, Some(info)));
    let template = template::secret(ways, Some(len), usage(info), kept);
    session
        .derive_key(&mechanism, secret, &template)
        .map_err(|source| kdf::failure(EXPAND, hash, source))
}

/// HKDF-Expand to bytes. Three PKCS#11 calls: C_DeriveKey, C_GetAttributeValue, C_DestroyObject.
pub(crate) fn expand_bytes(
    session: &OpenSession,
    hash: HashAlgorithm,
    secret: ObjectHandle,
    info: &[u8],
    out: &mut [u8],
) -> Result<(), Error> {
    let mechanism = Mechanism::HkdfData(HkdfParams::new(prf(hash), None, Some(info)));
    let object = session
        .derive_key(&mechanism, secret, &template::data(out.len()))
        .map_err(|source| kdf::failure(EXPAND_BYTES, hash, source))?;
    kdf::take_value(session, EXPAND_BYTES, object, out)
}

/// HMAC into `out` of the hash's length. Two PKCS#11 calls: C_SignInit, C_Sign.
pub(crate) fn hmac(
    session: &OpenSession,
    hash: HashAlgorithm,
    secret: ObjectHandle,
    message: &[u8],
    out: &mut [u8],
) -> Result<(), Error> {
    let mac = kdf::hmac(session, HMAC, hash, secret, message)?;
    if mac.len() != out.len() {
        return Err(Error::answer(HMAC, "a MAC of the wrong length"));
    }
    out.copy_from_slice(&mac);
    Ok(())
}

/// A secret of zeros, as long as the hash: the input key material of a master secret. It is no secret, and one
/// object serves every handshake of a login. One PKCS#11 call.
pub(crate) fn zeros(session: &OpenSession, hash: HashAlgorithm) -> Result<ObjectHandle, Error> {
    let template = [
        Attribute::Class(ObjectClass::SECRET_KEY),
        Attribute::KeyType(KeyType::GENERIC_SECRET),
        Attribute::Token(false),
        Attribute::Private(false),
        Attribute::Derive(true),
        Attribute::Sign(false),
        Attribute::Verify(false),
        Attribute::Encrypt(false),
        Attribute::Decrypt(false),
        Attribute::Wrap(false),
        Attribute::Unwrap(false),
        Attribute::Value(vec![0; hash.output_len()]),
    ];
    session
        .create_object(&template)
        .map_err(|source| kdf::failure("making a secret of zeros", hash, source))
}

/// A Finished key makes MACs, every other secret of the schedule is derived from. `info` is a whole HkdfLabel
/// (RFC 8446, section 7.1): two bytes of length, then the label behind its own length.
fn usage(info: &[u8]) -> Usage {
    match info.get(2..) {
        Some([len, rest @ ..]) if rest.get(..usize::from(*len)) == Some(FINISHED) => Usage::Sign,
        _ => Usage::Derive,
    }
}

fn prf(hash: HashAlgorithm) -> MechanismType {
    match hash {
        HashAlgorithm::Sha256 => MechanismType::SHA256,
        HashAlgorithm::Sha384 => MechanismType::SHA384,
    }
}

/// RFC 8446, section 4.4.4.
const FINISHED: &[u8] = b"tls13 finished";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finished_key_makes_macs_and_nothing_else() {
        assert_eq!(usage(b"\0\x20\x0etls13 finished\0"), Usage::Sign);
        assert_eq!(usage(b"\0\x20\x0ctls13 s hs tr\0"), Usage::Derive);
        assert_eq!(usage(b"\0\x20\xfftls13 finished\0"), Usage::Derive);
        assert_eq!(usage(b""), Usage::Derive);
    }
}
