//! The engine on a real SoftHSM2 token against a rustls client: versions, groups, suites, refusals, failures.
#![allow(missing_docs, reason = "tests")]

mod support;

use keyhaven_handshake::{Expect, Failure, StepResult, alert_record};
use keyhaven_softhsm_test::fresh_token;
use keyhaven_types::{CustodyLevel, NamedGroup, alert};
use rustls::{
    AlertDescription,
    crypto::{SupportedKxGroup, aws_lc_rs::kx_group},
    version::{TLS12, TLS13},
};
use support::{Bench, NAME, Offer, Setup, deliver, flight, without_change_cipher_spec};

const GROUPS: [&dyn SupportedKxGroup; 3] =
    [kx_group::SECP256R1, kx_group::SECP384R1, kx_group::X25519];
const AES_128_13: u16 = 0x1301;
const AES_256_13: u16 = 0x1302;
const CHACHA20_13: u16 = 0x1303;
const ECDSA_AES_128: u16 = 0xc02b;
const ECDSA_AES_256: u16 = 0xc02c;
const ECDSA_CHACHA20: u16 = 0xcca9;
const RSA_AES_128: u16 = 0xc02f;
const RSA_AES_256: u16 = 0xc030;
const RSA_CHACHA20: u16 = 0xcca8;

/// A TLS 1.3 handshake is complete when the client accepts the flight and answers; the alert record under the
/// refusal key shows that the client and the engine hold the same application key.
fn assert_tls13(bench: &Bench, offer: &Offer, level: CustodyLevel) {
    let mut client = bench.client(offer);
    let step = bench.handshake(&mut client);
    let StepResult::Released(released) = step.result else {
        panic!("{:?}", step.result)
    };
    assert_eq!(released.established.custody.level, level);
    assert_eq!(released.established.server_name, NAME);
    if let Some(suite) = offer.suite {
        assert_eq!(released.established.suite, suite);
    }
    assert_eq!(deliver(&mut client, &step.to_client), None);
    assert!(!client.is_handshaking());
    let refused = deliver(
        &mut client,
        &alert_record(released.refusal_key, alert::DECRYPT_ERROR),
    );
    assert_eq!(
        refused,
        Some(rustls::Error::AlertReceived(AlertDescription::DecryptError))
    );
}

fn assert_tls12(bench: &Bench, offer: &Offer, level: CustodyLevel) {
    let mut client = bench.client(offer);
    let step = bench.handshake(&mut client);
    let StepResult::Established(established) = step.result else {
        panic!("{:?}", step.result)
    };
    assert_eq!(
        (established.custody.level, established.is_tls13),
        (level, false)
    );
    assert_eq!(
        (established.read.seq, established.write.seq),
        (1, 1),
        "the Finished used number 0"
    );
    assert_eq!(deliver(&mut client, &step.to_client), None);
    assert!(!client.is_handshaking());
}

#[test]
fn s8_tls13_runs_with_every_group_and_suite_at_premaster() {
    let token = fresh_token!();
    let bench = Bench::new(&token, &Setup::default());
    assert_eq!(bench.profile.tls13, CustodyLevel::Premaster);
    for group in GROUPS {
        for suite in [AES_128_13, AES_256_13, CHACHA20_13] {
            let offer = Offer {
                groups: vec![group],
                suite: Some(suite),
                ..Offer::new(&TLS13)
            };
            assert_tls13(&bench, &offer, CustodyLevel::Premaster);
        }
    }
    assert_eq!(bench.token.live_ephemerals(), 0);
}

