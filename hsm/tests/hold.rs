//! What each module refuses today even to code that has the login. A module that refuses more or less some day is
//! noticed here; the tables are those of the documentation.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::open;
use keyhaven_hsm::HoldCheck;
use keyhaven_softhsm_test::{ModuleKind, TestToken, fresh_token};

/// Refused, succeeded, or could not be tried.
const REFUSED: Option<bool> = Some(true);
const DONE: Option<bool> = Some(false);
const UNTRIED: Option<bool> = None;

const NAMES: [&str; 12] = [
    "read a sensitive key",
    "lower the flags of a sensitive key",
    "copy a sensitive key into a weaker one",
    "wrap a secret that is not extractable under a known key",
    "wrap a private key that is not extractable under a known key",
    "wrap a secret that is on the road under a known key",
    "derive a readable secret by ECDH",
    "derive a readable secret by HKDF",
    "derive a readable master secret of TLS 1.2",
    "unwrap a secret as a readable one",
    "decrypt with a key that wraps",
    "mark an own key as trusted",
];

/// Examines the token, which is as well afterwards as before, and compares.
fn expect(test: &TestToken, outcomes: [Option<bool>; 12]) -> Vec<HoldCheck> {
    let token = open(test);
    let checks = token.examine_hold().unwrap();
    let found: Vec<_> = checks
        .iter()
        .map(|check| (&check.name[..], check.refused))
        .collect();
    let expected: Vec<_> = NAMES.into_iter().zip(outcomes).collect();
    assert_eq!(found, expected, "{checks:#?}");
    for check in &checks {
        assert!(!check.detail.contains("not destroyed"), "{check:?}");
        assert!(!check.detail.is_empty());
    }
    assert!(token.is_alive());
    assert_eq!(token.live_ephemerals(), 0);
    checks
}

#[test]
fn softhsm2_refuses_all_but_a_readable_ecdh() {
    expect(
        &fresh_token!(),
        [
            REFUSED, REFUSED, REFUSED, REFUSED, REFUSED, UNTRIED, DONE, UNTRIED, UNTRIED, REFUSED,
            REFUSED, REFUSED,
        ],
    );
}

const OF_KRYOPTIC: [Option<bool>; 12] = [
    REFUSED, REFUSED, REFUSED, REFUSED, REFUSED, DONE, DONE, DONE, DONE, REFUSED, REFUSED, DONE,
];

#[test]
fn kryoptic_lets_secrets_be_derived_as_readable_ones() {
    expect(&fresh_token!(kind: ModuleKind::Kryoptic), OF_KRYOPTIC);
}

#[test]
fn kryoptic_on_a_modern_openssl_does_the_same() {
    if !ModuleKind::KryopticModern.is_there() {
        eprintln!("not run: cargo xtask modules --modern builds the module");
        return;
    }
    expect(&fresh_token!(kind: ModuleKind::KryopticModern), OF_KRYOPTIC);
}

#[test]
fn nss_lets_keys_that_are_not_extractable_be_taken_out() {
    let checks = expect(
        &fresh_token!(kind: ModuleKind::Nss),
        [
            REFUSED, REFUSED, DONE, DONE, DONE, DONE, DONE, REFUSED, DONE, DONE, DONE, DONE,
        ],
    );
    // Not only a blob: what was in it.
    for taken in &checks[3..6] {
        assert!(taken.detail.contains("was opened"), "{taken:?}");
    }
}

/// Its keys are token objects, on which no attack is made.
#[test]
fn a_tpm_has_no_objects_to_attack() {
    expect(&fresh_token!(kind: ModuleKind::Tpm2), [UNTRIED; 12]);
}

#[test]
fn p11_kit_hands_on_what_softhsm2_refuses() {
    expect(
        &fresh_token!(kind: ModuleKind::P11Kit),
        [
            REFUSED, REFUSED, REFUSED, UNTRIED, UNTRIED, UNTRIED, UNTRIED, UNTRIED, UNTRIED,
            UNTRIED, UNTRIED, REFUSED,
        ],
    );
}

#[test]
fn craton_refuses_to_wrap_and_lets_an_exchange_be_read() {
    expect(
        &fresh_token!(kind: ModuleKind::Craton),
        [
            REFUSED, REFUSED, REFUSED, REFUSED, REFUSED, UNTRIED, DONE, UNTRIED, UNTRIED, UNTRIED,
            UNTRIED, DONE,
        ],
    );
}
