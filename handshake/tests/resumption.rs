//! Resumption by tickets, and what makes a ticket worthless, on real tokens against a rustls client.
#![allow(missing_docs, clippy::unwrap_used, reason = "tests")]

mod support;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use keyhaven_handshake::{
    Authorities, ClientAuth, Clock, Established, Step, StepResult, TicketKey, TicketSpec,
};
use keyhaven_softhsm_test::fresh_token;
use keyhaven_types::{CustodyLevel, Secret};
use rustls::{
    ClientConfig, HandshakeKind,
    version::{TLS12, TLS13},
};
use support::{Bench, NAME, Offer, Setup, connect, deliver};

fn key(byte: u8) -> TicketKey {
    TicketKey::new(&Secret::new(vec![byte; 32])).unwrap()
}

fn tickets() -> TicketSpec {
    TicketSpec {
        key: key(1),
        persistent: false,
        lifetime: Duration::from_secs(3600),
        tls12: true,
    }
}

fn setup() -> Setup {
    Setup {
        tickets: Some(tickets()),
        ..Setup::default()
    }
}

/// A clock that is moved by hand.
#[derive(Clone, Default)]
struct HandClock(Arc<AtomicU64>);

impl HandClock {
    fn clock(&self) -> Clock {
        let ahead = self.0.clone();
        Clock::new(move || SystemTime::now() + Duration::from_secs(ahead.load(Ordering::Relaxed)))
    }

    fn advance(&self, seconds: u64) {
        self.0.fetch_add(seconds, Ordering::Relaxed);
    }
}

/// One handshake to its end; tickets are delivered.
fn shake(bench: &Bench, config: &Arc<ClientConfig>) -> (Established, HandshakeKind) {
    let mut client = connect(config, NAME);
    let Step {
        to_client, result, ..
    } = bench.handshake(&mut client);
    let established = match result {
        StepResult::Released(released) => released.established,
        StepResult::Established(established) => *established,
        other => panic!("{other:?}"),
    };
    assert_eq!(deliver(&mut client, &to_client), None);
    assert_eq!(deliver(&mut client, &established.tickets), None);
    let kind = client.handshake_kind().unwrap();
    assert_eq!(established.is_resumed, kind == HandshakeKind::Resumed);
    (established, kind)
}

fn is_resumed(bench: &Bench, config: &Arc<ClientConfig>) -> bool {
    shake(bench, config).1 == HandshakeKind::Resumed
}

#[test]
fn s9_a_session_is_resumed_at_its_level() {
    let token = fresh_token!();
    for custody_max in [CustodyLevel::Signature, CustodyLevel::Premaster] {
        let bench = Bench::new(
            &token,
            &Setup {
                custody_max,
                ..setup()
            },
        );
        for version in [&TLS13, &TLS12] {
            let config = bench.client_config(&Offer::new(version));
            assert!(!is_resumed(&bench, &config));
            for _ in 0..3 {
                let (established, kind) = shake(&bench, &config);
                assert_eq!(kind, HandshakeKind::Resumed, "{version:?}");
                // A ticket of TLS 1.2 holds the whole connection's master secret, here sealed in the process.
                let claim = if established.is_tls13 {
                    custody_max
                } else {
                    CustodyLevel::Signature
                };
                assert_eq!(established.custody.level, claim);
                assert_eq!(established.server_name, NAME);
            }
        }
        assert_eq!(bench.token.live_ephemerals(), 0);
    }
}

#[test]
fn s9_without_the_option_nothing_is_resumed() {
    let token = fresh_token!();
    let bench = Bench::new(&token, &Setup::default());
    for version in [&TLS13, &TLS12] {
        let config = bench.client_config(&Offer::new(version));
        let (established, _) = shake(&bench, &config);
        assert!(established.tickets.is_empty());
        assert!(!is_resumed(&bench, &config));
    }
    let only_13 = TicketSpec {
        tls12: false,
        ..tickets()
    };
    let bench = Bench::new(
        &token,
        &Setup {
            tickets: Some(only_13),
            ..Setup::default()
        },
    );
    let config = bench.client_config(&Offer::new(&TLS12));
    shake(&bench, &config);
    assert!(!is_resumed(&bench, &config));
}

/// Whether a ticket of one site is good at another with the same key.
fn is_good_at(first: &Bench, other: &Setup) -> bool {
    let second = first.sibling(other);
    let config = first.client_config(&Offer::new(&TLS13));
    assert!(!is_resumed(first, &config));
    assert!(is_resumed(first, &config), "it works where it was made");
    is_resumed(&second, &config)
}

