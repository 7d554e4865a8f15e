//! A site's token: enrolled by central in software, and used with keys that software can check.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;
mod managed_kit;
mod managed_site_kit;

use common::open;
use keyhaven_hsm::{
    Error,
    managed::{OaepHash, PublicPart, SiteToken, oaep_encrypt, verifies},
};
use keyhaven_softhsm_test::{ModuleKind, TestToken, fresh_token};
use keyhaven_types::{KeyKind, Operation, Purpose, SignatureScheme};
use managed_site_kit::{at_site, classes, gcm_open, known, mac, site};

/// The kinds whose signatures the module makes.
fn signing_kinds(test: &TestToken) -> Vec<KeyKind> {
    let mut kinds = vec![
        KeyKind::Rsa2048,
        KeyKind::Rsa3072,
        KeyKind::EcP256,
        KeyKind::EcP384,
    ];
    if test.kind() == ModuleKind::KryopticModern {
        kinds.push(KeyKind::Ed25519);
    }
    kinds
}

fn signs(test: &TestToken) {
    let kinds = signing_kinds(test);
    at_site(test, move |worker, site, classes| {
        for kind in kinds {
            let key = known(classes, kind, Purpose::Sign);
            let managed = key.unwrap(worker, site).unwrap();
            assert_eq!((managed.spec(), managed.public()), (&key.spec, &key.public));
            let schemes = SignatureScheme::of(kind.algorithm().unwrap());
            assert_eq!(managed.schemes(), schemes, "{kind}");
            for &scheme in schemes {
                for message in [b"".to_vec(), vec![7; 5000]] {
                    let made = worker.managed_sign(&managed, scheme, &message).unwrap();
                    assert!(verifies(key.spki(), scheme, &message, &made), "{scheme:?}");
                    assert!(!verifies(key.spki(), scheme, b"another", &made));
                }
            }
            let other = SignatureScheme::of(if kind == KeyKind::EcP256 {
                KeyKind::EcP384.algorithm().unwrap()
            } else {
                KeyKind::EcP256.algorithm().unwrap()
            })[0];
            let refused = worker.managed_sign(&managed, other, b"m");
            assert!(matches!(refused, Err(Error::Scheme { .. })), "{refused:?}");
            assert!(managed.private_key().is_none(), "not for handshakes");
        }
    });
}

#[test]
fn managed_site_signs_with_every_scheme_on_softhsm2() {
    signs(&fresh_token!());
}

#[test]
fn managed_site_signs_with_every_scheme_on_kryoptic() {
    signs(&fresh_token!(kind: ModuleKind::Kryoptic));
}

fn handshakes(test: &TestToken) {
    let kinds = signing_kinds(test);
    at_site(test, move |worker, site, classes| {
        for kind in kinds {
            let key = known(classes, kind, Purpose::Handshake);
            let managed = key.unwrap(worker, site).unwrap();
            let private = managed.private_key().unwrap();
            assert_eq!(private.spki(), key.spki());
            assert_eq!(Some(private.algorithm()), kind.algorithm());
            assert_eq!(private.schemes(), SignatureScheme::of(private.algorithm()));
            assert!(private.warnings().is_empty());
            assert_eq!(site.token().key_copies(), 1);
            // The object lives as long as either.
            drop(managed);
            let scheme = private.schemes()[0];
            let made = worker.sign(&private, scheme, b"m").unwrap();
            assert!(verifies(key.spki(), scheme, b"m", &made));
            drop(private);
            assert_eq!(site.token().key_copies(), 0);
        }
    });
}

#[test]
fn managed_site_key_runs_handshakes_on_softhsm2() {
    handshakes(&fresh_token!());
}

#[test]
fn managed_site_key_runs_handshakes_on_kryoptic() {
    handshakes(&fresh_token!(kind: ModuleKind::Kryoptic));
}

fn secrets(test: &TestToken) {
    at_site(test, |worker, site, classes| {
        let data = known(classes, KeyKind::Aes256, Purpose::Data);
        let key = data.unwrap(worker, site).unwrap();
        for plain in [&b""[..], b"x", &[5; 100_000]] {
            for aad in [&b""[..], b"bound"] {
                let sealed = worker.managed_encrypt(&key, plain, aad).unwrap();
                assert_eq!(sealed.len(), 12 + plain.len() + 16);
                assert_ne!(sealed, worker.managed_encrypt(&key, plain, aad).unwrap());
                assert_eq!(gcm_open(&data.bytes, &sealed, aad).unwrap(), plain);
                let opened = worker.managed_decrypt(&key, &sealed, aad).unwrap();
                assert_eq!(&opened[..], plain);
            }
        }
        for purpose in [Purpose::Mac, Purpose::Tickets] {
            let hmac = known(classes, KeyKind::Hmac, purpose);
            let key = hmac.unwrap(worker, site).unwrap();
            for message in [&b""[..], b"m", &[5; 100_000]] {
                let made = worker.managed_mac(&key, message).unwrap();
                assert_eq!(made[..], mac(&hmac.bytes, message));
            }
        }
        let wrap = known(classes, KeyKind::Aes256, Purpose::Wrap);
        let key = wrap.unwrap(worker, site).unwrap();
        let wrapped = worker.managed_wrap(&key).unwrap();
        assert_ne!(wrapped, worker.managed_wrap(&key).unwrap());
        let data = managed_kit::unwrap(&wrap.bytes, &wrapped).unwrap();
        let sealed = worker.managed_unwrap_encrypt(&key, &wrapped, b"plain", b"aad");
        let sealed = sealed.unwrap();
        assert_eq!(gcm_open(&data, &sealed, b"aad").unwrap(), b"plain");
        let opened = worker.managed_unwrap_decrypt(&key, &wrapped, &sealed, b"aad");
        assert_eq!(&opened.unwrap()[..], b"plain");
        let random = worker.token_random(site.token(), 1024).unwrap();
        assert_ne!(random, worker.token_random(site.token(), 1024).unwrap());
        for len in [0, 1025] {
            let refused = worker.token_random(site.token(), len);
            assert!(matches!(refused, Err(Error::Input { .. })));
        }
    });
}

