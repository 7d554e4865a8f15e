//! Secrets that go out wrapped and sealed, and what becomes of those that somebody has handled.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::{
    agreed, on_worker,
    vault::{AAD, DAY, ENVELOPE, is_same, opens, proven, seal, wrappable},
};
use keyhaven_hsm::{Kept, Vault, VaultPurpose, Workers};
use keyhaven_softhsm_test::{ModuleKind, TestToken, fresh_token};
use keyhaven_types::NamedGroup;

fn there_and_back(test: &TestToken, persistent: bool) {
    let token = proven(test);
    let vault = Vault::new(&token, VaultPurpose::Ticket, persistent);
    let workers = Workers::start(1, 8).unwrap();
    let asked = token.clone();
    on_worker(&workers, move |worker| {
        let token = asked;
        let (secret, software) = wrappable(worker, &token);
        let blob = worker
            .vault_seal(&vault, DAY, AAD, ENVELOPE, &secret)
            .unwrap();
        assert_eq!(blob.len(), 47 + ENVELOPE.len() + 32);
        let again = worker
            .vault_seal(&vault, DAY, AAD, ENVELOPE, &secret)
            .unwrap();
        assert_ne!(blob, again, "no nonce is used twice");
        drop(secret);
        let open = |vault: &Vault, day, aad: &[u8], blob: &[u8], len| {
            worker
                .vault_open(vault, day, aad, blob, len, Kept::Never)
                .unwrap()
        };
        for day in [DAY, DAY + 1] {
            let opened = open(&vault, day, AAD, &blob, 32).unwrap();
            assert_eq!(opened.envelope, ENVELOPE);
            assert!(is_same(worker, &opened.secret, &software));
        }

        // Each byte is one that matters, and none of them harms the token.
        for at in 0..blob.len() {
            let mut bad = blob.clone();
            bad[at] ^= 0x40;
            assert!(open(&vault, DAY, AAD, &bad, 32).is_none(), "byte {at}");
        }
        for len in 0..blob.len() {
            assert!(open(&vault, DAY, AAD, &blob[..len], 32).is_none(), "{len}");
        }
        assert!(open(&vault, DAY, b"another site", &blob, 32).is_none());
        assert!(open(&vault, DAY, AAD, &blob, 48).is_none());
        // Either purpose's vault refuses the other's, whether it has keys of its own or not.
        let rekey = Vault::new(&token, VaultPurpose::Rekey, persistent);
        assert!(open(&rekey, DAY, AAD, &blob, 32).is_none());
        let state = seal(worker, &rekey, DAY);
        assert!(opens(worker, &rekey, DAY, &state));
        assert!(open(&rekey, DAY, AAD, &blob, 32).is_none());
        assert!(open(&vault, DAY, AAD, &state.0, 32).is_none());
        assert!(token.is_alive());
        assert!(open(&vault, DAY, AAD, &blob, 32).is_some());

        // Two days later its key is gone, and stays so.
        assert!(open(&vault, DAY + 2, AAD, &blob, 32).is_none());
        assert!(open(&vault, DAY + 1, AAD, &blob, 32).is_none());
    });
    drop(workers);
    assert_eq!(token.live_ephemerals(), 0);
}

#[test]
fn a_secret_comes_back_and_nothing_else_does_on_nss() {
    there_and_back(&fresh_token!(kind: ModuleKind::Nss), false);
}

#[test]
fn a_secret_comes_back_and_nothing_else_does_on_kryoptic() {
    there_and_back(&fresh_token!(kind: ModuleKind::Kryoptic), false);
}

#[test]
fn a_secret_comes_back_by_keys_of_the_token_on_nss() {
    there_and_back(&fresh_token!(kind: ModuleKind::Nss), true);
}

#[test]
fn a_secret_comes_back_by_keys_of_the_token_on_kryoptic() {
    there_and_back(&fresh_token!(kind: ModuleKind::Kryoptic), true);
}

