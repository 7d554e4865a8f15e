//! Key check values: what binds a secret key to its record.
//!
//! A secret has no public part, and tokens do not say CKA_CHECK_VALUE (empty or absent in all that were asked). So a
//! value is made that only the key can make, in the one way that its purpose allows. Never AES of a block of zeros:
//! that is the key of GCM's authentication. Invariant: the same key gives the same value in every token.

use cryptoki::{
    mechanism::{Mechanism, aead::GcmParams},
    object::{Attribute, KeyType, ObjectClass, ObjectHandle},
};
use cryptoki_sys::CK_MECHANISM_TYPE;
use keyhaven_types::Purpose;

use crate::{Error, session::OpenSession};

/// Bytes of a key check value.
pub(crate) const KCV_LEN: usize = 8;

/// The key check value of a managed secret with this purpose. At most five PKCS#11 calls.
pub(crate) fn of(
    session: &OpenSession,
    kwp: CK_MECHANISM_TYPE,
    key: ObjectHandle,
    purpose: Purpose,
) -> Result<[u8; KCV_LEN], Error> {
    let bytes = match purpose {
        Purpose::Data => by_gcm(session, key),
        Purpose::Wrap => by_wrapping(session, kwp, key),
        _ => session
            .sign_once(&Mechanism::Sha256Hmac, key, HMAC_TEXT)
            .map(|mac| mac.to_vec()),
    };
    let bytes = bytes.map_err(|source| Error::token(KCV, source))?;
    let value = bytes.first_chunk().copied();
    value.ok_or_else(|| Error::answer(KCV, "too few bytes"))
}

/// The same of a key whose bytes are known. `None` when no AES-256 key is given where there must be one.
#[cfg(test)]
pub(crate) fn of_bytes(key: &[u8], purpose: Purpose) -> Option<[u8; KCV_LEN]> {
    use aws_lc_rs::{
        aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey},
        hmac,
        key_wrap::{AES_256, AesKek, KeyWrapPadded as _},
    };
    let bytes = match purpose {
        Purpose::Data => {
            let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key).ok()?);
            let mut text = GCM_TEXT.to_vec();
            let nonce = Nonce::assume_unique_for_key(GCM_NONCE);
            key.seal_in_place_append_tag(nonce, Aad::empty(), &mut text)
                .ok()?;
            text
        }
        Purpose::Wrap => {
            let mut out = vec![0; WRAPPED_LEN];
            let key = AesKek::new(&AES_256, key).ok()?;
            key.wrap_with_padding(PROBE, &mut out).ok()?.to_vec()
        }
        _ => hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), HMAC_TEXT)
            .as_ref()
            .to_vec(),
    };
    bytes.first_chunk().copied()
}

/// The beginning of a ciphertext under a nonce that no random one will ever be.
fn by_gcm(session: &OpenSession, key: ObjectHandle) -> Result<Vec<u8>, cryptoki::error::Error> {
    let mut nonce = GCM_NONCE;
    let mechanism = GcmParams::new(&mut nonce, &[], 128.into()).map(Mechanism::AesGcm)?;
    // NSS counts the tag twice when it looks whether there is room.
    let mut out = vec![0; GCM_TEXT.len() + 32];
    let len = session
        .raw()?
        .encrypt(session, &mechanism, key, &GCM_TEXT, &mut out)?;
    out.truncate(len);
    Ok(out)
}

/// The beginning of a known secret, wrapped: a key that wraps does nothing else.
fn by_wrapping(
    session: &OpenSession,
    kwp: CK_MECHANISM_TYPE,
    key: ObjectHandle,
) -> Result<Vec<u8>, cryptoki::error::Error> {
    let probe = session.create_object(&[
        Attribute::Class(ObjectClass::SECRET_KEY),
        Attribute::KeyType(KeyType::AES),
        Attribute::Token(false),
        Attribute::Private(false),
        Attribute::Sensitive(false),
        Attribute::Extractable(true),
        Attribute::Encrypt(true),
        Attribute::Decrypt(true),
        Attribute::Wrap(false),
        Attribute::Unwrap(false),
        Attribute::Value(PROBE.to_vec()),
    ])?;
    let mut out = vec![0; WRAPPED_LEN];
    let wrapped = session
        .raw()
        .and_then(|raw| raw.wrap_key(session, kwp, key, probe, &mut out));
    session.destroy_object(probe)?;
    out.truncate(wrapped?);
    Ok(out)
}

const KCV: &str = "making a key check value";
const HMAC_TEXT: &[u8] = b"keyhaven kcv";
const GCM_TEXT: [u8; KCV_LEN] = [0; KCV_LEN];
const GCM_NONCE: [u8; 12] = *b"keyhaven kcv";
/// No secret.
const PROBE: &[u8; 32] = b"keyhaven: a probe that all know.";
/// RFC 5649: 32 bytes and eight.
const WRAPPED_LEN: usize = 40;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_purpose_has_a_value_of_its_own_and_none_is_that_of_a_block_of_zeros() {
        let key = [7; 32];
        let mut values: Vec<_> = [Purpose::Data, Purpose::Wrap, Purpose::Mac]
            .map(|purpose| of_bytes(&key, purpose).unwrap())
            .into();
        // AES-256 of zeros under this key.
        let zeros = [0x0a, 0x4d, 0xee, 0x87, 0xe7, 0x6c, 0xe0, 0xd4];
        values.push(zeros);
        values.sort_unstable();
        values.dedup();
        assert_eq!(values.len(), 4);
        assert_eq!(of_bytes(&[7; 16], Purpose::Data), None);
    }
}
