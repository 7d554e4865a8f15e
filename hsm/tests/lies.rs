//! Tokens that lie: what they claim and cannot do, do wrongly or do in the open is not in their profile, and a token
//! that begins to lie is not served with.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::{agreed, on_worker, wait_for};
use keyhaven_hsm::{Profile, Salt, Token, Workers};
use keyhaven_softhsm_test::{ModuleKind, TestToken, fresh_token};
use keyhaven_types::{
    CustodyLevel::{Master, Premaster, Schedule, Signature},
    HashAlgorithm, NamedGroup,
};

fn open(test: &TestToken) -> Token {
    common::open_module(test, &test.shim().module())
}

fn with_faults(test: &TestToken, faults: &str) -> Profile {
    test.shim().set_faults(faults);
    let profile = open(test).prove().unwrap();
    test.shim().clear_faults();
    profile
}

/// What failed and why, one check a line.
fn failures(profile: &Profile) -> String {
    let failed = profile.checks.iter().filter(|check| !check.passed);
    failed
        .map(|check| format!("{}: {}\n", check.name, check.detail))
        .collect()
}

#[test]
fn an_honest_token_is_one_behind_the_shim_too() {
    let profile = with_faults(&fresh_token!(kind: ModuleKind::Nss), "");
    assert_eq!((profile.tls12, profile.tls13), (Schedule, Schedule));
}

#[test]
fn a_mechanism_that_is_claimed_and_fails_lowers_its_level_alone() {
    let test = fresh_token!(kind: ModuleKind::Kryoptic);
    let profile = with_faults(&test, "C_DeriveKey error 0x70 of CKM_HKDF_DERIVE");
    assert_eq!((profile.tls12, profile.tls13), (Schedule, Premaster));
    assert!(profile.master13.is_empty() && !profile.vault && !profile.prepends);
    assert!(
        failures(&profile).contains("the handshake secret: C_DeriveKey: CKR_MECHANISM_INVALID")
    );
}

#[test]
fn a_wrong_key_lowers_the_level() {
    let test = fresh_token!(kind: ModuleKind::Kryoptic);
    let profile = with_faults(&test, "C_DeriveKey corrupt of CKM_HKDF_DATA");
    assert_eq!((profile.tls12, profile.tls13), (Schedule, Premaster));
    assert!(failures(&profile).contains("not the one that software gets"));
}

#[test]
fn a_wrong_finished_leaves_master() {
    let test = fresh_token!(kind: ModuleKind::Kryoptic);
    let faults = "C_Sign corrupt of CKM_SHA256_HMAC\nC_Sign corrupt of CKM_SHA384_HMAC";
    let profile = with_faults(&test, faults);
    assert_eq!((profile.tls12, profile.tls13), (Schedule, Master));
    assert!(profile.prf.is_empty() && profile.schedule13.is_empty());
}

#[test]
fn a_wrong_master_secret_of_tls12_lowers_the_level() {
    let test = fresh_token!(kind: ModuleKind::Kryoptic);
    let faults = "C_DeriveKey corrupt of CKM_TLS12_EXTENDED_MASTER_KEY_DERIVE_DH";
    let profile = with_faults(&test, faults);
    assert_eq!((profile.tls12, profile.tls13), (Premaster, Schedule));
}

/// A module that is right about random secrets and wrong about the known one: the seventh key block is the vector's.
#[test]
fn a_wrong_known_answer_lowers_the_level() {
    let test = fresh_token!(kind: ModuleKind::Kryoptic);
    let profile = with_faults(&test, "C_DeriveKey corrupt of CKM_TLS_KDF after 6");
    assert_eq!((profile.tls12, profile.tls13), (Premaster, Schedule));
    let failures = failures(&profile);
    assert!(
        failures.contains("a known schedule comes out"),
        "{failures}"
    );
}

/// At `premaster` the other half of a hybrid exchange goes before the secret: the fifth part of a digest, after the
/// two of P-256 and the pad of X25519 with and without it.
#[test]
fn a_digest_that_takes_nothing_before_a_secret_is_noticed() {
    let test = fresh_token!();
    let profile = with_faults(&test, "C_DigestUpdate error 0x6 after 4 times 1");
    let pair = (NamedGroup::X25519, HashAlgorithm::Sha256);
    let failures = failures(&profile);
    assert!(!profile.extract.contains(&pair), "{failures}");
    let check = "x25519: HKDF-Extract after other bytes with Sha256";
    assert!(failures.contains(check), "{failures}");
}

/// Vaults take secrets of 48 bytes for either purpose: a known blob, three attempts that are to fail, and a secret of
/// 32 bytes come first.
#[test]
fn a_vault_that_loses_long_secrets_is_none() {
    let test = fresh_token!(kind: ModuleKind::Kryoptic);
    for after in [5, 6] {
        let profile = with_faults(&test, &format!("C_UnwrapKey error 0x70 after {after}"));
        let failures = failures(&profile);
        assert!(!profile.vault && !profile.vault_guarded, "{failures}");
        assert_eq!((profile.tls12, profile.tls13), (Schedule, Schedule));
    }
}

