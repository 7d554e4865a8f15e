//! A PKCS#10 request whose signature central's token makes with a managed key.
//!
//! rcgen encodes it. Invariant: the key is an object of the token for this one signature.

use std::cell::RefCell;

use keyhaven_hsm::{
    Error, Worker,
    managed::{CentralToken, PublicPart},
};
use keyhaven_kms::central::csr_scheme;
use keyhaven_types::KeyKind;
use keyhaven_wire::kms::Manifest;
use rcgen::{
    CertificateParams, DistinguishedName, PublicKeyData, SanType, SignatureAlgorithm, SigningKey,
};
use x509_parser::{prelude::FromDer as _, x509::SubjectPublicKeyInfo};

use crate::work::{public_part, spec_of};

/// A request for these host names, DER.
///
/// # Errors
/// The token's, or [`Error::UnsupportedKey`] when no request can be made for the key or the names.
pub(crate) fn request(
    token: &CentralToken,
    worker: &Worker,
    manifest: &Manifest,
    root_wrap: &[u8],
    names: &[String],
) -> Result<Vec<u8>, Error> {
    let unsupported = |reason: &str| Error::UnsupportedKey {
        key: manifest.id.to_string(),
        reason: reason.to_owned(),
    };
    let mut parameters = CertificateParams::default();
    parameters.distinguished_name = DistinguishedName::new();
    for name in names {
        let name = name.as_str().try_into();
        let name = name.map_err(|_| unsupported("a host name cannot stand in a request"))?;
        parameters.subject_alt_names.push(SanType::DnsName(name));
    }
    let public = public_part(&manifest.public);
    let PublicPart::Spki(spki) = &public else {
        return Err(unsupported("it has no public part"));
    };
    let bits = SubjectPublicKeyInfo::from_der(spki)
        .map(|(_, spki)| spki.subject_public_key.data.to_vec())
        .map_err(|_| unsupported("its public part cannot be read"))?;
    let algorithm =
        algorithm(manifest.kind).ok_or_else(|| unsupported("a secret key has no certificate"))?;
    let signer = TokenSigner {
        token,
        worker,
        manifest,
        root_wrap,
        public,
        bits,
        algorithm,
        failed: RefCell::new(None),
    };
    match parameters.serialize_request(&signer) {
        Ok(request) => Ok(request.der().to_vec()),
        Err(error) => Err(signer
            .failed
            .take()
            .unwrap_or_else(|| unsupported(&format!("its request cannot be encoded: {error}")))),
    }
}

fn algorithm(kind: KeyKind) -> Option<&'static SignatureAlgorithm> {
    Some(match kind {
        KeyKind::Rsa2048 | KeyKind::Rsa3072 | KeyKind::Rsa4096 => &rcgen::PKCS_RSA_SHA256,
        KeyKind::EcP256 => &rcgen::PKCS_ECDSA_P256_SHA256,
        KeyKind::EcP384 => &rcgen::PKCS_ECDSA_P384_SHA384,
        KeyKind::Ed25519 => &rcgen::PKCS_ED25519,
        KeyKind::Aes256 | KeyKind::Hmac => return None,
    })
}

/// The managed key as rcgen wants one.
struct TokenSigner<'a> {
    token: &'a CentralToken,
    worker: &'a Worker,
    manifest: &'a Manifest,
    root_wrap: &'a [u8],
    public: PublicPart,
    bits: Vec<u8>,
    algorithm: &'static SignatureAlgorithm,
    failed: RefCell<Option<Error>>,
}

impl PublicKeyData for TokenSigner<'_> {
    fn der_bytes(&self) -> &[u8] {
        &self.bits
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        self.algorithm
    }
}

impl SigningKey for TokenSigner<'_> {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        let scheme = csr_scheme(self.manifest.kind).ok_or(rcgen::Error::RemoteKeyError)?;
        let spec = spec_of(self.manifest);
        self.token
            .sign_as(
                self.worker,
                &spec,
                &self.public,
                self.root_wrap,
                scheme,
                message,
            )
            .map_err(|error| {
                self.failed.replace(Some(error));
                rcgen::Error::RemoteKeyError
            })
    }
}
