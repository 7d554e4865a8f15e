//! A vault whose keys go while it is used: another signer has destroyed them, an operator, or the module has lost them.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::{
    on_worker,
    vault::{
        AAD, DAY, ENVELOPE, destroy_keys, is_same, opens, proven, seal, strangers_keys, wrappable,
    },
};
use keyhaven_hsm::{Kept, Vault, VaultPurpose, Workers};
use keyhaven_softhsm_test::{ModuleKind, TestToken, fresh_token};

/// Keys that are gone are made anew, and the login lives through it: a secret of before is there after.
fn keys_that_are_gone_are_made_anew(test: &TestToken, gone: &'static str, destroyed: usize) {
    let token = proven(test);
    let vault = Vault::new(&token, VaultPurpose::Ticket, true);
    let module = test.module().to_owned();
    let workers = Workers::start(1, 8).unwrap();
    on_worker(&workers, move |worker| {
        let before = wrappable(worker, &token);
        let lost = seal(worker, &vault, DAY);
        assert!(opens(worker, &vault, DAY, &lost));
        // Once for whoever opens first, once for whoever seals first.
        for opens_first in [true, false] {
            assert_eq!(destroy_keys(&module, &token, gone), destroyed);
            if opens_first {
                assert!(!opens(worker, &vault, DAY, &lost));
            }
            let new = seal(worker, &vault, DAY);
            assert_ne!(new.0[..9], lost.0[..9]);
            assert!(opens(worker, &vault, DAY, &new));
            assert!(!opens(worker, &vault, DAY, &lost));
        }
        assert!(is_same(worker, &before.0, &before.1), "one login all along");
    });
}

#[test]
fn keys_that_are_gone_are_made_anew_on_nss() {
    let test = fresh_token!(kind: ModuleKind::Nss);
    keys_that_are_gone_are_made_anew(&test, "keyhaven ticket", 2);
}

#[test]
fn keys_that_are_gone_are_made_anew_on_kryoptic() {
    let test = fresh_token!(kind: ModuleKind::Kryoptic);
    keys_that_are_gone_are_made_anew(&test, "keyhaven ticket", 2);
}

/// It is sealed with, and not wrapped any more.
#[test]
fn a_pair_whose_wrapping_key_is_gone_is_none() {
    let test = fresh_token!(kind: ModuleKind::Kryoptic);
    keys_that_are_gone_are_made_anew(&test, "keyhaven ticket wrap", 1);
}

/// The other way round.
#[test]
fn a_pair_whose_sealing_key_is_gone_is_none() {
    let test = fresh_token!(kind: ModuleKind::Kryoptic);
    keys_that_are_gone_are_made_anew(&test, "keyhaven ticket seal", 1);
}

/// CKR_WRAPPING_KEY_HANDLE_INVALID and CKR_UNWRAPPING_KEY_HANDLE_INVALID say nothing of the login.
fn a_word_for_a_lost_key_is_taken(test: &TestToken, persistent: bool) {
    let shim = test.shim();
    let token = common::open_module(test, &shim.module());
    token.prove().unwrap();
    let vault = Vault::new(&token, VaultPurpose::Ticket, persistent);
    let workers = Workers::start(1, 8).unwrap();
    on_worker(&workers, move |worker| {
        let first = seal(worker, &vault, DAY);
        let live = shim.report().live();
        shim.set_faults("C_WrapKey error 0x113 times 1");
        let second = seal(worker, &vault, DAY);
        assert_eq!(shim.report().live(), live, "no key is left behind");
        assert!(opens(worker, &vault, DAY, &second));
        // Keys of the token were found again, keys of the process were not to be used any more.
        assert_eq!(opens(worker, &vault, DAY, &first), persistent);
        shim.set_faults("C_UnwrapKey error 0xf0 times 1");
        let opened = worker.vault_open(&vault, DAY, AAD, &second.0, 32, Kept::Never);
        assert_eq!(opened.is_ok_and(|opened| opened.is_some()), persistent);
        assert!(opens(worker, &vault, DAY, &second));
        // A module that says so each time is told of.
        shim.set_faults("C_WrapKey error 0x113");
        let (secret, software) = wrappable(worker, &token);
        let live = shim.report().live();
        for _ in 0..3 {
            let sealed = worker.vault_seal(&vault, DAY, AAD, ENVELOPE, &secret);
            assert!(!sealed.unwrap_err().is_unavailable());
        }
        assert_eq!(shim.report().live(), live, "no key is left behind");
        assert!(is_same(worker, &secret, &software), "one login all along");
    });
}

#[test]
fn a_word_for_a_lost_key_of_the_token_is_taken() {
    a_word_for_a_lost_key_is_taken(&fresh_token!(kind: ModuleKind::Kryoptic), true);
}

#[test]
fn a_word_for_a_lost_key_of_the_process_is_taken() {
    a_word_for_a_lost_key_is_taken(&fresh_token!(kind: ModuleKind::Kryoptic), false);
}

/// What a stranger's blob costs has nothing to do with what else is in the token.
#[test]
fn a_strangers_blob_costs_one_search_for_names() {
    let test = fresh_token!(kind: ModuleKind::Kryoptic);
    let shim = test.shim();
    let token = common::open_module(&test, &shim.module());
    token.prove().unwrap();
    let workers = Workers::start(1, 8).unwrap();
    on_worker(&workers, move |worker| {
        let mut costs = Vec::new();
        for purpose in [VaultPurpose::Ticket, VaultPurpose::Rekey] {
            let vault = Vault::new(&token, purpose, true);
            let mut stranger = seal(worker, &vault, DAY).0;
            stranger[3] ^= 1;
            let open = || {
                let opened = worker.vault_open(&vault, DAY, AAD, &stranger, 32, Kept::Never);
                assert!(opened.unwrap().is_none());
            };
            let before = shim.report();
            open();
            let searched = shim.report();
            costs.push(searched.calls_since(&before));
            open();
            assert_eq!(shim.report().calls_since(&searched), "");
            strangers_keys(&shim.module(), &token, 30);
        }
        assert_eq!(costs[0], costs[1]);
        assert!(
            !costs[0].is_empty(),
            "where keys are shared it is looked for"
        );
    });
}

/// The pause between searches begins when one has ended.
#[test]
fn a_slow_token_is_not_searched_without_a_pause() {
    let test = fresh_token!(kind: ModuleKind::Kryoptic);
    let shim = test.shim();
    let token = common::open_module(&test, &shim.module());
    token.prove().unwrap();
    let workers = Workers::start(1, 8).unwrap();
    on_worker(&workers, move |worker| {
        let [from, vault] = [VaultPurpose::Ticket, VaultPurpose::Rekey]
            .map(|purpose| Vault::new(&token, purpose, true));
        let stranger = seal(worker, &from, DAY).0;
        // Longer than the pause; the search for old keys comes first.
        shim.set_faults("C_FindObjectsInit hang 5100 after 1 times 1");
        let open = || worker.vault_open(&vault, DAY, AAD, &stranger, 32, Kept::Never);
        assert!(open().unwrap().is_none());
        assert_eq!(shim.report().faults(), 1);
        let searched = shim.report();
        assert!(open().unwrap().is_none());
        assert_eq!(shim.report().calls_since(&searched), "");
    });
}
