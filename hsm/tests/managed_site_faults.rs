//! A site's token when things go wrong: deliveries, blobs and ciphertexts that are not right, and a token that was lost.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;
mod managed_kit;
mod managed_site_kit;

use std::sync::{Arc, Barrier, mpsc};

use common::{on_worker, open};
use keyhaven_hsm::{
    Error, Workers,
    managed::{Enrolment, SiteToken},
};
use keyhaven_softhsm_test::{ModuleKind, TestToken, fresh_token};
use keyhaven_types::{KekId, KeyKind, Purpose, SignatureScheme};
use managed_site_kit::{Class, at_site, class, classes, deliver, known, site_of};

fn enrols(test: &TestToken) {
    let token = open(test);
    let opened = SiteToken::open(&token).unwrap();
    assert_eq!(opened.holds(), []);
    let workers = Workers::start(1, 8).unwrap();
    let first = classes();
    deliver(&token, &first).unwrap();
    let names = |classes: &[Class]| {
        let mut names: Vec<_> = classes.iter().map(|class| class.name.clone()).collect();
        names.sort();
        names
    };
    let asked = opened.clone();
    let found = on_worker(&workers, move |worker| asked.refresh(worker).unwrap());
    assert_eq!(found, names(&first));
    // A key of this epoch is not replaced, neither by name nor by id; nor is what comes with it brought in.
    let new = class("web", Purpose::Data, 2, 50);
    for known in [
        class("web", Purpose::Data, 1, 51),
        class("app", Purpose::Data, 1, 1),
    ] {
        let refused = deliver(&token, &[new.clone(), known]);
        assert!(
            matches!(refused, Err(Error::KekPresent { .. })),
            "{refused:?}"
        );
    }
    let twice = deliver(&token, &[new.clone(), new.clone()]);
    assert!(matches!(twice, Err(Error::KekPresent { .. })), "{twice:?}");
    // All or nothing.
    let enrolment = Enrolment::begin(&token).unwrap();
    let good = managed_kit::oaep(enrolment.spki(), &new.value);
    let mut bad = managed_kit::oaep(enrolment.spki(), &[1; 32]);
    bad[7] ^= 1;
    let other = class("web", Purpose::Mac, 2, 52).name;
    let refused = enrolment.receive(&[(new.name.clone(), good), (other, bad)]);
    assert!(matches!(refused, Err(Error::Blob { .. })), "{refused:?}");
    assert_eq!(SiteToken::open(&token).unwrap().holds(), names(&first));
    deliver(&token, std::slice::from_ref(&new)).unwrap();
    // The site sees it when it is first needed.
    let both = [&first[..], &[new]].concat();
    let second = both[first.len()..].to_vec();
    let site = opened.clone();
    on_worker(&workers, move |worker| {
        let key = known(&second, KeyKind::Aes256, Purpose::Data);
        key.unwrap(worker, &site).unwrap();
    });
    assert_eq!(opened.holds(), names(&both));
    assert_eq!(managed_kit::session_objects(test), 0);
}

#[test]
fn managed_site_is_enrolled_all_or_nothing_on_softhsm2() {
    enrols(&fresh_token!());
}

#[test]
fn managed_site_is_enrolled_all_or_nothing_on_kryoptic() {
    enrols(&fresh_token!(kind: ModuleKind::Kryoptic));
}

