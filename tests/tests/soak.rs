//! Ten thousand handshakes of all kinds, good and bad, on each row: afterwards the tokens have as many objects and
//! sessions as before, and each that was proven had the level of its row.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::io::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use keyhaven_tests::audit::Proven;
use keyhaven_tests::cost::settle;
use keyhaven_tests::daemon::field;
use keyhaven_tests::dialogue::update;
use keyhaven_tests::each_row;
use keyhaven_tests::http::GREETING;
use keyhaven_tests::matrix::Row;
use keyhaven_tests::rawtls::{
    CHANGE_CIPHER_SPEC, Client12, Client13, Group, HANDSHAKE, Hello, Offered, Session12, Ticket,
    handshake_message, record,
};
use keyhaven_tests::running::Site;
use keyhaven_tests::site::NAME;
use serde_json::Value;

each_row![ten_thousand_handshakes_leave_nothing];

fn ten_thousand_handshakes_leave_nothing(row: &Row) {
    let site = row
        .site()
        .tickets("tls12 = true")
        .signer_limits("pending_timeout_s = 1")
        .tap(false)
        .start();
    let sessions = Sessions::new(&site, row);
    settle(&site);
    let before = counts(&site);
    let done = AtomicU64::new(0);
    thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                loop {
                    let count = done.fetch_add(1, Ordering::Relaxed);
                    if count >= handshakes(row) {
                        return;
                    }
                    one(&site, row, &sessions, count);
                }
            });
        }
    });
    // A handshake that was given up waits for its client no longer than it may.
    let deadline = Instant::now() + Duration::from_secs(10);
    while counts(&site).0 > before.0 && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(20));
    }
    let after = counts(&site);
    assert_eq!(after.0, before.0, "objects are left in the token");
    assert!(after.1 <= before.1 + SESSIONS_MORE, "{before:?} {after:?}");
    // It is as it was.
    let first = site.signer.log().len();
    let mut client = Client13::established(site.address(), &Hello::tls13(NAME)).unwrap();
    client.ask().unwrap();
    assert_eq!(Proven::since(&site, first, &client).level(), row.level);
    levels_hold(&site, row);
}

/// Load lowers no level: every handshake that was proven has the one that its version has when nothing else is going
/// on.
fn levels_hold(site: &Site, row: &Row) {
    let tls13 = row.level13(row.groups()[0]);
    let tls12 = row.level12_with_tickets(Group::P256, 0xc02b).unwrap();
    let (mut proven13, mut proven12) = (0, 0);
    for line in site.signer.log() {
        let Ok(line) = serde_json::from_str::<Value>(&line) else {
            continue;
        };
        if field(&line, "event").as_deref() != Some("proven") {
            continue;
        }
        let (expected, count) = match field(&line, "version").as_deref() {
            Some("1.3") => (tls13, &mut proven13),
            Some("1.2") => (tls12, &mut proven12),
            _ => panic!("no version: {line}"),
        };
        let level = field(&line, "custody").and_then(|text| text.parse().ok());
        assert_eq!(level, Some(expected), "{line}");
        *count += 1;
    }
    // A quarter of all and more were good ones of each version; a proxy may report the last of them later.
    let least = handshakes(row) / 5;
    assert!(
        proven13 >= least && proven12 >= least,
        "{proven13} and {proven12} were proven"
    );
}

/// Live session objects, and sessions that are open.
fn counts(site: &Site) -> (u64, u64) {
    let reports = site.parts.tokens().map(|token| token.shim().report());
    reports.fold((0, 0), |(objects, sessions), report| {
        let open = report.calls("C_OpenSession") - report.calls("C_CloseSession");
        (objects + report.live(), sessions + open)
    })
}

/// What the clients of this test bring to be resumed.
struct Sessions {
    ticket: Ticket,
    session: Session12,
}

impl Sessions {
    fn new(site: &Site, row: &Row) -> Sessions {
        let mut client = Client13::established(site.address(), &hello13(row)).unwrap();
        client.ask().unwrap();
        Sessions {
            ticket: client.tickets()[0].clone(),
            session: full12(site).session().unwrap().clone(),
        }
    }
}

