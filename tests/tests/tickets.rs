//! Attacks with tickets, each of which the attacker loses: what does not fit ends in a full handshake, in a refusal, or
//! in nothing, and never in a session that somebody else has earned.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::io::Write;
use std::thread;
use std::time::Duration;

use keyhaven_tests::audit::Proven;
use keyhaven_tests::daemon::field;
use keyhaven_tests::http::GREETING;
use keyhaven_tests::matrix::{self, Row};
use keyhaven_tests::pki::Flaw;
use keyhaven_tests::rawtls::{Client12, Client13, HANDSHAKE, Hello, Offered, Ticket, record};
use keyhaven_tests::running::Site;
use keyhaven_tests::site::{Builder, NAME, PROXY, empty_site};
use keyhaven_types::CustodyLevel;

/// Tickets that the process seals, and tickets that two modules' keys seal.
fn rows() -> [&'static Row; 3] {
    [&matrix::SOFTHSM2, &matrix::KRYOPTIC, &matrix::NSS]
}

/// A full handshake, and the first of its tickets.
fn ticket_of(site: &Site, hello: &Hello) -> Ticket {
    let mut client = Client13::established(site.address(), hello).unwrap();
    assert_eq!(client.resumed(), None);
    assert!(client.ask().unwrap().ends_with(GREETING));
    client.tickets().first().expect("a ticket").clone()
}

fn ticket(site: &Site) -> Ticket {
    ticket_of(site, &Hello::tls13(NAME))
}

/// Whether the session of the ticket goes on; if not, a full handshake must have taken its place.
fn goes_on(site: &Site, offered: Vec<Offered>) -> bool {
    goes_on_as(site, &Hello::tls13(NAME), offered)
}

fn goes_on_as(site: &Site, hello: &Hello, offered: Vec<Offered>) -> bool {
    let hello = hello.clone().resuming(offered);
    let mut client = Client13::established(site.address(), &hello).unwrap();
    let certificates = client.server_messages().iter();
    let has_certificate = certificates.clone().any(|(kind, _)| *kind == 11);
    assert!(client.ask().unwrap().ends_with(GREETING));
    assert_eq!(client.resumed().is_none(), has_certificate);
    assert_eq!(Proven::of(site, &client).is_resumed(), !has_certificate);
    !has_certificate
}

/// A site whose tickets outlive the signer's process.
fn lasting(row: &Row) -> Builder {
    row.site()
        .tickets("secret = \"tickets.key\"\ntoken_keys = \"token\"")
}

/// Starts it with the shared secret in place.
fn start_lasting(build: Builder) -> Site {
    let parts = build.prepare();
    write_secret(&parts.dir().join("tickets.key"), 7);
    build.start_with(parts)
}

fn write_secret(path: &std::path::Path, byte: u8) {
    use std::os::unix::fs::OpenOptionsExt;
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    options.open(path).unwrap().write_all(&[byte; 32]).unwrap();
}

#[test]
fn s1_a_ticket_from_before_client_authentication_does_not_go_round_it() {
    for row in rows() {
        let mut site = start_lasting(lasting(row));
        let ticket = ticket(&site);
        assert!(goes_on(&site, vec![ticket.offer()]));
        let names = format!("names = [\"{NAME}\"]");
        let asking = format!("{names}\nclient_auth = \"required\"\nclient_ca = \"clients-ca.pem\"");
        site.parts.edit("signer.toml", &names, &asking);
        // By a reload, and at the next start.
        site.reload();
        for _ in 0..2 {
            let hello = Hello::tls13(NAME).resuming(vec![ticket.offer()]);
            let mut client = Client13::connect(site.address(), &hello).unwrap();
            assert_eq!(client.resumed(), None, "{}", row.name);
            assert!(client.is_asked());
            client.finish().unwrap();
            assert_eq!(
                client.receive().unwrap_err().alert(),
                Some(116),
                "certificate_required"
            );
            site.restart_signer();
        }
    }
}