/// Whatever the module says to it, it is not the token's failure, and a key that is another one is not used.
fn substitutes(test: &TestToken) {
    at_site(test, |worker, site, classes| {
        for (kind, purpose) in [
            (KeyKind::Rsa2048, Purpose::Sign),
            (KeyKind::Rsa2048, Purpose::Decrypt),
            (KeyKind::EcP256, Purpose::Handshake),
            (KeyKind::EcP384, Purpose::Sign),
            (KeyKind::Aes256, Purpose::Data),
            (KeyKind::Aes256, Purpose::Wrap),
            (KeyKind::Hmac, Purpose::Mac),
            (KeyKind::Hmac, Purpose::Tickets),
        ] {
            let (a, b) = (known(classes, kind, purpose), known(classes, kind, purpose));
            a.unwrap(worker, site).unwrap();
            let exchanged = site.unwrap(worker, &a.spec, &a.public, a.kek, &b.blob);
            assert!(
                matches!(exchanged, Err(Error::Substituted { .. })),
                "{kind} {purpose}: {exchanged:?}"
            );
            assert_eq!(site.token().key_copies(), 0, "it stayed");
            let mut flipped = a.blob.clone();
            flipped[9] ^= 1;
            let cut = &a.blob[..a.blob.len() - 8];
            let long = [&a.blob[..], &[0; 8]].concat();
            for bad in [&flipped[..], cut, &long, b"", &[0; 40], &[7; 5000]] {
                let refused = site.unwrap(worker, &a.spec, &a.public, a.kek, bad);
                assert!(
                    matches!(refused, Err(Error::Blob { .. })),
                    "{kind} {purpose} {}: {refused:?}",
                    bad.len()
                );
            }
            // Another class's key of the same purpose, and the one of another purpose.
            let stranger = class("other", purpose, 1, 99);
            let blob = managed_kit::wrap(&stranger.value, &a.bytes);
            let refused = site.unwrap(worker, &a.spec, &a.public, a.kek, &blob);
            assert!(matches!(refused, Err(Error::Blob { .. })), "{refused:?}");
            let other = classes.iter().find(|class| class.name.purpose != purpose);
            for kek in [other.unwrap().name.id, KekId([200; 16])] {
                let refused = site.unwrap(worker, &a.spec, &a.public, kek, &a.blob);
                assert!(
                    matches!(refused, Err(Error::KekNotFound { .. })),
                    "{refused:?}"
                );
            }
        }
        assert!(site.token().is_alive());
    });
}

#[test]
fn managed_site_uses_no_key_for_another_on_softhsm2() {
    substitutes(&fresh_token!());
}

#[test]
fn managed_site_uses_no_key_for_another_on_kryoptic() {
    substitutes(&fresh_token!(kind: ModuleKind::Kryoptic));
}

fn ciphertexts(test: &TestToken) {
    at_site(test, |worker, site, classes| {
        let data = known(classes, KeyKind::Aes256, Purpose::Data);
        let key = data.unwrap(worker, site).unwrap();
        let sealed = worker.managed_encrypt(&key, b"plain", b"aad").unwrap();
        for at in 0..sealed.len() {
            let mut bad = sealed.clone();
            bad[at] ^= 0x40;
            let refused = worker.managed_decrypt(&key, &bad, b"aad");
            assert!(
                matches!(refused, Err(Error::Blob { .. })),
                "{at}: {refused:?}"
            );
        }
        for len in 0..sealed.len() {
            let refused = worker.managed_decrypt(&key, &sealed[..len], b"aad");
            assert!(
                matches!(refused, Err(Error::Blob { .. })),
                "{len}: {refused:?}"
            );
        }
        let refused = worker.managed_decrypt(&key, &sealed, b"other");
        assert!(matches!(refused, Err(Error::Blob { .. })), "{refused:?}");
        let opened = worker.managed_decrypt(&key, &sealed, b"aad").unwrap();
        assert_eq!(&opened[..], b"plain");

        let key = known(classes, KeyKind::Aes256, Purpose::Wrap);
        let key = key.unwrap(worker, site).unwrap();
        let wrapped = worker.managed_wrap(&key).unwrap();
        for at in 0..wrapped.len() {
            let mut bad = wrapped.clone();
            bad[at] ^= 0x40;
            let refused = worker.managed_unwrap_encrypt(&key, &bad, b"plain", b"");
            assert!(
                matches!(refused, Err(Error::Blob { .. })),
                "{at}: {refused:?}"
            );
        }
        for bad in [&wrapped[..32], &[0; 48], b""] {
            let refused = worker.managed_unwrap_encrypt(&key, bad, b"plain", b"");
            assert!(matches!(refused, Err(Error::Blob { .. })), "{refused:?}");
        }
        let refused = worker.managed_unwrap_decrypt(&key, &wrapped, &[0; 40], b"");
        assert!(matches!(refused, Err(Error::Blob { .. })), "{refused:?}");
    });
}

#[test]
fn managed_site_blames_the_caller_for_a_bad_ciphertext_on_softhsm2() {
    ciphertexts(&fresh_token!());
}

