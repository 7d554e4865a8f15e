//! Central's token: the ceremony, and keys from their birth to a site in software, which can say what it got.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;
mod managed_kit;

use std::time::Instant;

use aws_lc_rs::{
    hmac,
    signature::{ECDSA_P256_SHA256_ASN1, EcdsaKeyPair, KeyPair as _, UnparsedPublicKey},
};
use common::on_worker;
use keyhaven_hsm::{
    Error, Worker, Workers,
    managed::{CentralToken, Made, PublicPart, Spec},
};
use keyhaven_softhsm_test::{TestToken, fresh_token};
use keyhaven_types::{KeyKind, Purpose, SignatureScheme};
use managed_kit::{Site, begin, kek_for, oaep, open, session_objects, set_up, spec, unwrap, wrap};

/// Runs a job with central's token on a worker, after which nothing of it is left in the token.
fn at_central(test: &TestToken, job: impl FnOnce(&Worker, &CentralToken) + Send + 'static) {
    let central = open(test);
    let workers = Workers::start(1, 8).unwrap();
    let asked = central.clone();
    on_worker(&workers, move |worker| job(worker, &asked));
    assert_eq!(session_objects(test), 0, "an object was left");
    assert_eq!(central.token().live_ephemerals(), 0);
    assert!(central.token().is_alive());
}

/// Every kind with every purpose that it serves, but for what SoftHSM2 does not wrap.
fn specs() -> Vec<Spec> {
    let all = KeyKind::ALL.iter().flat_map(|&kind| {
        let purposes = Purpose::ALL.iter();
        purposes.map(move |&purpose| spec(kind, purpose))
    });
    all.filter(|spec| spec.check().is_ok() && spec.kind != KeyKind::Ed25519)
        .collect()
}

/// Whether the bytes are the key with this public part.
fn is_key(spec: &Spec, bytes: &[u8], public: &PublicPart) -> bool {
    match public {
        PublicPart::Spki(spki) => has_public_part(bytes, spki),
        PublicPart::Kcv(value) => {
            let computed = match spec.purpose {
                Purpose::Data => {
                    let mut text = vec![0; 8];
                    gcm(bytes, &mut text);
                    text
                }
                Purpose::Wrap => wrap(bytes, b"keyhaven: a probe that all know."),
                _ => hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, bytes), b"keyhaven kcv")
                    .as_ref()
                    .to_vec(),
            };
            bytes.len() == 32 && computed[..8] == value[..]
        }
    }
}

fn gcm(key: &[u8], text: &mut Vec<u8>) {
    use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
    let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key).unwrap());
    let nonce = Nonce::assume_unique_for_key(*b"keyhaven kcv");
    key.seal_in_place_append_tag(nonce, Aad::empty(), text)
        .unwrap();
}

/// By openssl, which reads every PKCS#8.
fn has_public_part(pkcs8: &[u8], spki: &[u8]) -> bool {
    use std::{
        io::Write as _,
        process::{Command, Stdio},
    };
    let mut child = Command::new("openssl")
        .args(["pkey", "-inform", "DER", "-pubout", "-outform", "DER"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(pkcs8).unwrap();
    child.wait_with_output().unwrap().stdout == spki
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