#[test]
fn s1_tls12_runs_with_what_the_token_can_derive_at_premaster() {
    let token = fresh_token!();
    // RSA, because an ECDSA key would ask for its own curve among the client's groups.
    let setup = Setup {
        key_type: "rsa:2048",
        ..Setup::default()
    };
    let bench = Bench::new(&token, &setup);
    for group in GROUPS {
        for suite in [RSA_AES_128, RSA_CHACHA20] {
            let offer = Offer {
                groups: vec![group],
                suite: Some(suite),
                ..Offer::new(&TLS12)
            };
            assert_tls12(&bench, &offer, CustodyLevel::Premaster);
        }
    }
    // SoftHSM2 refuses HMAC-SHA384 under a secret of 32 bytes; P-384 gives one of 48.
    let offer = Offer {
        groups: vec![kx_group::SECP384R1],
        suite: Some(RSA_AES_256),
        ..Offer::new(&TLS12)
    };
    assert_tls12(&bench, &offer, CustodyLevel::Premaster);
    for group in [kx_group::SECP256R1, kx_group::X25519] {
        let offer = Offer {
            groups: vec![group],
            suite: Some(RSA_AES_256),
            ..Offer::new(&TLS12)
        };
        assert_refused(&bench, &offer, alert::HANDSHAKE_FAILURE);
    }
    assert_eq!(bench.token.live_ephemerals(), 0);
}

#[test]
fn signature_level_offers_everything_in_software() {
    let token = fresh_token!();
    let setup = Setup {
        custody_max: CustodyLevel::Signature,
        key_type: "rsa:2048",
        ..Setup::default()
    };
    let bench = Bench::new(&token, &setup);
    for group in GROUPS {
        for suite in [AES_128_13, AES_256_13, CHACHA20_13] {
            let offer = Offer {
                groups: vec![group],
                suite: Some(suite),
                ..Offer::new(&TLS13)
            };
            assert_tls13(&bench, &offer, CustodyLevel::Signature);
        }
        for suite in [RSA_AES_128, RSA_AES_256, RSA_CHACHA20] {
            let offer = Offer {
                groups: vec![group],
                suite: Some(suite),
                ..Offer::new(&TLS12)
            };
            assert_tls12(&bench, &offer, CustodyLevel::Signature);
        }
    }
}

#[test]
fn an_ecdsa_key_asks_for_its_curve_in_tls12() {
    let token = fresh_token!();
    let bench = Bench::new(&token, &Setup::default());
    for suite in [ECDSA_AES_128, ECDSA_CHACHA20] {
        let offer = Offer {
            groups: vec![kx_group::X25519, kx_group::SECP256R1],
            suite: Some(suite),
            ..Offer::new(&TLS12)
        };
        assert_tls12(&bench, &offer, CustodyLevel::Premaster);
    }
    for (group, suite) in [
        (kx_group::X25519, ECDSA_AES_128),
        (kx_group::SECP384R1, ECDSA_AES_256),
    ] {
        let offer = Offer {
            groups: vec![group],
            suite: Some(suite),
            ..Offer::new(&TLS12)
        };
        assert_refused(&bench, &offer, alert::HANDSHAKE_FAILURE);
    }
}

#[test]
fn group_preference_is_the_tokens() {
    let token = fresh_token!();
    let bench = Bench::new(&token, &Setup::default());
    assert_eq!(bench.profile.groups[0], NamedGroup::Secp256r1);
    // TLS 1.2: the client prefers X25519, and the ServerKeyExchange says P-256 all the same.
    let offer = Offer {
        groups: vec![kx_group::X25519, kx_group::SECP256R1],
        ..Offer::new(&TLS12)
    };
    let mut client = bench.client(&offer);
    let step = bench.start(flight(&mut client));
    let named_curve_p256 = [3, 0, 0x17, 65, 4];
    assert!(
        step.to_client
            .windows(5)
            .any(|window| window == named_curve_p256)
    );
}

#[test]
fn s11_a_share_of_a_foreign_group_leads_to_hello_retry_request() {
    let token = fresh_token!();
    let bench = Bench::new(&token, &Setup::default());
    // The client sends a share for its first group alone; it is one that we do not have.
    let offer = Offer {
        groups: vec![kx_group::X25519MLKEM768, kx_group::SECP384R1],
        ..Offer::new(&TLS13)
    };
    assert_tls13(&bench, &offer, CustodyLevel::Premaster);
}

