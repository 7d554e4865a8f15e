//! A key's own minimum, and states that are taken for something else.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::sync::{Arc, Mutex};

use keyhaven_tests::audit::Proven;
use keyhaven_tests::backend::Manner;
use keyhaven_tests::dialogue::{echo, update};
use keyhaven_tests::http::GREETING;
use keyhaven_tests::matrix::{self, Row};
use keyhaven_tests::rawtls::{Client13, Group, Hello, Ticket};
use keyhaven_tests::relay::{Frame, Rule};
use keyhaven_tests::running::Site;
use keyhaven_tests::site::{NAME, empty_site};
use keyhaven_types::CustodyLevel;
use keyhaven_wire::{Reply, Request};

/// The signature scheme of the server's CertificateVerify.
fn scheme(client: &Client13) -> u16 {
    let messages = client.server_messages().iter();
    let (_, verify) = messages.clone().find(|(kind, _)| *kind == 15).unwrap();
    u16::from_be_bytes([verify[4], verify[5]])
}

#[test]
fn a_key_is_not_used_below_its_own_minimum() {
    let site = empty_site()
        .name(NAME, &["EC:prime256v1"])
        .key_options("custody_min = \"premaster\"")
        .key("rsa:2048")
        .start();
    // Both keys fit the client; the first one is too good for a hybrid exchange with one half outside the token.
    for (group, expected, level) in [
        (Group::P256, 0x0403, CustodyLevel::Premaster),
        (Group::X25519MlKem768, 0x0804, CustodyLevel::Signature),
    ] {
        let hello = Hello::tls13(NAME).with_group(group);
        let mut client = Client13::established(site.address(), &hello).unwrap();
        assert_eq!(scheme(&client), expected, "{group:?}");
        assert!(client.ask().unwrap().ends_with(GREETING));
        assert_eq!(Proven::of(&site, &client).level(), level);
    }
    // A client that can verify the first key alone is refused where only the second would do.
    let hello = Hello {
        schemes: vec![0x0403],
        ..Hello::tls13(NAME).with_group(Group::X25519MlKem768)
    };
    let end = Client13::connect(site.address(), &hello).unwrap_err();
    assert_eq!(end.alert(), Some(40), "handshake_failure: {end}");
}

#[test]
fn a_key_that_no_version_may_use_keeps_the_signer_from_starting() {
    for row in [&matrix::SOFTHSM2, &matrix::P11KIT, &matrix::CRATON] {
        let parts = row
            .site()
            .key_options("custody_min = \"schedule\"")
            .prepare();
        let mut signer = parts.spawn_signer();
        assert!(!signer.wait().success(), "{}", row.name);
        let log = signer.log().join("\n");
        assert!(
            log.contains("custody_min is schedule"),
            "{}: {log}",
            row.name
        );
    }
    // A keeper beside it is enough.
    let site = matrix::SOFTHSM2_NSS
        .site()
        .key_options("custody_min = \"schedule\"")
        .start();
    Client13::established(site.address(), &Hello::tls13(NAME)).unwrap();
}

/// What the relay puts in the place of rekey states, and the last state that passed.
#[derive(Clone, Default)]
struct States {
    put: Arc<Mutex<Option<Vec<u8>>>>,
    seen: Arc<Mutex<Vec<u8>>>,
}

impl States {
    fn rule(&self) -> Rule {
        let states = self.clone();
        Box::new(move |frame| {
            vec![match frame {
                Frame::ToSigner(id, Request::Rekey(mut rekey)) => {
                    if let Some(put) = states.put.lock().unwrap().clone() {
                        rekey.state = put;
                    }
                    Frame::ToSigner(id, Request::Rekey(rekey))
                }
                Frame::ToProxy(id, Reply::Rekeyed(rekeyed)) => {
                    states.seen.lock().unwrap().clone_from(&rekeyed.state);
                    Frame::ToProxy(id, Reply::Rekeyed(rekeyed))
                }
                other => other,
            }]
        })
    }
}

fn talking(site: &Site) -> (Client13, Ticket) {
    let mut client = Client13::established(site.address(), &Hello::tls13(NAME)).unwrap();
    echo(&mut client, b"hello");
    let ticket = client.tickets()[0].clone();
    (client, ticket)
}

fn rows() -> [&'static Row; 3] {
    [&matrix::SOFTHSM2, &matrix::KRYOPTIC, &matrix::NSS]
}

#[test]
fn s4_a_ticket_is_no_rekey_state_and_a_rekey_state_is_no_ticket() {
    for row in rows() {
        let states = States::default();
        let site = row
            .site()
            .tickets("")
            .backend(Manner::Echo)
            .relay(states.rule())
            .start();
        let (mut client, ticket) = talking(&site);
        update(&mut client, true);
        echo(&mut client, b"with new keys");
        let state = states.seen.lock().unwrap().clone();
        assert!(!state.is_empty(), "a state passed");

        // As it is, and with the words that a ticket begins with.
        let header = ticket.identity[..5].to_vec();
        for identity in [state.clone(), [header, state].concat()] {
            let mut offer = ticket.offer();
            offer.identity = identity;
            let hello = Hello::tls13(NAME).resuming(vec![offer]);
            let client = Client13::connect(site.address(), &hello).unwrap();
            assert_eq!(client.resumed(), None, "{}: a state was a ticket", row.name);
        }
        for state in [ticket.identity.clone(), ticket.identity[5..].to_vec()] {
            *states.put.lock().unwrap() = Some(state);
            let (mut client, _) = talking(&site);
            update(&mut client, false);
            let _ = client.send(23, b"under a key that nobody has");
            assert!(
                client.receive().is_err(),
                "{}: a ticket was a state",
                row.name
            );
        }
        // The token did not mind.
        *states.put.lock().unwrap() = None;
        let (mut client, _) = talking(&site);
        update(&mut client, true);
        echo(&mut client, b"with new keys");
        assert_eq!(Proven::of(&site, &client).level(), row.level);
    }
}

#[test]
fn a_preferred_hybrid_goes_first_and_says_what_it_costs() {
    for row in [&matrix::SOFTHSM2, &matrix::KRYOPTIC, &matrix::SOFTHSM2_NSS] {
        let site = row.site().options("prefer_hybrid = true").start();
        let hello = Hello {
            groups: [Group::X25519, Group::P256, Group::X25519MlKem768]
                .map(Group::code)
                .to_vec(),
            share: false,
            ..Hello::tls13(NAME)
        };
        let mut client = Client13::established(site.address(), &hello).unwrap();
        assert!(client.ask().unwrap().ends_with(GREETING));
        assert_eq!(client.group(), Group::X25519MlKem768, "{}", row.name);
        assert_eq!(Proven::of(&site, &client).level(), CustodyLevel::Signature);
    }
}
