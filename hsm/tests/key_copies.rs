//! The session copies of private keys: one for each key in use, and none for a key that nobody has any more.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::{on_worker, uri, wait_for};
use keyhaven_hsm::{Error, PrivateKey, Token, Workers};
use keyhaven_softhsm_test::{ModuleKind, TestToken, fresh_token};
use keyhaven_types::SignatureScheme;

const SCHEME: SignatureScheme = SignatureScheme::EcdsaSecp256r1Sha256;

/// A token behind the shim with two keys, `k` and `other`, and their public parts.
fn with_keys(test: &TestToken) -> (Token, [Vec<u8>; 2]) {
    let publics = [("k", "01"), ("other", "02")].map(|(label, id)| {
        test.generate_key("EC:prime256v1", label, id).unwrap();
        test.public_key(label).unwrap()
    });
    (common::open_module(test, &test.shim().module()), publics)
}

fn load(test: &TestToken, token: &Token, spki: &[u8]) -> Result<PrivateKey, Error> {
    token.load_key(&uri(&test.key_uri("k")), spki)
}

fn a_copy_goes_with_its_key(test: &TestToken) {
    let (token, [spki, _]) = with_keys(test);
    let shim = test.shim();
    let workers = Workers::start(1, 8).unwrap();
    let signs = |key: &PrivateKey| {
        let key = key.clone();
        on_worker(&workers, move |worker| worker.sign(&key, SCHEME, b"m")).unwrap();
    };
    let first = load(test, &token, &spki).unwrap();
    signs(&first);
    let (live, copies) = (shim.report().live(), token.key_copies());
    assert_eq!(copies, 1);
    // A configuration that is read anew loads its keys anew, and the old ones end some time later.
    for _ in 0..5 {
        let again = load(test, &token, &spki).unwrap();
        assert_eq!(token.key_copies(), 2);
        signs(&again);
        let clone = again.clone();
        drop(again);
        assert_eq!(token.key_copies(), 2, "somebody has it yet");
        drop(clone);
        assert_eq!(token.key_copies(), 1);
    }
    // On a worker's thread, too.
    let last = load(test, &token, &spki).unwrap();
    on_worker(&workers, move |_| drop(last));
    wait_for("the copies to be destroyed", || {
        shim.report().live() == live
    });
    signs(&first);
    drop(first);
    wait_for("the last copy to be destroyed", || {
        shim.report().live() == live - 1
    });
    assert_eq!((token.key_copies(), token.live_ephemerals()), (0, 0));
}

#[test]
fn a_copy_goes_with_its_key_on_nss() {
    a_copy_goes_with_its_key(&fresh_token!(kind: ModuleKind::Nss));
}

#[test]
fn a_copy_goes_with_its_key_on_kryoptic() {
    a_copy_goes_with_its_key(&fresh_token!(kind: ModuleKind::Kryoptic));
}

#[test]
fn a_copy_goes_with_its_key_on_softhsm2() {
    a_copy_goes_with_its_key(&fresh_token!());
}

/// A configuration that is wrong is read again and again.
#[test]
fn a_key_that_does_not_load_leaves_no_copy() {
    let test = fresh_token!(kind: ModuleKind::Nss);
    let (token, [spki, other]) = with_keys(&test);
    let shim = test.shim();
    let live = shim.report().live();
    for _ in 0..3 {
        let error = load(&test, &token, &other).unwrap_err();
        assert!(matches!(error, Error::KeyMismatch { .. }), "{error}");
        shim.set_faults("C_SignInit error 0x70");
        load(&test, &token, &spki).unwrap_err();
        shim.clear_faults();
    }
    assert_eq!((shim.report().live(), token.key_copies()), (live, 0));
}

/// The copy of a lost login went with it.
#[test]
fn a_key_is_copied_once_in_each_login() {
    let test = fresh_token!(kind: ModuleKind::Nss);
    let (token, [spki, _]) = with_keys(&test);
    let shim = test.shim();
    let key = load(&test, &token, &spki).unwrap();
    let workers = Workers::start(1, 8).unwrap();
    let sign = || {
        let key = key.clone();
        on_worker(&workers, move |worker| worker.sign(&key, SCHEME, b"m"))
    };
    sign().unwrap();
    // CKR_DEVICE_ERROR.
    shim.set_faults("C_SignInit error 0x30 times 1");
    sign().unwrap_err();
    wait_for("the token", || sign().is_ok());
    assert_eq!(token.key_copies(), 1);
    drop(key);
    assert_eq!(token.key_copies(), 0);
    wait_for("the copy to be destroyed", || token.live_ephemerals() == 0);
}