/// SoftHSM2 has no ML-KEM: its half runs outside, and the level says so.
#[test]
fn a_hybrid_exchange_with_one_half_outside_says_signature() {
    let token = fresh_token!();
    let bench = Bench::new(&token, &Setup::default());
    let offer = Offer {
        groups: vec![kx_group::X25519MLKEM768],
        ..Offer::new(&TLS13)
    };
    for suite in [AES_128_13, AES_256_13] {
        let offer = Offer {
            groups: offer.groups.clone(),
            suite: Some(suite),
            ..Offer::new(&TLS13)
        };
        assert_tls13(&bench, &offer, CustodyLevel::Signature);
    }
    let setup = Setup {
        custody_min: CustodyLevel::Premaster,
        ..Setup::default()
    };
    let bench = Bench::new(&token, &setup);
    assert_refused(&bench, &offer, alert::HANDSHAKE_FAILURE);
    let setup = Setup {
        custody_max: CustodyLevel::Signature,
        ..Setup::default()
    };
    let bench = Bench::new(&token, &setup);
    assert_tls13(&bench, &offer, CustodyLevel::Signature);
}

fn assert_refused(bench: &Bench, offer: &Offer, alert: u8) {
    let mut client = bench.client(offer);
    let step = bench.start(flight(&mut client));
    let StepResult::Refused(refusal) = &step.result else {
        panic!("{:?}", step.result)
    };
    assert_eq!(refusal.alert, alert, "{}", refusal.reason);
    let received = deliver(&mut client, &step.to_client);
    assert_eq!(
        received,
        Some(rustls::Error::AlertReceived(AlertDescription::from(alert)))
    );
}

/// At `signature` the hybrid group comes first, and TLS 1.2 does not have it.
#[test]
fn s11_a_tls12_client_with_nothing_in_common_gets_handshake_failure() {
    let token = fresh_token!();
    let setup = Setup {
        custody_max: CustodyLevel::Signature,
        ..Setup::default()
    };
    let bench = Bench::new(&token, &setup);
    let offer = Offer {
        suite: Some(RSA_AES_128),
        ..Offer::new(&TLS12)
    };
    assert_refused(&bench, &offer, alert::HANDSHAKE_FAILURE);
}

#[test]
fn s11_what_cannot_be_served_gets_its_alert() {
    let token = fresh_token!();
    let setup = Setup {
        alpn: vec![b"http/1.1".to_vec()],
        alpn_required: true,
        ..Setup::default()
    };
    let bench = Bench::new(&token, &setup);
    let with_alpn = |name: &str| vec![name.as_bytes().to_vec()];
    for version in [&TLS13, &TLS12] {
        let offer = Offer {
            alpn: with_alpn("h2"),
            ..Offer::new(version)
        };
        assert_refused(&bench, &offer, alert::NO_APPLICATION_PROTOCOL);
        assert_refused(&bench, &Offer::new(version), alert::NO_APPLICATION_PROTOCOL);
    }
    let offer = Offer {
        alpn: with_alpn("http/1.1"),
        suite: Some(RSA_AES_128),
        ..Offer::new(&TLS12)
    };
    assert_refused(&bench, &offer, alert::HANDSHAKE_FAILURE);
    let offer = Offer {
        alpn: with_alpn("http/1.1"),
        ..Offer::new(&TLS13)
    };
    assert_tls13(&bench, &offer, CustodyLevel::Premaster);
}

#[test]
fn a_client_without_protocols_is_served_where_http1_is() {
    let token = fresh_token!();
    let setup = Setup {
        alpn: vec![b"h2".to_vec(), b"http/1.1".to_vec()],
        ..Setup::default()
    };
    let bench = Bench::new(&token, &setup);
    assert_tls13(&bench, &Offer::new(&TLS13), CustodyLevel::Premaster);
}

#[test]
fn a_client_without_protocols_is_refused_where_only_others_are() {
    let token = fresh_token!();
    let setup = Setup {
        alpn: vec![b"h2".to_vec()],
        ..Setup::default()
    };
    let bench = Bench::new(&token, &setup);
    for version in [&TLS13, &TLS12] {
        assert_refused(&bench, &Offer::new(version), alert::NO_APPLICATION_PROTOCOL);
    }
}

