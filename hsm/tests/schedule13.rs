//! The key schedule of TLS 1.3 through a worker: right to the last byte, in so many calls, and nothing stays.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::{agreed, hkdf_label, on_worker, open_module, software_expand, software_hmac};
use keyhaven_hsm::{Error, Kept, Salt, Token, TokenSecret, Worker, Workers};
use keyhaven_softhsm_test::{ModuleKind, TestToken, fresh_token};
use keyhaven_types::{HashAlgorithm, NamedGroup};

const CONTEXT: [u8; 48] = [0x77; 48];

/// A secret in the token, and the same bytes.
struct Both {
    token: TokenSecret,
    software: Vec<u8>,
}

impl Both {
    fn expand(&self, worker: &Worker, hash: HashAlgorithm, label: &str) -> Self {
        let info = label_of(hash, label, hash.output_len());
        let token = worker
            .expand_secret(hash, &self.token, &info, hash.output_len(), Kept::Never)
            .unwrap();
        Self {
            token,
            software: software_expand(hash, &self.software, &info, hash.output_len()),
        }
    }

    fn comes_out(&self, worker: &Worker, hash: HashAlgorithm, label: &str, len: usize) {
        let info = label_of(hash, label, len);
        let mut out = vec![0; len];
        worker
            .expand_bytes(hash, &self.token, &info, &mut out)
            .unwrap();
        assert_eq!(
            out,
            software_expand(hash, &self.software, &info, len),
            "{label}"
        );
    }

    fn mac(&self, worker: &Worker, hash: HashAlgorithm) {
        let mut out = vec![0; hash.output_len()];
        worker.hmac(hash, &self.token, b"hash", &mut out).unwrap();
        assert_eq!(out, software_hmac(hash, &self.software, b"hash"));
    }
}

fn label_of(hash: HashAlgorithm, label: &str, len: usize) -> Vec<u8> {
    let context: &[u8] = match label {
        "key" | "iv" | "finished" => &[],
        _ => &CONTEXT[..hash.output_len()],
    };
    hkdf_label(label, context, len)
}

/// All of a full handshake at level `schedule`: four traffic secrets, their keys and IVs, two Finished.
fn whole_schedule(worker: &Worker, token: &Token, group: NamedGroup, hash: HashAlgorithm) {
    let (secret, z) = agreed(worker, token, group);
    let salt = &CONTEXT[..hash.output_len()];
    let handshake = Both {
        token: worker
            .extract_secret(hash, Salt::Bytes(salt), &secret)
            .unwrap(),
        software: software_hmac(hash, salt, &z),
    };
    drop(secret);
    let derived = handshake.expand(worker, hash, "derived");
    let master = Both {
        token: worker.extract_zeros(hash, &derived.token).unwrap(),
        software: software_hmac(hash, &derived.software, &vec![0; hash.output_len()]),
    };
    for (base, label) in [
        (&handshake, "c hs traffic"),
        (&handshake, "s hs traffic"),
        (&master, "c ap traffic"),
        (&master, "s ap traffic"),
    ] {
        let traffic = base.expand(worker, hash, label);
        traffic.comes_out(worker, hash, "key", 32);
        traffic.comes_out(worker, hash, "iv", 12);
        if label.contains("hs") {
            traffic.expand(worker, hash, "finished").mac(worker, hash);
        }
    }
}

fn right_and_gone(test: &TestToken, calls: &str) {
    let shim = test.shim();
    let token = open_module(test, &shim.module());
    token.prove().unwrap();
    let workers = Workers::start(1, 8).unwrap();
    let seen = token.clone();
    let run = move |workers: &Workers, group, hash| {
        let token = seen.clone();
        on_worker(workers, move |worker| {
            whole_schedule(worker, &token, group, hash);
        });
    };
    run(&workers, NamedGroup::X25519, HashAlgorithm::Sha256);
    let (before, examined) = (shim.report(), shim.report().examined());
    for group in NamedGroup::ALL {
        for hash in [HashAlgorithm::Sha256, HashAlgorithm::Sha384] {
            let before = shim.report();
            run(&workers, group, hash);
            assert_eq!(
                shim.report().calls_since(&before),
                calls,
                "{group:?} {hash:?}"
            );
        }
    }
    let after = shim.report();
    assert_eq!((after.live(), token.live_ephemerals()), (before.live(), 0));
    assert!(after.examined() > examined);
    assert_eq!(
        after.readable(),
        before.readable(),
        "a secret could be read"
    );
}