#[test]
fn managed_site_uses_secrets_on_softhsm2() {
    secrets(&fresh_token!());
}

#[test]
fn managed_site_uses_secrets_on_kryoptic() {
    secrets(&fresh_token!(kind: ModuleKind::Kryoptic));
}

fn decrypts(test: &TestToken, hash: OaepHash) {
    at_site(test, move |worker, site, classes| {
        assert_eq!(site.oaep_hash(), Some(hash));
        for kind in [KeyKind::Rsa2048, KeyKind::Rsa3072] {
            let key = known(classes, kind, Purpose::Decrypt);
            let managed = key.unwrap(worker, site).unwrap();
            for plain in [&b""[..], b"x", &[5; 190]] {
                let sent = oaep_encrypt(key.spki(), hash, plain).unwrap();
                let opened = worker.managed_oaep_decrypt(&managed, &sent).unwrap();
                assert_eq!(&opened[..], plain);
            }
            let other = OaepHash::ALL.into_iter().find(|&other| other != hash);
            let sent = oaep_encrypt(key.spki(), other.unwrap(), b"x").unwrap();
            let mut altered = oaep_encrypt(key.spki(), hash, b"x").unwrap();
            altered[100] ^= 1;
            for bad in [sent, altered, vec![0; 256], vec![255; 384], vec![1], vec![]] {
                let refused = worker.managed_oaep_decrypt(&managed, &bad);
                assert!(matches!(refused, Err(Error::Blob { .. })), "{refused:?}");
            }
        }
    });
}

#[test]
fn managed_site_opens_oaep_with_sha1_on_softhsm2() {
    decrypts(&fresh_token!(), OaepHash::Sha1);
}

#[test]
fn managed_site_opens_oaep_with_sha256_on_kryoptic() {
    decrypts(&fresh_token!(kind: ModuleKind::Kryoptic), OaepHash::Sha256);
}

#[test]
fn managed_site_encrypts_no_more_than_fits() {
    let classes = classes();
    let rsa = known(&classes, KeyKind::Rsa2048, Purpose::Decrypt);
    for (hash, most) in [(OaepHash::Sha1, 214), (OaepHash::Sha256, 190)] {
        assert!(oaep_encrypt(rsa.spki(), hash, &vec![0; most]).is_ok());
        let refused = oaep_encrypt(rsa.spki(), hash, &vec![0; most + 1]);
        assert!(matches!(refused, Err(Error::Input { .. })), "{refused:?}");
    }
    let ec = known(&classes, KeyKind::EcP256, Purpose::Sign);
    for spki in [ec.spki(), b"", b"not DER"] {
        let refused = oaep_encrypt(spki, OaepHash::Sha1, b"x");
        assert!(matches!(refused, Err(Error::UnsupportedKey { .. })));
    }
}

/// What each module is known to do; what it cannot is not offered.
#[test]
fn managed_site_says_what_was_proven() {
    let test = fresh_token!();
    let found = site(&test).0.mechanisms();
    let mut expected = Vec::new();
    for kind in [KeyKind::Rsa2048, KeyKind::Rsa3072, KeyKind::Rsa4096] {
        for operation in [Operation::Sign, Operation::Verify, Operation::Handshake] {
            expected.push((kind, operation));
        }
        expected.extend([(kind, Operation::Encrypt), (kind, Operation::Decrypt)]);
    }
    for kind in [KeyKind::EcP256, KeyKind::EcP384] {
        for operation in [Operation::Sign, Operation::Verify, Operation::Handshake] {
            expected.push((kind, operation));
        }
    }
    for operation in [
        Operation::Encrypt,
        Operation::Decrypt,
        Operation::Wrap,
        Operation::Unwrap,
    ] {
        expected.push((KeyKind::Aes256, operation));
    }
    expected.extend([
        (KeyKind::Hmac, Operation::Mac),
        (KeyKind::Hmac, Operation::Verify),
    ]);
    for pair in &expected {
        assert!(found.contains(pair), "{pair:?} is missing");
    }
    assert_eq!(found.len(), expected.len(), "{found:?}");
}