#[test]
fn a_second_hello_cannot_take_its_protocols_back() {
    let token = fresh_token!();
    let setup = Setup {
        alpn: vec![b"http/1.1".to_vec()],
        alpn_required: true,
        ..Setup::default()
    };
    let bench = Bench::new(&token, &setup);
    let offer = Offer {
        groups: vec![kx_group::X25519MLKEM768, kx_group::SECP384R1],
        alpn: vec![b"http/1.1".to_vec()],
        ..Offer::new(&TLS13)
    };
    let mut client = bench.client(&offer);
    let step = bench.start(flight(&mut client));
    let StepResult::More(handshake, Expect::ClientHello) = step.result else {
        panic!("{:?}", step.result)
    };
    assert_eq!(deliver(&mut client, &step.to_client), None);
    let mut hello = without_change_cipher_spec(&flight(&mut client));
    let alpn = b"\x00\x10\x00\x0b\x00\x09\x08http/1.1";
    let at = hello
        .windows(alpn.len())
        .position(|window| window == alpn)
        .unwrap();
    // The extension becomes one that nobody knows.
    hello[at..at + 2].copy_from_slice(&[0xfa, 0xfa]);
    let step = bench.proceed(handshake, hello);
    let StepResult::Refused(refusal) = step.result else {
        panic!("{:?}", step.result)
    };
    assert_eq!(refusal.alert, alert::NO_APPLICATION_PROTOCOL);
    assert_eq!(step.to_client.len(), 7, "an alert and nothing else");
    assert_eq!(bench.token.live_ephemerals(), 0);
}

#[test]
fn a_bad_share_is_the_peers_fault() {
    let token = fresh_token!();
    let bench = Bench::new(&token, &Setup::default());
    let offer = Offer {
        groups: vec![kx_group::SECP256R1],
        ..Offer::new(&TLS13)
    };
    let mut records = flight(&mut bench.client(&offer));
    // The share: group, length, then an uncompressed point; its last byte is moved off the curve.
    let at = records
        .windows(5)
        .position(|window| window == [0, 0x17, 0, 65, 4])
        .unwrap();
    records[at + 68] ^= 1;
    let step = bench.start(records);
    let StepResult::Refused(refusal) = step.result else {
        panic!("{:?}", step.result)
    };
    assert_eq!(refusal.alert, alert::ILLEGAL_PARAMETER);
    assert_eq!(bench.token.live_ephemerals(), 0);
    assert_tls13(&bench, &offer, CustodyLevel::Premaster);
}

#[test]
fn malformed_messages_get_rustls_alerts() {
    let token = fresh_token!();
    let bench = Bench::new(&token, &Setup::default());
    let records = flight(&mut bench.client(&Offer::new(&TLS13)));
    let mut cut = records.clone();
    // The message says that it is whole, its last extension is cut short.
    cut.truncate(records.len() - 3);
    let body = (cut.len() - 5) as u16;
    cut[3..5].copy_from_slice(&body.to_be_bytes());
    cut[7..9].copy_from_slice(&(body - 4).to_be_bytes());
    let step = bench.start(cut);
    let StepResult::Refused(refusal) = step.result else {
        panic!("{:?}", step.result)
    };
    assert_eq!(refusal.alert, alert::DECODE_ERROR);
    let StepResult::Refused(refusal) = bench.start(vec![21, 3, 1, 0, 2, 2, 40]).result else {
        panic!()
    };
    assert!(refusal.from_client);
}

