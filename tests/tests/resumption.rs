//! Sessions that go on with a ticket, on each row of the matrix: one more exchange, no signature, and never more
//! custody than before.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use keyhaven_tests::audit::Proven;
use keyhaven_tests::backend::Manner;
use keyhaven_tests::dialogue::{echo, update};
use keyhaven_tests::each_row;
use keyhaven_tests::http::GREETING;
use keyhaven_tests::matrix::Row;
use keyhaven_tests::rawtls::{Client12, Client13, Group, Hello, Session12, Ticket};
use keyhaven_tests::running::Site;
use keyhaven_tests::site::NAME;
use keyhaven_types::CustodyLevel;

each_row![
    s9_a_session_goes_on_with_a_ticket,
    s9_a_resumed_session_changes_its_keys,
    s9_tls12_goes_on_only_where_it_is_turned_on,
    s9_without_the_section_there_is_no_ticket,
    s9_real_clients_resume,
];

/// A full handshake, its level, and the tickets that came with it.
fn first(site: &Site, hello: &Hello) -> (Vec<Ticket>, CustodyLevel) {
    let mut client = Client13::established(site.address(), hello).unwrap();
    assert_eq!(client.resumed(), None);
    assert!(client.ask().unwrap().ends_with(GREETING));
    let proven = Proven::of(site, &client);
    assert!(!proven.is_resumed());
    (client.tickets().to_vec(), proven.level())
}

/// A handshake that must be resumed, its level, and the tickets that came with it.
fn again(site: &Site, hello: &Hello, ticket: &Ticket) -> (Vec<Ticket>, CustodyLevel) {
    let hello = hello.clone().resuming(vec![ticket.offer()]);
    let mut client = Client13::established(site.address(), &hello).unwrap();
    assert_eq!(client.resumed(), Some(0), "the session goes on");
    let kinds: Vec<u8> = client
        .server_messages()
        .iter()
        .map(|(kind, _)| *kind)
        .collect();
    assert_eq!(kinds, [8, 20], "no certificate and no signature");
    assert!(client.ask().unwrap().ends_with(GREETING));
    let proven = Proven::of(site, &client);
    assert!(proven.is_resumed());
    (client.tickets().to_vec(), proven.level())
}

fn s9_a_session_goes_on_with_a_ticket(row: &Row) {
    let site = row.site().tickets("").start();
    for suite in [0x1301, 0x1302, 0x1303] {
        for group in Group::ALL {
            let hello = Hello::tls13(NAME).with_suite(suite).with_group(group);
            let what = format!("{} {suite:#x} {group:?}", row.name);
            let (mut tickets, level) = first(&site, &hello);
            assert_eq!(level, row.level13(group), "{what}");
            assert!(!tickets.is_empty(), "{what}: no ticket");
            for _ in 0..3 {
                let (next, resumed_level) = again(&site, &hello, &tickets[0]);
                assert_eq!(resumed_level, level, "{what}");
                assert!(
                    !next.is_empty(),
                    "{what}: a resumed session has tickets as well"
                );
                assert_ne!(next[0].identity, tickets[0].identity);
                tickets = next;
            }
        }
    }
    // A session goes on in another group as well, and behind a HelloRetryRequest.
    let (tickets, _) = first(&site, &Hello::tls13(NAME).with_group(Group::X25519));
    let (tickets, level) = again(
        &site,
        &Hello::tls13(NAME).with_group(Group::P384),
        &tickets[0],
    );
    assert_eq!(level, row.level);
    let hello = Hello {
        share: false,
        ..Hello::tls13(NAME)
    };
    again(&site, &hello, &tickets[0]);
}

fn s9_a_resumed_session_changes_its_keys(row: &Row) {
    let site = row.site().tickets("").backend(Manner::Echo).start();
    let hello = Hello::tls13(NAME);
    let mut client = Client13::established(site.address(), &hello).unwrap();
    echo(&mut client, b"hello");
    let ticket = client.tickets()[0].clone();
    let hello = hello.resuming(vec![ticket.offer()]);
    let mut resumed = Client13::established(site.address(), &hello).unwrap();
    assert_eq!(resumed.resumed(), Some(0));
    for client in [&mut client, &mut resumed] {
        echo(client, b"before");
        update(client, false);
        echo(client, b"one way");
        update(client, true);
        echo(client, b"both ways");
        update(client, true);
        echo(client, b"and again");
    }
}

/// A full handshake of TLS 1.2 of a client that wants a ticket.
fn first12(site: &Site, suite: u16) -> Option<Session12> {
    let hello = Hello::tls12(NAME).with_suite(suite).wanting_ticket();
    let mut client = Client12::connect(site.address(), &hello).unwrap();
    client.finish().unwrap();
    assert!(client.ask().unwrap().ends_with(GREETING));
    assert!(!Proven::of(site, &client).is_resumed());
    client.session().cloned()
}

fn s9_tls12_goes_on_only_where_it_is_turned_on(row: &Row) {
    let site = row.site().tickets("").start();
    assert!(
        first12(&site, 0xc02b).is_none(),
        "a ticket without tls12 = true"
    );
    drop(site);

    let site = row.site().tickets("tls12 = true").start();
    for suite in [0xc02b, 0xc02c, 0xcca9] {
        let Some(level) = row.level12_with_tickets(Group::P256, suite) else {
            continue;
        };
        let mut session = first12(&site, suite).expect("a ticket");
        for _ in 0..3 {
            let hello = Hello::tls12(NAME).with_suite(suite);
            let mut client = Client12::resume(site.address(), &hello, &session).unwrap();
            assert!(client.is_resumed(), "{} {suite:#x}", row.name);
            client.finish().unwrap();
            assert!(client.ask().unwrap().ends_with(GREETING));
            let proven = Proven::of(&site, &client);
            assert!(proven.is_resumed());
            assert_eq!(proven.level(), level);
            session = client.session().cloned().unwrap_or(session);
        }
    }
}

fn s9_without_the_section_there_is_no_ticket(row: &Row) {
    let site = row.site().start();
    let (tickets, _) = first(&site, &Hello::tls13(NAME));
    assert!(tickets.is_empty());
    assert!(first12(&site, 0xc02b).is_none());
}

fn s9_real_clients_resume(row: &Row) {
    let site = row.site().tickets("tls12 = true").start();
    for version in ["-tls1_3", "-tls1_2"] {
        let session = site.dir().join(format!("session{version}"));
        let ask = |option: &str| {
            let mut openssl = keyhaven_tests::clients::s_client(NAME, site.address(), &site.ca());
            openssl.args([version, "-ign_eof", option]).arg(&session);
            let said = keyhaven_tests::clients::run(&mut openssl, REQUEST);
            assert!(
                said.text().contains("hello from the backend"),
                "{}",
                said.all()
            );
            said.text()
        };
        assert!(ask("-sess_out").contains("\nNew, TLS"), "{version}");
        assert!(ask("-sess_in").contains("\nReused, TLS"), "{version}");
    }
}

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: any\r\nConnection: close\r\n\r\n";