#[test]
fn managed_site_blames_the_caller_for_a_bad_ciphertext_on_kryoptic() {
    ciphertexts(&fresh_token!(kind: ModuleKind::Kryoptic));
}

/// A key stays the same through a loss of the token, and goes on being one object.
fn comes_back(test: &TestToken) {
    let shim = test.shim();
    let token = common::open_module(test, &shim.module());
    let (site, classes) = site_of(&token);
    let sign = known(&classes, KeyKind::EcP256, Purpose::Sign);
    let handshake = known(&classes, KeyKind::Rsa2048, Purpose::Handshake);
    let data = known(&classes, KeyKind::Aes256, Purpose::Data);
    // One worker is busy all along, with a session of the first login that it then leaves idle.
    let workers = Arc::new(Workers::start(2, 8).unwrap());
    let (met, (end, ended)) = (Arc::new(Barrier::new(2)), mpsc::sync_channel::<()>(1));
    let (all_along, refreshed, meet) = (Arc::clone(&workers), site.clone(), Arc::clone(&met));
    let busy = std::thread::spawn(move || {
        on_worker(&all_along, move |worker| {
            refreshed.refresh(worker).unwrap();
            meet.wait();
            let _gone = ended.recv();
        });
    });
    met.wait();
    let asked = site;
    let (sign, handshake, data) = on_worker(&workers, move |worker| {
        let unwrap = |key: &managed_site_kit::Known| key.unwrap(worker, &asked).unwrap();
        (unwrap(&sign), unwrap(&handshake), unwrap(&data))
    });
    let private = handshake.private_key().unwrap();
    drop(handshake);
    let scheme = SignatureScheme::EcdsaSecp256r1Sha256;
    let all = move |worker: &keyhaven_hsm::Worker| {
        worker.managed_sign(&sign, scheme, b"m")?;
        worker.managed_encrypt(&data, b"m", b"")?;
        worker.sign(&private, private.schemes()[0], b"m").map(drop)
    };
    let all = Arc::new(all);
    let (asked, lost) = (Arc::clone(&all), Arc::clone(&all));
    on_worker(&workers, move |worker| asked(worker).unwrap());
    shim.set_faults("C_SignInit error 0x32");
    let failed = on_worker(&workers, move |worker| lost(worker).unwrap_err());
    assert!(failed.is_unavailable(), "{failed}");
    shim.clear_faults();
    common::wait_for("the token", || {
        let asked = Arc::clone(&all);
        on_worker(&workers, move |worker| asked(worker).is_ok())
    });
    assert_eq!(token.key_copies(), 3);
    drop((all, end));
    busy.join().unwrap();
    common::wait_for("the end of both logins' objects", || {
        (token.key_copies(), token.live_ephemerals()) == (0, 0)
            && managed_kit::session_objects(test) == 0
    });
    assert_eq!(shim.report().readable(), 0, "a key could be read");
}

#[test]
fn managed_site_key_is_had_again_after_a_loss() {
    comes_back(&fresh_token!());
}