#[test]
fn s1_a_ticket_is_bound_to_the_sites_ways() {
    let token = fresh_token!();
    let first = Bench::new(&token, &setup());
    assert!(is_good_at(&first, &setup()), "a fellow signer");
    let other_id = Setup {
        id: [8; 32],
        ..setup()
    };
    assert!(!is_good_at(&first, &other_id));
    let with_protocols = Setup {
        alpn: vec![b"http/1.1".to_vec()],
        ..setup()
    };
    assert!(!is_good_at(&first, &with_protocols));
    let other_key = Setup {
        tickets: Some(TicketSpec {
            key: key(2),
            ..tickets()
        }),
        ..setup()
    };
    assert!(!is_good_at(&first, &other_key), "its key is gone");
}

/// Client authentication switched on: a ticket from before must not go round it.
#[test]
fn s1_no_ticket_goes_round_client_authentication() {
    let token = fresh_token!();
    let first = Bench::new(&token, &setup());
    let config = first.client_config(&Offer::new(&TLS13));
    shake(&first, &config);
    let authorities = Authorities {
        roots: vec![support::authority().0],
        crls: Vec::new(),
    };
    let required = first.sibling(&Setup {
        client_auth: ClientAuth::Required(authorities.clone()),
        ..setup()
    });
    let mut client = connect(&config, NAME);
    let step = required.handshake(&mut client);
    assert!(
        matches!(step.result, StepResult::Refused(_)),
        "{:?}",
        step.result
    );
    let optional = first.sibling(&Setup {
        client_auth: ClientAuth::Optional(authorities),
        ..setup()
    });
    assert!(!is_resumed(&optional, &config));
    let (established, _) = shake(&optional, &config);
    assert!(established.tickets.is_empty(), "nor is one given");
}

#[test]
fn s2_a_chain_of_resumptions_ends_with_its_first_authentication() {
    let token = fresh_token!();
    let hand = HandClock::default();
    let bench = Bench::new(
        &token,
        &Setup {
            clock: hand.clock(),
            ..setup()
        },
    );
    let config = bench.client_config(&Offer::new(&TLS13));
    assert!(!is_resumed(&bench, &config));
    for minute in 1..=5 {
        hand.advance(600);
        assert!(is_resumed(&bench, &config), "after {minute}0 minutes");
    }
    hand.advance(601);
    assert!(!is_resumed(&bench, &config), "an hour is over");
    assert!(is_resumed(&bench, &config), "and the next one began");
}

#[test]
fn s2_no_session_outlives_the_certificate() {
    let token = fresh_token!();
    let hand = HandClock::default();
    let bench = Bench::new(
        &token,
        &Setup {
            clock: hand.clock(),
            certificate_life: Duration::from_secs(600),
            ..setup()
        },
    );
    let config = bench.client_config(&Offer::new(&TLS13));
    shake(&bench, &config);
    hand.advance(300);
    assert!(is_resumed(&bench, &config));
    hand.advance(301);
    assert!(!is_resumed(&bench, &config));
}

#[test]
fn s3_a_ticket_is_bound_to_its_key() {
    let token = fresh_token!();
    let first = Bench::new(&token, &setup());
    // The same site id, another key; the client trusts both.
    let second = Bench::new(&token, &setup());
    let mut roots = first.roots.clone();
    roots.roots.extend(second.roots.roots.iter().cloned());
    let config: Arc<ClientConfig> =
        ClientConfig::builder_with_provider(rustls::crypto::aws_lc_rs::default_provider().into())
            .with_protocol_versions(&[&TLS13])
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth()
            .into();
    shake(&first, &config);
    assert!(is_resumed(&first, &config));
    assert!(!is_resumed(&second, &config));
}

#[test]
fn s4_a_session_is_never_above_its_tickets_level() {
    let token = fresh_token!();
    let low = Bench::new(
        &token,
        &Setup {
            custody_max: CustodyLevel::Signature,
            ..setup()
        },
    );
    let high = Setup {
        custody_max: CustodyLevel::Premaster,
        ..setup()
    };
    assert!(!is_good_at(&low, &high));
    let high = low.sibling(&high);
    assert!(is_good_at(
        &high,
        &Setup {
            custody_max: CustodyLevel::Signature,
            ..setup()
        }
    ));
}
