//! Keys from elsewhere: how they come to central, and what does not.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;
mod managed_kit;

use aws_lc_rs::signature::{EcdsaKeyPair, KeyPair as _};
use keyhaven_hsm::{Error, managed::PublicPart};
use keyhaven_softhsm_test::{TestToken, fresh_token};
use keyhaven_types::{KeyKind, Purpose};
use managed_kit::{
    central::{at_central, is_key},
    kek_for, oaep, set_up, spec, wrap,
};

/// A key made outside, as PKCS#8 and SubjectPublicKeyInfo.
fn software(test: &TestToken, kind: &str) -> (Vec<u8>, Vec<u8>) {
    let pem = test.dir().join(format!("{kind}.pem"));
    let der = |args: &[&str]| {
        let mut command = std::process::Command::new("openssl");
        command.args(args).arg("-in").arg(&pem);
        let done = command.output().unwrap();
        assert!(done.status.success());
        done.stdout
    };
    let args: &[&str] = match kind {
        "ec256" => &["EC", "-pkeyopt", "ec_paramgen_curve:P-256"],
        "rsa2048" => &["RSA", "-pkeyopt", "rsa_keygen_bits:2048"],
        "ed25519" => &["ED25519"],
        other => panic!("no kind {other}"),
    };
    let made = std::process::Command::new("openssl")
        .args(["genpkey", "-algorithm"])
        .args(args)
        .arg("-out")
        .arg(&pem)
        .output()
        .unwrap();
    assert!(made.status.success());
    let private = der(&["pkcs8", "-topk8", "-nocrypt", "-outform", "DER"]);
    let public = der(&["pkey", "-pubout", "-outform", "DER"]);
    (private, public)
}

#[test]
fn managed_a_key_from_elsewhere_comes_wrapped_and_is_seen_to_be_the_expected_one() {
    let test = fresh_token!();
    let keks = set_up(&test, 1);
    let (rsa, rsa_public) = software(&test, "rsa2048");
    let (ec, ec_public) = software(&test, "ec256");
    at_central(&test, move |worker, central| {
        let transport = central.transport(worker).unwrap();
        let carrier = [0x5a; 32];
        let wrapped_kek = oaep(transport.spki(), &carrier);
        let import = |kind, purpose, key: &[u8], public: Option<&[u8]>| {
            let kek = kek_for(&keks, purpose).id;
            central.import(
                worker,
                &transport,
                &spec(kind, purpose),
                kek,
                &wrapped_kek,
                &wrap(&carrier, key),
                public,
            )
        };
        let secret = [0x33; 32];
        let expected = PublicPart::Spki(rsa_public.clone());
        for purpose in [Purpose::Handshake, Purpose::Sign, Purpose::Decrypt] {
            let made = import(KeyKind::Rsa2048, purpose, &rsa, None).unwrap();
            assert_eq!(made.public, expected);
            let made = import(KeyKind::Rsa2048, purpose, &rsa, Some(&rsa_public)).unwrap();
            assert_eq!(made.public, expected);
        }
        let made = import(KeyKind::EcP256, Purpose::Handshake, &ec, Some(&ec_public)).unwrap();
        assert_eq!(made.public, PublicPart::Spki(ec_public.clone()));
        for (kind, purpose) in [
            (KeyKind::Aes256, Purpose::Data),
            (KeyKind::Aes256, Purpose::Wrap),
            (KeyKind::Hmac, Purpose::Mac),
        ] {
            let made = import(kind, purpose, &secret, None).unwrap();
            assert!(is_key(&spec(kind, purpose), &secret, &made.public));
            let other = import(kind, purpose, &secret, Some(&[0; 8])).unwrap_err();
            assert!(matches!(other, Error::Substituted { .. }), "{other}");
            let short = import(kind, purpose, &secret[..16], None).unwrap_err();
            assert!(matches!(short, Error::Substituted { .. }), "{short}");
        }

        let unsaid = import(KeyKind::EcP256, Purpose::Handshake, &ec, None).unwrap_err();
        assert!(matches!(unsaid, Error::UnsupportedKey { .. }), "{unsaid}");
        let another = other_point();
        for (kind, key, public) in [
            (KeyKind::EcP256, &ec, &another),
            (KeyKind::EcP256, &ec, &rsa_public),
            (KeyKind::Rsa2048, &rsa, &ec_public),
            (KeyKind::Rsa3072, &rsa, &rsa_public),
        ] {
            let refused = import(kind, Purpose::Handshake, key, Some(public)).unwrap_err();
            assert!(matches!(refused, Error::Substituted { .. }), "{refused}");
        }
        let kind = import(KeyKind::EcP256, Purpose::Sign, &rsa, Some(&ec_public)).unwrap_err();
        assert!(
            matches!(kind, Error::Substituted { .. } | Error::Blob { .. }),
            "{kind}"
        );
    });
}

/// The public part of somebody else's P-256 key.
fn other_point() -> Vec<u8> {
    use aws_lc_rs::{encoding::AsDer, signature::ECDSA_P256_SHA256_ASN1_SIGNING};
    let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).unwrap();
    key.public_key().as_der().unwrap().as_ref().to_vec()
}

#[test]
fn managed_what_came_for_one_transport_pair_does_not_open_with_the_next() {
    let test = fresh_token!();
    let keks = set_up(&test, 1);
    at_central(&test, move |worker, central| {
        let carrier = [0x5a; 32];
        let first = central.transport(worker).unwrap();
        let wrapped_kek = oaep(first.spki(), &carrier);
        drop(first);
        let second = central.transport(worker).unwrap();
        let refused = central
            .import(
                worker,
                &second,
                &spec(KeyKind::Aes256, Purpose::Data),
                kek_for(&keks, Purpose::Data).id,
                &wrapped_kek,
                &wrap(&carrier, &[1; 32]),
                None,
            )
            .unwrap_err();
        assert!(matches!(refused, Error::Blob { .. }), "{refused}");
    });
}

#[test]
fn managed_a_kind_that_the_module_does_not_wrap_is_refused_as_when_one_is_made() {
    let test = fresh_token!();
    let keks = set_up(&test, 1);
    let (key, public) = software(&test, "ed25519");
    at_central(&test, move |worker, central| {
        let transport = central.transport(worker).unwrap();
        let spec = spec(KeyKind::Ed25519, Purpose::Handshake);
        let kek = kek_for(&keks, Purpose::Handshake).id;
        let carrier = [0x5a; 32];
        // Nothing of it is opened, so that not even what cannot be opened is spoken of.
        for wrapped_kek in [oaep(transport.spki(), &carrier), vec![0; 384]] {
            let key = wrap(&carrier, &key);
            let refused = central
                .import(
                    worker,
                    &transport,
                    &spec,
                    kek,
                    &wrapped_kek,
                    &key,
                    Some(&public),
                )
                .unwrap_err();
            assert!(
                matches!(&refused, Error::Unwrappable { kind: KeyKind::Ed25519, module } if module == "SoftHSM2"),
                "{refused}"
            );
        }
    });
}
