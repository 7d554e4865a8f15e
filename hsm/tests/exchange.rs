//! Key exchange and derivations of a real token against software, and the objects they leave behind: none.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::{
    import, on_worker, open, runtime, software_agree, software_hmac, software_key, software_prf,
    soon, uri, wait_for,
};
use keyhaven_hsm::{Error, ExchangeKey, Token, Worker, Workers};
use keyhaven_softhsm_test::fresh_token;
use keyhaven_types::{CustodyLevel, HashAlgorithm, NamedGroup, SignatureScheme};

const HASHES: [HashAlgorithm; 2] = [HashAlgorithm::Sha256, HashAlgorithm::Sha384];

#[test]
fn exchange_and_derivations_equal_software() {
    let test = fresh_token!();
    let token = open(&test);
    let workers = Workers::start(1, 8).unwrap();
    let seen = token.clone();
    on_worker(&workers, move |worker| {
        for group in NamedGroup::ALL {
            let key = worker.generate_exchange(&token, group).unwrap();
            assert_eq!(
                (key.group(), key.public_value().len()),
                (group, group.public_len())
            );
            let (peer, public) = software_key(group);
            let expected = software_agree(&peer, group, key.public_value());
            let secret = worker.agree(&key, &public).unwrap();
            for hash in HASHES {
                extracts(worker, hash, &secret, &expected);
                let short = expected.len() < hash.output_len();
                let mut master = [0; 48];
                let got = worker.tls12_prf(
                    hash,
                    &secret,
                    b"extended master secret",
                    b"seed",
                    &mut master,
                );
                if short {
                    // SoftHSM2 has no HMAC with a key shorter than the hash.
                    assert!(matches!(got, Err(Error::Derivation { .. })), "{got:?}");
                } else {
                    got.unwrap();
                    let software =
                        software_prf(hash, &expected, b"extended master secret", b"seed", 48);
                    assert_eq!(master[..], software);
                    prfs(worker, hash, &secret, &expected);
                }
            }
        }
    });
    assert_eq!(seen.live_ephemerals(), 0);
}

/// Salts shorter than, as long as and longer than a block, and none.
fn extracts(
    worker: &Worker,
    hash: HashAlgorithm,
    secret: &keyhaven_hsm::TokenSecret,
    expected: &[u8],
) {
    for len in [
        0,
        1,
        hash.output_len(),
        hash.block_len(),
        hash.block_len() + 1,
        500,
    ] {
        let salt = vec![0xa5; len];
        let extracted = worker.hkdf_extract(hash, &salt, &[], secret).unwrap();
        assert_eq!(
            extracted.expose_secret(),
            software_hmac(hash, &salt, expected),
            "{hash:?} {len}"
        );
    }
}

/// Outputs of no, part of, exactly one and several blocks.
fn prfs(worker: &Worker, hash: HashAlgorithm, secret: &keyhaven_hsm::TokenSecret, expected: &[u8]) {
    for len in [0, 12, 32, 48, 104] {
        let mut out = vec![0; len];
        worker
            .tls12_prf(hash, secret, b"key expansion", &[3; 64], &mut out)
            .unwrap();
        assert_eq!(
            out,
            software_prf(hash, expected, b"key expansion", &[3; 64], len)
        );
    }
}

#[test]
fn softhsm_proves_premaster_and_leaves_out_what_it_cannot() {
    let test = fresh_token!();
    let token = open(&test);
    let profile = token.prove().unwrap();
    let all: Vec<_> = profile
        .checks
        .iter()
        .map(|c| format!("{}: {}", c.name, c.detail))
        .collect();
    assert_eq!(profile.tls12, CustodyLevel::Premaster, "{all:#?}");
    assert_eq!(profile.tls13, CustodyLevel::Premaster);
    assert_eq!(profile.groups.len(), 3);
    assert_eq!(profile.groups[0], NamedGroup::Secp256r1);
    assert_eq!(profile.extract.len(), 6);
    assert!(
        profile
            .prf
            .contains(&(NamedGroup::Secp384r1, HashAlgorithm::Sha384))
    );
    for group in [NamedGroup::Secp256r1, NamedGroup::X25519] {
        assert!(profile.prf.contains(&(group, HashAlgorithm::Sha256)));
        assert!(!profile.prf.contains(&(group, HashAlgorithm::Sha384)));
    }
    let failed: Vec<_> = profile
        .checks
        .iter()
        .filter(|check| !check.passed && check.name.contains("extended"))
        .collect();
    assert_eq!(failed.len(), 2, "only the two HMAC-SHA384: {failed:#?}");
    assert_eq!(session_objects(&test.pkcs11_tool()), 0);
    assert!(token.is_alive());
}

/// Session objects are private to a process; what another one sees must be none, whatever we do.
fn session_objects(tool: &std::process::Command) -> usize {
    let mut again = std::process::Command::new(tool.get_program());
    again.args(tool.get_args()).arg("--list-objects");
    for (name, value) in tool.get_envs() {
        if let Some(value) = value {
            again.env(name, value);
        }
    }
    String::from_utf8_lossy(&again.output().unwrap().stdout)
        .matches("Object")
        .count()
}