#[test]
fn s1_a_ticket_is_bound_to_the_protocols() {
    let site = start_lasting(lasting(&matrix::SOFTHSM2).options("alpn = [\"http/1.1\"]"));
    let hello = |alpn: &str| Hello {
        alpn: vec![alpn.as_bytes().to_vec()],
        ..Hello::tls13(NAME)
    };
    let ticket = ticket_of(&site, &hello("http/1.1"));
    assert!(goes_on_as(&site, &hello("http/1.1"), vec![ticket.offer()]));
    site.parts.edit(
        "signer.toml",
        "alpn = [\"http/1.1\"]",
        "alpn = [\"h2\", \"http/1.1\"]",
    );
    site.reload();
    for alpn in ["h2", "http/1.1"] {
        assert!(
            !goes_on_as(&site, &hello(alpn), vec![ticket.offer()]),
            "{alpn}"
        );
    }
}

#[test]
fn s2_a_chain_of_resumptions_has_the_age_of_its_first_handshake() {
    for row in rows() {
        let site = row.site().tickets("lifetime_s = 60").start();
        let mut ticket = ticket(&site);
        assert!((58..=60).contains(&ticket.lifetime), "{}", ticket.lifetime);
        for passed in [2, 4] {
            thread::sleep(Duration::from_secs(2));
            let hello = Hello::tls13(NAME).resuming(vec![ticket.offer()]);
            let mut client = Client13::established(site.address(), &hello).unwrap();
            assert_eq!(client.resumed(), Some(0));
            client.ask().unwrap();
            ticket = client.tickets()[0].clone();
            assert!(
                ticket.lifetime <= 60 - passed,
                "{} s after {passed} s",
                ticket.lifetime
            );
        }
    }
}

#[test]
fn s2_a_grant_that_is_taken_away_ends_sessions_at_once() {
    for row in rows() {
        let site = row.site().tickets("").start();
        let ticket = ticket(&site);
        site.parts.edit(
            "signer.toml",
            &format!("proxies = [\"{PROXY}\"]"),
            "proxies = []",
        );
        site.reload();
        let hello = Hello::tls13(NAME).resuming(vec![ticket.offer()]);
        let end = Client13::connect(site.address(), &hello).unwrap_err();
        assert_eq!(end.alert(), Some(112), "unrecognized_name: {end}");
    }
}

#[test]
fn s2_a_reload_that_changes_nothing_ends_no_session() {
    for row in rows() {
        let site = row.site().tickets("").start();
        let ticket = ticket(&site);
        site.reload();
        assert!(goes_on(&site, vec![ticket.offer()]), "{}", row.name);
    }
}

#[test]
fn s2_another_certificate_for_the_key_ends_no_session_and_another_key_does() {
    let site = start_lasting(lasting(&matrix::SOFTHSM2));
    let first = ticket(&site);
    let renew = |label: &str| {
        let spki = site.token().public_key(label).unwrap();
        site.parts.site_ca.site("key-0", &[NAME], &spki);
    };
    renew("key-0");
    site.reload();
    assert!(goes_on(&site, vec![first.offer()]));
    site.token()
        .generate_key("EC:prime256v1", "other", "77")
        .unwrap();
    renew("other");
    site.parts
        .edit("signer.toml", "object=key-0", "object=other");
    site.reload();
    assert!(!goes_on(&site, vec![first.offer()]));
}

#[test]
fn s3_a_ticket_of_one_name_is_nothing_at_another() {
    let other = "other.keyhaven.test";
    for row in rows() {
        let site = empty_site()
            .token(row.keys)
            .name(NAME, &["EC:prime256v1"])
            .name(other, &["EC:prime256v1"])
            .tickets("")
            .start();
        let ticket = ticket(&site);
        assert!(!goes_on_as(
            &site,
            &Hello::tls13(other),
            vec![ticket.offer()]
        ));
        assert!(
            goes_on(&site, vec![ticket.offer()]),
            "and is good where it was made"
        );
    }
}

#[test]
fn s3_a_ticket_of_one_key_is_nothing_to_a_client_that_wants_the_other() {
    let site = empty_site()
        .name(NAME, &["EC:prime256v1", "rsa:2048"])
        .tickets("")
        .start();
    let ticket = ticket(&site);
    let rsa_alone = Hello {
        schemes: vec![0x0804],
        ..Hello::tls13(NAME)
    };
    assert!(!goes_on_as(&site, &rsa_alone, vec![ticket.offer()]));
    assert!(goes_on(&site, vec![ticket.offer()]));
}

