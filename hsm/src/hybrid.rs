//! Secrets made of two: the exchanges of X25519MLKEM768, joined in the token.
//!
//! Invariant: a peer's encapsulation key was judged here before a token sees it.

use cryptoki::{
    mechanism::{Mechanism, misc::KeyDerivationStringData},
    object::{Attribute, KeyType, MlKemParameterSetType, ObjectClass, ObjectHandle},
};
use keyhaven_types::HashAlgorithm;

use crate::{
    Error, Kept, kdf,
    quirks::Ways,
    session::OpenSession,
    template::{self, Usage},
};

const CONCATENATE: &str = "joining two secrets";
const PREPEND: &str = "putting bytes before a secret";
const ENCAPSULATE: &str = "an ML-KEM encapsulation";

/// `first || second`. One PKCS#11 call.
pub(crate) fn concatenate(
    session: &OpenSession,
    ways: &Ways,
    first: ObjectHandle,
    second: ObjectHandle,
) -> Result<ObjectHandle, Error> {
    let mechanism = Mechanism::ConcatenateBaseAndKey(second);
    let template = template::secret(ways, None, Usage::Derive, Kept::Never);
    session
        .derive_key(&mechanism, first, &template)
        .map_err(|source| kdf::failure(CONCATENATE, ANY, source))
}

/// `prefix || secret`. One PKCS#11 call.
pub(crate) fn prepend(
    session: &OpenSession,
    ways: &Ways,
    prefix: &[u8],
    secret: ObjectHandle,
) -> Result<ObjectHandle, Error> {
    let mechanism = Mechanism::ConcatenateDataAndBase(KeyDerivationStringData::new(prefix));
    let template = template::secret(ways, None, Usage::Derive, Kept::Never);
    session
        .derive_key(&mechanism, secret, &template)
        .map_err(|source| kdf::failure(PREPEND, ANY, source))
}

/// ML-KEM-768 encapsulation: the ciphertext, and the secret of 32 bytes. Four PKCS#11 calls: C_CreateObject,
/// C_EncapsulateKey twice (the binding asks for the length first), C_DestroyObject.
pub(crate) fn encapsulate(
    session: &OpenSession,
    ways: &Ways,
    peer_key: &[u8],
) -> Result<(Vec<u8>, ObjectHandle), Error> {
    let public = [
        Attribute::Class(ObjectClass::PUBLIC_KEY),
        Attribute::KeyType(KeyType::ML_KEM),
        Attribute::Token(false),
        Attribute::Private(false),
        Attribute::ParameterSet(MlKemParameterSetType::ML_KEM_768.into()),
        Attribute::Value(peer_key.to_vec()),
        Attribute::Encapsulate(true),
    ];
    let failed = |source| kdf::failure(ENCAPSULATE, ANY, source);
    let public = session.create_object(&public).map_err(failed)?;
    let template = template::secret(ways, Some(SECRET_LEN), Usage::Derive, Kept::Never);
    let made = session.encapsulate_key(&Mechanism::MlKem, public, &template);
    let destroyed = session.destroy_object(public);
    let (ciphertext, secret) = made.map_err(failed)?;
    let sound = match destroyed {
        Err(source) => Err(Error::token("destroying a peer's public key", source)),
        Ok(()) if ciphertext.len() != CIPHERTEXT_LEN => Err(Error::answer(
            ENCAPSULATE,
            "a ciphertext of the wrong length",
        )),
        Ok(()) => Ok(()),
    };
    match sound {
        Ok(()) => Ok((ciphertext, secret)),
        Err(error) => {
            // The first failure is the one that is told.
            let _ = session.destroy_object(secret);
            Err(error)
        }
    }
}

/// FIPS 203, section 7.2: the key has the right length, and each of its 768 numbers of 12 bits is below q.
pub(crate) fn is_encapsulation_key(bytes: &[u8]) -> bool {
    bytes.len() == KEY_LEN
        && bytes[..KEY_LEN - SEED_LEN].chunks_exact(3).all(|three| {
            let low = u16::from(three[0]) | (u16::from(three[1] & 0x0f) << 8);
            let high = u16::from(three[1] >> 4) | (u16::from(three[2]) << 4);
            low < Q && high < Q
        })
}

/// The length of a secret has nothing to do with a hash; an error needs one to name.
const ANY: HashAlgorithm = HashAlgorithm::Sha256;
/// FIPS 203, table 3.
const KEY_LEN: usize = 1184;
const SEED_LEN: usize = 32;
const CIPHERTEXT_LEN: usize = 1088;
const SECRET_LEN: usize = 32;
const Q: u16 = 3329;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_of_q_or_more_is_no_key() {
        let mut key = vec![0; KEY_LEN];
        assert!(is_encapsulation_key(&key));
        assert!(!is_encapsulation_key(&key[1..]));
        // The seed is any bytes.
        key[KEY_LEN - 1] = 0xff;
        assert!(is_encapsulation_key(&key));
        // 3328, then 3329, low and high.
        key[..3].copy_from_slice(&[0x00, 0x0d, 0xd0]);
        assert!(is_encapsulation_key(&key));
        key[0] = 0x01;
        assert!(!is_encapsulation_key(&key));
        key[..3].copy_from_slice(&[0x00, 0x1d, 0xd0]);
        assert!(!is_encapsulation_key(&key));
    }
}
