//! A signature in the token, verified outside of it.
//!
//! Serves the proof of a new key and certificate requests; handshakes sign in `worker`. Invariant: hashing is done
//! here, so the token is only ever asked for signatures over digests of messages that this process has.

use aws_lc_rs::{digest, signature};
use cryptoki::{
    error::Result as CryptokiResult,
    mechanism::{
        Mechanism,
        eddsa::{EddsaParams, EddsaSignatureScheme},
    },
    object::ObjectHandle,
    session::Session,
};
use keyhaven_types::KeyAlgorithm;

/// DigestInfo of SHA-256 without the digest (RFC 8017, section 9.2, note 1).
const SHA256_DIGEST_INFO: &[u8] = &[
    0x30, 0x31, 0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x01, 0x05,
    0x00, 0x04, 0x20,
];

/// Signs in the token; ECDSA as r and s side by side.
pub(super) fn sign(
    session: &Session,
    key: ObjectHandle,
    algorithm: KeyAlgorithm,
    message: &[u8],
) -> CryptokiResult<Vec<u8>> {
    match algorithm {
        KeyAlgorithm::Rsa(_) => {
            let digest = digest::digest(&digest::SHA256, message);
            let info = [SHA256_DIGEST_INFO, digest.as_ref()].concat();
            session.sign(&Mechanism::RsaPkcs, key, &info)
        }
        KeyAlgorithm::EcdsaP256 => {
            let digest = digest::digest(&digest::SHA256, message);
            session.sign(&Mechanism::Ecdsa, key, digest.as_ref())
        }
        KeyAlgorithm::EcdsaP384 => {
            let digest = digest::digest(&digest::SHA384, message);
            session.sign(&Mechanism::Ecdsa, key, digest.as_ref())
        }
        KeyAlgorithm::Ed25519 => {
            let parameters = EddsaParams::new(EddsaSignatureScheme::Pure);
            session.sign(&Mechanism::Eddsa(parameters), key, message)
        }
    }
}

/// Whether a signature of [`sign`] is the key's.
pub(super) fn verifies(
    algorithm: KeyAlgorithm,
    spki: &[u8],
    message: &[u8],
    signature: &[u8],
) -> bool {
    let verification: &'static dyn signature::VerificationAlgorithm = match algorithm {
        KeyAlgorithm::Rsa(_) => &signature::RSA_PKCS1_2048_8192_SHA256,
        KeyAlgorithm::EcdsaP256 => &signature::ECDSA_P256_SHA256_FIXED,
        KeyAlgorithm::EcdsaP384 => &signature::ECDSA_P384_SHA384_FIXED,
        KeyAlgorithm::Ed25519 => &signature::ED25519,
    };
    let Some(public) = subject_public_key(spki) else {
        return false;
    };
    signature::UnparsedPublicKey::new(verification, public)
        .verify(message, signature)
        .is_ok()
}

/// The signature as X.509 has it: ECDSA as a DER sequence of r and s.
pub(super) fn encode(algorithm: KeyAlgorithm, signature: &[u8]) -> Option<Vec<u8>> {
    match algorithm {
        KeyAlgorithm::EcdsaP256 => p256::ecdsa::Signature::from_slice(signature)
            .ok()
            .map(|signature| signature.to_der().as_bytes().to_vec()),
        KeyAlgorithm::EcdsaP384 => p384::ecdsa::Signature::from_slice(signature)
            .ok()
            .map(|signature| signature.to_der().as_bytes().to_vec()),
        KeyAlgorithm::Rsa(_) | KeyAlgorithm::Ed25519 => Some(signature.to_vec()),
    }
}

/// The bits in an SPKI: RSAPublicKey, a point, or 32 bytes.
fn subject_public_key(spki: &[u8]) -> Option<Vec<u8>> {
    use x509_parser::prelude::FromDer;
    let (rest, spki) = x509_parser::x509::SubjectPublicKeyInfo::from_der(spki).ok()?;
    rest.is_empty()
        .then(|| spki.subject_public_key.data.to_vec())
}
