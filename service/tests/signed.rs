//! Whose a signed text is: every kind of key that may sign, and every certificate that must not be believed.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::path::Path;

use common::{Ca, PROXY, dns_name, uri_name};
use keyhaven_service::{
    Credentials,
    signed::{Signature, VerifyError, sign, verify},
};
use keyhaven_types::SignatureScheme;
use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    date_time_ymd,
};

const CLIENT: &str = "spiffe://keyhaven.test/client/shop";
const SIGNER: &str = "spiffe://keyhaven.test/signer/fra";
const TEXT: &[u8] = b"what is signed";

/// A judge who trusts this CA.
fn judge(ca: &Ca) -> Credentials {
    ca.credentials(SIGNER)
}

#[test]
fn each_kind_of_identity_key_signs_and_is_judged() {
    let folder = tempfile::tempdir().unwrap();
    let ca_key = KeyPair::generate().unwrap();
    let mut ca = CertificateParams::default();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca_file = folder.path().join("ca.pem");
    std::fs::write(&ca_file, ca.self_signed(&ca_key).unwrap().pem()).unwrap();
    let issuer = Issuer::new(ca, ca_key);
    for (kind, scheme) in [
        (
            &rcgen::PKCS_ECDSA_P256_SHA256,
            SignatureScheme::EcdsaSecp256r1Sha256,
        ),
        (
            &rcgen::PKCS_ECDSA_P384_SHA384,
            SignatureScheme::EcdsaSecp384r1Sha384,
        ),
        (&rcgen::PKCS_ED25519, SignatureScheme::Ed25519),
        (&rcgen::PKCS_RSA_SHA256, SignatureScheme::RsaPssRsaeSha256),
    ] {
        let key = KeyPair::generate_for(kind).unwrap();
        let mut leaf = CertificateParams::default();
        leaf.subject_alt_names = vec![uri_name(CLIENT)];
        let leaf = leaf.signed_by(&key, &issuer).unwrap();
        let credentials = load(folder.path(), &leaf.pem(), &key, &ca_file);
        let mut made = sign(&credentials, TEXT).unwrap();
        assert_eq!(made.scheme, scheme);
        let identity = verify(&credentials, TEXT, &made).unwrap();
        assert_eq!(identity.as_str(), CLIENT);
        let altered = verify(&credentials, b"another text", &made);
        assert!(matches!(altered, Err(VerifyError::Signature)), "{scheme:?}");
        let middle = made.signature.len() / 2;
        made.signature[middle] ^= 1;
        assert!(verify(&credentials, TEXT, &made).is_err(), "{scheme:?}");
    }
}

fn load(folder: &Path, chain: &str, key: &KeyPair, ca: &Path) -> Credentials {
    let (certificate, key_file) = (folder.join("leaf.pem"), folder.join("leaf.key"));
    std::fs::write(&certificate, chain).unwrap();
    std::fs::write(&key_file, key.serialize_pem()).unwrap();
    Credentials::load(&certificate, &key_file, ca).unwrap()
}

#[test]
fn a_certificate_of_another_ca_is_nobodys() {
    let (ours, theirs) = (Ca::new(), Ca::new());
    let made = sign(&theirs.credentials(CLIENT), TEXT).unwrap();
    assert!(verify(&judge(&theirs), TEXT, &made).is_ok());
    let judged = verify(&judge(&ours), TEXT, &made);
    assert!(matches!(judged, Err(VerifyError::Chain(_))), "{judged:?}");
}

#[test]
fn a_certificate_is_believed_only_while_it_is_valid() {
    let ca = Ca::new();
    let made = sign(&ca.expired(CLIENT), TEXT).unwrap();
    let judged = verify(&judge(&ca), TEXT, &made);
    assert!(matches!(judged, Err(VerifyError::Chain(_))), "{judged:?}");
    let (chain, key) = ca.issue(&[uri_name(CLIENT)], |params| {
        params.not_before = date_time_ymd(2200, 1, 1);
        params.not_after = date_time_ymd(2201, 1, 1);
    });
    let early = Credentials::load(&chain, &key, &ca.path()).unwrap();
    let judged = verify(&judge(&ca), TEXT, &sign(&early, TEXT).unwrap());
    assert!(matches!(judged, Err(VerifyError::Chain(_))), "{judged:?}");
}

