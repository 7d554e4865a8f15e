//! Central's token: the ceremony, and keys from their birth to a site in software, which can say what it got.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;
mod managed_kit;

use std::time::Instant;

use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use common::on_worker;
use keyhaven_hsm::{
    Error, Workers,
    managed::{Made, PublicPart, Spec},
};
use keyhaven_softhsm_test::fresh_token;
use keyhaven_types::{KeyKind, Purpose, SignatureScheme};
use managed_kit::{
    Site, begin,
    central::{at_central, is_key},
    kek_for, open, set_up, spec, unwrap,
};

/// Every kind with every purpose that it serves, but for what SoftHSM2 does not wrap.
fn specs() -> Vec<Spec> {
    let all = KeyKind::ALL.iter().flat_map(|&kind| {
        let purposes = Purpose::ALL.iter();
        purposes.map(move |&purpose| spec(kind, purpose))
    });
    all.filter(|spec| spec.check().is_ok() && spec.kind != KeyKind::Ed25519)
        .collect()
}

#[test]
fn managed_every_kind_and_purpose_reaches_a_site_and_central_again() {
    let test = fresh_token!();
    let keks = set_up(&test, 2);
    let site = Site::new();
    let mut ceremony = begin(&test).unwrap();
    let ids: Vec<_> = keks.iter().map(|kek| kek.id).collect();
    let received: Vec<_> = ceremony
        .wrap_for_site(&site.spki(), &ids)
        .unwrap()
        .into_iter()
        .map(|(id, wrapped)| (id, site.receive(&wrapped)))
        .collect();
    assert_eq!(ceremony.leftovers().unwrap(), Vec::<String>::new());
    drop(ceremony);
    at_central(&test, move |worker, central| {
        let at_site = |id, wrapped: &[u8]| {
            let (_, key) = received.iter().find(|(known, _)| *known == id).unwrap();
            unwrap(key, wrapped)
        };
        for spec in specs() {
            let [first, second] = keks
                .iter()
                .filter(|kek| kek.purpose == spec.purpose)
                .map(|kek| kek.id)
                .collect::<Vec<_>>()
                .try_into()
                .unwrap();
            let made = central.generate(worker, &spec, first).unwrap();
            let key = at_site(first, &made.site_wrap).unwrap();
            assert!(is_key(&spec, &key, &made.public), "{spec:?}");
            assert_eq!(at_site(second, &made.site_wrap), None);
            let again = central
                .rewrap(worker, &spec, &made.public, &made.root_wrap, second)
                .unwrap();
            assert_eq!(at_site(second, &again), Some(key), "{spec:?}");
        }
    });
}

#[test]
fn managed_a_kind_that_the_module_does_not_wrap_is_refused_and_leaves_nothing() {
    let test = fresh_token!();
    let kek = kek_for(&set_up(&test, 1), Purpose::Handshake).id;
    at_central(&test, move |worker, central| {
        let spec = spec(KeyKind::Ed25519, Purpose::Handshake);
        let refused = central.generate(worker, &spec, kek).unwrap_err();
        assert!(
            matches!(&refused, Error::Unwrappable { kind: KeyKind::Ed25519, module } if module == "SoftHSM2"),
            "{refused}"
        );
    });
}

#[test]
fn managed_a_kind_serves_its_purposes_and_a_key_of_the_pool_its_own() {
    let test = fresh_token!();
    let keks = set_up(&test, 1);
    at_central(&test, move |worker, central| {
        let data = kek_for(&keks, Purpose::Data).id;
        let odd = spec(KeyKind::Aes256, Purpose::Sign);
        let refused = central.generate(worker, &odd, data).unwrap_err();
        assert!(matches!(refused, Error::UnsupportedKey { .. }), "{refused}");
        let mac = spec(KeyKind::Hmac, Purpose::Mac);
        let refused = central.generate(worker, &mac, data).unwrap_err();
        assert!(matches!(refused, Error::KekNotFound { .. }), "{refused}");
    });
}

#[test]
fn managed_a_wrapped_key_that_was_altered_or_exchanged_is_told_and_the_token_is_well() {
    let test = fresh_token!();
    let keks = set_up(&test, 1);
    at_central(&test, move |worker, central| {
        for (kind, purpose) in [
            (KeyKind::Rsa2048, Purpose::Handshake),
            (KeyKind::Rsa2048, Purpose::Decrypt),
            (KeyKind::EcP256, Purpose::Handshake),
            (KeyKind::EcP384, Purpose::Sign),
            (KeyKind::Aes256, Purpose::Data),
            (KeyKind::Aes256, Purpose::Wrap),
            (KeyKind::Hmac, Purpose::Mac),
            (KeyKind::Hmac, Purpose::Tickets),
        ] {
            let spec = spec(kind, purpose);
            let kek = kek_for(&keks, purpose).id;
            let made = || central.generate(worker, &spec, kek).unwrap();
            let (one, other) = (made(), made());
            assert_ne!(one.public, other.public);
            let rewrap =
                |made: &Made, blob: &[u8]| central.rewrap(worker, &spec, &made.public, blob, kek);
            let exchanged = rewrap(&one, &other.root_wrap).unwrap_err();
            assert!(
                matches!(exchanged, Error::Substituted { .. }),
                "{spec:?}: {exchanged}"
            );
            let mut altered = one.root_wrap.clone();
            altered[20] ^= 1;
            let cut = &one.root_wrap[..one.root_wrap.len() - 8];
            for bad in [&altered[..], cut, &one.site_wrap, &[]] {
                let refused = rewrap(&one, bad).unwrap_err();
                assert!(matches!(refused, Error::Blob { .. }), "{spec:?}: {refused}");
                assert!(!refused.is_unavailable());
            }
            // At once: nothing was broken off.
            rewrap(&one, &one.root_wrap).unwrap();
        }
    });
}