#[test]
fn bad_points_are_the_peers_fault_and_leave_the_token_well() {
    let test = fresh_token!();
    let token = open(&test);
    let workers = Workers::start(1, 8).unwrap();
    let seen = token.clone();
    on_worker(&workers, move |worker| {
        for group in NamedGroup::ALL {
            let key = worker.generate_exchange(&token, group).unwrap();
            let (peer, good) = software_key(group);
            let mut off = good.clone();
            *off.last_mut().unwrap() ^= 1;
            let mut bad = vec![
                vec![],
                vec![0; good.len()],
                good[1..].to_vec(),
                vec![0xff; good.len()],
            ];
            if group == NamedGroup::X25519 {
                // 2^256-1 is a value like another on this curve; p is one of small order.
                bad.pop();
                bad.push([&[0xed][..], &[0xff; 30], &[0x7f]].concat());
            } else {
                bad.push(off);
            }
            for value in bad {
                let error = worker.agree(&key, &value).unwrap_err();
                assert!(
                    error.is_peer_fault() && !error.is_unavailable(),
                    "{group:?}: {error}"
                );
            }
            let secret = worker.agree(&key, &good).unwrap();
            let expected = software_agree(&peer, group, key.public_value());
            extracts(worker, HashAlgorithm::Sha256, &secret, &expected);
        }
    });
    assert_eq!(seen.live_ephemerals(), 0);
    assert!(seen.is_alive());
}

/// Thousands of exchanges on several threads, good ones and ones that end early at every step, some dropped on
/// threads without a session: nothing stays in the token. Each good one is compared with software, so that
/// leading zeros, one in 256, are met too.
#[test]
fn nothing_is_left_after_thousands_of_exchanges() {
    let test = fresh_token!();
    let spki = import(&test, "ec256", "k", "01");
    let token = open(&test);
    let key = token.load_key(&uri("pkcs11:object=k"), &spki).unwrap();
    let workers = Workers::start(3, 4096).unwrap();
    runtime().block_on(async {
        for round in 0..3000_u32 {
            let (token, key) = (token.clone(), key.clone());
            let left = workers
                .run(soon(), move |worker| one(worker, &token, &key, round))
                .await
                .unwrap();
            // Here, on a thread without a session.
            drop(left);
        }
    });
    wait_for("an empty token", || token.live_ephemerals() == 0);
    // The count is ours; the module's own object list must agree.
    let last = on_worker(&workers, {
        let token = token.clone();
        move |worker| {
            worker
                .generate_exchange(&token, NamedGroup::Secp256r1)
                .unwrap()
        }
    });
    assert_eq!(token.live_ephemerals(), 1);
    drop(last);
    wait_for("an empty token", || token.live_ephemerals() == 0);
}

fn one(
    worker: &Worker,
    token: &Token,
    key: &keyhaven_hsm::PrivateKey,
    round: u32,
) -> Option<ExchangeKey> {
    let group = match round % 16 {
        0 => NamedGroup::X25519,
        1 => NamedGroup::Secp384r1,
        _ => NamedGroup::Secp256r1,
    };
    let exchange = worker.generate_exchange(token, group).unwrap();
    let (peer, public) = software_key(group);
    match round % 7 {
        0 => return Some(exchange),
        1 => {
            assert!(worker.agree(&exchange, &public[1..]).is_err());
            return None;
        }
        2 => {
            drop(std::thread::spawn(move || drop(exchange)).join());
            return None;
        }
        _ => {}
    }
    let secret = worker.agree(&exchange, &public).unwrap();
    if round.is_multiple_of(5) {
        // An operation that fails in the token retires the session, with live objects in it.
        let mut out = [0; 12];
        let failed = worker.tls12_prf(HashAlgorithm::Sha384, &secret, b"x", b"y", &mut out);
        assert_eq!(failed.is_err(), group != NamedGroup::Secp384r1);
    }
    let extracted = worker
        .hkdf_extract(HashAlgorithm::Sha256, b"salt", &[], &secret)
        .unwrap();
    let expected = software_agree(&peer, group, exchange.public_value());
    assert_eq!(
        extracted.expose_secret(),
        software_hmac(HashAlgorithm::Sha256, b"salt", &expected)
    );
    worker
        .sign(key, SignatureScheme::EcdsaSecp256r1Sha256, b"message")
        .unwrap();
    None
}

#[test]
fn an_exchange_goes_on_with_another_thread() {
    let test = fresh_token!();
    let token = open(&test);
    let (first, second) = (Workers::start(1, 8).unwrap(), Workers::start(1, 8).unwrap());
    let key = on_worker(&first, {
        let token = token.clone();
        move |worker| {
            worker
                .generate_exchange(&token, NamedGroup::Secp256r1)
                .unwrap()
        }
    });
    let (peer, public) = software_key(NamedGroup::Secp256r1);
    let expected = software_agree(&peer, NamedGroup::Secp256r1, key.public_value());
    let got = on_worker(&second, move |worker| {
        let secret = worker.agree(&key, &public).unwrap();
        worker
            .hkdf_extract(HashAlgorithm::Sha256, b"", &[], &secret)
            .unwrap()
    });
    assert_eq!(
        got.expose_secret(),
        software_hmac(HashAlgorithm::Sha256, b"", &expected)
    );
    wait_for("an empty token", || token.live_ephemerals() == 0);
}
