//! Public keys outside the token: read from a certificate's SubjectPublicKeyInfo, and used to verify.
//!
//! The certificate itself is not looked at. Invariant: verification is done by software that is not the token's.

use aws_lc_rs::signature::{self, ParsedPublicKey, VerificationAlgorithm};
use keyhaven_types::{KeyAlgorithm, SignatureScheme};
use x509_parser::{
    der_parser::{Oid, oid},
    prelude::FromDer,
    x509::SubjectPublicKeyInfo,
};

/// The public part of a key in a token.
pub(crate) struct PublicKey {
    algorithm: KeyAlgorithm,
    der: Vec<u8>,
    modulus: Option<Vec<u8>>,
    verifiers: Vec<(SignatureScheme, ParsedPublicKey)>,
}

impl PublicKey {
    /// Reads a SubjectPublicKeyInfo; the error is a half sentence.
    pub(crate) fn parse(der: &[u8]) -> Result<Self, String> {
        let (rest, info) = SubjectPublicKeyInfo::from_der(der)
            .map_err(|_| "its public key is not a SubjectPublicKeyInfo".to_owned())?;
        if !rest.is_empty() {
            return Err("bytes follow its public key".to_owned());
        }
        let curve = info.algorithm.parameters.as_ref();
        let curve = curve.and_then(|any| any.as_oid().ok());
        let kind = &info.algorithm.algorithm;
        let mut modulus = None;
        let algorithm = if *kind == RSA {
            let Ok(x509_parser::public_key::PublicKey::RSA(key)) = info.parsed() else {
                return Err("its RSA public key cannot be read".to_owned());
            };
            let bytes = strip_zeros(key.modulus);
            modulus = Some(bytes.to_vec());
            rsa_algorithm(bytes)?
        } else if *kind == EC && curve == Some(P256) {
            KeyAlgorithm::EcdsaP256
        } else if *kind == EC && curve == Some(P384) {
            KeyAlgorithm::EcdsaP384
        } else if *kind == ED25519 {
            KeyAlgorithm::Ed25519
        } else {
            return Err(format!(
                "its kind {kind} is not served; use RSA 2048 to 4096, ECDSA P-256 or P-384, or Ed25519"
            ));
        };
        let raw = info.subject_public_key.data.as_ref();
        let verifiers = SignatureScheme::of(algorithm)
            .iter()
            .map(|&scheme| {
                ParsedPublicKey::new(verification(scheme), raw)
                    .map(|key| (scheme, key))
                    .map_err(|_| "its public key is not a valid one".to_owned())
            })
            .collect::<Result<_, _>>()?;
        Ok(Self {
            algorithm,
            der: der.to_vec(),
            modulus,
            verifiers,
        })
    }

    pub(crate) fn algorithm(&self) -> KeyAlgorithm {
        self.algorithm
    }

    pub(crate) fn der(&self) -> &[u8] {
        &self.der
    }

    /// The RSA modulus without leading zeros.
    pub(crate) fn modulus(&self) -> Option<&[u8]> {
        self.modulus.as_deref()
    }

    pub(crate) fn verifies(
        &self,
        scheme: SignatureScheme,
        message: &[u8],
        signature: &[u8],
    ) -> bool {
        self.verifiers
            .iter()
            .find(|(known, _)| *known == scheme)
            .is_some_and(|(_, key)| key.verify_sig(message, signature).is_ok())
    }
}

fn rsa_algorithm(modulus: &[u8]) -> Result<KeyAlgorithm, String> {
    let spare = modulus
        .first()
        .map_or(0, |byte| byte.leading_zeros() as usize);
    let bits = modulus.len() * 8 - spare.min(modulus.len() * 8);
    match u16::try_from(bits) {
        Ok(bits @ 2048..=4096) => Ok(KeyAlgorithm::Rsa(bits)),
        _ => Err(format!(
            "its RSA modulus has {bits} bits; 2048 to 4096 are served"
        )),
    }
}

pub(crate) fn strip_zeros(bytes: &[u8]) -> &[u8] {
    let zeros = bytes.iter().take_while(|&&byte| byte == 0).count();
    &bytes[zeros..]
}

fn verification(scheme: SignatureScheme) -> &'static dyn VerificationAlgorithm {
    match scheme {
        SignatureScheme::RsaPkcs1Sha256 => &signature::RSA_PKCS1_2048_8192_SHA256,
        SignatureScheme::RsaPkcs1Sha384 => &signature::RSA_PKCS1_2048_8192_SHA384,
        SignatureScheme::RsaPkcs1Sha512 => &signature::RSA_PKCS1_2048_8192_SHA512,
        SignatureScheme::RsaPssRsaeSha256 => &signature::RSA_PSS_2048_8192_SHA256,
        SignatureScheme::RsaPssRsaeSha384 => &signature::RSA_PSS_2048_8192_SHA384,
        SignatureScheme::RsaPssRsaeSha512 => &signature::RSA_PSS_2048_8192_SHA512,
        SignatureScheme::EcdsaSecp256r1Sha256 => &signature::ECDSA_P256_SHA256_ASN1,
        SignatureScheme::EcdsaSecp384r1Sha384 => &signature::ECDSA_P384_SHA384_ASN1,
        SignatureScheme::Ed25519 => &signature::ED25519,
    }
}

const RSA: Oid<'static> = oid!(1.2.840.113549.1.1.1);
const EC: Oid<'static> = oid!(1.2.840.10045.2.1);
const P256: Oid<'static> = oid!(1.2.840.10045.3.1.7);
const P384: Oid<'static> = oid!(1.3.132.0.34);
const ED25519: Oid<'static> = oid!(1.3.101.112);
