//! `key csr`: a PKCS#10 request whose signature the token makes.
//!
//! rcgen encodes it; the names are checked here. Invariant: the private key is reached through its handle alone.

use std::path::Path;

use keyhaven_hsm::admin::{AdminSession, KeyEntry};
use keyhaven_types::KeyAlgorithm;
use rcgen::{
    CertificateParams, DistinguishedName, DnType, PublicKeyData, SanType, SignatureAlgorithm,
    SigningKey,
};
use rustls_pki_types::DnsName;
use serde_json::json;

use super::key_json;
use crate::admin::{args::CsrArgs, failure::Failure, report::Report, select::Selected, text};

/// What a file must begin with to be replaced.
const REQUEST_HEADER: &[u8] = b"-----BEGIN CERTIFICATE REQUEST-----";

/// Makes a certificate signing request.
pub(in crate::admin) fn csr(args: &CsrArgs) -> Result<Report, Failure> {
    let parameters = parameters(args)?;
    if let Some(path) = &args.out {
        check_replaceable(path)?;
    }
    let selected = Selected::new(&args.key.token)?;
    let session = selected.open()?;
    let key = selected.find_key(&session, &args.key.name)?;
    let signer = TokenSigner::new(&session, &key)?;
    let pem = parameters
        .serialize_request(&signer)
        .and_then(|request| request.pem())
        .map_err(|error| signer.failure(&error))?;
    let json = json!({
        "key": key_json(session.info(), &key),
        "dns": args.dns,
        "out": args.out,
        "csr": pem,
    });
    let Some(path) = &args.out else {
        return Ok(Report::new(json, pem));
    };
    std::fs::write(path, &pem).map_err(|error| Failure::file("write", path, &error))?;
    let human = format!(
        "certificate request for {} written to {}\n  give it to your certificate authority; then set the certificate in signer.toml\n",
        args.dns.join(", "),
        path.display()
    );
    Ok(Report::new(json, human))
}

fn parameters(args: &CsrArgs) -> Result<CertificateParams, Failure> {
    let mut parameters = CertificateParams::default();
    parameters.distinguished_name = DistinguishedName::new();
    if let Some(name) = &args.common_name {
        parameters
            .distinguished_name
            .push(DnType::CommonName, name.as_str());
    }
    for name in &args.dns {
        let bad = || {
            Failure::usage(
                format!("`{}` is not a DNS name", text::clean(name)),
                "write names like www.example.org or *.example.org; international names in their xn-- form",
            )
        };
        DnsName::try_from(name.strip_prefix("*.").unwrap_or(name)).map_err(|_| bad())?;
        let name = name.to_ascii_lowercase().try_into().map_err(|_| bad())?;
        parameters.subject_alt_names.push(SanType::DnsName(name));
    }
    Ok(parameters)
}

/// An older request may be replaced; a key or a certificate in the same place may not.
pub(in crate::admin) fn check_replaceable(path: &Path) -> Result<(), Failure> {
    match std::fs::read(path) {
        Ok(old) if old.starts_with(REQUEST_HEADER) => Ok(()),
        Ok(_) => Err(Failure::new(
            format!(
                "{} exists and is not a certificate request; it was left alone",
                path.display()
            ),
            "choose another --out",
        )),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(Failure::file("look at", path, &error)),
    }
}

/// The token's key as rcgen wants one.
struct TokenSigner<'a> {
    session: &'a AdminSession,
    key: &'a KeyEntry,
    algorithm: &'static SignatureAlgorithm,
    public: Vec<u8>,
    failed: std::cell::RefCell<Option<Failure>>,
}

impl<'a> TokenSigner<'a> {
    fn new(session: &'a AdminSession, key: &'a KeyEntry) -> Result<Self, Failure> {
        let (Some(algorithm), Some(spki)) = (key.algorithm, &key.spki) else {
            return Err(Failure::new(
                format!(
                    "key {} is of no kind that is served, or has no public part in the token",
                    text::clean(&key.to_text())
                ),
                "signer-admin key show shows what is known of it",
            ));
        };
        let public = public_bits(spki).ok_or_else(|| {
            Failure::new(
                "the key's public part cannot be read",
                "signer-admin key show",
            )
        })?;
        Ok(Self {
            session,
            key,
            algorithm: match algorithm {
                KeyAlgorithm::Rsa(_) => &rcgen::PKCS_RSA_SHA256,
                KeyAlgorithm::EcdsaP256 => &rcgen::PKCS_ECDSA_P256_SHA256,
                KeyAlgorithm::EcdsaP384 => &rcgen::PKCS_ECDSA_P384_SHA384,
                KeyAlgorithm::Ed25519 => &rcgen::PKCS_ED25519,
            },
            public,
            failed: std::cell::RefCell::new(None),
        })
    }

    /// The token's own words, when it was the token that failed.
    fn failure(&self, error: &rcgen::Error) -> Failure {
        self.failed.take().unwrap_or_else(|| {
            Failure::new(
                format!("the request cannot be encoded: {error}"),
                "check the names",
            )
        })
    }
}

impl PublicKeyData for TokenSigner<'_> {
    fn der_bytes(&self) -> &[u8] {
        &self.public
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        self.algorithm
    }
}

impl SigningKey for TokenSigner<'_> {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        self.session.sign(self.key, message).map_err(|error| {
            self.failed.replace(Some(error.into()));
            rcgen::Error::RemoteKeyError
        })
    }
}

/// The bits of an SPKI, without its algorithm.
fn public_bits(spki: &[u8]) -> Option<Vec<u8>> {
    use x509_parser::prelude::FromDer;
    let (_, spki) = x509_parser::x509::SubjectPublicKeyInfo::from_der(spki).ok()?;
    Some(spki.subject_public_key.data.to_vec())
}