#[test]
fn m2_a_certificate_names_one_identity_and_no_more() {
    let ca = Ca::new();
    let made = sign(&ca.credentials(CLIENT), TEXT).unwrap();
    for names in [
        vec![uri_name(CLIENT), uri_name(PROXY)],
        vec![dns_name("keyhaven.test")],
        vec![uri_name("https://keyhaven.test/client/shop")],
        vec![uri_name("spiffe://keyhaven.test/root/shop")],
    ] {
        // Such a certificate makes no credentials, so that its chain stands in for a good one's; names come first.
        let (chain, _) = ca.issue(&names, |_| {});
        let judged = verify(&judge(&ca), TEXT, &with_chain(&made, &chain));
        assert!(
            matches!(judged, Err(VerifyError::Identity(_))),
            "{judged:?}"
        );
    }
}

/// The same signature with another certificate.
fn with_chain(made: &Signature, chain: &Path) -> Signature {
    use rustls_pki_types::{CertificateDer, pem::PemObject as _};
    let pem = CertificateDer::from_pem_file(chain).unwrap();
    Signature {
        chain: vec![pem.to_vec()],
        ..made.clone()
    }
}

#[test]
fn a_signature_belongs_to_the_key_in_the_certificate() {
    let ca = Ca::new();
    let made = sign(&ca.credentials(CLIENT), TEXT).unwrap();
    let (other, _) = ca.issue(&[uri_name("spiffe://keyhaven.test/client/bank")], |_| {});
    let judged = verify(&judge(&ca), TEXT, &with_chain(&made, &other));
    assert!(matches!(judged, Err(VerifyError::Signature)), "{judged:?}");
    for scheme in [
        SignatureScheme::EcdsaSecp384r1Sha384,
        SignatureScheme::Ed25519,
        SignatureScheme::RsaPssRsaeSha256,
        SignatureScheme::RsaPkcs1Sha256,
    ] {
        let other = Signature {
            scheme,
            ..made.clone()
        };
        let judged = verify(&judge(&ca), TEXT, &other);
        assert!(matches!(judged, Err(VerifyError::Scheme)), "{judged:?}");
    }
    let none = Signature {
        chain: Vec::new(),
        ..made
    };
    assert!(matches!(
        verify(&judge(&ca), TEXT, &none),
        Err(VerifyError::Identity(_))
    ));
}

#[test]
fn the_extended_key_usage_fits_the_role() {
    let ca = Ca::new();
    for (usage, is_good) in [
        (ExtendedKeyUsagePurpose::ClientAuth, true),
        (ExtendedKeyUsagePurpose::ServerAuth, false),
    ] {
        let (chain, key) = ca.issue(&[uri_name(CLIENT)], |params| {
            params.extended_key_usages = vec![usage];
        });
        let credentials = Credentials::load(&chain, &key, &ca.path()).unwrap();
        let judged = verify(&judge(&ca), TEXT, &sign(&credentials, TEXT).unwrap());
        assert_eq!(judged.is_ok(), is_good, "{judged:?}");
    }
}

#[test]
fn no_bytes_in_place_of_certificates_do_more_than_being_refused() {
    let ca = Ca::new();
    let made = sign(&ca.credentials(CLIENT), TEXT).unwrap();
    let leaf = made.chain[0].clone();
    let judge = &judge(&ca);
    for at in 0..leaf.len() {
        let mut cut = made.clone();
        cut.chain[0].truncate(at);
        assert!(verify(judge, TEXT, &cut).is_err(), "cut at {at}");
        let mut flipped = made.clone();
        flipped.chain[0][at] ^= 0x55;
        assert!(verify(judge, TEXT, &flipped).is_err(), "byte {at}");
    }
}