#[test]
fn s3_a_ticket_helps_no_proxy_that_has_no_grant() {
    for row in rows() {
        let site = row.site().tickets("").start();
        let ticket = ticket(&site);
        let identity = "spiffe://keyhaven.test/proxy/edge-2";
        site.parts
            .channel_ca
            .identity("proxy-2", identity, Flaw::None);
        site.parts.edit("proxy.toml", "proxy.pem", "proxy-2.pem");
        site.parts.edit("proxy.toml", "proxy.key", "proxy-2.key");
        let second = site.parts.spawn_proxy();
        let address = second.listening();
        let hello = Hello::tls13(NAME).resuming(vec![ticket.offer()]);
        let end = Client13::connect(address, &hello).unwrap_err();
        assert_eq!(end.alert(), Some(112), "unrecognized_name: {end}");
        assert!(goes_on(&site, vec![ticket.offer()]));
    }
}

#[test]
fn s4_software_tickets_of_tls12_take_the_level_down_and_the_minimum_sees_it() {
    let row = &matrix::SOFTHSM2;
    let site = row.site().tickets("tls12 = true").start();
    let mut client = Client12::connect(site.address(), &Hello::tls12(NAME)).unwrap();
    client.finish().unwrap();
    client.ask().unwrap();
    assert_eq!(Proven::of(&site, &client).level(), CustodyLevel::Signature);
    drop(site);
    let site = row
        .site()
        .options("custody_min = \"premaster\"")
        .tickets("tls12 = true")
        .start();
    let end = Client12::connect(site.address(), &Hello::tls12(NAME)).unwrap_err();
    assert_eq!(end.alert(), Some(70), "protocol_version: {end}");
    ticket(&site);
}

#[test]
fn s4_without_its_key_a_ticket_is_a_full_handshake() {
    for row in rows() {
        // Keys of the process end with it.
        let mut site = row.site().tickets("").start();
        let lost = ticket(&site);
        site.restart_signer();
        assert!(!goes_on(&site, vec![lost.offer()]), "{}", row.name);
        let next = ticket(&site);
        assert!(goes_on(&site, vec![next.offer()]));
        drop(site);

        // Shared ones do not, until they are changed.
        let mut site = start_lasting(lasting(row));
        let kept = ticket(&site);
        site.restart_signer();
        assert!(goes_on(&site, vec![kept.offer()]), "{}", row.name);
        if row.level == CustodyLevel::Premaster {
            write_secret(&site.dir().join("tickets.key"), 8);
            site.restart_signer();
            assert!(!goes_on(&site, vec![kept.offer()]), "{}", row.name);
        }
    }
}

/// Signers of a site share a secret's file up to `premaster`, and above it a token that holds the keys.
#[test]
fn s9_a_fellow_signer_takes_the_ticket() {
    for row in rows() {
        let site = start_lasting(lasting(row));
        let ticket = ticket(&site);
        // The fellow's self-tests, which know their keys, come in between.
        site.check_keys_unreadable();
        let fellow = site.parts.spawn_signer();
        let (first, second) = (site.signer_address().to_string(), fellow.listening());
        site.parts.mark();
        site.parts.edit("proxy.toml", &first, &second.to_string());
        let proxy = site.parts.spawn_proxy();
        let hello = Hello::tls13(NAME).resuming(vec![ticket.offer()]);
        let mut client = Client13::established(proxy.listening(), &hello).unwrap();
        assert_eq!(client.resumed(), Some(0), "{}", row.name);
        assert!(client.ask().unwrap().ends_with(GREETING));
        fellow.wait_for("the resumed handshake", |line| {
            field(line, "event").as_deref() == Some("proven")
                && field(line, "resumed").as_deref() == Some("true")
        });
    }
}

