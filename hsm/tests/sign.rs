//! Signatures of a real token: every scheme of every kind of key, verified by software that is not ours.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::sync::Arc;

use aws_lc_rs::signature::{self, UnparsedPublicKey, VerificationAlgorithm};
use common::{import, on_worker, open, uri};
use keyhaven_hsm::{Error, Workers};
use keyhaven_softhsm_test::fresh_token;
use keyhaven_types::{KeyAlgorithm, SignatureScheme};
use x509_parser::prelude::{FromDer, SubjectPublicKeyInfo};

fn verifier(scheme: SignatureScheme) -> &'static dyn VerificationAlgorithm {
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

#[test]
fn every_scheme_of_every_kind_of_key_verifies_outside() {
    let test = fresh_token!();
    let kinds = ["rsa2048", "rsa3072", "ec256", "ec384", "ed25519"];
    let publics: Vec<_> = kinds
        .iter()
        .enumerate()
        .map(|(n, kind)| import(&test, kind, kind, &format!("0{n}")))
        .collect();
    let token = open(&test);
    let workers = Workers::start(1, 8).unwrap();
    let mut schemes_seen = 0;
    for (kind, spki) in kinds.iter().zip(publics) {
        let key = token
            .load_key(&uri(&format!("pkcs11:object={kind}")), &spki)
            .unwrap();
        assert_eq!((key.label(), key.spki()), (*kind, &spki[..]));
        let (_, info) = SubjectPublicKeyInfo::from_der(&spki).unwrap();
        let public = Arc::new(info.subject_public_key.data.to_vec());
        for &scheme in SignatureScheme::of(key.algorithm()) {
            let (key, public) = (key.clone(), Arc::clone(&public));
            // Twice, and long: the first EC signature is verified inside too, the second is not.
            for message in [b"short".to_vec(), vec![7; 5000]] {
                let (key, public) = (key.clone(), Arc::clone(&public));
                on_worker(&workers, move |worker| {
                    let made = worker.sign(&key, scheme, &message).unwrap();
                    let outside = UnparsedPublicKey::new(verifier(scheme), &public[..]);
                    outside.verify(&message, &made).unwrap();
                    assert!(outside.verify(b"another", &made).is_err());
                });
            }
            schemes_seen += 1;
        }
    }
    assert_eq!(schemes_seen, 6 + 6 + 1 + 1 + 1);
}

#[test]
fn keys_made_in_the_token_are_clean_and_of_their_kind() {
    let test = fresh_token!();
    test.generate_key("EC:prime256v1", "made", "01").unwrap();
    test.generate_key("rsa:2048", "rsa", "02").unwrap();
    let token = open(&test);
    let key = token
        .load_key(
            &uri("pkcs11:object=made;type=private"),
            &test.public_key("made").unwrap(),
        )
        .unwrap();
    assert_eq!(key.algorithm(), KeyAlgorithm::EcdsaP256);
    let rsa = token
        .load_key(&uri("pkcs11:id=%02"), &test.public_key("rsa").unwrap())
        .unwrap();
    assert_eq!(rsa.algorithm(), KeyAlgorithm::Rsa(2048));
}

#[test]
fn a_key_with_a_second_purpose_is_warned_of() {
    let test = fresh_token!();
    // softhsm2-util gives imported keys every purpose.
    let spki = import(&test, "rsa2048", "k", "01");
    let key = open(&test)
        .load_key(&uri("pkcs11:object=k"), &spki)
        .unwrap();
    let warnings = key.warnings().join("\n");
    assert!(warnings.contains("may also decrypt"), "{warnings}");
    assert!(warnings.contains("may also unwrap"), "{warnings}");
}

#[test]
fn a_scheme_of_another_kind_of_key_is_refused_before_the_token_is_asked() {
    let test = fresh_token!();
    let spki = import(&test, "ec256", "k", "01");
    let key = open(&test)
        .load_key(&uri("pkcs11:object=k"), &spki)
        .unwrap();
    let workers = Workers::start(1, 8).unwrap();
    for scheme in [
        SignatureScheme::EcdsaSecp384r1Sha384,
        SignatureScheme::RsaPkcs1Sha256,
        SignatureScheme::Ed25519,
    ] {
        let key = key.clone();
        let result = on_worker(&workers, move |worker| worker.sign(&key, scheme, b"m"));
        assert!(matches!(result, Err(Error::Scheme { .. })), "{result:?}");
    }
}

