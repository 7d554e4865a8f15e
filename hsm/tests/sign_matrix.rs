//! Every key that each module can have, with the schemes that it was seen to sign with.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::{on_worker, open, uri};
use keyhaven_hsm::Workers;
use keyhaven_softhsm_test::{ModuleKind, TestToken, fresh_token};
use keyhaven_types::SignatureScheme;

/// Makes a key of each type, loads it, and signs with each scheme; RSA signatures and every first one are verified by
/// the worker.
fn signs(test: &TestToken) {
    let types: Vec<_> = test
        .key_types()
        .iter()
        .filter(|kind| **kind != "rsa:3072")
        .collect();
    assert!(!types.is_empty());
    // Before the token is opened: craton's store is for one process at a time.
    let mut publics = Vec::new();
    for (n, kind) in types.iter().enumerate() {
        test.generate_key(kind, kind, &format!("0{n}")).unwrap();
        publics.push(test.public_key(kind).unwrap());
    }
    let token = open(test);
    let workers = Workers::start(1, 8).unwrap();
    for (kind, spki) in types.into_iter().zip(publics) {
        let key = token.load_key(&uri(&test.key_uri(kind)), &spki).unwrap();
        assert_eq!(
            key.schemes(),
            SignatureScheme::of(key.algorithm()),
            "{} {kind}",
            test.kind()
        );
        on_worker(&workers, move |worker| {
            for &scheme in key.schemes() {
                worker.sign(&key, scheme, b"message").unwrap();
            }
        });
    }
}

#[test]
fn softhsm2_signs_with_every_key() {
    signs(&fresh_token!());
}

#[test]
fn nss_signs_with_every_key() {
    signs(&fresh_token!(kind: ModuleKind::Nss));
}

#[test]
fn kryoptic_signs_with_every_key() {
    signs(&fresh_token!(kind: ModuleKind::Kryoptic));
}

#[test]
fn kryoptic_on_a_modern_openssl_signs_with_every_key() {
    if !ModuleKind::KryopticModern.is_there() {
        eprintln!("not run: cargo xtask modules --modern builds the module");
        return;
    }
    signs(&fresh_token!(kind: ModuleKind::KryopticModern));
}

#[test]
fn a_tpm_signs_with_every_key() {
    signs(&fresh_token!(kind: ModuleKind::Tpm2));
}

#[test]
fn p11_kit_hands_on_every_signature() {
    signs(&fresh_token!(kind: ModuleKind::P11Kit));
}

#[test]
fn craton_signs_with_every_key() {
    signs(&fresh_token!(kind: ModuleKind::Craton));
}