const CALLS: &str = "C_DestroyObject 20, C_GetAttributeValue 9, C_SignInit 2, C_Sign 2, C_GenerateKeyPair 1, \
                     C_DeriveKey 18";

#[test]
fn nss_derives_all_of_a_handshake_in_52_calls() {
    right_and_gone(&fresh_token!(kind: ModuleKind::Nss), CALLS);
}

#[test]
fn kryoptic_derives_all_of_a_handshake_in_52_calls() {
    right_and_gone(&fresh_token!(kind: ModuleKind::Kryoptic), CALLS);
}

/// A salt that is a secret: the handshake secret of a resumed session.
fn resumes(test: &TestToken) {
    let token = common::open(test);
    token.prove().unwrap();
    let workers = Workers::start(1, 8).unwrap();
    let seen = token.clone();
    on_worker(&workers, move |worker| {
        for hash in [HashAlgorithm::Sha256, HashAlgorithm::Sha384] {
            let (psk, psk_software) = agreed(worker, &seen, NamedGroup::Secp384r1);
            let zeros = vec![0; hash.output_len()];
            let early = Both {
                token: worker
                    .extract_secret(hash, Salt::Bytes(&zeros), &psk)
                    .unwrap(),
                software: software_hmac(hash, &zeros, &psk_software),
            };
            let binder = early.expand(worker, hash, "res binder");
            binder.expand(worker, hash, "finished").mac(worker, hash);
            let derived = early.expand(worker, hash, "derived");
            let (secret, z) = agreed(worker, &seen, NamedGroup::X25519);
            let handshake = Both {
                token: worker
                    .extract_secret(hash, Salt::Secret(&derived.token), &secret)
                    .unwrap(),
                software: software_hmac(hash, &derived.software, &z),
            };
            handshake.comes_out(worker, hash, "c hs traffic", hash.output_len());
        }
    });
    assert_eq!(token.live_ephemerals(), 0);
}

#[test]
fn nss_takes_a_secret_as_salt() {
    resumes(&fresh_token!(kind: ModuleKind::Nss));
}

#[test]
fn kryoptic_takes_a_secret_as_salt() {
    resumes(&fresh_token!(kind: ModuleKind::Kryoptic));
}

/// One half made outside and put before the other one's secret.
fn prepends(test: &TestToken) {
    let token = common::open(test);
    assert!(token.prove().unwrap().prepends);
    let workers = Workers::start(1, 8).unwrap();
    on_worker(&workers, move |worker| {
        let (secret, z) = agreed(worker, &token, NamedGroup::X25519);
        let joined = Both {
            token: worker.prepend(&[9; 32], &secret).unwrap(),
            software: [&[9; 32], &z[..]].concat(),
        };
        let hash = HashAlgorithm::Sha256;
        let extracted = Both {
            token: worker
                .extract_secret(hash, Salt::Bytes(&[1; 32]), &joined.token)
                .unwrap(),
            software: software_hmac(hash, &[1; 32], &joined.software),
        };
        extracted.comes_out(worker, hash, "s hs traffic", 32);
    });
}

#[test]
fn nss_puts_bytes_before_a_secret() {
    prepends(&fresh_token!(kind: ModuleKind::Nss));
}

#[test]
fn kryoptic_puts_bytes_before_a_secret() {
    prepends(&fresh_token!(kind: ModuleKind::Kryoptic));
}