#[test]
fn managed_a_kind_is_not_another_ones_whatever_the_record_says() {
    let test = fresh_token!();
    let keks = set_up(&test, 1);
    at_central(&test, move |worker, central| {
        let kek = kek_for(&keks, Purpose::Sign).id;
        let rsa = spec(KeyKind::Rsa2048, Purpose::Sign);
        let made = central.generate(worker, &rsa, kek).unwrap();
        for kind in [KeyKind::Rsa3072, KeyKind::EcP256] {
            let lie = spec(kind, Purpose::Sign);
            let refused = central
                .rewrap(worker, &lie, &made.public, &made.root_wrap, kek)
                .unwrap_err();
            assert!(
                matches!(refused, Error::Substituted { .. } | Error::Blob { .. }),
                "{refused}"
            );
        }
    });
}

#[test]
fn managed_records_are_signed_by_the_key_of_the_ceremony() {
    let test = fresh_token!();
    let mut ceremony = begin(&test).unwrap();
    let spki = ceremony.make_central().unwrap();
    let body = b"keyhaven record 1\0 and a body";
    let by_ceremony = ceremony.sign(body).unwrap();
    drop(ceremony);
    at_central(&test, move |worker, central| {
        assert_eq!(central.signing_spki(), spki);
        let by_central = central.sign_record(worker, body).unwrap();
        // The point stands at the end of a SubjectPublicKeyInfo.
        let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, &spki[spki.len() - 65..]);
        for signature in [by_ceremony, by_central] {
            key.verify(body, &signature).unwrap();
            assert!(key.verify(b"another body", &signature).is_err());
        }
    });
}

#[test]
fn managed_central_signs_as_a_handshake_key_and_as_no_other() {
    let test = fresh_token!();
    let keks = set_up(&test, 1);
    at_central(&test, move |worker, central| {
        let scheme = SignatureScheme::EcdsaSecp256r1Sha256;
        let request = b"a certificate request";
        let make = |purpose| {
            let spec = spec(KeyKind::EcP256, purpose);
            let kek = kek_for(&keks, purpose).id;
            (spec, central.generate(worker, &spec, kek).unwrap())
        };
        let sign = |spec: &Spec, made: &Made, scheme| {
            central.sign_as(worker, spec, &made.public, &made.root_wrap, scheme, request)
        };
        let (spec, made) = make(Purpose::Handshake);
        let signature = sign(&spec, &made, scheme).unwrap();
        let PublicPart::Spki(spki) = &made.public else {
            panic!("a pair");
        };
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, &spki[spki.len() - 65..])
            .verify(request, &signature)
            .unwrap();
        let other = sign(&spec, &made, SignatureScheme::EcdsaSecp384r1Sha384);
        assert!(matches!(other, Err(Error::Scheme { .. })), "{other:?}");
        let (spec, made) = make(Purpose::Sign);
        let refused = sign(&spec, &made, scheme).unwrap_err();
        assert!(matches!(refused, Error::UnsupportedKey { .. }), "{refused}");
    });
}

#[test]
fn managed_a_lost_login_comes_back_with_the_same_keys() {
    let test = fresh_token!();
    let keks = set_up(&test, 1);
    let central = open(&test);
    let workers = Workers::start(1, 8).unwrap();
    let spec = spec(KeyKind::EcP256, Purpose::Sign);
    let kek = kek_for(&keks, Purpose::Sign).id;
    let generate = || {
        let central = central.clone();
        on_worker(&workers, move |worker| central.generate(worker, &spec, kek))
    };
    let made = generate().unwrap();
    managed_kit::session(&test).logout().unwrap();
    let until = Instant::now() + std::time::Duration::from_secs(30);
    let again = loop {
        match generate() {
            Ok(made) => break made,
            Err(error) => assert!(error.is_unavailable() && Instant::now() < until, "{error}"),
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    };
    assert_ne!(again.public, made.public);
    let central = central.clone();
    on_worker(&workers, move |worker| {
        central.rewrap(worker, &spec, &made.public, &made.root_wrap, kek)
    })
    .unwrap();
}
