//! A vault's keys from day to day: who may still open what, and which keys go.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::{
    on_worker,
    vault::{AAD, DAY, ENVELOPE, is_same, labels, opens, proven, seal, wrappable},
};
use keyhaven_hsm::{Vault, VaultPurpose, Worker, Workers};
use keyhaven_softhsm_test::{ModuleKind, TestToken, fresh_token};

fn old_keys_go(test: &TestToken) {
    let token = proven(test);
    assert_eq!(labels(test, &token), Vec::<String>::new());
    let workers = Workers::start(1, 8).unwrap();
    let seal = |day| {
        let asked = token.clone();
        on_worker(&workers, move |worker| {
            let token = asked;
            let vault = Vault::new(&token, VaultPurpose::Ticket, true);
            let (secret, _) = wrappable(worker, &token);
            worker
                .vault_seal(&vault, day, AAD, ENVELOPE, &secret)
                .unwrap();
        });
        labels(test, &token)
    };
    let of = |days: &[u64]| {
        let roles = ["seal", "wrap"].into_iter();
        let label = |role| {
            days.iter()
                .map(move |day| format!("keyhaven ticket {role} {day}"))
        };
        roles.flat_map(label).collect::<Vec<_>>()
    };
    assert_eq!(seal(DAY), of(&[DAY]));
    assert_eq!(seal(DAY), of(&[DAY]));
    assert_eq!(seal(DAY + 1), of(&[DAY, DAY + 1]));
    assert_eq!(seal(DAY + 2), of(&[DAY + 1, DAY + 2]));
    assert_eq!(seal(DAY + 9), of(&[DAY + 9]));
}

#[test]
fn keys_of_the_day_before_yesterday_are_destroyed_on_nss() {
    old_keys_go(&fresh_token!(kind: ModuleKind::Nss));
}

#[test]
fn keys_of_the_day_before_yesterday_are_destroyed_on_kryoptic() {
    old_keys_go(&fresh_token!(kind: ModuleKind::Kryoptic));
}

/// A clock that is set back, or a handshake that began before midnight, takes nothing from the new day.
fn a_day_does_not_end_twice(test: &TestToken, persistent: bool) {
    let token = proven(test);
    let vault = Vault::new(&token, VaultPurpose::Ticket, persistent);
    let workers = Workers::start(1, 8).unwrap();
    on_worker(&workers, move |worker| {
        let before = seal(worker, &vault, DAY - 1);
        let old = seal(worker, &vault, DAY);
        let new = seal(worker, &vault, DAY + 1);
        let late = seal(worker, &vault, DAY);
        assert_eq!(old.0[..9], late.0[..9], "the old day's key is there still");
        let again = seal(worker, &vault, DAY + 1);
        assert_eq!(new.0[..9], again.0[..9], "and so is the new day's");
        for blob in [&old, &new, &late, &again] {
            assert!(opens(worker, &vault, DAY + 1, blob));
            assert!(opens(worker, &vault, DAY, blob));
        }
        assert!(
            !opens(worker, &vault, DAY, &before),
            "too old for the latest day"
        );
        // Far back, it works on with keys of that day.
        let far = seal(worker, &vault, DAY - 9);
        assert!(opens(worker, &vault, DAY - 9, &far));
        assert!(opens(worker, &vault, DAY + 1, &new));
    });
}

#[test]
fn a_day_does_not_end_twice_on_nss() {
    a_day_does_not_end_twice(&fresh_token!(kind: ModuleKind::Nss), false);
}

#[test]
fn a_day_does_not_end_twice_on_kryoptic() {
    a_day_does_not_end_twice(&fresh_token!(kind: ModuleKind::Kryoptic), false);
}

#[test]
fn a_day_does_not_end_twice_by_keys_of_the_token_on_nss() {
    a_day_does_not_end_twice(&fresh_token!(kind: ModuleKind::Nss), true);
}

#[test]
fn a_day_does_not_end_twice_by_keys_of_the_token_on_kryoptic() {
    a_day_does_not_end_twice(&fresh_token!(kind: ModuleKind::Kryoptic), true);
}

/// What every thread does around midnight: it seals and opens on its own day. Gives the sealed blobs.
fn straggles(worker: &Worker, vault: &Vault, day: u64) -> Vec<(Vec<u8>, Vec<u8>)> {
    let sealed = (0..ROUNDS).map(|_| {
        let blob = seal(worker, vault, day);
        assert!(opens(worker, vault, day, &blob));
        blob
    });
    sealed.collect()
}

/// Midnight with two threads, one of which is late; the login lives through it, and each opens what both have sealed.
fn midnight(test: &TestToken, persistent: bool) {
    let token = proven(test);
    let vault = Vault::new(&token, VaultPurpose::Ticket, persistent);
    let workers = Workers::start(2, 8).unwrap();
    let begun = {
        let vault = vault.clone();
        on_worker(&workers, move |worker| {
            // A secret of the login, and a ticket of the evening.
            (wrappable(worker, vault.token()), seal(worker, &vault, DAY))
        })
    };
    let (secret, evening) = begun;
    let job = |day| {
        let vault = vault.clone();
        workers.run(common::soon(), move |worker| straggles(worker, &vault, day))
    };
    let both = async { tokio::join!(job(DAY), job(DAY + 1)) };
    let (late, early) = common::runtime().block_on(both);
    on_worker(&workers, move |worker| {
        for blob in late
            .unwrap()
            .iter()
            .chain(&early.unwrap())
            .chain([&evening])
        {
            assert!(opens(worker, &vault, DAY + 1, blob));
            assert!(opens(worker, &vault, DAY, blob));
        }
        assert!(is_same(worker, &secret.0, &secret.1), "one login all along");
    });
}

#[test]
fn a_straggler_at_midnight_harms_nobody_on_nss() {
    midnight(&fresh_token!(kind: ModuleKind::Nss), false);
}

#[test]
fn a_straggler_at_midnight_harms_nobody_on_kryoptic() {
    midnight(&fresh_token!(kind: ModuleKind::Kryoptic), false);
}

#[test]
fn a_straggler_at_midnight_harms_nobody_by_keys_of_the_token_on_nss() {
    midnight(&fresh_token!(kind: ModuleKind::Nss), true);
}

#[test]
fn a_straggler_at_midnight_harms_nobody_by_keys_of_the_token_on_kryoptic() {
    midnight(&fresh_token!(kind: ModuleKind::Kryoptic), true);
}

/// A fellow signer whose clock is ahead seals with tomorrow's key.
#[test]
fn a_fellow_that_is_ahead_is_understood() {
    let test = fresh_token!(kind: ModuleKind::Kryoptic);
    let tokens = [proven(&test), proven(&test)];
    let vaults = tokens
        .each_ref()
        .map(|token| Vault::new(token, VaultPurpose::Rekey, true));
    let workers = Workers::start(1, 8).unwrap();
    on_worker(&workers, move |worker| {
        let [here, ahead] = &vaults;
        let sealed = seal(worker, ahead, DAY + 1);
        assert!(opens(worker, here, DAY, &sealed));
        assert!(!opens(worker, here, DAY - 1, &sealed));
    });
}

const ROUNDS: usize = 40;