/// The one module that unwraps Ed25519.
#[test]
fn managed_site_proves_and_uses_ed25519_on_a_modern_kryoptic() {
    if !ModuleKind::KryopticModern.is_there() {
        eprintln!("not run: cargo xtask modules --modern builds the module");
        return;
    }
    let test = fresh_token!(kind: ModuleKind::KryopticModern);
    at_site(&test, |worker, site, classes| {
        let proven = site.mechanisms();
        for operation in [Operation::Sign, Operation::Verify, Operation::Handshake] {
            assert!(
                proven.contains(&(KeyKind::Ed25519, operation)),
                "{proven:?}"
            );
        }
        let key = known(classes, KeyKind::Ed25519, Purpose::Handshake);
        let private = key.unwrap(worker, site).unwrap().private_key().unwrap();
        let made = worker
            .sign(&private, SignatureScheme::Ed25519, b"m")
            .unwrap();
        assert!(verifies(key.spki(), SignatureScheme::Ed25519, b"m", &made));
        let other = known(classes, KeyKind::Ed25519, Purpose::Handshake);
        let exchanged = site.unwrap(worker, &key.spec, &key.public, key.kek, &other.blob);
        assert!(
            matches!(exchanged, Err(Error::Substituted { .. })),
            "{exchanged:?}"
        );
    });
}

#[test]
fn managed_site_is_refused_to_nss() {
    let test = fresh_token!(kind: ModuleKind::Nss);
    let refused = SiteToken::open(&open(&test)).unwrap_err();
    let Error::RoleRefused { role, failed, .. } = &refused else {
        panic!("{refused}");
    };
    assert_eq!(*role, "a site");
    assert!(failed.len() >= 3, "{failed:#?}");
}

#[test]
fn managed_site_does_nothing_for_another_purpose() {
    at_site(&fresh_token!(), |worker, site, classes| {
        let keys = [
            (KeyKind::EcP256, Purpose::Handshake),
            (KeyKind::EcP256, Purpose::Sign),
            (KeyKind::Rsa2048, Purpose::Decrypt),
            (KeyKind::Aes256, Purpose::Data),
            (KeyKind::Hmac, Purpose::Mac),
            (KeyKind::Aes256, Purpose::Wrap),
            (KeyKind::Hmac, Purpose::Tickets),
        ]
        .map(|(kind, purpose)| {
            let known = known(classes, kind, purpose);
            known.unwrap(worker, site).unwrap()
        });
        let scheme = SignatureScheme::EcdsaSecp256r1Sha256;
        for key in &keys {
            let purpose = key.spec().purpose;
            let outcomes = [
                (&[Purpose::Sign][..], {
                    worker.managed_sign(key, scheme, b"m").map(drop)
                }),
                (&[Purpose::Decrypt], {
                    worker.managed_oaep_decrypt(key, &[1; 256]).map(drop)
                }),
                (
                    &[Purpose::Data],
                    worker.managed_encrypt(key, b"m", b"").map(drop),
                ),
                (
                    &[Purpose::Data],
                    worker.managed_decrypt(key, b"m", b"").map(drop),
                ),
                (&[Purpose::Mac, Purpose::Tickets], {
                    worker.managed_mac(key, b"m").map(drop)
                }),
                (&[Purpose::Wrap], worker.managed_wrap(key).map(drop)),
                (&[Purpose::Wrap], {
                    worker
                        .managed_unwrap_encrypt(key, &[1; 40], b"", b"")
                        .map(drop)
                }),
                (&[Purpose::Wrap], {
                    worker
                        .managed_unwrap_decrypt(key, &[1; 40], b"", b"")
                        .map(drop)
                }),
            ];
            for (n, (purposes, outcome)) in outcomes.into_iter().enumerate() {
                let is_refused = matches!(outcome, Err(Error::UnsupportedKey { .. }));
                assert_eq!(is_refused, !purposes.contains(&purpose), "{n} {purpose}");
            }
            assert_eq!(key.private_key().is_some(), purpose == Purpose::Handshake);
        }
        let long = vec![0; (1 << 20) + 1];
        let refused = worker.managed_encrypt(&keys[3], &long, b"");
        assert!(matches!(refused, Err(Error::Input { .. })), "{refused:?}");
        // A kind that cannot serve a purpose is no key at all.
        let mut wrong = known(classes, KeyKind::EcP256, Purpose::Sign);
        wrong.spec.purpose = Purpose::Decrypt;
        let refused = wrong.unwrap(worker, site);
        assert!(matches!(refused, Err(Error::UnsupportedKey { .. })));
        let mut wrong = known(classes, KeyKind::EcP256, Purpose::Sign);
        wrong.public = PublicPart::Kcv([0; 8]);
        let refused = wrong.unwrap(worker, site);
        assert!(matches!(refused, Err(Error::Substituted { .. })));
    });
}