#[test]
fn records_that_hold_no_whole_message_are_refused() {
    let token = fresh_token!();
    let bench = Bench::new(&token, &Setup::default());
    let hello = flight(&mut bench.client(&Offer::new(&TLS13)));
    let record = |body: &[u8]| [&[22, 3, 3][..], &(body.len() as u16).to_be_bytes(), body].concat();
    for (name, records) in [
        ("an oversize message", record(&[0x5a; 32])),
        (
            "an oversize message in two records",
            [record(&[0x5a; 32]), record(&[0x5a; 32])].concat(),
        ),
        (
            "half a message, then an alert",
            [record(&hello[5..100]), vec![21, 3, 3, 0, 2, 2, 40]].concat(),
        ),
        (
            "half a message, then data",
            [record(&hello[5..100]), vec![23, 3, 3, 0, 1, 0]].concat(),
        ),
        ("two messages", record(&[&hello[5..], &hello[5..]].concat())),
        ("an empty record", record(&[])),
        ("no record", vec![]),
        ("half a record", hello[..50].to_vec()),
    ] {
        let step = bench.start(records);
        match step.result {
            StepResult::Refused(_) | StepResult::More(..) => {}
            other => panic!("{name}: {other:?}"),
        }
    }
}

#[test]
fn a_token_failure_anywhere_is_internal_error_and_leaves_nothing_behind() {
    let token = fresh_token!();
    let setup = Setup {
        through_shim: true,
        ..Setup::default()
    };
    let bench = Bench::new(&token, &setup);
    let shim = token.shim();
    let (live, mut injected) = (shim.report().live(), 0);
    for fault in [
        "C_GenerateKeyPair error 0x6",
        "C_GetAttributeValue error 0x6",
        "C_DeriveKey error 0x6",
        "C_DigestInit error 0x6",
        "C_DigestKey error 0x6",
        "C_DigestFinal error 0x6",
        "C_SignInit error 0x6",
        "C_Sign error 0x6",
    ] {
        for version in [&TLS13, &TLS12] {
            if version.version == rustls::ProtocolVersion::TLSv1_2 && fault.contains("Digest") {
                continue;
            }
            shim.set_faults(&format!("{fault} times 1"));
            let mut client = bench.client(&Offer::new(version));
            let step = bench.handshake(&mut client);
            let StepResult::Failed(Failure::Token(_)) = &step.result else {
                panic!("{fault}: {:?}", step.result)
            };
            let received = deliver(&mut client, &step.to_client);
            let internal = rustls::Error::AlertReceived(AlertDescription::InternalError);
            assert_eq!(received, Some(internal), "{fault}");
            shim.clear_faults();
            injected += 1;
            assert_eq!(shim.report().faults(), injected, "{fault}");
            assert_eq!(bench.token.live_ephemerals(), 0, "{fault}");
        }
    }
    assert_eq!(shim.report().live(), live);
    assert_tls13(&bench, &Offer::new(&TLS13), CustodyLevel::Premaster);
}

#[test]
fn a_corrupted_signature_never_leaves() {
    let token = fresh_token!();
    let setup = Setup {
        through_shim: true,
        key_type: "rsa:2048",
        ..Setup::default()
    };
    let bench = Bench::new(&token, &setup);
    token.shim().set_faults("C_Sign corrupt");
    let mut client = bench.client(&Offer::new(&TLS13));
    let step = bench.start(flight(&mut client));
    assert!(
        matches!(&step.result, StepResult::Failed(Failure::Token(_))),
        "{:?}",
        step.result
    );
    assert_eq!(
        step.to_client,
        [21, 3, 3, 0, 2, 2, alert::INTERNAL_ERROR],
        "nothing but the alert"
    );
}

#[test]
fn an_unfinished_handshake_is_destroyed_wherever_it_is_dropped() {
    let token = fresh_token!();
    let bench = Bench::new(&token, &Setup::default());
    let step = bench.start(flight(&mut bench.client(&Offer::new(&TLS12))));
    let StepResult::More(handshake, _) = step.result else {
        panic!("{:?}", step.result)
    };
    assert_eq!(bench.token.live_ephemerals(), 1);
    drop(handshake);
    // The next step, whatever it is, finds the worker's trash emptied.
    assert_tls13(&bench, &Offer::new(&TLS13), CustodyLevel::Premaster);
    assert_tls13(&bench, &Offer::new(&TLS13), CustodyLevel::Premaster);
    assert_eq!(bench.token.live_ephemerals(), 0);
}