/// A client that sends a share of the group that the token likes best.
fn hello13(row: &Row) -> Hello {
    Hello::tls13(NAME).with_group(row.groups()[0])
}

fn full12(site: &Site) -> Client12 {
    let hello = Hello::tls12(NAME).wanting_ticket();
    let mut client = Client12::connect(site.address(), &hello).unwrap();
    client.finish().unwrap();
    assert!(client.ask().unwrap().ends_with(GREETING));
    client
}

/// One handshake; the kinds take turns.
fn one(site: &Site, row: &Row, sessions: &Sessions, count: u64) {
    let hello = hello13(row);
    match count % 12 {
        0 | 1 => good13(site, &hello, None),
        2 | 3 => drop(full12(site)),
        4..=6 => good13(
            site,
            &hello.resuming(vec![sessions.ticket.offer()]),
            Some(0),
        ),
        7 => {
            let hello = Hello::tls12(NAME);
            let mut client = Client12::resume(site.address(), &hello, &sessions.session).unwrap();
            assert!(client.is_resumed());
            client.finish().unwrap();
            assert!(client.ask().unwrap().ends_with(GREETING));
        }
        8 => {
            let mut client = Client13::established(site.address(), &hello).unwrap();
            update(&mut client, false);
            assert!(client.ask().unwrap().ends_with(GREETING));
        }
        9 => {
            let mut altered = sessions.ticket.offer();
            *altered.identity.last_mut().unwrap() ^= 1;
            let offered = vec![Offered::stranger(40), altered];
            let hello = Hello {
                share: false,
                ..hello.resuming(offered)
            };
            good13(site, &hello, None);
        }
        _ => bad(site, &hello, sessions, count / 12),
    }
}

fn good13(site: &Site, hello: &Hello, resumed: Option<usize>) {
    let mut client = Client13::established(site.address(), hello).unwrap();
    assert_eq!(client.resumed(), resumed);
    assert!(client.ask().unwrap().ends_with(GREETING));
}

/// A client that gives up or misbehaves at one stage or another.
fn bad(site: &Site, hello: &Hello, sessions: &Sessions, count: u64) {
    match count % 6 {
        0 => drop(Client13::connect(site.address(), hello).unwrap()),
        1 => drop(Client12::connect(site.address(), &Hello::tls12(NAME)).unwrap()),
        2 => {
            let mut client = Client13::connect(site.address(), hello).unwrap();
            let wrong = handshake_message(20, &[0; 32]);
            client.send(HANDSHAKE, &wrong).unwrap();
            assert_eq!(client.receive().unwrap_err().alert(), Some(51));
        }
        3 => {
            let mut client = Client12::connect(site.address(), &Hello::tls12(NAME)).unwrap();
            let body = [&[65, 4], [7; 64].as_slice()].concat();
            let mut flight = record(HANDSHAKE, &handshake_message(16, &body));
            flight.extend(record(CHANGE_CIPHER_SPEC, &[1]));
            flight.extend(record(HANDSHAKE, &[0; 40]));
            client.stream.write_all(&flight).unwrap();
            assert_eq!(client.receive().unwrap_err().alert(), Some(47));
        }
        4 => {
            let mut stolen = sessions.ticket.offer();
            stolen.psk[0] ^= 1;
            let hello = hello.clone().resuming(vec![stolen]);
            let end = Client13::connect(site.address(), &hello).unwrap_err();
            assert_eq!(end.alert(), Some(51));
        }
        _ => {
            let hello = hello.clone().resuming(vec![sessions.ticket.offer()]);
            drop(Client13::connect(site.address(), &hello).unwrap());
        }
    }
}

/// All ten thousand where it fits into a minute. The rows with two tokens go through the same code as their keepers.
fn handshakes(row: &Row) -> u64 {
    if row.exchange.is_some() {
        3_000
    } else {
        10_000
    }
}

/// Clients at once.
const CLIENTS: usize = 4;
/// A thread of the signer opens its session when it is first needed.
const SESSIONS_MORE: u64 = 4;