#[test]
fn s4_an_altered_ticket_is_a_full_handshake_wherever_it_is_altered() {
    for row in rows() {
        let site = row.site().tickets("").start();
        let ticket = ticket(&site);
        let length = ticket.identity.len();
        for at in (0..length).step_by(7).chain([length - 1]) {
            let mut altered = ticket.offer();
            altered.identity[at] ^= 1;
            assert!(!goes_on(&site, vec![altered]), "{} byte {at}", row.name);
        }
        for cut in [0, 4, 5, 13, 25, 40, length - 17, length - 1] {
            let mut short = ticket.offer();
            short.identity.truncate(cut.max(1));
            assert!(!goes_on(&site, vec![short]), "{} cut at {cut}", row.name);
        }
        let mut long = ticket.offer();
        long.identity.push(0);
        assert!(!goes_on(&site, vec![long]), "{}", row.name);
        // None of this was the token's fault.
        assert!(goes_on(&site, vec![ticket.offer()]), "{}", row.name);
    }
}

#[test]
fn s4_a_ticket_without_its_secret_is_refused() {
    for row in rows() {
        let site = row.site().tickets("").start();
        let ticket = ticket(&site);
        let mut stolen = ticket.offer();
        stolen.psk[0] ^= 1;
        let hello = Hello::tls13(NAME).resuming(vec![stolen]);
        let end = Client13::connect(site.address(), &hello).unwrap_err();
        assert_eq!(end.alert(), Some(51), "decrypt_error: {end}");
        // Nor is it enough to see it pass: without forward secrecy nothing is resumed.
        let hello = Hello {
            psk_modes: vec![0],
            ..Hello::tls13(NAME)
        };
        assert!(!goes_on_as(&site, &hello, vec![ticket.offer()]));
        // Another hash than the session's.
        let hello = Hello::tls13(NAME).with_suite(0x1302);
        assert!(!goes_on_as(&site, &hello, vec![ticket.offer()]));
    }
}

#[test]
fn s5_a_long_list_of_identities_costs_the_token_two() {
    for row in [&matrix::KRYOPTIC, &matrix::NSS] {
        let site = row.site().tickets("").start();
        let ticket = ticket(&site);
        let calls = || {
            let report = site.exchange_shim().report();
            report.calls("C_Decrypt") + report.calls("C_UnwrapKey")
        };
        // Ours, but for the last byte: each would have to be tried.
        let mut altered = ticket.offer();
        *altered.identity.last_mut().unwrap() ^= 1;
        let each = altered.identity.len() + 6 + 33;
        let many = vec![altered.clone(); 15_000 / each];
        let before = calls();
        assert!(!goes_on(&site, many));
        let spent = calls() - before;
        assert!(spent <= 2, "{}: {spent} calls", row.name);
        // The right one behind two wrong ones is not looked at; behind one it is.
        let three = vec![altered.clone(), altered.clone(), ticket.offer()];
        assert!(!goes_on(&site, three));
        assert!(goes_on(&site, vec![altered, ticket.offer()]));
        // Strangers cost nothing.
        let before = calls();
        assert!(!goes_on(&site, vec![Offered::stranger(16); 250]));
        assert_eq!(calls(), before, "{}", row.name);
        assert!(goes_on(&site, vec![Offered::stranger(16), ticket.offer()]));
    }
}

#[test]
fn a_good_ticket_opens_no_way_for_early_data() {
    for row in rows() {
        let site = row.site().tickets("").start();
        let ticket = ticket(&site);
        let hello = Hello {
            extra: vec![(42, Vec::new())],
            ..Hello::tls13(NAME).resuming(vec![ticket.offer()])
        };
        let mut client = Client13::connect_with(site.address(), &hello, |stream, message| {
            stream.write_all(&record(HANDSHAKE, message))?;
            stream.write_all(&record(23, &[0x5a; 200]))
        })
        .unwrap();
        assert_eq!(client.resumed(), Some(0));
        let extensions = &client.server_messages()[0].1;
        assert!(
            !extensions.windows(4).any(|window| window == [0, 42, 0, 0]),
            "early data accepted"
        );
        client.finish().unwrap();
        assert!(client.ask().unwrap().ends_with(GREETING));
    }
}
