//! A token that fails on purpose: which calls are made, what becomes of each failure, and that nothing stays behind.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::time::{Duration, Instant};

use common::{import, on_worker, runtime, software_key, uri, wait_for};
use keyhaven_hsm::{Error, Module, Pin, PrivateKey, Token, Worker, Workers};
use keyhaven_softhsm_test::{Shim, TestToken, fresh_token};
use keyhaven_types::{HashAlgorithm, NamedGroup, Secret, SignatureScheme};

struct Bench {
    shim: Shim,
    token: Token,
    key: PrivateKey,
    workers: Workers,
}

fn bench(test: &TestToken, kind: &str) -> Bench {
    let spki = import(test, kind, "k", "01");
    let shim = test.shim();
    let token = open(test).unwrap();
    Bench {
        key: token.load_key(&uri("pkcs11:object=k"), &spki).unwrap(),
        workers: Workers::start(1, 8).unwrap(),
        token,
        shim,
    }
}

fn open(test: &TestToken) -> Result<Token, Error> {
    let module = Module::load(Some(&test.shim().module())).unwrap();
    Token::open(&module, &uri(&test.uri()), Pin::new(test.pin().to_owned()))
}

impl Bench {
    fn sign(&self) -> Result<Vec<u8>, Error> {
        let key = self.key.clone();
        let scheme = SignatureScheme::of(key.algorithm())[0];
        on_worker(&self.workers, move |worker| worker.sign(&key, scheme, b"m"))
    }

    /// What one TLS 1.3 handshake asks of the token.
    fn handshake13(&self) -> Result<Secret, Error> {
        let (token, key) = (self.token.clone(), self.key.clone());
        on_worker(&self.workers, move |worker| {
            handshake13(worker, &token, &key)
        })
    }

    /// Session objects that the module holds, without the key's session copy.
    fn objects(&self) -> u64 {
        self.shim.report().live().saturating_sub(1)
    }
}

fn handshake13(worker: &Worker, token: &Token, key: &PrivateKey) -> Result<Secret, Error> {
    let (_, peer) = software_key(NamedGroup::Secp256r1);
    let exchange = worker.generate_exchange(token, NamedGroup::Secp256r1)?;
    let secret = worker.agree(&exchange, &peer)?;
    let extracted = worker.hkdf_extract(HashAlgorithm::Sha256, &[1; 32], &[], &secret)?;
    worker.sign(key, SignatureScheme::of(key.algorithm())[0], b"m")?;
    Ok(extracted)
}

#[test]
fn the_calls_of_a_handshake_are_these_and_no_value_can_be_read() {
    let test = fresh_token!();
    let bench = bench(&test, "ec256");
    bench.handshake13().unwrap();
    let before = bench.shim.report();
    bench.handshake13().unwrap();
    assert_eq!(
        bench.shim.report().calls_since(&before),
        "C_DestroyObject 3, C_GetAttributeValue 1, C_DigestInit 1, C_DigestUpdate 1, C_DigestKey 1, \
         C_DigestFinal 1, C_SignInit 1, C_Sign 1, C_GenerateKeyPair 1, C_DeriveKey 1"
    );
    let before = bench.shim.report();
    let (token, key) = (bench.token.clone(), bench.key.clone());
    on_worker(&bench.workers, move |worker| {
        let (_, peer) = software_key(NamedGroup::Secp256r1);
        let exchange = worker
            .generate_exchange(&token, NamedGroup::Secp256r1)
            .unwrap();
        worker
            .sign(&key, SignatureScheme::EcdsaSecp256r1Sha256, b"m")
            .unwrap();
        let secret = worker.agree(&exchange, &peer).unwrap();
        let mut master = [0; 48];
        worker
            .tls12_prf(
                HashAlgorithm::Sha256,
                &secret,
                b"extended master secret",
                &[2; 32],
                &mut master,
            )
            .unwrap();
    });
    assert_eq!(
        bench.shim.report().calls_since(&before),
        "C_DestroyObject 3, C_GetAttributeValue 1, C_SignInit 5, C_Sign 5, C_GenerateKeyPair 1, C_DeriveKey 1"
    );
    let report = bench.shim.report();
    assert!(report.examined() >= 6, "{report:?}");
    assert_eq!((report.readable(), report.value_asked()), (0, 0));
    assert_eq!(bench.objects(), 0);
}

#[test]
fn the_self_tests_leave_no_object() {
    let test = fresh_token!();
    let token = open(&test).unwrap();
    let profile = token.prove().unwrap();
    assert_eq!(profile.groups.len(), 3);
    let report = test.shim().report();
    assert_eq!((report.live(), report.readable()), (0, 0));
    assert!(report.value_asked() > 0, "they must try to read");
}

#[test]
fn a_wrong_rsa_signature_never_leaves() {
    let test = fresh_token!();
    let bench = bench(&test, "rsa2048");
    for round in 0..3 {
        bench.sign().unwrap();
        bench.shim.set_faults("C_Sign corrupt");
        let error = bench.sign().unwrap_err();
        assert!(
            matches!(error, Error::WrongSignature { .. }),
            "{round}: {error}"
        );
        assert!(!error.is_peer_fault() && !error.is_unavailable());
        bench.shim.clear_faults();
    }
    bench.sign().unwrap();
}

#[test]
fn a_wrong_ecdsa_signature_is_noticed_at_load_at_first_use_and_in_samples() {
    let test = fresh_token!();
    let bench = bench(&test, "ec256");
    bench.shim.set_faults("C_Sign corrupt");
    let error = bench
        .token
        .load_key(&uri("pkcs11:object=k"), bench.key.spki())
        .unwrap_err();
    assert!(matches!(error, Error::KeyMismatch { .. }), "{error}");
    assert!(matches!(bench.sign(), Err(Error::WrongSignature { .. })));
    let noticed = (0..128).filter(|_| bench.sign().is_err()).count();
    assert_eq!(noticed, 2, "one in 64");
}

