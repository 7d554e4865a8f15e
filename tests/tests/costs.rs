//! What a handshake costs the tokens, in calls: at each level, on each row, full, resumed, and with changed keys.
//!
//! Exact, so that a call more is noticed: on a token behind a network each may be a round trip.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use keyhaven_softhsm_test::ModuleKind;
use keyhaven_tests::backend::Manner;
use keyhaven_tests::cost::{Calls, cost, total};
use keyhaven_tests::dialogue::{echo, update};
use keyhaven_tests::each_row;
use keyhaven_tests::matrix::Row;
use keyhaven_tests::rawtls::{APPLICATION_DATA, Client12, Client13, Hello};
use keyhaven_tests::running::Site;
use keyhaven_tests::site::NAME;
use keyhaven_types::CustodyLevel;

each_row![
    a_handshake_makes_so_many_calls,
    a_handshake_with_tickets_makes_so_many_calls
];

/// The levels to look at: all up to the row's own, or that alone where the keeper has a row of its own.
fn levels(row: &Row) -> impl Iterator<Item = CustodyLevel> {
    let (highest, is_split) = (row.level, row.exchange.is_some());
    [
        CustodyLevel::Signature,
        CustodyLevel::Premaster,
        CustodyLevel::Master,
        CustodyLevel::Schedule,
    ]
    .into_iter()
    .filter(move |level| *level == highest || (*level < highest && !is_split))
}

fn site(row: &Row, level: CustodyLevel) -> keyhaven_tests::site::Builder {
    row.site()
        .options(&format!("custody_max = \"{level}\""))
        .backend(Manner::Echo)
        .tap(false)
}

fn full13(site: &Site) -> Client13 {
    let mut client = Client13::established(site.address(), &Hello::tls13(NAME)).unwrap();
    echo(&mut client, b"hello");
    client
}

fn talk12(mut client: Client12) -> Client12 {
    client.finish().unwrap();
    client.send(APPLICATION_DATA, b"hello").unwrap();
    assert_eq!(client.receive().unwrap().bytes, b"hello");
    client
}

fn full12(site: &Site) -> Client12 {
    let hello = Hello::tls12(NAME).wanting_ticket();
    talk12(Client12::connect(site.address(), &hello).unwrap())
}

fn assert_total(row: &Row, level: CustodyLevel, what: &str, calls: &[Calls], expected: u64) {
    let name = row.name;
    assert_eq!(
        total(calls),
        expected,
        "{name} at {level}, {what}: {calls:?}"
    );
    // A key token beside the keeper signs, and does nothing else.
    if row.exchange.is_some() {
        let signs = calls[0].get("C_Sign") == Some(&1) && calls[0].len() == 2;
        assert!(signs || calls[0].is_empty(), "{name}, {what}: {calls:?}");
    }
}

/// kryoptic makes key block and Finished of TLS 1.2 in one call each; NSS block by block, by HMAC.
fn tls12(row: &Row, in_one_call: u64, by_hmac: u64) -> u64 {
    if row.keeper() == ModuleKind::Nss {
        by_hmac
    } else {
        in_one_call
    }
}

fn a_handshake_makes_so_many_calls(row: &Row) {
    for level in levels(row) {
        let site = site(row, level).start();
        let (expected13, expected12, keys_changed) = match level {
            CustodyLevel::Signature => (2, 2, 0),
            CustodyLevel::Premaster => (12, 16, 0),
            CustodyLevel::Master => (26, tls12(row, 17, 26), 0),
            CustodyLevel::Schedule => (60, tls12(row, 17, 26), 30),
        };
        let calls = cost(&site, || drop(full13(&site)));
        assert_total(row, level, "TLS 1.3", &calls, expected13);
        let calls = cost(&site, || drop(full12(&site)));
        assert_total(row, level, "TLS 1.2", &calls, expected12);
        let calls = cost(&site, || {
            let mut client = full13(&site);
            update(&mut client, true);
            echo(&mut client, b"and on");
        });
        let expected = expected13 + keys_changed;
        assert_total(
            row,
            level,
            "TLS 1.3 and both keys changed",
            &calls,
            expected,
        );
    }
}

fn a_handshake_with_tickets_makes_so_many_calls(row: &Row) {
    for level in levels(row) {
        let site = site(row, level).tickets("tls12 = true").start();
        let (full_13, full_12, resumed_13, resumed_12) = match level {
            CustodyLevel::Signature => (2, 2, 0, 0),
            CustodyLevel::Premaster => (12, 16, 10, 0),
            CustodyLevel::Master => (38, tls12(row, 20, 29), 52, tls12(row, 14, 23)),
            CustodyLevel::Schedule => (72, tls12(row, 20, 29), 86, tls12(row, 14, 23)),
        };
        let calls = cost(&site, || drop(full13(&site)));
        assert_total(row, level, "TLS 1.3 with two tickets", &calls, full_13);
        let calls = cost(&site, || drop(full12(&site)));
        assert_total(row, level, "TLS 1.2 with a ticket", &calls, full_12);

        let ticket = full13(&site).tickets()[0].clone();
        let calls = cost(&site, || {
            let hello = Hello::tls13(NAME).resuming(vec![ticket.offer()]);
            let mut client = Client13::established(site.address(), &hello).unwrap();
            assert_eq!(client.resumed(), Some(0));
            echo(&mut client, b"hello");
        });
        assert_total(row, level, "TLS 1.3 resumed", &calls, resumed_13);
        assert_eq!(
            signatures(row, level, &calls),
            0,
            "a resumed session needs no signature"
        );

        let session = full12(&site).session().unwrap().clone();
        let calls = cost(&site, || {
            let client = Client12::resume(site.address(), &Hello::tls12(NAME), &session).unwrap();
            assert!(client.is_resumed());
            talk12(client);
        });
        assert_total(row, level, "TLS 1.2 resumed", &calls, resumed_12);
    }
}

/// Calls of C_Sign that can be signatures and no MACs: of the key token where there are two, or up to `premaster`.
fn signatures(row: &Row, level: CustodyLevel, calls: &[Calls]) -> u64 {
    if row.exchange.is_none() && level > CustodyLevel::Premaster {
        return 0;
    }
    calls[0].get("C_Sign").copied().unwrap_or(0)
}
