//! The key schedule of TLS 1.2 through a worker: right to the last byte, in so many calls, and nothing stays.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::{agreed, on_worker, open_module, software_prf};
use keyhaven_hsm::{Error, Finished12, Kept, Token, Worker, Workers};
use keyhaven_softhsm_test::{ModuleKind, TestToken, fresh_token};
use keyhaven_types::{HashAlgorithm, NamedGroup};

const CLIENT_RANDOM: [u8; 32] = [0xc1; 32];
const SERVER_RANDOM: [u8; 32] = [0x5e; 32];

/// All of a full handshake: the master secret, the key block of `block_len` bytes, both Finished.
fn whole_schedule(
    worker: &Worker,
    token: &Token,
    group: NamedGroup,
    hash: HashAlgorithm,
    block_len: usize,
) {
    let (secret, z) = agreed(worker, token, group);
    let session_hash = vec![0x3d; hash.output_len()];
    let master = worker
        .tls12_extended_master(hash, &secret, &session_hash, Kept::Never)
        .unwrap();
    drop(secret);
    let software = software_prf(hash, &z, b"extended master secret", &session_hash, 48);

    let mut block = vec![0; block_len];
    worker
        .tls12_key_block(hash, &master, &CLIENT_RANDOM, &SERVER_RANDOM, &mut block)
        .unwrap();
    let seed = [SERVER_RANDOM, CLIENT_RANDOM].concat();
    assert_eq!(
        block,
        software_prf(hash, &software, b"key expansion", &seed, block_len)
    );
    for (whose, label) in [
        (Finished12::Client, b"client finished"),
        (Finished12::Server, b"server finished"),
    ] {
        let mut mac = [0; 12];
        worker
            .tls12_finished(hash, &master, whose, &session_hash, &mut mac)
            .unwrap();
        assert_eq!(
            mac[..],
            software_prf(hash, &software, label, &session_hash, 12)
        );
    }
}

/// `calls` of AES-128 with SHA-256 and of AES-256 with SHA-384.
fn right_and_gone(test: &TestToken, calls: [&str; 2]) {
    let shim = test.shim();
    let token = open_module(test, &shim.module());
    token.prove().unwrap();
    let workers = Workers::start(1, 8).unwrap();
    let seen = token.clone();
    let run = move |workers: &Workers, group, (hash, block_len)| {
        let token = seen.clone();
        on_worker(workers, move |worker| {
            whole_schedule(worker, &token, group, hash, block_len);
        });
    };
    let suites = [(HashAlgorithm::Sha256, 40), (HashAlgorithm::Sha384, 72)];
    run(&workers, NamedGroup::X25519, suites[0]);
    let before = shim.report();
    for group in NamedGroup::ALL {
        for (suite, calls) in suites.into_iter().zip(calls) {
            let before = shim.report();
            run(&workers, group, suite);
            assert_eq!(
                shim.report().calls_since(&before),
                calls,
                "{group:?} {suite:?}"
            );
        }
    }
    let after = shim.report();
    assert_eq!((after.live(), token.live_ephemerals()), (before.live(), 0));
}

#[test]
fn nss_derives_all_of_a_handshake_by_macs() {
    let calls = "C_DestroyObject 4, C_GetAttributeValue 1, C_SignInit 8, C_Sign 8, C_GenerateKeyPair 1, C_DeriveKey 2";
    right_and_gone(&fresh_token!(kind: ModuleKind::Nss), [calls; 2]);
}

#[test]
fn kryoptic_derives_all_of_a_handshake_in_15_calls() {
    let calls = "C_DestroyObject 5, C_GetAttributeValue 2, C_SignInit 2, C_Sign 2, C_GenerateKeyPair 1, C_DeriveKey 3";
    right_and_gone(&fresh_token!(kind: ModuleKind::Kryoptic), [calls; 2]);
}

#[test]
fn softhsm2_cannot_and_says_so() {
    let test = fresh_token!();
    let token = common::open(&test);
    let workers = Workers::start(1, 8).unwrap();
    let seen = token.clone();
    on_worker(&workers, move |worker| {
        let (secret, _) = agreed(worker, &seen, NamedGroup::Secp256r1);
        let error = worker
            .tls12_extended_master(HashAlgorithm::Sha256, &secret, &[0; 32], Kept::Never)
            .unwrap_err();
        assert!(matches!(error, Error::Derivation { .. }), "{error}");
    });
    assert!(token.is_alive());
    assert_eq!(token.live_ephemerals(), 0);
}