/// Every call of a handshake fails once, with a return value of each class: it is never the peer's fault, the
/// next handshakes succeed (a lost token after its pause), and no object stays.
#[test]
fn every_call_may_fail_and_nothing_stays_behind() {
    let test = fresh_token!();
    let bench = bench(&test, "ec256");
    bench.handshake13().unwrap();
    let failed = 0x6;
    for function in [
        "C_GenerateKeyPair",
        "C_GetAttributeValue",
        "C_DeriveKey",
        "C_DigestInit",
        "C_DigestUpdate",
        "C_DigestKey",
        "C_DigestFinal",
        "C_SignInit",
        "C_Sign",
    ] {
        bench
            .shim
            .set_faults(&format!("{function} error {failed} times 1"));
        let error = bench.handshake13().unwrap_err();
        assert!(
            !error.is_peer_fault() && !error.is_unavailable(),
            "{function}: {error}"
        );
        bench
            .handshake13()
            .unwrap_or_else(|error| panic!("after {function}: {error}"));
        wait_for("an empty module", || bench.objects() == 0);
        assert_eq!(bench.token.live_ephemerals(), 0, "{function}");
    }
    // A destruction that fails is made up for.
    bench
        .shim
        .set_faults(&format!("C_DestroyObject error {failed} after 1 times 2"));
    bench.handshake13().unwrap();
    bench.handshake13().unwrap();
    wait_for("an empty module", || bench.objects() == 0);
    wait_for("an empty token", || bench.token.live_ephemerals() == 0);
}

#[test]
fn a_lost_session_costs_no_signature() {
    let test = fresh_token!();
    let bench = bench(&test, "ec256");
    bench.sign().unwrap();
    // CKR_SESSION_HANDLE_INVALID: found again, copied again, signed.
    bench.shim.set_faults("C_SignInit error 0xb3 times 1");
    bench.sign().unwrap();
    // CKR_KEY_HANDLE_INVALID so soon after: the pause first, then the same.
    bench.shim.set_faults("C_SignInit error 0x60 times 1");
    let _ = bench.sign();
    wait_for("the token", || bench.sign().is_ok());
    assert_eq!(bench.objects(), 0, "the old session copies are gone");
}

#[test]
fn a_dead_device_is_unavailable_and_asked_for_again_after_a_pause() {
    let test = fresh_token!();
    let bench = bench(&test, "ec256");
    // CKR_DEVICE_ERROR of a derivation is the token's, whatever the peer sent.
    bench
        .shim
        .set_faults("C_DeriveKey error 0x30 times 1\nC_OpenSession error 0x30");
    let error = bench.handshake13().unwrap_err();
    assert!(
        error.is_unavailable() && !error.is_peer_fault(),
        "{error:?}"
    );
    let before = bench.shim.report();
    let error = bench.handshake13().unwrap_err();
    assert!(matches!(error, Error::TokenUnavailable { .. }), "{error:?}");
    // Whoever comes in the pause fails at once and without a call.
    let tried = bench.shim.report();
    assert!(tried.total() > before.total());
    for _ in 0..50 {
        assert!(bench.handshake13().unwrap_err().is_unavailable());
    }
    assert_eq!(bench.shim.report().calls_since(&tried), "");
    bench.shim.clear_faults();
    wait_for("the token", || bench.handshake13().is_ok());
    assert_eq!(bench.token.live_ephemerals(), 0);
}

#[test]
fn a_pin_refused_at_a_reconnection_ends_all_attempts() {
    let test = fresh_token!();
    let bench = bench(&test, "ec256");
    // CKR_PIN_INCORRECT at the login that follows the loss.
    bench
        .shim
        .set_faults("C_SignInit error 0x101 times 1\nC_Login error 0xa0");
    assert!(bench.sign().unwrap_err().is_unavailable());
    let after = bench.shim.report().calls("C_Login");
    assert_eq!(after, 2, "one at the start, one at the reconnection");
    bench.shim.clear_faults();
    assert!(matches!(open(&test), Err(Error::PinRefused { .. })));
    // For longer than the pause after which a lost token is asked for again.
    let until = Instant::now() + Duration::from_millis(2500);
    while Instant::now() < until {
        assert!(bench.sign().is_err());
    }
    assert_eq!(bench.shim.report().calls("C_Login"), after);
}

#[test]
fn a_pin_that_is_not_set_yet_is_no_wrong_pin() {
    let test = fresh_token!();
    // CKR_USER_PIN_NOT_INITIALIZED, which SoftHSM2 says when processes start at once.
    test.shim().set_faults("C_Login error 0x102 times 1");
    let error = open(&test).unwrap_err();
    assert!(matches!(error, Error::Token { .. }), "{error}");
    open(&test).unwrap();
}

#[test]
fn a_hanging_token_is_left_at_the_deadline_and_its_objects_are_destroyed() {
    let test = fresh_token!();
    let bench = bench(&test, "ec256");
    bench.handshake13().unwrap();
    bench.shim.set_faults("C_GenerateKeyPair hang 400 times 1");
    let token = bench.token.clone();
    let start = Instant::now();
    let result = runtime().block_on(
        bench
            .workers
            .run(start + Duration::from_millis(50), move |worker| {
                worker.generate_exchange(&token, NamedGroup::Secp256r1)
            }),
    );
    assert!(matches!(result, Err(Error::Deadline)), "{result:?}");
    assert!(start.elapsed() < Duration::from_millis(390));
    bench.handshake13().unwrap();
    assert_eq!((bench.objects(), bench.token.live_ephemerals()), (0, 0));
}