/// Two signers with one token: each opens what the other has sealed, also when both began at once.
fn signers_share(test: &TestToken) {
    let tokens = [proven(test), proven(test)];
    let vaults = tokens
        .each_ref()
        .map(|token| Vault::new(token, VaultPurpose::Ticket, true));
    let workers = Workers::start(1, 8).unwrap();
    on_worker(&workers, move |worker| {
        let seal = |vault: &Vault| {
            let (secret, software) = wrappable(worker, vault.token());
            let blob = worker.vault_seal(vault, DAY, AAD, ENVELOPE, &secret);
            (blob.unwrap(), software)
        };
        let blobs = vaults.each_ref().map(seal);
        // The second found the first's key.
        assert_eq!(blobs[0].0[..9], blobs[1].0[..9]);
        for vault in &vaults {
            for (blob, software) in &blobs {
                let opened = worker
                    .vault_open(vault, DAY, AAD, blob, 32, Kept::Never)
                    .unwrap()
                    .unwrap();
                assert!(is_same(worker, &opened.secret, software));
            }
        }
        // A key that was made after the other one last looked is found by its id.
        let (secret, _) = wrappable(worker, vaults[0].token());
        let tomorrow = worker.vault_seal(&vaults[0], DAY + 1, AAD, ENVELOPE, &secret);
        let tomorrow = tomorrow.unwrap();
        let find = || worker.vault_open(&vaults[1], DAY + 1, AAD, &tomorrow, 32, Kept::Never);
        let until = common::soon();
        while find().unwrap().is_none() {
            assert!(std::time::Instant::now() < until, "never found");
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
    });
}

#[test]
fn signers_share_the_keys_of_a_token_on_nss() {
    signers_share(&fresh_token!(kind: ModuleKind::Nss));
}

#[test]
fn signers_share_the_keys_of_a_token_on_kryoptic() {
    signers_share(&fresh_token!(kind: ModuleKind::Kryoptic));
}

/// A configuration that is read anew makes a new vault: the tickets of the old one stay good.
#[test]
fn a_new_vault_of_the_same_token_has_the_same_keys() {
    let test = fresh_token!(kind: ModuleKind::Kryoptic);
    let token = proven(&test);
    let workers = Workers::start(1, 8).unwrap();
    on_worker(&workers, move |worker| {
        let vault = || Vault::new(&token, VaultPurpose::Ticket, false);
        let (secret, _) = wrappable(worker, &token);
        let blob = worker.vault_seal(&vault(), DAY, AAD, ENVELOPE, &secret);
        let opened = worker.vault_open(&vault(), DAY, AAD, &blob.unwrap(), 32, Kept::Never);
        assert!(opened.unwrap().is_some());
    });
}

/// A secret that was asked to stay is not wrapped where the module heeds that.
#[test]
fn a_secret_that_is_to_stay_is_not_sealed() {
    let test = fresh_token!(kind: ModuleKind::Kryoptic);
    let token = proven(&test);
    let workers = Workers::start(1, 8).unwrap();
    on_worker(&workers, move |worker| {
        let vault = Vault::new(&token, VaultPurpose::Ticket, false);
        let (secret, _) = agreed(worker, &token, NamedGroup::X25519);
        let sealed = worker.vault_seal(&vault, DAY, AAD, ENVELOPE, &secret);
        assert!(sealed.is_err(), "{sealed:?}");
        assert!(token.is_alive());
    });
}

/// What a stranger sends costs the token nothing until a key's id fits.
#[test]
fn a_strangers_blob_costs_no_call() {
    let test = fresh_token!(kind: ModuleKind::Kryoptic);
    let shim = test.shim();
    let token = common::open_module(&test, &shim.module());
    token.prove().unwrap();
    let workers = Workers::start(1, 8).unwrap();
    on_worker(&workers, move |worker| {
        let vault = Vault::new(&token, VaultPurpose::Ticket, false);
        let (secret, _) = wrappable(worker, &token);
        let first = worker.vault_seal(&vault, DAY, AAD, ENVELOPE, &secret);
        let blob = first.unwrap();
        let before = shim.report();
        worker
            .vault_seal(&vault, DAY, AAD, ENVELOPE, &secret)
            .unwrap();
        assert_eq!(
            shim.report().calls_since(&before),
            "C_EncryptInit 1, C_Encrypt 1, C_WrapKey 1"
        );
        let open = |blob: &[u8]| {
            worker
                .vault_open(&vault, DAY, AAD, blob, 32, Kept::Never)
                .unwrap()
        };
        let before = shim.report();
        drop(open(&blob).unwrap());
        assert_eq!(
            shim.report().calls_since(&before),
            "C_DestroyObject 1, C_DecryptInit 1, C_Decrypt 1, C_UnwrapKey 1"
        );
        let mut stranger = blob;
        stranger[3] ^= 1;
        let before = shim.report();
        for _ in 0..100 {
            assert!(open(&stranger).is_none());
        }
        assert_eq!(shim.report().calls_since(&before), "");
    });
}

/// A token that is gone is not a blob that was altered.
#[test]
fn a_lost_token_is_said_to_be_lost() {
    let test = fresh_token!(kind: ModuleKind::Kryoptic);
    let shim = test.shim();
    let token = common::open_module(&test, &shim.module());
    token.prove().unwrap();
    let workers = Workers::start(1, 8).unwrap();
    on_worker(&workers, move |worker| {
        let vault = Vault::new(&token, VaultPurpose::Ticket, false);
        let (secret, _) = wrappable(worker, &token);
        let blob = worker
            .vault_seal(&vault, DAY, AAD, ENVELOPE, &secret)
            .unwrap();
        let open = || worker.vault_open(&vault, DAY, AAD, &blob, 32, Kept::Never);
        // CKR_DEVICE_ERROR of the opening alone is what an altered blob is answered with, too.
        shim.set_faults("C_Decrypt error 0x30 times 1");
        assert!(open().unwrap().is_none());
        assert!(open().unwrap().is_some());
        shim.set_faults("C_Decrypt error 0x30\nC_GetSessionInfo error 0x30");
        assert!(open().unwrap_err().is_unavailable());
        shim.clear_faults();
        common::wait_for("the token", || token.is_alive());
        // The keys went with the login, as they must.
        assert!(open().unwrap().is_none());
    });
}

/// Nor is a token that has too much to do: whoever asks may come again.
#[test]
fn a_busy_token_is_said_to_be_busy() {
    let test = fresh_token!(kind: ModuleKind::Kryoptic);
    let shim = test.shim();
    let token = common::open_module(&test, &shim.module());
    token.prove().unwrap();
    let workers = Workers::start(1, 8).unwrap();
    on_worker(&workers, move |worker| {
        let vault = Vault::new(&token, VaultPurpose::Rekey, false);
        let sealed = seal(worker, &vault, DAY);
        // CKR_DEVICE_MEMORY and CKR_HOST_MEMORY.
        for code in ["0x31", "0x2"] {
            shim.set_faults(&format!("C_DecryptInit error {code} times 1"));
            let opened = worker.vault_open(&vault, DAY, AAD, &sealed.0, 32, Kept::Never);
            assert!(opened.unwrap_err().is_unavailable());
            assert!(opens(worker, &vault, DAY, &sealed));
        }
    });
}
