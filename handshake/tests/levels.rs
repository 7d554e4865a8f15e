//! Levels `master` and `schedule` on the tokens that reach them, against a rustls client.
#![allow(missing_docs, clippy::unwrap_used, reason = "tests")]

mod support;

use std::{sync::Arc, time::Duration};

use keyhaven_handshake::{
    Established, Step, StepResult, TicketKey, TicketSpec, TrafficSecret, alert_record,
};
use keyhaven_softhsm_test::{ModuleKind, TestToken, fresh_token};
use keyhaven_types::{CustodyLevel, NamedGroup, Secret, alert};
use rustls::{
    AlertDescription, ClientConfig, HandshakeKind,
    crypto::{SupportedKxGroup, aws_lc_rs::kx_group},
    version::{TLS12, TLS13},
};
use support::{Bench, NAME, Offer, Setup, connect, deliver};

const SUITES_13: [u16; 3] = [0x1301, 0x1302, 0x1303];
/// ECDHE-ECDSA with AES-128, AES-256, ChaCha20.
const SUITES_12: [u16; 3] = [0xc02b, 0xc02c, 0xcca9];

fn group(name: NamedGroup) -> &'static dyn SupportedKxGroup {
    match name {
        NamedGroup::Secp256r1 => kx_group::SECP256R1,
        NamedGroup::Secp384r1 => kx_group::SECP384R1,
        NamedGroup::X25519 => kx_group::X25519,
    }
}

fn tickets() -> TicketSpec {
    TicketSpec {
        key: TicketKey::new(&Secret::new(vec![1; 32])).unwrap(),
        persistent: false,
        lifetime: Duration::from_secs(3600),
        tls12: true,
    }
}

/// One handshake to its end, with its tickets; keys are the same on both sides.
fn shake(bench: &Bench, config: &Arc<ClientConfig>) -> (Established, HandshakeKind) {
    let mut client = connect(config, NAME);
    let Step {
        to_client, result, ..
    } = bench.handshake(&mut client);
    match result {
        StepResult::Released(released) => {
            assert_eq!(deliver(&mut client, &to_client), None);
            assert!(!client.is_handshaking());
            assert_eq!(deliver(&mut client, &released.established.tickets), None);
            let kind = client.handshake_kind().unwrap();
            (released.established, kind)
        }
        StepResult::Established(established) => {
            assert_eq!(deliver(&mut client, &to_client), None);
            assert!(!client.is_handshaking());
            (*established, client.handshake_kind().unwrap())
        }
        other => panic!("{other:?}"),
    }
}

/// The alert under the refusal key shows that both sides have the same application key.
fn keys_are_the_same(bench: &Bench, config: &Arc<ClientConfig>) {
    let mut client = connect(config, NAME);
    let step = bench.handshake(&mut client);
    let StepResult::Released(released) = step.result else {
        panic!("{:?}", step.result)
    };
    assert_eq!(deliver(&mut client, &step.to_client), None);
    let record = alert_record(released.refusal_key, alert::DECRYPT_ERROR);
    assert_eq!(
        deliver(&mut client, &record),
        Some(rustls::Error::AlertReceived(AlertDescription::DecryptError))
    );
}

fn every_handshake(token: &TestToken, level: CustodyLevel) {
    let bench = Bench::new(
        token,
        &Setup {
            custody_min: level,
            custody_max: level,
            tickets: Some(tickets()),
            ..Setup::default()
        },
    );
    assert!(bench.profile.tls13 >= level, "{:#?}", bench.profile);
    assert_eq!(bench.profile.groups.len(), 3, "{:#?}", bench.profile);
    let before = bench.token.live_ephemerals();
    for name in bench.profile.groups.clone() {
        for suite in SUITES_13 {
            let offer = Offer {
                groups: vec![group(name)],
                suite: Some(suite),
                ..Offer::new(&TLS13)
            };
            let config = bench.client_config(&offer);
            keys_are_the_same(&bench, &config);
            for round in 0..3 {
                let (established, kind) = shake(&bench, &config);
                assert_eq!(established.custody.level, level, "{name:?} {suite:x}");
                assert_eq!(
                    kind == HandshakeKind::Resumed,
                    round > 0,
                    "{name:?} {suite:x}"
                );
                let rekey = established.rekey.unwrap();
                let in_token = |secret: &TrafficSecret| matches!(secret, TrafficSecret::Token(_));
                assert_eq!(in_token(&rekey.write), level == CustodyLevel::Schedule);
                assert_eq!(in_token(&rekey.read), level == CustodyLevel::Schedule);
            }
        }
        for suite in SUITES_12 {
            // An ECDSA key asks for its curve.
            let offer = Offer {
                groups: vec![group(name), kx_group::SECP256R1],
                suite: Some(suite),
                ..Offer::new(&TLS12)
            };
            let config = bench.client_config(&offer);
            for round in 0..3 {
                let (established, kind) = shake(&bench, &config);
                assert_eq!(established.custody.level, level, "{name:?} {suite:x}");
                assert_eq!(
                    kind == HandshakeKind::Resumed,
                    round > 0,
                    "{name:?} {suite:x}"
                );
            }
        }
    }
    bench.step_nothing();
    assert_eq!(bench.token.live_ephemerals(), before);
}

/// With the ML-KEM half in the token the level stays; else it falls, and only where it may.
fn hybrid(token: &TestToken) {
    let bench = Bench::new(token, &Setup::default());
    let offer = Offer {
        groups: vec![kx_group::X25519MLKEM768],
        ..Offer::new(&TLS13)
    };
    let config = bench.client_config(&offer);
    keys_are_the_same(&bench, &config);
    let (established, _) = shake(&bench, &config);
    let expected = if bench.profile.ml_kem {
        CustodyLevel::Schedule
    } else {
        CustodyLevel::Signature
    };
    assert_eq!(established.custody.level, expected);
    assert_eq!(
        established.custody.left.contains("ML-KEM secret"),
        !bench.profile.ml_kem
    );
}

#[test]
fn kryoptic_keeps_everything_at_schedule() {
    let token = fresh_token!(kind: ModuleKind::Kryoptic);
    every_handshake(&token, CustodyLevel::Schedule);
}

#[test]
fn kryoptic_lets_traffic_secrets_out_at_master() {
    let token = fresh_token!(kind: ModuleKind::Kryoptic);
    every_handshake(&token, CustodyLevel::Master);
}

#[test]
fn kryoptic_joins_a_half_from_outside() {
    let token = fresh_token!(kind: ModuleKind::Kryoptic);
    hybrid(&token);
}

#[test]
fn nss_keeps_everything_at_schedule() {
    let token = fresh_token!(kind: ModuleKind::Nss);
    every_handshake(&token, CustodyLevel::Schedule);
}

#[test]
fn nss_lets_traffic_secrets_out_at_master() {
    let token = fresh_token!(kind: ModuleKind::Nss);
    every_handshake(&token, CustodyLevel::Master);
}

#[test]
fn nss_joins_a_half_from_outside() {
    let token = fresh_token!(kind: ModuleKind::Nss);
    hybrid(&token);
}

#[test]
fn a_modern_kryoptic_keeps_both_halves() {
    if !ModuleKind::KryopticModern.is_there() {
        return;
    }
    let token = fresh_token!(kind: ModuleKind::KryopticModern);
    every_handshake(&token, CustodyLevel::Schedule);
    hybrid(&token);
}