#[test]
fn a_key_of_another_certificate_is_refused() {
    let test = fresh_token!();
    let (a, b) = (
        import(&test, "ec256", "a", "01"),
        import(&test, "ec256", "b", "02"),
    );
    let (r, s) = (
        import(&test, "rsa2048", "r", "03"),
        import(&test, "rsa2048", "s", "04"),
    );
    let token = open(&test);
    for (object, spki) in [("a", &b), ("b", &a), ("r", &s), ("a", &r), ("r", &a)] {
        let result = token.load_key(&uri(&format!("pkcs11:object={object}")), spki);
        assert!(
            matches!(result, Err(Error::KeyMismatch { .. })),
            "{object}: {result:?}"
        );
    }
    let result = token.load_key(&uri("pkcs11:object=a"), b"not DER");
    assert!(
        matches!(result, Err(Error::UnsupportedKey { .. })),
        "{result:?}"
    );
    token.load_key(&uri("pkcs11:object=a"), &a).unwrap();
    assert!(
        token.is_alive(),
        "a wrong certificate is no fault of the token"
    );
}

#[test]
fn absent_and_ambiguous_keys_are_errors_that_list_what_there_is() {
    let test = fresh_token!();
    let spki = import(&test, "ec256", "twin", "01");
    import(&test, "ec256", "twin", "02");
    let token = open(&test);
    let error = token
        .load_key(&uri("pkcs11:object=twin"), &spki)
        .unwrap_err();
    assert!(
        matches!(&error, Error::KeyAmbiguous { found, .. } if found.len() == 2),
        "{error}"
    );
    assert!(error.to_string().contains("`twin` (id %02)"), "{error}");
    token
        .load_key(&uri("pkcs11:object=twin;id=%01"), &spki)
        .unwrap();
    for absent in [
        "pkcs11:object=nobody",
        "pkcs11:id=%09",
        "pkcs11:object=twin;token=other",
    ] {
        let error = token.load_key(&uri(absent), &spki).unwrap_err();
        assert!(
            matches!(&error, Error::KeyNotFound { found, .. } if found.len() == 2),
            "{error}"
        );
    }
    let error = token
        .load_key(&uri("pkcs11:object=twin;type=cert"), &spki)
        .unwrap_err();
    assert!(matches!(error, Error::NotAPrivateKey { .. }), "{error}");
}

/// A key is offered with what it was seen to sign with, and asked for nothing else.
#[test]
fn a_scheme_that_is_refused_or_wrong_is_not_offered() {
    use SignatureScheme::{RsaPkcs1Sha256, RsaPkcs1Sha384, RsaPkcs1Sha512, RsaPssRsaeSha256};
    let test = fresh_token!();
    let spki = import(&test, "rsa2048", "k", "01");
    let shim = test.shim();
    let token = common::open_module(&test, &shim.module());
    let load = || token.load_key(&uri("pkcs11:object=k"), &spki);
    for fault in [
        "C_SignInit error 0x70 of CKM_RSA_PKCS_PSS",
        "C_Sign error 0x71 of CKM_RSA_PKCS_PSS",
        "C_Sign corrupt of CKM_RSA_PKCS_PSS",
    ] {
        shim.set_faults(fault);
        let key = load().unwrap();
        assert_eq!(
            key.schemes(),
            [RsaPkcs1Sha256, RsaPkcs1Sha384, RsaPkcs1Sha512],
            "{fault}"
        );
        let workers = Workers::start(1, 8).unwrap();
        let (good, bad) = on_worker(&workers, move |worker| {
            let good = worker.sign(&key, RsaPkcs1Sha256, b"m");
            (good, worker.sign(&key, RsaPssRsaeSha256, b"m"))
        });
        assert!(good.is_ok(), "{fault}: {good:?}");
        assert!(matches!(bad, Err(Error::Scheme { .. })), "{fault}: {bad:?}");
    }
    shim.set_faults("C_SignInit error 0x70");
    let error = load().unwrap_err();
    assert!(matches!(error, Error::Token { .. }), "{error}");
    shim.set_faults("C_Sign corrupt");
    let error = load().unwrap_err();
    assert!(matches!(error, Error::KeyMismatch { .. }), "{error}");
    shim.clear_faults();
    assert_eq!(load().unwrap().schemes().len(), 6);
}
