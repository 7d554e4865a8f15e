//! Texts signed with an identity's own key, to be judged by somebody who is not at the other end of a connection.
//!
//! Signs, and judges signatures by the private CA. What a text means, and that it begins like no other text that is
//! signed, is its owner's business. Invariant: an [`Identity`] leaves here only when its certificate leads to the private
//! CA, is valid now, names that identity alone, and its key made the signature.

use keyhaven_types::{Identity, SignatureScheme};
use rustls_pki_types::CertificateDer;
use x509_parser::{
    asn1_rs::{Any, FromDer as _},
    prelude::X509Certificate,
};

use crate::{
    credentials::Credentials,
    identity::{PeerIdentityError, peer_identity},
    tls,
};

/// A text's signature with what it takes to judge it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signature {
    /// The signer's certificate and what leads to the private CA, DER, leaf first.
    pub chain: Vec<Vec<u8>>,
    /// How it is signed.
    pub scheme: SignatureScheme,
    /// RSA and Ed25519 as they are, ECDSA as DER.
    pub signature: Vec<u8>,
}

/// Why a text was not signed.
#[derive(Debug, thiserror::Error)]
pub enum SignError {
    /// The key makes no signature that others would judge.
    #[error(
        "the identity's key makes no signature that is judged here: it must be on P-256 or P-384, Ed25519 or RSA"
    )]
    Key,
    /// The library refused.
    #[error("the identity's key did not sign")]
    Failed(#[from] rustls::Error),
}

/// Why a signature is nobody's.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// The certificates do not lead to the private CA, or are not valid now.
    #[error("the signer's certificate is not one of the private CA that is valid now")]
    Chain(#[from] rustls::Error),
    /// The certificate is nobody's.
    #[error("the signer's certificate names no identity")]
    Identity(#[from] PeerIdentityError),
    /// The key in the certificate is not for this scheme.
    #[error("the certificate's key makes no such signature")]
    Scheme,
    /// It is not this key's signature of this text.
    #[error("the signature is not good")]
    Signature,
}

/// Signs a text with the identity's own key.
///
/// # Errors
/// [`SignError`] when the key cannot.
pub fn sign(credentials: &Credentials, text: &[u8]) -> Result<Signature, SignError> {
    let certified = credentials.key();
    let chosen = SCHEMES.into_iter().find_map(|scheme| {
        let signer = certified.key.choose_scheme(&[wire_scheme(scheme)])?;
        Some((scheme, signer))
    });
    let (scheme, signer) = chosen.ok_or(SignError::Key)?;
    Ok(Signature {
        chain: certified.cert.iter().map(|der| der.to_vec()).collect(),
        scheme,
        signature: signer.sign(text)?,
    })
}

/// Judges a signature by the CA of `credentials`, at this moment, and says whose it is.
///
/// # Errors
/// [`VerifyError`], by the first thing that is wrong; a caller gets none of it told.
pub fn verify(
    credentials: &Credentials,
    text: &[u8],
    signature: &Signature,
) -> Result<Identity, VerifyError> {
    let chain: Vec<CertificateDer<'_>> = signature
        .chain
        .iter()
        .map(|der| CertificateDer::from(der.as_slice()))
        .collect();
    let identity = peer_identity(&chain)?;
    // The role decides the extended key usage, as on the channel itself.
    tls::check_own(&chain, &credentials.roots(), identity.role())?;
    let leaf = chain.first().ok_or(PeerIdentityError::NoCertificate)?;
    let (_, leaf) = X509Certificate::from_der(leaf).map_err(|_| PeerIdentityError::Unreadable)?;
    let key = leaf.public_key();
    let provider = tls::provider();
    if !SCHEMES.contains(&signature.scheme) {
        return Err(VerifyError::Scheme);
    }
    let wanted = wire_scheme(signature.scheme);
    let (_, algorithms) = provider
        .signature_verification_algorithms
        .mapping
        .iter()
        .find(|(scheme, _)| *scheme == wanted)
        .ok_or(VerifyError::Scheme)?;
    // Of several, the first is the one of TLS 1.3, where a scheme names its curve (RFC 8446, section 4.2.3).
    let algorithm = algorithms.first().ok_or(VerifyError::Scheme)?;
    if algorithm_id(key.raw) != Some(algorithm.public_key_alg_id().as_ref()) {
        return Err(VerifyError::Scheme);
    }
    algorithm
        .verify_signature(&key.subject_public_key.data, text, &signature.signature)
        .map_err(|_| VerifyError::Signature)?;
    Ok(identity)
}

/// What stands inside of the AlgorithmIdentifier of a SubjectPublicKeyInfo (RFC 5280, section 4.1.2.7).
fn algorithm_id(spki: &[u8]) -> Option<&[u8]> {
    let (_, info) = Any::from_der(spki).ok()?;
    let (_, algorithm) = Any::from_der(info.data).ok()?;
    Some(algorithm.data)
}

fn wire_scheme(scheme: SignatureScheme) -> rustls::SignatureScheme {
    rustls::SignatureScheme::from(scheme as u16)
}

/// What is signed with, the preferred first. No PKCS#1 v1.5: nothing here is as old as TLS 1.2.
const SCHEMES: [SignatureScheme; 6] = [
    SignatureScheme::Ed25519,
    SignatureScheme::EcdsaSecp256r1Sha256,
    SignatureScheme::EcdsaSecp384r1Sha384,
    SignatureScheme::RsaPssRsaeSha256,
    SignatureScheme::RsaPssRsaeSha384,
    SignatureScheme::RsaPssRsaeSha512,
];
