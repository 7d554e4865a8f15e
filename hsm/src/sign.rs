//! Signatures by a private key in a token, in the encodings of TLS.
//!
//! The message is hashed here and the token gets a digest with parameters of our own making (security rule K5):
//! nobody else chooses a DigestInfo or PSS parameters. Whether a signature is verified before it is used is
//! decided in `worker`. Invariant: one call, one C_SignInit, one signature.

use std::ffi::c_ulong;

use aws_lc_rs::digest;
use cryptoki::{
    mechanism::{
        Mechanism, MechanismType,
        eddsa::{EddsaParams, EddsaSignatureScheme},
        rsa::{PkcsMgfType, PkcsPssParams},
    },
    object::ObjectHandle,
};
use keyhaven_types::SignatureScheme;

use crate::{Error, session::OpenSession};

const SIGN: &str = "a signature";

/// Signs `message` and gives the signature as TLS has it: RSA and Ed25519 as they are, ECDSA as DER.
pub(crate) fn sign(
    session: &OpenSession,
    key: ObjectHandle,
    scheme: SignatureScheme,
    message: &[u8],
) -> Result<Vec<u8>, Error> {
    let hash = |algorithm| digest::digest(algorithm, message).as_ref().to_vec();
    let (mechanism, input) = match scheme {
        SignatureScheme::RsaPkcs1Sha256 => (
            Mechanism::RsaPkcs,
            [DIGEST_INFO_SHA256, &hash(&digest::SHA256)].concat(),
        ),
        SignatureScheme::RsaPkcs1Sha384 => (
            Mechanism::RsaPkcs,
            [DIGEST_INFO_SHA384, &hash(&digest::SHA384)].concat(),
        ),
        SignatureScheme::RsaPkcs1Sha512 => (
            Mechanism::RsaPkcs,
            [DIGEST_INFO_SHA512, &hash(&digest::SHA512)].concat(),
        ),
        SignatureScheme::RsaPssRsaeSha256 => (
            pss(MechanismType::SHA256, PkcsMgfType::MGF1_SHA256, 32),
            hash(&digest::SHA256),
        ),
        SignatureScheme::RsaPssRsaeSha384 => (
            pss(MechanismType::SHA384, PkcsMgfType::MGF1_SHA384, 48),
            hash(&digest::SHA384),
        ),
        SignatureScheme::RsaPssRsaeSha512 => (
            pss(MechanismType::SHA512, PkcsMgfType::MGF1_SHA512, 64),
            hash(&digest::SHA512),
        ),
        SignatureScheme::EcdsaSecp256r1Sha256 => (Mechanism::Ecdsa, hash(&digest::SHA256)),
        SignatureScheme::EcdsaSecp384r1Sha384 => (Mechanism::Ecdsa, hash(&digest::SHA384)),
        SignatureScheme::Ed25519 => (
            Mechanism::Eddsa(EddsaParams::new(EddsaSignatureScheme::Ed25519)),
            message.to_vec(),
        ),
    };
    let signature = session
        .sign_once(&mechanism, key, &input)
        .map_err(|source| Error::token(SIGN, source))?;
    match scheme {
        SignatureScheme::EcdsaSecp256r1Sha256 => ecdsa_der(&signature, 32),
        SignatureScheme::EcdsaSecp384r1Sha384 => ecdsa_der(&signature, 48),
        _ => Ok(signature.to_vec()),
    }
}

fn pss(hash_alg: MechanismType, mgf: PkcsMgfType, salt_len: c_ulong) -> Mechanism<'static> {
    Mechanism::RsaPkcsPss(PkcsPssParams {
        hash_alg,
        mgf,
        s_len: salt_len.into(),
    })
}

/// PKCS#11's r || s as the DER SEQUENCE of RFC 3279, section 2.2.3.
fn ecdsa_der(raw: &[u8], half: usize) -> Result<Vec<u8>, Error> {
    if raw.len() != 2 * half {
        return Err(Error::answer(
            SIGN,
            "an ECDSA signature of the wrong length",
        ));
    }
    let (r, s) = raw.split_at(half);
    let body = [der_integer(r), der_integer(s)].concat();
    // At most 2 × (2 + 49) bytes, so that one length byte is enough.
    let mut der = vec![0x30, body.len() as u8];
    der.extend_from_slice(&body);
    Ok(der)
}

/// A DER INTEGER of at most 49 bytes.
fn der_integer(bytes: &[u8]) -> Vec<u8> {
    let digits = crate::spki::strip_zeros(bytes);
    let sign = usize::from(digits.first().is_none_or(|&byte| byte >= 0x80));
    let mut der = vec![0x02, (digits.len() + sign) as u8];
    der.resize(2 + sign, 0);
    der.extend_from_slice(digits);
    der
}

/// RFC 8017, section 9.2, note 1.
const DIGEST_INFO_SHA256: &[u8] = &[
    0x30, 0x31, 0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x01, 0x05,
    0x00, 0x04, 0x20,
];
const DIGEST_INFO_SHA384: &[u8] = &[
    0x30, 0x41, 0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x02, 0x05,
    0x00, 0x04, 0x30,
];
const DIGEST_INFO_SHA512: &[u8] = &[
    0x30, 0x51, 0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x03, 0x05,
    0x00, 0x04, 0x40,
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_are_minimal_and_positive() {
        assert_eq!(der_integer(&[0, 0, 1]), [0x02, 1, 1]);
        assert_eq!(der_integer(&[0, 0x80]), [0x02, 2, 0, 0x80]);
        assert_eq!(der_integer(&[0, 0]), [0x02, 1, 0]);
        assert_eq!(der_integer(&[0x7f, 0xff]), [0x02, 2, 0x7f, 0xff]);
    }

    #[test]
    fn a_signature_of_the_wrong_length_is_refused() {
        assert!(ecdsa_der(&[1; 63], 32).is_err());
        let der = ecdsa_der(&[0xff; 96], 48).unwrap();
        assert_eq!((der.len(), der[1]), (2 + 2 * 51, 102));
    }
}