/// Whatever fails on the way, no object is left, and the key can be had afterwards.
fn fails_on_the_way(test: &TestToken) {
    let shim = test.shim();
    let token = common::open_module(test, &shim.module());
    let (site, classes) = site_of(&token);
    let workers = Workers::start(1, 8).unwrap();
    for (kind, purpose, function) in [
        (KeyKind::EcP256, Purpose::Sign, "C_UnwrapKey"),
        (KeyKind::EcP256, Purpose::Sign, "C_SignInit"),
        (KeyKind::EcP256, Purpose::Sign, "C_Sign"),
        (KeyKind::Rsa2048, Purpose::Decrypt, "C_GetAttributeValue"),
        (KeyKind::Aes256, Purpose::Data, "C_EncryptInit"),
        (KeyKind::Aes256, Purpose::Data, "C_Encrypt"),
        (KeyKind::Aes256, Purpose::Wrap, "C_CreateObject"),
        (KeyKind::Aes256, Purpose::Wrap, "C_WrapKey"),
        (KeyKind::Hmac, Purpose::Mac, "C_Sign"),
    ] {
        let key = known(&classes, kind, purpose);
        // CKR_FUNCTION_FAILED is an operation's own failure.
        shim.set_faults(&format!("{function} error 0x06"));
        let (asked, site_there) = (key.clone(), site.clone());
        let failed = on_worker(&workers, move |worker| {
            asked.unwrap(worker, &site_there).map(drop)
        });
        assert!(failed.is_err(), "{function}");
        shim.clear_faults();
        assert_eq!(
            (
                token.key_copies(),
                token.live_ephemerals(),
                shim.report().live()
            ),
            (0, 0, 0),
            "{function}"
        );
        let site_there = site.clone();
        on_worker(&workers, move |worker| {
            key.unwrap(worker, &site_there).map(drop).unwrap();
        });
    }
    // A data key lives for one operation, however that ends.
    let wrap = known(&classes, KeyKind::Aes256, Purpose::Wrap);
    let site_there = site;
    let key = on_worker(&workers, move |worker| wrap.unwrap(worker, &site_there));
    let key = key.unwrap();
    for function in ["C_WrapKey", "C_EncryptInit", "C_Encrypt", "C_UnwrapKey"] {
        let asked = key.clone();
        let wrapped = on_worker(&workers, move |worker| worker.managed_wrap(&asked));
        let wrapped = wrapped.unwrap();
        shim.set_faults(&format!("{function} error 0x06"));
        let asked = key.clone();
        on_worker(&workers, move |worker| {
            let made = worker.managed_wrap(&asked).map(drop);
            let used = worker.managed_unwrap_encrypt(&asked, &wrapped, b"m", b"");
            assert!(made.is_err() || used.is_err());
        });
        shim.clear_faults();
        assert_eq!(shim.report().live(), 1, "{function}: the key, and no other");
    }
    drop(key);
    common::wait_for("the end of the key", || shim.report().live() == 0);
    assert!(token.is_alive());
}

#[test]
fn managed_site_leaves_no_object_when_a_call_fails() {
    fails_on_the_way(&fresh_token!());
}

/// A class's key that somebody destroys is missed when it is needed, and no harm to the token.
#[test]
fn managed_site_misses_a_class_key_that_was_destroyed() {
    let test = fresh_token!();
    let (site, classes) = site_of(&open(&test));
    let gone = classes
        .iter()
        .find(|class| class.name.purpose == Purpose::Data);
    let label = gone.unwrap().name.label();
    let destroyed = common::vault::destroy_keys(test.module(), site.token(), &label);
    assert_eq!(destroyed, 1);
    let workers = Workers::start(1, 8).unwrap();
    let asked = site.clone();
    on_worker(&workers, move |worker| {
        let key = known(&classes, KeyKind::Aes256, Purpose::Data);
        let refused = key.unwrap(worker, &asked);
        assert!(
            matches!(refused, Err(Error::KekNotFound { .. })),
            "{refused:?}"
        );
        let key = known(&classes, KeyKind::EcP256, Purpose::Sign);
        key.unwrap(worker, &asked).map(drop).unwrap();
    });
    assert_eq!(site.holds().len(), Purpose::ALL.len() - 1);
}

fn lies_in_no_file(test: &TestToken) {
    let mut class = class("web", Purpose::Handshake, 1, 1);
    aws_lc_rs::rand::fill(&mut class.value).unwrap();
    let token = open(test);
    deliver(&token, std::slice::from_ref(&class)).unwrap();
    assert_eq!(SiteToken::open(&token).unwrap().holds().len(), 1);
    assert!(!managed_kit::is_in_files(test.dir(), &class.value));
    // A public object does: the search finds what is there.
    let session = common::vault::beside(test.module(), &token);
    session
        .create_object(&[
            cryptoki::object::Attribute::Class(cryptoki::object::ObjectClass::DATA),
            cryptoki::object::Attribute::Token(true),
            cryptoki::object::Attribute::Private(false),
            cryptoki::object::Attribute::Value(class.value.to_vec()),
        ])
        .unwrap();
    assert!(managed_kit::is_in_files(test.dir(), &class.value));
}

#[test]
fn managed_site_keeps_class_keys_in_no_file_in_clear_on_softhsm2() {
    lies_in_no_file(&fresh_token!());
}

#[test]
fn managed_site_keeps_class_keys_in_no_file_in_clear_on_kryoptic() {
    lies_in_no_file(&fresh_token!(kind: ModuleKind::Kryoptic));
}