/// The joined secret of a hybrid exchange goes into either hash: the two expansions after those of the first group's
/// schedules and vault.
#[test]
fn a_joined_secret_that_is_wrong_with_either_hash_is_noticed() {
    let test = fresh_token!(kind: ModuleKind::Kryoptic);
    for (after, hash) in [(21, "Sha256"), (22, "Sha384")] {
        let faults = format!("C_DeriveKey corrupt of CKM_HKDF_DATA after {after} times 1");
        let profile = with_faults(&test, &faults);
        let failures = failures(&profile);
        assert!(!profile.prepends, "{failures}");
        let check = format!("bytes go before a secret: with {hash}: the value is not");
        assert!(failures.contains(&check), "{failures}");
    }
}

#[test]
fn secrets_in_the_open_prove_nothing() {
    let test = fresh_token!(kind: ModuleKind::Kryoptic);
    for (how, mechanism) in [
        ("readable", "CKM_HKDF_DERIVE"),
        ("readable-shown", "CKM_HKDF_DERIVE"),
        ("readable", "CKM_ECDH1_DERIVE"),
        ("readable", "CKM_TLS12_EXTENDED_MASTER_KEY_DERIVE_DH"),
    ] {
        let profile = with_faults(&test, &format!("C_DeriveKey {how} of {mechanism}"));
        let failures = failures(&profile);
        assert_eq!(
            (profile.tls12, profile.tls13),
            (Signature, Signature),
            "{how} {mechanism}: {failures}"
        );
        let reason = match how {
            "readable" => "CKA_VALUE was read",
            _ => "does not keep CKA_SENSITIVE and CKA_EXTRACTABLE",
        };
        assert!(failures.contains(reason), "{how} {mechanism}: {failures}");
        assert!(!profile.vault && !profile.prepends && !profile.ml_kem);
    }
}

#[test]
fn a_slow_token_proves_what_a_fast_one_does() {
    let test = fresh_token!(kind: ModuleKind::Kryoptic);
    let profile = with_faults(&test, "C_DeriveKey hang 3");
    assert_eq!((profile.tls12, profile.tls13), (Schedule, Schedule));
}

/// A token that proves less after a loss stays away, says why, and is back when it proves as much again.
fn proves_less_after_a_loss(test: &TestToken) {
    let token = open(test);
    token.prove().unwrap();
    let workers = Workers::start(1, 8).unwrap();
    let extracts = {
        let token = token.clone();
        move || {
            let token = token.clone();
            on_worker(&workers, move |worker| {
                let exchange = worker.generate_exchange(&token, NamedGroup::X25519)?;
                let (_, peer) = common::software_key(NamedGroup::X25519);
                let secret = worker.agree(&exchange, &peer)?;
                worker.extract_secret(HashAlgorithm::Sha256, Salt::Bytes(&[1; 32]), &secret)?;
                Ok::<_, keyhaven_hsm::Error>(())
            })
        }
    };
    extracts().unwrap();
    // CKR_DEVICE_ERROR, and from then on a token without HKDF.
    test.shim().set_faults(
        "C_GenerateKeyPair error 0x30 times 1\nC_DeriveKey error 0x70 of CKM_HKDF_DERIVE",
    );
    assert!(extracts().unwrap_err().is_unavailable());
    let mut reason = String::new();
    let until = common::soon();
    while !reason.contains("no longer proves") {
        assert!(std::time::Instant::now() < until, "{reason}");
        reason = extracts().unwrap_err().to_string();
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    assert!(
        reason.contains("TLS 1.3 master secrets with x25519"),
        "{reason}"
    );
    assert!(!token.is_alive());
    test.shim().clear_faults();
    wait_for("the token", || extracts().is_ok());
    assert_eq!(token.live_ephemerals(), 0);
}

#[test]
fn kryoptic_that_proves_less_after_a_loss_stays_away() {
    proves_less_after_a_loss(&fresh_token!(kind: ModuleKind::Kryoptic));
}

#[test]
fn nss_that_proves_less_after_a_loss_stays_away() {
    proves_less_after_a_loss(&fresh_token!(kind: ModuleKind::Nss));
}

/// Asked again, it may not prove less either.
#[test]
fn a_token_that_begins_to_lie_is_found_when_it_is_asked_again() {
    let test = fresh_token!(kind: ModuleKind::Kryoptic);
    let token = open(&test);
    token.prove().unwrap();
    test.shim()
        .set_faults("C_DeriveKey readable of CKM_HKDF_DERIVE");
    let error = token.prove().unwrap_err();
    assert!(error.to_string().contains("no longer proves"), "{error}");
    assert!(!token.is_alive());
    test.shim().clear_faults();
    wait_for("the token", || token.is_alive());
    let workers = Workers::start(1, 8).unwrap();
    on_worker(&workers, move |worker| {
        agreed(worker, &token, NamedGroup::X25519);
    });
}
