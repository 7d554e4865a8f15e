//! What each module proves today. A module that proves more or less some day is noticed here.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::open;
use keyhaven_hsm::Profile;
use keyhaven_softhsm_test::{ModuleKind, TestToken, fresh_token};
use keyhaven_types::{
    CustodyLevel::{self, Premaster, Schedule, Signature},
    HashAlgorithm::{self, Sha256, Sha384},
    NamedGroup::{self, Secp256r1, Secp384r1, X25519},
};

/// The profile, and that nothing was left behind by finding it.
fn prove(test: &TestToken) -> Profile {
    let token = open(test);
    let profile = token.prove().unwrap();
    assert_eq!(token.live_ephemerals(), 0);
    assert!(token.is_alive(), "{:?}", token.health());
    profile
}

fn levels(profile: &Profile) -> (CustodyLevel, CustodyLevel) {
    (profile.tls12, profile.tls13)
}

fn all_pairs(groups: [NamedGroup; 3]) -> Vec<(NamedGroup, HashAlgorithm)> {
    groups
        .into_iter()
        .flat_map(|group| [(group, Sha256), (group, Sha384)])
        .collect()
}

#[test]
fn softhsm2_keeps_the_shared_secret() {
    let profile = prove(&fresh_token!());
    assert_eq!(levels(&profile), (Premaster, Premaster));
    assert_eq!(profile.groups, [Secp256r1, X25519, Secp384r1]);
    assert_eq!(profile.extract, all_pairs([Secp256r1, X25519, Secp384r1]));
    // Its HMAC-SHA384 wants a key of 48 bytes.
    assert_eq!(
        profile.prf,
        [
            (Secp256r1, Sha256),
            (X25519, Sha256),
            (Secp384r1, Sha256),
            (Secp384r1, Sha384)
        ]
    );
    assert!(profile.master13.is_empty() && profile.schedule12.is_empty());
    assert!(!profile.prepends && !profile.ml_kem && !profile.vault);
}

/// Everything, with every group and hash.
fn keeps_the_whole_schedule(profile: &Profile) {
    let pairs = all_pairs([X25519, Secp256r1, Secp384r1]);
    assert_eq!(
        levels(profile),
        (Schedule, Schedule),
        "{:#?}",
        profile.checks
    );
    assert_eq!(profile.groups, [X25519, Secp256r1, Secp384r1]);
    assert_eq!(profile.extract, pairs);
    assert_eq!(profile.prf, pairs);
    assert_eq!(profile.master13, pairs);
    assert_eq!(profile.schedule13, pairs);
    assert_eq!(profile.schedule12, pairs);
    assert!(profile.prepends);
    assert!(profile.vault, "{:#?}", profile.checks);
    let failed = profile.checks.iter().filter(|check| !check.passed);
    let failed: Vec<_> = failed.map(|check| &check.name[..]).collect();
    let ml_kem = "hybrid: ML-KEM-768 secret stays and goes before another";
    assert!(failed.iter().all(|name| *name == ml_kem), "{failed:?}");
    for vector in [
        "TLS 1.3: the trace of RFC 8448 comes out",
        "TLS 1.2: a known schedule comes out",
        "vault: AES key wrapping opens a known blob",
    ] {
        assert!(
            profile.checks.iter().any(|check| check.name == vector),
            "{vector}: {:#?}",
            profile.checks
        );
    }
}

/// The self-tests run at each start, also of a token at the end of a network: no more than so many calls, none of
/// which leaves anything behind.
fn is_brief(test: &TestToken, calls_max: u64) {
    let shim = test.shim();
    let token = common::open_module(test, &shim.module());
    let before = shim.report();
    token.prove().unwrap();
    let after = shim.report();
    let calls = after.total() - before.total();
    eprintln!("{}: {calls} calls", test.kind());
    assert!(
        calls <= calls_max,
        "{calls}: {}",
        after.calls_since(&before)
    );
    token.prove().unwrap();
    assert_eq!(shim.report().live(), after.live());
}

#[test]
fn the_self_tests_of_softhsm2_are_brief() {
    is_brief(&fresh_token!(), 250);
}

#[test]
fn the_self_tests_of_nss_are_brief() {
    is_brief(&fresh_token!(kind: ModuleKind::Nss), 1500);
}

#[test]
fn the_self_tests_of_kryoptic_are_brief() {
    is_brief(&fresh_token!(kind: ModuleKind::Kryoptic), 1500);
}

#[test]
fn nss_keeps_the_whole_schedule() {
    let profile = prove(&fresh_token!(kind: ModuleKind::Nss));
    keeps_the_whole_schedule(&profile);
    assert!(!profile.ml_kem && !profile.vault_guarded);
}

#[test]
fn kryoptic_keeps_the_whole_schedule() {
    let profile = prove(&fresh_token!(kind: ModuleKind::Kryoptic));
    keeps_the_whole_schedule(&profile);
    assert!(!profile.ml_kem && profile.vault_guarded);
}

#[test]
fn kryoptic_on_a_modern_openssl_keeps_both_halves_of_a_hybrid_exchange() {
    if !ModuleKind::KryopticModern.is_there() {
        eprintln!("not run: cargo xtask modules --modern builds the module");
        return;
    }
    let profile = prove(&fresh_token!(kind: ModuleKind::KryopticModern));
    keeps_the_whole_schedule(&profile);
    assert!(profile.ml_kem, "{:#?}", profile.checks);
}

fn signs_and_keeps_nothing(profile: &Profile) {
    assert_eq!(
        levels(profile),
        (Signature, Signature),
        "{:#?}",
        profile.checks
    );
    assert!(profile.groups.is_empty());
    assert!(profile.checks.iter().any(|check| !check.passed));
}

#[test]
fn a_tpm_keeps_its_keys_alone() {
    signs_and_keeps_nothing(&prove(&fresh_token!(kind: ModuleKind::Tpm2)));
}

#[test]
fn p11_kit_keeps_its_keys_alone() {
    signs_and_keeps_nothing(&prove(&fresh_token!(kind: ModuleKind::P11Kit)));
}

/// It agrees, and then neither digests the secret nor has an HMAC: each refusal is a module's answer to the question, and
/// not to the one before.
#[test]
fn craton_keeps_its_keys_alone() {
    let profile = prove(&fresh_token!(kind: ModuleKind::Craton));
    signs_and_keeps_nothing(&profile);
    let detail = |name: &str| {
        let mut checks = profile.checks.iter();
        let check = checks.find(|check| check.name == name);
        check.map(|check| &check.detail[..])
    };
    let extract = detail("secp256r1: HKDF-Extract with Sha384 equals software");
    assert_eq!(extract, Some("C_DigestKey: CKR_KEY_INDIGESTIBLE"));
    let prf = detail("secp256r1: extended master secret with Sha384 equals software");
    assert_eq!(prf, Some("C_SignInit: CKR_MECHANISM_INVALID"));
}