#[test]
fn kryoptic_on_a_modern_openssl_joins_both_halves_of_a_hybrid_exchange() {
    if !ModuleKind::KryopticModern.is_there() {
        eprintln!("not run: cargo xtask modules --modern builds the module");
        return;
    }
    let test = fresh_token!(kind: ModuleKind::KryopticModern);
    let token = common::open(&test);
    assert!(token.prove().unwrap().ml_kem);
    let workers = Workers::start(1, 8).unwrap();
    let seen = token.clone();
    on_worker(&workers, move |worker| {
        use aws_lc_rs::kem::{DecapsulationKey, ML_KEM_768};
        let key = DecapsulationKey::generate(&ML_KEM_768).unwrap();
        let public = key.encapsulation_key().unwrap().key_bytes().unwrap();
        let (ciphertext, first) = worker.encapsulate(&seen, public.as_ref()).unwrap();
        assert_eq!(ciphertext.len(), 1088);
        let software = key.decapsulate(ciphertext.as_slice().into()).unwrap();
        let (second, z) = agreed(worker, &seen, NamedGroup::X25519);
        let joined = worker.concatenate(&first, &second).unwrap();
        let hash = HashAlgorithm::Sha384;
        let extracted = Both {
            token: worker
                .extract_secret(hash, Salt::Bytes(&[1; 48]), &joined)
                .unwrap(),
            software: software_hmac(hash, &[1; 48], &[software.as_ref(), &z].concat()),
        };
        extracted.comes_out(worker, hash, "s hs traffic", 48);
    });
    assert_eq!(token.live_ephemerals(), 0);
}

/// Judged before the token sees it, so that no module's answer to nonsense counts against the token.
#[test]
fn a_bad_ml_kem_key_is_the_peers_fault() {
    let test = fresh_token!();
    let token = common::open(&test);
    let workers = Workers::start(1, 8).unwrap();
    on_worker(&workers, move |worker| {
        for bad in [vec![0xff; 1184], vec![0; 1183], vec![]] {
            let error = worker.encapsulate(&token, &bad).unwrap_err();
            assert!(error.is_peer_fault(), "{error}");
        }
        assert!(token.is_alive());
    });
}

/// A token that has no HKDF says so, and is as well as before.
#[test]
fn softhsm2_cannot_and_says_so() {
    let test = fresh_token!();
    let token = common::open(&test);
    let workers = Workers::start(1, 8).unwrap();
    let seen = token.clone();
    on_worker(&workers, move |worker| {
        let (secret, _) = agreed(worker, &seen, NamedGroup::Secp256r1);
        let error = worker
            .extract_secret(HashAlgorithm::Sha256, Salt::Bytes(&[0; 32]), &secret)
            .unwrap_err();
        assert!(matches!(error, Error::Derivation { .. }), "{error}");
        assert!(!error.is_unavailable());
    });
    assert!(token.is_alive());
    assert_eq!(token.live_ephemerals(), 0);
}

/// Secrets of two tokens do not meet.
#[test]
fn a_salt_of_another_token_is_refused() {
    let test = fresh_token!(kind: ModuleKind::Kryoptic);
    let tokens = [common::open(&test), common::open(&test)];
    let workers = Workers::start(1, 8).unwrap();
    on_worker(&workers, move |worker| {
        let [first, second] = tokens
            .each_ref()
            .map(|token| agreed(worker, token, NamedGroup::X25519).0);
        let refused = worker.extract_secret(HashAlgorithm::Sha256, Salt::Secret(&first), &second);
        assert!(refused.unwrap_err().is_unavailable());
        assert!(worker.concatenate(&first, &second).is_err());
    });
}

/// Sessions of several threads at one token do not disturb each other.
fn by_many_threads(test: &TestToken) {
    let token = common::open(test);
    token.prove().unwrap();
    let workers = Workers::start(4, 64).unwrap();
    common::runtime().block_on(async {
        let mut running = tokio::task::JoinSet::new();
        for n in 0..60 {
            let (token, workers) = (token.clone(), workers.clone());
            let job = move |worker: &Worker| {
                let group = NamedGroup::ALL[n % 3];
                whole_schedule(worker, &token, group, HashAlgorithm::Sha256);
            };
            running.spawn(async move { workers.run(common::soon(), job).await });
        }
        while let Some(done) = running.join_next().await {
            done.unwrap().unwrap();
        }
    });
    assert_eq!(token.live_ephemerals(), 0);
}

#[test]
fn nss_derives_for_many_threads() {
    by_many_threads(&fresh_token!(kind: ModuleKind::Nss));
}

#[test]
fn kryoptic_derives_for_many_threads() {
    by_many_threads(&fresh_token!(kind: ModuleKind::Kryoptic));
}
